"""Giant images by Cellpose models: labels, ids and tables of the image in memory, however it is cut."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine_models import random_state, save
from giant_images import random_cuts, same_as, saved
from giant_workers import segment_in, workers
from scipy import ndimage

from biosegkit.batch import blocks, giant
from biosegkit.batch.blocks import prepare_image, segment_giant
from biosegkit.batch.giant import GiantJob
from biosegkit.batch.giants import stages_of
from biosegkit.batch.run import predict_batch
from biosegkit.batch.tasks import Opening
from biosegkit.engines import load_model, streamed
from biosegkit.engines.found import relative
from biosegkit.engines.intensities import space_axes, stretched
from biosegkit.errors import DataError, OptionError
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.io import read, read_labels
from biosegkit.io.zarr import CHUNK
from biosegkit.predict import predict
from biosegkit.records import Wish

#: Of the flows of a network without training nothing is right; all objects are kept.
KEEP = (("flow_error", 4.0), ("min_size", 3.0), ("repulsion", 0.0))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Chunks of a few voxels, and percentiles from small parts."""
    monkeypatch.setitem(CHUNK, 2, (48, 48))
    monkeypatch.setitem(CHUNK, 3, (8, 16, 16))
    monkeypatch.setattr(streamed, "_PART", {2: (50, 41), 3: (7, 30, 20)})
    yield
    giant._opened.cache_clear()


def textured(shape, channels=1, spacing=0.5):
    rng = np.random.default_rng(5)
    values = np.stack([ndimage.gaussian_filter(rng.standard_normal(shape), 2) for _ in range(channels)])
    values = np.clip((values - values.min()) / np.ptp(values) * 250, 0, 250).astype(np.uint8)
    return Image(values, Grid.regular(shape, spacing, "um"))


def weights(path, image, options):
    """A network without training whose foreground is a quarter of an image."""
    state = random_state()
    model = load_model(f"cellpose:{save(state, path)}", "cpu", options)
    values = model.intensities(image, [slice(0, image.grid.shape[a]) for a in space_axes(image)])
    _, logit = model.run(stretched(values, model.options.low, model.options.high, joint=False, notes=[]),
                         relative([image.grid.spacing[a] for a in space_axes(image)]))
    state["output.2.bias"][2] -= float(np.quantile(logit, 0.75))
    return load_model(f"cellpose:{save(state, path)}", "cpu", options)


def job_of(tmp_path, name, options=(), **more):
    return GiantJob((str(tmp_path / "a.ome.zarr"),), str(tmp_path / f"{name}.ome.zarr"), f"cellpose:{tmp_path / 'w'}",
                    "cpu", tuple(options), **{"thresholds": KEEP, **more})


@pytest.mark.parametrize(("shape", "channels", "spacing", "options"), [
    ((300, 451), 1, 0.5, {}),  # six tiles
    ((300, 451), 3, 0.5, {"channel": 1, "nuclei": 2, "diameter": 20, "low": 5}),  # half as large again
    ((520, 410), 2, 0.5, {"diameter": 47, "fill_holes": True, "split": "pieces", "border_objects": "remove"}),
    ((1, 232, 70), 1, 0.5, {}),
    ((9, 40, 44), 1, (1.0, 0.5, 0.5), {}),
])
def test_random_cuts_change_no_label_id_or_row(tmp_path, monkeypatch, shape, channels, spacing, options):
    image = saved(textured(shape, channels, spacing), tmp_path / "a.ome.zarr")
    model = weights(tmp_path / "w", image, options)
    whole = predict(model, image, thresholds=dict(KEEP))
    assert whole.labels.count > 8
    for seed in range(5 if not options else 2):
        monkeypatch.setattr(blocks, "plan_layout", random_cuts(seed))
        job = job_of(tmp_path, seed, options.items())
        record = segment_giant(job)
        same_as(whole, Path(job.output))
        assert set(model.notes_of(image)) <= set(record["notes"])
        assert record["exact"] is True


def test_two_workers_give_what_one_process_gives(tmp_path, monkeypatch):
    image = saved(textured((300, 451)), tmp_path / "a.ome.zarr")
    whole = predict(weights(tmp_path / "w", image, {}), image, thresholds=dict(KEEP))
    monkeypatch.setattr(blocks, "plan_layout", random_cuts(3))
    with workers(2, CHUNK) as pool:
        job = job_of(tmp_path, "two")
        assert len(segment_in(pool, job)) > 1
    same_as(whole, Path(job.output))


