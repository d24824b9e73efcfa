"""Which objects labels hold: how many voxels each has, a box that holds them all, and a voxel of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DataError
from .progress import tick

__all__ = ["Extents", "Window", "listed", "point_inside"]

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
Window = tuple[slice, ...]

#: Voxels read together when the objects are listed.
_SLAB = 1 << 24


@dataclass(frozen=True, eq=False)
class Extents:
    """A table of objects, ascending by id. A change makes another table, so that any thread can read one at any time.

    Parameters
    ----------
    ids : ndarray, (N,)
        Of the type of the labels.
    voxels : ndarray of int, (N,)
    lows, highs : ndarray of int, (N, ndim)
        A box that holds all voxels of the object, ends excluded.

    Examples
    --------
    >>> known = listed(np.array([[1, 1, 0, 5]]))
    >>> 5 in known, 2 in known, known.area(1), known.window(5)
    (True, False, 2, (slice(0, 1, None), slice(3, 4, None)))
    >>> changed = known.changed((slice(0, 1), slice(1, 3)), {1: -1, 7: 2})
    >>> changed.ids.tolist(), changed.area(1), changed.window(7)
    ([1, 5, 7], 1, (slice(0, 1, None), slice(1, 3, None)))
    """

    ids: Array
    voxels: Ints
    lows: npt.NDArray[np.int32]
    highs: npt.NDArray[np.int32]

    @classmethod
    def joined(cls, parts: Sequence[Extents]) -> Extents:
        """One table of several: sizes of equal ids are added, boxes united; what has no voxel left is gone."""
        ids = np.concatenate([part.ids for part in parts])
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        first = np.flatnonzero(np.concatenate([np.ones(min(1, len(ids)), bool), ids[1:] != ids[:-1]]))
        voxels = np.add.reduceat(np.concatenate([part.voxels for part in parts])[order], first)
        lows = np.minimum.reduceat(np.concatenate([part.lows for part in parts])[order], first)
        highs = np.maximum.reduceat(np.concatenate([part.highs for part in parts])[order], first)
        left = voxels > 0
        found = cls(ids[first], voxels, lows, highs)
        return found if left.all() else cls(*(one[left] for one in (found.ids, voxels, lows, highs)))

    def changed(self, window: Window, voxels: dict[int, int]) -> Extents:
        """The table after so many voxels per id were added or, below 0, taken away in a window."""
        numbers = np.array(sorted(voxels), self.ids.dtype)
        low, high = (np.array([getattr(w, end) for w in window], np.int32) for end in ("start", "stop"))
        new = [number for number in numbers.tolist() if number not in self]
        found = self._with(np.array(new, numbers.dtype), low, high) if new else self
        rows = np.searchsorted(found.ids, numbers)
        sizes, lows, highs = found.voxels.copy(), found.lows.copy(), found.highs.copy()
        sizes[rows] += [voxels[number] for number in numbers.tolist()]
        lows[rows], highs[rows] = np.minimum(lows[rows], low), np.maximum(highs[rows], high)
        gone = rows[sizes[rows] <= 0]
        if not len(gone):
            return Extents(found.ids, sizes, lows, highs)
        return Extents(*(np.delete(one, gone, axis=0) for one in (found.ids, sizes, lows, highs)))

    def _with(self, new: Array, low: Array, high: Array) -> Extents:
        """The table with more objects, of no voxel yet, in a box."""
        at = np.searchsorted(self.ids, new)
        return Extents(*(np.insert(one, at, value, axis=0) for one, value in (
            (self.ids, new), (self.voxels, 0), (self.lows, low), (self.highs, high))))

    def __contains__(self, number: int) -> bool:
        return self._row(number) is not None

    def area(self, number: int) -> int:
        """Voxels of an object."""
        row = self._row(number)
        return 0 if row is None else int(self.voxels[row])

    def window(self, number: int) -> Window:
        """The box of an object that is there."""
        row = self._row(number)
        return tuple(slice(int(a), int(b)) for a, b in zip(self.lows[row], self.highs[row], strict=True))

    def _row(self, number: int) -> int | None:
        kind = np.iinfo(self.ids.dtype)
        if not kind.min <= number <= kind.max:
            return None
        row = int(np.searchsorted(self.ids, self.ids.dtype.type(number)))
        return row if row < len(self.ids) and self.ids[row] == number else None


def listed(array: Any) -> Extents:
    """Every object of an array (Z, Y, X) or (Y, X), which may lie on disk, read a slab at a time.

    Raises
    ------
    DataError
        For negative ids.
    """
    dtype, count, ndim = np.dtype(array.dtype), array.shape[0], array.ndim
    parts = [Extents(np.zeros(0, dtype), np.zeros(0, np.int64), *np.zeros((2, 0, ndim), np.int32))]
    rows = max(1, _SLAB // max(1, math.prod(array.shape[1:])))
    for low in range(0, count, rows):
        tick(low, count, "planes")
        parts.append(_of_slab(np.asarray(array[low : low + rows]), low))
    found = Extents.joined(parts)
    if len(found.ids) and found.ids[0] < 0:
        raise DataError(f"a negative id {found.ids[0]}", expected="0 for background and positive ids",
                        remedy="renumber the labels")
    return found


def _of_slab(values: Array, low: int) -> Extents:
    """The objects of a slab that begins there along the first axis, from their runs."""
    from .kernels.pieces import planes  # slow to import, and the viewer can do without until then
    from .kernels.runs import cut

    dtype = values.dtype.newbyteorder("=")
    volume = planes(values.astype(dtype, copy=False))
    offset, start, stop, number = cut(volume, False)
    line = np.repeat(np.arange(len(offset) - 1), np.diff(offset))
    z, y = np.divmod(line, volume.shape[1])
    lows = np.stack([z, y, start], axis=1)[:, -values.ndim :].astype(np.int32)
    highs = lows + 1
    highs[:, -1] = stop
    lows[:, 0], highs[:, 0] = lows[:, 0] + low, highs[:, 0] + low
    return Extents.joined([Extents(number.astype(dtype), (stop - start).astype(np.int64), lows, highs)])


def point_inside(array: Any, window: Sequence[slice], number: int) -> tuple[int, ...] | None:
    """A voxel of an object near the middle of a window; None if the object is not in it.

    One plane is read at a time, from the middle on until the object is met: of a large object little is read.

    Examples
    --------
    >>> ring = np.array([[4, 4, 4], [4, 0, 4], [4, 4, 4]])
    >>> point_inside(ring, (slice(0, 3), slice(0, 3)), 4), point_inside(ring, (slice(0, 3), slice(0, 3)), 9)
    ((1, 2), None)
    """
    axis = next((k for k, w in enumerate(window) if w.stop - w.start > 1), 0)
    for place in _from_the_middle(window[axis]):
        plane = (*window[:axis], slice(place, place + 1), *window[axis + 1 :])
        inside = np.asarray(array[plane]) == number
        if inside.any():
            return tuple(w.start + k for w, k in zip(plane, _middle(inside), strict=True))
    return None


def _from_the_middle(span: slice) -> Iterator[int]:
    """All places of a span, those next to its middle first."""
    yield from sorted(range(span.start, span.stop), key=lambda k: abs(2 * k + 1 - span.start - span.stop))


def _middle(inside: npt.NDArray[np.bool_]) -> Iterator[int]:
    """The place of a voxel that is true: axis by axis the middle one of those that go on to such a voxel."""
    while inside.ndim:
        there = np.flatnonzero(inside.any(axis=tuple(range(1, inside.ndim))))
        yield int(there[len(there) // 2])
        inside = inside[there[len(there) // 2]]
