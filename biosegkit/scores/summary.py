"""From the scores of many cases to one record, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.errors import OptionError
from biosegkit.image import Task
from biosegkit.metrics.statistics import Bootstrap, Estimate, Intervals, intervals, mean_estimate
from biosegkit.scores.classes import class_summaries, foreground_mean
from biosegkit.scores.objects import object_summary, pooled_scores
from biosegkit.scores.options import ScoreOptions

__all__ = ["SCHEMA", "summarise"]

SCHEMA = 2
#: Scores that a report shows first, where none are chosen.
_HEADLINE = {"semantic": ("dice", "iou", "hd", "nsd"), "instance": ("ap@", "ap", "f1", "pq")}
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
        scores = foreground_mean(classes, options)
        body = {"classes": classes, "mean": scores}
    names = _headline(scores, task, options)
    known = {name: (groups or {}).get(name, name) for name in cases}
    grouped = any(name != group for name, group in known.items())
    rows = [{"case": name, **({"group": known[name]} if grouped else {}), **found} for name, found in cases.items()]
    return {"schema": SCHEMA, "kind": "scores", "task": task, "unit": unit, "definitions": options.definitions(task),
            "headline": {name: scores[name] for name in names}, "shown": options.shown(task), **body,
            "intervals": _intervals(cases, task, body, names, options, list(known.values()) if grouped else None),
            "cases": rows, "notes": list(notes)}


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
    shown = found["pooled" if task == "instance" else "mean"]
    notes = []
    if units < how.smallest:
        notes.append(f"no intervals: {units} {what}, fewer than {how.smallest}")
    elif groups is not None:
        notes.append(f"intervals draw {units} groups, not {len(cases)} cases: cases of a group are alike")
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
    names, rows, scored = pooled_scores(cases)
    used = np.array([[bool(c["n_true"] or c["n_pred"])] for c in cases.values()])
    pooled = intervals(Estimate(rows, scored, np.repeat(used, len(names), axis=1)), how, groups)
    averaged = [name for name in body["mean"] if name != "undefined"]
    means = intervals(mean_estimate([[c[name] for name in averaged] for c in cases.values()]), how, groups)
    return {"pooled": _named(names, pooled), "mean": _named(averaged, means)}


def _class_intervals(cases: Mapping[str, Mapping[str, Any]], body: Mapping[str, Any], how: Bootstrap,
                     groups: Sequence[str] | None) -> dict[str, Any]:
    """Of the means of every class, and of the mean over classes."""
    names, classes = list(body["mean"]), list(body["classes"])
    if not names or not classes:
        return {"mean": {}, "classes": {}}
    table = np.array([[[_value(case, c, name) for name in names] for c in classes] for case in cases.values()])
    each = mean_estimate(table.reshape(len(cases), -1))
    shape = (-1, len(classes), len(names))
    scored = [k for k, c in enumerate(classes) if "dice" in body["classes"][c]]

    def both(sums: Floats) -> Floats:
        means = each.function(sums)
        return np.hstack([means, _defined_mean(means.reshape(shape)[:, scored])])

    defined = np.hstack([each.defined, each.defined.reshape(shape)[:, scored].any(axis=1)])
    found = intervals(Estimate(each.rows, both, defined), how, groups)
    return {"mean": _named(names, found, len(classes) * len(names)),
            "classes": {c: _named(names, found, k * len(names)) for k, c in enumerate(classes)}}


def _value(case: Mapping[str, Any], name: str, score: str) -> float:
    """A score of a class in a case; a class that the case does not know is empty in both of its images."""
    return float(case["classes"][name].get(score, math.nan)) if name in case["classes"] else math.nan


def _defined_mean(table: Floats) -> Floats:
    """Mean over the second axis of what is defined, (r, c, s) to (r, s)."""
    known = ~np.isnan(table)
    count = known.sum(1)
    return np.asarray(np.divide(np.where(known, table, 0).sum(1), count, out=np.full(count.shape, np.nan),
                                where=count > 0))
