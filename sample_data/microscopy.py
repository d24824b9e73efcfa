"""Microscopy to try things on, offline: nuclei that the ``stardist`` package ships, and a slide computed from a seed.

The slide is synthetic: tissue with stroma, glands and nuclei in the colours of haematoxylin and eosin, as a pyramid.
There is no patient in it, and a score on it says nothing about real slides.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = ["PIXEL", "make_slide", "nuclei"]

Array = npt.NDArray[Any]

#: Size of a pixel of the slide's finest level, in micrometres.
PIXEL = 0.5
_GLASS, _STROMA, _CELLS, _NUCLEUS = (np.array(c, np.float32) for c in (
    (243, 240, 244), (226, 168, 200), (206, 138, 186), (98, 62, 138)))


def nuclei(ndim: int) -> tuple[Array, Array]:
    """Image and mask of nuclei, a plane of 512 x 512 pixels or a stack, from the installed ``stardist`` package.

    The plane is a real fluorescence image (2018 Data Science Bowl, CC0); the stack is synthetic.

    Raises
    ------
    FileNotFoundError
        If the package has no sample images.
    """
    import tifffile

    spec = importlib.util.find_spec("stardist")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        files = [Path(place) / "data" / "images" / f"{kind}{ndim}d.tif" for kind in ("img", "mask")]
        if files[0].exists():
            image, mask = (np.asarray(tifffile.imread(file)) for file in files)
            return image, mask
    raise FileNotFoundError(f"stardist/data/images/img{ndim}d.tif: the installed stardist package has no sample images")


def make_slide(side: int = 3072, levels: int = 3, seed: int = 20260301) -> list[npt.NDArray[np.uint8]]:
    """A synthetic slide, (y, x, 3) per level, each half as fine as the one before; same seed, same slide.

    Examples
    --------
    >>> [level.shape for level in make_slide(256)]
    [(256, 256, 3), (128, 128, 3), (64, 64, 3)]
    """
    rng = np.random.default_rng([seed, 1])
    tissue = _field(rng, side, 5) + 0.9 - 1.6 * _distance_from_middle(side)
    glands = _field(rng, side, 24)
    picture = np.where((glands > 0.35)[..., None], _CELLS, _STROMA) + 9 * _field(rng, side, 96)[..., None]
    share = np.clip(6 * tissue, 0, 1)[..., None]
    picture = share * picture + (1 - share) * _GLASS
    _add_nuclei(rng, picture, tissue, glands)
    picture += rng.normal(0, 3, (side, side, 1)).astype(np.float32)
    found = [np.clip(np.rint(picture), 0, 255).astype(np.uint8)]
    for _ in range(levels - 1):
        fine = found[-1].astype(np.float32)
        means = (fine[::2, ::2] + fine[1::2, ::2] + fine[::2, 1::2] + fine[1::2, 1::2]) / 4
        found.append(np.rint(means).astype(np.uint8))
    return found


def _add_nuclei(rng: np.random.Generator, picture: Array, tissue: Array, glands: Array) -> None:
    """Ellipses of 6 to 12 micrometres, denser in glands, painted into the picture."""
    side = len(picture)
    for y, x in rng.uniform(12, side - 12, (round(9000 * (side / 3072) ** 2), 2)):
        row, column = int(y), int(x)
        if tissue[row, column] < 0.2 or (glands[row, column] < 0.35 and rng.random() < 0.6):
            continue
        long, turn = rng.uniform(6, 12), rng.uniform(0, np.pi)
        window = np.s_[row - 12 : row + 13, column - 12 : column + 13]
        dy, dx = np.mgrid[row - 12 : row + 13, column - 12 : column + 13] - np.array([y, x])[:, None, None]
        along, across = dy * np.cos(turn) + dx * np.sin(turn), dx * np.cos(turn) - dy * np.sin(turn)
        inside = np.clip(2.5 * (1 - np.hypot(along / long, across / (0.62 * long))), 0, 1)[..., None]
        picture[window] = (1 - inside) * picture[window] + inside * (_NUCLEUS + rng.normal(0, 12, 3))


def _field(rng: np.random.Generator, side: int, waves: int) -> npt.NDArray[np.float32]:
    """A smooth random field of unit scale with so many waves across."""
    coarse = rng.standard_normal((waves + 3, waves + 3)).astype(np.float32)
    return np.asarray(ndimage.zoom(coarse, side / waves, order=1)[:side, :side])


def _distance_from_middle(side: int) -> npt.NDArray[np.float32]:
    """0 in the middle, 1 at the middle of an edge."""
    line = np.abs(np.linspace(-1, 1, side, dtype=np.float32))
    return np.asarray(np.hypot(line[:, None], line[None]))
