"""Corrections of labels by hand: merge, split, delete, fill, relabel, grow and shrink, and what to look at next.

Each function changes a :class:`~biosegkit.canvas.Canvas` in one step that can be undone, and returns what it did.
Points are in voxels, in the order of the axes. Objects are named by their ids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .canvas import Canvas, Change, Part
from .cutting import depth_inside, split_line, split_points
from .errors import DataError, OptionError

__all__ = ["ORDERS", "Order", "Scores", "delete", "fill_holes", "grow", "in_order", "merge", "next_object", "relabel",
           "shrink", "split_line", "split_points"]

Array = npt.NDArray[Any]
Order = Literal["score", "id", "area"]
ORDERS: tuple[Order, ...] = ("score", "id", "area")


def merge(canvas: Canvas, ids: Sequence[int]) -> Change:
    """Give several objects the id of the first.

    Raises
    ------
    DataError
        If an object is not there, or there are fewer than two.

    Examples
    --------
    >>> canvas = Canvas(np.array([[1, 2, 0, 3]]))
    >>> merge(canvas, [3, 1]).voxels, canvas.array.tolist()
    (1, [[3, 2, 0, 3]])
    """
    kept, *others = dict.fromkeys(ids)
    if not others:
        raise DataError(f"one object to merge, {kept}", expected="two or more", remedy="pick another one as well")
    canvas.area(kept)
    return _renamed(canvas, "merge", ids, dict.fromkeys(others, kept))


def delete(canvas: Canvas, ids: Sequence[int]) -> Change:
    """Make background of objects.

    Examples
    --------
    >>> canvas = Canvas(np.array([[1, 2, 2]]))
    >>> delete(canvas, [2]).ids, canvas.ids()
    ((2,), [1])
    """
    return _renamed(canvas, "delete", ids, dict.fromkeys(ids, 0))


def relabel(canvas: Canvas, number: int, new: int | None = None) -> Change:
    """Give an object another id, by default one that is free.

    Raises
    ------
    DataError
        If another object has that id, or the type of the array does not hold it.

    Examples
    --------
    >>> canvas = Canvas(np.array([[1, 2, 2]]))
    >>> relabel(canvas, 2, 7).ids, canvas.ids()
    ((2, 7), [1, 7])
    """
    canvas.area(number)
    target = canvas.new_ids()[0] if new is None else int(new)
    if target != number and target in canvas:
        raise DataError(f"an object {target} already", expected="an id that is free",
                        remedy=f"merge {number} with {target}, or choose {canvas.new_ids()[0]}")
    if not 0 < target <= np.iinfo(canvas.array.dtype).max:
        raise DataError(f"id {target} in labels of type {canvas.array.dtype}",
                        expected=f"1 to {np.iinfo(canvas.array.dtype).max}", remedy="choose a smaller id")
    return _renamed(canvas, "relabel", [number, target], {number: target})


def _renamed(canvas: Canvas, operation: str, ids: Sequence[int], names: Mapping[int, int]) -> Change:
    """One step in which each object is written in its own window."""
    windows = {old: canvas.window(old) for old in names}
    parts: list[Part] = [(window, canvas.read(window) == old, names[old]) for old, window in windows.items()]
    return canvas.write(operation, list(dict.fromkeys(ids)), parts)


def fill_holes(canvas: Canvas, number: int, axis: int | None = None) -> Change:
    """Give an object the background that it encloses; other objects in the hole stay.

    Parameters
    ----------
    canvas : Canvas
    number : int
        The object.
    axis : int, optional
        Of a stack: fill in every plane across this axis, tunnels too; by default only what is enclosed on all sides.

    Examples
    --------
    >>> ring = np.array([[1, 1, 1, 1], [1, 0, 2, 1], [1, 1, 1, 1]])
    >>> canvas = Canvas(ring)
    >>> fill_holes(canvas, 1).voxels, ring[1].tolist()
    (1, [1, 1, 2, 1])
    """
    from scipy.ndimage import binary_fill_holes  # slow to import: a viewer opens without

    window = canvas.window(number)
    values = canvas.read(window)
    inside = values == number
    if axis is None or inside.ndim == 2:
        filled = binary_fill_holes(inside)
    else:
        planes = np.moveaxis(inside, axis, 0)
        filled = np.moveaxis(np.stack([binary_fill_holes(plane) for plane in planes]), 0, axis)
    return canvas.write("fill", [number], [(window, filled & (values == 0), number)])


def grow(canvas: Canvas, number: int, amount: float = 1) -> Change:
    """Widen an object into the background, never over another object nor past one to where it is not connected.

    Parameters
    ----------
    canvas : Canvas
    number : int
        The object.
    amount : float
        Distance from the object that it grows to, in steps between voxels of the finest axis.

    Examples
    --------
    >>> canvas = Canvas(np.array([[0, 0, 1, 0, 2, 0]]))
    >>> grow(canvas, 1, 2).voxels, canvas.array.tolist()
    (3, [[1, 1, 1, 1, 2, 0]])
    """
    from scipy.ndimage import distance_transform_edt, label

    reach = _reach(canvas, amount)
    window = canvas.window(number, [math.ceil(reach / s) + 1 for s in canvas.spacing])
    values = canvas.read(window)
    inside = values == number
    near = distance_transform_edt(~inside, sampling=canvas.spacing) <= reach + 1e-9
    pieces, _ = label(inside | (near & (values == 0)))
    ours = np.isin(pieces, np.unique(pieces[inside])) & (pieces > 0)
    return canvas.write("grow", [number], [(window, ours, number)])


def shrink(canvas: Canvas, number: int, amount: float = 1) -> Change:
    """Take away the rim of an object; the edge of the image is no rim.

    Parameters
    ----------
    canvas : Canvas
    number : int
        The object.
    amount : float
        Depth of the rim, in steps between voxels of the finest axis.

    Raises
    ------
    DataError
        If nothing would be left.

    Examples
    --------
    >>> canvas = Canvas(np.array([[1, 1, 1, 1, 0]]))
    >>> shrink(canvas, 1).voxels, canvas.array.tolist()
    (1, [[1, 1, 1, 0, 0]])
    """
    reach = _reach(canvas, amount)
    window = canvas.window(number, 1)
    values = canvas.read(window)
    inside = values == number
    rim = inside & (depth_inside(inside, canvas.spacing) <= reach + 1e-9)
    if np.array_equal(rim, inside):
        raise DataError(f"nothing left of object {number} after {amount:g} steps", expected="a smaller amount",
                        remedy="shrink it by less, or delete it")
    return canvas.write("shrink", [number], [(window, rim, 0)])


def _reach(canvas: Canvas, amount: float) -> float:
    """An amount of steps as a distance."""
    if not amount > 0:
        raise OptionError(f"an amount of {amount:g}", expected="more than 0", remedy="use grow or shrink")
    return float(amount * min(canvas.spacing))


class Scores:
    """How sure a model is of each object, quick to ask for a million of them.

    Parameters
    ----------
    ids : array-like of int
    values : array-like of float

    Examples
    --------
    >>> scores = Scores([7, 3], [0.5, 0.9])
    >>> scores.get(3), scores.get(4), scores.of(np.array([3, 4, 7])).tolist()
    (0.9, None, [0.9, inf, 0.5])
    """

    def __init__(self, ids: npt.ArrayLike = (), values: npt.ArrayLike = ()) -> None:
        numbers, known = np.asarray(ids, np.int64), np.asarray(values, np.float64)
        order = np.argsort(numbers, kind="stable")
        self._ids, self._values = np.append(-1, numbers[order]), np.append(math.inf, known[order])  # -1: none of them
        self._last: tuple[Any, Any] = (None, None)

    @classmethod
    def from_mapping(cls, scores: Mapping[int, float] | Scores | None) -> Scores:
        """A mapping as one of these."""
        return scores if isinstance(scores, Scores) else cls(list(scores or {}), list((scores or {}).values()))

    def __len__(self) -> int:
        return len(self._ids) - 1

    def get(self, number: int) -> float | None:
        """The score of an object, None if it has none."""
        row = int(np.searchsorted(self._ids, number, side="right")) - 1
        return float(self._values[row]) if row > 0 and self._ids[row] == number else None

    def of(self, ids: Array) -> npt.NDArray[np.float64]:
        """The scores of many objects, infinite where there is none; the last answer is kept."""
        last, found = self._last
        if last is not ids:
            rows = np.searchsorted(self._ids, ids.astype(np.int64), side="right") - 1
            found = np.where(self._ids[rows] == ids, self._values[rows], math.inf)
            found[np.isnan(found)] = math.inf
            self._last = ids, found
        return np.asarray(found)


def in_order(canvas: Canvas, order: Order = "score",
             scores: Mapping[int, float] | Scores | None = None) -> list[int]:
    """Objects in the order to look at them.

    Parameters
    ----------
    canvas : Canvas
    order : {"score", "id", "area"}
        Least sure first, or by id, or smallest first. Objects without a score, new ones among them, come last.
    scores : mapping of int to float or Scores, optional
        How sure the model is of each object.

    Raises
    ------
    OptionError
        For another order.

    Examples
    --------
    >>> canvas = Canvas(np.array([[1, 2, 2, 3, 3, 3]]))
    >>> in_order(canvas, "score", {2: 0.4, 1: 0.9}), in_order(canvas, "area")
    ([2, 1, 3], [1, 2, 3])
    """
    ids, keys = _keys(canvas, order, scores)
    found: list[int] = ids[np.argsort(keys, kind="stable")].tolist()
    return found


def _keys(canvas: Canvas, order: Order, scores: Mapping[int, float] | Scores | None) -> tuple[Array, Array]:
    """The objects by id, and by what they are ordered before that."""
    if order not in ORDERS:
        raise OptionError(f"order {order!r}", expected=f"one of {', '.join(ORDERS)}")
    ids, voxels = canvas.sizes()
    if order == "id":
        return ids, np.zeros(len(ids))
    return ids, voxels if order == "area" else Scores.from_mapping(scores).of(ids)


def next_object(canvas: Canvas, current: int, order: Order = "score",
                scores: Mapping[int, float] | Scores | None = None, *, back: bool = False) -> int:
    """The object after the current one, or before it; after the last comes the first.

    Raises
    ------
    DataError
        If there is no object.

    Examples
    --------
    >>> canvas = Canvas(np.array([[1, 2, 2, 3, 3, 3]]))
    >>> next_object(canvas, 0, "id"), next_object(canvas, 3, "id"), next_object(canvas, 1, "id", back=True)
    (1, 1, 3)
    """
    ids, keys = _keys(canvas, order, scores)
    if not len(ids):
        raise DataError("no object", expected="labels with objects", remedy="segment the image first")
    if back:
        ids, keys = ids[::-1], -keys[::-1]
    later = np.ones(len(ids), bool)
    for here in np.flatnonzero(ids == current).tolist():
        later = keys >= keys[here]
        later[: here + 1] &= keys[: here + 1] > keys[here]
    if not later.any():
        later[:] = True
    return int(ids[np.argmax(later & (keys == keys[later].min()))])
