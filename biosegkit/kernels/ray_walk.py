"""Rays of whole objects at once: the machinery below `biosegkit.kernels.ray_distances`, for objects of any size.

All rays of one direction cross the same sequence of cells relative to their voxel, so all voxels of an object walk
together. A word has 64 neighbouring voxels of a row, and says which of them are still inside; words of all rows follow
one another, so that a step is a shift and an *and* of arrays. How far each voxel came is counted across words, one bit
of the count per array: those still inside after step ``s`` flip the one bit in which the Gray codes of ``s - 1`` and
``s`` differ.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from biosegkit.kernels.bits import trailing_zeros

__all__ = ["LONGEST", "by_code", "traverse", "walk"]

#: Most steps that are counted: 16 digits.
LONGEST = 65535

_ONE, _NONE, _BYTE = np.uint64(1), np.uint64(0), np.uint64(255)
#: Rays that walk before their lengths are written, and how many words their counts may take.
_TOGETHER, _ROOM = 16, 1 << 15


@numba.njit(cache=True, nogil=True)
def traverse(steps, widest, cells, lengths):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Cross the nearest face; faces met at the same length (an edge or a corner) are crossed together."""
    at = np.zeros(3, np.int64)
    for r in range(len(steps)):
        at[:] = 0
        for s in range(lengths.shape[1]):
            nearest = np.inf
            for a in range(3):
                if steps[r, a] != 0.0:
                    nearest = min(nearest, (abs(at[a]) + 0.5) / abs(steps[r, a]))
            for a in range(3):
                if steps[r, a] != 0.0 and (abs(at[a]) + 0.5) / abs(steps[r, a]) <= nearest * (1.0 + 1e-9):
                    at[a] += 1 if steps[r, a] > 0.0 else -1
                cells[r, s, a] = at[a]
            lengths[r, s] = nearest
            if abs(at[0]) > widest[0] or abs(at[1]) > widest[1] or abs(at[2]) > widest[2]:
                break


