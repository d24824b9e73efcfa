"""The network of Cellpose 1 to 3 in torch: a residual U-Net whose way up is told the style of the image.

Source: Stringer et al. 2021 (doi:10.1038/s41592-020-01018-x); tensors have the names of the published weight files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from biosegkit.errors import FileError

__all__ = ["CellposeNet", "build_cellpose", "looks_like_cnn"]


def _step(inside: int, out: int, kernel: int, *, relu: bool = True) -> nn.Sequential:
    """Normalisation, rectification, convolution."""
    conv = nn.Conv2d(inside, out, kernel, padding=kernel // 2)
    norm = nn.BatchNorm2d(inside)
    return nn.Sequential(norm, nn.ReLU(), conv) if relu else nn.Sequential(norm, conv)


def _named(prefix: str, modules: Sequence[nn.Module]) -> nn.ModuleDict:
    return nn.ModuleDict({f"{prefix}{n}": module for n, module in enumerate(modules)})


class Down(nn.Module):
    """Four convolutions in two residual pairs."""

    def __init__(self, inside: int, out: int, kernel: int) -> None:
        super().__init__()
        self.conv = _named("conv_", [_step(inside if n == 0 else out, out, kernel) for n in range(4)])
        self.proj = _step(inside, out, 1, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, out, y, x)."""
        c = self.conv
        x = self.proj(x) + c["conv_1"](c["conv_0"](x))
        return torch.add(x, c["conv_3"](c["conv_2"](x)))


class Styled(nn.Module):
    """A convolution of features to which the style was added."""

    def __init__(self, channels: int, style: int, kernel: int) -> None:
        super().__init__()
        self.conv, self.full = _step(channels, channels, kernel), nn.Linear(style, channels)

    def forward(self, style: Tensor, x: Tensor) -> Tensor:
        """Features (B, C, y, x)."""
        return self.conv(x + self.full(style)[:, :, None, None])  # type: ignore[no-any-return]


class Up(nn.Module):
    """Four convolutions in two residual pairs, with the skip added after the first."""

    def __init__(self, inside: int, out: int, style: int, kernel: int) -> None:
        super().__init__()
        self.conv = _named("conv_", [_step(inside, out, kernel), *(Styled(out, style, kernel) for _ in range(3))])
        self.proj = _step(inside, out, 1, relu=False)

    def forward(self, x: Tensor, skip: Tensor, style: Tensor) -> Tensor:
        """Features (B, out, y, x)."""
        c = self.conv
        x = self.proj(x) + c["conv_1"](style, c["conv_0"](x) + skip)
        return torch.add(x, c["conv_3"](style, c["conv_2"](style, x)))


class CellposeNet(nn.Module):
    """Flow along y and x, five times too long, and the logit of the foreground.

    Parameters
    ----------
    channels : sequence of int
        Of the image, then of each level.
    kernel : int
    """

    def __init__(self, channels: Sequence[int], kernel: int) -> None:
        super().__init__()
        levels = list(channels[1:])
        down = [Down(a, b, kernel) for a, b in pairwise(channels)]
        up = [Up(b, a, levels[-1], kernel) for a, b in zip(levels, [*levels[1:], levels[-1]], strict=True)]
        self.downsample = nn.ModuleDict({"down": _named("res_down_", down)})
        self.upsample = nn.ModuleDict({"up": _named("res_up_", up)})
        self.output = _step(levels[0], 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, 3, y, x) of images (B, 2, y, x) whose sizes ``2 ** (levels - 1)`` divides."""
        skips: list[Tensor] = []
        for n, down in enumerate(self._children("downsample", "down")):
            x = down(functional.max_pool2d(x, 2) if n else x)
            skips.append(x)
        style = x.mean(dim=(2, 3))
        style = style / style.square().sum(dim=1, keepdim=True).sqrt()
        for n, (up, skip) in enumerate(zip(reversed(self._children("upsample", "up")), reversed(skips), strict=True)):
            x = up(functional.interpolate(x, scale_factor=2, mode="nearest") if n else x, skip, style)
        return self.output(x)  # type: ignore[no-any-return]

    def _children(self, outer: str, inner: str) -> list[nn.Module]:
        return list(self.get_submodule(f"{outer}.{inner}").children())


def looks_like_cnn(state: Mapping[str, Tensor]) -> bool:
    """Whether tensors are those of Cellpose 1 to 3."""
    return "output.2.weight" in state and "downsample.down.res_down_0.conv.conv_0.2.weight" in state


def build_cellpose(state: Mapping[str, Tensor], file: str) -> CellposeNet:
    """The network of a state dict, in evaluation mode.

    Raises
    ------
    FileError
        If tensors are missing, left over, of other shapes or not finite; networks for other tasks are named.
    """
    firsts: list[Tensor] = []
    while (key := f"downsample.down.res_down_{len(firsts)}.conv.conv_0.2.weight") in state:
        firsts.append(state[key])
    if state["output.2.weight"].shape[0] != 3:
        raise FileError(f"a network of {state['output.2.weight'].shape[0]} outputs", file=file,
                        expected="3, which segment (denoising and size models do not)",
                        remedy="give a model that segments, such as cyto3")
    if any(f.ndim != 4 or max(f.shape) > 4096 for f in firsts):
        raise FileError("kernels of other axes than those of 2D networks", file=file, expected="a 2D network")
    net = CellposeNet([int(firsts[0].shape[1]), *(int(f.shape[0]) for f in firsts)], int(firsts[0].shape[2]))
    own = net.state_dict()
    given = {k: v for k, v in state.items() if k not in ("diam_mean", "diam_labels")}
    wrong = sorted(k for k in own.keys() | given.keys() if k not in own or k not in given
                   or own[k].shape != given[k].shape)
    if wrong:
        k = wrong[0]
        raise FileError(f"tensor {k} {tuple(given[k].shape) if k in given else 'missing'} ({len(wrong)} such)",
                        file=file, expected=f"{tuple(own[k].shape) if k in own else 'no such tensor'} in Cellpose's "
                        "network with residual blocks and style",
                        remedy="other variants of the network are not run here")
    if not all(bool(torch.isfinite(v).all()) for v in given.values()):
        raise FileError("weights that are not finite", file=file, expected="finite numbers", remedy="copy it again")
    net.load_state_dict(given)
    return net.eval().requires_grad_(requires_grad=False)
