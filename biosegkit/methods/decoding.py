"""Decode one image in one go, and score a method on perfect targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.methods.protocol import ArrayDict, Block, Method, ObjectTable

__all__ = ["average_precision", "decode", "oracle"]


def decode(
    method: Method, maps: ArrayDict, thresholds: Mapping[str, float] | None = None
) -> tuple[npt.NDArray[Any], ObjectTable]:
    """Labels and object table of the maps ``(C, *space)`` of a whole image: `local`, `resolve`, `paint` on one block.

    Examples
    --------
    >>> from biosegkit.methods import Semantic
    >>> labels, table = decode(Semantic(2), {"classes": np.array([[0.9, 0.2], [0.1, 0.8]], np.float32)})
    >>> labels.tolist(), table["area"].tolist()
    ([0, 1], [1])
    """
    shape = next(iter(maps.values())).shape[1:]
    state = method.local(maps, Block.whole(shape))
    return method.paint(state, method.resolve([state], None if thresholds is None else dict(thresholds)))


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
        ``ap50``, ``ap75``, ``ap90`` (accuracy TP / (TP + FP + FN) at an intersection over union of at least 0.5 …)
        and ``iou``, the mean over true objects of the best intersection over union.
    """
    targets, _ = method.encode(labels, spacing, None)
    decoded, _ = decode(method, method.ideal(targets), thresholds)
    return average_precision(labels, decoded)


def average_precision(
    truth: npt.NDArray[Any], found: npt.NDArray[Any], limits: Sequence[float] = (0.5, 0.75, 0.9)
) -> dict[str, float]:
    """Accuracy TP / (TP + FP + FN) at each limit (at least 0.5, where matching is unique), and mean best IoU.

    Two empty images score 1.

    Examples
    --------
    >>> truth = np.array([1, 1, 0, 2, 2, 2])
    >>> average_precision(truth, np.array([5, 5, 0, 6, 6, 0]))["ap75"]
    0.3333333333333333
    """
    ids_t, t = np.unique(truth, return_inverse=True)
    ids_f, f = np.unique(found, return_inverse=True)
    pairs, counts = np.unique(t.reshape(-1) * len(ids_f) + f.reshape(-1), return_counts=True)
    i, j = pairs // len(ids_f), pairs % len(ids_f)
    size_t, size_f = np.bincount(i, counts, len(ids_t)), np.bincount(j, counts, len(ids_f))
    both = (ids_t[i] != 0) & (ids_f[j] != 0)
    iou = counts[both] / (size_t[i[both]] + size_f[j[both]] - counts[both])
    n_t, n_f = int((ids_t != 0).sum()), int((ids_f != 0).sum())
    best = np.zeros(len(ids_t))
    np.maximum.at(best, i[both], iou)
    scores = {"iou": float(best.sum() / n_t) if n_t else 1.0}
    for limit in limits:
        hits = int((iou >= limit).sum()) if limit > 0.5 else len(np.unique(i[both][iou >= limit]))
        total = n_t + n_f - hits
        scores[f"ap{round(100 * limit)}"] = hits / total if total else 1.0
    return scores
