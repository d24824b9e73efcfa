"""Work beside the viewer: results in its thread, cancel within a tile, only the newest wish, errors that help."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from typing import ClassVar

import pytest

from biosegkit.errors import DataError
from biosegkit.progress import tick

pytestmark = pytest.mark.usefixtures("application")


def started(task):
    said = {"returned": [], "failed": [], "progressed": [], "ended": []}
    task.returned.connect(lambda value: said["returned"].append((value, threading.current_thread())))
    task.failed.connect(lambda error: said["failed"].append(error))
    task.progressed.connect(lambda *p: said["progressed"].append(p))
    task.ended.connect(lambda: said["ended"].append(1))
    task.start()
    return said


def test_a_result_comes_back_to_the_viewers_thread(spin):
    from biosegkit_napari.work import Task

    def work(n):
        for k in range(n + 1):
            tick(k, n, "tiles")
        return threading.current_thread()

    said = started(Task(work, 4))
    spin(lambda: said["ended"])
    (where, delivered), = said["returned"]
    assert where is not threading.main_thread()
    assert delivered is threading.main_thread()
    assert said["progressed"][0] == (0, 4, "tiles")
    assert said["progressed"][-1] == (4, 4, "tiles")


def test_a_cancel_acts_at_the_next_tile_and_nothing_is_delivered(spin):
    from biosegkit_napari.work import Task

    reached, go = [], threading.Event()

    def work():
        for k in range(1000):
            tick(k, 1000, "tiles")
            reached.append(k)
            go.wait(30)
        return "a result"

    task = Task(work)
    said = started(task)
    spin(lambda: reached)
    task.cancel()
    go.set()
    spin(lambda: said["ended"])
    assert reached == [0]
    assert not said["returned"] + said["failed"]


def test_work_that_does_not_tick_is_dropped_when_it_is_cancelled(spin):
    from biosegkit_napari.work import Task

    go = threading.Event()
    task = Task(go.wait, 30)
    said = started(task)
    task.cancel()
    go.set()
    spin(lambda: said["ended"])
    assert not said["returned"]


def test_only_the_newest_of_many_wishes_is_worked_on(spin):
    from biosegkit_napari.work import Latest

    go, worked, found = threading.Event(), [], []

    def work(wish):
        worked.append(wish)
        go.wait(30)
        return wish

    latest = Latest(work)
    latest.returned.connect(found.append)
    for wish in range(20):
        latest.submit(wish)
    go.set()
    spin(lambda: not latest.busy)
    assert worked == found == [0, 19]


def test_errors_are_notifications_with_their_remedy(spin):
    from biosegkit_napari.work import Task, notify
    from napari.utils.notifications import notification_manager

    def work():
        raise DataError("3 channels", file="a.tif", expected="1", remedy="choose a channel")

    said = started(Task(work))
    spin(lambda: said["ended"])
    shown = []
    notification_manager.notification_ready.connect(shown.append)
    try:
        notify(said["failed"][0])
    finally:
        notification_manager.notification_ready.disconnect(shown.append)
    assert [n.message for n in shown] == ["a.tif: found 3 channels; expected 1. choose a channel"]


def searched():
    """Whether Python searches for garbage by itself."""
    return gc.isenabled() and gc.get_threshold()[0] > 0


def many_younger_searches():
    """So many that Python would begin one through all objects."""
    while gc.get_count()[2] <= gc.get_threshold()[2]:
        gc.collect(1)


def test_threads_give_way_to_the_viewer_while_a_task_runs_and_no_longer(spin):
    from biosegkit_napari.work import Task

    before, go = sys.getswitchinterval(), threading.Event()
    said = [started(Task(lambda: (go.wait(30), sys.getswitchinterval())[1])) for _ in range(2)]
    go.set()
    spin(lambda: all(one["ended"] for one in said))
    assert [value == pytest.approx(0.001) for one in said for value, _ in one["returned"]] == [True, True]
    assert sys.getswitchinterval() == pytest.approx(before)


def test_all_objects_are_searched_for_garbage_when_the_viewer_is_at_rest_and_not_before(spin, monkeypatch):
    from biosegkit_napari import garbage
    from biosegkit_napari.work import Task, search

    monkeypatch.setattr(garbage, "_STILL", 3)
    search()._timer.setInterval(5)
    full, moves, go = [], iter(range(20)), threading.Event()
    monkeypatch.setattr(garbage.QCursor, "pos", lambda: next(moves, 20))
    many_younger_searches()
    listen = lambda phase, about: full.append(next(moves, "at rest")) if (phase, about["generation"]) == (  # noqa: E731
        "start", 2) else None
    gc.callbacks.append(listen)
    try:
        said = started(Task(go.wait, 30))
        assert not searched()
        go.set()
        spin(lambda: said["ended"])
        assert not searched(), "the result has yet to be drawn"
        spin(searched)
    finally:
        gc.callbacks.remove(listen)
        search()._timer.setInterval(garbage._EVERY)
    assert full == ["at rest"], "one search, after the pointer had come to rest"


class Cycle:
    """Refers to itself; says in which thread it was found to be garbage."""

    gone: ClassVar[list[threading.Thread]] = []

    def __init__(self):
        self.self = self

    def __del__(self):
        self.gone.append(threading.current_thread())


def test_garbage_of_a_thread_is_found_in_the_viewers_thread_while_it_works(spin):
    """Widgets may be among it, which must not go elsewhere: Python itself would search in the thread that makes it."""
    from biosegkit_napari.work import Task

    def work():
        end = time.monotonic() + 60
        while not Cycle.gone and time.monotonic() < end:
            for _ in range(500):
                Cycle()
            time.sleep(0.001)

    Cycle.gone.clear()
    said = started(Task(work))
    spin(lambda: said["ended"])
    assert len(Cycle.gone) > 100, "found while the thread worked"
    assert set(Cycle.gone) == {threading.main_thread()}


def test_what_a_task_held_last_goes_in_the_viewers_thread(spin):
    """Such as a widget that was closed meanwhile, one of whose methods was at work."""
    from biosegkit_napari.work import Task

    class Held:
        def __del__(self):
            gone.append(threading.current_thread())

        def work(self):
            return "found"

    gone = []
    for _ in range(50):
        said = started(Task(Held().work))
        spin(lambda said=said: said["ended"])
    spin(lambda: len(gone) == 50, 20)
    assert set(gone) == {threading.main_thread()}


def test_nothing_is_searched_at_rest_for_what_was_imported(application, spin, monkeypatch):
    from biosegkit_napari import garbage

    monkeypatch.setattr(garbage, "_STILL", 2)
    full, kept = [], []
    listen = lambda phase, about: full.append(1) if (phase, about["generation"]) == ("start", 2) else None  # noqa: E731

    def rest(after):
        search.hold()
        after()
        search.release()
        spin(lambda: not search._timer.isActive())

    def imports():
        with quiet.uncollected():
            kept.append([[k] for k in range(10**6)])

    from biosegkit_napari import quiet

    gc.collect()
    search = garbage.Search()
    search._timer.setInterval(5)
    gc.callbacks.append(listen)
    try:
        rest(lambda: None)
        rest(imports)
        assert full == []
        rest(many_younger_searches)
        assert full == [1], "but for what was made otherwise"
    finally:
        gc.callbacks.remove(listen)
        search.end()


def test_another_process_compiles_what_was_never_imported_here(tmp_path):
    code = ("from biosegkit_napari import quiet; quiet._FIRST = ('never_imported', 'not_installed');"
            "quiet.compile_elsewhere(); import sys; print('never_imported' in sys.modules)")
    (tmp_path / "never_imported.py").write_text("import os\nopen('seen', 'a').write(f'{os.getppid()} ')\n")
    settings = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path / "compiled"), "PYTHONPATH": str(tmp_path)}
    settings.pop("PYTHONDONTWRITEBYTECODE", None)
    for _ in range(2):
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True,
                              env=settings, cwd=tmp_path)
        assert done.stdout.split() == ["False"]
    assert len((tmp_path / "seen").read_text().split()) == 1, "compiled by the first, found by the second"
    assert list((tmp_path / "compiled").rglob("never_imported*.pyc"))


def test_libraries_are_loaded_before_a_model_is():
    code = ("from biosegkit_napari.quiet import load_libraries; load_libraries(); import sys, torch;"
            "print(torch.ones(2).sum().item(), 'numba' in sys.modules, 'pandas' in sys.modules)")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2.0", "True", "True"]


def test_objects_made_without_collections_are_old_afterwards_and_can_still_be_collected():
    from biosegkit_napari.quiet import uncollected

    class Cycle:
        pass

    with uncollected():
        one = Cycle()
        one.self = one
    assert searched()
    assert any(found is one for found in gc.get_objects(generation=2))
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None



def test_a_library_that_is_imported_in_a_block_does_not_forbid_searches_for_good():
    """dask remembers at its import whether there were any, and restores that after every slice of an array."""
    code = ("import gc; from biosegkit_napari.quiet import uncollected\nwith uncollected(): import dask.array\n"
            "dask.array.zeros((4, 4), chunks=2)[1:]; print(gc.isenabled(), gc.get_threshold()[0] > 0)")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_blocks_without_collections_overlap_and_the_last_to_end_lets_them_be_again():
    """The first ends while the second is open, in another thread: there is no search before that has ended, too."""
    from biosegkit_napari.quiet import uncollected

    inside, go = threading.Event(), threading.Event()

    def second():
        with uncollected():
            inside.set()
            go.wait(30)

    assert searched()
    other = threading.Thread(target=second)
    with uncollected():
        other.start()
        assert inside.wait(30)
    assert not searched()
    go.set()
    other.join(30)
    assert searched()


def test_steps_take_turns_in_order_and_what_a_step_asks_for_follows_it(application, spin):
    from biosegkit_napari.work import Turns
    from qtpy.QtCore import QTimer
    from qtpy.QtWidgets import QWidget

    window, done = QWidget(), []
    turns = Turns(window)

    def ask():
        done.append("asks")
        turns.do(lambda: done.append("first"), lambda: done.append("second"))
        turns.do(lambda: done.append("third"))

    def beat():
        done.append("beat")
        if turns.busy:
            QTimer.singleShot(0, beat)

    turns.do(ask, lambda: done.append("last"))
    assert done == []
    QTimer.singleShot(0, beat)
    spin(lambda: not turns.busy)
    assert [one for one in done if one != "beat"] == ["asks", "first", "second", "third", "last"]
    assert all("beat" in done[k : k + 3] for k in range(len(done) - 2))  # the loop had its turns between them
    window.deleteLater()


def test_an_error_in_a_step_is_told_and_keeps_the_others_from_nothing(application, spin, monkeypatch):
    from biosegkit_napari.work import Turns
    from qtpy.QtWidgets import QWidget

    told, done, window = [], [], QWidget()
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: told.append(error))
    turns = Turns(window)
    turns.do(lambda: 1 / 0, lambda: done.append(1))
    spin(lambda: done)
    assert [type(error) for error in told] == [ZeroDivisionError]
    window.deleteLater()


def test_a_window_is_painted_in_the_next_turn(application, spin):
    from biosegkit_napari.work import paint_later
    from qtpy.QtWidgets import QVBoxLayout, QWidget

    window, inner = QWidget(), QWidget()
    QVBoxLayout(window).addWidget(inner)
    paint_later(inner)
    paint_later(inner)
    assert not window.updatesEnabled()
    spin(window.updatesEnabled)
    window.setUpdatesEnabled(False)  # by somebody else, who will allow it again
    paint_later(inner)
    application.processEvents()
    assert not window.updatesEnabled()
    window.deleteLater()


def test_a_window_that_python_let_go_before_qt_did_is_painted_or_not_and_nothing_ends(application):
    """What PyQt calls must not be what a search for garbage has just emptied: that ended the process."""
    code = ("import gc; from qtpy.QtCore import QEvent; from qtpy.QtWidgets import QApplication, QWidget;"
            "from biosegkit_napari.work import paint_later; application = QApplication([]); gc.disable();"
            "window = QWidget(); window.itself = window; paint_later(window); window.deleteLater(); del window;"
            "print(gc.collect() > 0); application.processEvents();"
            "application.sendPostedEvents(None, QEvent.Type.DeferredDelete.value); print('there')")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["True", "there"])
