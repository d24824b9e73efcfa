"""Where the paths of all voxels of a block end: Euler steps of at most one voxel, linear interpolation.

A path that turns back goes on with half the pace, so all that are drawn to one place come to rest there. At full pace
they would jump to and fro over it, and which side each ends on would depend on how many steps it took: two sinks in one
object.

A voxel without any flow whose neighbour in front, along the last axis, the middle or the first, has none either, leads
there: an object that flows nowhere, as one without a border in sight, is one tree and not one of every voxel.

In a plane the paths of a row go on together. Those that are at rest or out of bounds are dropped after every step, and
what a bad step would change is written where nobody reads, both without a branch: which of them stops is as good as
random, and a processor that guesses wrong starts over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numba
import numpy as np
import numpy.typing as npt

from biosegkit.kernels.threads import spread

__all__ = ["EXIT", "path_ends"]

#: What stands for the first voxel of the image, as the end of a path that leaves the core; others follow downwards.
EXIT = -4
#: A path whose step is shorter than this along every axis is at rest.
_REST = 0.05
#: A packed voxel that takes part and has no flow.
_STILL = 1 << 24
Ints = npt.NDArray[np.int64]


def path_ends(flow: npt.NDArray[np.int8], foreground: npt.NDArray[np.uint16],
              settings: tuple[int, int, Sequence[float]], where: tuple[Ints, ...], core: Ints, workers: int = 1
              ) -> npt.NDArray[np.int32] | Ints:
    """End of the path of every voxel of the core.

    Parameters
    ----------
    flow : ndarray of int8, (3, Z, Y, X)
    foreground : ndarray of uint16, (Z, Y, X)
    settings : tuple
        Level of the foreground, reach and pace; see `biosegkit.kernels.flow_trace.flow_fragments`.
    where : tuple of three ndarray of int64, (3,)
        Halo voxels in front of the core, its first voxel in the full image, shape of the full image.
    core : ndarray of int64, (3,)
        Shape of the core.
    workers : int
        Threads; the result does not depend on them.

    Returns
    -------
    ndarray of int32, or of int64 if the full image has too many voxels for it, (*core)
        The linear index in the core, -1 where no path begins, -4 - (linear index in the full image) outside the core.

    Examples
    --------
    >>> flow = np.zeros((3, 1, 1, 4), np.int8)
    >>> flow[2, 0, 0] = [127, 127, 0, -127]
    >>> zero, shape = np.zeros(3, np.int64), np.array([1, 1, 4])
    >>> path_ends(flow, np.full((1, 1, 4), 9, np.uint16), (0, 2, (1.0, 1.0, 1.0)), (zero, zero, shape), shape).tolist()
    [[[2, 2, 2, 2]]]
    """
    floor, reach, pace = settings
    flat = len(foreground) == 1 and not flow[0].any()
    nz, ny, nx = foreground.shape
    packed = np.empty((1 if flat else nz + 2, ny + 2, nx + 2), np.int32)
    _pack(flow, foreground, np.int64(floor), packed, 0 if flat else 1)
    small = math.prod(where[2].tolist()) + abs(EXIT) <= np.iinfo(np.int32).max
    parent = np.empty(tuple(core), np.int32 if small else np.int64)
    steps = (np.int64(reach), np.array(pace, np.float64))
    point = _point_in_plane if flat else _point
    spread(lambda lo, hi: point(packed, steps, where, parent, lo, hi), int(core[0] * core[1]), workers)
    return parent


@numba.njit(cache=True, nogil=True)
def _pack(flow, foreground, floor, packed, rim):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """The components of a voxel as the lower bytes of a word, the highest being 1; 0 for those that take no part.

    So are those around the array, one wide: no path, of steps of at most one voxel, gets beyond them.
    """
    _, nz, ny, nx = flow.shape
    if rim:
        packed[0], packed[nz + 1] = np.int32(0), np.int32(0)
    for z in range(nz):
        plane = packed[z + rim]
        plane[0], plane[ny + 1] = np.int32(0), np.int32(0)
        for y in range(ny):
            row = plane[y + 1]
            row[0] = row[nx + 1] = np.int32(0)
            for x in range(nx):
                word = (np.int32(flow[0, z, y, x]) & 255) | ((np.int32(flow[1, z, y, x]) & 255) << 8)
                word |= ((np.int32(flow[2, z, y, x]) & 255) << 16) | (1 << 24)
                row[x + 1] = word if foreground[z, y, x] > floor else 0


@numba.njit(cache=True, nogil=True)
def _component(word, axis):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """One component of a packed voxel."""
    return np.float64(np.int8((word >> (8 * axis)) & 255))


@numba.njit(cache=True, nogil=True)
def _begin_in_plane(words, first, pace, paths, ends):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """First steps of the paths of a row, which need no interpolation; returns how many there are."""
    spots, columns, going = paths
    count = 0
    for x in range(len(columns)):
        columns[count] = x
        count += words[first + x] != 0
    for n in range(count):
        word, k = words[first + columns[n]], 5 * n
        spots[k], spots[k + 1] = _component(word, 1) * pace[1] / 127.0, _component(word, 2) * pace[2] / 127.0
        spots[k + 2] = spots[k + 3] = 0.0
        spots[k + 4] = 1.0
        going[n] = n
        ends[2 * n] = ends[2 * n + 1] = 0
    return count


@numba.njit(cache=True, nogil=True)
def _ends_in_plane(words, settings, first, paths, ends):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Offsets of the pixels the paths from a stretch of a row end in: the last on the way that takes part.

    ``words`` are the packed pixels in line, ``first`` is the first of the stretch. ``paths`` has room for the spot of
    every path, the one before it and its share of the pace; for its column; and for the numbers of those that go on.
    Returns how many paths there are; ``ends`` has two offsets of each, and as much room for what is thrown away.
    """
    reach, pace, pitch = settings
    spots, columns, going = paths
    right, below, across = np.uint64(1), np.uint64(pitch), np.uint64(pitch + 1)
    two, bin_ = np.uint64(2), np.uint64(len(ends) // 2)
    begun = count = _begin_in_plane(words, first, pace, paths, ends)
    for turn in range(4 * reach):
        left = 0
        for m in range(count):
            n = going[m]
            here, k = first + columns[n], np.uint64(5 * n)
            to_y, to_x, at_y, at_x = spots[k], spots[k + np.uint64(1)], spots[k + two], spots[k + np.uint64(3)]
            if turn > 0:
                share, older_y, older_x = spots[k + np.uint64(4)], at_y, at_x
                at_y, at_x = to_y, to_x
                floor_y, floor_x = np.floor(at_y), np.floor(at_x)
                i = np.uint64(here + np.int64(floor_y) * pitch + np.int64(floor_x))
                a, b, c, d = words[i], words[i + right], words[i + below], words[i + across]
                two_y, two_x = at_y - floor_y, at_x - floor_x
                one_y, one_x = 1.0 - two_y, 1.0 - two_x
                wa, wb, wc, wd = one_y * one_x, one_y * two_x, two_y * one_x, two_y * two_x
                vy = wa * _component(a, 1) + wb * _component(b, 1) + wc * _component(c, 1) + wd * _component(d, 1)
                vx = wa * _component(a, 2) + wb * _component(b, 2) + wc * _component(c, 2) + wd * _component(d, 2)
                go_y, go_x = vy * pace[1] / 127.0, vx * pace[2] / 127.0
                back = go_y * (at_y - older_y) + go_x * (at_x - older_x) < 0.0
                share = 0.5 * share if back else share
                to_y, to_x = at_y + share * go_y, at_x + share * go_x
                spots[k], spots[k + np.uint64(1)], spots[k + two], spots[k + np.uint64(3)] = to_y, to_x, at_y, at_x
                spots[k + np.uint64(4)] = share
            step_y, step_x = np.int64(np.floor(to_y + 0.5)), np.int64(np.floor(to_x + 0.5))
            taking_part = words[np.uint64(here + step_y * pitch + step_x)] != 0
            good = (abs(to_y) <= reach) & (abs(to_x) <= reach) & taking_part
            e = np.uint64(2 * n) + bin_ * np.uint64(1 - np.int64(good))
            ends[e], ends[e + np.uint64(1)] = step_y, step_x
            going[left] = n
            left += good & ((abs(to_y - at_y) >= _REST) | (abs(to_x - at_x) >= _REST))
        count = left
    return begun


@numba.njit(cache=True, nogil=True)
def _end(packed, settings, at, spot, found):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Offset of the voxel the path from ``at`` ends in; ``spot`` has room for a step, a position and a flow."""
    reach, pace = settings
    step, now, v = spot[0], spot[1], spot[2]
    step[:] = 0.0
    now[:] = 0.0
    found[:] = 0
    share = 1.0
    for _ in range(4 * reach):
        _sample(packed, at, now, v)
        turned = 0.0
        for axis in range(3):
            v[axis] *= pace[axis] / 127.0
            turned += v[axis] * step[axis]
        if turned < 0.0:
            share *= 0.5
        far, moved = False, 0.0
        for axis in range(3):
            step[axis] = share * v[axis]
            now[axis] += step[axis]
            far = far or abs(now[axis]) > reach
            moved = max(moved, abs(step[axis]))
        z, y, x = int(np.floor(now[0] + 0.5)), int(np.floor(now[1] + 0.5)), int(np.floor(now[2] + 0.5))
        if far or packed[at[0] + z, at[1] + y, at[2] + x] == 0:
            return
        found[0], found[1], found[2] = z, y, x
        if moved < _REST:
            return


@numba.njit(cache=True, nogil=True)
def _in_front(packed, at, found):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Offset of the neighbour in front that has no flow either, or 0."""
    found[:] = 0
    if packed[at[0], at[1], at[2] - 1] == _STILL:
        found[2] = -1
    elif packed[at[0], at[1] - 1, at[2]] == _STILL:
        found[1] = -1
    elif packed[at[0] - 1, at[1], at[2]] == _STILL:
        found[0] = -1


@numba.njit(cache=True, nogil=True)
def _sample(packed, at, spot, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Linear interpolation of the flow ``spot`` (voxels) away from the voxel ``at``; 0 outside the domain."""
    floor_z, floor_y, floor_x = np.floor(spot[0]), np.floor(spot[1]), np.floor(spot[2])
    x, two_x = at[2] + int(floor_x), spot[2] - floor_x
    out[0] = out[1] = out[2] = 0.0
    for dz in range(2):
        wz = spot[0] - floor_z if dz else 1.0 - (spot[0] - floor_z)
        if wz == 0.0:
            continue
        for dy in range(2):
            wy = spot[1] - floor_y if dy else 1.0 - (spot[1] - floor_y)
            row = packed[at[0] + int(floor_z) + dz, at[1] + int(floor_y) + dy]
            one, two = row[x], row[x + 1]
            for axis in range(3):
                out[axis] += wz * wy * (1.0 - two_x) * _component(one, axis)
                out[axis] += wz * wy * two_x * _component(two, axis)


@numba.njit(cache=True, nogil=True)
def _point_in_plane(packed, settings, where, parent, lo, hi):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Ends of the core rows ``lo..hi`` of a plane; see `path_ends`."""
    before, start, full = where
    _, cy, cx = parent.shape
    words, pitch = packed.reshape(-1), packed.shape[2]
    ends = np.zeros(4 * cx, np.int64)
    paths = np.zeros(5 * cx), np.zeros(cx, np.int64), np.zeros(cx, np.int64)
    for y in range(lo, hi):
        first, line = (y + before[1] + 1) * pitch + before[2] + 1, parent[0, y]
        line[:] = -1
        for n in range(_ends_in_plane(words, (settings[0], settings[1], pitch), first, paths, ends)):
            x = paths[1][n]
            step_y, step_x = ends[2 * n], ends[2 * n + 1]
            if words[first + x] == _STILL:
                step_x = -np.int64(words[first + x - 1] == _STILL)
                step_y = -np.int64(step_x == 0 and words[first + x - pitch] == _STILL)
            py, px = y + step_y, x + step_x
            if 0 <= py < cy and 0 <= px < cx:
                line[x] = py * cx + px
            else:
                line[x] = EXIT - ((start[0] * full[1] + py + start[1]) * full[2] + px + start[2])


@numba.njit(cache=True, nogil=True)
def _point(packed, settings, where, parent, lo, hi):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Ends of the core rows ``lo..hi`` of a volume; see `path_ends`."""
    before, start, full = where
    cz, cy, cx = parent.shape
    at, found, spot = np.zeros(3, np.int64), np.zeros(3, np.int64), np.zeros((3, 3))
    for r in range(lo, hi):
        z, y = r // cy, r % cy
        at[0], at[1] = z + before[0] + 1, y + before[1] + 1
        for x in range(cx):
            at[2] = x + before[2] + 1
            if packed[at[0], at[1], at[2]] == 0:
                parent[z, y, x] = -1
                continue
            if packed[at[0], at[1], at[2]] == _STILL:
                _in_front(packed, at, found)
            else:
                _end(packed, settings, at, spot, found)
            pz, py, px = z + found[0], y + found[1], x + found[2]
            if 0 <= pz < cz and 0 <= py < cy and 0 <= px < cx:
                parent[z, y, x] = (pz * cy + py) * cx + px
            else:
                parent[z, y, x] = EXIT - (((pz + start[0]) * full[1] + py + start[1]) * full[2] + px + start[2])
