"""Batches that are begun, looked at and paged through: plain data, no Qt; done in threads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biosegkit.errors import OptionError

from .folders import free_beside, known
from .options import command_options, options_in
from .remedies import in_words
from .sizes import sizes_of

if TYPE_CHECKING:
    from biosegkit.predictions import Batch, Item, Standing

__all__ = ["Look", "absolute_model", "begun", "features_of", "free_folder", "known_batches", "layers_of", "looked",
           "step", "summary", "table_of"]


@dataclass(frozen=True)
class Look:
    """How a batch is."""

    batch: Batch
    standing: Standing


def begun(model: str, images: str, out: str, also: Sequence[str] = (), sizes: str = "",
          options: str = "") -> Batch:
    """Begin a batch, paths made absolute so that it can be found from anywhere.

    ``sizes`` is as for :func:`sizes_of`, ``options`` as for :func:`biosegkit_napari.options.options_in`.

    Raises
    ------
    BiosegError
        If something is missing, there is no image, or the folder of results holds something.
    """
    from biosegkit.predictions import start_batch

    for what, given in (("model", model), ("images", images), ("folder of results", out)):
        if not given:
            raise OptionError(f"no {what}", expected="a model, images and a new folder for results",
                              remedy=f"choose the {what}")
    return start_batch(absolute_model(model), [str(Path(images).absolute())], Path(out).absolute(),
                       {**({"also": ",".join(also)} if also else {}), **sizes_of(sizes),
                        **command_options(options_in(options))})


def absolute_model(model: str) -> str:
    """A model by a name that means the same in every folder.

    Examples
    --------
    >>> absolute_model("otsu"), absolute_model("stardist:nowhere")
    ('otsu', 'stardist:nowhere')
    """
    prefix, colon, rest = model.partition(":")
    if Path(model).exists():
        return str(Path(model).absolute())
    return f"{prefix}:{Path(rest).absolute()}" if colon and Path(rest).exists() else model


def free_folder(images: str) -> str:
    """A new folder for results beside a folder of images."""
    return free_beside(images, "results", "batch.json")


def known_batches(folders: Iterable[str | Path]) -> list[Batch]:
    """Batches of some folders that can be attached to, the newest first."""
    from biosegkit.predictions import find_batches

    return known(folders, find_batches)


def looked(batch: Batch) -> Look:
    """Look at a batch, by one at a time."""
    return Look(batch, batch.standing())


def table_of(items: Sequence[Item]) -> dict[str, Any]:
    """What is shown of the images."""
    objects = np.array([np.nan if item.objects is None else item.objects for item in items], np.float64)
    return {"image": np.array([item.name for item in items], object),
            "state": np.array([item.state for item in items], object), "objects": objects,
            "message": np.array([_short(item) for item in items], object)}


def _short(item: Item) -> str:
    """The message without folders, nor the name of the image at its beginning: they would hide what is wrong."""
    message = item.message
    for path in item.images:
        message = message.replace(f"{path.resolve()}", path.name).replace(f"{path}", path.name)
        message = message.removeprefix(f"{path.name}: ")
    return in_words(message)


def summary(standing: Standing) -> str:
    """How a batch is, in a line or two; and why images failed, if all did so for one reason."""
    counts = [f"{n} {state}" for state in ("done", "failed", "running", "waiting") if (n := standing.count(state))]
    why = {_short(item) for item in standing.items if item.state == "failed"}
    said = [in_words(standing.message)] if standing.message else []
    return "\n".join([f"{standing.name}: {', '.join(counts)}", *said, *(why if len(why) == 1 else ())])


def step(states: Sequence[str], at: int, forward: bool) -> int | None:
    """The next place, or the one before, where something is done; None if there is none.

    Examples
    --------
    >>> step(["done", "failed", "done"], 0, True), step(["done", "failed", "done"], 0, False), step(["done"], -1, True)
    (2, None, 0)
    """
    places = range(at + 1, len(states)) if forward else range(min(at, len(states)) - 1, -1, -1)
    return next((place for place in places if states[place] == "done"), None)


def layers_of(item: Item) -> list[tuple[Any, dict[str, Any], str]]:
    """The layers of an image and of what was found in it, with its table of objects.

    Raises
    ------
    BiosegError
        If a file is not there any more or damaged.
    """
    from biosegkit._atomic import read_json
    from biosegkit.records import record_path
    from biosegkit.viewing import file_layers, label_file_layer

    found = [layer for image in item.images for layer in file_layers(image, item.reading)]
    if item.output is not None:
        data, settings, kind = label_file_layer(item.output, f"{Path(item.name).name} labels")
        task = str(read_json(record_path(item.output)).get("task", "instance"))
        settings["metadata"] = {**settings.get("metadata", {}), "task": task}
        features = features_of(item)
        found.append((data, {**settings, **({"features": features} if features is not None else {})}, kind))
    return found


def features_of(item: Item) -> Any:
    """The table of objects of a result as features of a layer; None where there is none, as for classes."""
    import pandas as pd

    path = None if item.output is None else item.output.with_name(f"{Path(item.name).name}.csv")
    if path is None or not path.is_file():
        return None
    table = pd.read_csv(path)
    return table.rename(columns={"id": "index"}) if "id" in table else None
