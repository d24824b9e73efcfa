"""A layer of labels under correction: what is edited, what is picked, and what a stroke of the brush has changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from biosegkit import corrections
from biosegkit.canvas import Canvas, Change
from biosegkit.errors import BiosegError, DataError

from .films import Frame
from .quiet import draw_labels

__all__ = ["Session", "act", "begin", "is_stored", "place_of", "readied", "scores_of", "strokes", "widened"]

#: Layers of fewer bits are widened, so that new objects find ids.
_BITS = 32


@dataclass(eq=False)
class Session:
    """The correction of one array.

    Parameters
    ----------
    canvas : Canvas
    scores : dict of int to float
        How sure the model was of each object; empty if that is not known.
    picked : list of int
        Objects that were picked to be merged or deleted, the first one first.
    frame : Frame, optional
        The time point that is corrected, of a time series; places are those of all of it.
    """

    canvas: Canvas
    scores: Mapping[int, float] = field(default_factory=dict)
    picked: list[int] = field(default_factory=list)
    frame: Frame | None = None

    @property
    def data(self) -> Any:
        """The array of the layer."""
        return self.canvas.array if self.frame is None else self.frame.data

    @property
    def number(self) -> int:
        """The time point, 0 without an axis of time."""
        return 0 if self.frame is None else self.frame.number

    def inside(self, place: Sequence[Any]) -> tuple[Any, ...]:
        """A place in the layer as one on the canvas."""
        return tuple(place) if self.frame is None else self.frame.inside(place)

    def at(self, place: Sequence[float]) -> int:
        """The object at a place of the layer, 0 for none."""
        return self.canvas.at(self.inside(place))

    def along(self, points: Sequence[Sequence[float]]) -> list[int]:
        """The objects under a line through places of the layer, one entry per step of a voxel at most."""
        found = []
        for a, b in pairwise(np.asarray(points, float)):
            steps = int(np.ceil(np.abs(b - a).max())) + 1
            found += [self.at(a + (b - a) * k / steps) for k in range(steps + 1)]
        return [number for number in found if number]

    def across(self, hidden: Sequence[int]) -> int | None:
        """The axis of the canvas that is not shown, by the axes of the layer that are not; None if all are shown."""
        axes = self.inside(range(self.canvas.array.ndim if self.frame is None else len(self.frame.axes)))
        return next((k for k, axis in enumerate(axes) if axis in hidden), None)

    def painted(self, places: Sequence[Any], before: Any, after: Any) -> None:
        """Take note of voxels that were painted at this time point; places are of the layer."""
        if self.frame is not None:
            shape = np.asarray(places[0]).shape
            here = np.asarray(places[self.frame.axes.index("t")]) == self.frame.number
            before, after = (np.broadcast_to(values, shape)[here] for values in (before, after))
            places = [np.asarray(one)[here] for one in places]
        self.canvas.painted(self.inside(places), before, after)

    def pick(self, number: int, *, more: bool = False) -> None:
        """Pick an object alone, or beside others; one that is picked already is let go."""
        if not more:
            self.picked = [number] if number else []
        elif number in self.picked:
            self.picked.remove(number)
        elif number:
            self.picked.append(number)

    def chosen(self) -> list[int]:
        """The objects picked that are there still."""
        there = set(self.canvas.ids())
        self.picked = [i for i in self.picked if i in there]
        if not self.picked:
            raise DataError("no object picked", expected="one or more",
                            remedy="click on an object, Shift+click for more")
        return list(self.picked)

    def done(self, change: Change) -> None:
        """Keep the picks sensible after a step: of a merge its first object, of a split all parts."""
        if change.operation == "merge":
            self.picked = list(change.ids[:1])
        elif change.operation in ("split", "relabel"):
            self.picked = [i for i in change.ids if i in self.canvas.ids()]
        elif change.operation == "delete":
            self.picked = []

    def next(self, order: corrections.Order, *, back: bool = False) -> int:
        """Go to the next object to look at, and pick it."""
        current = self.picked[0] if self.picked else 0
        number = corrections.next_object(self.canvas, current, order, self.scores, back=back)
        self.pick(number)
        return number


def begin(data: Any, spacing: Sequence[float], scores: Mapping[int, float], journal: Path | None = None,
          time: tuple[str, int] | None = None) -> Session:
    """Make an array ready for correction: list its objects. Done in a thread.

    ``time`` has the axes of a time series, and which time point of it is corrected.

    Raises
    ------
    DataError
        If it cannot be edited in place.
    """
    if not (isinstance(data, np.ndarray) or is_stored(data)):
        several = type(data).__name__ == "MultiScaleData"
        raise DataError("labels of several resolutions, which napari does not edit" if several else
                        f"labels as {type(data).__name__}, of which napari would edit a copy in memory",
                        expected="an array in memory or a zarr array", remedy="click on Make editable first")
    frame = None if time is None else Frame(data, *time)
    return Session(Canvas(data if frame is None else frame, spacing, journal=journal), scores, frame=frame)


def readied(data: Any, *arguments: Any) -> Session:
    """In a thread: labels with room for new ids, and what napari needs to draw such labels."""
    draw_labels()
    return begin(widened(data) if isinstance(data, np.ndarray) else data, *arguments)


def is_stored(data: Any) -> bool:
    """Whether data are an array on disk that can be written to."""
    return type(data).__module__.split(".")[0] == "zarr" and hasattr(data, "chunks")


def widened(data: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Labels in memory with room for new ids; the same array if it has that already."""
    whole = data.astype(np.uint8) if data.dtype == bool else data
    return whole if whole.dtype.itemsize * 8 >= _BITS else whole.astype(np.uint32)


def scores_of(features: Any) -> dict[int, float]:
    """How sure a model is of each object, from the features of a layer."""
    if features is None or not {"index", "score"} <= set(features):
        return {}
    return {int(i): float(s) for i, s in zip(features["index"], features["score"], strict=True)}


def strokes(item: Sequence[Any]) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """What napari's ``paint`` event tells, as indices of voxels, their values before, and their value after.

    napari tells either (indices, before, after), or from 0.9 on a window with a mask.
    """
    for atom in item:
        if not hasattr(atom, "slice_key"):
            yield atom
            continue
        starts = [s.start or 0 for s in atom.slice_key]
        old = np.asarray(atom.old_values)
        where = np.ones(old.shape, bool) if atom.mask is None else np.asarray(atom.mask)
        places = tuple(axis + start for axis, start in zip(np.nonzero(where), starts, strict=True))
        yield places, old.reshape(-1), atom.new_value


def place_of(session: Session, number: int) -> tuple[float, ...]:
    """A point inside an object, near its middle."""
    canvas = session.canvas
    window = canvas.window(number)
    inside = np.argwhere(canvas.read(window) == number)
    nearest = inside[np.argmin(((inside - inside.mean(axis=0)) ** 2).sum(axis=1))]
    place = tuple(float(p + w.start) for p, w in zip(nearest, window, strict=True))
    return place if session.frame is None else tuple(float(p) for p in session.frame.outside(place))


def act(session: Session, name: str, **options: Any) -> Change:
    """Carry out an operation on what is picked. Done in a thread."""
    canvas = session.canvas
    if name in ("undo", "redo"):
        change = canvas.undo() if name == "undo" else canvas.redo()
        if change is None:
            raise BiosegError(f"nothing to {name}")
        return change
    chosen = session.chosen()
    if name in ("merge", "delete"):
        return getattr(corrections, name)(canvas, chosen)
    return getattr(corrections, name)(canvas, chosen[0], **options)
