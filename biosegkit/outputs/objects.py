"""What is written: labels read tile by tile, and the whole objects that come of it as runs.

Labels are cut into runs tile by tile; runs wait until their object is complete, which its box in the table says. Pixels
are held of one tile only, runs of the objects that are not complete. Tiles are the same for any memory, file and
worker, so that what is measured is the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.errors import DataError
from biosegkit.grid import Grid
from biosegkit.image import Task
from biosegkit.kernels.object_runs import Cut, joined
from biosegkit.kernels.runs import cut

__all__ = ["Found", "ObjectRuns", "Table", "TileRuns", "boxed", "object_runs"]

Table = dict[str, npt.NDArray[Any]]
Ints = npt.NDArray[np.int64]

#: Voxels along z, y, x that are read together, of images and of stacks: whole chunks of our own OME-Zarr.
_TILE = {2: (1, 1024, 1024), 3: (32, 256, 1024)}


@dataclass(frozen=True, eq=False)
class Found:
    """What was found in one image.

    Parameters
    ----------
    labels : array, (y, x) or (z, y, x)
        Anything that can be sliced like an array: ids of objects, 0 for none.
    table : dict of ndarray
        One row per object with its ``id`` and box, in voxels; further columns are written along. A table without boxes
        gets them from the labels (:func:`boxed`).
    grid : Grid
        Of the labels.
    classes : dict of int to str
        Names of the values in the table's column ``class``.
    scale : tuple of float
        Pixels of the full-resolution image per pixel of the labels, along y and x.
    source : str
        Name of the image, for messages and identifiers.
    task : {"instance", "semantic"}
        Whether a row stands for an object or for a class.

    Examples
    --------
    >>> found = Found.of(np.array([[0, 1], [2, 2]]), Grid.regular((2, 2)))
    >>> found.table["area"].tolist(), found.count
    ([1, 2], 2)
    """

    labels: npt.NDArray[Any]
    table: Mapping[str, npt.NDArray[Any]]
    grid: Grid
    classes: Mapping[int, str] = field(default_factory=dict)
    scale: tuple[float, float] = (1.0, 1.0)
    source: str = ""
    task: Task = "instance"

    def __post_init__(self) -> None:
        if tuple(self.labels.shape) != self.grid.shape:
            raise DataError(f"labels of shape {tuple(self.labels.shape)}", file=self.source or None,
                            expected=f"{self.grid.shape}, the shape of the grid")

    @classmethod
    def of(cls, labels: npt.NDArray[Any], grid: Grid, table: Mapping[str, npt.NDArray[Any]] | None = None,
           **more: Any) -> Found:
        """Labels with the table they came with, or with one that is made of them."""
        has_boxes = table is not None and all(name in table for name in _box_columns(labels.ndim))
        return cls(labels, table if table is not None and has_boxes else boxed(labels, table), grid, **more)

    @property
    def count(self) -> int:
        """Objects there are."""
        return len(self.table["id"])


@dataclass(frozen=True, eq=False)
class ObjectRuns:
    """Whole objects of one plane: object ``rows[n]`` of the table has the runs ``offset[n]`` to ``offset[n + 1]``.

    ``y``, ``start`` and ``stop`` are in pixels of the labels, in raster order; runs of one row do not touch.
    """

    plane: int
    rows: Ints
    offset: Ints
    y: npt.NDArray[np.int32]
    start: npt.NDArray[np.int32]
    stop: npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class TileRuns:
    """The runs of one tile, (z, y, x), counted from its corner; ``owner`` is the row of each run's object, or -1."""

    window: tuple[slice, slice, slice]
    offset: Ints
    start: npt.NDArray[np.int32]
    stop: npt.NDArray[np.int32]
    owner: Ints


