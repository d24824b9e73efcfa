"""Join the trees of all blocks, and merge trees whose flows do not part.

The join knows no threshold and gives the same graph for every partition into blocks: trees are numbered in raster order
of their first voxel. The merge is average linkage: of two trees that are each other's least repelling neighbour, the
repulsion of what they share being below a limit, one is made, until there are none; it depends on no order. What is
merged below a limit is what would be without one: a mean over more faces is never below the least of its parts, so all
limits are cuts of one linkage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numba
import numpy as np
import numpy.typing as npt

from biosegkit.errors import DataError
from biosegkit.kernels.components import UnionFind
from biosegkit.kernels.flow_trace import UNIT, summed

__all__ = ["FlowGraph", "Linkage", "Trees", "cut_linkage", "join_trees", "link_trees", "merge_trees"]

Ints = npt.NDArray[np.int64]


class Trees(Protocol):
    """What of `FlowFragments` is needed of each block; any of it may be read when it is asked for."""

    @property
    def fragment(self) -> npt.NDArray[np.int32]:
        """Of every voxel of the core."""
        ...

    @property
    def first(self) -> Ints:
        """First voxel of every fragment."""
        ...

    @property
    def leads_to(self) -> Ints:
        """Where it goes on to."""
        ...

    @property
    def edges(self) -> Ints:
        """Between fragments."""
        ...

    @property
    def links(self) -> Ints:
        """To voxels of other blocks."""
        ...


@dataclass(frozen=True)
class FlowGraph:
    """Trees of the full image.

    ``tree_of[k]`` maps the fragments of block k to trees; ``edges`` has rows (a, b, repulsion, weight, foreground)
    with a < b.
    """

    count: int
    tree_of: tuple[Ints, ...]
    edges: Ints


@dataclass(frozen=True, eq=False)
class Linkage:
    """Which tree was merged into which.

    ``into`` (the tree itself where it was not merged, else one before it), ``height`` (repulsion times 127) and
    ``turn`` of the merge, per tree.
    """

    into: Ints
    height: npt.NDArray[np.float64]
    turn: Ints


def join_trees(
    parts: Sequence[Trees],
    cores: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    full: tuple[int, ...],
) -> FlowGraph:
    """Trees of the full image from the fragments of its blocks.

    Parameters
    ----------
    parts : sequence of Trees
        As `flow_fragments` makes them; voxels are asked for one block at a time.
    cores : sequence of (start, shape), three numbers each
        Where the core of each block lies.
    full : tuple of int, (3,)
        Shape of the full image.

    Raises
    ------
    DataError
        If a fragment leads to a voxel no block holds: a block is missing.

    Examples
    --------
    >>> from biosegkit.kernels.flow_trace import flow_fragments
    >>> flow = np.zeros((3, 1, 1, 4), np.int8)
    >>> flow[2, 0, 0] = [127, -1, 1, -127]
    >>> zero, shape = (0, 0, 0), (1, 1, 4)
    >>> one = flow_fragments(flow, np.full(shape, 512, np.uint16), 0, (zero, shape, zero, shape), (1, 1, 1), 1)
    >>> graph = join_trees([one], [(zero, shape)], shape)
    >>> graph.count, graph.edges.tolist()
    (2, [[0, 1, 4, 2, 512]])
    """
    offsets = np.concatenate([[0], np.cumsum([len(p.first) for p in parts])]).astype(np.int64)
    first, leads_to = (np.concatenate([getattr(p, n) for p in parts]) for n in ("first", "leads_to"))
    edges, links = (
        np.concatenate([_shifted(getattr(p, n), o, both) for p, o in zip(parts, offsets[:-1], strict=True)])
        for n, both in (("edges", True), ("links", False))
    )
    going = np.flatnonzero(leads_to >= 0)
    wanted = np.unique(np.concatenate([leads_to[going], links[:, 1]]))
    owner = _owners(wanted, parts, offsets, cores, full)
    sets = UnionFind(len(first))
    sets.union_many(going, owner[np.searchsorted(wanted, leads_to[going])])
    roots = sets.roots()
    lowest = np.full(len(first), np.iinfo(np.int64).max)
    np.minimum.at(lowest, roots, first)
    heads = np.flatnonzero(roots == np.arange(len(first)))
    heads = heads[np.argsort(lowest[heads])]
    number = np.full(len(first), -1, np.int64)
    number[heads] = np.arange(len(heads))
    tree = number[roots]
    links[:, 1] = owner[np.searchsorted(wanted, links[:, 1])]
    owned = tuple(tree[a:b] for a, b in pairwise(offsets))
    return FlowGraph(len(heads), owned, _between(np.concatenate([edges, links]), tree))


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
    edges, turn = graph.edges[graph.edges[:, 4] > foreground], 1
    while len(edges):
        mean = edges[:, 2] / edges[:, 3]
        chosen = np.flatnonzero(mean < repulsion * UNIT)
        if not len(chosen):
            break
        chosen = chosen[np.lexsort((edges[chosen, 1], edges[chosen, 0], _shuffle(edges[chosen]), mean[chosen]))]
        best = np.full(graph.count, len(chosen))
        order = np.arange(len(chosen))
        for end in (0, 1):
            np.minimum.at(best, edges[chosen, end], order)
        mutual = chosen[(best[edges[chosen, 0]] == order) & (best[edges[chosen, 1]] == order)]
        merged = edges[mutual, 1]
        found.into[merged], found.height[merged], found.turn[merged] = edges[mutual, 0], mean[mutual], turn
        step = np.arange(graph.count)
        step[merged] = edges[mutual, 0]
        edges, turn = _between(edges, step), turn + 1
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


def _shuffle(rows: Ints) -> npt.NDArray[np.uint64]:
    """A number per pair that looks random: where all is equal, neighbours in a row would else be merged one by one."""
    a, b = rows[:, 0].astype(np.uint64), rows[:, 1].astype(np.uint64)
    mixed = (a * np.uint64(0x9E3779B97F4A7C15)) ^ (b * np.uint64(0xC2B2AE3D27D4EB4F))
    mixed ^= mixed >> np.uint64(31)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return np.asarray(mixed ^ (mixed >> np.uint64(29)))


def _shifted(rows: Ints, offset: int, both: bool) -> Ints:
    """With fragments numbered through all blocks; the second column may be voxels."""
    moved: Ints = rows + np.array((offset, offset if both else 0, 0, 0, 0))
    return moved


def _between(rows: Ints, group: Ints) -> Ints:
    """Rows between different groups, summed."""
    ends = group[rows[:, :2]]
    apart = ends[:, 0] != ends[:, 1]
    ends = np.sort(ends[apart], axis=1)
    return summed(np.column_stack([ends, rows[apart, 2:]]))


def _owners(
    wanted: Ints,
    parts: Sequence[Trees],
    offsets: Ints,
    cores: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    full: tuple[int, ...],
) -> Ints:
    """Fragment, numbered through all blocks, of every wanted voxel (ascending linear indices)."""
    owner = np.full(len(wanted), -1, np.int64)
    for part, offset, (start, shape) in zip(parts, offsets[:-1], cores, strict=True):
        last = [s + n - 1 for s, n in zip(start, shape, strict=True)]
        low, high = (np.ravel_multi_index(tuple(corner), full) for corner in (start, last))
        a, b = np.searchsorted(wanted, low), np.searchsorted(wanted, high, side="right")
        place = [p - s for p, s in zip(np.unravel_index(wanted[a:b], full), start, strict=True)]
        inside = np.logical_and.reduce([(p >= 0) & (p < n) for p, n in zip(place, shape, strict=True)])
        owner[a:b][inside] = part.fragment[tuple(p[inside] for p in place)] + offset
    if (owner < 0).any():
        raise DataError("a flow that leads out of the given blocks", expected="all blocks of the image, without gaps")
    return owner


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
