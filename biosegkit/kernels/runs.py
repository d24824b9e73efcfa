"""Runs: stretches of one value along the last axis, joined to pieces without an image of piece numbers.

Memory follows the number of runs, which is far below that of voxels in label images of any use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from biosegkit.kernels.components import find, union
from biosegkit.kernels.pieces import planes

__all__ = ["Runs", "cut", "enclosed_by", "fill_runs", "runs_of"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs in raster order; row r (of all rows of all planes) has those from ``offset[r]`` to ``offset[r + 1]``.

    ``start`` and ``stop`` count along the last axis, ``value`` is what the image holds there, and ``piece`` numbers the
    connected pieces from 0 in raster order of their first voxel.
    """

    offset: Ints
    start: npt.NDArray[np.int32]
    stop: npt.NDArray[np.int32]
    value: Ints
    piece: Ints

    @property
    def sizes(self) -> Ints:
        """Voxels of every piece."""
        size: Ints = np.zeros(self.count, np.int64)
        np.add.at(size, self.piece, (self.stop - self.start).astype(np.int64))
        return size

    @property
    def values(self) -> Ints:
        """Value of every piece."""
        value: Ints = np.zeros(self.count, np.int64)
        value[self.piece] = self.value
        return value

    @property
    def count(self) -> int:
        """Pieces there are."""
        return int(self.piece.max(initial=-1)) + 1


def runs_of(labels: npt.NDArray[Any], *, background: bool = False, stacked: bool = True) -> Runs:
    """Runs of every label, or of the background, and the connected pieces they belong to.

    Labels hold together over faces, edges and corners, the background over faces only, so that the two never cross.

    Parameters
    ----------
    labels : ndarray of int, (*space)
        At most three axes; voxels of different labels never join.
    background : bool
        Look at 0 instead of all others.
    stacked : bool
        Join from plane to plane; False takes every plane for an image of its own.

    Examples
    --------
    >>> found = runs_of(np.array([[1, 1, 0, 2], [0, 0, 1, 2]]))
    >>> found.piece.tolist(), found.sizes.tolist(), found.values.tolist()
    ([0, 1, 0, 1], [3, 2], [1, 2])
    >>> runs_of(np.array([[1, 0], [0, 1]]), background=True).count
    2
    """
    array = planes(labels)
    offset, start, stop, value = cut(array, background)
    parent = np.arange(len(start), dtype=np.int64)
    _join((offset, start, stop, value), parent, array.shape[1], not background, stacked)
    return Runs(offset, start, stop, value, _pieces(parent))


def enclosed_by(labels: npt.NDArray[Any], background: Runs, leaves: Sequence[bool]) -> Ints:
    """The one label that encloses each piece of background on its own, or 0.

    Parameters
    ----------
    labels : ndarray of int, (*space)
    background : Runs
        Of the background of ``labels``.
    leaves : sequence of bool
        Per axis: whether background that reaches the side of the array goes on beyond it. Along other axes there is
        nothing: neither a way out nor a neighbour.

    Examples
    --------
    >>> ring = np.pad(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 2]]), 1)
    >>> enclosed_by(ring, runs_of(ring, background=True), (True, True)).tolist()
    [0, 1]
    """
    array = planes(labels)
    ways = np.array([False] * (3 - labels.ndim) + list(leaves), np.bool_)
    owner = np.zeros(background.count, np.int64)
    _enclose(array, (background.offset, background.start, background.stop, background.piece), ways, owner)
    return np.maximum(owner, 0)


def fill_runs(labels: npt.NDArray[Any], runs: Runs, values: npt.NDArray[Any], only: npt.NDArray[np.bool_]) -> None:
    """Write ``values[piece]`` into all voxels of the pieces that ``only`` names.

    Parameters
    ----------
    labels : ndarray, (*space)
        Contiguous; changed in place.
    runs : Runs
        Of ``labels``.
    values, only : ndarray, (pieces,)

    Examples
    --------
    >>> labels = np.array([[1, 0, 1]])
    >>> fill_runs(labels, runs_of(labels), np.array([4, 5]), np.array([False, True]))
    >>> labels.tolist()
    [[1, 0, 5]]
    """
    _fill(planes(labels), (runs.offset, runs.start, runs.stop, runs.piece), values.astype(labels.dtype), only)


