"""Split and merge errors: true objects that were cut into pieces, predictions that hold several true objects.

The rule. A prediction is a *piece* of a true object if more than half of it lies inside that object and it covers at
least ``least`` of that object (a tenth, unless told otherwise): crumbs at a border are no pieces. A true object of
k ≥ 2 pieces is *split*, into k - 1 too many. A merge is the same with the roles exchanged: more than half of each of
k ≥ 2 true objects lies inside one prediction, and each makes up at least ``least`` of it; k - 1 boundaries are missing.
An object is a piece of one other at most, so no error is counted twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from biosegkit.errors import OptionError
from biosegkit.kernels.overlap import Overlaps

__all__ = ["SplitMergeCounts", "split_merge_counts", "split_merge_pairs"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SplitMergeCounts:
    """Splits and merges of one image, or the sum over many.

    Parameters
    ----------
    n_true, n_pred : int
        Objects in the truth and in the prediction.
    split : int
        True objects that are split.
    splits : int
        Pieces too many: for each split object, its pieces minus one.
    merged : int
        Predictions that merge true objects.
    merges : int
        Boundaries missing: for each of these, the true objects in it minus one.

    Examples
    --------
    >>> (SplitMergeCounts(10, 12, 2, 3, 0, 0) + SplitMergeCounts(10, 9, 0, 0, 1, 1)).split_rate
    0.1
    """

    n_true: int = 0
    n_pred: int = 0
    split: int = 0
    splits: int = 0
    merged: int = 0
    merges: int = 0

    def __add__(self, other: SplitMergeCounts) -> SplitMergeCounts:
        """Pool with the counts of other images."""
        return SplitMergeCounts(
            self.n_true + other.n_true, self.n_pred + other.n_pred, self.split + other.split,
            self.splits + other.splits, self.merged + other.merged, self.merges + other.merges,
        )

    @property
    def split_rate(self) -> float:
        """Share of the true objects that are split; NaN if there is none."""
        return self.split / self.n_true if self.n_true else float("nan")

    @property
    def merge_rate(self) -> float:
        """Share of the predictions that merge; NaN if there is none."""
        return self.merged / self.n_pred if self.n_pred else float("nan")

    def scores(self) -> dict[str, float]:
        """``split_rate`` and ``merge_rate``; the counts are the fields."""
        return {"split_rate": self.split_rate, "merge_rate": self.merge_rate}


def split_merge_counts(overlaps: Overlaps, least: float = 0.1) -> SplitMergeCounts:
    """Count the true objects that are split and the predictions that merge; see the module for the rule.

    Parameters
    ----------
    overlaps : Overlaps
        Of truth and prediction, in this order. Voxels under an ignore mask count nowhere.
    least : float
        Share of an object that a piece of it must cover, 0 to 0.5.

    Returns
    -------
    SplitMergeCounts
        Counts that can be added over images.

    Raises
    ------
    OptionError
        If ``least`` is outside 0 ... 0.5 (two pieces cannot both cover more than half).

    Examples
    --------
    >>> from biosegkit.kernels.overlap import overlap_counts
    >>> truth, found = np.array([1, 1, 1, 0, 2, 2, 3, 3]), np.array([4, 4, 5, 0, 6, 6, 6, 6])
    >>> split_merge_counts(overlap_counts(truth, found))
    SplitMergeCounts(n_true=3, n_pred=3, split=1, splits=1, merged=1, merges=1)
    """
    pieces, parts = split_merge_pairs(overlaps, least)
    split, merged = np.unique(pieces[:, 0]).size, np.unique(parts[:, 1]).size
    return SplitMergeCounts(overlaps.ids_a.size, overlaps.ids_b.size, split, len(pieces) - split, merged,
                            len(parts) - merged)


def split_merge_pairs(overlaps: Overlaps, least: float = 0.1) -> tuple[Ints, Ints]:
    """Which objects are split into which, and which are merged in which; see the module for the rule.

    Parameters
    ----------
    overlaps : Overlaps
        Of truth and prediction, in this order.
    least : float
        As for :func:`split_merge_counts`.

    Returns
    -------
    split, merged : ndarray of int64, (N, 2) and (M, 2)
        Ids (true, predicted): a split object and one of its pieces; one of several objects in a prediction, and that.

    Raises
    ------
    OptionError
        If ``least`` is outside 0 ... 0.5.

    Examples
    --------
    >>> from biosegkit.kernels.overlap import overlap_counts
    >>> truth, found = np.array([1, 1, 1, 0, 2, 2, 3, 3]), np.array([4, 4, 5, 0, 6, 6, 6, 6])
    >>> [pairs.tolist() for pairs in split_merge_pairs(overlap_counts(truth, found))]
    [[[1, 4], [1, 5]], [[2, 6], [3, 6]]]
    """
    if not 0 <= least <= 0.5:
        raise OptionError(f"a least share of {least}", expected="0 ... 0.5")
    i, j = overlaps.indexed()
    shared, true, found = overlaps.counts, overlaps.area_a[i], overlaps.area_b[j]
    pieces = overlaps.pairs[(2 * shared > found) & (shared >= least * true)]
    parts = overlaps.pairs[(2 * shared > true) & (shared >= least * found)]
    return _shared_by(pieces, 0), _shared_by(parts, 1)


def _shared_by(pairs: Ints, side: int) -> Ints:
    """The pairs whose object on one side occurs in two pairs or more."""
    _, inverse, counts = np.unique(pairs[:, side], return_inverse=True, return_counts=True)
    return pairs[counts[inverse.reshape(-1)] > 1]
