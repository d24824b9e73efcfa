"""Measure: a table of objects linked to their layer, and what differs from a reference, in figures and in colours."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QTableView,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from biosegkit.errors import BiosegError

from .columns import Columns, table_view
from .docks import Docked
from .films import LayerData
from .layers import is_labels, look_at, snapshot
from .measurement import Comparison, Question, compared, measured, place_in, shown_columns
from .region import frame_of, look_to
from .remedies import told
from .segment import is_image
from .shared import LayerBox, own, tipped
from .work import Latest, Task, Turns, notify, task_of

__all__ = ["MeasureWidget"]

_TASKS = {"objects": "instance", "classes": "semantic"}
_TIPS = {
    "id": "The value of the object in its layer", "area": "Pixels or voxels",
    "class": "The value of the class in its layer",
    "solidity": "Share of the pixels of the convex hull; 1: convex",
    "circularity": "4 π area / perimeter²; 1: a disc, small objects can exceed it",
    "eccentricity": "Of the ellipse with the same second moments; 0: a circle",
    "what": "False positive: there is no such object in the reference. Miss: an object of the reference that was not "
            "found. Piece: several found objects make up one of the reference. Merged: one found object holds several",
    "layer": "Where the object is: the labels, or the reference",
    "score": "AP, F1, PQ: objects matched by IoU. Of the foreground: all objects together as one mask",
}


class MeasureWidget(QWidget):
    """The dock widget ``Measure``."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        Docked(self)
        self._viewer = own(napari_viewer)
        self._task: Task | None = None
        #: The layers that the two tables are about, and the time point.
        self._measured: Callable[[], Any] = lambda: None
        self._compared: tuple[Callable[[], Any], Callable[[], Any]] = (lambda: None, lambda: None)
        self._errors: Callable[[], Any] = lambda: None
        self._frame, self._moment = 0, ""
        #: Looks for a voxel of the object of a row.
        self._finding = Latest(lambda asked: (asked[0], place_in(*asked[1:])))
        self._finding.returned.connect(self._on_place)
        self._finding.failed.connect(self._on_failed)
        self.destroyed.connect(self._finding.cancel)
        #: What is left to be shown of a comparison.
        self._turns = Turns(self)
        self.objects, self.scores, self.errors = Columns(_TIPS), Columns(_TIPS), Columns(_TIPS)
        self._table: dict[str, Any] = {}
        self._wrong: dict[str, Any] = {}
        self._build()
        for box in (self.layer, self.reference):
            box.changed.connect(self._on_layer)
        self._on_layer()

    def _build(self) -> None:
        """Choices, and a page each for measuring and comparing."""
        self.layer = LayerBox(self._viewer, is_labels, "The labels to measure")
        self.image = LayerBox(self._viewer, is_image, "Whose intensities are measured, channel by channel; several "
                              "selected layers are measured together", optional=True)
        self.reference = LayerBox(self._viewer, is_labels, "The labels that are right, to compare with",
                                  optional=True)
        self.kind = tipped(QComboBox(), "Whether each value of the labels stands for an object or for a class")
        self.kind.addItems(list(_TASKS))
        self.said = tipped(QLabel(), "What was found, or what is in the way")
        self.said.setWordWrap(True)
        self.measure = tipped(QPushButton("Measure"), "Size, shape and intensities of every object")
        self.save = tipped(QPushButton("Save CSV…"), "Save the table, all columns and digits")
        self.compare = tipped(QPushButton("Compare"), "Scores against the reference, and a layer of what is wrong: "
                              "orange false positives, blue misses, pink splits, yellow merges")
        self.cancel = tipped(QPushButton("Cancel"), "Stop measuring or comparing; nothing is changed")
        self.measure.clicked.connect(self.start)
        self.cancel.clicked.connect(self.stop)
        self.save.clicked.connect(self.save_table)
        self.compare.clicked.connect(self.start_comparison)
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        form.addRow("labels", self.layer)
        form.addRow("values are", self.kind)
        self.table = table_view(self.objects, "Click a row to go to the object; click a header to sort")
        self.table.selectionModel().currentRowChanged.connect(self._on_row)
        self.score_table = table_view(self.scores, "How far the labels agree with the reference")
        self.error_table = table_view(self.errors, "Click a row to go to what is wrong")
        self.error_table.selectionModel().currentRowChanged.connect(self._on_error_row)
        self.pages = tipped(QTabWidget(), "Measure the objects, or compare them with a reference")
        self.pages.addTab(_page("image", self.image, (self.measure, self.save), (self.table,)), "Objects")
        self.pages.addTab(_page("reference", self.reference, (self.compare,), (self.score_table, self.error_table)),
                          "Comparison")
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addWidget(self.pages, 1)
        layout.addWidget(self.said)
        layout.addWidget(self.cancel)

    # what is asked

    def start(self) -> None:
        """Measure the labels that are chosen."""
        layer = self.layer.layer
        if layer is None or self._task is not None:
            return
        image = self.image.layer
        together = [one for one in self._viewer.layers if is_image(one) and one in self._viewer.layers.selection]
        images = () if image is None else tuple(together) if image in together else (image,)
        question = self._question(layer, images)
        if question is not None:
            self._watch(layer)
            self.said.setText("measuring…")
            self._start(lambda found: self._on_measured(question, *found), measured, question)

    def start_comparison(self) -> None:
        """Compare the labels with the reference."""
        layer, reference = self.layer.layer, self.reference.layer
        if layer is None or reference is None or self._task is not None:
            return
        question = self._question(layer, (), reference)
        if question is not None:
            self._compared = weakref.ref(layer), weakref.ref(reference)
            self.said.setText("comparing…")
            self._start(self._on_compared, compared, question)

    def stop(self) -> None:
        """Cancel what is at work: at its next step, and whatever it finds is dropped."""
        if self._task is not None:
            self._task.cancel()
            self.said.setText("cancelling…")
            self.cancel.setEnabled(False)

    def save_table(self) -> None:
        """Save what was measured to a file that is asked for."""
        layer = self._measured()
        path, _ = QFileDialog.getSaveFileName(self, "Save the table", f"{layer.name if layer else 'objects'}.csv",
                                              "CSV (*.csv)")
        if path:
            self.write(path)

    def write(self, path: str) -> None:
        """Write the table to a file."""
        if self._table and self._task is None:
            self._start(lambda _: self.said.setText(f"saved {path}"), _written, self._table, path)

    def _question(self, layer: Any, images: tuple[Any, ...], reference: Any = None) -> Question | None:
        """What is chosen, as plain data; the time point is that of whichever layer is a time series."""
        together = [one for one in (layer, *images, reference) if one is not None]
        try:
            series = max(together, key=lambda one: look_at(one).frames)
            frame = frame_of(self._viewer, series, look_at(series))
            self._moment = f", time point {frame}" if look_at(series).frames > 1 else ""
        except BiosegError as error:
            self._on_failed(error)
            return None
        self._frame = frame
        return Question(snapshot(layer), tuple(snapshot(one) for one in images), reference and snapshot(reference),
                        _TASKS[self.kind.currentText()], frame, layer.features)

    def _start(self, receive: Callable[[Any], None], function: Callable[..., Any], *arguments: Any) -> None:
        """Work in a thread; the buttons rest meanwhile."""
        self._task = task_of(self, receive, function, *arguments)
        self._enable()
        self._task.start()

    def _on_ended(self) -> None:
        self.cancel.setEnabled(False)
        self._turns.do(self._rest)

    def _rest(self) -> None:
        """All is shown."""
        task, self._task = self._task, None
        if task is not None and task.cancelled:
            self.said.setText("cancelled: nothing was changed")
        self._enable()

    def _on_failed(self, error: BaseException) -> None:
        self.said.setText(told(error))
        notify(error)

    # what is shown

    def _on_measured(self, question: Question, table: dict[str, Any], features: Any) -> None:
        """Show the table, and let the layer know what its objects are."""
        self._table = table
        self.objects.show(shown_columns(table))
        self.table.resizeColumnsToContents()
        rows = len(next(iter(table.values())))
        self.said.setText(f"{rows} {self.kind.currentText()} of {question.labels.name}{self._moment}")
        layer = self._measured()
        if layer is not None and layer in self._viewer.layers:
            layer.features = features

    def _on_compared(self, found: Comparison) -> None:
        """Show scores and errors, and then the latter as a layer in the place of the one before."""
        self._wrong = found.errors
        self.scores.show(found.scores)
        self.score_table.resizeColumnsToContents()
        first = {name: found.errors[name] for name in ("what", "id", "layer") if name in found.errors}
        self.errors.show({**first, **{k: v for k, v in shown_columns(found.errors).items() if k not in first}})
        self.error_table.resizeColumnsToContents()
        self.said.setText(f"{found.said}{self._moment}")
        self._turns.do(lambda: self._show_errors(found.layer))

    def _show_errors(self, made: LayerData) -> None:
        """Show what is wrong: in the layer of the errors before where that fits, else in a new one."""
        data, settings, _ = made
        before = self._errors()
        if before is not None and before in self._viewer.layers:
            fits = before.data.shape == data.shape and list(before.features["what"]) == settings["features"]["what"]
            if fits and _same_place(before, settings):
                before.data, before.name = data, settings["name"]
                return
            self._viewer.layers.remove(before)
        active, chosen = self._viewer.layers.selection.active, self.layer.layer

        def added(layer: Any) -> None:
            self._errors = weakref.ref(layer)
            if active is not None and active in self._viewer.layers:  # the labels stay what is worked at
                self._viewer.layers.selection.active = active
                self.layer.layer = chosen

        self._turns.add_layer(self._viewer, made, added)

    def _on_row(self, index: Any, _: Any = None) -> None:
        """A row of the table: go to its object and take its value."""
        if index.isValid():
            self._go(self._measured(), self._table, int(self.objects.order[index.row()]))

    def _on_error_row(self, index: Any, _: Any = None) -> None:
        """A row of what is wrong: go there, in the layer that it is in."""
        if index.isValid():
            row = int(self.errors.order[index.row()])
            found, true = (layer() for layer in self._compared)
            of_reference = self._wrong["what"][row] in ("miss", "merged object")
            self._go(true if of_reference else found, self._wrong, row)

    def _go(self, layer: Any, table: dict[str, Any], row: int) -> None:
        """Show an object of a layer and select its value."""
        if layer is None or layer not in self._viewer.layers:
            self.said.setText("The layer of this table was deleted.")
            return
        layer.selected_label = int(table["id" if "id" in table else "class"][row])
        self._finding.submit((layer, snapshot(layer), table, row, self._frame))

    def _on_place(self, found: tuple[Any, tuple[float, ...]]) -> None:
        """Where the object of a row is."""
        layer, place = found
        if layer in self._viewer.layers:
            look_to(self._viewer, layer, place)

    def _watch(self, layer: Any) -> None:
        """Follow which value is selected in a layer, and in no other."""
        before = self._measured()
        if before is layer:
            return
        if before is not None:
            before.events.selected_label.disconnect(self._on_selected)
        self._measured, self._table = weakref.ref(layer), {}
        self.objects.show({})
        layer.events.selected_label.connect(self._on_selected)

    def _on_selected(self, event: Any = None) -> None:
        """Another value is selected in the layer: its row, too."""
        layer = self._measured()
        ids = self._table.get("id", self._table.get("class"))
        if layer is None or ids is None:
            return
        rows = (ids == layer.selected_label).nonzero()[0]
        if len(rows) and self.objects.order[self.table.currentIndex().row()] != rows[0]:
            self.table.selectionModel().blockSignals(True)
            self.table.selectRow(self.objects.place_of(int(rows[0])))
            self.table.selectionModel().blockSignals(False)
            self.table.viewport().update()

    def _on_layer(self) -> None:
        """Another choice: what its values are, if it says so."""
        layer = self.layer.layer
        task = None if layer is None else layer.metadata.get("task")
        if task in _TASKS.values():
            self.kind.setCurrentIndex(list(_TASKS.values()).index(task))
        if layer is None:
            self.said.setText("Open or make labels first.")
        self._enable()

    def _enable(self) -> None:
        """Buttons that can do something now."""
        idle, layer, reference = self._task is None, self.layer.layer, self.reference.layer
        self.cancel.setEnabled(not idle)
        self.measure.setEnabled(idle and layer is not None)
        self.save.setEnabled(idle and bool(self._table))
        self.compare.setEnabled(idle and layer is not None and reference is not None and reference is not layer)


def _same_place(layer: Any, settings: dict[str, Any]) -> bool:
    """Whether a layer lies where the settings of another put that."""
    there = layer.affine.affine_matrix if "affine" in settings else (*layer.scale, *layer.translate)
    wanted = settings.get("affine", (*settings.get("scale", ()), *settings.get("translate", ())))
    return bool(np.shape(there) == np.shape(wanted) and np.allclose(there, wanted))


def _page(title: str, box: LayerBox, buttons: tuple[QPushButton, ...], tables: tuple[QTableView, ...]) -> QWidget:
    """A choice, buttons, and tables below them."""
    page = QWidget()
    form, row, layout = QFormLayout(), QHBoxLayout(), QVBoxLayout(page)
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
    form.addRow(title, box)
    for button in buttons:
        row.addWidget(button)
    layout.addLayout(form)
    layout.addLayout(row)
    for table in tables:
        layout.addWidget(table, 1)
    return page


def _written(table: dict[str, Any], path: str) -> None:
    """In a thread: the table as CSV."""
    from biosegkit.outputs import write_csv

    write_csv(table, path)
