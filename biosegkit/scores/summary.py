"""From the scores of many cases to one record, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit._words import counted
from biosegkit.errors import OptionError
from biosegkit.image import Task
from biosegkit.metrics.statistics import Bootstrap, Estimate, Intervals, intervals, mean_estimate
from biosegkit.scores.classes import class_summaries, fill, foreground_mean, score_names
from biosegkit.scores.objects import object_summary
from biosegkit.scores.options import METRICS, ScoreOptions
from biosegkit.scores.pooling import pools, total

__all__ = ["SCHEMA", "summarise"]

SCHEMA = 2
#: Scores that a report shows first, where none are chosen.
_HEADLINE = {"semantic": ("dice", "iou", "hd", "nsd", "ece"), "instance": ("ap@", "ap", "f1", "pq")}
Floats = npt.NDArray[np.float64]


def summarise(cases: Mapping[str, Mapping[str, Any]], task: Task, *, unit: str = "px",
              options: ScoreOptions | None = None, notes: Sequence[str] = (),
              groups: Mapping[str, str] | None = None) -> dict[str, Any]:
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
    groups : mapping of str to str, optional
        Case id → patient or slide; intervals then draw groups.

    Returns
    -------
    dict
        The scores record, plain data but for NaN; :func:`biosegkit._atomic.write_json` writes it.

    Raises
    ------
    OptionError
        If there is no case.

    Examples
    --------
    >>> from biosegkit.grid import Grid
    >>> from biosegkit.image import Labels
    >>> from biosegkit.scores import score_pair
    >>> pair = [Labels.from_values(np.array([[0, 1, v]]), Grid.regular((1, 3)), "semantic") for v in (0, 1)]
    >>> record = summarise({f"case {k}": score_pair(*pair) for k in range(5)}, "semantic")
    >>> round(record["headline"]["dice"], 3), [round(end, 3) for end in record["intervals"]["headline"]["dice"]]
    (0.667, [0.667, 0.667])
    """
    options = options or ScoreOptions()
    if not cases:
        raise OptionError("no case to score", expected="at least one")
    if task == "instance":
        body = object_summary(cases)
        scores = body["pooled"]
    else:
        classes = class_summaries(cases)
        body = {"classes": classes, "mean": foreground_mean(classes, options), **_calibration(cases)}
        scores = {**body["mean"], **body.get("calibration", {})}
    names = _headline(scores, task, options)
    known = {name: (groups or {}).get(name, name) for name in cases}
    grouped = any(name != group for name, group in known.items())
    ordered = sorted(cases)  # so that the same cases listed otherwise have the same intervals
    rows = [{"case": name, **({"group": known[name]} if grouped else {}),
             **{k: v for k, v in found.items() if k != "detections"}} for name, found in cases.items()]
    return {"schema": SCHEMA, "kind": "scores", "task": task, "unit": unit,
            "definitions": _definitions(options, task, body),
            "headline": {name: scores[name] for name in names}, "shown": options.shown(task), **body,
            "intervals": _intervals({k: cases[k] for k in ordered}, task, body, names, options,
                                    [known[k] for k in ordered] if grouped else None),
            "cases": rows, "notes": list(notes)}


