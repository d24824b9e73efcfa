"""How many numbers one training sample keeps in memory: nnU-Net's yardstick for patch and batch size."""

from __future__ import annotations

import math
from collections.abc import Sequence

BASE_FEATURES = 32
BLOCKS = (1, 3, 4, 6)  # residual blocks of the first stages; deeper stages repeat the last


def feature_counts(n_stages: int, ndim: int, base: int = BASE_FEATURES) -> tuple[int, ...]:
    """Channels per stage: doubled at every pooling, at most 320 in 3D and 512 in 2D.

    Parameters
    ----------
    n_stages : int
        Resolutions, bottleneck included.
    ndim : int
        Spatial axes of the network.
    base : int
        Channels of the first stage.

    Notes
    -----
    As in nnU-Net (Isensee et al. 2021).

    Examples
    --------
    >>> feature_counts(6, 3)
    (32, 64, 128, 256, 320, 320)
    """
    cap = 320 if ndim >= 3 else 512
    return tuple(min(base * 2**stage, cap) for stage in range(n_stages))


def residual_blocks(n_stages: int) -> tuple[int, ...]:
    """Blocks per encoder stage of the residual encoder: 1, 3, 4, then 6.

    Examples
    --------
    >>> residual_blocks(6)
    (1, 3, 4, 6, 6, 6)
    """
    return tuple(BLOCKS[min(stage, len(BLOCKS) - 1)] for stage in range(n_stages))


def plain_elements(
    patch: Sequence[int], strides: Sequence[Sequence[int]], features: Sequence[int], n_classes: int, convs: int = 2
) -> int:
    """Outputs of all convolutions of a plain U-Net, for one sample.

    Parameters
    ----------
    patch : sequence of int
        Voxels per axis.
    strides : sequence of sequence of int
        One per stage, the first all ones.
    features : sequence of int
        Channels per stage.
    n_classes : int
        Output channels, background included.
    convs : int
        Convolutions per stage, in the encoder and in the decoder.

    Returns
    -------
    int
        Number of elements: a proportionality, not bytes; norms, activations and weights are not counted.

    Notes
    -----
    nnU-Net's estimate: a transposed convolution per decoder stage, one segmentation head at full resolution.

    Examples
    --------
    >>> strides = ((1, 1, 1),) + ((2, 2, 2),) * 5
    >>> f"{plain_elements((128, 128, 128), strides, feature_counts(6, 3), n_classes=3):.4g}"
    '4.528e+08'
    """
    stages = _stage_elements(patch, strides, features)
    return convs * sum(stages) + (convs + 1) * sum(stages[:-1]) + n_classes * math.prod(patch)


def residual_elements(
    patch: Sequence[int], strides: Sequence[Sequence[int]], features: Sequence[int], n_classes: int
) -> int:
    """Outputs of all convolutions of a U-Net with residual encoder, for one sample.

    Parameters
    ----------
    patch, strides, features, n_classes
        As in `plain_elements`.

    Returns
    -------
    int
        Number of elements.

    Notes
    -----
    nnU-Net's estimate: a stem, two convolutions per block, one more where the shortcut changes channels or
    resolution; one convolution and one transposed convolution per decoder stage.

    Examples
    --------
    >>> residual_elements((8,), ((1,), (2,)), (2, 4), n_classes=2)
    208
    """
    stages = _stage_elements(patch, strides, features)
    elements = stages[0] + 2 * sum(stages[:-1]) + n_classes * math.prod(patch)
    came_in = features[0]
    for blocks, size, stride, count in zip(residual_blocks(len(stages)), stages, strides, features, strict=True):
        projected = count != came_in or any(step != 1 for step in stride)
        elements += (2 * blocks + projected) * size
        came_in = count
    return elements


def _stage_elements(patch: Sequence[int], strides: Sequence[Sequence[int]], features: Sequence[int]) -> list[int]:
    """Channels times voxels of one feature map per stage."""
    size, found = list(patch), []
    for stride, count in zip(strides, features, strict=True):
        size = [n // step for n, step in zip(size, stride, strict=True)]
        found.append(count * math.prod(size))
    return found
