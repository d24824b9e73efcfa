"""Matched instances: AP, F1, precision, recall and panoptic quality from sparse overlap counts.

*AP at τ* here is TP / (TP + FP + FN) with objects matched one to one at IoU ≥ τ: what StarDist, Cellpose and the 2018
Data Science Bowl call average precision. It is **not** COCO's AP, which ranks predictions by confidence and integrates
precision over recall; the two numbers must not stand in one table. *Pooled* scores use the counts summed over images;
the mean over images of per-image AP is another number. *PQ* follows its paper: matched where IoU > 0.5, strictly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.errors import OptionError
from biosegkit.kernels.overlap import Overlaps, overlap_counts

__all__ = ["THRESHOLDS", "InstanceCounts", "count_matches", "instance_counts", "match_instances"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

THRESHOLDS: tuple[float, ...] = tuple(k / 20 for k in range(10, 20))
"""0.50, 0.55 ... 0.95, each the double nearest to the decimal: an IoU of 7/10 is matched at 0.7."""


@dataclass(frozen=True)
class InstanceCounts:
    """Counts of matched and unmatched objects of one image, or the sum over many.

    Parameters
    ----------
    thresholds : tuple of float
        IoU thresholds.
    tp : tuple of int
        Matched pairs per threshold.
    iou_sum : tuple of float
        Sum of the IoU of the matched pairs, per threshold.
    n_true, n_pred : int
        Objects in the truth and in the prediction.
    pq_tp : int
        Pairs with IoU > 0.5 (strictly), which is what PQ counts.
    pq_iou_sum : float
        Sum of their IoU.
    images, empty_images : int
        Images summed, and those of them with no object in truth and prediction.

    Examples
    --------
    >>> one = instance_counts(np.array([1, 1, 0, 2]), np.array([4, 4, 0, 0]))
    >>> two = instance_counts(np.array([3, 3, 0, 0]), np.array([1, 1, 1, 0]))
    >>> (one + two).ap(0.5), one.fn(0.5), (one + two).ap(0.75)
    (0.6666666666666666, 1, 0.25)
    """

    thresholds: tuple[float, ...] = THRESHOLDS
    tp: tuple[int, ...] = field(default=(0,) * len(THRESHOLDS))
    iou_sum: tuple[float, ...] = field(default=(0.0,) * len(THRESHOLDS))
    n_true: int = 0
    n_pred: int = 0
    pq_tp: int = 0
    pq_iou_sum: float = 0.0
    images: int = 0
    empty_images: int = 0

    def __add__(self, other: InstanceCounts) -> InstanceCounts:
        """Pool with the counts of other images."""
        if self.thresholds != other.thresholds:
            raise OptionError(f"counts at IoU {other.thresholds}", expected=f"the same thresholds {self.thresholds}")
        return InstanceCounts(
            self.thresholds,
            tuple(a + b for a, b in zip(self.tp, other.tp, strict=True)),
            tuple(a + b for a, b in zip(self.iou_sum, other.iou_sum, strict=True)),
            self.n_true + other.n_true, self.n_pred + other.n_pred,
            self.pq_tp + other.pq_tp, self.pq_iou_sum + other.pq_iou_sum,
            self.images + other.images, self.empty_images + other.empty_images,
        )

    def _at(self, threshold: float) -> int:
        """Position of a threshold in the sweep."""
        for k, known in enumerate(self.thresholds):
            if abs(known - threshold) < 1e-9:
                return k
        raise OptionError(f"IoU threshold {threshold}", expected=f"one of {self.thresholds}",
                          remedy="count with that threshold")

    def fp(self, threshold: float) -> int:
        """Predicted objects without a match."""
        return self.n_pred - self.tp[self._at(threshold)]

    def fn(self, threshold: float) -> int:
        """True objects without a match."""
        return self.n_true - self.tp[self._at(threshold)]

    def ap(self, threshold: float) -> float:
        """TP / (TP + FP + FN); NaN if there is no object in truth and prediction."""
        tp = self.tp[self._at(threshold)]
        return _ratio(tp, self.n_true + self.n_pred - tp)

    def mean_ap(self) -> float:
        """Mean of AP over the thresholds (mSA, "AP@0.5:0.95" of the Data Science Bowl; not COCO's)."""
        return float(np.mean([self.ap(t) for t in self.thresholds]))

    def f1(self, threshold: float) -> float:
        """2 TP / (2 TP + FP + FN); NaN if there is no object in truth and prediction."""
        return _ratio(2 * self.tp[self._at(threshold)], self.n_true + self.n_pred)

    def precision(self, threshold: float) -> float:
        """TP / (TP + FP); NaN if nothing is predicted."""
        return _ratio(self.tp[self._at(threshold)], self.n_pred)

    def recall(self, threshold: float) -> float:
        """TP / (TP + FN); NaN if there is nothing to find."""
        return _ratio(self.tp[self._at(threshold)], self.n_true)

    def mean_matched_iou(self, threshold: float) -> float:
        """Mean IoU of the matched pairs; NaN if there is none."""
        k = self._at(threshold)
        return _ratio(self.iou_sum[k], self.tp[k])

    @property
    def sq(self) -> float:
        """Segmentation quality, the mean IoU of pairs with IoU > 0.5; NaN if there is none."""
        return _ratio(self.pq_iou_sum, self.pq_tp)

    @property
    def rq(self) -> float:
        """Recognition quality, TP / (TP + FP/2 + FN/2) at IoU > 0.5."""
        return _ratio(2 * self.pq_tp, self.n_true + self.n_pred)

    @property
    def pq(self) -> float:
        """Panoptic quality, SQ × RQ, of one class; NaN if there is no object in truth and prediction."""
        return _ratio(2 * self.pq_iou_sum, self.n_true + self.n_pred)

    def scores(self) -> dict[str, float]:
        """Every score by name: ``ap@0.50 ... ap@0.95``, ``ap`` (their mean), and at the first threshold the rest."""
        first = self.thresholds[0]
        return {
            **{f"ap@{t:.2f}": self.ap(t) for t in self.thresholds},
            "ap": self.mean_ap(), "f1": self.f1(first), "precision": self.precision(first),
            "recall": self.recall(first), "mean_matched_iou": self.mean_matched_iou(first),
            "pq": self.pq, "sq": self.sq, "rq": self.rq,
        }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def match_instances(overlaps: Overlaps, threshold: float = 0.5) -> tuple[Ints, Floats]:
    """Match objects one to one where their IoU reaches a threshold.

    At IoU ≥ 0.5 an object has one partner at most, but for exact halves: two objects of IoU 0.5 that make up a third.
    Then the pair with the smaller ids is the match, and the other half is unmatched. No assignment problem is left, so
    the time follows the pairs.

    Parameters
    ----------
    overlaps : Overlaps
        From :func:`biosegkit.kernels.overlap.overlap_counts`.
    threshold : float
        IoU, 0.5 to 1.

    Returns
    -------
    pairs : ndarray of int64, (M, 2)
        Matched ids (of ``a``, of ``b``), ascending.
    iou : ndarray of float64, (M,)
        Their IoU.

    Raises
    ------
    OptionError
        If the threshold is below 0.5, where matches are not unique and this is no longer the answer, or above 1.

    Examples
    --------
    >>> whole, halves = np.array([1, 1, 1, 1]), np.array([5, 5, 8, 8])
    >>> match_instances(overlap_counts(whole, halves))[0].tolist()
    [[1, 5]]
    """
    _check_threshold(threshold)
    return _one_to_one(overlaps.pairs, overlaps.iou(), threshold)


def _one_to_one(pairs: Ints, iou: Floats, threshold: float) -> tuple[Ints, Floats]:
    """Leave the pairs that reach the threshold, each object in one at most."""
    keep = iou >= threshold
    pairs, iou = pairs[keep], iou[keep]
    # Pairs are in lexicographic order, so the first occurrence is the one with the smallest partner. Halves cannot
    # chain (each lies inside the whole), so leaving out repeats of either side once leaves a largest matching.
    first = np.zeros(len(pairs), bool)
    first[np.unique(pairs[:, 0], return_index=True)[1]] = True
    pairs, iou = pairs[first], iou[first]
    once = np.sort(np.unique(pairs[:, 1], return_index=True)[1])
    return pairs[once], iou[once]


def _check_threshold(threshold: float) -> None:
    if not 0.5 <= threshold <= 1:
        raise OptionError(
            f"IoU threshold {threshold}", expected="0.5 ... 1",
            remedy="below 0.5 an object can match several others and the answer depends on the assignment; "
                   "it is not offered",
        )


def instance_counts(
    truth: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    *,
    valid: npt.NDArray[np.bool_] | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
) -> InstanceCounts:
    """Match the objects of one image and count.

    With a ``valid`` mask, pixels under the ignore label leave every area and overlap; a predicted object that has no
    match and lies to more than half in the ignored part is no false positive (Kirillov et al., section 4.2, "void").

    Parameters
    ----------
    truth, prediction : ndarray of bool or int, any equal shape
        Instance labels, 0 is background, any ids.
    valid : ndarray of bool, same shape, optional
        Voxels with a known truth.
    thresholds : sequence of float
        IoU thresholds, 0.5 to 1.

    Returns
    -------
    InstanceCounts
        Counts that can be summed over images with ``+``.

    Raises
    ------
    DataError
        If the arrays cannot be compared.
    OptionError
        If a threshold is below 0.5 or above 1.

    References
    ----------
    Kirillov et al., "Panoptic segmentation", CVPR 2019, eq. 1. Schmidt et al., "Cell detection with star-convex
    polygons", MICCAI 2018, section 3 (AP).

    Examples
    --------
    >>> truth = np.array([[1, 1, 0, 2, 2]])
    >>> counts = instance_counts(truth, np.array([[9, 9, 0, 0, 7]]))
    >>> counts.tp[0], counts.ap(0.5), counts.pq_tp
    (2, 1.0, 1)
    """
    return count_matches(overlap_counts(truth, prediction, valid), thresholds)


def count_matches(overlaps: Overlaps, thresholds: Sequence[float] = THRESHOLDS) -> InstanceCounts:
    """Match the objects of one image whose overlaps are known, and count; see :func:`instance_counts`.

    Parameters
    ----------
    overlaps : Overlaps
        Of truth and prediction, in this order.
    thresholds : sequence of float
        IoU thresholds, 0.5 to 1.

    Raises
    ------
    OptionError
        If there is no threshold, or one is below 0.5 or above 1.

    Examples
    --------
    >>> count_matches(overlap_counts(np.array([1, 1, 2]), np.array([0, 7, 8])), (0.5, 0.9)).tp
    (2, 1)
    """
    if not thresholds:
        raise OptionError("no IoU threshold", expected="at least one")
    for threshold in thresholds:
        _check_threshold(threshold)
    iou = overlaps.iou()
    pairs, iou = _one_to_one(overlaps.pairs, iou, 0.5)  # what is unmatched at 0.5 is unmatched at every threshold
    strict = iou > 0.5
    matched = [iou[iou >= t] for t in thresholds]
    # Void: what has no match and lies mostly under the ignore mask was never asked for.
    n_pred = int(np.count_nonzero(np.isin(overlaps.ids_b, pairs[:, 1]) | ~overlaps.mostly_ignored()))
    n_true = overlaps.ids_a.size
    return InstanceCounts(
        tuple(float(t) for t in thresholds), tuple(m.size for m in matched), tuple(float(np.sum(m)) for m in matched),
        n_true, n_pred, int(np.count_nonzero(strict)), float(np.sum(iou[strict])),
        images=1, empty_images=int(n_true == 0 and n_pred == 0),
    )
