"""Tables of objects as CSV and Parquet, written in pieces."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit._atomic import atomic_path
from biosegkit._lazy import optional
from biosegkit.errors import DataError

__all__ = ["write_csv", "write_parquet"]

_ROWS = 1 << 15  # written together


def write_csv(table: Mapping[str, npt.NDArray[Any]], path: str | Path) -> None:
    r"""Columns of equal length as CSV, numbers with all their digits.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_csv({"id": np.array([1, 2]), "score": np.array([0.5, 1.0])}, folder + "/a.csv")
    ...     Path(folder, "a.csv").read_text()
    'id,score\n1,0.5\n2,1.0\n'
    """
    count = _length(table)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table)
        for low in range(0, count, _ROWS):
            writer.writerows(zip(*(np.asarray(c[low: low + _ROWS]).tolist() for c in table.values()), strict=True))


def write_parquet(table: Mapping[str, npt.NDArray[Any]], path: str | Path) -> None:
    """Columns of equal length as Parquet, in their own types; needs the extra ``batch``.

    Raises
    ------
    OptionError
        If pyarrow is not installed.
    """
    arrow, parquet = optional("pyarrow"), optional("pyarrow.parquet")
    _length(table)
    columns = {name: arrow.array(np.ascontiguousarray(column)) for name, column in table.items()}
    with atomic_path(path) as temporary:
        parquet.write_table(arrow.table(columns), temporary, row_group_size=_ROWS, compression="zstd")


def _length(table: Mapping[str, npt.NDArray[Any]]) -> int:
    """Rows, the same for all columns."""
    lengths = {name: len(column) for name, column in table.items()}
    for (a, n), (b, m) in itertools.pairwise(lengths.items()):
        if n != m:
            raise DataError(f"{n} rows of {a} and {m} of {b}", expected="columns of equal length")
    return next(iter(lengths.values()), 0)
