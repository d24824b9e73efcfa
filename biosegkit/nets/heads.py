"""Heads: from the features of a network to one output per name, on the network's grid or a coarser one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from biosegkit.nets.blocks import SLOPE, conv

__all__ = ["Branch", "Heads", "Output", "Outputs", "channels_of", "is_coarse", "plain"]


class Output(NamedTuple):
    """What a head asks for: channels; ``hidden`` features of a convolution before them; on the second stage's grid."""

    channels: int
    hidden: int = 0
    coarse: bool = False


Outputs: TypeAlias = Mapping[str, int | Output]


def plain(heads: Outputs) -> dict[str, int]:
    """The heads that are a 1×1 convolution of the features; these are supervised at every level."""
    shapes = {name: _shape(head) for name, head in heads.items()}
    return {name: shape.channels for name, shape in shapes.items() if not shape.hidden}


def channels_of(heads: Outputs) -> dict[str, int]:
    """Channels by head, for networks that give all of them at once and know nothing of hidden features or grids."""
    return {name: _shape(head).channels for name, head in heads.items()}


class Heads(nn.Module):
    """One 1×1 convolution for all plain heads of a level, split by name."""

    def __init__(self, ndim: int, inputs: int, heads: Outputs) -> None:
        super().__init__()
        self.sizes = plain(heads)
        self.conv = conv(ndim, inputs, sum(self.sizes.values()), (1,) * ndim)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits per head, (B, channels, *space)."""
        parts = torch.split(self.conv(x), list(self.sizes.values()), dim=1)
        return dict(zip(self.sizes, parts, strict=True))


class Branch(nn.Module):
    """The heads that have hidden features, all of them the same ones: a convolution, leaky ReLU, a 1×1 convolution.

    Few features hold few maps, but many outputs that belong together can be told from a neighbourhood of them. Without
    such heads it gives nothing.

    Parameters
    ----------
    ndim, inputs : int
        Spatial axes and features.
    heads : mapping of str to int or Output
    kernel : tuple of int
    stride : tuple of int, optional
        Where the features are of a finer grid than the heads ask for; voxel ``i`` of the maps lies at ``i × stride``.

    Examples
    --------
    >>> branch = Branch(2, 8, {"foreground": 1, "distances": Output(32, hidden=16, coarse=True)}, (3, 3), (2, 2))
    >>> {name: tuple(found.shape) for name, found in branch(torch.zeros(1, 8, 5, 6)).items()}
    {'distances': (1, 32, 3, 3)}
    """

    def __init__(self, ndim: int, inputs: int, heads: Outputs, kernel: tuple[int, ...],
                 stride: tuple[int, ...] | int = 1) -> None:
        super().__init__()
        shapes = {name: shape for name, head in heads.items() if (shape := _shape(head)).hidden}
        self.sizes = {name: shape.channels for name, shape in shapes.items()}
        if shapes:
            hidden = max(shape.hidden for shape in shapes.values())
            self.layers = nn.Sequential(conv(ndim, inputs, hidden, kernel, stride), nn.LeakyReLU(SLOPE, inplace=True),
                                        conv(ndim, hidden, sum(self.sizes.values()), (1,) * ndim))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits per head, (B, channels, *space)."""
        if not self.sizes:
            return {}
        parts = torch.split(self.layers(x), list(self.sizes.values()), dim=1)
        return dict(zip(self.sizes, parts, strict=True))


def is_coarse(heads: Outputs) -> bool:
    """Whether all heads with hidden features ask for the second stage's grid."""
    shapes = [shape for head in heads.values() if (shape := _shape(head)).hidden]
    return bool(shapes) and all(shape.coarse for shape in shapes)


def _shape(head: int | Output) -> Output:
    return Output(head) if isinstance(head, int) else head
