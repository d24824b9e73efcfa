"""Further files of a prediction: in its record, kept and made again with it, gone with it, and no predictions."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from stub_models import fresh_weights, stub_plan
from typer.testing import CliRunner

from biosegkit.bundle import write_bundle
from biosegkit.cli import app
from biosegkit.errors import OptionError
from biosegkit.exports import class_names
from biosegkit.grid import Grid
from biosegkit.image import Image, Labels
from biosegkit.io import read_labels, write
from biosegkit.outputs import OUTPUTS
from biosegkit.pairing import pair_files
from biosegkit.plan.schema import LabelTable
from biosegkit.predict import predict_files
from biosegkit.predictor import Prediction

ALL = tuple(OUTPUTS)


class Spots:
    """Everything bright is an object; counts its calls."""

    digest = "spots-1"

    def __init__(self):
        self.calls = 0

    def predict(self, image):
        self.calls += 1
        labels = Labels.from_values(ndimage.label(image.array[0] > 100)[0], image.grid, "instance")
        ids = np.arange(1, labels.count + 1)
        return Prediction(labels, {"id": ids, "score": ids / 10})


@pytest.fixture
def spots(tmp_path):
    """Images ``a`` and ``sub/b`` with three and no spots; the pixel size is known."""
    pixels = np.full((1, 30, 40), 20, np.uint8)
    for y, x in ((3, 4), (15, 10), (20, 30)):
        pixels[0, y: y + 6, x: x + 5] = 200
    for name, values in (("a.tif", pixels), ("sub/b.tif", pixels // 8)):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        write(Image(values, Grid.regular((30, 40), 0.5, "um")), tmp_path / "in" / name)
    return tmp_path


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_further_files_are_written_and_known_to_the_record(spots):
    outcomes = predict_files(Spots(), spots / "in", spots / "out", also=ALL)
    assert [o.error for o in outcomes] == [None, None]
    endings = (".coco.json", ".csv", ".dcm", ".geojson", ".parquet", ".tif", ".tif.json", "_rois.zip", "_thumbnail.png")
    assert names(spots / "out") == [f"a{e}" for e in endings] + [f"sub/b{e}" for e in endings]
    record = json.loads((spots / "out/a.tif.json").read_text())
    assert sorted(record["also"]) == [f"a{e}" for e in endings if not e.startswith(".tif")]
    rows = list(csv.DictReader((spots / "out/a.csv").read_text().splitlines()))
    labels = read_labels(spots / "out/a.tif", "instance").array
    assert [float(r["area_um2"]) for r in rows] == [(labels == k).sum() / 4 for k in (1, 2, 3)] == [7.5] * 3
    assert [(r["score"], r["mean_channel_0"]) for r in rows] == [(f"0.{k}", "200.0") for k in (1, 2, 3)]
    features = json.loads((spots / "out/a.geojson").read_text())["features"]
    assert features[0]["geometry"]["coordinates"] == [[[4, 3], [9, 3], [9, 9], [4, 9], [4, 3]]]
    assert json.loads((spots / "out/sub/b.coco.json").read_text())["images"][0]["file_name"] == "sub/b.tif"


def test_resume_makes_again_what_is_damaged_and_a_new_wish_leaves_nothing_of_the_old_one(spots):
    model, out = Spots(), spots / "out"
    predict_files(model, spots / "in", out, also=("geojson", "rois"))
    first = {name: (out / name).read_bytes() for name in names(out)}
    (out / "a.geojson").write_text("{}")
    (out / "sub/b_rois.zip").unlink()
    outcomes = predict_files(model, spots / "in", out, also=("rois", "geojson"), resume=True)
    assert [o.state for o in outcomes] == ["done", "done"]
    assert {name: (out / name).read_bytes() for name in names(out)} == first
    again = predict_files(model, spots / "in", out, also=("geojson", "rois"), resume=True)
    assert [o.state for o in again] == ["kept", "kept"]
    assert model.calls == 4
    predict_files(model, spots / "in", out, resume=True)
    assert names(out) == [f"{n}{e}" for n in ("a", "sub/b") for e in (".csv", ".tif", ".tif.json")]


def test_pictures_beside_predictions_are_no_predictions(spots):
    predict_files(Spots(), spots / "in", spots / "out", also=("thumbnail",))
    (spots / "truth/sub").mkdir(parents=True)
    for name in ("a.tif", "sub/b.tif"):
        (spots / "truth" / name).write_bytes((spots / "out" / name).read_bytes())
    pairs = pair_files(spots / "out", spots / "truth", task="instance")
    assert not [note for note in pairs.notes if "thumbnail" in note]
    assert len(pairs.paths) == 2


def test_a_wish_that_cannot_be_met_is_refused_before_anything_runs_or_fails_its_image_alone(spots):
    with pytest.raises(OptionError, match="the output 'svg'"):
        predict_files(Spots(), spots / "in", spots / "out", also=("geojson", "svg"))
    assert not (spots / "out").exists()
    write(Image(np.full((1, 30, 40), 5, np.uint8), Grid.regular((30, 40))), spots / "in/c.tif")
    outcomes = predict_files(Spots(), spots / "in", spots / "out", also=("dicom",))
    assert [o.state for o in outcomes] == ["done", "failed", "done"]
    assert "no voxel size" in outcomes[1].error
    assert not (spots / "out/c.dcm").exists()


def test_a_format_that_cannot_hold_an_image_costs_it_nothing_else_and_no_second_run(spots, monkeypatch):
    monkeypatch.setattr("biosegkit.outputs.dicom.MOST_SEGMENTS", 2)
    model, kinds = Spots(), ("dicom", "geojson", "thumbnail")
    first, second = predict_files(model, spots / "in", spots / "out", also=kinds)
    assert (first.state, first.objects, second.state) == ("failed", 3, "done")
    assert re.fullmatch(r"no a\.dcm: a\.tif: found 3 objects; expected at most 2 for a DICOM Segmentation\. use "
                        r"GeoJSON.*\. All other files of this image are there", first.error)
    assert {name for name in names(spots / "out") if name.startswith("a")} == {
        "a.tif", "a.tif.json", "a.csv", "a.geojson", "a_thumbnail.png"}
    (row,) = csv.DictReader((spots / "out/failures.csv").read_text().splitlines())
    assert row["error"] == first.error
    again = predict_files(model, spots / "in", spots / "out", also=kinds, resume=True)
    assert [(o.state, o.error, o.objects) for o in again] == [("failed", first.error, 3), ("kept", None, 0)]
    assert model.calls == 2, "nothing is computed again for it"
    (spots / "out/a.geojson").unlink()
    predict_files(model, spots / "in", spots / "out", also=kinds, resume=True)
    assert (spots / "out/a.geojson").exists(), "what can be is made again"


def test_the_command_line_names_kinds_and_classes_have_the_names_of_the_plan(spots):
    plan = stub_plan(2, scheme="zscore", unit="um")
    write_bundle(spots / "run/bundle", plan, {"0": fresh_weights(plan)})
    words = ["predict", str(spots / "run"), str(spots / "in/a.tif"), "-o", str(spots / "out")]
    refused = CliRunner().invoke(app, [*words, "--also", "geojson,svg"])
    assert refused.exit_code == 2
    done = CliRunner().invoke(app, [*words, "--also", "geojson, csv"])
    assert done.exit_code == 0, done.output
    found = json.loads((spots / "out/a.geojson").read_text())["features"]
    present = set(read_labels(spots / "out/a.tif", "semantic").restored().ravel().tolist()) - {0}
    assert {f["properties"]["classification"]["name"] for f in found} == {f"class {v}" for v in present}
    assert {int(row["class"]) for row in csv.DictReader((spots / "out/a.csv").read_text().splitlines())} == present


def test_objects_have_the_names_of_their_classes():
    table = LabelTable(task="instance", names=("background", "object"), values=(0, 1), object_names=("tumour", "other"),
                       object_values=(4, 9))
    assert class_names(table) == {4: "tumour", 9: "other"}


def test_a_table_of_another_image_is_refused(spots):
    class Wrong(Spots):
        def predict(self, image):
            found = super().predict(image)
            return Prediction(found.labels, {"id": np.arange(1, 9), "score": np.ones(8)})

    outcome, = predict_files(Wrong(), spots / "in/a.tif", spots / "out", also=("geojson",))
    assert "rows of objects that are not in the labels" in outcome.error


def test_the_page_about_outputs_runs_as_shown_and_names_every_kind(spots, monkeypatch):
    page = (Path(__file__).parents[1] / "docs/outputs.md").read_text("utf-8")
    kinds = re.findall(r"^\| `([a-z]+)` \| `NAME(\S+)` \|", page, re.M)
    assert dict(kinds) == OUTPUTS
    (spots / "out").mkdir()
    (spots / "new.tif").write_bytes((spots / "in/a.tif").read_bytes())
    corners = np.kron(np.eye(2, dtype=int), np.ones((15, 20), int))
    write(Labels.from_values(corners, Grid.regular((30, 40)), "instance"), spots / "corrected.tif")
    monkeypatch.chdir(spots)
    (shown,) = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    exec(shown, {})
    assert names(spots / "out") == ["corrected.geojson", "corrected_thumbnail.png", "new.csv", "new.geojson", "new.tif",
                                    "new_rois.zip"]
    corrected = json.loads((spots / "out/corrected.geojson").read_text())["features"]
    assert [f["geometry"]["type"] for f in corrected] == ["MultiPolygon"]
