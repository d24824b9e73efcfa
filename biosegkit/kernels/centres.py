"""Centres of all objects in three passes: the centroid, or the voxels of the object that are nearest to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from biosegkit.kernels.components import sequential

__all__ = ["Centres", "object_centres"]


@dataclass(frozen=True, eq=False)
class Centres:
    """Centres of objects.

    Parameters
    ----------
    dense : ndarray of int32, (*space)
        The labels as 0..K.
    ids : ndarray, (K,)
        Of the objects, ascending.
    centres : ndarray of float64, (K, D)
        In voxels.
    areas : ndarray of int64, (K,)
        Voxels.
    """

    dense: npt.NDArray[np.int32]
    ids: npt.NDArray[Any]
    centres: npt.NDArray[np.float64]
    areas: npt.NDArray[np.int64]


def object_centres(labels: npt.NDArray[Any], spacing: Sequence[float], *, medoid: bool) -> Centres:
    """Centroid of every object, or its approximate medoid.

    Parameters
    ----------
    labels : ndarray of int, (*space)
        Ids of at most three axes; 0 is background.
    spacing : sequence of float
        For the distance to the centroid.
    medoid : bool
        Take the voxel of the object that is nearest to its centroid; if several are, their mean, so that the centre of
        a mirrored object is the mirrored centre.

    Notes
    -----
    ``n x - Σx`` is a whole number, so that equal distances on opposite sides of the centroid are equal exactly.

    Examples
    --------
    >>> bent = np.array([[7, 7, 7], [7, 0, 0]])
    >>> object_centres(bent, (1.0, 1.0), medoid=False).centres.tolist()
    [[0.25, 0.75]]
    >>> object_centres(bent, (1.0, 1.0), medoid=True).centres.tolist()
    [[0.0, 1.0]]
    """
    dense, ids = sequential(labels, np.int32)
    ndim = labels.ndim
    volume = dense.reshape((1,) * (3 - ndim) + labels.shape)
    areas, sums = np.zeros(len(ids), np.int64), np.zeros((len(ids), 3), np.int64)
    _sums(volume, areas, sums)
    centres = sums / np.maximum(areas, 1)[:, None]
    if medoid:
        squared = np.square(np.array((1.0,) * (3 - ndim) + tuple(float(s) for s in spacing)))
        least = np.full(len(ids), np.inf)
        count, near = np.zeros(len(ids), np.int64), np.zeros((len(ids), 3), np.int64)
        _nearest(volume, areas, sums, squared, least, count, near)
        centres = near / np.maximum(count, 1)[:, None]
    return Centres(dense, ids, centres[:, 3 - ndim:], areas)


@numba.njit(cache=True, nogil=True)
def _sums(dense, areas, sums):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Voxels of every object and the sums of their coordinates."""
    for z in range(dense.shape[0]):
        for y in range(dense.shape[1]):
            for x in range(dense.shape[2]):
                k = np.int64(dense[z, y, x]) - 1
                if k >= 0:
                    areas[k] += 1
                    sums[k, 0] += z
                    sums[k, 1] += y
                    sums[k, 2] += x


@numba.njit(cache=True, nogil=True)
def _nearest(dense, areas, sums, squared, least, count, near):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Number and coordinate sums of the voxels nearest to the centroid; a nearer one starts anew."""
    for z in range(dense.shape[0]):
        for y in range(dense.shape[1]):
            for x in range(dense.shape[2]):
                k = np.int64(dense[z, y, x]) - 1
                if k < 0:
                    continue
                n = areas[k]
                dz, dy, dx = (np.float64(n * z - sums[k, 0]), np.float64(n * y - sums[k, 1]),
                              np.float64(n * x - sums[k, 2]))
                d = squared[0] * (dz * dz) + squared[1] * (dy * dy) + squared[2] * (dx * dx)
                if d < least[k]:
                    least[k] = d
                    count[k] = 0
                    near[k, 0], near[k, 1], near[k, 2] = 0, 0, 0
                if d == least[k]:
                    count[k] += 1
                    near[k, 0] += z
                    near[k, 1] += y
                    near[k, 2] += x
