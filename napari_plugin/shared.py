"""What the widgets of one viewer share: models, loaded ones, results that can be tuned, and boxes to choose from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QSizePolicy, QToolButton, QWidget

from .options import Options
from .quiet import load_libraries, uncollected
from .work import Task, notify

if TYPE_CHECKING:
    from biosegkit.live import Live
    from biosegkit.predictor import Predictor

__all__ = ["Hub", "LayerBox", "ModelBox", "Result", "Row", "as_wide_as_there_is_room", "hub_of", "own", "tipped"]


@dataclass(frozen=True, eq=False)
class Result:
    """A prediction in the viewer, and what it takes to decode it again."""

    live: Live
    model: Predictor
    model_name: str


@dataclass(frozen=True)
class Row:
    """A model that can be chosen: what MODEL means on the command line, and what is shown of it."""

    model: str
    about: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    gain: str = ""

    @property
    def title(self) -> str:
        """Its name, and its score before and after it was retrained."""
        return f"{Path(self.model).name or self.model}{self.gain and f'  ({self.gain})'}"


class Hub(QObject):
    """What the widgets of one viewer share.

    Signals
    -------
    models_changed
        The list of models is another one.
    result_added : object
        A layer of labels was made that can be tuned.
    """

    models_changed = Signal()
    result_added = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Row] = []
        self.results: WeakKeyDictionary[Any, Result] = WeakKeyDictionary()
        #: Results that were changed by hand since they were decoded.
        self.edited: WeakSet[Any] = WeakSet()
        self._loaded: dict[tuple[str, Options], Predictor] = {}
        self._added: list[str] = []
        self.folder = Path()

    def refresh(self) -> None:
        """Look for models again, in a thread; ``models_changed`` follows."""
        task = Task(rows_of, self.folder, tuple(self._added))
        task.returned.connect(self._refreshed)
        task.failed.connect(notify)
        task.start()

    def add_model(self, model: str) -> None:
        """A model from elsewhere: a run, a bundle, ``stardist:PATH`` or ``cellpose:PATH``; it is listed first."""
        self._added = [model, *(other for other in self._added if other != model)]
        self._loaded = {key: one for key, one in self._loaded.items() if key[0] != model}
        self.refresh()

    def lists(self, model: str) -> bool:
        """Whether a model is in the list, or will be: models are being looked for."""
        return not self.rows or _place(model) in {_place(row.model) for row in self.rows}

    def loaded(self, model: str, options: Options = ()) -> Predictor:
        """A model ready to run, with these options; the last one is kept. Call this in a thread."""
        found = self._loaded.get((model, options))
        if found is None:
            with uncollected():
                load_libraries()
                from biosegkit.engines import load_model

                found = load_model(model, options=dict(options))
                self._loaded = {(model, options): found}  # another thread may replace it at once
        return found

    def replace_loaded(self, model: str, new: Predictor) -> None:
        """A model whose thresholds were saved."""
        self._loaded = {(model, ()): new}

    def _refreshed(self, rows: list[Row]) -> None:
        if rows != self.rows:
            self.rows = rows
            self.models_changed.emit()


def rows_of(folder: Path, added: tuple[str, ...]) -> list[Row]:
    """Models that can be chosen: those added, runs and bundles below a folder, segmenters without training."""
    with uncollected():
        from biosegkit.engines import described
        from biosegkit.models import find_models

    found = [Row(model, "added here") if not Path(model).exists() else _row(one)
             for model in added for one in (find_models(model) or [{"model": model}])]
    found += [_row(one) for one in find_models(folder)]
    found += [Row(name, about) for name, _, about in described() if ":" not in name]
    return list({_place(row.model): row for row in reversed(found)}.values())[::-1]


def _place(model: str) -> str:
    """One name for a model that is found under several."""
    return str(Path(model).resolve()) if Path(model).exists() else model


def _row(found: dict[str, Any]) -> Row:
    """A model and what it says of itself: task, method, network and its best known score."""
    scores = dict(found.get("scores", {}))
    said = [str(found.get(key, "")) for key in ("task", "method", "network")]
    said += [f"{name} {value:.3f}" for name, value in list(scores.items())[:1]]
    gain = ""
    if found.get("improvement"):
        from biosegkit.improvement import gained

        gain = gained(found["improvement"])
    return Row(str(found["model"]), ", ".join(s for s in said if s), scores, gain)


_HUBS: WeakValueDictionary[int, Hub] = WeakValueDictionary()


def own(viewer: Any) -> Any:
    """The viewer itself: napari gives plugins a proxy, a new one each time, through which layers are proxies, too."""
    return getattr(viewer, "__wrapped__", viewer)


def hub_of(viewer: Any) -> Hub:
    """The hub of a viewer; it lives as long as any widget holds it."""
    viewer = own(viewer)
    found = _HUBS.get(id(viewer))
    if found is None:
        found = Hub()
        _HUBS[id(viewer)] = found
    return found


def tipped(widget: Any, text: str) -> Any:
    """The widget, with a tooltip."""
    widget.setToolTip(text)
    return widget


def as_wide_as_there_is_room(box: QComboBox) -> None:
    """Let a box of choices be no wider than its form, however long their names are."""
    box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(16)


class LayerBox(QWidget):
    """A choice among the layers of a viewer of one kind, which follows the viewer.

    Signals
    -------
    changed
    """

    changed = Signal()

    def __init__(self, viewer: Any, accepts: Callable[[Any], bool], tip: str, optional: bool = False) -> None:
        super().__init__()
        self._viewer, self._accepts, self._optional = viewer, accepts, optional
        self.box = tipped(QComboBox(), tip)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.box)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        as_wide_as_there_is_room(self.box)
        self._layers: list[Any] = []
        events = viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered, events.renamed):
            event.connect(self.refresh)
        viewer.layers.selection.events.active.connect(self._follow_active)
        self.refresh()
        self.box.currentIndexChanged.connect(self._on_changed)

    @property
    def layer(self) -> Any:
        """The layer chosen, None if there is none."""
        index = self.box.currentIndex()
        return self._layers[index] if 0 <= index < len(self._layers) else None

    @layer.setter
    def layer(self, layer: Any) -> None:
        if layer in self._layers:
            self.box.setCurrentIndex(self._layers.index(layer))

    def refresh(self, event: Any = None) -> None:
        """The layers of the viewer have changed: keep the choice if it is still there."""
        chosen = self.layer
        self._layers = [*([None] if self._optional else []),
                        *(layer for layer in reversed(self._viewer.layers) if self._accepts(layer))]
        self.box.blockSignals(True)
        self.box.clear()
        self.box.addItems(["(none)" if layer is None else layer.name for layer in self._layers])
        if chosen in self._layers:
            self.box.setCurrentIndex(self._layers.index(chosen))
        self.box.blockSignals(False)
        self.changed.emit()

    def _follow_active(self, event: Any = None) -> None:
        """A click on a layer chooses it."""
        active = self._viewer.layers.selection.active
        if not self._optional and active in self._layers:
            self.layer = active

    def _on_changed(self, _: int) -> None:
        self.changed.emit()


class ModelBox(QWidget):
    """A choice among models: own runs, segmenters without training, and what is opened by hand.

    Signals
    -------
    changed
    """

    changed = Signal()

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self._hub = hub
        self.box = tipped(QComboBox(), "The model: runs and bundles below the current folder, and segmenters that "
                          "need no training")
        self.box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.box.setMinimumContentsLength(18)
        folder = tipped(QToolButton(), "Open a run, a bundle or a StarDist model: a folder")
        folder.setText("Folder…")
        file = tipped(QToolButton(), "Open a zipped bundle, or weights of Cellpose or StarDist: a file")
        file.setText("File…")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.box, 1)
        layout.addWidget(folder)
        layout.addWidget(file)
        folder.clicked.connect(self._open_folder)
        file.clicked.connect(self._open_file)
        hub.models_changed.connect(self._follow)
        self._follow()
        self.box.currentIndexChanged.connect(self._on_changed)
        if not hub.rows:
            hub.refresh()

    @property
    def model(self) -> str:
        """What MODEL means on the command line; empty if there is none."""
        return str(self.box.currentData() or "")

    @model.setter
    def model(self, model: str) -> None:
        self.box.setCurrentIndex(self.box.findData(model) if model else 0)

    def _follow(self) -> None:
        """The list of models is another one: keep the choice; a model that was added just now is chosen."""
        chosen, before = self.model, {self.box.itemData(i) for i in range(self.box.count())}
        rows = self._hub.rows
        self.box.blockSignals(True)
        self.box.clear()
        for row in rows:
            self.box.addItem(row.title, row.model)
            self.box.setItemData(self.box.count() - 1, f"{row.model}\n{row.about}", 3)  # its tooltip
        self.box.blockSignals(False)
        new = [row.model for row in rows[:1] if before and row.model not in before]
        self.model = new[0] if new else chosen
        self.changed.emit()

    def _open_folder(self) -> None:
        found = QFileDialog.getExistingDirectory(self, "A run, a bundle or a StarDist model")
        if found:
            self._hub.add_model(found)

    def _open_file(self) -> None:
        found, _ = QFileDialog.getOpenFileName(self, "A zipped bundle, or weights of Cellpose")
        if found:
            self._hub.add_model(found if found.endswith(".zip") else f"cellpose:{found}")

    def _on_changed(self, _: int) -> None:
        self.changed.emit()
