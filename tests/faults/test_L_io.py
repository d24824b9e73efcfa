"""Label values through files: kept, or refused (L1-L5, L9)."""

import numpy as np
import pytest
from faults import make
from faults.make import put

from biosegkit.errors import DataError
from biosegkit.grid import Grid
from biosegkit.image import Image, Labels
from biosegkit.io import read, read_labels, write

GRID = Grid.regular((3, 4), 0.5, "um")


def labels(*values, grid=GRID, **options):
    array = np.zeros(12, np.uint64)
    array[: len(values)] = values
    return Labels.from_values(array.reshape(3, 4), grid, "instance", **options)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".tif", ".ome.zarr"])
def test_L1_sparse_huge_ids_come_back(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    write(labels(1, 70000, 2**31 + 5, 2**32 - 1), path)
    again = read_labels(path, "instance")
    assert again.values.tolist() == [0, 1, 70000, 2**31 + 5, 2**32 - 1]
    assert again.array.dtype == np.uint8
    assert read(path).array.dtype == np.uint32


@pytest.mark.parametrize(("top", "dtype"), [(255, "u1"), (256, "u2"), (65535, "u2"), (65536, "u4")])
@pytest.mark.parametrize("ending", [".nii.gz", ".tif", ".ome.zarr", ".png"])
def test_L1_smallest_safe_type_is_written(tmp_path, ending, top, dtype):
    if ending == ".png" and top > 65535:
        return
    write(labels(top), tmp_path / f"a{ending}")
    assert read(tmp_path / f"a{ending}").array.dtype == np.dtype(dtype)


def test_L1_nifti_never_has_64_bit_integers(tmp_path):
    with pytest.raises(DataError, match="4294967296"):
        write(labels(2**32), tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match="64-bit"):
        write(Image(np.full((1, 3, 4), 2**40, np.int64), GRID), tmp_path / "a.nii.gz")
    assert not list(tmp_path.iterdir())
    write(Image(np.full((1, 3, 4), -7, np.int64), GRID), tmp_path / "a.nii.gz")
    again = read(tmp_path / "a.nii.gz")
    assert again.array.dtype == np.int32
    assert (again.array == -7).all()


@pytest.mark.parametrize("ending", [".tif", ".ome.zarr"])
def test_L1_ids_above_32_bits_where_the_format_has_room(tmp_path, ending):
    write(labels(2**40, 3), tmp_path / f"a{ending}")
    again = read_labels(tmp_path / f"a{ending}", "instance")
    assert again.values.tolist() == [0, 3, 2**40]
    assert again.grid == GRID


def test_L2_ids_above_65535_are_refused_in_png_offering_others(tmp_path):
    with pytest.raises(DataError, match=r"65536.*\.tif or \.ome\.zarr"):
        write(labels(65536), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_L3_float_labels_whole_or_refused(tmp_path):
    array = np.array([[0, 1.0004], [2, 700.9996]], np.float32)[None]
    path = put(tmp_path, "a.nii", make.nifti(array))
    assert read_labels(path, "semantic").values.tolist() == [0, 1, 2, 701]
    put(tmp_path, "a.nii", make.nifti(array + np.float32(0.25)))
    with pytest.raises(DataError, match="fractional"):
        read_labels(path, "semantic")
    put(tmp_path, "a.nii", make.nifti(np.full((2, 2, 2), np.nan, np.float32)))
    with pytest.raises(DataError, match="fractional"):
        read_labels(path, "semantic")


def test_L3_scaled_labels(tmp_path):
    stored = np.array([[0, 50], [100, 150]], np.int16)[None]
    path = put(tmp_path, "a.nii", make.nifti(stored, scl_slope=0.02, scl_inter=0))
    assert read_labels(path, "semantic").values.tolist() == [0, 1, 2, 3]
    put(tmp_path, "a.nii", make.nifti(stored, scl_slope=0.015, scl_inter=0))
    with pytest.raises(DataError, match="fractional"):
        read_labels(path, "semantic")


def test_L3_scaled_images_are_scaled(tmp_path):
    stored = np.array([[0, 50], [100, 150]], np.int16)[None]
    image = read(put(tmp_path, "a.nii", make.nifti(stored, scl_slope=0.5, scl_inter=-10)))
    assert image.array.dtype == np.float32
    assert np.array_equal(image.array[0].T, stored * 0.5 - 10)


def test_L4_negative_ids_are_refused_suggesting_a_mapping(tmp_path):
    path = put(tmp_path, "a.nii", make.nifti(np.array([[-1, 2], [3, -1]], np.int16)[None]))
    with pytest.raises(DataError, match="--map -1=0"):
        read_labels(path, "semantic")
    assert read_labels(path, "semantic", mapping={-1: 0}).values.tolist() == [0, 2, 3]


def test_L5_any_integers_come_back_as_the_user_wrote_them(tmp_path):
    path = put(tmp_path, "a.tif", make.tiff(np.array([[0, 255], [255, 0]], np.uint8)))
    found = read_labels(path, "semantic")
    assert found.array.max() == 1
    write(found, tmp_path / "b.tif")
    assert np.array_equal(read(tmp_path / "b.tif").array[0], [[0, 255], [255, 0]])


def test_L9_ignored_voxels_come_back(tmp_path):
    path = put(tmp_path, "a.tif", make.tiff(np.array([[0, 255], [1, 0]], np.uint8)))
    found = read_labels(path, "semantic", ignore_value=255)
    assert found.values.tolist() == [0, 1]
    write(found, tmp_path / "b.nii.gz")
    assert np.array_equal(read(tmp_path / "b.nii.gz").array[0], [[0, 255], [1, 0]])


def test_L_folder_of_masks_is_one_label_image_and_overlap_is_counted(tmp_path):
    for i, at in enumerate([slice(0, 2), slice(1, 3), slice(3, 4)]):
        mask = np.zeros((3, 4), np.uint8)
        mask[:2, at] = 255
        put(tmp_path, f"{i}.tif", make.tiff(mask))
    found = read_labels(tmp_path, "instance")
    assert found.array.tolist() == [[1, 1, 2, 3], [1, 1, 2, 3], [0, 0, 0, 0]]
    assert any("2 voxels claimed twice" in n for n in found.notes)
    with pytest.raises(DataError, match="--task instance"):
        read_labels(tmp_path, "semantic")


@pytest.mark.parametrize("value", [-1, -1000])
@pytest.mark.parametrize("ending", [".nii.gz", ".tif", ".ome.zarr"])
def test_L9_a_negative_value_of_ignored_voxels_comes_back(tmp_path, ending, value):
    found = Labels.from_values(np.array([[0, value, 3], [3, 300, value]]), Grid.regular((2, 3), 0.5, "um"), "semantic",
                               ignore_value=value)
    write(found, tmp_path / f"a{ending}")
    assert read(tmp_path / f"a{ending}").array[0].tolist() == [[0, value, 3], [3, 300, value]]
    again = read_labels(tmp_path / f"a{ending}", "semantic", ignore_value=value)
    assert np.array_equal(again.ignore, found.ignore)
    assert again.values.tolist() == [0, 3, 300]


def test_L9_a_negative_value_is_refused_in_png_offering_others(tmp_path):
    found = Labels.from_values(np.array([[0, -1, 3]]), Grid.regular((1, 3)), "semantic", ignore_value=-1)
    with pytest.raises(DataError, match=r"-1.*\.tif"):
        write(found, tmp_path / "a.png")
