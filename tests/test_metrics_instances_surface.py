"""Surfaces of matched objects: each pair as if it were alone in the whole image."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biosegkit.errors import DataError, OptionError
from biosegkit.kernels.overlap import overlap_counts
from biosegkit.metrics import MatchedSurface, match_instances, matched_surface, surface_scores


def scene(seed, shape, count=6):
    """Blocks and the same blocks moved a little, ids sparse and huge, touching the border of the image."""
    rng = np.random.default_rng([21, seed])
    truth, found = np.zeros((2, *shape), np.int64)
    for k in range(count):
        low = rng.integers(-1, np.array(shape) - 3)
        high = low + rng.integers(3, 7, len(shape))
        for labels, move in ((truth, 0), (found, rng.integers(-1, 2, len(shape)))):
            place = tuple(slice(max(a, 0), max(b, 0)) for a, b in zip(low + move, high + move, strict=True))
            labels[place] = 2**40 - 1000 * k
    return truth, found


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([(17, 13), (9, 11, 10)]), st.booleans())
def test_equals_the_distances_of_whole_masks(seed, shape, masked):
    truth, found = scene(seed, shape)
    spacing = (2.5, 0.8, 0.7)[-len(shape):]
    valid = np.random.default_rng([seed]).random(shape) < 0.9 if masked else None
    result = matched_surface(truth, found, spacing, percentile=90, valid=valid)
    pairs = match_instances(overlap_counts(truth, found, valid))[0]
    assert np.array_equal(result.pairs, pairs)
    for k, (a, b) in enumerate(pairs):
        alone = surface_scores(found == b, truth == a, spacing, percentile=90, valid=valid)
        mine = result.hausdorff[k], result.hausdorff_percentile[k], result.assd[k]
        assert mine == pytest.approx((alone.hausdorff, alone.hausdorff_percentile, alone.assd), nan_ok=True)


def test_by_hand():
    truth, found = np.zeros((2, 8, 20), int)
    truth[2:6, 2:6], truth[2:6, 10:14], truth[0, 18] = 4, 9, 3
    found[2:6, 2:6], found[3:7, 10:14] = 8, 2
    result = matched_surface(truth, found, spacing=(0.5, 1.0))
    assert result.pairs.tolist() == [[4, 8], [9, 2]]
    assert result.hausdorff.tolist() == [0, 0.5]
    assert result.scores()["object_hausdorff"] == 0.25
    strict = matched_surface(truth, found, spacing=(0.5, 1.0), threshold=0.9)
    assert strict.scores() == {"object_hausdorff": 0, "object_hd95": 0, "object_assd": 0}


def test_images_append_and_nothing_is_undefined():
    truth, found = scene(3, (17, 13))
    overlaps = overlap_counts(truth, found)
    one = matched_surface(truth, found, (1, 1), overlaps=overlaps)
    none = matched_surface(np.zeros_like(truth), found, (1, 1))
    assert none.pairs.shape == (0, 2)
    assert all(math.isnan(v) for v in none.scores().values())
    both = MatchedSurface() + one + none + one
    assert both.assd.size == 2 * one.assd.size > 0
    assert both.scores()["object_assd"] == pytest.approx(one.scores()["object_assd"])
    assert both.undefined == 0


def test_a_surface_that_the_mask_hides_is_counted_apart():
    truth = np.zeros((7, 7), int)
    truth[1:6, 1:6] = 5
    valid = np.zeros((7, 7), bool)
    valid[3, 3] = True  # only the middle is known: no outline to measure
    result = matched_surface(truth, truth, (1, 1), valid=valid)
    assert (len(result.pairs), result.undefined) == (1, 1)
    assert math.isnan(result.scores()["object_assd"])


def test_what_cannot_be_measured_is_refused():
    labels = np.ones((4, 4), int)
    with pytest.raises(OptionError):
        matched_surface(labels, labels, (1, 1), threshold=0.4)
    with pytest.raises(OptionError):
        matched_surface(labels, labels, (1, 0))
    with pytest.raises(DataError):
        matched_surface(labels, labels[:2], (1, 1))
    with pytest.raises(OptionError, match="percentile"):
        MatchedSurface() + MatchedSurface(percentile=50)
