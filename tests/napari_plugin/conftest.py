"""A viewer for tests: no settings of the user are read or written, and nothing may be left when it is closed."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import warnings

import pytest
from waiting import PATIENCE

THRESHOLDS = gc.get_threshold()
os.environ["NAPARI_CONFIG"] = ""  # before napari is imported: nothing is read from or written to the home folder
if not os.environ.get("DISPLAY"):
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")


def pytest_collection_modifyitems(items):
    """Warnings of napari and Qt are theirs; tests that look at pixels need a display."""
    for item in items:
        if "napari_plugin" not in str(item.fspath):
            continue
        # spin ends what hangs; the timeout of all tests would end the whole session here: it raises within Qt's loop
        item.add_marker(pytest.mark.timeout(6 * PATIENCE))
        item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning",
                                                   "ignore::PendingDeprecationWarning", "ignore::UserWarning:napari"))
        shown = os.environ.get("DISPLAY") and os.environ.get("QT_QPA_PLATFORM", "xcb") == "xcb"
        if item.get_closest_marker("gui") and not shown:
            item.add_marker(pytest.mark.skip(reason="needs a display: xvfb-run and QT_QPA_PLATFORM=xcb"))


@pytest.fixture(scope="session")
def napari():
    """The package, or a skip that says what is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("qtpy", reason="qtpy, of the napari extra, is not installed")
        return pytest.importorskip("napari", reason="napari, of the napari extra, is not installed")


@pytest.fixture(scope="session")
def application(napari):
    """Qt's application: without a display it draws nothing, which widgets do not mind."""
    from qtpy.QtWidgets import QApplication

    return QApplication.instance() or QApplication([])


@pytest.fixture
def spin(application):
    """Let the application's loop run until something is true, or a time is over."""
    def wait(until, seconds=120.0):
        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end, "it did not happen in time"
            application.processEvents()
            time.sleep(0.002)

    return wait


@pytest.fixture(autouse=True)
def python_collects_again():
    """After a test, searches for garbage follow Python's own rule, though no test waits for a viewer at rest."""
    yield
    work = sys.modules.get("biosegkit_napari.work")
    if work is not None and work.search.cache_info().currsize:
        work.search().end()
    end = time.monotonic() + 60  # a thread may be importing still
    while not gc.get_threshold()[0] and time.monotonic() < end:
        time.sleep(0.01)
    allowed, found = gc.isenabled(), gc.get_threshold()
    gc.enable()
    gc.set_threshold(*THRESHOLDS)
    assert (allowed, found) == (True, THRESHOLDS), "Python does not search for garbage as it did before this test"


@pytest.fixture(autouse=True)
def layers_are_made_in_the_viewers_thread(request, monkeypatch):
    """In every test: napari's layers are not safe elsewhere."""
    if "napari" not in sys.modules:
        yield
        return
    from napari.layers.base.base import Layer

    begin, elsewhere = Layer.__init__, []

    def made(self, *arguments, **settings):
        if threading.current_thread() is not threading.main_thread():
            elsewhere.append(f"{type(self).__name__} in {threading.current_thread().name}")
        begin(self, *arguments, **settings)

    monkeypatch.setattr(Layer, "__init__", made)
    yield
    assert elsewhere == []


def threads():
    """Threads of the plugin that are at work."""
    return [t for t in threading.enumerate() if t.name.startswith("biosegkit")]


@pytest.fixture
def model(napari, application, spin):
    """A viewer without a window: layers, dims and camera."""
    from napari.components import ViewerModel

    yield ViewerModel()
    spin(lambda: not threads())


@pytest.fixture
def young_process():
    """Searches for garbage look at what is made from now on: what all tests have made here takes seconds each time."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def make_viewer(napari, application, spin, young_process):
    """A function that makes viewers with a window; afterwards they are closed and must leave nothing behind."""
    from napari._qt.qt_viewer import QtViewer

    viewers = []

    def make(**settings):
        viewers.append(napari.Viewer(**{"show": True, **settings}))
        return viewers[-1]

    yield make
    while viewers:
        viewers.pop().close()
    for _ in range(3):
        application.processEvents()
        gc.collect()
    spin(lambda: not threads())
    left = len(QtViewer._instances)
    QtViewer._instances.clear()
    assert left == 0, f"{left} viewers were not freed"
