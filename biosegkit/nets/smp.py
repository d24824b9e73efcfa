"""One adapter for the 2D decoders of segmentation-models-pytorch, with any encoder of that library or of timm."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from biosegkit._lazy import optional
from biosegkit._words import counted
from biosegkit.errors import PlanError
from biosegkit.nets.heads import Outputs, channels_of
from biosegkit.nets.padding import split_heads, whole
from biosegkit.plan.networks import DEFAULT_ENCODER
from biosegkit.plan.schema import Architecture

__all__ = ["DECODERS", "EncoderDecoder", "filled_encoder"]

_LIBRARY = "segmentation_models_pytorch"
#: Classes of the library by the names of ours.
DECODERS = {"fpn": "FPN", "pspnet": "PSPNet", "deeplabv3plus": "DeepLabV3Plus", "linknet": "Linknet",
            "manet": "MAnet", "segformer": "Segformer", "upernet": "UPerNet"}
#: What makes encoders that were trained at one size take any; only some of them have such an option.
_ANY_SIZE: tuple[dict[str, Any], ...] = ({"strict_img_size": False}, {"dynamic_img_size": True})
#: Errors with which the two libraries say that a decoder and an encoder do not go together.
_UNFIT = (ValueError, KeyError, RuntimeError, NotImplementedError, TypeError, AssertionError)


class EncoderDecoder(nn.Module):
    """An image encoder and one of seven decoders that gather its stages, as a 2D network with the project's heads.

    Parameters
    ----------
    ndim, inputs : int
        Two spatial axes; any number of input channels.
    architecture : Architecture
        ``name`` chooses the decoder and ``encoder`` the encoder: a name of segmentation-models-pytorch
        (``resnet34``), or ``tu-`` and a name of timm (``tu-convnext_atto``). Features, kernels and strides are the
        network's own. Weights are random here; see `biosegkit.pretrained` for others.
    heads : mapping of str to int
        Output channels per head.

    Raises
    ------
    PlanError
        For an encoder that does not exist, takes one image size only, or does not go with the decoder.
    OptionError
        If the extra ``nets`` is not installed.

    Notes
    -----
    Images of any size are padded to a multiple of the stride and the logits cut back. Batch norm after a pooling to
    one value per channel (DeepLabV3+, UPerNet) would see a patch or two; it is layer norm here, which answers the same
    in training and prediction. Stages that PSPNet does not use are left out.

    References
    ----------
    FPN: Kirillov et al. 2017/2019. PSPNet: Zhao et al. 2017. DeepLabV3+: Chen et al. 2018. LinkNet: Chaurasia and
    Culurciello 2017. MA-Net: Fan et al. 2020. SegFormer: Xie et al. 2021. UPerNet: Xiao et al. 2018.
    """

    def __init__(self, ndim: int, inputs: int, architecture: Architecture, heads: Outputs) -> None:
        super().__init__()
        self.sizes = channels_of(heads)
        decoder, self.encoder_name = architecture.name, architecture.encoder or DEFAULT_ENCODER
        library = optional(_LIBRARY)
        options = _encoder_options(self.encoder_name)
        try:
            self.net: nn.Module = getattr(library, DECODERS[decoder])(
                encoder_name=self.encoder_name, encoder_weights=None, in_channels=inputs,
                classes=sum(self.sizes.values()), **options)
        except _UNFIT as error:
            raise _unfit(self.encoder_name, decoder, error) from error
        encoder: Any = self.net.encoder
        self.divisor = _divisor(encoder)
        _normalise_pooled(self.net)
        if decoder == "pspnet":
            _drop_unused(self.net, torch.zeros(1, inputs, 2 * self.divisor, 2 * self.divisor))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits per head, (B, channels, *space)."""
        try:
            return split_heads(whole(self.net, x, self.divisor), self.sizes)
        except ValueError as error:  # batch norm in an attention of the encoder, in training, with one patch
            raise PlanError(f"encoder {self.encoder_name!r} with a batch of {counted(len(x), 'patch')}: {error}",
                            expected="more values per channel",
                            remedy="a larger batch, or another --encoder") from error


