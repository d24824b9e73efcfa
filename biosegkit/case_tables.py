"""A data set as a table: a CSV with a row per case."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from ._words import counted
from .errors import DataError, FileError
from .layouts import Case, UnpairedError, stem

__all__ = ["csv_cases"]


def csv_cases(path: Path) -> list[Case]:
    """Cases of a CSV with columns ``image`` (or ``image_0``, ``image_1``, …), ``label`` and optionally ``case``,
    ``group``, ``split``, ``classes`` (a label image with the class of each voxel) and any others; paths are relative
    to the file.

    Several channels of one case are separated by ``;`` in the cell ``image``, or stand in numbered columns. Empty
    lines are passed over. Columns may also be parted by semicolons or tabs. Every missing file is listed.
    """  # noqa: D205 - the columns are one sentence
    rows, columns = _rows(path)
    image_columns = sorted((c for c in columns if re.fullmatch(r"image_\d+", c)), key=lambda c: int(c[6:]))
    image_columns = image_columns or [c for c in columns if c == "image"]
    if not image_columns:
        raise DataError(f"columns {', '.join(columns)}", file=path, expected="a column image (or image_0, image_1, …)",
                        remedy="name the columns in the first line")
    cases, missing = [], []
    for row in rows:
        cells = [p.strip() for c in image_columns for p in row[c].split(";") if p.strip()]
        images = tuple(_named(path.parent, c) for c in cells)
        label = _named(path.parent, row["label"]) if row.get("label") else None
        classes = _named(path.parent, row["classes"]) if row.get("classes") else None
        missing += [str(p) for p in (*images, label, classes) if p and not p.exists()]
        name = row.get("case") or (stem(images[0]) if images else "")
        if not images:
            missing.append(f"(no image in the row of case {name or '?'})")
        cases.append(Case(name, row.get("group") or name, images, label, row.get("split") or None, row, classes))
    if missing:
        there = [c for c in cases if c.images and not {str(p) for p in (*c.images, c.labels, c.classes)} & set(missing)]
        raise UnpairedError(f"{counted(len(missing), 'file')} missing: {', '.join(missing)}", file=path,
                            expected="files that exist, relative to the CSV",
                            remedy="correct the table or add the files").beside(there)
    unlabelled = [c.id for c in cases if c.labels is None]
    if unlabelled and len(unlabelled) < len(cases):
        raise UnpairedError(f"{counted(len(unlabelled), 'image')} without labels: {', '.join(unlabelled)}", file=path,
                            expected="a label in every row, or in none", remedy="fill the column label").beside(
            c for c in cases if c.labels is not None)
    return cases


def _named(folder: Path, cell: str) -> Path:
    """The file that a cell names, also as Windows writes it."""
    path = folder / cell
    return path if "\\" not in cell or path.exists() else folder / cell.replace("\\", "/")


def _rows(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Rows of a CSV as stripped text, refusing rows of another length than the header."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"no readable text ({error})", file=path, expected="a CSV in UTF-8",
                        remedy="save the table again as CSV, in UTF-8") from error
    written = text.splitlines()
    first = next((line for line in written if line.strip()), "")
    mark = next((m for m in ";\t" if m in first and "," not in first), ",")  # as some spreadsheets write
    lines = [r for r in csv.reader(written, delimiter=mark) if any(cell.strip() for cell in r)]
    header = [_column(h.strip()) for h in lines[0]] if lines else []
    if not lines:
        raise DataError("an empty table", file=path, expected="a line of column names, and one per case",
                        remedy="fill the table")
    if len(set(header)) != len(header) or len(lines) < 2:
        raise DataError(f"columns {', '.join(header)} and {counted(max(len(lines) - 1, 0), 'row')}", file=path,
                        expected="different columns and at least one row", remedy="correct the table")
    wrong = [str(i) for i, r in enumerate(lines[1:], 1) if len(r) != len(header)]
    if wrong:
        raise DataError(f"another number of cells than columns in rows {', '.join(wrong)}", file=path,
                        expected=counted(len(header), "cell"), remedy="quote cells that contain a comma")
    return [dict(zip(header, (c.strip() for c in r), strict=True)) for r in lines[1:]], header


def _column(name: str) -> str:
    """The name of a column; those that mean something are known in capitals, too."""
    known = re.fullmatch(r"(image(_\d+)?|label|case|group|split|classes)", name.lower())
    return name.lower() if known else name
