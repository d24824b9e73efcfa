"""Join the fragments of all blocks to basins, and cut the graph of basins into objects.

The join knows no threshold and gives the same graph for every partition into blocks: basins are numbered in
raster order of their roots. The cut is Kruskal's algorithm over passes from high to low (a watershed is a minimum
spanning forest: Cousty et al. 2009, doi:10.1109/TPAMI.2008.173), which is all that is repeated when a threshold moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from biosegkit.errors import DataError
from biosegkit.kernels.basins import Fragments
from biosegkit.kernels.components import find, union

__all__ = ["BasinGraph", "cut", "join"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BasinGraph:
    """Basins of the full image.

    ``basin_of[k]`` maps the fragments of block k to basins; ``peak`` is the height of every basin; ``edges`` has rows
    (a, b, height, foreground) with a < b, ordered by falling height, then a, then b.
    """

    basin_of: tuple[Ints, ...]
    peak: Ints
    edges: Ints


def join(parts: Sequence[Fragments]) -> BasinGraph:
    """Basins and passes of the full image from the fragments of its blocks.

    Raises
    ------
    DataError
        If a fragment leads to a voxel no block holds: a block is missing.

    Examples
    --------
    >>> from biosegkit.kernels.basins import fragments
    >>> h = np.array([[[1, 5, 2, 7, 1]]], np.uint16)
    >>> zero = (0, 0, 0)
    >>> graph = join([fragments(h, h, 0, zero, zero, zero, (1, 1, 5))])
    >>> graph.peak.tolist(), graph.edges.tolist()
    ([5, 7], [[0, 1, 2, 2]])
    """
    offsets = np.concatenate([[0], np.cumsum([len(p.root) for p in parts])]).astype(np.int64)
    root, peak, leads_to = (np.concatenate([getattr(p, n) for p in parts]) for n in ("root", "peak", "leads_to"))
    edges = np.concatenate([p.edges + np.array((o, o, 0, 0)) for p, o in zip(parts, offsets[:-1], strict=True)])
    if (leads_to >= 0).any() or any(len(p.links) for p in parts):
        voxel, owner = _faces(parts, offsets)
        links = np.concatenate([p.links + np.array((o, 0, 0, 0)) for p, o in zip(parts, offsets[:-1], strict=True)])
        links[:, 1] = _look_up(voxel, owner, links[:, 1])
        edges = np.concatenate([edges, links])
        target = np.arange(len(root))
        goes = leads_to >= 0
        target[goes] = _look_up(voxel, owner, leads_to[goes])
        end = _ends(target)
    else:
        end = np.arange(len(root))
    roots = np.flatnonzero(end == np.arange(len(root)))
    roots = roots[np.argsort(root[roots])]
    number = np.full(len(root), -1, np.int64)
    number[roots] = np.arange(len(roots))
    basin = number[end]
    edges[:, :2] = basin[edges[:, :2]]
    if len(parts) > 1:
        edges = _ordered(_merged(edges, len(roots)))
    owned = tuple(basin[a:b] for a, b in pairwise(offsets))
    return BasinGraph(owned, peak[roots], edges)


def cut(graph: BasinGraph, foreground: int, seed: int, prominence: int, keep_unseeded: bool = False) -> Ints:
    """Object of every basin.

    Parameters
    ----------
    graph : BasinGraph
    foreground : int
        A pass whose foreground does not exceed it joins nothing.
    seed : int
        Components whose peak does not exceed it are no object of their own and join the first neighbour they meet;
        a pass above it always joins.
    prominence : int
        A pass joins if the lower of the two peaks rises above it by less than this.
    keep_unseeded : bool
        Keep components without a seed as objects.

    Returns
    -------
    ndarray of int64, (basins,)
        The smallest basin of the object, or -1.

    Examples
    --------
    >>> graph = BasinGraph((np.arange(2),), np.array([5, 7]), np.array([[0, 1, 2, 9]]))
    >>> cut(graph, 0, seed=3, prominence=1).tolist(), cut(graph, 0, seed=6, prominence=1).tolist()
    ([0, 1], [0, 0])
    """
    out = np.empty(len(graph.peak), np.int64)
    _kruskal(graph.peak.copy(), graph.edges, (foreground, seed, prominence, keep_unseeded), out)
    return out


def _faces(parts: Sequence[Fragments], offsets: Ints) -> tuple[Ints, Ints]:
    """Voxels on the faces of all blocks, sorted, and the fragment each belongs to."""
    face = np.concatenate([p.face + np.array((0, o)) for p, o in zip(parts, offsets[:-1], strict=True)])
    order = np.argsort(face[:, 0])
    return face[order, 0], face[order, 1]


def _look_up(voxel: Ints, owner: Ints, wanted: Ints) -> Ints:
    """Fragment of every wanted voxel."""
    if not len(wanted):
        return wanted
    at = np.minimum(np.searchsorted(voxel, wanted), len(voxel) - 1)
    if not len(voxel) or (voxel[at] != wanted).any():
        raise DataError("a basin that leads out of the given blocks", expected="all blocks of the image, without gaps")
    found: Ints = owner[at]
    return found


def _ends(target: Ints) -> Ints:
    """Where the chain of every fragment ends; chains rise in a total order, so there are no cycles."""
    while True:
        further = target[target]
        if np.array_equal(further, target):
            return target
        target = further


def _merged(edges: Ints, basins: int) -> Ints:
    """One row per pair of different basins, with the largest height and the largest foreground."""
    edges = edges[edges[:, 0] != edges[:, 1]]
    low, high = edges[:, :2].min(1), edges[:, :2].max(1)
    key, inverse = np.unique(low * basins + high, return_inverse=True)
    out: npt.NDArray[Any] = np.zeros((len(key), 4), np.int64)
    out[:, 0], out[:, 1] = key // max(basins, 1), key % max(basins, 1)
    np.maximum.at(out[:, 2], inverse, edges[:, 2])
    np.maximum.at(out[:, 3], inverse, edges[:, 3])
    return out


def _ordered(edges: Ints) -> Ints:
    """By falling height, then a, then b."""
    ordered: Ints = edges[np.lexsort((edges[:, 1], edges[:, 0], -edges[:, 2]))]
    return ordered


@numba.njit(cache=True, nogil=True)
def _kruskal(peak, edges, limits, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Union in order of falling passes; ``peak`` is overwritten with the peaks of components."""
    foreground, seed, prominence, keep = limits
    parent = np.arange(peak.size)
    for e in range(edges.shape[0]):
        if edges[e, 3] <= foreground:
            continue
        a, b = find(parent, edges[e, 0]), find(parent, edges[e, 1])
        if a == b:
            continue
        low, high = min(peak[a], peak[b]), max(peak[a], peak[b])
        if edges[e, 2] > seed or low <= seed or low - edges[e, 2] < prominence:
            peak[union(parent, a, b)] = high
    for i in range(peak.size):
        k = find(parent, i)
        out[i] = k if keep or peak[k] > seed else -1
