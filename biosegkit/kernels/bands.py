"""Parts of an array, one after the other, so that what is computed on the way to a result stays small.

An expression of five steps over a whole image makes five images; over bands it makes five bands, which the cache holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

__all__ = ["bands"]

#: Voxels of a band.
_SIZE = 1 << 16


def bands(shape: Sequence[int], size: int = _SIZE) -> Iterator[tuple[slice, ...]]:
    """Slices that cut an array into parts of about ``size`` voxels, in raster order.

    Parameters
    ----------
    shape : sequence of int
    size : int
        A part has no more voxels, unless a line along the last axis has.

    Examples
    --------
    >>> [tuple((part.start, part.stop) for part in band) for band in bands((3, 4), 8)]
    [((0, 2), (0, 4)), ((2, 3), (0, 4))]
    """
    if not shape or not math.prod(shape):
        return
    rest = tuple(shape[1:])
    inner = math.prod(rest)
    if inner > size and len(rest) > 1:
        for k in range(shape[0]):
            for part in bands(rest, size):
                yield slice(k, k + 1), *part
        return
    step = max(1, size // inner)
    for low in range(0, shape[0], step):
        yield slice(low, min(low + step, shape[0])), *(slice(0, n) for n in rest)
