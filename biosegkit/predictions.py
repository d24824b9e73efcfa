"""Batches in a process of their own: begin one, look at the state of every image, stop it, go on, page through results.

What predicts is the command line's ``predict``. How far it is, is read from what it leaves in OUT: results with their
records, ``failures.csv``, and the ledger where there are workers. So any process can look, at any time.
"""

from __future__ import annotations

import csv
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ._atomic import read_json, write_json
from .batch.ledger import FILE
from .batch.steps import Done, steps_done, work_folder
from .description import Description
from .errors import BiosegError, FileError, OptionError
from .exports import refused_in
from .inputs import Job, find_jobs
from .io import ReadOptions
from .models import find_models
from .processes import arguments, begun, beside, is_running, recorded, said, stop, why_ended
from .records import record_path, shown

__all__ = ["Batch", "Item", "Standing", "attach_batch", "find_batches", "resume_batch", "start_batch"]

#: Endings of results: that of the image's own kind first, then OME-Zarr, which giant images get.
_ZARR = ".ome.zarr"
_KEPT = ("model", "inputs", "options", "pid", "born", "said_before", "cwd")


@dataclass(frozen=True)
class Item:
    """An image of a batch.

    Parameters
    ----------
    name : str
        Its path in the results, without ending.
    images : tuple of Path
        One file, or one per channel.
    state : {"waiting", "running", "done", "failed"}
    output : Path, optional
        Its labels, if they are there.
    objects : int, optional
        Found in it; None for classes.
    message : str
        Why it failed, or what is unusual.
    reading : ReadOptions
        How it is read: what the batch was told of its files, and which image of a file with several it is.
    """

    name: str
    images: tuple[Path, ...]
    state: Literal["waiting", "running", "done", "failed"]
    output: Path | None = None
    objects: int | None = None
    message: str = ""
    reading: ReadOptions = field(default_factory=ReadOptions)


@dataclass(frozen=True)
class Standing:
    """How a batch is: ``running``, ``finished``, ``stopped`` or ``failed`` (before it began), and each of its images.

    A batch is finished when nothing waits, also where images failed.
    """

    name: Literal["running", "finished", "stopped", "failed"]
    items: list[Item]
    message: str = ""

    def count(self, state: str) -> int:
        """Images in a state."""
        return sum(item.state == state for item in self.items)


