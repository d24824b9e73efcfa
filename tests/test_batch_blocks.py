"""Giant images: the same labels, ids and tables as in one piece, however they are cut and whatever is done twice."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from giant_images import model_of, random_cuts, same_as, saved, textured
from giant_workers import segment_in, workers
from scipy import ndimage
from stub_models import Context, Discs, fresh_weights, segmenter, stub_plan

from biosegkit.batch import blocks, giant
from biosegkit.batch.blocks import (
    finish_image,
    infer_block,
    paint_block,
    painted_labels,
    prepare_image,
    resolve_image,
    segment_giant,
)
from biosegkit.batch.giant import GiantJob
from biosegkit.bundle import load, write_bundle
from biosegkit.errors import OptionError
from biosegkit.grid import Grid, Turn
from biosegkit.image import Image
from biosegkit.io import read, read_labels
from biosegkit.io.zarr import CHUNK
from biosegkit.lattice import Lattice
from biosegkit.methods import METHODS, Block
from biosegkit.prepared import prepare
from biosegkit.tiling import Part, blend


@pytest.mark.parametrize("method", METHODS)
def test_five_random_cuts_change_no_label_id_or_row(tmp_path, monkeypatch, small_chunks, method):
    model = model_of(tmp_path / "m", method, 2, transpose=(1, 0))
    assert model.segmenter.method.exact  # a method that is not needs a test of its own
    image = saved(textured((61, 46)), tmp_path / "a.tif")
    whole = model.predict(image)
    assert len(np.unique(whole.labels.array)) > 2
    for seed in range(5):
        monkeypatch.setattr(blocks, "plan_layout", random_cuts(seed))
        job = GiantJob((str(tmp_path / "a.tif"),), str(tmp_path / f"{seed}.ome.zarr"), str(tmp_path / "m"), "cpu")
        segment_giant(job)
        same_as(whole, Path(job.output))
        assert not job.folder.exists()


@pytest.mark.parametrize("method", ["distance", "flow", "star", "semantic"])
def test_volumes_and_stacks_of_planes_in_blocks(tmp_path, monkeypatch, small_chunks, method):
    image = saved(textured((9, 22, 19)), tmp_path / "a.nii")
    for ndim in (3, 2):
        model = model_of(tmp_path / f"m{ndim}", method, ndim)
        whole = model.predict(image)
        assert len(np.unique(whole.labels.array)) > 2
        for seed in range(2):
            monkeypatch.setattr(blocks, "plan_layout", random_cuts(seed))
            job = GiantJob((str(tmp_path / "a.nii"),), str(tmp_path / f"{ndim}{seed}.ome.zarr"),
                           str(tmp_path / f"m{ndim}"))
            segment_giant(job)
            same_as(whole, Path(job.output))


def test_two_workers_give_what_one_process_gives(tmp_path, monkeypatch, small_chunks):
    image = saved(textured((61, 46)), tmp_path / "a.tif")
    with workers(2, CHUNK) as pool:
        for seed, method in enumerate(("distance", "flow", "star", "semantic")):
            whole = model_of(tmp_path / method, method, 2).predict(image)
            monkeypatch.setattr(blocks, "plan_layout", random_cuts(seed))
            job = GiantJob((str(tmp_path / "a.tif"),), str(tmp_path / f"{method}.ome.zarr"), str(tmp_path / method))
            assert len(segment_in(pool, job)) > 1
            same_as(whole, Path(job.output))


def touching_nuclei(shape, spacing=9, seed=0):
    """Discs on a disturbed lattice, near enough to touch: the distance to the border of each, by its maximum."""
    rng, (height, width) = np.random.default_rng(seed), shape
    best = np.zeros(shape, np.float32)
    for y in np.arange(4, height, spacing):
        for x in np.arange(4, width, spacing):
            cy, cx, r = y + rng.uniform(-1, 1), x + rng.uniform(-1, 1), rng.uniform(4, 5)
            place = tuple(slice(max(0, int(c - r)), int(c + r) + 2) for c in (cy, cx))
            yy, xx = np.ogrid[place]
            part = best[place]
            disc = np.clip(1 - np.hypot(yy - cy, xx - cx) / r, 0, 1)
            np.maximum(part, disc[:part.shape[0], :part.shape[1]], out=part)
    return best


def contacts(labels):
    """Pairs of objects that share an edge of a pixel along x."""
    a, b = labels[:, 1:], labels[:, :-1]
    met = (a != b) & (a > 0) & (b > 0)
    return len(np.unique(np.stack([a[met], b[met]]), axis=1).T)


def test_ten_thousand_touching_nuclei_have_no_seams(tmp_path, monkeypatch, with_model):
    monkeypatch.setitem(CHUNK, 2, (64, 64))
    image = Image(touching_nuclei((900, 900))[None], Grid.regular((900, 900)))
    image = saved(image, tmp_path / "a.tif")
    model = segmenter(Discs(), stub_plan(2, instance=True, patch=(128, 128), step=(96, 96)))
    with_model(model)
    whole = model.predict(image)
    assert whole.labels.count == 10_000
    assert contacts(whole.labels.array) > 5_000
    for seed in range(5):
        monkeypatch.setattr(blocks, "plan_layout", random_cuts(seed))
        job = GiantJob((str(tmp_path / "a.tif"),), str(tmp_path / f"{seed}.ome.zarr"), "stub")
        segment_giant(job)
        same_as(whole, Path(job.output))


class Told(torch.nn.Module):
    """Outputs of a method from an image whose channels are its maps."""

    undone = {"sigmoid": lambda p: torch.logit(p, 1e-3), "softplus": torch.log, "linear": lambda v: v}  # noqa: RUF012

    def __init__(self, heads):
        super().__init__()
        self.heads = heads

    def forward(self, x):
        parts = x.split([head.channels for head in self.heads], 1)
        return {h.name: self.undone[h.activation](part.clamp_min(1e-3) if h.activation == "softplus" else part)
                for h, part in zip(self.heads, parts, strict=True)}


@pytest.mark.parametrize("name", ["flow", "star"])
def test_touching_nuclei_by_flows_and_by_stars(tmp_path, monkeypatch, small_chunks, with_model, name):
    """Good maps with noise, such as a trained network gives."""
    method, discs = METHODS[name](), segmenter(Discs(), stub_plan(2, instance=True, patch=(64, 64)))
    truth = discs.predict(Image(touching_nuclei((200, 190))[None], Grid.regular((200, 190)))).labels.array
    maps = method.ideal(method.encode(truth.astype(np.int64), (1.0, 1.0))[0])
    values = np.concatenate([maps[head.name] for head in method.heads(2)])
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(values.shape), (0, 1, 1))
    image = saved(Image((values + 0.4 * noise).astype(np.float32), Grid.regular((200, 190))), tmp_path / "a.tif")
    plan = stub_plan(2, instance=True, patch=(64, 64), channels=len(values)).model_copy(update={"method": name})
    model = segmenter(Told(method.heads(2)), plan)
    with_model(model)
    whole = model.predict(image)
    assert abs(whole.labels.count - 462) < 40
    for seed in range(3):
        monkeypatch.setattr(blocks, "plan_layout", random_cuts(seed))
        job = GiantJob((str(tmp_path / "a.tif"),), str(tmp_path / f"{seed}.ome.zarr"), "stub")
        segment_giant(job)
        same_as(whole, Path(job.output))


class Stain(torch.nn.Module):
    """Outputs of the distance method from colours: what is dark is a nucleus, and darkest in its middle."""

    def forward(self, x):
        dark = torch.nn.functional.avg_pool2d(1 - x.mean(1, keepdim=True), 5, 1, 2)
        return {"foreground": 30 * (dark - 0.4), "distance": dark}


@pytest.mark.data
@pytest.mark.skipif("BIOSEGKIT_DATA" not in os.environ, reason="BIOSEGKIT_DATA does not name the folder of real data")
def test_tissue_has_no_seams(tmp_path, monkeypatch, with_model):
    path = next((Path(os.environ["BIOSEGKIT_DATA"]) / "wsi_slides/images").glob("*.ome.tif*"))
    monkeypatch.setitem(CHUNK, 2, (64, 64))
    plan = stub_plan(2, instance=True, patch=(256, 256), channels=3, scheme="rgb_to_0_1")
    model = segmenter(Stain(), plan)
    with_model(model)
    slide = read(path)
    image = saved(Image(slide.array[:, 600:1400, 900:1800], Grid.regular((800, 900))), tmp_path / "a.tif")
    whole = model.predict(image)
    assert whole.labels.count > 100
    for seed in range(5):
        monkeypatch.setattr(blocks, "plan_layout", random_cuts(seed))
        job = GiantJob((str(tmp_path / "a.tif"),), str(tmp_path / f"{seed}.ome.zarr"), "stub")
        segment_giant(job)
        same_as(whole, Path(job.output))


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize(("shape", "ndim"), [((41, 33), 2), ((9, 20, 17), 3), ((5, 20, 17), 2)])
def test_maps_of_a_region_are_those_of_the_whole_image_bit_by_bit(shape, ndim, tta):
    rng = np.random.default_rng(len(shape) + tta)
    image = textured(shape)
    model = segmenter(Context(ndim), stub_plan(ndim, scheme="zscore", patch=(8, 6, 4)[-ndim:], step=(3, 4, 2)[-ndim:]))
    whole, prepared = model.maps(image, tta=tta)["classes"], prepare(image, model.plan)
    for _ in range(6):
        start = [int(rng.integers(0, n)) for n in shape]
        size = [int(rng.integers(1, n - s + 1)) for s, n in zip(start, shape, strict=True)]
        cut = int(rng.integers(0, size[0]))
        wanted = [Block.cut(start, (cut, *size[1:]), shape, 2)] if cut else []
        wanted.append(Block.cut((start[0] + cut, *start[1:]), (size[0] - cut, *size[1:]), shape, 2))
        found = list(model.region_parts(prepared, wanted, tta=tta, planes=int(rng.integers(1, 5))))
        assert [block for _, block in found] == wanted
        for maps, block in found:
            np.testing.assert_array_equal(maps["classes"], whole[(slice(None), *block.read)])


def test_tiles_that_are_left_out_show_background_and_change_no_other_voxel():
    lattice = Lattice((32, 32), (8, 8), (4, 4))
    part = Part((slice(0, 32), slice(0, 32)), lambda start: start[0] < 12, ("a",))
    calls = []

    def forward(tiles):
        calls.append(tiles)
        return {"a": torch.full((1, 2, 8, 8), 0.5)}

    maps = np.concatenate([m["a"].numpy() for _, m in blend(lambda _: np.zeros((1, 8, 8), np.float32), lattice,
                                                            forward, part=part)], 1)
    assert len(calls) == 3 * 7
    np.testing.assert_allclose(maps[:, :12], 0.5, atol=1e-6)
    np.testing.assert_array_equal(maps[:, 16:], np.stack([np.ones((16, 32)), np.zeros((16, 32))]))
    np.testing.assert_allclose(maps.sum(0), 1, atol=1e-6)


@pytest.mark.parametrize("method", ["distance", "boundary", "semantic"])
def test_glass_costs_nothing_and_cuts_change_nothing(tmp_path, monkeypatch, small_chunks, method):
    model_of(tmp_path / "m", method, 2)
    image = saved(textured((64, 70)), tmp_path / "a.tif")
    mask = np.zeros((16, 14), bool)
    mask[2:8, 6:13] = True
    np.save(tmp_path / "tissue.npy", mask)
    results = []
    for seed in range(3):
        monkeypatch.setattr(blocks, "plan_layout", random_cuts(seed))
        job = GiantJob((str(tmp_path / "a.tif"),), str(tmp_path / f"{seed}.ome.zarr"), str(tmp_path / "m"),
                       tissue=str(tmp_path / "tissue.npy"))
        steps = prepare_image(job)
        work = giant.Work.of(job)
        assert len(steps.groups) < len(work.layout.members(work.layout.groups)) or seed != 0
        segment_giant(job)
        results.append(read_labels(job.output, "instance").restored())
    whole = load(tmp_path / "m", "cpu").predict(image).labels.restored()
    tissue = (slice(8, 32), slice(30, 65))
    background = whole[~np.kron(mask, np.ones((4, 5), bool))]
    assert background.any()
    assert not results[0][44:].any()
    assert not results[0][:, :18].any()
    for found in results[1:]:
        np.testing.assert_array_equal(found, results[0])
    found, expected = results[0][tissue], whole[tissue]
    if method == "semantic":
        np.testing.assert_array_equal(found, expected)
    outside = np.ones(whole.shape, bool)
    outside[tissue] = False
    inside = np.setdiff1d(expected, [0, *whole[outside]])
    whole_objects = np.isin(expected, inside)
    assert method != "distance" or whole_objects.any()
    assert (found[whole_objects] > 0).all()
    assert (expected[found > 0] > 0).all()


def test_what_was_done_is_not_done_again_and_what_is_damaged_is(tmp_path, monkeypatch, small_chunks):
    model_of(tmp_path / "m", "distance", 2)
    saved(textured((40, 41)), tmp_path / "a.tif")
    monkeypatch.setattr(blocks, "plan_layout", random_cuts(3))
    job = GiantJob((str(tmp_path / "a.tif"),), str(tmp_path / "out/a.ome.zarr"), str(tmp_path / "m"), identity="one")
    straight = GiantJob(job.images, str(tmp_path / "straight/a.ome.zarr"), job.model, identity="one")
    segment_giant(straight)
    steps = prepare_image(job)
    assert len(steps.groups) > 1
    made = [infer_block(job, k) for k in steps.groups]
    assert sum(made) == len(giant.Work.of(job).blocks)
    assert [infer_block(job, k) for k in prepare_image(job).groups] == [0] * len(made)
    state = job.folder / "states/0.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"\1")
    (job.folder / "states/1.safetensors").unlink()
    assert sum(infer_block(job, k) for k in steps.groups) == 1  # a lost file is seen at once, a changed one later
    assert resolve_image(job) == resolve_image(job)
    for k in steps.boxes[:-1]:
        paint_block(job, k)
    with pytest.raises(Exception, match="1 box not painted"):
        finish_image(job)
    for k in steps.boxes:
        paint_block(job, k)
    labels, grid, table = painted_labels(job)
    assert grid.shape == labels.shape
    np.testing.assert_array_equal(np.bincount(labels[:].ravel())[1:], table["area"])
    copy = tmp_path / "copy"
    shutil.copytree(job.folder, copy)
    record = finish_image(job)
    assert record["objects"] == read_labels(job.output, "instance").count > 2
    shutil.rmtree(job.folder, ignore_errors=True)
    shutil.copytree(copy, job.folder)  # as if killed before the work was removed
    shutil.rmtree(job.folder / "a.ome.zarr")
    (tmp_path / "out/a.ome.zarr.json").unlink()
    finish_image(job)
    files = sorted(p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path / "straight") for p in (tmp_path / "straight").rglob("*")
                           if p.is_file())
    for file in files:
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "straight" / file).read_bytes(), file


def test_other_thresholds_use_the_states_and_another_image_does_not(tmp_path, monkeypatch, small_chunks):
    model = model_of(tmp_path / "m", "distance", 2)
    image = saved(textured((40, 41)), tmp_path / "a.tif")
    monkeypatch.setattr(blocks, "plan_layout", random_cuts(1))
    job = GiantJob((str(tmp_path / "a.tif"),), str(tmp_path / "a.ome.zarr"), str(tmp_path / "m"), identity="one")
    for k in prepare_image(job).groups:
        infer_block(job, k)
    resolve_image(job)
    other = GiantJob(job.images, job.output, job.model, identity="one", thresholds=(("seed", 0.1), ("min_size", 9.0)),
                     options=(("border_objects", "remove"),))
    assert sum(infer_block(other, k) for k in prepare_image(other).groups) == 0
    segment_giant(other)
    expected = model.segmenter.tidied(border_objects="remove").predict(image, thresholds={"seed": 0.1, "min_size": 9})
    assert 0 < expected.labels.count < model.predict(image, thresholds={"seed": 0.1, "min_size": 9}).labels.count
    same_as(expected, Path(job.output))
    for k in prepare_image(job).groups:
        infer_block(job, k)
    changed = GiantJob(job.images, job.output, job.model, identity="two")
    assert sum(infer_block(changed, k) for k in prepare_image(changed).groups) > 0


def test_crop_turn_and_classes_of_the_user_are_taken_back(tmp_path, monkeypatch, small_chunks):
    model = model_of(tmp_path / "m", "semantic", 3, transpose=(2, 0, 1), crop=True, values=(0, 3, 700))
    values = np.zeros((1, 11, 20, 23), np.float32)
    values[0, 2:9, 3:17, 5:21] = 1 + textured((7, 14, 16)).array[0] ** 2
    image = Image(values, Grid.regular((11, 20, 23), 1.0, "mm")).turned(Turn((1, 2, 0), (0, 2)))
    image = saved(image, tmp_path / "a.nii")
    whole = model.predict(image)
    assert len(np.unique(whole.labels.array)) == 3
    for seed in range(3):
        monkeypatch.setattr(blocks, "plan_layout", random_cuts(seed))
        job = GiantJob((str(tmp_path / "a.nii"),), str(tmp_path / f"{seed}.ome.zarr"), str(tmp_path / "m"))
        segment_giant(job)
        same_as(whole, Path(job.output))


def test_statistics_of_what_is_not_zero_are_those_of_the_whole_image(tmp_path, monkeypatch, small_chunks):
    values = 50 + textured((9, 20, 17)).array
    values[:, :, :6] = values[:, 7:] = 0
    image = saved(Image(values, Grid.regular((9, 20, 17))), tmp_path / "a.nii")
    plan = stub_plan(3, scheme="zscore", crop=True)
    plan = plan.model_copy(update={"preprocessing": plan.preprocessing.model_copy(update={"use_nonzero_mask": True})})
    write_bundle(tmp_path / "m", plan, {"0": fresh_weights(plan, 2)})
    whole = load(tmp_path / "m", "cpu").predict(image)
    monkeypatch.setattr(blocks, "plan_layout", random_cuts(0))
    job = GiantJob((str(tmp_path / "a.nii"),), str(tmp_path / "a.ome.zarr"), str(tmp_path / "m"))
    segment_giant(job)
    same_as(whole, Path(job.output))


def test_what_blocks_cannot_do_is_refused(tmp_path, monkeypatch, small_chunks):
    saved(textured((20, 21)), tmp_path / "a.tif")
    model_of(tmp_path / "m", "distance", 2)
    job = GiantJob((str(tmp_path / "a.tif"),), str(tmp_path / "a.ome.zarr"), "otsu")
    with pytest.raises(OptionError, match="trained with biosegkit"):
        prepare_image(job)
    scaled = stub_plan(2, instance=True, resample=True, spacing=(3.0, 3.0), unit="um").model_copy(
        update={"method": "distance"})
    write_bundle(tmp_path / "scaled", scaled, {"0": fresh_weights(scaled)})
    with pytest.raises(OptionError, match="--pixel-size"):
        prepare_image(GiantJob(job.images, job.output, str(tmp_path / "scaled")))

