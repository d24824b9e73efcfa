"""nnU-Net's fixed decisions: interpolation, normalisation by channel name, and the constants of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

MASK_BELOW = 0.75

SCHEMES_BY_NAME: Mapping[str, str] = MappingProxyType(
    {"ct": "ct", "nonorm": "none", "rescale_to_0_1": "rescale_to_0_1", "rgb_to_0_1": "rgb_to_0_1"}
)


@dataclass(frozen=True)
class Normalisation:
    """Scheme of one channel; `use_mask` takes statistics inside the nonzero region only."""

    channel: str
    scheme: str
    use_mask: bool
    reason: str


def normalisation(channels: Sequence[str], relative_size: float = 1.0) -> tuple[Normalisation, ...]:
    """Normalisation scheme of each channel, from its name.

    Parameters
    ----------
    channels : sequence of str
        Channel names; case does not matter.
    relative_size : float
        Median over the cases of voxels after cropping to nonzero / voxels before.

    Notes
    -----
    As in nnU-Net: below 0.75 the zeros are padding rather than signal, and z-score leaves them out.

    Examples
    --------
    >>> [n.scheme for n in normalisation(("CT", "T1"))]
    ['ct', 'zscore']
    >>> normalisation(("T1",), relative_size=0.4)[0].use_mask
    True
    """
    return tuple(_of_channel(name, relative_size) for name in channels)


def _of_channel(name: str, relative_size: float) -> Normalisation:
    scheme = SCHEMES_BY_NAME.get(name.lower(), "zscore")
    masked = scheme == "zscore" and relative_size < MASK_BELOW
    reason = f"channel name {name!r} asks for {scheme} (nnU-Net)"
    if scheme == "zscore":
        reason = "z-score per image and channel, as for any name without a scheme of its own (nnU-Net)"
    if masked:
        reason += f"; inside the nonzero region, as cropping leaves {relative_size:.2f} < {MASK_BELOW} of the voxels"
    return Normalisation(name, scheme, masked, reason)


@dataclass(frozen=True)
class TrainingDefaults:
    """Sampling and optimisation constants of nnU-Net (Isensee et al. 2021).

    Augmentation's probabilities are the defaults of :class:`biosegkit.plan.schema.Augmentation`, its ranges stand in
    :mod:`biosegkit.augment`.

    Examples
    --------
    >>> defaults = TrainingDefaults()
    >>> defaults.epochs * defaults.steps_per_epoch
    250000
    """

    learning_rate: float = 0.01
    momentum: float = 0.99
    weight_decay: float = 3e-5
    epochs: int = 1000
    steps_per_epoch: int = 250
    gradient_clip_norm: float = 12.0
    foreground_share: float = 0.33
    fold_count: int = 5


def deep_supervision_weights(n_outputs: int) -> tuple[float, ...]:
    """Weights of the decoder outputs, finest first: halved per level, the coarsest 0, sum 1.

    Notes
    -----
    As in nnU-Net. A single output keeps weight 1.

    Examples
    --------
    >>> deep_supervision_weights(3)
    (0.6666666666666666, 0.3333333333333333, 0.0)
    """
    raw = [0.5**level for level in range(n_outputs)]
    if n_outputs > 1:
        raw[-1] = 0.0
    total = sum(raw)
    return tuple(weight / total for weight in raw)
