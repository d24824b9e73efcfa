"""Correct labels: go from object to object, merge, split, delete, fill, relabel, grow and shrink, with undo for all."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from qtpy.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QGridLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from biosegkit._words import counted
from biosegkit.canvas import Change
from biosegkit.corrections import ORDERS
from biosegkit.errors import BiosegError

from . import edits, keys
from .docks import Docked
from .layers import PLACE, Look, is_labels, look_at
from .region import frame_of, look_to
from .remedies import told
from .saving import made_editable, saved
from .shared import LayerBox, hub_of, own, tipped
from .work import Task, notify, task_of

__all__ = ["CorrectWidget"]


class CorrectWidget(QWidget):
    """The dock widget ``Correct``."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        Docked(self)
        self._viewer, self._hub = own(napari_viewer), hub_of(napari_viewer)
        self.session: edits.Session | None = None
        #: Other time points of the layer that were corrected.
        self._others: dict[int, edits.Session] = {}
        self._layer: Callable[[], Any] = lambda: None
        self._task: Task | None = None
        self._points: list[tuple[float, ...]] = []
        self.buttons: dict[str, QPushButton] = {}
        self._build()
        self.layer.changed.connect(self._on_layer)
        self._viewer.dims.events.current_step.connect(self._on_step)
        let_go = weakref.WeakMethod(self._release)
        self.destroyed.connect(lambda *_: (release := let_go()) and release())
        self._on_layer()

    def _build(self) -> None:
        """The choice of a layer, buttons in rows, and what is said."""
        self.layer = LayerBox(self._viewer, is_labels,
                              "The labels to correct; brush, fill and eraser work on them as well")
        self.order = tipped(QComboBox(), "Which object comes next: the one the model is least sure of, the next id, or "
                            "the smallest")
        self.order.addItems(list(ORDERS))
        self.amount = tipped(QDoubleSpinBox(), "How far Grow and Shrink go, in steps between voxels of the finest axis")
        self.amount.setRange(0.5, 100)
        self.amount.setValue(1)
        self.said = tipped(QLabel(), "What was done last, or what is in the way")
        self.said.setWordWrap(True)
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        for title, widget in (("labels", self.layer), ("order", self.order), ("steps", self.amount)):
            form.addRow(title, widget)
        grid, tools = QGridLayout(), QButtonGroup(self)
        for k, (name, text, key, back) in enumerate(keys.STEPS):
            self._add(grid, (0, k), name, text, f"Go to the {name} object in this order and pick it [{key}]",
                      lambda *_, back=back: self.go(back=back))
        for k, (name, text, key, tip) in enumerate(keys.TOOLS):
            button = self._add(grid, (1 + k // 2, k % 2), name, text, f"{tip} [{key}]", lambda *_: self._on_tool())
            button.setCheckable(True)
            tools.addButton(button)
        tools.setExclusive(True)
        self.buttons["pick"].setChecked(True)
        for k, (name, text, key, tip) in enumerate(keys.ACTS):
            self._add(grid, (3 + k // 2, k % 2), name, text, f"{tip} [{key}]", lambda *_, name=name: self.act(name))
        self._add(grid, (7, 0), "editable", "Make editable", "Labels of several resolutions, or read lazily, cannot be "
                  "painted on: open the full resolution of the OME-Zarr on disk, or a copy in memory",
                  lambda *_: self.make_editable())
        self._add(grid, (7, 1), "save", "Save…", "Save the labels; of an OME-Zarr that is edited on disk, make the "
                  "smaller resolutions anew", lambda *_: self.save())
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addLayout(grid)
        layout.addWidget(self.said)
        layout.addStretch()

    def _add(self, grid: QGridLayout, place: tuple[int, int], name: str, text: str, tip: str,
             pressed: Callable[..., Any]) -> QPushButton:
        button = tipped(QPushButton(text), tip)
        button.clicked.connect(pressed)
        grid.addWidget(button, *place)
        self.buttons[name] = button
        return button

    # the layer that is corrected

    def _on_layer(self) -> None:
        """Another layer is chosen: let go of the one before, list the objects of this one in a thread."""
        layer = self.layer.layer
        if layer is self._layer():
            return
        self._release()
        self._layer = weakref.ref(layer) if layer is not None else lambda: None
        self._enable()
        if layer is None:
            self.said.setText("Open or make labels first.")
            return
        self._begin(layer)

    def _on_data(self, event: Any = None) -> None:
        """Other data in the same layer, as Tune puts them there: begin anew."""
        layer = self._layer()
        if layer is None or self.session is None:
            return
        if layer.data is not self.session.data or self.session.frame is not None:
            self._release()
            self._begin(layer)

    def _on_step(self, event: Any = None) -> None:
        """Of a time series another time point is shown: that is corrected now; what was done at others is kept."""
        layer, before = self._layer(), self.session
        if layer is None or before is None or before.frame is None or self._task is not None:
            return
        number = self._number(layer, look_at(layer))
        if number == before.number:
            return
        if before.canvas.log:
            self._others[before.number] = before
        if number in self._others:
            self._take(layer, self._others.pop(number))
        else:
            self._begin(layer)

    def _number(self, layer: Any, look: Look) -> int | None:
        """The time point of a layer that is shown, None without an axis of time."""
        return frame_of(self._viewer, layer, look) if "t" in look.axes else None

    def _on_place(self, event: Any = None) -> None:
        """The size of the voxels was set."""
        layer = self._layer()
        if layer is None or self.session is None:
            return
        try:
            spacing = look_at(layer).grid.spacing
        except BiosegError as error:
            self.said.setText(told(error))
            return
        for one in (self.session, *self._others.values()):
            one.canvas.spacing = spacing

    def _begin(self, layer: Any) -> None:
        """List the objects of a layer in a thread."""
        try:
            look = look_at(layer)
        except BiosegError as error:
            self.said.setText(told(error))
            return
        number = self._number(layer, look)
        stored = layer.metadata.get("edited")
        journal = None if stored is None else Path(f"{stored.path}.corrections.jsonl")
        self.said.setText("listing the objects…")
        self._begun = layer.data
        scores = edits.scores_of(layer.features) if number in (None, layer.metadata.get("frame", number)) else {}
        self._start(self._on_session, edits.readied, layer.data, look.grid.spacing, scores, journal,
                    None if number is None else (look.axes, number))

    def _on_session(self, session: edits.Session) -> None:
        """The objects are listed: listen to clicks, keys and strokes."""
        layer = self._layer()
        if layer is None:
            return
        if layer.data is not self._begun:  # replaced meanwhile
            self._begin(layer)
            return
        if layer.data is not session.data:  # with room for new ids
            layer.data = session.data
        if self.session is None:  # else it was another time point of this layer
            self._listen(layer)
        self._take(layer, session)

    def _listen(self, layer: Any) -> None:
        """To clicks, keys and strokes on a layer, and to other data or another size of voxels in it."""
        layer.events.paint.connect(self._on_paint)
        layer.events.data.connect(self._on_data)
        for name in PLACE:
            layer.events[name].connect(self._on_place)
        layer.mouse_drag_callbacks.append(self._on_mouse)
        keys.bind(layer, self.act, self.go, self.use)

    def _take(self, layer: Any, session: edits.Session) -> None:
        """Correct this from now on."""
        self.session = session
        layer.metadata["corrections"] = session.canvas.log
        self._on_place()
        self._on_tool()
        what = "class" if layer.metadata.get("task") == "semantic" else "object"
        self.said.setText(counted(len(session.canvas.ids()), what) +
                          ("" if session.scores else "; no scores: next by id"))
        if not session.scores and self.order.currentText() == "score":
            self.order.setCurrentText("id")

    def _release(self) -> None:
        """Leave the layer as it would be without this widget."""
        layer, session = self._layer(), self.session
        self.session, self._points, self._others = None, [], {}
        if layer is None or session is None:
            return
        layer.events.paint.disconnect(self._on_paint)
        layer.events.data.disconnect(self._on_data)
        for name in PLACE:
            layer.events[name].disconnect(self._on_place)
        if self._on_mouse in layer.mouse_drag_callbacks:
            layer.mouse_drag_callbacks.remove(self._on_mouse)
        keys.unbind(layer)
        layer.mouse_pan = layer.mode == "pan_zoom"

    # what is done

    def act(self, name: str) -> None:
        """Carry out an operation by name on what is picked."""
        if self.session is None or self._task is not None:
            return
        options = {"amount": self.amount.value()} if name in ("grow", "shrink") else {}
        self._start(self._on_change, edits.act, self.session, name, **options)

    def cut(self, name: str, points: list[tuple[float, ...]]) -> None:
        """Split the object that is picked, or the one under the points, along a line or around points."""
        session = self.session
        if session is None or self._task is not None:
            return
        under = session.along(points) if name == "line" else [n for n in map(session.at, points) if n]
        if under and (not session.picked or session.picked[0] not in under):
            session.pick(max(set(under), key=under.count))
        places, first = [session.inside(point) for point in points], self._viewer.dims.ndim - self._layer().ndim
        across = session.across([axis - first for axis in self._viewer.dims.not_displayed])
        options: dict[str, Any] = {"line": places, "axis": across} if name == "line" else {"points": places}
        self._start(self._on_change, edits.act, session, f"split_{name}", **options)

    def go(self, *, back: bool = False) -> None:
        """Pick the next or previous object and show it."""
        if self.session is None:
            return
        try:
            number = self.session.next(self.order.currentText(), back=back)
        except BiosegError as error:
            notify(error)
            return
        self._show_pick()
        look_to(self._viewer, self._layer(), edits.place_of(self.session, number))

    def use(self, name: str) -> None:
        """Take a tool."""
        self.buttons[name].setChecked(True)
        self._on_tool()

    def make_editable(self) -> None:
        """A layer that can be edited from one that cannot."""
        layer = self.layer.layer
        if layer is not None and self._task is None:
            self._start(self._on_editable, made_editable, layer.data, dict(layer.metadata))

    def save(self) -> None:
        """Save what was corrected."""
        layer = self._layer()
        if layer is not None and self._task is None:
            number = None if layer.multiscale else self._number(layer, look_at(layer))
            saved(self, layer, self._start, number)

    def _start(self, receive: Callable[[Any], None], function: Callable[..., Any], *arguments: Any,
               **options: Any) -> None:
        """Work in a thread; the buttons rest meanwhile. What changes labels is told to who else would replace them."""
        if receive == self._on_change:
            self._hub.edited.add(self._layer())
        self._task = task_of(self, receive, lambda: function(*arguments, **options))
        self._enable()
        self._task.start()

    def _on_ended(self) -> None:
        if self.sender() in (None, self._task):  # else what came of it has begun the next already
            self._task = None
            self._enable()
            self._on_step()  # the view may have moved on

    def _on_failed(self, error: BaseException) -> None:
        """Say it here; that a layer cannot be edited is nothing that somebody who looks through layers must be told."""
        self.said.setText(told(error))
        if self.session is not None or not isinstance(error, BiosegError):
            notify(error)

    def _on_change(self, change: Change) -> None:
        """Show what was changed."""
        layer, session = self._layer(), self.session
        if layer is None or session is None:
            return
        session.done(change)
        layer.refresh(extent=False)
        self._show_pick()
        ids = ", ".join(map(str, change.ids[:6])) + (", …" if len(change.ids) > 6 else "")
        self.said.setText(f"{change.operation}: {change.voxels} voxels of {ids}" if change.voxels else
                          f"{change.operation}: nothing to change")

    def _on_editable(self, made: tuple[Any, dict[str, Any], str]) -> None:
        """Put the editable labels in the place of the others."""
        layer = self.layer.layer
        data, metadata, text = made
        if layer is None:
            return
        place = {"scale": layer.scale, "translate": layer.translate, "rotate": layer.rotate, "shear": layer.shear,
                 "affine": layer.affine, "units": layer.units, "axis_labels": layer.axis_labels}
        layer.visible = False
        new = self._viewer.add_labels(data, name=f"{layer.name} (editing)", metadata=metadata, features=layer.features,
                                      **place)
        self.layer.layer = new
        self.said.setText(text)

    # clicks, strokes, and what is shown

    def _on_tool(self) -> None:
        """With a tool for lines a drag draws, it does not move the view."""
        layer = self._layer()
        self._points = []
        if layer is not None and self.session is not None:
            layer.mode = "pan_zoom"
            layer.mouse_pan = not self.buttons["line"].isChecked()

    def _on_paint(self, event: Any) -> None:
        if self.session is not None:
            for places, before, after in edits.strokes(event.value):
                self.session.painted(places, before, after)

    def _on_mouse(self, layer: Any, event: Any) -> Iterator[None]:
        """Pick on a click, draw on a drag."""
        if self.session is None or layer.mode != "pan_zoom" or event.button != 1:
            return
        if len(event.dims_displayed) != 2:
            self.said.setText("Picking and splitting work on planes: leave the 3D view.")
            return
        place = [tuple(layer.world_to_data(event.position))]
        shift, moved = "Shift" in event.modifiers, False
        yield
        while event.type == "mouse_move":
            moved = True
            place.append(tuple(layer.world_to_data(event.position)))
            yield
        if self.buttons["line"].isChecked():
            if moved:
                self.cut("line", [*place, tuple(layer.world_to_data(event.position))])
        elif not moved:
            self.click(place[0], more=shift)

    def click(self, place: tuple[float, ...], *, more: bool = False) -> None:
        """A click on a place of the labels with the tool that is taken."""
        if self.session is None:
            return
        if not self.buttons["points"].isChecked():
            self.session.pick(self.session.at(place), more=more)
            self._show_pick()
            return
        self._points.append(place)
        if len(self._points) >= 2 and not more:
            points, self._points = self._points, []
            self.cut("points", points)
        else:
            self.said.setText(f"{len(self._points)} points: click in the next part, with Shift if more follow")

    def _show_pick(self) -> None:
        """The first object picked is the one that napari paints with."""
        layer, session = self._layer(), self.session
        if layer is None or session is None:
            return
        if session.picked:
            layer.selected_label = session.picked[0]
        score = session.scores.get(session.picked[0]) if session.picked else None
        sure = "" if score is None else f", score {score:.2f}"
        self.said.setText(f"picked {', '.join(map(str, session.picked))}{sure}" if session.picked else "nothing picked")

    def _enable(self) -> None:
        """Buttons that can do something now."""
        layer, idle = self.layer.layer, self._task is None
        for name, button in self.buttons.items():
            button.setEnabled(idle and layer is not None and (
                self.session is not None or name == "editable" or (name == "save")))
