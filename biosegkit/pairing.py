"""Which prediction belongs to which truth: by whole names, every file that does not fit listed."""

from __future__ import annotations

import csv
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ._atomic import read_json
from ._endings import ENDINGS
from ._words import counted
from .cases import Case, Dataset, Description, scan
from .checks import stated_task
from .errors import DataError, FileError, OptionError
from .image import Labels, Task
from .io.sniff import ending
from .label_problems import labels_to_check
from .layouts import grouped, stem, walk
from .task_choice import choose_task, count_ids

__all__ = ["MAPS", "Pairs", "pair_files", "with_maps"]

#: Names of the probability maps that ``predict --save-maps`` writes for classes and for regions.
MAPS = ("classes", "regions")


@dataclass(frozen=True)
class Pairs:
    """Cases with a prediction each.

    Parameters
    ----------
    dataset : Dataset
        The true labels, and the images if the truth is a data set.
    paths : mapping of str to Path
        Case id → file of the prediction.
    task : {"semantic", "instance"}
        What the labels mean.
    notes : tuple of str
        What was assumed, and what was left out.
    maps : mapping of str to Path
        Case id → file of probabilities, of the cases that have one.
    source : str
        Where the predictions are, for their name.
    """

    dataset: Dataset
    paths: Mapping[str, Path]
    task: Task
    notes: tuple[str, ...] = ()
    maps: Mapping[str, Path] = field(default_factory=dict)
    source: str = ""

    @property
    def has_images(self) -> bool:
        """Whether the truth came with images."""
        return all(case.images[0] != case.labels for case in self.dataset)

    def load(self, case: Case) -> tuple[Labels, Labels]:
        """Prediction and truth of a case, read in the same way but for what only annotators write."""
        mapping = self.dataset.about.mapping
        # A prediction already has the renamed values. Renaming once more does no harm unless values are exchanged.
        again = {} if set(mapping) & set(mapping.values()) else mapping
        labels = {n: v for n, v in self.dataset.about.labels.items() if n != "ignore"}
        about = self.dataset.about.model_copy(update={"ignore": None, "labels": labels, "mapping": again})
        found = replace(self.dataset, about=about).load_labels(replace(case, labels=self.paths[case.id]), self.task)
        return found, self.dataset.load_labels(case, self.task)

    def with_predictions(self, predictions: str | Path) -> Pairs:
        """The same truths with the predictions of another model.

        Raises
        ------
        DataError
            If predictions are missing or not unique (D1), all listed.
        """
        paths, notes = _paired(Path(predictions), self.dataset)
        return replace(self, paths=paths, notes=tuple(notes), maps=_maps_beside(paths), source=str(predictions))

    def object_scores(self, case: Case) -> dict[int, float] | None:
        """Scores of the predicted objects by id, from the table beside the prediction; None if there is none.

        Raises
        ------
        FileError
            If the table is damaged.
        """
        path = self.paths[case.id]
        table = path.with_name(f"{stem(path)}.csv")
        if not table.is_file():
            return None
        with table.open(newline="", encoding="utf-8") as handle:
            rows = csv.DictReader(handle)
            if not {"id", "score"} <= set(rows.fieldnames or ()):
                return None
            try:
                return {int(row["id"]): float(row["score"]) for row in rows}
            except (TypeError, ValueError) as error:
                raise FileError(f"a row that is no id and score ({error})", file=table, expected="numbers",
                                remedy="predict again") from error


def pair_files(predictions: str | Path, truth: str | Path, *, task: Task | None = None,
               where: Mapping[str, str | Sequence[str]] | None = None,
               describe: Description | None = None) -> Pairs:
    """Pair predictions with their truths; the parameters are those of :func:`biosegkit.evaluate_folder`.

    Probability maps beside the predictions (``<stem>_classes``, ``<stem>_regions``) are found as well.

    Raises
    ------
    DataError
        If predictions are missing or not unique (D1), all listed.
    FileError
        If a file is missing.
    """
    dataset = _truths(truth, where, describe)
    paths, notes = _paired(Path(predictions), dataset)
    dataset = replace(dataset, cases=tuple(c for c in dataset if c.id in paths))
    chosen, reason = _task(dataset, paths, task)
    return Pairs(dataset, paths, chosen, (*dataset.notes, *([reason] if reason else []), *notes), _maps_beside(paths),
                 str(predictions))


