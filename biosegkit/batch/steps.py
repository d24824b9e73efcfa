"""How far the work at a giant image is, for whoever looks from another process: from files that are there."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from biosegkit._atomic import read_json, write_json
from biosegkit.errors import FileError

__all__ = ["PIECES", "Done", "steps_done", "work_folder", "write_steps"]

_FILE = "steps.json"
#: What is counted while labels are written.
PIECES = "pieces of the labels"


class Done(NamedTuple):
    """How many are done, of how many, and what they are, in a word or two."""

    done: int
    total: int
    what: str


def work_folder(output: str | Path) -> Path:
    """Where work is kept until an output is whole, unless a job says otherwise.

    Examples
    --------
    >>> work_folder("out/a.ome.zarr").as_posix()
    'out/.a.ome.zarr.work'
    """
    return Path(output).with_name(f".{Path(output).name}.work")


def write_steps(folder: Path, states: int, boxes: int) -> None:
    """Write down how many states will be made, and how many boxes of the labels painted."""
    write_json(folder / _FILE, {"states": states, "boxes": boxes})


def steps_done(folder: Path) -> Done | None:
    """What is done of an image; None where nothing is planned yet, or not any more.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     write_steps(Path(name), 12, 4)
    ...     (Path(name) / "states").mkdir()
    ...     _ = (Path(name) / "states" / "0.json").write_text("{}")
    ...     tuple(steps_done(Path(name)))
    (1, 12, 'blocks')
    """
    try:
        planned = read_json(folder / _FILE)
    except FileError:
        return None
    if (folder / "painted").is_dir():
        return Done(_count(folder / "painted", "*.*"), int(planned["boxes"]), PIECES)
    return Done(_count(folder / "states", "*.json"), int(planned["states"]), "blocks")


def _count(folder: Path, pattern: str) -> int:
    try:
        return sum(1 for _ in folder.glob(pattern))
    except FileNotFoundError:  # it was whole just now, and its work is gone
        return 0
