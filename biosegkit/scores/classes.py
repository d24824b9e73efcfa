"""Scores of classes and regions: of one case, and over all cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects

from biosegkit.image import Labels
from biosegkit.metrics import (
    OverlapCounts,
    class_counts,
    confusion,
    overlap_scores,
    region_counts,
    surface_scores,
)
from biosegkit.scores.options import ScoreOptions

__all__ = ["STATES", "class_rows", "class_summaries", "fill", "foreground_mean", "mean_of_defined", "score_names"]

#: Why a score may be undefined or 0 by definition (fault L8).
STATES = ("both_empty", "truth_empty", "prediction_empty")
_COUNTS = ("tp", "fp", "fn")
Mask = npt.NDArray[np.bool_]


def class_rows(prediction: Labels, truth: Labels, valid: Mask | None, options: ScoreOptions) -> dict[str, Any]:
    """Scores of every class, or region, of one case by name."""
    return (_region_rows if options.regions else _rows)(prediction, truth, valid, options)


def _class_table(prediction: Labels, truth: Labels, options: ScoreOptions) -> dict[str, int]:
    """Names and values of the classes to tell apart, background first."""
    if options.classes:
        named = dict(sorted(options.classes, key=lambda item: item[1]))
        return named if 0 in named.values() else {"background": 0, **named}
    found = sorted({int(v) for labels in (prediction, truth) for v in labels.values} - {0})
    return {"background": 0, **{str(v): v for v in found}}


def _rows(prediction: Labels, truth: Labels, valid: Mask | None, options: ScoreOptions) -> dict[str, dict[str, Any]]:
    """Scores of every class of interest, by name."""
    names = _class_table(prediction, truth, options)
    found, true = (labels.as_classes(list(names.values())).array for labels in (prediction, truth))
    counts = class_counts(confusion(found, true, len(names), valid))
    boxes = _boxes(found, true, len(names))
    rows = {}
    for k, (name, value) in enumerate(names.items()):
        if value or options.include_background:
            box = boxes[k]
            known = None if valid is None else valid[box]
            rows[name] = {"value": value, **_overlap(counts[k], truth),
                          **_mask_scores(found[box] == k, true[box] == k, truth, known, options)}
    return rows


def _boxes(found: npt.NDArray[Any], true: npt.NDArray[Any], n_classes: int) -> list[tuple[slice, ...]]:
    """Where each class is in either map, with one voxel around: a hundred classes need not see the whole image each."""
    parts = [find_objects(array, n_classes - 1) if n_classes > 1 else [] for array in (found, true)]
    boxes = [tuple(slice(None) for _ in true.shape)]  # the background is everywhere
    for pair in zip(*parts, strict=True):
        spans = zip(*(box for box in pair if box is not None), strict=True)
        around = [slice(max(min(s.start for s in span) - 1, 0), max(s.stop for s in span) + 1) for span in spans]
        boxes.append(tuple(around) or tuple(slice(0, 1) for _ in true.shape))
    return boxes


def _region_rows(prediction: Labels, truth: Labels, valid: Mask | None,
                 options: ScoreOptions) -> dict[str, dict[str, Any]]:
    """Scores of every region, by name."""
    rows = {}
    for name, values in options.regions:
        found, true = (np.isin(labels.values, values)[labels.array] for labels in (prediction, truth))
        rows[name] = {"values": list(values), **_overlap(region_counts(found, true, valid), truth),
                      **_mask_scores(found, true, truth, valid, options)}
    return rows


def _overlap(counts: OverlapCounts, truth: Labels) -> dict[str, Any]:
    """Overlap scores and counts of one class in one case."""
    state = ("both_empty" if counts.prediction_empty else "truth_empty") if counts.truth_empty else (
        "prediction_empty" if counts.prediction_empty else "defined")
    scores = overlap_scores(counts, float(np.prod(truth.grid.spacing)))
    return {**scores, "tp": counts.tp, "fp": counts.fp, "fn": counts.fn, "state": state}


def _mask_scores(found: Mask, true: Mask, truth: Labels, valid: Mask | None, options: ScoreOptions) -> dict[str, float]:
    """Scores that need the masks and not only their counts, by name."""
    groups = options.groups("semantic")
    scores: dict[str, float] = {}
    if "surface" in groups:
        measured = surface_scores(found, true, truth.grid.spacing, tolerance=options.tolerance,
                                  percentile=options.percentile, valid=valid, definition=options.surface)
        scores |= {"hausdorff": measured.hausdorff, f"hd{options.percentile:g}": measured.hausdorff_percentile,
                   "assd": measured.assd, "nsd": measured.nsd, "boundary_precision": measured.boundary_precision,
                   "boundary_recall": measured.boundary_recall, "boundary_f1": measured.boundary_f1}
    return scores


def score_names(row: Mapping[str, Any]) -> list[str]:
    """Which entries of a row are scores that can be averaged."""
    return [k for k, v in row.items() if isinstance(v, float) and k not in _COUNTS]


def fill(score: str) -> float:
    """The score of a class that neither image of a case has: no volume, and nothing else."""
    return 0.0 if score.startswith("volume_") else math.nan


def mean_of_defined(values: Sequence[float]) -> tuple[float, int]:
    """Mean of the defined values, and how many are not."""
    defined = [v for v in values if not math.isnan(v)]
    return (float(np.mean(defined)) if defined else math.nan), len(values) - len(defined)


def foreground_mean(classes: Mapping[str, Mapping[str, Any]], options: ScoreOptions) -> dict[str, float]:
    """Mean of each score over the classes where it is defined (background only if asked for)."""
    rows = [r for r in classes.values() if options.include_background or r.get("value") != 0]
    names = [n for n in (score_names(rows[0]) if rows else []) if not n.startswith("volume_")]
    return {n: mean_of_defined([r[n] for r in rows])[0] for n in names}


def class_summaries(cases: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Per class: means over the cases where defined, how often not and why, and the pooled Dice."""
    names = list(dict.fromkeys(n for scores in cases.values() for n in scores["classes"]))
    order = {n: next(s["classes"][n].get("value", 0) for s in cases.values() if n in s["classes"]) for n in names}
    return {n: _summary(n, cases) for n in sorted(names, key=lambda n: order[n])}


def _summary(name: str, cases: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One class over all cases; where a case does not know the class, both of its images are empty."""
    rows = [scores["classes"][name] for scores in cases.values() if name in scores["classes"]]
    absent = len(cases) - len(rows)
    result: dict[str, Any] = {k: rows[0][k] for k in ("value", "values") if k in rows[0]}
    undefined = {}
    for score in score_names(rows[0]):
        result[score], undefined[score] = mean_of_defined([*(row[score] for row in rows), *[fill(score)] * absent])
    totals = OverlapCounts(*(sum(row[k] for row in rows) for k in _COUNTS))
    states = {s: sum(row["state"] == s for row in rows) + absent * (s == "both_empty") for s in STATES}
    return {**result, "pooled_dice": totals.dice, "cases": len(cases), **states, "undefined": undefined}
