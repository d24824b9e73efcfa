"""Panoptic quality against the definition written out segment by segment, void included."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from biosegkit.errors import DataError
from biosegkit.metrics import PanopticClass, PanopticCounts, instance_counts, panoptic_counts

THINGS = {1, 2}  # class 3 is stuff


@st.composite
def scenes(draw, masked=True):
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=2, min_side=1, max_side=6))
    arrays = [draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, top))) for top in (3, 3, 3, 3)]
    valid = draw(hnp.arrays(np.bool_, shape)) if masked else None
    return tuple(arrays[:2]), tuple(arrays[2:]), valid


def segments(classes, instances):
    """(class, mask) of every segment."""
    for c in (1, 2):
        for k in (1, 2, 3):
            yield c, (classes == c) & (instances == k)
    yield 3, classes == 3


def by_definition(truth, found, valid):
    known = np.ones(truth[0].shape, bool) if valid is None else valid
    counts = {}
    for c in (1, 2, 3):
        true = [m & known for k, m in segments(*truth) if k == c and (m & known).any()]
        pred = [m for k, m in segments(*found) if k == c and (m & known).any()]
        ious = [[np.sum(a & b) / np.sum(a | (b & known)) for b in pred] for a in true]
        matches = [(i, j) for i, row in enumerate(ious) for j, v in enumerate(row) if v > 0.5]
        fp = sum(1 for j, b in enumerate(pred)
                 if j not in {j for _, j in matches} and np.sum(b & ~known) <= 0.5 * b.sum())
        fn = len(true) - len(matches)
        if len(matches) + fp + fn:
            counts[c] = (len(matches), fp, fn, sum(ious[i][j] for i, j in matches))
    return counts


@settings(max_examples=120, deadline=None)
@given(scenes())
def test_equals_the_definition(scene):
    truth, found, valid = scene
    counts = panoptic_counts(truth, found, THINGS, valid=valid)
    expected = by_definition(truth, found, valid)
    assert counts.classes.keys() == expected.keys()
    for c, (tp, fp, fn, total) in expected.items():
        mine = counts.classes[c]
        assert (mine.tp, mine.fp, mine.fn) == (tp, fp, fn)
        assert mine.iou_sum == pytest.approx(total)
        assert mine.pq == pytest.approx(total / (tp + fp / 2 + fn / 2))
        assert mine.pq == pytest.approx(mine.sq * mine.rq)


@settings(max_examples=40, deadline=None)
@given(scenes(masked=False))
def test_one_class_of_things_is_the_pq_of_instances(scene):
    truth, found = ((np.ones_like(ids), ids) for _, ids in scene[:2])
    pq, counts = panoptic_counts(truth, found, {1}).scores(), instance_counts(truth[1], found[1])
    assert pq["pq"] == pytest.approx(counts.pq, nan_ok=True)
    assert pq["rq"] == pytest.approx(counts.rq, nan_ok=True)
    if counts.pq_tp:
        assert pq["sq"] == pytest.approx(counts.sq)


@settings(max_examples=40, deadline=None)
@given(scenes(masked=False))
def test_perfection_and_names(scene):
    truth, found, _ = scene
    perfect = panoptic_counts(truth, (truth[0], truth[1] * 71), THINGS).scores()
    assert all(v == 1 or math.isnan(v) for v in perfect.values())
    names = np.array([0, 3_000_000_000, 5, 17])
    renamed = panoptic_counts((truth[0], names[truth[1]]), (found[0], names[found[1]]), THINGS)
    assert renamed == panoptic_counts(truth, found, THINGS)


def test_by_hand():
    classes = np.array([1, 1, 1, 1, 3, 3, 3, 2, 2, 0])
    truth = classes, np.array([1, 1, 2, 2, 9, 8, 7, 1, 1, 0])  # of stuff the ids do not matter
    found = np.array([1, 1, 1, 2, 3, 3, 0, 1, 1, 1]), np.array([1, 1, 1, 2, 0, 0, 0, 5, 5, 6])
    counts = panoptic_counts(truth, found, THINGS)
    assert counts.classes[1] == PanopticClass(tp=1, fp=2, fn=1, iou_sum=2 / 3)
    assert counts.classes[2] == PanopticClass(fp=1, fn=1)
    assert counts.classes[3] == PanopticClass(tp=1, iou_sum=2 / 3)
    scores = counts.scores()
    assert scores["pq_stuff"] == 2 / 3
    assert scores["pq_things"] == pytest.approx((2 / 3 / 2.5 + 0) / 2)
    assert scores["pq"] == pytest.approx((2 / 3 / 2.5 + 0 + 2 / 3) / 3)


def test_void_forgives_only_what_lies_in_it():
    none = np.zeros(8, int)
    found = np.ones(8, int), np.array([1, 1, 1, 1, 2, 2, 2, 2])
    valid = np.array([True, False, False, False, True, True, False, False])
    counts = panoptic_counts((none, none), found, {1}, valid=valid)
    assert counts.classes == {1: PanopticClass(fp=1)}  # 1 is void to three quarters, 2 to one half


def test_images_pool_before_the_quotient():
    full, empty = np.ones(2, int), np.zeros(2, int)
    hit = panoptic_counts((full, full), (full, full), {1})
    missed = panoptic_counts((full, full), (empty, empty), {1})
    stuff = panoptic_counts((3 * full, empty), (3 * full, empty), {1})
    pooled = sum([hit, missed, stuff], start=PanopticCounts())
    assert pooled.scores()["pq_things"] == pytest.approx(2 / 3)
    assert pooled.scores()["pq_stuff"] == 1
    nothing = panoptic_counts((empty, empty), (empty, empty), {1})
    assert all(math.isnan(v) for v in nothing.scores().values())


@pytest.mark.parametrize(("classes", "ids"), [
    (np.array([1, 1]), np.array([1, 1, 1])),
    (np.array([1.0]), np.array([1])),
    (np.array([-1]), np.array([1])),
    (np.array([1]), np.array([2**32])),
    (np.array([2**31]), np.array([1])),
])
def test_what_cannot_be_numbered_is_refused(classes, ids):
    with pytest.raises(DataError):
        panoptic_counts((classes, ids), (classes, ids), {1})
