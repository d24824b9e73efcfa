"""Slides among the images of a batch: in blocks, into OME-Zarr with everything beside, and whatever stops them."""

import json
import os
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from batch_tasks import Alone
from engine_models import random_state, save
from pyramids import dicom, halves, subifds, svs, tissue
from stub_models import fresh_weights, stub_plan

from biosegkit._atomic import sha256
from biosegkit.batch import giants, layout, run
from biosegkit.batch.engine import Staff
from biosegkit.batch.giants import is_giant
from biosegkit.batch.ledger import FILE
from biosegkit.batch.run import predict_batch
from biosegkit.batch.tasks import Opening
from biosegkit.bundle import load, write_bundle
from biosegkit.engines import load_model
from biosegkit.errors import OptionError
from biosegkit.grid import Grid
from biosegkit.image import Image, Labels
from biosegkit.io import ReadOptions, read, read_labels, write
from biosegkit.io.zarr import CHUNK
from biosegkit.records import Wish

OPENING = Opening("model", "cpu")
EVERYWHERE = Wish(tissue="off")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model that works at 0.5 µm, a slide of 0.25 µm, one of 0.5 µm, an ordinary image and one that is damaged."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(CHUNK, 2, (64, 64))
    monkeypatch.setattr(layout, "_BLOCK", 2**12)
    monkeypatch.setattr(layout, "_GROUP", 2**14)
    monkeypatch.setattr(giants, "_SMALL", 0)
    plan = stub_plan(2, patch=(64, 64), scheme="zscore", instance=True, channels=3, unit="um", spacing=(0.5, 0.5),
                     resample=True)
    write_bundle("model", plan, {"0": fresh_weights(plan, 4)})
    Path("in").mkdir()
    levels = halves(tissue((280, 360)), 2)
    subifds(Path("in/a.ome.tif"), levels, photometric="rgb")
    svs(Path("in/b.svs"), levels[1:])
    Path("in/cut.svs").write_bytes(Path("in/b.svs").read_bytes()[:3000])
    write(Image(np.moveaxis(levels[2], -1, 0).copy(), Grid.regular(levels[2].shape[:2], 0.5, "um"),
                ("red", "green", "blue")), "in/small.tif")
    return levels


def batch(crash=None, resume=False, wish=EVERYWHERE, **options):
    @contextmanager
    def alone(staff):
        yield Alone(crash)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "employ", alone)
        return predict_batch(OPENING, "in", "out", Staff(1), resume=resume, wish=wish, **options)


def hashes(folder="out"):
    """Everything but the ledger, and what tells times and paths."""
    return {p.relative_to(folder).as_posix(): sha256(p) for p in sorted(Path(folder).rglob("*"))
            if p.is_file() and p.name not in (FILE, "report.html")}


def dying(replace, last):
    """In place of ``os.replace``, through which files are written: the process is gone at the ``last`` call.

    Chunks are written by a thread of zarr's own, which must not be hurt.
    """
    calls = iter(range(last))

    def call(*paths):
        if threading.current_thread() is threading.main_thread() and next(calls, None) is None:
            raise KeyboardInterrupt
        return replace(*paths)

    return call


def test_slides_go_in_blocks_at_the_pixel_size_of_the_model_and_others_whole(folder):
    found = {Path(o.input).name: o for o in batch()}
    assert {name: o.state for name, o in found.items()} == {"a.ome.tif": "done", "b.svs": "done", "cut.svs": "failed",
                                                           "small.tif": "done"}
    assert {p.name for p in Path("out").iterdir()} == {
        *(f"{name}{end}" for name in "ab"
          for end in (".ome.zarr", ".ome.zarr.json", ".csv", ".geojson", "_thumbnail.png")),
        "small.tif", "small.tif.json", "small.csv", "failures.csv", "report.html", FILE}
    model = load("model", "cpu")
    middle = Image(np.moveaxis(folder[1], -1, 0).copy(), Grid.regular(folder[1].shape[:2], 0.5, "um"))
    whole = model.predict(middle).labels
    labels = read_labels("out/a.ome.zarr", "instance")
    assert whole.count == found["a.ome.tif"].objects == labels.count > 10
    np.testing.assert_array_equal(labels.restored(), whole.restored())
    assert labels.grid.spacing == (0.5, 0.5)
    assert len(Path("out/a.csv").read_text().splitlines()) == whole.count + 1
    (first, *_) = json.loads(Path("out/a.geojson").read_text("utf-8"))["features"]
    number = int(first["properties"]["name"])
    rows = np.flatnonzero((labels.restored() == number).any(1))
    ys = [y for _, y in first["geometry"]["coordinates"][0]]  # pixels of the finest level, twice as many
    assert (min(ys), max(ys)) == (2 * rows[0], 2 * rows[-1] + 2)
    page = Path("out/report.html").read_text("utf-8")
    assert page.index("cut.svs") < page.index("a.ome.tif")
    record = json.loads(Path("out/a.ome.zarr.json").read_text())
    assert any("level 1 of 3" in note for note in record["notes"])


