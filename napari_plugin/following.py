"""Processes that go on without napari, batches and trainings: which one is followed, and how it is every second."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QSizePolicy, QToolButton, QWidget

from .shared import as_wide_as_there_is_room, tipped
from .work import Latest, Task, notify

__all__ = ["Followed"]

#: Milliseconds between two looks.
_EVERY = 1000


class Followed(QWidget):
    """A choice among processes, each known by its folder ``out``, and looks at the one that is chosen.

    Signals
    -------
    changed
        Another is followed, or none.
    looked : object
        How the one that is followed is.
    lost : object
        Why it cannot be looked at; it is not looked at again.

    Parameters
    ----------
    look : callable
        From a process to how it is; done in a thread, by one at a time.
    search : callable
        From folders to the processes in them; done in a thread.
    tip : str
    attach : QToolButton
        Shown beside the choice.
    """

    changed = Signal()
    looked = Signal(object)
    lost = Signal(object)

    def __init__(self, look: Callable[[Any], Any], search: Callable[[list[Path]], list[Any]], tip: str,
                 attach: QToolButton) -> None:
        super().__init__()
        self._search = search
        self._processes: dict[Path, Any] = {}
        self._followed: Any = None
        self.box = tipped(QComboBox(), tip)
        as_wide_as_there_is_room(self.box)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.box, 1)
        layout.addWidget(attach)
        self.looks = Latest(lambda process: (process, look(process)))
        self.looks.returned.connect(self._on_look)
        self.looks.failed.connect(self._on_lost)
        self.timer = QTimer(self)
        self.timer.setInterval(_EVERY)
        self.timer.timeout.connect(self.ask)
        self.destroyed.connect(self.looks.cancel)
        self.box.currentIndexChanged.connect(self._on_choice)

    @property
    def process(self) -> Any:
        """The one that is followed, None if there is none."""
        out = self.box.currentData()
        return None if out is None else self._processes.get(out)

    def find(self, folders: Iterable[Path]) -> None:
        """Look for processes in some folders, in a thread."""
        task = Task(self._search, list(folders))
        task.returned.connect(self._on_found)
        task.failed.connect(notify)
        self.destroyed.connect(task.cancel)
        task.start()

    def put(self, process: Any) -> None:
        """Follow this one, first in the list."""
        self._processes = {process.out: process, **{k: v for k, v in self._processes.items() if k != process.out}}
        self._list(process.out)

    def ask(self) -> None:
        """Look once more."""
        if self.process is not None:
            self.looks.submit(self.process)

    def rest(self) -> None:
        """No more looks: it has ended."""
        self.timer.stop()

    def _on_found(self, processes: list[Any]) -> None:
        """Those that are known already keep what was read of them."""
        there = {one.out: self._processes.get(one.out, one) for one in processes}
        self._processes = {**there, **{out: one for out, one in self._processes.items() if out not in there}}
        self._list(self.box.currentData())

    def _list(self, chosen: Path | None) -> None:
        self.box.blockSignals(True)
        self.box.clear()
        for out in self._processes:
            self.box.addItem(out.name, out)
            self.box.setItemData(self.box.count() - 1, str(out), 3)  # its tooltip
        self.box.setCurrentIndex(max(0, self.box.findData(chosen)) if self._processes else -1)
        self.box.blockSignals(False)
        self._on_choice()

    def _on_choice(self, *_: Any) -> None:
        """Another is chosen."""
        process = self.process
        if process is self._followed:
            return
        self._followed = process
        self.changed.emit()
        if process is not None:
            self.timer.start()
            self.ask()

    def _on_look(self, found: tuple[Any, Any]) -> None:
        process, look = found
        if process is self.process:
            self.looked.emit(look)

    def _on_lost(self, error: BaseException) -> None:
        self.rest()
        self.lost.emit(error)
