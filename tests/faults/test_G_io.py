"""Geometry as files state it: one affine, disagreement noted, nonsense refused (G3, G4, G6, G8)."""

import nibabel as nib
import numpy as np
import pytest
from faults import make
from faults.make import put

from biosegkit.errors import BiosegError, OptionError
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.io import ReadOptions, read, read_labels, write

STACK = np.random.default_rng([21]).integers(0, 99, (6, 5, 4), dtype=np.uint8)
TWO = np.diag([2.0, 2.0, 2.0, 1.0])


def refused(path, match, **options):
    with pytest.raises(BiosegError, match=match) as caught:
        read(path, ReadOptions(**options))
    assert str(path) in str(caught.value)


def noted(image, text):
    return any(text in n for n in image.notes)


def test_G3_sform_2_mm_against_pixdim_3_mm(tmp_path):
    path = put(tmp_path, "a.nii", make.nifti(STACK, TWO, pixdim=[1, 3, 3, 3, 1, 1, 1, 1]))
    image = read(path)
    assert image.grid.spacing == (2.0, 2.0, 2.0)
    assert noted(image, "pixdim")


def test_G3_sform_against_qform(tmp_path):
    volume = nib.Nifti1Image(STACK, TWO)
    volume.header.set_qform(np.diag([2.0, 2.0, 2.0, 1.0]) + np.array([[0, 0, 0, 9.0]] + [[0] * 4] * 3), code=1)
    image = read(put(tmp_path, "a.nii", volume.to_bytes()))
    assert image.grid.origin == (0.0, 0.0, 0.0)
    assert noted(image, "sform and qform differ")


def test_G3_qform_alone_is_used(tmp_path):
    turned = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, 6], [0, 0, 3.0, 7], [0, 0, 0, 1]])
    volume = nib.Nifti1Image(STACK, None)
    volume.header.set_qform(turned, code=1)
    volume.header.set_sform(None, code=0)
    grid = read(put(tmp_path, "a.nii", volume.to_bytes())).grid
    assert np.allclose(grid.affine, turned[:, [2, 1, 0, 3]], atol=1e-5)
    assert np.allclose(volume.header.get_qform(), turned, atol=1e-5)


@pytest.mark.parametrize("qfac", [1.0, -1.0])
def test_G3_qform_with_both_handednesses_as_nibabel(tmp_path, qfac):
    affine = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.3, -0.2, 0.1) @ np.diag([1, 2, 3 * qfac]), [1, 2, 3])
    volume = nib.Nifti1Image(STACK, None)
    volume.header.set_qform(affine, code=1)
    grid = read(put(tmp_path, "a.nii", volume.to_bytes())).grid
    assert np.allclose(grid.affine[:, [2, 1, 0, 3]], affine, atol=1e-5)


def test_G3_without_any_form_voxel_sizes_only_and_no_flip(tmp_path):
    data = make.nifti(STACK, sform_code=0, qform_code=0, pixdim=[1, 1.5, 2, 3, 1, 1, 1, 1])
    image = read(put(tmp_path, "a.nii", data))
    assert np.array_equal(image.grid.affine[:, [2, 1, 0, 3]], np.diag([1.5, 2, 3, 1]))
    assert noted(image, "neither sform nor qform")


def test_G4_shear_is_refused_naming_a_command_and_small_shear_accepted(tmp_path):
    for shear, ok in ((0.2, False), (5e-4, True)):
        affine = np.array(TWO)
        affine[0, 1] = 2 * shear
        path = put(tmp_path, "a.nii", make.nifti(STACK, affine))
        if ok:
            assert noted(read(path), "right angles")
        else:
            refused(path, "nib-conform")


@pytest.mark.parametrize("size", [0.0, -1.0, np.nan, np.inf])
def test_G6_impossible_pixdim_is_refused_unless_given(tmp_path, size):
    path = put(tmp_path, "a.nii", make.nifti(STACK, sform_code=0, qform_code=0, pixdim=[1, size, 1, 1, 1, 1, 1, 1]))
    refused(path, "pixdim")
    assert read(path, ReadOptions(spacing=(1, 2, 3))).grid.spacing == (1.0, 2.0, 3.0)


def test_G6_not_a_number_in_the_sform_is_refused(tmp_path):
    refused(put(tmp_path, "a.nii", make.nifti(STACK, srow_x=[np.nan, 0, 0, 0])), "sform")
    refused(put(tmp_path, "a.nii", make.nifti(STACK, srow_x=[0, 0, 0, 0], srow_y=[0, 0, 0, 0])), "affine")


