"""StarDist's networks without TensorFlow: the maps of Keras' arithmetic, whatever the tiles."""

from __future__ import annotations

import numpy as np
import pytest
from engine_models import RAW, SPIRAL, image, no_network
from keras_files import conv, grow, pool, sigmoid, softmax, write_model

from biosegkit.engines import load_model
from biosegkit.predictor import MapPredictor


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    no_network(monkeypatch)


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
        # float32 on both sides: an error grows with the value, and distances reach some tens here
        np.testing.assert_allclose(cells, wanted, atol=1e-4, rtol=1e-5)


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
