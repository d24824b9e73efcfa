"""Training augmentation: random numbers are drawn once, then applied to image and labels alike.

Probabilities, rotation and scaling are fields of the plan (:class:`biosegkit.plan.schema.Augmentation`); the ranges of
the other transforms stand below. All follow nnU-Net's (Isensee et al. 2021). Images are interpolated
linearly, labels by nearest neighbour; targets are encoded afterwards. Rotations are rotations of the world: anisotropic
voxels are taken into account.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import ndimage

from .plan.schema import Augmentation

__all__ = ["Spatial", "draw_spatial", "intensity", "mirror_and_swap"]

Array = npt.NDArray[Any]

#: Standard deviation of noise, on normalised intensities.
NOISE = (0.0, 0.1)
#: Standard deviation of the Gaussian blur, in voxels.
BLUR = (0.5, 1.0)
#: Factors of brightness and of contrast, and the exponent of gamma: half the draws below 1, half above.
BRIGHTNESS, CONTRAST, GAMMA = (0.75, 1.25), (0.75, 1.25), (0.7, 1.5)
#: Share of the voxels per axis that simulated low resolution keeps.
LOW_RESOLUTION = (0.5, 1.0)
#: Elastic deformation: distance of the points that are moved, and the standard deviation of how far, both in voxels of
#: the finest axis. Measured on hippocampus: see `biosegkit.plan.augmentation.augmentation_for`.
ELASTIC_POINTS, ELASTIC_SHIFT = 9.0, 2.0


@dataclass(frozen=True, eq=False)
class Spatial:
    """A linear map from patch to image offsets, both in voxels, around the patch centre; bent before by ``shift``."""

    matrix: npt.NDArray[np.float64]
    shift: npt.NDArray[np.float32] | None = None

    @property
    def is_identity(self) -> bool:
        """Whether nothing is turned, scaled or bent."""
        return self.shift is None and bool(np.array_equal(self.matrix, np.eye(len(self.matrix))))

    def reach(self, patch: Sequence[int]) -> tuple[int, ...]:
        """Size of the image box the patch is read from."""
        half = np.asarray(patch, float) / 2
        if self.shift is not None:
            half += np.abs(self.shift).max(tuple(range(1, self.shift.ndim)))
        half = np.abs(self.matrix) @ half
        return tuple(int(v) for v in np.ceil(2 * half) + 2)


def draw_spatial(rng: np.random.Generator, plan: Augmentation, spacing: Sequence[float],
                 patch: Sequence[int] = ()) -> Spatial:
    """Draw rotation, scaling and elastic deformation.

    Parameters
    ----------
    rng : Generator
        Source of the random numbers.
    plan : Augmentation
        Probabilities and ranges; ``rotation_degrees`` is per rotation axis, z y x.
    spacing : sequence of float
        Voxel size per axis: a rotation in the world is a shear in anisotropic voxels.
    patch : sequence of int, optional
        Size in voxels, for the deformation; without it nothing is bent.

    Examples
    --------
    >>> draw_spatial(np.random.default_rng(0), Augmentation(rotation=0, scaling=0), (1.0, 1.0)).is_identity
    True
    """
    n = len(spacing)
    matrix = np.eye(n)
    turn, zoom = rng.random(2)
    angles = np.deg2rad(rng.uniform(-1, 1, 3) * _degrees(plan, n))
    scale = _two_sided(rng, plan.scale_range)
    if turn < plan.rotation:
        s = np.asarray(spacing, float)
        matrix = (1 / s)[:, None] * _rotation(angles, n, plan.dummy_2d) * s
    if zoom < plan.scaling:
        factor = np.full(n, 1 / scale)
        if plan.dummy_2d and n == 3:
            factor[0] = 1
        matrix = matrix * factor
    bent = bool(patch) and plan.elastic > 0 and rng.random() < plan.elastic
    return Spatial(matrix, _bend(rng, plan, spacing, patch) if bent else None)


def _bend(rng: np.random.Generator, plan: Augmentation, spacing: Sequence[float],
          patch: Sequence[int]) -> npt.NDArray[np.float32]:
    """Normal shifts at the points of a coarse grid, linear between them (Simard et al. 2003; Ronneberger et al. 2015).

    Equally long in the world along every axis; slice-wise, all slices of a patch are bent alike and stay in place.
    """
    unit = min(spacing) / np.asarray(spacing, float)
    flat = np.array([plan.dummy_2d and len(patch) == 3 and a == 0 for a in range(len(patch))])
    points = [1 if f else max(2, round(p / (ELASTIC_POINTS * u)) + 1)
              for p, u, f in zip(patch, unit, flat, strict=True)]
    field = rng.standard_normal((len(patch), *points))
    field *= (ELASTIC_SHIFT * unit * ~flat).reshape(-1, *(1,) * len(patch))
    for axis, (size, count) in enumerate(zip(patch, points, strict=True)):
        places = np.linspace(0, count - 1, size)
        hats = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(count))) if count > 1 else np.ones((size, 1))
        field = np.moveaxis(np.tensordot(hats, field, (1, axis + 1)), 0, axis + 1)
    return np.ascontiguousarray(field, np.float32)


def _degrees(plan: Augmentation, n: int) -> npt.NDArray[np.float64]:
    """Range per rotation axis; two dimensions and slice-wise rotation use the first."""
    given = plan.rotation_degrees
    return np.asarray(given if len(given) == 3 else (given[0],) * 3, float)


def _rotation(angles: npt.NDArray[np.float64], n: int, in_plane: bool) -> npt.NDArray[np.float64]:
    """Rotation matrix in z y x order: about z only for 2D and slice-wise, else about z, y and x."""
    def about(a: int, b: int, angle: float) -> npt.NDArray[np.float64]:
        m = np.eye(n)
        m[a, a] = m[b, b] = np.cos(angle)
        m[a, b], m[b, a] = -np.sin(angle), np.sin(angle)
        return m

    if n == 2:
        return about(0, 1, angles[0])
    if in_plane:
        return about(1, 2, angles[0])
    return np.asarray(about(1, 2, angles[0]) @ about(0, 2, angles[1]) @ about(0, 1, angles[2]))


def mirror_and_swap(rng: np.random.Generator, plan: Augmentation, arrays: Sequence[Array]) -> list[Array]:
    """Flip along the allowed axes (one half each) and permute axes of equal size, all arrays alike (..., *space)."""
    n = max(max(plan.mirror_axes, default=-1), max(plan.transpose_axes, default=-1)) + 1
    draws = rng.random(4)
    flips = [a for a in plan.mirror_axes if draws[a] < 0.5]
    swap = bool(plan.transpose_axes) and draws[3] < 0.5
    if n == 0:
        return list(arrays)
    space = arrays[0].ndim - 1
    out = []
    for array in arrays:
        lead = array.ndim - space
        turned = np.flip(array, [lead + a for a in flips]) if flips else array
        if swap:
            a, b = (lead + i for i in plan.transpose_axes[:2])
            turned = np.swapaxes(turned, a, b)
        # a copy: axes of one voxel keep a negative stride otherwise, which torch refuses
        out.append(turned.copy() if flips or swap else np.ascontiguousarray(array))
    return out


def intensity(rng: np.random.Generator, plan: Augmentation, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Noise, blur, brightness, contrast, low resolution and gamma, in nnU-Net's order.

    Parameters
    ----------
    rng : Generator
        Source of the random numbers.
    plan : Augmentation
        Probabilities.
    image : ndarray of float32, (C, *space)
        Normalised intensities; changed in place where possible.

    Returns
    -------
    ndarray of float32, (C, *space)
    """
    chance = rng.random(8)
    if chance[0] < plan.noise:
        image = image + rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(*NOISE))
    if chance[1] < plan.blur:
        image = _per_channel(rng, image, lambda c: ndimage.gaussian_filter(c, rng.uniform(*BLUR)))
    if chance[2] < plan.brightness:
        image = image * np.float32(_two_sided(rng, BRIGHTNESS))
    if chance[3] < plan.contrast:
        image = _contrast(image, _two_sided(rng, CONTRAST))
    if chance[4] < plan.low_resolution:
        image = _per_channel(rng, image, lambda c: _low_resolution(c, rng.uniform(*LOW_RESOLUTION), plan.dummy_2d))
    if chance[5] < plan.gamma_inverted:
        image = -_gamma(-image, _two_sided(rng, GAMMA))
    if chance[6] < plan.gamma:
        image = _gamma(image, _two_sided(rng, GAMMA))
    if chance[7] < plan.invert:
        image = -image
    return np.asarray(image, np.float32)


