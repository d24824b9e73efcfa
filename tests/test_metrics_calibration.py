"""Calibration against sums worked by hand and voxel by voxel."""

import math

import numpy as np
import pytest

from biosegkit.errors import DataError, OptionError
from biosegkit.metrics import calibration_counts, mask_calibration_counts

# Five voxels, three classes: the columns are voxels.
PROBABILITIES = np.array([[0.8, 0.1, 0.3, 0.2, 0.5],
                          [0.1, 0.7, 0.3, 0.6, 0.25],
                          [0.1, 0.2, 0.4, 0.2, 0.25]])
TRUTH = np.array([0, 1, 1, 0, 0], np.uint8)


def test_by_hand():
    counts = calibration_counts(PROBABILITIES, TRUTH, n_bins=2)
    # confidence .8 .7 .4 .6 .5, right 1 1 0 0 1; bins (0, .5] and (.5, 1]
    assert counts.count == (2, 3)
    assert counts.confidence == pytest.approx((0.9, 2.1))
    assert counts.correct == (1, 2)
    assert counts.ece == pytest.approx((abs(1 - 0.9) + abs(2 - 2.1)) / 5)
    assert counts.mce == pytest.approx(0.05)
    brier = [0.2**2 + 0.1**2 + 0.1**2, 0.1**2 + 0.3**2 + 0.2**2, 0.3**2 + 0.7**2 + 0.4**2,
             0.8**2 + 0.6**2 + 0.2**2, 0.5**2 + 2 * 0.25**2]
    assert counts.brier == pytest.approx(np.mean(brier))
    assert counts.nll == pytest.approx(-np.mean(np.log([0.8, 0.7, 0.3, 0.2, 0.5])))
    curve = counts.reliability()
    assert curve["low"].tolist() == [0, 0.5]
    assert curve["confidence"] == pytest.approx([0.45, 0.7])
    assert curve["accuracy"] == pytest.approx([0.5, 2 / 3])


def test_only_the_foreground_and_only_what_is_known():
    inner = calibration_counts(PROBABILITIES, TRUTH, foreground=True)
    assert inner == calibration_counts(PROBABILITIES[:, 1:4], TRUTH[1:4])  # the others are background in both
    valid = np.array([True, False, True, False, True])
    assert calibration_counts(PROBABILITIES, TRUTH, valid=valid) == calibration_counts(
        PROBABILITIES[:, valid], TRUTH[valid])
    region = mask_calibration_counts(PROBABILITIES[1], TRUTH == 1, foreground=True)
    assert region == mask_calibration_counts(PROBABILITIES[1, 1:4], TRUTH[1:4] == 1)


def test_one_class_is_a_question_of_its_own():
    counts = mask_calibration_counts(PROBABILITIES[1], TRUTH == 1, n_bins=2)
    assert counts.count == (3, 2)  # .1 .3 .25 and .7 .6
    assert counts.correct == (1, 1)
    assert counts.ece == pytest.approx((abs(1 - 0.65) + abs(1 - 1.3)) / 5)
    p, y = PROBABILITIES[1], TRUTH == 1
    assert counts.brier == pytest.approx(np.mean((p - y) ** 2))
    two = calibration_counts(np.stack([1 - p, p]), y)
    assert two.brier == pytest.approx(2 * counts.brier)
    assert two.nll == pytest.approx(counts.nll)


def test_pooled_is_as_of_all_voxels_together_and_in_pieces():
    rng = np.random.default_rng([3])
    p = rng.dirichlet([1, 1, 1], 600_000).T.astype(np.float32).reshape(3, 600, 1000)
    truth = rng.integers(0, 3, (600, 1000))
    whole = calibration_counts(p, truth)
    halves = calibration_counts(p[:, :300], truth[:300]) + calibration_counts(p[:, 300:], truth[300:])
    assert whole.count == halves.count
    assert whole.scores() == pytest.approx(halves.scores())
    top = p.max(0).ravel().astype(np.float64)
    hit = p.argmax(0).ravel() == truth.ravel()
    expected = 0.0
    for low in range(15):
        inside = (top > low / 15) & (top <= (low + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(hit[inside].mean() - top[inside].mean())
    assert whole.ece == pytest.approx(expected)


def test_honest_probabilities_have_no_error():
    rng = np.random.default_rng([4])
    p = rng.random(400_000)
    assert mask_calibration_counts(p, rng.random(p.size) < p).ece < 0.005
    assert mask_calibration_counts(p, rng.random(p.size) < p**3).ece > 0.2


def test_edges_of_bins_belong_below_and_certainty_is_finite():
    counts = mask_calibration_counts(np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), np.ones(6, bool), n_bins=5)
    assert counts.count == (2, 1, 1, 1, 1)
    assert counts.log == pytest.approx(-math.log(1e-12) - sum(math.log(k / 5) for k in range(1, 6)))
    assert mask_calibration_counts(np.array([1.0, 0.0]), np.array([True, False])).scores() == {
        "ece": 0, "mce": 0, "brier": 0, "nll": 0}


def test_nothing_to_count_is_undefined():
    counts = calibration_counts(PROBABILITIES, TRUTH, valid=np.zeros(5, bool))
    assert all(math.isnan(v) for v in counts.scores().values())
    assert counts.voxels == 0
    assert np.isnan(counts.reliability()["accuracy"]).all()


def test_what_is_no_probability_is_refused():
    with pytest.raises(DataError, match="softmax"):
        calibration_counts(PROBABILITIES * 4, TRUTH)
    with pytest.raises(DataError, match="add up"):
        calibration_counts(PROBABILITIES / 2, TRUTH)
    with pytest.raises(DataError):
        calibration_counts(np.full((3, 5), np.nan), TRUTH)
    with pytest.raises(DataError, match="classes"):
        calibration_counts(PROBABILITIES, TRUTH + 2)
    with pytest.raises(DataError, match="equal shapes"):
        calibration_counts(PROBABILITIES, TRUTH[:4])
    with pytest.raises(DataError, match="bool"):
        mask_calibration_counts(PROBABILITIES[0], TRUTH)
    with pytest.raises(OptionError):
        calibration_counts(PROBABILITIES, TRUTH, n_bins=0)
    with pytest.raises(OptionError):
        calibration_counts(PROBABILITIES, TRUTH) + calibration_counts(PROBABILITIES, TRUTH, n_bins=3)
