"""Buttons with a tooltip, and widgets in a row."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtWidgets import QHBoxLayout, QPushButton, QToolButton, QWidget

from .shared import tipped

__all__ = ["beside", "button", "tool"]


def button(text: str, tip: str, pressed: Callable[[], object]) -> QPushButton:
    """A button that calls a function."""
    made = tipped(QPushButton(text), tip)
    made.clicked.connect(lambda *_: pressed())
    return made


def tool(text: str, tip: str, pressed: Callable[[], object]) -> QToolButton:
    """A small one, for beside a field."""
    made = tipped(QToolButton(), tip)
    made.setText(text)
    made.clicked.connect(lambda *_: pressed())
    return made


def beside(*widgets: QWidget, even: bool = False) -> QHBoxLayout:
    """Widgets in a row, the first as wide as there is room, or all alike."""
    layout = QHBoxLayout()
    for k, widget in enumerate(widgets):
        layout.addWidget(widget, int(even or k == 0))
    return layout
