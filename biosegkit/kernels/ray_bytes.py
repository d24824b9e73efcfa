"""Rays of small objects at once: the other machinery below `biosegkit.kernels.ray_distances`, with the same results.

As in `biosegkit.kernels.ray_walk`, all voxels of an object walk together. Here each has a byte that says whether it is
still inside and one that counts its steps: a step is an *and* with the object moved by as many bytes as the cell is
away, and four steps are made in one pass. Counts need not be put together from bits before they are looked up.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["PASS", "small", "walk_bytes"]

#: Steps of one pass. A table of cells has as many more rows, of zeros, than any ray has steps.
PASS = 4
#: Most steps that a byte can count.
_LONGEST = 255
#: Bytes that are handled together: a constant, so that compilers need no loop for what is left over.
_BLOCK = 64
#: Rays that walk before their lengths are written, and how many bytes their counts may take.
_TOGETHER, _ROOM = 16, 1 << 20

_U = np.uint64


def small(boxes: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Objects in which a byte can count the steps of any ray.

    Parameters
    ----------
    boxes : ndarray of int32, (K, 6)
        Starts and stops of z, y, x.

    Examples
    --------
    >>> small(np.array([[0, 0, 0, 1, 20, 30], [5, 0, 0, 6, 120, 200]], np.int32)).tolist()
    [True, False]
    """
    sizes: npt.NDArray[Any] = boxes[:, 3:] - boxes[:, :3]
    return np.asarray(sizes.sum(axis=1) <= _LONGEST)


