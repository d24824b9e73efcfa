"""The networks of StarDist in torch, with the arithmetic of Keras: padding, pooling, upsampling, order of channels.

Sources: Schmidt et al. 2018 (arXiv:1806.03535), Weigert et al. 2020 (arXiv:1908.03636); names and shapes of layers as
their published weight files have them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from biosegkit.errors import FileError

from .keras_weights import Layers
from .star_config import StarConfig

__all__ = ["StarNetwork", "build_star", "reach", "same_padding"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu, "elu": functional.elu, "selu": torch.selu, "sigmoid": torch.sigmoid, "tanh": torch.tanh,
    "linear": lambda x: x,
}
_EPS = 1e-3  # of batch normalisation in Keras


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after one axis for Keras' padding "same".

    Examples
    --------
    >>> same_padding(8, 3, 1), same_padding(8, 2, 1), same_padding(8, 3, 2)
    ((1, 1), (0, 1), (0, 1))
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class KerasConv(nn.Module):
    """A convolution as Keras does it, with batch normalisation and activation.

    Parameters
    ----------
    name : str
        Of the layer in weight files; "" where Keras numbers it.
    sizes : tuple of int
        Channels in and out.
    kernel, stride : sequence of int
        Per axis.
    activation : str
    norm, bias : bool
    """

    def __init__(self, name: str, sizes: tuple[int, int], kernel: Sequence[int], stride: Sequence[int] = (),
                 *, activation: str = "linear", norm: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.name, self.kernel, self.stride = name, tuple(kernel), tuple(stride) or (1,) * len(kernel)
        self.weight = nn.Parameter(torch.zeros(sizes[1], sizes[0], *kernel))
        self.bias = nn.Parameter(torch.zeros(sizes[1])) if bias else None
        self.norm = nn.ParameterDict({k: nn.Parameter(torch.zeros(sizes[1])) for k in (
            "gamma", "beta", "moving_mean", "moving_variance")}) if norm else None
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C, *space)."""
        pads = [same_padding(n, k, s) for n, k, s in zip(x.shape[2:], self.kernel, self.stride, strict=True)]
        x = functional.pad(x, [p for pair in reversed(pads) for p in pair])
        convolve = functional.conv2d if len(self.kernel) == 2 else functional.conv3d
        x = convolve(x, self.weight, self.bias, self.stride)
        if self.norm is not None:
            n = self.norm
            x = functional.batch_norm(x, n["moving_mean"], n["moving_variance"], n["gamma"], n["beta"], eps=_EPS)
        return _ACTIVATIONS[self.activation](x)

    def fill(self, kernel: Tensor, bias: Tensor | None, norm: dict[str, Tensor]) -> None:
        """Take over weights as Keras has them: kernel (*kernel, in, out)."""
        with torch.no_grad():
            axes = kernel.ndim
            self.weight.copy_(kernel.permute(axes - 1, axes - 2, *range(axes - 2)))
            if self.bias is not None and bias is not None:
                self.bias.copy_(bias)
            for key, value in norm.items():
                if self.norm is not None:
                    self.norm[key].copy_(value)

    @property
    def keras_shape(self) -> tuple[int, ...]:
        """Shape of the kernel in weight files."""
        out, inside = self.weight.shape[:2]
        return (*self.kernel, int(inside), int(out))


class Pool(nn.Module):
    """Largest value of each cell."""

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        self.size = tuple(size)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C, *space), smaller by the size."""
        pool = functional.max_pool2d if len(self.size) == 2 else functional.max_pool3d
        return pool(x, self.size)


class Residual(nn.Module):
    """A block of convolutions whose input is added to its output."""

    def __init__(self, convs: Sequence[KerasConv], shortcut: KerasConv | None, activation: str) -> None:
        super().__init__()
        self.convs, self.shortcut, self.activation = nn.Sequential(*convs), shortcut, activation

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C, *space)."""
        y = self.convs(x)
        return _ACTIVATIONS[self.activation](y + (x if self.shortcut is None else self.shortcut(x)))


