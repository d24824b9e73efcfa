"""Cutting an object in parts by hand: along a line, or around points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ._words import counted
from .canvas import Canvas, Change
from .errors import DataError, OptionError

__all__ = ["depth_inside", "split_line", "split_points"]

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

#: A line parts voxels that touch by a corner if all within half a diagonal of it are its own.
_HALF = math.sqrt(0.5) + 1e-9


def split_points(canvas: Canvas, number: int, points: Sequence[Sequence[float]]) -> Change:
    """Split an object into one part per point: a watershed of the depth below its surface, flooded from the points.

    The part of the first point keeps the id. Pieces without a point go with the nearest part.

    Parameters
    ----------
    canvas : Canvas
    number : int
        The object.
    points : sequence of points, (N, ndim)
        Two or more, all in the object and in different voxels.

    Raises
    ------
    DataError
        If a point is not in the object, or two are in one voxel.

    Examples
    --------
    >>> canvas = Canvas(np.full((1, 6), 4))
    >>> split_points(canvas, 4, [(0, 0), (0, 5)]).ids, canvas.array.tolist()
    ((4, 5), [[4, 4, 4, 5, 5, 5]])
    """
    from scipy.ndimage import distance_transform_edt
    from skimage.segmentation import watershed

    window = canvas.window(number, 1)
    places = [tuple(int(np.rint(p)) for p in point) for point in points]
    if len(set(places)) < 2 or len(set(places)) < len(places):
        raise DataError(counted(len(set(places)), "different point"), expected="two or more, one per part",
                        remedy="click once in each part")
    for place in places:
        if canvas.at(place) != number:
            raise DataError(f"a point at {place} in {canvas.at(place) or 'the background'}",
                            expected=f"points in object {number}", remedy="click inside the object")
    values = canvas.read(window)
    inside = values == number
    markers = np.zeros(inside.shape, np.int32)
    for k, place in enumerate(places, 1):
        markers[tuple(p - w.start for p, w in zip(place, window, strict=True))] = k
    depth = depth_inside(inside, canvas.spacing)
    parts = watershed(-np.where(np.isfinite(depth), depth, 0), markers, mask=inside, connectivity=inside.ndim)
    lost = inside & (parts == 0)
    if lost.any():
        nearest = distance_transform_edt(parts == 0, sampling=canvas.spacing, return_distances=False,
                                         return_indices=True)
        parts = np.where(lost, parts[tuple(nearest)], parts)
    ids = [number, *canvas.new_ids(len(places) - 1)]
    names = np.array([0, *ids], values.dtype)
    return canvas.write("split", ids, [(window, inside, names[parts])])


def split_line(canvas: Canvas, number: int, line: Sequence[Sequence[float]], axis: int | None = None) -> Change:
    """Cut an object along a line; in a stack the line is drawn in a plane and cuts through all of them.

    What is left of the line and what is right of it become two objects; the larger keeps the id. Pieces that the line
    does not touch stay with it.

    Parameters
    ----------
    canvas : Canvas
    number : int
        The object.
    line : sequence of points, (N, ndim)
        Two or more, from one side of the object to the other.
    axis : int, optional
        Of a stack: the axis across the plane the line is drawn in, by default the first along which its points
        are equal.

    Raises
    ------
    DataError
        If the line does not part the object.
    OptionError
        If the axis is not clear.

    Examples
    --------
    >>> canvas = Canvas(np.full((3, 6), 4))
    >>> split_line(canvas, 4, [(-1, 1.5), (3, 1.5)]).ids, canvas.array[0].tolist()
    ((4, 5), [5, 5, 4, 4, 4, 4])
    """
    points = np.asarray(line, np.float64)
    if points.ndim != 2 or len(points) < 2 or points.shape[1] != len(canvas.shape):
        raise DataError(f"a line of shape {points.shape}",
                        expected=f"two or more points of {len(canvas.shape)} numbers",
                        remedy="draw the line across the object")
    across = _axis_across(points, axis)
    window = canvas.window(number)
    values = canvas.read(window)
    inside = values == number
    flat = [a for a in range(inside.ndim) if a != across]
    grid = np.stack(np.meshgrid(*(np.arange(window[a].start, window[a].stop) for a in flat), indexing="ij"), axis=-1)
    distance, left = _beside(grid.astype(np.float64), points[:, flat])
    if across is not None:
        distance, left = np.expand_dims(distance, across), np.expand_dims(left, across)
    side = _sides(inside, np.broadcast_to(distance <= _HALF, inside.shape), np.broadcast_to(left, inside.shape))
    if side is None:
        raise DataError(f"a line that does not part object {number}",
                        expected="a line from one side of it to the other",
                        remedy="begin and end outside the object")
    parts = [(side == k) & inside for k in (1, 2)]
    moved = min(parts, key=np.count_nonzero)
    fresh = canvas.new_ids()[0]
    return canvas.write("split", [number, fresh], [(window, moved, fresh)])


def _axis_across(points: Floats, axis: int | None) -> int | None:
    """The axis a line does not run along: None in a plane."""
    if points.shape[1] == 2:
        return None
    if axis is not None:
        return int(axis % points.shape[1])
    level = [a for a in range(points.shape[1]) if np.ptp(points[:, a]) < 1e-6]
    if not level:
        raise OptionError("a line along all axes", expected="a line in one plane",
                          remedy="draw it in one plane, or name the axis across it")
    return level[0]


def _beside(grid: Floats, line: Floats) -> tuple[Floats, Mask]:
    """Distance of places (…, 2) from a line, and whether they lie to its left, seen from the nearest segment.

    At a corner two segments are equally near: the one that is seen less edge-on decides.
    """
    best = np.full(grid.shape[:-1], np.inf)
    turn, left = np.zeros(best.shape), np.zeros(best.shape, bool)
    for a, b in itertools.pairwise(line):
        along = b - a
        length = float(np.hypot(*along))
        if length == 0:
            continue
        away = grid - a
        t = np.clip(away @ along / length**2, 0, 1)
        distance = np.hypot(*np.moveaxis(away - t[..., None] * along, -1, 0))
        cross = (along[0] * away[..., 1] - along[1] * away[..., 0]) / length
        facing = np.abs(cross) / np.maximum(distance, 1e-12)
        closer = (distance < best - 1e-9) | ((np.abs(distance - best) <= 1e-9) & (facing > turn))
        best, turn = np.where(closer, distance, best), np.where(closer, facing, turn)
        left = np.where(closer, cross >= 0, left)
    return best, left


def _sides(inside: Mask, wall: Mask, left: Mask) -> npt.NDArray[np.uint8] | None:
    """1 for the part on the left of a wall, 2 for that on the right, 0 for pieces it does not touch; None if not two.

    A piece between both sides is on the one along which it touches more of the wall.
    """
    from scipy.ndimage import binary_dilation, label  # slow to import: a viewer opens without

    around = np.ones((3,) * inside.ndim, bool)
    pieces, count = label(inside & ~wall, around)
    touch = binary_dilation(inside & wall, around) & (pieces > 0)
    sides = [np.bincount(pieces[touch & where], minlength=count + 1) for where in (left, ~left)]
    side = np.where(sides[0] + sides[1] == 0, 0, np.where(sides[0] >= sides[1], 1, 2)).astype(np.uint8)
    if not ((side == 1).any() and (side == 2).any()):
        return None
    return np.where(inside & wall, np.where(left, 1, 2), side[pieces]).astype(np.uint8)


def depth_inside(inside: Mask, spacing: Sequence[float]) -> Floats:
    """Distance of every voxel from what is outside; infinite where nothing is.

    Parameters
    ----------
    inside : ndarray of bool, (*space)
        An object in a window that is wider than it; where it reaches the edge, nothing lies beyond.
    spacing : sequence of float
        Per axis.

    Examples
    --------
    >>> depth_inside(np.array([True, True, False]), (0.5,)).tolist()
    [1.0, 0.5, 0.0]
    """
    from scipy.ndimage import distance_transform_edt

    if inside.all():
        return np.full(inside.shape, np.inf)
    return np.asarray(distance_transform_edt(inside, sampling=spacing), dtype=np.float64)
