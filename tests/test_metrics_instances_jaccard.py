"""AJI and AJI+ against the papers' definitions with whole masks and every assignment tried."""

import importlib
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from label_pairs import iou, label_pairs, masks, renamed

from biosegkit.kernels.overlap import overlap_counts
from biosegkit.metrics import AggregatedJaccard, aggregated_jaccard


def aji(truth, found, valid=None):
    """Kumar's algorithm; of equal IoU the larger intersection, then the first."""
    true, pred = masks(truth, valid), masks(found, valid)
    shared, union, used = 0, 0, set()
    for a in true.values():
        best = max(pred, key=lambda k: (iou(a, pred[k]), np.sum(a & pred[k])), default=None)
        if best is None or not (a & pred[best]).any():
            union += a.sum()
            continue
        shared, union = shared + np.sum(a & pred[best]), union + np.sum(a | pred[best])
        used.add(best)
    union += sum(m.sum() for k, m in pred.items() if k not in used)
    return shared / union if union else math.nan


def assignments(true, pred):
    """Every one-to-one pairing of two lists of masks, objects without overlap left alone."""
    slots = [*range(len(pred)), *[None] * len(true)]
    for order in set(itertools.permutations(slots, len(true))):
        yield [(a, b) for a, b in enumerate(order) if b is not None and (true[a] & pred[b]).any()]


def aji_plus_candidates(truth, found, valid=None):
    """The value of AJI+ for each assignment of the largest total IoU: several where it ties."""
    true, pred = (list(masks(labels, valid).values()) for labels in (truth, found))
    options = [(sum(iou(true[a], pred[b]) for a, b in pairs), pairs) for pairs in assignments(true, pred)]
    most = max(total for total, _ in options)
    for total, pairs in options:
        if total > most - 1e-12:
            shared = sum(np.sum(true[a] & pred[b]) for a, b in pairs)
            union = sum(np.sum(true[a] | pred[b]) for a, b in pairs)
            union += sum(m.sum() for k, m in enumerate(true) if k not in {a for a, _ in pairs})
            union += sum(m.sum() for k, m in enumerate(pred) if k not in {b for _, b in pairs})
            yield shared / union if union else math.nan


@settings(max_examples=60, deadline=None)
@given(label_pairs(masked=True, ids=4))
def test_equals_the_definitions(pair):
    truth, found, valid = pair
    sums = aggregated_jaccard(overlap_counts(truth, found, valid))
    assert sums.aji == pytest.approx(aji(truth, found, valid), nan_ok=True)
    assert any(sums.aji_plus == pytest.approx(v, nan_ok=True) for v in aji_plus_candidates(truth, found, valid))


def total_iou(truth, found, monkeypatch, rounds):
    """Sum of IoU of the pairs of AJI+, by elimination in so many rounds and then by the solver."""
    module = importlib.import_module("biosegkit.metrics.aggregated_jaccard")
    monkeypatch.setattr(module, "_ROUNDS", rounds)
    overlaps = overlap_counts(truth, found)
    used = module._largest_total(overlaps)
    for side in (0, 1):
        assert np.unique(overlaps.pairs[used, side]).size == used.size
    return overlaps.iou()[used].sum()


@pytest.mark.parametrize("seed", range(4))
def test_the_assignment_is_the_best_with_hundreds_of_objects(seed, monkeypatch):
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng([5, seed])
    truth, found = (np.kron(rng.permutation(400).reshape(20, 20) + 1, np.ones((6, 6), int)) for _ in range(2))
    found = np.where(rng.random(found.shape) < 0.1, 0, np.roll(found, rng.integers(0, 6, 2), (0, 1)))
    overlaps = overlap_counts(truth, found)
    dense = np.zeros((overlaps.ids_a.size, overlaps.ids_b.size))
    dense[overlaps.indexed()] = overlaps.iou()
    best = dense[linear_sum_assignment(-dense)].sum()
    for rounds in (0, 1, 30):
        assert total_iou(truth, found, monkeypatch, rounds) == pytest.approx(best, abs=1e-9)


def test_by_hand():
    truth = np.array([1, 1, 1, 1, 0, 2, 2, 2, 0, 3])
    found = np.array([5, 5, 5, 0, 0, 5, 7, 7, 9, 0])
    # AJI: 1 takes 5 (3 of 5), 2 takes 7 (2 of 3), 3 nothing (1), 9 is left over (1).
    assert aggregated_jaccard(overlap_counts(truth, found)).aji == 5 / 10
    assert aggregated_jaccard(overlap_counts(truth, found)).aji_plus == 5 / 10


def test_neither_bounds_the_other():
    merged = aggregated_jaccard(overlap_counts(np.array([1, 1, 2, 2]), np.array([7, 7, 7, 7])))
    assert (merged.aji, merged.aji_plus) == (4 / 8, 2 / 6)
    truth, found = np.array([1] * 6 + [2, 2, 3, 3]), np.array([5] * 8 + [0, 6])
    reused = aggregated_jaccard(overlap_counts(truth, found))  # AJI counts the large 5 a second time for the small 2
    assert (reused.aji, reused.aji_plus) == (9 / 18, 7 / 12)


@settings(max_examples=40, deadline=None)
@given(label_pairs())
def test_range_perfection_and_names(pair):
    truth, found, _ = pair
    sums = aggregated_jaccard(overlap_counts(truth, found))
    assert all(math.isnan(v) or 0 <= v <= 1 for v in sums.scores().values())
    perfect = aggregated_jaccard(overlap_counts(truth, renamed(truth, 1)))
    assert all(v == 1 or not truth.any() for v in perfect.scores().values())
    # Ids decide only between pairs of equal IoU.
    if np.unique(overlap_counts(truth, found).iou()).size == len(overlap_counts(truth, found).pairs):
        assert aggregated_jaccard(overlap_counts(renamed(truth, 2), renamed(found, 3))) == sums


def test_empty_images_are_undefined_and_pool():
    empty = aggregated_jaccard(overlap_counts(np.zeros(4, int), np.zeros(4, int)))
    assert all(math.isnan(v) for v in empty.scores().values())
    invented = aggregated_jaccard(overlap_counts(np.zeros(4, int), np.ones(4, int)))
    assert invented.scores() == {"aji": 0, "aji_plus": 0}
    whole = aggregated_jaccard(overlap_counts(np.ones(4, int), np.ones(4, int)))
    assert sum([empty, invented, whole], start=AggregatedJaccard()).aji == 0.5
