"""Which clusters a point would join, one after the other, as clusters are added: all at once for many points.

Clusters come best first. Of the first n, a point joins the one under whose Gaussian it is most likely, as
`biosegkit.kernels.clusters.assign` has it; with more of them it may change to a later one that is nearer. Each such
*claim* holds from its cluster on until the next claim. Claims that are alike are counted together, so what is left of
the points is a table, and the owners for any n and any reach are sums over its rows.

Points lie in cells of a grid; each cell lists the clusters that reach into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from biosegkit.kernels.clusters import Clusters, distance

__all__ = ["Claims", "claims"]

Ints = npt.NDArray[np.int64]

#: Cells are four voxels wide at least (of an embedding in steps of 1/32 voxel).
_NARROWEST = 7
#: Rounding of distances is less than this.
_SAFE = 1.0 + 1e-9


@dataclass(frozen=True, eq=False)
class Claims:
    """Claims that are alike.

    ``rows`` (cluster, until, limit, mark): the claim holds once the cluster is there and until the other one is (-1:
    for ever), if the reach is at least the limit of that number, for points of a mark. ``counts`` points do so,
    ``first`` of these in the order given.
    """

    rows: Ints
    counts: Ints
    first: Ints


def claims(clusters: Clusters, limits: Sequence[float], points: npt.NDArray[np.int32], marks: Ints,
           chosen: Ints) -> Claims:
    """Count the claims of clusters on points.

    Parameters
    ----------
    clusters : Clusters
        In their order.
    limits : sequence of float
        Reaches in sigmas, ascending: a point further from all clusters is nobody's.
    points : ndarray of int32, (N, 3)
    marks : ndarray of int64, (N,)
        Not negative.
    chosen : ndarray of int64, (M,)
        The points that count.

    Examples
    --------
    >>> from biosegkit.kernels.clusters import lead
    >>> clusters = lead(np.array([[0], [9]]), np.array([4, 4]), 1.0, 1.0)
    >>> points = np.array([[0, 0, 2], [0, 0, 6]], np.int32)
    >>> found = claims(clusters, [1.0, 2.0], points, np.array([0, 5]), np.arange(2))
    >>> sorted(zip(found.rows.tolist(), found.counts.tolist()))
    [([0, -1, 0, 0], 1), ([0, 1, 1, 5], 1), ([1, -1, 0, 5], 1)]
    """
    none = np.zeros(0, np.int64)
    if not len(chosen) or not len(clusters.sigma):
        return Claims(none.reshape(0, 4), none, none)
    squares = np.array([limit * limit for limit in limits])
    tags = int(marks.max()) + 1
    given = (points, marks, tags, chosen)
    low, high = _corners(points, chosen)
    grid = _grid(clusters.centre, clusters.sigma, float(limits[-1]), low, high, max(1024, len(chosen)))
    keys, counts, first = _claims(clusters.centre, clusters.sigma, squares, given, low, grid)
    (cluster, until), (limit, mark) = np.divmod(keys[:, 0], len(clusters.sigma) + 1), np.divmod(keys[:, 1], tags)
    return Claims(np.column_stack([cluster, until - 1, limit, mark]), counts, first)


@numba.njit(cache=True, nogil=True)
def _corners(points, chosen):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Least and largest coordinates."""
    low, high = np.empty(3, np.int64), np.empty(3, np.int64)
    for axis in range(3):
        low[axis] = high[axis] = points[chosen[0], axis]
    for i in chosen:
        for axis in range(3):
            low[axis], high[axis] = min(low[axis], points[i, axis]), max(high[axis], points[i, axis])
    return low, high


@numba.njit(cache=True, nogil=True)
def _cells(centre, sigma, reach, low, high, shift, span):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """First and last cell a cluster reaches into, per axis, and how many these are."""
    far = np.int64(reach * sigma) + 1
    count = 1
    for axis in range(3):
        start, stop = max(centre[axis] - far, low[axis]), min(centre[axis] + far, high[axis])
        if start > stop:
            return 0
        span[axis, 0], span[axis, 1] = (start - low[axis]) >> shift, (stop - low[axis]) >> shift
        count *= span[axis, 1] - span[axis, 0] + 1
    return count


@numba.njit(cache=True, nogil=True)
def _fit(centre, sigma, reach, low, high, budget, size):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Width of cells (as a power of two) that are as narrow as the budget allows, and entries they have at most."""
    shift, span = _NARROWEST, np.zeros((3, 2), np.int64)
    while True:
        cells = 1.0
        for axis in range(3):
            size[axis] = ((high[axis] - low[axis]) >> shift) + 1
            cells *= size[axis]
        entries = 0
        if cells <= budget:
            for k in range(len(centre)):
                entries += _cells(centre[k], sigma[k], reach, low, high, shift, span)
            if cells == 1.0 or entries <= budget:
                return shift, entries
        shift += 1


@numba.njit(cache=True, nogil=True)
def _extremes(centre, low, shift, z, y, x):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Least and largest squared distance of the points of a cell."""
    least, most = 0.0, 0.0
    width = 1 << shift
    for axis in range(3):
        start = low[axis] + ((z, y, x)[axis] << shift) - centre[axis]
        stop = start + width - 1
        near, far = np.float64(max(0, start, -stop)), np.float64(max(abs(start), abs(stop)))
        least += near * near
        most += far * far
    return least, most


