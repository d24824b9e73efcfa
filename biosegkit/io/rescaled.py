"""A lazily read array with another pixel size: averaged or interpolated, any region with the values of the whole.

No region of the source larger than :data:`PIECE` voxels is held, whatever the factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from biosegkit.kernels.area import Taps, taps, weighted

from .raw import Array
from .regions import LazyArray, Regions

__all__ = ["PIECE", "rescaled"]

#: Voxels of the source that are read at a time.
PIECE = 1 << 24


def rescaled(source: LazyArray, space: Sequence[int]) -> Regions:
    """``source`` with another number of voxels over the same field of view.

    Axes that shrink are averaged over the area of the new voxels, axes that grow are interpolated linearly. A voxel
    has the same value, bit for bit, whichever region it is read with.

    Parameters
    ----------
    source : LazyArray, (C, *old)
    space : sequence of int
        Spatial shape of the result.

    Returns
    -------
    Regions, (C, *space)
        Of the dtype of ``source``; whole numbers are rounded to nearest.

    Examples
    --------
    >>> rescaled(np.arange(16.0).reshape(1, 4, 4), (2, 2))[...].tolist()
    [[[2.5, 4.5], [10.5, 12.5]]]
    """
    old, new = source.shape[1:], tuple(space)
    # those that shrink most first: every axis after it has less to do
    turn = sorted((a for a in range(len(new)) if new[a] != old[a]), key=lambda a: (new[a] / old[a], a))

    def read(region: tuple[slice, ...]) -> Array:
        out = np.empty([s.stop - s.start for s in region], source.dtype)
        fill(region, out)
        return out

    def fill(region: tuple[slice, ...], out: Array) -> None:
        found = {a: taps(old[a], new[a], region[1 + a].start, region[1 + a].stop) for a in turn}
        need = (region[0], *(slice(*found[a].rows) if a in found else region[1 + a] for a in range(len(new))))
        sizes = [s.stop - s.start for s in need]
        longest = max((i for i in range(len(need)) if out.shape[i] > 1), key=lambda i: sizes[i], default=None)
        if longest is None or math.prod(sizes) <= PIECE:
            out[...] = _settled(_summed(source[need], found, need, turn), source.dtype)
            return
        middle = (region[longest].start + region[longest].stop) // 2
        parts = [slice(region[longest].start, middle), slice(middle, region[longest].stop)]
        for part in parts:
            place = slice(part.start - region[longest].start, part.stop - region[longest].start)
            fill((*region[:longest], part, *region[longest + 1 :]), out[(*(slice(None),) * longest, place)])

    return Regions((source.shape[0], *new), source.dtype, read)


def _summed(values: Array, found: dict[int, Taps], need: Sequence[slice], turn: Sequence[int]) -> Array:
    """Weighted sums along each axis in turn."""
    exact = values.dtype.itemsize <= 2 or values.dtype == np.float32
    out = values.astype(np.float32 if exact else np.float64)
    for axis in turn:
        out = weighted(out, found[axis], need[1 + axis].start, 1 + axis)
    return out


def _settled(values: Array, dtype: np.dtype[Any]) -> Array:
    """Sums as ``dtype``; weights that do not quite add up to 1 must not leave its range."""
    if dtype.kind not in "iu":
        return values.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)
