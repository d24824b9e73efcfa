"""Weights of Keras models, read from HDF5 as plain arrays: layer by layer, without Keras and without TensorFlow."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit._lazy import optional
from biosegkit._words import counted
from biosegkit.errors import FileError

__all__ = ["Layers", "read_layers"]

#: Arrays of each layer by their short name (``kernel``, ``bias``, ``gamma``, …), layers in the order of their creation.
Layers = dict[str, dict[str, npt.NDArray[np.float32]]]
_LARGEST = 1 << 28  # values in one array


def read_layers(data: bytes, file: str) -> Layers:
    """Arrays of a file that ``model.save_weights`` or ``model.save`` wrote (HDF5 of Keras 1 and 2, and its kin).

    Parameters
    ----------
    data : bytes
        The whole file.
    file : str
        Its name, for errors.

    Returns
    -------
    dict
        Layers that have arrays, in the order in which the file lists them; automatically named ones of one kind
        (``conv2d``, ``conv2d_1``, …) in the order of their numbers, which is that of their creation.

    Raises
    ------
    FileError
        If it is no such file. Links to other files, data kept outside and virtual data are refused, unread.
    OptionError
        If h5py is not installed.
    """
    h5py = optional("h5py")
    try:
        with h5py.File(io.BytesIO(data), "r") as root:
            home = _group(root, "model_weights", file) if "model_weights" in root else root
            names = [_text(n) for n in home.attrs.get("layer_names", ())]
            if not names:
                raise FileError("an HDF5 file without layer_names", file=file, expected="weights of a Keras model",
                                remedy="give the weights_best.h5 that StarDist wrote")
            layers = {name: _arrays(h5py, _group(home, name, file), file) for name in names}
    except (OSError, KeyError, RuntimeError, UnicodeDecodeError) as error:
        raise FileError(f"no HDF5 file of weights ({error})", file=file, expected="weights of a Keras model",
                        remedy="copy it again") from error
    found = {name: arrays for name, arrays in layers.items() if arrays}
    return dict(sorted(found.items(), key=lambda item: _number(item[0])))


def _number(name: str) -> int:
    """Number at the end of an automatic name; 0 for others, whose order does not matter.

    Examples
    --------
    >>> _number("conv2d"), _number("conv2d_12"), _number("down_level_0_no_1")
    (0, 12, 0)
    """
    match = re.fullmatch(r"(?:conv[23]d|batch_normalization)_(\d+)", name)
    return int(match[1]) if match else 0


def _group(parent: Any, name: str, file: str) -> Any:
    """A group that lies in this file."""
    if parent.get(name, getclass=True, getlink=True).__name__ != "HardLink":
        raise FileError(f"a link in the place of {name}", file=file, expected="the arrays themselves",
                        remedy="ask for the original")
    return parent[name]


def _arrays(h5py: Any, group: Any, file: str) -> dict[str, npt.NDArray[np.float32]]:
    """Arrays of one layer by short name, following ``weight_names``."""
    arrays = {}
    for path in (_text(n) for n in group.attrs.get("weight_names", ())):
        place = group
        for part in path.split("/"):
            place = _group(place, part, file)
        if not isinstance(place, h5py.Dataset) or place.external or place.is_virtual or place.dtype.kind != "f":
            raise FileError(f"{path}: no array of its own", file=file, expected="numbers kept in this file",
                            remedy="ask for the original")
        if place.size > _LARGEST:
            raise FileError(f"{path} of {counted(place.size, 'value')}", file=file, expected=f"at most {_LARGEST}")
        array = place[()].astype(np.float32)
        if not np.isfinite(array).all():
            raise FileError(f"{path} with values that are not finite", file=file, expected="finite weights",
                            remedy="copy it again, or train again")
        arrays[path.rsplit("/", 1)[-1].split(":")[0]] = array
    return arrays


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
