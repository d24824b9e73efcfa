"""Where a U-Net pools and which kernels it uses: nnU-Net's topology rule, for any number of axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from biosegkit.errors import PlanError

MIN_EDGE = 4  # no axis of a feature map gets smaller than this by pooling
NEAR = 2.0  # two spacings closer than this factor count as alike


@dataclass(frozen=True)
class Topology:
    """Strides and kernels of every stage, and the patch that fits them.

    Attributes
    ----------
    strides : tuple of tuple of int
        One per stage; the first is all ones.
    kernels : tuple of tuple of int
        One per stage, 1 or 3 per axis; the bottleneck is 3 everywhere.
    patch : tuple of int
        The patch that was asked for, rounded up to a multiple of `divisor`.
    divisor : tuple of int
        2 to the number of poolings of each axis.
    """

    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    patch: tuple[int, ...]
    divisor: tuple[int, ...]

    @property
    def n_stages(self) -> int:
        """Resolutions of the encoder, bottleneck included."""
        return len(self.strides)


def topology(spacing: Sequence[float], patch: Sequence[float]) -> Topology:
    """Strides and kernels for a patch of a given spacing.

    An axis is pooled while its feature map keeps at least 4 voxels and its spacing is less than twice the finest
    one, so that anisotropic axes wait until the others have caught up; an axis left alone needs 12 voxels.
    A kernel stays 1 along an axis until its spacing is less than twice the finest of all.

    Parameters
    ----------
    spacing : sequence of float
        Per axis, any one unit.
    patch : sequence of float
        Voxels per axis (a median shape may end in .5).

    Returns
    -------
    Topology

    Raises
    ------
    PlanError
        If the lengths differ or a value is not positive and finite.

    Notes
    -----
    nnU-Net's rule (Isensee et al., Nature Methods 2021).

    Examples
    --------
    >>> topology((3.6, 0.625, 0.625), (20, 320, 256)).strides[1:3]
    ((1, 2, 2), (1, 2, 2))
    >>> topology((1, 1), (50, 35)).patch
    (56, 40)
    """
    _check(spacing, patch)
    axes = range(len(patch))
    size, step = [float(n) for n in patch], [float(s) for s in spacing]
    kernel = [1] * len(size)
    strides, kernels = [tuple(kernel)], []
    while pooled := _poolable(step, size):
        finest = min(step)
        kernel = [3 if k == 3 or s / finest < NEAR else 1 for k, s in zip(kernel, step, strict=True)]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in pooled else 1 for axis in axes))
        for axis in pooled:
            step[axis] *= 2
            size[axis] = math.ceil(size[axis] / 2)
    kernels.append((3,) * len(size))
    divisor = tuple(math.prod(stage[axis] for stage in strides) for axis in axes)
    rounded = tuple(math.ceil(n / d) * d for n, d in zip(patch, divisor, strict=True))
    return Topology(tuple(strides), tuple(kernels), rounded, divisor)


def _poolable(spacing: Sequence[float], size: Sequence[float]) -> list[int]:
    """Axes to pool now; none ends the encoder."""
    large = [axis for axis, n in enumerate(size) if n >= 2 * MIN_EDGE]
    if not large:
        return []
    finest = min(spacing[axis] for axis in large)
    kept = [axis for axis in large if spacing[axis] / finest < NEAR]
    if len(kept) == 1 and size[kept[0]] < 3 * MIN_EDGE:
        return []
    return kept


def _check(spacing: Sequence[float], patch: Sequence[float]) -> None:
    fits = len(spacing) == len(patch) > 0
    if not fits or not all(math.isfinite(v) and v > 0 for v in (*spacing, *patch)):
        raise PlanError(
            f"spacing {tuple(spacing)} with patch {tuple(patch)}",
            expected="one positive finite number per axis in both",
            remedy="correct the spacing (--spacing) or the patch of the plan",
        )
