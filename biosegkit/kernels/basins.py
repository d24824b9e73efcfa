"""Watershed without thresholds: basins of one block, and the graph that joins them across its faces.

Every voxel points to its highest neighbour (diagonals included) in the total order (height, then smaller linear
index in the full image), or is a root; trees are basins. Two basins are joined by their *pass*: the largest, over
neighbouring voxel pairs, of the lower of the two heights; and likewise of the lower of the two foregrounds. All of
it is decided by a voxel and its neighbours, so a block with one voxel of halo knows it exactly: a tree that leaves the
block is a *fragment* that remembers where it goes. Heights are whole numbers, so ties are ties on every machine.

Only voxels whose foreground exceeds a floor take part; the floor lies at or below every threshold used later.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from biosegkit.kernels.bands import bands
from biosegkit.kernels.threads import spread

__all__ = ["TOP", "Fragments", "fragments", "level_of", "quantise", "quantised"]

TOP = 65535
Ints = npt.NDArray[np.int64]

# Where a voxel points to, in a byte: 0..26 its neighbours in raster order, 13 being itself, so many more where the
# neighbour is of another block, and what a voxel outside the domain has.
_ITSELF = 13
_EXIT = 27
_NOWHERE = 255


@dataclass(frozen=True)
class Fragments:
    """Trees of one block, numbered in raster order of their last voxel inside the block.

    ``fragment`` (int32, core shape) is -1 outside the domain. Per fragment: ``root``, the linear index (full image) of
    its last voxel, ``peak``, the height there, and ``leads_to``, the voxel of another block it goes on to, or -1.
    ``edges`` has rows (a, b, height, foreground) with a < b, by falling height, then a, then b; ``links`` has rows
    (a, linear index of a voxel of another block, height, foreground); ``face`` has rows (linear index, fragment) by
    which other blocks find this one.
    """

    fragment: npt.NDArray[np.int32]
    root: Ints
    peak: Ints
    leads_to: Ints
    edges: Ints
    links: Ints
    face: Ints


def quantise(values: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    """Values of 0..1 in steps of 1/65535, rounded to nearest; outside is clipped, NaN is 0; uint16 stays as it is.

    Examples
    --------
    >>> quantise(np.array([-1.0, 0.5, 2.0])).tolist()
    [0, 32768, 65535]
    """
    if values.dtype == np.uint16:
        return np.ascontiguousarray(values)
    out = np.empty(values.shape, np.uint16)
    whole = [(...,)] if values.dtype == np.float32 and values.flags.c_contiguous else bands(values.shape)
    for part in whole:
        _quantise(np.ascontiguousarray(values[part], np.float32).reshape(-1), out[part].reshape(-1))
    return out


def quantised(shape: tuple[int, ...], values: Callable[[tuple[slice, ...]], npt.NDArray[Any]]
              ) -> npt.NDArray[np.uint16]:
    """What :func:`quantise` makes of an expression, of which no more than a band is in memory at a time.

    Examples
    --------
    >>> a = np.array([0.5, 1.0])
    >>> quantised(a.shape, lambda part: 1.0 - a[part]).tolist()
    [32768, 0]
    """
    out = np.empty(shape, np.uint16)
    for part in bands(shape):
        out[part] = quantise(values(part))
    return out


def level_of(threshold: float) -> int:
    """The whole number a quantised value must exceed to exceed a threshold.

    Examples
    --------
    >>> level_of(0.5), level_of(0.0)
    (32767, 0)
    """
    return math.floor(threshold * TOP)


def fragments(
    height: npt.NDArray[np.uint16],
    foreground: npt.NDArray[np.uint16],
    floor: int,
    before: tuple[int, int, int],
    after: tuple[int, int, int],
    start: tuple[int, int, int],
    full: tuple[int, int, int],
    workers: int = 1,
) -> Fragments:
    """Cut one block into fragments of basins.

    Parameters
    ----------
    height, foreground : ndarray of uint16, (Z, Y, X)
        The block with its halo.
    floor : int
        Voxels with a foreground above it take part.
    before, after : tuple of int
        Halo voxels in front and behind on every axis (one, or none at the border of the image).
    start, full : tuple of int
        First voxel of the core in the full image, and the shape of the full image.
    workers : int
        Threads; the result does not depend on them.

    Examples
    --------
    >>> h = np.array([[[1, 5, 2, 7, 1]]], np.uint16)
    >>> zero = (0, 0, 0)
    >>> parts = fragments(h, np.full_like(h, 9), 0, zero, zero, zero, (1, 1, 5))
    >>> parts.fragment.tolist(), parts.peak.tolist(), parts.edges.tolist()
    ([[[0, 0, 1, 1, 1]]], [5, 7], [[0, 1, 2, 9]])
    """
    core = tuple(n - b - a for n, b, a in zip(height.shape, before, after, strict=True))
    way = np.empty(core, np.uint8)
    place = (np.array(before), np.array(start), np.array(full))
    spread(lambda lo, hi: _point(height, foreground, floor, place, way, lo, hi), core[0] * core[1], workers)
    label = np.full(core, -1, np.int32)
    steps = np.array([(z * core[1] + y) * core[2] + x for z, y, x in itertools.product((-1, 0, 1), repeat=3)])
    count = _trees(way.reshape(-1), steps, label.reshape(-1))
    root, peak, leads_to = (np.full(count, -1, np.int64) for _ in range(3))
    _roots(height, place, way, label, root, peak, leads_to)
    edges, links = _pairs(height, foreground, floor, place, label)
    face = np.empty((_open_area(label.shape, height.shape), 2), np.int64)
    face = face[: _face(label, np.array(before), np.array(after), place, face)].copy()
    return Fragments(label, root, peak, leads_to, edges, links, face)


@numba.njit(cache=True, nogil=True)
def _quantise(values, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Round half up in one pass; a NaN fails both comparisons."""
    for i in range(values.size):
        v = values[i]
        if v >= np.float32(1.0):
            out[i] = 65535
        elif v > np.float32(0.0):
            out[i] = np.uint16(np.float64(v) * 65535.0 + 0.5)
        else:
            out[i] = 0


