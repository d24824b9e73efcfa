"""Kept states: what thresholds act on, on disk, so that other thresholds need no network.

A folder ``<output>.states`` per image holds one safetensors file per block (or plane of a stack, for a 2D model) and,
written last, ``states.json`` with what they were made from and the SHA-256 of each. States are read one at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from ._atomic import atomic_folder, read_json, sha256, write_json
from .bundle import Bundle
from .errors import FileError
from .image import Image
from .methods.protocol import Block, State
from .predictor import Prediction
from .prepared import turn_of
from .reduced import Place, Reduced
from .state_files import StateFiles, write_state

__all__ = ["KEPT", "NOT_RUN", "KeptStates"]

#: What is said where states were made, and where they were used.
KEPT, NOT_RUN = "states kept for other thresholds", "from kept states: the network was not run"

#: Version of the layout; states of another one are made again.
SCHEMA = 2
_RECORD = "states.json"


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
            return found.decode(thresholds), NOT_RUN
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(self.folder) as temporary:
            listed: list[dict[str, Any]] = []
            made = model.segmenter.states(image, tta=tta, hold=partial(_written, temporary, listed))
            window = [[w.start, w.stop] for w in made.place.window]
            write_json(temporary / _RECORD, {"made_from": identity, "window": window, "notes": list(made.notes),
                                             "states": listed})
        made = replace(made, states=_states(self.folder, listed))
        return made.decode(thresholds), f"kept states {why}: the network was run again" if why else KEPT

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
        states = _states(self.folder, record["states"])
        return Reduced(s.plan, s.method, states, place, s.thresholds, notes, s.tidy), ""


#: What the entries of an identity are called.
_NAMES = {"input": "image", "schema": "version", "biosegkit": "version", "tta": "choice of --tta",
          "reading": "way to read the image"}


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number}.safetensors"


def _states(folder: Path, listed: Sequence[Mapping[str, Any]]) -> StateFiles:
    """The states that ``states.json`` lists."""
    found = [Block(**{name: tuple(value) for name, value in entry["block"].items()}) for entry in listed]
    return StateFiles([_file(folder, k) for k in range(len(listed))], found)


def _written(folder: Path, listed: list[dict[str, Any]], states: Iterable[State]) -> Sequence[State]:
    """Write states as they come; an attempt before this one (that ran out of memory) is replaced."""
    listed.clear()
    listed.extend(write_state(_file(folder, number), state) for number, state in enumerate(states))
    return _states(folder, listed)
