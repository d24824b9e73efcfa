"""Rings as the text of JSON arrays, written digit by digit."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from biosegkit.kernels.contours import Contours

__all__ = ["coordinates"]

Ints = npt.NDArray[np.int64]

_OPEN, _CLOSE, _COMMA, _DOT, _MINUS, _ZERO = 91, 93, 44, 46, 45, 48


def coordinates(found: Contours, scale: tuple[float, float] = (1.0, 1.0)) -> tuple[npt.NDArray[np.uint8], Ints]:
    """The ``coordinates`` of every object: of a Polygon if it is one piece, else of a MultiPolygon.

    Parameters
    ----------
    found : Contours
    scale : tuple of float
        Along y and x; coordinates are multiplied by it and written with at most two decimals.

    Returns
    -------
    text : ndarray of uint8
    ends : ndarray of int64, (N + 1,)
        Object n has the characters ``ends[n]`` to ``ends[n + 1]``.

    Examples
    --------
    >>> from biosegkit.kernels.contours import contours
    >>> one = contours(np.array([0, 1]), np.array([0]), np.array([3]), np.array([4]))
    >>> coordinates(one)[0].tobytes().decode()
    '[[[3,0],[4,0],[4,1],[3,1],[3,0]]]'
    >>> coordinates(one, (0.25, 2))[0].tobytes().decode()
    '[[[6,0],[8,0],[8,0.25],[6,0.25],[6,0]]]'
    """
    top = float(np.abs(found.points).max(initial=0)) * max(scale)
    digits = len(str(int(top))) + 4
    rings, points = len(found.ring) - 1, len(found.points) + len(found.ring) - 1
    room = points * (2 * digits + 4) + rings * 3 + (len(found.piece) - 1) * 3 + (len(found.owner) - 1) * 3
    text, ends = np.empty(room, np.uint8), np.zeros(len(found.owner), np.int64)
    used = _write((found.points, found.ring, found.piece, found.owner), scale[0], scale[1], text, ends)
    return text[:used], ends


@numba.njit(cache=True, nogil=True)
def _write(found, sy, sx, text, ends):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """All objects one after the other."""
    points, ring, piece, owner = found
    at = 0
    for n in range(owner.size - 1):
        several = owner[n + 1] - owner[n] != 1
        if several:
            text[at] = _OPEN
            at += 1
        for p in range(owner[n], owner[n + 1]):
            at = _separated(text, at, p > owner[n])
            for r in range(piece[p], piece[p + 1]):
                at = _separated(text, at, r > piece[p])
                for k in range(ring[r], ring[r + 1] + 1):
                    q = k if k < ring[r + 1] else ring[r]  # the first point again
                    at = _separated(text, at, k > ring[r])
                    at = _number(text, at, points[q, 0] * sx)
                    text[at] = _COMMA
                    at = _number(text, at + 1, points[q, 1] * sy)
                    text[at] = _CLOSE
                    at += 1
                text[at] = _CLOSE
                at += 1
            text[at] = _CLOSE
            at += 1
        if several:
            text[at] = _CLOSE
            at += 1
        ends[n + 1] = at
    return at


@numba.njit(cache=True, nogil=True)
def _separated(text, at, further):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """A bracket, with a comma before it if it is not the first."""
    if further:
        text[at] = _COMMA
        at += 1
    text[at] = _OPEN
    return at + 1


@numba.njit(cache=True, nogil=True)
def _number(text, at, value):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """A number with up to two decimals, none of them an idle zero."""
    hundredths = np.int64(np.floor(np.abs(value) * 100 + 0.5))
    if value < 0 and hundredths > 0:
        text[at] = _MINUS
        at += 1
    whole, rest = hundredths // 100, hundredths % 100
    length, top = 1, np.int64(10)
    while whole >= top:
        length += 1
        top *= 10
    for k in range(length):
        text[at + length - 1 - k] = _ZERO + whole % 10
        whole //= 10
    at += length
    if rest:
        text[at], text[at + 1] = _DOT, _ZERO + rest // 10
        at += 2
        if rest % 10:
            text[at] = _ZERO + rest % 10
            at += 1
    return at
