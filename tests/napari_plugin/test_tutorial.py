"""A new user follows the ten minutes of docs/tutorial_napari.md in a window: every name that it says is found and used.

Only three things are not as on a desk: the data are small, the training is given steps in place of minutes, and files
are chosen without the system's dialog.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from small_sets import discs, tiny_plan, write_instances
from waiting import PATIENCE

pytestmark = pytest.mark.gui
TEXT = Path(__file__).parents[2].joinpath("docs/tutorial_napari.md").read_text(encoding="utf-8")
#: What the text sets in code that is typed in a terminal or in the console, is a file, or a value.
TYPED = {"biosegkit train data -o nuclei3d --budget 15m", "biosegkit predict", "benchmarks/napari_pictures.py"}


class User:
    """Somebody at a window, who finds menus, buttons and rows by the names that they show."""

    def __init__(self, viewer, application, spin):
        self.viewer, self.application, self.wait = viewer, application, spin
        self.window, self.dock = viewer.window._qt_window, None
        self.used = set()

    def spin(self, until):
        """Wait, with patience: there are other processes, and the machine may be busy."""
        self.wait(until, PATIENCE)

    def menu(self, path):
        """Go through the menus that a text names with > between them."""
        titles = path.split(" > ")
        self.used |= {" > ".join(titles[: k + 1]) for k in range(len(titles))}
        actions = self.window.menuBar().actions()
        for title in titles:
            action = next(a for a in actions if a.text().replace("&", "").removesuffix(" (biosegkit)") == title)
            if action.menu():
                action.menu().aboutToShow.emit()
                actions = action.menu().actions()
        assert action.isEnabled()
        if not action.menu():
            action.trigger()
        self.application.processEvents()
        return actions

    def open(self, path):
        """A widget by its menu; the one before goes."""
        if self.dock is not None:
            self.viewer.window.remove_dock_widget(self.dock)
        self.menu(path)
        name = path.rpartition(" > ")[2]
        self.used.add(name)
        self.dock = self.viewer.window._dock_widgets[f"{name} (biosegkit)"]
        self.spin(lambda: not self.dock.inner_widget().visibleRegion().isEmpty())
        return self.dock.inner_widget()

    def press(self, title):
        """Click a button of the widget, or tick its box, when that is possible."""
        from qtpy.QtWidgets import QAbstractButton

        self.used.add(title)
        button, = [b for b in self.dock.findChildren(QAbstractButton) if b.text().strip("◀▶ ") == title
                   and b.isVisible()]
        self.spin(button.isEnabled)
        button.click()
        self.application.processEvents()

    def choose(self, row, value):
        """A value of a row of choices by what it shows first."""
        from qtpy.QtWidgets import QComboBox, QLabel

        label, = [one for one in self.dock.findChildren(QLabel) if one.text() == row]
        field = label.buddy()
        box = field if isinstance(field, QComboBox) else field.findChild(QComboBox)
        self.spin(lambda: any(box.itemText(i).split("  ")[0] == value for i in range(box.count())))
        box.setCurrentIndex(next(i for i in range(box.count()) if box.itemText(i).split("  ")[0] == value))
        self.used.add(value)

    def write(self, row, text):
        """A text into a row, and Enter."""
        from qtpy.QtCore import Qt
        from qtpy.QtTest import QTest
        from qtpy.QtWidgets import QLabel

        label, = [one for one in self.dock.findChildren(QLabel) if one.text() == row]
        QTest.keyClicks(label.buddy(), text)
        QTest.keyClick(label.buddy(), Qt.Key.Key_Return)
        self.used |= {row, text}

    def key(self, name):
        """A key, as the text writes it, on the canvas."""
        from qtpy.QtCore import Qt
        from qtpy.QtTest import QTest

        self.used.add(name)
        *modifiers, letter = name.split("-")
        held = Qt.KeyboardModifier.NoModifier
        for modifier in modifiers:
            held |= getattr(Qt.KeyboardModifier, f"{modifier}Modifier")
        QTest.keyClick(self.viewer.window._qt_viewer.canvas.native, getattr(Qt.Key, f"Key_{letter}"), held)
        self.application.processEvents()

    def drop(self, path):
        """Drop a file on the window, and choose biosegkit where napari asks for a reader."""
        from dropping import drop

        self.used.add("biosegkit")
        return drop(self.viewer, self.application, self.spin, path)


#: Of the stacks, which their files do not say.
SIZE = (1.75, 0.8, 0.8)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with a run, as the first line of the text makes it, three stacks with labels, and a folder of them."""
    folder = tmp_path_factory.mktemp("desk")
    write_instances(folder / "data", cases=4, shape=(12, 40, 40), radius=6)
    tiny_plan(3, steps=60, unit="um", spacing=SIZE).write(folder / "plan.json")
    subprocess.run([sys.executable, "-m", "biosegkit", "train", "data", "-o", "nuclei3d", "--plan", "plan.json",
                    "--steps", "60", "--spacing", "1.75,0.8,0.8", "--unit", "um"],
                   cwd=folder, check=True, capture_output=True)
    for k in range(3):
        image, labels = discs((12, 40, 40), count=4, seed=20 + k, radius=6)
        tifffile.imwrite(folder / f"new{k}.tif", image)
        tifffile.imwrite(folder / f"new{k}_labels.tif", labels)
    (folder / "plate").mkdir()
    tifffile.imwrite(folder / "plate/a.tif", image)
    (folder / "plate/b.tif").write_bytes((folder / "plate/a.tif").read_bytes()[:900])
    return folder


