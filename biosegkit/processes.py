"""Commands of biosegkit in processes of their own, which outlive the one who began them and can be found again.

What a command writes goes to a folder OUT; beside it lie ``OUT.log``, what the command says, and a record of which
process it is.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil

from .errors import BiosegError, FileError

__all__ = ["Begun", "arguments", "begun", "beside", "is_running", "recorded", "said", "stop", "why_ended"]

_T = TypeVar("_T")
_TAIL = 1 << 16  # bytes of the log that are looked at
#: Children of this process that have not ended, as far as is known: they are left running when their handle goes.
_CHILDREN: list[subprocess.Popen[bytes]] = []


class Begun(NamedTuple):
    """Which process a command is.

    ``born`` is when it was created, in seconds since 1970, which tells it from another one with its number;
    ``said_before`` are the bytes of the log that are of earlier processes; ``cwd`` is the folder it runs in.
    """

    pid: int
    born: float
    said_before: int
    cwd: str
    child: subprocess.Popen[bytes]


def begun(words: Sequence[str], out: Path, cwd: str = "") -> Begun:
    """Begin ``biosegkit`` with these words, in a session of its own.

    Parameters
    ----------
    words : sequence of str
        The verb and its arguments.
    out : Path
        The folder it writes, absolute.
    cwd : str
        Where it runs; here by default.
    """
    cwd = cwd or str(Path.cwd())
    out.parent.mkdir(parents=True, exist_ok=True)
    own: dict[str, Any] = {"start_new_session": True} if os.name != "nt" else {
        "creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
    with beside(out, "log").open("ab") as log:
        before = log.tell()
        child = subprocess.Popen([sys.executable, "-m", "biosegkit", *words],  # noqa: S603 - this very program
                                 stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=cwd, **own)
    _CHILDREN[:] = [*(one for one in _CHILDREN if one.poll() is None), child]
    return Begun(child.pid, psutil.Process(child.pid).create_time(), before, cwd, child)


def recorded(folder: str | Path, ending: str, attach: Callable[[Path], _T]) -> list[_T]:
    """What was begun in a folder, the newest first, by its records ``OUT.ending``; unreadable ones are passed over."""
    found: list[_T] = []
    for path in sorted(Path(folder).glob(f"*.{ending}"), key=lambda p: -p.stat().st_mtime):
        with suppress(FileError):
            found.append(attach(path.with_name(path.name.removesuffix(f".{ending}"))))
    return found


def is_running(pid: int, born: float, child: subprocess.Popen[bytes] | None = None) -> bool:
    """Whether a process is there; ``child`` is known where it was begun here."""
    if child is not None and child.poll() is not None:
        return False
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - born) < 2 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def said(out: Path, since: int = 0) -> str:
    """The end of what a command has said after so many bytes, without empty lines at its end."""
    log = beside(out, "log")
    if not log.is_file():
        return ""
    with log.open("rb") as handle:
        handle.seek(max(since, log.stat().st_size - _TAIL))
        return handle.read().decode(errors="replace").rstrip()


def stop(pid: int, running: Callable[[], bool], patience: float, soon: float | None = None) -> bool:
    """Ask a command to stop as Ctrl-C does, and wait until it has; ask once more if it takes long.

    Parameters
    ----------
    pid : int
    running : callable
        Whether it is there still.
    patience : float
        Seconds to wait each time.
    soon : float, optional
        Seconds after which to ask once more, where what is being worked at need not end.

    Returns
    -------
    bool
        Whether it has stopped.
    """
    for number, seconds in ((signal.SIGINT, patience if soon is None else soon), (signal.SIGTERM, patience)):
        if not running():
            break
        if os.name == "nt":
            psutil.Process(pid).terminate()
        else:
            os.kill(pid, number)
        until = time.monotonic() + seconds
        while running() and time.monotonic() < until:
            time.sleep(0.05)
    return not running()


def arguments(options: Mapping[str, Any]) -> list[str]:
    """Options of the command line: True gives a flag, None and False leave it out, a list repeats it.

    Examples
    --------
    >>> arguments({"steps": 5, "race": True, "method": None, "class_weights": "1,2", "where": ["a=1", "b=2"]})
    ['--steps', '5', '--race', '--class-weights', '1,2', '--where', 'a=1', '--where', 'b=2']
    """
    words: list[str] = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        for one in value if isinstance(value, list | tuple) else [value]:
            words += [flag] if one is True else [] if one is None or one is False else [flag, str(one)]
    return words


def beside(out: Path, ending: str) -> Path:
    """A file beside a folder.

    Examples
    --------
    >>> beside(Path("a/run"), "log").as_posix()
    'a/run.log'
    """
    return out.with_name(f"{out.name}.{ending}")


def why_ended(text: str) -> str | None:
    """Why a command ended by itself, from what it said; None if it was stopped or killed."""
    blocks = re.findall(r"^error\n((?:  \w+ .*\n?)+)", text + "\n", flags=re.MULTILINE)
    if blocks:
        rows = dict(line.split(maxsplit=1) for line in blocks[-1].splitlines() if len(line.split()) > 1)
        if rows.get("found", "").startswith("stopped"):
            return None
        return str(BiosegError(rows.get("found", ""), file=rows.get("file"), expected=rows.get("expected", ""),
                               remedy=rows.get("remedy", "")))
    lines = text.splitlines()
    if lines and lines[-1] == "KeyboardInterrupt":  # stopped before it had begun
        return None
    ended = any(line.startswith(("Traceback", "Usage:", "refused")) for line in lines)
    return "\n".join(lines[-4:]) if ended else None
