"""Folders, files and tables of predictions paired with their truths."""

import json

import numpy as np
import pytest

from biosegkit.description import Description
from biosegkit.errors import DataError, FileError, OptionError
from biosegkit.evaluate import evaluate, evaluate_folder
from biosegkit.grid import Grid
from biosegkit.image import Image, Labels
from biosegkit.io import read_labels, write
from biosegkit.scores import ScoreOptions

SHAPE = (6, 9)


def save(path, values, task="semantic", unit="px", spacing=1.0):
    array = np.array(values)
    labels = Labels.from_values(array, Grid.regular(array.shape, spacing, unit), task)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(labels, path)


def disc(value=1, shift=0):
    values = np.zeros(SHAPE, int)
    values[1:5, 1 + shift:5 + shift] = value
    return values


@pytest.fixture
def folders(tmp_path):
    for name, shift in (("a", 0), ("deep/b", 1), ("case1", 0), ("case11", 2)):
        save(tmp_path / "truth" / f"{name}.tif", disc())
        save(tmp_path / "found" / f"{name}.tif", disc(shift=shift))
    return tmp_path


def by_case(record, score="dice"):
    return {row["case"]: row[score] for row in record["cases"]}


def test_folder_against_folder(folders):
    seen = []
    record = evaluate_folder(folders / "found", folders / "truth", task="semantic",
                             progress=lambda *step: seen.append(step))
    assert by_case(record) == {"a": 1.0, "deep/b": 0.75, "case1": 1.0, "case11": 0.5}
    assert record["classes"]["1"]["dice"] == record["headline"]["dice"] == 3.25 / 4
    assert seen[-1][1:] == (3, 4)
    assert record["unit"] == "px"


def test_D1_missing_predictions_are_all_listed(folders):
    (folders / "found" / "case1.tif").unlink()  # case11 must not stand in for it
    (folders / "found" / "deep/b.tif").rename(folders / "found" / "deep/bb.tif")
    with pytest.raises(DataError) as caught:
        evaluate_folder(folders / "found", folders / "truth", task="semantic")
    assert "2 cases without prediction: case1, deep/b" in str(caught.value)
    assert "1 prediction without truth: deep/bb.tif" in str(caught.value)


def test_D1_two_predictions_of_one_case_are_refused(folders):
    save(folders / "found" / "a.png", disc())
    with pytest.raises(DataError, match=r"several predictions: a \(a.png, a.tif\)"):
        evaluate_folder(folders / "found", folders / "truth", task="semantic")


def test_predictions_too_many_are_noted(folders):
    save(folders / "found" / "more.tif", disc())
    record = evaluate_folder(folders / "found", folders / "truth", task="semantic")
    assert record["notes"] == ["1 prediction without truth, not scored: more.tif"]
    assert len(record["cases"]) == 4


def test_files_and_one_of_many(folders):
    found, truth = folders / "found", folders / "truth"
    assert by_case(evaluate_folder(found / "case11.tif", truth, task="semantic")) == {"case11": 0.5}
    assert by_case(evaluate_folder(found / "case11.tif", truth / "a.tif", task="semantic")) == {"a": 0.5}
    assert by_case(evaluate_folder(found, truth / "case11.tif", task="semantic")) == {"case11": 0.5}
    with pytest.raises(FileError):
        evaluate_folder(found / "none", truth, task="semantic")
    with pytest.raises(FileError):
        evaluate_folder(found, folders / "none", task="semantic")


def dataset(root, names, task="semantic"):
    for name in names:
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        write(Image(np.zeros((1, *SHAPE), np.uint8), Grid.regular(SHAPE)), root / "images" / f"{name}.tif")
        save(root / "labels" / f"{name}.png", disc(), task)


