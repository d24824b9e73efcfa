"""Geometry of polygons and polyhedra given by distances along rays: volume, lines through them, overlap.

All of it works on lines along x: a polyhedron is cut by planes of constant z into segments, segments are crossed by
lines of constant y, and what lies between an odd and the next even crossing is inside. Ends of segments are computed
once per edge and compared half-open, so every line enters and leaves a closed shape equally often, whatever the shape.
A polygon is its own cut. Coordinates are voxels, z y x, relative to a centre; they are never large, so that a result
does not depend on where in an image a shape lies.
"""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["box_of", "common_length", "cross", "cut", "diagonals_of", "holds", "overlap", "place", "union_limit",
           "volume", "workroom"]

#: Most lines (2D), planes and lines (3D) through the common box of two shapes. Midpoint sums: errors below 1 %.
_LINES, _PLANES = 24, 12
#: The same for a first look.
_FEW_LINES, _FEW_PLANES = 7, 5


@numba.njit(cache=True, nogil=True)
def place(distances, steps, shift, points):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """End points of the rays, moved by ``shift``."""
    for r in range(len(steps)):
        for a in range(3):
            points[r, a] = distances[r] * steps[r, a] + shift[a]


@numba.njit(cache=True, nogil=True)
def box_of(points, box):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Smallest and largest coordinates."""
    for a in range(3):
        low = high = points[0, a]
        for r in range(1, len(points)):
            low, high = min(low, points[r, a]), max(high, points[r, a])
        box[a], box[3 + a] = low, high


@numba.njit(cache=True, nogil=True)
def diagonals_of(points, box):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Largest y + x, y - x, x - y and -y - x of a polygon, behind its box: with it they make an octagon."""
    a = b = c = d = -np.inf
    for r in range(len(points)):
        y, x = points[r, 1], points[r, 2]
        a, b, c, d = max(a, y + x), max(b, y - x), max(c, x - y), max(d, -y - x)
    box[6], box[7], box[8], box[9] = a, b, c, d


@numba.njit(cache=True, nogil=True)
def union_limit(one, two, shift):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Area of the octagon around two polygons, the second one moved; from boxes with diagonals."""
    dy, dx = shift[1], shift[2]
    y0, x0 = min(one[1], two[1] + dy), min(one[2], two[2] + dx)
    y1, x1 = max(one[4], two[4] + dy), max(one[5], two[5] + dx)
    # corners of the box cut off at 45 degrees; cuts do not meet, for every side of the box is touched between them
    a = y1 + x1 - max(one[6], two[6] + dy + dx)
    b = y1 - x0 - max(one[7], two[7] + dy - dx)
    c = x1 - y0 - max(one[8], two[8] + dx - dy)
    d = -y0 - x0 - max(one[9], two[9] - dy - dx)
    return (y1 - y0) * (x1 - x0) - 0.5 * (a * a + b * b + c * c + d * d)


@numba.njit(cache=True, nogil=True)
def volume(points, faces):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Area or volume of a shape whose centre is the origin: the sum over its faces of triangles or tetrahedra."""
    total = 0.0
    for f in range(len(faces)):
        a, b = points[faces[f, 0]], points[faces[f, 1]]
        if faces.shape[1] == 2:
            total += abs(a[1] * b[2] - a[2] * b[1]) / 2.0
        else:
            c = points[faces[f, 2]]
            total += abs(a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0])
                         + a[2] * (b[0] * c[1] - b[1] * c[0])) / 6.0
    return total


@numba.njit(cache=True, nogil=True)
def cut(points, faces, z, segments):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Segments (y, x, y, x) in which the plane ``z`` cuts a polyhedron (of a polygon: its edges), and their number."""
    count = 0
    if faces.shape[1] == 2:
        for f in range(len(faces)):
            for e in range(2):
                segments[f, 2 * e] = points[faces[f, e], 1]
                segments[f, 2 * e + 1] = points[faces[f, e], 2]
        return len(faces)
    for f in range(len(faces)):
        above0, above1 = points[faces[f, 0], 0] >= z, points[faces[f, 1], 0] >= z
        above2 = points[faces[f, 2], 0] >= z
        if above0 == above1 and above1 == above2:
            continue
        e = 0
        if above0 != above1:
            _meet(points, faces[f, 0], faces[f, 1], z, segments[count], 0)
            e = 2
        if above1 != above2:
            _meet(points, faces[f, 1], faces[f, 2], z, segments[count], e)
            e = 2
        if above0 != above2:
            _meet(points, faces[f, 0], faces[f, 2], z, segments[count], e)
        count += 1
    return count


@numba.njit(cache=True, nogil=True)
def _meet(points, i, j, z, segment, at):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Where the edge between two points meets a plane; the same bits for both faces of the edge."""
    if i > j:
        i, j = j, i
    share = (z - points[i, 0]) / (points[j, 0] - points[i, 0])
    segment[at] = points[i, 1] + share * (points[j, 1] - points[i, 1])
    segment[at + 1] = points[i, 2] + share * (points[j, 2] - points[i, 2])


