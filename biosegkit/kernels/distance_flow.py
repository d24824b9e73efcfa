"""The gradient of the distance to an object's own border: unit vectors towards its middle line, whatever its shape.

The idea is that of Omnipose (Cutler et al. 2022, doi:10.1038/s41592-022-01639-4): a field that solves ``|∇φ| = 1``
inside every object knows no centre, so long, thin and bent objects are as easy as round ones. Here φ is the exact
Euclidean distance to the nearest voxel of anything else, smoothed a little inside the object so that the field turns
over at the middle line instead of jumping.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.kernels.distance import boundary_distance

__all__ = ["distance_flow"]

#: Rounds of smoothing; each is a mean with the neighbours of the same object along every axis.
_ROUNDS = 2
#: A gradient shorter than this has no direction.
_STILL = 1e-4


def distance_flow(
    labels: npt.NDArray[Any], spacing: Sequence[float] | None = None, *, valid: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.float32]:
    """Unit vectors along the gradient of the distance to the border of every object.

    Parameters
    ----------
    labels : ndarray of int, (*space)
        Any non-negative ids, with gaps; 0 is background.
    spacing : sequence of float, optional
        Voxel size per axis; 1 by default. Vectors have unit length in these units.
    valid : ndarray of bool, optional
        False where nothing is known: such voxels are 0 and bound nobody, as the outside of the array does.

    Returns
    -------
    ndarray of float32, (D, *space)
        0 in the background, on the middle line of symmetric objects, and in objects without a border in sight.

    Examples
    --------
    >>> distance_flow(np.array([[0, 7, 7, 7, 3, 3, 3, 0]]))[1].tolist()
    [[0.0, 1.0, 0.0, -1.0, 1.0, 0.0, -1.0, 0.0]]
    """
    known = np.ones(labels.shape, bool) if valid is None else valid
    ids = labels if valid is None else np.where(known, labels, 0)
    steps = (1.0,) * labels.ndim if spacing is None else tuple(float(s) for s in spacing)
    inside = ids > 0
    depth = boundary_distance(ids, steps, valid=None if valid is None else known)
    depth = np.where(inside & np.isfinite(depth), depth, np.float32(0.0))
    for _ in range(_ROUNDS):
        total, weight = depth.copy(), inside.astype(np.float32)
        for axis in range(labels.ndim):
            for here, there in _pairs(labels.ndim, axis):
                same = inside[here] & (ids[here] == ids[there])
                total[here] += np.where(same, depth[there], np.float32(0.0))
                weight[here] += same
        depth = np.where(inside, total / np.maximum(weight, np.float32(1.0)), np.float32(0.0)).astype(np.float32)
    gradient = np.zeros((labels.ndim, *labels.shape), np.float32)
    for axis, step in enumerate(steps):
        for sign, (here, there) in zip((1.0, -1.0), _pairs(labels.ndim, axis), strict=True):
            # Beyond the object φ is 0; what is unknown goes on as the object is there.
            beyond = np.where(ids[here] == ids[there], depth[there], np.float32(0.0))
            beyond = np.where(known[there], beyond, depth[here])
            part = gradient[axis]
            part[here] += np.float32(sign / (2.0 * step)) * (beyond - depth[here])
    length = np.sqrt(np.square(gradient).sum(0))
    moving = inside & (length > _STILL)
    return np.where(moving, gradient / np.where(moving, length, np.float32(1.0)), np.float32(0.0)).astype(np.float32)


def _pairs(ndim: int, axis: int) -> tuple[tuple[tuple[slice, ...], tuple[slice, ...]], ...]:
    """Voxels with their next and with their previous neighbour along an axis."""
    first = tuple(slice(None, -1) if a == axis else slice(None) for a in range(ndim))
    last = tuple(slice(1, None) if a == axis else slice(None) for a in range(ndim))
    return (first, last), (last, first)
