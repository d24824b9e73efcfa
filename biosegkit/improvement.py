"""What a training has brought: the model before and the new one, on the cases that the new one has not seen."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from glob import escape
from pathlib import Path
from typing import Any

from ._atomic import write_json
from ._words import counted
from .cases import Dataset
from .curate import provenance
from .engines import load_model
from .errors import DataError
from .io import read_labels
from .plan.schema import Plan
from .predict import predict
from .scores import score_pair, summarise
from .scores.files import read_scores
from .validate import score_options

__all__ = ["gained", "improvement", "told"]


def improvement(run: str | Path, before: str | Path, dataset: Dataset, *, device: str = "auto",
                progress: Callable[[str, int, int], None] | None = None) -> dict[str, Any]:
    """Score another model on the held-back cases of a run, beside the run's own predictions of them.

    The record is also written to ``improvement.json`` in the run.

    Parameters
    ----------
    run : path
        A finished RUN.
    before : path or str
        The model to compare with, for example the one the run began with: whatever ``predict`` takes.
    dataset : Dataset
        What the run was trained on.
    device : str
        Where to compute.
    progress : callable, optional
        Called as ``progress(case, done, total)`` before each case.

    Returns
    -------
    dict
        ``before`` and ``after``: the headline scores; ``cases``: how many; ``model``: the name of the one before;
        ``notes``.

    Raises
    ------
    FileError
        If the run is not finished.
    DataError
        If the data set has none of its held-back cases.
    """
    run = Path(run)
    record, plan = read_scores(run / "scores.json"), Plan.read(run / "plan.json")
    known = {case.id: case for case in dataset}
    ids = [row["case"] for row in record["cases"] if row["case"] in known]
    if not ids:
        raise DataError(f"none of the {counted(len(record['cases']), 'held-back case')}", file=dataset.source,
                        expected="the data set the run was trained on", remedy="name that data set")
    model, options, task = load_model(str(before), device), score_options(plan), plan.labels.task
    rows: dict[str, dict[str, Any]] = {"before": {}, "after": {}}
    unit = "px"
    for done, name in enumerate(ids):
        if progress:
            progress(name, done, len(ids))
        image, truth = dataset.load(known[name], task)
        unit = truth.grid.unit
        rows["before"][name] = score_pair(predict(model, image).labels, truth, options)
        rows["after"][name] = score_pair(read_labels(_predicted(run, name), task), truth, options)
    found = {when: summarise(scores, task, unit=unit, options=options)["headline"] for when, scores in rows.items()}
    notes = [*_notes(run, Path(before), ids), *_own_labels(dataset, before, ids)]
    result = {**found, "cases": len(ids), "model": Path(before).name, "notes": notes}
    write_json(run / "improvement.json", {"schema_version": 1, **result})
    return result


def told(found: Mapping[str, Any]) -> str:
    """One line of a record of :func:`improvement`: its first score, before and after.

    Examples
    --------
    >>> told({"before": {"ap@0.50": 0.512, "ap": 0.4}, "after": {"ap@0.50": 0.634, "ap": 0.5}, "cases": 3})
    'ap@0.50 0.512 before, 0.634 after, on 3 held-back images'
    """
    name = next(iter(found["after"]))
    values = [found[when].get(name) for when in ("before", "after")]
    before, after = ("undefined" if value is None else f"{value:.3f}" for value in values)
    return f"{name} {before} before, {after} after, on {counted(found['cases'], 'held-back image')}"


def gained(found: Mapping[str, Any]) -> str:
    """The same in a few words, for a list of models; empty for a record of another form.

    Examples
    --------
    >>> gained({"before": {"ap@0.50": 0.512}, "after": {"ap@0.50": 0.634}, "cases": 3}), gained({"after": {}})
    ('ap@0.50 0.512 → 0.634', '')
    """
    before, after = (one if isinstance(one := found.get(when), dict) else {} for when in ("before", "after"))
    name = next(iter(after), "")
    if not all(isinstance(one.get(name), float | int) for one in (before, after)):
        return ""
    return f"{name} {before[name]:.3f} → {after[name]:.3f}"


def _predicted(run: Path, case: str) -> Path:
    """The labels that a run has written for a held-back case."""
    found = [p for p in run.glob(f"fold-*/validation/{escape(case)}.*") if p.suffix != ".json"]
    if not found:
        raise DataError(f"no prediction of case {case}", file=run, expected="fold-K/validation/",
                        remedy="continue the run with --resume")
    return found[0]


def _notes(run: Path, before: Path, ids: list[str]) -> list[str]:
    """Whether the model before may have learnt from the cases it is scored on here."""
    tables = [path / "cases.csv" for path in (run, before)]
    if not all(path.is_file() for path in tables):
        return ["it is not known what the model before has learnt from"]
    mine, theirs = (_first_images(path) for path in tables)
    held = {theirs.get(row["case"]) for row in read_scores(before / "scores.json")["cases"]} if (
        before / "scores.json").is_file() else set()
    seen = [case for case in ids if mine[case] in set(theirs.values()) - held]
    return [f"the model before has learnt from {len(seen)} of these images"] if seen else []


def _own_labels(dataset: Dataset, before: str | Path, ids: list[str]) -> list[str]:
    """Whether the labels of these cases began as what the model before had found."""
    known = provenance(dataset.source) if Path(dataset.source).is_dir() else {}
    own = [case for case in ids if Path(str(known.get(case, {}).get("model", ""))).name == Path(before).name]
    which = f"the labels of {len(own)} of these images began as results of the model before"
    return [f"{which}, which scores too high on them"] if own else []


def _first_images(table: Path) -> dict[str, str]:
    """Hash of the first image of every case of a run."""
    rows = csv.DictReader(table.read_text("utf-8").splitlines())
    return {row["case"]: row["sha256"].partition(";")[0] for row in rows}
