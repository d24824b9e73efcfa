"""How far the flow a network predicted is from the flow its own objects would have: objects nobody believes in.

The consistency check of Cellpose (Stringer et al. 2021, "flow error"), in any number of axes, object by object, so that
blocks change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from biosegkit.kernels.flow_trace import UNIT
from biosegkit.methods.protocol import State
from biosegkit.methods.tables import Tally

__all__ = ["Field", "flow_errors", "squared_errors"]

Field = Callable[[npt.NDArray[Any], Sequence[float]], npt.NDArray[np.float32]]

#: Voxels that a field takes as long for as one call of it takes at least.
_CALL = 3000


def flow_errors(states: Sequence[State], painted: Sequence[npt.NDArray[Any]], tally: Tally,
                field: Field) -> npt.NDArray[np.float64]:
    """Mean over the voxels of an object of the squared length of (flow of the object - predicted flow).

    Parameters
    ----------
    states : sequence of State
        With the predicted flow of the core, ``flow`` (int8, (D, *core)).
    painted : sequence of ndarray of int, (*core)
        Objects ``1..K`` of each block, 0 for nothing.
    tally : Tally
        Of the same objects: their boxes.
    field : callable
        ``field(labels, spacing)``: the target of the method.

    Returns
    -------
    ndarray, (K,)
        0 to 4: 0 is perfect, 1 what no flow at all would have, 4 the opposite.
    """
    count = len(tally.area)
    blocks_of = np.zeros(count + 1, np.int64)
    for labels in painted:
        met = np.zeros(count + 1, bool)
        for part in labels:  # as an index, all at once would take twice the label image
            met[part] = True
        blocks_of += met
    cut = bool((blocks_of[1:] > 1).any())
    squares = np.zeros(count + 1)
    for state, labels in zip(states, painted, strict=True):
        own = np.where(blocks_of[labels] == 1, labels, 0) if cut else labels
        squares += squared_errors(state, own, field, count)
    for k in np.flatnonzero(blocks_of[1:] > 1):
        squares += _one(int(k), states, painted, tally, field, count)
    return np.asarray(squares[1:] / np.maximum(tally.area, 1))


def squared_errors(state: State, labels: npt.NDArray[Any], field: Field, count: int) -> npt.NDArray[np.float64]:
    """Squared lengths of the difference of objects ``1..count`` that lie in one block, summed by object; 0 is nothing.

    An object's sum does not depend on the others.
    """
    b, flow = state.block, state.arrays["flow"]
    boxes = ndimage.find_objects(labels, count)
    sizes = [math.prod(part.stop - part.start for part in box) for box in boxes if box]
    if sum(sizes) + _CALL * len(sizes) > labels.size:
        ends = tuple(s + n for s, n in zip(b.start, b.shape, strict=True))
        return _squares(labels, flow, (b.start, ends, b.full_shape), b.spacing, field, count)
    squares = np.zeros(count + 1)
    for k, box in enumerate(boxes, 1):
        if box:
            low, high = (tuple(s + getattr(part, side) for s, part in zip(b.start, box, strict=True))
                         for side in ("start", "stop"))
            mine = np.where(labels[box] == k, 1, 0)
            squares[k] = _squares(mine, flow[(slice(None), *box)], (low, high, b.full_shape), b.spacing, field, 1)[1]
    return squares


def _one(k: int, states: Sequence[State], painted: Sequence[npt.NDArray[Any]], tally: Tally, field: Field,
         count: int) -> npt.NDArray[np.float64]:
    """An object that lies in several blocks, put together in its own box."""
    b = states[0].block
    ndim = len(b.shape)
    low = tuple(int(v) for v in tally.low[k, 3 - ndim:])
    high = tuple(int(v) + 1 for v in tally.high[k, 3 - ndim:])
    shape = tuple(h - a for a, h in zip(low, high, strict=True))
    labels = np.zeros(shape, np.int64)
    flow = np.zeros((ndim, *shape), np.int8)
    for state, part in zip(states, painted, strict=True):
        start = state.block.start
        first = [max(a, s) for a, s in zip(low, start, strict=True)]
        last = [min(h, s + n) for h, s, n in zip(high, start, part.shape, strict=True)]
        if any(a >= h for a, h in zip(first, last, strict=True)):
            continue
        into = tuple(slice(a - o, h - o) for a, h, o in zip(first, last, low, strict=True))
        out = tuple(slice(a - s, h - s) for a, h, s in zip(first, last, start, strict=True))
        labels[into] = np.where(part[out] == k + 1, k + 1, 0)
        flow[(slice(None), *into)] = state.arrays["flow"][(slice(None), *out)]
    return _squares(labels, flow, (low, high, b.full_shape), b.spacing, field, count)


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
