"""The flow of heat inside every object: for each voxel the unit vector towards the centre, around corners.

A source of heat stands at the voxel nearest the centre of mass; heat spreads inside the object alone and is lost
at its border; the flow is the gradient of heat, scaled to unit length (Stringer et al. 2021,
doi:10.1038/s41592-020-01018-x). Every object takes a number of steps that follows from its own size, in its own box,
and differences never read another object. In large objects most steps are walked on coarser grids, if these show their
shape (`biosegkit.kernels.heat_levels`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from biosegkit.errors import DataError
from biosegkit.kernels.heat_levels import coarser, finer, halved, moved_sources
from biosegkit.kernels.pieces import pieces
from biosegkit.kernels.threads import spread

__all__ = ["heat_flow"]

# A gradient below this share of the heat is rounding: where neighbours balance there is no direction.
_STILL = 1e-10
# Voxels that cost less to pass than to leave out.
_GAP = 64
# Voxels times steps that are walked without a coarser grid, which differs from it.
_WORK = 1 << 29
# The last steps, which are walked on each finer grid.
_LAST = 32
# What cells beside the object have of the heat inside: it is 0 a quarter of a cell beyond the face between them.
_BEYOND = -1.0 / 3.0


def heat_flow(
    labels: npt.NDArray[Any],
    spacing: Sequence[float] | None = None,
    *,
    border: bool = False,
    valid: npt.NDArray[np.bool_] | None = None,
    workers: int = 1,
) -> npt.NDArray[np.float32]:
    """Unit vectors along the gradient of heat from the centre of every object.

    Parameters
    ----------
    labels : ndarray of int, (Z, Y, X), (Y, X) or (X,)
        Any ids, with gaps; 0 is background. An object in several pieces has a centre in each.
    spacing : sequence of float, optional
        Voxel size per axis; 1 by default. Vectors have unit length in these units.
    border : bool
        Whether heat is lost beyond the edge of the array. By default it is not: an object cut by the edge is taken
        to go on as it is there, which draws its flow towards the cut.
    valid : ndarray of bool, optional
        False where nothing is known: such voxels are 0 and act like the outside of the array.
    workers : int
        Threads; the result does not depend on them.

    Returns
    -------
    ndarray of float32, (D, *space)
        0 in the background, and where neighbours balance (the centre of a symmetric object).

    Raises
    ------
    DataError
        For more than three axes, or a spacing that does not fit.

    Notes
    -----
    A step replaces heat by its mean over the neighbourhood, outside counting 0: 3 x 3 in a plane, the voxel and its six
    neighbours in a volume, weighted by the inverse square of the spacing. Voxels equally near the centre of mass share
    the source, so that turning an object turns its flow. Steps: twice (height + width + 2) in a plane, six times
    (depth + height + width + 3) in a volume, lengths in units of the finest spacing.

    Where steps times the voxels of an object's box are more than 2^29 (about 500 x 500, 75 x 75 x 75) most steps are
    walked on coarser grids: half of the vectors then turn by less than 0.6 degrees, 99 of 100 by less than 5, mostly
    far from the centre, and the mean square of the difference is below 0.001. Where a grid would not show the shape
    (gaps, bridges and holes of a voxel or two) all steps are walked.

    Examples
    --------
    >>> heat_flow(np.array([[0, 7, 7, 7, 3, 3, 3, 0]]))[1].tolist()
    [[0.0, 1.0, 0.0, -1.0, 1.0, 0.0, -1.0, 0.0]]
    """
    ndim = labels.ndim
    steps = (1.0,) * ndim if spacing is None else tuple(float(s) for s in spacing)
    if len(steps) != ndim or not steps or min(steps) <= 0:
        raise DataError(f"labels of {ndim} axes, spacing {steps}", expected="a positive spacing for each axis")
    found = pieces(labels, valid)
    ratio = np.ones(3)
    ratio[3 - ndim :] = np.array(steps) / min(steps)
    out = np.zeros((ndim, *found.number.shape), np.float32)
    flat = ndim < 3
    number, boxes, most = found.number, found.boxes, np.int64(_WORK)
    spread(lambda lo, hi: _objects(number, boxes, ratio, (flat, border, most), out, lo, hi), len(boxes), workers)
    return out.reshape(ndim, *labels.shape)


@numba.njit(cache=True, nogil=True)
def _objects(number, boxes, ratio, settings, out, lo, hi):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Flow of pieces ``lo..hi``, each in its box with a rim of one voxel (none in front of and behind a plane)."""
    flat, border, most = settings
    for k in range(lo, hi):
        code = _surroundings(number, boxes[k], k, flat, border)
        sources = _centre(code, ratio)
        heat = _heated(code, ratio, flat, sources, most)
        _write(heat, code, boxes[k], ratio, out)


