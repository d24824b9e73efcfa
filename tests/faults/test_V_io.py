"""Voxel types and channels: metadata decide, sizes never do (V7-V10, V12)."""

import numpy as np
import pytest
from faults import make
from faults.make import put

from biosegkit.errors import BiosegError, DataError, OptionError
from biosegkit.io import ReadOptions, peek, read, read_labels

RNG = np.random.default_rng([11])
PLANE = RNG.integers(0, 200, (14, 18), dtype=np.uint8)
COLOUR = RNG.integers(0, 200, (14, 18, 3), dtype=np.uint8)


def refused(path, match, **options):
    with pytest.raises(BiosegError, match=match) as caught:
        read(path, ReadOptions(**options))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<i2", ">i4", "<u4", "<i8", ">u8", "<f4", ">f8"])
def test_V7_nifti_types_are_read_once_in_their_range(tmp_path, dtype):
    kind = np.dtype(dtype)
    top = np.iinfo(kind).max if kind.kind in "iu" else 1e30
    array = np.array([[0, 1], [2, top]], dtype=kind)[None]
    header = make.nifti(array.astype(kind.newbyteorder("=")))
    if kind.byteorder == ">":
        import nibabel as nib

        head = nib.Nifti1Header(header[:348]).as_byteswapped(">")
        header = head.binaryblock + header[348:352] + array.tobytes("F")
    image = read(put(tmp_path, "a.nii", header))
    assert image.array.dtype == kind.newbyteorder("=")
    assert image.array.dtype.isnative
    assert np.array_equal(image.array[0].T, array)


@pytest.mark.parametrize("dtype", ["bool", "u2", ">u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"])
def test_V7_tiff_types_are_read_once_in_their_range(tmp_path, dtype):
    array = (RNG.random((14, 18)) * 2).astype(dtype)
    path = put(tmp_path, "a.tif", make.tiff(array, byteorder=">" if dtype[0] == ">" else "<"))
    wanted = {"bool": "u1", "f2": "f4"}.get(dtype, dtype.lstrip(">"))
    image = read(path)
    assert image.array.dtype == np.dtype(wanted) == peek(path).dtype
    assert np.array_equal(image.array[0], array.astype(wanted))


def test_V8_complex_is_refused_naming_the_type(tmp_path):
    refused(put(tmp_path, "a.nii", make.nifti(np.ones((3, 4, 5), np.complex64))), "complex64")
    refused(put(tmp_path, "a.tif", make.tiff(np.ones((4, 5), np.complex64))), "complex64")


def test_V8_object_array_in_zarr_is_refused(tmp_path):
    import json

    (tmp_path / "a.zarr").mkdir()
    meta = {"zarr_format": 2, "shape": [2, 2], "chunks": [2, 2], "dtype": "|O", "fill_value": None, "order": "C",
            "filters": [{"id": "pickle"}], "compressor": None}
    (tmp_path / "a.zarr" / ".zarray").write_text(json.dumps(meta))
    refused(tmp_path / "a.zarr", "codec 'pickle'")


def test_V9_rgb_nifti_becomes_three_channels(tmp_path):
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    array = COLOUR.copy().view(kind)[..., 0][..., None]
    image = read(put(tmp_path, "a.nii", make.nifti(np.ascontiguousarray(array))))
    assert image.channels == ("red", "green", "blue")
    assert np.array_equal(image.array[:, 0], COLOUR.transpose(2, 1, 0))
    assert any("colour samples" in n for n in image.notes)


@pytest.mark.parametrize("options", [{"photometric": "rgb"}, {"photometric": "rgb", "ome": True}])
def test_V9_rgb_tiff_becomes_three_channels(tmp_path, options):
    image = read(put(tmp_path, "a.tif", make.tiff(COLOUR, **options)))
    assert np.array_equal(image.array, np.moveaxis(COLOUR, -1, 0))
    assert image.channels == ("red", "green", "blue")