@pytest.mark.parametrize("size", ["0", "-1.5", "nan"])
def test_G6_impossible_ome_pixel_size_is_refused(tmp_path, size):
    data = make.tiff(STACK[0], ome=True, metadata={"axes": "YX", "PhysicalSizeX": 1.25, "PhysicalSizeY": 1.0})
    refused(put(tmp_path, "a.tif", data.replace(b'"1.25"', b'"' + size.encode().ljust(4, b" ") + b'"')), "spacing")


@pytest.mark.parametrize("ending", ["tif", "png"])
def test_G6_missing_spacing_is_px_with_a_note(tmp_path, ending):
    import PIL.Image

    PIL.Image.fromarray(STACK[0]).save(tmp_path / f"a.{ending}")
    image = read(tmp_path / f"a.{ending}")
    assert (image.grid.unit, image.grid.spacing) == ("px", (1.0, 1.0))
    assert noted(image, "no pixel size")


def test_G6_given_spacing_wins_with_a_note(tmp_path):
    path = tmp_path / "a.tif"
    write(Image(STACK[None], Grid.regular(STACK.shape, (2, 1, 1), "um")), path)
    image = read(path, ReadOptions(spacing=(4, 1, 1)))
    assert (image.grid.spacing, image.grid.unit) == ((4.0, 1.0, 1.0), "um")
    assert noted(image, "the file says 2 × 1 × 1 um")
    assert not read(path, ReadOptions(spacing=(2, 1, 1), unit="um")).notes
    with pytest.raises(OptionError, match="2 spacings"):
        read(path, ReadOptions(spacing=(1, 1)))


def test_G6_pixel_size_is_in_micrometres_in_the_plane(tmp_path):
    path = put(tmp_path, "a.tif", make.tiff(STACK[0]))
    grid = read_labels(path, "semantic", ReadOptions(pixel_size=0.13)).grid
    assert (grid.spacing, grid.unit) == ((0.13, 0.13), "um")


def test_G6_printing_resolution_is_not_a_pixel_size(tmp_path):
    path = put(tmp_path, "a.tif", make.tiff(STACK[0], resolution=(72, 72), resolutionunit="INCH"))
    assert read(path).grid.unit == "px"
    assert noted(read(path), "dots per inch")
    path = put(tmp_path, "a.tif", make.tiff(STACK[0], resolution=(20000, 20000), resolutionunit="CENTIMETER"))
    assert (read(path).grid.spacing, read(path).grid.unit) == ((0.5, 0.5), "um")


def test_G6_missing_z_spacing_is_assumed_isotropic_with_a_note(tmp_path):
    data = make.tiff(STACK, ome=True, metadata={"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5},
                     photometric="minisblack")
    image = read(put(tmp_path, "a.tif", data))
    assert image.grid.spacing == (0.5, 0.5, 0.5)
    assert noted(image, "no spacing along z")


def test_G8_channels_on_different_grids_are_refused(tmp_path):
    one = put(tmp_path, "0.nii", make.nifti(STACK, TWO))
    two = put(tmp_path, "1.nii", make.nifti(STACK, np.diag([2.0, 2.0, 2.1, 1.0])))
    with pytest.raises(BiosegError, match=r"1\.nii.*2\.1"):
        read([one, two])
    assert read([one, one], ReadOptions(channel_names=("T1", "T2"))).channels == ("T1", "T2")


@pytest.mark.parametrize(("code", "unit", "factor", "note"), [
    (2, "mm", 1, ""), (3, "um", 1, ""), (1, "mm", 1000, "metres"), (0, "mm", 1, "assumed"),
])
def test_G6_nifti_units(tmp_path, code, unit, factor, note):
    image = read(put(tmp_path, "a.nii", make.nifti(STACK, TWO, xyzt_units=code)))
    assert (image.grid.unit, image.grid.spacing) == (unit, (2.0 * factor,) * 3)
    assert bool(image.notes) == bool(note)
    assert all(note in n for n in image.notes)


def test_G3_the_rounding_of_both_forms_is_no_difference(tmp_path):
    """Voxels of a micrometre far from the origin: float32 holds the two forms to 1e-7 of the largest number only."""
    affine = np.array([[-4.68738937, -1.00391555, -9.34253767e-05, -126.542145],
                       [1.7116133, -2.80855799, -7.79473121e-05, -62.327446],
                       [0.314262331, 0.322730511, -9.68953187e-04, 4.13259792], [0, 0, 0, 1.0]])
    path = tmp_path / "a.nii"
    write(Image(np.full((1, 1, 1, 1), 255, np.uint8), Grid((1, 1, 1), affine, "mm")), path)
    assert not read(path).notes
