"""Overlap scores against hand-worked arrays and set arithmetic."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from biosegkit.errors import DataError
from biosegkit.metrics import OverlapCounts, class_counts, confusion, mean_iou, overlap_scores, region_counts

TRUTH = np.array([[0, 0, 1, 1], [2, 2, 1, 0]], np.uint8)
FOUND = np.array([[0, 1, 1, 1], [2, 0, 0, 0]], np.uint8)


def test_by_hand():
    table = confusion(FOUND, TRUTH, 4)
    assert table.tolist() == [[2, 1, 0, 0], [1, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    one, two, three = class_counts(table)[1:]
    assert (one.tp, one.fp, one.fn) == (2, 1, 1)
    scores = overlap_scores(one, voxel_volume=0.5)
    assert scores == {
        "dice": 4 / 6, "iou": 2 / 4, "precision": 2 / 3, "recall": 2 / 3,
        "specificity": 4 / 5, "volume_truth": 1.5, "volume_prediction": 1.5, "volume_false_positive": 0.5,
        "volume_error": 0.0, "volume_error_absolute": 0.0,
        "relative_volume_error": 0.0, "relative_volume_error_absolute": 0.0,
    }
    assert (one.tp, one.fp, one.fn, one.tn) == (2, 1, 1, 4)
    missed = overlap_scores(two, voxel_volume=0.5)
    assert (missed["volume_error"], missed["volume_error_absolute"]) == (-0.5, 0.5)
    assert (missed["relative_volume_error"], missed["relative_volume_error_absolute"]) == (-0.5, 0.5)
    assert (two.dice, two.precision, two.recall) == (2 / 3, 1.0, 0.5)
    assert math.isnan(three.dice)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_equals_set_arithmetic_and_masks(data):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=5))
    truth = data.draw(hnp.arrays(np.int16, shape, elements=st.integers(0, 3)))
    found = data.draw(hnp.arrays(np.uint32, shape, elements=st.integers(0, 3)))
    valid = data.draw(hnp.arrays(np.bool_, shape))
    table = confusion(found, truth, 4, valid)
    regions = [(0,), (1,), (1, 2), (1, 2, 3)]
    for region, counts in zip(regions, class_counts(table, regions), strict=True):
        a = {i for i, (v, k) in enumerate(zip(found.ravel(), valid.ravel(), strict=True)) if k and v in region}
        b = {i for i, (v, k) in enumerate(zip(truth.ravel(), valid.ravel(), strict=True)) if k and v in region}
        assert counts == OverlapCounts(len(a & b), len(a - b), len(b - a), int(valid.sum()) - len(a | b))
        assert counts == region_counts(np.isin(found, region), np.isin(truth, region), valid)


def test_mean_iou_leaves_out_only_what_is_in_neither():
    counts = class_counts(confusion(FOUND, TRUTH, 4))
    assert mean_iou(counts) == pytest.approx((2 / 5 + 2 / 4 + 1 / 2) / 3)  # class 3 is nowhere
    assert mean_iou(counts[1:]) == 1 / 2
    assert mean_iou([OverlapCounts(0, 0, 7), OverlapCounts(3, 0, 0)]) == 1 / 2
    assert math.isnan(mean_iou([OverlapCounts(0, 0, 0)]))


def test_empty_classes_are_undefined_not_perfect():
    empty, missed, invented = OverlapCounts(0, 0, 0, 9), OverlapCounts(0, 0, 4, 5), OverlapCounts(0, 4, 0, 5)
    assert all(math.isnan(v) for v in (empty.dice, empty.iou, empty.precision, empty.recall))
    assert (missed.dice, missed.recall, invented.dice, invented.precision) == (0, 0, 0, 0)
    assert math.isnan(missed.precision)
    assert math.isnan(invented.recall)
    assert math.isnan(overlap_scores(invented)["relative_volume_error"])
    assert (empty.specificity, invented.specificity) == (1.0, 5 / 9)
    assert math.isnan(OverlapCounts(1, 1, 1).specificity)  # true negatives unknown
    assert (empty + OverlapCounts(1, 1, 1)).tn is None


def test_pooled_counts_are_those_of_the_images_side_by_side():
    halves = [class_counts(confusion(FOUND[k], TRUTH[k], 3))[1] for k in (0, 1)]
    assert halves[0] + halves[1] == class_counts(confusion(FOUND, TRUTH, 3))[1]


def test_more_voxels_than_one_piece():
    rng = np.random.default_rng([1])
    truth, found = rng.integers(0, 3, (2, 1_300_000)).astype(np.uint8)
    valid = rng.random(truth.shape) < 0.5
    expected = [[np.count_nonzero((truth == i) & (found == j) & valid) for j in range(3)] for i in range(3)]
    assert confusion(found, truth, 3, valid).tolist() == expected


@pytest.mark.parametrize(("found", "truth"), [
    (np.array([0, 3]), np.array([0, 1])),
    (np.array([0, -1]), np.array([0, 1])),
    (np.array([0.0, 1.0]), np.array([0, 1])),
    (np.array([0]), np.array([0, 1])),
])
def test_foreign_values_are_refused_not_dropped(found, truth):
    with pytest.raises(DataError):
        confusion(found, truth, 3)


def test_masks_must_be_masks():
    with pytest.raises(DataError, match="bool"):
        region_counts(np.array([0, 255]), np.array([True, False]))
