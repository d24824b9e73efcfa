"""Widgets in a window: below each other where they fit, else on each other; the window never grows for them in vain."""

from __future__ import annotations

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