def test_a_slide_with_too_many_objects_for_dicom_has_everything_else_and_is_not_done_twice(folder, monkeypatch):
    monkeypatch.setattr("biosegkit.outputs.dicom.MOST_SEGMENTS", 3)
    Path("in/cut.svs").unlink()
    wish = Wish(tissue="off", also=("dicom", "coco"))
    found = {Path(o.input).name: o for o in batch(wish=wish)}
    first = found["a.ome.tif"]
    assert first.state == "failed"
    assert f"no a.dcm: a.ome.tif: found {first.objects} objects; expected at most 3" in first.error
    assert first.objects > 10
    for end in (".ome.zarr", ".ome.zarr.json", ".csv", ".geojson", ".coco.json", "_thumbnail.png"):
        assert (Path("out") / f"a{end}").exists(), end
    assert not Path("out/.a.ome.zarr.work").exists()
    before = hashes()
    monkeypatch.setattr(giants, "Begun", None)  # nothing is begun again
    again = {Path(o.input).name: o for o in batch(wish=wish, resume=True)}
    assert (again["a.ome.tif"].error, again["a.ome.tif"].objects) == (first.error, first.objects)
    assert hashes() == before


def test_a_format_that_no_slide_can_have_is_refused_before_anything_runs(folder, monkeypatch):
    monkeypatch.setattr("biosegkit.outputs.dicom._MOST_VOXELS", 20_000)
    for name in ("cut.svs", "small.tif"):
        (Path("in") / name).unlink()
    with pytest.raises(OptionError, match=r"--also dicom, which none .*: 140 × 180 voxels \(in/a.ome.tif\); expected "
                       "at most 20000 .* leave dicom out, or use GeoJSON"):
        batch(wish=Wish(tissue="off", also=("dicom",)))
    assert not Path("out").exists()
    svs(Path("in/c.svs"), [tissue((90, 100))])  # one that can
    found = {Path(o.input).name: o.error for o in batch(wish=Wish(tissue="off", also=("dicom",)))}
    assert found["c.svs"] is None
    assert "no a.dcm: a.ome.tif: found 140 × 180 voxels" in found["a.ome.tif"]


def test_P2_a_batch_that_breaks_off_anywhere_ends_with_the_same_bytes(folder):
    """Between any two steps, and at moments in the middle of writing; each time it is resumed and breaks off later."""
    batch()
    straight = hashes()
    Path("out").rename("straight")
    for crash in range(0, 40, 3):
        try:
            batch(crash, resume=True)
        except KeyboardInterrupt:
            continue
        break
    assert crash > 5
    shutil.rmtree("out")
    replace = os.replace
    for last in range(5, 400, 11):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "replace", dying(replace, last))
            try:
                batch(resume=True)
            except KeyboardInterrupt:
                continue
            break
    assert last > 40
    assert hashes() == straight
    assert {o.state for o in batch(resume=True)} == {"kept", "failed"}
    assert hashes() == straight
    Path("out/a.geojson").write_text("{}")
    Path("out/b.ome.zarr/0/c/0/0").unlink()
    assert [o.state for o in batch(resume=True)] == ["done", "done", "failed", "kept"]
    assert hashes() == straight


def test_blocks_are_counted_and_an_error_of_one_costs_its_image_alone(folder, monkeypatch):
    seen = []
    write(Image(np.zeros((1, 70, 80), np.uint8), Grid.regular((70, 80), 0.5, "um")), "in/grey.ome.tif")
    monkeypatch.setattr(giants, "is_giant", lambda *_: True)
    monkeypatch.setattr(run, "is_giant", lambda path, *_: path.name != "small.tif")
    found = {Path(o.input).name: o for o in batch(progress=lambda standing, outcome: seen.append(
        (standing.blocks_ended, standing.blocks, standing.left)))}
    assert found["grey.ome.tif"].state == "failed"
    assert "1 channel " in found["grey.ome.tif"].error
    assert found["a.ome.tif"].state == "done"
    assert max(blocks for _, blocks, _ in seen) > 3
    assert any(left is not None for *_, left in seen)


def test_pixel_size_is_asked_for_and_options_without_meaning_are_refused(folder):
    subifds(Path("in/a.ome.tif"), folder, None, photometric="rgb")
    (outcome,) = [o for o in batch() if Path(o.input).name == "a.ome.tif"]
    assert "--pixel-size" in outcome.error
    with pytest.raises(OptionError, match="--tissue"):
        predict_batch(OPENING, "in", "other", Staff(1), wish=Wish(tissue="nothing.geojson"))
    with pytest.raises(OptionError, match="geojsom"):
        predict_batch(OPENING, "in", "other", Staff(1), wish=Wish(also=("geojsom",)))
    assert not Path("other").exists()


