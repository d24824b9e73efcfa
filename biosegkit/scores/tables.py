"""Scores records as tables for people, narrow enough for a terminal; reports list more rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from biosegkit._words import counted
from biosegkit.scores.classes import STATES
from biosegkit.scores.options import lower_is_better

__all__ = ["Block", "case_table", "number", "rank", "remarks", "span", "tables", "without_empty"]

#: Scores beside each other.
_COLUMNS = 5
#: Images listed one by one; of more, the worst.
_LISTED, _WORST = 20, 10
#: Cases listed in a report.
_REPORTED = 500
_SHOWN = {"semantic": ("dice", "iou", "hd95", "assd", "nsd"), "instance": ("ap@0.50", "ap@0.75", "ap", "f1", "pq")}
_STATE_NAMES = {"both_empty": "both empty", "truth_empty": "truth empty", "prediction_empty": "nothing found"}


class Block(NamedTuple):
    """A table with its title, the names of its columns, and rows of text."""

    title: str
    head: list[str]
    rows: list[list[str]]


def tables(scores: Mapping[str, Any]) -> list[Block]:
    """What to print of a record: the headline with its intervals, then classes, or images.

    Parameters
    ----------
    scores : dict
        A scores record, of any schema.

    Examples
    --------
    >>> row = {"value": 1, "dice": 0.9, "cases": 1, "both_empty": 0, "truth_empty": 0, "prediction_empty": 0}
    >>> record = {"task": "semantic", "unit": "mm", "headline": {"dice": 0.9}, "classes": {"cell": row}, "cases": []}
    >>> for block in tables(record):
    ...     block.head, block.rows
    (['score', 'value'], [['dice', '0.900']])
    (['class', 'dice', 'cases'], [['cell', '0.900', '1']])
    """
    blocks = [_headline(scores)]
    blocks += _images(scores) if scores["task"] == "instance" else _classes(scores)
    return [block for block in blocks if block.rows] + _comparison(scores)


def _headline(scores: Mapping[str, Any]) -> Block:
    """The scores to look at first."""
    made = scores.get("intervals", {})
    instance = scores["task"] == "instance"
    rows = []
    for name, value in scores["headline"].items():
        row = [titled(name, scores["unit"]), number(value), span(made.get("headline", {}).get(name))]
        if instance:
            row += [number(scores["mean"].get(name)), span(made.get("mean", {}).get(name))]
        rows.append(row)
    interval = f"{100 * made.get('level', 0.95):g} % interval"
    head = ["score", "pooled", interval, "mean of images", interval] if instance else ["score", "value", interval]
    return without_empty(Block("", head, rows))


def _classes(scores: Mapping[str, Any]) -> list[Block]:
    """One row per class; many scores stand below each other."""
    classes, made = scores["classes"], scores.get("intervals", {}).get("classes", {})
    names = _columns(scores, next(iter(classes.values()), {}))
    blocks = []
    for start in range(0, len(names), _COLUMNS):
        part = names[start:start + _COLUMNS]
        rows = []
        for name, row in classes.items():
            cells = [name, number(row.get(part[0])), span(made.get(name, {}).get(part[0]))]
            cells += [number(row.get(n)) for n in part[1:]]
            last = [] if start else [str(row["cases"]), *(str(row[s] or "") for s in STATES)]
            rows.append([*cells, *last])
        head = ["class", titled(part[0], scores["unit"]), "interval", *(titled(n, scores["unit"]) for n in part[1:])]
        head += [] if start else ["cases", *(_STATE_NAMES[s] for s in STATES)]
        blocks.append(without_empty(Block("", head, rows)))
    return blocks


def _images(scores: Mapping[str, Any]) -> list[Block]:
    """One row per image, or the worst of many."""
    cases, blocks = list(scores["cases"]), []
    names = _columns(scores, cases[0] if cases else {})
    title = ""
    if len(cases) > _LISTED and names:
        cases = sorted(cases, key=lambda row: rank(row, names[0]))[:_WORST]
        title = f"the worst {_WORST} of {counted(len(scores['cases']), 'image')}"
    for start in range(0, len(names), _COLUMNS):
        part = names[start:start + _COLUMNS]
        counts = [] if start else ["tp", "fp", "fn"]
        rows = [[row["case"], *(number(row.get(n)) for n in (*part, *counts))] for row in cases]
        blocks.append(Block(title, ["case", *(titled(n, scores["unit"]) for n in part), *counts], rows))
    return blocks


def _columns(scores: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """Scores to print: those the record names, else the usual ones; only what a row has."""
    wanted = scores.get("shown") or _SHOWN[scores["task"]]
    return [name for name in wanted if name in row]


def rank(row: Mapping[str, Any], name: str) -> float:
    """Position of a case in a list that begins with the worst; where the score is undefined, the end."""
    value = row.get(name)
    if value is None or math.isnan(value):
        return math.inf
    return -float(value) if lower_is_better(name) else float(value)


def case_table(scores: Mapping[str, Any]) -> Block:
    """Every case of a record, worst first: its headline scores, and the first of them for every class."""
    names = [name for name in scores.get("headline", {}) if any(name in row for row in scores.get("cases", ()))]
    if not names:
        return Block("", [], [])
    cases = sorted(scores["cases"], key=lambda row: rank(row, names[0]))
    classes = list(dict.fromkeys(c for row in cases for c in row.get("classes", {})))
    classes = classes if len(classes) > 1 else []
    rows = [[row["case"], *(number(row.get(n)) for n in names),
             *(number(row.get("classes", {}).get(c, {}).get(names[0])) for c in classes)] for row in cases[:_REPORTED]]
    title = f"Cases, worst first{f' ({_REPORTED} of {len(cases)})' if len(cases) > _REPORTED else ''}"
    return Block(title, ["case", *(titled(n, scores["unit"]) for n in names), *(f"{names[0]} of {c}" for c in classes)],
                 rows)


def _comparison(scores: Mapping[str, Any]) -> list[Block]:
    """Two models beside each other."""
    made = scores.get("comparison")
    if not made:
        return []
    head = ["score", made["first"], made["second"], "difference", f"{100 * made['level']:g} % interval", "p",
            "p (Holm)", "better/equal/worse"]
    rows = [[titled(row["score"], scores["unit"]), number(row["first"]), number(row["second"]),
             number(row["mean"], sign=True), span([row["low"], row["high"]], sign=True), _known(row["p"]),
             _known(row["p_holm"]), f"{row['wins']}/{row['ties']}/{row['losses']}"] for row in made["scores"]]
    title = f"{made['first']} less {made['second']} per case, {counted(made['cases'], 'case')}"
    blocks = [without_empty(Block(title, head, rows))]
    pooled = [[titled(row["score"], scores["unit"]), number(row["first"]), number(row["second"]),
               number(row["difference"], sign=True), span([row["low"], row["high"]], sign=True)]
              for row in made.get("pooled", ())]
    return blocks + ([without_empty(Block("pooled", head[:5], pooled))] if pooled else [])


def remarks(scores: Mapping[str, Any]) -> list[str]:
    """What is to be known about the scores of a record, its intervals and its comparison.

    Examples
    --------
    >>> remarks({"notes": ["one image is empty"], "comparison": {"notes": ["no p: 4 cases, fewer than 5"]}})
    ['one image is empty', 'no p: 4 cases, fewer than 5']
    """
    return [note for part in (scores, scores.get("intervals", {}), scores.get("comparison", {}))
            for note in part.get("notes", ())]


def titled(name: str, unit: str) -> str:
    """A score's name with its unit if it is a distance."""
    plain = name.removeprefix("object_")
    return f"{name} ({unit})" if plain in ("hausdorff", "assd") or plain.removeprefix("hd")[:1].isdigit() else name


def number(value: Any, *, sign: bool = False) -> str:
    """A number for people; nothing for one that does not exist."""
    if value is None or value == "":
        return ""
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:+.3f}" if sign else f"{value:.3f}"
    return str(value)


def _known(p: float | None) -> str:
    """A p value, nothing where there is none."""
    return "" if p is None or math.isnan(p) else number(p)


def span(ends: Sequence[float] | None, *, sign: bool = False) -> str:
    """Both ends of an interval.

    Examples
    --------
    >>> span([0.81, 0.9]), span(None)
    ('0.810 to 0.900', '')
    """
    if ends is None or any(end is None or math.isnan(end) for end in ends):
        return ""
    return " to ".join(number(float(end), sign=sign) for end in ends)


def without_empty(block: Block) -> Block:
    """The table without columns in which nothing stands."""
    kept = [k for k in range(len(block.head)) if k == 0 or any(row[k] for row in block.rows)]
    return Block(block.title, [block.head[k] for k in kept], [[row[k] for k in kept] for row in block.rows])
