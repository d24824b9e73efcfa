"""Percentiles of an image that is too large for memory, those of NumPy to the last bit.

The two values that a percentile lies between are found by their bits: in a first reading the upper 16 bits of all
values are counted, in a second one the lower 16 bits of those that share the upper bits of the values looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product

import numpy as np
import numpy.typing as npt

__all__ = ["boxes_of", "streamed_bounds", "streamed_percentiles"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_HALF = 1 << 16
#: Voxels that are read together, per axis.
_PART = {2: (2048, 2048), 3: (64, 256, 256)}


def boxes_of(shape: Sequence[int], size: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Boxes of a size that cover an array, in raster order."""
    for start in product(*(range(0, n, s) for n, s in zip(shape, size, strict=True))):
        yield tuple(slice(a, min(a + s, n)) for a, s, n in zip(start, size, shape, strict=True))


def streamed_bounds(read: Callable[[tuple[slice, ...]], Floats], shape: Sequence[int], shares: Sequence[float], *,
                    joint: bool) -> Floats:
    """Percentiles of the channels of an image of two or three axes, which ``read`` gives a box (C, *box) of.

    Parameters and result are those of :func:`streamed_percentiles`; the image is read twice.
    """
    return streamed_percentiles(lambda: map(read, boxes_of(shape, _PART[len(shape)])), shares, joint=joint)


def streamed_percentiles(parts: Callable[[], Iterable[Floats]], shares: Sequence[float], *, joint: bool) -> Floats:
    """Percentiles of every channel, as ``np.percentile`` has them, or of all together.

    Parameters
    ----------
    parts : callable
        Gives all voxels once, in parts (C, ...) of finite values; called twice.
    shares : sequence of float
        In per cent.
    joint : bool
        Percentiles of all channels together.

    Returns
    -------
    ndarray of float32, (len(shares), C), or (len(shares), 1)

    Examples
    --------
    >>> halves = [np.array([[1, 9, 3]], np.float32), np.array([[5, 7]], np.float32)]
    >>> streamed_percentiles(lambda: halves, (50, 90), joint=False).tolist()
    [[5.0], [8.199999809265137]]
    """
    upper = _counted(parts, joint, None)
    places = [_places(int(counts.sum()), shares) for counts in upper]
    found = []
    bins = [np.searchsorted(np.cumsum(counts), ranks, "right")
            for counts, (ranks, _) in zip(upper, places, strict=True)]
    lower = _counted(parts, joint, [np.unique(b) for b in bins])
    at = 0
    for counts, mine, (ranks, between) in zip(upper, bins, places, strict=True):
        rows = np.unique(mine)
        left = ranks - np.concatenate([[0], np.cumsum(counts)])[mine]
        low = [int(np.searchsorted(np.cumsum(lower[at + int(np.searchsorted(rows, b))]), rank, "right"))
               for b, rank in zip(mine, left, strict=True)]
        at += len(rows)
        values = _values((mine * _HALF + low).astype(np.uint32))
        one, two = values[: len(between)], values[len(between) :]
        step = two - one
        found.append(np.where(between < 0.5, one + step * between, two - step * (1 - between)).astype(np.float32))
    return np.stack(found, 1)


def _places(count: int, shares: Sequence[float]) -> tuple[Ints, npt.NDArray[np.float64]]:
    """Ranks of the values before and behind each percentile, and how far between them it lies."""
    exact = (count - 1) * (np.asarray(shares, np.float64) / 100)
    before = np.floor(exact)
    ranks = np.concatenate([before, np.minimum(before + 1, count - 1)]).astype(np.int64)
    return ranks, exact - before


def _counted(parts: Callable[[], Iterable[Floats]], joint: bool, bins: Sequence[Ints] | None) -> list[Ints]:
    """Counts of the upper half of the bits of each channel; or of the lower half within each of its bins."""
    counts: list[Ints] = []
    for part in parts():
        flat = part.reshape(1, -1) if joint else part.reshape(len(part), -1)
        keys = _keys(np.ascontiguousarray(flat))
        new: list[Ints] = []
        for channel, row in enumerate(keys):
            upper = (row >> 16).astype(np.int64)
            if bins is None:
                new.append(np.bincount(upper, minlength=_HALF))
                continue
            new += [np.bincount((row[upper == one] & (_HALF - 1)).astype(np.int64), minlength=_HALF)
                    for one in bins[channel]]
        counts = [a + b for a, b in zip(counts, new, strict=True)] if counts else new
    return counts


def _keys(values: Floats) -> npt.NDArray[np.uint32]:
    """Whole numbers in the order of the values."""
    bits = values.view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _values(keys: npt.NDArray[np.uint32]) -> Floats:
    """The values of :func:`_keys`."""
    return np.where(keys >> 31, keys & np.uint32((1 << 31) - 1), ~keys).astype(np.uint32).view(np.float32)
