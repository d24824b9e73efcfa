"""Reading a patch from an image through a linear map, bent if wanted: one pass, no coordinate grid in memory.

Written for z y x; two dimensions are one plane. The interpreter lock is free while it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["affine_linear", "affine_nearest"]


def affine_linear(box: npt.NDArray[Any], shape: Sequence[int], matrix: npt.NDArray[np.float64],
                  centre: Sequence[float], shift: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
    """Linear interpolation at ``centre + matrix @ (offset + shift)`` for every offset from the patch centre.

    Parameters
    ----------
    box : ndarray, (C, *space)
        Source; its border voxels are continued outwards.
    shape : sequence of int
        Size of the patch.
    matrix : ndarray, (ndim, ndim)
        Patch offsets to box offsets, in voxels.
    centre : sequence of float
        Where the patch centre lies in the box.
    shift : ndarray of float32, (ndim, *shape), optional
        Where the patch is bent: how far each voxel is moved first, in voxels of the patch.

    Returns
    -------
    ndarray of float32, (C, *shape)

    Examples
    --------
    >>> affine_linear(np.array([[[0.0, 1.0, 2.0]]]), (1, 2), np.eye(2), (0, 1.0)).tolist()
    [[[0.5, 1.5]]]
    >>> affine_linear(np.array([[[0.0, 1.0, 2.0]]]), (1, 2), np.eye(2), (0, 1.0), np.full((2, 1, 2), 0.5)).tolist()
    [[[1.0, 2.0]]]
    """
    source, size, m, c = _three(np.ascontiguousarray(box, np.float32), shape, matrix, centre)
    out = np.empty((source.shape[0], *size), np.float32)
    _linear(source, m, c, _field(shift, len(shape)), out)
    return out.reshape(box.shape[0], *shape)


def affine_nearest(box: npt.NDArray[Any], shape: Sequence[int], matrix: npt.NDArray[np.float64],
                   centre: Sequence[float], shift: npt.NDArray[np.float32] | None = None) -> npt.NDArray[Any]:
    """Nearest neighbour at the same places, in the dtype of ``box``."""
    source, size, m, c = _three(np.ascontiguousarray(box), shape, matrix, centre)
    out = np.empty((source.shape[0], *size), box.dtype)
    _nearest(source, m, c, _field(shift, len(shape)), out)
    return out.reshape(box.shape[0], *shape)


def _three(box: npt.NDArray[Any], shape: Sequence[int], matrix: npt.NDArray[np.float64],
           centre: Sequence[float]) -> tuple[npt.NDArray[Any], tuple[int, ...], npt.NDArray[Any], npt.NDArray[Any]]:
    """Everything with three space axes."""
    n = len(shape)
    m, c = np.eye(3), np.zeros(3)
    m[3 - n:, 3 - n:], c[3 - n:] = matrix, centre
    return box.reshape(box.shape[0], *(1,) * (3 - n), *box.shape[1:]), (1,) * (3 - n) + tuple(shape), m, c


def _field(shift: npt.NDArray[np.float32] | None, n: int) -> npt.NDArray[np.float32]:
    """The shifts with three space axes; no voxels at all where nothing is bent."""
    if shift is None:
        return np.zeros((3, 0, 0, 0), np.float32)
    out = np.zeros((3, *(1,) * (3 - n), *shift.shape[1:]), np.float32)
    out[3 - n:] = shift.reshape(n, *out.shape[1:])
    return out


@njit(nogil=True, cache=True)
def _linear(source, m, c, shift, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    channels, nz, ny, nx = source.shape
    pz, py, px = out.shape[1:]
    bent = shift.size > 0
    for z in range(pz):
        for y in range(py):
            for x in range(px):
                oz, oy, ox = z - (pz - 1) / 2, y - (py - 1) / 2, x - (px - 1) / 2
                if bent:
                    oz, oy, ox = oz + shift[0, z, y, x], oy + shift[1, z, y, x], ox + shift[2, z, y, x]
                fz = min(max(c[0] + m[0, 0] * oz + m[0, 1] * oy + m[0, 2] * ox, 0.0), nz - 1.0)
                fy = min(max(c[1] + m[1, 0] * oz + m[1, 1] * oy + m[1, 2] * ox, 0.0), ny - 1.0)
                fx = min(max(c[2] + m[2, 0] * oz + m[2, 1] * oy + m[2, 2] * ox, 0.0), nx - 1.0)
                z0, y0, x0 = int(fz), int(fy), int(fx)
                z1, y1, x1 = min(z0 + 1, nz - 1), min(y0 + 1, ny - 1), min(x0 + 1, nx - 1)
                wz, wy, wx = fz - z0, fy - y0, fx - x0
                for k in range(channels):
                    a = source[k, z0, y0, x0] * (1 - wx) + source[k, z0, y0, x1] * wx
                    b = source[k, z0, y1, x0] * (1 - wx) + source[k, z0, y1, x1] * wx
                    low = a * (1 - wy) + b * wy
                    if wz > 0:
                        a = source[k, z1, y0, x0] * (1 - wx) + source[k, z1, y0, x1] * wx
                        b = source[k, z1, y1, x0] * (1 - wx) + source[k, z1, y1, x1] * wx
                        low = low * (1 - wz) + (a * (1 - wy) + b * wy) * wz
                    out[k, z, y, x] = low


@njit(nogil=True, cache=True)
def _nearest(source, m, c, shift, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    channels, nz, ny, nx = source.shape
    pz, py, px = out.shape[1:]
    bent = shift.size > 0
    for z in range(pz):
        for y in range(py):
            for x in range(px):
                oz, oy, ox = z - (pz - 1) / 2, y - (py - 1) / 2, x - (px - 1) / 2
                if bent:
                    oz, oy, ox = oz + shift[0, z, y, x], oy + shift[1, z, y, x], ox + shift[2, z, y, x]
                fz = c[0] + m[0, 0] * oz + m[0, 1] * oy + m[0, 2] * ox
                fy = c[1] + m[1, 0] * oz + m[1, 1] * oy + m[1, 2] * ox
                fx = c[2] + m[2, 0] * oz + m[2, 1] * oy + m[2, 2] * ox
                iz = min(max(int(np.floor(fz + 0.5)), 0), nz - 1)
                iy = min(max(int(np.floor(fy + 0.5)), 0), ny - 1)
                ix = min(max(int(np.floor(fx + 0.5)), 0), nx - 1)
                for k in range(channels):
                    out[k, z, y, x] = source[k, iz, iy, ix]
