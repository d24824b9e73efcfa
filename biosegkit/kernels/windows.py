"""Means over small windows in whole numbers, so that a block gives what the whole image gives.

Sums of whole numbers do not depend on the order of summation, on threads or on where an array begins. Beyond the edge
of the array the outermost voxel goes on; a block has a halo as wide as the window, so only the image's own edge counts.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["window_mean"]


def window_mean(values: npt.NDArray[np.uint16], radii: tuple[int, ...]) -> npt.NDArray[np.uint16]:
    """Mean over a box of ``2 radius + 1`` voxels along every axis, rounded to nearest after each axis.

    Parameters
    ----------
    values : ndarray of uint16, (*space)
    radii : tuple of int
        One per axis; 0 leaves an axis alone.

    Examples
    --------
    >>> window_mean(np.array([0, 0, 9, 0, 0], np.uint16), (1,)).tolist()
    [0, 3, 3, 3, 0]
    """
    out = values
    for axis, radius in enumerate(radii):
        if radius > 0 and values.shape[axis] > 1:
            lines, shape = _three(out, axis)
            made = np.empty_like(lines)
            _mean(lines, made, radius)
            out = made.reshape(shape)
    return out


def _three(values: npt.NDArray[Any], axis: int) -> tuple[npt.NDArray[Any], tuple[int, ...]]:
    """As (before, along, behind) the axis, and the shape to go back to."""
    shape = values.shape
    lead = int(np.prod(shape[:axis], dtype=np.int64))
    return np.ascontiguousarray(values).reshape(lead, shape[axis], -1), shape


@numba.njit(cache=True, nogil=True)
def _mean(values, out, radius):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Running sums along the middle axis, one row of columns at a time."""
    lead, n, width = values.shape
    total = np.empty(width, np.int64)
    size = 2 * radius + 1
    for z in range(lead):
        total[:] = 0
        for k in range(-radius, radius + 1):
            at = min(max(k, 0), n - 1)
            for x in range(width):
                total[x] += values[z, at, x]
        for y in range(n):
            new, old = min(y + 1 + radius, n - 1), max(y - radius, 0)
            for x in range(width):
                out[z, y, x] = (2 * total[x] + size) // (2 * size)
                total[x] += np.int64(values[z, new, x]) - np.int64(values[z, old, x])
