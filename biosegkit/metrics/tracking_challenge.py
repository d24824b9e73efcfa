"""SEG and DET of the Cell Tracking Challenge, for the frames of one or many sequences.

A predicted object *matches* a reference object if it covers more than half of it, strictly: R matches S where
|R ∩ S| > |R| / 2. A reference object so has one match at most; a prediction may match several.

- *SEG*: mean over all reference objects of the IoU with their match, 0 where there is none.
- *DET*: 1 - min(AOGM-D, AOGM-D₀) / AOGM-D₀, the normalised cost of correcting the detections: 5 for each split of a
  prediction that matches several (m - 1 splits for m matches), 10 for each reference object without a match, 1 for
  each prediction without a match; AOGM-D₀ = 10 per reference object is the cost of drawing all by hand.

SEG has no term for false positives, and DET none for shape: read them together. The challenge takes SEG from masks that
are drawn completely and DET from markers (its tracking truth), so that DET of complete masks, as here, is stricter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from biosegkit.kernels.overlap import Overlaps

__all__ = ["TrackingChallengeCounts", "tracking_challenge_counts"]

SPLIT, MISSED, INVENTED = 5, 10, 1  # published weights of w_NS, w_FN and w_FP


@dataclass(frozen=True)
class TrackingChallengeCounts:
    """Counts of one image, or the sum over many.

    Parameters
    ----------
    n_true : int
        Reference objects.
    matched : int
        Those with a match.
    invented : int
        Predictions without a match (false positives).
    splits : int
        Matches minus predictions that have a match: how often predictions must be split.
    iou_sum : float
        Sum of the IoU of the matches.

    Examples
    --------
    >>> counts = TrackingChallengeCounts(n_true=4, matched=3, invented=2, splits=1, iou_sum=2.4)
    >>> round(counts.seg, 3), round(counts.det, 3)
    (0.6, 0.575)
    """

    n_true: int = 0
    matched: int = 0
    invented: int = 0
    splits: int = 0
    iou_sum: float = 0.0

    def __add__(self, other: TrackingChallengeCounts) -> TrackingChallengeCounts:
        """Pool with the counts of other frames, as the challenge pools a sequence."""
        return TrackingChallengeCounts(
            self.n_true + other.n_true, self.matched + other.matched, self.invented + other.invented,
            self.splits + other.splits, self.iou_sum + other.iou_sum,
        )

    @property
    def missed(self) -> int:
        """Reference objects without a match (false negatives)."""
        return self.n_true - self.matched

    @property
    def seg(self) -> float:
        """Segmentation accuracy; NaN if there is no reference object."""
        return self.iou_sum / self.n_true if self.n_true else float("nan")

    @property
    def det(self) -> float:
        """Detection accuracy; NaN if there is no reference object."""
        scratch = MISSED * self.n_true
        cost = SPLIT * self.splits + MISSED * self.missed + INVENTED * self.invented
        return 1 - min(cost, scratch) / scratch if scratch else float("nan")

    def scores(self) -> dict[str, float]:
        """``seg`` and ``det``."""
        return {"seg": self.seg, "det": self.det}


def tracking_challenge_counts(overlaps: Overlaps) -> TrackingChallengeCounts:
    """Count matches, misses, inventions and splits in one image.

    Parameters
    ----------
    overlaps : Overlaps
        Of reference and prediction, in this order. A prediction without a match that lies to more than half under an
        ignore mask is not counted as invented.

    Returns
    -------
    TrackingChallengeCounts
        Counts that can be added over images.

    References
    ----------
    Matula et al., "Cell tracking accuracy measurement based on comparison of acyclic oriented graphs", PLoS ONE 10(12),
    2015 (AOGM, its weights and the matching rule). Maška et al., "The Cell Tracking Challenge: 10 years of objective
    benchmarking", Nature Methods 20, 2023 (DET). celltrackingchallenge.net/evaluation-methodology (SEG, DET).

    Examples
    --------
    >>> from biosegkit.kernels.overlap import overlap_counts
    >>> counts = tracking_challenge_counts(overlap_counts(np.array([1, 1, 0, 2, 2, 3]), np.array([5, 5, 5, 5, 5, 0])))
    >>> counts.matched, counts.missed, counts.splits, counts.seg
    (2, 1, 1, 0.26666666666666666)
    """
    i, j = overlaps.indexed()
    match = 2 * overlaps.counts > overlaps.area_a[i]
    has_match = np.zeros(overlaps.ids_b.size, bool)
    has_match[j[match]] = True
    matched = int(np.count_nonzero(match))
    invented = np.count_nonzero(~has_match & ~overlaps.mostly_ignored())
    return TrackingChallengeCounts(
        overlaps.ids_a.size, matched, int(invented), matched - int(np.count_nonzero(has_match)),
        float(np.sum(overlaps.iou()[match])),
    )