@numba.njit(cache=True, nogil=True)
def walk_bytes(image, table, layout, out, lo, hi):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """All rays of objects ``lo..hi``."""
    ids, known, objects, boxes, first = image
    cells, lengths = table
    border, sparse = layout[2]
    every, strides = layout[0][2], layout[3]
    memory, runs = np.empty(0, np.uint64), np.empty((0, 3), np.int64)
    for k in range(lo, hi):
        z0, y0, x0, z1, y1, x1 = boxes[k]
        tall, wide = y1 - y0 + 1, x1 - x0 + 1
        size = (z1 - z0) * tall * wide
        lead = wide + 1 + (tall * wide if z1 - z0 > 1 else 0)  # how far the next cell may be
        room, base = _up(size), _up(PASS * lead + _BLOCK)
        together = max(1, min(_TOGETHER, _ROOM // room))
        if 8 * memory.size < 2 * base + (2 + together) * room:
            memory = np.empty((2 * base + (2 + together) * room) // 8, np.uint64)
        inside = memory[: (2 * base + room) // 8].view(np.uint8)
        words = memory[(2 * base + room) // 8 : (2 * base + 2 * room) // 8]
        alive = words.view(np.uint8)
        begin = (2 * base + 2 * room) // 8
        counts = memory[begin : begin + together * room // 8].view(np.uint8).reshape(together, room)
        if len(runs) < (z1 - z0) * tall * (wide // 2 + 1):
            runs = np.empty(((z1 - z0) * tall * (wide // 2 + 1), 3), np.int64)
        used = _runs(ids, objects[k], boxes[k], layout, first[k], inside, base, runs)
        doubt = known.size > 0 or (not border and (
            z0 == 0 or y0 == 0 or x0 == 0 or z1 == ids.shape[0] or y1 == ids.shape[1] or x1 == ids.shape[2]))
        for r in range(0, len(cells), together):
            some = min(together, len(cells) - r)
            for m in range(some):
                _march(inside, (base, size, lead), cells[r + m], (tall, wide), alive, words, counts[m])
            if sparse:
                _write_sparse(runs[:used], counts[:some], lengths[r:], (every, r, strides[0]), out)
            for m in range(0 if sparse else some):
                _write_dense(runs[:used], counts[m], lengths[r + m], (every, (r + m) * strides[1]), out)
            for m in range(some if doubt else 0):
                world = ((z0, y0, x0), (tall, wide), known, ids.shape, border)
                _lower_bounds(runs[:used], counts[m], cells[r + m], (every, (r + m) * strides[1], strides[0]), world,
                              out)


@numba.njit(cache=True, nogil=True)
def _up(size):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Whole blocks."""
    return (size + _BLOCK - 1) // _BLOCK * _BLOCK


@numba.njit(cache=True, nogil=True)
def _runs(ids, value, box, layout, slot, inside, base, runs):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """The voxels of one object as bytes, row by row with one zero between, and the runs of those on the grid.

    A row of zeros lies between planes, zeros before and after. A run has the byte of its first voxel on the grid, the
    place of that in the output, and how many there are.
    """
    grid, shape, flags, _, where = layout
    z0, y0, x0, z1, y1, x1 = box
    tall, wide, every, used = y1 - y0 + 1, x1 - x0 + 1, grid[2], 0
    inside[:] = 0
    for z in range(z0, z1):
        for y in range(y0, y1):
            line = ((z - z0) * tall + y - y0) * wide - x0
            on = z % grid[0] == 0 and y % grid[1] == 0
            row = (z // grid[0] * shape[1] + y // grid[1]) * shape[2]
            x = x0
            while x < x1:
                if ids[z, y, x] != value:
                    x += 1
                    continue
                begin = x
                while x < x1 and ids[z, y, x] == value:
                    inside[base + line + x] = 1
                    x += 1
                begin += (-begin) % every
                if not on or begin >= x:
                    continue
                count = (x - begin + every - 1) // every
                runs[used, 0], runs[used, 1], runs[used, 2] = line + begin, row + begin // every, count
                if flags[1]:
                    runs[used, 1] = slot
                    for j in range(count):
                        where[slot] = row + begin // every + j
                        slot += 1
                used += 1
    return used


@numba.njit(cache=True, nogil=True)
def _march(inside, span, cells, pitch, alive, words, count):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Let all voxels walk along a ray, and count the steps after which each is still inside.

    What is left out at either end is of voxels that have left already.
    """
    base, size, lead = span
    tall, wide = pitch
    for at in range(_U(0), _U(len(alive)), _U(_BLOCK)):
        for j in range(_BLOCK):
            i = at + _U(j)
            alive[i] = inside[_U(base) + i]
            count[i] = 0
    for s in range(0, len(cells) - PASS + 1, PASS):
        a = (cells[s, 0] * tall + cells[s, 1]) * wide + cells[s, 2]
        b = (cells[s + 1, 0] * tall + cells[s + 1, 1]) * wide + cells[s + 1, 2]
        c = (cells[s + 2, 0] * tall + cells[s + 2, 1]) * wide + cells[s + 2, 2]
        d = (cells[s + 3, 0] * tall + cells[s + 3, 1]) * wide + cells[s + 3, 2]
        begin = max(0, -a - lead) // _BLOCK * _BLOCK
        end = min(len(alive), begin + _up(max(0, min(size, size + lead - a) - begin)))
        offsets = _U(base + a), _U(base + b), _U(base + c), _U(base + d)
        if not _steps(inside, alive, words, count, (begin, end), offsets):
            return


@numba.njit(cache=True, nogil=True)
def _steps(inside, alive, words, count, part, offsets):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Four steps; returns whether any voxel is still inside."""
    begin, end = part
    a, b, c, d = offsets
    for at in range(_U(begin), _U(end), _U(_BLOCK)):
        for j in range(_BLOCK):
            i = at + _U(j)
            one = alive[i] & inside[i + a]
            two = one & inside[i + b]
            three = two & inside[i + c]
            four = three & inside[i + d]
            count[i] += one + two + three + four
            alive[i] = four
    w, last = _U(begin // 8), _U(end // 8)
    while w < last and words[w] == _U(0):
        w += _U(1)
    return w < last


@numba.njit(cache=True, nogil=True)
def _write_sparse(runs, counts, lengths, into, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Lengths of some rays, voxel by voxel."""
    every, begin, stride = into
    for q in range(len(runs)):
        i, at = runs[q, 0], begin + runs[q, 1] * stride
        for _ in range(runs[q, 2]):
            for m in range(len(counts)):
                out[_U(at) + _U(m)] = lengths[m, counts[m, _U(i)]]
            i += every
            at += stride


@numba.njit(cache=True, nogil=True)
def _write_dense(runs, count, lengths, into, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Lengths of one ray, run by run."""
    every, begin = into
    for q in range(len(runs)):
        i, at = _U(runs[q, 0]), _U(begin + runs[q, 1])
        for j in range(_U(runs[q, 2])):
            out[at + j] = lengths[count[i + j * _U(every)]]


@numba.njit(cache=True, nogil=True)
def _lower_bounds(runs, count, cells, into, world, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Turn the sign of lengths that end where nothing is known."""
    every, begin, stride = into
    origin, pitch, known, shape, border = world
    for q in range(len(runs)):
        row, x = runs[q, 0] // pitch[1], origin[2] + runs[q, 0] % pitch[1]
        z, y = origin[0] + row // pitch[0], origin[1] + row % pitch[0]
        for j in range(runs[q, 2]):
            s = count[runs[q, 0] + j * every]
            cz, cy, cx = z + cells[s, 0], y + cells[s, 1], x + j * every + cells[s, 2]
            outside = cz < 0 or cy < 0 or cx < 0 or cz >= shape[0] or cy >= shape[1] or cx >= shape[2]
            if not border if outside else known.size > 0 and not known[cz, cy, cx]:
                at = begin + (runs[q, 1] + j) * stride
                out[at] = -out[at]
