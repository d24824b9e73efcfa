"""Retrain: add corrected images to a data set, train in another process, follow it, and see what it has brought."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QGroupBox,
    QLabel,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from biosegkit._words import counted
from biosegkit.errors import BiosegError

from .curve import Curve
from .docks import Docked
from .following import Followed
from .layers import is_labels, look_at, snapshot
from .region import frame_of
from .remedies import in_words, told
from .rows import beside, button, tool
from .segment import is_image
from .shared import LayerBox, as_wide_as_there_is_room, hub_of, own, tipped
from .trainings import (
    Addition,
    Look,
    added,
    begun,
    brought,
    can_be_judged,
    free_folder,
    known_runs,
    looked,
    name_of,
    options_of,
    recorded_task,
    started_from,
)
from .work import Task, notify, task_of

if TYPE_CHECKING:
    from biosegkit.curate import Added
    from biosegkit.runs import Handle, State

__all__ = ["RetrainWidget"]

_TASKS = {"objects": "instance", "classes": "semantic"}


class RetrainWidget(QWidget):
    """The dock widget ``Retrain``."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        Docked(self)
        self._viewer, self.hub = own(napari_viewer), hub_of(napari_viewer)
        self._task: Task | None = None
        self.look: Look | None = None
        #: The image that the name in its row is of.
        self._named: Callable[[], Any] = lambda: None
        self._build()
        self.hub.models_changed.connect(self._on_models)
        self.layer.changed.connect(self._on_layer)
        self.image.changed.connect(self._on_image)
        self._viewer.dims.events.current_step.connect(self._name)
        self.dataset.editingFinished.connect(self._on_dataset)
        self.runs.changed.connect(self._on_run)
        self.runs.looked.connect(self._on_look)
        self.runs.lost.connect(self._on_failed)
        self._on_models()
        self._on_image()
        self._on_layer()
        self._enable()
        self.find()
        if not self.hub.rows:
            self.hub.refresh()

    def _build(self) -> None:
        """Three steps below each other: add, train, follow."""
        self.image = LayerBox(self._viewer, is_image, "The image to learn from; several selected layers are "
                              "its channels")
        self.layer = LayerBox(self._viewer, is_labels, "Its labels, corrected: whatever is not labelled is background")
        self.kind = tipped(QComboBox(), "Whether each value of the labels stands for an object or for a class")
        self.kind.addItems(list(_TASKS))
        self.dataset = tipped(QLineEdit(), "The folder of the data set: a new one, or one with images/ and labels/")
        self.name = tipped(QLineEdit(), "What the image is called in the data set")
        self.replace = tipped(QCheckBox("replace"), "Replace an image of that name")
        self.add = button("Add to data set", "Write image, labels and where they come from into the data set",
                           self.start_adding)
        self.start = tipped(QComboBox(), "The model to begin with; the new one has its network, spacing and method")
        self.budget = tipped(QLineEdit("15m"), "How long the training may take, all of it: 90s, 15m, 2h")
        self.out = tipped(QLineEdit(), "The folder of the new model")
        self.train = button("Train", "Train in a process of its own, which goes on when napari is closed",
                             self.start_training)
        self.runs = Followed(
            looked, known_runs, "Trainings beside the data set and in the current folder, the newest first",
            tool("Attach…", "Follow a training in another folder: its RUN folder", self.open_run))
        self.stop = button("Stop", "Stop after the current step; it can be resumed", self.stop_training)
        self.again = button("Resume", "Go on where it was stopped; if it had too little time, begin again with that in "
                            "the row time", self.resume_training)
        self.judge = button("Before and after", "Score the model before on the images that the new one has not seen",
                             self.start_judging)
        self.said = tipped(QLabel(), "What was done last, or what is in the way")
        self.standing = tipped(QLabel("no training yet"), "How the training is, its last step, and what it has brought")
        for label in (self.said, self.standing):
            label.setWordWrap(True)
        self.curve = Curve()
        as_wide_as_there_is_room(self.start)
        name = beside(self.name, self.replace)
        layout = QVBoxLayout(self)
        for title, rows, buttons in (
            ("1. Add this image", (("image", self.image), ("labels", self.layer), ("values are", self.kind),
                                   ("data set", beside(self.dataset, tool(
                                       "Folder…", "Choose the folder of the data set", self.open_dataset))),
                                   ("name", name)), (self.add,)),
            ("2. Train", (("begin with", self.start), ("time", self.budget), ("new model", self.out)),
             (self.train,)),
            ("3. Follow", (("training", self.runs), ("", self.curve), ("", self.standing)),
             (self.stop, self.again, self.judge))):
            layout.addWidget(_group(title, rows, buttons))
        layout.addWidget(self.said)
        layout.addStretch()

    # add

    def start_adding(self) -> None:
        """Add image and labels to the data set."""
        image, labels = self.image.layer, self.layer.layer
        if image is None or labels is None or self._task is not None:
            self.said.setText("Choose an image and its labels first.")
            return
        together = [one for one in self._viewer.layers if is_image(one) and one in self._viewer.layers.selection]
        images = tuple(snapshot(one) for one in (together if image in together else [image]))
        try:
            series = image if look_at(image).frames > 1 else labels
            frame = frame_of(self._viewer, series, look_at(series))
        except BiosegError as error:
            self._on_failed(error)
            return
        self._start(self._on_added, added, Addition(
            self.dataset.text(), self.name.text() or name_of(image), images, snapshot(labels),
            _TASKS[self.kind.currentText()], frame, self.replace.isChecked()))

    def _on_added(self, found: Added) -> None:
        notes = "".join(f"\n{in_words(note)}" for note in found.notes)
        self.said.setText(f"added {found.name}: {counted(found.cases, 'image')} in {self.dataset.text()}{notes}")
        if not self.out.text():
            self._on_dataset()

    def open_dataset(self) -> None:
        """Ask for the folder of the data set."""
        found = QFileDialog.getExistingDirectory(self, "The data set: a new folder, or one with images/ and labels/")
        if found:
            self.dataset.setText(found)
            self._on_dataset()

    def _on_dataset(self) -> None:
        """Another data set: a new model beside it, and the trainings that are there."""
        self.out.setText(free_folder(self.dataset.text()))
        self._on_layer()
        self.find()

    def _on_layer(self) -> None:
        """Other labels: what their values are, by themselves or by the data set, and a name for the image."""
        layer = self.layer.layer
        task = None if layer is None else layer.metadata.get("task") or recorded_task(self.dataset.text())
        if task in _TASKS.values():
            self.kind.setCurrentIndex(list(_TASKS.values()).index(task))
        self._name()

    def _on_image(self) -> None:
        """Another image: a name that was written was of the one before, and so was the wish to replace it."""
        image = self.image.layer
        if image is not self._named():
            self._named = (lambda: None) if image is None else weakref.ref(image)
            self.name.setModified(False)
            self.replace.setChecked(False)
        self._name()

    def _name(self, event: Any = None) -> None:
        """What the image may be called, of a time series with the time point that is shown."""
        image = self.image.layer
        if image is None or self.name.isModified():
            return
        try:
            look = look_at(image)
            moment = f"_t{frame_of(self._viewer, image, look)}" if look.frames > 1 else ""
        except BiosegError:  # it is told when it is added
            moment = ""
        self.name.setText(name_of(image) + moment)

    # train

    def start_training(self) -> None:
        """Begin a training."""
        try:
            options = options_of(self.budget.text(), str(self.start.currentData() or ""),
                                 _TASKS[self.kind.currentText()])
        except BiosegError as error:
            self._on_failed(error)
            return
        if self._task is None:
            self._start(self._on_begun, begun, self.dataset.text(), self.out.text(), options)

    def _on_begun(self, handle: Handle) -> None:
        """Follow it, first in the list."""
        self.said.setText("")
        self.runs.put(handle)
        self.out.setText(free_folder(self.dataset.text()))

    def _on_models(self) -> None:
        """Models that a training can begin with: those with weights of our own."""
        chosen = self.start.currentData()
        self.start.clear()
        self.start.addItem("(nothing: a new network)", "")
        for row in self.hub.rows:
            if Path(row.model).is_dir() or row.model.endswith(".zip"):
                self.start.addItem(row.title, row.model)
                self.start.setItemData(self.start.count() - 1, f"{row.model}\n{row.about}", 3)  # its tooltip
        self.start.setCurrentIndex(max(0, self.start.findData(chosen)))
        self._list()

    # follow

    def find(self) -> None:
        """Look for trainings beside the data set and in the current folder, in a thread."""
        near = [Path(self.dataset.text()).absolute().parent] if self.dataset.text() else []
        self.runs.find([*near, self.hub.folder])

    @property
    def handle(self) -> Handle | None:
        """The training that is followed."""
        found: Handle | None = self.runs.process
        return found

    def open_run(self) -> None:
        """Ask for a RUN folder to attach to."""
        found = QFileDialog.getExistingDirectory(self, "The RUN folder of a training")
        if found:
            self.attach(found)

    def attach(self, out: str) -> None:
        """Follow the training of a RUN folder."""
        from biosegkit.runs import attach

        try:
            self._on_begun(attach(out))
        except BiosegError as error:
            self._on_failed(error)

    def _on_run(self) -> None:
        """Another training is followed, from the beginning of its curve."""
        self.look = None
        self.curve.clear()
        self.standing.setText("no training yet" if self.handle is None else "looking at it…")
        if self.handle is not None:
            self.handle.rewind()
        self._enable()

    def _on_look(self, look: Look) -> None:
        """Show how it is; when it has just been finished, list the model and score the one before."""
        before, self.look = self.look, look
        self.curve.add(look.points)
        parts = [f"{look.state.name}: {look.said or in_words(look.state.message)}".rstrip(": ")]
        if look.state.enough:
            self.budget.setText(look.state.enough)
            parts.append("that time is in the row time now, where more can be given; Resume begins again with it")
        else:
            parts.append(self.curve.points.text)
        self.standing.setText("\n".join(part for part in parts if part))
        if look.state.name != "running":
            self.runs.rest()
        if look.state.name == "finished" and (before is None or before.state.name == "running"):
            if before is not None:
                self.hub.add_model(str(look.handle.out))
            if not look.judged and can_be_judged(look.handle):
                self.start_judging()
        self._list()
        self._enable()

    def _list(self) -> None:
        """The model of a training that has ended belongs in the list of models, wherever it is."""
        look = self.look
        if look is not None and look.state.name == "finished" and not self.hub.lists(str(look.handle.out)):
            self.hub.add_model(str(look.handle.out))

    def stop_training(self) -> None:
        """Ask the training to stop."""
        if self.handle is not None and self._task is None:
            self.said.setText("stopping after this step…")
            self._start(self._on_stopped, self.handle.stop)

    def _on_stopped(self, state: State) -> None:
        self.said.setText(f"{state.name}; {state.message}")
        self.runs.ask()

    def resume_training(self) -> None:
        """Go on with a training that was stopped; one that had too little time begins again with what is written."""
        from biosegkit.runs import resume

        if self.handle is not None and self.look is not None and self._task is None:
            self._start(self._on_begun, resume, self.handle.out,
                        self.budget.text() if self.look.state.enough else None)

    def start_judging(self) -> None:
        """Score the model before on the held-back images of the new one."""
        handle = self.handle
        if handle is not None and self._task is None and started_from(handle):
            self._start(lambda _: self._on_judged(handle), brought, handle)
            self.said.setText("scoring the model before on the held-back images…")

    def _on_judged(self, handle: Handle) -> None:
        self.said.setText("")
        self.hub.add_model(str(handle.out))
        self.runs.ask()

    # work

    def _start(self, receive: Callable[[Any], None], function: Callable[..., Any], *arguments: Any) -> None:
        """Work in a thread; the buttons rest meanwhile."""
        self._task = task_of(self, receive, function, *arguments)
        self._task.progressed.connect(self._on_progress)
        self._enable()
        self._task.start()

    def _on_progress(self, done: int, total: int, stage: str) -> None:
        if stage == "images":
            self.said.setText(f"scoring the model before: image {done + 1} of {total}")

    def _on_ended(self) -> None:
        self._task = None
        self._enable()

    def _on_failed(self, error: BaseException) -> None:
        self.said.setText(told(error))
        notify(error)

    def _enable(self) -> None:
        """Buttons that can do something now."""
        idle, state = self._task is None, None if self.look is None else self.look.state.name
        for one in (self.add, self.train):
            one.setEnabled(idle)
        self.stop.setEnabled(idle and state == "running")
        self.again.setEnabled(idle and state in ("stopped", "failed"))
        self.judge.setEnabled(idle and state == "finished" and self.look is not None
                              and bool(started_from(self.look.handle)))


def _group(title: str, rows: tuple[tuple[str, Any], ...], buttons: tuple[QPushButton, ...]) -> QGroupBox:
    """A step: its rows, and what can be done."""
    group = QGroupBox(title)
    form = QFormLayout(group)
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    for name, widget in rows:
        if name:
            form.addRow(name, widget)
        else:
            form.addRow(widget)
    form.addRow(beside(*buttons, even=True))
    return group