def test_a_mask_that_no_image_could_use_is_refused_and_one_that_some_can_use_is_for_slides_alone(folder):
    """Where the mask is 0 no slide has an object; an ordinary image beside it has those it has without a mask."""
    left = np.zeros((28, 36), np.uint8)
    left[:, :18] = 1
    write(Labels.from_values(left, Grid.regular(left.shape), "semantic"), "mask.tif")
    masked = Wish(tissue="mask.tif")
    with pytest.raises(OptionError, match=r"mask\.tif without a slide.*ordinary images"):
        predict_batch(OPENING, "in/small.tif", "out", wish=masked)
    with pytest.raises(OptionError, match=r"mask\.tif without a slide"):
        predict_batch(OPENING, "in/small.tif", "out", Staff(1), wish=masked)
    assert not Path("out").exists()
    Path("in/cut.svs").unlink()
    everywhere = {Path(o.input).name: o.objects for o in batch()}
    svs(Path("in/wide.svs"), [tissue((100, 400))])
    there = {Path(o.input).name: o for o in batch(wish=masked, overwrite=True)}
    assert {name: o.state for name, o in there.items()} == {
        **dict.fromkeys(("a.ome.tif", "b.svs", "small.tif"), "done"), "wide.svs": "failed"}
    assert "expected the proportions of in/wide.svs, 100 × 400. " in there["wide.svs"].error
    assert "one mask is for every slide of a batch: predict this one apart" in there["wide.svs"].error
    said = "looked at everywhere: --tissue MASK is for images in blocks"
    assert said in there["small.tif"].notes
    assert said in json.loads(Path("out/small.tif.json").read_text())["notes"]
    assert said not in there["b.svs"].notes
    for name in "ab":
        labels = read_labels(f"out/{name}.ome.zarr", "instance").restored()
        assert labels[:, :64].any()
        assert not labels[:, 151:].any()  # the mask ends at 90, the last tile that reaches it begins at 87 and has 64
    assert there["small.tif"].objects == everywhere["small.tif"]
    assert there["a.ome.tif"].objects < everywhere["a.ome.tif"]


def test_slides_of_openslide_and_of_dicom_go_in_blocks_too(folder):
    pytest.importorskip("openslide")
    pytest.importorskip("wsidicom")
    shutil.rmtree("in")
    Path("in").mkdir()
    svs(Path("in/a.tif"), folder[1:]).rename("in/a.bif")  # OpenSlide looks at what it is
    dicom(Path("in/b"), folder[1:])
    found = {Path(o.input).name: o for o in batch()}
    assert {name: (o.state, Path(o.output).name) for name, o in found.items()} == {
        "a.bif": ("done", "a.ome.zarr"), "b": ("done", "b.ome.zarr")}
    middle = Image(np.moveaxis(folder[1], -1, 0).copy(), Grid.regular(folder[1].shape[:2], 0.5, "um"))
    whole = load("model", "cpu").predict(middle).labels
    np.testing.assert_array_equal(read_labels("out/b.ome.zarr", "instance").restored(), whole.restored())
    assert found["a.bif"].objects > 10  # of JPEG
    assert [o.state for o in batch(resume=True)] == ["kept"] * 2


def test_what_is_giant(tmp_path, monkeypatch):
    levels = halves(tissue((200, 300)), 1)
    monkeypatch.setattr(giants, "_SMALL", 0)
    assert is_giant(subifds(tmp_path / "a.ome.tif", levels, photometric="rgb"), ReadOptions())
    assert not is_giant(subifds(tmp_path / "b.ome.tif", levels[:1], photometric="rgb"), ReadOptions())
    write(Image(np.zeros((1, 5, 30, 40), np.uint8), Grid.regular((5, 30, 40))), tmp_path / "a.nii")
    assert not is_giant(tmp_path / "a.nii", ReadOptions())
    assert is_giant(tmp_path / "a.nii", ReadOptions(memory_budget=100))
    assert is_giant(tmp_path / "a.MRXS", ReadOptions())
    (tmp_path / "folder").mkdir()
    assert not is_giant(tmp_path / "folder", ReadOptions())
    (tmp_path / "c.tif").write_bytes(b"II*\0")
    assert not is_giant(tmp_path / "c.tif", ReadOptions())
    monkeypatch.setattr(giants, "GIANT", 1000)
    assert is_giant(tmp_path / "b.ome.tif", ReadOptions())


def test_what_a_cellpose_model_could_not_hold_is_done_in_blocks(tmp_path, monkeypatch):
    model = load_model(f"cellpose:{save(random_state(), tmp_path / 'weights')}", "cpu")
    file = subifds(tmp_path / "a.ome.tif", halves(tissue((200, 300)), 0), photometric="rgb")
    needed = model.memory(read(file))
    monkeypatch.setattr(giants, "_SMALL", 0)
    assert not is_giant(file, ReadOptions(memory_budget=needed), model)
    assert is_giant(file, ReadOptions(memory_budget=needed - 1), model)


def test_other_outputs_are_written_for_ordinary_images_too(folder):
    found = predict_batch(OPENING, "in/small.tif", "out", wish=Wish(also=("geojson", "coco")))
    assert [o.state for o in found] == ["done"]
    assert {p.name for p in Path("out").iterdir()} == {"small.tif", "small.tif.json", "small.csv", "small.geojson",
                                                      "small.coco.json"}
