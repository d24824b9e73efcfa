"""The RUN folder: what it was made from, who works in it, and whether it may be continued."""

from __future__ import annotations

import csv
import io
import os
import platform
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from ._atomic import read_json, sha256, way_out, write_bytes, write_json
from ._words import counted
from .cases import Case, Dataset
from .errors import FileError, Problem, ResumeError
from .plan.schema import Plan

__all__ = ["asked_of", "begun", "is_finished", "locked", "open_run", "refuse_no_run", "refuse_run", "update_run"]

#: Options whose values are places on the user's machine.
_PATHS = ("plan", "origin", "encoder_weights")
_LIBRARIES = ("biosegkit", "torch", "numpy", "numba", "scipy")


def open_run(out: Path, plan: Plan, dataset: Dataset, *, resume: bool, overwrite: bool,
             facts: dict[str, Any] | None = None, problems: Sequence[Problem] = ()) -> None:
    """Make a run folder, or check that the one there is the same run.

    Raises
    ------
    FileError
        If the folder exists and neither ``resume`` nor ``overwrite`` was asked for.
    ResumeError
        If plan, data or code differ from the run's, or there is no run to continue (fault P3); the message says where.
    """
    if resume:
        refuse_no_run(out)
    present = _is_begun(out)
    if present and overwrite and not resume:
        _refuse_data_within(out, dataset)
        _clear(out)
        present = False
    if not resume:
        refuse_run(out)
    data, about = _table(dataset), dataset.about.model_dump(mode="json")
    if present and not _is_mark(out) and (out / "run.json").exists():
        _same_run(out, plan, data, about)
        _same_start(out, (facts or {}).get("from"))
        return
    out.mkdir(parents=True, exist_ok=True)
    asked = _recorded(asked_of(out))
    plan.write(out / "plan.json")
    write_bytes(out / "cases.csv", data.encode())
    write_json(out / "run.json", {
        "schema_version": 1, "plan": plan.hash, "description": about, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {name: metadata.version(name) for name in _LIBRARIES},
        "python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}",
        "problems": [vars(p) for p in problems], **asked, **(facts or {}),
    })


@contextmanager
def begun(out: Path, asked: Mapping[str, Any] | None, *, resume: bool) -> Iterator[None]:
    """Mark an empty folder as that of a run for a while, with the options asked for, if there are any.

    Reading and probing can take minutes: what is killed or stopped meanwhile is continued as any other run. Errors take
    the mark away again, so that a corrected command finds the place free.
    """
    marked = not resume and not _is_begun(out)
    there = out.exists()
    if marked:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "run.json", {"schema_version": 1, "asked": None if asked is None else dict(asked)})
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        marked = False
        raise
    finally:
        if marked and _is_mark(out):
            (out / "run.json").unlink()
            if not there and not any(out.iterdir()):
                out.rmdir()


def asked_of(out: Path) -> dict[str, Any] | None:
    """The options a run was begun with; None if nobody wrote them down."""
    return dict(read_json(out / "run.json")).get("asked") if (out / "run.json").is_file() else None


def _recorded(asked: Mapping[str, Any] | None) -> dict[str, Any]:
    """What stays on record of the options: what a path named is in plan and run by its hash (fault S8)."""
    return {} if asked is None else {"asked": {name: None if name in _PATHS else v for name, v in asked.items()}}


def _is_mark(out: Path) -> bool:
    """Whether all there is of a run is that it was asked for."""
    return (out / "run.json").is_file() and "plan" not in read_json(out / "run.json") and not (
        out / "plan.json").exists()


def refuse_run(out: Path) -> None:
    """Refuse a folder that holds a run.

    Raises
    ------
    FileError
        With what can be done.
    """
    if _is_begun(out):
        raise FileError("an existing run", file=out, expected="a new folder",
                        remedy="continue it with --resume or replace it with --overwrite")


def _is_begun(out: Path) -> bool:
    return out.exists() and any(p.name != "lock" for p in out.iterdir()
                                if p.name != "run.json" or not _is_mark(out))


def refuse_no_run(out: Path) -> None:
    """Refuse to continue what was never begun: a wrong name would train for hours from the beginning (fault P3).

    Raises
    ------
    ResumeError
        If the folder holds no run, not even one that has only just begun.
    """
    if not _is_run(out):
        raise ResumeError("no run to continue", file=out, expected="a run that was begun in this folder",
                          remedy="check the name, or leave --resume out to begin one")


def is_finished(out: Path) -> bool:
    """Whether a run is whole: trained, scored, bundled and reported."""
    whole = all((out / name).is_file() for name in ("run.json", "bundle/bundle.json", "report.html"))
    return whole and "finished" in read_json(out / "run.json")


def _same_start(out: Path, model: str | None) -> None:
    """Refuse to continue with the weights of another model than the run began with; none given is no matter here."""
    began = read_json(out / "run.json").get("from")
    if model is not None and model != began:
        raise ResumeError(f"model {model[:12]} to begin with", file=out,
                          expected=f"model {began[:12]}" if began else "none, as when the run began",
                          remedy="leave --from out, or start anew in another folder")


def _is_run(out: Path) -> bool:
    """Whether a run was begun here: its plan is written first. A ``cases.csv`` may be that of a data set."""
    return (out / "run.json").exists() or (out / "plan.json").exists()


