"""Directions in which star-shaped objects are measured, and the faces that join neighbouring ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import pi, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.errors import DataError

__all__ = ["Rays", "circle", "sphere", "spiral"]

Floats = npt.NDArray[np.float64]
#: Directions are rounded to this many decimals, so that mirrored ones agree to the last bit.
_DECIMALS = 12
_GOLDEN = pi * (3.0 - sqrt(5.0))


@dataclass(frozen=True, eq=False)
class Rays:
    """Unit directions from the centre of an object, in physical space.

    Parameters
    ----------
    directions : ndarray of float64, (n, ndim)
        In array order: (y, x) or (z, y, x).
    faces : ndarray of int32, (F, ndim)
        Pairs of rays whose end points an edge of the polygon joins; triples that a triangle of the polyhedron joins.

    Examples
    --------
    >>> circle(4).directions.tolist()
    [[0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [-1.0, 0.0]]
    """

    directions: Floats
    faces: npt.NDArray[np.int32]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return int(self.directions.shape[1])

    def __len__(self) -> int:
        """Number of rays."""
        return len(self.directions)

    def steps(self, spacing: Sequence[float]) -> Floats:
        """Voxels per unit of length along every ray, (n, 3) in z y x; 0 along axes that do not exist.

        Raises
        ------
        DataError
            If the spacing has another number of axes, or is not positive.
        """
        sizes = np.asarray(spacing, float)
        if sizes.shape != (self.ndim,) or not (sizes > 0).all():
            raise DataError(f"spacing {tuple(spacing)}", expected=f"{self.ndim} positive numbers")
        steps = np.zeros((len(self), 3))
        steps[:, 3 - self.ndim :] = self.directions / sizes
        return steps

    def mirrored(self, axes: Sequence[int]) -> npt.NDArray[np.int64]:
        """For every ray the number of the one it falls on when these axes are flipped.

        Raises
        ------
        DataError
            If the directions are not closed under the flip, as an ordinary spiral is not.

        Examples
        --------
        >>> circle(4).mirrored([0]).tolist(), circle(4).mirrored([0, 1]).tolist()
        ([0, 3, 2, 1], [2, 3, 0, 1])
        """
        turned = self.directions.copy()
        turned[:, list(axes)] *= -1.0
        partner: npt.NDArray[np.int64] = np.argmax(turned @ self.directions.T, axis=1)
        if np.abs(self.directions[partner] - turned).max() > 1e-9:
            raise DataError(f"{len(self)} rays that do not fall on each other when axes {tuple(axes)} are flipped",
                            expected="directions closed under flips", remedy="take `circle` or `sphere`")
        return partner

    @cached_property
    def swell(self) -> float:
        """Factor on distances that gives the polyhedron of a ball the ball's volume (it is inscribed, so too small).

        Examples
        --------
        >>> round(circle(32).swell, 4), round(sphere(96).swell, 3)
        (1.0032, 1.023)
        """
        corners = self.directions[self.faces]
        volume = np.abs(np.linalg.det(corners)).sum() / (2.0 if self.ndim == 2 else 6.0)
        whole = pi if self.ndim == 2 else 4.0 / 3.0 * pi
        return float((whole / volume) ** (1.0 / self.ndim))


@lru_cache(maxsize=16)
def circle(count: int) -> Rays:
    """Rays of the plane at equal angles, the first along x, the next ones towards y (Schmidt et al. 2018).

    Closed under flips if the number is even.

    Raises
    ------
    DataError
        For fewer than 3.
    """
    if count < 3:
        raise DataError(f"{count} rays", expected="at least 3 in 2D")
    angles = 2.0 * pi * np.arange(count) / count
    numbers = np.arange(count, dtype=np.int32)
    return Rays(_rounded(np.stack([np.sin(angles), np.cos(angles)], 1)), np.stack([numbers, np.roll(numbers, -1)], 1))


@lru_cache(maxsize=16)
def spiral(count: int, anisotropy: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Rays:
    """Rays of space along a golden spiral from pole to pole (Weigert et al. 2020), as official 3D models have them.

    Parameters
    ----------
    count : int
        At least 4.
    anisotropy : tuple of float
        Directions are divided by these before they are made unit: flat objects get more rays towards their rim.

    Raises
    ------
    DataError
        For fewer than 4, or anisotropies that are not positive.

    Examples
    --------
    >>> spiral(96).directions.shape, spiral(96).faces.shape
    ((96, 3), (188, 3))
    """
    if count < 4 or min(anisotropy) <= 0:
        raise DataError(f"{count} rays, anisotropy {anisotropy}", expected="at least 4 rays, positive anisotropies")
    z = np.linspace(-1.0, 1.0, count)
    radius, angle = np.sqrt(1.0 - z**2), _GOLDEN * np.arange(count)
    points = np.stack([z, radius * np.sin(angle), radius * np.cos(angle)], 1) / np.array(anisotropy)
    return Rays(_rounded(points / np.linalg.norm(points, axis=1, keepdims=True)), _hull(points))


@lru_cache(maxsize=16)
def sphere(count: int) -> Rays:
    """Rays of space that fall on each other under every flip: a golden spiral in one octant, spread out, mirrored.

    Parameters
    ----------
    count : int
        A multiple of 8.

    Raises
    ------
    DataError
        For other numbers.

    Notes
    -----
    The points of the octant and their seven mirror images repel each other (charges on a sphere, Thomson 1904) for a
    fixed number of steps; images stay images, so the set stays closed.

    Examples
    --------
    >>> sphere(96).mirrored([0, 2])[:3].tolist()
    [60, 61, 62]
    """
    if count < 8 or count % 8:
        raise DataError(f"{count} rays", expected="a multiple of 8 in 3D, so that flips map rays on rays")
    m = count // 8
    z, angle = (np.arange(m) + 0.5) / m, pi / 2 * np.modf((np.arange(m) + 0.5) * (sqrt(5.0) - 1) / 2)[0]
    points = np.stack([z, np.sqrt(1 - z**2) * np.sin(angle), np.sqrt(1 - z**2) * np.cos(angle)], 1)
    signs = np.array([[1 - 2 * (k >> a & 1) for a in (2, 1, 0)] for k in range(8)], float)
    for step in range(200):
        every = (signs[:, None] * points).reshape(-1, 3)
        apart = points[:, None] - every
        square = (apart**2).sum(-1)
        square[np.arange(m), np.arange(m)] = np.inf
        force = (apart / square[..., None] ** 1.5).sum(1)
        points = points + 0.1 * (1 - step / 200) / sqrt(count) * force / np.abs(force).max()
        points = np.abs(points) / np.linalg.norm(points, axis=1, keepdims=True)
    points = _rounded(points)
    every = (signs[:, None] * points).reshape(-1, 3) + 0.0
    return Rays(every, _hull(every))


def _rounded(directions: Floats) -> Floats:
    """Without noise in the last bits and without negative zeros."""
    return np.asarray(np.round(directions, _DECIMALS) + 0.0)


def _hull(points: Floats) -> npt.NDArray[np.int32]:
    """Triangles of the convex hull, in ascending order."""
    from scipy.spatial import ConvexHull

    simplices: npt.NDArray[Any] = np.sort(ConvexHull(points).simplices, axis=1)
    return np.asarray(simplices[np.lexsort(simplices.T[::-1])], np.int32)
