"""Image and Labels: two types, so that interpolation never needs a flag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ._words import counted
from .errors import DataError
from .grid import Grid, Turn
from .views import View, is_lazy

__all__ = ["COLOURS", "GREY", "Image", "Labels", "Task", "equal_channels", "places", "smallest_unsigned"]

Task = Literal["semantic", "instance"]
Array = npt.NDArray[Any]

#: Channels of an image in colours.
COLOURS = ("red", "green", "blue")
#: Said of grey that was stored as colours.
GREY = "RGB with three equal channels read as one channel"


@dataclass(frozen=True, eq=False)
class Image:
    """Intensities on a grid.

    Parameters
    ----------
    array : ndarray, (C, *grid.shape)
        Real numbers of any dtype; anything that can be sliced like an array and has a dtype will do.
    grid : Grid
        The geometry.
    channels : tuple of str
        One name per channel; empty names it ``channel 0`` and so on.
    source : str
        The file it came from, for messages.
    notes : tuple of str
        What was repaired on reading; kept in the provenance of every output.

    Examples
    --------
    >>> Image(np.zeros((1, 4, 5)), Grid.regular((4, 5))).channels
    ('channel 0',)
    """

    array: Array
    grid: Grid
    channels: tuple[str, ...] = ()
    source: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if tuple(self.array.shape[1:]) != self.grid.shape:
            raise DataError(f"an array of shape {self.array.shape}", file=self.source or None,
                            expected=f"(channels, {', '.join(map(str, self.grid.shape))}), the shape of the grid")
        if self.array.dtype.kind not in "buif":
            raise DataError(f"voxels of type {self.array.dtype}", file=self.source or None, expected="real numbers",
                            remedy="save magnitude or single channels")
        names = self.channels or tuple(f"channel {i}" for i in range(self.array.shape[0]))
        if len(names) != self.array.shape[0]:
            raise DataError(f"{counted(len(names), 'channel name')} for {counted(self.array.shape[0], 'channel')}",
                            file=self.source or None, remedy="correct --channels, or channel_names in dataset.json")
        object.__setattr__(self, "channels", tuple(names))

    def turned(self, turn: Turn) -> Image:
        """Axes exchanged and reversed, world positions kept."""
        return replace(self, array=turn.apply(self.array), grid=self.grid.turned(turn))

    def noted(self, *notes: str) -> Image:
        """The same image with more notes."""
        return replace(self, notes=(*self.notes, *notes))

    def in_channels(self, count: int) -> Image:
        """Grey stored as three equal channels in the number of channels that is wanted; any other image as it is.

        Three equal channels are made one, and one that was made of three is three again; a note says so.

        Examples
        --------
        >>> stored = Image(np.full((3, 4, 5), 7), Grid.regular((4, 5)), COLOURS)
        >>> grey = stored.in_channels(1)
        >>> grey.channels, grey.notes
        (('channel 0',), ('RGB with three equal channels read as one channel',))
        >>> grey.in_channels(3).channels, grey.in_channels(2) is grey
        (('red', 'green', 'blue'), True)
        """
        change = self.array.shape[0], count
        if change == (3, 1) and equal_channels(self.array):
            return replace(self, array=_channels(self.array, (0,)), channels=()).noted(GREY)
        if change == (1, 3) and GREY in self.notes:
            three = _channels(self.array, (0, 0, 0))
            return replace(self, array=three, channels=COLOURS).noted("taken as three equal channels again")
        return self


def _channels(array: Any, chosen: tuple[int, ...]) -> Any:
    """Some channels of (C, *space); of an array that is read when it is sliced, without reading it."""
    if not is_lazy(array):
        return array[list(chosen)]
    whole = tuple(slice(0, n) for n in array.shape[1:])
    return View(array, Turn(tuple(range(len(whole)))), whole, chosen)


def equal_channels(array: Array) -> bool:
    """Whether all channels of (C, space) are equal; looked at plane by plane, as far as they are.

    Examples
    --------
    >>> equal_channels(np.ones((3, 4, 5))), equal_channels(np.arange(6).reshape(3, 2))
    (True, False)
    """
    planes = (np.asarray(array[:, k]) for k in range(array.shape[1]))
    return all(bool((plane == plane[:1]).all()) for plane in planes)


@dataclass(frozen=True, eq=False)
class Labels:
    """Classes or objects on a grid: canonical inside, the user's own values outside.

    Parameters
    ----------
    array : ndarray of unsigned integers, grid.shape
        0 is background, then 1, 2, … without gaps (``values`` may name classes absent here).
    grid : Grid
        The geometry.
    values : ndarray of int64, (n,)
        ``values[i]`` is what the user calls ``i``; ``values[0]`` is the background's.
    task : {"semantic", "instance"}
        Whether numbers name classes or objects.
    ignore : ndarray of bool, grid.shape, optional
        Voxels without annotation: out of loss, metrics, sampling and fingerprint (fault L9).
    ignore_value : int, optional
        The user's value for them, written again on output.
    task_said : bool
        Whether anybody said what numbers name; if not, ``task`` is ``"semantic"`` until :func:`biosegkit.evaluate`
        finds out.

    Examples
    --------
    >>> labels = Labels.from_values(np.array([[0, 70000], [9, 9]]), Grid.regular((2, 2)), "instance")
    >>> labels.array.tolist(), labels.values.tolist(), labels.restored().tolist()
    ([[0, 2], [1, 1]], [0, 9, 70000], [[0, 70000], [9, 9]])
    """

    array: Array
    grid: Grid
    values: npt.NDArray[np.int64]
    task: Task
    ignore: npt.NDArray[np.bool_] | None = None
    ignore_value: int | None = None
    source: str = ""
    notes: tuple[str, ...] = field(default=())
    task_said: bool = True

    def __post_init__(self) -> None:
        if tuple(self.array.shape) != self.grid.shape:
            raise DataError(f"labels of shape {self.array.shape}", file=self.source or None,
                            expected=f"{self.grid.shape}, the shape of the grid")
        if self.array.dtype.kind != "u":
            raise DataError(f"canonical labels of type {self.array.dtype}", expected="unsigned integers",
                            remedy="build labels with Labels.from_values")

    @classmethod
    def from_values(
        cls,
        array: Array,
        grid: Grid,
        task: Task,
        *,
        ignore_value: int | None = None,
        mapping: Mapping[int, int] | None = None,
        source: str = "",
        notes: tuple[str, ...] = (),
    ) -> Labels:
        """Canonical labels from an array of the user's values.

        ``mapping`` renames values first (``--map 255=1``). Floats within 1e-3 of integers are accepted (L3);
        ids of any size become sequential (L1).

        Raises
        ------
        DataError
            For fractional (L3) or negative (L4) values.
        """
        whole = _integers(array, source)
        if mapping:
            whole = _mapped(whole, mapping)
        ignore = None if ignore_value is None else whole == ignore_value
        values = np.unique(whole)
        flat = places(whole, values)
        if ignore is not None and ignore_value is not None and ignore.any():
            position = int(np.searchsorted(values, ignore_value))
            lookup = np.arange(values.size) - (np.arange(values.size) > position)
            flat, values = lookup[flat], np.delete(values, position)
            flat = np.where(ignore.reshape(flat.shape), 0, flat)
        if values.size and values[0] < 0:
            bad = values[values < 0]
            raise DataError(f"negative label values {bad[:5].tolist()}", file=source or None,
                            expected="0 for background and positive values", remedy=f"--map {bad[0]}=0")
        values, flat = _background_first(values, flat, ignore)
        return cls(flat.astype(smallest_unsigned(values.size - 1)).reshape(whole.shape), grid, values.astype(np.int64),
                   task, ignore, ignore_value, source, notes)

    @property
    def count(self) -> int:
        """Number of classes or objects named in ``values``, without background."""
        return len(self.values) - 1

    def restored(self) -> Array:
        """The user's values again, in the smallest dtype that holds them; signed if the ignored one is negative."""
        top, low = max(int(self.values.max(initial=0)), self.ignore_value or 0), min(0, self.ignore_value or 0)
        lookup = self.values.astype(smallest_integer(low, top))
        out = lookup[self.array]
        if self.ignore is not None and self.ignore_value is not None:
            out[self.ignore] = self.ignore_value
        return np.asarray(out)

    def as_classes(self, class_values: Sequence[int]) -> Labels:
        """The same labels numbered by a table of classes: voxel ``i`` means ``class_values[i]``.

        Raises
        ------
        DataError
            If a value is present that the table does not know (fault L5).
        """
        table = np.asarray(class_values, dtype=np.int64)
        present = self.values[np.unique(self.array)]
        unknown = sorted(set(present.tolist()) - set(table.tolist()) - {0})
        if unknown:
            raise DataError(f"label values {unknown}", file=self.source or None,
                            expected=f"one of {sorted(set(table.tolist()))}", remedy=f"--map {unknown[0]}=VALUE")
        position = {int(v): i for i, v in enumerate(table)}
        lookup = np.array([position.get(int(v), 0) for v in self.values], dtype=smallest_unsigned(len(table) - 1))
        return replace(self, array=lookup[self.array], values=table, task="semantic")

    def turned(self, turn: Turn) -> Labels:
        """Axes exchanged and reversed, world positions kept."""
        ignore = None if self.ignore is None else turn.apply(self.ignore)
        return replace(self, array=turn.apply(self.array), grid=self.grid.turned(turn), ignore=ignore)


