"""How far the flow a network predicted is from the flow its own objects would have: objects nobody believes in.

The consistency check of Cellpose (Stringer et al. 2021, "flow error"), in any number of axes, object by object, so that
blocks change nothing. An object in a box of more than `_MOST` voxels is looked at on a coarser grid, every second voxel
along its longest sides or less: neither time nor memory grows with its size. Thin ones are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from biosegkit.kernels.bands import bands
from biosegkit.kernels.flow_trace import UNIT
from biosegkit.kernels.pieces import pieces
from biosegkit.methods.protocol import Block, State
from biosegkit.methods.tables import Tally

__all__ = ["Field", "flow_errors", "seen_in", "squared_errors"]

Field = Callable[[npt.NDArray[Any], Sequence[float]], npt.NDArray[np.float32]]

#: Voxels that a field takes as long for as one call of it takes at least.
_CALL = 3000
#: Into how many parts of the block objects are divided: they are checked in groups that fill no more than one.
_PARTS = 8
#: Voxels of a box above which they are looked at in steps; errors then differ by 0.01 to 0.04 from those of all voxels.
_MOST = 1 << 17
#: Of what an object that is looked at in steps is there, so much must hold together, and so much have neighbours on all
#: sides: thin ones fall apart or get other directions.
_TOGETHER, _INNER = 0.9, 0.6


def flow_errors(states: Sequence[State], painted: Iterable[npt.NDArray[Any]],
                objects: tuple[Tally, npt.NDArray[np.int64]], field: Field) -> npt.NDArray[np.float64]:
    """Mean over the voxels of an object of the squared length of (flow of the object - predicted flow).

    States are read once and one at a time; objects that lie in several blocks are put together in their own boxes.

    Parameters
    ----------
    states : sequence of State
        With the predicted flow of the core, ``flow`` (int8, (D, *core)).
    painted : iterable of ndarray of int, (*core)
        Objects ``1..K`` of each block, 0 for nothing.
    objects : (Tally, ndarray of int64)
        Of the same objects: their boxes; and in how many blocks each of ``0..K`` is.
    field : callable
        ``field(labels, spacing)``: the target of the method.

    Returns
    -------
    ndarray, (K,)
        0 to 4: 0 is perfect, 1 what no flow at all would have, 4 the opposite.
    """
    tally, blocks_of = objects
    count = len(tally.area)
    several = blocks_of > 1
    several[0] = False
    squares, waiting = np.zeros(count + 1), dict[int, _Whole]()
    for state, labels in zip(states, painted, strict=True):
        flow = state.arrays["flow"]
        if not several.any():
            squares += squared_errors(state, labels, field, count)
            continue
        squares += squared_errors(state, _listed(labels, ~several), field, count)
        shared = np.flatnonzero(seen_in(labels, count) & several)
        for k in shared.tolist():
            whole = waiting.pop(k, None) or _Whole.of(k, tally, int(blocks_of[k]))
            whole = whole.joined(k, state.block, labels, flow)
            if whole.missing:
                waiting[k] = whole
            else:
                place = (whole.low, whole.high, state.block.full_shape)
                squares[k] += _alone(whole.labels, whole.flow, place, state.block.spacing, field)
    return np.asarray(squares[1:] / np.maximum(tally.area, 1))


def seen_in(labels: npt.NDArray[Any], count: int) -> npt.NDArray[np.bool_]:
    """Which of ``0..count`` are in a label image.

    Examples
    --------
    >>> seen_in(np.array([[0, 2], [2, 0]]), 3).tolist()
    [True, False, True, False]
    """
    met = np.zeros(count + 1, bool)
    for part in labels:  # as an index, all at once would take twice the label image
        met[part] = True
    return met


@dataclass(frozen=True, eq=False)
class _Whole:
    """An object that lies in several blocks, in its box: where it is, its flow, and how many blocks are to come."""

    low: tuple[int, ...]
    high: tuple[int, ...]
    labels: npt.NDArray[np.uint8]
    flow: npt.NDArray[np.int8]
    missing: int

    @classmethod
    def of(cls, k: int, tally: Tally, blocks: int) -> _Whole:
        """Nothing of object ``k`` yet."""
        low = tuple(int(v) for v in tally.low[k - 1, 3 - tally.ndim:])
        high = tuple(int(v) + 1 for v in tally.high[k - 1, 3 - tally.ndim:])
        shape = tuple(h - a for a, h in zip(low, high, strict=True))
        return cls(low, high, np.zeros(shape, np.uint8), np.zeros((len(shape), *shape), np.int8), blocks)

    def joined(self, k: int, block: Block, labels: npt.NDArray[Any], flow: npt.NDArray[np.int8]) -> _Whole:
        """With what a block holds of it."""
        first = [max(a, s) for a, s in zip(self.low, block.start, strict=True)]
        last = [min(h, s + n) for h, s, n in zip(self.high, block.start, block.shape, strict=True)]
        into = tuple(slice(a - o, h - o) for a, h, o in zip(first, last, self.low, strict=True))
        out = tuple(slice(a - s, h - s) for a, h, s in zip(first, last, block.start, strict=True))
        self.labels[into] = labels[out] == k
        self.flow[(slice(None), *into)] = flow[(slice(None), *out)]
        return replace(self, missing=self.missing - 1)


def squared_errors(state: State, labels: npt.NDArray[Any], field: Field, count: int) -> npt.NDArray[np.float64]:
    """Squared lengths of the difference of objects ``1..count`` that lie in one block, summed by object; 0 is nothing.

    An object's sum does not depend on the others.
    """
    b, flow = state.block, state.arrays["flow"]
    boxes = ndimage.find_objects(labels, count)
    squares, number = np.zeros(count + 1), np.zeros(count + 1, np.int32)
    for group in _groups(boxes, labels.shape):
        parts = list(zip(*(box for k in group if (box := boxes[k - 1])), strict=True))
        box = tuple(slice(min(p.start for p in axis), max(p.stop for p in axis)) for axis in parts)
        low, high = (tuple(s + getattr(part, side) for s, part in zip(b.start, box, strict=True))
                     for side in ("start", "stop"))
        if len(group) == 1:
            squares[group] = _alone(labels[box], flow[(slice(None), *box)], (low, high, b.full_shape), b.spacing, field,
                                    group[0])
            continue
        number[group] = np.arange(1, len(group) + 1)
        mine = number[labels[box]]
        number[group] = 0
        squares[group] = _squares(mine, flow[(slice(None), *box)], (low, high, b.full_shape), b.spacing, field,
                                  len(group))[1:]
    return squares


def _groups(boxes: Sequence[tuple[slice, ...] | None], shape: tuple[int, ...]) -> list[list[int]]:
    """Objects that are checked together, from 1: those of a part of the longest axis, or each alone if these are few.

    Those that are longer than a part, or large, are checked alone.

    Examples
    --------
    >>> box = lambda a, b: (slice(0, 60), slice(a, b))
    >>> _groups([box(0, 20), None, box(50, 70), box(10, 23)], (60, 1000))
    [[1], [3], [4]]
    >>> _groups([box(0, 120), None, box(480, 600), box(10, 120), box(20, 125), box(480, 590), box(0, 125),
    ...          box(500, 600)], (60, 1000))
    [[1, 7, 4, 5], [3, 6, 8]]
    >>> _groups([box(0, 900), box(10, 60), box(50, 950), box(20, 50)], (60, 1000))
    [[1], [3], [2, 4]]
    """
    present = {k: box for k, box in enumerate(boxes, 1) if box}
    size = math.prod(shape)
    filled = sum(math.prod(part.stop - part.start for part in box) for box in present.values())
    if filled + _CALL * len(present) <= size:
        return [[k] for k in present]
    axis = int(np.argmax(shape))
    limit = shape[axis] // _PARTS
    long = [k for k, box in present.items()
            if box[axis].stop - box[axis].start > limit or math.prod(part.stop - part.start for part in box) > _MOST]
    groups = [[k] for k in long]
    first = -limit
    for k in sorted(set(present) - set(long), key=lambda k: (present[k][axis].start, k)):
        if present[k][axis].stop - first > limit:
            groups.append([])
            first = present[k][axis].start
        groups[-1].append(k)
    return groups


def _listed(labels: npt.NDArray[Any], chosen: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """The chosen objects alone."""
    table = np.where(chosen, np.arange(len(chosen)), 0).astype(labels.dtype)
    out = np.empty_like(labels)
    for part in bands(labels.shape):
        out[part] = table[labels[part]]
    return out


def _alone(labels: npt.NDArray[Any], flow: npt.NDArray[np.int8], place: tuple[tuple[int, ...], ...],
           spacing: Sequence[float], field: Field, number: int = 1) -> float:
    """Sum of squares of one object in its own box.

    Of a large one the voxels of a coarser grid stand for all, unless it is thin there.
    """
    steps = _steps(labels.shape)
    if max(steps) > 1:
        grid = tuple(slice((n - 1) % step // 2, None, step) for n, step in zip(labels.shape, steps, strict=True))
        mine = (labels[grid] == number).astype(np.uint8)
        sizes = np.bincount(pieces(mine).number.reshape(-1) + 1)[1:]
        inner = np.count_nonzero(ndimage.binary_erosion(mine, border_value=1))
        if len(sizes) and sizes.max() >= _TOGETHER * sizes.sum() and inner >= _INNER * sizes.sum():
            whole = sum(int(np.count_nonzero(plane == number)) for plane in labels)
            coarse = tuple(s * step for s, step in zip(spacing, steps, strict=True))
            return float(_squares(mine, flow[(slice(None), *grid)], place, coarse, field, 1)[1] * (whole / sizes.sum()))
    return float(_squares((labels == number).astype(np.uint8), flow, place, spacing, field, 1)[1])


def _steps(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a grid in a box that has no more than `_MOST` places: the longest sides are halved until it is so.

    Examples
    --------
    >>> _steps((200, 300)), _steps((400, 400)), _steps((1024, 800)), _steps((64, 256, 256))
    ((1, 1), (2, 2), (4, 2), (2, 8, 8))
    """
    steps = [1] * len(shape)
    sides = list(shape)
    while math.prod(sides) > _MOST:
        longest = max(sides)
        for axis, side in enumerate(sides):
            if side == longest:
                steps[axis] *= 2
                sides[axis] = -(-shape[axis] // steps[axis])
    return tuple(steps)


def _squares(labels: npt.NDArray[Any], flow: npt.NDArray[np.int8], place: tuple[tuple[int, ...], ...],
             spacing: Sequence[float], field: Field, count: int) -> npt.NDArray[np.float64]:
    """Sums of squares per object; beyond the array is something else, but for the edge of the image."""
    if not labels.any():
        return np.zeros(count + 1)
    low, high, full = place
    rim = [(int(a > 0), int(h < n)) for a, h, n in zip(low, high, full, strict=True)]
    core = tuple(slice(a, a + n) for (a, _), n in zip(rim, labels.shape, strict=True))
    target = field(np.pad(labels, rim) if np.any(rim) else labels, spacing)
    inside = labels.reshape(-1) > 0
    apart = np.zeros(int(inside.sum()))
    for axis in range(labels.ndim):
        predicted = flow[axis].reshape(-1)[inside].astype(np.float64) / UNIT
        wanted = target[axis][core].reshape(-1)[inside]
        apart += (wanted - predicted) ** 2
    return np.asarray(np.bincount(labels.reshape(-1)[inside], weights=apart, minlength=count + 1), np.float64)
