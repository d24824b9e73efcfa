"""A smooth surface through the steps of a mask: closer to the object that was sampled than any set of its voxels.

A mask says on which side of the surface each voxel centre lies, and nothing else. Voxel centres, and corners between
them, are off the surface by up to half a voxel, which at a slice distance of 2.5 mm is more than most differences one
wants to measure. Here the surface is the zero level of a field: the occupancy, smoothed by a Gaussian that is equally
wide in all directions in world units (0.9 of the largest spacing, and up to twice that where the result still agrees
with the mask, which levels the wide steps where the surface runs along the slices), and turned into a distance by the
inverse of its error function, so that a plane stays where it is. Smoothing shrinks what is round; the level is moved
so that the surface holds the volume the voxels count, which is unbiased.

Two rules bind the surface to the mask. It never passes a voxel centre, so that filling it gives the mask back. And
where smoothing would wipe something out (objects and gaps of a voxel or two) it follows the faces of the voxels
instead, so that nothing thin vanishes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.special import ndtri
from skimage.measure import find_contours, marching_cubes

from biosegkit.errors import DataError

__all__ = ["simplex_areas", "smooth_surface"]

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Field = npt.NDArray[np.float32]

_WIDTH = 0.9  # of the Gaussian, in largest spacings
_REACH = 3.5  # its cut, in standard deviations
_WIDER = (1.4, 2.0)  # how much wider the further Gaussians are
_SHIFT = 0.5  # a level that must move by more of the width says that the object is too small for it
_TAIL = 2e-4  # occupancies nearer to 0 or 1 are beyond the reach


def smooth_surface(mask: Mask, spacing: Sequence[float], valid: Mask | None = None) -> Floats:
    """Triangles (segments in 2D) of the smooth surface of a mask.

    Parameters
    ----------
    mask : ndarray of bool, 2D or 3D
        Outside the array counts as outside the mask.
    spacing : sequence of float
        Voxel size per axis, in array order.
    valid : ndarray of bool, same shape, optional
        Known voxels. What the mask says elsewhere has no influence, and no surface lies next to an unknown voxel.

    Returns
    -------
    ndarray of float64, (S, 3, 3) or (S, 2, 2)
        Simplices, corners, coordinates in world units; the centre of the first voxel is the origin. Empty if the mask
        is empty.

    Raises
    ------
    DataError
        If the mask has not two or three axes.

    References
    ----------
    Lewiner et al., "Efficient implementation of marching cubes' cases with topological guarantees", Journal of
    Graphics Tools 8, 2003. Whitaker, "Reducing aliasing artifacts in iso-surfaces of binary volumes", IEEE Volume
    Visualization 2000 (a smooth surface bound to the voxels).

    Examples
    --------
    >>> y, x = np.ogrid[-9:10, -9:10]
    >>> lines = smooth_surface(y**2 + x**2 <= 49, (1.0, 1.0))
    >>> bool(abs(simplex_areas(lines).sum() / (2 * np.pi) - 7) < 0.1)
    True
    """
    if mask.ndim not in (2, 3):
        raise DataError(f"a mask of {mask.ndim} axes", expected="2 or 3 for a smooth surface")
    known = mask if valid is None else mask & valid
    used = ndimage.find_objects(known.astype(np.uint8))
    if not used:
        return np.empty((0, mask.ndim, mask.ndim))
    steps, sigma = np.array(spacing, np.float64), _WIDTH * max(spacing)
    pad = [int(np.ceil(_REACH * sigma / s)) + 1 for s in steps]
    low = [part.start - p for part, p in zip(used[0], pad, strict=True)]
    high = [part.stop + p for part, p in zip(used[0], pad, strict=True)]
    inside = _cut(known, low, high, fill=False)
    certain = None if valid is None else _cut(valid, low, high, fill=True)
    field, inside = _smooth(inside, certain, steps, sigma)
    field = _bound(field, inside, sigma / 2)
    simplices = _zero(field, steps)
    if certain is not None:
        simplices = simplices[_in_known(simplices.mean(1) / steps, certain)]
    return simplices + np.array(low) * steps


def _cut(mask: Mask, low: list[int], high: list[int], *, fill: bool) -> Mask:
    """Part of an array, filled where it reaches beyond."""
    part = np.full([h - b for b, h in zip(low, high, strict=True)], fill)
    source = tuple(slice(max(b, 0), min(h, n)) for b, h, n in zip(low, high, mask.shape, strict=True))
    part[tuple(slice(s.start - b, s.stop - b) for s, b in zip(source, low, strict=True))] = mask[source]
    return part


def _distance(inside: Mask, valid: Mask | None, widths: Floats) -> tuple[Field, Mask]:
    """Signed distance in standard deviations, and the mask with what is unknown filled from what is around."""
    occupancy = _blur(inside, widths)
    if valid is not None:
        occupancy /= np.maximum(_blur(valid, widths), np.float32(1e-6))
        inside = np.where(valid, inside, occupancy > 0.5)
    near = (occupancy > _TAIL) & (occupancy < 1 - _TAIL)
    far = np.float32(-ndtri(_TAIL))
    field = np.where(occupancy > 0.5, far, -far)
    field[near] = ndtri(occupancy[near])
    return field, inside


def _blur(mask: Mask, widths: Floats) -> Field:
    """Smooth a mask; beyond the array there is nothing new."""
    blurred: Field = mask.astype(np.float32)
    for axis, width in enumerate(widths):
        ndimage.gaussian_filter1d(blurred, width, axis, output=blurred, mode="nearest", truncate=_REACH)
    return blurred


def _smooth(inside: Mask, valid: Mask | None, steps: Floats, sigma: float) -> tuple[Field, Mask]:
    """Signed distance in world units: from wide smoothing where that agrees with the mask, else from narrow."""
    field, filled = _distance(inside, valid, sigma / steps)
    field *= np.float32(sigma)
    field += np.float32(_shift(field, filled, steps, sigma))
    for wide in (factor * sigma for factor in _WIDER):
        coarse, _ = _distance(filled, None, wide / steps)
        coarse *= np.float32(wide)
        shift = _shift(coarse, filled, steps, wide)
        if abs(shift) > _SHIFT * wide:
            break
        coarse += np.float32(shift)
        wrong = ((coarse > 0) != filled) & (np.abs(coarse) > sigma / 4)
        if wrong.any():
            fits = ~ndimage.binary_dilation(wrong, np.ones((3,) * wrong.ndim, bool))
            coarse -= field
            coarse *= np.clip(2 * _blur(fits, sigma / steps / 2) - 1, 0, 1)
            coarse += field
        field = coarse
    return field, filled


def _shift(field: Field, inside: Mask, steps: Floats, sigma: float) -> float:
    """How far the level must move for the surface to hold the volume of the voxels, but for those smoothing lost."""
    lost = np.count_nonzero(inside & (field < -sigma)) - np.count_nonzero(~inside & (field > sigma))
    target, moved = (np.count_nonzero(inside) - lost) * float(np.prod(steps)), 0.0
    for _ in range(2):
        if not float(field.min()) + moved < 0 < float(field.max()) + moved:
            break
        simplices = _zero(field + np.float32(moved), steps)
        area = float(simplex_areas(simplices).sum())
        moved += (target - _enclosed(simplices)) / area if area else 0.0
        moved = min(max(moved, -sigma), sigma)
    return moved


def _bound(field: Field, inside: Mask, limit: float) -> Field:
    """Bind the surface to the mask: on the right side of every centre, on the faces where something would be lost."""
    wrong = (field > 0) != inside
    if not wrong.any():
        return field
    around = np.ones((3,) * field.ndim, bool)
    lost = wrong & (np.abs(field) > limit)
    for side in (inside, ~inside):  # what has no neighbour of its kind on the right side is gone, not just rounded
        lost |= wrong & side & ~ndimage.binary_dilation(side & ~wrong, around)
    faces = ndimage.binary_dilation(lost, around)
    sign = np.where(inside, np.float32(1), np.float32(-1))
    field = np.where(wrong, sign * np.float32(limit / 50), field)
    return np.where(faces, sign * np.float32(limit), field)


def _zero(field: Field, steps: Floats) -> Floats:
    """Simplices of the zero level."""
    if field.ndim == 2:
        lines = [np.stack([line[:-1], line[1:]], 1) for line in find_contours(field, 0.0)]
        return np.asarray(np.concatenate(lines) * steps, np.float64)
    corners, faces, _, _ = marching_cubes(field, 0.0, allow_degenerate=False)
    return np.asarray(corners[faces] * steps, np.float64)


def _enclosed(simplices: Floats) -> float:
    """Volume (area in 2D) within a closed surface, by the divergence theorem."""
    about = simplices - simplices.mean((0, 1))
    return abs(float(np.linalg.det(about).sum())) / (2 if simplices.shape[-1] == 2 else 6)


def simplex_areas(simplices: npt.NDArray[Any]) -> Floats:
    """Area of every triangle, length of every segment."""
    sides = simplices[:, 1:] - simplices[:, :1]
    if simplices.shape[-1] == 2:
        return np.asarray(np.linalg.norm(sides[:, 0], axis=-1), np.float64)
    return np.asarray(np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=-1) / 2, np.float64)


def _in_known(places: Floats, valid: Mask) -> Mask:
    """Which places, in voxels, have only known voxels around them."""
    unknown = ndimage.maximum_filter((~valid).astype(np.uint8), size=2, origin=-1, mode="nearest")
    cell = np.floor(places).astype(np.int64)
    return np.asarray(unknown[tuple(cell.T)] == 0)
