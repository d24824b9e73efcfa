"""Join the trees of all blocks: one graph of trees and of what they share.

The join knows no threshold and gives the same graph for every partition into blocks: trees are numbered in raster order
of their first voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from biosegkit.errors import DataError
from biosegkit.kernels.components import UnionFind
from biosegkit.kernels.flow_trace import summed

__all__ = ["FlowGraph", "Trees", "join_trees"]

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
    if len(parts) == 1 and not len(going) and not len(links):  # numbered as trees are, edges summed
        return FlowGraph(len(first), (np.arange(len(first)),), edges)
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
