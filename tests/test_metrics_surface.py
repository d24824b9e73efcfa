"""Surface scores against brute force over all voxel pairs, continuous truth, and MONAI."""

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from biosegkit.errors import DataError, OptionError
from biosegkit.metrics import surface_distances, surface_scores, surface_voxels


def brute_surface(mask):
    """Voxels with a face neighbour outside, one by one."""
    marked = np.zeros_like(mask)
    for index in zip(*np.nonzero(mask), strict=True):
        for axis, step in itertools.product(range(mask.ndim), (-1, 1)):
            if mask.shape[axis] == 1:
                continue
            near = list(index)
            near[axis] += step
            if not 0 <= near[axis] < mask.shape[axis] or not mask[tuple(near)]:
                marked[index] = True
    return marked


def brute(found, true, spacing):
    a, b = (np.argwhere(brute_surface(m)) * np.array(spacing) for m in (found, true))
    table = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    return table.min(1), table.min(0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_brute_force(data):
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=3, max_side=6))
    found, true = (data.draw(hnp.arrays(np.bool_, shape)) for _ in range(2))
    spacing = data.draw(st.tuples(*[st.sampled_from([0.3, 1.0, 2.5])] * len(shape)))
    there, back = surface_distances(found, true, spacing)
    if not (brute_surface(found).any() and brute_surface(true).any()):
        assert there.size == back.size == 0
        return
    expected = brute(found, true, spacing)
    np.testing.assert_allclose(there, expected[0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(back, expected[1], rtol=1e-12, atol=1e-12)
    scores = surface_scores(found, true, spacing, tolerance=1.01, percentile=80)
    both = np.concatenate(expected)
    assert scores.hausdorff == pytest.approx(both.max(), abs=1e-12)
    assert scores.hausdorff_percentile == pytest.approx(max(np.percentile(d, 80) for d in expected), abs=1e-12)
    assert scores.assd == pytest.approx(both.mean(), abs=1e-12)
    assert scores.nsd == np.mean(both <= 1.01)


def test_the_crop_changes_nothing():
    rng = np.random.default_rng([5])
    small = rng.random((2, 6, 7, 8)) < 0.6
    large = np.zeros((2, 30, 40, 50), bool)
    large[:, 3:9, 20:27, 41:49] = small
    padded = np.pad(small, ((0, 0), (1, 1), (1, 1), (1, 1)))
    assert surface_scores(*large, (3, 1, 1)) == surface_scores(*padded, (3, 1, 1))


def test_the_crop_keeps_the_border_of_what_is_known():
    rng = np.random.default_rng([8])
    for _ in range(20):
        found, true, valid = np.zeros((3, 9, 11), bool)
        found[3:6, 4:8], true[3:6, 4:8] = rng.random((2, 3, 4)) < 0.8
        valid[:] = rng.random(valid.shape) < 0.6
        there, back = surface_distances(found, true, (1, 1), valid)
        whole = [surface_voxels(m, valid).sum() for m in (found, true)]
        assert [there.size, back.size] == (whole if all(whole) else [0, 0])


def test_a_plane_is_two_dimensional():
    rng = np.random.default_rng([6])
    found, true = ndimage.binary_dilation(rng.random((2, 30, 30)) < 0.02, iterations=2)
    flat = surface_scores(found, true, (0.5, 0.7))
    assert surface_scores(found[None], true[None], (9.0, 0.5, 0.7)) == flat
    assert surface_scores(found[:, None], true[:, None], (0.5, 9.0, 0.7)) == flat


def test_shifted_box_by_hand():
    found, true = np.zeros((2, 10, 10), bool)
    found[2:6, 2:6], true[2:6, 3:7] = True, True
    scores = surface_scores(found, true, spacing=(1.0, 2.0), tolerance=1.5)
    assert scores.hausdorff == 2.0
    # Each surface has 12 voxels. Of each, the 6 on the shared columns of the top and bottom rows lie on the other
    # surface; the inner 2 of the outer side column, its 2 corners, are 2.0 away; the inner 2 of the other side are
    # 1.0 (a row) from the other's top or bottom row.
    there, back = surface_distances(found, true, spacing=(1.0, 2.0))
    assert sorted(there.tolist()) == sorted(back.tolist()) == [0.0] * 6 + [1.0] * 2 + [2.0] * 4
    assert scores.assd == 10 / 12
    assert scores.nsd == 8 / 12


def test_balls_three_apart():
    z, y, x = np.ogrid[-16:17, -40:41, -40:41]
    radius = np.sqrt((2.5 * z) ** 2 + (0.8 * y) ** 2 + (0.8 * x) ** 2)
    scores = surface_scores(radius <= 20, radius <= 17, (2.5, 0.8, 0.8), tolerance=5.0)
    assert abs(scores.assd - 3) < 0.4
    assert scores.hausdorff_percentile < 3.6
    assert scores.nsd == 1.0


@pytest.mark.parametrize("shape", [(40, 50), (24, 30, 28)])
def test_agrees_with_monai(shape):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from monai.metrics import (
            compute_average_surface_distance,
            compute_hausdorff_distance,
            compute_surface_dice,
        )
    spacing = (2.5, 0.8, 0.6)[-len(shape):]
    for seed in range(4):
        noise = np.random.default_rng([7, seed]).standard_normal((2, *shape))
        smooth = [ndimage.gaussian_filter(n, 3) for n in noise]
        found, true = smooth[0] > 0.02, smooth[0] + 0.3 * smooth[1] > 0.02
        one, two = (torch.from_numpy(m)[None, None] for m in (found, true))
        options = {"include_background": True, "spacing": spacing}
        scores = surface_scores(found, true, spacing, tolerance=1.7)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = [
                compute_hausdorff_distance(one, two, **options),
                compute_hausdorff_distance(one, two, percentile=95, **options),
                compute_average_surface_distance(one, two, symmetric=True, **options),
                compute_surface_dice(one, two, class_thresholds=[1.7], **options),
            ]
        got = [scores.hausdorff, scores.hausdorff_percentile, scores.assd, scores.nsd]
        np.testing.assert_allclose(got, [float(e) for e in expected], rtol=2e-6)


def test_ignored_voxels_make_no_surface():
    true = np.zeros((12, 12), bool)
    true[3:9, 3:9] = True
    valid = np.ones_like(true)
    valid[:, 6:] = False
    assert surface_voxels(true, valid).sum() == 6 + 2 + 2  # left side, and the known parts of top and bottom
    assert not surface_voxels(true, valid)[4:8, 5].any()  # the cut is no surface
    found = true.copy()
    found[:, 6:] = True  # wrong only where nobody knows
    scores = surface_scores(found, true, (1, 1), valid=valid)
    assert (scores.hausdorff, scores.nsd) == (0.0, 1.0)


def test_what_is_no_pair_of_masks_is_refused():
    mask = np.ones((3, 3), bool)
    with pytest.raises(DataError):
        surface_scores(mask, mask[:2], (1, 1))
    with pytest.raises(DataError):
        surface_scores(mask.astype(np.uint8), mask, (1, 1))
    for spacing in [(1,), (1, 0), (1, math.nan), (1, -2), (1, 1, 1)]:
        with pytest.raises(OptionError):
            surface_scores(mask, mask, spacing)
    with pytest.raises(OptionError):
        surface_scores(mask, mask, (1, 1), percentile=101)
    with pytest.raises(OptionError):
        surface_scores(mask, mask, (1, 1), tolerance=math.nan)
