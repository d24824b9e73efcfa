"""How well classes overlap: Dice, IoU, precision, recall, specificity and volumes, from counts that can be summed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.errors import DataError

__all__ = [
    "OverlapCounts", "check_masks", "class_counts", "confusion", "mean_iou", "overlap_scores", "region_counts",
]

Ints = npt.NDArray[np.int64]
_CHUNK = 1 << 20


@dataclass(frozen=True)
class OverlapCounts:
    """Voxels of one class (or region) that are true positive, false positive, false and true negative.

    Counts of several images can be added; scores of the sum are the pooled scores. The true negatives may be unknown
    (None): they grow with the empty space around the object, and only specificity needs them.

    Examples
    --------
    >>> pooled = OverlapCounts(8, 2, 2, 88) + OverlapCounts(0, 0, 10, 90)
    >>> pooled, pooled.dice
    (OverlapCounts(tp=8, fp=2, fn=12, tn=178), 0.5333333333333333)
    """

    tp: int
    fp: int
    fn: int
    tn: int | None = None

    def __add__(self, other: OverlapCounts) -> OverlapCounts:
        """Pool with the counts of another image."""
        tn = None if self.tn is None or other.tn is None else self.tn + other.tn
        return OverlapCounts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, tn)

    @property
    def truth_empty(self) -> bool:
        """Whether no voxel is of this class in the truth."""
        return self.tp + self.fn == 0

    @property
    def prediction_empty(self) -> bool:
        """Whether no voxel is of this class in the prediction."""
        return self.tp + self.fp == 0

    @property
    def dice(self) -> float:
        """2 TP / (2 TP + FP + FN); NaN if truth and prediction are both empty, 0 if only one is."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> float:
        """TP / (TP + FP + FN), the Jaccard index; NaN if truth and prediction are both empty."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def precision(self) -> float:
        """TP / (TP + FP); NaN if nothing is predicted."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """TP / (TP + FN), also sensitivity; NaN if there is nothing to find."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> float:
        """TN / (TN + FP); NaN if everything is this class, or the true negatives are unknown."""
        return float("nan") if self.tn is None else _ratio(self.tn, self.tn + self.fp)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def overlap_scores(counts: OverlapCounts, voxel_volume: float = 1.0) -> dict[str, float]:
    """Every overlap score of one class, by name.

    Parameters
    ----------
    counts : OverlapCounts
        Counts of one image, or summed over images.
    voxel_volume : float
        Volume (area in 2D) of one voxel, for example in mm³; the volumes returned have its unit.

    Returns
    -------
    dict of str to float
        ``dice iou precision recall specificity``; ``volume_truth volume_prediction``, ``volume_false_positive`` (how
        much was invented: the score to read where the truth is empty and Dice can only be 0 or NaN);
        ``volume_error`` (prediction minus truth, so negative is too small), ``volume_error_absolute``, and both over
        the volume of the truth as ``relative_volume_error`` and ``relative_volume_error_absolute``, NaN where the
        truth is empty. A mean of signed errors shows bias, a mean of absolute ones size: neither replaces the other.

    Examples
    --------
    >>> scores = overlap_scores(OverlapCounts(tp=0, fp=5, fn=0), voxel_volume=2.0)
    >>> scores["dice"], scores["volume_false_positive"]
    (0.0, 10.0)
    >>> overlap_scores(OverlapCounts(tp=6, fp=0, fn=2))["relative_volume_error"]
    -0.25
    """
    true, excess = counts.tp + counts.fn, counts.fp - counts.fn
    return {
        "dice": counts.dice, "iou": counts.iou, "precision": counts.precision, "recall": counts.recall,
        "specificity": counts.specificity,
        "volume_truth": true * voxel_volume,
        "volume_prediction": (counts.tp + counts.fp) * voxel_volume,
        "volume_false_positive": counts.fp * voxel_volume,
        "volume_error": excess * voxel_volume,
        "volume_error_absolute": abs(excess) * voxel_volume,
        "relative_volume_error": _ratio(excess, true),
        "relative_volume_error_absolute": _ratio(abs(excess), true),
    }


def mean_iou(counts: Iterable[OverlapCounts]) -> float:
    """Mean IoU (mIoU) over classes.

    Parameters
    ----------
    counts : iterable of OverlapCounts
        One per class that shall enter, of one image or summed over images; with or without the background, as given.

    Returns
    -------
    float
        A class that is neither in the truth nor in the prediction is undefined and left out of the mean (not 0, not
        1); a class that is only in one of them is 0. NaN if no class is defined. Data-set benchmarks (PASCAL VOC,
        Cityscapes) sum the counts over all images first; the mean of per-image values is another number.

    References
    ----------
    Everingham et al., "The PASCAL Visual Object Classes Challenge: a retrospective", IJCV 111, 2015, section 4.1.2.

    Examples
    --------
    >>> mean_iou([OverlapCounts(2, 1, 1), OverlapCounts(0, 3, 0), OverlapCounts(0, 0, 0)])
    0.25
    """
    defined = [value for c in counts if not math.isnan(value := c.iou)]
    return sum(defined) / len(defined) if defined else float("nan")