@dataclass(eq=False)
class Batch:
    """A batch that runs, or ran, in another process.

    Parameters
    ----------
    out : Path
        Folder of the results.
    model : str
        MODEL, as on the command line.
    inputs : list of str
        Files, folders, globs or tables.
    options : dict
        Those of ``biosegkit predict``, by their names.
    pid, born, said_before, cwd
        Of the process, see :class:`biosegkit.processes.Begun`.
    """

    out: Path
    model: str
    inputs: list[str]
    options: dict[str, Any]
    pid: int
    born: float
    said_before: int
    cwd: str
    _child: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _jobs: list[Job] | None = field(default=None, repr=False)
    _seen: dict[Path, tuple[int, int | None, str]] = field(default_factory=dict, repr=False)

    def running(self) -> bool:
        """Whether the process is there."""
        return is_running(self.pid, self.born, self._child)

    def standing(self) -> Standing:
        """How it is, as far as files say.

        Raises
        ------
        BiosegError
            If its images are not there any more.
        """
        running = self.running()
        items = self._items(running)
        text = said(self.out, self.said_before)
        if running:
            return Standing("running", items, text.rpartition("\n")[2].strip())
        if items and all(item.state in ("done", "failed") for item in items):
            return Standing("finished", items)
        why = why_ended(text)
        return Standing("stopped" if why is None else "failed", items, why or "it can be resumed")

    def blocks(self) -> Done | None:
        """How far the image in blocks is that is at work; None if there is none, or it is not planned yet."""
        for job in self._found():
            found = steps_done(work_folder(_giant_output(job)))
            if found is not None:
                return found
        return None

    def halt(self, patience: float = 60.0, soon: float | None = None) -> Standing:
        """Ask it to stop as Ctrl-C does, and wait until it has.

        Parameters
        ----------
        patience : float
            Seconds to wait, twice at most.
        soon : float, optional
            Seconds after which what is being worked at need not end: a block of a giant image takes minutes.

        Raises
        ------
        BiosegError
            If it is running still.
        """
        if not stop(self.pid, self.running, patience, soon):
            raise BiosegError(f"process {self.pid} still running after {2 * patience:.0f} s", file=self.out,
                              expected="a batch that stops after an image", remedy="wait, or end the process")
        return self.standing()

    def _items(self, running: bool) -> list[Item]:
        """Every image in the order of the batch; without workers the first one that waits is at work."""
        failures, busy = _failures(self.out), _busy(self.out) if running else None
        items = [self._item(job, failures) for job in self._found()]
        waiting = [item.name for item in items if item.state == "waiting"]
        at_work = dict.fromkeys(waiting[:1], "") if busy is None else busy
        return [item if item.state != "waiting" or not running or item.name not in at_work else
                replace(item, state="running", message=at_work[item.name]) for item in items]

    def _item(self, job: Job, failures: Mapping[str, str]) -> Item:
        """An image, from what is on disk."""
        item = Item(job.name, job.images, "waiting", reading=_reading(self.options).filled(job.reading))
        for output in (job.output, _giant_output(job)):
            record = record_path(output)
            if record.is_file() and output.exists():
                stamp = record.stat().st_mtime_ns
                if self._seen.get(output, (0, None, ""))[0] != stamp:
                    self._seen[output] = (stamp, *_told(record))
                _, objects, notes = self._seen[output]
                return replace(item, state="done", output=output, objects=objects, message=notes)
        why = failures.get(shown(job), failures.get(_relative(job, self.cwd)))
        return item if why is None else replace(item, state="failed", message=why)

    def _found(self) -> list[Job]:
        """What there is to predict; looked for once."""
        if self._jobs is None:
            home = Path(self.cwd)
            models = find_models(home / self.model) if (home / self.model).exists() else []
            channels = int(models[0]["channels"]) or 1 if models else 1
            self._jobs = find_jobs([str(home / one) for one in self.inputs], self.out, channels,
                                   reading=_reading(self.options))
        return self._jobs


def start_batch(model: str, inputs: list[str], out: str | Path, options: Mapping[str, Any] | None = None) -> Batch:
    """Begin ``biosegkit predict`` in a process of its own, which goes on when this one ends.

    Parameters
    ----------
    model : str
        MODEL, as on the command line.
    inputs : list of str
        Files, folders, globs or tables.
    out : path
        Folder of the results, new or empty.
    options : mapping, optional
        Options by name, for example ``{"also": "csv,geojson", "tta": True}``.

    Raises
    ------
    FileError
        If the folder holds something, or an input is not there.
    DataError
        If there is no image, or an option says of the files what cannot be.

    Examples
    --------
    >>> start_batch("run", ["slides/"], "out").standing().name  # doctest: +SKIP
    'running'
    """
    place = Path(out)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise FileError("an output that exists", file=place, expected="a new folder",
                        remedy="choose another, or resume the batch that is there")
    find_jobs(list(inputs), place, reading=_reading(options or {}))
    return _started(model, list(inputs), place.absolute(), dict(options or {}))


def attach_batch(out: str | Path) -> Batch:
    """The batch of a folder of results that was begun with :func:`start_batch`, by whatever process.

    Raises
    ------
    FileError
        If none was.
    """
    place = Path(out).absolute()
    path = beside(place, "batch.json")
    if not path.is_file():
        raise FileError("no record of a batch", file=place, expected=f"{path.name} beside it",
                        remedy="choose the folder of results of a batch that was started here")
    found = read_json(path)
    try:
        return Batch(place, str(found["model"]), [str(one) for one in found["inputs"]], dict(found["options"]),
                     int(found["pid"]), float(found["born"]), int(found["said_before"]), str(found["cwd"]))
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"an unreadable record ({error!r})", file=path,
                        remedy="resume the batch on the command line") from error


