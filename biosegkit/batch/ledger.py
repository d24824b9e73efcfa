"""The ledger of a batch: one SQLite file in the output folder that says what became of every image, and why.

Only the process that holds the folder writes it. What decides whether an output is kept are the records beside the
outputs; the ledger is for people and for questions over many images. A damaged one is put aside and costs only history.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from biosegkit.errors import FileError, PlanError
from biosegkit.records import Outcome

__all__ = ["FILE", "SCHEMA", "Ledger", "open_ledger"]

#: Version of the tables; a ledger of a newer one is refused.
SCHEMA = 1
#: Its name in the output folder.
FILE = "ledger.sqlite"
#: Seconds between two times that the states of blocks are written.
_FLUSH = 2.0
_TABLES = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY, started TEXT, ended TEXT, state TEXT, version TEXT, model TEXT, model_hash TEXT,
    options TEXT, options_hash TEXT, workers TEXT);
CREATE TABLE images (
    output TEXT PRIMARY KEY, input TEXT, run INTEGER, state TEXT, input_hash TEXT, model_hash TEXT, options_hash TEXT,
    seconds REAL, objects INTEGER, error TEXT, traceback TEXT, notes TEXT, changed TEXT);
CREATE TABLE blocks (
    output TEXT, stage TEXT, number INTEGER, run INTEGER, state TEXT, seconds REAL, worker TEXT,
    PRIMARY KEY (output, stage, number));
"""


@contextmanager
def open_ledger(folder: Path, *, anew: bool = False) -> Iterator[Ledger]:
    """The ledger of an output folder, made if there is none.

    Parameters
    ----------
    folder : Path
        Of the outputs; held by this process (:func:`biosegkit.run_folder.locked`).
    anew : bool
        Begin an empty one.

    Raises
    ------
    FileError
        If it cannot be written.
    PlanError
        If a newer version wrote it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, open_ledger(Path(folder)) as ledger:
    ...     ledger.begin({"model": "otsu"}, [("a.png", "a.tif")])
    ...     ledger.finish(Outcome("a.png", "a.tif", "done", objects=3), "a.tif")
    ...     ledger.end("done")
    ...     ledger.rows("SELECT input, state, objects FROM images")
    [('a.png', 'done', 3)]
    """
    path = folder / FILE
    if anew or not _is_sound(path):
        if path.is_file() and not anew:
            path.replace(path.with_name(f"damaged-{FILE}"))
        for old in (path, path.with_name(f"{FILE}-journal")):
            old.unlink(missing_ok=True)
    ledger = Ledger(path)
    try:
        yield ledger
    finally:
        ledger.close()


def _is_sound(path: Path) -> bool:
    """Whether there is a ledger that SQLite finds whole; a newer one is refused."""
    if not path.is_file():
        return False
    try:
        with closing(sqlite3.connect(path)) as found:
            version = int(found.execute("PRAGMA user_version").fetchone()[0])
            sound = found.execute("PRAGMA quick_check").fetchone()[0] == "ok"
    except sqlite3.DatabaseError:
        return False
    if version > SCHEMA:
        raise PlanError(f"a ledger of schema {version}", file=path, expected=f"this reads ≤ {SCHEMA}",
                        remedy="update biosegkit, or choose another output folder")
    return sound and version == SCHEMA


class Ledger:
    """What is known of the images of a folder; see :func:`open_ledger`.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.path, self.run, self._flushed = path, 0, 0.0
        with self._writing():
            self._database = sqlite3.connect(path)
            self._database.execute("PRAGMA synchronous = NORMAL")
            if not self._database.execute("PRAGMA user_version").fetchone()[0]:
                self._database.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")

    def begin(self, about: Mapping[str, Any], images: Sequence[tuple[str, str]]) -> None:
        """A run begins: what it is made with, and its images as pairs of input and output, all waiting."""
        columns = ("version", "model", "model_hash", "options", "options_hash", "workers")
        values = [about.get(name) for name in columns]
        values = [v if v is None or isinstance(v, str) else json.dumps(v, default=str) for v in values]
        with self._writing(), self._database as database:
            database.execute("UPDATE runs SET state = 'broken off' WHERE ended IS NULL")
            database.execute("DELETE FROM blocks")
            self.run = int(database.execute(
                f"INSERT INTO runs (started, state, {', '.join(columns)}) VALUES (?, 'running', ?, ?, ?, ?, ?, ?)",  # noqa: S608
                [_now(), *values]).lastrowid or 0)
            database.executemany(
                "INSERT OR REPLACE INTO images (output, input, run, state, changed) VALUES (?, ?, ?, 'waiting', ?)",
                [(output, given, self.run, _now()) for given, output in images])

    def start(self, output: str) -> None:
        """An image is being worked at."""
        with self._writing(), self._database as database:
            database.execute("UPDATE images SET state = 'running', changed = ? WHERE output = ?", [_now(), output])

    def finish(self, outcome: Outcome, output: str) -> None:
        """What became of an image."""
        origin = outcome.origin
        inputs = origin.get("input")
        with self._writing(), self._database as database:
            database.execute(
                "UPDATE images SET state = ?, input_hash = ?, model_hash = ?, options_hash = ?, seconds = ?, "
                "objects = ?, error = ?, traceback = ?, notes = ?, changed = ? WHERE output = ?",
                [outcome.state, None if inputs is None else json.dumps(inputs), origin.get("model"),
                 origin.get("options"), outcome.seconds, outcome.objects, outcome.error, outcome.trace or None,
                 "\n".join(outcome.notes), _now(), output])

    def block(self, output: str, stage: str, number: int, *, state: str, seconds: float, worker: str) -> None:
        """What became of a block; written every few seconds, since nothing depends on it."""
        with self._writing():
            self._database.execute("INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?)",
                                   [output, stage, number, self.run, state, seconds, worker])
            if time.monotonic() - self._flushed > _FLUSH:
                self._database.commit()
                self._flushed = time.monotonic()

    def end(self, state: str) -> None:
        """The run is over: ``done``, ``failed`` (some images) or ``stopped``; images begun and not ended wait again."""
        with self._writing(), self._database as database:
            database.execute("UPDATE images SET state = 'waiting' WHERE run = ? AND state = 'running'", [self.run])
            database.execute("UPDATE runs SET state = ?, ended = ? WHERE id = ?", [state, _now(), self.run])

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Answer to a question in SQL."""
        return self._database.execute(query, values).fetchall()

    def close(self) -> None:
        """Let the file go."""
        self._database.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """What SQLite says of the disk, as an error that says what to do (fault F7)."""
        try:
            yield
        except sqlite3.Error as error:
            raise FileError(f"cannot write: {error}", file=self.path, expected="a writable folder with free space",
                            remedy="free space, then --resume: results that are there are whole") from error


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
