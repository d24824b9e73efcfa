"""What napari is given: layers scaled, named and with the user's label values. No window is opened."""

from __future__ import annotations

import numpy as np
import pytest

from biosegkit import viewing
from biosegkit.errors import DataError
from biosegkit.grid import Grid
from biosegkit.image import Image, Labels
from biosegkit.io import write


@pytest.fixture
def files(tmp_path):
    grid = Grid.regular((4, 5, 6), (2.0, 0.5, 0.5), "um")
    values = np.zeros((4, 5, 6), np.uint16)
    values[1, 2, 3] = 700
    write(Image(np.random.default_rng(0).integers(0, 99, (2, 4, 5, 6), dtype=np.uint8), grid, ("dapi", "gfp")),
          tmp_path / "a.tif")
    write(Labels.from_values(values, grid, "instance"), tmp_path / "a_labels.tif")
    return tmp_path / "a.tif", tmp_path / "a_labels.tif"


def test_layers_are_scaled_named_and_keep_the_values(files):
    first, second, labels = viewing.layers(*files)
    assert [layer[1]["name"] for layer in (first, second, labels)] == ["a dapi", "a gfp", "a_labels labels"]
    assert [layer[2] for layer in (first, second, labels)] == ["image", "image", "labels"]
    for data, settings, _ in (first, second, labels):
        assert data.shape == (4, 5, 6)
        assert settings["scale"] == (2.0, 0.5, 0.5)
        assert settings["units"] == ("um",) * 3
    assert labels[0][1, 2, 3] == 700


def test_labels_of_another_image_are_refused(files, tmp_path):
    write(Labels.from_values(np.ones((4, 5), np.uint8), Grid.regular((4, 5)), "instance"), tmp_path / "b.tif")
    with pytest.raises(DataError, match="labels of shape"):
        viewing.layers(files[0], tmp_path / "b.tif")


def test_show_adds_every_layer_and_begins_in_the_middle(files, monkeypatch):
    added = []

    class Layers(list):
        pass

    class Part:
        visible = False

    class Dims:
        range = (type("Range", (), {"start": 0.0, "stop": 6.0}),) * 3

        def set_point(self, axis, value):
            added.append(("point", axis, value))

    class Viewer:
        def __init__(self, title):
            self.layers, self.dims, self.scale_bar = Layers(), Dims(), Part()

        def add_image(self, data, **settings):
            self.layers.append(data)
            added.append(("image", settings["name"]))

        def add_labels(self, data, **settings):
            self.layers.append(data)
            added.append(("labels", settings["name"]))

    napari = type("napari", (), {"Viewer": Viewer, "run": staticmethod(lambda: added.append("run"))})
    monkeypatch.setattr(viewing, "optional", lambda name: napari)
    viewing.show(*files)
    assert added == [("image", "a dapi"), ("image", "a gfp"), ("labels", "a_labels labels"), ("point", 0, 3.0), "run"]


def test_a_few_bright_voxels_leave_the_others_visible():
    rng = np.random.default_rng(0)
    dim = rng.integers(100, 400, (20, 60, 60)).astype(np.uint16)
    hot = dim.copy()
    hot[3, 4, :5] = 60_000
    even = Image(dim[None], Grid.regular(dim.shape)), Image(hot[None], Grid.regular(dim.shape))
    assert "contrast_limits" not in viewing.layers(even[0])[0][1]
    low, high = viewing.layers(even[1])[0][1]["contrast_limits"]
    assert low == 100
    assert 395 <= high <= 400
    faint = Image((dim // 20).astype(np.uint8)[None], Grid.regular(dim.shape))  # of 255 that viewers show
    assert viewing.layers(faint)[0][1]["contrast_limits"] == (5, 19)
    empty = Image(np.full((1, 4, 4), np.nan, np.float32), Grid.regular((4, 4)))
    assert "contrast_limits" not in viewing.layers(empty)[0][1]
