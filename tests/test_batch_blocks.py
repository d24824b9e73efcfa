"""Giant images: the same labels, ids and tables as in one piece, however they are cut and whatever is done twice."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
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
from biosegkit.batch.layout import Costs, Layout, _cuts, plan_layout
from biosegkit.bundle import Bundle, load, write_bundle
from biosegkit.errors import DataError, OptionError
from biosegkit.grid import Grid, Turn
from biosegkit.image import Image
from biosegkit.io import read, read_labels, write
from biosegkit.io.label_store import LabelStore
from biosegkit.io.zarr import CHUNK
from biosegkit.lattice import Lattice
from biosegkit.methods import METHODS, Block
from biosegkit.prepared import prepare
from biosegkit.tiling import Part, blend


def random_cuts(seed):
    """A stand-in for the planning: any blocks, groups of them, and boxes of them and of whole chunks."""
    def cut(window, full, turn, chunk, costs):
        rng = np.random.default_rng(seed)
        unit = [chunk[p] for p in turn.perm]
        block = [int(rng.integers(1, 4)) * u for u in unit]
        block[0] = 1 if costs.planar else block[0] // int(rng.choice([1, 2]))
        group = [int(rng.integers(1, 4)) * b for b in block]
        box = [int(rng.integers(1, 3)) * math.lcm(u, b) for u, b in zip(unit, block, strict=True)]
        sizes = ([_cuts(s[a], window[a], full[a], a in turn.flips) for a in range(len(full))]
                 for s in (block, group, box))
        return Layout(tuple(w.stop - w.start for w in window), *map(tuple, sizes), planar=costs.planar)

    return cut


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setitem(CHUNK, 2, (8, 8))
    monkeypatch.setitem(CHUNK, 3, (4, 8, 8))


@pytest.fixture
def with_model(monkeypatch):
    """A model that is not on disk."""
    def set_model(model):
        bundle = Bundle(model, {}, Path(), "digest", weights_digest="weights")
        monkeypatch.setattr(giant, "opened_model", lambda *_: bundle)
        monkeypatch.setattr(blocks, "opened_model", lambda *_: bundle)
        giant._opened.cache_clear()
        return bundle

    yield set_model
    giant._opened.cache_clear()


def textured(shape, seed=1):
    values = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    return Image(values[None].astype(np.float32), Grid.regular(shape))


def saved(image, path):
    write(image, path)
    return read(path)


def same_as(found, out):
    """Labels and table on disk are those of a prediction in memory."""
    labels = read_labels(out, "instance")
    np.testing.assert_array_equal(labels.restored(), found.labels.restored())
    assert labels.grid == found.labels.grid
    if "id" not in found.objects:
        return
    with out.with_name(out.name.removesuffix(".ome.zarr") + ".csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == list(found.objects)
    expected = zip(*(np.asarray(c).tolist() for c in found.objects.values()), strict=True)
    assert rows[1:] == [[str(v) for v in row] for row in expected]


def model_of(folder, method, ndim, **options):
    plan = stub_plan(ndim, scheme="zscore", instance=method != "semantic", **options).model_copy(
        update={"method": method})
    sample = textured((61, 46) if ndim == 2 else (9, 22, 19))
    for seed in range(30):  # the first network without training that finds more than a few things
        shutil.rmtree(folder, ignore_errors=True)
        write_bundle(folder, plan, {"0": fresh_weights(plan, seed)})
        model = load(folder, "cpu")
        if len(np.unique(model.segmenter.predict(sample).labels.array)) > (2 if method == "semantic" else 4):
            return model
    raise AssertionError(f"no seed gives objects for {method} in {ndim}D")


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
    lattice = Lattice((30, 30), (8, 8), (4, 4))
    part = Part((slice(0, 30), slice(0, 30)), lambda start: start[0] < 12, ("a",))
    calls = []

    def forward(tiles):
        calls.append(tiles)
        return {"a": torch.full((1, 2, 8, 8), 0.5)}

    maps = np.concatenate([m["a"].numpy() for _, m in blend(lambda _: np.zeros((1, 8, 8), np.float32), lattice,
                                                            forward, part=part)], 1)
    assert len(calls) == 3 * 7
    np.testing.assert_allclose(maps[:, :12], 0.5, atol=1e-6)
    np.testing.assert_array_equal(maps[:, 16:], np.stack([np.ones((14, 30)), np.zeros((14, 30))]))
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
    with pytest.raises(Exception, match="1 boxes that are not painted"):
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


def test_layouts_cover_the_image_stay_within_memory_and_share_the_work():
    for channels, shape, patch, memory, sharers in [
            (2, (20000, 20000), (256, 256), 2 << 30, 2), (34, (20000, 20000), (256, 256), 2 << 30, 1),
            (2, (700, 900), (256, 256), 2 << 30, 2), (4, (300, 2000, 1500), (32, 160, 160), 4 << 30, 2)]:
        step = tuple(p // 2 for p in patch)
        costs = Costs(channels, 3, patch, step, 1, memory, sharers)
        whole = tuple(slice(0, n) for n in shape)
        layout = plan_layout(whole, shape, Turn(tuple(range(len(shape)))), CHUNK[len(shape)], costs)
        assert layout == Layout.from_dict(json.loads(json.dumps(layout.to_dict())))
        found = layout.all_blocks(1)
        assert sum(int(np.prod(b.shape, dtype=np.int64)) for b in found) == np.prod(shape, dtype=np.int64)
        for starts in (layout.groups, layout.boxes):
            members = layout.members(starts)
            assert sorted(k for group in members for k in group) == list(range(len(found)))
        for group in layout.members(layout.groups):
            read = [found[k].read for k in group]
            columns = np.prod([max(r[a].stop for r in read) - min(r[a].start for r in read)
                               for a in range(1, len(shape))])
            rows = patch[0] + found[0].shape[0]
            assert 4 * channels * rows * columns < memory
        assert len(layout.members(layout.groups)) >= sharers
    with pytest.raises(OptionError, match="--memory"):
        plan_layout(whole, shape, Turn((0, 1, 2)), CHUNK[3], Costs(400, 1, patch, step, 1, 1 << 28))


def test_what_blocks_cannot_do_is_refused(tmp_path, monkeypatch, small_chunks):
    saved(textured((20, 21)), tmp_path / "a.tif")
    model_of(tmp_path / "m", "distance", 2)
    job = GiantJob((str(tmp_path / "a.tif"),), str(tmp_path / "a.ome.zarr"), "otsu")
    with pytest.raises(OptionError, match="trained with biosegkit"):
        prepare_image(job)
    far = stub_plan(2, instance=True, resample=True, spacing=(3.0, 3.0), unit="um").model_copy(
        update={"method": "distance"})
    write_bundle(tmp_path / "far", far, {"0": fresh_weights(far)})
    write(Image(np.zeros((1, 20, 20), np.uint8), Grid.regular((20, 20), 0.5, "um")), tmp_path / "b.tif")
    with pytest.raises(DataError, match=r"0\.5.*3\.0"):
        prepare_image(GiantJob((str(tmp_path / "b.tif"),), job.output, str(tmp_path / "far")))


def test_chunks_are_written_whole(tmp_path, small_chunks):
    store = LabelStore(tmp_path / "a.ome.zarr", Grid.regular((20, 17)), "uint8")
    store.begin()
    with pytest.raises(DataError, match="whole chunks"):
        store.write((0, 4), np.zeros((8, 8), np.uint8))
    store.write((16, 8), np.ones((4, 9), np.uint8))
    store.finish(np.arange(2))
    assert read_labels(tmp_path / "a.ome.zarr", "instance").array[16:, 8:].all()


@pytest.mark.parametrize("shape", [(70, 33), (9, 40, 37)])
def test_a_store_written_in_pieces_is_the_one_written_at_once(tmp_path, monkeypatch, small_chunks, shape):
    from biosegkit.image import Labels
    from biosegkit.io import label_store, zarr

    monkeypatch.setattr(zarr, "_SMALLEST", 16)
    monkeypatch.setattr(label_store, "_PIECE", 300)
    values = np.random.default_rng(0).integers(0, 300, shape)
    spacing = (3.0, 0.5, 0.5)[-len(shape):]
    labels = Labels.from_values(values, Grid.regular(shape, spacing, "um"), "instance")
    write(labels, tmp_path / "whole/a.ome.zarr")
    store = LabelStore(tmp_path / "cut/a.ome.zarr", labels.grid, "uint16")
    store.begin()
    for start in range(0, shape[0], 8):
        store.write((start, *(0,) * (len(shape) - 1)), values[start: start + 8])
    store.finish(labels.values)
    files = sorted(p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path / "cut") for p in (tmp_path / "cut").rglob("*") if p.is_file())
    assert sum(1 for f in files if f.name == "zarr.json") > 3
    for file in files:
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


OBJECTS = [{"split": "pieces"}, {"split": "largest", "fill_holes": True}, {"fill_holes": True},
           {"split": "pieces", "fill_holes": True, "border_objects": "remove"}]
CLASSES = [{"largest": ("foreground",)}, {"largest": ("class 3", "class 7"), "fill_holes": ("foreground",)},
           {"fill_holes": ("class 7",)}]


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(("task", "tidy"), [("instance", t) for t in OBJECTS] + [("semantic", t) for t in CLASSES])
def test_post_processing_in_blocks_is_that_of_the_whole_image(task, tidy, ndim):
    from biosegkit.batch.tidying import applied, decided_step, steps_of
    from biosegkit.tidy import Frame, numbered, tidy_classes, tidy_objects, tidy_of

    plan = stub_plan(ndim, instance=task == "instance")
    options = tidy_of(plan.labels, {**tidy, **({"border_objects": "keep"} if task == "instance" else {})})
    rng = np.random.default_rng(ndim)
    shape = (33, 41) if ndim == 2 else (9, 14, 15)
    changed = False
    for trial in range(6):
        blobs = ndimage.zoom(rng.integers(0, 4, [-(-n // 3) for n in shape]), 3, order=0)[tuple(map(slice, shape))]
        values = (blobs % 3 if task == "semantic" else blobs).astype(np.int64)
        labels = np.where(rng.random(shape) < (0.15, 0.5, 0.8)[trial % 3], 0, values)
        stacked = ndim == 3 and task == "instance" and trial % 2 == 1
        frame = Frame.of([slice(0, n) for n in shape], shape, 2 if stacked else ndim)
        if task == "instance":
            whole = tidy_objects(numbered(labels)[0], options, frame)[0]
        else:
            whole = tidy_classes(labels, options, plan.labels, frame)
        cuts = [sorted({0, *rng.integers(1, n, 2).tolist()}) for n in shape]
        parts = Layout(shape, tuple(map(tuple, cuts)), ((0,),) * ndim, ((0,),) * ndim).all_blocks(0)
        held = [labels[b.write].copy() for b in parts]
        for step in steps_of(options, plan.labels, frame):
            lookups, _ = decided_step(step, parts, lambda k, held=held: held[k])
            held = [applied(part, step, lookup) for part, lookup in zip(held, lookups, strict=True)]
        found = np.zeros(shape, np.int64)
        for block, part in zip(parts, held, strict=True):
            found[block.write] = part
        if task == "instance":
            found = numbered(found)[0]
        np.testing.assert_array_equal(found, whole)
        changed |= bool((whole != labels).any())
    assert changed


@pytest.mark.parametrize("options", OBJECTS)
def test_tidied_objects_of_giant_images_have_the_rows_of_whole_ones(tmp_path, monkeypatch, small_chunks, options):
    model = model_of(tmp_path / "m", "distance", 2)
    image = saved(textured((61, 46)), tmp_path / "a.tif")
    whole = model.segmenter.tidied(**options).predict(image, thresholds={"foreground": 0.45})
    plain = model.predict(image, thresholds={"foreground": 0.45})
    assert (whole.labels.restored() != plain.labels.restored()).any()
    monkeypatch.setattr(blocks, "plan_layout", random_cuts(4))
    job = GiantJob((str(tmp_path / "a.tif"),), str(tmp_path / "a.ome.zarr"), str(tmp_path / "m"),
                   thresholds=(("foreground", 0.45),), options=tuple((k, str(v)) for k, v in options.items()))
    segment_giant(job)
    same_as(whole, Path(job.output))
