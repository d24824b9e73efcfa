"""The report: one HTML file with everything inside, made from what a run folder holds."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ._atomic import read_json, write_bytes
from ._words import agreeing, counted
from .charts import Curves, loss_chart, read_metrics, reliability_chart, threshold_chart, validation_chart
from .errors import FileError, Problem
from .fingerprint import Fingerprint
from .overlay import BOTH, PREDICTED, TRUTH, Overlay, compose, heat, png_bytes
from .pages import render
from .plan.schema import Plan
from .plan.units import duration_text
from .scores.tables import case_table, remarks, tables
from .summaries import data_rows, data_tables, method_table, number_text, threshold_table, tidy_table

__all__ = ["write_report"]

#: More problems than this are counted, not listed; the doctor lists all.
MOST_PROBLEMS = 60


def write_report(run_folder: str | Path, *, overlays: Iterable[Overlay | tuple[Any, ...]] = (),
                 problems: Sequence[Problem] | None = None, name: str = "report.html") -> Path:
    """Write ``report.html`` into a run folder and return its path.

    Whatever the folder holds by now is shown (plan, fingerprint, curves, scores, provenance); what is missing is named.

    Parameters
    ----------
    run_folder : str or Path
        A RUN as :func:`biosegkit.fit` leaves it.
    overlays : iterable of Overlay or of ``(title, image, truth, predicted, score)``
        Pictures, best and worst first; see :func:`biosegkit.overlay.overlay_of`.
    problems : sequence of Problem, optional
        What the doctor found; by default what ``run.json`` recorded.

    Raises
    ------
    FileError
        If there is no such folder, or a file in it is damaged.
    """
    folder = Path(run_folder)
    if not folder.is_dir():
        raise FileError("no such folder", file=folder, expected="a run folder", remedy="check the path")
    found = {stem: read_json(folder / f"{stem}.json") if (folder / f"{stem}.json").is_file() else None
             for stem in ("run", "plan", "fingerprint", "scores")}
    tuning, tidied = (read_json(folder / name) if (folder / name).is_file() else None
                      for name in ("tuning.json", "postprocessing.json"))
    plan = None if found["plan"] is None else Plan.from_data(found["plan"], str(folder / "plan.json"))
    measured = Fingerprint.read(folder / "fingerprint.json") if found["fingerprint"] is not None else None
    folds = {path.parent.name: read_metrics(path) for path in sorted(folder.glob("fold-*/metrics.jsonl"))}
    run, scores = found["run"] or {}, found["scores"] or {}
    listed = _problem_rows(problems if problems is not None else run.get("problems"))
    shown = [Overlay(*overlay) for overlay in overlays]
    page = render(
        "report.html",
        title=folder.resolve().name if plan is None else f"{plan.name}",
        subtitle=_subtitle(plan, run),
        tiles=_tiles(plan, folds, scores),
        scores=_score_blocks(scores),
        definitions=list(scores.get("definitions", {}).items()),
        score_notes=remarks(scores),
        pictures=[_picture(o) for o in shown if not o.attention],
        attention=[_attention(o) for o in shown if o.attention],
        legend=[(f"rgb{colour}", name) for colour, name in ((TRUTH, "truth"), (PREDICTED, "prediction"),
                                                             (BOTH, "where both agree"))],
        reliability=_reliability(scores),
        charts=_charts(folds),
        thresholds=_thresholds(tuning or {}),
        postprocessing=None if tidied is None else {"said": tidied["reason"], **tidy_table(tidied)},
        problems=None if listed is None else listed[:MOST_PROBLEMS],
        hidden_problems=0 if listed is None else max(0, len(listed) - MOST_PROBLEMS),
        data_rows=[] if measured is None else data_rows(measured),
        data_tables=[] if measured is None else data_tables(measured),
        decisions=() if plan is None else plan.decisions,
        methods=method_table(plan.method_evidence) if plan and plan.method_evidence else None,
        provenance=_provenance(plan, run),
        missing=[*(f"{stem}.json" for stem, value in found.items() if value is None),
                 *(() if folds else ("fold-*/metrics.jsonl",))],
    )
    write_bytes(folder / name, page.encode())
    return folder / name


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _picture(overlay: Overlay) -> dict[str, str]:
    score = overlay.score
    shown = "" if score is None else "–" if not np.isfinite(score) else f"{score:.3f}"
    return {"title": overlay.title, "data": _encoded(png_bytes(compose(overlay))), "score": shown}


def _attention(overlay: Overlay) -> list[dict[str, str]]:
    """The overlay, and beside it what the gates of each level let through there."""
    maps = [{"title": f"{name}: {plane.min():.2f} to {plane.max():.2f}", "score": "",
             "data": _encoded(png_bytes(heat(overlay, plane)))} for name, plane in overlay.attention]
    return [_picture(overlay), *maps]


def _thresholds(tuning: Mapping[str, Any]) -> dict[str, Any] | None:
    """Table and chart of the thresholds, where they were searched."""
    if not tuning.get("tunables"):
        return None
    chart = threshold_chart(tuning)
    said = (f"Of {counted(len(tuning['trials']), 'trial')} on "
            f"{counted(len(set(tuning['cases'])), 'held-back case')} ({tuning['goal']}): "
            f"{number_text(tuning['default_score'])} with the defaults, {number_text(tuning['score'])} tuned.")
    left = sum(score is None for _, score in tuning["trials"])
    if left:
        said += f" {counted(left, 'trial')} ended early, unable to become the best, and no score is shown for them."
    return {**threshold_table(tuning), "said": said, "chart": "" if chart is None else _encoded(chart)}


def _reliability(scores: Mapping[str, Any]) -> str:
    """The reliability curve of the probabilities, where they were scored."""
    found = scores.get("calibration")
    return _encoded(reliability_chart(found["reliability"])) if found else ""


def _charts(folds: Mapping[str, Curves]) -> list[dict[str, str]]:
    """Loss and validation curves of all folds."""
    drawn = {name: curves for name, curves in folds.items() if curves.step}
    if not drawn:
        return []
    charts = [{"title": "Loss", "data": _encoded(loss_chart(drawn))}]
    validation = validation_chart(drawn)
    return charts + ([{"title": "Validation", "data": _encoded(validation)}] if validation else [])


def _subtitle(plan: Plan | None, run: Mapping[str, Any]) -> str:
    """One line under the title."""
    parts = []
    if plan is not None:
        shape = " × ".join(map(str, plan.configuration.patch))
        parts = [f"{plan.labels.task} segmentation", f"method {plan.method}",
                 f"network {plan.configuration.architecture.name} {plan.configuration.name}", f"patch {shape}"]
    if run.get("finished"):
        parts.append(f"finished {run['finished']}")
    return " · ".join(parts)


def _tiles(plan: Plan | None, folds: Mapping[str, Curves], scores: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The few figures a reader looks for first."""
    unit = scores.get("unit", "")
    tiles = [(number_text(value), f"{name} ({unit})" if name.startswith("hd") else name)
             for name, value in headline(scores)]
    seconds, steps = sum(c.seconds for c in folds.values()), sum(max(c.step, default=0) for c in folds.values())
    if steps:
        tiles.append((duration_text(seconds), "training"))
        shared = f" in {len(folds)} folds" if len(folds) > 1 else ""
        tiles.append((f"{steps:,}".replace(",", " "), f"{agreeing(steps, 'step')}{shared}"))
    if plan is not None and plan.budget.seconds:
        tiles.append((duration_text(plan.budget.seconds), "budget"))
    if plan is not None:
        tiles.append((plan.budget.device, "device"))
    return tiles


