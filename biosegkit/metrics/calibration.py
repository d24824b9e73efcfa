"""Whether probabilities mean what they say: calibration error, Brier score, log-likelihood and the reliability curve.

Everything is kept as counts and sums, so that cases are pooled by adding; the pooled calibration error is not the mean
of the errors of the cases. Most voxels of most images are easy background: an error over all of them is small whatever
the network does at the objects, so that ``foreground`` looks only where truth or prediction is not background.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit._words import counted
from biosegkit.errors import DataError, OptionError

__all__ = ["CalibrationCounts", "calibration_counts", "mask_calibration_counts"]

Floats = npt.NDArray[np.float64]
_CHUNK = 1 << 18
_SUM = 2e-2  # how far stored probabilities (half precision, quantised) may be from adding up to one
_LEAST = 1e-12  # a probability of 0 for what is there costs 27.6 nats, not infinity


@dataclass(frozen=True)
class CalibrationCounts:
    """Sums over voxels from which calibration is computed; add them to pool cases.

    Parameters
    ----------
    count : tuple of int
        Voxels per bin of confidence; M bins of equal width, bin m holds ((m - 1) / M, m / M], the first one 0 too.
    confidence, correct : tuple of float
        Per bin: sum of the confidences, and number of voxels that were right.
    squared, log : float
        Sums over voxels of the squared error and of the negative log-likelihood (in nats).

    Examples
    --------
    >>> counts = mask_calibration_counts(np.array([0.9, 0.9, 0.2]), np.array([True, False, False]), n_bins=5)
    >>> round(counts.ece, 3), round(counts.mce, 3), round(counts.brier, 3)
    (0.333, 0.4, 0.287)
    >>> (counts + counts).ece == counts.ece
    True
    """

    count: tuple[int, ...]
    confidence: tuple[float, ...]
    correct: tuple[float, ...]
    squared: float
    log: float

    def __add__(self, other: CalibrationCounts) -> CalibrationCounts:
        """Pool with another case; both must have the same bins."""
        if len(self.count) != len(other.count):
            raise OptionError(counted(len(other.count), "bin"),
                              expected=f"{len(self.count)}, as in what it is added to")
        return CalibrationCounts(
            tuple(a + b for a, b in zip(self.count, other.count, strict=True)),
            tuple(a + b for a, b in zip(self.confidence, other.confidence, strict=True)),
            tuple(a + b for a, b in zip(self.correct, other.correct, strict=True)),
            self.squared + other.squared, self.log + other.log,
        )

    @property
    def voxels(self) -> int:
        """How many voxels were counted."""
        return sum(self.count)

    @property
    def ece(self) -> float:
        """Expected calibration error: sum over bins of n_m / n |accuracy - confidence| (Guo 2017, eq. 3)."""
        return _over(sum(abs(a - c) for a, c in zip(self.correct, self.confidence, strict=True)), self.voxels)

    @property
    def mce(self) -> float:
        """Maximum calibration error: the largest |accuracy - confidence| of a bin that is not empty (eq. 5)."""
        gaps = [abs(a - c) / n for n, c, a in zip(self.count, self.confidence, self.correct, strict=True) if n]
        return max(gaps, default=float("nan"))

    @property
    def brier(self) -> float:
        """Mean squared error; see the function that counted for its range."""
        return _over(self.squared, self.voxels)

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood in nats."""
        return _over(self.log, self.voxels)

    def scores(self) -> dict[str, float]:
        """``ece mce brier nll``, all NaN if no voxel was counted."""
        return {"ece": self.ece, "mce": self.mce, "brier": self.brier, "nll": self.nll}

    def reliability(self) -> dict[str, Floats]:
        """Give the reliability curve: arrays over bins ``low high count confidence accuracy``; NaN in empty bins."""
        edges, count = np.linspace(0.0, 1.0, len(self.count) + 1), np.array(self.count, np.float64)
        with np.errstate(invalid="ignore"):
            means = (np.array(sums) / count for sums in (self.confidence, self.correct))
            confidence, accuracy = means
        return {"low": edges[:-1], "high": edges[1:], "count": count, "confidence": confidence, "accuracy": accuracy}


