"""Files as layers of a viewer: slides by region, time as an axis, what is large unread until it is looked at."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyramids
import pytest
import tifffile

import biosegkit.viewing as viewing
from biosegkit.errors import DataError
from biosegkit.grid import Grid
from biosegkit.image import Image, Labels
from biosegkit.io import Pyramid, ReadOptions, open_pyramid, read, write
from biosegkit.io.raw import Position
from biosegkit.io.regions import Regions
from biosegkit.viewing import file_layers, label_file_layer, layers

FLAT = np.array([[0, -0.3, 0.7, 5], [0, 0.7, 0.3, -3], [2.5, 0, 0, 9], [0, 0, 0, 1]])


@pytest.fixture
def nothing_is_small(monkeypatch):
    """Everything is taken as too large to be read whole."""
    monkeypatch.setattr(viewing, "_WHOLE", 0)


def film(path, shape=(4, 2, 30, 40), axes="TCYX"):
    array = np.random.default_rng(0).integers(0, 900, shape).astype(np.uint16)
    tifffile.imwrite(path, array, ome=True, metadata={"axes": axes, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5})
    return array


def test_a_slide_is_one_layer_in_colours_with_all_its_resolutions(tmp_path):
    path = pyramids.svs(tmp_path / "a.svs", pyramids.halves(pyramids.tissue(), 2))
    (data, settings, kind), = file_layers(path)
    assert (kind, settings["rgb"], settings["multiscale"], settings["name"]) == ("image", True, True, "a")
    assert (settings["scale"], settings["units"], settings["axis_labels"]) == ((0.5, 0.5), ("um", "um"), ("y", "x"))
    for shown, stored in zip(data, open_pyramid(path).arrays, strict=True):
        np.testing.assert_array_equal(shown[5:60:3, 10, 1:], stored[1:, 5:60:3, 10].T)


def test_a_large_volume_is_read_plane_by_plane(nothing_is_small, monkeypatch):
    values = np.arange(24 * 8 * 10, dtype=np.uint16).reshape(1, 24, 8, 10)
    grid, seen = Grid((24, 8, 10), FLAT, "mm"), []

    def window(region):
        seen.append(region)
        return values[region]

    pyramid = Pyramid("a.nii", (Regions(values.shape, values.dtype, window),), (grid,))
    monkeypatch.setattr(viewing, "images", lambda *_: (Position(""),))
    monkeypatch.setattr(viewing, "open_pyramid", lambda *_: pyramid)
    monkeypatch.setattr(viewing, "limits", lambda _: None)
    (data, settings, _), = file_layers("a.nii")
    assert not seen
    assert "affine" in settings
    np.testing.assert_array_equal(data[3], layers(Image(values, grid))[0][0][3])
    assert sum(np.prod([s.stop - s.start for s in region]) for region in seen) == 80


@pytest.mark.parametrize("large", [False, True])
def test_time_is_an_axis(tmp_path, monkeypatch, large):
    array = film(tmp_path / "a.ome.tif")
    if large:
        monkeypatch.setattr(viewing, "_WHOLE", 0)
    found = file_layers(tmp_path / "a.ome.tif")
    assert [settings["name"] for _, settings, _ in found] == ["a channel 0", "a channel 1"]
    for channel, (data, settings, _) in enumerate(found):
        assert isinstance(data, Regions) == large
        assert (settings["axis_labels"], settings["scale"]) == (("t", "y", "x"), (1.0, 0.5, 0.5))
        np.testing.assert_array_equal(np.asarray(data), array[:, channel])
        assert ("contrast_limits" in settings) == large
    (one, settings, _), _ = file_layers(tmp_path / "a.ome.tif", ReadOptions(frame=2))
    np.testing.assert_array_equal(one, array[2, 0])
    assert settings["axis_labels"] == ("y", "x")


def test_a_film_in_colours_stays_in_colours_where_a_frame_is_grey(tmp_path):
    frames = np.zeros((3, 20, 24, 3), np.uint8)
    frames[1] = pyramids.tissue((20, 24))
    tifffile.imwrite(tmp_path / "a.ome.tif", frames, ome=True, metadata={"axes": "TYXS"}, photometric="rgb")
    (data, settings, _), = file_layers(tmp_path / "a.ome.tif")
    assert settings["rgb"]
    np.testing.assert_array_equal(data, frames)


def test_images_of_one_file_are_layers_of_their_own(tmp_path, monkeypatch):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as out:
        for value in (3, 7):
            out.write(np.full((20, 24), value, np.uint8), metadata={"axes": "YX"})
    found = file_layers(tmp_path / "a.ome.tif")
    assert [(settings["name"], int(data[0, 0])) for data, settings, _ in found] == [("a p0000", 3), ("a p0001", 7)]
    monkeypatch.setattr(viewing, "_TOGETHER", 1)
    with pytest.raises(DataError, match=r"2 images in one file.*series=0"):
        file_layers(tmp_path / "a.ome.tif")


def test_an_image_of_one_resolution_gets_a_lower_one_where_it_must(nothing_is_small, tmp_path, monkeypatch):
    import biosegkit.shown_arrays as shown_arrays

    array = np.random.default_rng(0).integers(0, 900, (1, 64, 90)).astype(np.uint16)
    write(Image(array, Grid.regular((64, 90), 0.5, "um")), tmp_path / "a.tif")
    monkeypatch.setattr(viewing, "_SIDE", 80)
    monkeypatch.setattr(shown_arrays, "_SIDE", 30)
    ((fine, coarse), settings, _), = file_layers(tmp_path / "a.tif")
    np.testing.assert_array_equal(coarse, array[0, ::3, ::3])
    np.testing.assert_array_equal(fine[...], array[0])
    assert settings["contrast_limits"] == (coarse.min(), coarse.max())
    monkeypatch.setattr(shown_arrays, "_MOST", 1000)
    with pytest.raises(DataError, match=r"64 × 90 pixels in one resolution.*pyramidal TIFF"):
        file_layers(tmp_path / "a.tif")


def test_large_labels_are_looked_at_with_their_resolutions(tmp_path, monkeypatch):
    values = np.zeros((1100, 320), np.uint32)
    values[100:300, 50:300] = 70000
    grid = Grid.regular((1100, 320), 0.5, "um")
    write(Image(np.zeros((1, 1100, 320), np.uint8), grid), tmp_path / "a.ome.zarr")
    write(Labels.from_values(values, grid, "instance"), tmp_path / "a.ome.zarr" / "labels" / "cells")
    monkeypatch.setattr(viewing, "_WHOLE", 0)
    levels, settings, kind = label_file_layer(tmp_path / "a.ome.zarr" / "labels" / "cells", "cells")
    assert (kind, settings["multiscale"], settings["scale"]) == ("labels", True, (0.5, 0.5))
    np.testing.assert_array_equal(np.asarray(levels[0]), values)
    assert set(np.unique(levels[1][...])) == {0, 70000}


def test_large_labels_of_one_resolution_get_a_lower_one(tmp_path, monkeypatch):
    import biosegkit.shown_arrays as shown_arrays

    values = np.random.default_rng(0).integers(0, 90000, (64, 90))
    write(Labels.from_values(values, Grid.regular((64, 90)), "instance"), tmp_path / "a.tif")
    for name in ("_WHOLE", "_SIDE"):
        monkeypatch.setattr(viewing, name, 80 * (name == "_SIDE"))
    monkeypatch.setattr(shown_arrays, "_SIDE", 30)
    (fine, coarse), settings, kind = label_file_layer(tmp_path / "a.tif", "a")
    assert (kind, settings["multiscale"]) == ("labels", True)
    np.testing.assert_array_equal(coarse, values[::3, ::3])
    np.testing.assert_array_equal(np.asarray(fine), values)


def test_labels_of_another_shape_are_refused(tmp_path):
    write(Image(np.zeros((1, 4, 5), np.uint8), Grid.regular((4, 5))), tmp_path / "a.tif")
    wrong = Labels.from_values(np.zeros((5, 4), int), Grid.regular((5, 4)), "instance")
    with pytest.raises(DataError, match=r"labels of shape \(5, 4\)"):
        layers(tmp_path / "a.tif", wrong)


@pytest.mark.skipif("BIOSEGKIT_DATA" not in os.environ, reason="BIOSEGKIT_DATA is not set")
def test_real_slides(monkeypatch):
    folder = Path(os.environ["BIOSEGKIT_DATA"]) / "wsi_slides" / "images"
    (levels, settings, _), = file_layers(folder / "CMU-1-Small-Region_pyramid.ome.tif")
    assert [level.shape for level in levels] == [(2967, 2220, 3), (1483, 1110, 3), (741, 555, 3)]
    assert settings["scale"] == pytest.approx((0.499, 0.499))
    whole = read(folder / "CMU-1-Small-Region.svs").array
    monkeypatch.setattr(viewing, "_WHOLE", 0)
    (lazy, settings, _), = file_layers(folder / "CMU-1-Small-Region.svs")
    for part in (np.s_[1000:1100, 30:900], np.s_[500:1030:7, 2000:], np.s_[-1, 511:513]):
        np.testing.assert_array_equal(lazy[part], np.moveaxis(whole, 0, -1)[part])