class Unet(nn.Module):
    """Down, middle and up, with skips joined as [upsampled, skip]."""

    def __init__(self, c: StarConfig) -> None:
        super().__init__()
        base, per, depth, e = c.unet_n_filter_base, c.unet_n_conv_per_depth, c.unet_n_depth, c.unet_expansion
        at = base if c.grid != (1,) * c.ndim else c.n_channel_in

        def block(name: str, numbers: Sequence[int], filters: int, activation: str = c.unet_activation) -> KerasConv:
            nonlocal at
            title = c.unet_prefix + name.format(*numbers)
            conv = KerasConv(title, (at, filters), c.unet_kernel_size, activation=activation, norm=c.unet_batch_norm)
            at = filters
            return conv

        skips = []
        self.down = nn.ModuleList()  # down, middle, up: the order in which Keras made and numbered the layers
        for n in range(depth):
            self.down.append(nn.Sequential(*[block("down_level_{}_no_{}", (n, i), int(base * e**n))
                                             for i in range(per)]))
            skips.append(at)
        middle = [block("middle_{}", (i,), int(base * e**depth)) for i in range(per - 1)]
        self.middle = nn.Sequential(*middle, block("middle_{}", (per,), int(base * e ** max(0, depth - 1))))
        self.up = nn.ModuleList()
        for n in reversed(range(depth)):
            at += skips[n]
            convs = [block("up_level_{}_no_{}", (n, i), int(base * e**n)) for i in range(per - 1)]
            convs.append(block("up_level_{}_no_{}", (n, per), int(base * e ** max(0, n - 1)),
                               c.unet_activation if n else c.unet_last_activation))
            self.up.append(nn.Sequential(*convs))
        self.pool, self.out_channels = Pool(c.unet_pool), at

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C, *space)."""
        skips = []
        for level in self.down:
            x = level(x)
            skips.append(x)
            x = self.pool(x)
        x = self.middle(x)
        for level in self.up:
            for axis, factor in enumerate(self.pool.size, 2):
                x = x.repeat_interleave(factor, dim=axis)
            x = level(torch.cat([x, skips.pop()], 1))
        return x


class StarNetwork(nn.Module):
    """Object probability, ray lengths and, with classes, class probabilities, on the model's grid."""

    def __init__(self, c: StarConfig) -> None:
        super().__init__()
        self.stem, self.trunk, channels = _unet(c) if c.backbone == "unet" else _resnet(c)
        extra = c.net_conv_after_unet if c.backbone == "unet" else c.net_conv_after_resnet
        kernel = c.unet_kernel_size if c.backbone == "unet" else c.resnet_kernel_size
        activation = c.unet_activation if c.backbone == "unet" else c.resnet_activation

        def features(name: str) -> nn.Module:
            return KerasConv(name, (channels, extra), kernel, activation=activation) if extra else nn.Identity()

        def head(name: str, count: int, kind: str = "linear") -> KerasConv:
            return KerasConv(name, (extra or channels, count), (1,) * c.ndim, activation=kind)

        self.features, self.prob, self.dist = features("features"), head("prob", 1, "sigmoid"), head("dist", c.n_rays)
        self.class_features = None if c.n_classes is None else features("features_class")
        self.prob_class = None if c.n_classes is None else head("prob_class", c.n_classes + 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps (B, C, *space / grid) of images (B, channels, *space)."""
        base = self.trunk(self.stem(x))
        shared = self.features(base)
        maps = {"prob": self.prob(shared), "dist": self.dist(shared).clamp(min=1e-3)}
        if self.class_features is not None and self.prob_class is not None:
            maps["classes"] = torch.softmax(self.prob_class(self.class_features(base)), 1)
        return maps


def _pools(grid: Sequence[int]) -> list[tuple[int, ...]]:
    """Steps of pooling, each by 1 or 2 per axis, until the grid is reached.

    Examples
    --------
    >>> _pools((1, 2, 4))
    [(1, 2, 2), (1, 1, 2)]
    """
    steps, pooled = [], (1,) * len(grid)
    while pooled != tuple(grid):
        steps.append(tuple(2 if g > p else 1 for g, p in zip(grid, pooled, strict=True)))
        pooled = tuple(p * s for p, s in zip(pooled, steps[-1], strict=True))
    return steps


def _unet(c: StarConfig) -> tuple[nn.Module, nn.Module, int]:
    """Convolutions and pooling down to the grid, then the U-Net."""
    at, layers = c.n_channel_in, list[nn.Module]()
    for pool in _pools(c.grid):
        for _ in range(c.unet_n_conv_per_depth):
            layers.append(KerasConv("", (at, c.unet_n_filter_base), c.unet_kernel_size, activation=c.unet_activation))
            at = c.unet_n_filter_base
        layers.append(Pool(pool))
    trunk = Unet(c)
    return nn.Sequential(*layers), trunk, trunk.out_channels


def _resnet(c: StarConfig) -> tuple[nn.Module, nn.Module, int]:
    """Two convolutions, then residual blocks, the first of which stride down to the grid."""
    n, kernel, norm, act = c.resnet_n_filter_base, c.resnet_kernel_size, c.resnet_batch_norm, c.resnet_activation
    stem = nn.Sequential(KerasConv("", (c.n_channel_in, n), (7,) * c.ndim), KerasConv("", (n, n), (3,) * c.ndim))
    strides = _pools(c.grid)[: c.resnet_n_blocks]
    strides += [(1,) * c.ndim] * (c.resnet_n_blocks - len(strides))
    blocks, at = [], n
    for stride in strides:
        n = 2 * n if max(stride) > 1 else n
        last = c.resnet_n_conv_per_block - 1
        convs = [KerasConv("", (n if i else at, n), kernel, () if i else stride, norm=norm, bias=not norm,
                           activation="linear" if i == last else act) for i in range(last + 1)]
        short = KerasConv("", (at, n), (1,) * c.ndim, stride, bias=not norm) if at != n or max(stride) > 1 else None
        blocks.append(Residual(convs, short, act))
        at = n
    return stem, nn.Sequential(*blocks), at


def build_star(config: StarConfig, layers: Layers, file: str) -> StarNetwork:
    """The network with the weights of a file, in evaluation mode.

    Parameters
    ----------
    config : StarConfig
    layers : dict
        See :func:`biosegkit.engines.keras_weights.read_layers`.
    file : str
        For errors.

    Raises
    ------
    FileError
        If a layer is missing, left over or of another shape than the configuration says.
    """
    network = StarNetwork(config).eval().requires_grad_(requires_grad=False)
    convs = {n: a for n, a in layers.items() if "kernel" in a}
    norms = [(n, a) for n, a in layers.items() if "gamma" in a or "moving_mean" in a]
    slots = [m for m in network.modules() if isinstance(m, KerasConv)]
    named = {m.name for m in slots}
    automatic = [n for n in convs if n not in named]
    for slot in slots:
        name = slot.name or next((n for n in automatic if convs[n]["kernel"].shape == slot.keras_shape), "")
        if name in automatic:
            automatic.remove(name)
        found = convs.pop(name, None)
        shape = None if found is None else found["kernel"].shape
        if found is None or shape != slot.keras_shape or ("bias" in found) != (slot.bias is not None):
            listed = ", ".join(f"{n} {a['kernel'].shape}" for n, a in list(convs.items())[:6])
            raise FileError(f"no layer {slot.name or '(without a name of its own)'}" if found is None else
                            f"layer {name} of shape {shape}", file=file,
                            expected=f"a kernel of shape {slot.keras_shape}, as config.json says (left: {listed})",
                            remedy="config.json and weights belong to different models")
        norm = norms.pop(0)[1] if slot.norm is not None and norms else {}
        if slot.norm is not None and set(norm) != set(slot.norm.keys()):
            raise FileError(f"batch normalisation with {sorted(norm)}", file=file,
                            expected=f"{sorted(slot.norm.keys())}", remedy="this kind of layer is not known here")
        slot.fill(torch.from_numpy(found["kernel"]), None if slot.bias is None else torch.from_numpy(found["bias"]),
                  {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in norm.items()})
    if convs or norms:
        raise FileError(f"layers {', '.join([*convs, *(n for n, _ in norms)][:6])} that config.json does not know",
                        file=file, expected="the layers of its network", remedy="config.json and weights belong to "
                        "different models")
    return network


def reach(network: StarNetwork, config: StarConfig) -> tuple[int, ...]:
    """How many voxels around a voxel its maps depend on, per axis; an upper bound.

    Examples
    --------
    >>> from .star_config import read_config
    >>> config = read_config({"axes": "YX", "n_rays": 8, "grid": [1, 1], "unet_n_depth": 1}, "config.json")
    >>> reach(StarNetwork(config), config)  # 5 kernels of 3x3 on the full grid, 2 on half of it, and a cell of pooling
    (11, 11)
    """
    far = list(config.divisor)
    for layer in network.modules():
        if isinstance(layer, KerasConv):
            parts = layer.name.removeprefix(config.unet_prefix).split("_")
            level = config.unet_n_depth if parts[0] == "middle" else int(parts[2]) if parts[0] in ("down", "up") else 0
            for axis, kernel in enumerate(layer.kernel):
                pool = config.unet_pool[axis] ** level if config.backbone == "unet" else 1
                far[axis] += kernel // 2 * config.grid[axis] * pool
    return tuple(far)
