"""A layer of labels under correction: what is edited, what is picked, and what a stroke of the brush has changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from biosegkit import corrections
from biosegkit.canvas import Canvas, Change, Stroke
from biosegkit.errors import BiosegError, DataError

from .films import Frame
from .quiet import draw_labels

__all__ = ["Session", "act", "begin", "cut", "earlier", "is_stored", "place_of", "readied", "remember", "scores_of",
           "strokes", "widened"]

#: Layers of fewer bits are widened, so that new objects find ids.
_BITS = 32


@dataclass(eq=False)
class Session:
    """The correction of one array.

    Parameters
    ----------
    canvas : Canvas
    scores : Scores
        How sure the model was of each object; empty if that is not known.
    picked : list of int
        Objects that were picked to be merged or deleted, the first one first.
    frame : Frame, optional
        The time point that is corrected, of a time series; places are those of all of it.
    """

    canvas: Canvas
    scores: corrections.Scores = field(default_factory=corrections.Scores)
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

    def painted(self, strokes: Iterable[Stroke]) -> None:
        """Take note of what was painted at this time point, as one step; windows are of the layer."""
        self.canvas.painted(strokes if self.frame is None else _at_time(strokes, self.frame))

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
        self.picked = [i for i in self.picked if i in self.canvas]
        if not self.picked:
            raise DataError("no object picked", expected="one or more",
                            remedy="click on an object, Shift+click for more")
        return list(self.picked)

    def done(self, change: Change) -> None:
        """Keep the picks sensible after a step: of a merge its first object, of a split all parts."""
        if change.operation == "merge":
            self.picked = list(change.ids[:1])
        elif change.operation in ("split", "relabel"):
            self.picked = [i for i in change.ids if i in self.canvas]
        elif change.operation == "delete":
            self.picked = []

    def next(self, order: corrections.Order, *, back: bool = False) -> int:
        """Go to the next object to look at, and pick it."""
        current = self.picked[0] if self.picked else 0
        number = corrections.next_object(self.canvas, current, order, self.scores, back=back)
        self.pick(number)
        return number


def begin(data: Any, spacing: Sequence[float], features: Any = None, journal: Path | None = None,
          time: tuple[str, int] | None = None, log: Iterable[dict[str, Any]] = ()) -> Session:
    """Make an array ready for correction: list its objects. Done in a thread.

    ``features`` are those of the layer, ``time`` has the axes of a time series, and which time point of it is
    corrected, and ``log`` what was done to it before.

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
    canvas = Canvas(data if frame is None else frame, spacing, journal=journal, log=log)
    return _ordered(Session(canvas, scores_of(features), frame=frame))


def readied(data: Any, *arguments: Any) -> Session:
    """In a thread: labels with room for new ids, and what napari needs to draw such labels."""
    draw_labels()
    return begin(widened(data) if isinstance(data, np.ndarray) else data, *arguments)


def is_stored(data: Any) -> bool:
    """Whether data are an array on disk that can be written to."""
    from biosegkit.io.edited import EditedArray

    return isinstance(data, EditedArray) or (type(data).__module__.split(".")[0] == "zarr" and hasattr(data, "chunks"))


