"""What do we have: a data set in any of its forms as a list of cases, and how to load one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

from ._words import counted
from .case_tables import csv_cases
from .description import Description
from .errors import DataError, FileError, Problem
from .image import Image, Labels, Task
from .io import ReadOptions, read, read_labels
from .layouts import Case, UnpairedError, folder_cases, glob_cases, grouped, nnunet_cases
from .object_classes import ClassVotes, class_votes
from .splits import holdout, split_folds, split_notes, trainable

__all__ = ["Case", "Dataset", "Description", "holdout", "on_grid_of", "scan", "split_folds", "split_notes", "trainable"]

#: Largest distance of corners, in voxels, of grids that are the same (fault G2).
SAME_GRID = 1e-3


@dataclass(frozen=True)
class Dataset(Sequence[Case]):
    """Cases and what is said about them; a sequence of :class:`Case`.

    Parameters
    ----------
    cases : tuple of Case
        In the order of the source.
    about : Description
        Names and geometry, from ``dataset.json`` and the options.
    source : str
        Where the cases come from, for messages.
    notes : tuple of str
        What was noticed on scanning.
    problems : tuple of Problem
        Files that do not pair, where :func:`scan` was asked for the rest.
    """

    cases: tuple[Case, ...]
    about: Description = field(default_factory=Description)
    source: str = ""
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    @overload
    def __getitem__(self, index: int) -> Case: ...
    @overload
    def __getitem__(self, index: slice) -> Dataset: ...
    def __getitem__(self, index: int | slice) -> Case | Dataset:
        """A case by position, or a smaller data set by slice."""
        return replace(self, cases=self.cases[index]) if isinstance(index, slice) else self.cases[index]

    def case(self, name: str) -> Case:
        """The case of an id."""
        found = next((c for c in self.cases if c.id == name), None)
        if found is None:
            raise DataError(f"no case {name!r}", file=self.source, expected=f"one of {_short([c.id for c in self])}")
        return found

    def select(self, ids: Sequence[str]) -> Dataset:
        """The data set of some cases, in the order given."""
        table = {c.id: c for c in self.cases}
        return replace(self, cases=tuple(table[i] if i in table else self.case(i) for i in ids))

    def load_image(self, case: Case) -> Image:
        """The image of a case, channels joined, as stored (not turned).

        A table's columns ``spacing`` (``z;y;x``), ``pixel_size`` and ``unit`` speak for their row.
        """
        options = ReadOptions(**self.reading(case))
        return read(case.images[0] if len(case.images) == 1 else list(case.images), options)

    def reading(self, case: Case) -> dict[str, Any]:
        """What the description and the case's row say about reading its image: fields of ``ReadOptions``."""
        names = ("axes", "spacing", "unit", "pixel_size", "channel_names")
        said = {name: getattr(self.about, name) for name in names} | _row_geometry(case)
        return {name: value for name, value in said.items() if value not in (None, ())}

    def load_labels(self, case: Case, task: Task) -> Labels:
        """The labels of a case, values renamed and ignored voxels marked as described.

        Raises
        ------
        DataError
            If the case has none.
        """
        if case.labels is None:
            raise DataError("no labels", file=case.images[0], expected="a label file", remedy="annotate the image")
        return read_labels(case.labels, task, self.about.label_options(**_row_geometry(case)),
                           ignore_value=self.about.ignore_value, mapping=self.about.mapping)

    def load_classes(self, case: Case, image: Image, labels: Labels) -> ClassVotes | None:
        """The class of every object of a case whose image and labels were loaded; None without a class image.

        Values are not renamed by the description's ``map``, which is for labels; its ignore value is no class.

        Raises
        ------
        DataError
            If the class image is of another shape (G1) or lies elsewhere (G2) than the image.
        """
        if case.classes is None:
            return None
        classes = read_labels(case.classes, "semantic", self.about.label_options(**_row_geometry(case)),
                              ignore_value=self.about.ignore_value)
        return class_votes(labels, on_grid_of(image, classes, trust_index=self.about.trust_index))

    def load(self, case: Case, task: Task) -> tuple[Image, Labels]:
        """Image and labels of a case on one grid: see :func:`on_grid_of`."""
        image = self.load_image(case)
        return image, on_grid_of(image, self.load_labels(case, task), trust_index=self.about.trust_index)


