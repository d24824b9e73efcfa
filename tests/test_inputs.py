"""What is predicted and under which name: files, folders, tables, channels in files of their own."""

import json
from pathlib import Path

import numpy as np
import pytest
from stub_models import Bands, segmenter, stub_plan

from biosegkit.cases import scan
from biosegkit.errors import DataError, FileError, OptionError
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.inputs import find_jobs
from biosegkit.io import write
from biosegkit.predict import predict_files

OUT = Path("out")


def touched(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def found(inputs, channels=1):
    return {job.name: [p.name for p in job.images] for job in find_jobs(inputs, OUT, channels)}


def test_channels_in_files_of_their_own_are_joined_where_a_case_has_all(tmp_path):
    touched(tmp_path, "x_0000.tif", "x_0001.tif", "y_0000.tif", "y_0001.tif", "sub/x_0000.tif", "sub/x_0001.tif")
    pair = ["x_0000.tif", "x_0001.tif"]
    whole = {"x": pair, "y": ["y_0000.tif", "y_0001.tif"], "sub/x": pair}
    assert found(tmp_path, 2) == whole
    assert found([tmp_path / "x_0001.tif", tmp_path / "x_0000.tif"], 2) == {"x": pair}
    assert found(str(tmp_path / "x*.tif"), 2) == {"x": pair}
    (tmp_path / "y_0001.tif").unlink()
    assert found(tmp_path, 2) == {"x": pair, "y_0000": ["y_0000.tif"], "sub/x": pair}
    assert found(tmp_path / "x_0000.tif", 2) == {"x_0000": ["x_0000.tif"]}


def test_the_only_channel_loses_its_number_where_all_have_it(tmp_path):
    touched(tmp_path, "a_0000.tif", "b_0000.tif")
    assert set(found(tmp_path)) == {"a", "b"}
    assert set(found(tmp_path / "a_0000.tif")) == {"a_0000"}
    touched(tmp_path, "b_0001.tif")  # numbers of images, not of channels
    assert set(found(tmp_path)) == {"a_0000", "b_0000", "b_0001"}


@pytest.mark.parametrize("layout", [("images/a.tif", "labels/a.tif"), ("imagesTr/a.tif", "labelsTr/a.tif")])
def test_of_a_data_set_only_images_are_taken(tmp_path, layout):
    assert found(touched(tmp_path, *layout)) == {"a": ["a.tif"]}


def test_F10_an_input_is_never_taken_for_an_earlier_output(tmp_path):
    """The output of an earlier run goes before its image is read: into the folder of the images nothing may go."""
    names = [f"{name}.tif" for name in "abc"]
    touched(tmp_path, *names)
    (tmp_path / "deep").mkdir()
    with pytest.raises(DataError, match="3 outputs that would replace an input"):
        find_jobs(tmp_path, tmp_path)
    with pytest.raises(DataError, match="1 output that would replace an input"):
        find_jobs(tmp_path / "deep" / ".." / "a.tif", tmp_path)
    assert sorted(p.name for p in tmp_path.glob("*.tif")) == names
    touched(tmp_path / "png", "a.png")
    assert [job.output for job in find_jobs(tmp_path / "png", tmp_path / "png")] == [tmp_path / "png/a.tif"]


def test_results_within_the_folder_of_the_images_are_no_images(tmp_path):
    touched(tmp_path, "a.tif", "deep/b.tif", "results/a.tif", "results/deep/b.tif", "results.tif")
    out = tmp_path / "results"
    assert {job.name for job in find_jobs(tmp_path, out)} == {"a", "deep/b", "results"}
    assert {job.name for job in find_jobs(out, tmp_path / "new")} == {"a", "deep/b"}
    with pytest.raises(DataError, match="replace an input"):
        find_jobs(out / "a.tif", out)  # named by the user


def test_of_case_folders_only_images_are_taken(tmp_path):
    touched(tmp_path, "one/images/p.png", "one/masks/1.png", "two/images/q.png")
    assert set(found(tmp_path)) == {"one/images/p", "two/images/q"}


def test_a_table_names_joins_and_describes(tmp_path):
    touched(tmp_path, "a.tif", "a2.tif", "b.tif", "b2.tif")
    (tmp_path / "dataset.json").write_text(json.dumps({"unit": "um"}))
    table = tmp_path / "cases.csv"
    table.write_text("image,case,split,spacing\na.tif;a2.tif,one,train,2;1;1\nb.tif;b2.tif,two,test,\n")
    jobs = find_jobs(table, OUT, 2)
    assert [(j.name, len(j.images), dict(j.reading)) for j in jobs] == [
        ("one", 2, {"unit": "um", "spacing": (2.0, 1.0, 1.0)}), ("two", 2, {"unit": "um"})]
    assert set(found(scan(table, where={"split": "test"}), 2)) == {"two"}
    table.write_text("image,case\na.tif,../../a\n")
    with pytest.raises(DataError, match="cannot be file names"):
        find_jobs(table, OUT)


def test_a_row_is_predicted_with_its_own_geometry(tmp_path):
    write(Image(np.zeros((1, 3, 12, 12), np.float32), Grid.regular((3, 12, 12))), tmp_path / "a.tif")
    (tmp_path / "cases.csv").write_text("image,spacing,unit\na.tif,3;0.5;0.5,um\n")
    (done,) = predict_files(segmenter(Bands(), stub_plan(2)), tmp_path / "cases.csv", tmp_path / OUT)
    assert done.error is None
    record = json.loads((tmp_path / "out/a.tif.json").read_text())
    assert record["options"]["reading"]["spacing"] == [3.0, 0.5, 0.5]
    assert record["grid"]["unit"] == "um"


def test_nothing_to_predict_is_refused(tmp_path):
    with pytest.raises(OptionError, match="no input"):
        find_jobs([], OUT)
    with pytest.raises(DataError, match="no image"):
        find_jobs(tmp_path, OUT)
    with pytest.raises(FileError, match="nothing there"):
        find_jobs(tmp_path / "x.tif", OUT)


def test_a_folder_of_dicom_files_is_one_slide(tmp_path):
    touched(tmp_path, "a.tif", ".hidden/x.dcm", "empty/notes.txt")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for level in range(2):
            (tmp_path / name / f"{level}.dcm").write_bytes(bytes(128) + b"DICM")
    assert found(tmp_path) == {"a": ["a.tif"], "one": ["one"], "two": ["two"]}
    assert [(job.name, job.output) for job in find_jobs(tmp_path / "two", OUT)] == [("two", OUT / "two.tif")]