def places(whole: Array, values: Array) -> Array:
    """The place of the value of every voxel among the sorted values: by a table, unless that were larger than them.

    Examples
    --------
    >>> places(np.array([[-3, 5], [5, 0]], np.int8), np.array([-3, 0, 5], np.int8)).tolist()
    [[0, 2], [2, 1]]
    """
    if not values.size:
        return np.zeros(whole.shape, np.uint8)
    low, high = int(values[0]), int(values[-1])
    if high - low >= max(whole.size, 1 << 16):
        return np.asarray(np.searchsorted(values, whole))
    table = np.zeros(high - low + 1, smallest_unsigned(values.size))  # there is room for one more
    table[values.astype(np.int64) - low] = np.arange(values.size)
    return np.asarray(table[whole if low == 0 else whole.astype(np.int64) - low])


def _background_first(values: Array, flat: Array, ignore: Array | None) -> tuple[Array, Array]:
    """Put background first (also where the array has none, as then its background voxels are the ignored ones)."""
    if values.size and values[0] == 0:
        return values, flat
    shifted = flat + 1 if ignore is None else np.where(ignore.reshape(flat.shape), 0, flat + 1)
    return np.concatenate([np.zeros(1, values.dtype), values]), shifted


def _integers(array: Array, source: str) -> Array:
    """Integer values of a label array; floats only if they are whole (fault L3)."""
    if array.dtype.kind in "uf" and array.size and np.isfinite(top := np.max(array)) and int(top) >= 2**63:
        raise DataError(f"a label value of {top}", file=source or None, expected="values below 2**63",
                        remedy="renumber the labels")
    if array.dtype.kind in "bui":
        return array.astype(np.uint8) if array.dtype.kind == "b" else array
    if array.dtype.kind != "f":
        raise DataError(f"labels of type {array.dtype}", file=source or None, expected="integers")
    rounded = np.rint(array)
    with np.errstate(invalid="ignore"):
        off = ~(np.abs(array - rounded) <= 1e-3)
    if off.any():
        first = tuple(int(i) for i in np.argwhere(off)[0])
        raise DataError(f"{counted(int(off.sum()), 'fractional label value')}, first {array[first]!s} at {first}",
                        file=source or None, expected="whole numbers (within 0.001)",
                        remedy="export the labels as integers with nearest-neighbour interpolation")
    return rounded.astype(np.int64)


