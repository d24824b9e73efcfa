"""The other side of `biosegkit.batch_processes`: a process that makes batches, and the memory that it shares.

A process reads a line of JSON that says what to make batches of, then lines with a step each, and answers where in
shared memory the batch of that step lies. It ends when no one can ask any more, so that none outlives its parent.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .errors import BiosegError
from .patches import Batch, Sample, make_batch
from .plan.schema import Plan
from .segmenter import method_of

__all__ = ["Memory", "array_at", "copy_samples", "places_of", "work"]

Array = npt.NDArray[Any]

#: Arrays begin at multiples of so many bytes.
_ALIGNED = 64


def work() -> None:
    """What a process does: read its job, then a step at a time, and answer where the batch lies, until no one asks."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    torch.set_num_threads(1)
    first = sys.stdin.buffer.readline()
    if not first:
        return
    job = json.loads(first)
    plan = Plan.model_validate_json(job["plan"])
    room = Memory(job["shared"]).room(job["size"], mmap.ACCESS_COPY)
    samples = [_sample(place, room) for place in job["samples"]]
    make, memory = partial(make_batch, samples, plan, method_of(plan)), Memory(job["memory"])
    with suppress(BrokenPipeError):
        for line in sys.stdin.buffer:
            try:
                said = _written(make(int(line)), memory)
            except (ArithmeticError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError,
                    BiosegError) as error:
                said = {"failed": str(error)}
            answers.write(json.dumps(said).encode() + b"\n")
            answers.flush()


def _sample(place: Mapping[str, Any], room: mmap.mmap) -> Sample:
    """A sample whose arrays lie where they were put."""
    arrays = {name: array_at(where, room) for name, where in place["arrays"].items()}
    foreground = {int(k.split("-")[1]): v for k, v in arrays.items() if k.startswith("foreground-")}
    return Sample(place["case"], arrays["image"], arrays["labels"], arrays.get("valid"), foreground,
                  arrays.get("annotated"), arrays.get("classes"))


def _written(batch: Batch, memory: Memory) -> dict[str, Any]:
    """Copy a batch to shared memory and say where its tensors are."""
    places: dict[str, Any] = {}
    arrays, end = [], 0
    for name, tensors in (("image", {"": batch.image}), ("targets", batch.targets), ("weights", batch.weights)):
        places[name] = {}
        for key, tensor in tensors.items():
            array = tensor.numpy()
            places[name][key] = place = {"dtype": array.dtype.str, "shape": array.shape, "at": end}
            arrays.append((place, array))
            end += _padded(array.nbytes)
    room = memory.room(end)
    for place, array in arrays:
        array_at(place, room)[...] = array
    return {**places, "size": len(room), "cases": batch.cases}


class Memory:
    """Memory that several processes map; it is gone when the last of them is, however that ends."""

    def __init__(self, handle: int | str | None = None) -> None:
        self.handle = _new_handle() if handle is None else handle
        self._map: mmap.mmap | None = None

    def room(self, size: int, access: int = mmap.ACCESS_DEFAULT) -> mmap.mmap:
        """So many bytes at least, as every other process sees them that asks for the same size."""
        if self._map is None or len(self._map) < size:
            if sys.platform == "win32":
                self._map = mmap.mmap(-1, size, f"{self.handle}-{size}", access)
            else:
                handle = int(self.handle)
                if os.fstat(handle).st_size < size:
                    os.ftruncate(handle, size)
                self._map = mmap.mmap(handle, size, access=access)
        return self._map

    def close(self) -> None:
        """Give it back; what was mapped stays until nothing looks at it."""
        if isinstance(self.handle, int):
            os.close(self.handle)
        self._map = None


def _new_handle() -> int | str:
    """A file without a name, in memory where the system has such files; on Windows a name."""
    if sys.platform == "win32":
        return f"biosegkit-{uuid.uuid4().hex}"
    if hasattr(os, "memfd_create"):
        return os.memfd_create("biosegkit")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _arrays(sample: Sample) -> dict[str, Array]:
    """The arrays of a sample by name."""
    named = {"image": sample.image, "labels": sample.labels, "valid": sample.valid, "annotated": sample.annotated,
             "classes": sample.classes}
    named |= {f"foreground-{k}": v for k, v in sample.foreground.items()}
    return {k: v for k, v in named.items() if v is not None}


def copy_samples(samples: Sequence[Sample], places: Sequence[Mapping[str, Any]], room: mmap.mmap) -> None:
    """Copy the arrays of samples that are not mapped from files to their places in shared memory."""
    for sample, place in zip(samples, places, strict=True):
        for name, array in _arrays(sample).items():
            if "file" not in place["arrays"][name]:
                array_at(place["arrays"][name], room)[...] = array


def places_of(samples: Sequence[Sample]) -> tuple[list[dict[str, Any]], int]:
    """Where the arrays of each sample are found, and the bytes of those that lie in shared memory."""
    found, end = [], 0
    for sample in samples:
        arrays = {}
        for name, array in _arrays(sample).items():
            arrays[name] = place = _place(array, end)
            end += 0 if "file" in place else _padded(array.nbytes)
        found.append({"case": sample.case, "arrays": arrays})
    return found, end


def _place(array: Array, at: int) -> dict[str, Any]:
    """Where an array is found: in the file it is mapped from, else in shared memory from ``at`` on."""
    about: dict[str, Any] = {"dtype": array.dtype.str, "shape": array.shape}
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    if isinstance(root, np.memmap) and root.filename is not None and root.mode in ("r", "r+"):
        offset = root.offset + array.ctypes.data - root.ctypes.data
        return about | {"file": str(Path(root.filename).absolute()), "at": offset, "strides": array.strides}
    return about | {"at": at}


def _padded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def array_at(place: Mapping[str, Any], room: Any) -> Array:
    """The array at a place of shared memory, or in its file, mapped."""
    if "file" in place:
        room = np.memmap(place["file"], np.uint8, "r")
    return np.ndarray(tuple(place["shape"]), place["dtype"], room, place["at"], place.get("strides"))