@numba.njit(cache=True, nogil=True)
def cut(array, background):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Offset per row, start, stop and value of the runs of (z, y, x): counted first, then noted."""
    nz, ny, nx = array.shape
    offset = np.zeros(nz * ny + 1, np.int64)
    for z in range(nz):
        for y in range(ny):
            count, last = 0, np.int64(0)
            for x in range(nx):
                here = np.int64(array[z, y, x])
                if (here == 0) == background and (x == 0 or here != last):
                    count += 1
                last = here
            offset[z * ny + y + 1] = offset[z * ny + y] + count
    total = offset[nz * ny]
    start, stop = np.empty(total, np.int32), np.empty(total, np.int32)
    value = np.empty(total, np.int64)
    for z in range(nz):
        for y in range(ny):
            k = offset[z * ny + y] - 1
            last = np.int64(0)
            for x in range(nx):
                here = np.int64(array[z, y, x])
                if (here == 0) == background:
                    if x == 0 or here != last:
                        k += 1
                        start[k], value[k] = x, here
                    stop[k] = x + 1
                last = here
    return offset, start, stop, value


@numba.njit(cache=True, nogil=True)
def _join(runs, parent, ny, full, stacked):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Join every row with those before it that touch it."""
    rows = runs[0].size - 1
    for r in range(rows):
        y = r % ny
        if y > 0:
            _meet(runs, parent, r, r - 1, full)
        if stacked and r >= ny:
            _meet(runs, parent, r, r - ny, full)
            if full and y > 0:
                _meet(runs, parent, r, r - ny - 1, full)
            if full and y < ny - 1:
                _meet(runs, parent, r, r - ny + 1, full)


@numba.njit(cache=True, nogil=True)
def _meet(runs, parent, a, b, full):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Join runs of two rows that have one value and overlap; with ``full`` it is enough that corners touch."""
    offset, start, stop, value = runs
    reach = 1 if full else 0
    j = offset[b]
    for i in range(offset[a], offset[a + 1]):
        while j < offset[b + 1] and stop[j] + reach <= start[i]:
            j += 1
        k = j
        while k < offset[b + 1] and start[k] < stop[i] + reach:
            if value[k] == value[i]:
                union(parent, i, k)
            k += 1


@numba.njit(cache=True, nogil=True)
def _pieces(parent):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Numbers of the pieces by their first run: the root is the smallest."""
    piece = np.empty(parent.size, np.int64)
    count = 0
    for i in range(parent.size):
        root = find(parent, i)
        if root == i:
            piece[i] = count
            count += 1
        else:
            piece[i] = piece[root]
    return piece


@numba.njit(cache=True, nogil=True)
def _enclose(array, runs, ways, owner):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Note the only label next to each piece; -1 where there is another, or a way out."""
    offset, start, stop, piece = runs
    nz, ny, nx = array.shape
    for r in range(nz * ny):
        z, y = r // ny, r % ny
        out = (ways[0] and (z == 0 or z == nz - 1)) or (ways[1] and (y == 0 or y == ny - 1))
        for i in range(offset[r], offset[r + 1]):
            k, first, last = piece[i], start[i], stop[i]
            if owner[k] < 0:
                continue
            if out or (ways[2] and (first == 0 or last == nx)):
                owner[k] = -1
                continue
            if first > 0:
                _beside(owner, k, array[z, y, first - 1])
            if last < nx:
                _beside(owner, k, array[z, y, last])
            for x in range(first, last):
                if ways[1] and y > 0:
                    _beside(owner, k, array[z, y - 1, x])
                if ways[1] and y < ny - 1:
                    _beside(owner, k, array[z, y + 1, x])
                if ways[0] and z > 0:
                    _beside(owner, k, array[z - 1, y, x])
                if ways[0] and z < nz - 1:
                    _beside(owner, k, array[z + 1, y, x])


@numba.njit(cache=True, nogil=True)
def _beside(owner, k, label):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """A neighbour of piece k."""
    if label != 0 and owner[k] >= 0:
        if owner[k] == 0:
            owner[k] = label
        elif owner[k] != label:
            owner[k] = -1


@numba.njit(cache=True, nogil=True)
def _fill(array, runs, values, only):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Write the runs of chosen pieces."""
    offset, start, stop, piece = runs
    ny = array.shape[1]
    for r in range(offset.size - 1):
        for i in range(offset[r], offset[r + 1]):
            if only[piece[i]]:
                array[r // ny, r % ny, start[i]: stop[i]] = values[piece[i]]
