"""How sure a score is: bootstrap intervals over cases, and the paired comparison of two models on the same cases.

Every score of a set of cases here is a function of *sums over cases*: a mean is a sum of values over a count of cases,
a pooled Dice is a function of summed voxel counts. So a resample is a vector of multiplicities, its score is the
function at the weighted sums, and the jackknife is the total less one row; no image is looked at again. Cases of one
patient are not independent: with ``groups`` their rows are added first, and groups are drawn instead of cases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri, stdtrit

from biosegkit._words import counted
from biosegkit.errors import OptionError

__all__ = ["Bootstrap", "Difference", "Estimate", "Intervals", "holm", "intervals", "mean_estimate",
           "paired_difference"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

#: Multiplicities drawn at a time; bounds the memory.
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made.

    Parameters
    ----------
    level : float
        Coverage aimed at.
    resamples : int
        Sets of cases drawn with replacement.
    seed : int
        Same seed, same interval.
    method : {"bca", "percentile"}
        Bias-corrected and accelerated, or plain quantiles; both widened for few cases, see :func:`intervals`.
    smallest : int
        Below so many independent cases there is no interval: four numbers cannot tell their spread.
    """

    level: float = 0.95
    resamples: int = 2000
    seed: int = 0
    method: str = "bca"
    smallest: int = 5

    def __post_init__(self) -> None:
        """Refuse what makes no interval."""
        if not 0 < self.level < 1 or self.resamples < 100:
            raise OptionError(f"level {self.level}, {self.resamples} resamples", expected="0 < level < 1, 100 or more")
        if self.method not in ("bca", "percentile"):
            raise OptionError(f"interval method {self.method!r}", expected="bca or percentile")


@dataclass(frozen=True, eq=False)
class Estimate:
    """Scores as a function of sums over cases.

    Parameters
    ----------
    rows : ndarray, (n, k)
        What each case adds to the sums.
    function : callable
        Sums of shape (r, k) to scores of shape (r, m); NaN where undefined.
    defined : ndarray of bool, (n, m)
        Which cases say something about which score.
    """

    rows: Floats
    function: Callable[[Floats], Floats]
    defined: Bools


@dataclass(frozen=True, eq=False)
class Intervals:
    """Scores with the ends of their intervals, each (m,); NaN ends where there are too few cases.

    ``units`` counts the independent cases (groups, where given) behind each score.
    """

    value: Floats
    low: Floats
    high: Floats
    units: npt.NDArray[np.int64]


def mean_estimate(values: npt.ArrayLike) -> Estimate:
    """The mean over the cases where a score is defined.

    Parameters
    ----------
    values : array, (n,) or (n, m)
        One row per case; NaN where undefined.

    Examples
    --------
    >>> found = mean_estimate([0.5, float("nan"), 1.0])
    >>> found.function(found.rows.sum(0, keepdims=True)).tolist()
    [[0.75]]
    """
    table = np.asarray(values, np.float64)
    table = table[:, None] if table.ndim == 1 else table
    known, m = ~np.isnan(table), table.shape[1]
    return Estimate(np.hstack([np.where(known, table, 0.0), known]), lambda sums: _ratio(sums[:, :m], sums[:, m:]),
                    known)


def _ratio(part: Floats, whole: Floats) -> Floats:
    """Elementwise quotient, NaN where there is nothing to divide by (weighted counts are whole numbers)."""
    return np.asarray(np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0.5))