def confusion(
    prediction: npt.NDArray[Any], truth: npt.NDArray[Any], n_classes: int,
    valid: npt.NDArray[np.bool_] | None = None,
) -> Ints:
    """Count how often each class of the truth is called each class, in one pass.

    Parameters
    ----------
    prediction, truth : ndarray of bool or int, any equal shape
        Canonical class maps with values 0 ... n_classes - 1.
    n_classes : int
        Number of classes, background included.
    valid : ndarray of bool, same shape, optional
        Voxels to count; the rest is left out (an ignore label).

    Returns
    -------
    ndarray of int64, (n_classes, n_classes)
        Row: class of the truth; column: class of the prediction.

    Raises
    ------
    DataError
        If shapes differ or a value is outside 0 ... n_classes - 1.

    Examples
    --------
    >>> confusion(np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2]), 3).tolist()
    [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    """
    _same_shape(prediction, truth, valid)
    flat = [prediction.reshape(-1), truth.reshape(-1)]
    keep = None if valid is None else valid.reshape(-1)
    table = np.zeros(n_classes * n_classes, np.int64)
    for start in range(0, flat[0].size, _CHUNK):
        part = slice(start, start + _CHUNK)
        found, true = (_classes(array[part], keep, part, n_classes) for array in flat)
        table += np.bincount(true * n_classes + found, minlength=table.size)
    return table.reshape(n_classes, n_classes)


def _classes(
    values: npt.NDArray[Any], keep: npt.NDArray[np.bool_] | None, part: slice, n_classes: int
) -> npt.NDArray[np.int64]:
    """One piece of a class map as int64, valid voxels only, checked."""
    if values.dtype.kind not in "bui":
        raise DataError(f"a class map of type {values.dtype}", expected="an integer type")
    values = values if keep is None else values[keep[part]]
    if values.size and (values.min() < 0 or values.max() >= n_classes):
        raise DataError(
            f"class {values.min() if values.min() < 0 else values.max()}", expected=f"classes 0 ... {n_classes - 1}",
            remedy="map the values to the classes of the plan first",
        )
    return values.astype(np.int64)


def class_counts(table: npt.NDArray[np.int64], regions: Iterable[Sequence[int]] | None = None) -> list[OverlapCounts]:
    """Counts per class, or per region, from a confusion matrix.

    Parameters
    ----------
    table : ndarray of int64, (n_classes, n_classes)
        From :func:`confusion`, possibly summed over images.
    regions : iterable of sequences of int, optional
        Classes that make up each region ("whole tumour" = edema, core, enhancing); default: every class alone.

    Examples
    --------
    >>> table = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 1]])
    >>> class_counts(table)[2]
    OverlapCounts(tp=1, fp=0, fn=1, tn=2)
    >>> class_counts(table, regions=[(1, 2)])
    [OverlapCounts(tp=3, fp=0, fn=0, tn=1)]
    """
    groups = [(k,) for k in range(len(table))] if regions is None else [tuple(r) for r in regions]
    result = []
    for group in groups:
        rows = np.isin(np.arange(len(table)), group)
        tp, tn = (int(table[np.ix_(r, r)].sum()) for r in (rows, ~rows))
        result.append(OverlapCounts(tp, int(table[:, rows].sum()) - tp, int(table[rows].sum()) - tp, tn))
    return result


def region_counts(
    prediction: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_], valid: npt.NDArray[np.bool_] | None = None
) -> OverlapCounts:
    """Counts of one region given as two masks; regions may overlap, so each is counted on its own.

    Parameters
    ----------
    prediction, truth : ndarray of bool, any equal shape
        The masks.
    valid : ndarray of bool, same shape, optional
        Voxels to count.

    Raises
    ------
    DataError
        If shapes differ or a mask is not boolean.

    Examples
    --------
    >>> region_counts(np.array([True, True, False]), np.array([True, False, True]))
    OverlapCounts(tp=1, fp=1, fn=1, tn=0)
    """
    check_masks(prediction, truth, valid)
    both = prediction & truth
    masks = [both, prediction, truth] if valid is None else [both & valid, prediction & valid, truth & valid]
    tp, found, true = (int(np.count_nonzero(m)) for m in masks)
    known = truth.size if valid is None else int(np.count_nonzero(valid))
    return OverlapCounts(tp, found - tp, true - tp, known - found - true + tp)


def check_masks(
    prediction: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_], valid: npt.NDArray[np.bool_] | None
) -> None:
    """Refuse masks that are not boolean or not of one grid.

    Raises
    ------
    DataError
        If shapes differ or a mask is not boolean.
    """
    _same_shape(prediction, truth, valid)
    for mask in (prediction, truth):
        if mask.dtype != np.bool_:
            raise DataError(f"a mask of type {mask.dtype}", expected="bool", remedy="pass mask != 0")


def _same_shape(prediction: npt.NDArray[Any], truth: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None) -> None:
    """Refuse arrays that are not of one grid, and masks that are not masks."""
    if prediction.shape != truth.shape or (valid is not None and valid.shape != truth.shape):
        raise DataError(
            f"prediction {prediction.shape}, truth {truth.shape}" + ("" if valid is None else f", valid {valid.shape}"),
            expected="equal shapes", remedy="compare images of the same grid",
        )
    if valid is not None and valid.dtype != np.bool_:
        raise DataError(f"a valid mask of type {valid.dtype}", expected="bool", remedy="pass mask != 0")
