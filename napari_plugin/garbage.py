"""Searches for cyclic garbage in the viewer's thread alone; full ones while nobody touches it and nothing runs."""

from __future__ import annotations

import gc

from qtpy.QtCore import QObject, QTimer
from qtpy.QtGui import QCursor
from qtpy.QtWidgets import QApplication

from . import quiet

__all__ = ["Search"]

#: Milliseconds between two looks at the pointer, and how often in a row it must be found at rest.
_EVERY, _STILL = 500, 6
#: Milliseconds between two searches through what is new, where there is enough of it.
_NEW = 50


class Search(QObject):
    """Takes Python's searches over from the first task on until the viewer is at rest.

    Python searches in whichever thread happens to make one object too many. A thread that works for the viewer must
    not: what it finds may be a widget, or what a canvas drew with. Even to walk through objects of Qt is not safe
    there, for PyQt looks up its table of connections without the lock that the viewer's thread changes it under; that
    has ended the process. So what is new is searched here, by a timer of the viewer's thread and by Python's own
    thresholds; arrays that no cycle refers to go at once as always.

    A full search looks at half a million objects in a process with napari and PyTorch, for a third of a second and
    more; for the viewer that is a pause. It is due when so many younger ones were done since the last that Python would
    begin it, and is done when the viewer is at rest. Objects are not counted: a list of all of them, if only for a
    moment, lets a tuple that another thread is making look like one that somebody else has, which Python forbids.
    """

    def __init__(self) -> None:
        super().__init__()
        self._taken = False
        self._held, self._still = 0, 0
        self._place = QCursor.pos()
        self._timer, self._new = QTimer(self), QTimer(self)
        self._timer.setInterval(_EVERY)
        self._timer.timeout.connect(self._look)
        self._new.setInterval(_NEW)
        self._new.timeout.connect(self.search_new)

    def hold(self) -> None:
        """No full search until `release`, and a rest after it; calls are counted. In the viewer's thread."""
        self._held += 1
        if not self._taken:
            self._taken = True
            quiet.stop_collecting()
            self._new.start()

    def release(self) -> None:
        """One task less; after the last, wait for a rest."""
        self._held -= 1
        if not self._held and not self._timer.isActive():
            self._still = 0
            self._timer.start()

    def end(self) -> None:
        """Python's own rule again, at once."""
        self._timer.stop()
        self._new.stop()
        if self._taken:
            self._taken = False
            quiet.collect_again()

    def search_new(self) -> None:
        """Search what is new, as Python would have; not while something is imported, nor where nobody wants it."""
        (new, young, _), (most_new, most_young, _) = gc.get_count(), quiet.thresholds(besides=1)
        if 0 < most_new < new:
            gc.collect(1 if young > most_young else 0)

    def _look(self) -> None:
        """Search when the pointer has not moved for a while, no button was pressed, and nothing was at work."""
        place, before = QCursor.pos(), self._place
        self._place = place
        touched = place != before or QApplication.mouseButtons().value
        self._still = 0 if touched or self._held else self._still + 1
        if self._still >= _STILL:
            wanted, _, most = quiet.thresholds(besides=1)
            if wanted and 0 < most < gc.get_count()[2]:
                gc.collect()
            self.end()
