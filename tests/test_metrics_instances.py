"""Instance scores against hand-worked arrays, an assignment solved by brute force, and StarDist's matching."""

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from label_pairs import iou, label_pairs, masks, renamed

from biosegkit.errors import DataError, OptionError
from biosegkit.kernels.overlap import overlap_counts
from biosegkit.metrics import THRESHOLDS, InstanceCounts, count_matches, instance_counts, match_instances


def test_by_hand():
    truth = np.array([[1, 1, 1, 1, 0, 0, 2, 2, 2, 2], [0, 0, 0, 0, 0, 0, 0, 0, 0, 3]])
    found = np.array([[7, 7, 7, 0, 0, 0, 5, 5, 5, 5], [9, 9, 0, 0, 0, 0, 0, 0, 5, 0]])
    counts = instance_counts(truth, found)  # IoU (1,7) = 3/4, (2,5) = 4/5
    assert counts.tp == (2, 2, 2, 2, 2, 2, 1, 0, 0, 0)
    assert (counts.n_true, counts.n_pred, counts.fp(0.5), counts.fn(0.5)) == (3, 3, 1, 1)
    scores = counts.scores()
    assert scores["ap@0.50"] == 2 / 4
    assert scores["ap@0.80"] == 1 / 5
    assert scores["ap"] == pytest.approx((6 * 2 / 4 + 1 / 5) / 10)
    assert scores["f1"] == scores["precision"] == scores["recall"] == scores["rq"] == 2 / 3
    assert scores["sq"] == scores["mean_matched_iou"] == pytest.approx((3 / 4 + 4 / 5) / 2)
    assert scores["pq"] == pytest.approx((3 / 4 + 4 / 5) / 3)


def test_thresholds_are_exact_decimals():
    assert THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    for tenths in range(5, 10):  # IoU of exactly 5/10 ... 9/10 counts as reached
        truth, found = np.ones(10, int), np.zeros(10, int)
        found[:tenths] = 1
        counts = instance_counts(truth, found)
        assert counts.ap(tenths / 10) == 1
        assert counts.ap(tenths / 10 + 0.05) == 0


def test_exact_halves_match_once_and_pq_is_strict():
    whole, halves = np.array([1, 1, 1, 1]), np.array([6, 6, 4, 4])
    for truth, found in ((whole, halves), (halves, whole)):
        counts = instance_counts(truth, found)
        assert (counts.tp[0], counts.tp[1], counts.pq_tp) == (1, 0, 0)
        assert counts.pq == 0
        assert math.isnan(counts.sq)
    assert match_instances(overlap_counts(whole, halves))[0].tolist() == [[1, 4]]


def best_matching(iou, threshold):
    """Largest number of one-to-one pairs that reach the threshold, by trying everything."""
    rows, columns = iou.shape
    if rows > columns:
        return best_matching(iou.T, threshold)
    orders = itertools.permutations(range(columns), rows)
    return max(sum(iou[r, c] >= threshold for r, c in enumerate(order)) for order in orders)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_equals_the_best_assignment(data):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4))
    truth, found = (data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 4))) for _ in range(2))
    a, b = np.unique(truth[truth > 0]), np.unique(found[found > 0])
    iou = np.array([[np.sum((truth == i) & (found == j)) / np.sum((truth == i) | (found == j)) for j in b] for i in a])
    iou = iou.reshape(a.size, b.size)
    counts = instance_counts(truth, found)
    assert counts.tp == tuple(best_matching(iou, t) for t in THRESHOLDS)
    assert counts.pq_tp == np.sum(iou > 0.5)
    assert counts.pq_iou_sum == pytest.approx(iou[iou > 0.5].sum())


def random_labels(seed, shape=(96, 120), count=60):
    """Truth and a prediction of it with moved borders, lost and invented objects."""
    rng = np.random.default_rng([11, seed])
    truth, found = np.zeros((2, *shape), np.int32)
    for k in range(1, count + 1):
        centre = [rng.integers(0, s) for s in shape]
        size = rng.integers(2, 9)
        for labels, wobble in ((truth, np.zeros(2, int)), (found, rng.integers(-2, 3, 2))):
            if rng.random() < 0.9:
                y, x = (int(c + w) for c, w in zip(centre, wobble, strict=True))
                labels[max(y - size, 0):y + size, max(x - size, 0):x + size] = 3 * k
    return truth, found


