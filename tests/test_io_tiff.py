"""TIFF against tifffile, and write ∘ read = identity."""

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from strategies import grids, images, labels

from biosegkit.errors import DataError
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.io import peek, read, read_labels, write

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]


@QUICK
@given(image=images(grids(), TYPES))
def test_read_returns_what_was_written(tmp_path, image):
    path = tmp_path / "a.ome.tif"
    write(image, path)
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
    write(found, tmp_path / "a.tif")
    again = read_labels(tmp_path / "a.tif", "instance")
    assert np.array_equal(again.restored(), found.restored())
    assert again.grid == found.grid


def test_tifffile_sees_axes_sizes_units_and_names(tmp_path):
    array = np.arange(2 * 5 * 6 * 7, dtype=np.uint16).reshape(2, 5, 6, 7)
    image = Image(array, Grid.regular((5, 6, 7), (0.3, 0.1, 0.2), "um"), ("DAPI", "µ-tubulin"))
    write(image, tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.is_ome
        assert tiff.series[0].axes == "CZYX"
        assert np.array_equal(tiff.asarray(), array)
        pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
    assert [pixels[f"PhysicalSize{a}"] for a in "ZYX"] == [0.3, 0.1, 0.2]
    assert [pixels[f"PhysicalSize{a}Unit"] for a in "ZYX"] == ["µm"] * 3
    assert [c["Name"] for c in pixels["Channel"]] == ["DAPI", "µ-tubulin"]
    assert read(tmp_path / "a.tif").channels == ("DAPI", "µ-tubulin")


@pytest.mark.parametrize(("unit", "factor", "wanted"), [("nm", 1, "nm"), ("mm", 1, "mm"), ("cm", 10, "mm"),
                                                         ("m", 1000, "mm"), ("µm", 1, "um"), (None, 1, "um")])
def test_ome_units(tmp_path, unit, factor, wanted):
    metadata = {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25}
    if unit:
        metadata |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    tifffile.imwrite(tmp_path / "a.tif", np.ones((8, 9), np.uint8), ome=True, metadata=metadata)
    grid = read(tmp_path / "a.tif").grid
    assert (grid.spacing, grid.unit) == ((0.25 * factor, 0.5 * factor), wanted)


def test_ome_units_that_differ_become_that_of_x(tmp_path):
    metadata = {"axes": "ZYX", "PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 250,
                "PhysicalSizeYUnit": "nm", "PhysicalSizeZ": 2, "PhysicalSizeZUnit": "µm"}
    tifffile.imwrite(tmp_path / "a.tif", np.ones((8, 9, 10), np.uint8), ome=True, metadata=metadata)
    grid = read(tmp_path / "a.tif").grid
    assert (grid.spacing, grid.unit) == ((2000.0, 250.0, 250.0), "nm")


@pytest.mark.parametrize("unit", ["um", "micron", "\\u00B5m"])
def test_imagej_spacing_and_resolution(tmp_path, unit):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((8, 9, 10), np.uint8), imagej=True, resolution=(4, 2),
                     metadata={"axes": "ZYX", "spacing": 1.5, "unit": unit})
    grid = read(tmp_path / "a.tif").grid
    assert (grid.spacing, grid.unit) == ((1.5, 0.5, 0.25), "um")


def test_imagej_without_unit_is_px(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((8, 9, 10), np.uint8), imagej=True, metadata={"axes": "ZYX"})
    assert read(tmp_path / "a.tif").grid.unit == "px"


def test_a_plane_of_a_stack_worked_by_hand(tmp_path):
    stack = np.arange(8 * 9 * 10, dtype=np.uint16).reshape(8, 9, 10)
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    assert read(tmp_path / "a.tif").array[0, 7, 8, 9] == 719


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd", "packbits"])
def test_compressions_with_honest_constant_data_are_read(tmp_path, compression):
    flat = np.zeros((2000, 1500), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", flat, compression=compression, metadata=None)
    assert np.array_equal(read(tmp_path / "a.tif").array[0], flat)


def test_two_bits_per_sample(tmp_path):
    plane = np.random.default_rng([3]).integers(0, 4, (16, 24), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", plane, bitspersample=2, metadata=None)
    assert np.array_equal(read(tmp_path / "a.tif").array[0], plane)


def test_stack_of_colour_pages(tmp_path):
    stack = np.random.default_rng([4]).integers(0, 99, (6, 16, 24, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "ZYXS"})
    assert np.array_equal(read(tmp_path / "a.tif").array, np.moveaxis(stack, -1, 0))


@pytest.mark.parametrize(("shape", "found"), [
    ((1, 40, 50), (1, 40, 50)), ((40, 50, 1), (1, 40, 50)), ((1, 1, 40, 50), (1, 40, 50)),
    ((1, 30, 40, 50), (1, 30, 40, 50)), ((30, 40, 50, 1), (1, 30, 40, 50)),
])
def test_one_page_alone_is_no_axis(tmp_path, shape, found):
    """Arrays with an axis of one, as Python programs keep a channel."""
    array = np.random.default_rng([5]).integers(0, 99, shape, dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", array)
    assert np.array_equal(read(tmp_path / "a.tif").array, array.reshape(found))


@pytest.mark.parametrize(("shape", "colour"), [((3, 40, 50), "rgb"), ((1, 3, 40, 50), "rgb"),
                                               ((2, 30, 40, 50), "minisblack")])
def test_V9_V10_axes_with_several_meanings_are_asked_for(tmp_path, shape, colour):
    """Of three planes tifffile makes colours by itself."""
    planes = {"planarconfig": "separate"} if colour == "rgb" else {}
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(shape, np.uint8), photometric=colour, **planes)
    with pytest.raises(DataError, match="can be read as"):
        read(tmp_path / "a.tif")


def test_several_threads_read_at_once(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    from biosegkit.errors import FileError

    good, bad = tmp_path / "good.tif", tmp_path / "bad.tif"
    tifffile.imwrite(good, np.ones((20, 30, 40), np.uint8), imagej=True, metadata={"axes": "ZYX"})
    bad.write_bytes(good.read_bytes()[:9000])

    def outcome(path):
        try:
            return int(read(path).array.sum())
        except FileError:
            return -1

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(outcome, [good, bad] * 20)) == [24000, -1] * 20