@pytest.fixture
def user(make_viewer, application, spin, desk, monkeypatch):
    """The user at a window that was opened in that folder."""
    monkeypatch.chdir(desk)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    user = User(make_viewer(), application, spin)
    yield user
    user.__dict__.clear()  # nothing may hold the window when it is closed


def test_ten_minutes_as_the_text_has_them(user, desk, monkeypatch):
    for menu in ("Layers > Segment", "Layers > Measure", "Plugins > biosegkit"):
        assert any("(biosegkit)" in action.text() for action in user.menu(menu))
    segment_and_tune(user, desk)
    correct(user)
    retrain(user, desk, monkeypatch)
    compare(user, desk)
    on_a_slide(user)
    in_a_folder(user)
    said = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
    assert set(re.findall(r"`([^`\n]+)`", said)) - TYPED - user.used == set(), "names that were not met"


def segment_and_tune(user, desk):
    """Steps 1 to 3."""
    assert user.drop(desk / "new0.tif") == ["Choose reader"]
    assert user.viewer.layers[-1].metadata["biosegkit"]["source"]
    segment = user.open("Layers > Segment > Segment")
    for model in ("watershed", "otsu"):
        user.choose("model", model)
    user.choose("model", "nuclei3d")
    user.spin(lambda: "voxel size" in segment.said.text())
    assert not segment.run.isEnabled()
    user.write("voxel size", "1.75, 0.8, 0.8 um")
    user.spin(segment.run.isEnabled)
    assert re.search(r"\d+ tiles?, about .*B of memory", segment.said.text())
    user.press("Run")
    user.spin(lambda: segment._task is None)
    labels = user.viewer.layers[-1]
    assert labels.data.max() > 2
    assert tuple(labels.scale) == SIZE
    for dimensions in (3, 2):
        user.press("Show in 3D")
        assert user.viewer.dims.ndisplay == dimensions
    user.press("contours only")
    assert labels.contour == 1
    tune = user.open("Layers > Segment > Tune")
    found, sliders = labels.data, {row.name: row for row in tune.rows}
    assert sliders.keys() == segment.hub.loaded("nuclei3d").thresholds.keys(), "a slider for every threshold"
    user.used |= {"foreground", "min_size"}
    sliders["min_size"].number.setValue(int((found == 1).sum()) + 1)
    user.spin(lambda: not tune._decoding.busy)
    assert labels.data.max() < found.max(), "the small objects go"
    user.press("Reset")
    sliders["foreground"].slider.setValue(195)
    user.spin(lambda: not tune._decoding.busy)
    assert (labels.data > 0).sum() < (found > 0).sum(), "the outlines draw in"
    user.press("Reset")
    user.spin(lambda: not tune._decoding.busy)
    np.testing.assert_array_equal(labels.data, found)
    user.press("Save to model")
    user.spin(lambda: tune.said.text() == "saved to nuclei3d")


