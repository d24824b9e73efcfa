"""Labels that are edited in place: an array in memory or on disk, where each object is, and what can be undone."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ._words import counted
from .errors import DataError
from .extents import Window, listed, point_inside

__all__ = ["Canvas", "Change", "Part", "Stroke", "Window"]

Array = npt.NDArray[Any]
Part = tuple[Window, npt.NDArray[np.bool_], Array | int]
#: A window, which of its voxels were painted, their values before, one after the other, and after, or one for all.
Stroke = tuple[Window, npt.NDArray[np.bool_], Array | int, Array | int]


@dataclass(frozen=True)
class Change:
    """What an operation did.

    Parameters
    ----------
    operation : str
        Its name.
    ids : tuple of int
        The objects that were changed, removed or made.
    window : tuple of slice
        All that changed lies in it; empty if nothing did.
    voxels : int
        How many voxels have another value now.
    """

    operation: str
    ids: tuple[int, ...]
    window: Window
    voxels: int


@dataclass(frozen=True, eq=False)
class _Edit:
    """Voxels of one window, as bits, with their values before and after; a single value stands for all."""

    window: Window
    bits: npt.NDArray[np.uint8]
    before: Array
    after: Array

    @classmethod
    def of(cls, window: Window, mask: npt.NDArray[np.bool_], before: Array, after: Array) -> _Edit:
        return cls(window, np.packbits(mask), _short(before), _short(after))

    def mask(self) -> npt.NDArray[np.bool_]:
        shape = [w.stop - w.start for w in self.window]
        return np.unpackbits(self.bits, count=int(np.prod(shape))).astype(bool).reshape(shape)

    @property
    def nbytes(self) -> int:
        return self.bits.nbytes + self.before.nbytes + self.after.nbytes


class Canvas:
    """Labels under correction.

    Operations (:mod:`biosegkit.corrections`) read and write windows of the array, so that it may lie on disk; each can
    be undone. Sizes and places of the objects are kept, those of strokes painted by others are told with
    :meth:`painted`.

    Parameters
    ----------
    array : ndarray or zarr array of integers, (Z, Y, X) or (Y, X)
        0 is background. It is changed in place: a zarr array goes to disk at once.
    spacing : sequence of float, optional
        Distance between voxels per axis; 1 by default.
    journal : path, optional
        A file that gets one line of JSON per change: ``time``, ``operation``, ``ids``, ``voxels``, ``by``.
    by : str
        Who corrects.
    memory : int
        Bytes kept for undoing; the oldest steps go first.
    log : iterable of dict
        What was done to these labels before, as in the journal: the log begins with it.

    Raises
    ------
    DataError
        For an array of another type or number of axes.

    Examples
    --------
    >>> canvas = Canvas(np.array([[1, 1, 0, 5]]))
    >>> canvas.ids(), canvas.area(1), canvas.window(5)
    ([1, 5], 2, (slice(0, 1, None), slice(3, 4, None)))
    >>> window = canvas.window(1)
    >>> canvas.write("example", (1, 5), [(window, canvas.read(window) == 1, 5)]).voxels
    2
    >>> canvas.array.tolist(), canvas.area(5), canvas.undo().operation, canvas.array.tolist()
    ([[5, 5, 0, 5]], 3, 'undo example', [[1, 1, 0, 5]])
    """

    def __init__(self, array: Any, spacing: Sequence[float] | None = None, *, journal: str | Path | None = None,
                 by: str = "", memory: int = 1 << 28, log: Iterable[dict[str, Any]] = ()) -> None:
        if array.ndim not in (2, 3) or np.dtype(array.dtype).kind not in "ui":
            raise DataError(f"labels of type {array.dtype} with {array.ndim} axes",
                            expected="whole numbers along y, x or z, y, x",
                            remedy="choose one time point or channel, and convert the labels to integers")
        self.array, self.by, self.memory = array, by, memory
        self.spacing: tuple[float, ...] = tuple(float(s) for s in spacing or (1.0,) * array.ndim)
        self.journal = None if journal is None else Path(journal)
        self.log: list[dict[str, Any]] = list(log)
        self._done: list[tuple[Change, list[_Edit]]] = []
        self._undone: list[tuple[Change, list[_Edit]]] = []
        self._lock = threading.RLock()
        self._known = listed(array)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return tuple(self.array.shape)

    @property
    def count(self) -> int:
        """How many objects there are."""
        return len(self._known.ids)

    @property
    def touched(self) -> bool:
        """Whether there is anything to undo or redo."""
        return bool(self._done or self._undone)

    def __contains__(self, number: int) -> bool:
        return number in self._known

    def ids(self) -> list[int]:
        """The objects there are, ascending."""
        found: list[int] = self._known.ids.tolist()
        return found

    def sizes(self) -> tuple[Array, Array]:
        """The objects there are, ascending, and how many voxels each has, as arrays that nobody changes."""
        known = self._known
        return known.ids, known.voxels

    def area(self, number: int) -> int:
        """Voxels of an object."""
        self._find(number)
        return self._known.area(number)

    def window(self, number: int, margin: Sequence[int] | int = 0) -> Window:
        """The box of an object, wider by a margin as far as the array goes.

        Raises
        ------
        DataError
            If there is no such object.
        """
        self._find(number)
        inside = self.read(self._known.window(number)) == number
        if np.count_nonzero(inside) != self._known.area(number):  # painted without telling
            self._list()
            self._find(number)
            inside = self.read(self._known.window(number)) == number
        loose, box = self._known.window(number), _box(inside)
        tight = [slice(w.start + b.start, w.start + b.stop) for w, b in zip(loose, box, strict=True)]
        wider = (margin,) * len(tight) if isinstance(margin, int) else tuple(margin)
        return tuple(slice(max(w.start - m, 0), min(w.stop + m, n))
                     for w, m, n in zip(tight, wider, self.shape, strict=True))

    def place(self, number: int) -> tuple[int, ...]:
        """A voxel of an object near its middle, found without reading all of it.

        Raises
        ------
        DataError
            If there is no such object.
        """
        self._find(number)
        found = point_inside(self.array, self._known.window(number), number)
        if found is None:  # painted without telling
            self._list()
            self._find(number)
            found = point_inside(self.array, self._known.window(number), number)
        if found is None:
            raise _absent(number, self.ids())
        return found

    def read(self, window: Window) -> Array:
        """A copy of a window."""
        return np.array(self.array[window])

    def at(self, point: Sequence[float]) -> int:
        """The object at a point in voxels; 0 outside all of them and outside the array."""
        place = tuple(int(np.rint(p)) for p in point)
        if any(not 0 <= p < n for p, n in zip(place, self.shape, strict=True)):
            return 0
        return int(np.asarray(self.array[place]))

    def new_ids(self, count: int = 1) -> list[int]:
        """Ids that no object has: after the largest, or gaps where the type of the array holds no larger ones.

        Raises
        ------
        DataError
            If the type of the array holds no more ids.
        """
        top = int(np.iinfo(self.array.dtype).max)
        most = max(self._known.ids.tolist()[-1:], default=0)
        found = list(range(most + 1, min(most + count, top) + 1))
        candidate = 1
        while len(found) < count and candidate <= most:
            if candidate not in self._known:
                found.append(candidate)
            candidate += 1
        if len(found) < count:
            raise DataError(f"{counted(self.count, 'object')} in labels of type {self.array.dtype}",
                            expected="a free id", remedy="convert the labels to 32 bits")
        return found

    def write(self, operation: str, ids: Sequence[int], parts: Sequence[Part]) -> Change:
        """Replace voxels as one step that can be undone; nothing is recorded if none changes.

        Parameters
        ----------
        operation : str
            Its name in the journal.
        ids : sequence of int
            Objects concerned.
        parts : sequence of (window, where, value)
            The voxels of a window to replace, a mask of its shape, by a value or an array of that shape.
        """
        with self._lock:
            edits = []
            for window, where, value in parts:
                before = self.read(window)
                mask = where & (before != value)
                if mask.any():
                    edit = _tight(window, mask, before, np.broadcast_to(np.asarray(value, before.dtype), mask.shape))
                    self._put(edit, back=False)
                    edits.append(edit)
            return self._keep(operation, ids, edits)

    def painted(self, strokes: Iterable[Stroke], operation: str = "paint") -> Change:
        """Take note of what something else has changed already, as one step that can be undone as well.

        Parameters
        ----------
        strokes : iterable of (window, where, before, after)
            In their order: the voxels of a window, a mask of its shape, with their values before and after.
        operation : str
            Its name in the journal.
        """
        with self._lock:
            edits = []
            for window, where, *both in strokes:
                old, new = np.zeros((2, *where.shape), self.array.dtype)
                old[where], new[where] = both
                moved = where & (old != new)
                if moved.any():
                    edits.append(_tight(window, moved, old, new))
                    self._count(edits[-1], back=False)
            ids = {int(i) for edit in edits for values in (edit.before, edit.after) for i in np.unique(values) if i}
            return self._keep(operation, sorted(ids), edits)

    def undo(self) -> Change | None:
        """Take the last step back; None if there is none."""
        return self._again(self._done, self._undone, back=True)

    def redo(self) -> Change | None:
        """Repeat the step that was taken back last; None if there is none."""
        return self._again(self._undone, self._done, back=False)

    def _again(self, source: list[tuple[Change, list[_Edit]]], target: list[tuple[Change, list[_Edit]]], *,
               back: bool) -> Change | None:
        """Move a step from one stack to the other."""
        with self._lock:
            if not source:
                return None
            change, edits = source.pop()
            for edit in reversed(edits) if back else edits:
                self._put(edit, back=back)
            target.append((change, edits))
            name = f"{'undo' if back else 'redo'} {change.operation}"
            self._record(name, change)
            return Change(name, change.ids, change.window, change.voxels)

    def _put(self, edit: _Edit, *, back: bool) -> None:
        """Write the values of an edit, before or after it."""
        values = self.read(edit.window)
        values[edit.mask()] = edit.before if back else edit.after
        self.array[edit.window] = values
        self._count(edit, back=back)

    def _keep(self, operation: str, ids: Sequence[int], edits: list[_Edit]) -> Change:
        """Remember a step, forget the oldest ones that are too much."""
        if not edits:
            return Change(operation, (), (), 0)
        lows = np.min([[w.start for w in e.window] for e in edits], axis=0)
        highs = np.max([[w.stop for w in e.window] for e in edits], axis=0)
        change = Change(operation, tuple(int(i) for i in ids),
                        tuple(slice(int(a), int(b)) for a, b in zip(lows, highs, strict=True)),
                        sum(int(np.count_nonzero(e.mask())) for e in edits))
        self._done.append((change, edits))
        self._undone.clear()
        while len(self._done) > 1 and sum(e.nbytes for _, some in self._done for e in some) > self.memory:
            self._done.pop(0)
        self._record(operation, change)
        return change

    def _record(self, operation: str, change: Change) -> None:
        """One line of the journal."""
        row = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "operation": operation, "ids": list(change.ids),
               "voxels": change.voxels, "by": self.by}
        self.log.append(row)
        if self.journal is not None:
            with self.journal.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(row, ensure_ascii=False) + "\n")

    def _count(self, edit: _Edit, *, back: bool) -> None:
        """Keep sizes, and boxes that are never too small."""
        total = int(np.count_nonzero(edit.mask()))
        voxels = Counter(_tally(edit.before if back else edit.after, total))
        voxels.subtract(_tally(edit.after if back else edit.before, total))
        self._known = self._known.changed(edit.window, voxels)

    def _find(self, number: int) -> None:
        """Look again for an object that is not known: something may have painted without telling."""
        if number not in self._known:
            self._list()
        if number not in self._known:
            raise _absent(number, self.ids())

    def _list(self) -> None:
        """Look where all objects are."""
        with self._lock:
            self._known = listed(self.array)


def _tally(values: Array, total: int) -> Mapping[int, int]:
    """Voxels per object; a single value stands for all of them."""
    if values.size == 1:
        return {int(values[0]): total} if values[0] else {}
    ids, counts = np.unique(values, return_counts=True)
    return {int(i): int(n) for i, n in zip(ids, counts, strict=True) if i}


def _short(values: Array) -> Array:
    """A copy, of one element where all are equal."""
    return values[:1].copy() if (values == values[0]).all() else values.copy()


def _box(mask: npt.NDArray[np.bool_]) -> Window:
    """The smallest box of all that is true, of which there is some."""
    from scipy.ndimage import find_objects

    (box,) = find_objects(mask.view(np.uint8))
    return tuple(box)


def _tight(window: Window, mask: npt.NDArray[np.bool_], before: Array, after: Array) -> _Edit:
    """The edit of the smallest window that holds all changes."""
    box = _box(mask)
    small = tuple(slice(w.start + b.start, w.start + b.stop) for w, b in zip(window, box, strict=True))
    inner = mask[box]
    return _Edit.of(small, inner, before[box][inner], after[box][inner])


def _absent(number: int, ids: Sequence[int]) -> DataError:
    some = ", ".join(map(str, ids[:5])) + (", …" if len(ids) > 5 else "")
    return DataError(f"no object {number}", expected=f"one of the {len(ids)} there are: {some}" if ids else "an object",
                     remedy="pick an object in the viewer")
