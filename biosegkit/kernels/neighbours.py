"""What lies near a voxel: other objects across its faces, or within a few voxels."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["other_beside", "other_near"]


def other_beside(labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Voxels of objects that have another object across one of their faces.

    Parameters
    ----------
    labels : ndarray of int, (Z, Y, X), (Y, X) or (X,)
        Not negative; 0 is background.

    Examples
    --------
    >>> other_beside(np.array([1, 1, 2, 2, 0, 3])).tolist()
    [False, True, True, False, False, False]
    """
    shape = (1,) * (3 - labels.ndim) + labels.shape
    found = np.zeros(labels.shape, np.bool_)
    ids = np.ascontiguousarray(labels.view(np.uint8) if labels.dtype == bool else labels)
    _beside(ids.reshape(shape), found.reshape(shape))
    return found


def other_near(labels: npt.NDArray[Any], inside: npt.NDArray[np.bool_], reach: int) -> npt.NDArray[np.bool_]:
    """Voxels of objects that have another object within some voxels along the axes and diagonals.

    Parameters
    ----------
    labels : ndarray of int, (Z, Y, X), (Y, X) or (X,)
    inside : ndarray of bool, same shape
        Where the labels count.
    reach : int
        Voxels.

    Examples
    --------
    >>> ids = np.array([1, 1, 1, 2, 2, 0, 3])
    >>> other_near(ids, ids > 0, 1).tolist()
    [False, False, True, True, False, False, False]
    """
    lead = (1,) * (3 - labels.ndim)
    found = np.zeros(labels.shape, np.bool_)
    ids = np.ascontiguousarray(labels.view(np.uint8) if labels.dtype == bool else labels)
    _search(ids.reshape(lead + labels.shape), np.ascontiguousarray(inside).reshape(lead + labels.shape), reach,
            found.reshape(lead + labels.shape))
    return found


@numba.njit(cache=True, nogil=True)
def _beside(ids, found):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Every voxel and the next one on each axis."""
    nz, ny, nx = ids.shape
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                mine = ids[z, y, x]
                if mine == 0:
                    continue
                if x + 1 < nx and ids[z, y, x + 1] != mine and ids[z, y, x + 1] != 0:
                    found[z, y, x] = found[z, y, x + 1] = True
                if y + 1 < ny and ids[z, y + 1, x] != mine and ids[z, y + 1, x] != 0:
                    found[z, y, x] = found[z, y + 1, x] = True
                if z + 1 < nz and ids[z + 1, y, x] != mine and ids[z + 1, y, x] != 0:
                    found[z, y, x] = found[z + 1, y, x] = True


@numba.njit(cache=True, nogil=True)
def _search(ids, inside, reach, found):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """The window of every voxel of an object, until another is met."""
    nz, ny, nx = ids.shape
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                if not inside[z, y, x]:
                    continue
                mine = ids[z, y, x]
                for bz in range(max(z - reach, 0), min(z + reach + 1, nz)):
                    for by in range(max(y - reach, 0), min(y + reach + 1, ny)):
                        for bx in range(max(x - reach, 0), min(x + reach + 1, nx)):
                            if ids[bz, by, bx] != mine and inside[bz, by, bx]:
                                found[z, y, x] = True
                        if found[z, y, x]:
                            break
                    if found[z, y, x]:
                        break