def test_V9_planar_rgb_declared_by_its_metadata(tmp_path):
    planes = np.moveaxis(COLOUR, -1, 0)
    image = read(put(tmp_path, "a.tif", make.tiff(planes, photometric="rgb", planarconfig="separate", metadata=None)))
    assert np.array_equal(image.array, planes)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_V9_alpha_is_dropped_with_a_note(tmp_path, ending):
    import PIL.Image

    rgba = np.dstack([COLOUR, PLANE])
    if ending == "png":
        PIL.Image.fromarray(rgba).save(tmp_path / "a.png")
    else:
        put(tmp_path, "a.tif", make.tiff(rgba, photometric="rgb", extrasamples=["unassalpha"]))
    image = read(tmp_path / f"a.{ending}")
    assert np.array_equal(image.array, np.moveaxis(COLOUR, -1, 0))
    assert any("alpha" in n for n in image.notes)


def test_V9_grey_with_alpha_png(tmp_path):
    put(tmp_path, "a.png", make.png(np.dstack([PLANE, PLANE]).reshape(14, -1), 4))
    image = read(tmp_path / "a.png")
    assert np.array_equal(image.array, PLANE[None])
    assert any("alpha" in n for n in image.notes)


def test_V9_equal_channels_become_one_with_a_note(tmp_path):
    image = read(put(tmp_path, "a.tif", make.tiff(np.dstack([PLANE] * 3), photometric="rgb")))
    assert np.array_equal(image.array, PLANE[None])
    assert any("equal" in n for n in image.notes)


def test_V9_palette_png_is_expanded_for_images_and_kept_for_labels(tmp_path):
    table = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    path = put(tmp_path, "a.png", make.png(PLANE, 3, extra=make.png_chunk(b"PLTE", table.tobytes())))
    image = read(path)
    assert np.array_equal(image.array, np.moveaxis(table[PLANE], -1, 0))
    assert any("palette" in n for n in image.notes)
    assert np.array_equal(read_labels(path, "semantic").restored(), PLANE)


def test_V9_palette_tiff_is_expanded_for_images_and_kept_for_labels(tmp_path):
    table = RNG.integers(0, 256, (3, 256)).astype(np.uint16)
    path = put(tmp_path, "a.tif", make.tiff(PLANE, photometric="palette", colormap=table * 257))
    assert np.array_equal(read(path).array, table[:, PLANE])
    assert np.array_equal(read_labels(path, "semantic").restored(), PLANE)


def test_V9_16_bit_colour_png_keeps_its_depth(tmp_path):
    deep = RNG.integers(0, 65536, (14, 18, 3)).astype(">u2")
    path = put(tmp_path, "a.png", make.png(deep.reshape(14, -1).view(np.uint8), 2, 16))
    image = read(path)
    assert image.array.dtype == np.uint16
    assert np.array_equal(image.array, np.moveaxis(deep, -1, 0))


@pytest.mark.parametrize("ending", ["jpg", "tif"])
def test_V9_print_colours_are_refused(tmp_path, ending):
    import PIL.Image

    if ending == "jpg":
        PIL.Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "a.jpg")
    else:
        put(tmp_path, "a.tif", make.tiff(np.dstack([COLOUR, PLANE]), photometric="separated"))
    refused(tmp_path / f"a.{ending}", "CMYK")


@pytest.mark.parametrize("shape", [(3, 14, 18), (4, 14, 18), (2, 14, 18), (14, 18, 2), (2, 9, 14, 18)])
def test_V9_plain_arrays_with_two_readings_are_refused_asking_for_axes(tmp_path, shape):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *a, **k: None)
        data = make.tiff(np.zeros(shape, np.uint8))
    refused(put(tmp_path, "a.tif", data), "--axes")


def test_V9_axes_decide_what_the_file_leaves_open(tmp_path):
    stack = RNG.integers(0, 99, (2, 14, 18), dtype=np.uint8)
    path = put(tmp_path, "a.tif", make.tiff(stack))
    assert read(path, ReadOptions(axes="cyx")).array.shape == (2, 14, 18)
    assert read(path, ReadOptions(axes="zyx")).array.shape == (1, 2, 14, 18)
    with pytest.raises(OptionError, match="axes"):
        read(path, ReadOptions(axes="yx"))


def test_V9_pages_without_names_are_z_with_a_note(tmp_path):
    stack = RNG.integers(0, 99, (9, 14, 18), dtype=np.uint8)
    for options in ({}, {"metadata": None}):
        image = read(put(tmp_path, "a.tif", make.tiff(stack, **options)))
        assert np.array_equal(image.array[0], stack)
        assert any("9 pages read as z" in n for n in image.notes)


