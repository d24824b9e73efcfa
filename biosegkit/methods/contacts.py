"""Where objects touch, and where a target cannot be known because something near it is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from biosegkit.kernels.bands import bands
from biosegkit.kernels.components import distinct
from biosegkit.kernels.distance import boundary_distance
from biosegkit.kernels.neighbours import other_near

__all__ = ["beside_unknown", "near_contact", "to_unknown"]

Mask = npt.NDArray[np.bool_]


def near_contact(labels: npt.NDArray[Any], inside: Mask) -> Mask:
    """Object voxels that have another object within two voxels along the axes and diagonals.

    Examples
    --------
    >>> ids = np.array([[1, 1, 1, 2, 2, 0, 3]])
    >>> near_contact(ids, ids > 0).astype(int).tolist()
    [[0, 1, 1, 1, 1, 0, 1]]
    """
    return other_near(labels, inside, 2)


def to_unknown(known: Mask, spacing: Sequence[float]) -> npt.NDArray[np.float32]:
    """Distance of every voxel to the nearest one that is not known; infinite where all are.

    Examples
    --------
    >>> to_unknown(np.array([True, True, False, True]), (2.0,)).tolist()
    [4.0, 2.0, 0.0, 2.0]
    """
    if known.all():
        return np.full(known.shape, np.inf, np.float32)
    distance = boundary_distance(known.view(np.uint8), spacing)
    return np.asarray(distance)


def beside_unknown(labels: npt.NDArray[Any], known: Mask) -> Mask:
    """Voxels of objects that have a voxel across a face, edge or corner that is not known.

    Such objects may go on there, so whatever depends on all of an object is in doubt.

    Examples
    --------
    >>> beside_unknown(np.array([1, 1, 0, 2, 2]), np.array([False, True, True, True, True])).astype(int).tolist()
    [1, 1, 0, 0, 0]
    """
    if known.all():
        return np.zeros(labels.shape, bool)
    doubt = ndimage.binary_dilation(~known, np.ones((3,) * labels.ndim, bool))
    doubt &= labels > 0
    ids = distinct(labels[doubt])
    for part in bands(labels.shape):
        doubt[part] = np.isin(labels[part], ids)
    return doubt
