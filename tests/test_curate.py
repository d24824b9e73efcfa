"""Data sets that grow by corrected images: what is written can be learnt from, what does not fit changes nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from small_sets import discs

from biosegkit import curate
from biosegkit._atomic import sha256
from biosegkit.cases import scan
from biosegkit.checks import diagnose
from biosegkit.errors import DataError, FileError
from biosegkit.grid import Grid
from biosegkit.image import Image, Labels


def pair(seed=0, shape=(32, 32), grid=None, channels=1):
    image, values = discs(shape, seed=seed)
    grid = grid or Grid.regular(shape, 0.5, "um")
    return Image(np.stack([image] * channels), grid), Labels.from_values(values, grid, "instance")


def files(folder):
    return {p.relative_to(folder).as_posix(): sha256(p) for p in folder.rglob("*") if p.is_file()}


def test_cases_that_were_added_are_a_data_set(tmp_path):
    for k in range(3):
        image, labels = pair(k)
        log = [{"operation": "merge", "ids": [1, 2]}]
        added = curate.add_case(tmp_path / "set", f"c{k}", image, labels, origin={"model": "m", "file": "x.tif"},
                                corrections=log)
        assert added.cases == k + 1
    dataset = scan(tmp_path / "set")
    assert [case.id for case in dataset] == ["c0", "c1", "c2"]
    assert not [p for p in diagnose(dataset) if p.severity == "error"]
    image, labels = dataset.load(dataset[2], "instance")
    expected = pair(2)
    assert np.array_equal(image.array, expected[0].array)
    assert np.array_equal(labels.restored(), expected[1].restored())
    assert (image.grid.spacing, image.grid.unit) == ((0.5, 0.5), "um")
    entry = curate.provenance(tmp_path / "set")["c1"]
    assert (entry["model"], entry["file"], entry["corrections"], entry["objects"]) == ("m", "x.tif", log, 3)
    assert entry["sha256"]["labels"] == sha256(tmp_path / "set/labels/c1.tif")


def test_volumes_in_millimetres_keep_their_affine(tmp_path):
    affine = np.array([[0, 0, -1.5, 9], [0, 2.0, 0, 3], [2.5, 0, 0, -4], [0, 0, 0, 1]])
    image, labels = pair(shape=(4, 12, 12), grid=Grid((4, 12, 12), affine, "mm"))
    added = curate.add_case(tmp_path, "v", image, labels)
    assert added.image.name == "v.nii.gz"
    dataset = scan(tmp_path)
    again, truth = dataset.load(dataset[0], "instance")
    assert np.allclose(again.grid.affine, affine)
    assert np.array_equal(truth.restored(), labels.restored())


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path):
    image, labels = pair()
    curate.add_case(tmp_path, "a", image, labels)
    before = files(tmp_path)
    other = pair(1, (16, 16))
    stack = pair(1, (4, 16, 16))
    wrong = [
        (("b", image, other[1]), DataError, "labels of shape"),
        (("b", *stack), DataError, "3 axes"),
        (("b", *pair(1, channels=2)), DataError, "2 channels"),
        (("a", *pair(1)), FileError, "already"),
        (("b/c", *pair(1)), DataError, "use 'b_c'"),
    ]
    for arguments, kind, said in wrong:
        with pytest.raises(kind, match=said):
            curate.add_case(tmp_path, *arguments)
    assert files(tmp_path) == before
    (tmp_path / "images/lonely.tif").touch()
    with pytest.raises(FileError, match="lonely"):
        curate.add_case(tmp_path, "b", image, labels)


def test_a_case_is_replaced_when_asked(tmp_path):
    curate.add_case(tmp_path, "a", *pair())
    image, labels = pair(3)
    added = curate.add_case(tmp_path, "a", image, labels, overwrite=True)
    assert added.cases == 1
    dataset = scan(tmp_path)
    assert np.array_equal(dataset.load_image(dataset[0]).array, image.array)


def test_a_failure_while_writing_leaves_no_half_case(tmp_path, monkeypatch):
    curate.add_case(tmp_path, "a", *pair())
    before, write, count = files(tmp_path), curate.write, []

    def failing(item, path):
        count.append(path)
        if len(count) == 2:
            raise FileError("cannot write: No space left on device", file=path)
        write(item, path)

    monkeypatch.setattr(curate, "write", failing)
    with pytest.raises(FileError, match="No space"):
        curate.add_case(tmp_path, "b", *pair(1))
    assert files(tmp_path) == before


def test_folders_of_something_else_are_left_alone(tmp_path):
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(FileError, match=r"thesis\.docx"):
        curate.add_case(tmp_path, "a", *pair())
    with pytest.raises(FileError, match="a file"):
        curate.add_case(tmp_path / "thesis.docx", "a", *pair())


def test_a_record_of_a_later_version_is_not_overwritten(tmp_path):
    curate.add_case(tmp_path, "a", *pair())
    (tmp_path / curate.RECORD).write_text(json.dumps({"schema_version": 2, "cases": {}}))
    before = files(tmp_path)
    with pytest.raises(FileError, match="schema_version 1"):
        curate.add_case(tmp_path, "b", *pair(1))
    assert files(tmp_path) == before
