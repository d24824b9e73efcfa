"""Weight files as Keras writes them, and its layers in plain numpy: the other side of tests of StarDist models."""

from __future__ import annotations

import json
from itertools import product

import h5py
import numpy as np


def write_weights(path, layers, layer_order=None):
    """HDF5 of ``save_weights``: a group per layer, names in attributes; layers without weights are listed too."""
    with h5py.File(path, "w") as root:
        names = [*(layer_order or layers), "max_0"]
        root.attrs["layer_names"] = [n.encode() for n in names]
        root.attrs["backend"] = b"tensorflow"
        for name in names:
            group = root.create_group(name)
            arrays = layers.get(name, {})
            group.attrs["weight_names"] = [f"{name}/{k}:0".encode() for k in arrays]
            for key, value in arrays.items():
                group.create_dataset(f"{name}/{key}:0", data=value)


def write_model(folder, config, layers, thresholds=None):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if thresholds is not None:
        (folder / "thresholds.json").write_text(json.dumps(thresholds))
    write_weights(folder / "weights_best.h5", layers)
    return folder


def conv(x, layer, stride=None, act=None):
    """Convolution of (*space, C) with zeros around, so that the output has ceil(n / stride) voxels."""
    kernel = layer["kernel"]
    nd = kernel.ndim - 2
    stride = stride or (1,) * nd
    out_shape = [-(-n // s) for n, s in zip(x.shape, stride, strict=False)]
    pads = []
    for n, o, k, s in zip(x.shape, out_shape, kernel.shape, stride, strict=False):
        total = max((o - 1) * s + k - n, 0)
        pads.append((total // 2, total - total // 2))
    padded = np.pad(x.astype(np.float64), [*pads, (0, 0)])
    out = np.zeros((*out_shape, kernel.shape[-1]))
    for at in product(*(range(k) for k in kernel.shape[:nd])):
        window = tuple(slice(a, a + (o - 1) * s + 1, s) for a, o, s in zip(at, out_shape, stride, strict=True))
        out += padded[window] @ kernel[at].astype(np.float64)
    out += layer.get("bias", 0)
    if "gamma" in layer:
        scale = layer["gamma"] / np.sqrt(layer["moving_variance"].astype(np.float64) + 1e-3)
        out = (out - layer["moving_mean"]) * scale + layer["beta"]
    return np.maximum(out, 0) if act == "relu" else out


def pool(x, size):
    for axis, s in enumerate(size):
        shape = (*x.shape[:axis], x.shape[axis] // s, s, *x.shape[axis + 1:])
        x = x.reshape(shape).max(axis + 1)
    return x


def grow(x, size):
    for axis, s in enumerate(size):
        x = np.repeat(x, s, axis)
    return x


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
