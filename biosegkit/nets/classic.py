"""FCN and SegNet, the two ancestors, in two and three dimensions with the plan's kernels and strides."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from biosegkit.nets.blocks import ConvBlock, conv, enlarged, stack
from biosegkit.nets.heads import Branch, Heads, Outputs, channels_of, is_coarse
from biosegkit.nets.padding import split_heads
from biosegkit.plan.schema import Architecture

__all__ = ["FCN", "SegNet"]

_POOL: dict[int, Any] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_UNPOOL: dict[int, Any] = {2: functional.max_unpool2d, 3: functional.max_unpool3d}
#: Resolutions whose class scores FCN-8s sums: the three coarsest.
SUMMED = 3


class FCN(nn.Module):
    """Fully convolutional network (Long et al. 2015, FCN-8s): class scores of three resolutions, enlarged and summed.

    Parameters
    ----------
    ndim, inputs : int
        Spatial axes and input channels.
    architecture : Architecture
        Features, kernels, strides and blocks of the encoder; there is no decoder to have any.
    heads : mapping of str to int
        Output channels per head.

    Notes
    -----
    The encoder is the plan's (strided convolutions with norm) and not VGG-16. Scores are enlarged by fixed linear
    interpolation, with which the paper's learnt deconvolutions begin. As in the paper the finest scores are those of
    the third coarsest stage: outlines stay as coarse as its stride.

    References
    ----------
    Long J, Shelhamer E, Darrell T (2015). Fully convolutional networks for semantic segmentation. CVPR, figure 3.

    Examples
    --------
    >>> plan = Architecture(features=(4, 8), kernels=((3, 3), (3, 3)), strides=((1, 1), (2, 2)),
    ...                     encoder_blocks=(1, 1), decoder_blocks=(1,))
    >>> FCN(2, 1, plan, {"classes": 3}).eval()(torch.zeros(1, 1, 15, 16))["classes"].shape
    torch.Size([1, 3, 15, 16])
    """

    def __init__(self, ndim: int, inputs: int, architecture: Architecture, heads: Outputs) -> None:
        super().__init__()
        a = architecture
        self.sizes = channels_of(heads)
        self.strides = a.strides
        widths = (inputs, *a.features)
        self.encoder = nn.ModuleList(
            stack(ConvBlock, a.encoder_blocks[s], ndim, widths[s], widths[s + 1], a.kernels[s], a.strides[s], a.norm)
            for s in range(len(a.features)))
        self.scores = nn.ModuleList(conv(ndim, width, sum(self.sizes.values()), (1,) * ndim)
                                    for width in a.features[-SUMMED:])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits per head, (B, channels, *space)."""
        features = [x]
        for stage in self.encoder:
            features.append(stage(features[-1]))
        scored = [score(f) for score, f in zip(self.scores, features[-len(self.scores):], strict=True)]
        total = scored.pop()
        for level in range(len(self.strides) - 1, 0, -1):
            finer = scored.pop() if scored else None
            total = enlarged(total, self.strides[level], features[level])
            total = total if finer is None else total + finer
        return split_heads(total, self.sizes)


class SegNet(nn.Module):
    """SegNet (Badrinarayanan et al. 2017): the decoder puts values back where max pooling took them from.

    Parameters
    ----------
    ndim, inputs : int
        Spatial axes and input channels.
    architecture : Architecture
        Features, kernels and blocks per stage; the strides are the windows of the pooling.
    heads : mapping of str to int
        Output channels per head.

    Notes
    -----
    Nothing but the indices crosses from encoder to decoder. The last convolution of a decoder stage brings the
    channels down to those of the next finer one, as in the paper's table; the coarsest stage does the same with one.

    References
    ----------
    Badrinarayanan V, Kendall A, Cipolla R (2017). SegNet: a deep convolutional encoder-decoder architecture for image
    segmentation. IEEE TPAMI 39(12), section 3.

    Examples
    --------
    >>> plan = Architecture(features=(4, 8), kernels=((3, 3), (3, 3)), strides=((1, 1), (2, 2)),
    ...                     encoder_blocks=(1, 1), decoder_blocks=(1,))
    >>> SegNet(2, 1, plan, {"classes": 3}).eval()(torch.zeros(1, 1, 15, 16))["classes"].shape
    torch.Size([1, 3, 15, 16])
    """

    def __init__(self, ndim: int, inputs: int, architecture: Architecture, heads: Outputs) -> None:
        super().__init__()
        a, kind = architecture, architecture.norm
        self.ndim, self.strides = ndim, a.strides
        widths = (inputs, *a.features)
        self.encoder = nn.ModuleList(
            stack(ConvBlock, a.encoder_blocks[s], ndim, widths[s], widths[s + 1], a.kernels[s], 1, kind)
            for s in range(len(a.features)))
        self.pools = nn.ModuleList(_POOL[ndim](stride, stride, ceil_mode=True, return_indices=True)
                                   for stride in a.strides[1:])
        levels = range(len(a.features) - 1, -1, -1)
        self.decoder = nn.ModuleList(
            nn.Sequential(
                stack(ConvBlock, blocks - 1, ndim, a.features[s], a.features[s], a.kernels[s], 1, kind),
                ConvBlock(ndim, a.features[s], a.features[max(0, s - 1)], a.kernels[s], 1, kind))
            for s, blocks in zip(levels, (1, *reversed(a.decoder_blocks)), strict=True))
        self.head = Heads(ndim, a.features[0], heads)
        step = a.strides[1] if is_coarse(heads) and len(a.strides) > 1 else 1
        self.branch = Branch(ndim, a.features[0], heads, a.kernels[0], step)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits per head, (B, channels, *space)."""
        taken: list[tuple[Tensor, tuple[int, ...], torch.Size]] = []
        for level, stage in enumerate(self.encoder):
            if level:
                size = x.shape[2:]
                x, places = self.pools[level - 1](x)
                taken.append((places, self.strides[level], size))
            x = stage(x)
        for stage in self.decoder:
            x = stage(x)
            if taken:
                places, stride, size = taken.pop()
                x = _UNPOOL[self.ndim](x, places, stride, stride, output_size=list(size))
        found: dict[str, Tensor] = self.head(x) | self.branch(x)
        return found
