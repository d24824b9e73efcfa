"""A data set that grows by corrected images: image, labels and where they come from, added whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ._atomic import read_json, sha256, write_json
from ._words import counted
from .cases import on_grid_of
from .checks import image_problems
from .errors import DataError, FileError
from .grid import Grid
from .image import Image, Labels
from .io import peek, write
from .io.sniff import case_name
from .layouts import stem, walk
from .signals import finish_first

__all__ = ["Added", "add_case", "case_name", "provenance"]

SCHEMA = 1
RECORD = "provenance.json"


@dataclass(frozen=True)
class Added:
    """Where a case was written, how many the data set has now, and what the doctor would say of the image."""

    name: str
    image: Path
    labels: Path
    cases: int
    notes: tuple[str, ...] = ()


def add_case(dataset: str | Path, name: str, image: Image, labels: Labels, *, origin: Mapping[str, Any] | None = None,
             corrections: Sequence[Mapping[str, Any]] = (), overwrite: bool = False) -> Added:
    """Add an image and its labels to a folder with ``images/`` and ``labels/``, which is made if it is not there.

    Files are OME-TIFF, or NIfTI where the grid is turned or in millimetres. ``provenance.json`` gets an entry: when,
    from what, the hashes of the files, and the journal of the corrections.

    Parameters
    ----------
    dataset : path
        The folder. One that holds other cases must hold cases like this one.
    name : str
        Of the case; see :func:`case_name`.
    image, labels : Image, Labels
        On one grid.
    origin : mapping, optional
        What is known of them: file, model, region.
    corrections : sequence of mapping
        Rows of a :class:`~biosegkit.canvas.Canvas`'s ``log``.
    overwrite : bool
        Replace the case of that name.

    Returns
    -------
    Added

    Raises
    ------
    DataError
        If labels and image differ in shape (G1) or place (G2), or from the cases that are there; or if voxels are not
        finite (V1), which no training accepts.
    FileError
        If there is such a case already, the folder is another kind of data set, or cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> grid = Grid.regular((2, 3), 0.5, "um")
    >>> image = Image(np.ones((1, 2, 3), np.uint8), grid)
    >>> labels = Labels.from_values(np.array([[0, 7, 7], [0, 0, 0]]), grid, "instance")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     added = add_case(folder, "a", image, labels, origin={"model": "run"})
    ...     added.image.relative_to(folder).as_posix(), provenance(folder)["a"]["model"]
    ('images/a.tif', 'run')
    """
    folder, plain = Path(dataset), case_name(name)
    if plain != name:
        raise DataError(f"the name {name!r}", expected="letters, digits, dots and dashes", remedy=f"use {plain!r}")
    labels = on_grid_of(image, labels)
    notes = _notes(image, name)
    others = _others(folder)
    _alike(image, {k: v for k, v in others.items() if k != name})
    if name in others and not overwrite:
        raise FileError(f"a case {name!r} already", file=folder, expected="a new name",
                        remedy="choose another name, or replace the case")
    tail = _ending(image.grid)
    files = {"image": folder / "images" / f"{name}{tail}", "labels": folder / "labels" / f"{name}{tail}"}
    drafts = {kind: path.with_name(f".draft-{path.name}") for kind, path in files.items()}
    try:
        for kind, item in (("image", image), ("labels", labels)):
            write(item, drafts[kind])
        with finish_first():
            for old in (p for kind in files for p in _same(files[kind].parent, name) if p != files[kind]):
                old.unlink()
            for kind, path in files.items():
                drafts[kind].replace(path)
            _record(folder, name, {
                **dict(origin or {}), "added": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "objects": len(labels.values) - 1,
                "sha256": {kind: sha256(path) for kind, path in files.items()},
                "corrections": [dict(row) for row in corrections]})
    except OSError as error:
        raise FileError(f"cannot write: {error.strerror or error}", file=folder,
                        expected="a writable folder with free space",
                        remedy="free space or choose another folder; add the case again") from error
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)
    return Added(name, files["image"], files["labels"], len(others) + (name not in others), notes)


def _notes(image: Image, name: str) -> tuple[str, ...]:
    """What is said of an image that is constant (V4); what is not finite is refused (V1)."""
    problems = image_problems(image, name, image.source)
    for found in (p for p in problems if p.severity == "error"):
        raise DataError(found.found, file=image.source or name, expected=found.expected,
                        remedy="repair the image: no training accepts it")
    return tuple(f"{p.found}: {p.remedy}" for p in problems if p.code == "V4")


def provenance(dataset: str | Path) -> dict[str, dict[str, Any]]:
    """What is known of each case that was added; empty if none was.

    Raises
    ------
    FileError
        If the record is damaged, or of a later version.
    """
    path = Path(dataset) / RECORD
    if not path.is_file():
        return {}
    found = read_json(path)
    if not isinstance(found, dict) or found.get("schema_version") != SCHEMA or not isinstance(found.get("cases"), dict):
        raise FileError("a record of another form", file=path, expected=f"schema_version {SCHEMA} and cases",
                        remedy="use the version of biosegkit that wrote it, or move it away")
    return dict(found["cases"])


def _record(folder: Path, name: str, entry: Mapping[str, Any]) -> None:
    write_json(folder / RECORD, {"schema_version": SCHEMA, "cases": {**provenance(folder), name: dict(entry)}})


def _others(folder: Path) -> dict[str, Path]:
    """The images that are there by name; a folder that is no such data set is refused."""
    if folder.exists() and not folder.is_dir():
        raise FileError("a file", file=folder, expected="a folder", remedy="choose the folder of a data set")
    inside = {p.name for p in folder.iterdir() if not p.name.startswith(".")} if folder.is_dir() else set()
    if inside and "images" not in inside:
        raise FileError(f"a folder with {', '.join(sorted(inside)[:4])}", file=folder,
                        expected="an empty folder, or one with images/ and labels/", remedy="choose another folder")
    images, labels = ({stem(p): p for p in walk(folder / kind)} if (folder / kind).is_dir() else {}
                      for kind in ("images", "labels"))
    if lone := sorted(set(images) ^ set(labels)):
        raise FileError(f"images or labels without the other: {', '.join(lone[:5])}", file=folder,
                        expected="the same names in images/ and labels/", remedy="remove or complete them first")
    provenance(folder)
    return images


def _alike(image: Image, others: Mapping[str, Path]) -> None:
    """Refuse an image that cannot be learnt from together with the first one that is there."""
    if not others:
        return
    name = min(others)
    there = peek(others[name])
    here = (image.grid.ndim, image.array.shape[0], image.grid.unit == "px")
    if here != (there.grid.ndim, there.channels, there.grid.unit == "px"):
        raise DataError(_told(image.grid, image.array.shape[0]), file=image.source or None,
                        expected=f"{_told(there.grid, there.channels)}, as {name} has",
                        remedy="choose another folder for this kind of image")


def _told(grid: Grid, channels: int) -> str:
    return f"{counted(grid.ndim, 'axis')}, {counted(channels, 'channel')}, unit {grid.unit}"


def _ending(grid: Grid) -> str:
    plain = np.array_equal(grid.affine[:-1, :-1], Grid.regular(grid.shape, grid.spacing).affine[:-1, :-1])
    return ".tif" if plain and grid.unit != "mm" else ".nii.gz"


def _same(folder: Path, name: str) -> list[Path]:
    """Files of a case, whatever their ending."""
    return [p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".") and stem(p) == name]
