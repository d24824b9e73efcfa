"""Measure: the table of objects and its layer, the comparison with a reference. Logic without Qt, widgets offscreen."""

from __future__ import annotations

import csv

import numpy as np
import pytest


def blocks(*boxes, shape=(30, 40)):
    values = np.zeros(shape, np.uint16)
    for value, *window in boxes:
        values[tuple(slice(a, b) for a, b in window)] = value
    return values


MADE = blocks((3, (2, 6), (2, 12)), (70, (10, 20), (20, 24)), (9, (25, 28), (30, 36)))


@pytest.fixture
def widget(model):
    from biosegkit_napari.measure import MeasureWidget

    made = MeasureWidget(model)
    yield made
    made.close()
    made.deleteLater()


def measured(widget, spin):
    widget.start()
    spin(lambda: widget._task is None)
    return widget


def test_sizes_are_physical_and_intensities_are_those_under_each_object(model, widget, spin, tmp_path):
    pixels = np.random.default_rng(0).random(MADE.shape)
    model.add_image(np.stack([pixels, 2 * pixels]), name="two", scale=(1, 0.5, 0.25), units=("pixel", "um", "um"),
                    axis_labels=("c", "y", "x"))
    layer = model.add_labels(MADE, name="cells", scale=(0.5, 0.25), units="um", axis_labels=("y", "x"),
                             features={"index": [70, 3, 9], "score": [0.7, 0.3, 0.9]})
    widget.image.layer = model.layers["two"]
    measured(widget, spin)
    table = widget._table
    assert table["id"].tolist() == [3, 9, 70]
    np.testing.assert_allclose(table["area_um2"], [40 / 8, 18 / 8, 40 / 8])
    means = [pixels[i == MADE].mean() for i in (3, 9, 70)]
    found = [column for name, column in table.items() if name.startswith("mean_")]
    np.testing.assert_allclose(found, [means, np.multiply(2, means)])
    assert layer.features["score"].tolist() == [0.3, 0.9, 0.7], "what was known of the objects is kept"
    assert layer.features["area_um2"].tolist() == table["area_um2"].tolist()
    widget.write(str(tmp_path / "a.csv"))
    spin(lambda: widget._task is None)
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text("utf-8").splitlines()))
    assert [row["id"] for row in rows] == ["3", "9", "70"]
    assert float(rows[2]["area_um2"]) == 5.0
    assert rows[2]["bbox_start_y"] == "10"
    part = model.add_labels(MADE[2:, 1:], name="part", scale=(0.5, 0.25), translate=(1.0, 0.25), units="um")
    widget.layer.layer = part
    table = measured(widget, spin)._table
    means = [pixels[2:, 1:][i == MADE[2:, 1:]].mean() for i in table["id"]]
    np.testing.assert_allclose(next(v for k, v in table.items() if k.startswith("mean_")), means)


def test_a_row_leads_to_its_object_and_a_pick_to_its_row(model, widget, spin):
    from qtpy.QtCore import Qt

    stack = np.zeros((5, *MADE.shape), np.uint16)
    stack[1], stack[4, :4, :4] = MADE, 200
    layer = model.add_labels(stack, scale=(3, 1, 1))
    measured(widget, spin)
    widget.table.sortByColumn(list(widget.objects.table).index("area"), Qt.SortOrder.DescendingOrder)
    shown = [widget.objects.data(widget.objects.index(row, 0)) for row in range(4)]
    assert shown == ["3", "70", "9", "200"], "by area, equal ones in their order"
    widget.table.selectRow(3)
    spin(lambda: not widget._finding.busy)
    assert (layer.selected_label, model.dims.point[0]) == (200, 12.0)
    widget.table.selectRow(1)
    spin(lambda: not widget._finding.busy)
    y, x = (round(v) for v in model.camera.center[-2:])
    assert (layer.selected_label, model.dims.point[0], stack[1, y, x]) == (70, 3.0, 70)
    layer.selected_label = 9
    assert widget.table.currentIndex().row() == 2
    widget.table.sortByColumn(0, Qt.SortOrder.AscendingOrder)
    assert widget.table.currentIndex().row() == 1, "what is selected stays selected in another order"
    layer.data = np.where(stack == 200, 0, stack)
    widget.table.selectRow(3)
    spin(lambda: not widget._finding.busy)
    assert "not where it was measured" in widget.said.text()
    model.layers.remove(layer)
    widget.table.selectRow(0)
    spin(lambda: not widget._finding.busy)
    assert "deleted" in widget.said.text()


