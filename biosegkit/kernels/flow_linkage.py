"""Merge trees whose flows do not part.

The merge is average linkage: of all pairs of trees that touch, the one that repels least is made one, its repulsion
being below a limit, until there is none; among equals that whose row in the graph comes first, a row that is the sum of
several counting as the first of them. So it depends on no order, and not on the blocks. What is merged below a limit is
what would be without one: a mean over more faces is never below the least of its parts, so all limits are cuts of one
linkage.

The pair that repels least is on top of a heap. Of two trees that are made one, the one with fewer neighbours hands them
over to the other, so that n rows take at most n log n steps of log n each, whatever their order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from biosegkit.kernels.flow_graph import FlowGraph
from biosegkit.kernels.flow_trace import UNIT

__all__ = ["Linkage", "cut_linkage", "link_trees", "merge_trees"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Linkage:
    """Which tree was merged into which.

    ``into`` (the tree itself where it was not merged, else one before it), ``height`` (repulsion times 127) and
    ``turn`` of the merge, per tree.
    """

    into: Ints
    height: npt.NDArray[np.float64]
    turn: Ints


def merge_trees(graph: FlowGraph, foreground: int, repulsion: float) -> Ints:
    """Object of every tree: the smallest tree in it.

    Parameters
    ----------
    graph : FlowGraph
    foreground : int
        Trees that touch nowhere above it are never one.
    repulsion : float
        Neighbours that repel less are one; from -2 (all apart) to 2 (all that touch are one).

    Examples
    --------
    >>> graph = FlowGraph(3, (), np.array([[0, 1, -254, 2, 900], [1, 2, 254, 2, 900]]))
    >>> merge_trees(graph, 0, 0.5).tolist(), merge_trees(graph, 1000, 0.5).tolist(), merge_trees(graph, 0, 1.1).tolist()
    ([0, 0, 2], [0, 1, 2], [0, 0, 0])
    """
    return cut_linkage(link_trees(graph, foreground, repulsion), repulsion)[0]


def link_trees(graph: FlowGraph, foreground: int, repulsion: float = np.inf) -> Linkage:
    """All merges of trees whose repulsion is below a limit.

    Parameters
    ----------
    graph : FlowGraph
    foreground : int
        Trees that touch nowhere above it are never one.
    repulsion : float
        Cuts below it will be right.

    Examples
    --------
    >>> graph = FlowGraph(3, (), np.array([[0, 1, -254, 2, 900], [1, 2, 254, 2, 900]]))
    >>> linked = link_trees(graph, 0)
    >>> linked.into.tolist(), linked.height.tolist(), linked.turn.tolist()
    ([0, 0, 0], [inf, -127.0, 127.0], [0, 1, 2])
    """
    found = Linkage(np.arange(graph.count), np.full(graph.count, np.inf), np.zeros(graph.count, np.int64))
    rows = graph.edges[graph.edges[:, 4] > foreground]
    _link(np.ascontiguousarray(rows[:, :2]), rows[:, 2].copy(), rows[:, 3].copy(), repulsion * UNIT,
          (found.into, found.height, found.turn))
    return found


def cut_linkage(linked: Linkage, repulsion: float) -> tuple[Ints, Ints]:
    """Object of every tree: the smallest tree in it; and a name of the object.

    The name of a lone tree is its number, that of others the number of all trees plus the tree that was last merged
    into the smallest: with any limit, an object of that name has the same trees.

    Examples
    --------
    >>> linked = Linkage(np.array([0, 0, 0]), np.array([np.inf, -127.0, 127.0]), np.array([0, 1, 2]))
    >>> [part.tolist() for part in cut_linkage(linked, 0.5)], [part.tolist() for part in cut_linkage(linked, 1.1)]
    ([[0, 0, 2], [4, 4, 2]], [[0, 0, 0], [5, 5, 5]])
    """
    root, name = np.arange(len(linked.into)), np.arange(len(linked.into))
    _cut(linked.into, linked.height, linked.turn, repulsion * UNIT, root, name)
    return root, name[root]


@numba.njit(cache=True, nogil=True)
def _link(ends, push, weight, limit, found):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Merge the pair on top of the heap until it repels too much; returns how many neighbours were handed over.

    ``ends`` are the two trees of every row, -1 once it is no more. A tree that took others in stands for all of them;
    ``name`` is the smallest.
    """
    into, height, turn = found
    count, trees = len(push), len(into)
    name, chains = np.arange(trees), (np.full(trees, -1), np.full(trees, -1), np.zeros(trees, np.int64),
                                      np.full(2 * count, -1))
    table, mean = _table(ends), np.empty(count)
    heap_mean, heap_row, waiting = np.empty(2 * count + 1), np.empty(2 * count + 1, np.int64), 0
    for k in range(count):
        mean[k] = push[k] / weight[k] if weight[k] else np.inf
        _append(chains, ends[k, 0], 2 * k)
        _append(chains, ends[k, 1], 2 * k + 1)
        if mean[k] < limit:
            waiting = _put(heap_mean, heap_row, waiting, mean[k], k)
    merges = handed = 0
    taken = count
    while waiting:
        least, k = heap_mean[0], heap_row[0]
        waiting = _drop(heap_mean, heap_row, waiting)
        if ends[k, 0] < 0 or mean[k] != least:
            continue
        one, other = ends[k]
        if chains[2][one] < chains[2][other]:
            one, other = other, one
        first, last = min(name[one], name[other]), max(name[one], name[other])
        merges += 1
        into[last], height[last], turn[last], name[one] = first, least, merges, first
        ends[k] = -1
        half = chains[0][other]
        while half >= 0:
            row, half = half, chains[3][half]
            side, row = row & 1, row >> 1
            if ends[row, 0] < 0:
                continue
            handed += 1
            if taken > len(table) // 2:
                table, taken = _table(ends), count
            place = _place(table, ends, one, ends[row, 1 - side])
            twin, ends[row, side] = table[place], one
            if twin < 0:
                table[place] = row
                taken += 1
                continue
            kept, gone = min(row, twin), max(row, twin)
            push[kept], weight[kept] = push[kept] + push[gone], weight[kept] + weight[gone]
            mean[kept] = push[kept] / weight[kept] if weight[kept] else np.inf
            ends[gone], table[place] = -1, kept
            if mean[kept] < limit:
                waiting = _put(heap_mean, heap_row, waiting, mean[kept], kept)
        _join(chains, one, other)
    return handed


