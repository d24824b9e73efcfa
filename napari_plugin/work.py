"""Long work beside the viewer: in a thread, with progress, cancelled within one tile, and never in the viewer's way.

A `Task` runs one function of plain data: no layer and no widget is touched in its thread, so that a layer that is
deleted meanwhile cannot hurt. What it returns is delivered in the thread of the viewer, unless it was cancelled.
`Latest` keeps only the newest of several wishes, for sliders.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from typing import Any

from qtpy.QtCore import QObject, Qt, QTimer, Signal

from biosegkit.errors import BiosegError, Cancelled
from biosegkit.progress import watched

from .garbage import Search
from .remedies import told

__all__ = ["Latest", "Task", "Turns", "add_layer", "notify", "paint_later", "search", "task_of"]

#: Tasks that have not ended: Qt does not keep an object alive that a signal is on its way to.
_RUNNING: set[Task] = set()
#: The switch interval from before the first of them.
_BEFORE: list[float] = []
#: Seconds between two reports of progress to the viewer.
_REPORT = 0.05
#: Seconds that a thread may keep the interpreter from the viewer's while anything runs; five times less than usual.
_SWITCH = 0.001


@cache
def search() -> Search:
    """The searches for garbage of this process from its first task on: in the viewer's thread, full ones at a rest."""
    return Search()


class Task(QObject):
    """One function in a thread of its own.

    Signals
    -------
    progressed : int, int, str
        Done, total and stage, at most twenty times a second.
    returned : object
        The result, if it was not cancelled.
    failed : object
        The error, if it was not cancelled.
    ended
        After any of these, and after a cancel.
    """

    progressed = Signal(int, int, str)
    returned = Signal(object)
    failed = Signal(object)
    ended = Signal()
    _done = Signal(object)
    _ticked = Signal(int, int, str)

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        super().__init__()
        self._function, self._arguments = function, arguments
        self._cancel = threading.Event()
        self._told = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="biosegkit")
        # Queued, whichever thread they come from: nothing happens within start, and no progress comes after the end.
        self._done.connect(self._on_done, Qt.ConnectionType.QueuedConnection)
        self._ticked.connect(self._on_ticked, Qt.ConnectionType.QueuedConnection)

    def start(self) -> Task:
        """Begin; connect the signals before."""
        if not _RUNNING:
            _BEFORE.append(sys.getswitchinterval())
            sys.setswitchinterval(_SWITCH)
        _RUNNING.add(self)
        search().hold()
        self._thread.submit(self._work).add_done_callback(self._finish)
        self._thread.shutdown(wait=False)
        return self

    def cancel(self) -> None:
        """Stop at the next tile; whatever still comes is dropped."""
        self._cancel.set()

    @property
    def cancelled(self) -> bool:
        """Whether it was asked to stop."""
        return self._cancel.is_set()

    def _work(self) -> Any:
        """In a thread of its own."""
        with watched(self._tick):
            return self._function(*self._arguments)

    def _finish(self, future: Future[Any]) -> None:
        """Hand over to the thread of the viewer."""
        self._done.emit(future)

    def _tick(self, done: int, total: int, stage: str) -> None:
        """Pass progress on, or stop; in the thread of the work."""
        if self._cancel.is_set():
            raise Cancelled("a click on Cancel")
        now = time.monotonic()
        if done in (0, total) or now - self._told >= _REPORT:
            self._told = now
            self._ticked.emit(done, total, stage)

    def _on_ticked(self, done: int, total: int, stage: str) -> None:
        """In the thread of the viewer."""
        self.progressed.emit(done, total, stage)

    def _on_done(self, future: Future[Any]) -> None:
        """In the thread of the viewer again, which is left to let go of all that the other one held: widgets, too."""
        self._thread.shutdown(wait=True)
        _RUNNING.discard(self)
        if not _RUNNING and _BEFORE:
            sys.setswitchinterval(_BEFORE.pop())
        error = future.exception()
        if not self.cancelled and error is None:
            self.returned.emit(future.result())
        elif not self.cancelled and not isinstance(error, Cancelled):
            self.failed.emit(error)
        self.ended.emit()
        search().release()


def add_layer(viewer: Any, made: tuple[Any, dict[str, Any], str]) -> Any:
    """Add what a thread has prepared, as napari's readers return it: layers are made in the viewer's thread alone.

    napari takes as long to make a layer's controls as to slice and draw it: it is shown in the next turn of the loop.
    """
    return _added(viewer, _hidden(made), made)


def _hidden(made: tuple[Any, dict[str, Any], str]) -> Any:
    """A layer that is not shown yet."""
    from napari.layers import Layer

    data, settings, kind = made
    return Layer.create(data, {**settings, "visible": False}, kind)


