"""Scores of objects: of one image, and over all images, pooled and as means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.image import Labels
from biosegkit.metrics import InstanceCounts, instance_counts
from biosegkit.scores.classes import mean_of_defined, score_names
from biosegkit.scores.options import ScoreOptions

__all__ = ["empty_states", "object_row", "object_summary", "pooled_scores"]

Floats = npt.NDArray[np.float64]


def object_row(prediction: Labels, truth: Labels, valid: npt.NDArray[np.bool_] | None,
               options: ScoreOptions) -> dict[str, Any]:
    """Scores of one image, and under ``counts`` what can be summed over images."""
    counts = instance_counts(truth.array, prediction.array, valid=valid, thresholds=options.thresholds)
    return {**_matching(counts), "counts": {"matching": asdict(counts)}}


def _matching(counts: InstanceCounts) -> dict[str, Any]:
    """Scores and counts of one image, or of a sum."""
    first = counts.thresholds[0]
    return {**counts.scores(), "n_true": counts.n_true, "n_pred": counts.n_pred, "tp": counts.tp[0],
            "fp": counts.fp(first), "fn": counts.fn(first)}


def _restored(data: Mapping[str, Any]) -> InstanceCounts:
    """Counts from plain data."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    return InstanceCounts(**fields)


def pooled_scores(rows: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], Floats, Callable[[Floats], Floats]]:
    """Names of the pooled scores, what each image adds to the sums (n, k), and sums (r, k) to scores (r, m)."""
    counts = [_restored(row["counts"]["matching"]) for row in rows.values()]
    width = len(counts[0].thresholds)

    def scored(sums: Floats) -> Floats:
        return np.array([list(_summed(counts[0].thresholds, s, width).scores().values()) for s in sums])

    flat = [[*c.tp, *c.iou_sum, c.n_true, c.n_pred, c.pq_tp, c.pq_iou_sum] for c in counts]
    return list(counts[0].scores()), np.array(flat, np.float64), scored


def _summed(thresholds: tuple[float, ...], sums: Floats, width: int) -> InstanceCounts:
    """Counts from one row of sums."""
    values = sums.tolist()
    whole = [round(v) for v in values]
    return InstanceCounts(thresholds, tuple(whole[:width]), tuple(values[width:2 * width]), whole[-4], whole[-3],
                          whole[-2], values[-1])


def object_summary(cases: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Pooled scores, means over the images where they are defined, and how many images are empty."""
    counts = [_restored(scores["counts"]["matching"]) for scores in cases.values()]
    total = sum(counts[1:], start=counts[0])
    pooled = {**_matching(total), "images": total.images, "empty_images": total.empty_images}
    means, undefined = {}, {}
    for name in score_names(next(iter(cases.values()))):
        means[name], undefined[name] = mean_of_defined([scores[name] for scores in cases.values()])
    return {"pooled": pooled, "mean": {**means, "undefined": undefined}, "images": empty_states(cases)}


def empty_states(cases: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """How many images have no object in truth, prediction or both (fault L8)."""
    seen = [(scores["n_true"] == 0, scores["n_pred"] == 0) for scores in cases.values()]
    return {"all": len(seen), "both_empty": seen.count((True, True)), "truth_empty": seen.count((True, False)),
            "prediction_empty": seen.count((False, True))}
