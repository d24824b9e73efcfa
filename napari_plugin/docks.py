"""Widgets of the plugin that do not fit below each other lie on each other, with a tab each."""

from __future__ import annotations

from qtpy.QtCore import QEvent, QObject, QSize, Qt, QTimer, Signal
from qtpy.QtWidgets import QApplication, QDockWidget, QMainWindow, QWidget

__all__ = ["Docked"]


class Docked(QObject):
    """Finds a widget its place when it is shown in a dock first, and brings it to the front when it is asked for.

    napari puts each further dock below the others, and the window grows with them, beyond the screen's lower edge if
    need be. Where the window would grow, the new one becomes a tab of the largest other one of the plugin instead, and
    so do the others as far as that is needed. Whatever a person arranges later stays.

    For napari's menu a tab behind others counts as visible: asked for there, it would be closed, and at the next time
    be open behind the others again. Here it comes to the front.

    Signals
    -------
    opened : after the dock was closed
    """

    opened = Signal()

    # Of the class, for what Python has collected before Qt has deleted it: that still hears of events.
    _dock: QDockWidget | None = None
    _behind = _closed = False

    def __init__(self, widget: QWidget) -> None:
        super().__init__(widget)
        #: Windows and their sizes before they had room to make for the widget.
        self._before = [(window, window.size()) for window in QApplication.topLevelWidgets()
                        if isinstance(window, QMainWindow) and window.isVisible()]
        self._asked = QTimer(self, singleShot=True, interval=0)
        self._asked.timeout.connect(self._to_front)
        widget.installEventFilter(self)

    @property
    def closed(self) -> bool:
        """Whether the dock was closed; behind another tab it was not."""
        return self._closed

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Qt's: nothing is kept from the widget or its dock."""
        if self._dock is not None and watched is self._dock:
            if event.type() == QEvent.Type.Hide:
                self._closed = self._dock.isHidden()
                if self._closed and self._behind:
                    self._asked.start()
            elif event.type() == QEvent.Type.Show and self._closed:
                self._closed = False
                self._asked.start()
                self.opened.emit()
        elif event.type() == QEvent.Type.Show and self._dock is None:
            watched.removeEventFilter(self)
            self._settle()
        return False

    def _settle(self) -> None:
        """The widget is shown for the first time."""
        self._dock = _dock_of(self.parent())
        if self._dock is not None:
            self._dock.installEventFilter(self)
            self._dock.visibilityChanged.connect(self._on_seen)
            window = self._dock.parentWidget()
            before, self._before = [size for one, size in self._before if one is window], []
            if before:
                _settle(window, self._dock, before[0])

    def _on_seen(self, seen: bool) -> None:
        """Another tab was chosen, or this one."""
        if self._dock is not None and not self._dock.isHidden():
            self._behind = not seen

    def _to_front(self) -> None:
        """Open, before the others; unless the widget was taken out of its dock meanwhile."""
        dock = _dock_of(self.parent())
        if dock is not None and dock is self._dock and dock.window().isVisible():
            closed, self._closed = self._closed, False
            dock.show()
            dock.raise_()
            if closed:
                self.opened.emit()


def _settle(window: QMainWindow, dock: QDockWidget, before: QSize) -> None:
    """Among those of the plugin on the same side of a window that had this size."""
    side = window.dockWidgetArea(dock)
    upright = side in (Qt.DockWidgetArea.LeftDockWidgetArea, Qt.DockWidgetArea.RightDockWidgetArea)
    others = [other for other in map(_dock_of, (one.parent() for one in window.findChildren(Docked)))
              if other not in (None, dock) and other.isVisible() and not other.isFloating()
              and window.dockWidgetArea(other) == side]
    if upright and others and window.layout().minimumSize().height() > before.height():
        first, *rest = sorted(others, key=lambda other: -other.minimumSizeHint().height())
        for one in (dock, *rest):
            if window.layout().minimumSize().height() > before.height():
                window.tabifyDockWidget(first, one)
                one.show()
        dock.raise_()
        window.layout().activate()
        window.resize(window.width(), before.height())


def _dock_of(widget: QObject | None) -> QDockWidget | None:
    """The dock that a widget is in."""
    while widget is not None and not isinstance(widget, QDockWidget):
        widget = widget.parent()
    return widget
