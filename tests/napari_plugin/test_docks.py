"""Widgets in a window: below each other where they fit, else on each other; the window never grows for them in vain."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

pytestmark = pytest.mark.gui
NAMES = ("Segment", "Tune", "Correct", "Retrain", "Measure", "Batch")


def docked(viewer, spin, name):
    """A widget and its dock, when the window has settled."""
    dock, widget = viewer.window.add_plugin_dock_widget("biosegkit", name)
    spin(widget.isVisible)
    return dock, widget


def together(window, dock):
    """The other docks that share their place with it."""
    return set(window.tabifiedDockWidgets(dock))


def test_six_widgets_take_no_more_height_than_the_tallest_of_them(make_viewer, spin):
    viewer = make_viewer()
    window = viewer.window._qt_window
    window.resize(1000, 640)
    spin(lambda: window.height() == 640)
    docks, tallest = {}, 640
    for name in NAMES:
        docks[name], widget = docked(viewer, spin, name)
        tallest = max(tallest, window.height() - widget.height() + widget.minimumSizeHint().height())
        assert window.height() <= tallest
        assert not widget.visibleRegion().isEmpty(), f"{name} is the one that is seen"
    assert together(window, docks["Batch"]) == {docks[name] for name in NAMES[:-1]}
    docks["Segment"].raise_()
    spin(lambda: not docks["Segment"].widget().visibleRegion().isEmpty())


def test_where_there_is_room_widgets_lie_below_each_other(make_viewer, spin):
    viewer = make_viewer()
    window = viewer.window._qt_window
    window.resize(1000, 1000)
    spin(lambda: window.height() == 1000)
    segment, tune = (docked(viewer, spin, name)[0] for name in NAMES[:2])
    assert together(window, segment) == together(window, tune) == set()
    assert window.height() == 1000
    assert segment.geometry().bottom() < tune.geometry().top()


def test_what_a_person_has_put_elsewhere_stays_there(make_viewer, spin):
    viewer = make_viewer()
    window = viewer.window._qt_window
    window.resize(1000, 640)
    spin(lambda: window.height() == 640)
    segment, _ = docked(viewer, spin, "Segment")
    segment.setFloating(True)
    retrain, _ = docked(viewer, spin, "Retrain")
    assert segment.isFloating()
    assert not together(window, retrain)
    segment.setFloating(False)
    segment.hide()
    segment.show()  # the second time it is shown nothing is moved
    spin(segment.isVisible)
    assert not together(window, segment)


def test_a_widget_behind_others_comes_to_the_front_when_the_menu_asks_for_it(make_viewer, spin):
    viewer = make_viewer()
    window = viewer.window._qt_window
    window.resize(1000, 640)
    spin(lambda: window.height() == 640)
    docks = {name: docked(viewer, spin, name)[0] for name in NAMES[:4]}
    segment = docks["Segment"]

    def seen():
        return [name for name, dock in docks.items() if not dock.widget().visibleRegion().isEmpty()]

    assert seen() == ["Retrain"]
    segment.setVisible(not segment.isVisible())  # as the rows of napari's menus do
    spin(lambda: seen() == ["Segment"])
    segment.setVisible(not segment.isVisible())
    spin(lambda: "Segment" not in seen())
    assert segment.isHidden(), "it was seen, and is closed"
    segment.setVisible(not segment.isVisible())
    spin(lambda: seen() == ["Segment"])
    window.hide()
    window.show()
    spin(lambda: seen() == ["Segment"])
    docks["Tune"].raise_()
    spin(lambda: seen() == ["Tune"])
    viewer.window.remove_dock_widget(segment.widget())  # behind others, and gone for good
    del docks["Segment"]
    spin(lambda: segment not in window.tabifiedDockWidgets(docks["Tune"]))


def test_segment_asks_about_nothing_while_it_is_closed(make_viewer, spin, monkeypatch):
    from biosegkit_napari import segment

    answered, asked = segment.answered, []
    monkeypatch.setattr(segment, "answered",
                        lambda wish, model: asked.append(wish.layers[0].name) or answered(wish, model))
    viewer = make_viewer()
    dock, widget = docked(viewer, spin, "Segment")
    spin(lambda: any(row.model == "otsu" for row in widget.hub.rows))
    widget.model.model = "otsu"
    picture = np.arange(400, dtype=np.float32).reshape(20, 20)
    viewer.add_image(picture, name="a")
    spin(widget.run.isEnabled)
    tune, _ = docked(viewer, spin, "Tune")
    window = viewer.window._qt_window
    window.tabifyDockWidget(dock, tune)
    tune.raise_()
    viewer.add_image(picture, name="b")
    widget.layer.layer = viewer.layers["b"]
    spin(lambda: asked[-1] == "b" and widget.run.isEnabled())  # behind another tab
    dock.raise_()
    spin(lambda: not widget.visibleRegion().isEmpty())
    before = len(asked)
    dock.close()
    viewer.add_image(picture, name="c")
    widget.layer.layer = viewer.layers["c"]
    end = time.monotonic() + 0.3
    spin(lambda: time.monotonic() > end)
    assert len(asked) == before
    assert not widget.run.isEnabled()
    dock.show()
    spin(lambda: asked[-1] == "c" and widget.run.isEnabled())
    before = len(asked)
    dock.close()
    dock.show()  # nothing has happened meanwhile
    end = time.monotonic() + 0.3
    spin(lambda: time.monotonic() > end)
    assert len(asked) == before
    assert widget.run.isEnabled()
    dock.raise_()
    spin(lambda: not widget.visibleRegion().isEmpty())
    tune.raise_()
    spin(widget.visibleRegion().isEmpty)
    viewer.layers.remove("c")
    widget.layer.layer = viewer.layers["a"]
    dock.setVisible(False)  # behind others, as the menu asks for it: it comes to the front
    spin(lambda: asked[-1] == "a" and widget.run.isEnabled() and not widget.visibleRegion().isEmpty())


def test_a_window_that_python_let_go_before_qt_did_ends_nothing():
    code = ("import gc; from qtpy.QtCore import QCoreApplication, QEvent, Qt;"
            "from qtpy.QtWidgets import QApplication, QDockWidget, QMainWindow, QWidget;"
            "from biosegkit_napari.docks import Docked; application = QApplication([]); gc.disable();\n"
            "for turn in range(3):\n"
            "    window = QMainWindow(); window.itself = window; window.show(); inner = QWidget(); Docked(inner)\n"
            "    dock = QDockWidget(window); dock.setWidget(inner); inner.window_of = window; inner.dock = dock\n"
            "    window.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, dock); application.processEvents()\n"
            "    assert not inner.visibleRegion().isEmpty()\n"
            "    window.deleteLater(); del window, inner, dock; gc.collect()\n"
            "    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete); application.processEvents()\n"
            "print('alive')")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout.split()) == (0, ["alive"]), found.stderr
    assert "Error" not in found.stderr