@numba.njit(cache=True, nogil=True)
def _best(height, foreground, floor, z, y, x):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Offset of the highest voxel of the neighbourhood, as a number 0..26 (13 is the voxel itself).

    Offsets run in raster order, so among equal heights the first seen has the smallest linear index.
    """
    nz, ny, nx = height.shape
    top = np.int64(-1)
    best = 13
    for dz in range(-1 if z > 0 else 0, 2 if z + 1 < nz else 1):
        for dy in range(-1 if y > 0 else 0, 2 if y + 1 < ny else 1):
            for dx in range(-1 if x > 0 else 0, 2 if x + 1 < nx else 1):
                h = np.int64(height[z + dz, y + dy, x + dx])
                if h > top and foreground[z + dz, y + dy, x + dx] > floor:
                    top = h
                    best = (dz + 1) * 9 + (dy + 1) * 3 + dx + 1
    return best


@numba.njit(cache=True, nogil=True)
def _point(height, foreground, floor, place, way, lo, hi):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Where every voxel in the core rows ``lo..hi`` points to."""
    before = place[0]
    cz, cy, cx = way.shape
    for r in range(lo, hi):
        z, y = r // cy, r % cy
        for x in range(cx):
            az, ay, ax = z + before[0], y + before[1], x + before[2]
            if foreground[az, ay, ax] <= floor:
                way[z, y, x] = _NOWHERE
                continue
            code = _best(height, foreground, floor, az, ay, ax)
            pz, py, px = z + code // 9 - 1, y + code // 3 % 3 - 1, x + code % 3 - 1
            inner = 0 <= pz < cz and 0 <= py < cy and 0 <= px < cx
            way[z, y, x] = code if inner else code + _EXIT