@pytest.mark.parametrize("shape", [(330, 300), (1, 232, 70)])
def test_maps_of_blocks_are_those_of_the_image_bit_by_bit(tmp_path, monkeypatch, shape):
    save(random_state(), tmp_path / "w")
    image = saved(textured(shape), tmp_path / "a.ome.zarr")
    maps = load_model(f"cellpose:{tmp_path / 'w'}", "cpu", {"diameter": 21}).maps(image)
    monkeypatch.setattr(blocks, "plan_layout", random_cuts(1))
    segment_giant(job_of(tmp_path, "b", (("diameter", 21),), maps=True))
    for name, values in maps.items():
        np.testing.assert_array_equal(read(tmp_path / f"b_{name}.ome.zarr").array[:], values)


def test_tiles_without_tissue_are_background_wherever_blocks_end(tmp_path, monkeypatch):
    weights(tmp_path / "w", saved(textured((460, 451)), tmp_path / "a.ome.zarr"), {})
    mask = np.zeros((46, 45), bool)
    mask[:5, :5] = True
    np.save(tmp_path / "tissue.npy", mask)
    found = []
    for seed in range(3):
        monkeypatch.setattr(blocks, "plan_layout", random_cuts(seed))
        job = job_of(tmp_path, seed, tissue=str(tmp_path / "tissue.npy"), work=str(tmp_path / f"work-{seed}"))
        segment_giant(job)
        found.append(read_labels(job.output, "instance").restored())
    assert found[0][:100, :100].any()
    assert not found[0][230:].any()
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_groups_follow_the_memory_of_a_worker(tmp_path):
    save(random_state(), tmp_path / "w")
    saved(textured((900, 700)), tmp_path / "a.ome.zarr")
    groups = [len(prepare_image(job_of(tmp_path, f"{memory}", memory=memory << 20)).groups) for memory in (80, 2000)]
    assert groups[0] > groups[1] == 1


def test_a_stack_of_odd_axes_is_refused(tmp_path):
    save(random_state(), tmp_path / "w")
    saved(textured((40, 1, 44)), tmp_path / "a.ome.zarr")
    with pytest.raises(DataError, match="one plane, or a stack"):
        prepare_image(job_of(tmp_path, "b"))


def test_other_options_are_other_work(tmp_path):
    save(random_state(), tmp_path / "w")
    saved(textured((100, 90)), tmp_path / "a.ome.zarr")
    one = job_of(tmp_path, "b")
    other = replace(one, options=(("diameter", 20),))
    assert all(blocks.infer_block(one, k) > 0 for k in prepare_image(one).groups)
    assert [blocks.infer_block(one, k) for k in prepare_image(one).groups] == [0]
    assert all(blocks.infer_block(other, k) > 0 for k in prepare_image(other).groups)


def test_augmentation_is_refused_before_anything_runs(tmp_path):
    save(random_state(), tmp_path / "w")
    saved(textured((100, 90)), tmp_path / "a.ome.zarr")
    name = f"cellpose:{tmp_path / 'w'}"
    with pytest.raises(OptionError, match="leave out --tta"):
        predict_batch(Opening(name, "cpu"), tmp_path / "a.ome.zarr", tmp_path / "out", wish=Wish(tta=True))
    with pytest.raises(OptionError, match="leave out --states"):
        predict_batch(Opening(name, "cpu"), tmp_path / "a.ome.zarr", tmp_path / "out", states=tmp_path / "kept")
    assert not (tmp_path / "out").exists()
    assert stages_of(load_model(name, "cpu")).infer is blocks.infer_block


def test_flows_of_volumes_are_not_checked_in_blocks_either(tmp_path, monkeypatch):
    image = saved(textured((9, 40, 44)), tmp_path / "a.ome.zarr")
    whole = weights(tmp_path / "w", image, {}).predict(image)
    assert whole.labels.count > 0
    monkeypatch.setattr(blocks, "plan_layout", random_cuts(0))
    job = job_of(tmp_path, "b", thresholds=())
    segment_giant(job)
    same_as(whole, Path(job.output))