def intervals(estimate: Estimate, options: Bootstrap | None = None, groups: Sequence[Any] | None = None) -> Intervals:
    """Confidence intervals by drawing cases with replacement.

    With n independent cases the bootstrap distribution is too narrow by about sqrt((n - 1) / n) and has normal instead
    of Student tails; both are corrected by moving the quantiles outwards (Hesterberg 2015, section 4.1), which matters
    below 20 cases.

    Parameters
    ----------
    estimate : Estimate
        The scores.
    options : Bootstrap, optional
        Level, resamples, seed, method.
    groups : sequence, optional
        The patient or slide of each case; cases of one group are drawn together.

    Returns
    -------
    Intervals
        NaN ends for a score that fewer than ``options.smallest`` groups know.

    Raises
    ------
    OptionError
        If there is not one group per case.

    References
    ----------
    Efron, "Better bootstrap confidence intervals", JASA 1987 (BCa). Hesterberg, "What teachers should know about the
    bootstrap", The American Statistician 2015 (narrowness, expanded quantiles). Davison and Hinkley, "Bootstrap
    methods and their application", 1997, section 3.8 (groups).

    Examples
    --------
    >>> found = intervals(mean_estimate([0.80, 0.84, 0.79, 0.91, 0.88, 0.86]))
    >>> found.value.round(3).tolist(), found.low.round(2).tolist(), found.high.round(2).tolist()
    ([0.847], [0.8], [0.89])
    """
    options = options or Bootstrap()
    rows, defined = _by_group(estimate, groups)
    value = estimate.function(rows.sum(0, keepdims=True))[0]
    units = defined.sum(0)
    low, high = np.full(value.size, np.nan), np.full(value.size, np.nan)
    if (units >= options.smallest).any():
        drawn = _drawn(rows, estimate.function, options)
        left_out = estimate.function(rows.sum(0) - rows)
        for k in np.flatnonzero((units >= options.smallest) & np.isfinite(value)):
            low[k], high[k] = _ends(drawn[:, k], float(value[k]), left_out[defined[:, k], k], options)
    return Intervals(value, low, high, units)


def _by_group(estimate: Estimate, groups: Sequence[Any] | None) -> tuple[Floats, Bools]:
    """Rows added up within each group, and which groups know which score."""
    if groups is None:
        return estimate.rows, estimate.defined
    if len(groups) != len(estimate.rows):
        raise OptionError(f"{counted(len(groups), 'group')} for {counted(len(estimate.rows), 'case')}",
                          expected="one group per case")
    names = {name: k for k, name in enumerate(dict.fromkeys(groups))}
    place = np.array([names[g] for g in groups], np.int64)
    rows = np.zeros((len(names), estimate.rows.shape[1]))
    known = np.zeros((len(names), estimate.defined.shape[1]), bool)
    np.add.at(rows, place, estimate.rows)
    np.logical_or.at(known, place, estimate.defined)
    return rows, known


