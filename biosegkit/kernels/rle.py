"""Run lengths of masks as COCO stores them: column by column over the whole image, packed into text."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["coco_counts"]

Ints = npt.NDArray[np.int64]


def coco_counts(offset: Ints, y: npt.NDArray[np.int32], start: npt.NDArray[np.int32], stop: npt.NDArray[np.int32],
                shape: tuple[int, int]) -> tuple[npt.NDArray[np.uint8], Ints]:
    """The compressed ``counts`` of every object.

    Parameters
    ----------
    offset, y, start, stop
        Runs of whole objects; see :func:`biosegkit.kernels.contours.contours`.
    shape : tuple of int
        Rows and columns of the image.

    Returns
    -------
    text : ndarray of uint8
        ASCII.
    ends : ndarray of int64, (N + 1,)
        Object n has the characters ``ends[n]`` to ``ends[n + 1]``.

    Notes
    -----
    Counts of background and object take turns, the background's first. From the fourth on they are differences from
    the one two before; each is written in groups of five bits, lowest first, with 32 where more follow, plus 48 (mask
    API of Lin et al., cocodataset.org).

    Examples
    --------
    >>> runs = np.array([0], np.int32), np.array([1], np.int32), np.array([3], np.int32)
    >>> coco_counts(np.array([0, 1]), *runs, (2, 4))[0].tobytes().decode()  # 2, 1, 1, 1, 3
    '21102'
    """
    count, used, ends = np.zeros(len(offset), np.int64), 0, np.zeros(len(offset), np.int64)
    columns = _columns(offset, y, start, stop, count)
    text = np.empty(8 * 2 * (len(columns) + len(offset)), np.uint8)
    used = _packed(count, columns, shape[0], shape[0] * shape[1], text, ends)
    return text[:used], ends


@numba.njit(cache=True, nogil=True)
def _columns(offset, y, start, stop, count):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Upright runs of every object, column by column: x, first row, row behind the last; ``count`` adds up."""
    total = 0
    for r in range(y.size):
        total += stop[r] - start[r]
    out = np.empty((total, 3), np.int64)  # as many as pixels at most
    used = 0
    for n in range(offset.size - 1):
        low, high = 2**62, -1
        for r in range(offset[n], offset[n + 1]):
            low, high = min(low, start[r]), max(high, stop[r])
        place = np.zeros(max(high - low, 0) + 1, np.int64)
        last = np.full(max(high - low, 0), -2, np.int64)
        for r in range(offset[n], offset[n + 1]):
            for x in range(start[r] - low, stop[r] - low):
                if last[x] != y[r] - 1:
                    place[x + 1] += 1
                last[x] = y[r]
        place = used + np.cumsum(place)
        last[:] = -2
        for r in range(offset[n], offset[n + 1]):
            for x in range(start[r] - low, stop[r] - low):
                if last[x] != y[r] - 1:
                    out[place[x], 0], out[place[x], 1] = x + low, y[r]
                    place[x] += 1
                out[place[x] - 1, 2] = y[r] + 1
                last[x] = y[r]
        used = place[-1] if high > low else used
        count[n + 1] = used
    return out[:used].copy()


@numba.njit(cache=True, nogil=True)
def _packed(count, columns, height, total, text, ends):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Counts of all objects, one after the other."""
    at = 0
    for n in range(count.size - 1):
        done, written, before, last = 0, 0, 0, 0  # pixels told, counts told, the last two counts
        k = count[n]
        while k < count[n + 1]:
            begin = columns[k, 0] * height + columns[k, 1]
            end = columns[k, 0] * height + columns[k, 2]
            k += 1
            while k < count[n + 1] and columns[k, 0] * height + columns[k, 1] == end:  # on in the next column
                end = columns[k, 0] * height + columns[k, 2]
                k += 1
            for length in (begin - done, end - begin):
                at = _number(text, at, length - (before if written > 2 else 0))
                before, last = last, length
                written += 1
            done = end
        if done < total:
            at = _number(text, at, total - done - (before if written > 2 else 0))
        ends[n + 1] = at
    return at


@numba.njit(cache=True, nogil=True)
def _number(text, at, value):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Five bits at a time until the rest is all sign."""
    more = True
    while more:
        group = value & 31
        value >>= 5
        more = value != (-1 if group & 16 else 0)
        text[at] = 48 + group + (32 if more else 0)
        at += 1
    return at