def by_code(lengths: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Columns in the order of Gray codes, filled up to a power of two.

    Examples
    --------
    >>> by_code(np.arange(4, dtype=np.float32)[None]).tolist()
    [[0.0, 1.0, 3.0, 2.0]]
    """
    count = lengths.shape[1]
    codes: npt.NDArray[Any] = np.arange(count) ^ (np.arange(count) >> 1)
    ordered = np.zeros((len(lengths), 1 << max(1, int(count - 1).bit_length())), np.float32)
    ordered[:, codes] = lengths
    return ordered


@numba.njit(cache=True, nogil=True)
def walk(image, table, layout, out, lo, hi):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """All rays of objects ``lo..hi``."""
    ids, known, objects, boxes, first = image
    cells, coded = table
    border, strides = layout[2][0], layout[3]
    room, slots, used = np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(_TOGETHER, np.int64)
    digits = 1
    while (1 << digits) < coded.shape[1]:
        digits += 1
    for k in range(lo, hi):
        z0, y0, x0, z1, y1, x1 = boxes[k]
        tall, words = y1 - y0 + 1, (x1 - x0 + 63) // 64
        count = (z1 - z0) * tall
        together = max(1, min(_TOGETHER, _ROOM // (count * digits)))
        padded, arrays = (words + 3) * (count + 2 * tall + 1), words + 1 + together * digits
        if room.size < padded + count * arrays:
            room = np.empty(padded + count * arrays, np.uint64)
        if slots.size < count * words:
            slots = np.empty(count * words, np.int64)
        rows = room[:padded].reshape(words + 3, count + 2 * tall + 1)
        parts = room[padded : padded + count * arrays].reshape(arrays, count)
        starts, alive = parts[:words], parts[words]
        planes = room[padded + count * (words + 1) : padded + count * arrays].reshape(together, digits, count)
        places = slots[: count * words].reshape(words, count)
        _bits(ids, objects[k], boxes[k], rows)
        _begin(rows, boxes[k], layout, first[k], starts, places)
        doubt = known.size > 0 or (not border and (
            z0 == 0 or y0 == 0 or x0 == 0 or z1 == ids.shape[0] or y1 == ids.shape[1] or x1 == ids.shape[2]))
        for w in range(words):
            column = x0 + 64 * w
            for r in range(0, len(cells), together):
                some = min(together, len(cells) - r)
                for m in range(some):
                    used[m] = _march(rows, cells[r + m], (w, tall), starts[w], alive, planes[m])
                if used[0] < 0:
                    break
                base, sparse = r * strides[1], layout[2][1]
                if sparse:
                    _write_sparse(starts[w], places[w], planes, used[:some], coded[r:], (base, strides[0]), out)
                for m in range(0 if sparse else some):
                    into = (base + m * strides[1], column, layout[0][2])
                    _write_dense(starts[w], places[w], planes[m, : used[m]], coded[r + m], into, out)
                for m in range(some if doubt else 0):
                    world = ((z0, y0, column), tall, known, ids.shape, border)
                    _lower_bounds(starts[w], places[w], planes[m, : used[m]], cells[r + m], (r + m, column), layout,
                                  world, out)


@numba.njit(cache=True, nogil=True)
def _bits(ids, value, box, rows):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """The voxels of one object as bits, with a word of zeros before and two after each row.

    A row of zeros lies between planes, a plane of zeros before and after; other arrays of rows begin with the object.
    """
    rows[:] = _NONE
    tall = box[4] - box[1] + 1
    for z in range(box[0], box[3]):
        for y in range(box[1], box[4]):
            i = (z - box[0] + 1) * tall + y - box[1] + 1
            for w in range(rows.shape[0] - 3):
                begin = box[2] + 64 * w
                word = _NONE
                for b in range(min(64, box[5] - begin)):
                    word |= np.uint64(ids[z, y, begin + b] == value) << np.uint64(b)
                rows[w + 1, i] = word


@numba.njit(cache=True, nogil=True)
def _begin(rows, box, layout, slot, starts, places):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Voxels of the grid, and the place of the first one of each word (sparse) or of the whole row (dense)."""
    grid, shape, flags, _, where = layout
    sparse = flags[1]
    z0, y0, x0, z1, y1, _ = box
    tall = y1 - y0 + 1
    starts[:] = _NONE
    for z in range(z0 + (-z0) % grid[0], z1, grid[0]):
        for y in range(y0 + (-y0) % grid[1], y1, grid[1]):
            i = (z - z0) * tall + y - y0
            line = (z // grid[0] * shape[1] + y // grid[1]) * shape[2]
            for w in range(len(starts)):
                word = rows[w + 1, i + tall + 1]
                x = x0 + 64 * w
                if grid[2] > 1:
                    chosen = _NONE
                    for b in range((-x) % grid[2], 64, grid[2]):
                        chosen |= _ONE << np.uint64(b)
                    word &= chosen
                starts[w, i] = word
                places[w, i] = slot if sparse else line
                while sparse and word != _NONE:
                    where[slot] = line + (x + np.int64(trailing_zeros(word))) // grid[2]
                    word &= word - _ONE
                    slot += 1


@numba.njit(cache=True, nogil=True)
def _march(rows, cells, at, start, alive, planes):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Let one word of every row walk along a ray; returns how many planes of the counts are filled.

    -1 if there is nothing to walk. What is read beyond an array of rows would be for voxels that have left already.
    """
    w, tall = at
    count, some = len(start), _NONE
    for i in range(count):
        alive[i] = start[i]
        some |= start[i]
    if some == _NONE:
        return -1
    used = 0
    for s in range(len(cells)):
        offset, column = (cells[s, 0] + 1) * tall + cells[s, 1] + 1, 64 * w + cells[s, 2]
        q, shift = (column >> 6) + 1, np.uint64(column & 63)
        digit = np.int64(trailing_zeros(np.uint64(s + 1)))
        if digit == used:  # the first time
            planes[digit, :] = _NONE
        begin, end = max(0, -offset), min(count, rows.shape[1] - offset)
        there = rows[q : q + 2, begin + offset : end + offset]
        some = _step(alive[begin:end], there[0], there[1], shift, planes[digit, begin:end])
        if some == _NONE:
            return used
        if digit == used:
            used += 1
    return used


@numba.njit(cache=True, nogil=True)
def _step(alive, one, two, shift, plane):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Those still inside in the next cell; they flip a bit of their count."""
    some, back = _NONE, np.uint64(63) - shift
    for i in range(len(alive)):
        word = alive[i] & ((one[i] >> shift) | ((two[i] << _ONE) << back))
        alive[i] = word
        plane[i] ^= word
        some |= word
    return some


@numba.njit(cache=True, nogil=True)
def _write_sparse(start, places, planes, used, coded, into, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Lengths of some rays, voxel by voxel."""
    begin, stride = into
    codes, rays = np.empty((len(used), 2), np.uint64), len(used)
    for i in range(len(start)):
        mask, at = start[i], begin + places[i] * stride
        while mask != _NONE:
            b = trailing_zeros(mask)
            for q in range(rays):
                codes[q, 0], codes[q, 1] = _eight(planes[q], (0, used[q]), i, b), _eight(planes[q], (8, used[q]), i, b)
            eight = (mask >> b) & _BYTE
            mask = (mask >> b >> np.uint64(8)) << b << np.uint64(8)
            while eight != _NONE:
                k = np.uint64(8) * trailing_zeros(eight)
                eight &= eight - _ONE
                for q in range(rays):
                    high = np.int64((codes[q, 1] >> k) & _BYTE) << 8
                    out[at + q] = coded[q, np.int64((codes[q, 0] >> k) & _BYTE) | high]
                at += stride


@numba.njit(cache=True, nogil=True)
def _write_dense(start, places, planes, coded, into, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Lengths of one ray, run by run."""
    begin, column, every = into
    for i in range(len(start)):
        mask, base = start[i], begin + places[i]
        while mask != _NONE:
            b = trailing_zeros(mask)
            rest = ~(mask >> b)
            run = 1
            if every == 1:
                run = 64 - int(b) if rest == _NONE else int(trailing_zeros(rest))
            at = base + (column + np.int64(b)) // every
            for k in range(0, run, 8):
                low = _eight(planes, (0, len(planes)), i, b + np.uint64(k))
                high = _eight(planes, (8, len(planes)), i, b + np.uint64(k))
                for j in range(min(8, run - k)):
                    out[at + k + j] = coded[np.int64(low & _BYTE) | np.int64(high & _BYTE) << 8]
                    low >>= np.uint64(8)
                    high >>= np.uint64(8)
            last = b + np.uint64(run - 1)
            mask = (mask >> last >> _ONE) << last << _ONE


@numba.njit(cache=True, nogil=True)
def _eight(planes, digits, i, b):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Eight digits at most of the codes of eight voxels from bit ``b`` on, a byte each."""
    codes = _NONE
    for d in range(digits[0], min(digits[0] + 8, digits[1])):
        word = (planes[d, i] >> b) & _BYTE
        word = (word | (word << np.uint64(28))) & np.uint64(0x0000000F0000000F)
        word = (word | (word << np.uint64(14))) & np.uint64(0x0003000300030003)
        word = (word | (word << np.uint64(7))) & np.uint64(0x0101010101010101)
        codes |= word << np.uint64(d - digits[0])
    return codes


@numba.njit(cache=True, nogil=True)
def _lower_bounds(start, places, planes, cells, ray, layout, world, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Turn the sign of lengths that end where nothing is known."""
    r, column = ray
    grid, sparse, strides = layout[0], layout[2][1], layout[3]
    origin, tall, known, shape, border = world
    for i in range(len(start)):
        mask, n = start[i], 0
        z, y = origin[0] + i // tall, origin[1] + i % tall
        while mask != _NONE:
            b = np.int64(trailing_zeros(mask))
            mask &= mask - _ONE
            s = np.int64(0)
            for d in range(len(planes) - 1, -1, -1):  # a bit of the count is a bit of its code and the bit above
                s = 2 * s + (np.int64((planes[d, i] >> np.uint64(b)) & _ONE) ^ (s & 1))
            cz, cy, cx = z + cells[s, 0], y + cells[s, 1], column + b + cells[s, 2]
            place = places[i] + (n if sparse else (column + b) // grid[2])
            n += 1
            outside = cz < 0 or cy < 0 or cx < 0 or cz >= shape[0] or cy >= shape[1] or cx >= shape[2]
            if not border if outside else known.size > 0 and not known[cz, cy, cx]:
                at = r * strides[1] + place * strides[0]
                out[at] = -out[at]
