"""A picture of a result: the whole image with what was found, and beside it a part at full resolution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit._atomic import write_bytes
from biosegkit.errors import DataError
from biosegkit.image import Image
from biosegkit.overlay import PREDICTED, png_bytes

from .objects import Found

__all__ = ["thumbnail", "write_thumbnail"]

Array = npt.NDArray[Any]
RGB = npt.NDArray[np.uint8]

#: Pixels of the longer side, at most.
SIZE = 800
#: Pixels of a side of the part at full resolution.
DETAIL = 400
#: Objects of fewer pixels across are shown as a tint: their outlines would hide everything.
_OUTLINED = 6
_BAND = 1024


@dataclass(frozen=True)
class _Plane:
    """One plane of a stack, or an image, read where it is looked at."""

    array: Array
    z: int | None

    def read(self, rows: slice, columns: slice) -> Array:
        """A part, all channels."""
        plane = (rows, columns) if self.z is None else (self.z, rows, columns)
        return np.asarray(self.array[(*(slice(None),) * (self.array.ndim - len(plane)), *plane)])


def thumbnail(image: Image, found: Found, size: int = SIZE) -> RGB:
    """Image with outlines of the objects; of a stack, the plane with most of them.

    Larger images are shown smaller, with the part that has most objects beside it, at full resolution.

    Parameters
    ----------
    image : Image
        On the grid of the labels; its array may be read lazily.
    found : Found
    size : int
        Pixels of the longer side, at most.

    Returns
    -------
    picture : ndarray of uint8, (y, x, 3)

    Raises
    ------
    DataError
        If image and labels have different shapes.

    Examples
    --------
    >>> from biosegkit.grid import Grid
    >>> grid = Grid.regular((50, 60))
    >>> found = Found.of(np.pad(np.ones((10, 10), int), ((20, 20), (20, 30))), grid)
    >>> thumbnail(Image(np.zeros((1, 50, 60)), grid), found).shape
    (200, 240, 3)
    """
    if tuple(image.array.shape[1:]) != tuple(found.labels.shape):
        raise DataError(f"an image of {tuple(image.array.shape[1:])}", file=image.source or None,
                        expected=f"{tuple(found.labels.shape)}, as the labels")
    z = None if found.labels.ndim == 2 else _fullest(found)
    whole, labels = _Plane(image.array, z), _Plane(found.labels, z)
    shape = found.labels.shape[-2:]
    step = max(1, -(-max(shape) // size))
    steps = (min(step, shape[0]), min(step, shape[1]))
    pixels, ids = _shrunk(whole, shape, steps, mean=True), _shrunk(labels, shape, steps, mean=False)[0]
    limits = _limits(pixels, image.array.dtype)
    picture = _coloured(pixels, limits)
    if step == 1:
        factor = max(1, size // 3 // max(shape))
        return _outlined(_enlarged(picture, factor), _enlarged(ids, factor))
    picture = _outlined(picture, ids) if _breadth(found) / step >= _OUTLINED else _tinted(picture, ids)
    window = _densest(found, z)
    _frame(picture, [slice(w.start // s, -(-w.stop // s)) for w, s in zip(window, steps, strict=True)])
    detail = whole.read(*window)
    return _beside(picture, _outlined(_coloured(detail if detail.ndim == 3 else detail[None], limits),
                                      labels.read(*window)))


def write_thumbnail(image: Image, found: Found, path: str | Path, size: int = SIZE) -> None:
    """Write a picture as PNG, whole or not at all; see :func:`thumbnail`."""
    write_bytes(path, png_bytes(thumbnail(image, found, size)))


def _fullest(found: Found) -> int:
    """The plane that most boxes reach; of several, the middle one."""
    count = np.zeros(found.labels.shape[0] + 1, np.int64)
    np.add.at(count, np.asarray(found.table["bbox_start_z"], np.int64), 1)
    np.add.at(count, np.asarray(found.table["bbox_stop_z"], np.int64), -1)
    height = np.cumsum(count)[:-1]
    best = np.flatnonzero(height == height.max())
    return int(best[len(best) // 2])


def _breadth(found: Found) -> float:
    """Pixels across the median object; from the boxes, which stacks have too."""
    if not found.count:
        return 0.0
    return float(np.median(found.table["bbox_stop_x"] - found.table["bbox_start_x"]))


def _shrunk(plane: _Plane, shape: tuple[int, ...], steps: tuple[int, int], *, mean: bool) -> Array:
    """Every whole block of ``steps`` pixels as its mean, or as its middle pixel: (C, y, x). Read tile by tile."""
    ends = [n // s * s for n, s in zip(shape, steps, strict=True)]
    sides = [max(1, _BAND // s) * s for s in steps]
    bands = []
    for y in range(0, ends[0], sides[0]):
        tiles = []
        for x in range(0, ends[1], sides[1]):
            part = plane.read(slice(y, min(y + sides[0], ends[0])), slice(x, min(x + sides[1], ends[1])))
            part = part if part.ndim == 3 else part[None]
            if mean:
                blocks = part.reshape(part.shape[0], -1, steps[0], part.shape[2] // steps[1], steps[1])
                tiles.append(blocks.mean((2, 4), dtype=np.float64).astype(np.float32))
            else:
                tiles.append(part[:, steps[0] // 2:: steps[0], steps[1] // 2:: steps[1]])
        bands.append(np.concatenate(tiles, axis=2))
    return np.concatenate(bands, axis=1)


def _limits(pixels: Array, dtype: np.dtype[Any]) -> list[tuple[float, float]]:
    """What is shown black and white: colours as they are, intensities from percentile 0.5 to 99.5, by channel."""
    if dtype == np.uint8 and len(pixels) == 3:
        return [(0.0, 255.0)] * 3
    shown = pixels if len(pixels) <= 3 else pixels[:1]
    return [tuple(np.percentile(p[np.isfinite(p)], [0.5, 99.5])) if np.isfinite(p).any() else (0.0, 1.0) for p in shown]


def _coloured(pixels: Array, limits: list[tuple[float, float]]) -> RGB:
    """One channel grey, two or three as red, green and blue; of more, the first."""
    shown = np.zeros((*pixels.shape[1:], 3), np.uint8)
    for channel in range(3):
        source = 0 if len(limits) == 1 else channel
        if source < len(limits):
            low, high = limits[source]
            plane = np.nan_to_num(pixels[source].astype(np.float32), nan=low, posinf=high, neginf=low)
            shown[..., channel] = 255 * ((plane - low) / max(high - low, 1e-12)).clip(0, 1)
    return shown


def _enlarged(array: Array, factor: int) -> Array:
    """Every pixel repeated."""
    return array.repeat(factor, axis=0).repeat(factor, axis=1)


def _outlined(picture: RGB, ids: Array) -> RGB:
    """Lines on the inner border of every object, one pixel wide, two where objects touch."""
    edge = np.zeros(ids.shape, bool)
    for axis in (0, 1):
        values, view = np.swapaxes(ids, 0, axis), np.swapaxes(edge, 0, axis)
        differs = values[1:] != values[:-1]
        view[1:] |= differs
        view[:-1] |= differs
    picture[edge & (ids > 0)] = PREDICTED
    return picture


def _tinted(picture: RGB, ids: Array) -> RGB:
    """Objects half in colour."""
    inside = ids > 0
    picture[inside] = (picture[inside].astype(np.uint16) + np.array(PREDICTED, np.uint16)) // 2
    return picture


def _densest(found: Found, z: int | None) -> tuple[slice, slice]:
    """The part of ``DETAIL`` pixels that holds the centres of most boxes; of equals, the first."""
    table, shape, cell = found.table, found.labels.shape[-2:], DETAIL // 4
    here = np.ones(found.count, bool) if z is None else (table["bbox_start_z"] <= z) & (table["bbox_stop_z"] > z)
    count = np.zeros([-(-n // cell) + 3 for n in shape], np.int64)
    y, x = ((table[f"bbox_start_{a}"] + table[f"bbox_stop_{a}"])[here].astype(np.int64) // (2 * cell) for a in "yx")
    np.add.at(count, (y, x), 1)
    windows = np.lib.stride_tricks.sliding_window_view(count, (4, 4)).sum((2, 3))
    place = np.unravel_index(int(np.argmax(windows)), windows.shape)
    starts = [max(0, min(int(p) * cell, n - DETAIL)) for p, n in zip(place, shape, strict=True)]
    rows, columns = (slice(a, min(a + DETAIL, n)) for a, n in zip(starts, shape, strict=True))
    return rows, columns


def _frame(picture: RGB, window: list[slice]) -> None:
    """A white frame with a dark edge around a part."""
    y0, x0 = (max(0, w.start - 2) for w in window)
    y1, x1 = (min(n, w.stop + 2) for w, n in zip(window, picture.shape, strict=False))
    for inset, colour in ((0, 0), (1, 255), (2, 0)):
        box = picture[y0 + inset: y1 - inset, x0 + inset: x1 - inset]
        if box.size:
            box[[0, -1]] = colour
            box[:, [0, -1]] = colour


def _beside(left: RGB, right: RGB) -> RGB:
    """Two pictures with a white line between."""
    height = max(left.shape[0], right.shape[0])
    fitted = [np.pad(p, ((0, height - p.shape[0]), (0, 0), (0, 0)), constant_values=255) for p in (left, right)]
    return np.concatenate([fitted[0], np.full((height, 8, 3), 255, np.uint8), fitted[1]], axis=1)
