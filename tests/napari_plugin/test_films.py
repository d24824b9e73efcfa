"""Labels of one time point lie in their time series: made, tuned, corrected, measured, saved and added at that time."""

from __future__ import annotations

import numpy as np
import pytest
from stub_models import Bands, Discs, segmenter, stub_plan

from biosegkit.errors import DataError
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.io import read_labels


@pytest.fixture
def widgets(model, spin):
    """Widgets of a viewer by the names of their classes, with a stub as the only model."""
    from biosegkit_napari.shared import Row, hub_of

    hub, made = hub_of(model), []

    def make(kind, predictor=None):
        if predictor is not None:
            hub.rows = [Row("runs/stub", "stub")]
            hub.replace_loaded("runs/stub", predictor)
        made.append(kind(model))
        return made[-1]

    yield make
    for widget in made:
        widget.close()
        widget.deleteLater()


def discs(shift):
    y, x = np.mgrid[:60, :60]
    value = np.maximum(0, 1 - np.hypot(((y + shift) % 20) - 10, (x % 20) - 10) / 9)
    return (value * np.linspace(0.3, 1, 60)[:, None]).astype(np.float32)


def run(widget, spin):
    spin(lambda: widget.run.isEnabled())
    widget.start()
    spin(lambda: widget._task is None)


def test_labels_lie_at_their_time_point_and_nowhere_else(model, widgets, spin):
    from biosegkit_napari.segment import SegmentWidget

    predictor = segmenter(Bands(), stub_plan(2))
    film = np.random.default_rng(0).random((5, 12, 10)).astype(np.float32) * 3
    image = model.add_image(film, axis_labels=("t", "y", "x"), scale=(30.0, 0.5, 0.5), translate=(60.0, 1.0, 2.0),
                            name="film")
    widget = widgets(SegmentWidget, predictor)
    model.dims.set_point(0, 60 + 3 * 30.0)
    run(widget, spin)
    labels = model.layers[-1]
    wanted = predictor.predict(Image(film[3][None], Grid.regular((12, 10), 0.5))).labels.restored()
    assert labels.data.shape == film.shape
    np.testing.assert_array_equal(labels.data[3], wanted)
    assert not np.delete(labels.data, 3, 0).any()
    assert labels.axis_labels == ("t", "y", "x")
    np.testing.assert_allclose(labels.extent.world, image.extent.world)
    assert labels.name == "film t=3 stub"
    assert model.dims.ndim == 3


def test_a_channel_axis_after_time_is_spanned(model):
    from biosegkit_napari.films import in_time
    from biosegkit_napari.layers import look_at, snapshot

    from biosegkit.image import Labels
    from biosegkit.viewing import label_layer

    layer = model.add_image(np.zeros((4, 3, 6, 5)), axis_labels=("t", "c", "y", "x"), scale=(2.0, 1.0, 0.5, 0.5))
    found = np.zeros((6, 5), np.uint8)
    found[2, 3] = 9
    made = label_layer(Labels.from_values(found, Grid.regular((6, 5), 0.5), "instance"), "found")
    data, settings, _ = in_time(made, snapshot(layer), look_at(layer), 2)
    labels = model.add_labels(data, **settings)
    assert data.shape == (4, 1, 6, 5)
    for t in range(4):
        for c in range(3):
            model.dims.set_point((0, 1), (2.0 * t, float(c)))
            seen = labels.get_value((2.0 * t, float(c), 1.0, 1.5), world=True)
            assert seen == (9 if t == 2 else 0), (t, c)


def test_of_a_long_series_only_what_was_found_is_kept():
    from biosegkit_napari.films import Frame, blank

    film = blank((500, 3000, 2000), np.uint32)  # 12 GB
    Frame(film, "tyx", 7)[1500:1502, 100:103] = 5
    assert np.argwhere(np.asarray(film[7, 1490:1510, 90:110])).tolist() == [
        [y, x] for y in (10, 11) for x in (10, 11, 12)]
    assert not np.asarray(film[8]).any()
    assert film.nbytes_stored() <= 2 * 4 * 1024**2


def test_sliders_act_on_one_time_point_and_find_room_for_more_objects(model, widgets, spin, application):
    from biosegkit_napari.segment import SegmentWidget
    from biosegkit_napari.tune import TuneWidget

    predictor = segmenter(Discs(), stub_plan(2, instance=True))
    film = np.stack([discs(0), discs(7), discs(3)])
    model.add_image(film, axis_labels=("t", "y", "x"), name="film")
    segment, tune = widgets(SegmentWidget, predictor), widgets(TuneWidget)
    model.dims.set_point(0, 1)
    run(segment, spin)
    application.processEvents()
    layer = model.layers[-1]
    assert layer.data.dtype == np.uint32
    layer.data[0, :2, :2] = 77  # painted at another time
    model.dims.set_point(0, 2)
    next(row for row in tune.rows if row.name == "seed").number.setValue(0.7)
    spin(lambda: not tune._decoding.busy)
    image = Image(film[1][None], Grid.regular((60, 60)))
    np.testing.assert_array_equal(layer.data[1], predictor.predict(image, thresholds={"seed": 0.7}).labels.restored())
    assert (layer.data[0] == 77).sum() == 4
    assert not layer.data[2].any()


