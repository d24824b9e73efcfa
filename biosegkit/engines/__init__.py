"""Engines: models of others and segmenters without any training, behind the same Predictor as a bundle.

What MODEL may be, in the order in which it is looked up:

1. ``stardist:PATH`` or ``cellpose:PATH``: a model on disk;
2. the name of a classical segmenter (:data:`biosegkit.engines.classical.RULES`), such as ``otsu``;
3. a folder or zip that holds a StarDist model, by its content;
4. a run or a bundle, folder or zip.

Nothing is ever downloaded, and nothing global is set.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biosegkit.errors import FileError, OptionError

from .classical import RULES, classical
from .star_files import looks_like_star

if TYPE_CHECKING:
    import torch

    from biosegkit.predictor import Predictor

__all__ = ["described", "load_model"]

_PREFIXES = ("stardist", "cellpose")


def load_model(model: str | Path, device: str | torch.device = "auto",
               options: Mapping[str, Any] | None = None, *, depth: int | str | None = None) -> Predictor:
    """The predictor that a MODEL names.

    Parameters
    ----------
    model : str or path
        A classical segmenter's name, ``stardist:PATH``, ``cellpose:PATH``, or the path of a run, a bundle or a StarDist
        model. A name wins over a file of that name: write ``./otsu`` for the file.
    device : str
        See :func:`biosegkit.device.pick`; classical segmenters use the CPU.
    options : dict, optional
        Of the engine, by the names its table in ``docs/engines.md`` lists; of a bundle, its post-processing, see
        ``docs/methods.md``. Text is converted.
    depth : int or "mean", optional
        Of a bundle with U-Net++: what its networks are cut back to; see :func:`biosegkit.predict`.

    Raises
    ------
    OptionError
        For an option the model does not have, or a value out of its range.
    FileError
        If there is nothing of this name, or it is damaged; see the readers.

    Examples
    --------
    >>> import numpy as np, biosegkit as bsk
    >>> stripe = bsk.Image(np.repeat([[[9, 200, 9, 9, 180]]], 2, axis=1), bsk.Grid.regular((2, 5)))
    >>> load_model("otsu", options={"sigma": 0}).predict(stripe).labels.array.tolist()
    [[0, 1, 0, 0, 2], [0, 1, 0, 0, 2]]
    """
    name = str(model)
    prefix, colon, rest = name.partition(":")
    if name in RULES or (colon and prefix in _PREFIXES) or looks_like_star(Path(name)):
        if depth is not None:
            raise OptionError(f"a depth with {name}", expected="a bundle", remedy="leave out --depth")
        if name in RULES:
            return classical(name, options)
        if prefix == "cellpose" and colon:
            from .cellpose_model import load_cellpose

            return load_cellpose(rest, device, options)
        from .star_model import load_star

        return load_star(rest if colon and prefix in _PREFIXES else name, device, options)
    if not Path(name).exists() and (near := difflib.get_close_matches(name, RULES, 1)):
        raise FileError("nothing there", file=name, expected="a run, a bundle, or the name of a segmenter",
                        remedy=f"did you mean {near[0]}? biosegkit models lists all")
    from biosegkit.bundle import load

    bundle = load(model, device)
    bundle = bundle.tidied(**options) if options else bundle
    return bundle if depth is None else bundle.at_depth(depth)


def described() -> list[tuple[str, str, str]]:
    """What can be named as MODEL beside runs and bundles: form, axes, and what it does, one row each.

    Examples
    --------
    >>> described()[0][:2]
    ('otsu', '2D 3D')
    """
    rules = [(name, " ".join(f"{n}D" for n in rule.ndims), rule.about) for name, rule in RULES.items()]
    return [*rules, ("stardist:PATH", "2D 3D", "a StarDist model, folder or zip (csbdeep or bioimage.io)"),
            ("cellpose:PATH", "2D 3D", "a Cellpose model, a file of weights (versions 1 to 4)")]