def test_of_a_film_the_time_that_is_shown_is_measured(model, widget, spin):
    film = np.stack([MADE, np.where(MADE < 10, MADE, 0) // 9 * 9, np.zeros_like(MADE)])
    layer = model.add_labels(film, axis_labels=("t", "y", "x"), scale=(1, 0.5, 0.5))
    model.dims.set_point(0, 1)
    measured(widget, spin)
    assert widget._table["id"].tolist() == [9]
    model.dims.set_point(0, 0)
    widget.table.selectRow(0)
    spin(lambda: not widget._finding.busy)
    assert (layer.selected_label, model.dims.point[0]) == (9, 1.0)
    y, x = (round(2 * v) for v in model.camera.center[-2:])
    assert film[1, y, x] == 9


def test_one_film_among_what_is_chosen_gives_the_time_point(model, widget, spin):
    """Plain labels on an image with time; labels and a reference with time; a film that has ended before."""
    axes = {"axis_labels": ("t", "y", "x")}
    film = model.add_image(np.stack([np.full(MADE.shape, 10.0 * k) for k in range(1, 4)]), name="film", **axes)
    plain = model.add_labels(MADE, name="plain")
    others = [model.add_labels(np.stack([np.where(MADE == 9, MADE, 0), MADE, MADE][:n]), name=f"{n}", **axes)
              for n in (3, 2)]
    model.dims.set_point(0, 2)
    widget.layer.layer, widget.image.layer = plain, film
    table = measured(widget, spin)._table
    assert {float(v) for k, column in table.items() if k.startswith("mean_") for v in column} == {30.0}
    assert widget.said.text() == "3 objects of plain, time point 2"
    widget.reference.layer = others[0]
    widget.start_comparison()
    spin(lambda: widget._task is None)
    assert widget.said.text() == "no false positive, no miss, no split, no merge, time point 2"
    model.dims.set_point(0, 0)
    widget.start_comparison()
    spin(lambda: widget._task is None)
    assert widget.said.text() == "2 false positives, no miss, no split, no merge, time point 0"
    model.dims.set_point(0, 2)
    widget.layer.layer = others[1]
    widget.start_comparison()
    spin(lambda: widget._task is None)
    assert widget.said.text().startswith("2: found 2 time points")


def test_a_reference_without_a_size_takes_that_of_the_labels(model, widget, spin):
    """One object, 2 voxels too long along z, of 4 um each: its surfaces are 8 um apart there."""
    found, true = np.zeros((9, 8, 8), np.uint8), np.zeros((9, 8, 8), np.uint8)
    found[2:7, 2:6, 2:6] = true[2:5, 2:6, 2:6] = 1
    layers = (model.add_labels(found, name="found", scale=(4, 0.5, 0.5), units="um"),
              model.add_labels(true, name="true"))
    widget.layer.layer, widget.reference.layer = layers
    widget.start_comparison()
    spin(lambda: widget._task is None and not widget._turns.busy)
    scores = dict(zip(widget.scores.table["score"], widget.scores.table["value"], strict=True))
    assert scores["hd95 of the foreground"] == pytest.approx(8.0)
    assert "true does not say the size of its voxels: that of found" in widget.said.text()
    assert tuple(model.layers[-1].scale) == (4, 0.5, 0.5), "errors lie on the labels"


def test_what_is_wrong_is_shown_in_turns_of_which_none_is_long(model, widget, spin):
    layer, reference = (model.add_labels(MADE // k * k, name=f"by {k}") for k in (1, 3))
    widget.layer.layer, widget.reference.layer = layer, reference
    seen = []
    model.layers.events.inserted.connect(lambda event: seen.append((event.value.visible, len(widget.scores.order))))
    shown = widget._on_compared

    def recorded(found):
        shown(found)
        seen.append(len(model.layers))

    widget._on_compared = recorded
    widget.start_comparison()
    spin(lambda: widget._task is None)
    assert seen[0] == 2, "the tables first, without the layer"
    visible, rows = seen[1]
    assert not visible, "its controls are made before it is drawn"
    assert rows > 3
    assert model.layers[-1].visible
    assert widget.compare.isEnabled()


def test_what_is_wrong_is_counted_coloured_and_can_be_visited(model, widget, spin):
    true = blocks((1, (2, 6), (2, 12)), (2, (10, 20), (20, 24)), (5, (10, 16), (2, 6)), (6, (10, 16), (6, 10)),
                  (7, (22, 28), (2, 14)))
    found = blocks((3, (2, 6), (2, 12)),  # right
                   (4, (25, 29), (30, 36)),  # not in the reference; 2 is missed
                   (8, (10, 16), (2, 10)),  # 5 and 6 in one
                   (9, (22, 28), (2, 8)), (10, (22, 28), (8, 14)))  # 7 in two
    layer = model.add_labels(found, name="found", scale=(0.5, 0.5))
    reference = model.add_labels(true, name="true", scale=(0.5, 0.5))
    widget.layer.layer, widget.reference.layer = layer, reference
    for _ in range(2):  # the second time the layer of errors is replaced
        widget.start_comparison()
        spin(lambda: widget._task is None)
    assert widget.said.text().startswith("1 false positive, 1 miss, 2 pieces of split objects, 2 merged objects")
    scores = dict(zip(widget.scores.table["score"], widget.scores.table["value"], strict=True))
    inside, both = (found > 0).sum() + (true > 0).sum(), ((found > 0) & (true > 0)).sum()
    assert scores["dice of the foreground"] == pytest.approx(2 * both / inside)
    assert [name for name in (one.name for one in model.layers) if "errors" in name] == ["errors of found"]
    errors = model.layers["errors of found"]
    expected = np.select([np.isin(true, [5, 6]), np.isin(found, [9, 10]), true == 2, found == 4], [4, 3, 2, 1])
    np.testing.assert_array_equal(errors.data, expected)
    assert [tuple(errors.colormap.map(code)) for code in (1, 2)] == [(1.0, np.float32(0.59), 0.0, 1.0),
                                                                     (0.25, np.float32(0.67), 1.0, 1.0)]
    rows = list(zip(widget._wrong["what"], widget._wrong["id"], widget._wrong["layer"], strict=True))
    assert rows == [("false positive", 4, "found"), ("miss", 2, "true"), ("piece of a split object", 9, "found"),
                    ("piece of a split object", 10, "found"), ("merged object", 5, "true"),
                    ("merged object", 6, "true")]
    widget.error_table.selectRow(1)
    spin(lambda: not widget._finding.busy)
    assert reference.selected_label == 2
    assert true[tuple(round(2 * v) for v in model.camera.center[-2:])] == 2


def test_classes_are_compared_by_voxel(model, widget, spin):
    true, found = blocks((1, (0, 10), (0, 10)), (2, (10, 20), (0, 10))), blocks((1, (0, 14), (0, 10)))
    layer = model.add_labels(found, name="found", metadata={"task": "semantic"})
    reference = model.add_labels(true, name="true")
    widget.layer.layer, widget.reference.layer = layer, reference
    assert widget.kind.currentText() == "classes"
    widget.start_comparison()
    spin(lambda: widget._task is None)
    assert widget.said.text().startswith("voxels: no false positive, 60 misses, 40 wrong class")
    assert np.bincount(model.layers["errors of found"].data.ravel())[1:].tolist() == [0, 60, 40]
    measured(widget, spin)
    assert (widget._table["class"].tolist(), widget._table["area"].tolist()) == ([1], [140])


def test_a_comparison_can_be_cancelled(model, widget, spin, monkeypatch):
    import threading

    from biosegkit import agreement as module

    begun, go, real = threading.Event(), threading.Event(), module.agreement

    def held(*arguments):
        begun.set()
        assert go.wait(30)
        return real(*arguments)

    monkeypatch.setattr(module, "agreement", held)
    widget.layer.layer, widget.reference.layer = model.add_labels(MADE), model.add_labels(MADE)
    assert not widget.cancel.isEnabled()
    widget.start_comparison()
    spin(begun.is_set)
    assert widget.cancel.isEnabled()
    widget.cancel.click()
    go.set()
    spin(lambda: widget._task is None)
    assert widget.said.text() == "cancelled: nothing was changed"
    assert len(model.layers) == 2
    assert not widget.scores.table
    widget.start_comparison()
    spin(lambda: widget._task is None)
    assert len(model.layers) == 3, "it runs when asked again"


def test_what_cannot_be_compared_says_so(model, widget, spin):
    layer = model.add_labels(MADE, name="cells")
    reference = model.add_labels(MADE[:-1], name="smaller")
    widget.layer.layer, widget.reference.layer = layer, reference
    widget.start_comparison()
    spin(lambda: widget._task is None)
    assert "expected" in widget.said.text()
    widget.layer.layer = model.add_labels(np.zeros((4, 4), int), name="empty")
    measured(widget, spin)
    assert "without an object" in widget.said.text()
    assert not widget.save.isEnabled()
    model.layers.clear()
    assert not widget.measure.isEnabled()


@pytest.mark.gui
def test_errors_are_seen_in_their_colours(make_viewer, application, spin):
    viewer = make_viewer()
    widget = viewer.window.add_plugin_dock_widget("biosegkit", "Measure")[1]
    found = viewer.add_labels(blocks((1, (2, 28), (2, 12))), name="found", visible=False)
    viewer.add_labels(blocks((1, (2, 28), (22, 37))), name="true", visible=False)
    widget.layer.layer, widget.reference.layer = found, viewer.layers["true"]
    widget.start_comparison()
    spin(lambda: widget._task is None)
    viewer.layers["errors of found"].opacity = 1
    viewer.reset_view()
    application.processEvents()
    shot = viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)
    counts = [(np.abs(shot - colour).max(-1) < 12).sum() for colour in ((255, 150, 0), (64, 171, 255))]
    assert min(counts) > 500, "orange and blue are seen"
    assert counts[1] / counts[0] == pytest.approx(15 / 10, rel=0.05)
