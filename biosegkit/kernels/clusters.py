"""Greedy clustering of points with a Gaussian each: every point asks a hash of the clusters, never all of them.

A cluster reaches as far as ``d² < limit σ²``. It is filed under the cells its ball touches, in a grid whose cells are a
power of two at least as wide as the ball, so at most two per axis, whatever the sizes; there is one grid per power of
two in use, and a point looks up one cell in each. Time is O(points × grids), memory O(clusters). All coordinates
are whole numbers and every comparison is of one quotient of whole numbers, so the result is the same on every machine,
for any number of threads and any order of blocks; two cells that share a slot of the table only cost a comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from biosegkit.kernels.threads import spread

__all__ = ["Clusters", "assign", "distance", "falling", "lead"]


@dataclass(frozen=True, eq=False)
class Clusters:
    """Clusters and the hash by which points find them.

    Parameters
    ----------
    centre : ndarray of int32, (K, 3)
    sigma : ndarray of int32, (K,)
        Width of the Gaussian, at least 1, in the unit of the coordinates.
    leader : ndarray of int64, (K,)
        The row of the point each cluster began with.
    reach : float
        A cluster is filed as far as ``reach`` times its sigma.
    index : tuple of ndarray
        Powers of two in use, the table's keys and first entries, and cluster and next entry of each entry.
    """

    centre: npt.NDArray[np.int32]
    sigma: npt.NDArray[np.int32]
    leader: npt.NDArray[np.int64]
    reach: float
    index: tuple[npt.NDArray[Any], ...]


def falling(values: npt.NDArray[np.uint16]) -> npt.NDArray[np.int32]:
    """Places of values from the largest to the smallest, of equals the first first.

    Examples
    --------
    >>> falling(np.array([7, 9, 7, 0], np.uint16)).tolist()
    [1, 0, 2, 3]
    """
    order = np.empty(len(values), np.int32)
    _falling(values, order)
    return order


def lead(points: npt.NDArray[Any], sigma: npt.NDArray[Any], within: float, reach: float,
         order: npt.NDArray[Any] | None = None) -> Clusters:
    """Clusters by the leader rule: in the order given, a point that no cluster holds begins one.

    This is the greedy clustering of Neven et al. 2019 (section 3.2), where the best seed takes all within its Gaussian
    and the rest goes on.

    Parameters
    ----------
    points : ndarray of int, (N, D)
        At most three coordinates, below 2**30.
    sigma : ndarray of int, (N,)
        Of the Gaussian a point would begin.
    within : float
        A cluster holds what is nearer than ``within`` times its sigma; 0 makes every point a cluster.
    reach : float
        How far `assign` will look, in sigmas; at least ``within``.
    order : ndarray of int, (M,), optional
        Rows of the points, in the order to take them in; all of them, as they are, if left out.

    Examples
    --------
    >>> found = lead(np.array([[0, 0], [3, 0], [9, 0]]), np.array([4, 4, 4]), 1.0, 1.0)
    >>> found.leader.tolist(), found.centre.tolist()
    ([0, 2], [[0, 0, 0], [0, 9, 0]])
    """
    cubed = _three(points)
    widths = np.maximum(np.ascontiguousarray(sigma, np.int32), 1)
    turn = np.arange(len(cubed), dtype=np.int32) if order is None else np.ascontiguousarray(order, np.int32)
    leader, *index = _lead(cubed, widths, turn, within * within, reach)
    return Clusters(cubed[leader], widths[leader], leader, reach, tuple(index))


def assign(clusters: Clusters, points: npt.NDArray[Any], workers: int = 1) -> npt.NDArray[np.int32]:
    """The cluster under whose Gaussian each point is most likely (least ``d²/σ²``; of equals the first), or -1.

    Parameters
    ----------
    clusters : Clusters
    points : ndarray of int, (N, D)
    workers : int
        Threads; the result does not depend on them.

    Returns
    -------
    ndarray of int32, (N,)
        -1 for points out of the reach of every cluster.

    Examples
    --------
    >>> found = lead(np.array([[0], [10]]), np.array([2, 4]), 0.0, 2.0)
    >>> assign(found, np.array([[3], [4], [9], [30]])).tolist()
    [0, 1, 1, -1]
    """
    cubed = _three(points)
    out = np.empty(len(cubed), np.int32)
    c, power = clusters, clusters.reach * clusters.reach
    spread(lambda lo, hi: _assign(cubed, c.centre, c.sigma, power, c.index, out, lo, hi), len(cubed), workers)
    return out


def _three(points: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Padded in front to z, y, x; nothing is copied that has three already."""
    if points.shape[1] == 3:
        return np.ascontiguousarray(points, np.int32)
    out = np.zeros((len(points), 3), np.int32)
    out[:, 3 - points.shape[1]:] = points
    return out


