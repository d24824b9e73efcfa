"""MONAI's SegResNet and Swin UNETR behind the project's heads: they pool by two along every axis, whatever the plan."""

from __future__ import annotations

import math

from torch import Tensor, nn

from biosegkit._lazy import optional
from biosegkit.errors import PlanError
from biosegkit.nets.heads import Outputs, channels_of
from biosegkit.nets.padding import split_heads, whole
from biosegkit.plan.schema import Architecture

__all__ = ["SegResNet", "SwinUNETR"]


class SegResNet(nn.Module):
    """SegResNet (Myronenko 2018, without the autoencoder's branch): a deep residual encoder, a slim decoder.

    Parameters
    ----------
    ndim, inputs : int
        Spatial axes and input channels.
    architecture : Architecture
        Its first number of features is the network's width; kernels, strides and blocks are the network's own.
    heads : mapping of str to int
        Output channels per head.

    Notes
    -----
    Group norm with eight groups, or as many as divide the width. Sizes are padded to multiples of 8 and cut back.

    References
    ----------
    Myronenko A (2018). 3D MRI brain tumor segmentation using autoencoder regularization. BrainLes, MICCAI.

    Examples
    --------
    >>> import torch
    >>> plan = Architecture(features=(8,), kernels=((3, 3, 3),), strides=((1, 1, 1),), encoder_blocks=(1,),
    ...                     decoder_blocks=())
    >>> SegResNet(3, 1, plan, {"classes": 3}).eval()(torch.zeros(1, 1, 5, 9, 11))["classes"].shape
    torch.Size([1, 3, 5, 9, 11])
    """

    divisor = 8

    def __init__(self, ndim: int, inputs: int, architecture: Architecture, heads: Outputs) -> None:
        super().__init__()
        self.sizes = channels_of(heads)
        width = architecture.features[0]
        monai = optional("monai.networks.nets.segresnet")
        self.net: nn.Module = monai.SegResNet(
            spatial_dims=ndim, init_filters=width, in_channels=inputs, out_channels=sum(self.sizes.values()),
            norm=("GROUP", {"num_groups": math.gcd(8, width)}))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits per head, (B, channels, *space)."""
        return split_heads(whole(self.net, x, self.divisor), self.sizes)


class SwinUNETR(nn.Module):
    """Swin UNETR (Hatamizadeh et al. 2022): attention in shifted windows, a convolutional decoder.

    Parameters
    ----------
    ndim, inputs : int
        Spatial axes and input channels.
    architecture : Architecture
        Its first number of features, a multiple of 12, is the network's width; the stages are the network's own.
    heads : mapping of str to int
        Output channels per head.

    Raises
    ------
    PlanError
        For a width that the attention's 3, 6, 12 and 24 heads do not divide.

    Notes
    -----
    Sizes are padded to multiples of 32 and cut back, so small or flat patches waste most of the work.

    References
    ----------
    Hatamizadeh A et al. (2022). Swin UNETR: Swin transformers for semantic segmentation of brain tumors in MRI images.
    """

    divisor = 32

    def __init__(self, ndim: int, inputs: int, architecture: Architecture, heads: Outputs) -> None:
        super().__init__()
        self.sizes = channels_of(heads)
        width = architecture.features[0]
        if width % 12:
            raise PlanError(f"{width} features in the first stage of network 'swinunetr'", expected="a multiple of 12",
                            remedy="correct the plan's features, for example 24")
        optional("einops")  # MONAI asks for it only when the network runs
        monai = optional("monai.networks.nets.swin_unetr")
        self.net: nn.Module = monai.SwinUNETR(in_channels=inputs, out_channels=sum(self.sizes.values()),
                                              feature_size=width, spatial_dims=ndim)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits per head, (B, channels, *space)."""
        return split_heads(whole(self.net, x, self.divisor), self.sizes)
