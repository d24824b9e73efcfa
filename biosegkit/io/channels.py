"""Files that are channels of one image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from biosegkit.errors import DataError
from biosegkit.image import Image

from . import arrange
from .options import ReadOptions
from .raw import Array
from .regions import LazyArray, Regions

__all__ = ["SAME_GRID", "joined", "side_by_side"]

#: How far apart corners may be, in voxels (fault G2).
SAME_GRID = 1e-3


def joined(images: Sequence[Image], options: ReadOptions) -> Image:
    """One image of all their channels; their grids must agree (G1, G2).

    Raises
    ------
    DataError
        If they do not, or channels were named and there are not as many.
    """
    first = images[0]
    for other in images[1:]:
        apart = first.grid.mismatch(other.grid)
        if not apart <= SAME_GRID or other.grid.unit != first.grid.unit:
            raise DataError(
                f"shape {other.grid.shape}, spacing {arrange.sizes_text(other.grid)}", file=other.source,
                expected=f"shape {first.grid.shape}, spacing {arrange.sizes_text(first.grid)} and the position of "
                f"{first.source}", remedy="register and resample the channels to one grid first",
            )
    array = cast("Array", side_by_side([i.array for i in images]))
    alone = all(i.array.shape[0] == 1 and i.channels != ("channel 0",) for i in images)
    stored = tuple(i.channels[0] for i in images) if alone else ()
    names = arrange.channel_names(options, stored, array.shape[0], first.source)
    notes = tuple(dict.fromkeys(n for i in images for n in i.notes))
    return Image(array, first.grid, names, first.source, notes)


def side_by_side(arrays: Sequence[LazyArray]) -> LazyArray:
    """Arrays of one grid as channels of one array, read by regions where one of them is.

    Examples
    --------
    >>> one = np.arange(6).reshape(1, 2, 3)
    >>> two = Regions((2, 2, 3), one.dtype, lambda region: np.concatenate([one, one + 10])[region])
    >>> side_by_side([one, two])[1:, 0, :2].tolist()
    [[0, 1], [10, 11]]
    """
    if all(isinstance(array, np.ndarray) for array in arrays):
        return np.concatenate(cast("Sequence[Array]", arrays))
    starts = np.cumsum([0, *(array.shape[0] for array in arrays)]).tolist()
    dtype = np.result_type(*(array.dtype for array in arrays))

    def read(region: tuple[slice, ...]) -> Array:
        wanted, *space = region
        out = np.empty([s.stop - s.start for s in region], dtype)
        for array, start in zip(arrays, starts, strict=False):
            low, high = max(wanted.start, start), min(wanted.stop, start + array.shape[0])
            if low < high:
                out[low - wanted.start : high - wanted.start] = array[(slice(low - start, high - start), *space)]
        return out

    return Regions((starts[-1], *arrays[0].shape[1:]), dtype, read)
