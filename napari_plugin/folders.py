"""Folders of processes that go on without napari: new ones beside what they work on, and those that are there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

__all__ = ["free_beside", "known"]


def free_beside(place: str, word: str, record: str) -> str:
    """A new folder beside a folder, of which no record is there either.

    Examples
    --------
    >>> Path(free_beside("data/plate 7", "results", "batch.json")).as_posix(), free_beside("", "run", "process.json")
    ('data/plate 7_results', '')
    """
    if not place:
        return ""
    names = (f"{Path(place).name}_{word}{n}" for n in ["", *range(2, 1000)])
    return str(next(path for path in map(Path(place).with_name, names) if not path.exists()
                    and not path.with_name(f"{path.name}.{record}").exists()))


def known(folders: Iterable[str | Path], search: Callable[[Path], list[Any]]) -> list[Any]:
    """Processes of some folders that can be attached to, the newest first."""
    found: dict[Path, Any] = {}
    for folder in folders:
        if Path(folder).is_dir():
            found |= {one.out: one for one in search(Path(folder).absolute())}
    return sorted(found.values(), key=lambda one: -one.born)
