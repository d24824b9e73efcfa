"""Each named definition against brute force written from its source, and the empty cases."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from biosegkit.errors import DataError, OptionError
from biosegkit.metrics import DEFINITIONS, surface_scores
from biosegkit.metrics.surfels import surfel_areas, surfel_surface


def pairs(data, max_side=5):
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=max_side))
    found, true = (data.draw(hnp.arrays(np.bool_, shape)) for _ in range(2))
    found.flat[0] = true.flat[-1] = True
    return found, true, data.draw(st.tuples(*[st.sampled_from([0.3, 1.0, 2.5])] * len(shape)))


def corners(mask):
    """Corners between voxels with the neighbourhood of each, one by one."""
    padded, result = np.pad(mask, 1), []
    for place in itertools.product(*(range(n + 1) for n in mask.shape)):
        around = padded[tuple(slice(i, i + 2) for i in place)]
        if around.any() and not around.all():
            result.append((place, around))
    return result


def voxels(mask):
    padded = np.pad(mask, 1)
    return [p for p in zip(*np.nonzero(mask), strict=True)
            if not all(padded[tuple(np.add(p, 1) + step * np.eye(mask.ndim, dtype=int)[k])]
                       for k in range(mask.ndim) for step in (-1, 1))]


def directed(a, b, spacing):
    a, b = (np.array(x, float) * spacing for x in (a, b))
    table = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    return table.min(1), table.min(0)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_medpy_and_seg_metrics(data):
    found, true, spacing = pairs(data)
    there, back = directed(voxels(found), voxels(true), spacing)
    both = np.concatenate([there, back])
    medpy = surface_scores(found, true, spacing, tolerance=1.01, definition="medpy")
    assert medpy.hausdorff == pytest.approx(both.max(), abs=1e-12)
    assert medpy.hausdorff_percentile == pytest.approx(np.percentile(both, 95), abs=1e-12)
    assert medpy.assd == pytest.approx(both.mean(), abs=1e-12)
    other = surface_scores(found, true, spacing, tolerance=1.01, definition="seg-metrics")
    assert other.hausdorff_percentile == medpy.hausdorff_percentile
    assert other.assd == pytest.approx((there.mean() + back.mean()) / 2, abs=1e-12)
    assert other.boundary_precision == pytest.approx(np.mean(there <= 1.01))
    assert other.boundary_recall == pytest.approx(np.mean(back <= 1.01))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_surface_elements_weighted_by_area(data):
    found, true, spacing = pairs(data, 4)
    a, b = corners(found), corners(true)
    there, back = directed([p for p, _ in a], [p for p, _ in b], spacing)
    table = surfel_areas(spacing)
    bits = 1 << np.arange(2 ** found.ndim)
    weights = [np.array([table[int(around.reshape(-1) @ bits)] for _, around in part]) for part in (a, b)]
    scores = surface_scores(found, true, spacing, tolerance=1.01, definition="deepmind")
    assert scores.hausdorff == pytest.approx(max(there.max(), back.max()), abs=1e-12)
    means = [np.average(d, weights=w) for d, w in zip((there, back), weights, strict=True)]
    assert scores.assd == pytest.approx(np.mean(means), abs=1e-12)
    inside = sum(w[d <= 1.01].sum() for d, w in zip((there, back), weights, strict=True))
    assert scores.nsd == pytest.approx(inside / sum(w.sum() for w in weights))
    # the percentile is the least distance within which 95 % of the area lies, give or take a rounding of the share
    near, far = (max(min(t for t in d if w[d <= t].sum() >= (0.95 + e) * w.sum())
                     for d, w in zip((there, back), weights, strict=True)) for e in (-1e-9, 1e-9))
    assert near - 1e-12 <= scores.hausdorff_percentile <= far + 1e-12


def test_areas_of_simple_neighbourhoods():
    z, y, x = spacing = (2.5, 0.8, 0.6)
    area = surfel_areas(spacing)
    corner = 0.125 * math.sqrt((y * x) ** 2 + (z * x) ** 2 + (z * y) ** 2)
    for code in (1, 2, 4, 8, 16, 32, 64, 128):
        assert area[code] == pytest.approx(corner)
    assert (area[0b00001111], area[0b00110011], area[0b01010101]) == pytest.approx((y * x, z * x, z * y))
    assert area[0b10000001] == pytest.approx(2 * corner)  # opposite corners
    np.testing.assert_allclose(area, area[::-1])  # of the complement
    for bit_axes in itertools.permutations(range(3)):
        if bit_axes == (0, 1, 2):
            continue
        moved = [int(np.ravel_multi_index([np.unravel_index(k, (2, 2, 2))[m] for m in bit_axes], (2, 2, 2)))
                 for k in range(8)]
        codes = sum(((np.arange(256) >> k) & 1) << moved[k] for k in range(8))
        turned = [0.0] * 3
        for k, m in enumerate(bit_axes):
            turned[k] = spacing[m]
        np.testing.assert_allclose(surfel_areas(tuple(turned))[codes], area)


def test_a_large_box_has_the_area_of_its_faces():
    box = np.ones((40, 50, 60), bool)
    z, y, x = (40 * 2.0, 50 * 0.5, 60 * 1.0)
    assert surfel_surface(box, (2.0, 0.5, 1.0)).areas.sum() == pytest.approx(2 * (z * y + z * x + y * x), rel=0.03)


@pytest.mark.parametrize("definition", list(DEFINITIONS))
def test_empty_masks_are_stated_not_made_up(definition):
    empty, mask = np.zeros((2, 6, 7), bool)
    mask[2:4, 2:5] = True
    for found, true, state in [(empty, empty, "both_empty"), (mask, empty, "truth_empty"),
                               (empty, mask, "prediction_empty")]:
        scores = surface_scores(found, true, (1, 2), definition=definition)
        assert scores.state == state
        assert all(math.isnan(v) for v in (scores.hausdorff, scores.hausdorff_percentile, scores.assd))
        for v in (scores.nsd, scores.boundary_f1):
            assert math.isnan(v) if state == "both_empty" else v == 0
        assert math.isnan(scores.boundary_precision) == (not found.any())
        assert math.isnan(scores.boundary_recall) == (not true.any())


@pytest.mark.parametrize("definition", list(DEFINITIONS))
def test_equal_masks_symmetry_units_and_planes(definition):
    rng = np.random.default_rng([2])
    one, two = rng.random((2, 9, 8)) < 0.6
    same = surface_scores(one, one, (1, 2), definition=definition)
    assert (same.hausdorff, same.nsd, same.boundary_f1) == pytest.approx((0, 1, 1), abs=1e-6)
    here, there = (surface_scores(a, b, (1, 2), definition=definition) for a, b in ((one, two), (two, one)))
    assert (here.hausdorff, here.assd, here.nsd) == pytest.approx((there.hausdorff, there.assd, there.nsd))
    assert (here.boundary_precision, here.boundary_recall) == (there.boundary_recall, there.boundary_precision)
    large = surface_scores(one, two, (10, 20), tolerance=10, definition=definition)
    assert (large.hausdorff, large.assd) == pytest.approx((10 * here.hausdorff, 10 * here.assd), rel=1e-4)
    assert surface_scores(one[None], two[None], (7, 1, 2), definition=definition) == here


@pytest.mark.parametrize("definition", list(DEFINITIONS))
def test_what_is_under_the_ignore_label_changes_nothing(definition):
    rng = np.random.default_rng([7])
    valid = np.ones((14, 16), bool)
    valid[:, 10:] = False
    found, true = np.zeros((2, 14, 16), bool)
    found[3:9, 3:12] = true[4:10, 3:12] = True
    first = surface_scores(found, true, (1, 1), valid=valid, definition=definition)
    found[:, 10:], true[:, 10:] = rng.random((2, 14, 6)) < 0.5
    assert surface_scores(found, true, (1, 1), valid=valid, definition=definition) == first


def test_unknown_definitions_and_too_many_axes_are_refused():
    mask = np.ones((2, 2, 2, 2), bool)
    with pytest.raises(OptionError, match="medpy"):
        surface_scores(mask, mask, (1,) * 4, definition="hd95")
    for definition in ("deepmind", "subvoxel"):
        with pytest.raises(DataError, match="axes"):
            surface_scores(mask, mask, (1,) * 4, definition=definition)
