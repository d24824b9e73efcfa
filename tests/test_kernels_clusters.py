"""Claims of clusters on points against assigning them anew for every number of clusters and every reach."""

import numpy as np
import pytest

from biosegkit.kernels.cluster_claims import claims
from biosegkit.kernels.clusters import assign, falling, lead

LIMITS = [0.7, 1.5, 3.0]


def crowd(rng, axes, spread):
    """Points, and clusters of widths from tiny to huge; two of the clusters stand in one place."""
    points = rng.integers(-spread, spread, (400, axes))
    centres = rng.integers(-spread, spread, (25, axes))
    centres[7] = centres[3]
    sigma = rng.choice([1, 40, 300, 20_000], 25, p=[0.1, 0.3, 0.5, 0.1])
    sigma[7] = sigma[3]
    return points, centres, sigma


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spread", [900, 200_000])
def test_owners_of_every_number_of_clusters_and_reach(seed, spread):
    rng = np.random.default_rng([seed, spread])
    points, centres, sigma = crowd(rng, 1 + seed % 3, spread)
    points[:50] = centres[rng.integers(0, 25, 50)] + rng.integers(-60, 60, (50, centres.shape[1]))
    marks, chosen = rng.integers(0, 4, 400), np.flatnonzero(rng.random(400) < 0.8)
    cubed = np.zeros((400, 3), np.int32)
    cubed[:, 3 - points.shape[1]:] = points
    found = claims(lead(centres, sigma, 0.0, LIMITS[-1]), LIMITS, cubed, marks, chosen)
    owned = 0
    for count in (1, 2, 8, 19, 25):
        for c, limit in enumerate(LIMITS):
            some = lead(centres[:count], sigma[:count], 0.0, limit)
            owner = assign(some, points[chosen])
            cluster, until, least, mark = found.rows.T
            rows = (cluster < count) & ((until < 0) | (until >= count)) & (least <= c)
            ours, first = np.zeros((25, 4), int), np.full(25, 400)
            np.add.at(ours, (cluster[rows], mark[rows]), found.counts[rows])
            np.minimum.at(first, cluster[rows], found.first[rows])
            true, began = np.zeros((25, 4), int), np.full(25, 400)
            inside = owner >= 0
            np.add.at(true, (owner[inside], marks[chosen][inside]), 1)
            np.minimum.at(began, owner[inside], chosen[inside])
            np.testing.assert_array_equal(ours, true)
            np.testing.assert_array_equal(first, began)
            owned += int(inside.sum())
    assert owned > 100


def test_without_points_or_clusters_there_is_no_claim():
    clusters, points = lead(np.array([[0, 0]]), np.array([4]), 0.0, 2.0), np.zeros((3, 3), np.int32)
    assert len(claims(clusters, [2.0], points, np.zeros(3, int), np.zeros(0, int)).rows) == 0
    none = lead(np.zeros((0, 2), int), np.zeros(0, int), 0.0, 2.0)
    assert len(claims(none, [2.0], points, np.zeros(3, int), np.arange(3)).rows) == 0
    assert claims(clusters, [2.0], points, np.zeros(3, int), np.arange(3)).rows.tolist() == [[0, -1, 0, 0]]


def test_claims_that_are_all_different_fill_a_larger_table():
    line = np.zeros((3000, 3), np.int32)
    line[:, 2] = np.arange(3000)
    found = claims(lead(line[::3, 2:], np.full(1000, 1), 0.0, 2.0), [2.0], line, np.arange(3000), np.arange(3000))
    rows = found.rows[np.argsort(found.rows[:, 3])]
    # the last point is two from the last cluster, and not within two
    np.testing.assert_array_equal(rows[:, 3], np.arange(2999))
    np.testing.assert_array_equal(rows[:, 0], (np.arange(2999) + 1) // 3)
    assert (found.counts == 1).all()


def test_points_are_taken_in_the_order_given():
    rng = np.random.default_rng(1)
    points, _, _ = crowd(rng, 2, 900)
    sigma, seeds = rng.integers(1, 300, 400), rng.integers(0, 40, 400).astype(np.uint16)
    order = falling(seeds)
    np.testing.assert_array_equal(order, np.argsort(-seeds.astype(int), kind="stable"))
    some = order[:150]
    given, sorted_before = lead(points, sigma, 1.0, 2.0, some), lead(points[some], sigma[some], 1.0, 2.0)
    np.testing.assert_array_equal(given.leader, some[sorted_before.leader])
    np.testing.assert_array_equal(assign(given, points), assign(sorted_before, points))
    assert 1 < len(given.leader) < 150
    assert falling(np.array([0, 65535, 65535, 0], np.uint16)).tolist() == [1, 2, 0, 3]
