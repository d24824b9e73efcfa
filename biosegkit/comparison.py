"""Runs of several networks on the same data, beside each other: one table as JSON, CSV and page."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ._atomic import read_json, write_bytes, write_json
from ._words import counted
from .bundle import network_of
from .errors import DataError, FileError
from .pages import render
from .plan.schema import Plan
from .scores import compare
from .scores.files import read_scores
from .scores.tables import Block, number, span, titled, without_empty

__all__ = ["compare_runs", "comparison_table", "write_comparison"]

SCHEMA = 1


def compare_runs(runs: Mapping[str, Path], scores: str = "scores.json") -> dict[str, Any]:
    """What came out of each run: scores with intervals, seconds per step, steps, parameters.

    Parameters
    ----------
    runs : mapping of str to Path
        Name → RUN, finished, all on the same data.
    scores : str
        The scores record in each run; by default that of the cases held back.

    Returns
    -------
    dict
        ``kind`` "comparison", ``unit``, ``level`` of the intervals, ``cases``, and ``rows``: ``name``, ``network``,
        ``parameters`` (trainable, of one fold), ``folds`` (trained, their probabilities averaged), ``steps`` (of one
        fold), ``step_seconds`` (median), ``seconds`` (the whole run), ``scores`` and ``intervals`` by name, and from
        the second row on ``difference``: of the first score to that of the first row, on the same cases, with its
        interval. ``notes``: why intervals are missing.

    Raises
    ------
    DataError
        If there is no run.
    FileError
        If a file of a run is missing: it is not finished.
    """
    if not runs:
        raise DataError("no run to compare", expected="at least one")
    records = {name: read_scores(run / scores) for name, run in runs.items()}
    first = next(iter(records.values()))
    rows = []
    for name, run in runs.items():
        row = {"name": name, **_run_facts(run), "scores": records[name]["headline"],
               "intervals": records[name].get("intervals", {}).get("headline", {})}
        if records[name] is not first:
            found = compare(records[name], first, (name, next(iter(runs))))["scores"][0]
            row["difference"] = {key: found[key] for key in ("score", "mean", "low", "high", "cases")}
        rows.append(row)
    return {"schema": SCHEMA, "kind": "comparison", "task": first["task"], "unit": first["unit"],
            "level": first.get("intervals", {}).get("level", 0.95), "cases": len(first["cases"]),
            "notes": list(first.get("intervals", {}).get("notes", ())),
            "definitions": first["definitions"], "rows": rows}


def _run_facts(run: Path) -> dict[str, Any]:
    """What a finished run says of itself."""
    plan = Plan.read(run / "plan.json")
    logs = sorted(run.glob("fold-*/metrics.jsonl"))
    rows = [row for log in logs for row in _lines(log) if "seconds" in row]
    if not rows:
        raise FileError("no step on record", file=run, expected="a finished run", remedy="continue it with --resume")
    return {"network": plan.configuration.architecture.name,
            "parameters": sum(p.numel() for p in network_of(plan).parameters()),
            "folds": len(logs), "steps": max(row["step"] for row in rows),
            "step_seconds": statistics.median(row["seconds"] for row in rows),
            "seconds": read_json(run / "run.json").get("seconds")}


def _lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line]


def comparison_table(found: Mapping[str, Any]) -> Block:
    """One row per run.

    Examples
    --------
    >>> row = {"name": "unet", "scores": {"dice": 0.9, "hd95": 2.0}, "intervals": {"dice": [0.85, 0.93]},
    ...        "step_seconds": 0.25, "folds": 3, "steps": 100, "parameters": 1234567}
    >>> comparison_table({"unit": "mm", "rows": [row]}).head
    ['network', 'dice', 'interval', 'hd95 (mm)', 's per step', 'steps', 'parameters']
    >>> comparison_table({"unit": "mm", "rows": [row]}).rows
    [['unet', '0.900', '0.850 to 0.930', '2.000', '0.250', '3 × 100', '1.23 M']]
    """
    rows = found["rows"]
    names = list(rows[0]["scores"])
    compared = any("difference" in row for row in rows)
    head = ["network", *_beside([[titled(name, found["unit"])] for name in names], "interval"),
            *([f"{names[0]} against {rows[0]['name']}"] if compared else []), "s per step", "steps", "parameters"]
    return without_empty(Block("", head, [_cells(row, names, compared) for row in rows]))


def _beside(cells: Sequence[list[str]], second: str) -> list[str]:
    """The first score is followed by its interval."""
    return [*cells[0], second, *(cell for one in cells[1:] for cell in one)]


def _cells(row: Mapping[str, Any], names: Sequence[str], compared: bool) -> list[str]:
    scores = _beside([[number(row["scores"].get(name))] for name in names], span(row["intervals"].get(names[0])))
    gap = row.get("difference")
    ends = "" if gap is None else span([gap["low"], gap["high"]], sign=True)
    text = "" if gap is None else number(gap["mean"], sign=True) + (f" ({ends})" if ends else "")
    steps = f"{row['folds']} × {row['steps']}" if row["folds"] > 1 else str(row["steps"])
    return [row["name"], *scores, *([text] if compared else []), number(float(row["step_seconds"])), steps,
            f"{row['parameters'] / 1e6:.3g} M"]


def write_comparison(found: Mapping[str, Any], folder: Path, title: str) -> list[Path]:
    """Write ``comparison.json``, ``.csv`` and ``.html`` into a folder; return the files."""
    paths = [folder / f"comparison.{ending}" for ending in ("json", "csv", "html")]
    write_json(paths[0], dict(found))
    write_bytes(paths[1], _csv(found["rows"]).encode())
    known = any(ends for row in found["rows"] for ends in row["intervals"].values())
    how = (f"; intervals of {100 * found['level']:g} %: cases are drawn with replacement (patients, where they are "
           "named)") if known else ""
    page = render("scores.html", title=title, subtitle="the same data, the same budget, one network after the other",
                  tiles=[], scores=[comparison_table(found)._asdict()],
                  notes=[f"{counted(found['cases'], 'case')}{how}", *found.get("notes", ())],
                  definitions=list(found["definitions"].items()), legend=[], worst=[], worst_title="", best=[],
                  charts=[])
    write_bytes(paths[2], page.encode())
    return paths


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """All digits, empty where undefined."""
    flat = []
    for row in rows:
        line = {k: v for k, v in row.items() if k not in ("scores", "intervals", "difference")} | row["scores"]
        for name, ends in row["intervals"].items():
            line |= dict(zip((f"{name}_low", f"{name}_high"), ends or ("", ""), strict=True))
        flat.append(line | {f"difference_{k}": v for k, v in row.get("difference", {}).items()})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(k for row in flat for k in row)), restval="", lineterminator="\n")
    writer.writeheader()
    for row in flat:
        writer.writerow({k: "" if v is None or v != v else v for k, v in row.items()})
    return text.getvalue()