def with_maps(pairs: Pairs, folder: str | Path) -> Pairs:
    """The pairs with the probability maps of a folder, named like the predictions or ``<stem>_classes``.

    Raises
    ------
    FileError
        If there is no such folder.
    DataError
        If cases have no map in it, all listed.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileError("no such folder", file=root, expected="probability maps", remedy="check --maps")
    files = {_key(p, root): p for p in walk(root)}
    found = {case.id: file for case in pairs.dataset for name in sorted(_names(case))
             for key in (name, *(f"{name}_{kind}" for kind in MAPS)) if (file := files.get(key)) is not None}
    missing = [case.id for case in pairs.dataset if case.id not in found]
    if missing:
        raise DataError(f"{counted(len(missing), 'case')} without probability map: {', '.join(missing)}", file=root,
                        expected="one map per case, named like its prediction", remedy="predict with --save-maps")
    return replace(pairs, maps=found)


def _maps_beside(paths: Mapping[str, Path]) -> dict[str, Path]:
    """The probabilities that were written with predictions."""
    found: dict[str, Path] = {}
    for name, path in paths.items():
        tail = path.name[len(path.name) - len(ending(path) or path.suffix):]
        places = (path.with_name(f"{path.name.removesuffix(tail)}_{kind}{tail}") for kind in MAPS)
        if place := next((place for place in places if place.exists()), None):
            found[name] = place
    return found


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
    cases = grouped([Case(k, k, (p,), p) for k, p in found.items()], about.group)
    return Dataset(tuple(cases), about, str(source),
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
    extra = sorted(str(p.relative_to(source)) for p in set(files) - set(used) - _maps_of(files))
    _refuse_unpaired(source, missing, several, shared, extra)
    note = f"{counted(len(extra), 'prediction')} without truth, not scored: {', '.join(extra)}"
    return {k: found[0] for k, found in matches.items()}, [note] if extra else []


def _maps_of(files: Sequence[Path]) -> set[Path]:
    """Files that are no predictions but maps or pictures written with one, as its record says."""
    found: set[Path] = set()
    for file in files:
        record = file.with_name(file.name + ".json")
        also = _entry(record, "also") if record.is_file() else None
        found.update(file.parent / name for name in (also if isinstance(also, dict) else ()))
        if record.is_file() and _entry(record, "options", "save_maps"):
            found.update(p for p in files if p.parent == file.parent and p.name.startswith(f"{stem(file)}_")
                         and not p.with_name(p.name + ".json").exists())
    return found


def _entry(record: Path, *keys: str) -> object:
    """An entry of a prediction's record; None if it is not there or nothing can be read."""
    try:
        value: object = read_json(record)
    except FileError:
        return None
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _refuse_unpaired(source: Path, missing: list[str], several: list[str], shared: list[str],
                     extra: list[str]) -> None:
    """One error that lists everything at once."""
    parts = [(missing, "case", "without prediction"), (several, "case", "with several predictions"),
             (shared, "prediction", "of a name that fits several cases")]
    wrong = [f"{counted(len(items), noun)} {what}: {', '.join(items)}" for items, noun, what in parts if items]
    if wrong:
        if extra:
            wrong.append(f"{counted(len(extra), 'prediction')} without truth: {', '.join(extra)}")
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
        labels = labels_to_check(dataset, case)
        found, voxels = count_ids(labels)
        counts.append(found)
        recurring.update(int(v) for v, n in zip(labels.values[1:], voxels[1:], strict=True) if n)
    chosen, reason = choose_task(counts, list(recurring.values()))
    return chosen, f"scored as {chosen}: {reason}"


def _recorded_task(paths: Iterable[Path]) -> Task | None:
    """What the model that made the predictions finds, if all have a record and all say the same."""
    said = {_entry(path.with_name(path.name + ".json"), "task") for path in paths}
    if said == {"instance"}:
        return "instance"
    return "semantic" if said == {"semantic"} else None
