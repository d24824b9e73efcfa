"""The one door for weights that torch pickled: tensors by name and nothing else (faults S1, S2).

The project's own weights are safetensors. Models of others come as state dicts in torch's own format, a pickle;
``weights_only`` admits tensors and plain containers, and what comes out is checked once more. There is no second try
without it. Nobody else calls ``torch.load``: ruff forbids it.
"""

from __future__ import annotations

import pickle  # noqa: TID251 - for the name of its error, nothing is unpickled here
from pathlib import Path

import torch
from torch import Tensor

from biosegkit.errors import FileError

__all__ = ["read_state"]

_LARGEST = 8 << 30


def read_state(path: Path, expected: str) -> dict[str, Tensor]:
    """Tensors of a state dict by name, on the CPU; ``module.`` of parallel training is taken off the names.

    Parameters
    ----------
    path : Path
        A regular file. It is mapped, not read, where its format allows it.
    expected : str
        What it should be, for errors.

    Raises
    ------
    FileError
        If it is no such file, or holds anything but tensors.
    """
    if not path.is_file():
        raise FileError("no file" if path.exists() else "nothing there", file=path, expected=expected,
                        remedy="correct the path")
    size = path.stat().st_size
    if size > _LARGEST:
        raise FileError(f"a file of {size} bytes", file=path, expected=f"at most {_LARGEST}")
    try:
        state = _loaded(path)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        first = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise FileError(f"no state dict that can be read safely ({first})", file=path, expected=expected,
                        remedy="give the file of weights as it was published; other contents are never run") from error
    if not isinstance(state, dict) or not state or not all(
            isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise FileError("something else than tensors by name", file=path, expected=expected,
                        remedy="give the state dict alone")
    return {k.removeprefix("module."): v for k, v in state.items()}


def _loaded(path: Path) -> object:
    """Mapped where the file is a zip (torch 1.6 and later), read where it is older."""
    with path.open("rb") as handle:
        zipped = handle.read(4) == b"PK\x03\x04"
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)  # noqa: TID251