def filled_encoder(name: str, inputs: int, tensors: Mapping[str, Tensor], like: nn.Module) -> dict[str, Tensor]:
    """An encoder's state filled from the weights of a model trained on images, by the names of that library.

    Parameters
    ----------
    name : str
        As ``Architecture.encoder``.
    inputs : int
        Input channels; the filters of three are summed for one, repeated and scaled for others.
    tensors : mapping of str to Tensor
        State of the encoder in segmentation-models-pytorch, or of the classifier in timm for names with ``tu-``.
    like : Module
        The network's own encoder: stages it does not have are left out.

    Raises
    ------
    PlanError
        If names or shapes do not fit.
    """
    encoders = optional(f"{_LIBRARY}.encoders")
    options = _encoder_options(name)
    own = like.state_dict()
    if not tensors:  # timm takes an empty state for none and asks the hub
        raise _foreign(name, "an empty file")
    try:
        if name.startswith("tu-"):
            made = encoders.get_encoder(name, in_channels=inputs, weights=True, **options,
                                        pretrained_cfg_overlay={"state_dict": dict(tensors)})
        else:
            made = encoders.get_encoder(name, in_channels=3, weights=None)
            made.load_state_dict(dict(tensors))
            made.set_in_channels(inputs, pretrained=True)
    except _UNFIT as error:
        raise _foreign(name, _first_line(error)) from error
    filled = {k: v for k, v in made.state_dict().items() if k in own and own[k].shape == v.shape}
    if len(filled) < len(own):
        raise _foreign(name, f"{len(own) - len(filled)} of {counted(len(own), 'entry')} missing")
    return filled


def _encoder_options(name: str) -> dict[str, Any]:
    """What an encoder needs to take any size; names that could make the libraries fetch or import are refused."""
    if not re.fullmatch(r"[\w.-]+", name):
        raise PlanError(f"encoder {name!r}", expected="a name such as resnet34 or tu-convnext_atto",
                        remedy="correct --encoder")
    if not name.startswith("tu-"):
        known = optional(f"{_LIBRARY}.encoders").encoders
        if name not in known or name.startswith("timm-"):
            near = _near(name, [n for n in known if not n.startswith("timm-")])
            raise PlanError(f"encoder {name!r}", expected="an encoder of segmentation-models-pytorch, or tu- and one "
                            "of timm", remedy=f"did you mean --encoder {near}?" if near else "correct --encoder")
        return {}
    timm = optional("timm")
    model = name.removeprefix("tu-")
    if not timm.is_model(model.partition(".")[0]):
        near = _near(model, timm.list_models())
        raise PlanError(f"encoder {name!r}", expected="tu- and a model of timm",
                        remedy=f"did you mean --encoder tu-{near}?" if near else "correct --encoder")
    config = timm.get_pretrained_cfg(model.partition(".")[0])
    if not getattr(config, "fixed_input_size", False):
        return {}
    for options in _ANY_SIZE:
        try:
            with torch.device("meta"):
                timm.create_model(model.partition(".")[0], pretrained=False, features_only=True, **options)
        except _UNFIT:
            continue
        return dict(options)
    raise PlanError(f"encoder {name!r}, which takes images of {config.input_size[-2]} × {config.input_size[-1]} only",
                    expected="an encoder for any size", remedy="for example --encoder resnet34 or tu-convnext_tiny")


def _divisor(encoder: nn.Module) -> int:
    """What sizes must be a multiple of: the encoder's stride, unless dilated, by its own account."""
    stride = int(getattr(encoder, "output_stride", 32))
    inner = getattr(getattr(encoder, "model", None), "feature_info", None)
    return math.lcm(stride, *(int(r) for r in inner.reduction())) if inner is not None else stride


def _normalise_pooled(network: nn.Module) -> None:
    """Layer norm for batch norm where global pooling leaves one value per channel and patch."""
    for branch in list(network.modules()):
        if not (isinstance(branch, nn.Sequential) and len(branch) and isinstance(branch[0], nn.AdaptiveAvgPool2d)):
            continue
        if branch[0].output_size not in (1, (1, 1)):
            continue
        for name, module in list(branch.named_modules()):
            if isinstance(module, nn.BatchNorm2d):
                branch.set_submodule(name, nn.GroupNorm(1, module.num_features))


def _drop_unused(network: nn.Module, x: Tensor) -> None:
    """Put nothing in the place of layers that the logits do not depend on, so that no idle weight is kept."""
    network.eval()
    with torch.inference_mode(mode=False), torch.enable_grad():
        network(x).sum().backward()
    idle = [name for name, module in network.named_modules() if name and list(module.parameters())
            and all(p.grad is None for p in module.parameters())]
    for name in idle:
        if not any(name.startswith(f"{other}.") for other in idle):
            network.set_submodule(name, nn.Identity())
    network.zero_grad(set_to_none=True)
    network.train()


def _foreign(encoder: str, why: str) -> PlanError:
    """Weights that are not those of the encoder."""
    return PlanError(f"weights that do not fit encoder {encoder!r}: {why}", expected="those of the same encoder",
                     remedy="correct --encoder or --encoder-weights")


def _unfit(encoder: str, decoder: str, error: Exception) -> PlanError:
    """The libraries' refusal of a pair, in one sentence."""
    return PlanError(f"encoder {encoder!r} with network {decoder!r}: {_first_line(error)}",
                     expected="an encoder with strides of 2 to 32", remedy="choose another --encoder, e.g. resnet34")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _near(name: str, known: list[str]) -> str:
    import difflib

    return next(iter(difflib.get_close_matches(name, known, 1)), "")
