"""SEG, DET, splits and merges against definitions written out with masks."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from label_pairs import iou, label_pairs, masks, renamed

from biosegkit.errors import OptionError
from biosegkit.kernels.overlap import overlap_counts
from biosegkit.metrics import (
    SplitMergeCounts,
    TrackingChallengeCounts,
    split_merge_counts,
    tracking_challenge_counts,
)


def challenge(truth, found):
    true, pred = masks(truth), masks(found)
    matches = {k: [m for m, b in pred.items() if np.sum(a & b) > a.sum() / 2] for k, a in true.items()}
    seg = sum(iou(true[k], pred[m]) for k, ms in matches.items() for m in ms)
    owners = [m for ms in matches.values() for m in ms]
    splits = sum(owners.count(m) - 1 for m in set(owners))
    cost = 5 * splits + 10 * sum(not ms for ms in matches.values()) + len(set(pred) - set(owners))
    if not true:
        return math.nan, math.nan
    return seg / len(true), 1 - min(cost, 10 * len(true)) / (10 * len(true))


@settings(max_examples=80, deadline=None)
@given(label_pairs())
def test_seg_and_det_equal_the_definition(pair):
    truth, found, _ = pair
    counts = tracking_challenge_counts(overlap_counts(truth, found))
    assert (counts.seg, counts.det) == pytest.approx(challenge(truth, found), nan_ok=True)
    assert tracking_challenge_counts(overlap_counts(renamed(truth, 1), renamed(found, 2))).det == pytest.approx(
        counts.det, nan_ok=True)
    perfect = tracking_challenge_counts(overlap_counts(truth, renamed(truth, 3)))
    assert perfect.scores() == {"seg": 1, "det": 1} or not truth.any()


def test_half_is_no_match():
    counts = tracking_challenge_counts(overlap_counts(np.array([1, 1, 1, 1]), np.array([5, 5, 6, 6])))
    assert (counts.matched, counts.missed, counts.invented) == (0, 1, 2)
    assert counts.scores() == {"seg": 0, "det": 0}


def test_weights_of_the_challenge():
    truth = np.repeat(np.arange(1, 11), 4)
    lost, merged = np.where(truth == 3, 0, truth), np.where(truth == 3, 4, truth)
    extra = np.append(truth, [99, 99])
    assert tracking_challenge_counts(overlap_counts(truth, lost)).det == pytest.approx(1 - 10 / 100)
    assert tracking_challenge_counts(overlap_counts(truth, merged)).det == pytest.approx(1 - 5 / 100)
    assert tracking_challenge_counts(overlap_counts(np.append(truth, [0, 0]), extra)).det == pytest.approx(1 - 1 / 100)
    assert tracking_challenge_counts(overlap_counts(truth, merged)).seg == pytest.approx((8 + 2 * 0.5) / 10)


def test_challenge_counts_of_frames_pool():
    one = tracking_challenge_counts(overlap_counts(np.array([1, 1, 2]), np.array([4, 4, 0])))
    none = tracking_challenge_counts(overlap_counts(np.zeros(3, int), np.array([4, 4, 0])))
    assert all(math.isnan(v) for v in none.scores().values())
    pooled = one + none
    assert pooled == TrackingChallengeCounts(n_true=2, matched=1, invented=1, splits=0, iou_sum=1.0)
    assert pooled.det == 1 - 11 / 20


def test_what_lies_under_the_ignore_mask_is_not_invented():
    found = np.array([4, 4, 4, 0, 6, 6, 6])
    valid = np.array([True, False, False, True, True, True, False])
    counts = tracking_challenge_counts(overlap_counts(np.zeros(7, int), found, valid))
    assert counts.invented == 1  # 6 lies in it to a third, 4 to two thirds


def pieces(whole, parts, least):
    """For each object the parts that are pieces of it."""
    return [sum(np.sum(a & b) > b.sum() / 2 and np.sum(a & b) >= least * a.sum() for b in parts) for a in whole]


@settings(max_examples=80, deadline=None)
@given(label_pairs(masked=True))
def test_splits_and_merges_equal_the_rule(pair):
    truth, found, valid = pair
    overlaps = overlap_counts(truth, found, valid)
    true, pred = (list(masks(labels, valid).values()) for labels in (truth, found))
    for least in (0.0, 0.25, 0.5):
        split, merge = pieces(true, pred, least), pieces(pred, true, least)
        assert split_merge_counts(overlaps, least) == SplitMergeCounts(
            len(true), len(pred), sum(n > 1 for n in split), sum(n - 1 for n in split if n > 1),
            sum(n > 1 for n in merge), sum(n - 1 for n in merge if n > 1))


@settings(max_examples=40, deadline=None)
@given(label_pairs())
def test_a_split_is_a_merge_seen_from_the_other_side(pair):
    truth, found, _ = pair
    there, back = split_merge_counts(overlap_counts(truth, found)), split_merge_counts(overlap_counts(found, truth))
    assert (there.split, there.splits, there.merged, there.merges) == (
        back.merged, back.merges, back.split, back.splits)
    assert split_merge_counts(overlap_counts(renamed(truth, 1), renamed(found, 2))) == there
    perfect = split_merge_counts(overlap_counts(truth, truth))
    assert (perfect.splits, perfect.merges) == (0, 0)


def test_crumbs_are_no_pieces():
    truth = np.ones(40, int)
    found = np.concatenate([np.full(20, 1), np.full(17, 2), np.full(3, 3)])
    assert split_merge_counts(overlap_counts(truth, found)).splits == 1
    assert split_merge_counts(overlap_counts(truth, found), least=0.05).splits == 2
    assert split_merge_counts(overlap_counts(truth, found), least=0.45).split_rate == 0


def test_rates_of_nothing_are_undefined():
    none = split_merge_counts(overlap_counts(np.zeros(3, int), np.zeros(3, int)))
    assert all(math.isnan(v) for v in none.scores().values())
    both = none + split_merge_counts(overlap_counts(np.array([1, 1, 2, 2]), np.array([5, 5, 5, 5])))
    assert both.scores() == {"split_rate": 0, "merge_rate": 1}


@pytest.mark.parametrize("least", [-0.1, 0.6, math.nan])
def test_a_least_share_that_makes_no_sense_is_refused(least):
    with pytest.raises(OptionError, match=r"0\.5"):
        split_merge_counts(overlap_counts(np.array([1]), np.array([1])), least)