def resume_batch(out: str | Path) -> Batch:
    """Go on with a batch that was stopped, and try again what failed; results that are there are kept.

    Raises
    ------
    OptionError
        If it is running.
    FileError
        If none was begun.
    """
    before = attach_batch(out)
    if before.running():
        raise OptionError("a batch that is running", file=before.out, expected="one that was stopped",
                          remedy="wait for it, or stop it first")
    return _started(before.model, before.inputs, before.out, before.options, before.cwd, again=True)


def find_batches(folder: str | Path) -> list[Batch]:
    """Batches whose results are in a folder, the newest first.

    Records that cannot be read are passed over; :func:`attach_batch` says what is wrong with them.
    """
    return recorded(folder, "batch.json", attach_batch)


def _started(model: str, inputs: list[str], out: Path, options: dict[str, Any], cwd: str = "", *,
             again: bool = False) -> Batch:
    """Start the process and write down which one it is."""
    words = ["predict", model, *inputs, "-o", str(out), *arguments(options), *(["--resume"] if again else [])]
    pid, born, before, cwd, child = begun(words, out, cwd)
    batch = Batch(out, model, inputs, options, pid, born, before, cwd, child)
    write_json(beside(out, "batch.json"), {"schema_version": 1, **{name: getattr(batch, name) for name in _KEPT}})
    return batch


def _giant_output(job: Job) -> Path:
    """Its labels where it is segmented in blocks."""
    return job.output.with_name(Path(job.name).name + _ZARR)


def _reading(options: Mapping[str, Any]) -> ReadOptions:
    """What options of ``biosegkit predict`` say of the files."""
    about = Description.from_data({name: options[name] for name in ("axes", "spacing", "unit", "pixel_size")
                                   if options.get(name) is not None})
    return about.read_options()


def _failures(out: Path) -> dict[str, str]:
    """Why images failed, by their input."""
    path = out / "failures.csv"
    try:
        rows = list(csv.DictReader(path.read_text("utf-8").splitlines(keepends=True)))
    except FileNotFoundError:
        return {}
    return {row["input"]: row["error"] for row in rows}


def _busy(out: Path) -> dict[str, str] | None:
    """Names of images that workers are at, and how far they are, from the ledger; None if no worker is."""
    path = out / FILE
    if not path.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            if not database.execute("SELECT 1 FROM runs WHERE state = 'running'").fetchone():
                return None
            rows = database.execute("SELECT output FROM images WHERE state = 'running'").fetchall()
            blocks = dict(database.execute("SELECT output, count(*) FROM blocks GROUP BY output").fetchall())
    except sqlite3.Error:  # it is being written
        return None
    return {name: f"{blocks[output]} blocks done" if output in blocks else ""
            for (output,) in rows for name in _without_ending(output)}


def _without_ending(output: str) -> Iterator[str]:
    """Names that a result may have without its ending."""
    for end in (_ZARR, ".nii.gz", ".tif"):
        if output.endswith(end):
            yield output.removesuffix(end)


def _told(record: Path) -> tuple[int | None, str]:
    """Objects and notes of a record; first which files that were asked for cannot be."""
    try:
        found = read_json(record)
    except (BiosegError, OSError):  # it is being replaced
        return None, ""
    count = found.get("objects")
    said = [text for text in (refused_in(found), *map(str, found.get("notes", ()))) if text]
    return (count if isinstance(count, int) else None), "; ".join(said)


def _relative(job: Job, cwd: str) -> str:
    """What an input is called by a process that was given it relative to its folder."""
    first = job.images[0]
    name = str(first.relative_to(cwd)) if first.is_relative_to(cwd) else str(first)
    return name if len(job.images) == 1 else f"{name} …"