def _calibration(cases: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Scores and curve of the probabilities of all cases together, where they were kept."""
    counts = [case.get("counts", {}).get("calibration") for case in cases.values()]
    if not all(counts):
        return {}
    pooled: Any = total("calibration", counts)
    curve = {name: values.tolist() for name, values in pooled.reliability().items()}
    return {"calibration": {**pooled.scores(), "voxels": round(pooled.voxels), "reliability": curve}}


def _definitions(options: ScoreOptions, task: Task, body: Mapping[str, Any]) -> dict[str, str]:
    """What the scores mean, without those that could not be computed."""
    absent = {name for name, metric in METRICS[task].items()
              if (metric.group == "calibration" and "calibration" not in body)
              or (metric.group == "coco" and "coco_ap" not in body.get("pooled", {}))}
    return {name: text for name, text in options.definitions(task).items() if name not in absent}


def _headline(scores: Mapping[str, Any], task: Task, options: ScoreOptions) -> list[str]:
    """The scores to show first."""
    if options.metrics:
        return [name for name in options.shown(task) if name in scores]
    wanted = [{"hd": f"hd{options.percentile:g}", "ap@": f"ap@{options.thresholds[0]:.2f}"}.get(n, n)
              for n in _HEADLINE[task]]
    return [name for name in wanted if name in scores]


def _intervals(cases: Mapping[str, Mapping[str, Any]], task: Task, body: Mapping[str, Any], headline: Sequence[str],
               options: ScoreOptions, groups: Sequence[str] | None) -> dict[str, Any]:
    """Both ends of the interval of every score, None where there are too few cases, and how they were made."""
    how = options.bootstrap
    units = len(cases) if groups is None else len(set(groups))
    what = "cases" if groups is None else "groups"
    found = _object_intervals(cases, body, how, groups) if task == "instance" else _class_intervals(
        cases, body, how, groups)
    shown = found["pooled"] if task == "instance" else found["mean"] | found.get("calibration", {})
    notes = []
    if units < how.smallest:
        notes.append(f"no intervals: {counted(units, what.removesuffix('s'))}, fewer than {how.smallest}")
    elif groups is not None:
        notes.append(f"intervals draw {counted(units, 'group')}, not {len(cases)} cases: cases of a group are alike")
    return {"level": how.level, "method": how.method, "resamples": how.resamples, "seed": how.seed, "over": what,
            "units": units, "headline": {name: shown.get(name) for name in headline}, **found, "notes": notes}


def _named(names: Sequence[str], found: Intervals, start: int = 0) -> dict[str, list[float] | None]:
    """Ends by name."""
    return {name: None if math.isnan(found.low[start + k]) else [float(found.low[start + k]),
                                                                 float(found.high[start + k])]
            for k, name in enumerate(names)}


def _object_intervals(cases: Mapping[str, Mapping[str, Any]], body: Mapping[str, Any], how: Bootstrap,
                      groups: Sequence[str] | None) -> dict[str, Any]:
    """Of pooled scores, recomputed from the counts of each resample, and of means over images."""
    used = np.array([[bool(c["n_true"] or c["n_pred"])] for c in cases.values()])
    pooled = _pooled_intervals(cases, used, how, groups)
    averaged = [name for name in body["mean"] if name != "undefined"]
    means = intervals(mean_estimate([[c[name] for name in averaged] for c in cases.values()]), how, groups)
    return {"pooled": pooled, "mean": _named(averaged, means)}


def _pooled_intervals(cases: Mapping[str, Mapping[str, Any]], used: npt.NDArray[np.bool_], how: Bootstrap,
                      groups: Sequence[str] | None) -> dict[str, Any]:
    """Of the scores of summed counts."""
    pooled: dict[str, Any] = {}
    for pool in pools(list(cases.values())):
        found = intervals(Estimate(pool.rows, pool.scores, np.repeat(used, len(pool.names), axis=1)), how, groups)
        pooled |= _named(pool.names, found)
    return pooled


def _class_intervals(cases: Mapping[str, Mapping[str, Any]], body: Mapping[str, Any], how: Bootstrap,
                     groups: Sequence[str] | None) -> dict[str, Any]:
    """Of the means of every class, and of the mean over classes."""
    classes = list(body["classes"])
    if not classes:
        return {"mean": {}, "classes": {}}
    names = [n for n in score_names(body["classes"][classes[0]]) if n != "pooled_dice"]
    table = np.array([[[_value(case, c, name) for name in names] for c in classes] for case in cases.values()])
    counts = np.array([[[case["classes"].get(c, {}).get(k, 0) for k in ("tp", "fp", "fn")] for c in classes]
                       for case in cases.values()], np.float64)
    each, n = mean_estimate(table.reshape(len(cases), -1)), len(classes)
    width = each.rows.shape[1]

    def scored(sums: Floats) -> Floats:
        means = each.function(sums[:, :width]).reshape(len(sums), n, -1)
        found = np.concatenate([means, _dice(sums[:, width:].reshape(len(sums), n, 3))], axis=2)
        return np.hstack([found.reshape(len(sums), -1), _defined_mean(found)])

    known = np.concatenate([each.defined.reshape(len(cases), n, -1), counts.sum(2, keepdims=True) > 0], axis=2)
    defined = np.hstack([known.reshape(len(cases), -1), known.any(axis=1)])
    rows = np.hstack([each.rows, counts.reshape(len(cases), -1)])
    found, names = intervals(Estimate(rows, scored, defined), how, groups), [*names, "pooled_dice"]
    over_classes = _named(names, found, n * len(names))
    result = {"mean": {name: over_classes[name] for name in body["mean"]},
              "classes": {c: _named(names, found, k * len(names)) for k, c in enumerate(classes)}}
    if "calibration" in body:
        result["calibration"] = _pooled_intervals(cases, np.ones((len(cases), 1), bool), how, groups)
    return result


def _dice(counts: Floats) -> Floats:
    """Dice of summed counts (..., 3) of TP, FP, FN, (..., 1); NaN where all are empty."""
    twice = 2 * counts[..., :1]
    whole = twice + counts[..., 1:2] + counts[..., 2:]
    return np.asarray(np.divide(twice, whole, out=np.full(whole.shape, np.nan), where=whole > 0))


def _value(case: Mapping[str, Any], name: str, score: str) -> float:
    """A score of a class in a case; a class that the case does not know is empty in both of its images."""
    return float(case["classes"][name].get(score, math.nan)) if name in case["classes"] else fill(score)


def _defined_mean(table: Floats) -> Floats:
    """Mean over the second axis of what is defined, (r, c, s) to (r, s)."""
    known = ~np.isnan(table)
    count = known.sum(1)
    return np.asarray(np.divide(np.where(known, table, 0).sum(1), count, out=np.full(count.shape, np.nan),
                                where=count > 0))