def _clear(out: Path) -> None:
    """Empty a run folder; a folder that never was one is left alone."""
    if not _is_run(out):
        raise FileError(f"a folder with {counted(len(list(out.iterdir())), 'entry')} that is no run", file=out,
                        expected="a new folder, or a run to replace", remedy="choose another folder")
    for path in out.iterdir():
        if path.name != "lock":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _refuse_data_within(out: Path, dataset: Dataset) -> None:
    """A folder that holds the data to train on is never emptied, whatever else lies in it."""
    home = out.resolve()
    files = (path for case in dataset for path in (*case.images, case.labels, case.classes) if path is not None)
    if inside := next((path for path in files if path.resolve().is_relative_to(home)), None):
        raise FileError(f"a folder to replace that holds the data, such as {inside}", file=out,
                        expected="a folder for the run alone", remedy="choose another folder")


def update_run(out: Path, **facts: Any) -> None:
    """Add facts to ``run.json``."""
    write_json(out / "run.json", {**read_json(out / "run.json"), **facts})


def _same_run(out: Path, plan: Plan, data: str, about: dict[str, Any]) -> None:
    """Refuse to continue with another plan, other data or another version."""
    stored = Plan.read(out / "plan.json")
    if stored.hash != plan.hash:
        changed = [d for d in _differences(stored.model_dump(), plan.model_dump())
                   if not d.startswith(("decisions", "budget"))]
        raise ResumeError(f"a plan that differs in {', '.join(changed[:5])}", file=out,
                          expected="the run's own plan.json",
                          remedy="start anew in another folder, with --from this run to keep its weights")
    run = read_json(out / "run.json")
    if run.get("plan") not in (None, plan.hash) and run.get("undecided") != plan.hash:
        raise ResumeError("a plan that is not the one the run began with", file=out / "plan.json",
                          expected="no edit since, and the same version of biosegkit",
                          remedy="undo the edit, or train a copy of it (--plan) in another folder")
    before = (out / "cases.csv").read_text(encoding="utf-8")
    if before != data:
        old_rows, new_rows = before.splitlines(), data.splitlines()
        other = (b for a, b in zip(old_rows, new_rows, strict=False) if a != b)
        first = next(other, counted(len(new_rows) - 1, "case"))
        raise ResumeError(f"other data, first difference: {first}", file=out,
                          expected=f"the {counted(len(old_rows) - 1, 'case')} of cases.csv, unchanged",
                          remedy="start anew in another folder, with --from this run to keep its weights")
    if changed := list(_differences(run.get("description", about), about)):
        raise ResumeError(f"data described otherwise: {', '.join(changed[:5])}", file=out,
                          expected="the options and dataset.json the run began with",
                          remedy="give the same options, or start anew with --from this run")
    version = run.get("versions", {}).get("biosegkit")
    if version != metadata.version("biosegkit"):
        raise ResumeError(f"biosegkit {metadata.version('biosegkit')}", file=out, expected=f"biosegkit {version}",
                          remedy="install that version, or start anew with --from this run")


def _differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """Entries that differ, each with its path and both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _differences(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
    elif old != new:
        yield f"{where} ({old!r} then, {new!r} now)"


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
    for path in (p for p in (*case.images, case.labels, case.classes) if p):
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        found += [sha256(f)[:16] for f in files]
    return found


@contextmanager
def locked(folder: Path) -> Iterator[str]:
    """Hold a folder for this process; a second one is refused (fault F8). A dead holder's lock is taken over.

    Yields what the lock says.

    Raises
    ------
    FileError
        If another living process of this host, or any process of another host, holds it; or it cannot be written.
    """
    lock = folder / "lock"
    try:
        mine = _taken(folder, lock)
    except OSError as error:
        raise FileError(f"cannot write: {error.strerror or error}", file=folder,
                        expected="a writable folder with free space",
                        remedy=f"{way_out(error)}, or choose another folder") from error
    try:
        yield mine
    finally:
        lock.unlink(missing_ok=True)


def _taken(folder: Path, lock: Path) -> str:
    """Write the lock; what it says."""
    folder.mkdir(parents=True, exist_ok=True)
    mine = f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time():.0f}"
    for _ in range(3):
        try:
            handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            if (holder := _holder(lock)) is not None:
                raise _in_use(folder, holder) from None
            lock.unlink(missing_ok=True)
        else:
            try:
                os.write(handle, mine.encode())
            except OSError:
                lock.unlink(missing_ok=True)
                raise
            finally:
                os.close(handle)
            return mine
    raise _in_use(folder, "another process")


def _holder(lock: Path) -> str | None:
    """Who holds a lock, or None if that process is gone; its start tells it from another one with its number."""
    try:
        host, number, born = [*lock.read_text().split(" "), "", "", ""][:3]
    except FileNotFoundError:
        return None
    if host == socket.gethostname() and number.isdigit() and born.isdigit():
        try:
            alive = abs(psutil.Process(int(number)).create_time() - int(born)) < 60
        except psutil.NoSuchProcess:
            alive = False
        except psutil.AccessDenied:
            alive = True
        if not alive:
            return None
    return f"process {number or '?'} on {host or '?'}"


def _in_use(folder: Path, holder: str) -> FileError:
    return FileError(f"a folder in use by {holder}", file=folder, expected="one process per folder",
                     remedy=f"wait for it, or remove {folder / 'lock'} if it is not running")