def correct(user):
    """Step 4."""
    labels = user.viewer.layers[-1]
    widget = user.open("Layers > Segment > Correct")
    user.spin(lambda: widget.session is not None and widget._task is None)
    assert widget.order.currentText() == "score"
    user.key("N")
    user.spin(lambda: not widget._finding.busy)
    least = labels.features["index"][labels.features["score"].argmin()]
    assert labels.selected_label == least, "the least certain first"
    plane = user.viewer.dims.current_step[0]
    assert (labels.data[plane] == least).any(), "and its plane"
    before = labels.data.copy()
    for key in ("Shift-G", "Control-Z"):
        user.key(key)
        user.spin(lambda: widget._task is None)
        assert (labels.data == before).all() == (key == "Control-Z")
    rows, columns = np.nonzero(before[plane] == least)
    user.key("Shift-P")
    for row in (rows.min() + 1, rows.max() - 1):
        widget.click((plane, row, sorted(columns[rows == row])[(rows == row).sum() // 2]))
    user.spin(lambda: widget._task is None)
    assert labels.data.max() == before.max() + 1, "two of one"
    np.testing.assert_array_equal(labels.data > 0, before > 0)
    assert len(set(np.nonzero(labels.data > before.max())[0])) > 2, "in all its planes"
    user.key("Control-Z")
    user.spin(lambda: widget._task is None)
    labels.selected_label = 77
    labels.paint((2, 2, 2), 77)
    user.key("Control-Z")
    user.spin(lambda: widget._task is None)
    np.testing.assert_array_equal(labels.data, before, err_msg="napari's brush too")


def give_size(user):
    """To an image, and to labels that were opened after it."""
    user.open("Layers > Segment > Segment")
    user.write("voxel size", "1.75, 0.8, 0.8 um")
    for layer in user.viewer.layers:
        assert tuple(layer.scale) == SIZE, layer.name


def retrain(user, desk, monkeypatch):
    """Step 5: three stacks, and a training with the clock taken out."""
    for k in range(3):
        if k:
            user.viewer.layers.clear()
            user.drop(desk / f"new{k}.tif")
            user.drop(desk / f"new{k}_labels.tif")
            give_size(user)
        widget = user.open("Layers > Segment > Retrain")
        widget.dataset.setText("cells")
        widget.dataset.editingFinished.emit()
        user.press("Add to data set")
        user.spin(lambda widget=widget: widget._task is None)
        assert widget.said.text().startswith(f"added new{k}: {k + 1} image"), widget.said.text()
    user.choose("begin with", "nuclei3d")
    monkeypatch.setattr("biosegkit_napari.retrain.options_of",
                        lambda budget, model, task: {"steps": 6, "from": model, "task": task})
    user.press("Train")
    user.spin(lambda: widget.look is not None and widget.look.state.name == "finished")
    user.spin(lambda: widget.look.judged and widget._task is None)
    assert re.search(r"ap@0.50 .* before, .* after", widget.standing.text()), widget.standing.text()


def compare(user, desk):
    """Step 6: the labels of the last stack against themselves, one object less."""
    user.drop(desk / "new2_labels.tif")
    give_size(user)
    widget = user.open("Layers > Measure > Measure")
    widget.layer.layer, widget.reference.layer = user.viewer.layers[-2], user.viewer.layers[-1]
    user.viewer.layers[-2].data[user.viewer.layers[-2].data == 1] = 0
    widget.pages.setCurrentIndex([widget.pages.tabText(i) for i in range(2)].index("Comparison"))
    user.press("Compare")
    user.spin(lambda: widget._task is None)
    assert widget.said.text() == "no false positive, 1 miss, no split, no merge"


def on_a_slide(user):
    """What is in sight of a slide."""
    user.viewer.layers.clear()
    user.viewer.dims.ndisplay = 2
    user.menu("File > Open Sample > biosegkit > Slide")
    segment = user.open("Layers > Segment > Segment")
    user.viewer.camera.zoom *= 8
    user.choose("model", "otsu")
    user.choose("region", "view")
    user.spin(lambda: re.search(r"resolution \d of 3, ", segment.said.text()))
    user.press("Run")
    user.spin(lambda: segment._task is None)
    assert user.viewer.layers[-1].data.max() > 0


def in_a_folder(user):
    """A batch of two images, one of which is damaged."""
    user.viewer.layers.clear()
    widget = user.open("Layers > Segment > Batch")
    user.choose("model", "nuclei3d")
    widget.images.setText("plate")
    widget.images.editingFinished.emit()
    user.write("voxel size", "1.75, 0.8, 0.8 um")
    user.press("Run")
    user.spin(lambda: widget.look is not None and widget.look.standing.name == "finished")
    assert widget.standing.text().startswith("finished: 1 done, 1 failed")
    user.press("Next")
    user.spin(lambda: len(user.viewer.layers) == 2)
