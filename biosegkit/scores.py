"""From two label images to scores, and from the scores of many cases to one table. No files are read here.

A scores record is plain data (``schema`` 1): ``task``, ``unit``, ``definitions``, ``headline``, per class (semantic) or
pooled and mean (instance) summaries, ``cases`` and ``notes``. What is undefined is NaN in memory and ``null`` in JSON;
how often that happened stands beside every mean, as ``undefined``.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects

from ._atomic import write_bytes
from .errors import DataError, OptionError
from .image import Labels
from .metrics import (
    THRESHOLDS,
    InstanceCounts,
    OverlapCounts,
    class_counts,
    confusion,
    instance_counts,
    overlap_scores,
    region_counts,
    surface_scores,
)

__all__ = ["SCHEMA", "ScoreOptions", "score_pair", "summarise", "table", "write_csv"]

SCHEMA = 1
_SAME_GRID = 1e-3  # voxels at a corner (fault G2)
_STATES = ("both_empty", "truth_empty", "prediction_empty")
_COUNTS = ("tp", "fp", "fn")


@dataclass(frozen=True)
class ScoreOptions:
    """How to score.

    Parameters
    ----------
    include_background : bool
        Score the background as a class, and let it enter the means.
    classes : tuple of (str, int)
        Names and values of the classes; others are refused. Empty: the values found, named by their number.
    regions : tuple of (str, tuple of int)
        Names and values of regions to score instead of classes.
    surface : bool
        Measure surface distances.
    tolerance : float
        Of NSD, in the unit of the truth's grid.
    percentile : float
        Of the Hausdorff distance.
    thresholds : tuple of float
        IoU thresholds of instance scores.
    trust_index : bool
        Compare voxel by voxel although the two files say they lie elsewhere (fault G2); noted in the result.
    """

    include_background: bool = False
    classes: tuple[tuple[str, int], ...] = ()
    regions: tuple[tuple[str, tuple[int, ...]], ...] = ()
    surface: bool = True
    tolerance: float = 1.0
    percentile: float = 95.0
    thresholds: tuple[float, ...] = THRESHOLDS
    trust_index: bool = False

    def definitions(self, task: str) -> dict[str, str]:
        """One sentence per score: numbers without a definition cannot be compared."""
        if task == "instance":
            return {
                "ap@t": "TP / (TP + FP + FN), objects matched one to one at IoU >= t; not COCO AP",
                "ap": "mean of ap@t over " + ", ".join(f"{t:.2f}" for t in self.thresholds),
                "pq": "panoptic quality, matches at IoU > 0.5",
                "pooled": "from counts summed over images", "mean": "mean over images where the score is defined",
            }
        return {
            "dice": "2 TP / (2 TP + FP + FN); undefined where truth and prediction are empty",
            "hausdorff": "largest distance between surface voxels, both directions",
            f"hd{self.percentile:g}": f"larger of the two directed {self.percentile:g}th percentiles",
            "assd": "mean of the distances of both directions pooled",
            "nsd": f"share of surface voxels within {self.tolerance:g} of the other surface",
            "mean": "mean over cases where the score is defined; of foreground: mean over classes of that",
        }


def score_pair(prediction: Labels, truth: Labels, options: ScoreOptions | None = None) -> dict[str, Any]:
    """Score one prediction; classes are compared by the user's values, the truth says whether they are objects.

    Parameters
    ----------
    prediction, truth : Labels
        On the same grid. Voxels ignored in the truth count nowhere.
    options : ScoreOptions, optional
        How to score.

    Returns
    -------
    dict
        Semantic: the foreground means and ``classes`` with the scores of each. Instance: all instance scores, the
        counts at the first threshold, and ``counts`` to pool. ``notes`` says what was assumed.

    Raises
    ------
    DataError
        If shapes (G1) or positions (G2) differ, or a value is no known class (L5).

    Examples
    --------
    >>> from biosegkit.grid import Grid
    >>> a, b = (Labels.from_values(np.array([v]), Grid.regular((1, 3)), "semantic") for v in ([0, 7, 7], [0, 7, 0]))
    >>> round(score_pair(a, b)["classes"]["7"]["dice"], 3)
    0.667
    """
    options = options or ScoreOptions()
    notes = _comparable(prediction, truth, options)
    valid = None if truth.ignore is None else ~truth.ignore
    if truth.task == "instance":
        counts = instance_counts(truth.array, prediction.array, valid=valid, thresholds=options.thresholds)
        return {**_instance_row(counts), "counts": counts, "notes": notes}
    classes = _regions(prediction, truth, valid, options) if options.regions else _classes(
        prediction, truth, valid, options)
    return {**_foreground(classes, options), "classes": classes, "notes": notes}


def _comparable(prediction: Labels, truth: Labels, options: ScoreOptions) -> list[str]:
    """Refuse two grids that are not one; return what had to be assumed."""
    here, there = truth.grid, prediction.grid
    if here.shape != there.shape:
        raise DataError(f"shape {there.shape}", file=prediction.source or "prediction",
                        expected=f"{here.shape}, the shape of the truth", remedy="predict on the grid of the truth")
    if (here.unit == "px") != (there.unit == "px"):
        return ["compared voxel by voxel: only one file has a physical size"]
    apart = here.mismatch(there) if here.unit == there.unit else math.inf
    if apart <= _SAME_GRID:
        return []
    found = f"spacing {there.spacing} {there.unit}, origin {there.origin}, orientation {there.orientation}"
    if options.trust_index:
        return [f"compared voxel by voxel although positions differ (prediction: {found})"]
    raise DataError(found, file=prediction.source or "prediction",
                    expected=f"spacing {here.spacing} {here.unit}, origin {here.origin}, orientation "
                    f"{here.orientation}, the grid of the truth",
                    remedy="resample the prediction to the truth's grid, or --trust-index")


def _class_table(prediction: Labels, truth: Labels, options: ScoreOptions) -> dict[str, int]:
    """Names and values of the classes to tell apart, background first."""
    if options.classes:
        named = dict(sorted(options.classes, key=lambda item: item[1]))
        return named if 0 in named.values() else {"background": 0, **named}
    found = sorted({int(v) for labels in (prediction, truth) for v in labels.values} - {0})
    return {"background": 0, **{str(v): v for v in found}}


def _classes(prediction: Labels, truth: Labels, valid: npt.NDArray[np.bool_] | None,
             options: ScoreOptions) -> dict[str, dict[str, Any]]:
    """Scores of every class of interest, by name."""
    names = _class_table(prediction, truth, options)
    found, true = (labels.as_classes(list(names.values())).array for labels in (prediction, truth))
    counts = class_counts(confusion(found, true, len(names), valid))
    boxes = _boxes(found, true, len(names)) if options.surface else []
    rows = {}
    for k, (name, value) in enumerate(names.items()):
        if value or options.include_background:
            rows[name] = {"value": value, **_semantic_row(counts[k], truth)}
            if options.surface:
                box = boxes[k]
                known = None if valid is None else valid[box]
                rows[name] |= _distances(found[box] == k, true[box] == k, truth, known, options)
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


def _regions(prediction: Labels, truth: Labels, valid: npt.NDArray[np.bool_] | None,
             options: ScoreOptions) -> dict[str, dict[str, Any]]:
    """Scores of every region, by name."""
    rows = {}
    for name, values in options.regions:
        found, true = (np.isin(labels.values, values)[labels.array] for labels in (prediction, truth))
        counts = region_counts(found, true, valid)
        rows[name] = {"values": list(values), **_semantic_row(counts, truth)}
        if options.surface:
            rows[name] |= _distances(found, true, truth, valid, options)
    return rows


def _semantic_row(counts: OverlapCounts, truth: Labels) -> dict[str, Any]:
    """Overlap scores and counts of one class in one case."""
    state = ("both_empty" if counts.prediction_empty else "truth_empty") if counts.truth_empty else (
        "prediction_empty" if counts.prediction_empty else "defined")
    scores = overlap_scores(counts, float(np.prod(truth.grid.spacing)))
    return {**scores, "tp": counts.tp, "fp": counts.fp, "fn": counts.fn, "state": state}


def _distances(found: npt.NDArray[np.bool_], true: npt.NDArray[np.bool_], truth: Labels,
               valid: npt.NDArray[np.bool_] | None, options: ScoreOptions) -> dict[str, float]:
    """Surface scores by name."""
    scores = surface_scores(found, true, truth.grid.spacing, tolerance=options.tolerance,
                            percentile=options.percentile, valid=valid)
    return {"hausdorff": scores.hausdorff, f"hd{options.percentile:g}": scores.hausdorff_percentile,
            "assd": scores.assd, "nsd": scores.nsd}


def _score_names(row: Mapping[str, Any]) -> list[str]:
    """Which entries of a row are scores that can be averaged."""
    return [k for k, v in row.items() if isinstance(v, float) and k not in _COUNTS]


def _foreground(classes: Mapping[str, Mapping[str, Any]], options: ScoreOptions) -> dict[str, float]:
    """Mean of each score over the classes where it is defined (background only if asked for)."""
    rows = [r for r in classes.values() if options.include_background or r.get("value") != 0]
    names = [n for n in (_score_names(rows[0]) if rows else []) if not n.startswith("volume")]
    return {n: _mean([r[n] for r in rows])[0] for n in names}


def _mean(values: Sequence[float]) -> tuple[float, int]:
    """Mean of the defined values, and how many are not."""
    defined = [v for v in values if not math.isnan(v)]
    return (float(np.mean(defined)) if defined else math.nan), len(values) - len(defined)


def _instance_row(counts: InstanceCounts) -> dict[str, Any]:
    """Scores and counts of one image, or of a sum."""
    first = counts.thresholds[0]
    return {**counts.scores(), "n_true": counts.n_true, "n_pred": counts.n_pred, "tp": counts.tp[0],
            "fp": counts.fp(first), "fn": counts.fn(first)}


def summarise(cases: Mapping[str, Mapping[str, Any]], task: str, *, unit: str = "px",
              options: ScoreOptions | None = None, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Put the scores of many cases into one record.

    Parameters
    ----------
    cases : mapping of str to dict
        Case id → what :func:`score_pair` returned.
    task : {"semantic", "instance"}
        What was scored.
    unit : str
        Unit of the distances; volumes are in its power.
    options : ScoreOptions, optional
        How it was scored.
    notes : sequence of str
        Remarks that concern all cases.

    Returns
    -------
    dict
        The scores record, plain data but for NaN; :func:`biosegkit._atomic.write_json` writes it.

    Raises
    ------
    OptionError
        If there is no case.
    """
    options = options or ScoreOptions()
    if not cases:
        raise OptionError("no case to score", expected="at least one")
    body = _instance_summary(cases) if task == "instance" else _semantic_summary(cases, options)
    rows = [{"case": name, **{k: v for k, v in scores.items() if k != "counts"}} for name, scores in cases.items()]
    return {"schema": SCHEMA, "kind": "scores", "task": task, "unit": unit, "definitions": options.definitions(task),
            **body, "cases": rows, "notes": list(notes)}


