"""Batch: a folder through a model in another process, what became of each image, and the results page by page."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import suppress

import numpy as np
import psutil
import pytest
import tifffile
from waiting import PATIENCE


def write(folder, name, count):
    """An image with so many bright squares."""
    image = np.full((20, 60), 10, np.uint8)
    for k in range(count):
        image[5:15, 4 + 14 * k : 13 + 14 * k] = 200
    folder.mkdir(exist_ok=True)
    tifffile.imwrite(folder / f"{name}.tif", image)


@pytest.fixture
def make(model, spin, monkeypatch):
    """Widgets, closed as a user closes them; models and batches are looked for in one folder."""
    from biosegkit_napari.batch import BatchWidget
    from biosegkit_napari.shared import Row, hub_of

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    made, hub = [], hub_of(model)
    hub.rows = [Row("otsu")]

    def one(folder):
        hub.folder = folder
        made.append(BatchWidget(model))
        return made[-1]

    yield one
    for widget in made:
        spin(lambda: widget._task is None and not widget._opening.busy)  # noqa: B023 - called at once
        widget.close()
        widget.deleteLater()


def cells(widget, name):
    column = list(widget.items.table).index(name)
    return [widget.items.data(widget.items.index(row, column)) for row in range(widget.items.rowCount())]


def test_a_folder_is_predicted_paged_through_and_failures_are_tried_again(model, make, spin, tmp_path):
    for name, count in zip("abc", (1, 2, 3), strict=True):
        write(tmp_path / "in", name, count)
    (tmp_path / "in/b.tif").write_bytes(b"no image")
    widget = make(tmp_path)
    widget.start()
    spin(lambda: widget._task is None)
    assert "no images" in widget.said.text()
    widget.images.setText(str(tmp_path / "in"))
    widget.measure.setChecked(True)
    widget._on_images()
    assert widget.out.text() == str(tmp_path / "in_results")
    widget.start()
    spin(lambda: widget.look is not None and widget.look.standing.name == "finished", PATIENCE)
    assert (cells(widget, "state"), cells(widget, "objects")) == (["done", "failed", "done"], ["1", "", "3"])
    said, why = widget.standing.text().split("\n")
    assert said == "finished: 2 done, 1 failed"
    assert (widget.bar.value(), widget.bar.maximum()) == (3, 3)
    assert cells(widget, "message")[1].startswith("found "), "the row says why; which image it is stands before it"
    assert str(tmp_path) not in cells(widget, "message")[1]
    assert why == cells(widget, "message")[1], "the one reason there is is seen without a click"

    other = model.add_image(np.zeros((9, 9)), name="other")
    widget.page(forward=True)
    spin(lambda: len(model.layers) == 3 and model.layers[-1].visible)
    assert [(one.name, one.visible) for one in model.layers] == [("other", False), ("a", True), ("a labels", True)]
    assert widget.said.text().endswith("other layers are hidden")
    model.layers.remove(other)
    widget.table.selectRow(1)
    assert "b.tif" in widget.said.text()
    assert [layer.name for layer in model.layers] == ["a", "a labels"], "what failed leaves the view"
    model.layers.remove("a")
    widget.page(forward=True)
    spin(lambda: "c labels" in model.layers and len(model.layers) == 2)
    labels = model.layers["c labels"]
    assert np.unique(labels.data).tolist() == [0, 1, 2, 3]
    assert labels.features["index"].tolist() == [1, 2, 3]
    assert labels.features["area"].tolist() == np.bincount(labels.data.ravel())[1:].tolist()
    labels.paint((6, 6), 0)
    widget.page(forward=False)
    spin(lambda: "a labels" in model.layers)
    assert labels in model.layers, "what was edited is not thrown away"
    assert "c labels was edited" in widget.said.text()
    widget.page(forward=False)
    assert "no result before" in widget.said.text()

    write(tmp_path / "in", "b", 2)
    assert widget.again.isEnabled()
    widget.resume()
    spin(lambda: widget._task is None and widget.look is not None and widget.look.standing.count("done") == 3
         and widget.look.standing.name == "finished", 120)
    assert cells(widget, "objects") == ["1", "2", "3"]
    assert not widget.again.isEnabled()
    assert widget.out.text() == str(tmp_path / "in_results2")


def test_stacks_and_frames_get_the_voxel_size_that_was_given_and_lie_on_their_labels(model, make, spin, tmp_path):
    (tmp_path / "in").mkdir()
    film = np.full((2, 6, 20, 30), 10, np.uint8)
    film[0, 1:5, 4:16, 3:9] = film[1, 2:5, 4:16, 3:9] = film[1, 2:5, 4:16, 15:27] = 200
    tifffile.imwrite(tmp_path / "in/film.ome.tif", film, metadata={"axes": "TZYX"})
    widget = make(tmp_path)
    widget.images.setText(str(tmp_path / "in"))
    widget._on_images()
    widget.size.setText("2, 0.5 0.5 miles")
    widget.start()
    spin(lambda: widget._task is None)
    assert "write for example 2, 0.5, 0.5 um" in widget.said.text()
    widget.size.setText("2, 0.5, 0.5 µm")
    widget.start()
    spin(lambda: widget.look is not None and widget.look.standing.name == "finished", PATIENCE)
    assert (cells(widget, "image"), cells(widget, "objects")) == (["film_t0000", "film_t0001"], ["1", "2"])
    widget.table.selectRow(1)
    spin(lambda: len(model.layers) == 2)
    image, labels = model.layers
    assert image.data.shape == labels.data.shape == (6, 20, 30)
    assert image.scale.tolist() == labels.scale.tolist() == [2, 0.5, 0.5]
    assert [str(unit) for layer in model.layers for unit in layer.units] == ["micrometer"] * 6
    bright, found = np.asarray(image.data) > 100, labels.data > 0
    assert (bright & found).sum() > 0.7 * (bright | found).sum(), "the frame that these labels are of"


def caught(process, batch):
    """Stop a process in the middle of an image, after another is done; until then and between two images it goes on."""
    if not batch.standing().count("done"):  # looking takes longer than the time between two looks: let it start
        return False
    process.suspend()
    standing = batch.standing()
    if standing.count("done") and standing.count("running"):
        return True
    process.resume()
    time.sleep(0.05)
    return False


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT for another process")
def test_a_batch_is_left_found_again_and_cancelled(make, spin, tmp_path, monkeypatch):
    for k in range(300):
        write(tmp_path / "in", f"i{k:03}", 1)
    widget = make(tmp_path)
    widget.images.setText(str(tmp_path / "in"))
    widget.start()
    spin(lambda: widget.look is not None, PATIENCE)
    batch = widget.batch
    widget.close()
    process = psutil.Process(batch.pid)
    try:
        spin(lambda: caught(process, batch), PATIENCE)  # at work when it is cancelled, however slow the window is
        again = make(tmp_path)
        spin(lambda: again.look is not None and again.look.standing.count("done") > 0, PATIENCE)
        assert again.batch is not batch
        assert again.cancel.isEnabled()
        assert "running" in cells(again, "state")
        asked, kill = threading.Event(), os.kill
        monkeypatch.setattr(os, "kill", lambda *signal: (kill(*signal), asked.set()))
        again.stop()
        spin(asked.is_set)
        process.resume()  # with so little to do it might end before it is asked to stop
        spin(lambda: again._task is None, PATIENCE)
        spin(lambda: again.look.standing.name == "stopped", PATIENCE)
    finally:
        with suppress(psutil.NoSuchProcess):
            process.resume()
        batch.halt()
    assert again.again.isEnabled()
    assert again.look.standing.count("waiting") > 0
    assert not again.batches.timer.isActive()


def test_rows_keep_their_selection_while_their_states_change(application):
    from biosegkit_napari.columns import Columns, table_view
    from qtpy.QtCore import Qt

    model = Columns()
    view = table_view(model, "images")
    names = np.array(["a", "b", "c"], object)
    model.show({"image": names, "objects": np.array([5.0, np.nan, 7.0])})
    view.sortByColumn(1, Qt.SortOrder.DescendingOrder)
    assert [model.data(model.index(row, 0)) for row in range(3)] == ["c", "a", "b"]
    view.selectRow(2)
    model.update_cells({"image": names, "objects": np.array([5.0, 9.0, 7.0])})
    assert [model.data(model.index(row, 0)) for row in range(3)] == ["b", "c", "a"]
    assert view.currentIndex().row() == 0, "b is still the one that is selected"
    model.update_cells({"image": names[:2], "objects": np.array([5.0, 9.0])})
    assert model.rowCount() == 2


def test_images_that_are_gone_are_said_once(make, spin, tmp_path):
    from biosegkit.predictions import start_batch

    write(tmp_path / "in", "a", 1)
    start_batch("otsu", [str(tmp_path / "in")], tmp_path / "out").halt()
    (tmp_path / "in/a.tif").unlink()
    (tmp_path / "in").rmdir()
    widget = make(tmp_path)
    spin(lambda: "in" in widget.said.text() and not widget.batches.timer.isActive())
    assert "nothing there" in widget.said.text()
    assert not widget.cancel.isEnabled()


@pytest.mark.gui
def test_a_result_is_seen_and_a_window_closes_while_things_run(make_viewer, application, spin, tmp_path, monkeypatch):
    from biosegkit_napari.shared import Row, hub_of

    from biosegkit.engines import load_model
    from biosegkit.predict import predict_files

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in", "a", 3)
    predict_files(load_model("otsu"), tmp_path / "in", tmp_path / "there")
    (tmp_path / "there.batch.json").write_text(json.dumps({
        "schema_version": 1, "model": "otsu", "inputs": ["in"], "options": {}, "pid": 2**22 + 7, "born": 0.0,
        "said_before": 0, "cwd": str(tmp_path)}))
    viewer = make_viewer()
    hub = hub_of(viewer)
    hub.rows = [Row("otsu")]
    batch = viewer.window.add_plugin_dock_widget("biosegkit", "Batch")[1]
    viewer.window.add_plugin_dock_widget("biosegkit", "Retrain")
    batch.images.setText(str(tmp_path / "in"))
    batch._on_images()
    spin(lambda: batch.look is not None)
    assert batch.standing.text() == "finished: 1 done"
    batch.page(forward=True)
    spin(lambda: len(viewer.layers) == 2)
    application.processEvents()
    shot = viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)
    coloured = np.ptp(shot, axis=-1) > 40
    rows = np.nonzero(coloured)[0]
    assert len(rows) > 500
    stripes = np.diff(coloured[int(np.median(rows))].astype(int))
    assert (stripes == 1).sum() == 3, "three objects beside each other"
    out = batch.out.text()
    batch.start()
    spin(lambda: batch.batch is not None and str(batch.batch.out) == out)
    running = batch.batch
    batch.stop()  # waits in a thread while the window is closed
    viewer.close()
    running.halt()
    assert not running.running()


def test_results_that_were_corrected_stay_open(model, make, spin, tmp_path):
    from biosegkit_napari.correct import CorrectWidget

    widget, values = make(tmp_path), np.zeros((20, 30), np.uint8)
    values[2:9, 3:20], values[11:17, 3:20] = 1, 2

    def show(name):
        widget._on_opened([(values.copy(), {"name": name}, "labels")])
        spin(lambda: name in model.layers)

    def listed():
        spin(lambda: correct.session is not None and correct._task is None)

    show("a labels")
    other, correct = model.add_labels(values.copy(), name="other"), CorrectWidget(model)
    for layer in (model.layers["a labels"], other, model.layers["a labels"]):
        correct.layer.layer = layer
        listed()
        if layer is not other and not layer.metadata["corrections"]:
            correct.session.pick(1)
            correct.act("delete")
            listed()
    correct.close()
    correct._release()
    correct.deleteLater()
    show("b labels")
    assert "a labels was edited and stays open" in widget.said.text()
    assert not model.layers["a labels"].visible
    show("c labels")
    assert [layer.name for layer in model.layers] == ["a labels", "other", "c labels"], "b was only looked at"
