"""Arrays as a viewer wants them: one channel, colours last, time first; what is read by region stays so."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np

from .errors import DataError
from .io.regions import Regions
from .views import is_lazy

__all__ = ["channel_of", "colours_last", "film", "limits", "limits_of_most", "remembered", "thinned"]

#: Voxels that are looked at for the range of the intensities.
_LOOK = 1 << 24
#: Part of the range below which nearly all voxels are, where the range alone would leave them dark.
_BRIGHT = 0.75
#: Side of the resolution that is made of an image with one only, and what may be read for it.
_SIDE, _MOST = 4096, 8 << 30
#: Side of the parts of a plane that are remembered, and bytes of them.
_CELL, _MEMORY = 512, 128 << 20


def channel_of(array: Any, k: int) -> Any:
    """One channel of (C, …), without reading it.

    Examples
    --------
    >>> whole = np.arange(12).reshape(2, 2, 3)
    >>> lazy = Regions(whole.shape, whole.dtype, lambda region: whole[region])
    >>> channel_of(lazy, 1)[0, 1:].tolist(), channel_of(whole, 1).tolist()
    ([7, 8], [[6, 7, 8], [9, 10, 11]])
    """
    if not is_lazy(array):
        return array[k]
    return Regions(tuple(array.shape[1:]), np.dtype(array.dtype),
                   lambda region: np.asarray(array[(slice(k, k + 1), *region)])[0])


def colours_last(array: Any) -> Any:
    """(C, …) as (…, C), without reading it.

    Examples
    --------
    >>> whole = np.arange(12).reshape(3, 2, 2)
    >>> lazy = Regions(whole.shape, whole.dtype, lambda region: whole[region])
    >>> colours_last(lazy)[1, 0].tolist(), colours_last(lazy).shape
    ([2, 6, 10], (2, 2, 3))
    """
    if not is_lazy(array):
        return np.moveaxis(array, 0, -1)
    return Regions((*array.shape[1:], array.shape[0]), np.dtype(array.dtype),
                   lambda region: np.moveaxis(np.asarray(array[(region[-1], *region[:-1])]), 0, -1))


def film(frame: Callable[[int], Any], count: int) -> Regions:
    """Time points (C, *space) as (C, T, *space); a time point is opened when it is looked at.

    Examples
    --------
    >>> lazy = film(lambda t: np.full((1, 2, 2), t), 3)
    >>> lazy.shape, lazy[0, 2].tolist()
    ((1, 3, 2, 2), [[2, 2], [2, 2]])
    """
    first = frame(0)

    def read(region: tuple[slice, ...]) -> Any:
        channels, times, *space = region
        found = [np.asarray(frame(t)[(channels, *space)]) for t in range(times.start, times.stop)]
        return np.stack(found, 1)

    return Regions((first.shape[0], count, *first.shape[1:]), np.dtype(first.dtype), read)


def remembered(array: Any) -> Regions:
    """(C, y, x) of which the parts looked at last are kept: a view that moves a little reads only what is new.

    Examples
    --------
    >>> reads = []
    >>> whole = np.arange(2000)[None, None]
    >>> lazy = remembered(Regions(whole.shape, whole.dtype, lambda region: reads.append(region) or whole[region]))
    >>> lazy[0, 0, 510:514].tolist(), lazy[0, 0, 600:602].tolist(), len(reads)
    ([510, 511, 512, 513], [600, 601], 2)
    """
    held: OrderedDict[tuple[int, ...], Any] = OrderedDict()
    lock = threading.Lock()
    room = max(16, _MEMORY // (array.shape[0] * _CELL**2 * np.dtype(array.dtype).itemsize))

    def cell(place: tuple[int, ...]) -> Any:
        with lock:
            if place in held:
                held.move_to_end(place)
                return held[place]
        own = tuple(slice(i * _CELL, min((i + 1) * _CELL, n)) for i, n in zip(place, array.shape[1:], strict=True))
        found = np.asarray(array[(slice(None), *own)])
        with lock:
            held[place] = found
            while len(held) > room:
                held.popitem(last=False)
        return found

    def read(region: tuple[slice, ...]) -> Any:
        channels, *plane = region
        out = np.empty([part.stop - part.start for part in region], array.dtype)
        for place in product(*(range(part.start // _CELL, -(-part.stop // _CELL)) for part in plane)):
            values = cell(place)[channels]
            starts = [i * _CELL for i in place]
            low = [max(p.start, s) for p, s in zip(plane, starts, strict=True)]
            high = [min(p.stop, s + n) for p, s, n in zip(plane, starts, values.shape[1:], strict=True)]
            goal, source = (tuple(slice(a - o, b - o) for a, b, o in zip(low, high, origin, strict=True))
                            for origin in ([p.start for p in plane], starts))
            out[(slice(None), *goal)] = values[(slice(None), *source)]
        return out

    return Regions(tuple(array.shape), np.dtype(array.dtype), read)


def thinned(array: Any, source: str = "") -> Any:
    """A lower resolution of (C, *space), every n-th pixel of its planes; read once, in bands, and kept.

    Raises
    ------
    DataError
        If the image is so large that this would take minutes.

    Examples
    --------
    >>> thinned(np.arange(5000)[None, None]).shape
    (1, 1, 2500)
    """
    nbytes = int(np.prod(array.shape, dtype=np.int64)) * np.dtype(array.dtype).itemsize
    if nbytes > _MOST:
        raise DataError(f"{' × '.join(map(str, array.shape[1:]))} pixels in one resolution", file=source or None,
                        expected="several, of which a viewer reads what is in sight",
                        remedy="convert it to OME-Zarr or a pyramidal TIFF; it can be predicted as it is")
    step = -(-max(array.shape[-2:]) // _SIDE)
    rows = max(1, (64 << 20) // max(1, nbytes // array.shape[-2])) * step
    bands = [np.asarray(array[(..., slice(y, min(y + rows, array.shape[-2])), slice(None))])[..., ::step, ::step]
             for y in range(0, array.shape[-2], rows)]
    return np.concatenate(bands, -2)


def limits(arrays: Sequence[Any]) -> tuple[float, float] | None:
    """Smallest and largest intensity of the coarsest of several resolutions, of a huge one in three of its planes.

    None if there is no range, or it is that of bytes, which viewers know.

    Examples
    --------
    >>> limits([np.array([[3.0, np.nan, 9.0]])]), limits([np.zeros((2, 2), np.uint8)])
    ((3.0, 9.0), None)
    """
    array = arrays[-1]
    if np.dtype(array.dtype) == np.uint8:
        return None
    small = np.prod(array.shape, dtype=np.int64) <= _LOOK
    parts = [array[...]] if small else [array[k] for k in {0, array.shape[0] // 2, array.shape[0] - 1}]
    values = np.concatenate([np.asarray(part, np.float64).ravel() for part in parts])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    return (low, high) if low < high else None


def limits_of_most(array: Any) -> tuple[float, float] | None:
    """Intensities between which nearly all voxels are, where a few very bright ones would leave all others dark.

    None where the brightest thousandth takes less than a quarter of the range, which is as good then. The range of
    bytes is all of 0 to 255, as viewers show them.

    Examples
    --------
    >>> dim = np.arange(10_000) % 100
    >>> limits_of_most(dim), limits_of_most(np.append(dim, [4000] * 3))
    (None, (0.0, 99.0))
    """
    step = math.ceil(max(1.0, array.size / _LOOK) ** (1 / max(1, array.ndim)))
    values = array[(slice(None, None, step),) * array.ndim]
    values = values[np.isfinite(values)]
    if not values.size:
        return None
    low, most, high = (float(v) for v in (values.min(), np.percentile(values, 99.9), values.max()))
    high = 255.0 if array.dtype == np.uint8 else high
    return (low, most) if 0 < most - low < _BRIGHT * (high - low) else None
