"""Full searches for cyclic garbage, which stop every thread, only while nobody touches the viewer and nothing runs."""

from __future__ import annotations

import gc

from qtpy.QtCore import QObject, QTimer
from qtpy.QtGui import QCursor
from qtpy.QtWidgets import QApplication

__all__ = ["Search"]

#: Milliseconds between two looks at the pointer, and how often in a row it must be found at rest.
_EVERY, _STILL = 500, 6
#: A threshold that no count reaches.
_NEVER = 1 << 30
#: A full search is due when there are more old objects than after the last one by this factor, as in Python itself.
_GROWN = 1.25


class Search(QObject):
    """Holds full searches back from the first task on until the viewer is at rest, and then does the one that is due.

    In a process with napari and PyTorch half a million objects are looked at, for a third of a second and more, in
    whichever thread happens to make one object too many; for the viewer that is a pause. What is new is searched as
    ever, and arrays that no cycle refers to go at once as always.
    """

    def __init__(self) -> None:
        super().__init__()
        self._before: tuple[int, int, int] | None = None
        self._old = _old_objects()  # most of them imported: none of them is searched for its own sake
        self._held, self._still = 0, 0
        self._place = QCursor.pos()
        self._timer = QTimer(self)
        self._timer.setInterval(_EVERY)
        self._timer.timeout.connect(self._look)

    def hold(self) -> None:
        """No full search until `release`, and a rest after it; calls are counted."""
        self._held += 1
        if self._before is None:
            self._before = gc.get_threshold()
            gc.set_threshold(*self._before[:2], _NEVER)

    def release(self) -> None:
        """One task less; after the last, wait for a rest."""
        self._held -= 1
        if not self._held and not self._timer.isActive():
            self._still = 0
            self._timer.start()

    def imported(self) -> None:
        """What is old by now was imported, and is no reason for a search. In any thread."""
        self._old = max(self._old, _old_objects())

    def end(self) -> None:
        """Python's own rule again, at once."""
        self._timer.stop()
        if self._before is not None:
            gc.set_threshold(*self._before)
            self._before = None

    def _look(self) -> None:
        """Search when the pointer has not moved for a while, no button was pressed, and nothing was at work."""
        place, before = QCursor.pos(), self._place
        self._place = place
        touched = place != before or QApplication.mouseButtons().value
        self._still = 0 if touched or self._held else self._still + 1
        if self._still >= _STILL:
            if gc.isenabled() and _old_objects() > _GROWN * self._old:
                gc.collect()
                self._old = _old_objects()
            self.end()


def _old_objects() -> int:
    """How many objects have outlived two searches, or were made old."""
    return len(gc.get_objects(generation=2))