@numba.njit(cache=True, nogil=True)
def _falling(values, order):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Count every value, then file the places."""
    place = np.zeros(65537, np.int64)
    for v in values:
        place[65535 - v + 1] += 1
    for v in range(1, place.size):
        place[v] += place[v - 1]
    for i in range(values.size):
        v = 65535 - values[i]
        order[place[v]] = i
        place[v] += 1


@numba.njit(cache=True, nogil=True)
def _key(shift, z, y, x):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """A hash of a cell that is never 0."""
    h = np.uint64(shift) * np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ np.uint64(z)) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(29)) ^ np.uint64(y)) * np.uint64(0x94D049BB133111EB)
    h = (h ^ (h >> np.uint64(31)) ^ np.uint64(x)) * np.uint64(0xBF58476D1CE4E5B9)
    return (h ^ (h >> np.uint64(32))) | np.uint64(1)


@numba.njit(cache=True, nogil=True)
def _slot(keys, key):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Where a key stands, or the empty place it would take."""
    mask = np.uint64(keys.size - 1)
    slot = (key >> np.uint64(1)) & mask
    while keys[slot] != np.uint64(0) and keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@numba.njit(cache=True, nogil=True)
def _level(sigma, reach):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """The power of two that is at least as wide as a cluster's ball."""
    shift = 0
    while shift < 40 and np.float64(np.int64(1) << shift) < 2.0 * reach * sigma + 2.0:
        shift += 1
    return shift


@numba.njit(cache=True, nogil=True)
def _grown(values, count):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Twice the room where all is taken."""
    if count < values.size:
        return values
    more = np.empty(2 * values.size, values.dtype)
    more[:count] = values[:count]
    return more


@numba.njit(cache=True, nogil=True)
def _rehashed(keys, heads):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """The table with four times the places."""
    wide, first = np.zeros(4 * keys.size, np.uint64), np.empty(4 * keys.size, np.int32)
    for i in range(keys.size):
        if keys[i] != np.uint64(0):
            slot = _slot(wide, keys[i])
            wide[slot] = keys[i]
            first[slot] = heads[i]
    return wide, first


@numba.njit(cache=True, nogil=True)
def _lead(points, sigma, order, power, reach):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """The leaders, and the hash of their clusters."""
    keys, heads = np.zeros(1024, np.uint64), np.empty(1024, np.int32)
    owner, after = np.empty(1024, np.int32), np.empty(1024, np.int32)
    leader, used, levels = np.empty(256, np.int64), np.zeros(0, np.int64), np.zeros(64, np.bool_)
    count = entries = places = 0
    for i in order:
        held = False
        for shift in used:
            slot = _slot(keys, _key(shift, points[i, 0] >> shift, points[i, 1] >> shift, points[i, 2] >> shift))
            entry = heads[slot] if keys[slot] != np.uint64(0) else -1
            while entry >= 0 and not held:
                k = leader[owner[entry]]
                held = distance(points[i], points[k], sigma[k]) < power
                entry = after[entry]
            if held:
                break
        if held:
            continue
        shift = _level(sigma[i], reach)
        if not levels[shift]:
            levels[shift] = True
            used = np.append(used, shift)
        far = np.int64(reach * sigma[i]) + 1
        for z in range((points[i, 0] - far) >> shift, ((points[i, 0] + far) >> shift) + 1):
            for y in range((points[i, 1] - far) >> shift, ((points[i, 1] + far) >> shift) + 1):
                for x in range((points[i, 2] - far) >> shift, ((points[i, 2] + far) >> shift) + 1):
                    key = _key(shift, z, y, x)
                    slot = _slot(keys, key)
                    owner, after = _grown(owner, entries), _grown(after, entries)
                    owner[entries], after[entries] = count, -1
                    if keys[slot] == np.uint64(0):
                        keys[slot] = key
                        places += 1
                    else:
                        after[entries] = heads[slot]
                    heads[slot] = entries
                    entries += 1
                    if 2 * places >= keys.size:
                        keys, heads = _rehashed(keys, heads)
        leader = _grown(leader, count)
        leader[count] = i
        count += 1
    return leader[:count].copy(), used, keys, heads, owner[:entries].copy(), after[:entries].copy()


@numba.njit(cache=True, nogil=True)
def distance(a, b, sigma):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Squared distance in squared sigmas."""
    z, y, x = np.int64(a[0]) - b[0], np.int64(a[1]) - b[1], np.int64(a[2]) - b[2]
    return (z * z + y * y + x * x) / (np.int64(sigma) * sigma)


@numba.njit(cache=True, nogil=True)
def _assign(points, centre, sigma, power, index, out, lo, hi):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """The nearest cluster of points ``lo..hi``."""
    used, keys, heads, owner, after = index
    for i in range(lo, hi):
        best, least = -1, power
        for shift in used:
            slot = _slot(keys, _key(shift, points[i, 0] >> shift, points[i, 1] >> shift, points[i, 2] >> shift))
            entry = heads[slot] if keys[slot] != np.uint64(0) else -1
            while entry >= 0:
                k = owner[entry]
                d = distance(points[i], centre[k], sigma[k])
                if d < least or (d == least and d < power and k < best):
                    best, least = k, d
                entry = after[entry]
        out[i] = best
