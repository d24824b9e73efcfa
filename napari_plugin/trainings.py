"""Images that are added to a data set, and trainings that are begun, looked at and judged: plain data, no Qt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biosegkit._words import counted
from biosegkit.errors import BiosegError, DataError, OptionError

from . import remedies
from .edits import earlier
from .folders import free_beside, known
from .layers import image_of, labels_of, look_at, part_under
from .points import Points

if TYPE_CHECKING:
    from biosegkit.curate import Added
    from biosegkit.runs import Handle, State

__all__ = ["Addition", "Look", "added", "begun", "brought", "can_be_judged", "free_folder", "known_runs", "looked",
           "name_of", "options_of", "recorded_task", "started_from"]


@dataclass(frozen=True, eq=False)
class Addition:
    """What is to be added to a data set: plain data and snapshots of layers, for a thread.

    Parameters
    ----------
    dataset, name : str
        The folder, and the name of the case in it.
    images : tuple of snapshots
        One with all channels, or one per channel.
    labels : snapshot
    task : {"instance", "semantic"}
    frame : int
        Time point, of the image and of labels that are a time series as well.
    overwrite : bool
        Replace the case of that name.
    """

    dataset: str
    name: str
    images: tuple[Any, ...]
    labels: Any
    task: str
    frame: int = 0
    overwrite: bool = False


@dataclass(frozen=True)
class Look:
    """How a training is, and what is new of its curve.

    Parameters
    ----------
    handle : Handle
    state : State
    points : Points
        Of the steps that have come since the last look.
    said : str
        Its scores, and what it has brought, once it is finished.
    judged : bool
        Whether it is known what it has brought.
    """

    handle: Handle
    state: State
    points: Points
    said: str = ""
    judged: bool = False


def added(wish: Addition) -> Added:
    """Write image and labels of layers as a case with where they come from; of labels of a part, that of the image.

    Done in a thread.

    Raises
    ------
    BiosegError
        If they do not fit each other or the data set.
    """
    from biosegkit.curate import add_case

    if not wish.dataset:
        raise OptionError("no folder of a data set", expected="a new folder, or one with images/ and labels/",
                          remedy="choose one")
    level, window = part_under(wish.labels, wish.images[0]) if wish.images else (0, None)
    image = image_of(wish.images, frame=wish.frame, level=level, window=window)
    many, kept = look_at(wish.labels).frames > 1, dict(wish.labels.metadata)
    labels = labels_of(wish.labels, wish.task, frame=wish.frame if many else 0)
    if many and not labels.count and kept.get("frame", wish.frame) != wish.frame:
        raise DataError(f"no labels at time point {wish.frame}", file=wish.labels.name, expected="those that were made",
                        remedy=f"go to time point {kept['frame']}, which was segmented")
    sources = [str(dict(layer.metadata.get("biosegkit", {})).get("source", "")) or layer.name for layer in wish.images]
    origin = {"image": [Path(source).name for source in sources], "labels": wish.labels.name, "task": wish.task,
              "model": str(kept.get("model", ""))}
    return add_case(wish.dataset, wish.name, image, labels, origin=origin,
                    corrections=earlier(kept, wish.frame if many else None), overwrite=wish.overwrite)


def name_of(layer: Any) -> str:
    """What the image of a layer may be called in a data set."""
    from biosegkit.io.sniff import case_name

    return case_name(str(layer.name))


def options_of(budget: str, model: str, task: str) -> dict[str, Any]:
    """Options of ``biosegkit train``.

    Raises
    ------
    OptionError
        For a time that is none.

    Examples
    --------
    >>> options_of("15m", "", "instance")
    {'budget': '15m', 'task': 'instance'}
    """
    from biosegkit.plan.units import parse_duration

    parse_duration(budget)
    return {"budget": budget, "task": task, **({"from": model} if model else {})}


def recorded_task(dataset: str) -> str:
    """Whether the labels that were added to a data set are objects or classes; empty where that is not known."""
    from biosegkit.curate import provenance

    try:
        tasks = {str(entry.get("task", "")) for entry in provenance(dataset).values()} if dataset else set()
    except BiosegError:  # told when an image is added
        return ""
    return tasks.pop() if len(tasks) == 1 else ""


def free_folder(dataset: str) -> str:
    """A new folder for a run beside a data set."""
    return free_beside(dataset, "run", "process.json")


def begun(dataset: str, out: str, options: dict[str, Any]) -> Handle:
    """Begin a training, paths made absolute so that it can be found from anywhere.

    Raises
    ------
    BiosegError
        If the data set is not there, or the folder of the run holds something.
    """
    from biosegkit.runs import start_training

    if not out or not dataset or not Path(dataset).exists():
        raise OptionError(f"the data set {dataset!r}" if out else "no folder for the run",
                          expected="a data set, and a new folder for the run", remedy="choose them")
    start = options.get("from")
    return start_training(str(Path(dataset).absolute()), Path(out).absolute(), {
        **options, **({"from": str(Path(start).absolute())} if start else {})})


def known_runs(folders: Iterable[str | Path]) -> list[Handle]:
    """Trainings of some folders that can be attached to, the newest first."""
    from biosegkit.runs import find_runs

    return known(folders, find_runs)


def looked(handle: Handle) -> Look:
    """Look at a training. Done in a thread, by one at a time."""
    points, state = Points.of(handle.metrics()), handle.state()
    if state.name != "finished":
        return Look(handle, state, points)
    from biosegkit._atomic import read_json
    from biosegkit.improvement import told
    from biosegkit.scores.files import read_scores

    record = handle.out / "improvement.json"
    try:
        if record.is_file():
            found = read_json(record)
            return Look(handle, state, points, "\n".join([told(found), *found["notes"]]), judged=True)
        scores = read_scores(handle.out / "scores.json")
    except (BiosegError, KeyError) as error:
        return Look(handle, state, points, remedies.told(error), judged=True)
    name, value = next(iter(scores["headline"].items()))
    return Look(handle, state, points, f"{name} {value:.3f} on {counted(len(scores['cases']), 'held-back image')}",
                judged=not started_from(handle))


def started_from(handle: Handle) -> str:
    """The model that a training began with; empty if with none."""
    return str(handle.options.get("from") or handle.options.get("origin") or "")


def can_be_judged(handle: Handle) -> bool:
    """Whether the model before and the data set are where they were."""
    where, start = Path(handle.cwd), started_from(handle)
    return bool(start) and (where / start).exists() and (where / handle.dataset).exists()


def brought(handle: Handle) -> dict[str, Any]:
    """Score the model before on the images that the new one has not seen. Done in a thread.

    Raises
    ------
    BiosegError
        If the model before or the data set are not there any more.
    """
    from biosegkit.cases import scan
    from biosegkit.improvement import improvement
    from biosegkit.progress import tick

    where = Path(handle.cwd)
    return improvement(handle.out, where / started_from(handle), scan(where / handle.dataset),
                       progress=lambda _, done, total: tick(done, total, "images"))
