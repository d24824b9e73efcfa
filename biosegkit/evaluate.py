"""How good are these predictions: score each with its truth, put the scores together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ._words import counted
from .calibrate import calibrated
from .cases import Description
from .errors import BiosegError, DataError, OptionError
from .image import Labels, Task
from .pairing import Pairs, pair_files
from .scores import ScoreOptions, compare, read_scores, score_pair, summarise, tables, write_csv
from .task_choice import choose_task, count_ids

__all__ = ["ScoreOptions", "compare", "compared", "evaluate", "evaluate_folder", "score_files", "score_pair", "tables",
           "write_csv"]

Progress = Callable[[str, int, int], None]


def evaluate(prediction: Labels, truth: Labels, options: ScoreOptions | None = None, *,
             case: str = "case") -> dict[str, Any]:
    """Score one prediction and return a whole scores record.

    Parameters
    ----------
    prediction, truth : Labels
        On the same grid. The truth's task decides what is scored, its ignored voxels count nowhere. Where nobody said
        the truth's task, it is the prediction's, or else found from the truth, and a note says so.
    options : ScoreOptions, optional
        How to score.
    case : str
        Name of the case in the record.

    Returns
    -------
    dict
        See :mod:`biosegkit.scores`.

    Raises
    ------
    DataError
        If the grids differ (G1, G2) or a value is no known class (L5).

    Examples
    --------
    >>> import numpy as np
    >>> from biosegkit.grid import Grid
    >>> truth = Labels.from_values(np.array([[1, 1, 0, 2]]), Grid.regular((1, 4)), "instance")
    >>> prediction = Labels.from_values(np.array([[9, 9, 0, 0]]), Grid.regular((1, 4)), "instance")
    >>> evaluate(prediction, truth)["headline"]["ap@0.50"]
    0.5
    """
    options = options or ScoreOptions()
    truth, notes = _meant(prediction, truth)
    scores = score_pair(prediction, truth, options)
    notes += [] if options.classes or options.regions else _foreign([prediction], [truth])
    return summarise({case: scores}, truth.task, unit=truth.grid.unit, options=options, notes=notes)


def _meant(prediction: Labels, truth: Labels) -> tuple[Labels, list[str]]:
    """The truth with a task, and how it was found where nobody said it."""
    if truth.task_said:
        return truth, []
    task, reason = prediction.task, "the prediction's task"
    if not prediction.task_said:
        task, reason = choose_task([count_ids(truth)[0]], [1] * truth.count)
    return replace(truth, task=task, task_said=True), [f"scored as {task}: {reason}"]


def evaluate_folder(
    predictions: str | Path,
    truth: str | Path,
    *,
    task: Task | None = None,
    where: Mapping[str, str | Sequence[str]] | None = None,
    describe: Description | None = None,
    options: ScoreOptions | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score a folder of predictions, or one file.

    A prediction belongs to a case if its path in the folder, without ending, is the case's id, or the end of the path
    of the case's image: whole names, never patterns. Predictions that belong to no case are noted, not scored.

    Parameters
    ----------
    predictions : path
        A folder (deeper folders keep their relative path) or one label file.
    truth : path or str
        A folder of label files, one label file, or any data set :func:`biosegkit.scan` reads (a CSV, …).
    task : {"semantic", "instance"}, optional
        What labels mean; otherwise what ``dataset.json`` says, otherwise found from the truths.
    where : mapping, optional
        Rows of a table to use, as in :func:`biosegkit.scan`.
    describe : Description, optional
        Replaces entries of ``dataset.json``. Its ``mapping`` also renames predicted values, unless it exchanges some;
        its ``group`` says which cases are of one patient, so that intervals draw patients.
    options : ScoreOptions, optional
        How to score; classes and regions come from the data set if it names them.
    progress : callable, optional
        Called as ``progress(case, done, total)`` before each case.

    Returns
    -------
    dict
        The scores record, see :mod:`biosegkit.scores`.

    Raises
    ------
    DataError
        If predictions are missing or not unique (D1), or cases cannot be compared (G1, G2, L5); all are listed.
    FileError
        If a file is missing or damaged.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from biosegkit.grid import Grid
    >>> from biosegkit.io import write
    >>> labels = Labels.from_values(np.array([[1, 1, 0, 2]]), Grid.regular((1, 4)), "instance")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("truth/a.tif", "predicted/a.tif"):
    ...         (Path(folder) / name).parent.mkdir()
    ...         write(labels, Path(folder) / name)
    ...     record = evaluate_folder(Path(folder) / "predicted", Path(folder) / "truth", task="instance")
    >>> record["headline"]["ap@0.50"]
    1.0
    """
    return score_files(pair_files(predictions, truth, task=task, where=where, describe=describe), options, progress)


def score_files(pairs: Pairs, options: ScoreOptions | None = None, progress: Progress | None = None) -> dict[str, Any]:
    """Score pairs of files; see :func:`evaluate_folder`, of which this is the second half.

    Memory follows one case.
    """
    options = _named(options or ScoreOptions(), pairs)
    options.groups(pairs.task)
    cases, units, values = _scored(pairs, options, progress)
    notes = list(pairs.notes)
    if len(units) > 1:
        notes.append(f"truths in different units ({', '.join(sorted(units))}): distances and volumes do not compare")
    if pairs.task == "semantic" and not (options.classes or options.regions):
        notes += _foreign_values(*values, refuse=True)
    cases, remarks = calibrated(pairs, cases, options, values[0] | values[1])
    return summarise(cases, pairs.task, unit="/".join(sorted(units)), options=options, notes=[*notes, *remarks],
                     groups={case.id: case.group for case in pairs.dataset})


