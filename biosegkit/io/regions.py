"""Arrays that are read region by region: sliced like an array, they hold nothing and read only what is asked for."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .raw import Array

__all__ = ["LazyArray", "Regions"]


class LazyArray(Protocol):
    """What an image read lazily has in common with an array in memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, *space)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what slicing returns."""
        ...

    @property
    def ndim(self) -> int:
        """Number of axes."""
        ...

    def __getitem__(self, key: Any, /) -> Any:
        """The region of ``key``, read now."""
        ...


@dataclass(frozen=True, eq=False)
class Regions:
    """A lazily read array.

    Parameters
    ----------
    shape : tuple of int
        (C, *space).
    dtype : numpy.dtype
    read : callable
        Takes one slice per axis, with start and stop inside the array and not empty, and returns these voxels.

    Examples
    --------
    >>> whole = np.arange(24).reshape(1, 4, 6)
    >>> lazy = Regions(whole.shape, whole.dtype, lambda region: whole[region])
    >>> lazy[0, 1:3, -2:].tolist(), lazy[..., ::3].shape
    ([[10, 11], [16, 17]], (1, 4, 2))
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[tuple[slice, ...]], Array]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any, /) -> Array:
        """Read a region: integers, slices and one ellipsis, with the meaning they have for arrays."""
        keys = self._full(key)
        region: list[slice] = []
        after: list[Any] = []
        for item, size in zip(keys, self.shape, strict=True):
            if isinstance(item, slice):
                places = range(size)[item]
                low, high = (min(places[0], places[-1]), max(places[0], places[-1]) + 1) if places else (0, 0)
                region.append(slice(low, high))
                after.append(slice(None, None, places.step))
            else:
                place = range(size)[operator.index(item)]
                region.append(slice(place, place + 1))
                after.append(0)
        if any(r.start == r.stop for r in region):
            return np.asarray(np.empty([r.stop - r.start for r in region], self.dtype)[tuple(after)])
        return np.asarray(self.read(tuple(region))[tuple(after)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """All voxels, in memory."""
        whole = self[...]
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def _full(self, key: Any) -> list[Any]:
        """One item per axis."""
        items = list(key) if isinstance(key, tuple) else [key]
        missing = self.ndim - sum(item is not Ellipsis for item in items)
        if missing < 0:
            raise IndexError(f"{len(items)} indices for {self.ndim} axes")
        at = next((i for i, item in enumerate(items) if item is Ellipsis), len(items))
        return [*items[:at], *[slice(None)] * missing, *items[at + 1 :]]