@pytest.fixture
def corrected(model, widgets, spin):
    """Labels at two of three times, and Correct."""
    from biosegkit_napari.correct import CorrectWidget

    values = np.zeros((3, 20, 30), np.uint32)
    values[1, 2:8, 2:28], values[1, 10:18, 2:10], values[2, 5:9, 5:9] = 3, 9, 3
    layer = model.add_labels(values, axis_labels=("t", "y", "x"), name="film")
    model.dims.set_point(0, 1)
    made = widgets(CorrectWidget)
    spin(lambda: made.session is not None and made._task is None)
    return made, layer


def test_the_time_point_that_is_shown_is_corrected(model, corrected, spin):
    made, layer = corrected
    before = layer.data.copy()
    assert made.said.text().startswith("2 objects")
    made.click((1.0, 12.0, 4.0))
    made.act("grow")
    spin(lambda: made._task is None)
    assert (layer.data[1] == 9).sum() == 8 * 8 + 4 * 8
    assert np.array_equal(layer.data[[0, 2]], before[[0, 2]]), "an object of the same id at another time stays"
    made.cut("line", [(1.0, 0.0, 14.5), (1.0, 9.0, 14.5)])
    spin(lambda: made._task is None)
    assert len(np.unique(layer.data[1])) == 4
    model.dims.set_point(0, 2)
    spin(lambda: made._task is None and made.session.number == 2)
    made.go()
    assert made.session.picked == [3]
    assert model.dims.point[0] == 2
    layer.brush_size = 1
    layer.paint((2, 0, 0), 3)
    assert made.session.canvas.area(3) == 17
    made.act("delete")
    spin(lambda: made._task is None)
    assert not layer.data[2].any()
    model.dims.set_point(0, 1)
    spin(lambda: made.session.number == 1)
    for _ in range(2):
        made.act("undo")
        spin(lambda: made._task is None)
    np.testing.assert_array_equal(layer.data[1], before[1])


def test_one_time_point_is_saved(model, corrected, spin, tmp_path, monkeypatch):
    from biosegkit_napari import saving
    from biosegkit_napari._writer import write_labels

    made, layer = corrected
    monkeypatch.setattr(saving.QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "a.tif"), ""))
    made.save()
    spin(lambda: made._task is None)
    assert made.said.text() == "saved time point 1 as a.tif"
    np.testing.assert_array_equal(read_labels(tmp_path / "a.tif", "instance").restored(), layer.data[1])
    data, attributes, _ = layer.as_layer_data_tuple()
    with pytest.raises(DataError, match=r"labels at 2 time points.*Save… of Correct"):
        write_labels(str(tmp_path / "b.tif"), data, attributes)
    data[2] = 0
    write_labels(str(tmp_path / "b.tif"), data, attributes)
    np.testing.assert_array_equal(read_labels(tmp_path / "b.tif", "instance").restored(), data[1])


def test_image_and_labels_of_the_time_that_is_shown_are_added(model, widgets, spin, tmp_path):
    from biosegkit_napari.retrain import RetrainWidget
    from biosegkit_napari.shared import hub_of

    from biosegkit.io import read

    hub_of(model).folder = tmp_path
    film = np.random.default_rng(0).integers(0, 200, (4, 16, 16), np.uint8)
    labels = np.zeros((4, 16, 16), np.uint32)
    labels[2, 3:9, 3:9] = 1
    model.add_image(film, axis_labels=("t", "y", "x"), name="film")
    model.add_labels(labels, axis_labels=("t", "y", "x"), name="found", metadata={"task": "instance", "frame": 2})
    widget = widgets(RetrainWidget)
    spin(lambda: not widget.runs.looks.busy)
    widget.dataset.setText(str(tmp_path / "set"))
    model.dims.set_point(0, 1)
    widget.start_adding()
    spin(lambda: widget._task is None)
    assert "no labels at time point 1" in widget.said.text()
    assert "go to time point 2" in widget.said.text()
    model.dims.set_point(0, 2)
    assert widget.name.text() == "film_t2"
    widget.start_adding()
    spin(lambda: widget._task is None)
    np.testing.assert_array_equal(read(tmp_path / "set/images/film_t2.tif").array[0], film[2])
    np.testing.assert_array_equal(read_labels(tmp_path / "set/labels/film_t2.tif", "instance").restored(), labels[2])
    flat = model.add_labels(labels[2], name="flat", metadata={"task": "instance"})  # of no time: that which is shown
    widget.layer.layer = flat
    model.dims.set_point(0, 3)
    widget.start_adding()
    spin(lambda: widget._task is None)
    np.testing.assert_array_equal(read(tmp_path / "set/images/film_t3.tif").array[0], film[3])
