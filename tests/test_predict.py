"""Files in, files out: where outputs stand, what is recorded beside them, what is refused; any predictor will do."""

import csv
import json

import numpy as np
import pytest
from PIL import Image as Pillow
from stub_models import Bands, Discs, fresh_weights, image, segmenter, stub_plan

from biosegkit.bundle import load, write_bundle
from biosegkit.errors import Cancelled, DataError, FileError, OptionError
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.io import ReadOptions, read, read_labels, write
from biosegkit.predict import predict, predict_files
from biosegkit.predictor import Predictor
from biosegkit.progress import watched


class Threshold:
    """A predictor of another kind."""

    digest = "threshold-1"

    def predict(self, im):
        from biosegkit.image import Labels
        from biosegkit.predictor import Prediction

        return Prediction(Labels.from_values((im.array[0] > 1).astype(np.uint8), im.grid, "semantic"))


def test_predict_takes_any_predictor_but_not_every_option():
    assert isinstance(Threshold(), Predictor)
    assert predict(Threshold(), image((5, 5))).labels.count == 1
    for options in ({"tta": True}, {"maps": True}, {"thresholds": {"a": 1.0}}):
        with pytest.raises(OptionError):
            predict(Threshold(), image((5, 5)), **options)


@pytest.fixture
def folder(tmp_path):
    """Three images in two folders and two formats, and a bundle."""
    plan = stub_plan(2, scheme="zscore")
    write_bundle(tmp_path / "run/bundle", plan, {"0": fresh_weights(plan)})
    for name in ("a.tif", "sub/a.tif", "sub/b.png"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        im = image((20, 17), seed=len(name), top=255)
        write(Image(im.array.astype(np.uint8), Grid.regular((20, 17))), path)
    return tmp_path


def test_files_give_outputs_at_their_relative_path(folder):
    outcomes = predict_files(load(folder / "run", "cpu"), folder / "in", folder / "out")
    assert [o.state for o in outcomes] == ["done"] * 3
    assert {p.relative_to(folder / "out").as_posix() for p in (folder / "out").rglob("*.tif")} == {
        "a.tif", "sub/a.tif", "sub/b.tif"}
    labels = read_labels(folder / "out/sub/b.tif", "semantic")
    assert labels.array.shape == (20, 17)
    assert set(labels.values) <= {0, 3, 7}
    assert not (folder / "out/failures.csv").exists()


def test_a_cancel_is_no_failure_of_an_image(folder):
    def stop_at_the_second_image(done, total, stage):
        if (folder / "out/a.tif").exists():
            raise Cancelled("a click on Cancel")

    model = load(folder / "run", "cpu")
    with pytest.raises(Cancelled), watched(stop_at_the_second_image):
        predict_files(model, folder / "in", folder / "out")
    assert [p.name for p in (folder / "out").rglob("*.tif")] == ["a.tif"]
    assert not (folder / "out/failures.csv").exists()
    outcomes = predict_files(model, folder / "in", folder / "out", resume=True)
    assert [o.state for o in outcomes] == ["kept", "done", "done"]


def test_a_table_and_a_dataset_folder_name_their_images(folder):
    (folder / "cases.csv").write_text("image,case\nin/a.tif,first\nin/sub/a.tif,x/second\n")
    (folder / "set/images").mkdir(parents=True)
    (folder / "set/labels").mkdir()
    (folder / "set/images/c.tif").write_bytes((folder / "in/a.tif").read_bytes())
    model = load(folder / "run", "cpu")
    table = predict_files(model, folder / "cases.csv", folder / "out1")
    assert [o.output for o in table] == [str(folder / "out1/first.tif"), str(folder / "out1/x/second.tif")]
    found = predict_files(model, [folder / "set"], folder / "out2")
    assert [o.output for o in found] == [str(folder / "out2/c.tif")]
    globbed = predict_files(model, str(folder / "in/sub/*.tif"), folder / "out3")
    assert [o.output for o in globbed] == [str(folder / "out3/a.tif")]


def test_instance_predictions_write_a_table_and_count(folder):
    values = np.zeros((1, 24, 24), np.float32)
    yy, xx = np.mgrid[:24, :24]
    for y, x in [(6, 6), (16, 17)]:
        values[0] = np.maximum(values[0], np.clip(1 - np.hypot(yy - y, xx - x) / 5, 0, 1))
    write(Image(values, Grid.regular((24, 24))), folder / "two.tif")
    model = segmenter(Discs(), stub_plan(2, instance=True))
    outcome, = predict_files(model, folder / "two.tif", folder / "out", save_maps=True)
    assert (outcome.state, outcome.objects) == ("done", 2)
    rows = list(csv.DictReader((folder / "out/two.csv").read_text().splitlines()))
    assert [row["id"] for row in rows] == ["1", "2"]
    assert float(rows[0]["centroid_y"]) == pytest.approx(6, abs=0.5)
    assert (folder / "out/two_distance.tif").exists()


def test_progress_is_told_after_every_file(folder):
    seen = []
    predict_files(load(folder / "run", "cpu"), folder / "in", folder / "out",
                  progress=lambda outcome, done, total: seen.append((outcome.state, done, total)))
    assert seen == [("done", 1, 3), ("done", 2, 3), ("done", 3, 3)]


def test_an_existing_output_is_refused_without_resume_or_overwrite(folder):
    (folder / "out").mkdir()
    (folder / "out/other.txt").write_text("mine")
    with pytest.raises(FileError, match="--resume or --overwrite"):
        predict_files(load(folder / "run", "cpu"), folder / "in", folder / "out")
    predict_files(load(folder / "run", "cpu"), folder / "in", folder / "out", overwrite=True)
    assert (folder / "out/other.txt").read_text() == "mine"


def test_X7_the_record_beside_an_output_says_what_made_it(folder):
    predict_files(load(folder / "run", "cpu"), folder / "in/a.tif", folder / "out", tta=True)
    record = json.loads((folder / "out/a.tif.json").read_text())
    assert {"biosegkit", "torch", "numpy"} <= set(record["versions"])
    assert record["device"].startswith("cpu")
    assert record["seed"] == 0
    assert record["options"]["tta"] is True
    assert len(record["made_from"]["input"]["a.tif"]) == 64
    assert len(record["made_from"]["model"]) == len(record["output"]) == 64
    assert str(folder) not in json.dumps(record)


def test_grey_stored_as_colours_fits_models_of_one_channel_and_of_three(tmp_path):
    """Read from a file or made of an array, by the command or in Python: the labels are the same."""
    grey = np.random.default_rng(0).integers(0, 3, (12, 12), dtype=np.uint8)
    colours = np.repeat(grey[None], 3, 0)
    Pillow.fromarray(colours.transpose(1, 2, 0)).save(tmp_path / "colours.png")
    Pillow.fromarray(grey).save(tmp_path / "grey.png")
    one, three = segmenter(Bands(), stub_plan(2)), segmenter(Bands(), stub_plan(2, channels=3))
    grid = Grid.regular((12, 12))
    truth = predict(one, Image(grey[None], grid)).labels.restored()
    for model, name in ((one, "one"), (three, "three")):
        outcome, = predict_files(model, tmp_path / "colours.png", tmp_path / name)
        assert "RGB with three equal channels read as one channel" in outcome.notes
        assert ("taken as three equal channels again" in outcome.notes) is (model is three)
        assert (read_labels(tmp_path / name / "colours.tif", "semantic").restored() == truth).all()
        for given in (read(tmp_path / "colours.png"), Image(colours, grid),
                      read(tmp_path / "colours.png", ReadOptions(channel_names=("r", "g", "b")))):
            assert (predict(model, given).labels.restored() == truth).all()


@pytest.mark.parametrize(("channels", "wanted"), [(1, 3), (2, 1), (3, 1)])
def test_other_numbers_of_channels_are_refused(channels, wanted):
    """Grey is no colour, and colours that differ are not grey."""
    array = np.arange(channels * 144.0).reshape(channels, 12, 12)
    with pytest.raises(DataError, match=f"{channels} channel"):
        predict(segmenter(Bands(), stub_plan(2, channels=wanted)), Image(array, Grid.regular((12, 12))))
