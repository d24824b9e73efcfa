"""How well classes overlap: Dice, IoU, precision, recall and volumes, from counts that can be summed over images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.errors import DataError

__all__ = ["OverlapCounts", "check_masks", "class_counts", "confusion", "overlap_scores", "region_counts"]

Ints = npt.NDArray[np.int64]
_CHUNK = 1 << 20


@dataclass(frozen=True)
class OverlapCounts:
    """Voxels of one class (or region) that are true positive, false positive and false negative.

    Counts of several images can be added; scores of the sum are the pooled scores.

    Examples
    --------
    >>> pooled = OverlapCounts(8, 2, 2) + OverlapCounts(0, 0, 10)
    >>> pooled, pooled.dice
    (OverlapCounts(tp=8, fp=2, fn=12), 0.5333333333333333)
    """

    tp: int
    fp: int
    fn: int

    def __add__(self, other: OverlapCounts) -> OverlapCounts:
        """Pool with the counts of another image."""
        return OverlapCounts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

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
        """TP / (TP + FN); NaN if there is nothing to find."""
        return _ratio(self.tp, self.tp + self.fn)


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
        ``dice iou precision recall volume_truth volume_prediction volume_false_positive``. The last says how much was
        invented: it is the score to read where the truth is empty and Dice can only be 0 (or NaN).

    Examples
    --------
    >>> scores = overlap_scores(OverlapCounts(tp=0, fp=5, fn=0), voxel_volume=2.0)
    >>> scores["dice"], scores["volume_false_positive"]
    (0.0, 10.0)
    """
    return {
        "dice": counts.dice, "iou": counts.iou, "precision": counts.precision, "recall": counts.recall,
        "volume_truth": (counts.tp + counts.fn) * voxel_volume,
        "volume_prediction": (counts.tp + counts.fp) * voxel_volume,
        "volume_false_positive": counts.fp * voxel_volume,
    }


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
    OverlapCounts(tp=1, fp=0, fn=1)
    >>> class_counts(table, regions=[(1, 2)])
    [OverlapCounts(tp=3, fp=0, fn=0)]
    """
    groups = [(k,) for k in range(len(table))] if regions is None else [tuple(r) for r in regions]
    result = []
    for group in groups:
        rows = np.isin(np.arange(len(table)), group)
        tp = int(table[np.ix_(rows, rows)].sum())
        result.append(OverlapCounts(tp, int(table[:, rows].sum()) - tp, int(table[rows].sum()) - tp))
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
    OverlapCounts(tp=1, fp=1, fn=1)
    """
    check_masks(prediction, truth, valid)
    both = prediction & truth
    masks = [both, prediction, truth] if valid is None else [both & valid, prediction & valid, truth & valid]
    tp, found, true = (int(np.count_nonzero(m)) for m in masks)
    return OverlapCounts(tp, found - tp, true - tp)


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
