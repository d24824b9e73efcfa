"""A real window of napari that is used and photographed: what the pictures of docs/ are made with."""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image as Picture

HERE = Path(__file__).resolve().parents[1] / "docs" / "pictures"
SIZE = (1280, 800)


class Window:
    """A viewer with one dock widget at a time."""

    def __init__(self) -> None:
        import napari

        self.viewer = napari.Viewer(show=True)
        self.viewer.window.resize(*SIZE)
        self.docks: list[object] = []

    def wait(self, until, seconds: float = 120.0, said=str) -> None:
        """Let the application run until something is true."""
        from qtpy.QtWidgets import QApplication

        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() > end:
                raise TimeoutError(f"it did not happen in time: {said()}")
            QApplication.processEvents()
            time.sleep(0.01)

    def pause(self, seconds: float = 0.6) -> None:
        """Let the application run for a while."""
        end = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() > end)

    def dock(self, name: str):
        """A widget of the plugin, alone on its side."""
        for one in self.docks:
            one.widget().deleteLater()
            self.viewer.window.remove_dock_widget(one)
        docked, widget = self.viewer.window.add_plugin_dock_widget("biosegkit", name)
        self.docks = [docked]
        self.pause()
        return widget

    def seen(self) -> Picture.Image:
        """The window as it is."""
        from napari._qt.dialogs.qt_notification import NapariQtNotification

        self.viewer.window.resize(*SIZE)
        self.pause()
        for notification in self.viewer.window._qt_window.findChildren(NapariQtNotification):
            notification.close()  # read by now: napari's about units, while one layer has them and the next not yet
        self.pause(0.2)
        return Picture.fromarray(self.viewer.screenshot(canvas_only=False, flash=False)[..., :3])

    def shoot(self, name: str) -> None:
        """Save the window, in 256 colours: 40 to 250 kB."""
        shot = self.seen()
        shot.thumbnail((1000, 1000), Picture.Resampling.LANCZOS)
        saved(shot, name)


def segmented(window: Window, model: str, seconds: float = 300.0, size: str = "", **choices: str):
    """Segment what is open with a model, its voxels of a size that the file does not say; the layer and the widget."""
    widget = window.dock("Segment")
    window.wait(lambda: widget.model.box.findData(model) >= 0, seconds)
    widget.model.model = model
    for name, value in choices.items():
        getattr(widget, name).setCurrentText(value)
    widget.size.setText(size)
    widget.size.editingFinished.emit()
    window.wait(widget.run.isEnabled, seconds, widget.said.text)
    widget.start()
    window.wait(lambda: widget._task is None, seconds)
    print(widget.said.text())
    return window.viewer.layers[-1], widget


def case(data: Path, folder: str, place: int, split: str, **where: str) -> tuple[Path, Path]:
    """Image and labels of one case."""
    with (data / folder / "cases.csv").open(newline="") as handle:
        rows = [r for r in csv.DictReader(handle) if r["split"] == split and all(r[k] == v for k, v in where.items())]
    return data / folder / rows[place]["image"], data / folder / rows[place]["label"]


def saved(picture: Picture.Image, name: str) -> None:
    """Write a picture with few colours."""
    few = picture.quantize(256, Picture.Quantize.MAXCOVERAGE, kmeans=2)  # small areas in colour keep it
    few.save(HERE / f"{name}.png", optimize=True)
    print(name, (HERE / f"{name}.png").stat().st_size // 1000, "kB")


def sheet(pictures: Sequence[Picture.Image], name: str, width: int = 640, columns: int = 2, gap: int = 6) -> None:
    """Windows in rows on white, from left to right."""
    height = width * SIZE[1] // SIZE[0]
    rows = -(-len(pictures) // columns)
    whole = Picture.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for k, picture in enumerate(pictures):
        place = ((k % columns) * (width + gap), (k // columns) * (height + gap))
        whole.paste(picture.resize((width, height), Picture.Resampling.LANCZOS), place)
    saved(whole, name)


def opened(window: Window, path: Path, name: str):
    """A copy of a file in the current folder, opened; its layer."""
    copy = Path(f"{name}{''.join(path.suffixes)}")
    shutil.copy(path, copy)
    return window.viewer.open(str(copy), plugin="biosegkit")[0]


def tuned(window: Window, labels, name: str, value: float, back: bool = False):
    """Another value of a threshold, by its slider; the widget."""
    widget = window.dock("Tune")
    widget.layer.layer = labels
    next(row for row in widget.rows if row.name == name).number.setValue(value)
    window.wait(lambda: not widget._decoding.busy)
    if back:
        widget.back_to_trained()
        window.wait(lambda: not widget._decoding.busy)
    return widget


def correcting(window: Window, labels):
    """The widget that corrects a layer, its objects listed."""
    widget = window.dock("Correct")
    widget.layer.layer = labels
    window.wait(lambda: widget.session is not None and widget._task is None)
    return widget


def sized(window: Window, image, text: str) -> None:
    """The size of the voxels of an image, and of the labels on it, where their files do not say it."""
    widget = window.dock("Segment")
    widget.layer.layer = image
    widget.size.setText(text)
    widget.size.editingFinished.emit()


def retraining(window: Window, dataset: str):
    """The widget Retrain with a data set."""
    widget = window.dock("Retrain")
    widget.dataset.setText(dataset)
    widget._on_dataset()
    return widget


def added(window: Window, widget, name: str, image, labels, kind: str = "objects") -> None:
    """Image and labels put into the data set of the widget Retrain."""
    widget.image.layer, widget.layer.layer = image, labels
    widget.name.setText(name)
    widget.name.setModified(True)
    widget.kind.setCurrentText(kind)
    widget.start_adding()
    window.wait(lambda: widget._task is None)
    print(widget.said.text())


def retrained(window: Window, widget, model: str, budget: str, seconds: float = 1200) -> None:
    """A training that begins with a model, until it is judged."""
    window.wait(lambda: widget.start.findData(model) >= 0)
    widget.start.setCurrentIndex(widget.start.findData(model))
    widget.budget.setText(budget)
    widget.start_training()
    window.wait(lambda: widget._task is None)
    window.wait(lambda: widget.look is not None and widget.look.state.name != "running", seconds)
    window.wait(lambda: widget.look.judged and widget._task is None, 300, widget.standing.text)
    window.pause(3)
    print(widget.standing.text())


def compared(window: Window, labels, reference, kind: str = "objects"):
    """The widget that measures, its comparison made."""
    widget = window.dock("Measure")
    widget.layer.layer, widget.reference.layer = labels, reference
    widget.kind.setCurrentText(kind)
    widget.start_comparison()
    window.wait(lambda: widget._task is None and not widget._turns.busy, 300)
    widget.pages.setCurrentIndex(1)
    print(widget.said.text())
    return widget
