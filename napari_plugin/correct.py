"""Correct labels: go from object to object, merge, split, delete, fill, relabel, grow and shrink, with undo for all."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QFormLayout, QLabel, QVBoxLayout, QWidget

from biosegkit._words import counted
from biosegkit.canvas import Change
from biosegkit.corrections import ORDERS
from biosegkit.errors import BiosegError

from . import edits, keys
from .buttons import Buttons
from .docks import Docked
from .layers import PLACE, Look, is_labels, look_at
from .region import frame_of, look_to
from .remedies import told
from .resting import Rest
from .saving import made_editable, saved
from .shared import LayerBox, hub_of, own, tipped
from .work import Latest, Task, notify, task_of

__all__ = ["CorrectWidget"]


class CorrectWidget(QWidget):
    """The dock widget ``Correct``."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        Docked(self)
        self._viewer, self._hub = own(napari_viewer), hub_of(napari_viewer)
        self.session: edits.Session | None = None
        #: Other time points of the layer that were corrected, and the one that is shown.
        self._others: dict[int, edits.Session] = {}
        self._shown: int | None = None
        self._layer: Callable[[], Any] = lambda: None
        self._task: Task | None = None
        #: What works at labels, and the layers that rest meanwhile; whether the one that is chosen waits for that.
        self._rests: dict[Task, Rest] = {}
        self._waiting = False
        self._finding = Latest(edits.place_of)
        self._points: list[tuple[float, ...]] = []
        self._build()
        self.layer.changed.connect(self._on_layer)
        self._viewer.dims.events.current_step.connect(self._on_step)
        let_go = weakref.WeakMethod(self._release)
        self.destroyed.connect(lambda *_: (release := let_go()) and release())
        self.destroyed.connect(self._finding.cancel)
        self._finding.returned.connect(self._on_place_found)
        self._finding.failed.connect(self._on_failed)
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
        buttons = Buttons(self.act, self.go, self._on_tool, self.make_editable, self.save)
        self.buttons = buttons.named
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addWidget(buttons)
        layout.addWidget(self.said)
        layout.addStretch()

    # the layer that is corrected

    def _on_layer(self) -> None:
        """Another layer is chosen."""
        if self.layer.layer is not self._layer():
            self._choose(self.layer.layer)

    def _choose(self, layer: Any) -> None:
        """Let go of the layer before, list the objects of this one in a thread."""
        self._release()
        self._layer = weakref.ref(layer) if layer is not None else lambda: None
        self._enable()
        if layer is None:
            self.said.setText("Open or make labels first.")
        else:
            self._begin(layer)

    def _on_data(self, event: Any = None) -> None:
        """Other data in the same layer, as Tune puts them there: begin anew."""
        layer = self._layer()
        if layer is None or self.session is None:
            return
        if layer.data is not self.session.data or self.session.frame is not None:
            self._choose(layer)

    def _on_step(self, event: Any = None) -> None:
        """Of a time series another time point is shown: that is corrected now; what was done at others is kept."""
        layer, before = self._layer(), self.session
        if layer is None or before is None or before.frame is None or self._task is not None:
            return
        number = self._number(layer, look_at(layer))
        last, self._shown = self._shown, number
        if number in (before.number, last):  # the last could not be listed: not again before another one is shown
            return
        if before.canvas.touched:
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
        """List the objects of a layer in a thread, after what was begun there before another layer was chosen."""
        self._waiting = any(rest.holds(layer) for rest in self._rests.values())
        if self._waiting:
            self.said.setText("waiting for the step before…")
            return
        try:
            look = look_at(layer)
        except BiosegError as error:
            self.said.setText(told(error))
            return
        number = self._number(layer, look)
        stored = layer.metadata.get("edited")
        journal = None if stored is None else Path(f"{stored.path}.corrections.jsonl")
        self.said.setText("listing the objects; brush and fill can be used after that…")
        features = layer.features if number in (None, layer.metadata.get("frame", number)) else None
        rest = Rest(layer)
        self._start(partial(self._on_session, layer, layer.data, rest), edits.readied, layer.data, look.grid.spacing,
                    features, journal, None if number is None else (look.axes, number),
                    edits.earlier(layer.metadata, number), rest=rest)

    def _on_session(self, layer: Any, data: Any, rest: Rest, session: edits.Session) -> None:
        """The objects are listed: listen to clicks, keys and strokes."""
        if layer.data is not data or rest.painted:  # replaced or painted on meanwhile
            self._begin(layer)
            return
        first = self.session is None  # else it was another time point of this layer
        if layer.data is not session.data:  # with room for new ids
            layer.data = session.data
        self._take(layer, session)
        if first:
            self._listen(layer)
            self._on_tool()

    def _listen(self, layer: Any) -> None:
        """To clicks, keys and strokes on a layer, and to other data or another size of voxels in it."""
        for event, heard in self._heard(layer):
            event.connect(heard)
        layer.mouse_drag_callbacks.append(self._on_mouse)
        keys.bind(layer, self.act, self.go, self.use)

    def _heard(self, layer: Any) -> list[tuple[Any, Callable[..., Any]]]:
        """Events of a layer, and who hears of them."""
        return [(layer.events.paint, self._on_paint), (layer.events.data, self._on_data),
                *((layer.events[name], self._on_place) for name in PLACE)]

    def _take(self, layer: Any, session: edits.Session) -> None:
        """Correct this from now on."""
        self.session, self._shown = session, session.number
        edits.remember(layer.metadata, session)
        self._on_place()
        what = "class" if layer.metadata.get("task") == "semantic" else "object"
        self.said.setText(counted(session.canvas.count, what) +
                          ("" if session.scores else "; no scores: next by id"))
        if not session.scores and self.order.currentText() == "score":
            self.order.setCurrentText("id")

    def _release(self) -> None:
        """Leave the layer as it would be without this widget."""
        layer, session = self._layer(), self.session
        self.session, self._points, self._others, self._waiting = None, [], {}, False
        for task, rest in list(self._rests.items()):
            if not rest.changes:  # nobody asks any more for what it lists; what changes labels is done to its end
                task.cancel()
                self._rests.pop(task).end()
                self._task = None if task is self._task else self._task
        if layer is None or session is None:
            return
        for event, heard in self._heard(layer):
            event.disconnect(heard)
        if self._on_mouse in layer.mouse_drag_callbacks:
            layer.mouse_drag_callbacks.remove(self._on_mouse)
        keys.unbind(layer)
        layer.mouse_pan = layer.mode == "pan_zoom"

    # what is done

    @property
    def _ready(self) -> edits.Session | None:
        """What is corrected, None while something is at work at it, and at a time point that could not be listed."""
        here = self.session is not None and self.session.number == self._shown
        return self.session if here and self._task is None else None

    def act(self, name: str) -> None:
        """Carry out an operation by name on what is picked."""
        self._change(edits.act, name, **({"amount": self.amount.value()} if name in ("grow", "shrink") else {}))

    def cut(self, name: str, points: list[tuple[float, ...]]) -> None:
        """Split the object that is picked, or the one under the points, along a line or around points."""
        session = self._ready
        if session is not None:
            first = self._viewer.dims.ndim - self._layer().ndim
            across = session.across([axis - first for axis in self._viewer.dims.not_displayed])
            self._change(edits.cut, name, points, across)

    def _change(self, function: Callable[..., Change], *arguments: Any, **options: Any) -> None:
        """Change labels in a thread, and say so to who else would replace them."""
        layer, session = self._layer(), self._ready
        if layer is not None and session is not None:
            self._hub.edited.add(layer)
            self._start(partial(self._on_change, session), partial(function, session, *arguments, **options),
                        rest=Rest(layer, changes=True))

    def go(self, *, back: bool = False) -> None:
        """Pick the next or previous object and show it."""
        session = self._ready
        if session is None:
            return
        try:
            self._finding.submit((session, session.next(self.order.currentText(), back=back)))
        except BiosegError as error:
            notify(error)
        self._show_pick()

    def _on_place_found(self, found: tuple[edits.Session, tuple[float, ...]]) -> None:
        """Show the object that was gone to, unless something else is corrected by now."""
        session, place = found
        if session is self.session:
            look_to(self._viewer, self._layer(), place)

    def use(self, name: str) -> None:
        """Take a tool."""
        if self._task is None:
            self.buttons[name].setChecked(True)
            self._on_tool()

    def make_editable(self) -> None:
        """A layer that can be edited from one that cannot."""
        layer = self.layer.layer
        if layer is not None and self._task is None:
            self._start(partial(self._on_editable, layer), made_editable, layer.data, dict(layer.metadata))

    def save(self) -> None:
        """Save what was corrected."""
        layer = self._layer()
        if layer is not None and self._task is None:
            number = None if layer.multiscale else self._number(layer, look_at(layer))
            saved(self, layer, self._start, number)

    def _start(self, receive: Callable[[Any], None], function: Callable[..., Any], *arguments: Any,
               rest: Rest | None = None) -> None:
        """Work in a thread; the buttons rest meanwhile, and perhaps a layer."""
        def received(found: Any) -> None:
            if rest is not None:
                rest.end()
            receive(found)

        self._task = task = task_of(self, received, function, *arguments)
        if rest is not None:
            self._rests[task] = rest
            task.ended.connect(lambda: rest.end())  # without the widget, too
        self._enable()
        task.start()

    def _on_ended(self) -> None:
        task = self.sender() or self._task
        if task in self._rests:
            self._rests.pop(task).end()
        if task is self._task:  # else what came of it has begun the next already, or another layer was chosen
            self._task = None
            self._enable()
            self._on_step()  # the view may have moved on
        if self._waiting:
            self._begin(self._layer())

    def _on_failed(self, error: BaseException) -> None:
        """Say it here; that a layer cannot be edited is nothing that somebody who looks through layers must be told."""
        self.said.setText(told(error))
        if self.session is not None or not isinstance(error, BiosegError):
            notify(error)

    def _on_change(self, session: edits.Session, change: Change) -> None:
        """Show what was changed; the layer is drawn anew already, whichever is corrected by now."""
        session.done(change)
        if session is not self.session:
            return
        self._show_pick()
        ids = ", ".join(map(str, change.ids[:6])) + (", …" if len(change.ids) > 6 else "")
        self.said.setText(f"{change.operation}: {change.voxels} voxels of {ids}" if change.voxels else
                          f"{change.operation}: nothing to change")

    def _on_editable(self, layer: Any, made: tuple[Any, dict[str, Any], str]) -> None:
        """Put the editable labels in the place of the others."""
        data, metadata, text = made
        if layer not in self._viewer.layers:
            return
        same = ("features", "scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
        layer.visible = False
        new = self._viewer.add_labels(data, name=f"{layer.name} (editing)", metadata=metadata,
                                      **{name: getattr(layer, name) for name in same})
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
            self.session.painted(edits.strokes(event.value))

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
        session = self._ready
        if session is None:
            return
        if not self.buttons["points"].isChecked():
            session.pick(session.at(place), more=more)
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
            button.setEnabled(idle and layer is not None and (self.session is not None or name in ("editable", "save")))
