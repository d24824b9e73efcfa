"""States in files, one each, of which only the arrays that are asked for are read; a record stands beside each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from ._atomic import read_json, sha256, write_bytes, write_json
from .errors import FileError
from .methods.protocol import Block, State

__all__ = ["ArrayFile", "StateFiles", "is_kept", "keep", "write_arrays", "write_state"]


class ArrayFile(Mapping[str, npt.NDArray[Any]]):
    """Arrays of a safetensors file, each read when it is asked for, and held by nobody here.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        from safetensors import safe_open

        with safe_open(self.path, framework="numpy") as file:
            if name not in file.keys():  # noqa: SIM118 - it is no mapping
                raise KeyError(name)
            array: npt.NDArray[Any] = file.get_tensor(name)
        return array

    def rows(self, name: str, low: int, high: int) -> npt.NDArray[Any]:
        """Some rows of an array; nothing else of it is read."""
        from safetensors import safe_open

        with safe_open(self.path, framework="numpy") as file:
            array: npt.NDArray[Any] = file.get_slice(name)[low:high]
        return array

    def __iter__(self) -> Iterator[str]:
        from safetensors import safe_open

        with safe_open(self.path, framework="numpy") as file:
            names = list(file.keys())
        return iter(names)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class StateFiles(Sequence[State]):
    """States in files, each opened when it is asked for.

    Parameters
    ----------
    paths : sequence of Path
    blocks : sequence of Block
        Of the states, in the same order.
    """

    def __init__(self, paths: Sequence[Path], blocks: Sequence[Block]) -> None:
        self.paths, self.blocks = paths, blocks

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> State: ...

    @overload
    def __getitem__(self, index: slice) -> StateFiles: ...

    def __getitem__(self, index: int | slice) -> State | StateFiles:
        if isinstance(index, slice):
            return StateFiles(self.paths[index], self.blocks[index])
        return State(self.blocks[index], ArrayFile(self.paths[index]))


def write_state(path: Path, state: State) -> dict[str, Any]:
    """Write a state, and say what a record needs: its block, and the SHA-256 and size of the file."""
    return {"block": asdict(state.block), **write_arrays(path, state.arrays)}


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, Any]:
    """Write arrays as safetensors, atomically; the SHA-256 and the size of the file."""
    from safetensors.numpy import save

    data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    write_bytes(path, data)
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def keep(path: Path, said: Mapping[str, Any]) -> None:
    """Write the record of a file, with ``sha256`` and ``bytes``: from now on it counts."""
    write_json(path.with_suffix(".json"), said)


def is_kept(path: Path, also: Callable[[Mapping[str, Any]], bool], *, thoroughly: bool = False) -> bool:
    """Whether a file is there as its record says.

    Parameters
    ----------
    path : Path
    also : callable
        Given the record: whether what else it names is there.
    thoroughly : bool
        Whether to read the file, too, and find damage.
    """
    try:
        said = read_json(path.with_suffix(".json"))
        if path.stat().st_size != said["bytes"] or not also(said):
            return False
        return not thoroughly or sha256(path) == said["sha256"]
    except (FileError, OSError, KeyError, TypeError, AttributeError):
        return False