def test_table_with_rows_selected(tmp_path):
    dataset(tmp_path / "data", ["x/1", "y/1", "y/2"])
    rows = ["image,label,case,split", *(f"images/{n}.tif,labels/{n}.png,{n.replace('/', '_')},{s}"
                                       for n, s in (("x/1", "test"), ("y/1", "test"), ("y/2", "train")))]
    (tmp_path / "data" / "cases.csv").write_text("\n".join(rows))
    save(tmp_path / "found" / "x" / "1.tif", disc())  # by the end of the image's path
    save(tmp_path / "found" / "y_1.tif", disc(shift=1))  # by the case's id
    record = evaluate_folder(tmp_path / "found", tmp_path / "data" / "cases.csv", where={"split": "test"},
                             task="semantic")
    assert by_case(record) == {"x_1": 1.0, "y_1": 0.75}
    save(tmp_path / "found" / "1.tif", disc())
    with pytest.raises(DataError, match=r"several predictions.*fits several cases: 1\.tif"):
        evaluate_folder(tmp_path / "found", tmp_path / "data" / "cases.csv", where={"split": "test"}, task="semantic")
    with pytest.raises(OptionError):
        evaluate_folder(tmp_path / "found", tmp_path / "data" / "labels", where={"split": "test"})


@pytest.mark.parametrize("about", [{"labels": {"background": 0, "cell": 7, "ignore": 9}},
                                   {"labels": {"background": 0, "cell": 7}, "ignore": 9}])
def test_dataset_names_its_classes_and_ignored_value(tmp_path, about):
    dataset(tmp_path / "data", ["a"])
    values = disc(7)
    values[5] = 9
    save(tmp_path / "data" / "labels" / "a.png", values)
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(about))
    found = disc(7)
    found[5] = 7
    save(tmp_path / "found" / "a.tif", found)
    for truth in (tmp_path / "data", tmp_path / "data" / "labels", tmp_path / "data" / "labels" / "a.png"):
        record = evaluate_folder(tmp_path / "found", truth)
        assert record["classes"]["cell"]["dice"] == 1.0
        assert record["classes"]["cell"]["value"] == 7
    save(tmp_path / "found" / "a.tif", disc(9))  # the ignored value is nothing one can predict
    with pytest.raises(DataError, match=r"label values \[9\]"):
        evaluate_folder(tmp_path / "found", tmp_path / "data")


def test_L5_disjoint_values_are_refused_and_mapped(folders):
    for path in (folders / "truth").rglob("*.tif"):
        save(path, disc(255))
    with pytest.raises(DataError, match=r"--map 1=255"):
        evaluate_folder(folders / "found", folders / "truth", task="semantic")
    describe = Description(mapping={255: 1})
    record = evaluate_folder(folders / "found", folders / "truth", task="semantic", describe=describe)
    assert by_case(record)["a"] == 1.0
    record = evaluate_folder(folders / "truth", folders / "found", task="semantic", describe=describe)
    assert by_case(record)["a"] == 1.0


def test_exchanged_values_are_exchanged_once(tmp_path):
    values = disc(1)
    values[0] = 2
    save(tmp_path / "truth" / "a.tif", values)
    save(tmp_path / "found" / "a.tif", np.select([values == 1, values == 2], [2, 1], 0))
    record = evaluate_folder(tmp_path / "found", tmp_path / "truth", task="semantic",
                             describe=Description(mapping={1: 2, 2: 1}))
    assert by_case(record) == {"a": 1.0}


def test_task_is_found_from_the_truths(tmp_path):
    for name, count in (("a", 4), ("b", 12), ("c", 7)):
        values = np.zeros((8, 40), int)
        for k in range(count):
            values[2:5, 3 * k:3 * k + 2] = k + 1
        save(tmp_path / "truth" / f"{name}.tif", values, "instance")
        save(tmp_path / "found" / f"{name}.tif", values[::-1, ::-1][::-1, ::-1] * 3, "instance")
    record = evaluate_folder(tmp_path / "found", tmp_path / "truth")
    assert record["task"] == "instance"
    assert record["headline"]["ap@0.50"] == record["headline"]["pq"] == 1.0
    assert record["pooled"]["n_true"] == 23
    assert "scored as instance" in record["notes"][0]


def test_G2_every_case_that_cannot_be_compared_is_listed(folders):
    for name in ("a", "case1", "case11", "deep/b"):
        save(folders / "truth" / f"{name}.tif", disc(), unit="um", spacing=0.5)
        save(folders / "found" / f"{name}.tif", disc(), unit="um", spacing=0.5 if name == "a" else 0.25)
    with pytest.raises(DataError) as caught:
        evaluate_folder(folders / "found", folders / "truth", task="semantic")
    assert "3 of 4 cases" in str(caught.value)
    assert all(f"{name}: " in str(caught.value) for name in ("case1", "case11", "deep/b"))
    record = evaluate_folder(folders / "found", folders / "truth", task="semantic",
                             options=ScoreOptions(trust_index=True))
    assert record["headline"]["dice"] == 1.0
    assert record["unit"] == "um"


