"""NIfTI against nibabel, and write ∘ read = identity."""

import gzip

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from strategies import grids, images, labels

from biosegkit.grid import Grid
from biosegkit.image import Image, Labels
from biosegkit.io import peek, read, read_labels, write

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SPACE = grids(units=("mm", "um", "px"), float32=True)


@QUICK
@given(image=images(SPACE, ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"]))
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_read_returns_what_was_written(tmp_path, ending, image):
    path = tmp_path / f"a{ending}"
    write(image, path)
    again = read(path)
    assert again.array.dtype == image.array.dtype
    assert np.array_equal(again.array, image.array)
    assert again.grid == image.grid
    assert not again.notes
    assert again.array.flags.c_contiguous


@QUICK
@given(found=labels(SPACE))
def test_labels_come_back(tmp_path, found):
    path = tmp_path / "a.nii.gz"
    write(found, path)
    again = read_labels(path, "instance")
    assert np.array_equal(again.restored(), found.restored())
    assert np.array_equal(again.array, found.array) or len(again.values) < len(found.values)
    assert again.grid == found.grid


@QUICK
@given(image=images(grids(ndim=3, units=("mm",)), ["i2", "f4"], channels=(1,)))
def test_nibabel_sees_the_same_voxels_and_world(tmp_path, image):
    path = tmp_path / "a.nii"
    write(image, path)
    other = nib.load(path)
    assert np.array_equal(np.asanyarray(other.dataobj), image.array[0].T)
    assert np.allclose(other.affine, image.grid.affine[:, [2, 1, 0, 3]], rtol=1e-6, atol=1e-4)
    assert other.header.get_xyzt_units()[0] == "mm"
    # qform readers (ITK) agree with sform readers
    far = np.array([*(s - 1 for s in other.shape), 1])
    reach = np.abs(other.affine[:3, :3] * far[:3]).sum()
    # near half turns a quaternion of float32 holds an angle to about 1e-3 only: 2 sqrt(4 eps)
    assert np.allclose(other.header.get_qform() @ far, other.header.get_sform() @ far, atol=1e-4 + 1.5e-3 * reach)
    assert not read(path).notes


def test_geometry_worked_by_hand(tmp_path):
    affine = np.array([[-2.0, 0, 0, 10], [0, 3, 0, 20], [0, 0, 5, 30], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), affine), tmp_path / "a.nii.gz")
    image = read(tmp_path / "a.nii.gz")
    assert image.grid.spacing == (5.0, 3.0, 2.0)
    assert image.grid.orientation == "SAL"
    assert image.array[0, 3, 2, 1] == 23
    assert (image.grid.affine @ [3, 2, 1, 1]).tolist() == [8, 26, 45, 1]


def test_nifti_2(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    nib.save(nib.Nifti2Image(array, np.diag([1.0, 2, 3, 1])), tmp_path / "a.nii")
    image = read(tmp_path / "a.nii")
    assert np.array_equal(image.array[0].T, array)
    assert image.grid.spacing == (3.0, 2.0, 1.0)


def test_long_axes_are_written_as_nifti_2(tmp_path):
    image = Image(np.ones((1, 1, 1, 40000), np.uint8), Grid.regular((1, 1, 40000), 1.0, "mm"))
    write(image, tmp_path / "a.nii.gz")
    assert read(tmp_path / "a.nii.gz").array.shape == (1, 1, 1, 40000)
    assert isinstance(nib.load(tmp_path / "a.nii.gz"), nib.Nifti2Image)


def test_equal_labels_are_equal_bytes(tmp_path):
    found = Labels.from_values(np.eye(9, dtype=int), Grid.regular((9, 9), 1.0, "mm"), "semantic")
    for name in ("a.nii.gz", "other name.nii.gz"):
        write(found, tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "other name.nii.gz").read_bytes()


def test_nanometres_are_written_as_micrometres(tmp_path):
    write(Image(np.ones((1, 2, 2, 2), np.uint8), Grid.regular((2, 2, 2), 500.0, "nm")), tmp_path / "a.nii")
    grid = read(tmp_path / "a.nii").grid
    assert (grid.spacing, grid.unit) == ((0.5, 0.5, 0.5), "um")


def test_peek_agrees_with_read(tmp_path):
    image = Image(np.ones((2, 3, 4, 5), np.int16), Grid.regular((3, 4, 5), (3, 2, 1), "mm"))
    write(image, tmp_path / "a.nii.gz")
    header = peek(tmp_path / "a.nii.gz")
    assert (header.shape, header.channels, header.dtype, header.grid) == ((3, 4, 5), 2, np.int16, image.grid)
    assert header.bytes == image.array.nbytes


def test_several_gzip_members_are_one_stream(tmp_path):
    data = nib.Nifti1Image(np.arange(60, dtype=np.uint8).reshape(3, 4, 5), np.eye(4)).to_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(data[:370]) + gzip.compress(data[370:]))
    assert read(tmp_path / "a.nii.gz").array.sum() == sum(range(60))
