"""Outlines of objects along pixel edges, from runs alone: exact, with holes, and without an image of any kind.

Every end of a run is an upright edge one pixel long. Along the line between two rows, edges are joined where the rows
differ; following the joints gives closed rings. Pieces hold together over pixel sides. Where two pixels of one piece
meet at a corner only, the ring keeps to the background, so that no ring ever touches itself: every piece is a valid
polygon (OGC simple features), its holes may touch it or each other in points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from biosegkit.kernels.components import find, union

__all__ = ["Contours", "contours"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Contours:
    """Rings of many objects; those of a piece stand together, its outer ring first.

    Parameters
    ----------
    points : ndarray of int32, (P, 2)
        Corners (x, y) of the rings, in pixel edges: the first pixel covers 0 to 1. Only corners where a ring turns; the
        first is not repeated at the end.
    ring : ndarray of int64, (R + 1,)
        Ring r has the points ``ring[r]`` to ``ring[r + 1]``.
    piece : ndarray of int64, (K + 1,)
        Piece p has the rings ``piece[p]`` to ``piece[p + 1]``: one outer ring, counter-clockwise in (x, y), then holes.
    owner : ndarray of int64, (N + 1,)
        Object n has the pieces ``owner[n]`` to ``owner[n + 1]``.
    """

    points: npt.NDArray[np.int32]
    ring: Ints
    piece: Ints
    owner: Ints


def contours(offset: Ints, y: npt.NDArray[Any], start: npt.NDArray[Any], stop: npt.NDArray[Any]) -> Contours:
    """Trace the rings of objects given as runs.

    Parameters
    ----------
    offset : ndarray of int64, (N + 1,)
        Object n has the runs ``offset[n]`` to ``offset[n + 1]``, in raster order; runs of one row do not touch.
    y, start, stop : ndarray of int, (R,)
        Row, first column and the column behind the last of every run.

    Examples
    --------
    A square with a hole in the middle:

    >>> found = contours(np.array([0, 4]), np.array([0, 1, 1, 2]), np.array([0, 0, 2, 0]), np.array([3, 1, 3, 3]))
    >>> found.points[found.ring[0]: found.ring[1]].tolist()
    [[0, 0], [3, 0], [3, 3], [0, 3]]
    >>> found.points[found.ring[1]: found.ring[2]].tolist()
    [[1, 2], [2, 2], [2, 1], [1, 1]]
    """
    runs = tuple(np.ascontiguousarray(a, np.int32) for a in (y, start, stop))
    points, ring, root = _trace(np.ascontiguousarray(offset, np.int64), *runs)
    order = np.argsort(root, kind="stable")  # the outer ring of a piece begins at its first run, so it comes first
    if len(order) and (np.diff(order) < 0).any():
        points, ring, root = _ordered(points, ring, order), _ends(np.diff(ring)[order]), root[order]
    first = np.flatnonzero(np.diff(root, prepend=-1))
    pieces = np.append(first, len(root))
    return Contours(points, ring, pieces, np.searchsorted(root[first], offset))


def _ends(sizes: Ints) -> Ints:
    """Where each of adjoining parts begins, and where the last one ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])


@numba.njit(cache=True, nogil=True)
def _ordered(points, ring, order):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """The points of the rings in another order of rings."""
    out = np.empty_like(points)
    used = 0
    for r in order:
        for k in range(ring[r], ring[r + 1]):
            out[used] = points[k]
            used += 1
    return out


