"""Batch: a folder of images through a model in another process, what became of each, and the results page by page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QFormLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QVBoxLayout,
    QWidget,
)

from .batches import Look, begun, free_folder, known_batches, layers_of, looked, step, summary, table_of
from .columns import Columns, table_view
from .docks import Docked
from .films import LayerData
from .following import Followed
from .options import OPTIONS_TIP
from .remedies import in_words, told
from .rows import beside, button, tool
from .shared import ModelBox, hub_of, own, tipped
from .work import Latest, Task, Turns, notify, task_of

if TYPE_CHECKING:
    from biosegkit.predictions import Batch, Item, Standing

__all__ = ["BatchWidget"]

_TIPS = {"image": "Its path below the folder of images", "objects": "Found in it",
         "state": "waiting, running, done or failed", "message": "Why it failed, or what is unusual"}


class BatchWidget(QWidget):
    """The dock widget ``Batch``."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        Docked(self)
        self._viewer, self.hub = own(napari_viewer), hub_of(napari_viewer)
        self._task: Task | None = None
        self._shown_out: Path | None = None
        self.look: Look | None = None
        #: The layers that are shown of the batch now.
        self.shown: list[Any] = []
        self.items, self._turns = Columns(_TIPS), Turns(self)
        self._build()
        self._opening = Latest(layers_of)
        self._opening.returned.connect(self._on_opened)
        self._opening.failed.connect(self._on_failed)
        self.destroyed.connect(self._opening.cancel)
        self.images.editingFinished.connect(self._on_images)
        self.batches.changed.connect(self._on_batch)
        self.batches.looked.connect(self._on_look)
        self.batches.lost.connect(self._on_failed)
        self.table.selectionModel().currentRowChanged.connect(self._on_row)
        self._enable()
        self.find()

    def _build(self) -> None:
        """What to run, the queue, and the pages."""
        self.model = ModelBox(self.hub)
        self.images = tipped(QLineEdit(), "The folder of images, searched through; a file, or a table with a column "
                             "image, will do too")
        self.out = tipped(QLineEdit(), "The folder for results: a new one")
        self.size = tipped(QLineEdit(), "How far voxels are apart, where the files do not say it or say it wrong: "
                           "z, y, x and their unit, such as 2, 0.5, 0.5 um, or one number for pixels, such as 0.5 um")
        self.size.setPlaceholderText("as the files say")
        self.options = tipped(QLineEdit(), OPTIONS_TIP)
        self.options.setPlaceholderText("as the model has them")
        self.measure = tipped(QCheckBox("measurements"), "Measure every object into the table of its image (CSV)")
        self.geojson = tipped(QCheckBox("GeoJSON"), "Outlines and measurements of every object for QuPath")
        self.run = button("Run", "Predict in a process of its own, which goes on when napari is closed", self.start)
        self.cancel = button("Cancel", "Stop after the image that is at work; results that are there stay", self.stop)
        self.again = button("Resume", "Go on where it was stopped, and try again what failed", self.resume)
        self.batches = Followed(
            looked, known_batches, "Batches beside the images and in the current folder, the newest first",
            tool("Attach…", "Follow a batch in another folder: its results", self.open_batch))
        self.bar = tipped(QProgressBar(), "Images that are done or have failed")
        self.bar.setFormat("%v of %m images")
        self.standing = tipped(QLabel("no batch yet"), "How the batch is")
        self.said = tipped(QLabel(), "What was done last, or what is in the way")
        for label in (self.standing, self.said):
            label.setWordWrap(True)
        self.table = table_view(self.items, "Click an image that is done to see it with its labels, one that has "
                                "failed to read why; click a header to sort")
        self.previous = button("◀ Previous", "Show the result before", lambda: self.page(forward=False))
        self.following = button("Next ▶", "Show the next result", lambda: self.page(forward=True))
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("model", self.model)
        form.addRow("images", beside(self.images, tool("Folder…", "Choose the folder of images", self.open_images)))
        form.addRow("results", self.out)
        form.addRow("voxel size", self.size)
        form.addRow("options", self.options)
        form.addRow("also", beside(self.measure, self.geojson, even=True))
        form.addRow(beside(self.run, self.cancel, self.again, even=True))
        form.addRow("batch", self.batches)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        for widget in (self.bar, self.standing):
            layout.addWidget(widget)
        layout.addWidget(self.table, 1)
        layout.addLayout(beside(self.previous, self.following, even=True))
        layout.addWidget(self.said)

    # begin, stop, resume

    def start(self) -> None:
        """Begin a batch."""
        also = [name for name, box in (("csv", self.measure), ("geojson", self.geojson)) if box.isChecked()]
        self._start(self._on_begun, begun, self.model.model, self.images.text(),
                    self.out.text() or free_folder(self.images.text()), also, self.size.text(), self.options.text())

    def stop(self) -> None:
        """Ask the batch to stop."""
        if self.batch is not None:
            self.said.setText("stopping after this image…")
            self._start(self._on_stopped, self.batch.halt)

    def resume(self) -> None:
        """Go on with a batch that was stopped, or in which images have failed."""
        if self.batch is not None:
            from biosegkit.predictions import resume_batch

            self._start(self._on_begun, resume_batch, self.batch.out)

    def _on_begun(self, batch: Batch) -> None:
        """Follow it, first in the list."""
        self.said.setText("")
        self.batches.put(batch)
        self.out.setText(free_folder(self.images.text()))

    def _on_stopped(self, standing: Standing) -> None:
        self.said.setText("stopped: results that are there stay; Resume goes on")
        self.batches.ask()

    def open_images(self) -> None:
        """Ask for the folder of images."""
        found = QFileDialog.getExistingDirectory(self, "The folder of images")
        if found:
            self.images.setText(found)
            self._on_images()

    def _on_images(self) -> None:
        """Other images: a new folder for results beside them, and the batches that are there."""
        self.out.setText(free_folder(self.images.text()))
        self.find()

    # follow

    @property
    def batch(self) -> Batch | None:
        """The batch that is followed."""
        found: Batch | None = self.batches.process
        return found

    def find(self) -> None:
        """Look for batches beside the images and in the current folder, in a thread."""
        near = [Path(self.images.text()).absolute().parent] if self.images.text() else []
        self.batches.find([*near, self.hub.folder])

    def open_batch(self) -> None:
        """Ask for the results of a batch to attach to."""
        found = QFileDialog.getExistingDirectory(self, "The folder of results of a batch")
        if found:
            self.attach(found)

    def attach(self, out: str) -> None:
        """Follow the batch of a folder of results."""
        from biosegkit.predictions import attach_batch

        self._start(self._on_begun, attach_batch, out)

    def _on_batch(self) -> None:
        """Another batch is followed."""
        out = None if self.batch is None else self.batch.out
        if out is None or out != self._shown_out:  # else it was resumed
            self.items.show({})
        self.look, self._shown_out = None, out
        self._enable()

    def _on_look(self, look: Look) -> None:
        """Show how it is."""
        first, self.look = self.look is None, look
        standing = look.standing
        self.items.update_cells(table_of(standing.items))
        if first:
            self.table.resizeColumnsToContents()
        self.bar.setMaximum(max(1, len(standing.items)))
        self.bar.setValue(standing.count("done") + standing.count("failed"))
        self.standing.setText(summary(standing))
        if standing.name != "running":
            self.batches.rest()
        self._enable()

    # pages

    def page(self, *, forward: bool) -> None:
        """Show the next result in the order of the table, or the one before."""
        if self.look is None:
            return
        states = [self.look.standing.items[row].state for row in self.items.order]
        place = step(states, self.table.currentIndex().row(), forward)
        if place is None:
            self.said.setText("no result " + ("after" if forward else "before") + " this one")
        else:
            self.table.selectRow(place)

    def _on_row(self, index: Any, _: Any = None) -> None:
        """An image is chosen: show it with its labels, or say why there are none."""
        if not index.isValid() or self.look is None:
            return
        item: Item = self.look.standing.items[int(self.items.order[index.row()])]
        self.said.setText(f"{item.name}: {in_words(item.message) or item.state}")
        if item.state == "done":
            self._opening.submit(item)

    def _on_opened(self, layers: list[LayerData]) -> None:
        """Put an image and its labels in the place of those that were shown, a layer at a time."""
        self._turns.do(self._clear)
        for layer in layers:
            self._turns.add_layer(self._viewer, layer, self._on_shown)
        self._turns.do(self._viewer.reset_view)

    def _clear(self) -> None:
        """Let go of what was shown, unless it was edited."""
        if not self.shown:  # the first result: what is open of other images would lie on it
            others = [layer for layer in self._viewer.layers if layer.visible]
            for layer in others:
                layer.visible = False
            if others:
                self.said.setText(f"{self.said.text()}; other layers are hidden")
        if any(layer in self.hub.edited for layer in self.shown):
            kept = ", ".join(layer.name for layer in self.shown if hasattr(layer, "selected_label"))
            self.said.setText(f"{kept} was edited and stays open: save it, or add it to a data set (Retrain)")
            for layer in self.shown:
                layer.visible = False
        else:
            for layer in self.shown:
                if layer in self._viewer.layers:
                    self._viewer.layers.remove(layer)
        self.shown = []

    def _on_shown(self, layer: Any) -> None:
        """One more layer, whose edits are heard of."""
        self.shown.append(layer)
        if hasattr(layer, "selected_label"):
            layer.events.paint.connect(self._on_edit)
            layer.events.labels_update.connect(self._on_edit)

    def _on_edit(self, event: Any) -> None:
        """A stroke of the brush, a fill: what is shown is no longer what was found."""
        self.hub.edited.add(event.source)

    # work

    def _start(self, receive: Callable[[Any], None], function: Callable[..., Any], *arguments: Any) -> None:
        """Work in a thread; the buttons rest meanwhile."""
        if self._task is not None:
            return
        self._task = task_of(self, receive, function, *arguments)
        self._enable()
        self._task.start()

    def _on_ended(self) -> None:
        self._task = None
        self._enable()

    def _on_failed(self, error: BaseException) -> None:
        self.said.setText(told(error))
        notify(error)

    def _enable(self) -> None:
        """Buttons that can do something now."""
        idle, standing = self._task is None, None if self.look is None else self.look.standing
        running = standing is not None and standing.name == "running"
        self.run.setEnabled(idle)
        self.cancel.setEnabled(idle and running)
        self.again.setEnabled(idle and standing is not None and not running
                              and (standing.name != "finished" or standing.count("failed") > 0))
        some = standing is not None and standing.count("done") > 0
        self.previous.setEnabled(some)
        self.following.setEnabled(some)
