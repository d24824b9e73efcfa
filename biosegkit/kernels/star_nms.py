"""Which of many star-shaped candidates are objects: greedy suppression in a total order.

Candidates come best first. Each is compared with the shapes kept before it, and kept unless it overlaps one of them by
more than the threshold. Kept shapes are found through a hash of cells, one grid of cells per class of size (powers of
two), so a giant outlier is one more entry and not a longer search for everybody. A comparison depends on nothing but
its two shapes: results are the same wherever an image is cut and in whatever order kept shapes are found.
"""

from __future__ import annotations

from typing import Any, Literal

import numba
import numpy as np
import numpy.typing as npt

from biosegkit.errors import DataError, OptionError
from biosegkit.kernels.components import find, union
from biosegkit.kernels.rays import Rays
from biosegkit.kernels.star_shapes import box_of, diagonals_of, holds, overlap, place, union_limit, volume, workroom

__all__ = ["RULES", "Rule", "suppress"]

Rule = Literal["stardist", "iou"]
#: How the overlap of two shapes is counted: over the smaller of them, or over their union.
RULES: tuple[Rule, ...] = ("stardist", "iou")

#: A shape that is covered to this share by one kept shape adds nothing when shapes are merged.
_COVERED = 0.9
#: Two of one object whose centres are no farther apart than this share of a shape's narrowest half hold the same.
_TWIN = 0.5
#: A rough overlap decides when it is this far from the threshold (its error is a third of that).
_DOUBT = 0.12
_ROUGH = 0.04
_LEVELS = 48


def suppress(
    centres: npt.NDArray[Any],
    distances: npt.NDArray[np.float32],
    rays: Rays,
    spacing: Any = None,
    *,
    threshold: float,
    rule: Rule = "stardist",
    merge: bool = False,
) -> npt.NDArray[np.int64]:
    """Leaders of candidates, or -1 for those that are dropped.

    Parameters
    ----------
    centres : ndarray of int, (M, ndim)
        Positions in voxels, the best candidate first; the caller breaks ties.
    distances : ndarray of float32, (M, n_rays)
        Lengths of the rays, in units of the spacing, above 0.
    rays : Rays
    spacing : sequence of float, optional
        Voxel size; 1 by default.
    threshold : float
        Overlap above which the later one of two shapes is suppressed.
    rule : {"stardist", "iou"}
        Overlap as the common area over the smaller area, or over the area of the union.
    merge : bool
        Keep a suppressed shape as part of the object that suppressed it if each holds the other's centre and it is
        not covered anyway; a shape of which that is true for two objects makes them one. One whose centre is close to
        that of a kept one, each holding the other's, is dropped before anything is compared. For objects that are not
        star-shaped (the idea of Walter et al., "StarDist-OPP").

    Returns
    -------
    ndarray of int64, (M,)
        Number of the best candidate of the object a kept one belongs to (itself, without merging); -1 if dropped.

    Raises
    ------
    DataError
        For arrays that do not belong together.
    OptionError
        For an unknown rule.

    References
    ----------
    Schmidt et al. 2018 (arXiv:1806.03535) and Weigert et al. 2020 (arXiv:1908.03636) for the greedy rule.

    Examples
    --------
    >>> from biosegkit.kernels.rays import circle
    >>> centres = np.array([[9, 9], [9, 11], [9, 30]])
    >>> suppress(centres, np.full((3, 32), 5.0, np.float32), circle(32), threshold=0.4).tolist()
    [0, -1, 2]
    >>> suppress(centres, np.full((3, 32), 5.0, np.float32), circle(32), threshold=0.8).tolist()
    [0, 1, 2]
    """
    if rule not in RULES:
        raise OptionError(f"overlap rule {rule!r}", expected=f"one of {', '.join(RULES)}")
    count, ndim = len(centres), rays.ndim
    if centres.shape != (count, ndim) or distances.shape != (count, len(rays)):
        raise DataError(f"centres {centres.shape}, distances {distances.shape}",
                        expected=f"(M, {ndim}) and (M, {len(rays)})")
    steps = rays.steps((1.0,) * ndim if spacing is None else spacing)
    places = np.zeros((count, 3), np.int64)
    places[:, 3 - ndim :] = centres
    leader = np.full(count, -1, np.int64)
    bits = max(4, int(np.log2(max(1, count))) - 1)
    _greedy(places, np.ascontiguousarray(distances, np.float32), steps, rays.faces, (threshold, rule == "iou", merge),
            bits, leader)
    return leader


