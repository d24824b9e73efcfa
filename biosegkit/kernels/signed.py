"""Signed distance to the border of masks: negative inside, positive outside, half a voxel at the border voxels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.kernels.distance import boundary_distance

__all__ = ["signed_distance"]


def signed_distance(masks: npt.NDArray[Any], spacing: Sequence[float] | None = None,
                    valid: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.float32]:
    """Distance to the nearest voxel on the other side, less half a voxel, in units of the smallest spacing.

    Parameters
    ----------
    masks : ndarray, (C, *space)
        0 is outside.
    spacing : sequence of float, optional
        Voxel size per axis; only its ratios matter.
    valid : ndarray of bool, (*space), optional
        False where nothing is known: such voxels are 0 and bound nobody.

    Returns
    -------
    ndarray of float32, (C, *space)
        0 throughout for a mask that is empty or full: no border is in sight.

    Examples
    --------
    >>> signed_distance(np.array([[0, 0, 1, 1, 1], [0, 0, 0, 0, 0]])).tolist()
    [[1.5, 0.5, -0.5, -1.5, -2.5], [0.0, 0.0, 0.0, 0.0, 0.0]]
    """
    steps = np.ones(masks.ndim - 1) if spacing is None else np.asarray(spacing, float) / min(spacing)
    found = np.empty(masks.shape, np.float32)
    for mask, out in zip(masks, found, strict=True):
        inside = mask != 0
        out[...] = boundary_distance(inside.view(np.uint8) + np.uint8(1), steps.tolist(), valid=valid)
        unseen = ~(np.isfinite(out) & (out > 0))
        out -= np.float32(0.5)
        np.negative(out, out=out, where=inside)
        out[unseen] = 0.0
    return found
