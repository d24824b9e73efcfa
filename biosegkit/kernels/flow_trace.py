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

from biosegkit.kernels.threads import spread

__all__ = ["UNIT", "FlowFragments", "flow_fragments", "looked_up", "quantise_flow", "summed"]

#: A flow of length one.
UNIT = 127
Ints = npt.NDArray[np.int64]

_EXIT = -4
#: A path that comes this near to where it was two steps ago is at rest.
_REST = 0.05


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
    values = np.ascontiguousarray(flow, np.float32)
    steps = np.empty(values.shape, np.int8)
    _quantise(values.reshape(-1), steps.reshape(-1))
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
    parent = _parents(flow, foreground, (floor, reach, pace), where, core, workers)
    fragment = np.where(parent == -1, np.int32(-1), np.int32(-2))
    first, leads_to = _trees(parent.reshape(-1), fragment.reshape(-1), np.empty((64, 2), np.int64))
    z, y, x = np.unravel_index(first, tuple(core))
    first = ((z + start[0]) * full[1] + y + start[1]) * full[2] + x + start[2]
    rows = _faces(flow, foreground, floor, where, fragment)
    inner = rows[:, 5] == 0
    return FlowFragments(fragment, first, leads_to, summed(rows[inner, :5]), summed(rows[~inner, :5]))


def _parents(flow: npt.NDArray[np.int8], foreground: npt.NDArray[np.uint16], settings: tuple[int, int, Sequence[float]],
             where: tuple[Ints, ...], core: Ints, workers: int) -> Ints:
    """Where the path of every voxel of the core ends; see `_point`."""
    floor, reach, pace = settings
    flat = len(foreground) == 1 and not flow[0].any()
    packed = np.empty(foreground.shape, np.int32)
    _pack(flow, foreground, np.int64(floor), packed)
    parent = np.empty(tuple(core), np.int64)
    steps = (np.int64(reach), np.array(pace, np.float64), flat)
    spread(lambda lo, hi: _point(packed, steps, where, parent, lo, hi), int(core[0] * core[1]), workers)
    return parent


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
def _pack(flow, foreground, floor, packed):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """The components of a voxel as the lower bytes of a word, the highest being 1; 0 for those that take no part."""
    _, nz, ny, nx = flow.shape
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                word = (np.int32(flow[0, z, y, x]) & 255) | ((np.int32(flow[1, z, y, x]) & 255) << 8)
                word |= ((np.int32(flow[2, z, y, x]) & 255) << 16) | (1 << 24)
                packed[z, y, x] = word if foreground[z, y, x] > floor else 0


@numba.njit(cache=True, nogil=True)
def _component(word, axis):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """One component of a packed voxel."""
    return np.float64(np.int8((word >> (8 * axis)) & 255))


@numba.njit(cache=True, nogil=True)
def _corners(t, first, count):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Of a position ``t`` beyond a voxel: that voxel and the next one, within the array, and their weights."""
    one, two = 1.0 - t, t
    if first < 0:
        one = 0.0
    if first + 1 >= count:
        two = 0.0
    return max(first, 0), min(first + 1, count - 1), one, two


@numba.njit(cache=True, nogil=True)
def _end_in_plane(packed, reach, pace, y, x):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """`_end` for an array of one plane whose flow stays in it."""
    ny, nx = packed.shape
    spot_y = spot_x = older_y = older_x = 0.0
    found_y = found_x = 0
    for turn in range(4 * reach):
        if turn == 0:
            vy, vx = _component(packed[y, x], 1), _component(packed[y, x], 2)
        else:
            floor_y, floor_x = np.floor(spot_y), np.floor(spot_x)
            y0, y1, one_y, two_y = _corners(spot_y - floor_y, y + int(floor_y), ny)
            x0, x1, one_x, two_x = _corners(spot_x - floor_x, x + int(floor_x), nx)
            a, b, c, d = packed[y0, x0], packed[y0, x1], packed[y1, x0], packed[y1, x1]
            wa, wb, wc, wd = one_y * one_x, one_y * two_x, two_y * one_x, two_y * two_x
            vy = wa * _component(a, 1) + wb * _component(b, 1) + wc * _component(c, 1) + wd * _component(d, 1)
            vx = wa * _component(a, 2) + wb * _component(b, 2) + wc * _component(c, 2) + wd * _component(d, 2)
        to_y, to_x = spot_y + vy * pace[1] / 127.0, spot_x + vx * pace[2] / 127.0
        moved = max(abs(to_y - older_y), abs(to_x - older_x))
        older_y, older_x, spot_y, spot_x = spot_y, spot_x, to_y, to_x
        step_y, step_x = int(np.floor(to_y + 0.5)), int(np.floor(to_x + 0.5))
        py, px = y + step_y, x + step_x
        far = abs(to_y) > reach or abs(to_x) > reach
        if far or py < 0 or py >= ny or px < 0 or px >= nx or packed[py, px] == 0:
            break
        found_y, found_x = step_y, step_x
        if moved < _REST:
            break
    return found_y, found_x


@numba.njit(cache=True, nogil=True)
def _sample(packed, at, spot, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Linear interpolation of the flow ``spot`` (voxels) away from the voxel ``at``; 0 outside the domain."""
    nz, ny, nx = packed.shape
    floor_z, floor_y, floor_x = np.floor(spot[0]), np.floor(spot[1]), np.floor(spot[2])
    z0, z1, one_z, two_z = _corners(spot[0] - floor_z, at[0] + int(floor_z), nz)
    y0, y1, one_y, two_y = _corners(spot[1] - floor_y, at[1] + int(floor_y), ny)
    x0, x1, one_x, two_x = _corners(spot[2] - floor_x, at[2] + int(floor_x), nx)
    out[0] = out[1] = out[2] = 0.0
    for dz in range(2):
        z, wz = (z1, two_z) if dz else (z0, one_z)
        if wz == 0.0:
            continue
        for dy in range(2):
            y, wy = (y1, two_y) if dy else (y0, one_y)
            one, two = packed[z, y, x0], packed[z, y, x1]
            for axis in range(3):
                out[axis] += wz * wy * one_x * _component(one, axis)
                out[axis] += wz * wy * two_x * _component(two, axis)


