"""Layers are where their grids are, and come back as the images and labels they were made of. No Qt."""

from __future__ import annotations

import numpy as np
import pytest

from biosegkit.errors import DataError
from biosegkit.grid import Grid
from biosegkit.image import Image, Labels
from biosegkit.placement import matrix_of, placed
from biosegkit.predictor import Prediction
from biosegkit.viewing import image_layers, label_layer, layers, prediction_layers

pytestmark = pytest.mark.usefixtures("napari")


def turned_grid(kind):
    """Grids as scanners store them: straight, stored right to left, sagittal, oblique."""
    affines = {
        "straight": [[0, 0, 0.7, 5], [0, 0.8, 0, -3], [2.5, 0, 0, 9], [0, 0, 0, 1]],
        "flipped": [[0, 0, -0.7, 5], [0, 0.8, 0, -3], [2.5, 0, 0, 9], [0, 0, 0, 1]],
        "sagittal": [[1.5, 0, 0, 5], [0, 0, 0.9, -3], [0, -0.9, 0, 9], [0, 0, 0, 1]],
        "oblique": [[0, -0.3, 0.7, 5], [0, 0.7, 0.3, -3], [2.5, 0, 0, 9], [0, 0, 0, 1]],
    }
    return Grid((4, 6, 5), np.array(affines[kind], float), "mm")


def layer_of(found):
    from napari.layers import Layer

    return Layer.create(*found)


@pytest.mark.parametrize("kind", ["straight", "flipped", "sagittal", "oblique"])
def test_a_voxel_is_where_its_grid_says_and_comes_back(kind):
    from biosegkit_napari.layers import image_of, labels_of

    grid = turned_grid(kind)
    values = np.arange(grid.voxels, dtype=np.int16).reshape(grid.shape)
    layer = layer_of(image_layers(Image(values[None], grid, source="a.nii"), "a")[0])
    for place in [(0, 0, 0), (3, 5, 4), (1, 2, 3)]:
        x, y, z, _ = grid.affine @ [*place, 1]
        assert layer.data[tuple(np.rint(layer.world_to_data((z, y, x))).astype(int))] == values[place]
    assert {str(unit) for unit in layer.units} == {"millimeter"}
    assert tuple(layer.axis_labels) == ("z", "y", "x")
    again = image_of([layer])
    assert again.grid == grid
    np.testing.assert_array_equal(again.array[0], values)
    labels = Labels.from_values((values % 3).astype(np.uint8) * 70, grid, "semantic")
    back = labels_of(layer_of(label_layer(labels, "b")), "semantic")
    assert back.grid == grid
    np.testing.assert_array_equal(back.restored(), labels.restored())


def test_only_oblique_axes_need_an_affine():
    kinds = ("straight", "flipped", "sagittal", "oblique")
    assert [kind for kind in kinds if "affine" in placed(turned_grid(kind))[1]] == ["oblique"]


def test_a_layer_that_was_moved_is_where_it_was_moved_to():
    from biosegkit_napari.layers import image_of

    layer = layer_of(image_layers(Image(np.zeros((1, 4, 6, 5)), turned_grid("flipped")), "a")[0])
    layer.translate = np.add(layer.translate, (1.0, 0, 0))
    grid = image_of([layer]).grid
    np.testing.assert_allclose(matrix_of(grid), matrix_of(placed_grid("flipped")) + one_up(), atol=1e-12)


def placed_grid(kind):
    grid = turned_grid(kind)
    return grid.turned(grid.canonical_turn())


def one_up():
    moved = np.zeros((4, 4))
    moved[0, 3] = 1.0
    return moved


def test_colours_channels_and_time_are_told_apart():
    from biosegkit_napari.layers import image_of, look_at

    rgb = layer_of(image_layers(Image(np.arange(60, dtype=np.uint8).reshape(3, 4, 5), Grid.regular((4, 5)),
                                      ("red", "green", "blue")), "slide")[0])
    assert rgb.rgb
    assert image_of([rgb]).channels == ("red", "green", "blue")
    np.testing.assert_array_equal(image_of([rgb]).array, np.arange(60).reshape(3, 4, 5))

    from napari.layers import Image as Shown

    data = np.arange(2 * 3 * 4 * 5, dtype=np.uint16).reshape(2, 3, 4, 5)
    film = Shown(data, name="film", axis_labels=("t", "c", "y", "x"), scale=(30, 1, 0.5, 0.5),
                 units=("s", "pixel", "um", "um"))
    look = look_at(film)
    assert (look.axes, look.frames, look.channels) == ("tcyx", 2, 3)
    assert (look.grid.spacing, look.grid.unit) == ((0.5, 0.5), "um")
    np.testing.assert_array_equal(image_of([film], frame=1).array, data[1])
    unnamed = Shown(data[0], name="unnamed")
    assert look_at(unnamed).axes == "zyx"
    assert look_at(unnamed, "cyx").channels == 3
    with pytest.raises(DataError, match="choose other axes"):
        look_at(unnamed, "yx")


def test_channels_in_several_layers_are_one_image():
    from biosegkit_napari.layers import image_of

    image = Image(np.random.default_rng(0).random((2, 4, 5)), Grid.regular((4, 5), 0.5, "um"), ("dapi", "gfp"))
    both = [layer_of(found) for found in image_layers(image, "a")]
    again = image_of(both)
    np.testing.assert_array_equal(again.array, image.array)
    assert again.grid == image.grid
    other = layer_of(image_layers(Image(np.zeros((1, 4, 5)), Grid.regular((4, 5), 0.6, "um")), "b")[0])
    with pytest.raises(DataError, match="choose layers of one image"):
        image_of([both[0], other])


