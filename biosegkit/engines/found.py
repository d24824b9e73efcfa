"""What a rule finds: plain data between a rule and what all segmenters have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Found", "relative", "unit_range", "voxels"]


@dataclass(frozen=True)
class Found:
    """A mask, objects or classes of an image, one of them.

    Parameters
    ----------
    mask : ndarray of bool, (*space), optional
        Whose connected components are the objects.
    objects : ndarray of int, (*space), optional
        Ids of any order, 0 for background.
    classes : ndarray of int, (*space), optional
        Class 0 is background.
    count : int
        Number of classes, background included.
    notes : tuple of str
    """

    mask: npt.NDArray[np.bool_] | None = None
    objects: npt.NDArray[Any] | None = None
    classes: npt.NDArray[Any] | None = None
    count: int = 0
    notes: tuple[str, ...] = ()

    def reshaped(self, shape: Sequence[int]) -> Found:
        """The same voxels under another shape."""
        arrays = {name: value.reshape(shape) for name in ("mask", "objects", "classes")
                  if (value := getattr(self, name)) is not None}
        return replace(self, **arrays)


def relative(spacing: Sequence[float]) -> tuple[float, ...]:
    """Spacing in units of the finest axis.

    Examples
    --------
    >>> relative((2.0, 0.5, 0.5))
    (4.0, 1.0, 1.0)
    """
    return tuple(float(s / min(spacing)) for s in spacing)


def voxels(length: float, scale: Sequence[float]) -> tuple[int, ...]:
    """Odd window per axis of a length in voxels of the finest axis, at least 1.

    Examples
    --------
    >>> voxels(51, (4.0, 1.0, 1.0)), voxels(6, (1.0, 1.0)), voxels(1, (1.0,))
    ((13, 51, 51), (7, 7), (1,))
    """
    return tuple(2 * int(np.floor(length / s / 2)) + 1 for s in scale)


def unit_range(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Intensities from 0 (percentile 1 and below) to 1 (percentile 99.8 and above); all 0 without a difference.

    Examples
    --------
    >>> unit_range(np.array([3, 5, 7])).round(2).tolist(), unit_range(np.array([2.0, 2.0])).tolist()
    ([0.0, 0.5, 1.0], [0.0, 0.0])
    """
    low, high = (float(v) for v in np.percentile(values, (1, 99.8)))
    if high == low:  # hardly anything differs from the rest
        low, high = float(values.min()), float(values.max())
    return np.asarray(((values.astype(np.float64) - low) / ((high - low) or 1.0)).clip(0, 1))