def widened(data: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Labels in memory with room for new ids; the same array if it has that already."""
    whole = data.astype(np.uint8) if data.dtype == bool else data
    return whole if whole.dtype.itemsize * 8 >= _BITS else whole.astype(np.uint32)


def scores_of(features: Any) -> corrections.Scores:
    """How sure a model is of each object, from the features of a layer."""
    if features is None or not {"index", "score"} <= set(features):
        return corrections.Scores()
    return corrections.Scores(features["index"], features["score"])


def earlier(metadata: Mapping[str, Any], number: int | None) -> list[dict[str, Any]]:
    """What was done to a layer before, of a time series at a time point: the log of an earlier session."""
    return list(metadata.get("corrections", ()) if number is None else _logs(metadata).get(number, ()))


def remember(metadata: dict[str, Any], session: Session) -> None:
    """Let a layer know what is done to it from now on, of a time series at every time point that was corrected."""
    if session.frame is not None:
        metadata["corrections_at"] = {**_logs(metadata), session.number: session.canvas.log}
    metadata["corrections"] = session.canvas.log


def _logs(metadata: Mapping[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """Logs by time point; none for labels that are said to be uncorrected."""
    return dict(metadata.get("corrections_at", {})) if "corrections" in metadata else {}


def strokes(item: Sequence[Any]) -> Iterator[Stroke]:
    """What napari's ``paint`` event tells of one stroke: windows, the voxels painted, their values before and after.

    napari tells either (indices, before, after), or from 0.9 on a window with a mask.
    """
    for atom in item:
        if not hasattr(atom, "slice_key"):
            yield _boxed(*atom)
            continue
        window = tuple(slice(s.start or 0, s.stop) for s in atom.slice_key)
        old = np.asarray(atom.old_values)
        where = np.ones(old.shape, bool) if atom.mask is None else np.asarray(atom.mask)
        yield window, where, old.reshape(-1), atom.new_value


def _boxed(places: Sequence[Any], before: Any, after: Any) -> Stroke:
    """Voxels by their indices as a window with a mask."""
    index = np.stack([np.asarray(one).reshape(-1) for one in places])
    lows, highs = index.min(axis=1), index.max(axis=1) + 1
    inside = tuple(index - lows[:, None])
    where = np.zeros(highs - lows, bool)
    where[inside] = True
    values = np.zeros((2, *where.shape), np.asarray(before).dtype)
    values[0][inside], values[1][inside] = before, after
    return tuple(map(slice, lows.tolist(), highs.tolist())), where, values[0][where], values[1][where]


def _at_time(found: Iterable[Stroke], frame: Frame) -> Iterator[Stroke]:
    """Of what was painted that at the time point of a frame, in its own axes."""
    for window, where, before, after in found:
        key = tuple(k if isinstance(k, slice) else k - w.start
                    for k, w in zip(frame.outside([slice(None)] * frame.ndim), window, strict=True))
        if all(isinstance(k, slice) or 0 <= k < n for k, n in zip(key, where.shape, strict=True)):
            values = np.zeros((2, *where.shape), frame.dtype)
            values[0][where], values[1][where] = before, after
            here = where[key]
            yield frame.inside(window), here, values[0][key][here], values[1][key][here]


def place_of(asked: tuple[Session, int]) -> tuple[Session, tuple[float, ...]]:
    """A point of the layer inside an object, near its middle. Done in a thread, however little is read.

    Raises
    ------
    DataError
        If the object is not there any more.
    """
    session, number = asked
    place = session.canvas.place(number)
    return session, tuple(map(float, place if session.frame is None else session.frame.outside(place)))


def act(session: Session, name: str, **options: Any) -> Change:
    """Carry out an operation on what is picked. Done in a thread."""
    canvas = session.canvas
    if name in ("undo", "redo"):
        change = canvas.undo() if name == "undo" else canvas.redo()
        if change is None:
            raise BiosegError(f"nothing to {name}")
    elif name in ("merge", "delete"):
        change = getattr(corrections, name)(canvas, session.chosen())
    else:
        change = getattr(corrections, name)(canvas, session.chosen()[0], **options)
    _ordered(session)
    return change


def cut(session: Session, name: str, points: Sequence[Sequence[float]], axis: int | None = None) -> Change:
    """Split the object that is picked, or the one under the points, along a line or around points. Done in a thread."""
    under = session.along(points) if name == "line" else [n for n in map(session.at, points) if n]
    if under and (not session.picked or session.picked[0] not in under):
        session.pick(max(set(under), key=under.count))
    places = [session.inside(point) for point in points]
    return act(session, f"split_{name}", **({"line": places, "axis": axis} if name == "line" else {"points": places}))


def _ordered(session: Session) -> Session:
    """The session, with the scores of its objects looked up: Next among a million is not kept waiting for them."""
    session.scores.of(session.canvas.sizes()[0])
    return session
