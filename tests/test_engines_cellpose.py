"""Cellpose models before version 4: the published arithmetic, tiles, three axes, diameters, channels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_models import image, no_network, random_state, save
from keras_files import conv, grow, pool, sigmoid
from scipy import ndimage
from scipy.ndimage import map_coordinates

import biosegkit as bsk
from biosegkit.engines import load_model
from biosegkit.engines.cellpose_model import CellposeModel, CellposeOptions
from biosegkit.engines.cellpose_network import CellposeNet, build_cellpose
from biosegkit.engines.planes import PlaneNet, resized, taper
from biosegkit.engines.torch_file import read_state
from biosegkit.errors import DataError, FileError, OptionError
from biosegkit.kernels.heat_flow import heat_flow
from biosegkit.predictor import MapPredictor
from biosegkit.tidy import TidyObjects

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    no_network(monkeypatch)
    monkeypatch.setenv("CELLPOSE_LOCAL_MODELS_PATH", str(tmp_path / "home"))


# --- the network -----------------------------------------------------------------------------------------------------


def step(x, state, name, relu=True):
    """Normalisation, rectification, convolution of (y, x, C) by the tensors of a name, in plain numpy."""
    s = {k.removeprefix(f"{name}."): v.numpy().astype(np.float64) for k, v in state.items() if k.startswith(f"{name}.")}
    x = (x - s["0.running_mean"]) / np.sqrt(s["0.running_var"] + 1e-5) * s["0.weight"] + s["0.bias"]
    last = "2" if relu else "1"
    kernel = s[f"{last}.weight"].transpose(2, 3, 1, 0)
    return conv(np.maximum(x, 0) if relu else x, {"kernel": kernel, "bias": s[f"{last}.bias"]})


def reference(x, state, levels):
    """Stringer et al. 2021, figure 1 and methods, written without torch."""
    skips = []
    for n in range(levels):
        name = f"downsample.down.res_down_{n}"
        x = pool(x, (2, 2)) if n else x
        x = step(x, state, f"{name}.proj", relu=False) + step(step(x, state, f"{name}.conv.conv_0"), state,
                                                              f"{name}.conv.conv_1")
        x = x + step(step(x, state, f"{name}.conv.conv_2"), state, f"{name}.conv.conv_3")
        skips.append(x)
    style = x.mean((0, 1))
    style /= np.sqrt((style**2).sum())

    def styled(x, name):
        full = {k: state[f"{name}.full.{k}"].numpy() for k in ("weight", "bias")}
        return step(x + full["weight"] @ style + full["bias"], state, f"{name}.conv")

    for n in reversed(range(levels)):
        name = f"upsample.up.res_up_{n}"
        x = x if n == levels - 1 else grow(x, (2, 2))
        first = step(x, state, f"{name}.conv.conv_0") + skips[n]
        x = step(x, state, f"{name}.proj", relu=False) + styled(first, f"{name}.conv.conv_1")
        x = x + styled(styled(x, f"{name}.conv.conv_2"), f"{name}.conv.conv_3")
    return step(x, state, "output")


def test_the_network_is_the_published_one(tmp_path):
    state = random_state((2, 4, 6, 5), diam_mean=30, diam_labels=24)
    net = build_cellpose(read_state(save(state, tmp_path / "w"), ""), "w")
    x = np.random.default_rng(1).random((16, 24, 2))
    expected = reference(x, state, 3)
    mine = net(torch.from_numpy(np.moveaxis(x, -1, 0)[None].astype(np.float32)))[0].numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(np.moveaxis(mine, 0, -1), expected, atol=1e-4)


def test_published_names_and_shapes():
    """The widths of the official models, and some of their tensors as the files name them."""
    state = CellposeNet((2, 32, 64, 128, 256), 3).state_dict()
    assert state["downsample.down.res_down_3.conv.conv_0.2.weight"].shape == (256, 128, 3, 3)
    assert state["downsample.down.res_down_0.proj.1.weight"].shape == (32, 2, 1, 1)
    assert state["upsample.up.res_up_3.conv.conv_0.0.running_mean"].shape == (256,)
    assert state["upsample.up.res_up_1.conv.conv_2.full.weight"].shape == (64, 256)
    assert state["upsample.up.res_up_0.conv.conv_1.conv.2.weight"].shape == (32, 32, 3, 3)
    assert state["output.2.weight"].shape == (3, 32, 1, 1)


# --- planes ----------------------------------------------------------------------------------------------------------


def mapped(net, values, scale=(1.0, 1.0), **settings):
    """Flow and logit, one after the other."""
    flow, logit = PlaneNet(net, CPU, len(values), **settings)(values, scale)
    return np.concatenate([flow, logit[None]])


@pytest.mark.parametrize("shape", [(40, 30), (224, 100), (300, 451)])
def test_tiles_are_those_of_cellpose(shape):
    transforms = pytest.importorskip("cellpose.transforms")
    values = np.random.default_rng(0).random((2, *shape)).astype(np.float32)

    def net(x):  # what it gives depends on the place in the tile
        rows = torch.arange(x.shape[2], dtype=torch.float32)[:, None]
        return torch.stack([x[:, 0] * rows, x[:, 1] + rows, x.sum(1)], 1)

    y1, y2, x1, x2 = transforms.get_pad_yx(*shape)
    padded = np.pad(values, [(0, 0), (y1, y2), (x1, x2)])
    tiles, ys, xs, height, width = transforms.make_tiles(padded, bsize=224)
    tiles = tiles.reshape(-1, *tiles.shape[-3:]).astype(np.float32)
    expected = transforms.average_tiles(net(torch.from_numpy(tiles)).numpy(), ys, xs, height, width)
    expected = expected[:, y1 : y1 + shape[0], x1 : x1 + shape[1]]
    np.testing.assert_allclose(mapped(net, values), expected, rtol=1e-5, atol=1e-4)
    assert len(tiles) == {(40, 30): 1, (224, 100): 2, (300, 451): 6}[shape]


def test_a_taper_is_even_and_positive():
    for size in (16, 100, 224, 301):
        assert (taper(size) > 0).all()
        np.testing.assert_allclose(taper(size), taper(size)[::-1], atol=0.05)


def test_resizing_is_linear_between_voxel_centres():
    values = np.random.default_rng(0).random((1, 7, 9))
    mine = resized(lambda box: values.astype(np.float32)[:, *box], (7, 9), (14, 6), (slice(0, 14), slice(0, 6)))
    at = [(np.arange(m) + 0.5) * n / m - 0.5 for m, n in zip((14, 6), (7, 9), strict=True)]
    expected = map_coordinates(values[0], np.meshgrid(*at, indexing="ij"), order=1, mode="nearest")
    np.testing.assert_allclose(mine[0], expected, atol=1e-6)


def test_three_axes_are_the_mean_over_planes():
    """A network that says where a pixel lies in its plane: every component must come from the right axis."""
    stack = np.random.default_rng(0).random((1, 20, 33, 18)).astype(np.float32)

    def net(x):
        return torch.stack([x[:, 0] * 2, x[:, 0] * 3, x[:, 0]], 1)

    maps = mapped(net, stack, (1.0, 1.0, 1.0))
    for axis, factor in enumerate(((2 + 2) / 2, (2 + 3) / 2, (3 + 3) / 2, 1.0)):
        np.testing.assert_allclose(maps[axis], factor * stack[0], rtol=1e-5)


# --- from maps to objects --------------------------------------------------------------------------------------------


def balls(shape):
    grid = np.indices(shape)
    discs = np.zeros(shape, int)
    for k, (at, r) in enumerate((((9, 10, 12), 7), ((9, 24, 12), 6), ((9, 30, 33), 3)), 1):
        centre = np.array(at[-len(shape):]).reshape(-1, *(1,) * len(shape))
        discs[((grid - centre) ** 2).sum(0) <= r * r] = k
    return discs


@pytest.mark.parametrize("shape", [(40, 44), (20, 40, 44)])
def test_perfect_maps_give_the_objects(shape):
    truth = balls(shape)

    def run(values, scale):
        assert scale == (1.0,) * len(shape)
        assert (values.min(), values.max()) == (0, 1)
        return 5 * heat_flow(truth, scale), np.where(truth > 0, 6.0, -6.0)

    model = CellposeModel("perfect", "4", run, CellposeOptions(high=100.0, low=0.0), "digest")
    assert isinstance(model, MapPredictor)
    found = model.predict(image(truth))
    assert found.labels.count == 3
    np.testing.assert_array_equal(found.labels.array > 0, truth > 0)
    pairs = set(zip(found.labels.array.ravel().tolist(), truth.ravel().tolist(), strict=True))
    assert len(pairs) == 4
    small = int((truth == 3).sum())
    assert bsk.predict(model, image(truth), thresholds={"min_size": small + 1}).labels.count == 2
    assert found.objects["area"].tolist() == [(found.labels.array == k).sum() for k in (1, 2, 3)]
    assert found.objects["score"][0] == pytest.approx(sigmoid(6.0), abs=1e-3)
    assert "CC-BY-NC" in found.notes[0]


def test_objects_whose_flow_is_wrong_are_dropped():
    truth = balls((40, 44))
    flow = 5 * heat_flow(truth, (1.0, 1.0))
    flow[:, truth == 3] *= -1

    def run(_values, _scale):
        return flow, np.where(truth > 0, 6.0, -6.0)

    model = CellposeModel("wrong", "4", run, CellposeOptions(), "digest")
    kept = model.predict(image(truth)).labels.array
    assert not kept[truth == 3].any()
    assert kept[(truth == 1) | (truth == 2)].all()
    everything = bsk.predict(model, image(truth), thresholds={"flow_error": 4, "min_size": 1}).labels.array
    assert everything[truth == 3].any()


def test_holes_are_filled_and_objects_at_the_border_removed():
    truth = balls((40, 44))
    ring = np.where(((np.indices(truth.shape) - np.array((10, 12)).reshape(2, 1, 1)) ** 2).sum(0) < 6, 0, truth)
    ring[30:, 35:] = 4

    def run(_values, _scale):
        return 5 * heat_flow(ring, (1.0, 1.0)), np.where(ring > 0, 6.0, -6.0)

    options = {"fill_holes": True, "border_objects": "remove"}
    plain, tidy = (CellposeModel("rings", "4", run, CellposeOptions(), "digest", tidy=TidyObjects(**more))
                   for more in ({}, options))
    before, after = (bsk.predict(model, image(truth), thresholds={"repulsion": 0.5}).labels.array
                     for model in (plain, tidy))
    assert not before[10, 12]
    assert before[39, 43]
    expected = ndimage.binary_fill_holes(np.where(before == before[39, 43], 0, before) > 0)
    np.testing.assert_array_equal(after > 0, expected)
    assert after[10, 12] == after[10, 6] > 0


def test_a_plane_of_a_stack_is_an_image_of_two_axes(tmp_path):
    model = load_model(f"cellpose:{save(random_state(), tmp_path / 'w')}", "cpu")
    values = np.random.default_rng(0).random((1, 40, 36))
    flat, stack = model.predict(image(values[0])), model.predict(image(values))
    np.testing.assert_array_equal(stack.labels.array[0], flat.labels.array)
    assert model.maps(image(values))["flow"].shape == (2, 1, 40, 36)


# --- models before version 4 -----------------------------------------------------------------------------------------


def test_images_are_resized_to_the_diameter_of_training(tmp_path):
    path = save(random_state(diam_mean=30, diam_labels=15), tmp_path / "w")
    values = np.random.default_rng(0).random((40, 36)).astype(np.float32)
    values.ravel()[:2] = 0, 1
    state = random_state(diam_mean=30, diam_labels=15)
    for diameter, size in ((0, (80, 72)), (60, (20, 18))):
        model = load_model(f"cellpose:{path}", "cpu", {"low": 0, "high": 100, "diameter": diameter})
        small = resized(lambda box: values[None][:, *box], (40, 36), size, tuple(slice(0, n) for n in size))
        both = np.concatenate([small, np.zeros_like(small)])
        large = mapped(build_cellpose(state, "w"), both)
        expected = resized(lambda box, large=large: large[:, *box], size, (40, 36), (slice(0, 40), slice(0, 36)))
        maps = model.maps(image(values))
        np.testing.assert_allclose(maps["foreground"][0], sigmoid(expected[2]), atol=1e-5)
        flow = expected[:2] / 5
        flow /= np.maximum(np.linalg.norm(flow, axis=0), 1)
        np.testing.assert_allclose(maps["flow"], flow, atol=1e-5)


def test_voxels_are_made_equal_before_three_axes(tmp_path):
    seen = []
    model = load_model(f"cellpose:{save(random_state(), tmp_path / 'w')}", "cpu", {"diameter": 60})

    def spy(stack):
        seen.append(stack.shape)
        return torch.zeros(len(stack), 3, *stack.shape[2:])

    assert isinstance(model.run.net, CellposeNet)
    maps = CellposeModel("spy", "1-3", replace(model.run, net=spy), model.options, "d").maps(
        image(np.random.default_rng(0).random((10, 40, 60)), spacing=(3.0, 1.0, 1.0)))
    assert maps["flow"].shape == (3, 10, 40, 60)
    assert seen[0][2:] == (20 + 12 + 16, 30 + 2 + 16)  # 10 * 3 / 2 planes of 20 x 30, padded to sixteens and by sixteen


def test_cells_and_nuclei_are_chosen(tmp_path):
    path = save(random_state(), tmp_path / "w")
    rng = np.random.default_rng(0)
    values = rng.random((3, 30, 30)).astype(np.float32)

    def foreground(im, **options):
        return load_model(f"cellpose:{path}", "cpu", options).maps(im)["foreground"]

    im = image(values, channels=True)
    np.testing.assert_array_equal(foreground(im, channel="2"), foreground(image(values[2])))
    np.testing.assert_allclose(foreground(im), foreground(image(values.mean(0))), atol=1e-5)
    both = foreground(im, channel=2, nuclei=0)
    np.testing.assert_array_equal(both, foreground(image(values[[2, 0]], channels=True), channel=0, nuclei=1))
    assert np.abs(both - foreground(im, channel=2)).max() > 1e-3
    model = load_model(f"cellpose:{path}", "cpu")
    assert "the mean of 3 channels" in " ".join(model.predict(im).notes)
    with pytest.raises(OptionError, match="channel 3 of an image of 3"):
        foreground(im, nuclei=3)
    with pytest.raises(DataError, match="not finite"):
        foreground(image(np.full((9, 9), np.nan)))


def test_diameters_come_from_the_file_or_its_name(tmp_path):
    for name, more, factor in (("a", {"diam_mean": 30, "diam_labels": 20}, 1.5), ("b", {}, 1.0),
                               ("nuclei_torch", {}, 1.0), ("c", {"diam_mean": 17}, 1.0)):
        model = load_model(f"cellpose:{save(random_state(**more), tmp_path / name)}", "cpu")
        assert (model.run.channels, model.run.factor) == (2, pytest.approx(factor))
    assert "diameter 30" in load_model(f"cellpose:{tmp_path / 'b'}", "cpu").notes[0]
    nuclei = load_model(f"cellpose:{tmp_path / 'nuclei_torch'}", "cpu", {"diameter": "34"})
    assert nuclei.run.factor == pytest.approx(0.5)
    flat = image(np.zeros((20, 30)))  # is resized to a fourth, the same and four times of its pixels
    needed = [load_model(f"cellpose:{tmp_path / 'b'}", "cpu", {"diameter": d}).memory(flat) for d in (60, 30, 15)]
    assert (needed[2] - needed[1]) == 4 * (needed[1] - needed[0]) > 0
    with pytest.raises(FileError, match="diameters"):
        load_model(f"cellpose:{save(random_state(diam_mean=0), tmp_path / 'd')}", "cpu")
    tiny = load_model(f"cellpose:{tmp_path / 'b'}", "cpu", {"diameter": 1e-6})
    with pytest.raises(OptionError, match="voxels after resizing"):
        tiny.predict(image(np.random.default_rng(0).random((20, 20))))
