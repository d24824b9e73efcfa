"""nnU-Net's fixed decisions: interpolation, normalisation by channel name, and the constants of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

MASK_BELOW = 0.75

SCHEMES_BY_NAME: Mapping[str, str] = MappingProxyType(
    {"ct": "ct", "nonorm": "none", "rescale_to_0_1": "rescale_to_0_1", "rgb_to_0_1": "rgb_to_0_1"}
)


@dataclass(frozen=True)
class Orders:
    """Spline orders of resampling, in plane and along a coarse axis that is treated apart (rule 1.4)."""

    image: int = 3
    label: int = 1
    probabilities: int = 1
    coarse: int = 0


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
    Rule 1.2 of nnU-Net: below 0.75 the zeros are padding rather than signal, and z-score leaves them out.

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
    reason = f"channel name {name!r} asks for {scheme} (rule 1.2)"
    if scheme == "zscore":
        reason = "z-score per image and channel, as for any name without a scheme of its own (rule 1.2)"
    if masked:
        reason += f"; inside the nonzero region, as cropping leaves {relative_size:.2f} < {MASK_BELOW} of the voxels"
    return Normalisation(name, scheme, masked, reason)


@dataclass(frozen=True)
class Augmentation:
    """Probabilities and ranges of training augmentation, in the order of application (rule 1.12)."""

    rotation: float = 0.2
    rotation_degrees_3d: float = 30.0
    rotation_degrees_2d: float = 180.0
    rotation_degrees_2d_elongated: float = 15.0
    elongated_aspect: float = 1.5
    dummy_2d_aspect: float = 3.0
    scaling: float = 0.2
    scaling_range: tuple[float, float] = (0.7, 1.4)
    noise: float = 0.1
    noise_range: tuple[float, float] = (0.0, 0.1)
    blur: float = 0.2
    blur_per_channel: float = 0.5
    blur_sigma: tuple[float, float] = (0.5, 1.0)
    brightness: float = 0.15
    brightness_range: tuple[float, float] = (0.75, 1.25)
    contrast: float = 0.15
    contrast_range: tuple[float, float] = (0.75, 1.25)
    low_resolution: float = 0.25
    low_resolution_per_channel: float = 0.5
    low_resolution_range: tuple[float, float] = (0.5, 1.0)
    inverted_gamma: float = 0.1
    gamma: float = 0.3
    gamma_range: tuple[float, float] = (0.7, 1.5)
    mirror_per_axis: float = 0.5


@dataclass(frozen=True)
class TrainingDefaults:
    """Loss, sampling, augmentation and optimisation constants of nnU-Net (rules 1.10 to 1.13).

    Examples
    --------
    >>> defaults = TrainingDefaults()
    >>> defaults.learning_rate * (1 - 500 / defaults.epochs) ** defaults.poly_exponent
    0.005358867312681466
    """

    optimizer: str = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.99
    nesterov: bool = True
    weight_decay: float = 3e-5
    poly_exponent: float = 0.9
    epochs: int = 1000
    steps_per_epoch: int = 250
    validation_steps_per_epoch: int = 50
    gradient_clip_norm: float = 12.0
    dice_weight: float = 1.0
    cross_entropy_weight: float = 1.0
    dice_smooth: float = 1e-5
    dice_floor: float = 1e-8
    foreground_share: float = 0.33
    locations_per_class: int = 10_000
    locations_share: float = 0.01
    pseudo_dice_ema: float = 0.9
    fold_count: int = 5
    fold_seed: int = 12345
    tile_step: float = 0.5
    tile_sigma: float = 1 / 8
    augmentation: Augmentation = field(default_factory=Augmentation)


def deep_supervision_weights(n_outputs: int) -> tuple[float, ...]:
    """Weights of the decoder outputs, finest first: halved per level, the coarsest 0, sum 1.

    Notes
    -----
    Rule 1.10 of nnU-Net. A single output keeps weight 1.

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
