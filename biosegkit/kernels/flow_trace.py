"""Follow a field of flows without thresholds: trees of one block, and how strongly neighbouring trees repel.

From every voxel a path is integrated (Euler steps of at most one voxel, linear interpolation) until it comes to rest or
has gone ``reach`` voxels along an axis; the voxel it ends in is its *parent*. Parents of parents lead on, so paths of
any length cost no more, and all is decided by a voxel and its surroundings: a block with a halo of ``reach + 1``
knows it exactly. Voxels whose paths end in the same sink are a tree; a tree that leaves the block is a *fragment* that
remembers where it goes.

Two trees of one object have flows that run side by side where they meet, two objects flows that point away from each
other: *repulsion* is the difference of the flow across a face, from -2 to 2. Everything summed is a whole number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from biosegkit.kernels.bands import bands
from biosegkit.kernels.flow_paths import EXIT, path_ends

__all__ = ["UNIT", "FlowFragments", "flow_fragments", "looked_up", "quantise_flow", "summed"]

#: A flow of length one.
UNIT = 127
Ints = npt.NDArray[np.int64]

#: Places of the table that rows of faces are found in, at first.
_PLACES = 1024


@dataclass(frozen=True)
class FlowFragments:
    """Trees of one block, numbered in raster order of their first voxel.

    ``fragment`` (int32, core shape) is -1 outside the domain. Per fragment: ``first``, the linear index (full image)
    of its first voxel, and ``leads_to``, the voxel of another block it goes on to, or -1. ``edges`` has rows
    (a, b, repulsion, weight, foreground) with a < b: sums over the faces they share, in units of 1/127 times the
    weight, and the largest lower foreground of such a pair. ``links`` has rows (a, linear index of a voxel of another
    block, and the same).
    """

    fragment: npt.NDArray[np.int32]
    first: Ints
    leads_to: Ints
    edges: Ints
    links: Ints


def quantise_flow(flow: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """Components of -1..1 in steps of 1/127, rounded to nearest; longer ones are clipped, NaN is 0.

    Examples
    --------
    >>> quantise_flow(np.array([-2.0, -0.5, 0.0, 1.0])).tolist()
    [-127, -64, 0, 127]
    """
    steps = np.empty(flow.shape, np.int8)
    whole = [(...,)] if flow.dtype == np.float32 and flow.flags.c_contiguous else bands(flow.shape)
    for part in whole:
        _quantise(np.ascontiguousarray(flow[part], np.float32).reshape(-1), steps[part].reshape(-1))
    return steps


def flow_fragments(
    flow: npt.NDArray[np.int8],
    foreground: npt.NDArray[np.uint16],
    floor: int,
    place: tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int]],
    pace: tuple[float, ...],
    reach: int,
    workers: int = 1,
) -> FlowFragments:
    """Cut one block into fragments of trees.

    Parameters
    ----------
    flow : ndarray of int8, (3, Z, Y, X)
        The block with its halo; the first component is 0 in a plane.
    foreground : ndarray of uint16, (Z, Y, X)
    floor : int
        Voxels with a foreground above it take part.
    place : tuple of four sequences of int, (3,) each
        Halo voxels in front of the core, shape of the core, its first voxel in the full image, shape of the full image.
    pace : tuple of float, (3,)
        Voxels per step of a flow of length one, on every axis.
    reach : int
        How many voxels a path may go along an axis; the halo is at least one more wherever the image goes on.
    workers : int
        Threads; the result does not depend on them.

    Examples
    --------
    >>> flow = np.zeros((3, 1, 1, 6), np.int8)
    >>> flow[2, 0, 0] = [127, 0, -127, 127, 0, -127]
    >>> place = ((0, 0, 0), (1, 1, 6), (0, 0, 0), (1, 1, 6))
    >>> parts = flow_fragments(flow, np.full((1, 1, 6), 512, np.uint16), 0, place, (1, 1, 1), 2)
    >>> parts.fragment.tolist(), parts.edges.tolist()
    ([[[0, 0, 0, 1, 1, 1]]], [[0, 1, 508, 2, 512]])
    """
    before, core, start, full = (np.array(v, np.int64) for v in place)
    where = (before, start, full)
    parent = path_ends(flow, foreground, (floor, reach, pace), where, core, workers)
    fragment = np.empty(parent.shape, np.int32)
    first, leads_to = _trees(parent.reshape(-1), fragment.reshape(-1), np.empty((64, 2), np.int64))
    z, y, x = np.unravel_index(first, tuple(core))
    first = ((z + start[0]) * full[1] + y + start[1]) * full[2] + x + start[2]
    rows = _faces(flow, foreground, floor, where, fragment)
    inner = rows[:, 5] == 0
    return FlowFragments(fragment, first, leads_to, summed(rows[inner, :5]), summed(rows[~inner, :5]))


def looked_up(fragment: npt.NDArray[np.int32], foreground: npt.NDArray[np.uint16], level: int,
              table: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """The entry of every voxel's fragment where the foreground exceeds a level, 0 elsewhere.

    Examples
    --------
    >>> fragment, foreground = np.array([-1, 0, 1, 1], np.int32), np.array([9, 9, 9, 3], np.uint16)
    >>> looked_up(fragment, foreground, 5, np.array([7, 8], np.uint32)).tolist()
    [0, 7, 8, 0]
    """
    out = np.empty(fragment.shape, np.uint32)
    _look_up(np.ascontiguousarray(fragment).reshape(-1), np.ascontiguousarray(foreground).reshape(-1), np.int64(level),
             table, out.reshape(-1))
    return out


def summed(rows: Ints) -> Ints:
    """One row per pair (a, b): repulsion and weight added up, the largest foreground; ordered by a, then b.

    Examples
    --------
    >>> summed(np.array([[2, 5, 1, 1, 7], [0, 3, 2, 1, 9], [2, 5, 4, 1, 8]])).tolist()
    [[0, 3, 2, 1, 9], [2, 5, 5, 2, 8]]
    """
    if not len(rows):
        return rows
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    new = np.concatenate([[True], (rows[1:, :2] != rows[:-1, :2]).any(1)])
    at = np.flatnonzero(new)
    sums = np.add.reduceat(rows[:, 2:4], at, axis=0)
    return np.column_stack([rows[at, :2], sums, np.maximum.reduceat(rows[:, 4], at)])


@numba.njit(cache=True, nogil=True)
def _quantise(values, steps):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Round, clip; what is no number or endless is 0."""
    for i in range(values.size):
        scaled = np.rint(values[i] * np.float32(UNIT))
        if not abs(scaled) < np.inf:
            scaled = np.float32(0.0)
        steps[i] = np.int8(min(max(scaled, np.float32(-UNIT)), np.float32(UNIT)))


