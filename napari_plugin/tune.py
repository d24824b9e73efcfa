"""Tune a result: sliders of the method's thresholds decode it again, without the network and without waiting."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Qt, Signal
from qtpy.QtWidgets import QDoubleSpinBox, QFormLayout, QHBoxLayout, QLabel, QPushButton, QSlider, QVBoxLayout, QWidget

from biosegkit._words import counted

from .docks import Docked
from .films import Frame, blank
from .layers import axes_of
from .shared import LayerBox, Result, hub_of, own, tipped
from .work import Latest, Task, notify, paint_later

if TYPE_CHECKING:
    from biosegkit.image import Labels
    from biosegkit.live import Live

__all__ = ["Scale", "TuneWidget", "decoded", "shares"]

#: Positions of a slider, and the width of a range beyond which it is logarithmic.
_POSITIONS, _WIDE = 200, 1000.0


@dataclass(frozen=True)
class Scale:
    """Positions of a slider and values of a threshold; a wide range is logarithmic, so that its small values are near.

    Examples
    --------
    >>> Scale(0.1, 0.9).value(100), Scale(0.1, 0.9).position(0.5)
    (0.5, 100)
    >>> wide = Scale(0, 1e6)
    >>> wide.value(0), wide.value(200), wide.position(wide.value(73))
    (0.0, 1000000.0, 73)
    """

    low: float
    high: float

    @property
    def wide(self) -> bool:
        """Whether it is logarithmic."""
        return self.high - self.low > _WIDE

    def value(self, position: int) -> float:
        """The threshold at a position of 0 to 200."""
        share = position / _POSITIONS
        if not self.wide:
            return round(self.low + share * (self.high - self.low), 6)
        return float(self.low + (1 + self.high - self.low) ** share - 1)

    def position(self, value: float) -> int:
        """The position nearest to a threshold."""
        from math import log1p

        span = self.high - self.low
        share = log1p(value - self.low) / log1p(span) if self.wide else (value - self.low) / span
        return round(min(1.0, max(0.0, share)) * _POSITIONS)


def decoded(wish: tuple[Any, Result, dict[str, float]]) -> tuple[Any, Live, Any, dict[str, Any], str]:
    """Data and features of a layer at thresholds, in a thread; what they are of, and what was found, in words."""
    from biosegkit.viewing import label_layer

    layer, result, thresholds = wish
    found = result.live.decode(thresholds)
    data, settings, _ = label_layer(found.labels, "", found.objects)
    said = counted(len(found.objects["id"]), "object") if "id" in found.objects else shares(found.labels)
    return layer, result.live, data, settings.get("features", {}), said


def shares(labels: Labels) -> str:
    """How much of an image every class has, by its value; background is not told.

    Examples
    --------
    >>> from biosegkit.grid import Grid
    >>> from biosegkit.image import Labels
    >>> found = np.array([[0, 3, 3, 7], [0, 3, 0, 0]])
    >>> shares(Labels.from_values(found, Grid.regular((2, 4)), "semantic"))
    'class 3: 37.5 %, class 7: 12.5 %'
    """
    counts = sum(np.bincount(part.reshape(-1), minlength=labels.count + 1) for part in labels.array)
    return ", ".join(f"class {value}: {100 * count / labels.array.size:.3g} %"
                     for value, count in zip(labels.values[1:], counts[1:], strict=True))


class _Row(QObject):
    """A threshold: slider and number that follow each other."""

    changed = Signal()

    def __init__(self, name: str, tunable: Any, value: float) -> None:
        super().__init__()
        self.name = name
        # no object is larger than a slider needs to reach: the number can be typed
        self.scale = Scale(tunable.low, min(tunable.high, 1e6))
        text = f"{tunable.meaning}, {tunable.low:g} to {tunable.high:g}"
        self.slider, self.number = tipped(QSlider(Qt.Orientation.Horizontal), text), tipped(QDoubleSpinBox(), text)
        self.slider.setRange(0, _POSITIONS)
        self.number.setDecimals(0 if self.scale.wide else 3)
        self.number.setRange(tunable.low, tunable.high)
        self.number.setSingleStep(1.0 if self.scale.wide else (tunable.high - tunable.low) / 100)
        self.widget = QWidget()
        layout = QHBoxLayout(self.widget)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.slider, 1)
        layout.addWidget(self.number)
        self.set(value)
        self.slider.valueChanged.connect(self._on_slider)
        self.number.valueChanged.connect(self._on_number)

    @property
    def value(self) -> float:
        """The threshold."""
        return float(self.number.value())

    def set(self, value: float) -> None:
        """Move both without a signal."""
        for widget, shown in ((self.slider, self.scale.position(value)), (self.number, value)):
            widget.blockSignals(True)
            widget.setValue(shown)
            widget.blockSignals(False)

    def _on_slider(self, position: int) -> None:
        self.set(self.scale.value(position))
        self.changed.emit()

    def _on_number(self, value: float) -> None:
        self.set(value)
        self.changed.emit()


class TuneWidget(QWidget):
    """The dock widget ``Tune``."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        Docked(self)
        self._viewer, self.hub = own(napari_viewer), hub_of(napari_viewer)
        self._tuned: Any = None
        self._task: Task | None = None
        self.rows: list[_Row] = []
        self.layer = LayerBox(self._viewer, self._can_be_tuned, "Labels that were made by Segment")
        self.said = tipped(QLabel(), "What the thresholds give")
        self.said.setWordWrap(True)
        self.reset = tipped(QPushButton("Reset"), "Back to the thresholds that training found")
        self.save = tipped(QPushButton("Save to model"), "Make these thresholds those of the model; what training "
                           "found is kept beside them")
        self._form = QFormLayout()
        self._form.addRow("labels", self.layer)
        buttons = QHBoxLayout()
        buttons.addWidget(self.reset)
        buttons.addWidget(self.save)
        layout = QVBoxLayout(self)
        layout.addLayout(self._form)
        layout.addWidget(self.said)
        layout.addLayout(buttons)
        layout.addStretch()
        self._decoding = Latest(decoded)
        self._decoding.returned.connect(self._on_decoded)
        self._decoding.failed.connect(notify)
        self.reset.clicked.connect(self.back_to_trained)
        self.save.clicked.connect(self.save_to_model)
        self.layer.changed.connect(self._on_layer)
        self.hub.result_added.connect(self._on_result, Qt.ConnectionType.QueuedConnection)  # the layer is drawn first
        self._on_layer()

    @property
    def result(self) -> Result | None:
        """What the layer chosen came from."""
        layer = self.layer.layer
        return None if layer is None else self.hub.results.get(layer)

    def values(self) -> dict[str, float]:
        """The thresholds that are shown."""
        return {row.name: row.value for row in self.rows}

    def back_to_trained(self) -> None:
        """Every slider to what training found."""
        result = self.result
        if result is not None:
            for row in self.rows:
                row.set(result.live.trained[row.name])
            self._on_moved()

    def save_to_model(self) -> None:
        """Write the thresholds into the model's file."""
        result = self.result
        if result is None or self._task is not None:
            return
        self._task = Task(_saved, result, self.values())
        self._task.returned.connect(self._on_saved)
        self._task.failed.connect(notify)
        self._task.ended.connect(self._on_save_ended)
        self._task.start()

    def _can_be_tuned(self, layer: Any) -> bool:
        return layer in self.hub.results

    def _on_result(self, layer: Any) -> None:
        for event in (layer.events.paint, layer.events.labels_update):
            event.connect(self._on_edit)
        self.layer.refresh()
        self.layer.layer = layer

    def _on_layer(self) -> None:
        """Rows for the thresholds of another result."""
        layer, result = self.layer.layer, self.result
        if layer is self._tuned and layer is not None:
            return
        self._tuned = layer
        for row in self.rows:
            self._form.removeRow(row.widget)
        self.rows = []
        for name, tunable in (result.live.tunables if result else {}).items():
            row = _Row(name, tunable, result.live.start[name])
            row.changed.connect(self._on_moved)
            self._form.addRow(name, row.widget)
            self.rows.append(row)
        self.reset.setEnabled(bool(self.rows))
        self.save.setEnabled(bool(self.rows) and hasattr(getattr(result, "model", None), "digest")
                             and hasattr(getattr(result, "model", None), "segmenter"))
        if result is None:
            self.said.setText("Nothing to tune yet: run Segment first.")
        elif not self.rows:
            self.said.setText(f"{result.model_name} has no thresholds that can be moved.")
        else:
            self.said.setText("")

    def _on_moved(self) -> None:
        """Ask for labels at the newest thresholds."""
        layer, result = self.layer.layer, self.result
        if layer is not None and result is not None:
            self._decoding.submit((layer, result, self.values()))

    def _on_decoded(self, found: tuple[Any, Live, Any, dict[str, Any], str]) -> None:
        asked, live, data, features, text = found
        # the one that was asked for, or the one beside it if it was edited meanwhile
        layer = next((one for one, result in self.hub.results.items() if result.live is live), asked)
        if layer not in self._viewer.layers:  # it was deleted meanwhile
            return
        if layer in self.hub.edited:
            layer, said = self._beside(layer), f"{layer.name} was edited by hand and is kept as it is, hidden"
            text = f"{text}. {said}; the thresholds act on {layer.name} from now on"
        paint_later(self)
        if "frame" in layer.metadata:  # of a time series only that time point is another
            Frame(layer.data, axes_of(layer), layer.metadata["frame"])[...] = data
            layer.data = layer.data
        else:
            layer.data = data
        layer.features = features
        self.said.setText(text)

    def _on_edit(self, event: Any) -> None:
        """A stroke of the brush, a fill, a polygon: these labels are no longer what was decoded."""
        self.hub.edited.add(event.source)

    def _beside(self, edited: Any) -> Any:
        """A layer for new labels beside one that was edited by hand, which is tuned no more."""
        data, settings, kind = edited.as_layer_data_tuple()
        kept = {key: value for key, value in settings["metadata"].items() if not key.startswith("corrections")}
        new = type(edited).create(blank(data.shape, data.dtype),
                                  {**settings, "name": f"{edited.name} tuned", "metadata": kept}, kind)
        self.hub.results[new] = self.hub.results.pop(edited)
        edited.visible = False
        self._tuned = new  # its rows stay
        self._viewer.layers.insert(self._viewer.layers.index(edited) + 1, new)
        self.hub.result_added.emit(new)
        return new

    def _on_saved(self, found: tuple[Result, Any]) -> None:
        result, new = found
        self.hub.replace_loaded(result.model_name, new)
        for layer, other in list(self.hub.results.items()):
            if other.model_name == result.model_name:
                self.hub.results[layer] = replace(other, model=new)
        self.said.setText(f"saved to {result.model_name}")

    def _on_save_ended(self) -> None:
        self._task = None


def _saved(result: Result, thresholds: dict[str, float]) -> tuple[Result, Any]:
    """In a thread: the model with its new thresholds."""
    from biosegkit.retune import save_thresholds

    return result, save_thresholds(result.model, thresholds)