def headline(scores: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Names and values of the scores to show first.

    Examples
    --------
    >>> headline({"headline": {"dice": 0.9, "nsd": None}})
    [('dice', 0.9)]
    """
    found = scores.get("headline", {})
    return [(str(name), float(value)) for name, value in found.items() if value is not None]


def _score_blocks(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tables of the scores, and the scores of every case, worst first."""
    if not scores:
        return []
    return [block._asdict() for block in (*tables(scores), case_table(scores)) if block.rows]


def _problem_rows(problems: Any) -> list[dict[str, str]] | None:
    """Problems as rows, errors first; None when nothing was recorded."""
    if problems is None:
        return None
    rows = []
    for problem in problems:
        get = problem.get if isinstance(problem, Mapping) else lambda key, p=problem: getattr(p, key, "")
        row = {key: str(get(key) or "") for key in ("severity", "code", "case", "file", "found", "expected", "remedy")}
        rows.append({**row, "where": row["file"] or row["case"]})
    return sorted(rows, key=lambda row: row["severity"] != "error")


def _flat(value: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Entries of nested mappings as ``name, text``."""
    rows: list[tuple[str, str]] = []
    for key, entry in value.items():
        name = f"{above} {key}".strip().replace("_", " ")
        if isinstance(entry, Mapping):
            rows += _flat(entry, name)
        elif isinstance(entry, list | tuple):
            if entry and all(isinstance(v, int | float | str) for v in entry):
                rows.append((name, ", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in entry)))
        elif entry not in (None, ""):
            rows.append((name, f"{entry:.5g}" if isinstance(entry, float) else str(entry)))
    return rows


def _provenance(plan: Plan | None, run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the run was made from: everything in ``run.json`` but the problems, and the plan's hash."""
    known = {"problems", "plan", "schema_version"}
    rows = _flat({k: v for k, v in run.items() if k not in known})
    return rows if plan is None else [("plan", plan.hash), ("seed", str(plan.seed)), *rows]
