"""U-Net (Ronneberger et al. 2015) with the plan's kernels and strides, plain or with a residual encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from biosegkit.nets.blocks import ConvBlock, ResidualBlock, same_size, stack, upsample
from biosegkit.nets.heads import Branch, Heads, Outputs, is_coarse
from biosegkit.plan.schema import Architecture

__all__ = ["UNet", "branch", "branch_level", "decoder", "encoder", "heads_by_level"]


def encoder(ndim: int, inputs: int, a: Architecture, block: type[nn.Module] = ConvBlock) -> nn.ModuleList:
    """The stages on the way down, one entry of the architecture each."""
    widths = [inputs, *a.features]
    return nn.ModuleList(
        stack(block, a.encoder_blocks[s], ndim, widths[s], a.features[s], a.kernels[s], a.strides[s], a.norm)
        for s in range(len(a.features))
    )


def decoder(ndim: int, a: Architecture) -> tuple[nn.ModuleList, nn.ModuleList]:
    """The way up, coarsest level first: what enlarges, and the stages after a skip has been joined."""
    levels = range(len(a.features) - 2, -1, -1)
    up = nn.ModuleList(upsample(ndim, a.features[s + 1], a.features[s], a.strides[s + 1]) for s in levels)
    stages = nn.ModuleList(
        stack(ConvBlock, a.decoder_blocks[s], ndim, 2 * a.features[s], a.features[s], a.kernels[s], 1, a.norm)
        for s in levels
    )
    return up, stages


def heads_by_level(ndim: int, a: Architecture, heads: Outputs) -> nn.ModuleDict:
    """Heads of every level that is supervised, by the name of the level; 0 is full resolution."""
    levels = range(len(a.features) - 2, -1, -1)
    supervised = levels if a.deep_supervision and levels else [0]  # a tiny patch leaves a single stage
    return nn.ModuleDict({str(s): Heads(ndim, a.features[s], heads) for s in supervised})


def branch_level(a: Architecture, heads: Outputs) -> int:
    """The level on the way up whose features the heads with hidden features take."""
    return 1 if is_coarse(heads) and len(a.features) > 1 else 0


def branch(ndim: int, a: Architecture, heads: Outputs) -> Branch:
    """The heads with hidden features, at `branch_level`."""
    level = branch_level(a, heads)
    return Branch(ndim, a.features[level], heads, a.kernels[level])


class UNet(nn.Module):
    """Encoder, decoder and heads as siblings: no weight is stored twice.

    Parameters
    ----------
    ndim, inputs : int
        Spatial axes and input channels.
    architecture : Architecture
        Features, kernels, strides and blocks per stage.
    heads : mapping of str to int or Output
        Output channels per head; see `biosegkit.nets.heads`.
    residual : bool
        Residual blocks and a stem in the encoder (nnU-Net's residual-encoder presets).

    Notes
    -----
    In training mode with deep supervision ``forward`` returns one dict of logits per decoder level, finest first;
    otherwise a single dict.

    Examples
    --------
    >>> plan = Architecture(features=(4, 8), kernels=((3, 3), (3, 3)), strides=((1, 1), (2, 2)),
    ...                     encoder_blocks=(1, 1), decoder_blocks=(1,))
    >>> net = UNet(2, 1, plan, {"classes": 3}).eval()
    >>> net(torch.zeros(1, 1, 16, 16))["classes"].shape
    torch.Size([1, 3, 16, 16])
    """

    def __init__(self, ndim: int, inputs: int, architecture: Architecture, heads: Outputs,
                 residual: bool = False) -> None:
        super().__init__()
        a, kind = architecture, architecture.norm
        self.deep_supervision = a.deep_supervision
        self.stem = ConvBlock(ndim, inputs, a.features[0], a.kernels[0], 1, kind) if residual else nn.Identity()
        self.encoder = encoder(ndim, a.features[0] if residual else inputs, a, ResidualBlock if residual else ConvBlock)
        self.up, self.decoder = decoder(ndim, a)
        self.heads = heads_by_level(ndim, a, heads)
        self.branch, self.branch_level = branch(ndim, a, heads), branch_level(a, heads)

    def forward(self, x: Tensor) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Logits per head (see Notes)."""
        x = self.stem(x)
        skips: list[Tensor] = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        skips.pop()
        far: dict[str, Tensor] = self.branch(x) if len(skips) == self.branch_level else {}
        outputs: list[dict[str, Tensor]] = [] if self.up else [self.heads["0"](x) | far]
        for level, up, stage in zip(range(len(skips) - 1, -1, -1), self.up, self.decoder, strict=True):
            # what has been joined is let go of: at full resolution every copy counts
            x = torch.cat((same_size(up(x), skips[-1]), skips.pop()), dim=1)
            x = stage(x)
            if level == self.branch_level:
                far = self.branch(x)
            if level == 0 or (self.training and self.deep_supervision):
                outputs.append(self.heads[str(level)](x) | (far if level == 0 else {}))
        return outputs[::-1] if self.training and self.deep_supervision else outputs[-1]