def _over(total: float, count: int) -> float:
    return total / count if count else float("nan")


def calibration_counts(
    probabilities: npt.NDArray[Any],
    truth: npt.NDArray[Any],
    *,
    n_bins: int = 15,
    foreground: bool = False,
    valid: npt.NDArray[np.bool_] | None = None,
) -> CalibrationCounts:
    """Calibration of the chosen class ("top label") from the probabilities of classes that exclude each other.

    Parameters
    ----------
    probabilities : ndarray of float, (C, Z, Y, X), (C, Y, X) or (C, any n)
        Softmax output, background first; adds up to 1 over the classes.
    truth : ndarray of bool or int, same shape without the first axis
        Class map with values 0 ... C - 1.
    n_bins : int
        Bins of equal width; 15 as in Guo et al.
    foreground : bool
        Leave out voxels that are background (class 0) both in the truth and by the largest probability.
    valid : ndarray of bool, same shape as the truth, optional
        Voxels to count (not under an ignore label).

    Returns
    -------
    CalibrationCounts
        Confidence is the largest probability, correct is whether its class (the first of equals) is the true one.
        ``brier`` is Brier's original sum over classes of (p - y)², from 0 to 2; ``nll`` is -log p of the true class,
        p no smaller than 1e-12. All scores are NaN if no voxel counts. For one class alone ("class-wise" calibration,
        Kull 2019; static calibration error, Nixon 2019) use :func:`mask_calibration_counts`.

    Raises
    ------
    DataError
        If shapes do not fit, classes are unknown, or values are no probabilities.
    OptionError
        If there is no bin.

    References
    ----------
    Guo et al., "On calibration of modern neural networks", ICML 2017, equations 1 to 5. Brier, "Verification of
    forecasts expressed in terms of probability", Monthly Weather Review 78, 1950, equation 2.

    Examples
    --------
    >>> probabilities = np.array([[0.9, 0.4, 0.3], [0.1, 0.6, 0.7]])
    >>> counts = calibration_counts(probabilities, np.array([0, 1, 0]), n_bins=2)
    >>> round(counts.ece, 4), round(counts.brier, 4)
    (0.0667, 0.44)
    """
    _check(probabilities.shape[1:], truth, n_bins, valid)
    flat, true = probabilities.reshape(len(probabilities), -1), truth.reshape(-1)
    keep = None if valid is None else valid.reshape(-1)
    sums = _Sums(n_bins)
    for start in range(0, true.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        p, y = flat[:, part].astype(np.float64), true[part].astype(np.int64)
        if keep is not None:
            p, y = p[:, keep[part]], y[keep[part]]
        _check_values(p, y, summed=True)
        chosen = p.argmax(0)
        if foreground:
            near = (chosen > 0) | (y > 0)
            p, y, chosen = p[:, near], y[near], chosen[near]
        hit = np.take_along_axis(p, y[None], 0)[0]
        sums.add(p.max(0), chosen == y, (p * p).sum(0) - 2 * hit + 1, hit)
    return sums.counts()


def mask_calibration_counts(
    probability: npt.NDArray[Any],
    truth: npt.NDArray[np.bool_],
    *,
    n_bins: int = 15,
    foreground: bool = False,
    valid: npt.NDArray[np.bool_] | None = None,
) -> CalibrationCounts:
    """Calibration of the probability of one class or region, taken as a yes-or-no question.

    Parameters
    ----------
    probability : ndarray of float, any shape
        Probability that a voxel belongs to the class: one channel of a softmax, or a sigmoid output.
    truth : ndarray of bool, same shape
        Whether it does.
    n_bins : int
        Bins of equal width.
    foreground : bool
        Leave out voxels that are outside in the truth and have a probability below one half.
    valid : ndarray of bool, same shape, optional
        Voxels to count.

    Returns
    -------
    CalibrationCounts
        Confidence is the probability itself (not that of the more likely answer), correct is whether the voxel is of
        the class. ``brier`` is the mean of (p - y)², from 0 to 1: half of Brier's sum over the two answers.

    Raises
    ------
    DataError
        If shapes do not fit, the truth is no mask, or values are no probabilities.
    OptionError
        If there is no bin.

    References
    ----------
    Nixon et al., "Measuring calibration in deep learning", CVPR workshops 2019 (static calibration error: the mean
    of this ECE over classes).

    Examples
    --------
    >>> mask_calibration_counts(np.array([0.75, 0.25]), np.array([True, False])).ece
    0.25
    """
    _check(probability.shape, truth, n_bins, valid)
    if truth.dtype != np.bool_:
        raise DataError(f"a mask of type {truth.dtype}", expected="bool", remedy="pass mask != 0")
    flat, true = probability.reshape(-1), truth.reshape(-1)
    keep = None if valid is None else valid.reshape(-1)
    sums = _Sums(n_bins)
    for start in range(0, true.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        p, y = flat[part].astype(np.float64), true[part]
        if keep is not None:
            p, y = p[keep[part]], y[keep[part]]
        _check_values(p[None], y, summed=False)
        if foreground:
            near = y | (p >= 0.5)
            p, y = p[near], y[near]
        sums.add(p, y, (p - y) ** 2, np.where(y, p, 1 - p))
    return sums.counts()


class _Sums:
    """Running sums of one case, piece by piece."""

    def __init__(self, n_bins: int) -> None:
        self.bins = np.zeros((3, n_bins))
        self.squared = self.log = 0.0

    def add(self, confidence: Floats, correct: npt.NDArray[np.bool_], squared: Floats, hit: Floats) -> None:
        """Take in one piece; ``hit`` is the probability given to what is there."""
        n_bins = self.bins.shape[1]
        # ceil of the product alone would let 0.6 * 5 = 3.0000000000000004 slip: edges are compared as they are shown
        index = np.clip(np.searchsorted(np.linspace(0.0, 1.0, n_bins + 1), confidence) - 1, 0, n_bins - 1)
        for row, weights in zip(self.bins, (None, confidence, correct), strict=True):
            row += np.bincount(index, weights, n_bins)
        self.squared += float(squared.sum())
        self.log -= float(np.log(np.maximum(hit, _LEAST)).sum())

    def counts(self) -> CalibrationCounts:
        """The sums as plain numbers."""
        count, confidence, correct = self.bins.tolist()
        return CalibrationCounts(tuple(int(n) for n in count), tuple(confidence), tuple(correct), self.squared,
                                 self.log)


def _check(
    shape: tuple[int, ...], truth: npt.NDArray[Any], n_bins: int, valid: npt.NDArray[np.bool_] | None
) -> None:
    """Refuse what does not fit together."""
    if shape != truth.shape or (valid is not None and valid.shape != truth.shape):
        raise DataError(
            f"probabilities of {shape}, truth {truth.shape}" + ("" if valid is None else f", valid {valid.shape}"),
            expected="equal shapes (classes before them)",
        )
    if valid is not None and valid.dtype != np.bool_:
        raise DataError(f"a valid mask of type {valid.dtype}", expected="bool", remedy="pass mask != 0")
    if truth.dtype.kind not in "bui":
        raise DataError(f"a class map of type {truth.dtype}", expected="an integer type")
    if n_bins < 1:
        raise OptionError(f"{n_bins} bins", expected="at least 1")


def _check_values(p: Floats, truth: npt.NDArray[Any], *, summed: bool) -> None:
    """Refuse unknown classes and what is no probability (logits, say)."""
    if not truth.size:
        return
    if truth.min() < 0 or (summed and truth.max() >= len(p)):
        raise DataError(f"classes {truth.min()} ... {truth.max()}", expected=f"0 ... {len(p) - 1}")
    low, high = float(p.min()), float(p.max())
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise DataError(f"values {low:g} ... {high:g}", expected="probabilities between 0 and 1",
                        remedy="apply softmax or sigmoid first")
    if summed and not np.abs(p.sum(0) - 1).max() <= _SUM:
        raise DataError(f"probabilities that add up to {p.sum(0).min():g} ... {p.sum(0).max():g}",
                        expected="1 over the classes", remedy="count overlapping regions one by one as masks")
