"""Giant images by StarDist models: labels, ids, scores and classes of the image in memory, however it is cut."""

import csv
import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from batch_tasks import Alone
from engine_models import spots_model
from hypothesis import given, settings
from hypothesis import strategies as st
from keras_files import write_model
from scipy import ndimage
from test_engines_stardist_network import CONFIGS, Weights, expected_maps, random_values

from biosegkit._atomic import sha256
from biosegkit.batch import giants, run, star_work, stars
from biosegkit.batch.engine import Staff
from biosegkit.batch.giant import GiantJob
from biosegkit.batch.run import predict_batch
from biosegkit.batch.star_order import in_order
from biosegkit.batch.stars import finish_stars, infer_stars, paint_stars, prepare_stars, resolve_stars
from biosegkit.batch.tasks import Opening
from biosegkit.engines import load_model, streamed
from biosegkit.engines.star_shapes import Candidates
from biosegkit.engines.streamed import streamed_percentiles
from biosegkit.errors import FileError
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.io import read, read_labels, write
from biosegkit.io.zarr import CHUNK
from biosegkit.records import Wish
from biosegkit.state_files import ArrayFile, write_arrays


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Chunks, groups, boxes and bands of a few voxels."""
    monkeypatch.setitem(CHUNK, 2, (32, 32))
    monkeypatch.setitem(CHUNK, 3, (4, 16, 16))
    monkeypatch.setattr(star_work, "_GROUP", 2)
    monkeypatch.setattr(streamed, "_PART", {2: (50, 41), 3: (7, 30, 20)})
    monkeypatch.setattr(star_work, "_CHUNKS", {2: (2, 1), 3: (1, 2, 1)})
    monkeypatch.setattr(stars, "_ORDER", 70)


def textured(shape, channels=1):
    rng = np.random.default_rng(5)
    values = np.stack([ndimage.gaussian_filter(rng.standard_normal(shape), 1.5) for _ in range(channels)])
    values = np.clip((values - values.min()) / np.ptp(values) * 250, 0, 250).astype(np.uint8)
    return Image(values, Grid.regular(shape, 0.5, "um"))


def hashes(folder):
    return {p.relative_to(folder).as_posix(): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def rows_of(path):
    with Path(path).open(newline="") as file:
        return list(csv.reader(file))


def in_any_order(job):
    """All steps, the last of everything first."""
    steps = prepare_stars(job)
    for group in steps.groups[::-1]:
        infer_stars(job, group)
    resolve_stars(job)
    for box in steps.boxes[::-1]:
        paint_stars(job, box)
    return finish_stars(job)


@pytest.mark.parametrize(("shape", "channels", "options"), [
    ((130, 95), 1, {"tile": 16}), ((130, 95), 2, {"tile": 24, "channel": "1", "low": 5, "high": 90, "border": 0}),
    ((13, 40, 44), 1, {"tile": 8, "border": 0, "border_objects": "remove"}),
    ((1, 70, 60), 1, {"tile": 32, "border": 0, "border_objects": "remove"}),
])
def test_labels_and_table_are_those_of_the_image_in_memory(tmp_path, shape, channels, options):
    ndim = 3 if shape[0] > 1 and len(shape) == 3 else 2
    folder = spots_model(tmp_path / "m", ndim, classes=2, radius=3.3, thresholds={"prob": 0.55, "nms": 0.3})
    write(textured(shape, channels), tmp_path / "a.ome.zarr")
    found = load_model(folder, "cpu", options).predict(read(tmp_path / "a.ome.zarr"))
    job = GiantJob((str(tmp_path / "a.ome.zarr"),), str(tmp_path / "out/a.ome.zarr"), str(folder), "cpu",
                   tuple(options.items()))
    record = in_any_order(job)
    labels = read_labels(job.output, "instance")
    np.testing.assert_array_equal(labels.restored(), found.labels.restored())
    assert labels.grid == found.labels.grid
    assert record["objects"] == found.labels.count > 8
    rows = rows_of(tmp_path / "out/a.csv")
    assert rows[0] == list(found.objects)
    assert rows[1:] == [[str(v) for v in row] for row in zip(*(c.tolist() for c in found.objects.values()),
                                                             strict=True)]
    assert set(found.notes) <= set(record["notes"])
    assert not job.folder.exists()


def test_what_is_damaged_is_made_again_and_what_is_of_another_job_is_not_used(tmp_path):
    folder = spots_model(tmp_path / "m", 2, radius=3.3)
    write(textured((80, 90)), tmp_path / "a.ome.zarr")
    options = (("tile", 32),)
    straight = GiantJob((str(tmp_path / "a.ome.zarr"),), str(tmp_path / "one/a.ome.zarr"), str(folder), "cpu", options)
    in_any_order(straight)
    job = GiantJob(straight.images, str(tmp_path / "two/a.ome.zarr"), str(folder), "cpu", options)
    steps = prepare_stars(job)
    assert [infer_stars(job, k) for k in steps.groups] == [2] * 4 + [1]
    assert [infer_stars(job, k) for k in prepare_stars(job).groups] == [0] * 5
    state = job.folder / "states/1.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"\7")
    (job.folder / "states/2.safetensors").unlink()
    resolve_stars(job)
    for box in steps.boxes[:-1]:
        paint_stars(job, box)
    with pytest.raises(FileError, match="1 box not painted"):
        finish_stars(job)
    paint_stars(job, steps.boxes[-1])
    finish_stars(job)
    for one in ("a.csv", "a.ome.zarr/0/c/1/1", "a.ome.zarr/zarr.json"):
        assert sha256(tmp_path / "one" / one) == sha256(tmp_path / "two" / one)
    other = GiantJob(straight.images, str(tmp_path / "two/a.ome.zarr"), str(folder), "cpu", options,
                     thresholds=(("prob", 0.8),))
    prepare_stars(job)
    assert infer_stars(job, 0) == 2
    prepare_stars(other)
    assert infer_stars(other, 0) == 2


def test_tiles_without_tissue_are_not_looked_at(tmp_path):
    folder = spots_model(tmp_path / "m", 2, radius=3.3)
    write(textured((96, 96)), tmp_path / "a.ome.zarr")
    mask = np.zeros((6, 6), bool)
    mask[0, 0] = True
    (tmp_path / "w").mkdir()
    np.save(tmp_path / "w/tissue.npy", mask)
    job = GiantJob((str(tmp_path / "a.ome.zarr"),), str(tmp_path / "out/a.ome.zarr"), str(folder), "cpu",
                   (("tile", 32),), tissue=str(tmp_path / "w/tissue.npy"), work=str(tmp_path / "w"))
    assert in_any_order(job)["blocks"] == 1
    labels = read_labels(job.output, "instance").restored()
    assert labels[:32, :32].any()
    assert not labels[40:].any()
    job = GiantJob(job.images, str(tmp_path / "none/a.ome.zarr"), str(folder), "cpu", (("tile", 32),),
                   thresholds=(("prob", 1.0),))
    assert in_any_order(job)["objects"] == 0
    assert rows_of(tmp_path / "none/a.csv")[1:] == []


def test_a_slide_by_the_command_has_everything_beside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(giants, "GIANT", 5000)
    folder = spots_model(tmp_path / "m", 2, radius=3.3, classes=2)
    write(textured((90, 80)), "a.ome.zarr")

    @contextmanager
    def alone(staff):
        yield Alone(None)

    monkeypatch.setattr(run, "employ", alone)
    (done,) = predict_batch(Opening(str(folder), "cpu"), "a.ome.zarr", "out", Staff(1))
    assert (done.error, done.state) == (None, "done")
    assert {"a.ome.zarr", "a.ome.zarr.json", "a.csv", "a.geojson", "a_thumbnail.png"} < {
        p.name for p in Path("out").iterdir()}
    features = json.loads(Path("out/a.geojson").read_text("utf-8"))["features"]
    assert len(features) == done.objects > 8
    assert {f["properties"]["classification"]["name"] for f in features} <= {"class 0", "class 1", "class 2"}
    (kept,) = predict_batch(Opening(str(folder), "cpu"), "a.ome.zarr", "out", Staff(1), resume=True)
    assert kept.state == "kept"
    tidy = (("fill_holes", "yes"),)
    (done,) = predict_batch(Opening(str(folder), "cpu", tidy), "a.ome.zarr", "other", Staff(1),
                            wish=Wish(save_maps=True))
    assert done.error is None
    for name, values in load_model(folder, "cpu").maps(read(Path("a.ome.zarr"))).items():
        np.testing.assert_array_equal(read(Path(f"other/a_{name}.ome.zarr")).array, values)


@pytest.mark.parametrize("options", [
    {"split": "pieces"}, {"split": "pieces", "fill_holes": "yes", "border_objects": "remove"},
    {"split": "largest", "fill_holes": "yes"},
])
@pytest.mark.parametrize("shape", [(130, 95), (11, 30, 36), (1, 70, 60)])
def test_post_processing_is_that_of_the_image_in_memory(tmp_path, shape, options):
    ndim = 3 if shape[0] > 1 and len(shape) == 3 else 2
    folder = spots_model(tmp_path / "m", ndim, classes=2, radius=4.3, thresholds={"prob": 0.5, "nms": 0.8})
    write(textured(shape), tmp_path / "a.ome.zarr")
    usual = {"tile": 16, "border": 0}
    plain = load_model(folder, "cpu", usual).predict(read(tmp_path / "a.ome.zarr"))
    found = load_model(folder, "cpu", {**usual, **options}).predict(read(tmp_path / "a.ome.zarr"))
    assert (plain.labels.restored() != found.labels.restored()).any(), "objects that hide parts of others"
    job = GiantJob((str(tmp_path / "a.ome.zarr"),), str(tmp_path / "out/a.ome.zarr"), str(folder), "cpu",
                   tuple({**usual, **options}.items()))
    in_any_order(job)
    np.testing.assert_array_equal(read_labels(job.output, "instance").restored(), found.labels.restored())
    rows = rows_of(tmp_path / "out/a.csv")
    assert rows[0] == list(found.objects)
    assert rows[1:] == [[str(v) for v in row] for row in zip(*(c.tolist() for c in found.objects.values()),
                                                             strict=True)]


@pytest.mark.parametrize(("kind", "shape"), [("2d colours, classes, norm", (150, 97)), ("3d", (9, 43, 38))])
def test_maps_of_a_coarser_grid_are_those_of_the_image_in_memory(tmp_path, kind, shape):
    c, w = CONFIGS[kind], Weights(2)
    expected_maps(random_values(c), c, w)
    folder = write_model(tmp_path / "m", c, w.layers, {"prob": 0.5, "nms": 0.4})
    image = textured(shape, c["n_channel_in"])
    write(image, tmp_path / "a.ome.zarr")
    options = {"tile": 16, "channel": "0"}
    whole = load_model(folder, "cpu", options).maps(read(tmp_path / "a.ome.zarr"))
    for name, values in whole.items():
        write(Image(values, image.grid), tmp_path / f"whole/a_{name}.ome.zarr")
    job = GiantJob((str(tmp_path / "a.ome.zarr"),), str(tmp_path / "out/a.ome.zarr"), str(folder), "cpu",
                   tuple(options.items()))
    steps = prepare_stars(job)
    infer_stars(job, 0)
    job = replace(job, maps=True)
    assert infer_stars(job, 0) == 2, "candidates alone are not enough"
    for group in steps.groups:
        infer_stars(job, group)
    kept = sorted((job.folder / "maps").iterdir())
    kept[0].unlink()
    kept[1].write_bytes(kept[1].read_bytes()[:-1] + b"\1")
    in_any_order(job)
    assert {p.name for p in (tmp_path / "out").glob("a_*")} == {f"a_{name}.ome.zarr" for name in whole}
    for name, values in whole.items():
        assert values.std() > 0
        np.testing.assert_array_equal(read(tmp_path / f"out/a_{name}.ome.zarr").array, values)
        assert hashes(tmp_path / f"out/a_{name}.ome.zarr") == hashes(tmp_path / f"whole/a_{name}.ome.zarr")


@pytest.mark.parametrize(("most", "ties", "classes"), [(1, 0, True), (7, 5, False), (20, 900, True), (10**6, 0, False)])
def test_candidates_of_many_files_come_in_one_order_and_in_parts(tmp_path, most, ties, classes):
    rng = np.random.default_rng(most)
    prob = rng.uniform(0.3, 1, 60).astype(np.float32)
    prob[: ties // 15] = 0.5  # equal ones, in order of their places
    prob[-1] = 1.0
    points = np.stack(np.unravel_index(rng.permutation(100)[:60], (10, 10)), 1)
    every = Candidates(points, prob, rng.random((60, 4), np.float32), rng.integers(0, 3, 60) if classes else None)
    files = []
    for k, rows in enumerate([np.arange(0, 25), np.arange(25, 25), np.arange(25, 60)]):  # one has none
        mine = Candidates.joined([every.kept(rows)])
        write_arrays(tmp_path / f"{k}", {name: value for name, value in vars(mine).items() if value is not None})
        files.append(ArrayFile(tmp_path / f"{k}"))
    parts = list(in_order(files, most))
    assert max(len(p.prob) for p in parts) < most + max(1, ties // 15)
    assert len(parts) == 1 or most < 60
    found, expected = Candidates.stacked(parts), Candidates.joined([every])
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), value)
    assert not list(in_order([], most))


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**20), kind=st.sampled_from(["normal", "bytes", "few"]), joint=st.booleans(),
       shares=st.tuples(st.floats(0, 100), st.floats(0, 100)))
def test_percentiles_of_parts_are_numpys_to_the_last_bit(seed, kind, joint, shares):
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 4)), int(rng.integers(1, 300)))
    values = {"normal": rng.standard_normal(shape), "bytes": rng.integers(0, 256, shape),
              "few": rng.integers(-2, 3, shape) * 1e-3}[kind].astype(np.float32)
    cuts = [part for part in np.array_split(values, 3, axis=1) if part.size]
    mine = streamed_percentiles(lambda: cuts, shares, joint=joint)
    axes = None if joint else 1
    expected = np.percentile(values, shares, axis=axes, keepdims=True).astype(np.float32)
    np.testing.assert_array_equal(mine, expected.reshape(2, -1))
