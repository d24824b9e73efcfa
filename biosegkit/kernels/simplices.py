"""Exact distance from points to the nearest of many triangles (or segments), through a tree of boxes.

The tree is implicit: triangles are put in the order in which halving the longest side of their box at the median
leaves them, and node ``k`` has the children ``2k + 1`` and ``2k + 2``. A query goes to the nearer child first and
leaves out every box that is farther than what it has, so that far points cost no more than near ones.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from biosegkit.errors import DataError

__all__ = ["simplex_distances"]

Floats = npt.NDArray[np.float64]
_LEAF = 8


def simplex_distances(points: npt.NDArray[np.floating], simplices: npt.NDArray[np.floating]) -> Floats:
    """Euclidean distance of every point to the nearest simplex.

    Parameters
    ----------
    points : ndarray of float, (P, n)
        In 2D or 3D.
    simplices : ndarray of float, (S, n, n)
        Corners of triangles in 3D, (S, 3, 3); of segments in 2D, (S, 2, 2). Those without extent are points.

    Returns
    -------
    ndarray of float64, (P,)

    Raises
    ------
    DataError
        If there is no simplex, or shapes do not fit.

    References
    ----------
    Ericson, "Real-time collision detection", 2005, chapters 5 and 6.

    Examples
    --------
    >>> simplex_distances(np.array([[1.0, 2.0], [5.0, 4.0]]), np.array([[[0.0, 0.0], [2.0, 0.0]]])).tolist()
    [2.0, 5.0]
    """
    ndim = points.shape[-1]
    if ndim not in (2, 3) or simplices.shape[1:] != (ndim, ndim) or not len(simplices):
        raise DataError(f"points {points.shape}, simplices {simplices.shape}",
                        expected="(P, 2) and (S, 2, 2), or (P, 3) and (S, 3, 3), S at least 1")
    queries = np.zeros((len(points), 3))
    corners = np.zeros((len(simplices), 3, 3))
    queries[:, :ndim] = points
    corners[:, :ndim, :ndim] = simplices
    corners[:, ndim:] = corners[:, ndim - 1 : ndim]  # a segment is a triangle whose last corners coincide
    levels = max(0, int(np.ceil(np.log2(len(corners) / _LEAF))))
    order = np.arange(len(corners))
    bounds = np.empty((2 ** (levels + 1) - 1, 2), np.int64)
    _split(corners.mean(1), order, bounds, levels)
    corners = corners[order]
    boxes = np.empty((len(bounds), 2, 3))
    _enclose(corners, bounds, boxes)
    distances = np.empty(len(queries))
    _search(queries, corners, bounds, boxes, distances)
    return distances


def _split(centres: Floats, order: npt.NDArray[np.int64], bounds: npt.NDArray[np.int64], levels: int) -> None:
    """Order triangles so that every node of the tree is a range."""
    bounds[0] = 0, len(order)
    for node in range(2**levels - 1):
        low, high = bounds[node]
        part = order[low:high]
        middle = (high - low) // 2
        if len(part) > 1:
            near = centres[part]
            axis = int(np.argmax(near.max(0) - near.min(0)))
            order[low:high] = part[np.argpartition(near[:, axis], middle)]
        bounds[2 * node + 1] = low, low + middle
        bounds[2 * node + 2] = low + middle, high


@numba.njit(cache=True, nogil=True)
def _enclose(corners, bounds, boxes):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Box of every node, from the leaves up."""
    leaves = (len(bounds) + 1) // 2
    for node in range(len(bounds) - 1, -1, -1):
        for k in range(3):
            low, high = np.inf, -np.inf
            if node >= leaves - 1:
                for i in range(bounds[node, 0], bounds[node, 1]):
                    for c in range(3):
                        low = min(low, corners[i, c, k])
                        high = max(high, corners[i, c, k])
            else:
                low = min(boxes[2 * node + 1, 0, k], boxes[2 * node + 2, 0, k])
                high = max(boxes[2 * node + 1, 1, k], boxes[2 * node + 2, 1, k])
            boxes[node, 0, k] = low
            boxes[node, 1, k] = high


@numba.njit(cache=True, nogil=True)
def _search(points, corners, bounds, boxes, distances):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Depth first, nearer child first; the triangle that was nearest to the last point is tried first."""
    leaves = (len(bounds) + 1) // 2
    stack = np.empty(128, np.int64)
    far = np.empty(128, np.float64)
    last = 0
    for q in range(len(points)):
        p = points[q]
        best = _to_triangle(p, corners[last])
        top = 0
        stack[0] = 0
        far[0] = 0.0
        while top >= 0:
            node, least = stack[top], far[top]
            top -= 1
            if least >= best:
                continue
            if node >= leaves - 1:
                for i in range(bounds[node, 0], bounds[node, 1]):
                    d = _to_triangle(p, corners[i])
                    if d < best:
                        best = d
                        last = i
                continue
            one, two = 2 * node + 1, 2 * node + 2
            a, b = _to_box(p, boxes[one]), _to_box(p, boxes[two])
            if a < b:
                one, two, a, b = two, one, b, a
            stack[top + 1], stack[top + 2] = one, two
            far[top + 1], far[top + 2] = a, b
            top += 2
        distances[q] = np.sqrt(best)


@numba.njit(cache=True, nogil=True, inline="always")
def _to_box(p, box):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Squared distance to a box; infinite for an empty one."""
    total = 0.0
    for k in range(3):
        d = max(box[0, k] - p[k], p[k] - box[1, k], 0.0)
        total += d * d
    return total


@numba.njit(cache=True, nogil=True)
def _to_triangle(p, t):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Squared distance to a triangle: to its plane if the foot lies inside, else to its nearest edge."""
    ux, uy, uz = t[1, 0] - t[0, 0], t[1, 1] - t[0, 1], t[1, 2] - t[0, 2]
    vx, vy, vz = t[2, 0] - t[0, 0], t[2, 1] - t[0, 1], t[2, 2] - t[0, 2]
    wx, wy, wz = p[0] - t[0, 0], p[1] - t[0, 1], p[2] - t[0, 2]
    uu, uv, vv = ux * ux + uy * uy + uz * uz, ux * vx + uy * vy + uz * vz, vx * vx + vy * vy + vz * vz
    wu, wv = wx * ux + wy * uy + wz * uz, wx * vx + wy * vy + wz * vz
    area = uu * vv - uv * uv
    if area > 1e-14 * uu * vv:
        s, r = (wu * vv - wv * uv) / area, (wv * uu - wu * uv) / area
        if s >= 0 and r >= 0 and s + r <= 1:
            dx, dy, dz = wx - s * ux - r * vx, wy - s * uy - r * vy, wz - s * uz - r * vz
            return dx * dx + dy * dy + dz * dz
    first = min(_to_segment(p, t[0], t[1]), _to_segment(p, t[1], t[2]))
    return min(first, _to_segment(p, t[2], t[0]))


@numba.njit(cache=True, nogil=True)
def _to_segment(p, a, b):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Squared distance to a segment."""
    along = length = 0.0
    for k in range(3):
        along += (p[k] - a[k]) * (b[k] - a[k])
        length += (b[k] - a[k]) ** 2
    share = 0.0 if length == 0.0 else min(max(along / length, 0.0), 1.0)
    total = 0.0
    for k in range(3):
        d = p[k] - a[k] - share * (b[k] - a[k])
        total += d * d
    return total