@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_stardist(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from stardist.matching import matching
    truth, found = random_labels(seed)
    counts = instance_counts(truth, found)
    ious = overlap_counts(truth, found).iou()
    for threshold in THRESHOLDS:
        if np.any(np.abs(ious - threshold) < 1e-6) and threshold != 0.5:
            continue  # StarDist compares in float32 and takes 0.7 < 0.7; an IoU on the threshold is our own test above
        expected = matching(truth, found, thresh=threshold)
        assert (counts.fp(threshold), counts.fn(threshold)) == (expected.fp, expected.fn)
        assert counts.ap(threshold) == pytest.approx(expected.accuracy, abs=1e-12)
        assert counts.f1(threshold) == pytest.approx(expected.f1, abs=1e-12)
        assert counts.precision(threshold) == pytest.approx(expected.precision, abs=1e-12)
        assert counts.recall(threshold) == pytest.approx(expected.recall, abs=1e-12)
        if expected.tp:
            assert counts.mean_matched_iou(threshold) == pytest.approx(expected.mean_matched_score, rel=1e-6)
    if not np.any(ious == 0.5):
        assert counts.pq == pytest.approx(matching(truth, found, thresh=0.5).panoptic_quality, rel=1e-6)


def test_pooled_is_the_sum_and_not_the_mean():
    many = np.arange(1, 11).repeat(2)
    counts = instance_counts(many, many) + instance_counts(np.array([1, 1, 0, 0]), np.array([0, 0, 1, 1]))
    assert counts.ap(0.5) == 10 / 12  # the mean over images would be 0.5
    assert counts.images == 2
    assert sum([counts], start=InstanceCounts()) == counts


def test_counts_at_other_thresholds_do_not_add():
    one = instance_counts(np.array([1]), np.array([1]), thresholds=(0.5, 0.9))
    with pytest.raises(OptionError):
        one + InstanceCounts()
    with pytest.raises(OptionError):
        one.ap(0.75)


@pytest.mark.parametrize("threshold", [0.0, 0.49, 1.01, math.nan])
def test_thresholds_where_matches_are_not_unique_are_refused(threshold):
    with pytest.raises(OptionError, match=r"0\.5"):
        instance_counts(np.array([1]), np.array([1]), thresholds=(threshold,))


def test_negative_ids_are_refused():
    with pytest.raises(DataError, match="negative"):
        instance_counts(np.array([-1, 1]), np.array([1, 1]))


def counts_by_definition(truth, found, valid, threshold):
    """True positives and predictions that count, from whole masks."""
    true, pred = masks(truth, valid), masks(found, valid)
    close = {(i, j) for i, a in true.items() for j, b in pred.items() if iou(a, b) >= threshold}
    partners = {j for i, a in true.items() for j, b in pred.items() if iou(a, b) > 0.5}
    for j in {j for _, j in close} - partners:  # an exact half: the smaller id is the match
        if all(iou(true[i], pred[k]) < 0.5 or k >= j for i, jj in close if jj == j for k in pred):
            partners.add(j)
    void = [j for j in pred if j not in partners and np.mean(valid[found == j]) < 0.5]
    return len(pred) - len(void)


@settings(max_examples=80, deadline=None)
@given(label_pairs(masked=True))
def test_predictions_under_the_ignore_mask_are_void(pair):
    truth, found, valid = pair
    counts = instance_counts(truth, found, valid=valid)
    overlaps = overlap_counts(truth, found, valid)
    if not np.any(overlaps.iou() == 0.5):
        assert counts.n_pred == counts_by_definition(truth, found, valid, 0.5)
    assert counts.n_true == len(masks(truth, valid))
    assert counts == count_matches(overlaps)
    assert all(counts.tp[k] == len(match_instances(overlaps, t)[0]) for k, t in enumerate(THRESHOLDS))


@settings(max_examples=40, deadline=None)
@given(label_pairs())
def test_names_do_not_matter_and_the_truth_is_perfect(pair):
    truth, found, _ = pair
    assert instance_counts(renamed(truth, 1), renamed(found, 2)).tp == instance_counts(truth, found).tp
    perfect = instance_counts(truth, renamed(truth, 3))
    assert all(v == 1 for v in perfect.scores().values()) or perfect.empty_images == 1


def test_many_objects_are_counted_right():
    truth = np.kron(np.arange(1, 10_001).reshape(100, 100), np.ones((8, 8), int))
    found = np.roll(truth, 1, axis=1)
    found[:, :9] = 0
    counts = instance_counts(truth, found)  # the others moved by one column of eight: IoU 7/9
    assert counts.ap(0.75) == 9_900 / 10_000
    assert counts.ap(0.9) == 0
    assert counts.mean_matched_iou(0.75) == pytest.approx((9_800 * 7 / 9 + 100 * 7 / 8) / 9_900)
