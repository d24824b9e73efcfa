"""Kept states: what thresholds act on, on disk, so that other thresholds need no network.

A folder ``<output>.states`` per image holds one safetensors file per block (or plane of a stack, for a 2D model) and,
written last, ``states.json`` with what they were made from and the SHA-256 of each. States are read one at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, overload

import numpy as np

from ._atomic import atomic_folder, read_json, sha256, write_bytes, write_json
from .bundle import Bundle
from .errors import FileError
from .image import Image
from .methods.protocol import Block, State
from .predictor import Prediction
from .prepared import turn_of
from .reduced import Place, Reduced

__all__ = ["KeptStates", "StateFiles"]

#: Version of the layout; states of another one are made again.
SCHEMA = 1
_RECORD = "states.json"


class StateFiles(Sequence[State]):
    """States in a folder, each read when it is asked for.

    Parameters
    ----------
    folder : Path
    listed : sequence of dict
        What ``states.json`` says of each.
    """

    def __init__(self, folder: Path, listed: Sequence[Mapping[str, Any]]) -> None:
        self.folder, self.listed = folder, listed

    def __len__(self) -> int:
        return len(self.listed)

    @overload
    def __getitem__(self, index: int) -> State: ...

    @overload
    def __getitem__(self, index: slice) -> list[State]: ...

    def __getitem__(self, index: int | slice) -> State | list[State]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        from safetensors.numpy import load

        index = range(len(self))[index]
        block = Block(**{name: tuple(value) for name, value in self.listed[index]["block"].items()})
        return State(block, load(_file(self.folder, index).read_bytes()))


@dataclass(frozen=True)
class KeptStates:
    """The states of one image: used where they fit, else made and kept.

    Parameters
    ----------
    folder : Path
        Of this image alone.
    made_from : dict
        Hashes of the image, and what else changes the network's answer beside the model.
    """

    folder: Path
    made_from: Mapping[str, Any]

    def predict(self, model: Bundle, image: Image, *, tta: bool = False,
                thresholds: Mapping[str, float] | None = None) -> tuple[Prediction, str]:
        """The prediction, and how it came about in a sentence.

        It is the one of ``model.predict(image, tta=tta, thresholds=thresholds)``.
        """
        said = {"schema": SCHEMA, "biosegkit": metadata.version("biosegkit"), "model": model.weights_digest,
                "tta": tta, **self.made_from}
        identity = json.loads(json.dumps(said, default=str))  # as it will be read again
        found, why = self._opened(model, image, identity)
        if found is not None:
            return found.decode(thresholds), "from kept states: the network was not run"
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(self.folder) as temporary:
            listed: list[dict[str, Any]] = []
            made = model.segmenter.states(image, tta=tta, hold=partial(_written, temporary, listed))
            window = [[w.start, w.stop] for w in made.place.window]
            write_json(temporary / _RECORD, {"made_from": identity, "window": window, "notes": list(made.notes),
                                             "states": listed})
        made = replace(made, states=StateFiles(self.folder, listed))
        return made.decode(thresholds), (f"kept states {why}: the network was run again" if why
                                         else "states kept for other thresholds")

    def _opened(self, model: Bundle, image: Image, identity: Mapping[str, Any]) -> tuple[Reduced | None, str]:
        """The states that are there, or why they do not serve; nothing to say if there are none."""
        if not self.folder.is_dir():
            return None, ""
        try:
            record = read_json(self.folder / _RECORD)
            if record["made_from"] != identity:
                unlike = [name for name, value in identity.items() if record["made_from"].get(name) != value]
                return None, f"are of another {' and '.join(_NAMES.get(name, name) for name in unlike)}"
            damaged = any(sha256(_file(self.folder, k)) != s["sha256"] for k, s in enumerate(record["states"]))
            window = tuple(slice(int(start), int(stop)) for start, stop in record["window"])
            notes = tuple(str(note) for note in record["notes"])
        except (FileError, OSError, KeyError, TypeError, ValueError, AttributeError):
            return None, "are damaged"
        if damaged:
            return None, "are damaged"
        s = model.segmenter
        place = Place(image.grid, turn_of(image.grid, s.plan), window, image.source)
        states = StateFiles(self.folder, record["states"])
        return Reduced(s.plan, s.method, states, place, s.thresholds, notes, s.tidy), ""


#: What the entries of an identity are called.
_NAMES = {"input": "image", "schema": "version", "biosegkit": "version", "tta": "choice of --tta",
          "reading": "way to read the image"}


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number}.safetensors"


def _written(folder: Path, listed: list[dict[str, Any]], states: Iterable[State]) -> Sequence[State]:
    """Write states as they come; an attempt before this one (that ran out of memory) is replaced."""
    from safetensors.numpy import save

    listed.clear()
    for number, state in enumerate(states):
        data = save({name: np.ascontiguousarray(array) for name, array in state.arrays.items()})
        write_bytes(_file(folder, number), data)
        listed.append({"block": asdict(state.block), "sha256": hashlib.sha256(data).hexdigest()})
    return StateFiles(folder, listed)
