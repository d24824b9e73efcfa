"""Heat in large objects: most of the time passes on coarser grids.

Heat spreads within a step to the next voxel, so in an object twice as long it takes twice as many steps over four or
eight times as many voxels. But what is far from the source and from the border changes slowly from voxel to voxel: a
grid of every second one shows it as well, and a step there is as long as four. So the time of an object is spent on
the coarsest grid that shows its shape, and only the last steps on each of the finer ones, where they mend what the
coarser blurred: the surroundings of the source and of the border.

A grid shows a shape if no cell decides alone what it is: a cell that holds a part of the object and is counted as
outside has one beside it that is inside, and the other way round; so gaps and bridges as thin as a cell, and holes of a
voxel, end it, and so does an object of which few cells have the object on all sides.
"""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["coarser", "finer", "halved", "moved_sources"]

#: Cells that must have the object on all sides, of those inside.
_INNER = 0.6


@numba.njit(cache=True, nogil=True)
def halved(ratio, flat):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """How many voxels of every axis a cell holds, and the sides of a cell; the finest doubles."""
    counts, sides = np.ones(3, np.int64), ratio.copy()
    finest = ratio[1:].min() if flat else ratio.min()
    for axis in range(1 if flat else 0, 3):
        if ratio[axis] < 2.0 * finest:
            counts[axis], sides[axis] = 2, 2.0 * ratio[axis]
    return counts, sides


