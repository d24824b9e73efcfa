"""Scores of objects: of one image, and over all images, pooled and as means.

Every group of scores but COCO's is made of counts that can be summed over images; the counts of each image are kept as
plain data, so that a record can be pooled again, over a resample or with other images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit._words import counted
from biosegkit.errors import DataError
from biosegkit.image import Labels
from biosegkit.kernels.overlap import Overlaps, overlap_counts
from biosegkit.metrics import (
    InstanceCounts,
    SplitMergeCounts,
    aggregated_jaccard,
    coco_detections,
    count_matches,
    matched_surface,
    partition_sums,
    split_merge_counts,
    tracking_challenge_counts,
)
from biosegkit.scores.classes import mean_of_defined, score_names
from biosegkit.scores.options import ScoreOptions
from biosegkit.scores.pooling import Counts, distance_sums, total

__all__ = ["empty_states", "object_row", "object_summary"]

#: Groups of scores that come from the overlaps alone.
_GROUPS: dict[str, Callable[[Overlaps, ScoreOptions], Counts]] = {
    "matching": lambda overlaps, options: count_matches(overlaps, options.thresholds),
    "jaccard": lambda overlaps, _: aggregated_jaccard(overlaps),
    "tracking": lambda overlaps, _: tracking_challenge_counts(overlaps),
    "splits": lambda overlaps, _: split_merge_counts(overlaps),
    "partition": lambda overlaps, _: partition_sums(overlaps),
}


def object_row(prediction: Labels, truth: Labels, valid: npt.NDArray[np.bool_] | None, options: ScoreOptions,
               scores: Mapping[int, float] | None = None) -> dict[str, Any]:
    """Scores of one image, under ``counts`` what can be summed, under ``detections`` what COCO's AP ranks.

    ``scores`` are those of the predicted objects, by the user's ids.

    Raises
    ------
    DataError
        If a predicted object has no score.
    """
    overlaps = overlap_counts(truth.array, prediction.array, valid)
    wanted = options.groups("instance") | {"matching"}
    counts = {name: count(overlaps, options) for name, count in _GROUPS.items() if name in wanted}
    if "object_surface" in wanted:
        counts["object_surface"] = distance_sums(matched_surface(
            truth.array, prediction.array, truth.grid.spacing, percentile=options.percentile, valid=valid,
            overlaps=overlaps))
    row = {**_row(counts), "counts": {name: asdict(c) for name, c in counts.items()}}
    if "coco" in wanted and scores is not None:
        ids = [int(prediction.values[k]) for k in overlaps.ids_b]
        if missing := [k for k in ids if k not in scores]:
            raise DataError(f"{counted(len(missing), 'object')} without score, first {missing[0]}",
                            file=prediction.source or None,
                            expected="one row per object in the table beside the labels",
                            remedy="predict again, or choose other --metrics")
        ranked = np.array([scores[k] for k in ids], np.float64)
        found = coco_detections(overlaps, ranked, thresholds=options.thresholds, most=None)
        row |= {**found.scores_by_name(), "detections": found}
    return row


def _row(groups: Mapping[str, Counts]) -> dict[str, Any]:
    """Scores and counts of one image, or of a sum."""
    row: dict[str, Any] = {}
    for counts in groups.values():
        row |= counts.scores()
        if isinstance(counts, InstanceCounts):
            first = counts.thresholds[0]
            row |= {"n_true": counts.n_true, "n_pred": counts.n_pred, "tp": counts.tp[0], "fp": counts.fp(first),
                    "fn": counts.fn(first)}
        elif isinstance(counts, SplitMergeCounts):
            row |= {"split": counts.split, "splits": counts.splits, "merged": counts.merged, "merges": counts.merges}
    return row


def object_summary(cases: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Pooled scores, means over the images where they are defined, and how many images are empty."""
    rows = list(cases.values())
    totals = {group: total(group, [row["counts"][group] for row in rows]) for group in rows[0]["counts"]}
    pooled = _row(totals)
    if all("detections" in row for row in rows):
        ranked = rows[0]["detections"]
        for row in rows[1:]:
            ranked = ranked + row["detections"]
        pooled |= ranked.scores_by_name()
    states = empty_states(cases)
    pooled |= {"images": len(rows), "empty_images": states["both_empty"]}
    means, undefined = {}, {}
    for name in score_names(rows[0]):
        means[name], undefined[name] = mean_of_defined([row[name] for row in rows])
    return {"pooled": pooled, "mean": {**means, "undefined": undefined}, "images": states}


def empty_states(cases: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """How many images have no object in truth, prediction or both (fault L8)."""
    seen = [(scores["n_true"] == 0, scores["n_pred"] == 0) for scores in cases.values()]
    return {"all": len(seen), "both_empty": seen.count((True, True)), "truth_empty": seen.count((True, False)),
            "prediction_empty": seen.count((False, True))}
