"""Greedy clustering against brute force over all clusters, and centres against their definition."""

import numpy as np
import pytest

from biosegkit.kernels.centres import object_centres
from biosegkit.kernels.clusters import assign, lead


def brute(points, sigma, within):
    """Leaders in order: a point begins a cluster if no earlier one holds it."""
    leaders = []
    for i, p in enumerate(points.astype(np.int64)):
        held = [((p - points[k]) ** 2).sum() / (int(sigma[k]) ** 2) < within * within for k in leaders]
        if not any(held):
            leaders.append(i)
    return leaders


def nearest(points, centres, sigma, reach):
    d = ((points[:, None].astype(np.int64) - centres) ** 2).sum(2) / sigma.astype(np.int64) ** 2
    best = d.argmin(1)  # the first of equals
    return np.where(d[np.arange(len(d)), best] < reach * reach, best, -1)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("widths", [(1, 2), (3, 400), (20, 30)], ids=["tiny", "unlike", "alike"])
def test_greedy_clusters_are_those_of_brute_force(ndim, widths):
    rng = np.random.default_rng([ndim, widths[1]])
    points = rng.integers(-200, 200, (600, ndim))
    sigma = rng.integers(*widths, 600)
    found = lead(points, sigma, 1.2, 2.0)
    assert found.leader.tolist() == brute(points, sigma, 1.2)
    np.testing.assert_array_equal(found.centre[:, 3 - ndim:], points[found.leader])
    other = rng.integers(-250, 250, (500, ndim))
    expected = nearest(other, points[found.leader], sigma[found.leader], 2.0)
    assert (expected >= 0).any()
    for workers in (1, 2, 5):
        np.testing.assert_array_equal(assign(found, other, workers), expected)


def test_thousands_of_clusters_grow_the_table_and_nothing_is_lost():
    points = np.stack(np.meshgrid(np.arange(150) * 10, np.arange(90) * 10, indexing="ij"), -1).reshape(-1, 2)
    found = lead(points, np.full(len(points), 6), 1.0, 1.0)
    assert len(found.leader) == len(points)
    np.testing.assert_array_equal(assign(found, points[::-1] + 3), np.arange(len(points))[::-1])
    far = lead(points.astype(np.int64) + 2**29, np.full(len(points), 6), 1.0, 1.0)
    np.testing.assert_array_equal(assign(far, points + 2**29), np.arange(len(points)))


def test_no_points_and_equal_points():
    none = lead(np.zeros((0, 2), int), np.zeros(0, int), 1.0, 1.0)
    assert assign(none, np.zeros((3, 2), int)).tolist() == [-1, -1, -1]
    same = lead(np.ones((5, 2), int), np.arange(5), 0.5, 1.0)
    assert same.leader.tolist() == [0]  # a width of 0 counts as 1


def test_centres_are_centroid_and_the_nearest_of_the_objects_own_voxels():
    rng = np.random.default_rng(3)
    labels = (rng.integers(0, 9, (9, 8, 10)) * 300_000_007 % 2_147_483_647).astype(np.int64)
    spacing = (2.5, 1.0, 1.5)
    centroid = object_centres(labels, spacing, medoid=False)
    medoid = object_centres(labels, spacing, medoid=True)
    assert centroid.ids.tolist() == np.unique(labels)[1:].tolist()
    for row, k in enumerate(centroid.ids):
        at = np.argwhere(labels == k)
        assert centroid.areas[row] == len(at)
        np.testing.assert_allclose(centroid.centres[row], at.mean(0))
        d = np.linalg.norm((at - at.mean(0)) * spacing, axis=1)
        np.testing.assert_allclose(medoid.centres[row], at[np.isclose(d, d.min(), rtol=1e-12)].mean(0))


def test_the_medoid_turns_with_the_object():
    labels = np.zeros((7, 9), int)
    labels[1:5, 2:8] = 1  # even: four voxels are nearest, the centre is between them
    centre = object_centres(labels, (1.0, 1.0), medoid=True).centres[0]
    assert centre.tolist() == [2.5, 4.5]
    labels[1, 2] = labels[1, 3] = 0
    one = object_centres(labels, (1.0, 1.0), medoid=True).centres[0]
    two = object_centres(labels[::-1, ::-1], (1.0, 1.0), medoid=True).centres[0]
    assert (np.array([6, 8]) - two).tolist() == one.tolist()
