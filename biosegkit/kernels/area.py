"""Weighted sums of neighbouring rows: area averages and linear interpolation, one axis at a time.

Every target row has its own first source row and weights, which depend on the sizes of the whole axis alone: a row is
the same sum in the same order whether all rows are computed or only some.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["Taps", "taps", "weighted"]

Float = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Taps:
    """Source rows of some target rows: ``count[j]`` rows from ``first[j]``, with ``weight[j]``."""

    first: npt.NDArray[np.int64]
    count: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float64]

    @property
    def rows(self) -> tuple[int, int]:
        """The source rows needed, as (first, last + 1)."""
        return int(self.first.min()), int((self.first + self.count).max())


def taps(source: int, target: int, start: int, stop: int, *, averaged: bool = True) -> Taps:
    """Source rows and weights of target rows ``start`` to ``stop``; the outer borders of both axes coincide.

    Parameters
    ----------
    source, target : int
        Sizes of the whole axes. A smaller target averages the source over the extent of each of its rows, a larger one
        interpolates linearly between the centres.
    start, stop : int
    averaged : bool
        False: a smaller target, too, is interpolated between the centres.

    Examples
    --------
    >>> found = taps(5, 2, 0, 2)
    >>> found.first.tolist(), found.count.tolist(), found.weight.round(3).tolist()
    ([0, 2], [3, 3], [[0.4, 0.4, 0.2], [0.2, 0.4, 0.4]])
    >>> taps(2, 4, 1, 2).weight.tolist()
    [[0.75, 0.25]]
    >>> taps(4, 1, 0, 1, averaged=False).first.tolist()
    [1]
    """
    row = np.arange(start, stop)
    if target > source or not averaged:
        position = np.clip((2 * row + 1) * source - target, 0, 2 * target * (source - 1))  # times 2 target
        first = np.minimum(position // (2 * target), max(source - 2, 0))
        upper = (position - first * 2 * target) / (2 * target)
        count = np.full(len(row), min(source, 2))
        return Taps(first, count, np.stack([1 - upper, upper], 1)[:, : min(source, 2)])
    low, high = row * source, (row + 1) * source  # borders of the target rows, times the number of target rows
    first, last = low // target, (high - 1) // target
    place = first[:, None] + np.arange(int((last - first).max()) + 1)
    shared = np.minimum(high[:, None], (place + 1) * target) - np.maximum(low[:, None], place * target)
    return Taps(first, last - first + 1, np.maximum(shared, 0) / source)


def weighted(values: Float, found: Taps, begin: int, axis: int) -> Float:
    """Weighted sums along an axis.

    Parameters
    ----------
    values : ndarray of float, (*shape)
        The source rows from ``begin`` on, at least those of ``found.rows``.
    found : Taps
    begin : int
    axis : int

    Returns
    -------
    ndarray of the dtype of ``values``

    Examples
    --------
    >>> weighted(np.array([[1.0, 3.0, 5.0, 7.0]]), taps(4, 2, 1, 2), 0, 1).tolist()
    [[6.0]]
    """
    before = int(np.prod(values.shape[:axis], dtype=np.int64))
    after = int(np.prod(values.shape[axis + 1 :], dtype=np.int64))
    flat = np.ascontiguousarray(values).reshape(before, values.shape[axis], after)
    out = np.empty((before, len(found.first), after), values.dtype)
    _sums(flat, found.first - begin, found.count, found.weight.astype(values.dtype), out)
    return out.reshape(*values.shape[:axis], len(found.first), *values.shape[axis + 1 :])


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _sums(source: Any, first: Any, count: Any, weight: Any, out: Any) -> None:
    """Each row of ``out`` from its rows of ``source``, added up in order."""
    for a in range(out.shape[0]):
        for j in range(out.shape[1]):
            for c in range(out.shape[2]):
                out[a, j, c] = weight[j, 0] * source[a, first[j], c]
            for t in range(1, count[j]):
                for c in range(out.shape[2]):
                    out[a, j, c] += weight[j, t] * source[a, first[j] + t, c]
