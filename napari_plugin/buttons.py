"""The buttons of Correct: what can be done, in rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtWidgets import QButtonGroup, QGridLayout, QPushButton, QWidget

from . import keys
from .shared import tipped

__all__ = ["Buttons"]


class Buttons(QWidget):
    """Steps, tools and acts of :mod:`keys`, and two buttons more.

    Parameters
    ----------
    act, go, take : callable
        What an act, a step and a tool do, as for :func:`keys.bind`; a tool without its name, as it is checked then.
    make_editable, save : callable
    """

    def __init__(self, act: Callable[..., Any], go: Callable[..., Any], take: Callable[..., Any],
                 make_editable: Callable[[], Any], save: Callable[[], Any]) -> None:
        super().__init__()
        self.named: dict[str, QPushButton] = {}
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        tools = QButtonGroup(self)
        for k, (name, text, key, back) in enumerate(keys.STEPS):
            self._add((0, k), name, text, f"Go to the {name} object in this order and pick it [{key}]",
                      lambda *_, back=back: go(back=back))
        for k, (name, text, key, tip) in enumerate(keys.TOOLS):
            button = self._add((1 + k // 2, k % 2), name, text, f"{tip} [{key}]", lambda *_: take())
            button.setCheckable(True)
            tools.addButton(button)
        tools.setExclusive(True)
        self.named["pick"].setChecked(True)
        for k, (name, text, key, tip) in enumerate(keys.ACTS):
            self._add((3 + k // 2, k % 2), name, text, f"{tip} [{key}]", lambda *_, name=name: act(name))
        self._add((7, 0), "editable", "Make editable", "Labels of several resolutions, or read lazily, cannot be "
                  "painted on: open the full resolution of the OME-Zarr on disk, or a copy in memory",
                  lambda *_: make_editable())
        self._add((7, 1), "save", "Save…", "Save the labels; of an OME-Zarr that is edited on disk, make the "
                  "smaller resolutions anew", lambda *_: save())

    def _add(self, place: tuple[int, int], name: str, text: str, tip: str, pressed: Callable[..., Any]) -> QPushButton:
        button: QPushButton = tipped(QPushButton(text), tip)
        button.clicked.connect(pressed)
        self._grid.addWidget(button, *place)
        self.named[name] = button
        return button
