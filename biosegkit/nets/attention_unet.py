"""Attention U-Net (Oktay et al. 2018): additive attention gates decide which parts of a skip the decoder sees."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biosegkit.nets.blocks import CONV, conv, same_size
from biosegkit.nets.heads import Outputs
from biosegkit.nets.unet import branch, branch_level, decoder, encoder, heads_by_level
from biosegkit.plan.schema import Architecture

__all__ = ["AttentionUNet", "Gate", "Looking"]

#: Bias of the last layer of a gate at the start: gates begin almost open (sigmoid 0.88), so that training begins as
#: that of a U-Net.
OPEN = 2.0


class Gate(nn.Module):
    """Additive attention on the grid of the gating signal (Oktay et al. 2018, equations 1 and 2).

    ``α = σ(ψ·relu(θ·x + φ·g))``: the skip ``x`` is brought to the grid of the coarser ``g`` by a convolution with
    the plan's stride as kernel and stride, and the coefficients back to the grid of ``x`` by linear interpolation.

    Parameters
    ----------
    ndim, skip, gating : int
        Spatial axes, channels of the skip and of the gating signal; half of the skip's are used inside.
    stride : tuple of int
        From the skip's grid to the gating signal's.
    """

    def __init__(self, ndim: int, skip: int, gating: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        inner = max(1, skip // 2)
        self.stride = stride
        # No bias and no padding: the one of phi is enough, and a cell of the grid is the block of voxels it stands for.
        self.theta = CONV[ndim](skip, inner, stride, stride, bias=False)
        nn.init.kaiming_normal_(self.theta.weight)
        self.phi = conv(ndim, gating, inner, (1,) * ndim)
        self.psi = conv(ndim, inner, 1, (1,) * ndim)
        nn.init.constant_(self.psi.bias, OPEN)  # type: ignore[arg-type]

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        """Coefficients in (0, 1), (B, 1, *space) on the grid of ``x``."""
        theta = self.theta(self._whole(x))
        alpha = torch.sigmoid(self.psi(F.relu(theta + self.phi(g))))
        mode = {4: "bilinear", 5: "trilinear"}[x.ndim]
        return same_size(F.interpolate(alpha, scale_factor=self._factors, mode=mode), x)

    @property
    def _factors(self) -> list[float]:
        return [float(s) for s in self.stride]

    def _whole(self, x: Tensor) -> Tensor:
        """``x`` with its last planes repeated until whole cells cover it, as strided convolutions round up."""
        missing = [-n % s for n, s in zip(x.shape[2:], self.stride, strict=True)]
        if not any(missing):
            return x
        pads: list[Any] = [p for m in reversed(missing) for p in (0, m)]
        return F.pad(x, pads, mode="replicate")


class AttentionUNet(nn.Module):
    """A U-Net whose skips pass through attention gates, each gated by the features one level below.

    Parameters
    ----------
    ndim, inputs : int
        Spatial axes and input channels.
    architecture : Architecture
        Features, kernels, strides and blocks per stage.
    heads : mapping of str to int
        Output channels per head.

    Notes
    -----
    Outputs are those of `UNet`. `attention` returns the coefficients of the same pass.

    References
    ----------
    Oktay et al. 2018, Attention U-Net: learning where to look for the pancreas, arXiv:1804.03999.

    Examples
    --------
    >>> plan = Architecture(features=(4, 8), kernels=((3, 3), (3, 3)), strides=((1, 1), (2, 2)),
    ...                     encoder_blocks=(1, 1), decoder_blocks=(1,))
    >>> net = AttentionUNet(2, 1, plan, {"classes": 3}).eval()
    >>> {level: tuple(alpha.shape) for level, alpha in net.attention(torch.zeros(1, 1, 16, 16)).items()}
    {0: (1, 1, 16, 16)}
    """

    def __init__(self, ndim: int, inputs: int, architecture: Architecture, heads: Outputs) -> None:
        super().__init__()
        a = architecture
        self.deep_supervision = a.deep_supervision
        self.encoder = encoder(ndim, inputs, a)
        levels = range(len(a.features) - 2, -1, -1)
        self.gates = nn.ModuleList(Gate(ndim, a.features[s], a.features[s + 1], a.strides[s + 1]) for s in levels)
        self.up, self.decoder = decoder(ndim, a)
        self.heads = heads_by_level(ndim, a, heads)
        self.branch, self.branch_level = branch(ndim, a, heads), branch_level(a, heads)

    def forward(self, x: Tensor) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Logits per head; in training with deep supervision one dict per decoder level, finest first."""
        return self._pass(x)[0]

    @torch.no_grad()
    def attention(self, x: Tensor) -> dict[int, Tensor]:
        """How much of each skip the decoder is let to see.

        Parameters
        ----------
        x : Tensor, (B, C, *space)

        Returns
        -------
        dict of int to Tensor, (B, 1, *space at that level)
            Coefficients in (0, 1) by level; 0 is full resolution.
        """
        return self._pass(x)[1]

    def _pass(self, x: Tensor) -> tuple[dict[str, Tensor] | list[dict[str, Tensor]], dict[int, Tensor]]:
        """Outputs and attention."""
        skips: list[Tensor] = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        skips.pop()
        far: dict[str, Tensor] = self.branch(x) if len(skips) == self.branch_level else {}
        outputs: list[dict[str, Tensor]] = [] if self.up else [self.heads["0"](x) | far]
        alphas: dict[int, Tensor] = {}
        levels = range(len(skips) - 1, -1, -1)
        for level, gate, up, stage in zip(levels, self.gates, self.up, self.decoder, strict=True):
            alphas[level] = gate(skips[-1], x)
            x = torch.cat((same_size(up(x), skips[-1]), skips.pop() * alphas[level]), dim=1)
            x = stage(x)
            if level == self.branch_level:
                far = self.branch(x)
            if level == 0 or (self.training and self.deep_supervision):
                outputs.append(self.heads[str(level)](x) | (far if level == 0 else {}))
        return outputs[::-1] if self.training and self.deep_supervision else outputs[-1], alphas


class Looking(nn.Module):
    """A network that answers with its attention: ``{"level 0": (B, 1, *space), …}``, all at full resolution."""

    def __init__(self, network: AttentionUNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Coefficients in (0, 1) per level, finest first."""
        mode = {4: "bilinear", 5: "trilinear"}[x.ndim]
        found = sorted(self.network.attention(x).items())
        return {f"level {level}": F.interpolate(alpha, x.shape[2:], mode=mode) for level, alpha in found}
