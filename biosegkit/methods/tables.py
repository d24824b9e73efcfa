"""Object tables: sums over blocks in whole numbers, so that the order of blocks cannot matter."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from biosegkit.methods.protocol import Block, ObjectTable, empty_table

__all__ = ["Tally", "rows_in", "zyx"]

_NONE = np.iinfo(np.int64).max
#: Types of scores that are read as they are.
_SCORES = (np.uint8, np.uint16)


class Tally:
    """Size, position, bounding box, score and first voxel of ``count`` objects, gathered block by block.

    Examples
    --------
    >>> tally = Tally(1, 2)
    >>> tally.add(np.array([[0, 1], [0, 1]]), np.full((2, 2), 255, np.uint8), Block.whole((2, 2)))
    >>> table = tally.table(np.array([1]), np.array([1]), 255.0)
    >>> int(table["area"][0]), float(table["centroid_y"][0]), int(table["first"][0])
    (2, 0.5, 1)
    """

    def __init__(self, count: int, ndim: int) -> None:
        self.ndim = ndim
        self.area: npt.NDArray[np.int64] = np.zeros(count, np.int64)
        self.score: npt.NDArray[np.int64] = np.zeros(count, np.int64)
        self.first: npt.NDArray[np.int64] = np.full(count, _NONE, np.int64)
        self.sums: npt.NDArray[np.int64] = np.zeros((count, 3), np.int64)
        self.low: npt.NDArray[np.int64] = np.full((count, 3), _NONE, np.int64)
        self.high: npt.NDArray[np.int64] = np.full((count, 3), -1, np.int64)

    def add(self, objects: npt.NDArray[Any], score: npt.NDArray[Any] | None, block: Block) -> None:
        """Add a block; ``objects`` holds ``1..count`` and 0 for nothing, ``score`` whole numbers; none are all 0."""
        start, full = zyx(block.start, 0), zyx(block.full_shape, 1)
        shape = (1,) * (3 - self.ndim) + objects.shape
        into = (self.area, self.score, self.first, self.sums, self.low, self.high)
        labels = np.ascontiguousarray(objects, np.uint32).reshape(shape)
        if score is None:
            whole: npt.NDArray[Any] = np.zeros((0, 0, 0), np.uint16)
        else:
            whole = np.ascontiguousarray(score, score.dtype if score.dtype in _SCORES else np.int64).reshape(shape)
        _add(labels, whole, start, full, into)

    def table(self, rows: npt.NDArray[Any], ids: npt.NDArray[Any], scale: float) -> ObjectTable:
        """The rows (numbered from 1) as a table with these ids; scores are divided by ``scale``."""
        table = empty_table(self.ndim)
        if len(rows) == 0:
            return table
        k = np.asarray(rows, np.int64) - 1
        table["id"] = np.asarray(ids, np.uint32)
        table["area"] = self.area[k]
        table["score"] = (self.score[k] / (self.area[k] * scale)).astype(np.float32)
        for axis, name in zip(range(3 - self.ndim, 3), ("z", "y", "x")[-self.ndim :], strict=True):
            table[f"centroid_{name}"] = self.sums[k, axis] / self.area[k]
            table[f"bbox_start_{name}"] = self.low[k, axis]
            table[f"bbox_stop_{name}"] = self.high[k, axis] + 1
        table["first"] = self.first[k]
        return table


def rows_in(table: ObjectTable, block: Block) -> ObjectTable:
    """The rows whose first voxel lies in the core of a block, so that every object is listed by one block only."""
    position = np.unravel_index(table["first"], block.full_shape)
    inside = np.ones(len(table["first"]), bool)
    for p, start, size in zip(position, block.start, block.shape, strict=True):
        inside &= (p >= start) & (p < start + size)
    return {name: column[inside] for name, column in table.items()}


def zyx(values: tuple[int, ...], fill: int) -> tuple[int, int, int]:
    """Numbers by axis of space, padded in front to three.

    Examples
    --------
    >>> zyx((4, 5), 1)
    (1, 4, 5)
    """
    z, y, x = (fill,) * (3 - len(values)) + values
    return z, y, x


@numba.njit(cache=True, nogil=True)
def _add(objects, score, start, full, into):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """One pass over a block, run by run."""
    area, total, first, sums, low, high = into
    nz, ny, nx = objects.shape
    scored = score.size > 0
    for z in range(nz):
        for y in range(ny):
            row = ((z + start[0]) * full[1] + y + start[1]) * full[2] + start[2]
            x = 0
            while x < nx:
                begin, value, gained = x, objects[z, y, x], np.int64(0)
                while x < nx and objects[z, y, x] == value:
                    x += 1
                if value == 0:
                    continue
                if scored:
                    for here in range(begin, x):
                        gained += np.int64(score[z, y, here])
                k, length = np.int64(value) - 1, x - begin
                area[k] += length
                total[k] += gained
                first[k] = min(first[k], row + begin)
                sums[k, 0] += length * (z + start[0])
                sums[k, 1] += length * (y + start[1])
                sums[k, 2] += length * (begin + start[2]) + length * (length - 1) // 2
                low[k, 0], high[k, 0] = min(low[k, 0], z + start[0]), max(high[k, 0], z + start[0])
                low[k, 1], high[k, 1] = min(low[k, 1], y + start[1]), max(high[k, 1], y + start[1])
                low[k, 2], high[k, 2] = min(low[k, 2], begin + start[2]), max(high[k, 2], x - 1 + start[2])