@numba.njit(cache=True, nogil=True)
def _trees(way, steps, label):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Number the ends of trees in raster order, then let every voxel follow its way, painting the path."""
    count = 0
    for i in range(way.size):
        if way[i] == _ITSELF or _EXIT <= way[i] < _NOWHERE:
            label[i] = count
            count += 1
    for i in range(way.size):
        if way[i] == _NOWHERE or label[i] >= 0:
            continue
        k = i
        while label[k] < 0:
            k += steps[way[k]]
        found = label[k]
        k = i
        while label[k] < 0:
            label[k] = found
            k += steps[way[k]]
    return count


@numba.njit(cache=True, nogil=True)
def _roots(height, place, way, label, root, peak, leads_to):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Facts of every tree end."""
    before, start, full = place
    cz, cy, cx = way.shape
    for z in range(cz):
        for y in range(cy):
            for x in range(cx):
                code = np.int64(way[z, y, x])
                if code != _ITSELF and (code < _EXIT or code == _NOWHERE):
                    continue
                k = label[z, y, x]
                gz, gy, gx = z + start[0], y + start[1], x + start[2]
                root[k] = (gz * full[1] + gy) * full[2] + gx
                peak[k] = height[z + before[0], y + before[1], x + before[2]]
                if code >= _EXIT:
                    code -= _EXIT
                    gz, gy, gx = gz + code // 9 - 1, gy + code // 3 % 3 - 1, gx + code % 3 - 1
                    leads_to[k] = (gz * full[1] + gy) * full[2] + gx


@numba.njit(cache=True, nogil=True)
def _slot(keys, key):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Where a key is, or where it would go, in an open-addressing table of a power of two."""
    mask = np.uint64(keys.size - 1)
    at = (np.uint64(key) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(24)) & mask
    while keys[at] != -1 and keys[at] != key:
        at = (at + np.uint64(1)) & mask
    return np.int64(at)


@numba.njit(cache=True, nogil=True)
def _grown(keys, passes):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """The same table at four times the size."""
    more = np.full(4 * keys.size, -1, np.int64)
    values = np.zeros((more.size, 2), np.int64)
    for k in range(keys.size):
        if keys[k] != -1:
            at = _slot(more, keys[k])
            more[at] = keys[k]
            values[at] = passes[k]
    return more, values


@numba.njit(cache=True, nogil=True)
def _uniform(label, a, z, y, x):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Whether all forward neighbours are inside the block and of fragment ``a``."""
    cz, cy, cx = label.shape
    if y == 0 or y + 1 >= cy or x == 0 or x + 1 >= cx or (cz > 1 and z + 1 >= cz):
        return False
    same = label[z, y, x + 1] == a and label[z, y + 1, x - 1] == a
    same = same and label[z, y + 1, x] == a and label[z, y + 1, x + 1] == a
    if same and cz > 1:
        for dy in range(-1, 2):
            for dx in range(-1, 2):
                same = same and label[z + 1, y + dy, x + dx] == a
    return same


