"""Models of other programs as files, small and made up: spots for StarDist, random weights for Cellpose."""

from __future__ import annotations

import socket

import numpy as np
import torch
from keras_files import write_model

import biosegkit as bsk
from biosegkit.engines.cellpose_network import CellposeNet

SPIRAL = {"name": "Rays_GoldenSpiral", "kwargs": {"n": 24, "anisotropy": [2.0, 1.0, 1.0]}}
RAW = {"low": 0, "high": 100}


def no_network(monkeypatch):
    """Whoever asks for a connection gets none."""
    def refused(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(socket.socket, "connect", refused)


def image(values, channels=False, spacing=1.0):
    values = np.asarray(values, np.float32)
    values = values if channels else values[None]
    return bsk.Image(values, bsk.Grid.regular(values.shape[1:], spacing))


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


def save(state, path):
    torch.save(state, path)  # noqa: TID251
    return path


def random_state(channels=(2, 4, 6), kernel=3, seed=0, **more):
    rng = np.random.default_rng(seed)
    state = {}
    for name, tensor in CellposeNet(channels, kernel).state_dict().items():
        draw = {"running_var": rng.uniform(0.5, 2, tensor.shape),
                "running_mean": 0.3 * rng.standard_normal(tensor.shape)}
        last = name.rsplit(".", 1)[1]
        fan = max(1, np.prod(tensor.shape[1:]))
        value = draw.get(last, rng.standard_normal(tensor.shape) / np.sqrt(fan))
        state[name] = torch.from_numpy(np.asarray(value)).to(tensor.dtype)
    return state | {key: torch.tensor([float(value)]) for key, value in more.items()}