def object_runs(found: Found, tiles: Callable[[TileRuns], None] | None = None) -> Iterator[ObjectRuns]:
    """All objects, plane by plane and within a plane in order of their last row; with ``tiles``, each tile as read.

    In stacks an object comes once per plane it is in. The order depends on nothing but the labels.

    Raises
    ------
    DataError
        If labels and table are not of one image: an id without a row, a row without a voxel, voxels outside a box.
    """
    numbers = _Numbers(found)
    ends = np.asarray(found.table["bbox_stop_y"], np.int64)
    seen = np.zeros(found.count, bool)
    shape, size = _volume(found.labels.shape), _TILE[found.labels.ndim]
    for z0 in range(0, shape[0], size[0]):
        planes = range(z0, min(z0 + size[0], shape[0]))
        waiting = {z: (np.zeros(0, np.int64), *(np.zeros(0, np.int32) for _ in range(3))) for z in planes}
        for y0 in range(0, shape[1], size[1]):
            y1 = min(y0 + size[1], shape[1])
            cuts: list[Cut] = []
            starts = range(0, shape[2], size[2])
            for x0 in starts:
                window = (slice(planes.start, planes.stop), slice(y0, y1), slice(x0, min(x0 + size[2], shape[2])))
                offset, start, stop, value = cut(_read(found.labels, window), False)
                owner = numbers.rows(value)
                cuts.append((offset, start, stop, owner))
                if tiles is not None:
                    tiles(TileRuns(window, offset, start, stop, owner))
            offset, start, stop, owner = joined(cuts, starts)
            seen[owner] = True
            if (ends[owner] <= y0).any():
                raise _strangers(found, owner[ends[owner] <= y0], "voxels below its box")
            for z in planes:
                part = slice(offset[(z - z0) * (y1 - y0)], offset[(z - z0 + 1) * (y1 - y0)])
                lines = np.diff(offset[(z - z0) * (y1 - y0): (z - z0 + 1) * (y1 - y0) + 1])
                y = np.repeat(np.arange(y0, y1, dtype=np.int32), lines)
                runs = tuple(np.concatenate([a, b]) for a, b in zip(
                    waiting[z], (owner[part], y, start[part], stop[part]), strict=True))
                done, waiting[z] = _parted(runs, ends, y1)
                if len(done[0]):
                    yield _bundled(z, done, ends)
    if not seen.all():
        raise _strangers(found, np.flatnonzero(~seen), "no voxel")


