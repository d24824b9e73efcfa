"""Scores records in files: JSON of any schema in, CSV out."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from biosegkit._atomic import read_json, write_bytes
from biosegkit.errors import FileError
from biosegkit.scores.summary import SCHEMA

__all__ = ["read_scores", "write_csv"]


def read_scores(path: str | Path) -> dict[str, Any]:
    """Read a scores record, of this or an older schema.

    Schema 1 had no ``intervals`` and no ``counts`` in its cases.

    Raises
    ------
    FileError
        If it is no scores record, or of a newer schema (fault X5).
    """
    data = read_json(path)
    if not isinstance(data, dict) or data.get("kind") != "scores" or not isinstance(data.get("schema"), int):
        raise FileError("no scores record", file=path, expected="what biosegkit evaluate -o wrote",
                        remedy="check the path")
    if data["schema"] > SCHEMA:
        raise FileError(f"scores of schema {data['schema']}", file=path, expected=f"schema {SCHEMA} or older",
                        remedy="read it with the version of biosegkit that wrote it, or a newer one")
    return data


def write_csv(scores: Mapping[str, Any], path: str | Path) -> None:
    """Write one row per case (instance) or per case and class (semantic), all digits, empty where undefined.

    Raises
    ------
    FileError
        If the file cannot be written.
    """
    if scores["task"] == "instance":
        rows = [{k: v for k, v in r.items() if k not in ("notes", "counts")} for r in scores["cases"]]
    else:
        of_case = ("group", "ece", "mce", "brier", "nll")
        rows = [{"case": r["case"], **{k: r[k] for k in of_case if k in r}, "class": name,
                 **{k: v for k, v in row.items() if k != "values"}}
                for r in scores["cases"] for name, row in r["classes"].items()]
    columns = list(dict.fromkeys(k for row in rows for k in row)) or ["case"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()})
    write_bytes(path, text.getvalue().encode())
