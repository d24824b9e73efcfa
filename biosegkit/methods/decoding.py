"""Decode one image in one go, and score a method on perfect targets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.kernels.overlap import overlap_counts
from biosegkit.methods.protocol import ArrayDict, Block, Method, ObjectTable
from biosegkit.metrics.instances import instance_counts

__all__ = ["decode", "oracle", "round_trip"]

_LIMITS = (0.5, 0.75, 0.9)


def decode(
    method: Method, maps: ArrayDict, thresholds: Mapping[str, float] | None = None, spacing: Sequence[float] = ()
) -> tuple[npt.NDArray[Any], ObjectTable]:
    """Labels and object table of the maps ``(C, *space)`` of a whole image: `local`, `resolve`, `paint` on one block.

    ``spacing`` is that of the maps, in the unit the targets were encoded in; 1 if left out.

    Examples
    --------
    >>> from biosegkit.methods import Semantic
    >>> labels, table = decode(Semantic(2), {"classes": np.array([[0.9, 0.2], [0.1, 0.8]], np.float32)})
    >>> labels.tolist(), table["area"].tolist()
    ([0, 1], [1])
    """
    shape = next(iter(maps.values())).shape[1:]
    state = method.local(maps, Block.whole(shape, spacing))
    return method.paint(state, method.resolve([state], None if thresholds is None else dict(thresholds)))


def round_trip(
    method: Method,
    labels: npt.NDArray[Any],
    spacing: Sequence[float],
    thresholds: Mapping[str, float] | None = None,
) -> npt.NDArray[Any]:
    """``decode(encode(labels))``: what a network that makes no error would give.

    Examples
    --------
    >>> from biosegkit.methods import Distance
    >>> square = np.pad(np.ones((6, 6), np.uint8), 3)
    >>> bool((round_trip(Distance(), square, (1.0, 1.0)) == square).all())
    True
    """
    targets, _ = method.encode(labels, spacing, None)
    return decode(method, method.ideal(targets), thresholds, spacing)[0]


def oracle(
    method: Method,
    labels: npt.NDArray[Any],
    spacing: Sequence[float],
    thresholds: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Score of ``decode(encode(labels))`` against the labels: the ceiling of a method before any training.

    Returns
    -------
    dict
        ``ap50``, ``ap75``, ``ap90`` (TP / (TP + FP + FN) at an intersection over union of at least 0.5, 0.75, 0.9) and
        ``iou``, the mean over the objects of the best intersection over union; NaN where there is no object.

    Examples
    --------
    >>> from biosegkit.methods import Distance
    >>> square = np.pad(np.ones((6, 6), np.uint8), 3)
    >>> oracle(Distance(), square, (1.0, 1.0))
    {'ap50': 1.0, 'ap75': 1.0, 'ap90': 1.0, 'iou': 1.0}
    """
    decoded = round_trip(method, labels, spacing, thresholds)
    counts = instance_counts(labels, decoded, thresholds=_LIMITS)
    overlaps = overlap_counts(labels, decoded)
    best = np.zeros(overlaps.ids_a.size)
    np.maximum.at(best, overlaps.indexed()[0], overlaps.iou())
    scores = {f"ap{round(100 * limit)}": float(counts.ap(limit)) for limit in _LIMITS}
    return {**scores, "iou": float(best.mean()) if best.size else math.nan}