def _parted(runs: tuple[Any, ...], ends: Ints, y1: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Runs of objects that are complete at line ``y1``, and the others."""
    done = ends[runs[0]] <= y1
    return tuple(a[done] for a in runs), tuple(a[~done] for a in runs)


def _bundled(plane: int, runs: tuple[Any, ...], ends: Ints) -> ObjectRuns:
    """Runs, in raster order so far, object by object."""
    owner = runs[0]
    order = np.lexsort((owner, ends[owner]))  # stable: within an object they stay in raster order
    owner, y, start, stop = (a[order] for a in runs)
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    return ObjectRuns(plane, owner[first], np.append(first, len(owner)), y, start, stop)


class _Numbers:
    """Rows of the table by id."""

    def __init__(self, found: Found) -> None:
        self.found = found
        ids = np.asarray(found.table["id"], np.int64)
        self.order = np.argsort(ids, kind="stable")
        self.sorted: Ints = ids[self.order]
        if (np.diff(self.sorted) == 0).any() or (len(ids) and self.sorted[0] < 1):
            raise DataError("ids that are not unique or not positive", file=found.source or None,
                            expected="one row per object", remedy="use the table the labels came with")

    def rows(self, value: Ints) -> Ints:
        """The row of every value."""
        if len(value) == 0:
            return value
        place = np.minimum(np.searchsorted(self.sorted, value), max(len(self.sorted) - 1, 0))
        unknown = self.sorted[place] != value if len(self.sorted) else np.ones(len(value), bool)
        if unknown.any():
            raise DataError(f"the id {int(value[unknown][0])} in the labels", file=self.found.source or None,
                            expected=f"an id of the table, which has {len(self.sorted)}",
                            remedy="use the table the labels came with")
        return np.asarray(self.order[place], np.int64)


def _strangers(found: Found, rows: Ints, what: str) -> DataError:
    """Labels and table contradict each other."""
    return DataError(f"{what} of object {int(found.table['id'][rows[0]])}", file=found.source or None,
                     expected="labels and table of one image", remedy="use the table the labels came with")


def _volume(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """As z, y, x."""
    z, y, x = (1,) * (3 - len(shape)) + tuple(shape)
    return z, y, x


def _read(array: npt.NDArray[Any], window: tuple[slice, slice, slice]) -> npt.NDArray[Any]:
    """A part of labels as (z, y, x)."""
    part = np.asarray(array[window[3 - array.ndim:]])
    return np.ascontiguousarray(part, part.dtype.newbyteorder("=")).reshape(tuple(w.stop - w.start for w in window))


def _box_columns(ndim: int) -> tuple[str, ...]:
    return tuple(f"bbox_{side}_{a}" for side in ("start", "stop") for a in ("z", "y", "x")[-ndim:])


def boxed(labels: npt.NDArray[Any], table: Mapping[str, npt.NDArray[Any]] | None = None) -> Table:
    """A table with ``area``, centroid and box of every object, read from the labels; other columns are kept.

    Parameters
    ----------
    labels : array, (y, x) or (z, y, x)
        Sliceable; ids, 0 for none.
    table : dict of ndarray, optional
        Rows to complete, by ``id``; without it there is one row per id, in ascending order.

    Examples
    --------
    >>> rows = boxed(np.array([[7, 7, 0], [0, 7, 2]]))
    >>> rows["id"].tolist(), rows["area"].tolist(), rows["bbox_stop_y"].tolist(), rows["centroid_x"].tolist()
    ([2, 7], [1, 3], [2, 2], [2.0, 0.6666666666666666])
    """
    shape, size = _volume(labels.shape), _TILE[labels.ndim]
    parts: list[Ints] = [np.zeros((11, 0), np.int64)]
    for z0 in range(0, shape[0], size[0]):
        for y0 in range(0, shape[1], size[1]):
            for x0 in range(0, shape[2], size[2]):
                corner = (z0, y0, x0)
                window = tuple(slice(c, min(c + t, s)) for c, t, s in zip(corner, size, shape, strict=True))
                parts.append(_tile_boxes(labels, window))  # type: ignore[arg-type]
                if len(parts) > 64:
                    parts = [_merged(np.concatenate(parts, axis=1))]
    ids, *rest = _merged(np.concatenate(parts, axis=1))
    made: Table = {"id": ids, "area": rest[0]}
    names = list(zip(range(3 - labels.ndim, 3), ("z", "y", "x")[-labels.ndim:], strict=True))
    made |= {f"centroid_{name}": rest[1 + axis] / np.maximum(rest[0], 1) for axis, name in names}
    made |= {f"bbox_start_{name}": rest[4 + axis] for axis, name in names}
    made |= {f"bbox_stop_{name}": rest[7 + axis] for axis, name in names}
    if table is None:
        return made
    place = np.searchsorted(ids, table["id"])
    if len(table["id"]) and (not len(ids) or (ids[np.minimum(place, len(ids) - 1)] != table["id"]).any()):
        raise DataError("rows of objects that are not in the labels", expected="labels and table of one image",
                        remedy="use the table the labels came with")
    return {**{name: column[place] for name, column in made.items()}, **table}


def _tile_boxes(labels: npt.NDArray[Any], window: tuple[slice, slice, slice]) -> Ints:
    """Per object of a tile: id, area, sums of z, y, x, first and last coordinates."""
    offset, start, stop, value = cut(_read(labels, window), False)
    row = np.repeat(np.arange(len(offset) - 1), np.diff(offset))
    ny = window[1].stop - window[1].start
    z, y = row // ny + window[0].start, row % ny + window[1].start
    a, b = start.astype(np.int64) + window[2].start, stop.astype(np.int64) + window[2].start
    count = b - a
    return _merged(np.stack([value, count, z * count, y * count, (a + b - 1) * count // 2, z, y, a, z + 1, y + 1, b]))


def _merged(rows: Ints) -> Ints:
    """One column per id: sums added, boxes joined."""
    ids, place = np.unique(rows[0], return_inverse=True)
    out = np.zeros((len(rows), len(ids)), np.int64)
    out[0] = ids
    out[5:8] = np.iinfo(np.int64).max
    for k in range(1, 5):
        np.add.at(out[k], place, rows[k])
    for k in range(5, 8):
        np.minimum.at(out[k], place, rows[k])
    for k in range(8, 11):
        np.maximum.at(out[k], place, rows[k])
    return out