def _mapped(array: Array, mapping: Mapping[int, int]) -> Array:
    """Values renamed all at once, so that 1=2 and 2=1 exchange."""
    out = array.astype(np.int64)
    for old, new in mapping.items():
        out[array == old] = new
    return out


def smallest_unsigned(top: int) -> np.dtype[Any]:
    """The smallest unsigned dtype that holds ``top``.

    Examples
    --------
    >>> smallest_unsigned(255), smallest_unsigned(70000)
    (dtype('uint8'), dtype('uint32'))
    """
    # numpy has two 64-bit types on some systems; files and compiled kernels know only the one named by size
    return np.dtype(f"u{np.min_scalar_type(max(int(top), 0)).itemsize}")


def smallest_integer(low: int, top: int) -> np.dtype[Any]:
    """The smallest integer dtype that holds ``low`` and ``top``; signed only where ``low`` is negative.

    Examples
    --------
    >>> smallest_integer(0, 255), smallest_integer(-1, 255)
    (dtype('uint8'), dtype('int16'))
    """
    if low >= 0:
        return smallest_unsigned(top)
    return np.dtype(np.promote_types(np.min_scalar_type(low), np.min_scalar_type(-1 - top)))


def narrowed(values: Array) -> Array:
    """The same integers in the smallest dtype that holds them, as files store labels.

    Examples
    --------
    >>> narrowed(np.array([0, 7])).dtype, narrowed(np.array([-1, 300])).dtype
    (dtype('uint8'), dtype('int16'))
    """
    return values.astype(smallest_integer(int(values.min(initial=0)), int(values.max(initial=0))), copy=False)