def test_a_window_of_a_coarser_level_has_its_own_place():
    from biosegkit_napari.layers import image_of
    from napari.layers import Image as Shown

    fine = np.arange(64, dtype=np.uint8).reshape(8, 8)
    layer = Shown([fine, fine[::2, ::2]], multiscale=True, scale=(0.5, 0.5), units=("um", "um"), name="slide")
    image = image_of([layer], level=1, window=(slice(1, 3), slice(2, 4)))
    np.testing.assert_array_equal(image.array[0], fine[2:6:2, 4:8:2])
    assert image.grid.spacing == (1.0, 1.0)
    # The first voxel of the window covers fine pixels 2, 3 and 4, 5: its centre is at 2.5 and 4.5 of half a micrometre.
    assert image.grid.origin == (2.25, 1.25)


def test_a_slide_read_by_region_comes_back_from_its_layer(tmp_path):
    import pyramids
    from biosegkit_napari.layers import image_of, look_at

    from biosegkit.io import open_pyramid
    from biosegkit.viewing import file_layers

    path = pyramids.svs(tmp_path / "a.svs", pyramids.halves(pyramids.tissue(), 2))
    layer = layer_of(file_layers(path)[0])
    pyramid = open_pyramid(path)
    assert (look_at(layer).axes, look_at(layer).channels) == ("yxs", 3)
    image = image_of([layer], level=1, window=(slice(10, 60), slice(20, 90)))
    np.testing.assert_array_equal(image.array, pyramid.arrays[1][:, 10:60, 20:90])
    assert image.grid.mismatch(pyramid.grids[1].window((10, 20), (50, 70))) < 1e-9
    assert image.channels == ("red", "green", "blue")


def test_a_size_that_the_file_does_not_say_is_no_longer_missed_when_the_layer_has_one(tmp_path):
    import tifffile
    from biosegkit_napari.layers import image_of

    from biosegkit.viewing import file_layers

    tifffile.imwrite(tmp_path / "a.tif", np.zeros((7, 5, 6), np.uint8), imagej=True, metadata={"axes": "ZYX"})
    layer = layer_of(file_layers(tmp_path / "a.tif")[0])
    assert any("no pixel size" in note for note in image_of([layer]).notes)
    layer.scale, layer.units = (1.75, 0.8, 0.8), ("um",) * 3
    image = image_of([layer])
    assert (image.grid.spacing, image.grid.unit) == ((1.75, 0.8, 0.8), "um")
    assert not any("no pixel size" in note for note in image.notes)


def test_predictions_bring_their_table_and_maps():
    labels = Labels.from_values(np.array([[0, 1], [2, 2]]), Grid.regular((2, 2)), "instance")
    found = Prediction(labels, {"id": np.array([1, 2]), "score": np.array([0.9, 0.4], np.float32)},
                       {"flow": np.zeros((2, 2, 2), np.float32)})
    first, second, last = (layer_of(one) for one in prediction_layers(found, "cells"))
    assert [layer.name for layer in (first, second, last)] == ["cells flow 0", "cells flow 1", "cells"]
    assert not first.visible
    assert last.features["score"].tolist() == pytest.approx([0.9, 0.4])
    assert any("score: 0.4" in part for part in last._get_properties((1, 0)))


def test_images_and_labels_in_memory_are_shown_like_files():
    grid = Grid.regular((4, 5))
    found = layers(Image(np.zeros((1, 4, 5)), grid, source="x/a.tif"),
                   Labels.from_values(np.ones((4, 5), int), grid, "instance", source="x/b.tif"))
    assert [settings["name"] for _, settings, _ in found] == ["a", "b labels"]


def test_labels_of_a_part_find_what_they_lie_on(napari):
    from biosegkit_napari.layers import image_of, part_under, snapshot
    from napari.layers import Image as ImageLayer
    from napari.layers import Labels as LabelLayer

    fine = np.arange(3 * 16 * 20).reshape(3, 16, 20)
    place = {"translate": (7.0, 1.0, 2.0), "units": "um"}
    image = snapshot(ImageLayer([fine, fine[:, ::2, ::2]], multiscale=True, scale=(2, 0.5, 0.5), **place))

    def labels(shape, scale, start, **changes):
        moved = np.array(place["translate"]) + np.multiply(start, scale)
        return snapshot(LabelLayer(np.ones(shape, int), scale=scale, **{**place, "translate": moved, **changes}))

    own = labels((1, 5, 6), (2, 0.5, 0.5), (2, 11, 3))
    level, window = part_under(own, image)
    assert (level, window) == (0, (slice(2, 3), slice(11, 16), slice(3, 9)))
    assert image_of([image], level=level, window=window).array.tolist() == [fine[2:3, 11:16, 3:9].tolist()]
    coarse = labels((3, 8, 4), (2, 1, 1), (0, 0.25, 1.25))  # a pixel of the lower resolution begins where two begin
    level, window = part_under(coarse, image)
    assert (level, window) == (1, (slice(0, 3), slice(0, 8), slice(1, 5)))
    for other in (labels((1, 5, 6), (2, 0.5, 0.5), (2, 12, 3)), labels((1, 5, 6), (2, 0.5, 0.5), (2, 10.5, 3)),
                  labels((1, 5, 6), (2, 0.6, 0.5), (0, 0, 0)),
                  labels((1, 5, 6), (2, 0.5, 0.5), (2, 11, 3), units="mm")):
        assert part_under(other, image) == (0, None), "on no part of it"
