"""Corrections of labels by hand: merge, split, delete, fill, relabel, grow and shrink, and what to look at next.

Each function changes a :class:`~biosegkit.canvas.Canvas` in one step that can be undone, and returns what it did.
Points are in voxels, in the order of the axes. Objects are named by their ids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from .canvas import Canvas, Change, Part
from .cutting import depth_inside, split_line, split_points
from .errors import DataError, OptionError

__all__ = ["ORDERS", "Order", "delete", "fill_holes", "grow", "in_order", "merge", "next_object", "relabel", "shrink",
           "split_line", "split_points"]

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
    if target != number and target in canvas.ids():
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


def in_order(canvas: Canvas, order: Order = "score", scores: Mapping[int, float] | None = None) -> list[int]:
    """Objects in the order to look at them.

    Parameters
    ----------
    canvas : Canvas
    order : {"score", "id", "area"}
        Least sure first, or by id, or smallest first. Objects without a score, new ones among them, come last.
    scores : mapping of int to float, optional
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
    if order not in ORDERS:
        raise OptionError(f"order {order!r}", expected=f"one of {', '.join(ORDERS)}")
    ids = canvas.ids()
    if order == "id":
        return ids
    keys = {i: canvas.area(i) if order == "area" else (scores or {}).get(i, math.inf) for i in ids}
    return sorted(ids, key=lambda i: (math.inf if math.isnan(keys[i]) else keys[i], i))


def next_object(canvas: Canvas, current: int, order: Order = "score", scores: Mapping[int, float] | None = None,
                *, back: bool = False) -> int:
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
    row = in_order(canvas, order, scores)
    if not row:
        raise DataError("no object", expected="labels with objects", remedy="segment the image first")
    if current not in row:
        return row[-1] if back else row[0]
    return row[(row.index(current) + (-1 if back else 1)) % len(row)]
