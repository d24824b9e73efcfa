"""Aggregated Jaccard index: AJI as Kumar defined it, and AJI+ with one-to-one pairs.

Both sum the intersections of pairs of objects and divide by the sum of their unions plus the voxels of every object
that is in no pair. They differ in the pairs. *AJI*: each true object takes the prediction of largest IoU, also one that
another took already, whose voxels are then counted again. *AJI+*: one-to-one pairs of the largest total IoU. Neither
bounds the other: AJI+ is usually higher, but lower where a prediction covers several true objects evenly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from biosegkit.kernels.overlap import Overlaps

__all__ = ["AggregatedJaccard", "aggregated_jaccard"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_ROUNDS = 30


@dataclass(frozen=True)
class AggregatedJaccard:
    """Sums of intersections and unions, of one image or of many.

    Parameters
    ----------
    intersection, union : int
        Voxels summed as AJI says.
    intersection_plus, union_plus : int
        Voxels summed as AJI+ says.

    Examples
    --------
    >>> one, two = AggregatedJaccard(6, 8, 6, 8), AggregatedJaccard(0, 8, 0, 8)
    >>> (one + two).aji
    0.375
    """

    intersection: int = 0
    union: int = 0
    intersection_plus: int = 0
    union_plus: int = 0

    def __add__(self, other: AggregatedJaccard) -> AggregatedJaccard:
        """Pool with the sums of other images."""
        return AggregatedJaccard(
            self.intersection + other.intersection, self.union + other.union,
            self.intersection_plus + other.intersection_plus, self.union_plus + other.union_plus,
        )

    @property
    def aji(self) -> float:
        """Aggregated Jaccard index (Kumar 2017); NaN if there is no object in truth and prediction."""
        return self.intersection / self.union if self.union else float("nan")

    @property
    def aji_plus(self) -> float:
        """AJI+ (Graham 2019); NaN if there is no object in truth and prediction."""
        return self.intersection_plus / self.union_plus if self.union_plus else float("nan")

    def scores(self) -> dict[str, float]:
        """``aji`` and ``aji_plus``."""
        return {"aji": self.aji, "aji_plus": self.aji_plus}


def aggregated_jaccard(overlaps: Overlaps) -> AggregatedJaccard:
    """Sum intersections and unions of the objects of one image.

    Where IoU ties, AJI takes the prediction of the larger intersection, then of the smaller id; the papers leave it
    open. A true object that nothing overlaps adds its own voxels to the union. Voxels under an ignore mask count
    nowhere. Time and memory follow the pairs that overlap; no matrix of all objects is made.

    Parameters
    ----------
    overlaps : Overlaps
        Of truth and prediction, in this order.

    Returns
    -------
    AggregatedJaccard
        Sums that can be added over images.

    References
    ----------
    Kumar et al., "A dataset and a technique for generalized nuclear segmentation for computational pathology", IEEE TMI
    36(7), 2017, algorithm 1. Graham et al., "HoVer-Net", Medical Image Analysis 58, 2019 (AJI+).

    Examples
    --------
    >>> from biosegkit.kernels.overlap import overlap_counts
    >>> found = aggregated_jaccard(overlap_counts(np.array([1, 1, 2, 2]), np.array([7, 7, 7, 7])))
    >>> found.aji, found.aji_plus
    (0.5, 0.3333333333333333)
    """
    best = _best_for_each(overlaps)
    paired = _largest_total(overlaps)
    return AggregatedJaccard(*_sums(overlaps, best), *_sums(overlaps, paired))


def _best_for_each(overlaps: Overlaps) -> Ints:
    """Position of the pair of largest IoU of each object of ``a`` that has one."""
    order = np.lexsort((-overlaps.counts, -overlaps.iou(), overlaps.pairs[:, 0]))  # stable: then the smaller id
    _, first = np.unique(overlaps.pairs[order, 0], return_index=True)
    return np.asarray(order[first], np.int64)


def _largest_total(overlaps: Overlaps) -> Ints:
    """Positions of the one-to-one pairs whose IoU sums to the most: a sparse assignment problem."""
    i, j = overlaps.indexed()
    iou = overlaps.iou()
    chosen, left = [np.empty(0, np.int64)], np.arange(iou.size)
    for _ in range(_ROUNDS):
        # Whatever other pairs its two objects could be in, this one outweighs them together: it can be taken, and what
        # remains is a smaller problem. Real segmentations are gone after a few rounds.
        rivals = _rivals(i[left], iou[left]) + _rivals(j[left], iou[left])
        sure = left[iou[left] >= rivals]
        sure = sure[np.sort(np.unique(i[sure], return_index=True)[1])]
        sure = sure[np.sort(np.unique(j[sure], return_index=True)[1])]  # equals both qualify: once each
        if not sure.size:
            break
        chosen.append(sure)
        left = left[~np.isin(i[left], i[sure]) & ~np.isin(j[left], j[sure])]
    chosen.append(_assigned(i[left], j[left], iou[left], left))
    return np.concatenate(chosen)


def _rivals(owner: Ints, weight: Floats) -> Floats:
    """For each pair the largest weight among the other pairs of its owner, 0 if there is none."""
    order = np.lexsort((-weight, owner))
    first = np.r_[True, owner[order][1:] != owner[order][:-1]][: owner.size]
    second = np.r_[False, first[:-1]][: owner.size] & ~first
    best, next_best = np.zeros((2, int(owner.max(initial=-1)) + 1))
    best[owner[order[first]]] = weight[order[first]]
    next_best[owner[order[second]]] = weight[order[second]]
    rival = best[owner]
    rival[order[first]] = next_best[owner[order[first]]]
    return rival


def _assigned(i: Ints, j: Ints, iou: Floats, positions: Ints) -> Ints:
    """Solve what is left by the Jonker-Volgenant algorithm for sparse costs."""
    if not i.size:
        return positions
    (rows, i), (columns, j) = (np.unique(side, return_inverse=True) for side in (i, j))
    # Every object may stay alone: a partner of its own at the cost of no overlap makes a full matching exist.
    alone = np.arange(rows.size)
    cost = np.concatenate([2 - iou, np.full(rows.size, 2.0)])
    place = np.concatenate([i, alone]), np.concatenate([j, columns.size + alone])
    graph = csr_array((cost, place), shape=(rows.size, columns.size + rows.size))
    of_row, of_column = min_weight_full_bipartite_matching(graph)
    partner = np.empty(rows.size, np.int64)
    partner[of_row] = of_column
    return np.asarray(positions[partner[i] == j], np.int64)


def _sums(overlaps: Overlaps, used: Ints) -> tuple[int, int]:
    """Intersection and union over the pairs at these positions, the objects in none of them added to the union."""
    i, j = overlaps.indexed()
    i, j, shared = i[used], j[used], overlaps.counts[used]
    alone_a, alone_b = np.ones(overlaps.ids_a.size, bool), np.ones(overlaps.ids_b.size, bool)
    alone_a[i], alone_b[j] = False, False
    union = overlaps.area_a[i] + overlaps.area_b[j] - shared
    alone = overlaps.area_a[alone_a].sum() + overlaps.area_b[alone_b].sum()
    return int(shared.sum()), int(union.sum() + alone)
