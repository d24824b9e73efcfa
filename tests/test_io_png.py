"""PNG, JPEG and BMP against Pillow, and write ∘ read = identity where PNG has room."""

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from strategies import grids, images, labels

from biosegkit.errors import DataError
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.io import peek, read, read_labels, write

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PLAIN = grids(ndim=2, plain=True)


@QUICK
@given(image=images(PLAIN, ["u1", "u2"], channels=(1, 3)))
def test_read_returns_the_voxels_that_were_written(tmp_path, image):
    path = tmp_path / "a.png"
    write(image, path)
    again = read(path)
    same = image.array.shape[0] == 3 and (image.array == image.array[:1]).all()
    assert np.array_equal(again.array, image.array[:1] if same else image.array)
    assert again.array.dtype == image.array.dtype
    assert again.grid.unit == "px"


@QUICK
@given(found=labels(PLAIN, top=65535))
def test_labels_come_back(tmp_path, found):
    write(found, tmp_path / "a.png")
    assert np.array_equal(read_labels(tmp_path / "a.png", "instance").restored(), found.restored())


def test_pillow_sees_the_same(tmp_path):
    array = np.random.default_rng([1]).integers(0, 65536, (1, 5, 7), dtype=np.uint16)
    write(Image(array, Grid.regular((5, 7))), tmp_path / "a.png")
    with PIL.Image.open(tmp_path / "a.png") as other:
        assert np.array_equal(np.array(other), array[0])


@pytest.mark.parametrize(("shape", "dtype", "channels"), [((4, 5, 6), "u1", 1), ((5, 6), "f4", 1), ((5, 6), "i2", 1),
                                                           ((5, 6), "u1", 2)])
def test_what_png_cannot_hold_is_refused(tmp_path, shape, dtype, channels):
    with pytest.raises(DataError, match=r"\.tif"):
        write(Image(np.zeros((channels, *shape), dtype), Grid.regular(shape)), tmp_path / "a.png")


@pytest.mark.parametrize("ending", ["jpg", "bmp", "png"])
def test_colour_pictures_as_pillow_decodes_them(tmp_path, ending):
    array = np.random.default_rng([2]).integers(0, 255, (16, 24, 3), dtype=np.uint8)
    PIL.Image.fromarray(array).save(tmp_path / f"a.{ending}")
    with PIL.Image.open(tmp_path / f"a.{ending}") as other:
        wanted = np.moveaxis(np.array(other), -1, 0)
    image = read(tmp_path / f"a.{ending}")
    assert np.array_equal(image.array, wanted)
    header = peek(tmp_path / f"a.{ending}")
    assert (header.shape, header.channels, header.dtype) == ((16, 24), 3, np.uint8)


def test_turned_photographs_are_noted(tmp_path):
    picture = PIL.Image.new("L", (8, 4))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert any("EXIF" in n for n in read(tmp_path / "a.jpg").notes)


def test_a_large_flat_picture_is_honest(tmp_path):
    PIL.Image.new("1", (6000, 5000)).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png").array.shape == (1, 5000, 6000)