@numba.njit(cache=True, nogil=True)
def _surroundings(number, box, k, flat, border):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """What the voxels of a box and its rim are: 1 the object, 2 unknown, 0 anything else."""
    nz, ny, nx = number.shape
    rim = 0 if flat else 1
    code = np.zeros((box[1] - box[0] + 2 * rim, box[3] - box[2] + 2, box[5] - box[4] + 2), np.uint8)
    beyond = 0 if border else 2
    for z in range(code.shape[0]):
        gz = z + box[0] - rim
        for y in range(code.shape[1]):
            gy = y + box[2] - 1
            for x in range(code.shape[2]):
                gx = x + box[4] - 1
                if gz < 0 or gz >= nz or gy < 0 or gy >= ny or gx < 0 or gx >= nx:
                    code[z, y, x] = beyond
                elif number[gz, gy, gx] == k:
                    code[z, y, x] = 1
                elif number[gz, gy, gx] == -2:
                    code[z, y, x] = 2
    return code


@numba.njit(cache=True, nogil=True)
def _centre(code, ratio):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Linear indices of the object's voxels nearest its centre of mass: all that are equally near."""
    nz, ny, nx = code.shape
    inside = np.flatnonzero(code.reshape(-1) == 1)
    total_z = total_y = total_x = 0
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                if code[z, y, x] == 1:
                    total_z, total_y, total_x = total_z + z, total_y + y, total_x + x
    mz, my, mx = total_z / inside.size, total_y / inside.size, total_x / inside.size
    away, n = np.empty(inside.size), 0
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                if code[z, y, x] == 1:
                    dz, dy, dx = z - mz, y - my, x - mx
                    away[n] = (dz * ratio[0]) ** 2 + ((dy * ratio[1]) ** 2 + (dx * ratio[2]) ** 2)
                    n += 1
    nearest = away.min()
    return inside[away <= nearest + 1e-9 * (1.0 + nearest)]