@numba.njit(cache=True, nogil=True)
def _trace(offset, y, start, stop):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Join the edges line by line, then follow them; ``root`` is the first run of a ring's piece."""
    runs = y.size
    after = np.empty(2 * runs, np.int32)
    parent = np.arange(runs, dtype=np.int64)
    for n in range(offset.size - 1):
        _join_rows(offset[n], offset[n + 1], y, start, stop, parent)
    for n in range(offset.size - 1):
        _join_edges(offset[n], offset[n + 1], y, start, stop, parent, after)
    points = np.empty((4 * runs, 2), np.int32)
    ring, root = np.zeros(2 * runs + 1, np.int64), np.empty(2 * runs, np.int64)
    seen = np.zeros(2 * runs, np.bool_)
    used, rings = 0, 0
    for first in range(2 * runs):
        if seen[first]:
            continue
        e = first
        while not seen[e]:
            seen[e] = True
            f = after[e]
            here = stop[e >> 1] if e & 1 else start[e >> 1]
            there = stop[f >> 1] if f & 1 else start[f >> 1]
            if here != there:
                line = y[e >> 1] + (e & 1)  # edges on the left go up, those on the right go down
                points[used, 0], points[used, 1] = here, line
                points[used + 1, 0], points[used + 1, 1] = there, line
                used += 2
            e = f
        rings += 1
        ring[rings] = used
        root[rings - 1] = find(parent, first >> 1)
    return points[:used].copy(), ring[: rings + 1].copy(), root[:rings].copy()


@numba.njit(cache=True, nogil=True)
def _row_end(at, end, y):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Where the row of run ``at`` ends."""
    k = at + 1
    while k < end and y[k] == y[at]:
        k += 1
    return k


@numba.njit(cache=True, nogil=True)
def _join_rows(begin, end, y, start, stop, parent):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Runs of neighbouring rows that share a pixel side are of one piece."""
    a0 = begin
    while a0 < end:
        a1 = _row_end(a0, end, y)
        if a1 == end:
            return
        b1 = _row_end(a1, end, y)
        if y[a1] == y[a0] + 1:
            i, j = a0, a1
            while i < a1 and j < b1:
                if start[i] < stop[j] and start[j] < stop[i]:
                    union(parent, i, j)
                if stop[i] < stop[j]:
                    i += 1
                else:
                    j += 1
        a0 = a1


@numba.njit(cache=True, nogil=True)
def _join_edges(begin, end, y, start, stop, parent, after):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Go through all lines of an object, between two of its rows or at the border of one."""
    a0, a1 = begin, begin  # the row above the line
    b0 = begin
    while b0 < end:
        b1 = _row_end(b0, end, y)
        if a1 > a0 and y[a0] + 1 != y[b0]:
            _join_line(a0, a1, b0, b0, start, stop, parent, after)
            a0 = a1
        _join_line(a0, a1, b0, b1, start, stop, parent, after)
        a0, a1, b0 = b0, b1, b1
    _join_line(a0, a1, b0, b0, start, stop, parent, after)


@numba.njit(cache=True, nogil=True)
def _join_line(a0, a1, b0, b1, start, stop, parent, after):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Join the lower ends of the edges above a line (runs a0 to a1) and the upper ends of those below (b0 to b1)."""
    e, e1, f, f1 = 2 * a0, 2 * a1, 2 * b0, 2 * b1
    open_edge, open_leaves = -1, False  # the end that the level edge on the left of here begins with
    while e < e1 or f < f1:
        above = 2147483647 if e == e1 else (stop[e >> 1] if e & 1 else start[e >> 1])
        below = 2147483647 if f == f1 else (stop[f >> 1] if f & 1 else start[f >> 1])
        if above == below and (e & 1) == (f & 1):  # the border goes straight on
            if e & 1:
                after[e] = f
            else:
                after[f] = e
            e += 1
            f += 1
        elif above == below:  # two pixels meet at a corner
            one = find(parent, e >> 1) == find(parent, f >> 1)
            to_above = one != bool(e & 1)  # which of them the level edge on the left leads to
            if to_above:
                _link(open_edge, open_leaves, e, after)
                open_edge, open_leaves = f, (f & 1) == 0
            else:
                _link(open_edge, open_leaves, f, after)
                open_edge, open_leaves = e, (e & 1) == 1
            e += 1
            f += 1
        else:
            at_above = above < below
            edge = e if at_above else f
            if open_edge < 0:
                open_edge, open_leaves = edge, (edge & 1) == (1 if at_above else 0)
            else:
                _link(open_edge, open_leaves, edge, after)
                open_edge = -1
            if at_above:
                e += 1
            else:
                f += 1


@numba.njit(cache=True, nogil=True)
def _link(edge, leaves, other, after):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """One follows the other, in the direction the first end says."""
    if leaves:
        after[edge] = other
    else:
        after[other] = edge