@numba.njit(cache=True, nogil=True)
def _sweep(height, foreground, floor, place, label, links):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Visit every forward pair of neighbours that lie in different fragments or in different blocks.

    Returns the table of passes between fragments (keys are pairs) and the number of links; ``links`` is filled as far
    as it goes.
    """
    before, start, full = place
    cz, cy, cx = label.shape
    nz, ny, nx = height.shape
    keys, passes = np.full(1024, -1, np.int64), np.zeros((1024, 2), np.int64)
    used = outside = at = 0
    recent = np.int64(-1)
    last = 18 if nz == 1 else 27  # in one plane the forward neighbours are the first four
    for z in range(cz):
        for y in range(cy):
            for x in range(cx):
                a = np.int64(label[z, y, x])
                if a < 0 or ((cz > 1 or nz == 1) and _uniform(label, a, z, y, x)):
                    continue
                az, ay, ax = z + before[0], y + before[1], x + before[2]
                ha, fa = np.int64(height[az, ay, ax]), np.int64(foreground[az, ay, ax])
                for code in range(14, last):
                    dz, dy, dx = code // 9 - 1, code // 3 % 3 - 1, code % 3 - 1
                    bz, by, bx = az + dz, ay + dy, ax + dx
                    if bz >= nz or by < 0 or by >= ny or bx < 0 or bx >= nx or foreground[bz, by, bx] <= floor:
                        continue
                    h, f = min(ha, np.int64(height[bz, by, bx])), min(fa, np.int64(foreground[bz, by, bx]))
                    qz, qy, qx = z + dz, y + dy, x + dx
                    if qz < cz and 0 <= qy < cy and 0 <= qx < cx:
                        b = np.int64(label[qz, qy, qx])
                        if b == a:
                            continue
                        key = (min(a, b) << 32) | max(a, b)
                        if key != recent:
                            if 2 * used >= keys.size:
                                keys, passes = _grown(keys, passes)
                            at, recent = _slot(keys, key), key
                            if keys[at] == -1:
                                keys[at] = key
                                used += 1
                        passes[at, 0] = max(passes[at, 0], h)
                        passes[at, 1] = max(passes[at, 1], f)
                    else:
                        if outside < links.shape[0]:
                            links[outside, 0] = a
                            links[outside, 1] = ((qz + start[0]) * full[1] + qy + start[1]) * full[2] + qx + start[2]
                            links[outside, 2] = h
                            links[outside, 3] = f
                        outside += 1
    return keys, passes, outside


def _open_area(core: tuple[int, ...], whole: tuple[int, ...]) -> int:
    """Voxels on the sides where a halo lies; both sides of an axis are counted if either is open."""
    return sum(2 * math.prod(core) // n for n, m in zip(core, whole, strict=True) if m > n)


def _pairs(
    height: npt.NDArray[np.uint16],
    foreground: npt.NDArray[np.uint16],
    floor: int,
    place: tuple[Ints, Ints, Ints],
    label: npt.NDArray[np.int32],
) -> tuple[Ints, Ints]:
    """Edges between fragments in order of falling height, then (a, b); and links to voxels of other blocks."""
    # A voxel of another block lies across one of the open sides, and sees at most nine voxels through it.
    links = np.empty((9 * _open_area(label.shape, height.shape), 4), np.int64)
    keys, passes, outside = _sweep(height, foreground, floor, place, label, links)
    taken = keys != -1
    keys, passes = keys[taken], passes[taken]
    order = np.lexsort((keys, -passes[:, 0]))
    edges = np.column_stack([keys[order] >> 32, keys[order] & 0xFFFFFFFF, passes[order]])
    return edges, links[:outside].copy()


@numba.njit(cache=True, nogil=True)
def _face(label, before, after, place, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Fill in linear index and fragment of the domain voxels other blocks can touch; return how many."""
    start, full = place[1], place[2]
    cz, cy, cx = label.shape
    m = 0
    for z in range(cz):
        zf = (z == 0 and before[0] > 0) or (z == cz - 1 and after[0] > 0)
        for y in range(cy):
            yf = zf or (y == 0 and before[1] > 0) or (y == cy - 1 and after[1] > 0)
            # away from the faces only the two ends of a row can be touched
            for x in range(0, cx, 1 if yf or cx == 1 else cx - 1):
                if label[z, y, x] >= 0 and (yf or (x == 0 and before[2] > 0) or (x == cx - 1 and after[2] > 0)):
                    out[m, 0] = ((z + start[0]) * full[1] + y + start[1]) * full[2] + x + start[2]
                    out[m, 1] = label[z, y, x]
                    m += 1
    return m
