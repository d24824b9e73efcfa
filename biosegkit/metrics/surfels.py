"""Surface elements between voxels, weighted by area: the surface of DeepMind's surface-distance, for 1D to 3D.

A *surfel* sits at a corner between voxels whose 2ⁿ neighbours are neither all inside nor all outside the mask (outside
the array is outside). Its weight is the area (length in 2D) of the piece of surface that the marching cubes of 1987
put there: cut at the middle of every edge between an inside and an outside voxel, and cubes with more than four
inside corners drawn as their complement.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.measure import marching_cubes

from biosegkit.errors import DataError

__all__ = ["Surfels", "surfel_areas", "surfel_surface"]

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Surfels:
    """Where a surface is: ``marked`` on the lattice of corners, and in its order ``points`` (K, n) and ``areas`` (K,).

    Corner 0 lies before the first voxel, half a voxel off its centre; points are in world units from it.
    """

    marked: Mask
    points: Floats
    areas: Floats


def surfel_surface(mask: Mask, spacing: Sequence[float], valid: Mask | None = None) -> Surfels:
    """Find the surface elements of a mask.

    Parameters
    ----------
    mask : ndarray of bool, 1D to 3D
        Axes of length 1 are no axes: a plane has an outline, not two faces.
    spacing : sequence of float
        Voxel size per axis, in array order.
    valid : ndarray of bool, same shape, optional
        Known voxels; a corner that touches an unknown one bears no surface.

    Raises
    ------
    DataError
        If more than three axes are longer than 1.

    References
    ----------
    Nikolov et al., "Clinically applicable segmentation of head and neck anatomy", 2021, and the code that came with
    it. Lorensen and Cline, "Marching cubes", SIGGRAPH 1987.

    Examples
    --------
    >>> square = np.ones((2, 2), bool)
    >>> surfel_surface(square, (1.0, 1.0)).areas.sum().round(3)  # eight edges of 1, but the corners are cut
    np.float64(6.828)
    """
    axes = [k for k in range(mask.ndim) if mask.shape[k] > 1] or [0]
    if len(axes) > 3:
        raise DataError(f"a mask of {mask.ndim} axes", expected="at most 3 axes longer than 1 for surface elements")
    shape, steps = tuple(mask.shape[k] for k in axes), tuple(float(spacing[k]) for k in axes)
    code = _codes(mask.reshape(shape))
    marked = (code > 0) & (code < (1 << (1 << len(axes))) - 1)
    if valid is not None:
        marked &= _codes(~valid.reshape(shape)) == 0
    points = np.argwhere(marked).astype(np.float64) * np.array(steps)
    return Surfels(marked, points, surfel_areas(steps)[code[marked]])


def _codes(mask: Mask) -> npt.NDArray[np.uint8]:
    """One bit per voxel around every corner."""
    code = np.zeros(tuple(n + 1 for n in mask.shape), np.uint8)
    for bit, offset in enumerate(itertools.product((0, 1), repeat=mask.ndim)):
        part = tuple(slice(1 - o, 1 - o + n) for o, n in zip(offset, mask.shape, strict=True))
        code[part] |= mask.astype(np.uint8) << np.uint8(bit)
    return code


@functools.lru_cache(maxsize=32)
def surfel_areas(spacing: tuple[float, ...]) -> Floats:
    """Area of the surface piece of every neighbourhood code.

    Parameters
    ----------
    spacing : tuple of 1, 2 or 3 float
        Voxel size per axis.

    Returns
    -------
    ndarray of float64, (4,), (16,) or (256,)
        By code: bit k is the k-th voxel of the 2ⁿ in array order. In 1D each change counts 1.

    Examples
    --------
    >>> surfel_areas((3.0, 4.0))[[0b0001, 0b0011, 0b0101, 0b0110]].tolist()
    [2.5, 4.0, 3.0, 5.0]
    """
    if len(spacing) == 1:
        return np.array([0.0, 1.0, 1.0, 0.0])
    if len(spacing) == 2:
        y, x = spacing
        cut = 0.5 * float(np.hypot(y, x))
        half = np.array([0, cut, cut, x, cut, y, 2 * cut, cut])
        return np.concatenate([half, half[::-1]])
    scale = np.prod(spacing) / np.array(spacing)
    return np.asarray(np.linalg.norm(_triangles() * scale, axis=-1).sum(-1), np.float64)


@functools.cache
def _triangles() -> npt.NDArray[Any]:
    """Area vectors of the triangles of each of the 256 cubes, of unit spacing; area scales as vector, not as number."""
    vectors = np.zeros((256, 5, 3))
    for code in range(1, 255):
        drawn = code if code.bit_count() <= 4 else 255 - code
        bits = drawn >> np.arange(8) & 1
        corners, faces, _, _ = marching_cubes(bits.reshape(2, 2, 2).astype(np.float32), 0.5, method="lorensen")
        a, b, c = (corners[faces[:, k]] for k in range(3))
        vectors[code, : len(faces)] = np.cross(b - a, c - a) / 2
    return vectors
