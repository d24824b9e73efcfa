"""The RUN folder: what it was made from, who works in it, and whether it may be continued."""

from __future__ import annotations

import csv
import io
import os
import platform
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from ._atomic import read_json, sha256, write_bytes, write_json
from .cases import Case, Dataset
from .errors import FileError, Problem, ResumeError
from .plan.schema import Plan

__all__ = ["locked", "open_run", "update_run"]

_LIBRARIES = ("biosegkit", "torch", "numpy", "numba", "scipy")


def open_run(out: Path, plan: Plan, dataset: Dataset, *, resume: bool, overwrite: bool,
             facts: dict[str, Any] | None = None, problems: Sequence[Problem] = ()) -> None:
    """Make a run folder, or check that the one there is the same run.

    Raises
    ------
    FileError
        If the folder exists and neither ``resume`` nor ``overwrite`` was asked for.
    ResumeError
        If plan, data or code differ from the run's (fault P3); the message says where.
    """
    present = out.exists() and any(p.name != "lock" for p in out.iterdir())
    if present and overwrite and not resume:
        for path in out.iterdir():
            if path.name != "lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        present = False
    if present and not resume:
        raise FileError("an existing run", file=out, expected="a new folder",
                        remedy="continue it with --resume or replace it with --overwrite")
    data = _table(dataset)
    if present and (out / "run.json").exists():
        _same_run(out, plan, data)
        return
    out.mkdir(parents=True, exist_ok=True)
    plan.write(out / "plan.json")
    write_bytes(out / "cases.csv", data.encode())
    write_json(out / "run.json", {
        "schema_version": 1, "plan": plan.hash, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {name: metadata.version(name) for name in _LIBRARIES},
        "python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}",
        "problems": [vars(p) for p in problems], **(facts or {}),
    })


def update_run(out: Path, **facts: Any) -> None:
    """Add facts to ``run.json``."""
    write_json(out / "run.json", {**read_json(out / "run.json"), **facts})


def _same_run(out: Path, plan: Plan, data: str) -> None:
    """Refuse to continue with another plan, other data or another version."""
    stored = Plan.read(out / "plan.json")
    if stored.hash != plan.hash:
        old, new = stored.model_dump(), plan.model_dump()
        changed = [k for k in old if old[k] != new[k] and k not in ("decisions", "budget")]
        raise ResumeError(f"a plan that differs in {', '.join(changed)}", file=out, expected="the run's own plan.json",
                          remedy="start anew in another folder, with --from this run to keep its weights")
    before = (out / "cases.csv").read_text(encoding="utf-8")
    if before != data:
        old_rows, new_rows = before.splitlines(), data.splitlines()
        first = next((b for a, b in zip(old_rows, new_rows, strict=False) if a != b), f"{len(new_rows) - 1} cases")
        raise ResumeError(f"other data, first difference: {first}", file=out,
                          expected=f"the {len(old_rows) - 1} cases of cases.csv, unchanged",
                          remedy="start anew in another folder, with --from this run to keep its weights")
    version = read_json(out / "run.json").get("versions", {}).get("biosegkit")
    if version != metadata.version("biosegkit"):
        raise ResumeError(f"biosegkit {metadata.version('biosegkit')}", file=out, expected=f"biosegkit {version}",
                          remedy="install that version, or start anew with --from this run")


def _table(dataset: Dataset) -> str:
    """Cases with the hashes of their files; names only, no folders of the user's machine (fault S8)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "group", "split", "image", "label", "sha256"])
    for case in dataset:
        images = ";".join(p.name for p in case.images)
        writer.writerow([case.id, case.group, case.split or "", images, case.labels.name if case.labels else "",
                         ";".join(_hashes(case))])
    return text.getvalue()


def _hashes(case: Case) -> list[str]:
    found = []
    for path in (*case.images, *((case.labels,) if case.labels else ())):
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        found += [sha256(f)[:16] for f in files]
    return found


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; a second one is refused (fault F8). A dead holder's lock is taken over.

    Raises
    ------
    FileError
        If another living process of this host, or any process of another host, holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / "lock"
    mine = f"{socket.gethostname()} {os.getpid()}"
    for _ in range(2):
        try:
            handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            host, _, number = lock.read_text().partition(" ")
            if host != socket.gethostname() or (number.isdigit() and psutil.pid_exists(int(number))
                                                and int(number) != os.getpid()):
                raise FileError(f"a folder in use by process {number} on {host}", file=folder,
                                expected="one process per folder",
                                remedy=f"wait for it, or remove {lock} if it is not running") from None
            lock.unlink(missing_ok=True)
        else:
            os.write(handle, mine.encode())
            os.close(handle)
            break
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
