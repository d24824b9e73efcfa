"""The smooth surface against continuous truth, what it promises about the mask, and exact distances to simplices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import Delaunay

from biosegkit.errors import DataError
from biosegkit.kernels.simplices import simplex_distances
from biosegkit.metrics import surface_scores
from biosegkit.metrics.subvoxel import simplex_areas, smooth_surface

SPACING = (2.5, 0.8, 0.8)


def balls(radii, spacing, offset):
    """Concentric balls (disks), their centre off the voxel centre by the offset."""
    reach = [int(np.ceil((max(radii) + 3) / s)) for s in spacing]
    grid = np.ogrid[tuple(slice(-n, n + 1) for n in reach)]
    squared = sum((g * s - o) ** 2 for g, s, o in zip(grid, spacing, offset, strict=True))
    return [squared <= r * r for r in radii]


@pytest.mark.parametrize("radius", [10, 13, 17, 20, 25])
def test_balls_three_apart_are_closer_to_the_truth_than_voxels(radius):
    rng = np.random.default_rng([71, radius])
    for _ in range(2):
        found, true = balls((radius, radius - 3), SPACING, (rng.random(3) - 0.5) * SPACING)
        scores = surface_scores(found, true, SPACING, definition="subvoxel")
        assert abs(scores.assd - 3) < 0.1
        assert abs(scores.hausdorff_percentile - 3) < 0.25
        for definition in ("voxel", "medpy", "seg-metrics", "deepmind"):
            assert scores.hausdorff < surface_scores(found, true, SPACING, definition=definition).hausdorff


def test_disks_three_apart():
    rng = np.random.default_rng([72])
    for radius in (10, 14, 20):
        found, true = balls((radius, radius - 3), (0.8, 0.8), (rng.random(2) - 0.5) * 0.8)
        smooth, voxel = (surface_scores(found, true, (0.8, 0.8), definition=d) for d in ("subvoxel", "voxel"))
        assert abs(smooth.assd - 3) < 0.15
        assert smooth.hausdorff <= voxel.hausdorff


def test_area_and_volume_of_a_ball():
    (ball,) = balls((15,), SPACING, (0.4, 0.1, -0.3))
    corners = smooth_surface(ball, SPACING)
    assert simplex_areas(corners).sum() == pytest.approx(4 * np.pi * 15**2, rel=0.02)
    about = corners - corners.mean((0, 1))
    assert abs(np.linalg.det(about).sum() / 6) == pytest.approx(ball.sum() * np.prod(SPACING), rel=0.01)


@pytest.mark.parametrize("shape", [(9, 11), (6, 8, 7)])
def test_nothing_vanishes_and_no_centre_is_passed(shape):
    rng = np.random.default_rng([73])
    spacing = (2.5, 0.8, 0.8)[: len(shape)]
    for share in (0.02, 0.1, 0.5, 0.95):
        mask = rng.random(shape) < share
        mask.flat[mask.size // 2] = True
        points = (smooth_surface(mask, spacing) / spacing).reshape(-1, mask.ndim)
        # between every two neighbours of different value the surface cuts the edge, strictly between the centres
        padded = np.pad(mask, 1)
        for axis in range(mask.ndim):
            edges = np.argwhere(np.diff(padded.astype(np.int8), axis=axis)) - 1
            other = [k for k in range(mask.ndim) if k != axis]
            for edge in edges[:: max(1, len(edges) // 20)]:
                on = np.all(np.abs(points[:, other] - edge[other]) < 1e-6, axis=1)
                along = points[on, axis] - edge[axis]
                assert np.any((along > 0) & (along < 1))


def test_a_sheet_of_one_voxel_keeps_its_faces():
    sheet = np.zeros((7, 30, 30), bool)
    sheet[3, 5:25, 5:25] = True
    middle = smooth_surface(sheet, (1.0, 1.0, 1.0)).mean(1)
    inner = middle[(np.abs(middle[:, 1:] - 14.5) < 5).all(1)]
    assert sorted(set(inner[:, 0].round(4))) == [2.5, 3.5]
    dot = np.zeros((5, 5), bool)
    dot[2, 2] = True
    assert np.abs(smooth_surface(dot, (1.0, 1.0)) - 2).max() == pytest.approx(0.5)


def test_where_it_lies_does_not_matter():
    rng = np.random.default_rng([74])
    mask = rng.random((8, 9)) < 0.4
    moved = np.zeros((30, 40), bool)
    moved[11:19, 20:29] = mask
    np.testing.assert_allclose(smooth_surface(moved, (1, 2)) - [11, 40], smooth_surface(mask, (1, 2)), atol=1e-5)


def test_masks_of_other_dimensions_are_refused():
    with pytest.raises(DataError, match="axes"):
        smooth_surface(np.ones(4, bool), (1.0,))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([2, 3]), st.sampled_from([1, 7, 60]))
def test_distances_to_simplices_are_exact(seed, ndim, count):
    """Against points strewn densely over every simplex: never farther than they, and hardly nearer."""
    rng = np.random.default_rng([75, seed])
    simplices = rng.normal(size=(count, ndim, ndim)) * rng.choice([0.01, 1, 3])
    simplices[0, 1] = simplices[0, 0]  # one of them has no extent
    points = rng.normal(size=(20, ndim)) * 3
    steps = np.linspace(0, 1, 41)
    weights = np.array([(a, b, 1 - a - b) for a in steps for b in steps if a + b <= 1 + 1e-9] if ndim == 3 else
                       [(a, 1 - a) for a in np.linspace(0, 1, 2001)])
    dense = np.einsum("wk,skn->swn", weights, simplices).reshape(-1, ndim)
    near = np.array([np.sqrt(((dense - p) ** 2).sum(1).min()) for p in points])
    exact = simplex_distances(points, simplices)
    size = np.abs(simplices[:, :, None] - simplices[:, None]).max()
    assert np.all(exact <= near + 1e-9)
    assert np.all(near <= exact + size * (0.06 if ndim == 3 else 0.002))
    assert np.allclose(simplex_distances(simplices.reshape(-1, ndim), simplices), 0, atol=1e-7)


def test_known_distances_to_a_triangle():
    triangle = np.array([[[0, 0, 0], [4, 0, 0], [0, 3, 0]]], float)
    points = np.array([[1, 1, 2], [-3, -4, 0], [2, -5, 0], [4, 3, 0], [9, 0, 12], [1, 1, 0]], float)
    assert simplex_distances(points, triangle) == pytest.approx([2, 5, 5, 2.4, 13, 0])
    with pytest.raises(DataError, match="at least 1"):
        simplex_distances(points, triangle[:0])


def test_many_simplices_of_a_surface():
    rng = np.random.default_rng([76])
    flat = rng.random((300, 2)) * 10
    mesh = np.column_stack([flat, np.zeros(300)])[Delaunay(flat).simplices]
    heights = rng.normal(size=50) * 100
    points = np.column_stack([flat[:50] * 0.2 + 4, heights])
    np.testing.assert_allclose(simplex_distances(points, mesh), np.abs(heights), rtol=1e-9)