@numba.njit(cache=True, nogil=True)
def _greedy(centres, distances, steps, faces, rule, bits, leader):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """One candidate after the other against the shapes kept so far."""
    threshold, union_rule, merge = rule
    count = len(centres)
    parent = np.arange(count)
    kept = _kept(count, bits)
    boxes, sizes = kept[0], kept[1]
    near = np.empty(count, np.int32)
    mine, other = np.empty((len(steps), 3)), np.empty((len(steps), 3))
    shift, box = np.zeros(3), np.empty(6)
    room, flat = workroom(faces), faces.shape[1] == 2
    for j in range(count):
        shift[:] = 0.0
        place(distances[j], steps, shift, mine)
        size = volume(mine, faces)
        if not size > 0.0:
            continue
        box_of(mine, boxes[j])
        if flat:
            diagonals_of(mine, boxes[j])
        sizes[j] = size
        found = _gather(kept, centres, j, bits, near)
        if merge and _has_twin((centres, distances, steps, faces), (j, near[:found], mine, boxes[j]), other, room):
            continue
        hit, root, covered = False, -1, False
        for n in range(found):
            i = near[n]
            for a in range(3):
                shift[a] = centres[i, a] - centres[j, a]
                box[a], box[3 + a] = boxes[i, a] + shift[a], boxes[i, 3 + a] + shift[a]
            most = _common_box(boxes[j], box, len(faces[0]))
            if not _share(min(most, size, sizes[i]), size, sizes[i], union_rule) > threshold:
                continue
            if flat and not merge:
                least = size + sizes[i] - union_limit(boxes[j], boxes[i], shift)
                if _share(least, size, sizes[i], union_rule) > threshold + _ROUGH:
                    hit = True
                    break
            place(distances[i], steps, shift, other)
            # centre of j in i, and centre of i in j; an overlap costs far more
            held = merge and (holds(other, faces, (0.0, 0.0, 0.0), room)
                              and holds(mine, faces, (shift[0], shift[1], shift[2]), room))
            if hit and not held:
                continue  # dropped anyway unless it belongs to others
            common = overlap(other, box, mine, boxes[j], faces, not held, room)
            share = _share(common, size, sizes[i], union_rule)
            if not held and abs(share - threshold) < _DOUBT:
                share = _share(overlap(other, box, mine, boxes[j], faces, False, room), size, sizes[i], union_rule)
            if not share > threshold:
                continue
            hit = True
            if not merge:
                break
            if not held:
                continue
            root = find(parent, i) if root < 0 else union(parent, root, i)
            covered = covered or common >= _COVERED * size
        if hit and (root < 0 or covered):
            continue
        leader[j] = j
        if root >= 0:
            union(parent, root, j)
        _keep(kept, centres, j, bits)
    for j in range(count):
        if leader[j] >= 0:
            leader[j] = find(parent, j)


@numba.njit(cache=True, nogil=True)
def _has_twin(shapes, this, other, room):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Whether a kept shape has its centre close to that of this one, and each holds the other's."""
    centres, distances, steps, faces = shapes
    j, near, mine, box = this
    ndim = faces.shape[1]
    narrow = np.inf
    for a in range(3 - ndim, 3):
        narrow = min(narrow, 0.5 * (box[3 + a] - box[a]))
    shift, none = np.zeros(3), (0.0, 0.0, 0.0)
    for i in near:
        apart = 0.0
        for a in range(3):
            shift[a] = centres[i, a] - centres[j, a]
            apart += shift[a] ** 2
        if apart > (_TWIN * narrow) ** 2 or not holds(mine, faces, (shift[0], shift[1], shift[2]), room):
            continue
        place(distances[i], steps, shift, other)
        if holds(other, faces, none, room):
            return True
    return False


@numba.njit(cache=True, nogil=True)
def _share(common, one, two, union_rule):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Overlap by one of the rules."""
    return common / (one + two - common) if union_rule else common / min(one, two)


@numba.njit(cache=True, nogil=True)
def _common_box(one, two, ndim):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Area or volume of the common part of two boxes."""
    total = 1.0
    for a in range(3 - ndim, 3):
        total *= max(0.0, min(one[3 + a], two[3 + a]) - max(one[a], two[a]))
    return total