def test_V9_channels_of_imagej_and_ome_are_channels(tmp_path):
    stack = RNG.integers(0, 99, (5, 2, 14, 18), dtype=np.uint8)
    for options in ({"imagej": True}, {"ome": True}):
        image = read(put(tmp_path, "a.tif", make.tiff(stack, metadata={"axes": "ZCYX"}, **options)))
        assert np.array_equal(image.array, stack.transpose(1, 0, 2, 3))


def test_V9_coloured_labels_are_refused_and_grey_ones_read(tmp_path):
    path = put(tmp_path, "a.tif", make.tiff(COLOUR, photometric="rgb"))
    with pytest.raises(DataError, match="coloured labels"):
        read_labels(path, "instance")
    put(tmp_path, "a.tif", make.tiff(np.dstack([PLANE] * 3), photometric="rgb"))
    assert np.array_equal(read_labels(path, "instance").restored(), PLANE)


def test_V9_labels_in_jpeg_are_refused(tmp_path):
    import PIL.Image

    PIL.Image.fromarray(PLANE).save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="JPEG"):
        read_labels(tmp_path / "a.jpg", "semantic")


def test_V10_time_and_more_axes_are_refused_unless_named(tmp_path):
    array = RNG.integers(0, 99, (6, 5, 4, 3), dtype=np.uint8)
    path = put(tmp_path, "a.nii", make.nifti(array))
    refused(path, "time points")
    for axes in ("xyzc", "czyx"):
        assert np.array_equal(read(path, ReadOptions(axes=axes)).array, array.transpose(3, 2, 1, 0))
    image = read(path, ReadOptions(frame=1))
    assert np.array_equal(image.array[0], array[..., 1].T)
    assert any("time point 1 of 3" in n for n in image.notes)


def test_V10_trailing_axes_of_one_are_dropped(tmp_path):
    array = RNG.integers(0, 99, (6, 5, 4, 1, 1), dtype=np.uint8)
    assert np.array_equal(read(put(tmp_path, "a.nii", make.nifti(array))).array[0], array[..., 0, 0].T)


def test_V10_fifth_axis_without_vector_intent_is_refused(tmp_path):
    refused(put(tmp_path, "a.nii", make.nifti(np.zeros((6, 5, 4, 1, 3), np.uint8))), "unknown meaning")


def test_V10_time_series_tiff_is_refused(tmp_path):
    data = make.tiff(np.zeros((7, 14, 18), np.uint8), imagej=True, metadata={"axes": "TYX"})
    refused(put(tmp_path, "a.tif", data), "7 time points")


def test_V10_several_images_in_a_tiff_are_refused_unless_chosen(tmp_path):
    import tifffile

    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(PLANE, metadata=None)
        tiff.write(PLANE.T, metadata=None)
    refused(tmp_path / "a.tif", "2 images")
    assert read(tmp_path / "a.tif", ReadOptions(series=1)).grid.shape == (18, 14)


def test_V10_pyramid_levels_do_not_count_as_images(tmp_path):
    import tifffile

    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tiff:
        tiff.write(np.zeros((64, 64), np.uint8), subifds=1, tile=(16, 16), metadata={"axes": "YX"})
        tiff.write(np.zeros((32, 32), np.uint8), subfiletype=1, tile=(16, 16))
    assert read(tmp_path / "a.ome.tif").grid.shape == (64, 64)


def test_V12_empty_axis_is_refused(tmp_path):
    import zarr

    zarr.create_array(tmp_path / "a.zarr", shape=(0, 5), dtype="u1")
    refused(tmp_path / "a.zarr", "empty axis")
    refused(put(tmp_path, "a.nii", make.nifti(PLANE[..., None], dim=[3, 14, 0, 1, 1, 1, 1, 1])), "dimensions")


def test_V12_one_plane_stays_three_dimensional(tmp_path):
    image = read(put(tmp_path, "a.nii", make.nifti(PLANE[..., None])))
    assert image.array.shape == (1, 1, 18, 14)


def test_V9_png_of_one_bit_is_zero_and_one(tmp_path):
    bits = RNG.integers(0, 2, (8, 16), dtype=np.uint8)
    path = put(tmp_path, "a.png", make.png(np.packbits(bits, axis=1), 0, 1))
    assert np.array_equal(read(path).array[0], bits)
