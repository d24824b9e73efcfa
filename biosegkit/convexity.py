"""How convex an object is: against its convex hull, and as seen from a point inside it.

Both are counts of voxels, so neither spacing nor a stretch along an axis changes them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

__all__ = ["solidity", "star_convexity"]

Mask = npt.NDArray[np.bool_]

#: Voxels whose line of sight is followed.
_SEEN = 200


def solidity(mask: Mask) -> float:
    """Share of the voxel centres within the object's convex hull that belong to it.

    The hull is that of voxel centres, so a digitised disc or rod is 1 whatever its size.

    Parameters
    ----------
    mask : ndarray of bool, 2 or 3 axes

    Returns
    -------
    float
        In (0, 1]; 1 for objects that lie on one line (or, in 3D, in one plane).

    Notes
    -----
    The hull's voxels are counted row by row: each half-space of the hull cuts a row at one point.

    Examples
    --------
    >>> solidity(np.array([[1, 1, 1], [1, 0, 0], [1, 0, 0]], bool))
    0.8333333333333334
    """
    rows = np.argwhere(mask.any(axis=-1))
    lines = mask[tuple(rows.T)]
    ends = np.argmax(lines, axis=1), mask.shape[-1] - 1 - np.argmax(lines[:, ::-1], axis=1)
    points = np.concatenate([np.column_stack([rows, end]) for end in ends])
    try:
        half_spaces = np.unique(ConvexHull(points).equations, axis=0)
    except QhullError:  # all on one line or in one plane
        return 1.0
    lead = np.indices(mask.shape[:-1]).reshape(mask.ndim - 1, -1).T
    normal, offset = half_spaces[:, :-1], half_spaces[:, -1]
    slack = 1e-9 * max(mask.shape) - offset[None] - lead @ normal[:, :-1].T
    slope = normal[:, -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        cut = slack / slope
    high = np.where(slope > 1e-12, cut, np.inf).min(axis=1)
    low = np.where(slope < -1e-12, cut, -np.inf).max(axis=1)
    beside = ((np.abs(slope) <= 1e-12) & (slack < 0)).any(axis=1)
    high, low = np.where(beside, -1.0, high), np.where(beside, 0.0, low)
    count = np.maximum(np.floor(high + 1e-9) - np.ceil(low - 1e-9) + 1, 0).sum()
    return float(min(1.0, np.count_nonzero(mask) / count))


def star_convexity(mask: Mask, depth: npt.NDArray[Any]) -> float:
    """Share of an object's voxels that are seen in a straight line from its best centre.

    The centre is the voxel deepest inside, or the one nearest to the centroid if that sees more.

    Parameters
    ----------
    mask : ndarray of bool, 2 or 3 axes
    depth : ndarray, (*mask.shape)
        Distance to the border of the object.

    Returns
    -------
    float
        1 if polygons or polyhedra around that centre can describe the object. A line is only blocked where it passes
        a full voxel off the object, so rough borders and gaps of one voxel do not count.

    Examples
    --------
    >>> square = np.ones((5, 5), bool)
    >>> star_convexity(square, square.astype(float))
    1.0
    """
    inside = np.argwhere(mask)
    targets = inside[np.unique(np.linspace(0, len(inside) - 1, _SEEN).round().astype(int))]
    deepest = np.array(np.unravel_index(int(np.argmax(np.where(mask, depth, -1))), mask.shape))
    middle = inside[int(np.argmin(((inside - inside.mean(axis=0)) ** 2).sum(axis=1)))]
    return max(_seen(mask, targets, centre) for centre in (deepest, middle))


def _seen(mask: Mask, targets: npt.NDArray[Any], centre: npt.NDArray[Any]) -> float:
    """Share of the targets whose line from the centre stays within a voxel of the object."""
    steps = int(np.abs(targets - centre).max(initial=1)) + 1
    along = np.linspace(0.0, 1.0, steps)[:, None, None]
    points = centre + along * (targets - centre)
    near = ndimage.map_coordinates(mask.astype(np.float32), points.reshape(-1, mask.ndim).T, order=1, prefilter=False)
    return float((near.reshape(steps, -1) > 1e-6).all(axis=0).mean())