@numba.njit(cache=True, nogil=True)
def _kept(count, bits):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Boxes (in a plane with diagonals) and sizes of shapes; chains of the kept ones by bucket and by class of size."""
    return (np.empty((count, 10)), np.empty(count), np.full(1 << bits, -1, np.int32), np.full(count, -1, np.int32),
            np.full(_LEVELS, -1, np.int32), np.full(count, -1, np.int32), np.zeros(_LEVELS, np.int64))


@numba.njit(cache=True, nogil=True)
def _keep(kept, centres, j, bits):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Enter a shape under the cell that holds the middle of its box, in the cells of its class of size."""
    boxes, _, heads, follows, tops, before, members = kept
    widest = 4.0
    for a in range(3):
        widest = max(widest, boxes[j, 3 + a] - boxes[j, a])
    level = np.int64(min(_LEVELS - 1.0, np.ceil(np.log2(widest))))
    cell = 2.0**level
    at = np.empty(3, np.int64)
    for a in range(3):
        at[a] = np.int64(np.floor((centres[j, a] + 0.5 * (boxes[j, a] + boxes[j, 3 + a])) / cell))
    bucket = _bucket(level, at[0], at[1], at[2], bits)
    follows[j], heads[bucket] = heads[bucket], j
    before[j], tops[level] = tops[level], j
    members[level] += 1


@numba.njit(cache=True, nogil=True)
def _gather(kept, centres, j, bits, near):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Kept shapes whose boxes meet that of ``j``, and their number."""
    boxes, _, heads, follows, tops, before, members = kept
    found = 0
    # An image has one plane, and all boxes lie in it.
    first = 1 if boxes[j, 0] == boxes[j, 3] else 0
    z0 = z1 = np.int64(np.floor(centres[j, 0] / 2.0**_LEVELS))
    cell = 0.5
    for level in range(_LEVELS):
        cell *= 2.0
        if members[level] == 0:
            continue
        # The middle of a box of this class is at most half a cell away from any of its points.
        if first == 0:
            z0, z1 = _reach(centres[j, 0], boxes[j, 0], boxes[j, 3], cell)
        y0, y1 = _reach(centres[j, 1], boxes[j, 1], boxes[j, 4], cell)
        x0, x1 = _reach(centres[j, 2], boxes[j, 2], boxes[j, 5], cell)
        if np.float64(z1 - z0 + 1) * np.float64(y1 - y0 + 1) * np.float64(x1 - x0 + 1) > members[level]:
            i = tops[level]
            while i >= 0:
                found = _add(boxes, centres, i, j, near, found)
                i = before[i]
            continue
        for z in range(z0, z1 + 1):
            for y in range(y0, y1 + 1):
                for x in range(x0, x1 + 1):
                    i = heads[_bucket(level, z, y, x, bits)]
                    while i >= 0:
                        found = _add(boxes, centres, i, j, near, found)
                        i = follows[i]
    return found


@numba.njit(cache=True, nogil=True)
def _reach(centre, low, high, cell):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """First and last cell along an axis that may hold the middle of a box that meets this one."""
    return np.int64(np.floor((centre + low) / cell - 0.5)), np.int64(np.floor((centre + high) / cell + 0.5))


@numba.njit(cache=True, nogil=True)
def _add(boxes, centres, i, j, near, found):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """One more, if the boxes meet."""
    for a in range(3):
        apart = centres[i, a] - centres[j, a]
        if boxes[i, a] + apart > boxes[j, 3 + a] or boxes[i, 3 + a] + apart < boxes[j, a]:
            return found
    if found < len(near):
        near[found] = i
    return min(found + 1, len(near))


@numba.njit(cache=True, nogil=True)
def _bucket(level, z, y, x, bits):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Place of a cell in the hash table; cells that share one cost a look, nothing more."""
    mixed = np.uint64(level) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ np.uint64(z)) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(29)) ^ np.uint64(y)) * np.uint64(0x94D049BB133111EB)
    mixed = (mixed ^ (mixed >> np.uint64(31)) ^ np.uint64(x)) * np.uint64(0xBF58476D1CE4E5B9)
    return np.int64(mixed >> np.uint64(64 - bits))
