"""U-Net++ (Zhou et al. 2018): nested U-Nets of every depth that share an encoder, each supervised and usable alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from biosegkit.errors import OptionError
from biosegkit.nets.blocks import ConvBlock, same_size, stack, upsample
from biosegkit.nets.heads import Heads, Outputs
from biosegkit.nets.unet import branch, branch_level, encoder
from biosegkit.plan.schema import Architecture

__all__ = ["UNetPlusPlus", "at_depth"]


def at_depth(network: nn.Module, depth: int | str) -> UNetPlusPlus:
    """What answers with one depth of a trained network, or with ``"mean"``, the mean of all.

    Raises
    ------
    OptionError
        For a network that is no U-Net++, or a depth that it has no head for.
    """
    if not isinstance(network, UNetPlusPlus):
        raise OptionError(f"depth {depth} of a network with one depth only", expected="a model of network unetplusplus",
                          remedy="leave out --depth")
    if depth == "mean":
        return network.averaged()
    if not str(depth).isdecimal():
        raise OptionError(f"depth {depth}", expected=f"one of {', '.join(map(str, network.depths))}, or mean",
                          remedy="choose another --depth")
    return network.pruned(int(depth))


class UNetPlusPlus(nn.Module):
    """Nodes ``X(i, j)``: level i from full resolution down, j steps to the right of the encoder.

    ``X(i, 0)`` is the encoder; ``X(i, j) = H([X(i, 0) … X(i, j-1), U(X(i+1, j-1))])``. The head on ``X(0, d)`` is the
    output of the U-Net of depth d.

    Parameters
    ----------
    ndim, inputs : int
        Spatial axes and input channels.
    architecture : Architecture
        Features, kernels, strides and blocks per stage.
    heads : mapping of str to int
        Output channels per head.
    mean : bool
        Answer outside training with the mean of all depths (the paper's accurate mode), not with the deepest.

    Notes
    -----
    In training mode with deep supervision ``forward`` returns one dict of logits per depth, deepest first, all at full
    resolution; the loss counts them equally, as in the paper. Otherwise a single dict. The paper averages
    probabilities; here logits are, which every kind of head has.

    References
    ----------
    Zhou et al. 2018, UNet++: a nested U-Net architecture for medical image segmentation, arXiv:1807.10165; Zhou et al.
    2020, UNet++: redesigning skip connections, IEEE TMI 39, doi:10.1109/TMI.2019.2959609 (pruning, section III.D).

    Examples
    --------
    >>> plan = Architecture(features=(4, 8, 8), kernels=((3, 3),) * 3, strides=((1, 1), (2, 2), (2, 2)),
    ...                     encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1))
    >>> net = UNetPlusPlus(2, 1, plan, {"classes": 3}).eval()
    >>> sum(p.numel() for p in net.parameters()), sum(p.numel() for p in net.pruned(1).parameters())
    (3438, 807)
    """

    def __init__(self, ndim: int, inputs: int, architecture: Architecture, heads: Outputs,
                 mean: bool = False) -> None:
        super().__init__()
        a, kind = architecture, architecture.norm
        self.made_from = (ndim, inputs, architecture, dict(heads))
        self.deep_supervision, self.mean = a.deep_supervision, mean
        self.depth = len(a.features) - 1
        self.encoder = encoder(ndim, inputs, a)
        places = [(i, j) for j in range(1, self.depth + 1) for i in range(self.depth - j, -1, -1)]
        self.up = nn.ModuleDict({
            f"{i}_{j}": upsample(ndim, a.features[i + 1], a.features[i], a.strides[i + 1]) for i, j in places})
        self.nodes = nn.ModuleDict({
            f"{i}_{j}": stack(ConvBlock, a.decoder_blocks[i], ndim, (j + 1) * a.features[i], a.features[i],
                              a.kernels[i], 1, kind) for i, j in places})
        supervised = range(1, self.depth + 1) if a.deep_supervision and self.depth else [self.depth]
        self.heads = nn.ModuleDict({str(d): Heads(ndim, a.features[0], heads) for d in supervised})
        self.branches = nn.ModuleDict({str(d): branch(ndim, a, heads) for d in supervised})
        self.branch_level = branch_level(a, heads)

    @property
    def depths(self) -> tuple[int, ...]:
        """The depths that have a head, so that the network can be pruned to them."""
        return tuple(int(d) for d in self.heads)

    def forward(self, x: Tensor) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Logits per head (see Notes)."""
        rows: list[list[Tensor]] = []
        for stage in self.encoder:
            x = stage(x)
            rows.append([x])
        for j in range(1, self.depth + 1):
            for i in range(self.depth - j, -1, -1):
                up = same_size(self.up[f"{i}_{j}"](rows[i + 1][j - 1]), rows[i][0])
                rows[i].append(self.nodes[f"{i}_{j}"]((*rows[i], up)))
        if not (self.deep_supervision and (self.training or self.mean)):
            return self._head(self.depth, rows)
        outputs = [self._head(d, rows) for d in reversed(self.depths)]
        if self.training:
            return outputs
        return {name: torch.stack([o[name] for o in outputs]).mean(0) for name in outputs[0]}

    def _head(self, depth: int, rows: list[list[Tensor]]) -> dict[str, Tensor]:
        """Outputs of one depth: of the nodes on its diagonal."""
        near, level = rows[0][depth], min(self.branch_level, depth)
        found: dict[str, Tensor] = self.heads[str(depth)](near) | self.branches[str(depth)](rows[level][depth - level])
        return found

    def pruned(self, depth: int) -> UNetPlusPlus:
        """The network of one depth alone, in evaluation mode, with the same weights and none that it does not need.

        Parameters
        ----------
        depth : int
            From 1, the shallowest, to that of the whole network.

        Raises
        ------
        OptionError
            For a depth without a head of its own.
        """
        if depth not in self.depths:
            raise OptionError(f"depth {depth}", expected=f"one of {', '.join(map(str, self.depths))}, or mean",
                              remedy="choose another --depth")
        _, _, a, _ = self.made_from
        shallow = a.model_copy(update={
            "features": a.features[: depth + 1], "kernels": a.kernels[: depth + 1], "strides": a.strides[: depth + 1],
            "encoder_blocks": a.encoder_blocks[: depth + 1], "decoder_blocks": a.decoder_blocks[:depth],
            "deep_supervision": False})
        return self._sharing(shallow, mean=False)

    def averaged(self) -> UNetPlusPlus:
        """The whole network answering with the mean of all depths, in evaluation mode, with the same weights."""
        return self._sharing(self.made_from[2], mean=True)

    def _sharing(self, architecture: Architecture, mean: bool) -> UNetPlusPlus:
        """A network of these weights, not of copies."""
        ndim, inputs, _, heads = self.made_from
        with torch.device("meta"):
            other = UNetPlusPlus(ndim, inputs, architecture, heads, mean)
        own = self.state_dict()
        other.load_state_dict({name: own[name] for name in other.state_dict()}, assign=True)
        return other.eval()
