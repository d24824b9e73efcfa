"""Two models on the same cases: paired differences, their intervals, and a rank test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit._words import counted
from biosegkit.errors import DataError
from biosegkit.metrics.statistics import Bootstrap, Estimate, holm, intervals, paired_difference
from biosegkit.scores.options import lower_is_better, signed
from biosegkit.scores.pooling import Pool, pools

__all__ = ["compare"]

Record = Mapping[str, Any]
Floats = npt.NDArray[np.float64]


def compare(first: Record, second: Record, names: tuple[str, str] = ("first", "second"),
            options: Bootstrap | None = None) -> dict[str, Any]:
    """Compare two scores records case by case.

    Parameters
    ----------
    first, second : dict
        Scores records of two models on the same truths; cases of only one of them are listed and left out.
    names : tuple of str
        What to call the two.
    options : Bootstrap, optional
        Of the intervals of the differences.

    Returns
    -------
    dict
        ``scores``: per headline score, and per class for the first of them, the entries of
        :class:`biosegkit.metrics.statistics.Difference` with the means of both and ``p_holm``, adjusted for all tests
        of the table. ``pooled`` (instance): differences of the pooled scores. ``cases``, ``only_first``,
        ``only_second``: what was compared. ``notes``: why intervals are missing.

    Raises
    ------
    DataError
        If the records are of different tasks, units or definitions, or share no case.

    Examples
    --------
    >>> def record(*dice):
    ...     return {"task": "semantic", "unit": "px", "definitions": {}, "headline": {"dice": 0.5},
    ...             "cases": [{"case": str(k), "dice": d, "classes": {}} for k, d in enumerate(dice)]}
    >>> row = compare(record(0.9, 0.8), record(0.7, 0.8))["scores"][0]
    >>> row["score"], round(row["mean"], 6), row["wins"], row["ties"]
    ('dice', 0.1, 1, 1)
    """
    _same_kind(first, second)
    options = options or Bootstrap()
    one, two = ({row["case"]: row for row in record["cases"]} for record in (first, second))
    shared = sorted(one.keys() & two.keys())  # in one order, so that intervals are the same
    if not shared:
        raise DataError("no case in both", expected="scores of two models on the same truths",
                        remedy="check that the predictions compared belong to the same data")
    left, right = [one[n] for n in shared], [two[n] for n in shared]
    given = [row.get("group", row["case"]) for row in left]
    groups = given if len(set(given)) < len(given) else None
    scores = [name for name in first["headline"] if name in second["headline"]]
    rows = []
    for label, score, a, b in _columns(scores, left, right):
        found = paired_difference(a, b, lower_is_better=lower_is_better(score) or signed(score), options=options,
                                  groups=groups)
        both = ~np.isnan(a) & ~np.isnan(b)
        means = {k: float(v[both].mean()) if both.any() else math.nan for k, v in (("first", a), ("second", b))}
        rows.append({"score": label, **means, **asdict(found)})
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
    pooled = _pooled(scores, left, right, groups, options)
    units = len(shared) if groups is None else len(set(groups))
    few = f"{counted(units, 'case' if groups is None else 'group')}, fewer than {options.smallest}"
    notes = [f"no interval of a difference and no p: {few}"] if units < options.smallest else []
    return {"first": names[0], "second": names[1], "level": options.level, "cases": len(shared),
            "groups": None if groups is None else len(set(groups)), "scores": rows,
            **({"pooled": pooled} if pooled else {}),
            "only_first": [n for n in one if n not in two], "only_second": [n for n in two if n not in one],
            "notes": notes}


def _same_kind(first: Record, second: Record) -> None:
    """Refuse records whose numbers do not compare."""
    for key in ("task", "unit"):
        if first[key] != second[key]:
            raise DataError(f"{key} {first[key]} and {second[key]}", expected=f"one {key}",
                            remedy="evaluate both models against the same truths")
    here, there = first["definitions"], second["definitions"]
    differ = [name for name in first["headline"] if name in here and name in there and here[name] != there[name]]
    if differ:
        raise DataError(f"other definitions of {', '.join(differ)}", expected="scores of one definition",
                        remedy="evaluate both models with the same options")


def _columns(scores: Sequence[str], left: Sequence[Record], right: Sequence[Record]) -> list[
        tuple[str, str, Floats, Floats]]:
    """Label, score, and both models' values per case: every score, then every class of the first."""
    def values(rows: Sequence[Record], score: str) -> Floats:
        return np.array([_number(row.get(score)) for row in rows])

    found = [(f"|{score}|", score, np.abs(values(left, score)), np.abs(values(right, score))) if signed(score) else
             (score, score, values(left, score), values(right, score)) for score in scores]
    classes = list(dict.fromkeys(name for row in (*left, *right) for name in row.get("classes", {})))
    if scores and len(classes) > 1:
        for name in classes:
            a, b = ([row.get("classes", {}).get(name, {}) for row in rows] for rows in (left, right))
            found.append((f"{scores[0]} of {name}", scores[0], values(a, scores[0]), values(b, scores[0])))
    return found


def _number(value: Any) -> float:
    """A number, or NaN for what JSON wrote as null."""
    return math.nan if value is None else float(value)


def _pooled(scores: Sequence[str], left: Sequence[Record], right: Sequence[Record], groups: Sequence[str] | None,
            options: Bootstrap) -> list[dict[str, Any]]:
    """Differences of scores from counts summed over images; both models are drawn together."""
    used = np.array([[any(row.get(k, 1) for row in pair for k in ("n_true", "n_pred"))]
                     for pair in zip(left, right, strict=True)])
    made: dict[str, dict[str, Any]] = {}
    theirs = {pool.group: pool for pool in pools(right)}
    for pool in pools(left):
        if pool.group in theirs:
            made |= _pool_difference(pool, theirs[pool.group], used, groups, options)
    return [made[name] for name in scores if name in made]


def _pool_difference(one: Pool, two: Pool, used: npt.NDArray[np.bool_], groups: Sequence[str] | None,
                     options: Bootstrap) -> dict[str, dict[str, Any]]:
    """Differences of the scores of one group of counts, by name."""
    width, m = one.rows.shape[1], len(one.names)

    def difference(sums: Floats) -> Floats:
        left, right = one.scores(sums[:, :width]), two.scores(sums[:, width:])
        return np.hstack([left - right, left, right])

    found = intervals(Estimate(np.hstack([one.rows, two.rows]), difference, np.repeat(used, 3 * m, axis=1)), options,
                      groups)
    return {name: {"score": name, "first": float(found.value[m + k]), "second": float(found.value[2 * m + k]),
                   "difference": float(found.value[k]), "low": float(found.low[k]), "high": float(found.high[k])}
            for k, name in enumerate(one.names)}
