"""What an output is made from and what became of it: wishes, outcomes, hashes, and the list of failures."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ._atomic import read_json, sha256, write_bytes
from .errors import FileError
from .exports import are_whole, export_paths, refused_in
from .inputs import Job
from .io import ReadOptions
from .io.formats import remote_url
from .predictor import Predictor

__all__ = ["Outcome", "Wish", "csv_table", "file_hash", "is_made_from", "kept_outcome",
           "origin_of", "record_path", "remove", "shown", "table_path", "write_failures"]


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Parameters
    ----------
    input, output : str
        Files.
    state : {"done", "kept", "failed"}
        ``kept`` was there already and made from the same input, model and options.
    error : str, optional
        Why it failed; or which of the files that were asked for cannot be, where all others are there.
    seconds : float
        Reading, network, decoding and writing.
    objects : int, optional
        Objects found; None for classes and failures.
    notes : tuple of str
        What was repaired or is unusual, also in the record; and whether kept states were used.
    origin : dict
        Hashes of input, model and options, where it came that far; see :func:`origin_of`.
    trace : str
        Where in the code it failed, for the ledger of a batch.
    """

    input: str
    output: str
    state: str
    error: str | None = None
    seconds: float = 0.0
    objects: int | None = None
    notes: tuple[str, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)
    trace: str = ""


@dataclass(frozen=True)
class Wish:
    """Options that change the result, and what is written beside it; see :func:`biosegkit.predict_files`.

    ``also`` are keys of :data:`biosegkit.outputs.OUTPUTS`; ``tissue`` is for giant images: ``auto``, ``off`` or a mask.
    """

    tta: bool = False
    thresholds: Mapping[str, float] = field(default_factory=dict)
    save_maps: bool = False
    reading: ReadOptions = field(default_factory=ReadOptions)
    also: tuple[str, ...] = ()
    tissue: str = "auto"

    def for_case(self, said: Mapping[str, Any]) -> Wish:
        """With what a data set says about reading a case, where the caller says nothing."""
        return replace(self, reading=self.reading.filled(said))

    @property
    def data(self) -> dict[str, Any]:
        """As plain data (memory limits change no result)."""
        reading = {k: v for k, v in asdict(self.reading).items() if k != "memory_budget"}
        return {"tta": self.tta, "thresholds": dict(self.thresholds), "save_maps": self.save_maps, "reading": reading,
                **({"also": list(self.also)} if self.also else {}),
                **({} if self.tissue == "auto" else {"tissue": "off" if self.tissue == "off" else "mask"})}


def origin_of(model: Predictor, job: Job, wish: Wish) -> dict[str, Any]:
    """Hashes of input, model and options: an output with the same is the same."""
    digest = getattr(model, "digest", None)
    options = json.dumps(wish.data, sort_keys=True, default=str)
    return {
        "input": {path.name: _input_hash(path) for path in job.images},
        "model": None if digest is None else str(digest),
        "options": hashlib.sha256(options.encode()).hexdigest(),
    }


def file_hash(path: Path) -> str:
    """SHA-256 of a file, or over names and hashes of a folder's files."""
    if not path.is_dir():
        return sha256(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()} {sha256(file)}\n".encode())
    return digest.hexdigest()


def _input_hash(path: Path) -> str:
    """That of a file, taken once for all its time points; of a store behind a URL what can be told without reading it.

    See :meth:`biosegkit.io.remote.Remote.fingerprint`.
    """
    url = remote_url(path)
    if url is not None:
        from .io.remote import Remote  # loads what network protocols need

        return Remote(url).fingerprint()
    if not path.is_file():
        return file_hash(path)
    found = path.stat()
    return _hash_of(path, found.st_mtime_ns, found.st_size, found.st_ino)


@lru_cache(maxsize=64)
def _hash_of(path: Path, changed: int, size: int, number: int) -> str:
    return file_hash(path)


def shown(job: Job) -> str:
    """What an input is called in outcomes."""
    first = remote_url(job.images[0]) or str(job.images[0])
    return first + (" …" if len(job.images) > 1 else "") + (f" ({job.position})" if job.position else "")


def record_path(output: Path) -> Path:
    """Where the record of an output stands."""
    return output.with_name(output.name + ".json")


def table_path(output: Path, name: str) -> Path:
    """Where the table of objects of an output stands."""
    return output.with_name(Path(name).name + ".csv")


def is_made_from(job: Job, origin: Mapping[str, Any], also: Sequence[str] = ()) -> bool:
    """Whether an output is there, whole, and made from the same; a model without a digest cannot tell."""
    output = job.output
    if origin["model"] is None or not output.exists() or not record_path(output).exists():
        return False
    try:
        record = read_json(record_path(output))
        return bool(isinstance(record, dict) and record.get("made_from") == dict(origin)
                    and record.get("output") == file_hash(output) and are_whole(job, also, record)
                    and all(path.exists() for path in _maps(output)))
    except (FileError, OSError):
        return False


def kept_outcome(given: str, output: Path, state: str = "kept", **more: Any) -> Outcome:
    """The outcome of an output that is there with its record; a failure again if a file was refused.

    Raises
    ------
    FileError
        If there is no record.
    """
    record = read_json(record_path(output))
    error, count = refused_in(record), record.get("objects")
    return Outcome(given, str(output), "failed" if error else state, error,
                   objects=int(count) if isinstance(count, int) else None, **more)


def remove(job: Job) -> None:
    """Nothing from an earlier run may be taken for the new result (fault F10)."""
    maps = _maps(job.output)
    for path in (record_path(job.output), *maps, table_path(job.output, job.name), *export_paths(job), job.output):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _maps(output: Path) -> list[Path]:
    """Where the maps stand that the record of an output names."""
    try:
        record = read_json(record_path(output))
    except FileError:
        return []
    names = record.get("maps") if isinstance(record, dict) else None
    return [output.with_name(name) for name in names or () if isinstance(name, str) and Path(name).name == name]


def csv_table(columns: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Columns of equal length as CSV."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(np.asarray(c).tolist() for c in columns.values()), strict=True))
    return text.getvalue().encode()


def write_failures(out: Path, outcomes: Sequence[Outcome]) -> None:
    """``failures.csv``, or none if nothing failed."""
    failed, path = [o for o in outcomes if o.error], out / "failures.csv"
    if not failed:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["input", "output", "error"])
    writer.writerows([o.input, o.output, o.error] for o in failed)
    write_bytes(path, text.getvalue().encode())
