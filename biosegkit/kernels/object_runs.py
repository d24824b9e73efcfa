"""Runs of whole objects: runs of neighbouring tiles joined, their shape and intensities measured without an image."""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["Cut", "crossings", "hull_pixels", "intensities", "joined", "moments"]

Ints = npt.NDArray[np.int64]

#: Offset per row, start, stop and value of runs, as :func:`biosegkit.kernels.runs.cut` returns them.
Cut = tuple[Ints, npt.NDArray[np.int32], npt.NDArray[np.int32], Ints]


def joined(cuts: Sequence[Cut], starts: Sequence[int]) -> Cut:
    """Runs of tiles side by side as those of the band they make up.

    Parameters
    ----------
    cuts : sequence of Cut
        From left to right, all of the same rows.
    starts : sequence of int
        First column of each tile.

    Examples
    --------
    >>> from biosegkit.kernels.runs import cut
    >>> tiles = [cut(np.array([[[0, 5]]]), False), cut(np.array([[[5, 6]]]), False)]
    >>> [a.tolist() for a in joined(tiles, (0, 2))]
    [[0, 2], [1, 3], [3, 4], [5, 6]]
    """
    offsets = np.stack([offset for offset, *_ in cuts])
    first = np.concatenate([np.zeros(1, np.int64), np.cumsum(offsets[:, -1])])
    start, stop = (np.concatenate([c[k] + s for c, s in zip(cuts, starts, strict=True)]).astype(np.int32)
                   for k in (1, 2))
    found: Cut = _joined(offsets, first, start, stop, np.concatenate([c[3] for c in cuts]))
    return found


@numba.njit(cache=True, nogil=True)
def _joined(offsets, first, start, stop, value):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Row by row from tile to tile; a run that goes on in the next tile is one."""
    tiles, rows = offsets.shape[0], offsets.shape[1] - 1
    offset = np.zeros(rows + 1, np.int64)
    out = (np.empty(start.size, np.int32), np.empty(start.size, np.int32), np.empty(start.size, np.int64))
    used = 0
    for row in range(rows):
        begun = used
        for tile in range(tiles):
            for k in range(first[tile] + offsets[tile, row], first[tile] + offsets[tile, row + 1]):
                if used > begun and out[1][used - 1] == start[k] and out[2][used - 1] == value[k]:
                    out[1][used - 1] = stop[k]
                else:
                    out[0][used], out[1][used], out[2][used] = start[k], stop[k], value[k]
                    used += 1
        offset[row + 1] = used
    return offset, out[0][:used].copy(), out[1][:used].copy(), out[2][:used].copy()


@numba.njit(cache=True, nogil=True)
def moments(offset, runs, place, sums):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Add to ``sums`` (N, 10) of every object: 1, z, y, x, zz, yy, xx, zy, zx, yx, summed over its pixels.

    ``runs`` are y, start and stop, ``place`` is (N, 3): what is subtracted from z, y, x, but z itself stands in its
    first column already subtracted.
    """
    y, start, stop = runs
    for n in range(offset.size - 1):
        z = float(place[n, 0])
        total = np.zeros(10)
        for r in range(offset[n], offset[n + 1]):
            a, b, line = float(start[r] - place[n, 2]), float(stop[r] - place[n, 2]), float(y[r] - place[n, 1])
            count = b - a
            x = count * (a + b - 1) / 2
            total[0] += count
            total[1] += count * z
            total[2] += count * line
            total[3] += x
            total[4] += count * z * z
            total[5] += count * line * line
            total[6] += _squares(b) - _squares(a)
            total[7] += count * z * line
            total[8] += x * z
            total[9] += x * line
        sums[n] += total


@numba.njit(cache=True, nogil=True)
def _squares(n):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """0 + 1 + 4 + ... + (n - 1)**2."""
    return (n - 1) * n * (2 * n - 1) / 6