@numba.njit(cache=True, nogil=True)
def _mirrors(code, beyond):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Unknown voxels beside the object, the object's voxels each of them mirrors, and what share of their heat it has.

    Those across a face; if there is none, those across an edge or corner. If there is a share ``beyond``, other voxels
    beside the object have it: heat is 0 between them and the object and not in them.
    """
    nz, ny, nx = code.shape
    cells, starts, mirrored = [np.int64(0)][:0], [np.int64(0)], [np.int64(0)][:0]
    line = code.reshape(-1)
    for i in np.flatnonzero(line != 1 if beyond != 0 else line == 2):
        z, y, x = i // (ny * nx), i // nx % ny, i % nx
        for faces in (True, False):
            for dz in range(-1 if z > 0 else 0, 2 if z + 1 < nz else 1):
                for dy in range(-1 if y > 0 else 0, 2 if y + 1 < ny else 1):
                    for dx in range(-1 if x > 0 else 0, 2 if x + 1 < nx else 1):
                        if (abs(dz) + abs(dy) + abs(dx) == 1) == faces and code[z + dz, y + dy, x + dx] == 1:
                            mirrored.append(i + (dz * ny + dy) * nx + dx)
            if len(mirrored) > starts[-1]:
                break
        if len(mirrored) > starts[-1]:
            cells.append(i)
            starts.append(np.int64(len(mirrored)))
    shares = np.array([1.0 if line[i] == 2 else beyond for i in cells])
    return np.array(cells), np.array(starts), np.array(mirrored), shares


@numba.njit(cache=True, nogil=True)
def _heated(code, ratio, flat, sources, most):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Heat after the object's own number of steps; unknown voxels beside the object mirror it.

    If these are more than ``most``, counted in voxels, they are walked on coarser grids but for the last on each finer.
    """
    length = 2.0 if flat else 3.0
    for axis in range(1 if flat else 0, 3):
        length += (code.shape[axis] - 2) * ratio[axis]
    steps = np.int64(np.ceil((2.0 if flat else 6.0) * length))
    grids, kinds = [(code, ratio, sources, np.full(sources.size, 1.0 / sources.size), steps)], [np.ones(3, np.int64)]
    while grids[-1][0].size * steps > most and steps > 8 * _LAST:
        fine, sides, places, shares, _ = grids[-1]
        counts, sides = halved(sides, flat)
        cells, shown = coarser(fine, counts, flat)
        if not shown:
            break
        places, shares = moved_sources(places, shares, fine.shape, cells, counts, flat)
        steps = (steps - _LAST + 2) // 4
        grids.append((cells, sides, places, shares, steps))
        kinds.append(counts)
    top = len(grids) - 1
    heat = _walked(np.zeros(grids[top][0].shape), grids[top], flat, grids[top][4], top > 0)
    while top > 0 and _missed(heat, grids[top][0]):  # the cells fall apart
        top -= 1
        heat = _walked(np.zeros(grids[top][0].shape), grids[top], flat, grids[top][4], top > 0)
    for level in range(top - 1, -1, -1):
        heat = finer(heat, grids[level][0], kinds[level + 1], flat)
        heat = _walked(heat, grids[level], flat, _LAST, level > 0)
    return heat


@numba.njit(cache=True, nogil=True)
def _missed(heat, code):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Whether there is a voxel of the object that heat has not come to."""
    return bool(np.any((code == 1) & (heat == 0.0)))


@numba.njit(cache=True, nogil=True)
def _walked(heat, grid, flat, steps, coarse):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Heat after some steps more on a grid: what voxels are, their sides, cells and shares of the sources."""
    code, sides, places, shares, _ = grid
    finest = sides[1:].min() if flat else sides.min()
    mirror = _mirrors(code, _BEYOND if coarse else 0.0)
    return _warm(heat, code, sides / finest, flat, (places, shares), mirror, steps)


@numba.njit(cache=True, nogil=True)
def _reflect(heat, mirror):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Give voxels beside the object their share of the mean of what they mirror."""
    cells, starts, mirrored, shares = mirror
    for c in range(cells.size):
        total = 0.0
        for m in range(starts[c], starts[c + 1]):
            total += heat[mirrored[m]]
        heat[cells[c]] = shares[c] * total / (starts[c + 1] - starts[c])


@numba.njit(cache=True, nogil=True)
def _stretches(mask):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """First and one after the last of the voxels in line that are 1, gaps of less than `_GAP` being bridged."""
    found, count = np.empty((64, 2), np.int64), 0
    for i in range(mask.size):
        if mask[i] != 1:
            continue
        if count and i - found[count - 1, 1] < _GAP:
            found[count - 1, 1] = i + 1
            continue
        if count == len(found):
            more = np.empty((2 * count, 2), np.int64)
            more[:count] = found
            found = more
        found[count, 0], found[count, 1] = i, i + 1
        count += 1
    return found[:count]


@numba.njit(cache=True, nogil=True)
def _beside(mask, row):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """The voxels of a plane that are 1, and those above and below them."""
    near = mask == 1
    near[row:] |= mask[:-row] == 1
    near[:-row] |= mask[row:] == 1
    return near


@numba.njit(cache=True, nogil=True)
def _warm(start, code, ratio, flat, sources, mirror, steps):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Heat after some steps of diffusion; ``start`` is written to.

    A step runs over the array as over one line, where the object is near: sums beyond the ends of rows are for voxels
    of the rim, where ``code`` is not 1.
    """
    heat, other = start.reshape(-1), np.zeros(code.size)
    row, plane = code.shape[2], code.shape[1] * code.shape[2]
    mask = code.reshape(-1)
    mine = _stretches(mask)
    near = _stretches(_beside(mask, row)) if flat else mine
    for _ in range(steps):
        for s in range(sources[0].size):
            heat[sources[0][s]] += sources[1][s]
        _reflect(heat, mirror)
        if flat:
            for begin, end in near:
                _along(heat, other, begin, end, 1.0 / (3.0 * ratio[2] ** 2))
            for begin, end in mine:
                _across(other, mask, heat, begin, end, (row, 1.0 / (3.0 * ratio[1] ** 2)))
            continue
        for begin, end in mine:
            _volume(heat, mask, other, begin, end, (row, plane), ratio)
        heat, other = other, heat
    _reflect(heat, mirror)
    return heat.reshape(code.shape)


