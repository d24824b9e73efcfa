"""L8: nothing to find, nothing found. L9: the ignore label counts nowhere."""

import math

import numpy as np
import pytest

from biosegkit.metrics import (
    InstanceCounts,
    class_counts,
    confusion,
    instance_counts,
    overlap_scores,
    region_counts,
    surface_scores,
)

EMPTY = np.zeros((1, 4, 6), np.uint8)
DISC = EMPTY.copy()
DISC[0, 1:3, 2:5] = 1
ONES = (1.0, 1.0, 1.0)


def test_L8_overlap_of_two_empty_masks_is_nan_and_not_zero_or_one():
    counts = class_counts(confusion(EMPTY, EMPTY, 2))[1]
    assert counts.truth_empty
    assert counts.prediction_empty
    scores = overlap_scores(counts)
    assert all(math.isnan(scores[k]) for k in ("dice", "iou", "precision", "recall"))
    assert scores["volume_false_positive"] == 0


def test_L8_overlap_of_an_invented_object_is_zero_with_its_volume():
    counts = class_counts(confusion(DISC, EMPTY, 2))[1]
    scores = overlap_scores(counts, voxel_volume=0.5)
    assert (scores["dice"], scores["iou"], scores["precision"]) == (0, 0, 0)
    assert math.isnan(scores["recall"])
    assert scores["volume_false_positive"] == 3.0
    assert counts.truth_empty
    assert not counts.prediction_empty


def test_L8_overlap_of_a_missed_object_is_zero():
    scores = overlap_scores(class_counts(confusion(EMPTY, DISC, 2))[1])
    assert (scores["dice"], scores["recall"], scores["volume_false_positive"]) == (0, 0, 0)
    assert math.isnan(scores["precision"])


@pytest.mark.parametrize(("found", "true", "state", "nsd"), [
    (EMPTY, EMPTY, "both_empty", math.nan),
    (DISC, EMPTY, "truth_empty", 0.0),
    (EMPTY, DISC, "prediction_empty", 0.0),
    (DISC, DISC, "defined", 1.0),
])
def test_L8_surface_distances_to_nothing_are_nan_and_say_why(found, true, state, nsd):
    scores = surface_scores(found > 0, true > 0, ONES)
    assert scores.state == state
    assert scores.nsd == nsd or (math.isnan(nsd) and math.isnan(scores.nsd))
    for distance in (scores.hausdorff, scores.hausdorff_percentile, scores.assd):
        assert math.isnan(distance) == (state != "defined")


def test_L8_instances_of_two_empty_images_are_nan_and_counted_apart():
    empty, full = instance_counts(EMPTY, EMPTY), instance_counts(DISC, DISC)
    assert all(math.isnan(v) for v in empty.scores().values())
    pooled = empty + full + InstanceCounts()
    assert (pooled.images, pooled.empty_images) == (2, 1)
    assert pooled.ap(0.5) == pooled.pq == 1.0  # an empty image neither helps nor harms


def test_L8_instances_with_one_side_empty_are_zero():
    for truth, found in ((EMPTY, DISC), (DISC, EMPTY)):
        counts = instance_counts(truth, found)
        assert counts.ap(0.5) == counts.f1(0.5) == counts.pq == counts.mean_ap() == 0
        assert counts.empty_images == 0
    assert math.isnan(instance_counts(DISC, EMPTY).precision(0.5))
    assert math.isnan(instance_counts(EMPTY, DISC).recall(0.5))


def test_L9_ignored_voxels_change_no_semantic_score():
    rng = np.random.default_rng([9])
    truth, found = rng.integers(0, 3, (2, 6, 8, 8)).astype(np.uint8)
    valid = rng.random(truth.shape) < 0.7
    other = np.where(valid, found, rng.integers(0, 3, found.shape)).astype(np.uint8)
    assert not np.array_equal(other, found)
    assert np.array_equal(confusion(found, truth, 3, valid), confusion(other, truth, 3, valid))
    assert confusion(found, truth, 3, valid).sum() == valid.sum()
    for k in (1, 2):
        assert region_counts(found == k, truth == k, valid) == region_counts(other == k, truth == k, valid)


def test_L9_ignored_voxels_change_no_surface_score_outside_their_reach():
    truth = np.zeros((20, 20), bool)
    truth[4:10, 4:10] = True
    valid = np.ones_like(truth)
    valid[:, 14:] = False
    found = np.roll(truth, 1, axis=0)
    invented = found.copy()
    invented[2:18, 15:19] = True
    expected = surface_scores(found, truth, (1, 1))
    assert surface_scores(invented, truth, (1, 1), valid=valid) == expected
    assert surface_scores(invented, truth, (1, 1)) != expected


def test_L9_everything_ignored_is_undefined():
    nothing = np.zeros(DISC.shape, bool)
    assert math.isnan(class_counts(confusion(DISC, DISC, 2, nothing))[1].dice)
    assert surface_scores(DISC > 0, DISC > 0, ONES, valid=nothing).state == "both_empty"
    counts = instance_counts(DISC, DISC, valid=nothing)
    assert (counts.n_true, counts.n_pred, counts.empty_images) == (0, 0, 1)


def test_L9_objects_in_the_ignored_part_are_neither_found_nor_missed():
    truth = np.zeros((6, 12), np.int32)
    truth[1:4, 1:4] = 1
    found = truth.copy()
    found[0:4, 7:10] = 2  # wholly ignored
    found[4:6, 5:9] = 3  # mostly ignored: six of eight
    found[5, 0:3] = 4  # known to be wrong
    found[0, 4:8] = 5  # half ignored: known well enough to be wrong
    valid = np.ones(truth.shape, bool)
    valid[:, 6:] = False
    counts = instance_counts(truth, found, valid=valid)
    assert (counts.n_true, counts.n_pred, counts.tp[0], counts.fp(0.5)) == (1, 3, 1, 2)


def test_L9_an_object_cut_by_the_ignored_part_is_compared_where_known():
    truth, found = np.zeros((2, 4, 12), np.int32)
    truth[:, 2:6] = 1  # annotated up to column 5
    found[:, 2:11] = 1  # the object goes on where nobody annotated
    valid = np.ones(truth.shape, bool)
    valid[:, 6:] = False
    counts = instance_counts(truth, found, valid=valid)
    assert (counts.tp[-1], counts.n_pred) == (1, 1)
    assert instance_counts(truth, found).tp[0] == 0
