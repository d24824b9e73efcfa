"""Training states as safetensors and JSON, never pickle: two are kept, each verified when it is read (faults P1, S1).

A state is two files, ``step-000000012345.safetensors`` and ``step-000000012345.json``. The JSON is written last and
holds the SHA-256 of the tensors and of itself, so a state exists only when whole.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._atomic import read_json, sha256, write_bytes, write_json
from .errors import FileError, ResumeError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["flatten", "load_latest", "load_tensors", "refuse_foreign", "save", "save_tensors", "unflatten",
           "weights_hash"]

#: Version of the layout of a training state.
SCHEMA = 1
#: How many states stay on disk.
KEPT = 2
#: Endings of formats that can run code when they are read.
FOREIGN = (".pth", ".pt", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib", ".h5", ".keras", ".npz")

_NAME = re.compile(r"step-(\d{12})\.json")


def refuse_foreign(path: str | Path) -> None:
    """Refuse files whose format can execute code or hides its content (faults S1, S2); nothing of them is read.

    Raises
    ------
    FileError
        For the endings in :data:`FOREIGN`.

    Examples
    --------
    >>> refuse_foreign("weights-0.safetensors")
    >>> refuse_foreign("model.pth")
    Traceback (most recent call last):
    biosegkit.errors.FileError: model.pth: found a .pth file, which can run code when it is opened; expected ...
    """
    suffix = Path(path).suffix.lower()
    if suffix in FOREIGN:
        raise FileError(
            f"a {suffix} file, which can run code when it is opened", file=path,
            expected="a biosegkit bundle or a .safetensors file",
            remedy="save its tensors with safetensors.torch.save_file where it was made, then use that file",
        )


def flatten(tree: Any, prefix: str = "") -> tuple[dict[str, Tensor], Any]:
    """Take a tree of dicts, lists, tuples, numbers and tensors apart into flat tensors and plain JSON.

    Keys of any integer or string type, tuples and non-finite floats survive the way through JSON exactly, so that
    ``unflatten(*reversed(flatten(optimizer.state_dict())))`` is the same state bit for bit.

    Parameters
    ----------
    tree : nested dict, list, tuple, int, float, str, bool, None or Tensor
        For instance ``torch.optim.Optimizer.state_dict()``.
    prefix : str
        Put before each tensor's name.

    Returns
    -------
    tensors : dict of str to Tensor
    skeleton : JSON value

    Examples
    --------
    >>> import torch
    >>> tensors, skeleton = flatten({"state": {0: {"step": torch.tensor(2.0)}}, "betas": (0.9, 0.999)}, "opt")
    >>> list(tensors), unflatten(skeleton, tensors)
    (['opt/state/0/step'], {'state': {0: {'step': tensor(2.)}}, 'betas': (0.9, 0.999)})
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _split(tree, prefix, tensors)


def _split(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        tensors[path] = value.detach()
        return {"$": "tensor", "name": path}
    if isinstance(value, Mapping):
        items = [[key, _split(child, f"{path}/{key}" if path else str(key), tensors)] for key, child in value.items()]
        return {"$": "dict", "items": items}
    if isinstance(value, list | tuple):
        items = [_split(child, f"{path}/{i}" if path else str(i), tensors) for i, child in enumerate(value)]
        return {"$": type(value).__name__ if isinstance(value, list) else "tuple", "items": items}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$": "float", "value": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ResumeError(f"a {type(value).__name__} at {path or 'the root'} of a training state",
                      expected="dicts, lists, tuples, numbers, text and tensors")


