"""Maps of giant images: written chunk by chunk, they are those of the image in memory to the last bit."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from batch_tasks import Alone
from giant_images import model_of, random_cuts, saved, textured

from biosegkit._atomic import sha256
from biosegkit.batch import blocks, giants, run
from biosegkit.batch.blocks import infer_block, prepare_image, resolve_image, segment_giant
from biosegkit.batch.engine import Staff
from biosegkit.batch.giant import GiantJob
from biosegkit.batch.run import predict_batch
from biosegkit.batch.tasks import Opening
from biosegkit.grid import Grid
from biosegkit.image import Image, Labels
from biosegkit.io import read, write
from biosegkit.io.label_store import LabelStore
from biosegkit.records import Wish


def hashes(folder):
    return {p.relative_to(folder).as_posix(): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(("method", "ndim", "shape"), [
    ("distance", 2, (41, 33)), ("star", 2, (24, 19)), ("semantic", 2, (33, 30)), ("flow", 3, (7, 14, 11)),
    ("distance", 2, (3, 16, 13)),
])
def test_maps_are_those_of_the_image_in_memory(tmp_path, monkeypatch, small_chunks, method, ndim, shape):
    options = {"transpose": (1, 0)} if ndim == len(shape) == 2 else {}
    model = model_of(tmp_path / "m", method, ndim, **options)
    image = saved(textured(shape), tmp_path / "a.nii")
    whole = model.predict(image, maps=True).maps
    for name, values in whole.items():
        write(Image(values, image.grid), tmp_path / f"whole/a_{name}.ome.zarr")
    for seed in range(2 if method == "distance" else 1):
        monkeypatch.setattr(blocks, "plan_layout", random_cuts(seed))
        job = GiantJob((str(tmp_path / "a.nii"),), str(tmp_path / f"{seed}/a.ome.zarr"), str(tmp_path / "m"), "cpu",
                       maps=True)
        record = segment_giant(job)
        assert record["options"]["save_maps"]
        assert not job.folder.exists()
        assert {p.name for p in (tmp_path / str(seed)).glob("a_*")} == {f"a_{name}.ome.zarr" for name in whole}
        for name, values in whole.items():
            mine, theirs = tmp_path / f"{seed}/a_{name}.ome.zarr", tmp_path / f"whole/a_{name}.ome.zarr"
            np.testing.assert_array_equal(read(mine).array, values)
            assert hashes(mine) == hashes(theirs), "further resolutions, metadata and manifest too"
            assert values.std() > 0


def test_lost_and_damaged_maps_are_made_again_and_may_be_asked_for_later(tmp_path, monkeypatch, small_chunks):
    model_of(tmp_path / "m", "distance", 2)
    saved(textured((40, 41)), tmp_path / "a.tif")
    monkeypatch.setattr(blocks, "plan_layout", random_cuts(3))
    plain = GiantJob((str(tmp_path / "a.tif"),), str(tmp_path / "out/a.ome.zarr"), str(tmp_path / "m"))
    job = GiantJob(plain.images, plain.output, plain.model, maps=True)
    straight = GiantJob(plain.images, str(tmp_path / "straight/a.ome.zarr"), plain.model, maps=True)
    segment_giant(straight)
    steps = prepare_image(plain)
    for group in steps.groups:
        infer_block(plain, group)
    resolve_image(plain)
    assert sum(infer_block(job, k) for k in prepare_image(job).groups) > 1  # states alone are not enough
    first, second = sorted((job.folder / "maps").iterdir())[:2]
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1] + b"\1")
    segment_giant(job)
    assert not list(job.folder.parent.glob(".*"))
    for name in (p.name for p in (tmp_path / "straight").iterdir() if p.name.endswith(".zarr")):
        assert hashes(tmp_path / "straight" / name) == hashes(tmp_path / "out" / name)
    assert list((tmp_path / "out").glob("a_*.ome.zarr"))


def test_the_command_writes_maps_of_what_is_giant(tmp_path, monkeypatch, small_chunks):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(giants, "GIANT", 1000)
    model = model_of(Path("m"), "distance", 2)
    image = saved(textured((40, 41)), Path("a.ome.zarr"))

    @contextmanager
    def alone(staff):
        yield Alone(None)

    monkeypatch.setattr(run, "employ", alone)
    (done,) = predict_batch(Opening("m", "cpu"), "a.ome.zarr", "out", Staff(1), wish=Wish(save_maps=True))
    assert done.error is None
    for name, values in model.predict(image, maps=True).maps.items():
        np.testing.assert_array_equal(read(Path(f"out/a_{name}.ome.zarr")).array, values)
    wish = Wish(save_maps=True)
    stores = sorted(p.name for p in Path("out").glob("a_*.ome.zarr"))
    shutil.rmtree(Path("out") / stores[0])
    (done,) = predict_batch(Opening("m", "cpu"), "a.ome.zarr", "out", Staff(1), wish=wish, resume=True)
    (kept,) = predict_batch(Opening("m", "cpu"), "a.ome.zarr", "out", Staff(1), wish=wish, resume=True)
    assert (done.state, kept.state) == ("done", "kept"), "a map that is lost is made again"
    assert sorted(p.name for p in Path("out").glob("a_*.ome.zarr")) == stores
    Path("out/a_neighbour.ome.zarr").mkdir()
    predict_batch(Opening("m", "cpu"), "a.ome.zarr", "out", Staff(1), overwrite=True)
    assert [p.name for p in Path("out").glob("a_*.ome.zarr")] == ["a_neighbour.ome.zarr"], "maps of before are gone"


def test_chunks_that_nobody_wrote_are_stored(tmp_path, small_chunks):
    store = LabelStore(tmp_path / "a.ome.zarr", Grid.regular((40, 41)), "uint8")
    store.begin()
    store.write((0, 0), np.ones(store.chunk))
    store.finish(np.arange(2))
    rest = [(0, n - c) for n, c in zip((40, 41), store.chunk, strict=True)]
    whole = Labels.from_values(np.pad(np.ones(store.chunk, np.uint8), rest), store.grid, "instance")
    write(whole, tmp_path / "whole.ome.zarr")
    chunks = [{name: digest for name, digest in hashes(tmp_path / one).items() if name != "zarr.json"}
              for one in ("a.ome.zarr", "whole.ome.zarr")]
    assert chunks[0] == chunks[1]
    assert sum(name.startswith("0/c/") for name in chunks[0]) > 10
