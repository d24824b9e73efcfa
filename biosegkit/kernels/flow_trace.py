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

__all__ = ["UNIT", "FlowFragments", "flow_fragments", "quantise_flow", "summed"]

#: A flow of length one.
UNIT = 127
Ints = npt.NDArray[np.int64]

_EXIT = -4


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
    scaled = np.nan_to_num(np.asarray(flow, np.float32) * np.float32(UNIT), nan=0.0, posinf=0.0, neginf=0.0)
    steps: npt.NDArray[np.int8] = np.clip(np.rint(scaled), -UNIT, UNIT).astype(np.int8)
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
    parent = np.empty(tuple(core), np.int64)
    where = (before, start, full)
    settings = (np.int64(floor), np.int64(reach), np.array(pace, np.float64))
    spread(lambda lo, hi: _point(flow, foreground, settings, where, parent, lo, hi), int(core[0] * core[1]), workers)
    fragment = np.where(parent == -1, np.int32(-1), np.int32(-2))
    first, leads_to = _trees(parent.reshape(-1), fragment.reshape(-1), np.empty((64, 2), np.int64))
    z, y, x = np.unravel_index(first, tuple(core))
    first = ((z + start[0]) * full[1] + y + start[1]) * full[2] + x + start[2]
    faces = _faces(flow, foreground, floor, where, fragment, np.empty((0, 6), np.int64))
    rows = np.empty((faces, 6), np.int64)
    _faces(flow, foreground, floor, where, fragment, rows)
    inner = rows[:, 5] == 0
    return FlowFragments(fragment, first, leads_to, summed(rows[inner, :5]), summed(rows[~inner, :5]))


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
def _sample(flow, foreground, floor, at, spot, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Linear interpolation of the flow ``spot`` (voxels) away from the voxel ``at``; 0 outside the domain."""
    nz, ny, nx = foreground.shape
    z0, y0, x0 = int(np.floor(spot[0])), int(np.floor(spot[1])), int(np.floor(spot[2]))
    tz, ty, tx = spot[0] - z0, spot[1] - y0, spot[2] - x0
    out[0] = out[1] = out[2] = 0.0
    for dz in range(2):
        wz = tz if dz else 1.0 - tz
        z = at[0] + z0 + dz
        if wz == 0.0 or z < 0 or z >= nz:
            continue
        for dy in range(2):
            wy = ty if dy else 1.0 - ty
            y = at[1] + y0 + dy
            if wy == 0.0 or y < 0 or y >= ny:
                continue
            for dx in range(2):
                w = wz * wy * (tx if dx else 1.0 - tx)
                x = at[2] + x0 + dx
                if w == 0.0 or x < 0 or x >= nx or foreground[z, y, x] <= floor:
                    continue
                for axis in range(3):
                    out[axis] += w * flow[axis, z, y, x]


@numba.njit(cache=True, nogil=True)
def _end(flow, foreground, settings, at, found, scratch):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Offset of the voxel the path from ``at`` ends in: the last on the way that takes part."""
    floor, reach, pace = settings
    nz, ny, nx = foreground.shape
    spot, v, older = scratch[0], scratch[1], scratch[2]
    for axis in range(3):
        spot[axis] = older[axis] = 0.0
        found[axis] = 0
    for _ in range(4 * reach):
        _sample(flow, foreground, floor, at, spot, v)
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
        if far or outside or foreground[pz, py, px] <= floor:
            return
        found[0], found[1], found[2] = z, y, x
        if moved < 0.05:  # at rest, or back where it was two steps ago
            return


@numba.njit(cache=True, nogil=True)
def _point(flow, foreground, settings, where, parent, lo, hi):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Parent of every voxel in the core rows ``lo..hi``.

    The linear index in the core, -1 outside the domain, -4 - (linear index in the full image) in another block.
    """
    before, start, full = where
    cz, cy, cx = parent.shape
    at, found, scratch = np.zeros(3, np.int64), np.zeros(3, np.int64), np.zeros((3, 3))
    for r in range(lo, hi):
        z, y = r // cy, r % cy
        at[0], at[1] = z + before[0], y + before[1]
        for x in range(cx):
            at[2] = x + before[2]
            if foreground[at[0], at[1], at[2]] <= settings[0]:
                parent[z, y, x] = -1
                continue
            _end(flow, foreground, settings, at, found, scratch)
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
def _faces(flow, foreground, floor, where, label, rows):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Fill in the faces between a core voxel and the next one on an axis that is of another tree or block.

    Rows are (a, b, repulsion, weight, foreground, whether b is a voxel of another block); returns how many there are,
    ``rows`` is filled as far as it goes.
    """
    before, start, full = where
    cz, cy, cx = label.shape
    nz, ny, nx = foreground.shape
    count = 0
    for z in range(cz):
        for y in range(cy):
            for x in range(cx):
                a = np.int64(label[z, y, x])
                if a < 0:
                    continue
                az, ay, ax = z + before[0], y + before[1], x + before[2]
                for axis in range(3):
                    qz, qy, qx = z + (axis == 0), y + (axis == 1), x + (axis == 2)
                    bz, by, bx = qz + before[0], qy + before[1], qx + before[2]
                    if bz >= nz or by >= ny or bx >= nx or foreground[bz, by, bx] <= floor:
                        continue
                    inner = qz < cz and qy < cy and qx < cx
                    b = np.int64(label[qz, qy, qx]) if inner else np.int64(-1)
                    if a == b:
                        continue
                    if count < rows.shape[0]:
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
    return count