def _added(viewer: Any, layer: Any, made: tuple[Any, dict[str, Any], str]) -> Any:
    """The layer in the viewer, shown in the next turn if it is meant to be."""
    viewer.add_layer(layer)
    if made[1].get("visible", True):
        QTimer.singleShot(0, partial(setattr, layer, "visible", True))
    return layer


class Turns(QObject):
    """Steps that get a turn of the viewer's loop each: one after the other without a break they would be a pause."""

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._left: list[Callable[[], object]] = []
        #: Where what the step that is being done asks for goes.
        self._place: int | None = None
        self._timer = QTimer(self, singleShot=True, interval=0)
        self._timer.timeout.connect(self._next)

    def do(self, *steps: Callable[[], object]) -> None:
        """After those that are left, the first in the next turn; what a step asks for comes right after it."""
        place = len(self._left) if self._place is None else self._place
        self._left[place:place] = steps
        if self._place is not None:
            self._place += len(steps)
        self._timer.start()

    def add_layer(self, viewer: Any, made: tuple[Any, dict[str, Any], str], added: Callable[[Any], object]) -> None:
        """As the function of this name, in turns: one to make the layer, one to add it and tell who asked."""
        layers: list[Any] = []

        def add() -> None:
            paint_later(self.parent())
            added(_added(viewer, layers.pop(), made))

        self.do(lambda: layers.append(_hidden(made)), add)

    @property
    def busy(self) -> bool:
        """Whether any is left."""
        return bool(self._left)

    def _next(self) -> None:
        if self._left:
            step, self._place = self._left.pop(0), 0
            try:
                step()
            finally:  # an error in a step, which is shown, keeps the others from nothing
                self._place = None
                self._timer.start()


class _Turn(QObject):
    """Lets a window be painted in the next turn of the loop.

    The slot is a method of an object of Qt: PyQt holds nothing else so that it is safe to call after Python has
    collected the window and before Qt has deleted it. A function would be called in pieces then, and end the process.
    """

    def __init__(self, window: Any) -> None:
        super().__init__(window)
        self._timer = QTimer(self, singleShot=True, interval=0)
        self._timer.timeout.connect(self._paint)
        self._timer.start()

    def _paint(self) -> None:
        self.parent().setUpdatesEnabled(True)
        self.deleteLater()


def paint_later(widget: Any) -> None:
    """Let the window of a widget be painted in the next turn of the loop, not in this one, whatever changes in it now.

    A layer takes napari nearly a tenth of a second to add, and the window half of that to paint: one after the other
    without a break would be a pause.
    """
    window = widget.window()
    if window.updatesEnabled():
        window.setUpdatesEnabled(False)
        _Turn(window)


def task_of(widget: Any, receive: Callable[[Any], None], function: Callable[..., Any], *arguments: Any) -> Task:
    """A task of a widget, to be started: its ``_on_failed`` and ``_on_ended`` are told, and it goes when they go."""
    task = Task(function, *arguments)
    task.returned.connect(receive)
    task.failed.connect(widget._on_failed)
    task.ended.connect(widget._on_ended)
    widget.destroyed.connect(task.cancel)
    return task


class Latest(QObject):
    """Run a function for the newest argument only: one at a time, and of those that came meanwhile only the last.

    Signals
    -------
    returned, failed : object
    """

    returned = Signal(object)
    failed = Signal(object)

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self._function = function
        self._task: Task | None = None
        self._waiting: list[Any] = []

    def submit(self, argument: Any) -> None:
        """Ask for a result; it comes as ``returned`` unless a newer wish overtakes it."""
        if self._task is not None:
            self._waiting = [argument]
            return
        self._task = Task(self._function, argument)
        self._task.returned.connect(self._on_returned)
        self._task.failed.connect(self._on_failed)
        self._task.ended.connect(self._next)
        self._task.start()

    def cancel(self) -> None:
        """Forget all wishes."""
        self._waiting = []
        if self._task is not None:
            self._task.cancel()

    @property
    def busy(self) -> bool:
        """Whether anything runs or waits."""
        return self._task is not None

    def _on_returned(self, value: Any) -> None:
        self.returned.emit(value)

    def _on_failed(self, error: Any) -> None:
        self.failed.emit(error)

    def _next(self) -> None:
        self._task = None
        if self._waiting:
            self.submit(self._waiting.pop())


def notify(error: BaseException) -> None:
    """Show an error as a notification: ours with what to do, others with their traceback at hand."""
    from napari.utils.notifications import notification_manager, show_error

    if isinstance(error, BiosegError):
        show_error(told(error))
    else:
        notification_manager.receive_error(type(error), error, error.__traceback__)