@numba.njit(cache=True, nogil=True)
def _end(packed, reach, pace, at, found, scratch):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Offset of the voxel the path from ``at`` ends in: the last on the way that takes part."""
    nz, ny, nx = packed.shape
    spot, v, older = scratch[0], scratch[1], scratch[2]
    for axis in range(3):
        spot[axis] = older[axis] = 0.0
        found[axis] = 0
    for _ in range(4 * reach):
        _sample(packed, at, spot, v)
        moved = 0.0
        far = False
        for axis in range(3):
            to = spot[axis] + v[axis] * pace[axis] / 127.0
            far = far or abs(to) > reach
            moved = max(moved, abs(to - older[axis]))
            older[axis] = spot[axis]
            spot[axis] = to
        z, y, x = int(np.floor(spot[0] + 0.5)), int(np.floor(spot[1] + 0.5)), int(np.floor(spot[2] + 0.5))
        pz, py, px = at[0] + z, at[1] + y, at[2] + x
        outside = pz < 0 or pz >= nz or py < 0 or py >= ny or px < 0 or px >= nx
        if far or outside or packed[pz, py, px] == 0:
            return
        found[0], found[1], found[2] = z, y, x
        if moved < _REST:
            return


@numba.njit(cache=True, nogil=True)
def _point(packed, settings, where, parent, lo, hi):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Parent of every voxel in the core rows ``lo..hi``.

    The linear index in the core, -1 outside the domain, -4 - (linear index in the full image) in another block.
    """
    before, start, full = where
    reach, pace, flat = settings
    cz, cy, cx = parent.shape
    at, found, scratch = np.zeros(3, np.int64), np.zeros(3, np.int64), np.zeros((3, 3))
    for r in range(lo, hi):
        z, y = r // cy, r % cy
        at[0], at[1] = z + before[0], y + before[1]
        for x in range(cx):
            at[2] = x + before[2]
            if packed[at[0], at[1], at[2]] == 0:
                parent[z, y, x] = -1
                continue
            if flat:
                found[1], found[2] = _end_in_plane(packed[0], reach, pace, at[1], at[2])
            else:
                _end(packed, reach, pace, at, found, scratch)
            pz, py, px = z + found[0], y + found[1], x + found[2]
            if 0 <= pz < cz and 0 <= py < cy and 0 <= px < cx:
                parent[z, y, x] = (pz * cy + py) * cx + px
            else:
                parent[z, y, x] = _EXIT - (((pz + start[0]) * full[1] + py + start[1]) * full[2] + px + start[2])


@numba.njit(cache=True, nogil=True)
def _trees(parent, label, ends):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Let every voxel follow its parents to a voxel that has a number, out of the block, or round a cycle."""
    count = 0
    for i in range(parent.size):
        if label[i] != -2:
            continue
        k = i
        while label[k] == -2:
            label[k] = -3  # on the way
            if parent[k] <= _EXIT:
                break
            k = parent[k]
        number = label[k]
        if number == -3:
            if count == ends.shape[0]:
                more = np.empty((2 * count, 2), np.int64)
                more[:count] = ends
                ends = more
            ends[count, 0] = i
            ends[count, 1] = _EXIT - parent[k] if parent[k] <= _EXIT else -1
            number = count
            count += 1
        k = i
        while label[k] == -3:
            label[k] = number
            if parent[k] <= _EXIT:
                break
            k = parent[k]
    return ends[:count, 0].copy(), ends[:count, 1].copy()


@numba.njit(cache=True, nogil=True)
def _faces(flow, foreground, floor, where, label):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """The faces between a core voxel and the next one on an axis that is of another tree or block.

    Rows are (a, b, repulsion, weight, foreground, whether b is a voxel of another block).
    """
    before, start, full = where
    cz, cy, cx = label.shape
    nz, ny, nx = foreground.shape
    rows, count = np.empty((256, 6), np.int64), 0
    for z in range(cz):
        for y in range(cy):
            for x in range(cx):
                a = np.int64(label[z, y, x])
                if a < 0:
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
                    if count == rows.shape[0]:
                        more = np.empty((2 * count, 6), np.int64)
                        more[:count] = rows
                        rows = more
                    low = np.int64(min(foreground[az, ay, ax], foreground[bz, by, bx]))
                    weight = low >> 8
                    push = np.int64(flow[axis, bz, by, bx]) - np.int64(flow[axis, az, ay, ax])
                    rows[count, 0] = min(a, b) if inner else a
                    rows[count, 1] = max(a, b)
                    if not inner:
                        rows[count, 1] = ((qz + start[0]) * full[1] + qy + start[1]) * full[2] + qx + start[2]
                    rows[count, 2] = push * weight
                    rows[count, 3] = weight
                    rows[count, 4] = low
                    rows[count, 5] = not inner
                    count += 1
    return rows[:count]
