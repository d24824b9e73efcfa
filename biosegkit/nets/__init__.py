"""Networks: one n-D class each, filled in by the plan's topology."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from biosegkit.nets.attention_unet import AttentionUNet
from biosegkit.nets.classic import FCN, SegNet
from biosegkit.nets.heads import Output, Outputs
from biosegkit.nets.smp import DECODERS, EncoderDecoder
from biosegkit.nets.unet import UNet
from biosegkit.nets.unetplusplus import UNetPlusPlus
from biosegkit.nets.volumetric import SegResNet, SwinUNETR
from biosegkit.plan.networks import checked_network
from biosegkit.plan.schema import Configuration

__all__ = ["NETS", "Output", "build"]

#: Networks by the name a plan uses, each with its row in `biosegkit.plan.networks.NETWORKS`:
#: (ndim, inputs, architecture, heads) -> module.
NETS: dict[str, Callable[..., nn.Module]] = {
    "unet": UNet,
    "attention_unet": AttentionUNet,
    "unetplusplus": UNetPlusPlus,
    "resenc_unet": partial(UNet, residual=True),
    "fcn": FCN,
    "segnet": SegNet,
    **dict.fromkeys(DECODERS, EncoderDecoder),
    "segresnet": SegResNet,
    "swinunetr": SwinUNETR,
}


def build(configuration: Configuration, inputs: int, heads: Outputs) -> nn.Module:
    """The network a configuration describes.

    Parameters
    ----------
    configuration : Configuration
        Its architecture names the network and fixes every stage.
    inputs : int
        Input channels.
    heads : mapping of str to int or Output
        Output channels per head, or what more it asks for.

    Returns
    -------
    torch.nn.Module
        In evaluation mode ``net(x)`` with x (B, C, *space) returns a dict of logits per head.

    Raises
    ------
    PlanError
        For a network name that does not exist, or one that has no form for so many axes.
    """
    name = configuration.architecture.name
    checked_network(name, configuration.ndim)
    return NETS[name](configuration.ndim, inputs, configuration.architecture, heads)