@numba.njit(cache=True, nogil=True)
def _grid(centre, sigma, reach, low, high, budget):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Width and numbers of cells, and the clusters that may own a point of each, in their order.

    A cluster that is further from all points of a cell than an earlier one from any cannot claim any of them.
    """
    size, span = np.empty(3, np.int64), np.zeros((3, 2), np.int64)
    shift, entries = _fit(centre, sigma, reach, low, high, budget, size)
    bound = np.full(size[0] * size[1] * size[2], np.inf)
    cells, owners, used = np.empty(entries, np.int64), np.empty(entries, np.int32), 0
    for k in range(len(centre)):
        if not _cells(centre[k], sigma[k], reach, low, high, shift, span):
            continue
        wide = np.float64(sigma[k]) ** 2
        for z in range(span[0, 0], span[0, 1] + 1):
            for y in range(span[1, 0], span[1, 1] + 1):
                for x in range(span[2, 0], span[2, 1] + 1):
                    least, most = _extremes(centre[k], low, shift, z, y, x)
                    cell = (z * size[1] + y) * size[2] + x
                    if least / wide > bound[cell] * _SAFE or least / wide > reach * reach * _SAFE:
                        continue
                    bound[cell] = min(bound[cell], most / wide)
                    cells[used], owners[used] = cell, k
                    used += 1
    starts = np.zeros(len(bound) + 2, np.int64)
    for n in range(used):
        starts[cells[n] + 2] += 1
    starts = np.cumsum(starts)
    listed = np.empty(used, np.int32)
    for n in range(used):
        listed[starts[cells[n] + 1]] = owners[n]
        starts[cells[n] + 1] += 1
    return shift, size, starts, listed


@numba.njit(cache=True, nogil=True)
def _claims(centre, sigma, squares, given, low, grid):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Table of claims: keys (cluster and until, limit and mark), how often each occurs, and where first."""
    points, marks, tags, chosen = given
    shift, size, starts, listed = grid
    table = (np.full((1024, 2), np.int64(-1)), np.zeros(1024, np.int64), np.zeros(1024, np.int64))
    used, wide = 0, len(centre) + 1
    for i in chosen:
        cell = (np.int64(points[i, 0]) - low[0]) >> shift
        for axis in range(1, 3):
            cell = cell * size[axis] + ((np.int64(points[i, axis]) - low[axis]) >> shift)
        owner, least, far = np.int64(-1), squares[-1], squares[-1] * _SAFE
        for entry in range(starts[cell], starts[cell + 1]):
            k = listed[entry]
            # most are far away, and a product says so sooner than a quotient
            z, y, x = (np.float64(points[i, 0] - centre[k, 0]), np.float64(points[i, 1] - centre[k, 1]),
                       np.float64(points[i, 2] - centre[k, 2]))
            if z * z + y * y + x * x > far * (np.float64(sigma[k]) * sigma[k]):
                continue
            d = distance(points[i], centre[k], sigma[k])
            if d < least:
                if owner >= 0:
                    used += _count(table, owner * wide + k + 1, _limit(squares, least) * tags + marks[i], i)
                owner, least, far = np.int64(k), d, d * _SAFE
        if owner >= 0:
            used += _count(table, owner * wide, _limit(squares, least) * tags + marks[i], i)
        if 4 * used > len(table[1]):
            table = _wider(table)
    some = table[1] > 0
    return table[0][some], table[1][some], table[2][some]


@numba.njit(cache=True, nogil=True)
def _limit(squares, d):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """The first limit that is further."""
    c = 0
    while not d < squares[c]:
        c += 1
    return c


@numba.njit(cache=True, nogil=True)
def _place(keys, a, b):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Where a key stands, or the empty place it would take."""
    mask = np.uint64(len(keys) - 1)
    h = np.uint64(a) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(b) * np.uint64(0xC2B2AE3D27D4EB4F)
    h = (h ^ (h >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    slot = (h ^ (h >> np.uint64(32))) & mask
    while keys[slot, 0] >= 0 and not (keys[slot, 0] == a and keys[slot, 1] == b):
        slot = (slot + np.uint64(1)) & mask
    return slot


@numba.njit(cache=True, nogil=True)
def _count(table, a, b, i):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """One more of a key; 1 if it is new."""
    keys, counts, first = table
    slot = _place(keys, a, b)
    counts[slot] += 1
    if keys[slot, 0] >= 0:
        return 0
    keys[slot, 0], keys[slot, 1], first[slot] = a, b, i
    return 1


@numba.njit(cache=True, nogil=True)
def _wider(table):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """The table with four times the places."""
    keys, counts, first = table
    size = 4 * len(counts)
    wide = (np.full((size, 2), np.int64(-1)), np.zeros(size, np.int64), np.zeros(size, np.int64))
    for i in range(len(counts)):
        if keys[i, 0] >= 0:
            slot = _place(wide[0], keys[i, 0], keys[i, 1])
            wide[0][slot, 0], wide[0][slot, 1] = keys[i, 0], keys[i, 1]
            wide[1][slot], wide[2][slot] = counts[i], first[i]
    return wide
