"""How good are these predictions: pair them with their truths by name, score each pair, put the scores together."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ._atomic import read_json
from .cases import Case, Dataset, Description, scan
from .checks import stated_task
from .errors import BiosegError, DataError, FileError, OptionError
from .image import Labels, Task
from .io.sniff import ENDINGS, ending
from .layouts import stem, walk
from .scores import ScoreOptions, score_pair, summarise, tables, write_csv
from .task_choice import choose_task, count_ids

__all__ = ["ScoreOptions", "evaluate", "evaluate_folder", "score_pair", "tables", "write_csv"]

Progress = Callable[[str, int, int], None]


def evaluate(prediction: Labels, truth: Labels, options: ScoreOptions | None = None, *,
             case: str = "case") -> dict[str, Any]:
    """Score one prediction and return a whole scores record.

    Parameters
    ----------
    prediction, truth : Labels
        On the same grid. The truth's task decides what is scored, its ignored voxels count nowhere.
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
    scores = score_pair(prediction, truth, options)
    notes = [] if options.classes or options.regions else _foreign([prediction], [truth])
    return summarise({case: scores}, truth.task, unit=truth.grid.unit, options=options, notes=notes)


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
        Replaces entries of ``dataset.json``. Its ``mapping`` also renames predicted values, unless it exchanges some.
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
    dataset = _truths(truth, where, describe)
    paths, notes = _paired(Path(predictions), dataset)
    dataset = replace(dataset, cases=tuple(c for c in dataset if c.id in paths))
    task, reason = _task(dataset, paths, task)
    options = _named(options or ScoreOptions(), dataset.about)
    cases, units, foreign = _scored(dataset, paths, task, options, progress)
    if len(units) > 1:
        notes.append(f"truths in different units ({', '.join(sorted(units))}): distances and volumes do not compare")
    return summarise(cases, task, unit="/".join(sorted(units)), options=options,
                     notes=[*dataset.notes, *([reason] if reason else []), *notes, *foreign])


def _scored(dataset: Dataset, paths: Mapping[str, Path], task: Task, options: ScoreOptions,
            progress: Progress | None) -> tuple[dict[str, dict[str, Any]], set[str], list[str]]:
    """Scores of every case, the units met, and remarks on values; every case that fails is listed."""
    cases: dict[str, dict[str, Any]] = {}
    failed: list[str] = []
    units: set[str] = set()
    values: tuple[set[int], set[int]] = set(), set()
    for done, case in enumerate(dataset):
        if progress is not None:
            progress(case.id, done, len(dataset))
        try:
            prediction, truth = _load(dataset, case, paths[case.id], task)
            cases[case.id] = score_pair(prediction, truth, options)
        except BiosegError as error:
            failed.append(f"{case.id}: {error}")
            continue
        units.add(truth.grid.unit)
        for seen, labels in zip(values, (prediction, truth), strict=True):
            seen.update(int(v) for v in labels.values if v)
    if failed:
        raise DataError(f"{len(failed)} of {len(dataset)} cases cannot be scored:\n" + "\n".join(failed),
                        file=dataset.source, remedy="correct or leave out these cases")
    known = task == "instance" or bool(options.classes or options.regions)
    return cases, units, [] if known else _foreign_values(*values, refuse=True)


def _load(dataset: Dataset, case: Case, path: Path, task: Task) -> tuple[Labels, Labels]:
    """Prediction and truth of a case, read in the same way but for what only annotators write."""
    mapping = dataset.about.mapping
    # A prediction already has the renamed values. Renaming once more does no harm unless values are exchanged.
    again = {} if set(mapping) & set(mapping.values()) else mapping
    labels = {n: v for n, v in dataset.about.labels.items() if n != "ignore"}
    about = dataset.about.model_copy(update={"ignore": None, "labels": labels, "mapping": again})
    prediction = replace(dataset, about=about).load_labels(replace(case, labels=path), task)
    return prediction, dataset.load_labels(case, task)


def _truths(source: str | Path, where: Mapping[str, str | Sequence[str]] | None,
            describe: Description | None) -> Dataset:
    """The true labels as a data set."""
    path = Path(source)
    if "::" in str(source) or path.suffix.lower() == ".csv" or _is_dataset(path):
        dataset = scan(source, where=where, describe=describe)
        if any(case.labels is None for case in dataset):
            raise DataError("cases without labels", file=source, expected="a label file for every case",
                            remedy="choose annotated cases with --where")
        return dataset
    if where:
        raise OptionError(f"--where {', '.join(where)} without a table", file=source, expected="a CSV")
    if not path.exists():
        raise FileError("no such file or folder", file=path, expected="true labels", remedy="check the path")
    found = {_key(p, path): p for p in walk(path)} if _is_folder(path) else {stem(path): path}
    if not found:
        raise DataError("no label file", file=path, expected=f"files ending in {', '.join(sorted(ENDINGS))}",
                        remedy="check the folder")
    homes = (path, path.parent) if path.is_dir() else (path.parent, path.parent.parent)
    file = next((h / "dataset.json" for h in homes if (h / "dataset.json").is_file()), None)
    about = (Description() if file is None else Description.read(file)).merged(describe)
    return Dataset(tuple(Case(k, k, (p,), p) for k, p in found.items()), about, str(source),
                   (f"names and values from {file.name} in {file.parent.name}/",) if file else ())


