"""Scores of pairs and their summary, against numbers worked by hand."""

import csv
import math

import numpy as np
import pytest

from biosegkit._atomic import write_json
from biosegkit.errors import DataError, FileError, OptionError
from biosegkit.evaluate import evaluate
from biosegkit.grid import Grid
from biosegkit.image import Labels
from biosegkit.metrics import surface_scores
from biosegkit.scores import SCHEMA, ScoreOptions, read_scores, score_pair, summarise, tables, write_csv


def semantic(values, spacing=1.0, unit="px", ignore=None):
    array = np.array(values)
    return Labels.from_values(array, Grid.regular(array.shape, spacing, unit), "semantic", ignore_value=ignore)


def instance(values):
    array = np.array(values)
    return Labels.from_values(array, Grid.regular(array.shape), "instance")


TRUTH = [[0, 3, 3, 0], [0, 3, 3, 70]]
FOUND = [[0, 3, 0, 0], [0, 3, 0, 70]]


def test_semantic_by_hand():
    scores = score_pair(semantic(FOUND, 0.5, "mm"), semantic(TRUTH, 0.5, "mm"))
    three, seventy = scores["classes"]["3"], scores["classes"]["70"]
    assert (three["dice"], three["iou"], three["precision"], three["recall"]) == (4 / 6, 2 / 4, 1.0, 0.5)
    assert (three["volume_truth"], three["volume_prediction"], three["hausdorff"]) == (1.0, 0.5, 0.5)
    assert (three["assd"], three["nsd"], three["state"]) == (1.0 / 6, 1.0, "defined")
    assert seventy["dice"] == 1.0
    assert scores["dice"] == pytest.approx((4 / 6 + 1) / 2)
    assert "background" not in scores["classes"]


def test_classes_are_compared_by_the_users_values_not_by_canonical_numbers():
    # Canonically both arrays are 0, 1; the values are not the same class.
    scores = score_pair(semantic([[0, 2]]), semantic([[0, 1]]))
    assert scores["classes"]["1"]["dice"] == scores["classes"]["2"]["dice"] == 0
    assert evaluate(semantic([[0, 2]]), semantic([[0, 1]]))["notes"] == [
        "values [2] are predicted but nowhere in the truth (--task instance if values number objects)"]


def test_background_only_if_asked_for():
    options = ScoreOptions(include_background=True, classes=(("air", 0), ("a", 3), ("b", 70)))
    scores = score_pair(semantic(FOUND), semantic(TRUTH), options)
    assert list(scores["classes"]) == ["air", "a", "b"]
    assert scores["classes"]["air"]["dice"] == 2 * 3 / (3 + 5)
    assert scores["dice"] == pytest.approx((6 / 8 + 4 / 6 + 1) / 3)
    record = summarise({"x": scores}, "semantic", options=options)
    assert record["mean"]["dice"] == scores["dice"]


