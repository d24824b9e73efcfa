"""StarDist models without TensorFlow: the maps of Keras' arithmetic, StarDist's objects, errors that help."""

from __future__ import annotations

import io
import json
import socket
import zipfile

import h5py
import numpy as np
import pytest
import yaml
from keras_files import conv, grow, pool, sigmoid, softmax, write_model, write_weights
from stardist import geometry, nms
from stardist.rays3d import Rays_GoldenSpiral
from typer.testing import CliRunner

import biosegkit as bsk
from biosegkit.cli import app
from biosegkit.engines import load_model
from biosegkit.engines.keras_weights import read_layers
from biosegkit.engines.star_files import looks_like_star
from biosegkit.engines.star_model import StarModel
from biosegkit.engines.star_shapes import Candidates, render
from biosegkit.errors import DataError, FileError, OptionError
from biosegkit.kernels.ray_distances import ray_distances
from biosegkit.kernels.rays import Rays, circle
from biosegkit.metrics.instances import instance_counts
from biosegkit.predictor import MapPredictor

SPIRAL = {"name": "Rays_GoldenSpiral", "kwargs": {"n": 24, "anisotropy": [2.0, 1.0, 1.0]}}
RAW = {"low": 0, "high": 100}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refused(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(socket.socket, "connect", refused)


def image(values, channels=False, spacing=1.0):
    values = np.asarray(values, np.float32)
    values = values if channels else values[None]
    return bsk.Image(values, bsk.Grid.regular(values.shape[1:], spacing))


class Weights:
    """Random layers, made in the order in which Keras makes them; ``[name]`` gives one."""

    def __init__(self, seed):
        self.rng, self.layers, self.norms = np.random.default_rng(seed), {}, 0

    def layer(self, name, kernel, inside, out, bias=True, norm=False):
        draw = self.rng.standard_normal
        arrays = {"kernel": (2 * draw((*kernel, inside, out)) / np.sqrt(np.prod(kernel) * inside)).astype(np.float32)}
        if bias:
            arrays["bias"] = (0.3 * draw(out)).astype(np.float32)
        self.layers[name] = dict(arrays)
        if norm:
            extra = {"gamma": self.rng.uniform(0.5, 1.5, out), "beta": draw(out), "moving_mean": 0.2 * draw(out),
                     "moving_variance": self.rng.uniform(0.5, 2, out)}
            extra = {k: v.astype(np.float32) for k, v in extra.items()}
            number = f"_{self.norms}" if self.norms else ""
            self.layers[f"batch_normalization{number}"] = extra
            self.norms += 1
            arrays |= extra
        return arrays


def heads(w, base, k, rays, classes, extra):
    """The last layers: features of their own for objects and for classes."""
    one = (1,) * len(k)
    shared = conv(base, w.layer("features", k, base.shape[-1], extra), act="relu")
    maps = {"prob": sigmoid(conv(shared, w.layer("prob", one, extra, 1))),
            "dist": np.maximum(conv(shared, w.layer("dist", one, extra, rays)), 1e-3)}
    if classes:
        own = conv(base, w.layer("features_class", k, base.shape[-1], extra), act="relu")
        maps["classes"] = softmax(conv(own, w.layer("prob_class", one, extra, classes + 1)))
    return maps


def unet(x, c, w):
    """Maps of an image (*space, C) whose sizes the network divides; the layers are made on the way."""
    nd, f, e, per, depth = x.ndim - 1, c["unet_n_filter_base"], 2, c["unet_n_conv_per_depth"], c["unet_n_depth"]
    k, number, norm = tuple(c["unet_kernel_size"]), 11, c["unet_batch_norm"]  # automatic names need not begin at 0
    pooled = [1] * nd
    while pooled != list(c["grid"]):
        step = [2 if g > p else 1 for g, p in zip(c["grid"], pooled, strict=True)]
        pooled = [p * s for p, s in zip(pooled, step, strict=True)]
        for _ in range(per):
            x = conv(x, w.layer(f"conv{nd}d_{number}", k, x.shape[-1], f), act="relu")
            number += 1
        x = pool(x, step)
    skips = []

    def block(x, name, out):
        return conv(x, w.layer(name, k, x.shape[-1], out, norm=norm), act="relu")

    for n in range(depth):
        for i in range(per):
            x = block(x, f"down_level_{n}_no_{i}", f * e**n)
        skips.append(x)
        x = pool(x, c["unet_pool"])
    for i in range(per - 1):
        x = block(x, f"middle_{i}", f * e**depth)
    x = block(x, f"middle_{per}", f * e ** max(0, depth - 1))
    for n in reversed(range(depth)):
        x = np.concatenate([grow(x, c["unet_pool"]), skips[n]], -1)
        for i in range(per - 1):
            x = block(x, f"up_level_{n}_no_{i}", f * e**n)
        x = block(x, f"up_level_{n}_no_{per}", f * e ** max(0, n - 1))
    return heads(w, x, k, c["n_rays"], c.get("n_classes"), c["net_conv_after_unet"])


def resnet(x, c, w):
    nd, f, k, norm = x.ndim - 1, c["resnet_n_filter_base"], tuple(c["resnet_kernel_size"]), c["resnet_batch_norm"]
    number = iter(range(1, 99))

    def auto(x, kernel, out, stride=None, act=None, normed=False, bias=True):
        name = f"conv{nd}d_{next(number)}"
        return conv(x, w.layer(name, kernel, x.shape[-1], out, bias=bias, norm=normed), stride, act)

    x = auto(x, (7,) * nd, f)
    x = auto(x, (3,) * nd, f)
    pooled = [1] * nd
    for _ in range(c["resnet_n_blocks"]):
        step = [2 if g > p else 1 for g, p in zip(c["grid"], pooled, strict=True)]
        pooled = [p * s for p, s in zip(pooled, step, strict=True)]
        f = f * 2 if max(step) > 1 else f
        y = auto(x, k, f, step, "relu", norm, not norm)
        for _ in range(c["resnet_n_conv_per_block"] - 2):
            y = auto(y, k, f, act="relu", normed=norm, bias=not norm)
        y = auto(y, k, f, normed=norm, bias=not norm)
        x = auto(x, (1,) * nd, f, step, bias=not norm) if max(step) > 1 or x.shape[-1] != f else x
        x = np.maximum(x + y, 0)
    return heads(w, x, k, c["n_rays"], c.get("n_classes"), c["net_conv_after_resnet"])


CONFIGS = {
    "2d": {"axes": "YXC", "n_rays": 8, "grid": [2, 2], "n_channel_in": 1, "backbone": "unet", "unet_n_depth": 2,
           "unet_kernel_size": [3, 3], "unet_pool": [2, 2], "unet_n_filter_base": 4, "unet_n_conv_per_depth": 2,
           "unet_batch_norm": False, "net_conv_after_unet": 6},
    "2d colours, classes, norm": {
        "axes": "YXC", "n_rays": 5, "grid": [4, 2], "n_channel_in": 3, "n_classes": 2, "backbone": "unet",
        "unet_n_depth": 1, "unet_kernel_size": [5, 3], "unet_pool": [2, 2], "unet_n_filter_base": 3,
        "unet_n_conv_per_depth": 3, "unet_batch_norm": True, "net_conv_after_unet": 4},
    "3d": {"axes": "ZYXC", "n_rays": 24, "rays_json": SPIRAL, "grid": [1, 2, 2], "n_channel_in": 1, "n_classes": 3,
           "anisotropy": [2.0, 1.0, 1.0], "backbone": "unet", "unet_n_depth": 1, "unet_kernel_size": [3, 3, 3],
           "unet_pool": [1, 2, 2], "unet_n_filter_base": 2, "unet_n_conv_per_depth": 2, "unet_batch_norm": False,
           "net_conv_after_unet": 4},
    "3d resnet": {"axes": "ZYXC", "n_rays": 24, "rays_json": SPIRAL, "grid": [1, 2, 2], "n_channel_in": 1,
                  "backbone": "resnet", "resnet_n_blocks": 2, "resnet_kernel_size": [3, 3, 3],
                  "resnet_n_filter_base": 2, "resnet_n_conv_per_block": 3, "resnet_batch_norm": False,
                  "net_conv_after_resnet": 4},
}
CONFIGS["3d resnet, norm"] = {**CONFIGS["3d resnet"], "resnet_batch_norm": True, "grid": [2, 2, 1]}


def shape_of(c):
    return (37, 30) if len(c["grid"]) == 2 else (5, 14, 11)


def expected_maps(values, c, w):
    """Maps of values (C, *space) cropped to the image, of an image padded by reflection at the end."""
    unet_like = c["backbone"] == "unet"
    divisor = [p ** c["unet_n_depth"] * g for p, g in zip(c["unet_pool"], c["grid"], strict=True)] if unet_like \
        else c["grid"]
    extra = [(0, -n % d) for n, d in zip(values.shape[1:], divisor, strict=True)]
    x = np.moveaxis(np.pad(values, [(0, 0), *extra], mode="reflect"), 0, -1)
    maps = (unet if unet_like else resnet)(x, c, w)
    crop = tuple(slice(0, -(-n // g)) for n, g in zip(values.shape[1:], c["grid"], strict=True))
    return {name: np.moveaxis(m, -1, 0)[(slice(None), *crop)] for name, m in maps.items()}


def random_values(c, seed=5):
    values = np.random.default_rng(seed).uniform(0, 1, (c["n_channel_in"], *shape_of(c))).astype(np.float32)
    flat = values.reshape(len(values), -1)
    flat[:, 0], flat[:, 1] = 0, 1  # percentiles 0 and 100 leave them as they are
    return values


@pytest.mark.parametrize("name", CONFIGS)
def test_maps_are_those_of_keras(tmp_path, name):
    c, w = CONFIGS[name], Weights(1)
    values = random_values(c)
    expected = expected_maps(values, c, w)
    write_model(tmp_path / "m", c, dict(reversed(w.layers.items())))
    model = load_model(f"stardist:{tmp_path / 'm'}", "cpu", RAW)
    assert isinstance(model, MapPredictor)
    maps = model.maps(image(values, channels=True))
    assert set(maps) == set(expected)
    for key, wanted in expected.items():
        assert maps[key].shape[1:] == shape_of(c)
        cells = maps[key][(slice(None), *(slice(None, None, g) for g in c["grid"]))]
        assert wanted.std() > 1e-3, "nothing would be compared"
        np.testing.assert_allclose(cells, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["2d colours, classes, norm", "3d"])
def test_tiles_change_nothing(tmp_path, name):
    c, w = dict(CONFIGS[name]), Weights(2)
    shape = (150, 96) if len(c["grid"]) == 2 else (40, 60, 44)
    expected_maps(random_values(c), c, w)
    write_model(tmp_path / "m", c, w.layers)
    values = np.random.default_rng(0).uniform(0, 1, (c["n_channel_in"], *shape)).astype(np.float32)
    whole, tiled = (load_model(tmp_path / "m", "cpu", {"tile": t}).maps(image(values, channels=True)) for t in (512, 8))
    for key in whole:
        np.testing.assert_allclose(tiled[key], whole[key], atol=1e-5, rtol=0)


# --- objects ---------------------------------------------------------------------------------------------------------


def spots_model(folder, ndim, thresholds=None, radius=5.05, classes=None):
    """A network that sees an object of one radius at every bright voxel; the brighter, the more probable."""
    one = (1,) * ndim
    c = {"axes": "ZYX"[-ndim:] + "C", "n_rays": 32 if ndim == 2 else 24, "grid": list(one), "n_channel_in": 1,
         "n_classes": classes, "backbone": "unet", "unet_n_depth": 0, "unet_kernel_size": list(one),
         "unet_pool": list(one), "unet_n_filter_base": 1, "unet_n_conv_per_depth": 1, "net_conv_after_unet": 0,
         "train_patch_size": [64] * ndim, "rays_json": SPIRAL if ndim == 3 else None}
    full = np.ones((*one, 1, 1), np.float32)
    layers = {"middle_1": {"kernel": full, "bias": np.zeros(1, np.float32)},
              "prob": {"kernel": 10 * full, "bias": np.array([-5], np.float32)},
              "dist": {"kernel": np.zeros((*one, 1, c["n_rays"]), np.float32),
                       "bias": np.full(c["n_rays"], radius, np.float32)}}
    if classes:  # class 1 where bright, class 2 where brightest
        layers["prob_class"] = {"kernel": np.array([0, 10, 30], np.float32).reshape(*one, 1, 3),
                                "bias": np.array([5, 0, -18], np.float32)}
    return write_model(folder, c, layers, thresholds)


def spots(shape, places):
    values = np.zeros(shape, np.float32)
    for at, value in places.items():
        values[at] = value
    return image(values)


def test_objects_are_discs_at_the_spots(tmp_path):
    model = load_model(spots_model(tmp_path / "m", 2, classes=2), "cpu", RAW)
    found = model.predict(spots((60, 50), {(40, 10): 0.8, (12, 30): 1.0, (12, 33): 0.7, (1, 5): 0.9}))
    y, x = np.ogrid[:60, :50]
    for k, (cy, cx), score, kind in ((1, (12, 30), 1.0, 2), (2, (40, 10), 0.8, 1)):
        disc = (y - cy) ** 2 + (x - cx) ** 2 <= 25
        mine = found.labels.array == k
        assert np.array_equal(mine, disc)
        assert found.objects["score"][k - 1] == pytest.approx(sigmoid(10 * score - 5), abs=1e-6)
        assert found.objects["class"][k - 1] == kind
        assert found.objects["centroid_y"][k - 1] == pytest.approx(cy, abs=0.3)
    assert found.labels.count == 2, "one spot is suppressed by a better one, one is too near the border"
    assert "licence not stated" in found.notes[0]


@pytest.mark.parametrize(("shape", "step"), [((80, 90), 3), ((12, 26, 28), 11)])
def test_objects_are_those_of_stardist_itself(shape, step):
    rng, ndim = np.random.default_rng(4), len(shape)
    labels, at = np.zeros(shape, np.int64), np.indices(shape)
    for k in range(1, 16 if ndim == 2 else 7):
        centre = rng.uniform(0, shape).reshape(-1, *(1,) * ndim)
        labels[((at - centre) ** 2).sum(0) <= rng.uniform(4, 9) ** 2] = k
    spiral = Rays_GoldenSpiral(24)
    rays = circle(32) if ndim == 2 else Rays(np.asarray(spiral.vertices, float), np.asarray(spiral.faces, np.int32))
    points = np.argwhere(labels)[::step]
    dist = ray_distances(labels, rays, border=True)[(slice(None), *points.T)].T
    dist = np.ascontiguousarray(dist * rng.uniform(0.95, 1.05, dist.shape), np.float32)
    prob = np.sort(rng.uniform(0.5, 1, len(points)))[::-1].astype(np.float32)
    best = np.argsort(-dist.min(1), kind="stable")
    points, dist = points[best], dist[best]
    mine, kept = render(Candidates(points, prob, dist, None), shape, rays, 0.4)
    if ndim == 2:
        alive = nms.non_maximum_suppression_inds(dist, points, scores=prob, thresh=0.4, verbose=False)
        theirs = geometry.polygons_to_label(dist[alive], points[alive], shape=shape, prob=prob[alive])
    else:
        alive = nms.non_maximum_suppression_3d_inds(dist, points, rays=spiral, scores=prob, thresh=0.4, verbose=False)
        theirs = geometry.polyhedron_to_label(dist[alive], points[alive], rays=spiral, shape=shape, prob=prob[alive],
                                              verbose=False)
    assert len(kept.prob) == alive.sum() > 4
    assert instance_counts(theirs, mine, thresholds=(0.9,)).f1(0.9) >= 0.995


def test_thresholds_come_from_the_file_and_can_be_replaced(tmp_path):
    folder = spots_model(tmp_path / "m", 2, {"prob": 0.9, "nms": 0.99})
    im = spots((60, 50), {(40, 10): 0.6, (12, 30): 1.0, (12, 33): 0.9})
    model = load_model(folder, "cpu", RAW)
    assert model.predict(im).labels.count == 2
    assert bsk.predict(model, im, thresholds={"prob": 0.5}).labels.count == 3
    assert bsk.predict(model, im, thresholds={"nms": 0.1}).labels.count == 1
    with pytest.raises(OptionError, match=r"nms.*prob"):
        bsk.predict(model, im, thresholds={"foreground": 0.5})
    default = load_model(spots_model(tmp_path / "n", 2), "cpu", RAW)
    assert (default.tunables["prob"].default, default.tunables["nms"].default) == (0.5, 0.4)
    assert "thresholds.json" in default.predict(im).notes[1]


@pytest.mark.parametrize("border", [0, 2])
def test_the_border_is_an_option_and_maps_decode_to_the_same_objects(tmp_path, border):
    model = load_model(spots_model(tmp_path / "m", 2), "cpu", {**RAW, "border": border, "tile": 16})
    im = spots((40, 50), {(1, 5): 0.9, (20, 20): 1.0, (39, 30): 0.7})
    found = model.predict(im)
    assert found.labels.count == (3 if border == 0 else 1)
    again = model.decode(model.maps(im), {}, im.grid)
    np.testing.assert_array_equal(again.labels.array, found.labels.array)
    np.testing.assert_array_equal(again.objects["score"], found.objects["score"])


def test_objects_are_tidied_and_keep_score_and_class(tmp_path):
    folder = spots_model(tmp_path / "m", 2, classes=2)
    im = spots((60, 50), {(40, 4): 0.8, (12, 30): 1.0, (40, 30): 0.7})
    plain, tidy = (load_model(folder, "cpu", {**RAW, **more}) for more in ({}, {"border_objects": "remove"}))
    before, after = plain.predict(im), tidy.predict(im)
    kept = [k for k in (1, 2, 3) if not (before.labels.array[:, 0] == k).any()]
    assert len(kept) == after.labels.count == 2
    np.testing.assert_array_equal(after.labels.array > 0, np.isin(before.labels.array, kept))
    for name in ("score", "class", "area", "centroid_y"):
        np.testing.assert_array_equal(after.objects[name], before.objects[name][np.array(kept) - 1])
    assert plain.digest != tidy.digest
    assert tidy.record["options"]["border_objects"] == "remove"


def test_objects_of_three_axes_and_planes(tmp_path):
    solid = load_model(spots_model(tmp_path / "s", 3, radius=6.0), "cpu", RAW)
    found = solid.predict(spots((20, 30, 30), {(10, 15, 15): 1.0}))
    volume = np.linalg.det(6.0 * np.array([Rays_GoldenSpiral(**SPIRAL["kwargs"]).vertices[f] for f in
                           Rays_GoldenSpiral(**SPIRAL["kwargs"]).faces])).sum() / 6
    assert found.objects["area"][0] == pytest.approx(abs(volume), rel=0.1)
    flat = load_model(spots_model(tmp_path / "f", 2), "cpu", RAW)
    plane = flat.predict(spots((1, 30, 30), {(0, 15, 15): 1.0}))
    assert plane.labels.array.shape == (1, 30, 30)
    assert plane.labels.count == 1
    with pytest.raises(DataError, match=r"image of 3 axes.*2, which this StarDist model takes.*3D model"):
        flat.predict(spots((5, 30, 30), {}))


def test_an_even_image_has_no_object(tmp_path):
    found = load_model(spots_model(tmp_path / "m", 2), "cpu").predict(image(np.full((20, 20), 7)))
    assert found.labels.count == 0
    assert "one value" in found.notes[-1]


def test_percentiles_are_those_of_each_channel(tmp_path):
    from biosegkit.engines.intensities import stretched

    values = np.random.default_rng(0).gamma(2, 90, (2, 30, 20)).astype(np.float32)
    mine = stretched(values, 1, 99.8, joint=False, notes=[])
    for channel in range(2):
        low, high = np.percentile(values[channel], (1, 99.8))
        np.testing.assert_allclose(mine[channel], (values[channel] - low) / (high - low), rtol=1e-4, atol=1e-6)
    low, high = np.percentile(values, (1, 99.8))
    np.testing.assert_allclose(stretched(values, 1, 99.8, joint=True, notes=[]), (values - low) / (high - low),
                               rtol=1e-4, atol=1e-6)
    model = load_model(spots_model(tmp_path / "m", 2), "cpu", {"channel": "1"})
    both = image(np.stack([np.zeros((20, 20)), np.eye(20)]), channels=True)
    assert "channel 1 of 2" in model.predict(both).notes[-1]
    with pytest.raises(OptionError, match="channel 1 of an image of 1"):
        model.predict(spots((20, 20), {}))


# --- files -----------------------------------------------------------------------------------------------------------


def package(path, folder, licence="CC-BY-4.0"):
    """The same model as a package of bioimage.io."""
    about = {"name": "spots", "license": licence, "config": {"stardist": {
        "config": json.loads((folder / "config.json").read_text()), "thresholds": {"prob": 0.5, "nms": 0.4},
        "weights": "stardist_weights.h5"}}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("rdf.yaml", yaml.safe_dump(about))
        archive.writestr("stardist_weights.h5", (folder / "weights_best.h5").read_bytes())
    return path


def test_folder_zip_and_package_are_one_model(tmp_path):
    folder = spots_model(tmp_path / "m", 2, {"prob": 0.5, "nms": 0.4})
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"m/{path.name}")
    im = spots((40, 40), {(12, 20): 1.0, (30, 9): 0.8})
    models = [load_model(p, "cpu", RAW) for p in (folder, tmp_path / "m.zip", package(tmp_path / "p.zip", folder))]
    assert all(isinstance(m, StarModel) for m in models)
    assert len({m.predict(im).labels.array.tobytes() for m in models}) == 1
    assert len({m.digest for m in models}) == 1 != len({models[0].digest, load_model(folder, "cpu").digest})
    assert models[2].record["licence"] == "CC-BY-4.0"
    assert "licence CC-BY-4.0" in models[2].predict(im).notes[0]


def test_what_is_missing_is_listed(tmp_path):
    with pytest.raises(FileError, match=r"nothing there.*config.json, thresholds.json and weights_best.h5.*downloaded"):
        load_model(f"stardist:{tmp_path / 'none'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match=r"found no file.*config.json.*rdf.yaml"):
        load_model(f"stardist:{tmp_path / 'empty'}")
    folder = spots_model(tmp_path / "m", 2)
    (folder / "weights_best.h5").unlink()
    with pytest.raises(FileError, match=r"no weights beside config.json.*SavedModel"):
        load_model(folder)
    (folder / "weights_best.h5").write_bytes(b"no HDF5 at all")
    with pytest.raises(FileError, match="no HDF5 file of weights"):
        load_model(folder)
    (folder / "config.json").write_text('{"n_rays": 3, "grid": [1, 1], "oops')
    with pytest.raises(FileError, match=r"config\.json is no JSON"):
        load_model(f"stardist:{folder}")
    (tmp_path / "p.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(FileError, match="no StarDist model"):
        load_model(f"stardist:{tmp_path / 'p.zip'}")
    assert not looks_like_star(tmp_path / "p.zip")


@pytest.mark.parametrize(("change", "said"), [
    ({"n_rays": 10**6}, "n_rays = 1000000.*1024"), ({"grid": [3, 1]}, r"grid \(3, 1\).*powers of two"),
    ({"unet_surprise": 1}, "unet_surprise"), ({"axes": "XYC"}, "axes XYC"), ({"backbone": "resnet"}, "resnet in 2D"),
    ({"unet_n_filter_base": 2}, r"shape \(1, 1, 1, 1\).*\(1, 1, 1, 2\).*different models"),
    ({"n_classes": 2}, "no layer prob_class"), ({"net_conv_after_unet": 4}, "no layer features"),
    ({"unet_activation": "swish"}, "unet_activation")])
def test_settings_that_do_not_fit_are_refused(tmp_path, change, said):
    folder = spots_model(tmp_path / "m", 2)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(FileError, match=said):
        load_model(folder, "cpu")


@pytest.mark.parametrize("rays", [
    {"name": "print", "kwargs": {}}, {"name": "Rays_GoldenSpiral", "kwargs": {"n": 24, "x": 1}}, {"name": "Rays_Tetra"},
    {"name": "Rays_GoldenSpiral", "kwargs": {"n": 10**9}}, {"name": "Rays_GoldenSpiral", "kwargs": {"n": 25}}])
def test_a_name_in_a_file_is_never_run(tmp_path, rays):
    folder = spots_model(tmp_path / "m", 3)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rays_json": rays}))
    with pytest.raises(FileError, match=r"rays \{|25 directions"):
        load_model(folder, "cpu")


def test_weights_elsewhere_or_left_over_or_damaged_are_refused(tmp_path):
    folder = spots_model(tmp_path / "m", 2)
    good = read_layers((folder / "weights_best.h5").read_bytes(), "w")
    write_weights(folder / "weights_best.h5", {**good, "conv2d": {"kernel": np.ones((1, 1, 1, 1)), "bias": np.ones(1)}})
    with pytest.raises(FileError, match=r"layers conv2d that config\.json does not know"):
        load_model(folder, "cpu")
    bad = {**good, "prob": {**good["prob"], "bias": np.array([np.nan], np.float32)}}
    write_weights(folder / "weights_best.h5", bad)
    with pytest.raises(FileError, match="not finite"):
        load_model(folder, "cpu")
    write_weights(folder / "weights_best.h5", good)
    with h5py.File(folder / "weights_best.h5", "a") as root:
        del root["prob"]
        root["prob"] = h5py.ExternalLink("other.h5", "/prob")
    with pytest.raises(FileError, match="a link in the place of prob"):
        load_model(folder, "cpu")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as root:
        root["a"] = np.ones(3)
    with pytest.raises(FileError, match="without layer_names"):
        read_layers(buffer.getvalue(), "w")


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    import sys

    folder = spots_model(tmp_path / "m", 2)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(OptionError, match=r"h5py.*biosegkit\[stardist\]"):
        load_model(folder, "cpu")


def test_the_command_line(tmp_path):
    folder = spots_model(tmp_path / "m", 2)
    bsk.write(spots((40, 40), {(12, 20): 1.0, (30, 9): 0.8}), tmp_path / "a.tif")
    done = CliRunner().invoke(app, ["predict", f"stardist:{folder}", str(tmp_path / "a.tif"), "-o",
                                    str(tmp_path / "out"), "--option", "low=0", "--option", "high=100",
                                    "--threshold", "prob=0.9", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert bsk.read_labels(tmp_path / "out/a.tif", "instance").count == 2
    record = json.loads((tmp_path / "out/a.tif.json").read_text())
    assert (record["model"]["engine"], record["model"]["licence"]) == ("stardist", "not stated")
    wrong = CliRunner().invoke(app, ["predict", f"stardist:{folder}", str(tmp_path / "a.tif"), "-o",
                                     str(tmp_path / "out2"), "--option", "size=3"])
    assert wrong.exit_code == 2
    assert "channel, low, high" in " ".join(wrong.output.split())
