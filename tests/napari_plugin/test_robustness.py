"""Layers that go while something works on them; data that no memory holds, of which only what is asked for is read."""

from __future__ import annotations

import numpy as np
import pytest
from small_sets import discs
from stub_models import Bands, segmenter, stub_plan

from biosegkit.errors import DataError
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.io import read, read_labels


@pytest.fixture
def notified():
    """What was notified."""
    from napari.utils.notifications import notification_manager

    shown = []
    notification_manager.notification_ready.connect(shown.append)
    yield shown
    notification_manager.notification_ready.disconnect(shown.append)


def segment_with(model, predictor):
    """The widget Segment with a model."""
    from biosegkit_napari.segment import SegmentWidget
    from biosegkit_napari.shared import Row, hub_of

    hub = hub_of(model)
    hub.rows = [Row("runs/stub")]
    hub.replace_loaded("runs/stub", predictor)
    return SegmentWidget(model)


def test_labels_that_are_deleted_while_they_are_measured_or_compared(model, spin, notified):
    from biosegkit_napari.measure import MeasureWidget

    image, values = discs((24, 24))
    widget = MeasureWidget(model)
    for begin in (widget.start, widget.start_comparison):
        model.add_image(image)
        layers = [model.add_labels(values.copy(), name=name) for name in ("found", "true")]
        widget.layer.layer, widget.reference.layer = layers
        begin()
        model.layers.clear()
        spin(lambda: widget._task is None)
        shown = [layer.name for layer in model.layers]
        assert shown == ([] if begin == widget.start else ["errors of found"])
        model.layers.clear()
    assert len(widget.objects.order) == values.max(), "the table is there"
    widget.table.selectRow(0)
    assert widget.said.text() == "The layer of this table was deleted."
    assert not notified
    widget.close()
    widget.deleteLater()


def test_labels_that_are_deleted_while_they_are_listed_or_corrected(model, spin, notified):
    from biosegkit_napari.correct import CorrectWidget

    _, values = discs((24, 24))
    widget = CorrectWidget(model)
    model.add_labels(values.copy())
    model.layers.clear()  # its objects are being listed
    spin(lambda: widget._task is None)
    assert widget.session is None
    layer = model.add_labels(values.copy())
    spin(lambda: widget.session is not None and widget._task is None)
    widget.go()
    widget.act("delete")
    model.layers.clear()
    spin(lambda: widget._task is None)
    assert widget.session is None
    assert widget.said.text() == "Open or make labels first."
    assert not any(button.isEnabled() for button in widget.buttons.values())
    assert widget._on_mouse not in layer.mouse_drag_callbacks
    again = model.add_labels(values.copy())
    spin(lambda: widget.session is not None and widget._task is None)
    assert widget.session.canvas.array.shape == again.data.shape, "another can be corrected"
    assert not notified
    widget.close()
    widget.deleteLater()


def test_what_is_deleted_while_it_is_added_to_a_data_set_is_added(model, spin, tmp_path):
    from biosegkit_napari.retrain import RetrainWidget
    from biosegkit_napari.shared import hub_of

    image, values = discs((24, 24))
    hub_of(model).folder = tmp_path
    widget = RetrainWidget(model)
    model.add_image(image, name="a")
    model.add_labels(values, name="b")
    widget.dataset.setText(str(tmp_path / "set"))
    widget.start_adding()
    model.layers.clear()
    spin(lambda: widget._task is None)
    np.testing.assert_array_equal(read(tmp_path / "set/images/a.tif").array[0], image)
    np.testing.assert_array_equal(read_labels(tmp_path / "set/labels/a.tif", "instance").restored(), values)
    widget.close()
    widget.deleteLater()


def place_values(window, dtype=np.float32):
    """Values of a window that follow from the place of each voxel."""
    axes = np.ix_(*(np.arange(w.start, w.stop) for w in window))
    return (sum((k + 1) * axis for k, axis in enumerate(axes)) % 4).astype(dtype)


class Counting:
    """An array that no memory holds, as dask takes it, and where what was read of it began."""

    def __init__(self, shape, dtype):
        self.shape, self.dtype, self.ndim, self.read = shape, np.dtype(dtype), len(shape), []

    def __getitem__(self, key):
        window = [slice(*k.indices(n)) for k, n in zip(key, self.shape, strict=True)]
        self.read.append(tuple(w.start for w in window))
        return place_values(window, self.dtype)


def counting(shape, chunks, dtype=np.float32):
    """A dask array beyond memory, and the beginnings of what was read of it."""
    import dask.array

    source = Counting(shape, dtype)
    return dask.array.from_array(source, chunks=chunks, asarray=False, fancy=False), source.read


