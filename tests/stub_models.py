"""Small plans and networks that answer at once, for tests of everything around a network."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.plan.schema import (
    Architecture,
    Augmentation,
    Channel,
    Configuration,
    LabelTable,
    Plan,
    Preprocessing,
    Training,
)
from biosegkit.segmenter import Segmenter, method_of

CPU = torch.device("cpu")


def stub_plan(ndim=3, *, patch=None, step=None, spacing=None, transpose=None, resample=False, unit="mm",
              values=(0, 3, 7), scheme="none", instance=False, channels=1, crop=False, mirror=None, low=0.0, high=0.0):
    """A complete plan; its network is tiny."""
    patch = patch or (8,) * ndim
    architecture = Architecture(features=(4, 8), kernels=((3,) * ndim,) * 2, strides=((1,) * ndim, (2,) * ndim),
                                encoder_blocks=(1, 1), decoder_blocks=(1,), deep_supervision=False)
    configuration = Configuration(
        name="2d" if ndim == 2 else "3d_fullres", ndim=ndim, spacing=spacing or (1.0,) * ndim, median_shape=patch,
        patch=patch, batch=2, tile_step=step or tuple(p // 2 for p in patch), architecture=architecture,
    )
    if instance:
        labels = LabelTable(task="instance", names=("background", "object"), values=(0, 1))
    else:
        names = ("background", *(f"class {v}" for v in values[1:]))
        labels = LabelTable(task="semantic", names=names, values=values)
    return Plan(
        name="stub", preset="default", labels=labels,
        preprocessing=Preprocessing(
            channels=tuple(Channel(name=f"c{i}", scheme=scheme, low=low, high=high) for i in range(channels)),
            transpose=transpose or tuple(range(ndim)), resample=resample, unit=unit, crop_to_nonzero=crop,
        ),
        configuration=configuration, method="distance" if instance else "semantic",
        training=Training(steps=1, augmentation=Augmentation(mirror_axes=mirror or tuple(range(ndim)))),
    )


class Bands(nn.Module):
    """Logits of one voxel alone: class k is likeliest where the value is near k."""

    def __init__(self, classes=3):
        super().__init__()
        self.classes, self.calls, self.batches = classes, 0, []

    def forward(self, x):
        self.calls += 1
        self.batches.append(len(x))
        centres = torch.arange(self.classes, dtype=x.dtype).reshape(1, -1, *([1] * (x.ndim - 2)))
        return {"classes": -4 * (x[:, :1] - centres) ** 2}


class Context(nn.Module):
    """Logits that depend on the neighbours, the place in the tile and the whole tile: tiles disagree."""

    def __init__(self, ndim=3, classes=3, channels=1):
        super().__init__()
        kind = nn.Conv3d if ndim == 3 else nn.Conv2d
        self.conv = kind(channels, classes, 3, padding=1)
        generator = torch.Generator().manual_seed(1)
        self.conv.weight.data = torch.randn(self.conv.weight.shape, generator=generator)
        self.conv.bias.data = torch.randn(self.conv.bias.shape, generator=generator)

    def forward(self, x):
        place = torch.linspace(-1, 1, x.shape[-1])
        return {"classes": self.conv(x) + place + x.mean(tuple(range(1, x.ndim)), keepdim=True)}


class Hungry(Bands):
    """Runs out of memory above a number of voxels per call."""

    def __init__(self, limit, error=torch.OutOfMemoryError, message="out of memory"):
        super().__init__()
        self.limit, self.error, self.message = limit, error, message

    def forward(self, x):
        if x[:, 0].numel() > self.limit:
            raise self.error(self.message)
        return super().forward(x)


class Discs(nn.Module):
    """Outputs of the distance method from an image whose value is the distance to show."""

    def forward(self, x):
        return {"foreground": 40 * (x[:, :1] - 0.05), "distance": x[:, :1]}


def image(shape, seed=0, spacing=1.0, unit="mm", top=3.0, channels=1):
    """Random values from 0 to ``top``."""
    values = np.random.default_rng(seed).random((channels, *shape), np.float32) * top
    return Image(values, Grid.regular(shape, spacing, unit))


def segmenter(network, plan, **options):
    """A predictor around a stub."""
    networks = network if isinstance(network, tuple) else (network,)
    return Segmenter(plan, tuple(n.eval() for n in networks), CPU, {}, **options)


def fresh_weights(plan, seed=0):
    """Weights of the plan's own network."""
    from biosegkit.bundle import network_of

    torch.manual_seed(seed)
    return network_of(plan).state_dict()


__all__ = ["Bands", "Context", "Discs", "Hungry", "fresh_weights", "image", "method_of", "segmenter", "stub_plan"]
