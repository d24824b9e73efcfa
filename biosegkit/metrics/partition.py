"""Rand and information scores of a partition, for EM: V_rand, V_info, their split and merge parts, adapted Rand error.

A segmentation is taken as a partition of voxels, T of the truth and S of the prediction, and only the foreground of the
truth counts (*foreground-restricted*): the width of a drawn border is no error. With n_ij the voxels of true segment i
and predicted segment j, t_i and s_j their sums:

- V_rand split = Σ n_ij² / Σ t_i² falls with split errors, V_rand merge = Σ n_ij² / Σ s_j² with merge errors, and
  V_rand = Σ n_ij² / (½ Σ s_j² + ½ Σ t_i²), their harmonic mean (F-score);
- V_info split = I(S; T) / H(S), V_info merge = I(S; T) / H(T), V_info = 2 I(S; T) / (H(S) + H(T));
- variation of information: H(S|T) in bits, the split part, and H(T|S), the merge part; lower is better;
- *adapted Rand error* = 1 - the same F-score over pairs of two different voxels (n (n - 1) in place of n²), as
  scikit-image and the SNEMI3D script have it. It differs from 1 - V_rand by about the inverse of a segment's size.

True foreground that is predicted as background belongs to no segment: each such voxel is a segment of its own
(``background="voxels"``, as in the challenges), or all of them are one (``background="segment"``, as scikit-image).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from biosegkit.errors import OptionError
from biosegkit.kernels.overlap import Overlaps

__all__ = ["PartitionSums", "partition_sums"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PartitionSums:
    """What the scores are made of: of one image, or summed over many.

    Summed over images, pairs are pairs within one image, and information is averaged over voxels.

    Parameters
    ----------
    voxels : int
        Foreground voxels of the truth.
    joint, truth, prediction : int
        Sums of squares: of n_ij, of t_i, of s_j.
    split_bits, merge_bits : float
        Voxels times H(S|T), and times H(T|S), in bits.
    truth_bits, prediction_bits : float
        Voxels times H(T), and times H(S), in bits.

    Examples
    --------
    >>> halves = PartitionSums(4, joint=8, truth=16, prediction=8, split_bits=4.0, prediction_bits=4.0)
    >>> halves.v_rand_split, halves.v_rand_merge, round(halves.v_rand, 3)
    (0.5, 1.0, 0.667)
    """

    voxels: int = 0
    joint: int = 0
    truth: int = 0
    prediction: int = 0
    split_bits: float = 0.0
    merge_bits: float = 0.0
    truth_bits: float = 0.0
    prediction_bits: float = 0.0

    def __add__(self, other: PartitionSums) -> PartitionSums:
        """Pool with the sums of other images."""
        return PartitionSums(
            self.voxels + other.voxels, self.joint + other.joint, self.truth + other.truth,
            self.prediction + other.prediction, self.split_bits + other.split_bits,
            self.merge_bits + other.merge_bits, self.truth_bits + other.truth_bits,
            self.prediction_bits + other.prediction_bits,
        )

    @property
    def v_rand_split(self) -> float:
        """Of the pairs of voxels that belong together, the share that stayed so; NaN without true foreground."""
        return _ratio(self.joint, self.truth)

    @property
    def v_rand_merge(self) -> float:
        """Of the pairs of voxels that were put together, the share that belongs so; NaN without true foreground."""
        return _ratio(self.joint, self.prediction)

    @property
    def v_rand(self) -> float:
        """F-score of the two; NaN without true foreground."""
        return _ratio(2 * self.joint, self.truth + self.prediction)

    @property
    def adapted_rand_error(self) -> float:
        """1 - F-score over pairs of different voxels; NaN if no segment has two voxels."""
        return 1 - _ratio(2 * (self.joint - self.voxels), self.truth + self.prediction - 2 * self.voxels)

    @property
    def vi_split(self) -> float:
        """H(S|T) in bits per voxel; NaN without true foreground."""
        return _ratio(self.split_bits, self.voxels)

    @property
    def vi_merge(self) -> float:
        """H(T|S) in bits per voxel; NaN without true foreground."""
        return _ratio(self.merge_bits, self.voxels)

    @property
    def variation_of_information(self) -> float:
        """H(S|T) + H(T|S) in bits per voxel; NaN without true foreground."""
        return self.vi_split + self.vi_merge

    @property
    def v_info_split(self) -> float:
        """I(S; T) / H(S): 1 if nothing is split; NaN without true foreground."""
        return self._information(self.prediction_bits - self.split_bits, self.prediction_bits)

    @property
    def v_info_merge(self) -> float:
        """I(S; T) / H(T): 1 if nothing is merged; NaN without true foreground."""
        return self._information(self.truth_bits - self.merge_bits, self.truth_bits)

    @property
    def v_info(self) -> float:
        """F-score of the two; NaN without true foreground."""
        entropies = self.truth_bits + self.prediction_bits
        return self._information(entropies - self.split_bits - self.merge_bits, entropies)

    def _information(self, shared: float, whole: float) -> float:
        """Their ratio; one segment has no entropy, and nothing of it can be lost."""
        return shared / whole if whole else float("nan") if not self.voxels else 1.0

    def scores(self) -> dict[str, float]:
        """Every score by name."""
        names = ("v_rand", "v_rand_split", "v_rand_merge", "adapted_rand_error", "v_info", "v_info_split",
                 "v_info_merge", "variation_of_information", "vi_split", "vi_merge")
        return {name: getattr(self, name) for name in names}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def partition_sums(overlaps: Overlaps, background: str = "voxels") -> PartitionSums:
    """Sum pairs and information over the true foreground of one image; see the module for the scores.

    Parameters
    ----------
    overlaps : Overlaps
        Of truth and prediction, in this order. Voxels under an ignore mask count nowhere.
    background : {"voxels", "segment"}
        What true foreground without a predicted segment is: segments of one voxel, or one segment.

    Returns
    -------
    PartitionSums
        Sums that can be added over images.

    Raises
    ------
    OptionError
        If ``background`` is neither.

    References
    ----------
    Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for connectomics", Frontiers
    in Neuroanatomy 9:142, 2015 (V_rand, V_info). Meilă, "Comparing clusterings — an information based
    distance", Journal of Multivariate Analysis 98, 2007.

    Examples
    --------
    >>> from biosegkit.kernels.overlap import overlap_counts
    >>> found = partition_sums(overlap_counts(np.array([1, 1, 1, 1, 0]), np.array([2, 2, 3, 3, 3])))
    >>> found.v_rand_split, found.v_rand_merge, found.vi_split, found.vi_merge
    (0.5, 1.0, 1.0, 0.0)
    """
    if background not in ("voxels", "segment"):
        raise OptionError(f"background {background!r}", expected="'voxels' or 'segment'")
    i, j = overlaps.indexed()
    shared, true = overlaps.counts, overlaps.area_a
    found = np.bincount(j, weights=shared, minlength=overlaps.ids_b.size).astype(np.int64)
    lost = true - np.bincount(i, weights=shared, minlength=true.size).astype(np.int64)
    n, bare = int(true.sum()), int(lost.sum())
    shared, loss = shared[shared > 0], lost[lost > 0]
    if background == "segment":
        shared, found, bare = np.concatenate([shared, loss]), np.append(found, bare), 0
    # A voxel that is a segment of its own adds 1 to a sum of squares and nothing to Σ n log n.
    joint_log, true_log, found_log = _n_log_n(shared), _n_log_n(true), _n_log_n(found)
    total = _n_log_n(np.array([n]))
    return PartitionSums(
        n, _squares(shared) + bare, _squares(true), _squares(found) + bare,
        split_bits=true_log - joint_log, merge_bits=found_log - joint_log,
        truth_bits=total - true_log, prediction_bits=total - found_log,
    )


def _squares(counts: Ints) -> int:
    """Sum of squares, exact: that of a large volume does not fit into 64 bits."""
    return sum(c * c for c in counts.tolist())


def _n_log_n(counts: Ints) -> float:
    """Σ n log2 n, with 0 log 0 = 0."""
    filled = counts[counts > 0].astype(np.float64)
    return float(np.sum(np.sort(filled * np.log2(filled))))  # in order of size: ids do not change the last digit