def compared(scores: Mapping[str, Any], pairs: Pairs, other: str | Path,
             options: ScoreOptions | None = None) -> dict[str, Any]:
    """A scores record with its comparison to another model.

    Parameters
    ----------
    scores : dict
        The record of ``pairs``.
    pairs : Pairs
        What was scored.
    other : path
        Predictions of another model for the same truths, or the scores record that was written of them.
    options : ScoreOptions, optional
        As the record was made with.

    Raises
    ------
    DataError
        If predictions are missing, or the two do not compare.
    FileError
        If a file is missing or no scores record.
    """
    path = Path(other)
    recorded = path.suffix.lower() == ".json"
    second = read_scores(path) if recorded else score_files(pairs.with_predictions(path), options)
    names = _short_names(Path(pairs.source).resolve(), path.resolve())
    return {**scores, "comparison": compare(scores, second, names, (options or ScoreOptions()).bootstrap)}


def _short_names(first: Path, second: Path) -> tuple[str, str]:
    """The ends of two paths that tell them apart."""
    for depth in range(1, min(len(first.parts), len(second.parts))):
        one, two = ("/".join(path.parts[-depth:]) for path in (first, second))
        if one != two:
            return one, two
    return "first", "second"


def _scored(pairs: Pairs, options: ScoreOptions, progress: Progress | None) -> tuple[
        dict[str, dict[str, Any]], set[str], tuple[set[int], set[int]]]:
    """Scores of every case, the units met, predicted and true values; every case that fails is listed."""
    cases: dict[str, dict[str, Any]] = {}
    scores = _object_scores(pairs, options)
    failed: list[str] = []
    units: set[str] = set()
    values: tuple[set[int], set[int]] = set(), set()
    for done, case in enumerate(pairs.dataset):
        if progress is not None:
            progress(case.id, done, len(pairs.dataset))
        try:
            prediction, truth = pairs.load(case)
            cases[case.id] = score_pair(prediction, truth, options, scores.get(case.id))
        except BiosegError as error:
            failed.append(f"{case.id}: {error}")
            continue
        units.add(truth.grid.unit)
        for seen, labels in zip(values, (prediction, truth), strict=True):
            seen.update(int(v) for v in labels.values if v)
    if failed:
        raise DataError(f"{len(failed)} of {counted(len(pairs.dataset), 'case')} cannot be scored:\n"
                        + "\n".join(failed),
                        file=pairs.dataset.source, remedy="correct or leave out these cases")
    return cases, units, values


def _object_scores(pairs: Pairs, options: ScoreOptions) -> dict[str, dict[int, float]]:
    """How sure the model is of each object, of every case; none where they are not asked for or not all there."""
    if pairs.task != "instance" or "coco" not in options.groups("instance"):
        return {}
    found = {case.id: scores for case in pairs.dataset if (scores := pairs.object_scores(case)) is not None}
    missing = [case.id for case in pairs.dataset if case.id not in found]
    if missing and "all" not in options.metrics:
        raise OptionError(f"{counted(len(missing), 'case')} without scores of objects: {', '.join(missing)}",
                          expected="a table <name>.csv with id and score beside each prediction",
                          remedy="use predictions of biosegkit predict, or choose other --metrics")
    return {} if missing else found


def _named(options: ScoreOptions, pairs: Pairs) -> ScoreOptions:
    """Options completed by the names the data set gives; what the caller chose stays."""
    if options.classes or options.regions:
        return options
    about = pairs.dataset.about
    return replace(options, classes=about.classes, regions=about.regions,
                   trust_index=options.trust_index or about.trust_index)


def _foreign(predictions: Iterable[Labels], truths: Iterable[Labels]) -> list[str]:
    """Remark on values that only predictions have."""
    found, true = ({int(v) for labels in group for v in labels.values if v} for group in (predictions, truths))
    semantic = all(labels.task == "semantic" for labels in truths)
    return _foreign_values(found, true, refuse=False) if semantic else []


def _foreign_values(found: set[int], true: set[int], *, refuse: bool) -> list[str]:
    """Values that are predicted but nowhere true; refused when no value is shared at all (fault L5)."""
    alone = sorted(found - true)
    if not alone or not true:
        return []
    if refuse and not found & true:
        raise DataError(f"predicted values {_few(alone)}", expected=f"values of the truth, {_few(sorted(true))}",
                        remedy=f"--task instance if values number objects; else --map {alone[0]}={min(true)}, or name "
                        "the classes in dataset.json")
    return [f"values {_few(alone)} are predicted but nowhere in the truth (--task instance if values number objects)"]


def _few(values: Sequence[int], limit: int = 12) -> str:
    """At most ``limit`` values, then how many more."""
    more = len(values) - limit
    return f"{list(values[:limit])}" + (f" and {more} more" if more > 0 else "")
