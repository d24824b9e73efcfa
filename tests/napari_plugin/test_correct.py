"""Correct: what the buttons, clicks and strokes do to a layer."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def widget(model, spin):
    from biosegkit_napari.correct import CorrectWidget

    values = np.zeros((20, 30), np.uint8)
    values[2:8, 2:28], values[10:18, 2:10] = 3, 9
    layer = model.add_labels(values, features={"index": [3, 9], "score": [0.9, 0.2]})
    made = CorrectWidget(model)
    spin(lambda: made.session is not None and made._task is None)
    yield made, layer
    made.close()


def test_objects_are_visited_corrected_and_restored(widget, spin):
    made, layer = widget
    before = layer.data.copy()
    assert layer.data.dtype == np.uint32
    made.go()
    assert (made.session.picked, layer.selected_label) == ([9], 9)
    made.go()
    assert made.session.picked == [3]
    made.cut("line", [(0.0, 14.5), (9.0, 14.5)])
    spin(lambda: made._task is None)
    assert set(np.unique(layer.data)) == {0, 3, 9, 10}
    layer.selected_label = 9
    layer.brush_size = 1
    layer.paint((0, 0), 9)
    assert made.session.canvas.area(9) == 65
    for _ in range(2):
        made.act("undo")
        spin(lambda: made._task is None)
    assert np.array_equal(layer.data, before)
    made.act("undo")
    spin(lambda: made._task is None)
    assert "nothing to undo" in made.said.text()


def test_clicks_pick_merge_and_split(widget, spin):
    made, layer = widget
    made.click((4.0, 4.0))
    made.click((12.0, 4.0), more=True)
    made.act("merge")
    spin(lambda: made._task is None)
    assert set(np.unique(layer.data)) == {0, 3}
    made.use("points")
    made.click((4.0, 4.0))
    made.click((4.0, 25.0))
    spin(lambda: made._task is None)
    assert layer.data[4, 4] != layer.data[4, 25]
    made.layer.layer = None
    made._release()
    assert made._on_mouse not in layer.mouse_drag_callbacks
    assert not layer.keymap


def test_the_size_of_voxels_is_followed(model, spin):
    from biosegkit_napari.correct import CorrectWidget

    values = np.zeros((9, 21, 21), np.uint32)
    values[4, 10, 10] = 1
    layer = model.add_labels(values)
    made = CorrectWidget(model)
    spin(lambda: made.session is not None and made._task is None)
    layer.scale = (4.0, 1.0, 1.0)
    made.click((4.0, 10.0, 10.0))
    made.amount.setValue(3)
    made.act("grow")
    spin(lambda: made._task is None)
    z, y, x = np.mgrid[-4:5, -10:11, -10:11]
    np.testing.assert_array_equal(layer.data == 1, (4 * z) ** 2 + y**2 + x**2 <= 9)
    made.close()


def test_labels_on_disk_are_opened_for_editing_and_saved(model, spin, tmp_path):
    from biosegkit_napari.correct import CorrectWidget
    from napari.utils.notifications import notification_manager

    from biosegkit.grid import Grid
    from biosegkit.image import Labels
    from biosegkit.io import read_labels, write

    path = tmp_path / "a.ome.zarr"
    values = np.zeros((8, 9), np.uint16)
    values[2:5, 2:5] = 4
    write(Labels.from_values(values, Grid.regular((8, 9), 0.5, "um"), "instance"), path)
    layer = model.add_labels([values, values[::2, ::2]], multiscale=True, scale=(0.5, 0.5),
                             metadata={"biosegkit": {"source": str(path)}})
    alarms = []
    notification_manager.notification_ready.connect(alarms.append)
    made = CorrectWidget(model)
    spin(lambda: made._task is None)
    notification_manager.notification_ready.disconnect(alarms.append)
    assert made.session is None
    assert "Make editable" in made.said.text()
    assert alarms == [], "somebody may be looking through results"
    made.layer.layer = layer
    made.make_editable()
    spin(lambda: made.session is not None and made._task is None)
    made.click((3.0, 3.0))
    made.act("delete")
    spin(lambda: made._task is None)
    made.save()
    spin(lambda: made._task is None)
    again = read_labels(path, "instance")
    assert not again.array.any()
    assert not again.notes
    made.close()


def test_classes_are_counted_as_classes(model, spin):
    from biosegkit_napari.correct import CorrectWidget

    model.add_labels(np.array([[0, 2, 2], [5, 5, 0]], np.uint8), metadata={"task": "semantic"})
    made = CorrectWidget(model)
    spin(lambda: made.session is not None and made._task is None)
    assert made.said.text() == "2 classes; no scores: next by id"
    made.close()


def test_layers_that_show_errors_are_not_corrected(widget, model):
    made, layer = widget
    errors = model.add_labels(np.ones((20, 30), np.uint8), name="errors", metadata={"errors_of": "labels"})
    assert made.layer.layer is layer
    assert errors.data.dtype == np.uint8, "left as they are"


def test_labels_are_widened_and_napari_readied_in_a_thread(model, spin, monkeypatch):
    import threading

    from biosegkit_napari import correct, edits

    where = []
    monkeypatch.setattr(edits, "draw_labels", lambda: where.append(threading.current_thread().name))
    layer = model.add_labels(np.eye(4, dtype=np.uint8))
    made = correct.CorrectWidget(model)
    assert layer.data.dtype == np.uint8
    spin(lambda: made.session is not None and made._task is None)
    assert layer.data.dtype == np.uint32
    assert where[0].startswith("biosegkit")
    layer.paint((0, 3), 1)
    assert made.session.canvas.area(1) > 4, "strokes are seen in the wider labels"
    made.close()