@numba.njit(cache=True, nogil=True)
def crossings(offset, y, start, stop):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """How often lines along x, y, the falling and the rising diagonal cross the border of each object: (N, 4).

    Lines run through pixel centres, one through every pixel of their direction; of Crofton's formula.
    """
    out = np.zeros((offset.size - 1, 4), np.int64)
    for n in range(offset.size - 1):
        area = 0
        for r in range(offset[n], offset[n + 1]):
            area += stop[r] - start[r]
        shared = np.zeros(3, np.int64)
        a0, end = offset[n], offset[n + 1]
        while a0 < end:
            a1 = a0
            while a1 < end and y[a1] == y[a0]:
                a1 += 1
            b1 = a1
            while b1 < end and y[b1] == y[a0] + 1:
                b1 += 1
            for shift in range(-1, 2):
                i, j = a0, a1
                while i < a1 and j < b1:
                    low, high = max(start[i] + shift, start[j]), min(stop[i] + shift, stop[j])
                    shared[shift + 1] += max(high - low, 0)
                    if stop[i] + shift < stop[j]:
                        i += 1
                    else:
                        j += 1
            a0 = a1
        out[n, 0] = 2 * (end - offset[n])
        out[n, 1] = 2 * (area - shared[1])
        out[n, 2] = 2 * (area - shared[2])
        out[n, 3] = 2 * (area - shared[0])
    return out


@numba.njit(cache=True, nogil=True)
def hull_pixels(offset, y, start, stop):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Pixels whose centres lie in the convex hull of each object, ends of pixels' axes taken as its points.

    All in whole numbers of half a pixel, so that a centre on the border of the hull is always inside.
    """
    out = np.zeros(offset.size - 1, np.int64)
    for n in range(offset.size - 1):
        lo, hi = offset[n], offset[n + 1]
        if lo == hi:
            continue
        top, lines = y[lo], 2 * (y[hi - 1] - y[lo]) + 3
        left = np.full(lines, np.iinfo(np.int64).max)
        right = np.full(lines, np.iinfo(np.int64).min)
        for r in range(lo, hi):
            k = 2 * (y[r] - top) + 1
            a, b = 2 * np.int64(start[r]), 2 * np.int64(stop[r] - 1)
            left[k], right[k] = min(left[k], a - 1), max(right[k], b + 1)
            for m in (k - 1, k + 1):
                left[m], right[m] = min(left[m], a), max(right[m], b)
        _chain(left, 1)
        _chain(right, -1)
        for k in range(1, lines, 2):
            out[n] += right[k] // 2 + (-left[k]) // 2 + 1  # floor(right / 2) - ceil(left / 2) + 1
    return out


@numba.njit(cache=True, nogil=True)
def _chain(side, sign):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Replace a side's points by where its hull crosses each line, rounded inwards to whole halves of a pixel."""
    none = np.iinfo(np.int64).max if sign > 0 else np.iinfo(np.int64).min
    stack = np.empty(side.size, np.int64)
    used = 0
    for k in range(side.size):
        if side[k] == none:
            continue
        while used > 1:
            i, j = stack[used - 2], stack[used - 1]
            # the middle point goes unless it lies strictly outside of the line from i to k
            if sign * ((side[j] - side[i]) * (k - i) - (side[k] - side[i]) * (j - i)) >= 0:
                used -= 1
            else:
                break
        stack[used] = k
        used += 1
    for s in range(used - 1):
        i, j = stack[s], stack[s + 1]
        at, step = side[i], side[j] - side[i]
        for k in range(i, j):
            # ceil for the left side, floor for the right one
            moved = -((-step * (k - i)) // (j - i)) if sign > 0 else (step * (k - i)) // (j - i)
            side[k] = at + moved


@numba.njit(cache=True, nogil=True)
def intensities(cuts, owner, image, found):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Add the pixels of a tile to what is known of every object, in raster order.

    Parameters
    ----------
    cuts : offset, start, stop
        Runs of the tile.
    owner : ndarray of int, (R,)
        Row of the object of every run; below 0 for none.
    image : ndarray, (C, Z, Y, X)
        Of the tile.
    found : first, total, squares, low, high
        Each (N, C) of float64. ``first`` is NaN until a pixel was seen; sums are of differences from it, which
        keeps their digits.
    """
    offset, start, stop = cuts
    first, total, squares, low, high = found
    ny = image.shape[2]
    for c in range(image.shape[0]):
        for row in range(offset.size - 1):
            z, y = row // ny, row % ny
            for r in range(offset[row], offset[row + 1]):
                n = owner[r]
                if n < 0:
                    continue
                if low[n, c] > high[n, c]:
                    first[n, c] = image[c, z, y, start[r]]
                for x in range(start[r], stop[r]):
                    value = float(image[c, z, y, x])
                    off = value - first[n, c]
                    total[n, c] += off
                    squares[n, c] += off * off
                    if value < low[n, c] or value != value:  # what is no number stays
                        low[n, c] = value
                    if value > high[n, c] or value != value:
                        high[n, c] = value