def _is_folder(path: Path) -> bool:
    """Whether a path is a folder of files, and not an image stored as one."""
    return path.is_dir() and ENDINGS.get(ending(path)) != "zarr"


def _is_dataset(path: Path) -> bool:
    """Whether a folder holds images beside labels."""
    if not _is_folder(path):
        return False
    return any((path / n).is_dir() for n in ("images", "imagesTr")) or any(
        (p / "images").is_dir() and (p / "masks").is_dir() for p in path.iterdir())


def _key(path: Path, root: Path) -> str:
    """Relative path without ending, with ``/``."""
    parent = unicodedata.normalize("NFC", path.relative_to(root).parent.as_posix())
    return stem(path) if parent == "." else f"{parent}/{stem(path)}"


def _names(case: Case) -> set[str]:
    """What a prediction of a case may be called: the id, or the end of its image's path."""
    image = case.images[0]
    tails = [*reversed(image.parent.parts[1:] if image.is_absolute() else image.parent.parts)]
    names = {case.id, stem(image)}
    for depth in range(1, len(tails) + 1):
        names.add(unicodedata.normalize("NFC", "/".join([*reversed(tails[:depth]), stem(image)])))
    return names


def _paired(source: Path, dataset: Dataset) -> tuple[dict[str, Path], list[str]]:
    """The prediction of each case, and remarks; whatever is missing or not unique is listed (fault D1)."""
    if not source.exists():
        raise FileError("no such file or folder", file=source, expected="predictions", remedy="check the path")
    if not _is_folder(source):
        # A file named by the user is paired with the only truth whatever its name is.
        cases = [c for c in dataset if len(dataset) == 1 or stem(source) in _names(c)]
        if len(cases) != 1:
            raise DataError(f"{len(cases)} truths of that name", file=source, expected="one", remedy="name its truth")
        return {cases[0].id: source}, []
    files = list(walk(source))
    by_key: dict[str, list[Path]] = {}
    for file in files:
        by_key.setdefault(_key(file, source), []).append(file)
    matches = {c.id: [p for name in sorted(_names(c)) for p in by_key.get(name, [])] for c in dataset}
    missing = [k for k, found in matches.items() if not found]
    several = [f"{k} ({', '.join(str(p.relative_to(source)) for p in v)})" for k, v in matches.items() if len(v) > 1]
    used = Counter(p for found in matches.values() for p in found)
    shared = [str(p.relative_to(source)) for p, n in used.items() if n > 1]
    extra = sorted(str(p.relative_to(source)) for p in set(files) - set(used))
    _refuse_unpaired(source, missing, several, shared, extra)
    note = f"{len(extra)} predictions without truth, not scored: {', '.join(extra)}"
    return {k: found[0] for k, found in matches.items()}, [note] if extra else []


def _refuse_unpaired(source: Path, missing: list[str], several: list[str], shared: list[str],
                     extra: list[str]) -> None:
    """One error that lists everything at once."""
    parts = [(missing, "cases without prediction"), (several, "cases with several predictions"),
             (shared, "predictions that fit several cases")]
    wrong = [f"{len(items)} {what}: {', '.join(items)}" for items, what in parts if items]
    if wrong:
        if extra:
            wrong.append(f"{len(extra)} predictions without truth: {', '.join(extra)}")
        raise DataError("; ".join(wrong), file=source, expected="one prediction per case, of the same name",
                        remedy="add, rename or remove the files listed, or choose cases with --where")


def _task(dataset: Dataset, paths: Mapping[str, Path], task: Task | None) -> tuple[Task, str]:
    """What the labels mean, and the reason unless the user said it.

    Stated by the data set, else by the records beside the predictions, else found from the true labels.
    """
    if stated := stated_task(dataset, task):
        return stated[0], f"scored as {stated[0]}: {stated[1]}" if not stated[1].startswith("as ") else ""
    if recorded := _recorded_task(paths.values()):
        return recorded, f"scored as {recorded}: the predictions' records say so"
    counts, recurring = [], Counter[int]()
    for case in dataset:
        labels = dataset.load_labels(case, "semantic")
        found, voxels = count_ids(labels)
        counts.append(found)
        recurring.update(int(v) for v, n in zip(labels.values[1:], voxels[1:], strict=True) if n)
    chosen, reason = choose_task(counts, list(recurring.values()))
    return chosen, f"scored as {chosen}: {reason}"


def _recorded_task(paths: Iterable[Path]) -> Task | None:
    """What the model that made the predictions finds, if all have a record and all say the same."""
    said = set()
    for path in paths:
        try:
            record = read_json(path.with_name(path.name + ".json"))
        except FileError:
            return None
        said.add(record.get("task") if isinstance(record, dict) else None)
    if said == {"instance"}:
        return "instance"
    return "semantic" if said == {"semantic"} else None


def _named(options: ScoreOptions, about: Description) -> ScoreOptions:
    """Options completed by the names the data set gives; what the caller chose stays."""
    if options.classes or options.regions:
        return options
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
