"""Labels that are made editable stay where they are, on disk and in memory; what is saved has the right name."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from biosegkit import viewing
from biosegkit.errors import DataError
from biosegkit.grid import Grid
from biosegkit.image import Labels
from biosegkit.io import read_labels, write

AFFINES = {
    "straight": [[0, 0, 0.7, 5], [0, 0.8, 0, -3], [2.5, 0, 0, 9], [0, 0, 0, 1]],
    "flipped": [[0, 0, -0.7, 5], [0, 0.8, 0, -3], [-2.5, 0, 0, 9], [0, 0, 0, 1]],
    "permuted": [[1.5, 0, 0, 5], [0, 0, 0.9, -3], [0, -0.9, 0, 9], [0, 0, 0, 1]],
    "oblique": [[0, -0.3, -0.7, 5], [0, 0.7, -0.3, -3], [2.5, 0, 0, 9], [0, 0, 0, 1]],
}


@pytest.fixture
def correct(model, spin):
    """A function that makes a layer of a file editable, and the widget that corrects it."""
    from biosegkit_napari._reader import read_layers
    from biosegkit_napari.correct import CorrectWidget
    from napari.layers import Layer

    widgets = []

    def make(path):
        ((data, settings, kind),) = read_layers(str(path))
        layer = model.add_layer(Layer.create(data, settings, kind))
        made = CorrectWidget(model)
        widgets.append(made)
        spin(lambda: made._task is None)
        made.layer.layer = layer
        spin(lambda: made._task is None)
        made.make_editable()
        spin(lambda: made._task is None and made.session is not None and made.layer.layer is not layer)
        return layer, made.layer.layer, made

    yield make
    for made in widgets:
        made.close()
        made.deleteLater()


def at(layer, grid, voxel):
    """Where a voxel of a file is in the data of a layer."""
    x, y, z, _ = grid.affine @ [*voxel, 1]
    return tuple(np.rint(layer.world_to_data((z, y, x))).astype(int).tolist())


def value(layer, grid, voxel):
    return int(np.asarray(layer.data[at(layer, grid, voxel)]))


@pytest.mark.parametrize("whole", [True, False], ids=["in memory", "read lazily"])
@pytest.mark.parametrize("kind", AFFINES)
def test_labels_of_a_turned_store_are_edited_where_they_are_shown(correct, spin, tmp_path, monkeypatch, kind, whole):
    from biosegkit_napari._reader import read_layers
    from biosegkit_napari.layers import labels_of
    from napari.layers import Layer

    if not whole:
        monkeypatch.setattr(viewing, "_WHOLE", 1)
    grid, path = Grid((4, 6, 5), np.array(AFFINES[kind], float), "mm"), tmp_path / "a_labels.ome.zarr"
    values = np.zeros(grid.shape, np.uint16)
    values[1:3, 1:3, 3:5], values[0, 5, 0] = 4, 7
    write(Labels.from_values(values, grid, "instance"), path)
    shown, layer, made = correct(path)
    assert isinstance(shown.data, np.ndarray) == whole
    np.testing.assert_array_equal(np.asarray(layer.data), np.asarray(shown.data))
    for voxel in [(1, 1, 3), (0, 5, 0), (3, 0, 0)]:
        assert value(layer, grid, voxel) == value(shown, grid, voxel) == values[voxel]

    layer.brush_size = 1
    layer.paint(at(layer, grid, (3, 4, 1)), 7)
    layer.data_setitem(tuple(np.array([i]) for i in at(layer, grid, (3, 0, 2))), 7)
    layer.data[at(layer, grid, (2, 5, 4))] = 7
    values[3, 4, 1] = values[3, 0, 2] = values[2, 5, 4] = 7
    back = labels_of(layer)
    assert back.grid == grid
    np.testing.assert_array_equal(back.restored(), values)

    made.click(at(layer, grid, (2, 2, 4)))
    assert made.session.picked == [4]
    made.act("delete")
    spin(lambda: made._task is None)
    np.testing.assert_array_equal(labels_of(layer).restored(), np.where(values == 4, 0, values))
    made.act("undo")
    spin(lambda: made._task is None)
    made.save()
    spin(lambda: made._task is None)
    for last in (0, 9):
        if last:  # after the save, and not saved again
            layer.paint(at(layer, grid, (0, 0, 4)), last)
            values[0, 0, 4] = last
        again = Layer.create(*read_layers(str(path))[0])
        np.testing.assert_array_equal(labels_of(again).restored(), values)
        assert value(again, grid, (3, 4, 1)) == 7
        found = read_labels(path, "instance")
        np.testing.assert_array_equal(found.restored(), values)
        assert any("not saved" in note for note in found.notes) == bool(last)


def test_labels_after_a_save_can_be_made_editable_again(correct, spin, tmp_path):
    path = tmp_path / "a_labels.ome.zarr"
    write(Labels.from_values(np.eye(40, dtype=np.uint16), Grid.regular((40, 40), 0.5, "um"), "instance"), path)
    _, layer, made = correct(path)
    made.save()
    spin(lambda: made._task is None)
    layer.paint((20, 3), 5)
    made.make_editable()
    spin(lambda: made._task is None and made.layer.layer is not layer and made.session is not None)
    assert made.layer.layer.data[20, 3] == 5
    made.save()
    spin(lambda: made._task is None)
    layer.undo()  # the layer before is there still
    assert not read_labels(path, "instance").restored()[20, 3]


def test_of_several_resolutions_the_finest_becomes_the_copy(napari, tmp_path, monkeypatch):
    from biosegkit_napari.saving import made_editable
    from napari.layers import Layer

    monkeypatch.setattr(viewing, "_WHOLE", 1)
    values = np.arange(512 * 600, dtype=np.uint32).reshape(512, 600)
    with tifffile.TiffWriter(tmp_path / "a_labels.ome.tif") as file:
        file.write(values, subifds=1, tile=(256, 256), metadata={"axes": "YX"})
        file.write(values[::2, ::2], subfiletype=1, tile=(256, 256))
    layer = Layer.create(*viewing.label_file_layer(tmp_path / "a_labels.ome.tif", "a"))
    assert layer.multiscale
    np.testing.assert_array_equal(made_editable(layer.data, layer.metadata)[0], values)


def test_a_part_of_a_store_is_not_edited_in_its_place(napari, tmp_path):
    from biosegkit_napari.saving import made_editable
    from napari.layers import Layer

    labels = Labels.from_values(np.eye(40, dtype=np.uint16), Grid.regular((40, 40), 0.5, "um"), "instance")
    write(labels, tmp_path / "a.ome.zarr")
    layer = Layer.create(*viewing.label_file_layer(tmp_path / "a.ome.zarr", "a"))
    with pytest.raises(DataError, match=r"labels of shape \(30, 40\)"):
        made_editable(layer.data[10:], layer.metadata)


@pytest.mark.parametrize(("name", "number", "offered"), [
    ("cells", None, "cells"), ("cells", 3, "cells t=3"), ("cells t=2", 3, "cells t=3"), ("a t=12 [1]", 3, "a t=3 [1]"),
    ("a t=1 b t=2", 30, "a t=1 b t=30"), ("cells t=2", None, "cells t=2"), ("a t=x", 3, "a t=x t=3")])
def test_the_name_that_is_offered_is_that_of_the_time_shown(napari, monkeypatch, name, number, offered):
    from types import SimpleNamespace

    from biosegkit_napari import saving

    asked = []
    monkeypatch.setattr(saving.QFileDialog, "getSaveFileName", lambda *given: (asked.append(given[2]), "")[::-1])
    parent = SimpleNamespace(said=SimpleNamespace(setText=None))
    saving.saved(parent, SimpleNamespace(name=name, metadata={}), lambda *_: None, number)
    assert asked == [f"{offered}.ome.tif"]
