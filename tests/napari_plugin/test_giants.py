"""The whole of a layer in blocks: what is asked before, labels that lie on the image, a cancel that goes on."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from pyramids import halves, subifds, tissue
from stub_models import fresh_weights, stub_plan
from waiting import PATIENCE

from biosegkit.batch import giants
from biosegkit.batch.steps import PIECES
from biosegkit.bundle import load, write_bundle
from biosegkit.errors import DataError
from biosegkit.grid import Grid
from biosegkit.image import Image, Labels
from biosegkit.io import write
from biosegkit.predictions import attach_batch
from biosegkit.viewing import file_layers

DATA = os.environ.get("BIOSEGKIT_DATA")
CHOICES = {"image": "slide", "model": "model"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model that works at 0.5 µm, and a slide of 0.25 µm that is taken for one that is too large for memory."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(giants, "GIANT", 1000)
    plan = stub_plan(2, patch=(64, 64), scheme="zscore", instance=True, channels=3, unit="um", spacing=(0.5, 0.5),
                     resample=True)
    write_bundle(tmp_path / "model", plan, {"0": fresh_weights(plan, 4)})
    return tmp_path


def slide(folder, side=640, name="slide"):
    """A pyramid, and its resolution of 0.5 µm."""
    levels = halves(tissue((side, side + 60)), 2)
    subifds(folder / f"{name}.ome.tif", levels, photometric="rgb", compression=None)  # beyond a megabyte: looked at
    return folder / f"{name}.ome.tif", levels[1]


def opened(viewer, path, **changes):
    from napari.layers import Layer

    added = [viewer.add_layer(Layer.create(*found)) for found in file_layers(path)]
    for name, value in changes.items():
        for layer in added:
            setattr(layer, name, value)
    return added


@pytest.fixture
def segment(model, spin):
    """The widget with the model of a folder."""
    from biosegkit_napari.segment import SegmentWidget
    from biosegkit_napari.shared import Row, hub_of

    made = []

    def make(folder):
        hub = hub_of(model)
        hub.rows, hub.folder = [Row(str(folder / "model"), "instance")], folder
        made.append(SegmentWidget(model))
        return made[-1]

    yield make
    for widget in made:
        widget.stop()
        spin(lambda: widget._task is None, 60)  # noqa: B023 - called at once
        widget.deleteLater()


def wish_of(layers, **changes):
    """A wish for the whole of layers, as the widget makes it."""
    from biosegkit_napari.layers import look_at, snapshot
    from biosegkit_napari.wishes import Wish

    look = look_at(layers[0])
    choices = {"model": "model", "kind": "whole", "region": (tuple(slice(0, n) for n in look.grid.shape), None)}
    return Wish(layers=tuple(map(snapshot, layers)), **{**choices, **changes}), look


def giant_of(layers, predictor, **changes):
    from biosegkit_napari import giants as plugin

    wish, look = wish_of(layers, **changes)
    return plugin.giant_of(wish, look, predictor)


def test_all_of_a_slide_is_segmented_in_blocks_as_in_one_piece_and_lies_on_it(model, segment, spin, folder):
    path, middle = slide(folder)
    widget = segment(folder)
    layer, = opened(model, path, translate=(30.0, 40.0))
    assert layer.multiscale
    spin(widget.run.isEnabled, PATIENCE)
    assert "resolution 2 of 3, that of the model" in widget.said.text()
    assert "in blocks on disk, " in widget.said.text()
    assert widget.said.text().endswith("with its results in slide_results")
    assert widget.place.isVisibleTo(widget)
    assert widget.out.placeholderText() == "slide_results"
    seen = []
    widget.start()
    widget._task.progressed.connect(lambda *report: seen.append(report))
    spin(lambda: widget._task is None, 280)
    whole = load(folder / "model", "cpu").predict(
        Image(np.moveaxis(middle, -1, 0).copy(), Grid.regular(middle.shape[:2], 0.5, "um"), ("red", "green", "blue")))
    labels = model.layers[-1]
    assert labels is not layer, widget.said.text()
    assert not isinstance(labels.data, np.ndarray), "it is read while it is looked at"
    np.testing.assert_array_equal(np.asarray(labels.data[:, :]), whole.labels.restored())
    np.testing.assert_allclose(labels.data_to_world((-0.5, -0.5)), layer.data_to_world((-0.5, -0.5)))
    np.testing.assert_allclose(labels.data_to_world(np.array(middle.shape[:2]) - 0.5),
                               layer.data_to_world(np.array(layer.data[0].shape[:2]) - 0.5))
    assert labels.features["index"].tolist() == np.unique(whole.labels.restored())[1:].tolist()
    assert widget.said.text().startswith(f"{whole.labels.count} objects, kept in {folder / 'slide_results'}")
    assert [what for _, total, what in seen if not total][:2] == [
        "beginning in a process of its own", "loading the model and looking at the image"]
    again = giant_of([layer], load(folder / "model", "cpu"), model=str(folder / "model"))
    assert (again.out, again.goes_on) == (folder / "slide_results", True), "the same is not computed twice"
    other = giant_of([layer], load(folder / "model", "cpu"), model=str(folder / "model"), tta=True)
    assert (other.out, other.goes_on) == (folder / "slide_results2", False)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT for another process")
def test_a_cancel_does_not_wait_for_a_block_and_run_goes_on_there(model, segment, spin, folder):
    path, _ = slide(folder, 6000)  # one block of thousands of tiles
    widget = segment(folder)
    opened(model, path)
    spin(widget.run.isEnabled, PATIENCE)
    widget.start()
    out = folder / "slide_results"
    spin(lambda: out.exists() and attach_batch(out).blocks() is not None, 200)
    begun = time.monotonic()
    widget.stop()
    assert widget.said.text() == "cancelling…"
    spin(lambda: widget._task is None, 60)
    assert attach_batch(out).standing().name == "stopped"
    assert time.monotonic() - begun < 60
    assert len(model.layers) == 1
    assert widget.said.text() == f"cancelled: nothing was added; what was computed is kept in {out}, Run goes on there"
    widget.tta.toggle()
    widget.tta.toggle()
    spin(widget.run.isEnabled, 60)
    assert widget.said.text().endswith("goes on in slide_results")


def test_a_layer_that_was_given_another_pixel_size_is_told_with_it(model, folder):
    path, _ = slide(folder)
    predictor = load(folder / "model", "cpu")
    layer, = opened(model, path)
    assert {*giant_of([layer], predictor).options} == {"memory"}
    layer.scale = (0.125, 0.125)
    assert giant_of([layer], predictor).options["spacing"] == "0.125,0.125"
    assert giant_of([layer], predictor).options["unit"] == "um"


def test_labels_on_disk_are_shown_with_all_their_resolutions_and_read_when_looked_at(model, tmp_path):
    from napari.layers import Layer

    from biosegkit.viewing import stored_label_layer

    values = np.kron(np.arange(400, dtype=np.uint16).reshape(20, 20), np.ones((80, 60), np.uint16))
    write(Labels.from_values(values, Grid.regular(values.shape, 0.5, "um"), "instance"), tmp_path / "a.ome.zarr")
    layer = model.add_layer(Layer.create(*stored_label_layer(tmp_path / "a.ome.zarr", "a")))
    assert [level.shape for level in layer.data] == [(1600, 1200), (800, 600)]
    assert not any(isinstance(level, np.ndarray) for level in layer.data)
    np.testing.assert_array_equal(np.asarray(layer.data[1][:, :]), values[::2, ::2])
    assert layer.get_value((200.0, 300.0), world=True)[-1] == 5 * 20 + 10  # row 400 of 80, column 600 of 60


@pytest.mark.parametrize("turn", [False, True])
def test_labels_follow_an_image_that_was_moved_in_the_viewer(model, tmp_path, turn):
    """A corner of the image and of its labels, which have half the resolution, are one point of the world."""
    from biosegkit_napari import giants as plugin
    from biosegkit_napari.layers import look_at, metadata_of
    from napari.layers import Layer

    from biosegkit.io import ReadOptions
    from biosegkit.viewing import stored_label_layer

    grid = Grid.regular((6, 8, 10), (2.0, 1.0, 1.0), "um")
    if turn:  # stored from the last row to the first
        affine = np.array(grid.affine)
        affine[:3, 1] *= -1
        affine[:3, 3] = (5, 7, 9)
        grid = Grid(grid.shape, affine, "um")
    values = np.random.default_rng(0).integers(0, 99, (1, *grid.shape), np.uint8)
    write(Image(values, grid), tmp_path / "a.ome.zarr")
    coarse = np.arange(6 * 4 * 5, dtype=np.uint16).reshape(6, 4, 5)
    write(Labels.from_values(coarse, grid.resized((6, 4, 5)), "instance"), tmp_path / "b.ome.zarr")
    layer, = opened(model, tmp_path / "a.ome.zarr")
    item = SimpleNamespace(images=(tmp_path / "a.ome.zarr",), output=tmp_path / "b.ome.zarr", reading=ReadOptions())
    for change in ({}, {"translate": (1.0, 2.0, 3.0)}, {"rotate": 30.0}):
        for name, value in change.items():
            setattr(layer, name, value)
        giant = SimpleNamespace(home=plugin._home(look_at(layer), metadata_of(layer)))
        placed = plugin._followed(item, giant)
        assert (placed is None) == (not change)
        labels = Layer.create(*stored_label_layer(item.output, "b", placed))
        found = labels.data[0] if labels.multiscale else labels.data
        fine = np.asarray(layer.data)
        for corner in np.ndindex(2, 2, 2):
            at = np.array([n if c else 0 for c, n in zip(corner, fine.shape, strict=True)]) - 0.5
            small = np.array([n if c else 0 for c, n in zip(corner, found.shape, strict=True)]) - 0.5
            np.testing.assert_allclose(labels.data_to_world(small), layer.data_to_world(at), atol=1e-9)
        shown = coarse[:, ::-1] if turn else coarse
        np.testing.assert_array_equal(np.asarray(found[:, :, :]), shown)


def test_what_cannot_be_done_in_blocks_says_why_and_what_can(model, folder):
    from biosegkit.engines import load_model

    predictor = load(folder / "model", "cpu")
    path, _ = slide(folder)
    layer, = opened(model, path)

    def refused(match, layers=None, predictor=predictor, **changes):
        with pytest.raises(DataError, match=match):
            giant_of(layers or [layer], predictor, **changes)

    refused("takes images whole", predictor=load_model("otsu"))
    refused("choose the axes that the layer says", axes="zyx"[1:][::-1])
    array = model.add_image(np.zeros((70, 60, 3), np.uint8), rgb=True)
    refused("open its file with biosegkit", [array])
    refused("2 files", [layer, array])
    film = folder / "film.ome.tif"
    tifffile.imwrite(film, np.zeros((2, 700, 800), np.uint8), ome=True, metadata={"axes": "TYX"})
    refused("predict the file with Batch", opened(model, film))
    tifffile.imwrite(folder / "two.ome.tif", np.zeros((2, 800, 800), np.uint8), ome=True, metadata={"axes": "CYX"})
    refused("select the layers of all channels", opened(model, folder / "two.ome.tif")[:1])
    write(Image(np.zeros((3, 40, 40), np.uint8), Grid.regular((40, 40)), ("red", "green", "blue")), folder / "a.png")
    refused("save it as OME-Zarr or a pyramidal TIFF", opened(model, folder / "a.png"))
    (folder / "full").mkdir()
    (folder / "full/a.txt").write_text("")
    refused("choose a new folder for results", out=str(folder / "full"))
    assert giant_of([layer], predictor, out=str(folder / "new")).out == folder / "new"


def test_what_has_no_file_is_refused_with_both_ways_out(model, segment, spin, folder):
    import dask.array

    widget = segment(folder)
    huge = dask.array.zeros((100_000, 200_000, 3), chunks=(1000, 1000, 3), dtype=np.uint8)
    model.add_image(huge, name="huge", rgb=True, visible=False, scale=(0.5, 0.5), units=("um", "um"))
    spin(lambda: "choose this view" in widget.said.text(), PATIENCE)
    assert "open its file with biosegkit" in widget.said.text()
    assert not widget.run.isEnabled()


def test_seconds_left_follow_the_blocks_since_the_first_look(monkeypatch):
    from biosegkit_napari import giants as plugin

    now = iter([100.0, 110.0, 120.0, 121.0])
    monkeypatch.setattr(plugin, "time", SimpleNamespace(monotonic=lambda: next(now)))  # the clock of this module alone
    pace = plugin._Pace()
    assert pace.at(None)[:2] == (0, 0)
    assert pace.at((4, 10, "blocks")) == (4, 10, "blocks"), "of what was there before nothing is known"
    assert pace.at((6, 10, "blocks")) == (6, 10, "blocks, 20s left"), "two in ten seconds, four to go"
    assert pace.at((7, 10, "blocks")) == (7, 10, "blocks, 20s left"), "three in twenty seconds, three to go"
    assert pace.at((10, 10, "blocks")) == (0, 0, "deciding over all blocks")
    assert pace.at((0, 3, PIECES)) == (0, 3, PIECES)
    for found in ((3, 3, PIECES), (3, 10, "blocks"), None):  # the folder is removed, file by file
        assert pace.at(found)[2].startswith("writing")


@pytest.mark.data
@pytest.mark.skipif(not DATA, reason="BIOSEGKIT_DATA does not name the folder of real data")
def test_a_real_slide_is_one_that_is_done_in_blocks(model, folder):
    path = Path(str(DATA)) / "wsi_slides/images/CMU-1-Small-Region_pyramid.ome.tif"
    layer, = opened(model, path)
    found = giant_of([layer], load(folder / "model", "cpu"), out=str(folder / "out"))
    assert found.file == str(path)
    assert found.home.spacing == pytest.approx((0.499, 0.499))
    assert {*found.options} == {"memory"}