def _instance_summary(cases: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Pooled scores, and means over the images where they are defined."""
    counts = [scores["counts"] for scores in cases.values()]
    total = sum(counts[1:], start=counts[0])
    pooled = {**_instance_row(total), "images": total.images, "empty_images": total.empty_images}
    means, undefined = {}, {}
    for name in total.scores():
        means[name], undefined[name] = _mean([scores[name] for scores in cases.values()])
    headline = {name: pooled[name] for name in (f"ap@{total.thresholds[0]:.2f}", "ap", "f1", "pq")}
    return {"headline": headline, "pooled": pooled, "mean": {**means, "undefined": undefined}}


def _semantic_summary(cases: Mapping[str, Mapping[str, Any]], options: ScoreOptions) -> dict[str, Any]:
    """Per class: means over the cases where defined, how often not and why, and the pooled Dice."""
    names = list(dict.fromkeys(n for scores in cases.values() for n in scores["classes"]))
    order = {n: next(s["classes"][n].get("value", 0) for s in cases.values() if n in s["classes"]) for n in names}
    classes = {n: _class_summary(n, cases) for n in sorted(names, key=lambda n: order[n])}
    mean = _foreground(classes, options)
    shown = [n for n in ("dice", "iou", f"hd{options.percentile:g}", "nsd") if n in mean]
    return {"headline": {n: mean[n] for n in shown}, "classes": classes, "mean": mean}


def _class_summary(name: str, cases: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One class over all cases; where a case does not know the class, both of its images are empty."""
    rows = [scores["classes"][name] for scores in cases.values() if name in scores["classes"]]
    absent = len(cases) - len(rows)
    result: dict[str, Any] = {k: rows[0][k] for k in ("value", "values") if k in rows[0]}
    undefined = {}
    for score in _score_names(rows[0]):
        fill = 0.0 if score.startswith("volume") else math.nan
        result[score], undefined[score] = _mean([*(row[score] for row in rows), *[fill] * absent])
    totals = OverlapCounts(*(sum(row[k] for row in rows) for k in _COUNTS))
    states = {s: sum(row["state"] == s for row in rows) + absent * (s == "both_empty") for s in _STATES}
    return {**result, "pooled_dice": totals.dice, "cases": len(cases), **states, "undefined": undefined}


def table(scores: Mapping[str, Any]) -> list[list[str]]:
    """Rows to print, the header first: one per class and their mean, or one per image and the pooled scores.

    Examples
    --------
    >>> counts = instance_counts(np.array([1, 1, 0]), np.array([4, 4, 0]))
    >>> record = summarise({"a": {**_instance_row(counts), "counts": counts, "notes": []}}, "instance")
    >>> table(record)[0][:3], table(record)[1][:3]
    (['case', 'ap@0.50', 'ap@0.75'], ['a', '1.000', '1.000'])
    """
    if scores["task"] == "instance":
        known = list(scores["pooled"])
        columns = [c for c in known if c in ("ap@0.50", "ap@0.75", "ap", "f1", "pq", "tp", "fp", "fn")]
        rows = [(r["case"], r) for r in scores["cases"]] + [("mean", scores["mean"]), ("pooled", scores["pooled"])]
        return [["case", *columns], *([name, *(_text(r.get(c)) for c in columns)] for name, r in rows)]
    means = scores["mean"]
    counted = ["cases", *_STATES]
    body = [[name, *(_text(row[c]) for c in (*means, *counted))] for name, row in scores["classes"].items()]
    return [["class", *means, *(c.replace("_", " ") for c in counted)], *body,
            ["mean", *(_text(v) for v in means.values()), *[""] * len(counted)]]


def _text(value: Any) -> str:
    """A number for people; nothing for one that does not exist."""
    if value is None:
        return ""
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.3f}"
    return str(value)


def write_csv(scores: Mapping[str, Any], path: str | Path) -> None:
    """Write one row per case (instance) or per case and class (semantic), all digits, empty where undefined.

    Raises
    ------
    FileError
        If the file cannot be written.
    """
    if scores["task"] == "instance":
        rows = [{k: v for k, v in r.items() if k != "notes"} for r in scores["cases"]]
    else:
        rows = [{"case": r["case"], "class": name, **{k: v for k, v in row.items() if k != "values"}}
                for r in scores["cases"] for name, row in r["classes"].items()]
    columns = list(dict.fromkeys(k for row in rows for k in row)) or ["case"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()})
    write_bytes(path, text.getvalue().encode())