@numba.njit(cache=True, nogil=True)
def cross(segments, count, first, step, lines, xs, counts):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Sorted x at which the lines ``y = first + k step`` cross segments."""
    last, scale = first + (lines - 1) * step, (1.0 - 1e-12) / step
    for k in range(lines):
        counts[k] = 0
    for s in range(count):
        y0, x0, y1, x1 = segments[s, 0], segments[s, 1], segments[s, 2], segments[s, 3]
        if y0 > y1:
            y0, x0, y1, x1 = y1, x1, y0, x0
        if not y0 <= last or y1 <= first:
            continue
        # one line too low at most, as rounding would have it: then up to the first that is not below the end
        k = np.int64(max(0.0, (y0 - first) * scale))  # type: ignore[assignment]
        while first + k * step < y0:
            k += 1
        if k >= lines or not first + k * step < y1:
            continue
        slope = (x1 - x0) / (y1 - y0)
        while k < lines and first + k * step < y1:
            x = x0 + (first + k * step - y0) * slope
            i = counts[k]
            while i > 0 and xs[k, i - 1] > x:
                xs[k, i] = xs[k, i - 1]
                i -= 1
            xs[k, i] = x
            counts[k] += 1
            k += 1


@numba.njit(cache=True, nogil=True)
def _cross_edges(points, faces, first, step, lines, xs, counts, below):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """What `cross` finds for a polygon, faster: every corner counts the lines below it, edges compare two counts."""
    last, scale = first + (lines - 1) * step, (1.0 - 1e-12) / step
    for k in range(lines):
        counts[k] = 0
    for r in range(len(points)):
        y, k = points[r, 1], 0
        if y > last:
            k = lines
        elif y > first:
            k = int((y - first) * scale)  # one too low at most
            while first + k * step < y:
                k += 1
        below[r] = k
    for f in range(len(faces)):
        i, j = faces[f, 0], faces[f, 1]
        if below[i] == below[j]:
            continue
        if below[i] > below[j]:
            i, j = j, i
        y0, x0 = points[i, 1], points[i, 2]
        slope = (points[j, 2] - x0) / (points[j, 1] - y0)
        for k in range(below[i], below[j]):
            x = x0 + (first + k * step - y0) * slope
            n = counts[k]
            while n > 0 and xs[k, n - 1] > x:
                xs[k, n] = xs[k, n - 1]
                n -= 1
            xs[k, n] = x
            counts[k] += 1


@numba.njit(cache=True, nogil=True)
def common_length(a, na, b, nb):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Length that two lines have inside both shapes."""
    total = 0.0
    i = j = 0
    while i + 1 < na and j + 1 < nb:
        low, high = max(a[i], b[j]), min(a[i + 1], b[j + 1])
        if high > low:
            total += high - low
        if a[i + 1] < b[j + 1]:
            i += 2
        else:
            j += 2
    return total


@numba.njit(cache=True, nogil=True)
def overlap(a, box_a, b, box_b, faces, rough, room):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Area or volume that two shapes have in common; ``rough`` takes fewer lines, ``room`` is from `workroom`."""
    segments, xs_a, xs_b, count_a, count_b, below = room
    flat = faces.shape[1] == 2
    y0, y1 = max(box_a[1], box_b[1]), min(box_a[4], box_b[4])
    z0, z1 = max(box_a[0], box_b[0]), min(box_a[3], box_b[3])
    planes = 1 if flat else _FEW_PLANES if rough else _PLANES
    lines = (_FEW_LINES if rough else _LINES) if flat else planes
    thick, step = 1.0 if flat else (z1 - z0) / planes, (y1 - y0) / lines
    if not (step > 0.0 and thick > 0.0):
        return 0.0
    total = 0.0
    for p in range(planes):
        z = z0 + (p + 0.5) * thick
        if flat:
            _cross_edges(a, faces, y0 + 0.5 * step, step, lines, xs_a, count_a, below)
            _cross_edges(b, faces, y0 + 0.5 * step, step, lines, xs_b, count_b, below)
        else:
            cross(segments, cut(a, faces, z, segments), y0 + 0.5 * step, step, lines, xs_a, count_a)
            cross(segments, cut(b, faces, z, segments), y0 + 0.5 * step, step, lines, xs_b, count_b)
        for k in range(lines):
            total += common_length(xs_a[k], count_a[k], xs_b[k], count_b[k])
    return total * step * thick


@numba.njit(cache=True, nogil=True)
def workroom(faces):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Arrays that `overlap` and `holds` write into."""
    n = len(faces)
    return (np.empty((n, 4)), np.empty((_LINES, n + 1)), np.empty((_LINES, n + 1)), np.empty(_LINES, np.int64),
            np.empty(_LINES, np.int64), np.empty(n, np.int64))


@numba.njit(cache=True, nogil=True)
def holds(points, faces, at, room):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Whether a position (z, y, x) lies inside a shape."""
    segments, xs, _, counts, _, _ = room
    cross(segments, cut(points, faces, at[0], segments), at[1], 1.0, 1, xs, counts)
    below = 0
    for i in range(counts[0]):
        below += xs[0, i] < at[2]
    return below % 2 == 1
