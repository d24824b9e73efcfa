"""Intervals and paired comparison: coverage in simulations, differences by hand, groups, scipy as oracle."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from biosegkit.errors import OptionError
from biosegkit.metrics.statistics import Bootstrap, Estimate, holm, intervals, mean_estimate, paired_difference

FEW = Bootstrap(resamples=600)


@pytest.mark.parametrize("method", ["bca", "percentile"])
@pytest.mark.parametrize(("n", "least"), [(8, 0.90), (25, 0.92)])
def test_a_95_percent_interval_covers_the_known_mean_about_95_times_of_100(n, least, method):
    """Scores as Dice has them, skewed towards 1: 300 simulated data sets with a mean of 18/21."""
    rng = np.random.default_rng([n])
    options = Bootstrap(resamples=600, method=method)
    covered = 0
    for _ in range(300):
        found = intervals(mean_estimate(rng.beta(18, 3, n)), options)
        covered += bool(found.low[0] <= 18 / 21 <= found.high[0])
    assert least <= covered / 300 <= 0.99


def test_cases_of_one_patient_do_not_count_as_many():
    """Ten slices of each of eight patients: only the interval that knows the patients covers the mean."""
    rng = np.random.default_rng([3])
    patient = np.repeat(np.arange(8), 10)
    covered = {"cases": 0, "groups": 0}
    for _ in range(150):
        values = mean_estimate(rng.normal(0, 1, 8)[patient] + rng.normal(0, 0.3, 80))
        for name, groups in (("cases", None), ("groups", patient)):
            found = intervals(values, FEW, groups)
            covered[name] += bool(found.low[0] <= 0 <= found.high[0])
    assert covered["groups"] / 150 > 0.88
    assert covered["cases"] / 150 < 0.65


def test_the_quantiles_are_those_of_all_resamples_of_a_small_set():
    """Five cases have 3125 ordered resamples: the plain quantiles, moved outwards as stated, against all of them."""
    values = np.array([0.2, 0.5, 0.55, 0.7, 0.95])
    means = np.array([np.mean(s) for s in itertools.product(values, repeat=5)])
    wide = stats.norm.cdf(np.sqrt(5 / 4) * stats.t.ppf([0.025, 0.975], 4))
    found = intervals(mean_estimate(values), Bootstrap(method="percentile", resamples=20_000))
    assert [found.low[0], found.high[0]] == pytest.approx(np.quantile(means, wide), abs=0.02)


def test_bca_agrees_with_scipy_where_there_are_many_cases():
    values = np.random.default_rng([1]).lognormal(0, 1, 400)
    found = intervals(mean_estimate(values), Bootstrap(resamples=5000))
    other = stats.bootstrap((values,), np.mean, n_resamples=5000, method="BCa", rng=np.random.default_rng(0))
    expected = [other.confidence_interval.low, other.confidence_interval.high]
    assert [found.low[0], found.high[0]] == pytest.approx(expected, abs=0.05)


def test_a_pooled_score_is_recomputed_from_the_counts_of_each_resample():
    """Two unequal cases decide a pooled ratio by their size; the interval spans what their shares allow."""
    rows = np.array([[90.0, 100.0], [1.0, 10.0], [2.0, 10.0], [3.0, 10.0], [2.0, 10.0]])
    pooled = Estimate(rows, lambda sums: sums[:, :1] / sums[:, 1:], np.ones((5, 1), bool))
    found = intervals(pooled, FEW)
    assert found.value[0] == 98 / 140
    assert found.low[0] < 0.25
    assert found.high[0] > 0.8


def test_few_cases_have_no_interval_and_undefined_ones_do_not_count():
    nan = float("nan")
    found = intervals(mean_estimate([[0.5, 0.1], [0.6, nan], [0.7, 0.2], [0.8, 0.3], [0.9, 0.4]]), FEW)
    assert found.value.tolist() == pytest.approx([0.7, 0.25])
    assert found.units.tolist() == [5, 4]
    assert found.low[0] < 0.7 < found.high[0]
    assert np.isnan([found.low[1], found.high[1]]).all()
    grouped = intervals(mean_estimate([0.1] * 9), FEW, groups=["a", "b", "c"] * 3)
    assert np.isnan(grouped.low).all()
    assert grouped.units.tolist() == [3]


def test_equal_scores_have_an_interval_without_width_and_seeds_decide():
    same = intervals(mean_estimate([0.9] * 6), FEW)
    assert (same.low[0], same.high[0]) == pytest.approx((0.9, 0.9))
    values = mean_estimate(np.random.default_rng(0).random(9))
    first, again, other = (intervals(values, Bootstrap(seed=s)) for s in (0, 0, 1))
    assert first.low.tolist() == again.low.tolist()
    assert first.low.tolist() != other.low.tolist()


def test_differences_by_hand():
    nan = float("nan")
    first = [0.90, 0.80, 0.70, 0.85, 0.60, 0.75, nan, 0.5, nan]
    second = [0.85, 0.82, 0.60, 0.85, 0.50, 0.60, 0.9, nan, nan]
    found = paired_difference(first, second)
    # 0.05, -0.02, 0.10, 0, 0.10, 0.15
    assert (found.cases, found.only_first, found.only_second, found.neither) == (6, 1, 1, 1)
    assert (found.wins, found.ties, found.losses) == (4, 1, 1)
    assert (found.mean, found.median) == (pytest.approx(0.38 / 6), pytest.approx(0.075))
    assert found.low < found.mean < found.high
    # ranks of |d| without the tie: 0.02 → 1 (negative), 0.05 → 2, two of 3.5, 0.15 → 5: W = 1; every sign pattern
    ranks = np.array([2, 1, 3.5, 3.5, 5])
    sums = [sum(r for r, s in zip(ranks, signs, strict=True) if s) for signs in itertools.product([0, 1], repeat=5)]
    expected = 2 * np.mean([s <= 1 for s in sums])
    assert found.p == pytest.approx(expected)


def test_a_comparison_is_symmetric_and_lower_may_be_better():
    rng = np.random.default_rng([8])
    a, b = rng.random(14), rng.random(14)
    one, two = paired_difference(a, b, options=FEW), paired_difference(b, a, options=FEW)
    assert (one.mean, one.low, one.high) == pytest.approx((-two.mean, -two.high, -two.low), abs=1e-9)
    assert one.p == two.p
    assert (one.wins, one.losses) == (two.losses, two.wins)
    distance = paired_difference(a, b, lower_is_better=True, options=FEW)
    assert (distance.wins, distance.mean) == (one.losses, one.mean)


def test_p_values_are_uniform_when_there_is_no_difference():
    rng = np.random.default_rng([4])
    p = [paired_difference(rng.random(12), rng.random(12), options=Bootstrap(resamples=100)).p for _ in range(300)]
    assert 0.01 < np.mean(np.array(p) < 0.05) < 0.10


def test_ties_are_no_victory_and_few_cases_no_test():
    same = paired_difference([0.3] * 7, [0.1 + 0.2] * 7)
    assert (same.ties, same.p, same.low, same.high) == (7, 1.0, 0.0, 0.0)
    few = paired_difference([1.0, 2.0], [0.0, 0.0])
    assert few.mean == 1.5
    assert np.isnan([few.p, few.low]).all()
    nothing = paired_difference([float("nan")], [1.0])
    assert (nothing.cases, nothing.only_second) == (0, 1)
    assert np.isnan(nothing.mean)
    groups = paired_difference(np.arange(12.0), np.zeros(12), groups=["a", "b", "c"] * 4)
    assert np.isnan(groups.p)


def test_holm_by_hand_and_nonsense_is_refused():
    assert holm([0.02, 0.5, 0.01]) == [0.04, 0.5, 0.03]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    with pytest.raises(OptionError):
        Bootstrap(level=95)
    with pytest.raises(OptionError):
        Bootstrap(method="magic")
    with pytest.raises(OptionError, match="one group per case"):
        intervals(mean_estimate([1.0, 2.0]), groups=["a"])
    with pytest.raises(OptionError):
        paired_difference([1.0], [1.0, 2.0])
