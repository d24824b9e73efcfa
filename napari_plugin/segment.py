"""Segment a layer: a model, a region, a check before the run, progress, cancel, and labels that lie on the image."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from biosegkit.errors import BiosegError, DataError

from .layers import Look, home_grid, image_of, look_at, snapshot, stand_in
from .region import REGIONS, Region, frame_of, region_of
from .shared import Hub, LayerBox, ModelBox, Result, hub_of, own, tipped
from .work import Latest, Task, notify

__all__ = ["Answer", "Outcome", "SegmentWidget", "Wish", "add_result", "answered", "outcome_of", "segmented"]

#: Milliseconds after the last move of the view.
_PAUSE = 300
_AXES = {"as the layer says": None, "y x": "yx", "z y x": "zyx", "c y x": "cyx", "c z y x": "czyx", "t y x": "tyx",
         "t z y x": "tzyx"}


@dataclass(frozen=True, eq=False)
class Wish:
    """What is to be segmented: plain data and snapshots of layers, for a thread.

    Parameters
    ----------
    model : str
        MODEL, as on the command line.
    layers : tuple
        Snapshots: one with all channels, or one per channel.
    kind : str
        One of :data:`biosegkit_napari.region.REGIONS`.
    region : Region
    axes : str, optional
        What the layer's axes are, where it does not say.
    frame : int
        Time point.
    tta : bool
        Average mirrored copies.
    sight : int
        Of a layer with several resolutions the one in sight, for a model that knows no pixel size; 0 is the finest.
    """

    model: str
    layers: tuple[Any, ...]
    kind: str
    region: Region
    axes: str | None = None
    frame: int = 0
    tta: bool = False
    sight: int = 0


@dataclass(frozen=True)
class Answer:
    """Whether a wish can be run: what it takes, or what is in the way; and what of the image the model will see."""

    ready: bool
    text: str
    level: int = 0
    window: tuple[slice, ...] = ()


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a wish."""

    result: Result
    prediction: Any
    layer: Any
    seconds: float


def answered(wish: Wish, model: Any) -> Answer:
    """Whether a model fits a wish, without reading a voxel.

    An error is an answer, too: its message is shown beside the choice that it is about.
    """
    from biosegkit.estimate import estimate, level_for

    plan = getattr(model, "plan", None)
    try:
        look = look_at(wish.layers[0], wish.axes)
        spacings = [look.grid.resized(shape).spacing for shape in look.levels]
        level = level_for(plan, spacings, look.grid.unit, wish.sight)
        window = _window(wish, look.grid.ndim, 2 if plan is None else plan.configuration.ndim)
        at_level = replace(look, grid=look.grid.resized(look.levels[level]))
        scaled = _scaled(window, look.levels[0], look.levels[level])
        channels = look.channels if len(wish.layers) == 1 else len(wish.layers)
        image = stand_in(at_level, scaled, channels)
        found = estimate(model, image)
        _refuse_too_large(image, found.memory)
    except BiosegError as error:
        return Answer(False, str(error))
    size = " × ".join(map(str, image.grid.shape))
    unit = "" if image.grid.unit == "px" else " at " + " × ".join(f"{s:.3g}" for s in image.grid.spacing) + (
        f" {image.grid.unit}")
    which = _which(level, look, level_for(plan, spacings, look.grid.unit, -1) < 0)
    return Answer(True, f"{size} voxels{unit}{which}. {found}".strip(), level, scaled)


def segmented(wish: Wish, answer: Answer, hub: Hub) -> Outcome:
    """Read the region, run the model, decode: in a thread."""
    from biosegkit.live import live

    begun = time.monotonic()
    model = hub.loaded(wish.model)
    image = image_of(wish.layers, axes=wish.axes, frame=wish.frame, level=answer.level, window=answer.window)
    result = Result(live(model, image, tta=wish.tta), model, wish.model)
    made = outcome_of(result, f"{wish.layers[0].name} {Path(wish.model).stem}", begun)
    made.layer.metadata["image"] = home_grid(wish.layers[0], wish.axes).to_dict()
    return made


