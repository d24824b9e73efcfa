"""Objects of a stack that a 2D model sees plane by plane: decoded alone, then joined with those of the plane before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .kernels.overlap import Overlaps, overlap_counts
from .methods import Block, Method
from .methods.protocol import ArrayDict, State
from .slabs import paste
from .tables import merged_rows, stacked_rows

__all__ = ["JOINED_NOTE", "SAME_OBJECT", "joined", "joined_by", "slice_by_slice"]

#: Intersection over union from which objects of neighbouring planes are one (Cellpose stitches planes likewise).
SAME_OBJECT = 0.25
#: What a prediction of objects plane by plane says.
JOINED_NOTE = (f"objects found plane by plane; those of neighbouring planes with an IoU of at least {SAME_OBJECT:g} "
               "are one object")


def joined(before: npt.NDArray[Any], plane: npt.NDArray[Any], last: int) -> npt.NDArray[np.uint32]:
    """Ids in the stack of the objects of a plane.

    Two objects are one if each is the other's best partner and their IoU is at least :data:`SAME_OBJECT`.

    Parameters
    ----------
    before : ndarray, (y, x)
        Ids in the stack of the plane before.
    plane : ndarray, (y, x)
        Objects 1 … n of this plane.
    last : int
        The largest id in the stack so far.

    Returns
    -------
    ndarray of uint32, (n + 1,)
        The id of each, 0 first; objects without partner go on from ``last``.

    Examples
    --------
    >>> joined(np.array([[5, 5, 5, 0]]), np.array([[0, 1, 1, 2]]), 9).tolist()
    [0, 5, 10]
    """
    return joined_by(overlap_counts(before, plane), int(plane.max(initial=0)), last)


def joined_by(found: Overlaps, count: int, last: int) -> npt.NDArray[np.uint32]:
    """As :func:`joined`, from how much the objects of the plane before share with the ``count`` of this plane.

    Examples
    --------
    >>> joined_by(overlap_counts(np.array([[5, 5, 5, 0]]), np.array([[0, 1, 1, 2]])), 2, 9).tolist()
    [0, 5, 10]
    """
    ids = np.zeros(count + 1, np.uint32)
    iou = found.iou()
    best: list[dict[int, float]] = [{}, {}]
    for (a, b), value in zip(found.pairs.tolist(), iou.tolist(), strict=True):
        for side, name in enumerate((a, b)):
            best[side][name] = max(value, best[side].get(name, 0.0))
    taken: set[int] = set()
    for (a, b), value in zip(found.pairs.tolist(), iou.tolist(), strict=True):
        if value >= SAME_OBJECT and value == best[0][a] == best[1][b] and a not in taken and not ids[b]:
            ids[b] = a
            taken.add(a)
    new = np.flatnonzero(ids[1:] == 0) + 1
    ids[new] = last + 1 + np.arange(len(new))
    return ids


def slice_by_slice(method: Method, states: Iterable[State], place: tuple[Any, tuple[slice, ...]],
                   thresholds: Mapping[str, float]) -> ArrayDict:
    """Write the objects of a stack into ``place`` (view, window) and return their table.

    ``states`` are those of the planes, in order; each needs only the plane before, so blocks change nothing.
    """
    view, window = place
    tables, last = [], 0
    before: npt.NDArray[Any] | None = None
    full = tuple(w.stop - w.start for w in window)
    for z, state in enumerate(states):
        labels, table = method.paint(state, method.resolve([state], thresholds))
        ids = joined(np.zeros_like(labels) if before is None else before, labels, last)
        last = max(last, int(ids.max(initial=0)))
        before = ids[labels]
        core = Block((z, 0, 0), (1, *full[1:]), full, (0,) * 3, (0,) * 3)
        paste(view, window, core, before[None])
        tables.append(stacked_rows(table, z, ids))
    return merged_rows({name: np.concatenate([t[name] for t in tables]) for name in tables[0]})
