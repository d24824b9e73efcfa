"""Rand and information scores against pairs counted one by one, entropies from probabilities, and scikit-image."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_pairs import label_pairs, renamed
from skimage.metrics import adapted_rand_error, variation_of_information

from biosegkit.errors import OptionError
from biosegkit.kernels.overlap import overlap_counts
from biosegkit.metrics import PartitionSums, partition_sums

KINDS = st.sampled_from(["voxels", "segment"])


def foreground(truth, found, valid, background):
    """Segments of each voxel of the true foreground: of the truth, and of the prediction."""
    keep = (truth > 0) if valid is None else (truth > 0) & valid
    t, s = truth[keep].tolist(), found[keep].tolist()
    return t, [("alone", k) if v == 0 and background == "voxels" else v for k, v in enumerate(s)]


def entropy(values):
    return -sum(n / len(values) * math.log2(n / len(values)) for n in Counter(values).values())


def rand_by_pairs(t, s):
    """Split, merge and adapted Rand error, from all ordered pairs of voxels, with and without the voxel itself."""
    pairs = list(itertools.product(range(len(t)), repeat=2))
    both = [t[a] == t[b] and s[a] == s[b] for a, b in pairs]
    split = sum(both) / sum(t[a] == t[b] for a, b in pairs)
    merge = sum(both) / sum(s[a] == s[b] for a, b in pairs)
    apart = [(a, b) for a, b in pairs if a != b]
    same_t, same_s = sum(t[a] == t[b] for a, b in apart), sum(s[a] == s[b] for a, b in apart)
    shared = sum(t[a] == t[b] and s[a] == s[b] for a, b in apart)
    return split, merge, 1 - 2 * shared / (same_t + same_s) if same_t + same_s else math.nan


@settings(max_examples=60, deadline=None)
@given(label_pairs(masked=True), KINDS)
def test_equals_the_definitions(pair, background):
    truth, found, valid = pair
    sums = partition_sums(overlap_counts(truth, found, valid), background)
    t, s = foreground(truth, found, valid, background)
    if not t:
        assert all(math.isnan(v) for v in sums.scores().values())
        return
    split, merge, error = rand_by_pairs(t, s)
    assert (sums.v_rand_split, sums.v_rand_merge) == pytest.approx((split, merge))
    assert sums.v_rand == pytest.approx(2 * split * merge / (split + merge))
    assert sums.adapted_rand_error == pytest.approx(error, nan_ok=True)
    joint = entropy(list(zip(t, s, strict=True)))
    assert sums.vi_split == pytest.approx(joint - entropy(t), abs=1e-9)
    assert sums.vi_merge == pytest.approx(joint - entropy(s), abs=1e-9)
    shared = entropy(t) + entropy(s) - joint
    assert sums.v_info_split == pytest.approx(shared / entropy(s) if entropy(s) else 1)
    assert sums.v_info_merge == pytest.approx(shared / entropy(t) if entropy(t) else 1)
    assert sums.v_info == pytest.approx(2 * shared / (entropy(s) + entropy(t)) if entropy(s) + entropy(t) else 1)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_scikit_image(seed):
    rng = np.random.default_rng([8, seed])
    truth, found = (np.kron(rng.integers(0, 12, (9, 9)), np.ones((5, 5), int)) for _ in range(2))
    found = np.where(rng.random(truth.shape) < 0.7, truth, found)
    sums = partition_sums(overlap_counts(truth, found), background="segment")
    error, precision, recall = adapted_rand_error(truth, found, ignore_labels=(0,))
    assert sums.adapted_rand_error == pytest.approx(error, abs=1e-12)
    # What it calls precision divides by the pairs of the truth: our split part, and its recall our merge part.
    apart = sums.joint - sums.voxels
    assert apart / (sums.truth - sums.voxels) == pytest.approx(precision, abs=1e-12)
    assert apart / (sums.prediction - sums.voxels) == pytest.approx(recall, abs=1e-12)
    splits, merges = variation_of_information(truth, found, ignore_labels=(0,))
    assert (splits, merges) == pytest.approx((sums.vi_split, sums.vi_merge), abs=1e-12)


def test_by_hand():
    truth, found = np.array([1, 1, 1, 1, 2, 2, 0]), np.array([3, 3, 4, 4, 4, 0, 9])
    sums = partition_sums(overlap_counts(truth, found))
    # n_ij = 2, 2, 1 and one voxel alone; t = 4, 2; s = 2, 3 and one alone; 9 lies where the truth has nothing
    assert (sums.voxels, sums.joint, sums.truth, sums.prediction) == (6, 4 + 4 + 1 + 1, 16 + 4, 4 + 9 + 1)
    assert sums.v_rand == 2 * 10 / (20 + 14)
    assert sums.adapted_rand_error == 1 - 2 * (10 - 6) / (34 - 12)
    one = partition_sums(overlap_counts(truth, found), background="segment")
    assert (one.joint, one.prediction) == (10, 14)  # one voxel alone and a segment of one voxel are the same


@settings(max_examples=40, deadline=None)
@given(label_pairs(), KINDS)
def test_perfection_names_and_roles(pair, background):
    truth, found, _ = pair
    sums = partition_sums(overlap_counts(truth, found), background)
    assert partition_sums(overlap_counts(renamed(truth, 1), renamed(found, 2)), background) == sums
    if not truth.any():
        return
    perfect = partition_sums(overlap_counts(truth, renamed(truth, 3)), background)
    assert perfect.v_rand == perfect.v_info == 1
    assert perfect.variation_of_information == 0
    whole = partition_sums(overlap_counts(truth, np.ones_like(truth)), background)
    assert (whole.v_rand_split, whole.vi_split, whole.v_info_split) == (1, 0, 1)
    assert all(0 <= sums.scores()[k] <= 1 + 1e-12 for k in ("v_rand", "v_rand_split", "v_rand_merge"))
    assert all(-1e-12 <= sums.scores()[k] <= 1 + 1e-12 for k in ("v_info", "v_info_split", "v_info_merge"))


def test_images_pool():
    one = partition_sums(overlap_counts(np.array([1, 1, 1, 1]), np.array([2, 2, 3, 3])))
    two = partition_sums(overlap_counts(np.array([1, 1]), np.array([2, 2])))
    pooled = sum([one, two], start=PartitionSums())
    assert pooled.v_rand_split == (8 + 4) / (16 + 4)
    assert pooled.vi_split == pytest.approx(4 / 6)
    assert math.isnan(PartitionSums().v_rand)


def test_squares_are_exact_beyond_64_bits():
    from biosegkit.metrics.partition import _squares

    assert _squares(np.array([3_100_000_000, 3_100_000_001])) == 3_100_000_000**2 + 3_100_000_001**2


def test_an_unknown_background_is_refused():
    with pytest.raises(OptionError, match="segment"):
        partition_sums(overlap_counts(np.array([1]), np.array([1])), background="border")