def _two_sided(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    """Half the draws below 1, half above."""
    low, high = limits
    return float(rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, max(high, 1)))


def _per_channel(rng: np.random.Generator, image: Array, change: Any) -> Array:
    """Change each channel with probability one half."""
    return np.stack([change(c) if rng.random() < 0.5 else c for c in image])


def _axes(image: Array) -> tuple[int, ...]:
    return tuple(range(1, image.ndim))


def _contrast(image: Array, factor: float) -> Array:
    """Stretch about the mean, range kept."""
    axes = _axes(image)
    mean = image.mean(axes, keepdims=True)
    low, high = image.min(axes, keepdims=True), image.max(axes, keepdims=True)
    return np.asarray(np.clip((image - mean) * np.float32(factor) + mean, low, high))


def _gamma(image: Array, gamma: float) -> Array:
    """Power law on the range of each channel, mean and standard deviation kept."""
    axes = _axes(image)
    low = image.min(axes, keepdims=True)
    extent = np.maximum(image.max(axes, keepdims=True) - low, 1e-7)
    mean, std = image.mean(axes, keepdims=True), image.std(axes, keepdims=True)
    out = ((image - low) / extent) ** np.float32(gamma) * extent + low
    out = (out - out.mean(axes, keepdims=True)) / np.maximum(out.std(axes, keepdims=True), 1e-7) * std + mean
    return np.asarray(out, np.float32)


def _low_resolution(channel: Array, factor: float, keep_slices: bool) -> Array:
    """Nearest-neighbour down, linear up; the slice axis is exempt for slice-wise augmentation."""
    keep = [i == 0 and keep_slices and channel.ndim == 3 for i in range(channel.ndim)]
    small = [s if k else max(1, round(s * factor)) for s, k in zip(channel.shape, keep, strict=True)]
    tensor = torch.from_numpy(np.ascontiguousarray(channel, np.float32))[None, None]
    down = F.interpolate(tensor, size=small, mode="nearest-exact")
    mode = "bilinear" if channel.ndim == 2 else "trilinear"
    up: Array = F.interpolate(down, size=list(channel.shape), mode=mode, align_corners=False)[0, 0].numpy()
    return up
