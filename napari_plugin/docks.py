"""Widgets of the plugin that do not fit below each other lie on each other, with a tab each."""

from __future__ import annotations

from qtpy.QtCore import QEvent, QObject, QSize, Qt
from qtpy.QtWidgets import QApplication, QDockWidget, QMainWindow, QWidget

__all__ = ["Docked"]


class Docked(QObject):
    """Finds a widget its place when it is shown in a dock for the first time.

    napari puts each further dock below the others, and the window grows with them, beyond the screen's lower edge if
    need be. Where the window would grow, the new one becomes a tab of the largest other one of the plugin instead, and
    so do the others as far as that is needed. Whatever a person arranges later stays.
    """

    def __init__(self, widget: QWidget) -> None:
        super().__init__(widget)
        #: Windows and their sizes before they had room to make for the widget.
        self._before = [(window, window.size()) for window in QApplication.topLevelWidgets()
                        if isinstance(window, QMainWindow) and window.isVisible()]
        widget.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Qt's: nothing is kept from the widget."""
        if event.type() == QEvent.Type.Show:
            watched.removeEventFilter(self)
            dock = _dock_of(self.parent())
            window = None if dock is None else dock.parentWidget()
            before, self._before = [size for one, size in self._before if one is window], []
            if before:
                _settle(window, dock, before[0])
        return False


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