def test_two_cases_of_disjoint_ids_name_the_option_that_helps(tmp_path):
    """Objects numbered on from case to case look like classes: the way out is named."""
    for name, first in (("a", 1), ("b", 3)):
        values = disc(first) + np.flip(disc(first + 1), 1) * (disc() == 0)
        save(tmp_path / "truth" / f"{name}.tif", values, "instance")
        save(tmp_path / "found" / f"{name}.tif", np.where(values, values + 100, 0), "instance")
    with pytest.raises(DataError, match="--task instance") as caught:
        evaluate_folder(tmp_path / "found", tmp_path / "truth")
    assert "--map" in caught.value.remedy
    assert evaluate_folder(tmp_path / "found", tmp_path / "truth", task="instance")["headline"]["ap@0.50"] == 1.0


def test_the_records_beside_predictions_say_what_they_are(tmp_path):
    for name in "ab":
        save(tmp_path / "truth" / f"{name}.tif", disc(5), "instance")
        save(tmp_path / "found" / f"{name}.tif", disc(1), "instance")
        (tmp_path / "found" / f"{name}.tif.json").write_text(json.dumps({"task": "instance"}))
    record = evaluate_folder(tmp_path / "found", tmp_path / "truth")
    assert record["task"] == "instance"
    assert any("records say so" in note for note in record["notes"])
    (tmp_path / "found/b.tif.json").write_text("[]")  # not all of them say it: found from the truths
    with pytest.raises(DataError, match="--task instance"):
        evaluate_folder(tmp_path / "found", tmp_path / "truth")


def test_named_classes_are_semantic_whatever_they_look_like(tmp_path):
    for name, count in zip("abcd", (2, 5, 9, 12), strict=True):
        values = np.zeros(SHAPE, int)
        values.ravel()[:4 * count:4] = np.arange(1, count + 1)
        save(tmp_path / "truth" / f"{name}.tif", values)
        save(tmp_path / "found" / f"{name}.tif", values)
    assert evaluate_folder(tmp_path / "found", tmp_path / "truth")["task"] == "instance"
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {f"c{v}": v for v in range(1, 13)}}))
    assert evaluate_folder(tmp_path / "found", tmp_path / "truth")["task"] == "semantic"


def test_a_truth_whose_task_nobody_said_is_what_the_prediction_is(tmp_path):
    two = disc() + 2 * (np.arange(SHAPE[1]) > 6)
    save(tmp_path / "truth.tif", two)
    truth = read_labels(tmp_path / "truth.tif")
    for task, score in (("instance", "ap@0.50"), ("semantic", "dice")):
        record = evaluate(read_labels(tmp_path / "truth.tif", task), truth)
        assert record["task"] == task
        assert record["headline"][score] == 1
        assert f"scored as {task}: the prediction's task" in record["notes"]
    assert evaluate(truth, read_labels(tmp_path / "truth.tif", "instance"))["task"] == "instance"


@pytest.mark.parametrize(("objects", "task"), [(12, "instance"), (2, "semantic")])
def test_where_nobody_said_any_task_it_is_found_from_the_truth(tmp_path, objects, task):
    save(tmp_path / "a.tif", np.kron(np.eye(objects, dtype=int) * np.arange(1, objects + 1), np.ones((3, 3), int)))
    labels = read_labels(tmp_path / "a.tif")
    record = evaluate(labels, labels)
    assert record["task"] == task
    assert any(note.startswith(f"scored as {task}: ") for note in record["notes"])


def test_a_folder_of_masks_holds_objects_without_being_told(tmp_path):
    for number in range(2):
        save(tmp_path / "masks" / f"{number}.tif", disc() if number else 255 * (np.arange(SHAPE[1]) > 6) + 0 * disc())
    labels = read_labels(tmp_path / "masks")
    assert (labels.task, labels.task_said, labels.count) == ("instance", True, 2)