@numba.njit(cache=True, nogil=True)
def _span(cell, size, count, rim):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """The first voxel of a cell along one axis of ``size`` voxels, its rim among them, one after the last, its middle.

    Of an odd number of voxels every other is the middle of a cell, which shares those beside it with its neighbours.
    """
    inner = size - 2 * rim
    cells = -(-inner // count)
    if cell < rim:
        return cell, cell + 1, cell
    if cell >= cells + rim:
        return size - 1, size, size - 1
    first = rim + (cell - rim) * count
    if count == 2 and inner % 2 == 1:
        return max(first - 1, 0), min(first + 2, size), first
    return first, first + count, -1


@numba.njit(cache=True, nogil=True)
def coarser(code, counts, flat):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """What the cells are, as for voxels: 1 the object, 2 unknown, 0 anything else; and whether they show the shape."""
    rims = (0 if flat else 1, 1, 1)
    shape = (-(-(code.shape[0] - 2 * rims[0]) // counts[0]) + 2 * rims[0],
             -(-(code.shape[1] - 2) // counts[1]) + 2, -(-(code.shape[2] - 2) // counts[2]) + 2)
    out, mixed = np.zeros(shape, np.uint8), np.zeros(shape, np.bool_)
    for z in range(shape[0]):
        z0, z1, mz = _span(z, code.shape[0], counts[0], rims[0])
        for y in range(shape[1]):
            y0, y1, my = _span(y, code.shape[1], counts[1], 1)
            for x in range(shape[2]):
                x0, x1, mx = _span(x, code.shape[2], counts[2], 1)
                found = np.zeros(3, np.int64)
                for fz in range(z0, z1):
                    for fy in range(y0, y1):
                        for fx in range(x0, x1):
                            found[code[fz, fy, fx]] += (1 + (fz == mz)) * (1 + (fy == my)) * (1 + (fx == mx))
                other, inside, unknown = found
                if inside > other:
                    out[z, y, x], mixed[z, y, x] = 1, other > 0
                else:
                    out[z, y, x], mixed[z, y, x] = 2 if unknown > other else 0, inside > 0
    return out, _shown(out, mixed)


@numba.njit(cache=True, nogil=True)
def _shown(code, mixed):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Whether cells that hold both have one of the other kind beside them, and enough are inner ones."""
    nz, ny, nx = code.shape
    inside = inner = 0
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                if code[z, y, x] == 1:
                    inside += 1
                    inner += not _beside(code, z, y, x, 0, 1)
                if mixed[z, y, x] and not _beside(code, z, y, x, 0 if code[z, y, x] == 1 else 1, 3):
                    return False
    return inside > 0 and inner >= _INNER * inside


@numba.njit(cache=True, nogil=True)
def _beside(code, z, y, x, kind, most):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Whether a neighbour is of a kind: across a face (``most`` 1), an edge (2) or a corner (3)."""
    nz, ny, nx = code.shape
    for dz in range(-1 if z > 0 else 0, 2 if z + 1 < nz else 1):
        for dy in range(-1 if y > 0 else 0, 2 if y + 1 < ny else 1):
            for dx in range(-1 if x > 0 else 0, 2 if x + 1 < nx else 1):
                if 0 < abs(dz) + abs(dy) + abs(dx) <= most and code[z + dz, y + dy, x + dx] == kind:
                    return True
    return False


@numba.njit(cache=True, nogil=True)
def _around(voxel, size, count, rim):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """The two cells whose middles a voxel lies between along an axis, and the share of the second."""
    if count == 1:
        return voxel, voxel, 0.0
    at = (voxel - rim - 0.5 * (1 - size % 2)) / 2.0
    low = np.int64(np.floor(at))
    return low + rim, low + rim + 1, at - low


@numba.njit(cache=True, nogil=True)
def moved_sources(cells, shares, shape, code, counts, flat):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Sources of heat on the coarser grid: shared by the cells around that are inside; as much in a step as in four."""
    rim = 0 if flat else 1
    heat, total = np.zeros(code.shape), 4.0 / (counts[0] * counts[1] * counts[2])
    for s in range(cells.size):
        z, y, x = cells[s] // (shape[1] * shape[2]), cells[s] // shape[2] % shape[1], cells[s] % shape[2]
        near, weight, found = np.zeros((8, 3), np.int64), np.zeros(8), 0.0
        az, bz, wz = _around(z, shape[0], counts[0], rim)
        ay, by, wy = _around(y, shape[1], counts[1], 1)
        ax, bx, wx = _around(x, shape[2], counts[2], 1)
        for k in range(8):
            near[k, 0], near[k, 1], near[k, 2] = bz if k & 4 else az, by if k & 2 else ay, bx if k & 1 else ax
            share = (wz if k & 4 else 1 - wz) * (wy if k & 2 else 1 - wy) * (wx if k & 1 else 1 - wx)
            weight[k] = share if share > 0 and code[near[k, 0], near[k, 1], near[k, 2]] == 1 else 0.0
            found += weight[k]
        for k in range(8):
            if weight[k] > 0:
                heat[near[k, 0], near[k, 1], near[k, 2]] += shares[s] * total * weight[k] / found
    line = heat.reshape(-1)
    there = np.flatnonzero(line)
    return there, line[there]


@numba.njit(cache=True, nogil=True)
def finer(heat, code, counts, flat):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Heat of the voxels of the object (``code`` 1), interpolated between the centres of cells."""
    rim = 0 if flat else 1
    out = np.zeros(code.shape)
    for z in range(code.shape[0]):
        az, bz, wz = _around(z, code.shape[0], counts[0], rim)
        for y in range(1, code.shape[1] - 1):
            ay, by, wy = _around(y, code.shape[1], counts[1], 1)
            for x in range(1, code.shape[2] - 1):
                if code[z, y, x] != 1:
                    continue
                ax, bx, wx = _around(x, code.shape[2], counts[2], 1)
                near = _mixed(_mixed(heat[az, ay, ax], heat[az, ay, bx], wx),
                              _mixed(heat[az, by, ax], heat[az, by, bx], wx), wy)
                far = _mixed(_mixed(heat[bz, ay, ax], heat[bz, ay, bx], wx),
                             _mixed(heat[bz, by, ax], heat[bz, by, bx], wx), wy)
                out[z, y, x] = max(_mixed(near, far, wz), 0.0)
    return out


@numba.njit(cache=True, nogil=True)
def _mixed(one, other, share):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Between two values."""
    return one + share * (other - one)
