"""Star-shaped objects into a label image, or into one block of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from biosegkit.errors import DataError
from biosegkit.kernels.rays import Rays
from biosegkit.kernels.star_shapes import box_of, cross, cut, place
from biosegkit.kernels.threads import spread

__all__ = ["paint_shapes"]

#: Lines crossed together.
_LINES = 64
#: A voxel centre this close to the border still counts as inside, from either side.
_CLOSE = 1e-6


def paint_shapes(
    shape: Sequence[int],
    centres: npt.NDArray[Any],
    distances: npt.NDArray[np.float32],
    rays: Rays,
    spacing: Sequence[float] | None = None,
    *,
    ids: npt.NDArray[Any] | None = None,
    start: Sequence[int] | None = None,
    workers: int = 1,
) -> npt.NDArray[np.uint32]:
    """Paint shapes one over the other: the last one wins.

    Parameters
    ----------
    shape : sequence of int
        Of the block to paint.
    centres : ndarray of int, (K, ndim)
        Positions in voxels of the full image, in the order of painting.
    distances : ndarray of float32, (K, n_rays)
        In units of the spacing.
    rays : Rays
    spacing : sequence of float, optional
        Voxel size; 1 by default.
    ids : ndarray of int, (K,), optional
        Values to paint; 1 to K by default.
    start : sequence of int, optional
        Where in the full image the block begins; the origin by default.
    workers : int
        Threads; the result does not depend on them.

    Returns
    -------
    ndarray of uint32, shape
        A voxel belongs to a shape if its centre lies inside the polygon or polyhedron.

    Raises
    ------
    DataError
        For arrays that do not belong together.

    Examples
    --------
    >>> from biosegkit.kernels.rays import circle
    >>> paint_shapes((3, 5), np.array([[1, 1], [1, 3]]), np.full((2, 4), 1.2, np.float32), circle(4)).tolist()
    [[0, 1, 0, 2, 0], [1, 1, 2, 2, 2], [0, 1, 0, 2, 0]]
    """
    ndim, count = rays.ndim, len(centres)
    values = np.arange(1, count + 1) if ids is None else ids
    if len(shape) != ndim or centres.shape != (count, ndim) or distances.shape != (count, len(rays)):
        raise DataError(f"a block of {len(shape)} axes, centres {centres.shape}, distances {distances.shape}",
                        expected=f"{ndim} axes, (K, {ndim}) and (K, {len(rays)})")
    lead = (1,) * (3 - ndim)
    out = np.zeros((*lead, *shape), np.uint32)
    places = np.zeros((count, 3), np.int64)
    places[:, 3 - ndim :] = centres - np.asarray(start or (0,) * ndim, np.int64)
    steps = rays.steps((1.0,) * ndim if spacing is None else spacing)
    table = (places, np.ascontiguousarray(distances, np.float32), np.ascontiguousarray(values, np.uint32))
    spread(lambda lo, hi: _paint(out, table, steps, rays.faces, lo, hi), out.shape[3 - ndim], workers)
    return out.reshape(tuple(shape))


@numba.njit(cache=True, nogil=True)
def _paint(out, table, steps, faces, lo, hi):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Planes ``lo..hi`` of a volume, rows ``lo..hi`` of an image."""
    centres, distances, ids = table
    flat = faces.shape[1] == 2
    points, box, none = np.empty((len(steps), 3)), np.empty(6), np.zeros(3)
    segments, xs, counts = np.empty((len(faces), 4)), np.empty((_LINES, len(faces) + 1)), np.empty(_LINES, np.int64)
    for k in range(len(centres)):
        cz, cy, cx = centres[k]
        place(distances[k], steps, none, points)
        box_of(points, box)
        if box[2] + cx > out.shape[2] or box[5] + cx < 0:
            continue
        z0, z1 = _within(box[0] + cz, box[3] + cz, 0 if flat else lo, 1 if flat else hi)
        y0, y1 = _within(box[1] + cy, box[4] + cy, lo if flat else 0, hi if flat else out.shape[1])
        for z in range(z0, z1):
            if y0 >= y1:
                break
            count = cut(points, faces, np.float64(z - cz), segments)
            for y in range(y0, y1, _LINES):
                lines = min(_LINES, y1 - y)
                cross(segments, count, np.float64(y - cy), 1.0, lines, xs, counts)
                for n in range(lines):
                    for i in range(0, counts[n] - 1, 2):
                        x0, x1 = _within(xs[n, i] + cx, xs[n, i + 1] + cx, 0, out.shape[2])
                        for x in range(x0, x1):
                            out[z, y + n, x] = ids[k]


@numba.njit(cache=True, nogil=True)
def _within(low, high, first, last):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Whole numbers from low to high within a range, as start and stop."""
    low, high = max(low, first - 1.0), min(high, last + 1.0)
    return max(first, np.int64(np.ceil(low - _CLOSE))), min(last, np.int64(np.floor(high + _CLOSE)) + 1)