@pytest.mark.parametrize("shape", [(14, 15), (1, 14, 15), (9, 10, 11)])
def test_surface_scores_of_a_class_are_those_of_its_whole_masks(shape):
    rng = np.random.default_rng([12])
    maps = [np.kron(rng.integers(0, 4, [max(s // 3, 1) for s in shape]), np.ones([min(3, s) for s in shape], int))
            for _ in range(2)]
    maps[0][maps[0] == 3] = 0  # one class is only true, one nowhere
    maps[1] = np.where(rng.random(maps[1].shape) < 0.1, 9, maps[1])
    spacing = (2.0, 1.0, 0.5)[-len(shape):]
    options = ScoreOptions(include_background=True, classes=tuple((str(v), v) for v in range(5)))
    scores = score_pair(semantic(maps[0], spacing, "mm"), semantic(maps[1], spacing, "mm", ignore=9), options)
    for value in range(5):
        whole = surface_scores(maps[0] == value, maps[1] == value, spacing, valid=maps[1] != 9)
        row = scores["classes"][str(value)]
        expected = [whole.hausdorff, whole.hausdorff_percentile, whole.assd, whole.nsd]
        np.testing.assert_array_equal([row["hausdorff"], row["hd95"], row["assd"], row["nsd"]], expected)


@pytest.mark.parametrize("flip", [slice(None), slice(None, None, -1)])
def test_thin_classes_and_classes_beside_ignored_voxels_keep_their_surfaces(flip):
    true = np.zeros((6, 12, 12), int)
    true[3, 2:9, 2:9] = 1  # one plane: its voxels are all surface
    true[1:4, 5:8, 9:11] = 2
    true[1:4, 5:8, 11] = true[4, 5:8, 9:11] = 9  # unknown beside it: no surface there
    found = np.where(true == 9, 0, true)
    found[3, 2, 2:6] = found[1, 5, 9] = 0
    true, found = true[flip, flip, flip], found[flip, flip, flip]
    scores = score_pair(semantic(found), semantic(true, ignore=9))
    for value in (1, 2):
        whole = surface_scores(found == value, true == value, (1, 1, 1), valid=true != 9)
        row = scores["classes"][str(value)]
        assert (row["assd"], row["nsd"], row["hausdorff"]) == (whole.assd, whole.nsd, whole.hausdorff)


def test_regions_overlap():
    options = ScoreOptions(regions=(("whole", (3, 70)), ("core", (70,))))
    scores = score_pair(semantic(FOUND), semantic(TRUTH), options)
    assert scores["classes"]["whole"]["dice"] == 2 * 3 / (3 + 5)
    assert scores["classes"]["core"]["dice"] == 1


def test_summary_means_over_defined_cases_and_counts_the_others():
    empty = [[0, 0, 0, 0]]
    cases = {
        "both": score_pair(semantic(empty), semantic(empty)),  # knows no class at all
        "good": score_pair(semantic([[0, 1, 1, 0]]), semantic([[0, 1, 1, 0]])),
        "invented": score_pair(semantic([[0, 1, 0, 0]]), semantic(empty)),
        "missed": score_pair(semantic(empty), semantic([[0, 1, 1, 1]])),
    }
    row = summarise(cases, "semantic")["classes"]["1"]
    assert row["dice"] == pytest.approx(1 / 3)
    assert row["undefined"]["dice"] == 1
    assert (row["hd95"], row["undefined"]["hd95"]) == (0.0, 3)
    assert row["nsd"] == pytest.approx(1 / 3)
    assert (row["cases"], row["both_empty"], row["truth_empty"], row["prediction_empty"]) == (4, 1, 1, 1)
    assert row["volume_false_positive"] == 1 / 4
    assert row["pooled_dice"] == 2 * 2 / (2 * 2 + 1 + 3)


def test_ignored_voxels_count_nowhere():
    truth, found = semantic([[1, 1, 0, 9, 9]], ignore=9), semantic([[1, 1, 0, 1, 1]])
    scores = score_pair(found, truth)
    assert list(scores["classes"]) == ["1"]
    assert (scores["dice"], scores["hausdorff"]) == (1.0, 0.0)


def test_instances_pooled_and_mean():
    cases = {
        "many": score_pair(instance([[1, 1, 0, 2, 2, 0, 3]]), instance([[5, 5, 0, 4, 4, 0, 0]])),
        "none": score_pair(instance([[0, 0, 0]]), instance([[0, 0, 0]])),
        "wrong": score_pair(instance([[0, 0, 7]]), instance([[0, 8, 0]])),
    }
    record = summarise(cases, "instance")
    assert record["pooled"]["ap@0.50"] == record["headline"]["ap@0.50"] == 2 / 5
    assert record["mean"]["ap@0.50"] == pytest.approx((2 / 3 + 0) / 2)
    assert record["mean"]["undefined"]["ap@0.50"] == record["pooled"]["empty_images"] == 1
    assert (record["pooled"]["tp"], record["pooled"]["fp"], record["pooled"]["fn"]) == (2, 2, 1)


def test_record_is_json_that_can_be_read_again(tmp_path):
    for make, values in ((semantic, (FOUND, TRUTH)), (instance, ([[1, 1, 0]], [[2, 2, 0]]))):
        record = evaluate(*(make(v) for v in values))
        write_json(tmp_path / "scores.json", record)
        read = read_scores(tmp_path / "scores.json")
        assert read["schema"] == SCHEMA == 2
        assert tables(read) == tables(record)


def test_records_of_the_first_schema_are_read_and_newer_ones_refused(tmp_path):
    old = {"schema": 1, "kind": "scores", "task": "semantic", "unit": "mm", "definitions": {}, "notes": [],
           "headline": {"dice": 0.8}, "mean": {"dice": 0.8}, "cases": [{"case": "a", "dice": 0.8, "classes": {}}],
           "classes": {"cell": {"value": 1, "dice": 0.8, "cases": 1, "both_empty": 0, "truth_empty": 0,
                                "prediction_empty": 0, "undefined": {}}}}
    write_json(tmp_path / "old.json", old)
    assert tables(read_scores(tmp_path / "old.json"))[0].rows == [["dice", "0.800"]]
    write_json(tmp_path / "new.json", old | {"schema": 99})
    with pytest.raises(FileError, match="schema 99"):
        read_scores(tmp_path / "new.json")
    write_json(tmp_path / "other.json", {"kind": "plan"})
    with pytest.raises(FileError, match="no scores record"):
        read_scores(tmp_path / "other.json")


def test_csv_has_every_digit_and_no_nan(tmp_path):
    record = evaluate(semantic(FOUND), semantic([[0, 3, 3, 0], [0, 3, 3, 0]]), case="näme, 1")
    write_csv(record, tmp_path / "a.csv")
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()))
    assert [(r["case"], r["class"]) for r in rows] == [("näme, 1", "3"), ("näme, 1", "70")]
    assert float(rows[0]["dice"]) == 4 / 6
    assert rows[1]["hd95"] == rows[1]["recall"] == ""
    write_csv(evaluate(instance([[1, 0]]), instance([[1, 0]])), tmp_path / "b.csv")
    assert next(csv.DictReader((tmp_path / "b.csv").read_text().splitlines()))["ap@0.50"] == "1.0"


def test_G1_other_shape_is_refused():
    with pytest.raises(DataError, match="shape"):
        score_pair(semantic([[0, 1, 1]]), semantic([[0, 1]]))


def test_G2_other_position_is_refused_unless_trusted():
    truth = semantic(TRUTH, 0.5, "mm")
    moved = Labels.from_values(np.array(FOUND), truth.grid.window((0, 1), truth.grid.shape), "semantic")
    with pytest.raises(DataError, match="trust-index"):
        score_pair(moved, truth)
    with pytest.raises(DataError):
        score_pair(semantic(FOUND, 0.5, "um"), truth)
    trusted = score_pair(moved, truth, ScoreOptions(trust_index=True))
    assert trusted["notes"]
    assert trusted["classes"]["3"]["dice"] == 4 / 6
    assert score_pair(semantic(FOUND), truth)["notes"] == ["compared voxel by voxel: only one file has a physical size"]


def test_L5_values_outside_the_classes_are_refused():
    options = ScoreOptions(classes=(("cell", 1),))
    with pytest.raises(DataError, match="255"):
        score_pair(semantic([[0, 255]]), semantic([[0, 1]]), options)
    with pytest.raises(DataError, match="255"):
        score_pair(semantic([[0, 1]]), semantic([[0, 255]]), options)


def test_no_case_is_no_score():
    with pytest.raises(OptionError):
        summarise({}, "semantic")
    assert math.isnan(evaluate(instance([[0]]), instance([[0]]))["headline"]["pq"])