def _which(level: int, look: Look, sizeless: bool) -> str:
    """Which of several resolutions a model gets, and why."""
    if len(look.levels) == 1:
        return ""
    why = "that of the model"
    if sizeless:
        why = "the one in sight: zoom in for a finer one" if level else "the finest"
    return f", resolution {level + 1} of {len(look.levels)}, {why}"


def _window(wish: Wish, axes: int, model_axes: int) -> tuple[slice, ...]:
    """The region with the planes that a model of so many axes needs."""
    window, plane = wish.region
    if plane is None or wish.kind in ("whole", "rectangle"):
        return window
    if model_axes == 3 and wish.kind == "plane":
        raise DataError("a single plane", expected="a volume, which this model was trained on",
                        remedy="choose the whole image, this view, or a 2D model")
    return window if model_axes == axes else (slice(plane, plane + 1), *window[1:])


def _scaled(window: tuple[slice, ...], finest: tuple[int, ...], level: tuple[int, ...]) -> tuple[slice, ...]:
    """The window at another resolution."""
    return tuple(slice(w.start * m // n, max(w.start * m // n + 1, -(-w.stop * m // n)))
                 for w, n, m in zip(window, finest, level, strict=True))


def _refuse_too_large(image: Any, memory: int | None) -> None:
    """What cannot be held is refused before it is read."""
    import psutil

    from biosegkit.plan.units import memory_text

    needed = image.array.size * image.array.dtype.itemsize + (memory or 0)
    there = psutil.virtual_memory().available
    if needed > 0.8 * there:
        raise DataError(f"{memory_text(needed)} needed", file=image.source,
                        expected=f"{memory_text(0.8 * there)} at most",
                        remedy="choose this view or a rectangle, or predict the file with Batch")


class SegmentWidget(QWidget):
    """The dock widget ``Segment``."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self._viewer, self.hub = own(napari_viewer), hub_of(napari_viewer)
        self._task: Task | None = None
        self._asked: Wish | None = None
        self._answer: Answer | None = None
        #: What a run has brought, shown until something else is chosen; and that of the run that is about to end.
        self._brought = self._done = ""
        self._build()
        self._questions = Latest(self._ask)
        self._questions.returned.connect(self._on_answer)
        self._questions.failed.connect(self._on_unusable)
        self._viewer.dims.events.current_step.connect(self._on_step)
        self._moved = QTimer(self, singleShot=True, interval=_PAUSE)
        self._moved.timeout.connect(self._on_step)
        self._viewer.camera.events.connect(self._on_camera)
        for signal in (self.layer.changed, self.model.changed):
            signal.connect(self._on_choice)
        for signal in (self.region.currentIndexChanged, self.axes.currentIndexChanged):
            signal.connect(self._on_choice)
        self._on_choice()

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
                              ("axes", self.axes)):
            form.addRow(title, widget)
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
        layers = [one for one in self._viewer.layers if one in self._viewer.layers.selection and is_image(one)]
        together = layers if len(layers) > 1 and layer in layers else [layer]
        return Wish(self.model.model, tuple(snapshot(one) for one in together), kind,
                    region_of(kind, self._viewer, layer, look), axes, frame_of(self._viewer, layer, look),
                    self.tta.isChecked(), layer.data_level if kind == "view" and layer.multiscale else 0)

    def start(self) -> None:
        """Run what is chosen."""
        try:
            wish = self.wish()
        except BiosegError as error:
            notify(error)
            return
        if wish is None or self._task is not None:
            return
        self._task = Task(_run, wish, self.hub)
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
        deep = self._viewer.dims.ndisplay == 2
        self._viewer.dims.ndisplay = 3 if deep else 2
        if deep:
            self._viewer.camera.angles = (0, 30, 60)
            for layer in self._viewer.layers:
                if is_image(layer) and not layer.rgb:
                    layer.rendering, layer.blending = "attenuated_mip", "translucent_no_depth"
                elif hasattr(layer, "contour"):
                    layer.blending, layer.opacity = "translucent", 0.7

    def _set_running(self, running: bool) -> None:
        self.run.setEnabled(not running and self._answer is not None and self._answer.ready)
        self.cancel.setEnabled(running)
        self.bar.setVisible(running)
        self.bar.setRange(0, 0)

    def _on_choice(self, *_: Any) -> None:
        """Ask anew whether what is chosen can be run; until then it cannot."""
        self._answer, self._brought = None, ""
        self.run.setEnabled(False)
        if self._task is not None:
            return
        try:
            self._asked = self.wish()
        except BiosegError as error:
            self._asked = None
            self.said.setText(str(error))
            return
        if self._asked is None:
            self.said.setText("Open an image, and choose a model." if self.layer.layer is None else "Choose a model.")
            return
        self.said.setText("checking…")
        self._questions.submit(self._asked)

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
        return wish, answered(wish, self.hub.loaded(wish.model))

    def _on_answer(self, found: tuple[Wish, Answer]) -> None:
        wish, answer = found
        if wish is not self._asked or self._task is not None:
            return
        self._answer = answer
        if not (self._brought and answer.ready):
            self.said.setText(answer.text)
        self.run.setEnabled(answer.ready)

    def _on_unusable(self, error: Any) -> None:
        self.said.setText(str(error))
        if not isinstance(error, BiosegError):
            notify(error)

    def _on_progress(self, done: int, total: int, stage: str) -> None:
        self.bar.setRange(0, total)
        self.bar.setValue(done)
        self.bar.setFormat("finding objects…" if done == total else f"%v of %m {stage}")

    def _on_outcome(self, outcome: Outcome) -> None:
        """Add the labels, whatever became of the image meanwhile."""
        layer = add_result(self._viewer, self.hub, outcome)
        layer.contour = 1 if self.contours.isChecked() and layer.ndim == 2 else layer.contour
        objects = outcome.prediction.objects
        count = f"{len(objects['id'])} objects" if "id" in objects else f"{outcome.prediction.labels.count} classes"
        notes = "".join(f"\n{note}" for note in outcome.prediction.notes)
        self._done = f"{count} in {outcome.seconds:.1f} s{notes}"

    def _on_ended(self) -> None:
        task, self._task = self._task, None
        brought = "cancelled: nothing was added" if task is not None and task.cancelled else self._done
        self._set_running(False)
        self._on_choice()
        if brought:
            self.said.setText(brought)
        self._done, self._brought = "", brought

    def _show_contours(self, on: bool) -> None:
        for layer in self.hub.results:
            layer.contour = int(on)


def _run(wish: Wish, hub: Hub) -> Outcome:
    """In a thread: check once more, then segment."""
    answer = answered(wish, hub.loaded(wish.model))
    if not answer.ready:
        raise DataError(answer.text)
    return segmented(wish, answer, hub)


def add_result(viewer: Any, hub: Hub, outcome: Outcome) -> Any:
    """Show the labels, which can be tuned from now on."""
    layer = viewer.add_layer(outcome.layer)
    hub.results[layer] = outcome.result
    hub.result_added.emit(layer)
    return layer


def outcome_of(result: Result, name: str, begun: float) -> Outcome:
    """Decode, and make the layer as far as it needs no viewer: in a thread."""
    from napari.layers import Layer

    from biosegkit.viewing import label_layer

    prediction = result.live.decode()
    data, settings, kind = label_layer(prediction.labels, name, prediction.objects)
    settings["metadata"]["model"] = result.model_name
    return Outcome(result, prediction, Layer.create(data, settings, kind), time.monotonic() - begun)


def is_image(layer: Any) -> bool:
    """Whether a layer holds intensities."""
    return hasattr(layer, "rgb")
