"""COCO's AP against its procedure written out with masks and loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_pairs import label_pairs, masks, renamed

from biosegkit.errors import DataError, OptionError
from biosegkit.kernels.overlap import overlap_counts
from biosegkit.metrics import AREAS, THRESHOLDS, CocoDetections, coco_detections


def evaluate_image(truth, found, scores, valid, threshold, most, area):
    """(score, right, ignored) of each prediction, best first, and the number of true objects that count."""
    true, void = masks(truth, valid), np.zeros(truth.shape, bool) if valid is None else ~valid
    pred = sorted(zip(masks(found, valid).items(), scores, strict=True), key=lambda p: -p[1])[:most]
    out_of_range = {k: not area[0] <= m.sum() <= area[1] for k, m in true.items()}
    taken, rows = set(), []
    for (k, m), score in pred:
        best, chosen = min(threshold, 1 - 1e-10), None
        for t in sorted(true, key=lambda t: out_of_range[t]):
            overlap = np.sum(m & true[t]) / np.sum(m | true[t])
            if t in taken or overlap < best:
                continue
            if chosen is not None and not out_of_range[chosen] and out_of_range[t]:
                break
            best, chosen = overlap, t
        whole = found == k
        if chosen is not None:
            taken.add(chosen)
            rows.append((score, not out_of_range[chosen], out_of_range[chosen]))
        else:
            hidden = np.sum(whole & void) / whole.sum() >= threshold
            rows.append((score, False, hidden or not area[0] <= whole.sum() <= area[1]))
    return rows, sum(not v for v in out_of_range.values())


def average_precision(images, threshold, **options):
    """Interpolated at 101 recalls: at each the best precision at this recall or a larger one."""
    parts = [evaluate_image(*image, threshold, **options) for image in images]
    total = sum(n for _, n in parts)
    if not total:
        return math.nan
    rows = sorted((row for rows, _ in parts for row in rows), key=lambda row: -row[0])
    points, tp, fp = [], 0, 0
    for _, right, ignored in rows:
        tp, fp = tp + (right and not ignored), fp + (not right and not ignored)
        points.append((tp / total, tp / max(tp + fp, 1)))
    return np.mean([max((p for recall, p in points if recall >= r), default=0) for r in np.linspace(0, 1, 101)])


@st.composite
def images(draw, masked):
    truth, found, valid = draw(label_pairs(masked=masked))
    size = len(masks(found, valid))
    scores = draw(st.lists(st.sampled_from([0.1, 0.2, 0.5, 0.9]), min_size=size, max_size=size))
    return truth, found, np.array(scores, float), valid


@settings(max_examples=80, deadline=None)
@given(st.lists(images(masked=True), min_size=1, max_size=4), st.sampled_from([1, 2, 100, None]),
       st.sampled_from([(0, math.inf), (2, 5), (0, 3)]))
def test_equals_the_procedure(drawn, most, area):
    thresholds = (0.2, 0.5, 0.75, 1.0)
    parts = [coco_detections(overlap_counts(t, f, v), s, thresholds=thresholds, most=most, area=area)
             for t, f, s, v in drawn]
    pooled = sum(parts[1:], start=parts[0])
    for threshold in thresholds:
        expected = average_precision(drawn, threshold, most=most, area=area)
        assert pooled.ap(threshold) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(images(masked=False))
def test_perfection_and_names(image):
    truth, found, scores, _ = image
    overlaps = overlap_counts(truth, truth)
    perfect = coco_detections(overlaps, np.linspace(0.1, 0.9, overlaps.ids_b.size))
    assert not truth.any() or set(perfect.scores_by_name().values()) == {1.0}
    distinct = np.arange(scores.size) / 10
    names = coco_detections(overlap_counts(renamed(truth, 1), found), distinct)
    before = coco_detections(overlap_counts(truth, found), distinct)
    assert names.mean_ap() == pytest.approx(before.mean_ap(), nan_ok=True)


def test_ranking_is_what_ap_of_counts_does_not_see():
    truth = np.array([1, 1, 0, 2, 2, 0, 0])
    overlaps = overlap_counts(truth, np.array([1, 1, 0, 2, 2, 0, 3]))
    good = coco_detections(overlaps, np.array([0.9, 0.8, 0.1]))
    bad = coco_detections(overlaps, np.array([0.2, 0.1, 0.9]))
    assert good.ap(0.5) == 1
    assert bad.ap(0.5) == pytest.approx(2 / 3)
    assert good.recall(0.5) == bad.recall(0.5) == 1


def test_only_the_best_of_an_image_count():
    ids = np.arange(1, 201).repeat(2)
    overlaps = overlap_counts(ids, ids)
    capped = coco_detections(overlaps, np.linspace(0, 1, 200))
    assert capped.recall(0.5) == 0.5
    assert capped.ap(0.5) == pytest.approx(51 / 101)
    assert coco_detections(overlaps, np.linspace(0, 1, 200), most=None).mean_ap() == 1


def test_area_ranges_leave_out_both_sides():
    truth = np.zeros((80, 80), int)
    truth[:10, :10], truth[20:70, 20:70] = 1, 2
    overlaps = overlap_counts(truth, truth)
    small = coco_detections(overlaps, np.array([0.1, 0.9]), area=AREAS["small"])
    assert (small.n_true, small.mean_ap()) == (1, 1)
    large = coco_detections(overlaps, np.array([0.1, 0.9]), area=AREAS["large"])
    assert math.isnan(large.mean_ap())
    assert math.isnan(large.mean_recall())


def test_empty_images_add_nothing_and_inventions_do():
    ids, none = np.array([1, 1, 2]), np.zeros(3, int)
    good = coco_detections(overlap_counts(ids, ids), np.array([0.5, 0.6]))
    empty = coco_detections(overlap_counts(none, none), np.empty(0))
    invented = coco_detections(overlap_counts(none, ids), np.array([0.9, 0.55]))
    assert math.isnan(empty.mean_ap())
    assert (good + empty).mean_ap() == 1
    assert (good + invented).ap(0.5) == pytest.approx(0.5)
    assert (CocoDetections() + good).mean_ap() == 1
    missed = coco_detections(overlap_counts(ids, none), np.empty(0))
    assert (missed.mean_ap(), missed.mean_recall()) == (0, 0)


def test_what_cannot_be_ranked_is_refused():
    overlaps = overlap_counts(np.array([1, 2]), np.array([1, 2]))
    scores = np.array([0.5, 0.5])
    for wrong in (np.array([0.5]), np.array([0.5, math.nan])):
        with pytest.raises(DataError, match="finite"):
            coco_detections(overlaps, wrong)
    for options in ({"thresholds": ()}, {"thresholds": (0.0,)}, {"thresholds": (1.2,)}, {"most": 0}, {"area": (5, 1)}):
        with pytest.raises(OptionError):
            coco_detections(overlaps, scores, **options)
    with pytest.raises(OptionError, match="thresholds"):
        coco_detections(overlaps, scores, thresholds=(0.5,)) + coco_detections(overlaps, scores)
    with pytest.raises(OptionError):
        coco_detections(overlaps, scores).ap(0.52)
    assert len(THRESHOLDS) == 10
