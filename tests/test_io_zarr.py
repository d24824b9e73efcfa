"""OME-Zarr against ome-zarr, its models and zarr itself, and write ∘ read = identity."""

import json

import numpy as np
import ome_zarr_models
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from strategies import grids, images, labels

from biosegkit.errors import DataError
from biosegkit.grid import Grid
from biosegkit.image import Image, Labels
from biosegkit.io import peek, read, read_labels, write

QUICK = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]
IMAGE = Image(np.arange(240, dtype=np.int16).reshape(2, 4, 5, 6), Grid.regular((4, 5, 6), (2, 0.5, 0.25), "um"),
              ("DAPI", "actin"))
CELLS = Labels.from_values(np.arange(120).reshape(4, 5, 6) * 1000, IMAGE.grid, "instance")


@QUICK
@given(image=images(grids(), TYPES))
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_read_returns_what_was_written(tmp_path, version, image):
    path = tmp_path / "a.ome.zarr"
    write(image, path, ngff=version)
    again = read(path)
    assert again.array.dtype == image.array.dtype
    assert np.array_equal(again.array, image.array)
    assert again.grid == image.grid
    assert not again.notes
    assert again.channels == image.channels
    assert peek(path).grid == image.grid


@QUICK
@given(found=labels(grids(), top=2**62))
def test_labels_come_back(tmp_path, found):
    write(found, tmp_path / "a.zarr")
    again = read_labels(tmp_path / "a.zarr", "instance")
    assert np.array_equal(again.restored(), found.restored())
    assert again.grid == found.grid


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_labels_inside_an_image(tmp_path, version):
    path = tmp_path / "a.ome.zarr"
    write(IMAGE, path, ngff=version)
    write(CELLS, path / "labels" / "cells")
    assert np.array_equal(read_labels(path, "instance").restored(), CELLS.restored())
    write(CELLS, path / "labels" / "again")
    with pytest.raises(DataError, match="again"):
        read_labels(path, "instance")
    assert np.array_equal(read_labels(path / "labels" / "cells", "instance").restored(), CELLS.restored())
    assert np.array_equal(read(path).array, IMAGE.array)


def test_the_ngff_models_accept_image_and_labels(tmp_path):
    path = tmp_path / "a.ome.zarr"
    write(IMAGE, path)
    write(CELLS, path / "labels" / "cells")
    image = ome_zarr_models.open_ome_zarr(path)
    assert type(image).__module__ == "ome_zarr_models.v05.image"
    scale = image.ome_attributes.multiscales[0].datasets[0].coordinateTransformations[0].scale
    assert list(scale) == [1, 2, 0.5, 0.25]
    assert image.labels.label_paths == ["cells"]
    group = ome_zarr_models.v05.image_label.ImageLabel.from_zarr(zarr.open_group(path / "labels" / "cells", mode="r"))
    assert group.ome_attributes.image_label.source.image == "../../"


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_reads_what_we_write(tmp_path, version):
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    path = tmp_path / "a.ome.zarr"
    write(IMAGE, path, ngff=version)
    write(CELLS, path / "labels" / "cells")
    nodes = list(Reader(parse_url(path))())
    assert np.array_equal(np.asarray(nodes[0].data[0]), IMAGE.array)
    assert [a["name"] for a in nodes[0].metadata["axes"]] == ["c", "z", "y", "x"]
    assert any(np.array_equal(np.asarray(n.data[0]), CELLS.restored()) for n in nodes[1:] if n.data)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Dimension . is too small")
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_we_read_what_ome_zarr_writes(tmp_path, version):
    from ome_zarr.format import FormatV04, FormatV05
    from ome_zarr.writer import write_image

    form = {"0.4": FormatV04, "0.5": FormatV05}[version]()
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=form.zarr_format)
    scale = {"c": 1, "z": 2, "y": 0.5, "x": 0.25}
    write_image(IMAGE.array, group, fmt=form, axes="czyx", scale_factors=[], scale=scale,
                axes_units=dict.fromkeys("zyx", "micrometer"))
    image = read(tmp_path / "a.zarr")
    assert np.array_equal(image.array, IMAGE.array)
    assert (image.grid.spacing, image.grid.unit) == ((2.0, 0.5, 0.25), "um")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_steps_of_dataset_and_multiscale_are_applied_in_turn(tmp_path, version):
    steps = [{"type": "scale", "scale": [1, 2, 4]}, {"type": "translation", "translation": [3, 2, 1]}]
    scales = [{"axes": [{"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"],
               "datasets": [{"path": "0", "coordinateTransformations": steps}],
               "coordinateTransformations": [{"type": "scale", "scale": [10, 10, 10]}]}]
    content = {"multiscales": scales}
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2 if version == "0.4" else 3,
                            attributes=content if version == "0.4" else {"ome": {"version": "0.5", **content}})
    group.create_array("0", data=IMAGE.array[0])
    grid = read(tmp_path / "a.zarr").grid
    assert (grid.spacing, grid.origin, grid.unit) == ((10.0, 20.0, 40.0), (10.0, 20.0, 30.0), "nm")


def test_large_images_have_levels_that_line_up(tmp_path):
    y, x = np.mgrid[:1500, :1100]
    image = Image((y + x).astype(np.float32)[None], Grid.regular((1500, 1100), 0.5, "um"))
    write(image, tmp_path / "a.zarr")
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert group["1"].shape == (750, 550)
    meta = json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]
    scale, shift = (s for s in meta["datasets"][1]["coordinateTransformations"])
    assert scale["scale"] == [1.0, 1.0]
    assert shift["translation"] == [0.25, 0.25]
    # a ramp's mean is its value at the mean position: world 0.25 + 10 is index 20.5
    assert group["1"][10, 10] == 41.0
    assert np.array_equal(read(tmp_path / "a.zarr").array, image.array)


def test_levels_of_labels_have_only_ids_of_the_labels(tmp_path):
    ids = np.random.default_rng([1]).integers(0, 50, (1100, 40)) * 1001
    write(Labels.from_values(ids, Grid.regular((1100, 40)), "instance"), tmp_path / "a.zarr")
    coarse = zarr.open_group(tmp_path / "a.zarr", mode="r")["1"][...]
    assert np.array_equal(coarse, ids[::2, ::2])


def test_plain_arrays_need_names_for_their_axes(tmp_path):
    zarr.create_array(tmp_path / "named.zarr", data=IMAGE.array[0], dimension_names=["z", "y", "x"])
    assert read(tmp_path / "named.zarr").array.shape == (1, 4, 5, 6)
    zarr.create_array(tmp_path / "bare.zarr", data=IMAGE.array[0])
    with pytest.raises(DataError, match="--axes"):
        read(tmp_path / "bare.zarr")


def test_plates_are_refused_naming_the_way(tmp_path):
    zarr.open_group(tmp_path / "p.zarr", mode="w", attributes={"ome": {"version": "0.5", "plate": {}}})
    with pytest.raises(DataError, match="A/1/0"):
        read(tmp_path / "p.zarr")


def test_the_only_image_of_a_converted_store_is_read(tmp_path):
    zarr.open_group(tmp_path / "a.zarr", mode="w", attributes={"ome": {"version": "0.5", "bioformats2raw.layout": 3}})
    write(IMAGE, tmp_path / "a.zarr" / "0.zarr")
    (tmp_path / "a.zarr" / "0.zarr").rename(tmp_path / "a.zarr" / "0")
    assert np.array_equal(read(tmp_path / "a.zarr").array, IMAGE.array)
