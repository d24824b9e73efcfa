"""Trainings in a process of their own: begin one, look at it, stop it, take it up again, from any other process.

What is trained is the command line's ``train``. Beside the RUN folder lie ``RUN.log``, what the command says, and
``RUN.process.json``, which process it is; so a training outlives the one who began it, and can be found again.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from ._atomic import read_json, write_json
from ._options import Planning
from .errors import BiosegError, FileError, OptionError
from .plan.units import parse_duration
from .processes import arguments, begun, beside, is_running, recorded, said, stop, why_ended
from .time_needed import enough_in

__all__ = ["Handle", "State", "attach", "find_runs", "resume", "start_training"]

#: What :func:`biosegkit.run_folder.refuse_no_run` takes for a run.
_BEGUN = ("run.json", "plan.json", "cases.csv")
_KEPT = ("dataset", "options", "pid", "born", "said_before", "cwd")


@dataclass(frozen=True)
class State:
    """How a training is.

    Parameters
    ----------
    name : {"running", "finished", "stopped", "failed"}
        ``stopped`` can be resumed; ``failed`` ended by itself before it was done.
    message : str
        What it says: the stage it is at, or why it ended.
    enough : str
        The budget that would have done, of a training that was refused for too small a one; else empty.
    """

    name: Literal["running", "finished", "stopped", "failed"]
    message: str = ""
    enough: str = ""


@dataclass(eq=False)
class Handle:
    """A training that runs, or ran, in another process.

    Parameters
    ----------
    out : Path
        The RUN folder.
    dataset : str
        What is trained on.
    options : dict
        Those of ``biosegkit train``, by their names.
    pid : int
        Its process.
    born : float
        When that process was created, in seconds since 1970; tells it from another one with its number.
    said_before : int
        Bytes of the log that are of earlier processes.
    cwd : str
        The folder it runs in, for relative paths.
    """

    out: Path
    dataset: str
    options: dict[str, Any]
    pid: int
    born: float
    said_before: int
    cwd: str
    _child: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _read: dict[str, int] = field(default_factory=dict, repr=False)

    @property
    def log(self) -> Path:
        """What the command says."""
        return beside(self.out, "log")

    def running(self) -> bool:
        """Whether the process is there."""
        return is_running(self.pid, self.born, self._child)

    def state(self) -> State:
        """Running, finished, stopped or failed, and what the command said last."""
        text = said(self.out, self.said_before)
        if self.running():
            return State("running", text.rpartition("\n")[2])
        if (self.out / "run.json").is_file() and read_json(self.out / "run.json").get("finished"):
            return State("finished", str(self.out))
        why = why_ended(said(self.out, self.said_before))
        return State("stopped" if why is None else "failed", why or "it can be resumed", enough_in(why or ""))

    def metrics(self) -> list[dict[str, Any]]:
        """Rows of ``metrics.jsonl`` that have come since the last call, of all folds, each with its ``fold``.

        A run that was resumed may tell some steps again.
        """
        rows: list[dict[str, Any]] = []
        for path in sorted(self.out.glob("fold-*/metrics.jsonl")):
            fold = path.parent.name.removeprefix("fold-")
            start = self._read.get(fold, 0)
            if path.stat().st_size < start:
                start = 0
            with path.open("rb") as handle:
                handle.seek(start)
                text = handle.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._read[fold] = start + len(whole)
            rows += [{"fold": fold, **json.loads(line)} for line in whole.decode().splitlines() if line]
        return rows

    def rewind(self) -> None:
        """Let :meth:`metrics` begin anew."""
        self._read.clear()

    def stop(self, patience: float = 60.0) -> State:
        """Ask the training to stop as Ctrl-C does, and wait until it has; ask once more if it takes long.

        Parameters
        ----------
        patience : float
            Seconds to wait each time.

        Raises
        ------
        BiosegError
            If it is running still.
        """
        if not stop(self.pid, self.running, patience):
            raise BiosegError(f"process {self.pid} still running after {2 * patience:.0f} s", file=self.out,
                              expected="a training that stops between two steps", remedy="wait, or end the process")
        return self.state()


def start_training(dataset: str | Path, out: str | Path, options: Mapping[str, Any] | None = None) -> Handle:
    """Begin ``biosegkit train`` in a process of its own, which goes on when this one ends.

    Parameters
    ----------
    dataset : path or str
        Whatever the command takes.
    out : path
        The RUN folder, new or empty.
    options : mapping, optional
        Options by name: ``{"budget": "15m", "from": "old_run", "where": ["split=train"]}``. True gives a flag,
        None and False leave it out, a list repeats it.

    Raises
    ------
    FileError
        If the folder holds something.

    Examples
    --------
    >>> start_training("cells/", "run", {"budget": "15m"}).state().name  # doctest: +SKIP
    'running'
    """
    place = Path(out)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise FileError("an output that exists", file=place, expected="a new folder",
                        remedy="choose another name, or resume the run that is there")
    return _started(str(dataset), place, dict(options or {}))


def _started(dataset: str, out: Path, options: dict[str, Any], cwd: str = "", left_out: Container[str] = (), *,
             again: bool = False) -> Handle:
    """Start the process and write down which one it is."""
    given = {k: v for k, v in options.items() if k.replace("-", "_") not in left_out}
    pid, born, before, cwd, child = begun(
        ["train", dataset, "-o", str(out.absolute()), *arguments(given), *(["--resume"] if again else [])],
        out.absolute(), cwd)
    handle = Handle(out.absolute(), dataset, options, pid, born, before, cwd, child)
    record = {name: getattr(handle, name) for name in _KEPT}
    write_json(beside(handle.out, "process.json"), {"schema_version": 1, **record})
    return handle


def attach(out: str | Path) -> Handle:
    """The training of a RUN folder that was begun with :func:`start_training`, by whatever process.

    Raises
    ------
    FileError
        If none was.
    """
    place = Path(out)
    path = beside(place, "process.json")
    if not path.is_file():
        raise FileError("no record of a training", file=place, expected=f"{path.name} beside it",
                        remedy="start the training here, or follow it where it was started")
    found = read_json(path)
    try:
        return Handle(place.absolute(), str(found["dataset"]), dict(found["options"]), int(found["pid"]),
                      float(found["born"]), int(found["said_before"]), str(found["cwd"]))
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"an unreadable record ({error!r})", file=path,
                        remedy="resume the run on the command line") from error


def resume(out: str | Path, budget: str | None = None) -> Handle:
    """Take up a training that was stopped or failed, with the options it was begun with.

    Parameters
    ----------
    out : path
        The RUN folder.
    budget : str, optional
        More time, for a training that was refused for too little: nothing was trained, it begins anew.

    Raises
    ------
    OptionError
        If it is running, or done; or for another budget of one that had enough.
    FileError
        If none was begun.
    """
    before = attach(out)
    state = before.state()
    if state.name in ("running", "finished"):
        raise OptionError(f"a training that is {state.name}", file=before.out, expected="one that was stopped",
                          remedy="wait for it, or start another in a new folder")
    planned = any((before.out / name).exists() for name in _BEGUN)
    if budget is not None:
        if not state.enough or not parse_duration(budget):
            raise OptionError(f"a budget of {budget}", file=before.out, expected="the time that it was begun with",
                              remedy="leave the budget out, or start another in a new folder")
        more = {**before.options, "budget": budget, **({"overwrite": True} if planned else {})}
        return _started(before.dataset, before.out, more, before.cwd)
    left_out = {f.name for f in fields(Planning)} | {"plan", "overwrite"} if planned else ()
    return _started(before.dataset, before.out, before.options, before.cwd, left_out, again=planned)


def find_runs(folder: str | Path) -> list[Handle]:
    """Trainings in a folder that were begun with :func:`start_training`, the newest first.

    Records that cannot be read are passed over; :func:`attach` says what is wrong with them.
    """
    return recorded(folder, "process.json", attach)