@numba.njit(cache=True, nogil=True)
def _along(heat, out, begin, end, weight):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Mean of three in a row, weighted; the first and the last voxel of a plane are in its rim."""
    first, last = max(begin, 1), min(end, heat.size - 1)
    here, before, after = heat[first:last], heat[first - 1 : last - 1], heat[first + 1 : last + 1]
    to, centre = out[first:last], 1.0 - 2.0 * weight
    for i in range(to.size):
        to[i] = centre * here[i] + weight * (before[i] + after[i])


@numba.njit(cache=True, nogil=True)
def _across(rows, code, out, begin, end, step):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Mean of three in a column, weighted, of means along rows."""
    row, weight = step
    here, above, below = rows[begin:end], rows[begin - row : end - row], rows[begin + row : end + row]
    to, mine, centre = out[begin:end], code[begin:end], 1.0 - 2.0 * weight
    for i in range(to.size):
        to[i] = (mine[i] == 1) * (centre * here[i] + weight * (above[i] + below[i]))


@numba.njit(cache=True, nogil=True)
def _volume(heat, code, out, begin, end, strides, ratio):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Mean over a voxel and its six neighbours, weighted."""
    row, plane = strides
    wz, wy, wx = 1.0 / (7.0 * ratio[0] ** 2), 1.0 / (7.0 * ratio[1] ** 2), 1.0 / (7.0 * ratio[2] ** 2)
    centre = 1.0 - 2.0 * (wz + wy + wx)
    here, before, after = heat[begin:end], heat[begin - 1 : end - 1], heat[begin + 1 : end + 1]
    above, below = heat[begin - row : end - row], heat[begin + row : end + row]
    front, behind = heat[begin - plane : end - plane], heat[begin + plane : end + plane]
    to, mine = out[begin:end], code[begin:end]
    for i in range(to.size):
        total = centre * here[i] + wx * (before[i] + after[i])
        total += wy * (above[i] + below[i])
        to[i] = (mine[i] == 1) * (total + wz * (front[i] + behind[i]))


@numba.njit(cache=True, nogil=True)
def _write(heat, code, box, ratio, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Central differences, scaled to unit length, into the voxels of the object."""
    nz, ny, nx = code.shape
    axes, rim = len(out), 0 if nz == box[1] - box[0] else 1
    gz = 0.0
    for z in range(rim, nz - rim):
        for y in range(1, ny - 1):
            to_z, to_y, to_x = z + box[0] - rim, y + box[2] - 1, box[4] - 1
            for x in range(1, nx - 1):
                if code[z, y, x] != 1:
                    continue
                if rim:
                    gz = (heat[z + 1, y, x] - heat[z - 1, y, x]) / ratio[0]
                gy = (heat[z, y + 1, x] - heat[z, y - 1, x]) / ratio[1]
                gx = (heat[z, y, x + 1] - heat[z, y, x - 1]) / ratio[2]
                top = max(abs(gz), abs(gy), abs(gx))
                if top <= _STILL * heat[z, y, x]:
                    continue
                sz, sy, sx = gz / top, gy / top, gx / top  # heat far from the centre is tiny, its square would vanish
                length = np.sqrt(sz**2 + sy**2 + sx**2)
                if axes == 3:
                    out[0, to_z, to_y, to_x + x] = sz / length
                if axes > 1:
                    out[axes - 2, to_z, to_y, to_x + x] = sy / length
                out[axes - 1, to_z, to_y, to_x + x] = sx / length
