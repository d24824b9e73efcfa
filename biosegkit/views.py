"""Arrays turned and cropped without being read: views of numpy, and views of arrays that are read region by region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .grid import Turn

__all__ = ["Rolling", "View", "is_lazy", "viewed"]


def is_lazy(array: Any) -> bool:
    """Whether an array is read when it is sliced."""
    return not isinstance(array, np.ndarray)


def viewed(array: Any, turn: Turn, window: tuple[slice, ...] | None = None) -> Any:
    """The array ``(C, *space)`` turned, then cropped; an array in memory gives a view of numpy.

    Examples
    --------
    >>> viewed(np.arange(6).reshape(1, 2, 3), Turn((1, 0)), (slice(1, 3), slice(0, 1))).tolist()
    [[[1], [2]]]
    """
    if not is_lazy(array):
        turned = turn.apply(array)
        return turned if window is None else turned[(slice(None), *window)]
    whole = tuple(slice(0, array.shape[1 + p]) for p in turn.perm)
    if turn.is_identity and window in (None, whole):
        return array
    return View(array, turn, window or whole)


@dataclass(frozen=True, eq=False)
class View:
    """A lazily read array, turned and cropped.

    Parameters
    ----------
    array : array, (C, *space)
        Anything with shape and dtype that reads a region when it is sliced with slices of step 1.
    turn : Turn
    window : tuple of slice
        Of the turned array.
    channels : tuple of int, optional
        Those of the array that are shown, some perhaps several times; all by default.

    Examples
    --------
    >>> view = View(np.arange(6).reshape(1, 2, 3), Turn((1, 0), (0,)), (slice(0, 2), slice(0, 2)))
    >>> view.shape, view[0, 1:].tolist()
    ((1, 2, 2), [[1, 4]])
    """

    array: Any
    turn: Turn
    window: tuple[slice, ...]
    channels: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, *space)."""
        count = self.array.shape[0] if self.channels is None else len(self.channels)
        return (count, *(w.stop - w.start for w in self.window))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what slicing returns."""
        dtype: np.dtype[Any] = np.dtype(self.array.dtype)
        return dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, key: Any, /) -> npt.NDArray[Any]:
        """Read a region: an integer or a slice for the channels, slices of step 1 for the space axes."""
        channel, *given = key if isinstance(key, tuple) else (key,)
        region = [*given, *(slice(None),) * (self.ndim - 1 - len(given))]
        wanted: list[slice] = [slice(None)] * len(region)
        for axis, (part, w) in enumerate(zip(region, self.window, strict=True)):
            start, stop, _ = part.indices(w.stop - w.start)
            low, high = w.start + start, w.start + max(start, stop)
            source = self.turn.perm[axis]
            if axis in self.turn.flips:
                size = self.array.shape[1 + source]
                low, high = size - high, size - low
            wanted[source] = slice(low, high)
        if self.channels is None:
            return self.turn.apply(np.asarray(self.array[(channel, *wanted)]))
        shown = self.turn.apply(np.asarray(self.array[(slice(None), *wanted)]))
        return np.asarray(shown[list(self.channels)][channel])


class Rolling:
    """A region of a lazily read array for who goes through it from the first plane to the last: each is read once.

    Parameters
    ----------
    array : array, (C, *space)
    region : sequence of slice
        Of the space axes; what is asked for lies within it, up to the ends of the array.
    ahead : int
        Planes that are read together.

    Examples
    --------
    >>> rolling = Rolling(np.arange(12).reshape(1, 4, 3), (slice(0, 4), slice(1, 3)), 2)
    >>> rolling[:, 0:1, 1:2].tolist(), rolling[:, 1:3, 2:3].tolist()
    ([[[1]]], [[[5], [8]]])
    """

    def __init__(self, array: Any, region: Sequence[slice], ahead: int) -> None:
        self.array, self.ahead = array, ahead
        self.region = [slice(r.start, min(r.stop, n)) for r, n in zip(region, array.shape[1:], strict=True)]
        self._low = self.region[0].start
        self._held: list[npt.NDArray[Any]] = []

    def __getitem__(self, key: tuple[slice, ...], /) -> npt.NDArray[Any]:
        """The voxels of a key of slices; planes before it are forgotten."""
        channels, rows, *lateral = key
        stop = min(rows.stop, self.region[0].stop)
        while self._held and self._low + self._held[0].shape[1] <= rows.start:
            self._low += self._held.pop(0).shape[1]
        high = self._low + sum(part.shape[1] for part in self._held)
        while high < stop:
            if not self._held:
                self._low = high = max(high, rows.start)
            more = min((high // self.ahead + 1) * self.ahead, self.region[0].stop)
            self._held.append(np.asarray(self.array[(slice(None), slice(high, more), *self.region[1:])]))
            high = more
        place = tuple(slice(part.start - r.start, min(part.stop, r.stop) - r.start)
                      for part, r in zip(lateral, self.region[1:], strict=True))
        found, at = [], self._low
        for part in self._held:
            first, last = max(rows.start - at, 0), min(stop - at, part.shape[1])
            if first < last:
                found.append(part[(channels, slice(first, last), *place)])
            at += part.shape[1]
        return found[0] if len(found) == 1 else np.concatenate(found, 1)
