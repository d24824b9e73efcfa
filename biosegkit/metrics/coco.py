"""COCO's mask AP: predictions ranked by score, precision integrated over recall.

This is **not** the AP of :mod:`biosegkit.metrics.instances` (TP / (TP + FP + FN), no scores): it needs a score for each
predicted object and rewards ranking. Per IoU threshold, over all images: predictions in descending order of score each
take the free true object of largest IoU that reaches the threshold; precision is made monotone from the right and read
at the recalls 0, 0.01 ... 1; AP is the mean of the 101 values. ``ap`` is the mean over 0.50, 0.55 ... 0.95, and of
several classes the mean over classes (count each class by itself). Only the best 100 predictions of an image count,
which an image of 500 nuclei cannot pass: say ``most=None`` where objects are many, and say so beside the number.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from biosegkit.errors import DataError, OptionError
from biosegkit.kernels.overlap import Overlaps
from biosegkit.metrics.instances import THRESHOLDS

__all__ = ["AREAS", "CocoDetections", "coco_detections"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

AREAS: dict[str, tuple[float, float]] = {
    "all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
"""COCO's area ranges in pixels of its photographs; both ends belong to the range."""

_RECALLS = np.linspace(0, 1, 101)  # to the last digit those of the reference code: 0.35 is 0.35000000000000003
_SLACK = 1e-10  # of the reference code: at threshold 1, an IoU of 1 must pass


@dataclass(frozen=True, eq=False)
class CocoDetections:
    """Ranked predictions of one image or of many, each known to be right, wrong or ignored per threshold.

    Parameters
    ----------
    thresholds : tuple of float
        IoU thresholds, T of them.
    scores : ndarray of float64, (D,)
        Score of each prediction.
    hit : ndarray of bool, (T, D)
        Whether it matched a true object.
    ignored : ndarray of bool, (T, D)
        Whether it counts neither way: matched what is ignored, or unmatched and outside the area range.
    n_true : int
        True objects to be found.

    Examples
    --------
    >>> hit = np.array([[True, False, True]])
    >>> found = CocoDetections((0.5,), np.array([0.9, 0.8, 0.7]), hit, np.zeros((1, 3), bool), n_true=2)
    >>> round(found.ap(0.5), 4), found.recall(0.5)
    (0.835, 1.0)
    """

    thresholds: tuple[float, ...] = THRESHOLDS
    scores: Floats = field(default_factory=lambda: np.empty(0))
    hit: Bools = field(default_factory=lambda: np.empty((len(THRESHOLDS), 0), bool))
    ignored: Bools = field(default_factory=lambda: np.empty((len(THRESHOLDS), 0), bool))
    n_true: int = 0

    def __add__(self, other: CocoDetections) -> CocoDetections:
        """Put the predictions of other images behind these; where scores tie, the earlier image ranks first."""
        if self.thresholds != other.thresholds:
            raise OptionError(f"detections at IoU {other.thresholds}", expected=f"thresholds {self.thresholds}")
        return CocoDetections(
            self.thresholds, np.concatenate([self.scores, other.scores]), np.hstack([self.hit, other.hit]),
            np.hstack([self.ignored, other.ignored]), self.n_true + other.n_true,
        )

    def _ranked(self, threshold: float) -> tuple[Floats, Floats]:
        """Recall and precision behind each prediction that counts, best score first."""
        k = next((k for k, t in enumerate(self.thresholds) if abs(t - threshold) < 1e-9), None)
        if k is None:
            raise OptionError(f"IoU threshold {threshold}", expected=f"one of {self.thresholds}")
        order = np.argsort(-self.scores, kind="stable")
        right = self.hit[k, order][~self.ignored[k, order]]
        tp = np.cumsum(right)
        return tp / max(self.n_true, 1), tp / np.arange(1, tp.size + 1)

    def ap(self, threshold: float) -> float:
        """101-point average precision at one IoU threshold; NaN if there is nothing to find."""
        if not self.n_true:
            return float("nan")
        recall, precision = self._ranked(threshold)
        envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)  # 0 at recalls never reached
        return float(np.mean(envelope[np.searchsorted(recall, _RECALLS, side="left")]))

    def recall(self, threshold: float) -> float:
        """Share of the true objects found by all predictions; NaN if there is nothing to find."""
        if not self.n_true:
            return float("nan")
        recall = self._ranked(threshold)[0]
        return float(recall[-1]) if recall.size else 0.0

    def mean_ap(self) -> float:
        """Mean of AP over the thresholds: COCO's "AP" of one class."""
        return float(np.mean([self.ap(t) for t in self.thresholds]))

    def mean_recall(self) -> float:
        """Mean of the recall over the thresholds: COCO's "AR" of one class."""
        return float(np.mean([self.recall(t) for t in self.thresholds]))

    def scores_by_name(self) -> dict[str, float]:
        """``coco_ap``, ``coco_ap@t`` at 0.50 and 0.75 where counted, and ``coco_ar``."""
        named = {f"coco_ap@{t:.2f}": self.ap(t) for t in self.thresholds if t in (0.5, 0.75)}
        return {"coco_ap": self.mean_ap(), **named, "coco_ar": self.mean_recall()}