def unflatten(skeleton: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of :func:`flatten`.

    Raises
    ------
    ResumeError
        If the skeleton names a tensor that is not there, or is no skeleton.
    """
    if not isinstance(skeleton, dict):
        return skeleton
    kind = skeleton.get("$")
    if kind == "tensor" and skeleton["name"] in tensors:
        return tensors[skeleton["name"]]
    if kind == "dict":
        return {key: unflatten(child, tensors) for key, child in skeleton["items"]}
    if kind in ("list", "tuple"):
        children = [unflatten(child, tensors) for child in skeleton["items"]]
        return children if kind == "list" else tuple(children)
    if kind == "float":
        return float(skeleton["value"])
    raise ResumeError(f"no {skeleton.get('name', kind)} among the tensors of a training state",
                      remedy="continue from an earlier state or train anew")


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names.

    Examples
    --------
    >>> import torch
    >>> a, b = torch.zeros(2), torch.ones(3)
    >>> weights_hash({"a": a, "b": b}) == weights_hash({"b": b, "a": a})
    True
    """
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as one safetensors file, atomically; those that share memory are written apart."""
    from safetensors.torch import save as to_bytes

    seen: set[int] = set()
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != plain.nbytes:
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        whole[name] = plain
    write_bytes(path, to_bytes(whole))  # save_file would leave a temporary of its own when killed


def load_tensors(path: str | Path, *, digest: str | None = None) -> dict[str, Tensor]:
    """Read a safetensors file, and refuse it if it is damaged or its SHA-256 is not ``digest``.

    Raises
    ------
    FileError
        If the file is missing, cut, of another format, or has another hash.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    refuse_foreign(path)
    try:
        data = Path(path).read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if digest is not None and found != digest:
            raise FileError(f"SHA-256 {found[:12]}…", file=path, expected=f"{digest[:12]}…",
                            remedy="the file is damaged: restore it from a copy")
        return dict(load(data))
    except (OSError, SafetensorError) as error:
        raise FileError(f"no readable tensors ({error})", file=path,
                        remedy="the file is damaged: restore it from a copy") from error


def save(folder: str | Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write a training state; older ones than the last two are removed.

    Parameters
    ----------
    folder : path
        The ``checkpoints`` folder of one fold. One process writes it.
    step : int
        Steps done; the newest state is the one with the largest.
    tensors : dict of str to Tensor
        Weights, averages, optimiser tensors and random states, under names of the caller's choice.
    state : dict
        Everything else, JSON values with finite numbers (a skeleton of :func:`flatten` is one).

    Returns
    -------
    Path
        The JSON file, whose existence makes the state valid.

    Examples
    --------
    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = save(folder, 10, {"net/w": torch.ones(2)}, {"seed": 1})
    ...     tensors, state, notes = load_latest(folder)
    >>> tensors["net/w"].tolist(), state, notes
    ([1.0, 1.0], {'seed': 1}, ())
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*.partial.*"):
        leftover.unlink(missing_ok=True)
    stem = folder / f"step-{step:012d}"
    target, weights = stem.with_suffix(".json"), stem.with_suffix(".safetensors")
    target.unlink(missing_ok=True)
    save_tensors(weights, tensors)
    body = {"schema_version": SCHEMA, "step": step, "tensors": sha256(weights), "state": dict(state)}
    write_json(target, {**body, "checksum": _checksum(body)})
    for older in _steps(folder)[KEPT:]:
        (folder / f"step-{older:012d}.json").unlink(missing_ok=True)
        (folder / f"step-{older:012d}.safetensors").unlink(missing_ok=True)
    return target


def load_latest(folder: str | Path) -> tuple[dict[str, Tensor], dict[str, Any], tuple[str, ...]]:
    """Read the newest whole training state; a damaged one is passed over with a note.

    Returns
    -------
    tensors : dict of str to Tensor
    state : dict
        As given to :func:`save`.
    notes : tuple of str
        What was passed over, to be recorded.

    Raises
    ------
    ResumeError
        If no state can be read.
    """
    folder = Path(folder)
    notes: list[str] = []
    for step in _steps(folder):
        try:
            tensors, state = _read(folder / f"step-{step:012d}.json")
        except FileError as error:
            notes.append(f"the state of step {step} is damaged and was passed over: {error}")
        else:
            return tensors, state, tuple(notes)
    raise ResumeError(f"no training state that can be read{': ' if notes else ''}{'; '.join(notes)}", file=folder,
                      expected="step-*.json with step-*.safetensors", remedy="train anew with --overwrite")


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    body = read_json(path)
    checksum = body.pop("checksum", None) if isinstance(body, dict) else None
    if checksum is None or checksum != _checksum(body):
        raise FileError("a checksum that differs", file=path)
    if body["schema_version"] > SCHEMA:
        raise ResumeError(f"a training state made by schema {body['schema_version']}", file=path,
                          expected=f"schema ≤ {SCHEMA}", remedy="update biosegkit")
    return load_tensors(path.with_suffix(".safetensors"), digest=body["tensors"]), body["state"]


def _checksum(body: Mapping[str, Any]) -> str:
    """Hash of the JSON as it will be read again (so the value must survive JSON unchanged)."""
    try:
        text = json.dumps(body, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ResumeError(f"a training state that is no JSON: {error}", remedy="pass it through flatten()") from error
    return hashlib.sha256(text.encode()).hexdigest()


def _steps(folder: Path) -> list[int]:
    """Steps with a JSON file, newest first."""
    if not folder.is_dir():
        return []
    return sorted((int(m[1]) for p in folder.iterdir() if (m := _NAME.fullmatch(p.name))), reverse=True)