@numba.njit(cache=True, nogil=True)
def _look_up(fragment, foreground, level, table, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Voxel by voxel."""
    for i in range(out.size):
        out[i] = table[fragment[i]] if fragment[i] >= 0 and foreground[i] > level else np.uint32(0)


@numba.njit(cache=True, nogil=True)
def _trees(parent, label, ends):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Let every voxel follow its parents to a voxel that has a number, out of the block, or round a cycle."""
    count = 0
    label[:] = -2
    for i in range(parent.size):
        if parent[i] == -1:
            label[i] = -1
        if label[i] != -2:
            continue
        k = i
        while label[k] == -2:
            label[k] = -3  # on the way
            if parent[k] <= EXIT:
                break
            k = parent[k]
        number = label[k]
        if number == -3:
            if count == ends.shape[0]:
                more = np.empty((2 * count, 2), np.int64)
                more[:count] = ends
                ends = more
            ends[count, 0] = i
            ends[count, 1] = EXIT - parent[k] if parent[k] <= EXIT else -1
            number = count
            count += 1
        k = i
        while label[k] == -3:
            label[k] = number
            if parent[k] <= EXIT:
                break
            k = parent[k]
    return ends[:count, 0].copy(), ends[:count, 1].copy()


@numba.njit(cache=True, nogil=True)
def _faces(flow, foreground, floor, where, label):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """The faces between a core voxel and the next one on an axis that is of another tree or block.

    Rows are (a, b, repulsion, weight, foreground, whether b is a voxel of another block), one for every pair: an object
    may have as many trees as a plane has voxels, whose faces are many times as many as their pairs.
    """
    before, start, full = where
    cz, cy, cx = label.shape
    nz, ny, nx = foreground.shape
    flat = nz == before[0] + 1  # nothing behind the last plane
    rows, count, kept = np.empty((_PLACES // 2, 6), np.int64), 0, np.full(_PLACES, -1)
    for z in range(cz):
        for y in range(cy):
            for x in range(cx):
                a = np.int64(label[z, y, x])
                if a < 0:
                    continue
                if x + 1 < cx and label[z, y, x + 1] == a and y + 1 < cy and label[z, y + 1, x] == a and (
                        flat or (z + 1 < cz and label[z + 1, y, x] == a)):
                    continue
                az, ay, ax = z + before[0], y + before[1], x + before[2]
                for axis in range(3):
                    qz, qy, qx = z + (axis == 0), y + (axis == 1), x + (axis == 2)
                    inner = qz < cz and qy < cy and qx < cx
                    if inner and label[qz, qy, qx] == a:
                        continue
                    bz, by, bx = qz + before[0], qy + before[1], qx + before[2]
                    if bz >= nz or by >= ny or bx >= nx or foreground[bz, by, bx] <= floor:
                        continue
                    b = np.int64(label[qz, qy, qx]) if inner else np.int64(-1)
                    one, two = (min(a, b), max(a, b)) if inner else (a, ((qz + start[0]) * full[1] + qy + start[1])
                                                                     * full[2] + qx + start[2])
                    low = np.int64(min(foreground[az, ay, ax], foreground[bz, by, bx]))
                    weight = low >> 8
                    push = np.int64(flow[axis, bz, by, bx]) - np.int64(flow[axis, az, ay, ax])
                    place = _place(rows, kept, one, two, np.int64(not inner))
                    k = kept[place]
                    if k >= 0:
                        rows[k, 2] += push * weight
                        rows[k, 3] += weight
                        rows[k, 4] = max(rows[k, 4], low)
                        continue
                    kept[place] = count
                    rows[count, 0], rows[count, 1], rows[count, 2] = one, two, push * weight
                    rows[count, 3], rows[count, 4], rows[count, 5] = weight, low, not inner
                    count += 1
                    if count == rows.shape[0]:
                        rows, kept = _roomier(rows)
    return rows[:count]


@numba.njit(cache=True, nogil=True)
def _place(rows, kept, one, two, outer):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Where the number of the row of a pair is kept, or would be: the first place from its own that is free or its."""
    mixed = np.uint64(one) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(two)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    last = np.uint64(kept.size - 1)
    place = (mixed ^ (mixed >> np.uint64(32))) & last
    while True:
        k = kept[place]
        if k < 0 or (rows[k, 0] == one and rows[k, 1] == two and rows[k, 5] == outer):
            return np.int64(place)
        place = (place + np.uint64(1)) & last


@numba.njit(cache=True, nogil=True)
def _roomier(rows):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Full rows in an array of twice the length, and a table of places of which at most half are taken."""
    count = rows.shape[0]
    more = np.empty((2 * count, 6), np.int64)
    more[:count] = rows
    kept = np.full(4 * count, -1)
    for k in range(count):
        kept[_place(more, kept, more[k, 0], more[k, 1], more[k, 5])] = k
    return more, kept
