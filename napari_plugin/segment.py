"""Segment a layer: a model, a region, a check before the run, progress, cancel, and labels that lie on the image."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from biosegkit.errors import BiosegError

from .docks import Docked
from .giants import Giant
from .layers import PLACE, look_at, snapshot
from .options import OPTIONS_TIP, options_in
from .region import REGIONS, frame_of, region_of
from .remedies import in_words, told
from .rows import beside, tool
from .shared import Hub, LayerBox, ModelBox, hub_of, own, tipped
from .sizes import set_size, size_of
from .wishes import Answer, Outcome, Wish, answered, looked_through, ran
from .work import Latest, Task, Turns, add_layer, notify

__all__ = ["SegmentWidget", "add_result"]

#: Milliseconds after the last move of the view.
_PAUSE = 300
_AXES = {"as the layer says": None, "y x": "yx", "z y x": "zyx", "c y x": "cyx", "c z y x": "czyx", "t y x": "tyx",
         "t z y x": "tzyx"}


class SegmentWidget(QWidget):
    """The dock widget ``Segment``."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self._dock = Docked(self)
        self._viewer, self.hub = own(napari_viewer), hub_of(napari_viewer)
        self._task: Task | None = None
        self._asked: Wish | None = None
        self._answer: Answer | None = None
        #: The layers that were asked about, by their identities.
        self._channels: list[int] = []
        self._giant: Giant | None = None
        #: The layer whose place is followed.
        self._followed: Callable[[], Any] = lambda: None
        #: What a run has brought, shown until something else is chosen; and that of the run that is about to end.
        self._brought = self._done = ""
        #: How layers were shown in planes, and how they are in a volume.
        self._shown: WeakKeyDictionary[Any, tuple[dict[str, Any], dict[str, Any]]] = WeakKeyDictionary()
        #: What is left to be shown of a run.
        self._turns = Turns(self)
        self._build()
        self._questions = Latest(self._ask)
        self._questions.returned.connect(self._on_answer)
        self._questions.failed.connect(self._on_unusable)
        self._viewer.dims.events.current_step.connect(self._on_step)
        self._moved = QTimer(self, singleShot=True, interval=_PAUSE)
        self._moved.timeout.connect(self._on_step)
        self._viewer.camera.events.connect(self._on_camera)
        self.layer.changed.connect(self._on_layer)
        self.model.changed.connect(self._on_choice)
        for signal in (self.region.currentIndexChanged, self.axes.currentIndexChanged, self.tta.toggled):
            signal.connect(self._on_choice)
        for field in (self.out, self.options):
            field.editingFinished.connect(self._on_text)
        self.size.editingFinished.connect(self._on_size)
        self._viewer.layers.selection.events.changed.connect(self._on_selection)
        self._viewer.dims.events.ndisplay.connect(self._on_volume)
        self._dock.opened.connect(self._on_opened)
        self._on_layer()

    def _build(self) -> None:
        """Rows of choices, buttons, progress."""
        self.layer = LayerBox(self._viewer, is_image, "The image; for a model of several channels a layer of colours, "
                              "one with a channel axis, or the selected layers together, from bottom to top")
        self.model = ModelBox(self.hub)
        self.region = tipped(QComboBox(), "What of the image is segmented: " + "; ".join(
            f"{kind}: {meaning}" for kind, meaning in REGIONS.items()))
        self.region.addItems(list(REGIONS))
        self.axes = tipped(QComboBox(), "What the axes of the data are, where the layer does not say")
        for text, letters in _AXES.items():
            self.axes.addItem(text, letters)
        self.size = tipped(QLineEdit(), "How far voxels are apart, where the layer does not say it or says it wrong: "
                           "z, y, x and their unit, such as 2, 0.5, 0.5 um; for 2D one number will do, such as 0.5 um")
        self.options = tipped(QLineEdit(), OPTIONS_TIP)
        self.options.setPlaceholderText("as the model has them")
        self.out = tipped(QLineEdit(), "The folder for the labels and their table, of an image that is segmented in "
                          "blocks on disk; by default a new one beside it")
        self.place = QWidget()
        self.place.setLayout(beside(self.out, tool("Folder…", "Choose the folder for the results", self.open_out)))
        self.place.layout().setContentsMargins(0, 0, 0, 0)
        self.tta = tipped(QCheckBox("average mirrored copies"), "Test-time augmentation: several times slower, "
                          "often a little better; for biosegkit's own models")
        self.contours = tipped(QCheckBox("contours only"), "Show outlines, so that the image stays visible")
        self.contours.toggled.connect(self._show_contours)
        self.said = tipped(QLabel(), "What the run will take, or what is in its way")
        self.said.setWordWrap(True)
        self.run = tipped(QPushButton("Run"), "Segment; it can be cancelled at any time")
        self.cancel = tipped(QPushButton("Cancel"), "Stop within one tile; nothing is added")
        self.volume = tipped(QPushButton("Show in 3D"), "Image and labels together as a volume, and back to planes")
        self.bar = tipped(QProgressBar(), "Tiles that are done")
        self.run.clicked.connect(self.start)
        self.cancel.clicked.connect(self.stop)
        self.volume.clicked.connect(self.toggle_volume)
        self.cancel.setEnabled(False)
        self.bar.setVisible(False)
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        for title, widget in (("image", self.layer), ("model", self.model), ("region", self.region),
                              ("axes", self.axes), ("voxel size", self.size), ("options", self.options),
                              ("results", self.place)):
            form.addRow(title, widget)
        self._title = form.labelForField(self.place)
        self._show_place(on=False)
        buttons = QHBoxLayout()
        for button in (self.run, self.cancel, self.volume):
            buttons.addWidget(button)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        for widget in (self.tta, self.contours, self.said):
            layout.addWidget(widget)
        layout.addLayout(buttons)
        layout.addWidget(self.bar)
        layout.addStretch()

    def wish(self) -> Wish | None:
        """What is chosen now; None if a choice is missing."""
        layer = self.layer.layer
        if layer is None or not self.model.model:
            return None
        axes, kind = self.axes.currentData(), self.region.currentText()
        look = look_at(layer, axes)
        return Wish(self.model.model, tuple(snapshot(one) for one in self._together()), kind,
                    region_of(kind, self._viewer, layer, look), axes, frame_of(self._viewer, layer, look),
                    self.tta.isChecked(), layer.data_level if kind == "view" and layer.multiscale else 0,
                    self.out.text().strip(), options_in(self.options.text()))

    def _together(self) -> list[Any]:
        """The layer that is chosen, or all that are selected with it: its channels."""
        layer, selected = self.layer.layer, self._viewer.layers.selection
        layers = [one for one in self._viewer.layers if one in selected and is_image(one)]
        return layers if len(layers) > 1 and layer in layers else [layer]

    def open_out(self) -> None:
        """Ask for the folder for results."""
        found = QFileDialog.getExistingDirectory(self, "The folder for results: a new or an empty one")
        if found:
            self.out.setText(found)
            self._on_choice()

    def _on_size(self) -> None:
        """A size of voxels was written: it becomes that of the layer."""
        layer, text = self.layer.layer, self.size.text().strip()
        if layer is None or not text:
            return
        try:
            set_size(self._viewer, layer, text, self.axes.currentData())
        except BiosegError as error:
            self.said.setText(told(error))
            return
        self.size.clear()

    def _on_text(self) -> None:
        """Something else was written in a row."""
        if self.out.isModified() or self.options.isModified():
            for field in (self.out, self.options):
                field.setModified(False)
            self._on_choice()

    def start(self) -> None:
        """Run what is chosen."""
        try:
            wish = self.wish()
        except BiosegError as error:
            notify(error)
            return
        if wish is None or self._task is not None:
            return
        self._giant = None if self._answer is None else self._answer.giant
        self._task = Task(ran, wish, self.hub)
        self._task.progressed.connect(self._on_progress)
        self._task.returned.connect(self._on_outcome)
        self._task.failed.connect(notify)
        self._task.ended.connect(self._on_ended)
        self.destroyed.connect(self._task.cancel)
        self._set_running(True)
        self._task.start()

    def stop(self) -> None:
        """Cancel the run."""
        if self._task is not None:
            self._task.cancel()
            self.said.setText("cancelling…")

    def toggle_volume(self) -> None:
        """Volume and planes in turn; in a volume the image shines through its labels."""
        if self._viewer.dims.ndisplay == 3:
            self._viewer.dims.ndisplay = 2
            return
        self._show_contours(on=False)  # a volume has none
        self._viewer.dims.ndisplay = 3
        self._viewer.camera.angles = (0, 30, 60)
        for layer in self._viewer.layers:
            new: dict[str, Any] = {}
            if is_image(layer) and not layer.rgb:
                new = {"rendering": "attenuated_mip", "blending": "translucent_no_depth"}
            elif hasattr(layer, "contour"):
                new = {"blending": "translucent", "opacity": 0.7}
            self._shown[layer] = {name: getattr(layer, name) for name in new}, new
            for name, value in new.items():
                setattr(layer, name, value)

    def _on_volume(self, event: Any = None) -> None:
        """Planes again, by whatever button: layers as they were, but for what was chosen in the volume."""
        if self._viewer.dims.ndisplay == 2 and self._shown:
            self._show_contours(self.contours.isChecked())
            for layer, (before, new) in list(self._shown.items()):
                for name in [name for name, value in new.items() if getattr(layer, name) == value]:
                    setattr(layer, name, before[name])
            self._shown.clear()

    def _set_running(self, running: bool) -> None:
        self.run.setEnabled(not running and self._answer is not None and self._answer.ready)
        self.cancel.setEnabled(running)
        self.bar.setVisible(running)
        self.bar.setRange(0, 0)

    def _on_layer(self) -> None:
        """Another layer: hear when the size of its voxels is set, and no longer when that of the one before is."""
        layer, before = self.layer.layer, self._followed()
        if layer is not before:
            for one, act in ((before, "disconnect"), (layer, "connect")):
                for name in () if one is None else (*PLACE, "data"):
                    getattr(one.events[name], act)(self._on_choice)
            self._followed = (lambda: None) if layer is None else weakref.ref(layer)
        self._on_choice()

    def _on_choice(self, *_: Any) -> None:
        """Ask anew whether what is chosen can be run; until then it cannot. Closed, it asks when it is opened."""
        self._answer, self._asked, self._brought = None, None, ""
        self.run.setEnabled(False)
        if self._task is not None or self._dock.closed:
            return
        try:
            layer = self.layer.layer
            self._channels = [] if layer is None else [id(one) for one in self._together()]
            said = "" if layer is None else size_of(layer, self.axes.currentData())
            self.size.setPlaceholderText(said or "not known")
            deep = layer is not None and look_at(layer, self.axes.currentData()).grid.ndim == 3
            self.volume.setEnabled(deep or self._viewer.dims.ndisplay == 3)
            self._asked = self.wish()
        except BiosegError as error:
            self.said.setText(told(error))
            return
        if self._asked is None:
            self.said.setText("Open an image, and choose a model." if self.layer.layer is None else "Choose a model.")
            return
        self.said.setText("checking…")
        self._questions.submit(self._asked)

    def _on_selection(self, event: Any = None) -> None:
        """Other layers are selected: a question only where they are other channels."""
        if self.layer.layer is not None and [id(one) for one in self._together()] != self._channels:
            self._on_choice()

    def _on_step(self, event: Any = None) -> None:
        """Another plane is shown."""
        if self.region.currentText() in ("view", "plane"):
            self._on_choice()

    def _on_camera(self, event: Any = None) -> None:
        """The view moves: ask when it has come to rest."""
        if self.region.currentText() == "view":
            self._moved.start()

    def _ask(self, wish: Wish) -> tuple[Wish, Answer]:
        """In a thread: load the model and compare."""
        return wish, looked_through(wish, answered(wish, self.hub.loaded(wish.model, wish.options)))

    def _on_answer(self, found: tuple[Wish, Answer]) -> None:
        wish, answer = found
        if wish is not self._asked or self._task is not None:
            return
        self._answer = answer
        if not (self._brought and answer.ready):
            self.said.setText(answer.text)
        self.run.setEnabled(answer.ready)
        self._show_place(on=answer.giant is not None or (bool(self.out.text()) and not answer.ready))
        self.out.setPlaceholderText("" if answer.giant is None else answer.giant.out.name)

    def _show_place(self, *, on: bool) -> None:
        """The row of the folder for results, where there are any."""
        for widget in (self._title, self.place):
            widget.setVisible(on)

    def _on_unusable(self, error: Any) -> None:
        self.said.setText(told(error))
        if not isinstance(error, BiosegError):
            notify(error)

    def _on_progress(self, done: int, total: int, stage: str) -> None:
        self.bar.setRange(0, total)
        self.bar.setValue(done)
        self.bar.setFormat("finding objects…" if done == total else f"%v of %m {stage}")
        if self._giant is not None and self._task is not None and not self._task.cancelled:
            self.said.setText(f"segmenting {self._giant.file} in blocks" if total else f"{stage}…")

    def _on_outcome(self, outcome: Outcome) -> None:
        """Add the labels, whatever became of the image meanwhile."""
        self._turns.add_layer(self._viewer, outcome.layer, lambda layer: self._on_added(layer, outcome))
        notes = "".join(f"\n{in_words(note)}" for note in outcome.notes)
        self._done = f"{outcome.said} in {outcome.seconds:.1f} s{notes}"

    def _on_added(self, layer: Any, outcome: Outcome) -> None:
        """The labels are in the viewer, and drawn in its next turn."""
        _tunable(self.hub, layer, outcome)
        if self.contours.isChecked():
            self._show_contours(on=True)

    def _on_ended(self) -> None:
        self._turns.do(self._rest)

    def _rest(self) -> None:
        """All is shown."""
        task, self._task = self._task, None
        brought = self._done
        if task is not None and task.cancelled and not brought:  # else it had ended when Cancel was clicked
            kept = "" if self._giant is None else f"; what was computed is kept in {self._giant.out}, Run goes on there"
            brought = f"cancelled: nothing was added{kept}"
        self._set_running(False)
        self._done = ""
        self._ask_beside(brought)

    def _on_opened(self) -> None:
        """Ask what was not asked while the dock was closed."""
        if self._asked is None:
            self._ask_beside(self._brought)

    def _ask_beside(self, brought: str) -> None:
        """Ask, and leave what a run has brought in sight."""
        self._on_choice()
        if brought:
            self.said.setText(brought)
        self._brought = brought

    def _show_contours(self, on: bool) -> None:
        """Outlines of results in planes; a volume has none."""
        for layer in self._viewer.layers:
            if hasattr(layer, "contour") and layer.metadata.get("model"):
                layer.contour = int(on and self._viewer.dims.ndisplay == 2)


def add_result(viewer: Any, hub: Hub, outcome: Outcome) -> Any:
    """Show the labels, which can be tuned from now on if they were decoded here."""
    return _tunable(hub, add_layer(viewer, outcome.layer), outcome)


def _tunable(hub: Hub, layer: Any, outcome: Outcome) -> Any:
    """The layer, known to those who decode it again."""
    if outcome.result is not None:
        hub.results[layer] = outcome.result
        hub.result_added.emit(layer)
    return layer


def is_image(layer: Any) -> bool:
    """Whether a layer holds intensities."""
    return hasattr(layer, "rgb")
