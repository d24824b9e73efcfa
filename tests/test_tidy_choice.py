"""Post-processing chosen on held-back cases, against scores by hand; the run and its model agree."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import ndimage
from small_sets import tiny_plan, write_volumes
from stub_models import CPU, Discs, stub_plan

from biosegkit import tidy_choice, validate
from biosegkit.bundle import load
from biosegkit.grid import Grid
from biosegkit.image import Image, Labels
from biosegkit.io import read_labels
from biosegkit.segmenter import Segmenter
from biosegkit.tidy import TidyClasses, TidyObjects
from biosegkit.tidy_choice import ClassTrials, ObjectTrials, TidyChoice, retidied, trials_of
from biosegkit.train import fit


def labels(array, task):
    return Labels.from_values(array, Grid.regular(array.shape, unit="mm"), task)


def classes(array):
    """As a model predicts them: classes 0, 3 and 7 of the stub plan by number."""
    array = np.asarray(array, np.uint8)
    return Labels(array, Grid.regular(array.shape, unit="mm"), np.array([0, 3, 7]), "semantic")


def truth_of(array):
    return labels(np.array([0, 3, 7])[array], "semantic")


def chosen(trials, cases):
    for found, truth in cases:
        trials.add(found, truth)
    return trials.decided()


def test_holes_are_filled_where_that_raises_the_ap():
    true = np.zeros((20, 40), int)
    true[4:14, 4:14], true[4:14, 20:30] = 1, 2
    holed = true.copy()
    holed[6:12, 6:12] = 0  # IoU 0.64 of the first
    cases = [(labels(holed, "instance"), labels(true, "instance"))] * 3
    found = chosen(ObjectTrials(stub_plan(2, instance=True), {}), cases)
    assert found.tidy == TidyObjects(fill_holes=True)
    assert found.options == {"fill_holes": True}
    by_name = {t["name"]: t for t in found.trials}
    # two of two at IoU 0.5 and 0.6, one of three at the other levels; all of them once it is filled
    assert by_name["fill_holes=yes"] == {"name": "fill_holes=yes", "before": pytest.approx((2 + 3 * (1 / 3)) / 5),
                                         "after": 1.0, "done": True}
    assert by_name["split=largest"]["after"] == by_name["split=largest"]["before"]
    assert "rose from 0.600 to 1.000" in found.reason
    few = chosen(ObjectTrials(stub_plan(2, instance=True), {}), cases[:2])
    assert (few.tidy, few.options) == (TidyObjects(), {})
    assert "2 held-back cases are too few" in few.reason
    one = chosen(ObjectTrials(stub_plan(2, instance=True), {}), cases[:1])
    assert "1 held-back case is too few" in one.reason


def test_pieces_are_parted_or_dropped_where_that_raises_the_ap():
    true = np.zeros((12, 40), int)
    true[2:10, 2:10], true[2:10, 20:28] = 1, 2
    one_id = np.where(true > 0, 1, 0)
    crumbs = true.copy()
    crumbs[3:7, 12:16] = 1
    plan = stub_plan(2, instance=True)
    parted = chosen(ObjectTrials(plan, {}), [(labels(one_id, "instance"), labels(true, "instance"))] * 3)
    assert parted.tidy == TidyObjects(split="pieces")
    dropped = chosen(ObjectTrials(plan, {}), [(labels(crumbs, "instance"), labels(true, "instance"))] * 3)
    assert dropped.tidy == TidyObjects(split="largest")
    same = chosen(ObjectTrials(plan, {}), [(labels(true, "instance"), labels(true, "instance"))] * 3)
    assert same.tidy == TidyObjects()
    assert "nothing raised" in same.reason


def dice(found, true, k):
    total = (found == k).sum() + (true == k).sum()
    return 2 * ((found == k) & (true == k)).sum() / total if total else np.nan


def largest(found, wanted):
    pieces, count = ndimage.label(np.isin(found, wanted), np.ones((3,) * found.ndim))
    sizes = ndimage.sum_labels(np.ones(found.shape), pieces, range(1, count + 1))
    return np.where((pieces > 0) & (pieces != 1 + np.argmax(sizes)), 0, found)


def test_classes_follow_the_rule_of_nnunet():
    true = np.zeros((30, 30), int)
    true[5:15, 5:15], true[20:24, 20:24], true[20:24, 3:7] = 1, 2, 2  # the second class has two parts
    found = true.copy()
    found[27, 20:28], found[8:10, 8:10] = 1, 0  # a crumb and a hole in the first
    assert dice(largest(found, [1, 2]), true, 2) < dice(found, true, 2)  # so that the foreground stays whole
    choice = chosen(trials_of(stub_plan(2), {}), [(classes(found), truth_of(true))] * 3)
    assert choice.tidy == TidyClasses(largest=("class 3",), fill_holes=("class 3",))
    by_name = {t["name"]: t for t in choice.trials}
    kept = largest(found, [1])
    filled = np.where(ndimage.binary_fill_holes(kept == 1), 1, kept)
    for name, before, after, k, done in [
            ("largest=class 3", found, kept, 1, True), ("fill_holes=class 3", kept, filled, 1, True),
            ("largest=class 7", found, largest(found, [2]), 2, False)]:
        assert by_name[name]["before"] == pytest.approx(dice(before, true, k)), name
        assert by_name[name]["after"] == pytest.approx(dice(after, true, k)), name
        assert by_name[name]["done"] is done
    assert by_name["largest=foreground"]["done"] is False
    both = [np.mean([dice(f, true, k) for k in (1, 2)]) for f in (found, largest(found, [1, 2]))]
    assert [by_name["largest=foreground"][side] for side in ("before", "after")] == pytest.approx(both)


def test_the_foreground_goes_first_where_no_class_falls():
    true = np.zeros((30, 30), int)
    true[5:15, 5:15], true[8:12, 15:20] = 1, 2
    found = true.copy()
    found[25:28, 20:28], found[25:28, 2:9] = 1, 2
    choice = chosen(ClassTrials(stub_plan(2)), [(classes(found), truth_of(true))] * 3)
    assert choice.tidy == TidyClasses(largest=("foreground",))


def test_ignored_voxels_and_absent_classes_count_nowhere():
    true = np.zeros((20, 20), int)
    true[2:8, 2:8] = 1
    found = true.copy()
    found[15:18, 15:18] = 1
    hidden = truth_of(true)
    ignored = np.zeros(true.shape, bool)
    ignored[12:, 12:] = True
    blind = Labels(hidden.array, hidden.grid, hidden.values, "semantic", ignored, 255)
    seen = chosen(ClassTrials(stub_plan(2)), [(classes(found), hidden)] * 3)
    assert seen.tidy == TidyClasses(largest=("foreground",))
    choice = chosen(ClassTrials(stub_plan(2)), [(classes(found), blind)] * 3)
    assert choice.tidy == TidyClasses()
    assert {t["name"] for t in choice.trials} == {"largest=foreground", "largest=class 3", "fill_holes=class 3"}


@pytest.mark.parametrize(("shape", "ndim"), [((40, 33), 2), ((4, 30, 30), 2), ((22, 24, 28), 3)])
def test_labels_tidied_afterwards_are_those_a_model_predicts(shape, ndim):
    noise = ndimage.gaussian_filter(np.random.default_rng(5).standard_normal(shape), 0.8)
    noise = np.clip(noise / noise.std() - 0.3, 0, 1)
    im = Image(noise[None].astype(np.float32), Grid.regular(shape, unit="mm"))
    plan = stub_plan(ndim, instance=True, transpose=(1, 0) if ndim == 2 else (2, 0, 1))
    model = Segmenter(plan, (Discs().eval(),), CPU, {"min_size": 3.0})
    tidy = {"split": "pieces", "fill_holes": True, "border_objects": "remove"}
    plain, expected = model.predict(im).labels, model.tidied(**tidy).predict(im).labels
    again = retidied(plain, plan, TidyObjects(**tidy), 3.0)
    np.testing.assert_array_equal(again.array, expected.array)
    assert again.values.tolist() == expected.values.tolist()
    assert expected.count > 0
    assert not np.array_equal(plain.array, expected.array)


def test_a_run_scores_and_bundles_what_was_chosen(tmp_path, monkeypatch):
    asked = TidyClasses(largest=("foreground",))
    monkeypatch.setattr(ClassTrials, "decided", lambda self: TidyChoice(asked, f"asked for by {self.cases} cases"))
    dataset = write_volumes(tmp_path / "data")
    plan = tiny_plan(3, task="semantic", unit="mm", patch=(12, 12, 12), steps=3)
    model = fit(plan, dataset, tmp_path / "run", device="cpu")
    assert model.postprocessing["largest"] == ("foreground",)
    scored = json.loads((tmp_path / "run/scores.json").read_text())
    record = json.loads((tmp_path / "run/postprocessing.json").read_text())
    assert record == {"options": {"largest": ["foreground"]}, "reason": f"asked for by {len(scored['cases'])} cases",
                      "trials": []}
    assert record["reason"] in (tmp_path / "run/report.html").read_text()
    assert not (tmp_path / "run/.validation").exists()
    written, = (tmp_path / "run/fold-0/validation").iterdir()
    case = next(c for c in dataset if written.name.startswith(c.id + "."))
    image, truth = dataset.load(case, "semantic")
    plain, found = (m.predict(image).labels.restored()
                    for m in (model.tidied(largest=()), load(tmp_path / "run", "cpu")))
    np.testing.assert_array_equal(found, largest(plain, [3, 7]))
    assert not np.array_equal(found, plain)
    np.testing.assert_array_equal(read_labels(written, "semantic").restored(), found)
    by_hand = np.nanmean([dice(found, truth.restored(), k) for k in (3, 7)])
    assert scored["headline"]["dice"] == pytest.approx(by_hand)


def test_without_time_to_score_again_nothing_is_changed_and_this_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(tidy_choice, "LEAST_CASES", 1)
    monkeypatch.setattr(ClassTrials, "decided", lambda self: TidyChoice(TidyClasses(largest=("foreground",)), "helps"))
    monkeypatch.setattr(validate, "AGAIN", 1e9)
    dataset = write_volumes(tmp_path / "data")
    plan = tiny_plan(3, task="semantic", unit="mm", patch=(12, 12, 12), steps=3)
    plan = plan.model_copy(update={"budget": plan.budget.model_copy(update={"seconds": 300.0})})
    model = fit(plan, dataset, tmp_path / "run", device="cpu")
    assert model.postprocessing == {"largest": (), "fill_holes": ()}
    record = json.loads((tmp_path / "run/postprocessing.json").read_text())
    assert record["options"] == {}
    assert "left out, as the budget left no time" in record["reason"]