def test_of_a_volume_beyond_memory_a_part_is_segmented_and_nothing_else_is_read(model, spin):
    huge, read = counting((64, 1 << 16, 1 << 16), (1, 4_096, 4_096))  # a terabyte
    predictor = segmenter(Bands(), stub_plan(2))
    widget = segment_with(model, predictor)
    layer = model.add_image(huge, name="huge", contrast_limits=(0, 4), visible=False)
    model.dims.set_point(0, 7)
    layer.corner_pixels = np.array([[0, 8_180, 40_950], [0, 8_229, 40_979]])
    read.clear()
    widget.region.setCurrentText("view")
    spin(widget.run.isEnabled)
    assert widget.said.text().startswith("1 × 50 × 30 voxels")
    widget.start()
    spin(lambda: widget._task is None)
    chunks = {(z, y // 4_096, x // 4_096) for z, y, x in read}
    assert chunks == {(7, y, x) for y in (1, 2) for x in (9, 10)}, "the four in sight"
    labels = model.layers[-1]
    seen = place_values((slice(7, 8), slice(8_180, 8_230), slice(40_950, 40_980)))[0]
    wanted = predictor.predict(Image(seen[None], Grid.regular(seen.shape))).labels.restored()
    np.testing.assert_array_equal(labels.data, wanted[None])
    np.testing.assert_allclose(labels.translate, (7, 8_180, 40_950))
    widget.deleteLater()


def test_what_is_too_large_says_what_to_do_with_the_part_that_was_chosen(model, spin):
    huge, read = counting((64, 1 << 17, 1 << 17), (1, 4_096, 4_096))
    widget = segment_with(model, segmenter(Bands(), stub_plan(2)))
    layer = model.add_image(huge, name="huge", contrast_limits=(0, 4), visible=False)
    layer.corner_pixels = np.array([[0, 0, 0], [0, 100_000, 100_000]])
    model.add_shapes([[[7, 0, 0], [7, 0, 9e4], [7, 9e4, 9e4], [7, 9e4, 0]]], shape_type="rectangle")
    read.clear()
    part = "choose this view or a rectangle, or"
    for kind, wanted in (("view", "zoom in, or"), ("rectangle", "draw a smaller rectangle, or"), ("plane", part),
                         ("whole", part)):
        widget.region.setCurrentText(kind)
        spin(lambda wanted=wanted: "needed" in widget.said.text() and wanted in widget.said.text())
        assert not widget.run.isEnabled()
    assert read == []
    widget.deleteLater()


def test_of_a_film_on_disk_beyond_memory_the_time_in_sight_is_segmented(model, spin, tmp_path):
    import zarr

    film = zarr.open_array(tmp_path / "film.zarr", mode="w", shape=(1_000_000, 400, 300), chunks=(1, 200, 150),
                           dtype="f4", fill_value=0)  # 480 GB
    film[777_777] = np.random.default_rng(0).random((400, 300)) * 3
    predictor = segmenter(Bands(), stub_plan(2))
    widget = segment_with(model, predictor)
    model.add_image(film, name="film", contrast_limits=(0, 3), axis_labels=("t", "y", "x"), visible=False)
    model.dims.set_point(0, 777_777)
    spin(widget.run.isEnabled)
    widget.start()
    spin(lambda: widget._task is None)
    labels = model.layers[-1]
    wanted = predictor.predict(Image(film[777_777][None], Grid.regular((400, 300)))).labels.restored()
    np.testing.assert_array_equal(labels.data[777_777], wanted)
    assert not np.asarray(labels.data[777_776]).any()
    assert labels.data.nbytes_stored() < 4 * 400 * 300 + 10_000, "other times take no memory"
    assert labels.name == "film t=777777 stub"
    widget.deleteLater()


@pytest.mark.parametrize("several", [False, True])
def test_labels_beyond_memory_are_neither_measured_nor_added_nor_read(model, spin, tmp_path, several):
    from biosegkit_napari.measure import MeasureWidget
    from biosegkit_napari.trainings import Addition, added

    huge, read = counting((1 << 20, 1 << 20), 1 << 15, np.uint32)  # 4 TB
    coarse = np.zeros((1 << 10, 1 << 10), np.uint32)
    layer = model.add_labels([huge, coarse] if several else huge, multiscale=several, name="huge", visible=False)
    read.clear()
    widget = MeasureWidget(model)
    widget.start()
    spin(lambda: widget._task is None)
    assert "to be read at once" in widget.said.text()
    assert "table of its objects beside it" in widget.said.text()
    with pytest.raises(DataError, match="to be read at once"):
        added(Addition(str(tmp_path / "set"), "a", (layer,), layer, "instance"))
    assert read == []
    widget.close()
    widget.deleteLater()