def on_grid_of(image: Image, labels: Labels, *, trust_index: bool = False) -> Labels:
    """The labels on the image's own grid, when theirs is the same within 1e-3 voxel at every corner.

    Labels (or images) in a format without physical size, such as PNG beside OME-TIFF, are matched by index.

    Raises
    ------
    DataError
        For another shape (G1), or another position, direction or spacing (G2) unless ``trust_index``.
    """
    here, there = image.grid, labels.grid
    if here.shape != there.shape:
        raise DataError(f"labels of shape {there.shape}", file=labels.source or None,
                        expected=f"{here.shape}, the shape of {image.source or 'the image'}",
                        remedy="pair the right files, or resample the labels onto the image")
    note = ""
    if (here.unit == "px") != (there.unit == "px"):
        note = "only one of image and labels has a physical size: matched by index"
    elif (here.unit != there.unit or here.mismatch(there) > SAME_GRID) and not trust_index:
        raise DataError(
            f"labels {here.mismatch(there):.3g} voxels away (spacing {there.spacing} {there.unit}, origin "
            f"{there.origin}, axes {there.orientation})", file=labels.source or None,
            expected=f"the grid of {image.source or 'the image'} (spacing {here.spacing} {here.unit}, origin "
            f"{here.origin}, axes {here.orientation})",
            remedy="resample the labels onto the image; --trust-index if only the header is wrong",
        )
    elif here.unit != there.unit or here.mismatch(there) > SAME_GRID:
        note = f"labels {here.mismatch(there):.3g} voxels away by their header: matched by index as asked"
    return replace(labels, grid=here, notes=(*labels.notes, *([note] if note else [])))


def scan(source: str | Path, *, where: Mapping[str, str | Sequence[str]] | None = None,
         describe: Description | None = None, partial: bool = False) -> Dataset:
    """Find the cases of a data set. No image is opened.

    Parameters
    ----------
    source : path or str
        - a folder with ``images/`` and ``labels/`` (same relative path and stem; a folder ``labels/<stem>/`` holds
          one mask file per object),
        - a folder of case folders with ``images/`` and ``masks/``,
        - an nnU-Net folder with ``imagesTr/``, ``labelsTr/`` and ``dataset.json``,
        - two globs, ``"imgs/*.tif::labels/*.tif"``: what the wildcards stand for is equal on both sides,
        - a CSV with columns ``image,label[,case,group,split,classes,…]``, paths relative to it; the channels of a case
          stand in one cell separated by ``;``, or in columns ``image_0``, ``image_1``, ….

        ``dataset.json`` in the folder, or beside the CSV, is read as a :class:`Description`.
    where : mapping, optional
        Keep only cases whose column has this value, or one of these; all conditions must hold.
    describe : Description, optional
        Replaces entries of ``dataset.json``.
    partial : bool
        Files that do not pair become a problem of the data set, so that the others can be checked as well.

    Raises
    ------
    DataError
        For missing and extra files, all listed (D1) unless ``partial``; equal ids, loops of links (D5), or
        nothing left.
    FileError
        If the source does not exist or a table cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("images/a.tif", "labels/a.png"):
    ...         path = Path(folder) / name
    ...         path.parent.mkdir()
    ...         path.touch()
    ...     [case.id for case in scan(folder)]
    ['a']
    """
    problems: tuple[Problem, ...] = ()
    about = _about(source, describe)
    try:
        cases, notes = _found(source, about)
    except UnpairedError as error:
        if not partial:
            raise
        problems = (Problem("D1", "error", "", error.file or str(source), error.found, error.expected, error.remedy),)
        if not error.cases:
            return Dataset((), about, str(source), problems=problems)
        cases, notes = list(error.cases), []
    cases = _kept(grouped(cases, about.group), where or {}, str(source))
    _refuse_equal_ids(cases, str(source))
    _refuse_unsafe_ids(cases, str(source))
    return Dataset(tuple(cases), about, str(source), tuple(notes), problems)


def _about(source: str | Path, describe: Description | None) -> Description:
    """The description that lies with a source, with what replaces its entries."""
    path = Path(source)
    if "::" in str(source):
        return Description().merged(describe)
    if not path.exists():
        raise FileError("no such file or folder", file=path, expected="a data set", remedy="check the path")
    file = (path if path.is_dir() else path.parent) / "dataset.json"
    return (Description.read(file) if file.is_file() else Description()).merged(describe)