@numba.njit(cache=True, nogil=True)
def _append(chains, tree, half):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Add one end of a row to those of a tree."""
    head, tail, length, following = chains
    if tail[tree] < 0:
        head[tree] = half
    else:
        following[tail[tree]] = half
    tail[tree] = half
    length[tree] += 1


@numba.njit(cache=True, nogil=True)
def _join(chains, one, other):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Put the ends of rows of another tree behind those of one."""
    head, tail, length, following = chains
    following[tail[one]] = head[other]
    tail[one] = tail[other]
    length[one] += length[other]


@numba.njit(cache=True, nogil=True)
def _table(ends):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Places by which the row of a pair is found, of which at most a quarter is taken."""
    size = 16
    while size < 4 * len(ends):
        size *= 2
    table = np.full(size, -1)
    for k in range(len(ends)):
        if ends[k, 0] >= 0:
            table[_place(table, ends, ends[k, 0], ends[k, 1])] = k
    return table


@numba.njit(cache=True, nogil=True)
def _place(table, ends, a, b):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Where the row of a pair is, or would be: the first place from the pair's own that is free or holds it."""
    mixed = np.uint64(min(a, b)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(max(a, b))
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    last = np.uint64(table.size - 1)
    place = (mixed ^ (mixed >> np.uint64(32))) & last
    while True:
        k = table[place]
        if k < 0 or (ends[k, 0] == a and ends[k, 1] == b) or (ends[k, 0] == b and ends[k, 1] == a):
            return np.int64(place)
        place = (place + np.uint64(1)) & last


@numba.njit(cache=True, nogil=True)
def _put(means, rows, count, mean, row):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Put a row into the heap; returns how many are in it."""
    at = count
    while at > 0:
        above = (at - 1) // 2
        if means[above] < mean or (means[above] == mean and rows[above] <= row):
            break
        means[at], rows[at] = means[above], rows[above]
        at = above
    means[at], rows[at] = mean, row
    return count + 1


@numba.njit(cache=True, nogil=True)
def _drop(means, rows, count):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Take the top off the heap; returns how many are left."""
    count -= 1
    mean, row, at = means[count], rows[count], 0
    while True:
        below = 2 * at + 1
        if below >= count:
            break
        if below + 1 < count and (means[below + 1] < means[below] or (
                means[below + 1] == means[below] and rows[below + 1] < rows[below])):
            below += 1
        if mean < means[below] or (mean == means[below] and row <= rows[below]):
            break
        means[at], rows[at] = means[below], rows[below]
        at = below
    means[at], rows[at] = mean, row
    return count


@numba.njit(cache=True, nogil=True)
def _cut(into, height, turn, limit, root, name):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Follow merges below the limit; a tree is merged into one before it."""
    trees = into.size
    for b in range(trees):
        if into[b] != b and height[b] < limit:
            a = into[b]
            root[b] = root[a]
            if name[a] < trees or turn[b] > turn[name[a] - trees]:
                name[a] = trees + b
