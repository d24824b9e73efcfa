"""The likeliest class of every voxel, its probability, and its share against the background, in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["likeliest"]


def likeliest(probs: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Of the classes but the background, the first of the most probable ones.

    Parameters
    ----------
    probs : ndarray of float32, (C, ``*space``), 2D or 3D
        Probabilities, class 0 the background; at least two classes. It may be a view.

    Returns
    -------
    classes : ndarray of uint8, uint16 from 257 classes on, (``*space``)
        1 to C - 1.
    confidence : ndarray of uint8, (``*space``)
        Its probability p in 1/255, rounded (ties to even).
    share : ndarray of uint8, (``*space``)
        p / (p + background) in 1/255, rounded: above 127 where p is larger than the background, else at most 127.

    Examples
    --------
    >>> probs = np.array([[[0.5, 0.1]], [[0.2, 0.3]], [[0.3, 0.6]]], np.float32)
    >>> [a.tolist() for a in likeliest(probs)]
    [[[2, 2]], [[76, 153]], [[96, 219]]]
    """
    shape = probs.shape[1:]
    classes = np.empty(shape, np.uint8 if len(probs) <= 256 else np.uint16)
    confidence, share = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    deep = (slice(None), *(None,) * (3 - len(shape)))
    _likeliest(probs[deep], classes[deep[1:]], confidence[deep[1:]], share[deep[1:]])
    return classes, confidence, share


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _likeliest(probs: Any, classes: Any, confidence: Any, share: Any) -> None:
    count, nz, ny, nx = probs.shape
    one, most, tiny = np.float32(1), np.float32(255), np.float32(np.finfo(np.float32).tiny)
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                best, p, background = 1, probs[1, z, y, x], probs[0, z, y, x]
                for c in range(2, count):
                    if probs[c, z, y, x] > p:
                        best, p = c, probs[c, z, y, x]
                part = np.uint8(np.rint(min(max(p / max(p + background, tiny), np.float32(0)), one) * most))
                classes[z, y, x] = best
                confidence[z, y, x] = np.uint8(np.rint(min(max(p, np.float32(0)), one) * most))
                share[z, y, x] = max(part, np.uint8(128)) if p > background else min(part, np.uint8(127))