def _drawn(rows: Floats, function: Callable[[Floats], Floats], options: Bootstrap) -> Floats:
    """Scores of every resample, (resamples, m)."""
    rng, n = np.random.default_rng([options.seed, len(rows)]), len(rows)
    step = max(1, _CHUNK // n)
    parts = [function(rng.multinomial(n, np.full(n, 1 / n), size=min(step, options.resamples - start)) @ rows)
             for start in range(0, options.resamples, step)]
    return np.concatenate(parts)


def _ends(drawn: Floats, value: float, left_out: Floats, options: Bootstrap) -> tuple[float, float]:
    """Both ends of one interval from the resampled scores and the jackknife."""
    drawn, left_out = drawn[np.isfinite(drawn)], left_out[np.isfinite(left_out)]
    n = left_out.size
    if not drawn.size or n < 2:
        return np.nan, np.nan
    tail = (1 - options.level) / 2
    wide = np.sqrt(n / (n - 1)) * stdtrit(n - 1, [tail, 1 - tail])
    if options.method == "bca":
        below = np.count_nonzero(drawn < value) + np.count_nonzero(drawn == value) / 2
        shift = ndtri(np.clip(below / drawn.size, 1 / (drawn.size + 1), drawn.size / (drawn.size + 1)))
        skew = left_out.mean() - left_out
        spread = float((skew**2).sum())
        bend = float((skew**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
        wide = shift + (shift + wide) / np.maximum(1 - bend * (shift + wide), 1e-6)
    low, high = np.quantile(drawn, ndtr(wide))
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """One model less another, on the cases where both have the score.

    Parameters
    ----------
    cases, only_first, only_second, neither : int
        Cases where the score is defined for both, for one only, for none; only the first enter the comparison.
    mean, median : float
        Of the paired differences, first less second; NaN without a case.
    low, high : float
        Bootstrap interval of the mean; NaN with too few cases.
    p : float
        Two-sided p value of Wilcoxon's signed-rank test; NaN with too few cases.
    wins, ties, losses : int
        Cases where the first is better, equal, worse.
    """

    cases: int
    only_first: int
    only_second: int
    neither: int
    mean: float
    median: float
    low: float
    high: float
    p: float
    wins: int
    ties: int
    losses: int


def paired_difference(first: npt.ArrayLike, second: npt.ArrayLike, *, lower_is_better: bool = False,
                      options: Bootstrap | None = None, groups: Sequence[Any] | None = None) -> Difference:
    """Compare two models on the same cases.

    Differences below 1e-12 are ties: rounding is no victory. With groups, the interval draws groups, and the test sees
    one number per group, the mean of its differences.

    Parameters
    ----------
    first, second : array, (n,)
        A score of each case; NaN where undefined.
    lower_is_better : bool
        Distances and errors: the smaller wins.
    options : Bootstrap, optional
        Of the interval.
    groups : sequence, optional
        The patient or slide of each case.

    Returns
    -------
    Difference
        See there.

    Raises
    ------
    OptionError
        If the two have not the same cases.

    References
    ----------
    Wilcoxon, "Individual comparisons by ranking methods", 1945. Demšar, "Statistical comparisons of classifiers over
    multiple data sets", JMLR 2006, section 3.1.3.

    Examples
    --------
    >>> found = paired_difference([0.9, 0.8, 0.7, float("nan")], [0.8, 0.8, 0.8, 0.5])
    >>> found.cases, found.only_second, round(found.mean, 12), (found.wins, found.ties, found.losses)
    (3, 1, 0.0, (1, 1, 1))
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise OptionError(f"scores of shapes {a.shape} and {b.shape}", expected="one number per case of both models")
    options = options or Bootstrap()
    known_a, known_b = ~np.isnan(a), ~np.isnan(b)
    both = known_a & known_b
    gaps = np.round(a[both] - b[both], 12)
    place = None if groups is None else [g for g, k in zip(groups, both, strict=True) if k]
    better = -gaps if lower_is_better else gaps
    empty = not gaps.size
    found = None if empty else intervals(mean_estimate(gaps), options, place)
    return Difference(
        cases=int(both.sum()), only_first=int((known_a & ~known_b).sum()), only_second=int((known_b & ~known_a).sum()),
        neither=int((~known_a & ~known_b).sum()), mean=np.nan if empty else float(gaps.mean()),
        median=np.nan if empty else float(np.median(gaps)), low=np.nan if found is None else float(found.low[0]),
        high=np.nan if found is None else float(found.high[0]), p=_signed_rank(gaps, place, options.smallest),
        wins=int((better > 0).sum()), ties=int((better == 0).sum()), losses=int((better < 0).sum()))


def _signed_rank(gaps: Floats, groups: Sequence[Any] | None, smallest: int) -> float:
    """Two-sided p value of independent differences; 1 if all are ties."""
    from scipy.stats import wilcoxon  # slow to import, and only comparisons need it

    if groups is not None and gaps.size:
        members: dict[Any, list[float]] = {}
        for group, gap in zip(groups, gaps, strict=True):
            members.setdefault(group, []).append(float(gap))
        gaps = np.round([np.mean(m) for m in members.values()], 12)
    if gaps.size < smallest:
        return float("nan")
    return float(wilcoxon(gaps).pvalue) if gaps.any() else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for testing several scores at once (Holm 1979); NaN stays and is not counted.

    Examples
    --------
    >>> holm([0.01, 0.04, float("nan"), 0.03])
    [0.03, 0.06, nan, 0.06]
    """
    order = sorted((k for k, p in enumerate(p_values) if not np.isnan(p)), key=lambda k: p_values[k])
    adjusted, largest = [float(p) for p in p_values], 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[k]))
        adjusted[k] = largest
    return adjusted