def _found(source: str | Path, about: Description) -> tuple[list[Case], list[str]]:
    """The cases of a source, told by its form, and remarks."""
    if "::" in str(source):
        return glob_cases(str(source)), []
    path = Path(source)
    if not path.is_dir():
        if path.suffix.lower() != ".csv":
            raise DataError("a single file", file=path, expected="a folder, a CSV file or IMAGES::LABELS globs",
                            remedy="write a CSV with columns image,label")
        cases = csv_cases(path)
        return cases, _without_labels(path, cases)
    if not (path / "imagesTr").is_dir():
        table = path / "cases.csv"
        unread = [f"{table} is not used: name it to use its groups and splits"] * table.is_file()
        return folder_cases(path), unread + _unread_labels(path)
    cases = nnunet_cases(path, about)
    stated = about.num_training
    odd = stated is not None and stated != len(cases)
    return cases, [f"numTraining {stated} in dataset.json, but {counted(len(cases), 'case')}"] * odd


def _without_labels(path: Path, cases: Sequence[Case]) -> list[str]:
    """A note if a table has no column of labels: another of its columns may be meant."""
    columns = {name for case in cases for name in case.attributes}
    if "label" in columns:
        return []
    return [f"no column label in {path}, its columns are {', '.join(cases[0].attributes)}: name that of the labels so"]


def _unread_labels(root: Path) -> list[str]:
    """A note if there are images but no ``labels/``: the folders beside that may hold them."""
    if not (root / "images").is_dir() or (root / "labels").is_dir():
        return []
    beside = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name != "images" and not p.name.startswith("."))
    others = f"; {', '.join(f'{name}/' for name in beside)} beside it is not read, rename it if it holds them"
    return [f"no folder labels/ in {root}" + others * bool(beside)]


def _columns(case: Case) -> dict[str, str]:
    """What ``where`` can ask for: the table's columns, and id, group and split under their names."""
    return {"case": case.id, "group": case.group, **({"split": case.split} if case.split else {}), **case.attributes}


def _kept(cases: list[Case], where: Mapping[str, str | Sequence[str]], source: str) -> list[Case]:
    """The cases that meet all conditions."""
    names = sorted({n for c in cases for n in _columns(c)})
    unknown = sorted(set(where) - set(names))
    if unknown:
        raise DataError(f"no column {', '.join(unknown)}", file=source, expected=f"one of {', '.join(names)}",
                        remedy="give the table such a column, or correct --where (in a recipe: where)")
    wanted = {n: {v} if isinstance(v, str) else set(v) for n, v in where.items()}
    kept = [c for c in cases if all(_columns(c).get(n, "") in v for n, v in wanted.items())]
    if not kept:
        asked = ", ".join(f"{n}={'|'.join(sorted(v))}" for n, v in wanted.items())
        values = "; ".join(f"{n}: {_short(sorted({_columns(c).get(n, '') for c in cases}))}" for n in wanted)
        raise DataError(f"no case with {asked}", file=source, expected=values,
                        remedy="correct --where (in a recipe: where)")
    return kept


def _refuse_equal_ids(cases: Sequence[Case], source: str) -> None:
    seen: set[str] = set()
    double = sorted({c.id for c in cases if c.id in seen or seen.add(c.id)})  # type: ignore[func-returns-value]
    if double:
        raise DataError(f"{counted(len(double), 'id')} used twice: {', '.join(double)}", file=source,
                        expected="one case per id",
                        remedy="add a column case with different ids, or remove the rows")


def _refuse_unsafe_ids(cases: Sequence[Case], source: str) -> None:
    """Ids become names of files in a run: none may lead out of it."""
    unsafe = [c.id for c in cases
              if not c.id or any(p in ("", ".", "..") for p in c.id.split("/")) or not c.id.isprintable()
              or "\\" in c.id or ":" in c.id.split("/")[0][1:2]]
    if unsafe:
        raise DataError(f"ids that cannot be file names: {', '.join(map(repr, unsafe))}", file=source,
                        expected="relative names without .., backslash or control characters",
                        remedy="correct the column case, or rename the files")


def _row_geometry(case: Case) -> dict[str, Any]:
    """Geometry a table gives for one row."""
    values: dict[str, Any] = {}
    text = {k: case.attributes.get(k) for k in ("spacing", "pixel_size", "unit")}
    try:
        if text["spacing"]:
            values["spacing"] = tuple(float(v) for v in text["spacing"].replace(",", ";").split(";"))
        if text["pixel_size"]:
            values["pixel_size"] = float(text["pixel_size"])
    except ValueError as error:
        raise DataError(f"{error} in the row of case {case.id}", expected="numbers, z;y;x in spacing",
                        remedy="correct the table") from error
    if text["unit"]:
        values["unit"] = text["unit"]
    return values


def _short(values: Sequence[str], limit: int = 20) -> str:
    """At most ``limit`` values, then how many more."""
    return ", ".join(values[:limit]) + (f", … ({len(values) - limit} more)" if len(values) > limit else "")
