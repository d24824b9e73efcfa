"""The networks a plan can name: what each serves, when to choose it, and the choice itself. Plain data, no torch."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from biosegkit.errors import PlanError
from biosegkit.plan.schema import Architecture, Decision

__all__ = ["ATTENTION_SHOWN", "DEFAULT_ENCODER", "NETWORKS", "USUAL", "Network", "checked_network", "fitted",
           "is_anisotropic", "network_decisions", "width_for"]


@dataclass(frozen=True)
class Network:
    """What a plan has to know of a network before it is built.

    Parameters
    ----------
    ndims : tuple of int
        Numbers of spatial axes it can be built for.
    follows_topology : bool
        Whether it takes the plan's kernels, strides and blocks per stage; otherwise it pools as it always does, and
        cannot honour anisotropic voxels.
    summary, choose_when : str
        One line each.
    encoder : bool
        Whether it can begin from a pretrained encoder (``Architecture.encoder``).
    deep_supervision : bool
        Whether its decoder can be supervised at every level.
    width_step : int
        What the features of the first stage are a multiple of; 0 where the widths are its own.
    extra : str
        The extra of this package that it needs.
    attention : bool
        Whether it has attention to show in the report.
    """

    ndims: tuple[int, ...]
    follows_topology: bool
    summary: str
    choose_when: str
    encoder: bool = False
    deep_supervision: bool = True
    width_step: int = 1
    extra: str = ""
    attention: bool = False


#: Networks by the name a plan uses; ``biosegkit.nets.NETS`` builds them.
NETWORKS: dict[str, Network] = {
    "unet": Network((2, 3), True, "U-Net after nnU-Net's rules (Ronneberger et al. 2015, Isensee et al. 2021)",
                    "first: the fastest to train"),
    "attention_unet": Network((2, 3), True, "U-Net with attention gates on its skips (Oktay et al. 2018)",
                              "small structures in a large field; the report shows where it looked", attention=True),
    "unetplusplus": Network((2, 3), True, "nested U-Nets, each depth supervised and usable alone (Zhou et al. 2018)",
                            "fine structures, and time for about three U-Nets; predict --depth prunes it"),
    "resenc_unet": Network((2, 3), True, "U-Net with a residual encoder (Isensee et al. 2024)",
                           "many cases and hours of GPU time"),
    "fcn": Network((2, 3), True, "class scores of three resolutions, summed (Long et al. 2015)",
                   "a plain baseline: large, smooth structures", deep_supervision=False),
    "segnet": Network((2, 3), True, "unpooling by the indices of max pooling (Badrinarayanan et al. 2017)",
                      "a baseline whose decoder sees no skip, only places", deep_supervision=False),
    **{name: Network((2,), False, summary, when, encoder=True, deep_supervision=False, width_step=0, extra="nets")
       for name, summary, when in (
           ("fpn", "feature pyramid (Kirillov et al. 2019)", "objects of very different sizes, pretrained encoder"),
           ("pspnet", "pyramid pooling at 1/8 (Zhao et al. 2017)", "where context decides; cheap, coarse outlines"),
           ("deeplabv3plus", "dilated pyramid pooling (Chen et al. 2018)", "large structures, pretrained encoder"),
           ("linknet", "skips that are added (Chaurasia et al. 2017)", "a light decoder for a pretrained encoder"),
           ("manet", "attention to places and channels (Fan et al. 2020)", "as linknet, with time for attention"),
           ("segformer", "stages projected and joined (Xie et al. 2021)", "transformer encoders: --encoder mit_b0"),
           ("upernet", "pyramid pooling and feature pyramid (Xiao et al. 2018)", "transformer and ConvNeXt encoders"),
       )},
    "segresnet": Network((3,), False, "deep residual encoder, slim decoder (Myronenko 2018)",
                         "isotropic MRI and CT with few cases", deep_supervision=False, width_step=4),
    "swinunetr": Network((3,), False, "attention in shifted windows (Hatamizadeh et al. 2022)",
                         "many isotropic cases and a GPU; sizes are padded to multiples of 32",
                         deep_supervision=False, width_step=12, extra="nets"),
}

#: The encoder of networks that take one, where none is asked for.
DEFAULT_ENCODER = "resnet34"

#: Cases whose attention the report shows, half worst and half best; each is another pass of the network.
ATTENTION_SHOWN = 4
#: The network of the default preset, and what is known of it.
USUAL = "unet"
_WHY_USUAL = ("in minutes the cheapest step counts: in published cross-validation on hippocampus nnU-Net's plain U-Net "
              "had Dice 0.8904 after 1.7 h, its residual-encoder presets M and L 0.8875 and 0.8862 after 8.2 and 25 h")


def checked_network(name: str, ndim: int | None = None, file: str | None = None) -> Network:
    """The row of a network that exists and serves so many axes, if their number is known.

    Raises
    ------
    PlanError
        For an unknown name, or a network that has no form for ``ndim`` axes.

    Examples
    --------
    >>> checked_network("unet", 3).follows_topology
    True
    """
    if name not in NETWORKS:
        near = difflib.get_close_matches(name, NETWORKS, 1)
        raise PlanError(f"network {name!r}", file=file, expected=f"one of {', '.join(NETWORKS)}",
                        remedy=f"did you mean --network {near[0]}?" if near else "choose another --network")
    row = NETWORKS[name]
    if ndim is not None and ndim not in row.ndims:
        others = ", ".join(n for n, other in NETWORKS.items() if ndim in other.ndims)
        slices = " --config 2d trains it slice by slice;" if ndim == 3 and 2 in row.ndims else ""
        raise PlanError(f"network {name!r} for a {ndim}D configuration", file=file,
                        expected=f"{' or '.join(f'{n}D' for n in row.ndims)}",
                        remedy=f"{slices} networks for {ndim}D: {others}".strip())
    return row


def width_for(name: str, width: int) -> int:
    """The number of features nearest to ``width`` that a network can have in its first stage.

    Examples
    --------
    >>> width_for("unet", 16), width_for("swinunetr", 16), width_for("swinunetr", 20)
    (16, 12, 24)
    """
    step = NETWORKS[name].width_step
    return width if step <= 1 else step * max(1, round(width / step))


def fitted(architecture: Architecture, encoder: str | None = None, weights: str | None = None,
           digest: str = "") -> Architecture:
    """The architecture as its network can have it: widths, deep supervision, encoder.

    Parameters
    ----------
    architecture : Architecture
        After the rules, its network checked.
    encoder, weights : str, optional
        What was asked for: name of an encoder, and a file or the name of a download with its weights.
    digest : str
        SHA-256 of these weights.

    Raises
    ------
    PlanError
        If an encoder is asked for and the network has no place for one.
    """
    name, row = architecture.name, NETWORKS[architecture.name]
    if (encoder or weights) and not row.encoder:
        others = ", ".join(n for n, other in NETWORKS.items() if other.encoder)
        raise PlanError(f"encoder {encoder or weights!r} for network {name!r}, which has its own",
                        expected=f"--network {others}", remedy="choose one of these, or leave the encoder out")
    return architecture.model_copy(update={
        "features": tuple(width_for(name, f) for f in architecture.features),
        "deep_supervision": architecture.deep_supervision and row.deep_supervision,
        "encoder": (encoder or DEFAULT_ENCODER) if row.encoder else "", "encoder_weights": weights or "",
        "encoder_digest": digest,
    })


def network_decisions(architecture: Architecture, own: str) -> list[Decision]:
    """What a plan says of its network: which one it would choose and why, and what the one asked for cannot do.

    Parameters
    ----------
    architecture : Architecture
        Of the plan, its network checked.
    own : str
        The network of the rules: that of a preset, else `USUAL`.

    Examples
    --------
    >>> net = Architecture(name="resenc_unet", features=(8,), kernels=((3, 3),), strides=((1, 1),), encoder_blocks=(1,),
    ...                    decoder_blocks=())
    >>> network_decisions(net, "unet")[0].reason.split(":")[0]
    'asked for; without --network it would be unet'
    """
    name, row = architecture.name, NETWORKS[architecture.name]
    why = _WHY_USUAL if own == USUAL else "the network of the preset"
    said = [Decision(name="network", value=f"{name}: {row.summary}", reason=(
        why if name == own else f"asked for; without --network it would be {own}: {why}"))]
    if not row.follows_topology:
        said.append(Decision(name="network topology", value="its own", reason=_not_followed(architecture)))
    if row.encoder:
        begin = architecture.encoder_weights or "random"
        said.append(Decision(name="encoder", value=f"{architecture.encoder}, weights: {begin}", reason=(
            f"begins as SHA-256 {architecture.encoder_digest[:12]}" if architecture.encoder_digest
            else "nothing is downloaded unless --encoder-weights names it")))
    return said


def _not_followed(architecture: Architecture) -> str:
    """What is lost where a network does not take the plan's topology."""
    if not is_anisotropic(architecture):
        return "this network pools and convolves as it always does; the plan's stages are not used"
    others = ", ".join(name for name, row in NETWORKS.items() if row.follows_topology)
    return ("warning: these voxels or patches ask for other kernels and strides along one axis than along another, "
            f"which this network does not have; those that do: {others}")


def is_anisotropic(architecture: Architecture) -> bool:
    """Whether some stage treats its axes unlike each other.

    Examples
    --------
    >>> is_anisotropic(Architecture(features=(8,), kernels=((1, 3, 3),), strides=((1, 1, 1),), encoder_blocks=(1,),
    ...                             decoder_blocks=()))
    True
    """
    return any(len(set(axes)) > 1 for axes in (*architecture.strides, *architecture.kernels))