def coco_detections(
    overlaps: Overlaps,
    scores: npt.NDArray[np.floating],
    *,
    thresholds: tuple[float, ...] = THRESHOLDS,
    most: int | None = 100,
    area: tuple[float, float] = (0.0, float("inf")),
) -> CocoDetections:
    """Match the scored objects of one image and one class as COCO does.

    Where COCO leaves it open: predictions of equal score rank by id, and among true objects of equal IoU the larger id
    is taken, as its reference code does for annotations in order of id. An ignore mask is a crowd region: its voxels
    leave every overlap, and a prediction without a match that lies in it by at least the threshold is ignored.

    Parameters
    ----------
    overlaps : Overlaps
        Of truth and prediction, in this order.
    scores : ndarray of float, (B,)
        Score of each predicted object, in the order of ``overlaps.ids_b``; higher is surer.
    thresholds : tuple of float
        IoU thresholds, above 0, up to 1.
    most : int or None
        How many predictions of an image count, those of highest score.
    area : (float, float)
        True objects of a size outside this range (voxels, ends included) are ignored, and so are unmatched predictions
        outside it; :data:`AREAS` has COCO's.

    Returns
    -------
    CocoDetections
        Ranked predictions; those of many images add with ``+``.

    Raises
    ------
    DataError
        If there is not one finite score per predicted object.
    OptionError
        If a threshold, ``most`` or ``area`` makes no sense.

    References
    ----------
    Lin et al., "Microsoft COCO: common objects in context", ECCV 2014; cocodataset.org/#detection-eval.

    Examples
    --------
    >>> from biosegkit.kernels.overlap import overlap_counts
    >>> truth, found = np.array([1, 1, 0, 2, 2, 0]), np.array([4, 4, 0, 6, 6, 8])
    >>> round(coco_detections(overlap_counts(truth, found), np.array([0.9, 0.8, 0.85])).mean_ap(), 4)
    0.835
    """
    _check(overlaps, scores, thresholds, most, area)
    ranks = np.argsort(-scores.astype(np.float64), kind="stable")[:most]
    place = np.full(scores.size, -1)
    place[ranks] = np.arange(ranks.size)
    skip_true = (overlaps.area_a < area[0]) | (overlaps.area_a > area[1])
    size = (overlaps.area_b + overlaps.ignored_b)[ranks]
    outside = (size < area[0]) | (size > area[1])
    void = (overlaps.ignored_b[ranks] / size) if ranks.size else np.empty(0)
    i, j = overlaps.indexed()
    iou, place = overlaps.iou(), place[j]
    # Each prediction asks first the true objects that count, of these the best, of equals the last.
    order = np.lexsort((-i, -iou, skip_true[i], place))
    order = order[place[order] >= 0]
    asked = list(zip(place[order].tolist(), i[order].tolist(), iou[order].tolist(), strict=True))
    hit, ignored = np.zeros((2, len(thresholds), ranks.size), bool)
    for k, threshold in enumerate(thresholds):
        limit = min(threshold, 1 - _SLACK)
        taken: set[int] = set()
        done = -1
        for prediction, true, overlap in asked:
            if prediction != done and overlap >= limit and true not in taken:
                taken.add(true)
                done = prediction
                hit[k, prediction], ignored[k, prediction] = True, skip_true[true]
        ignored[k] |= ~hit[k] & (outside | (void >= limit))
    return CocoDetections(tuple(thresholds), scores.astype(np.float64)[ranks], hit & ~ignored, ignored,
                          int(np.count_nonzero(~skip_true)))


def _check(overlaps: Overlaps, scores: npt.NDArray[np.floating], thresholds: tuple[float, ...], most: int | None,
           area: tuple[float, float]) -> None:
    """Refuse what cannot be ranked."""
    if scores.shape != overlaps.ids_b.shape or not np.isfinite(scores).all():
        raise DataError(f"scores of shape {scores.shape}", expected=f"{overlaps.ids_b.size} finite scores",
                        remedy="give one score per predicted object, in the order of overlaps.ids_b")
    if not thresholds or not all(0 < t <= 1 for t in thresholds):
        raise OptionError(f"IoU thresholds {thresholds}", expected="at least one, above 0 and up to 1")
    if (most is not None and most < 1) or not area[0] <= area[1]:
        raise OptionError(f"most {most}, area {area}", expected="a positive number or None, and (low, high)")
