"""Series of DICOM slices against files that the test writes with pydicom, and geometry by hand and by nibabel."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_series import COLUMN, CORNER, NORMAL, ROW, enhanced, pydicom, series

from biosegkit.errors import DataError, FileError
from biosegkit.io import ReadOptions, open_pyramid, peek, read
from biosegkit.viewing import file_layers


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4096, (7, 5, 6), np.uint16)


def test_a_series_is_one_volume_placed_by_its_positions(tmp_path, values):
    image = read(series(tmp_path / "ct", values))
    assert image.array.dtype == np.int16
    np.testing.assert_array_equal(image.array[0], values.astype(int) - 1024)
    np.testing.assert_allclose(image.grid.spacing, (2.5, 0.9, 0.7), rtol=1e-6)
    assert image.grid.unit == "mm"
    for z, y, x in [(0, 0, 0), (6, 4, 5), (2, 3, 1)]:  # PS3.3 C.7.6.2.1.1; left, posterior turned
        by_hand = CORNER + z * 2.5 * NORMAL + y * 0.9 * COLUMN + x * 0.7 * ROW
        np.testing.assert_allclose((image.grid.affine @ [z, y, x, 1])[:3], by_hand * (-1, -1, 1), atol=1e-5)
    header = peek(tmp_path / "ct")
    assert (header.shape, header.dtype, header.grid) == ((7, 5, 6), np.int16, image.grid)
    lazy = open_pyramid(tmp_path / "ct").arrays[0]
    np.testing.assert_array_equal(lazy[:, 2:5, 1:3, 4:], image.array[:, 2:5, 1:3, 4:])


def test_a_series_lies_where_the_same_volume_as_nifti_lies(tmp_path, values):
    series(tmp_path / "ct", values)
    axes = np.stack([0.7 * ROW, 0.9 * COLUMN, 2.5 * NORMAL, CORNER], axis=1) * [[-1], [-1], [1]]
    nib.save(nib.Nifti1Image(values.T.astype(np.int16) - 1024, np.vstack([axes, [0, 0, 0, 1]])), tmp_path / "ct.nii")
    (data, settings, _), = file_layers(tmp_path / "ct")
    (again, expected, _), = file_layers(tmp_path / "ct.nii")
    np.testing.assert_array_equal(data, again)
    assert (settings["name"], settings["units"], settings["axis_labels"]) == ("ct", ("mm",) * 3, ("z", "y", "x"))
    np.testing.assert_allclose(settings["affine"], expected["affine"], atol=1e-4)  # NIfTI holds float32


@pytest.mark.parametrize(("scaling", "dtype"), [
    ({"RescaleSlope": 1, "RescaleIntercept": 0}, np.uint16), ({"RescaleIntercept": -5.5}, np.float32),
    ({"RescaleSlope": [1.0, 0.5, 2.0, 1.0, 1.25, 1.0, 3.0], "RescaleIntercept": 10}, np.float32),
    ({"RescaleSlope": 1, "RescaleIntercept": 70000}, np.uint32)])
def test_values_are_rescaled_slice_by_slice_and_whole_numbers_stay_whole(tmp_path, values, scaling, dtype):
    image = read(series(tmp_path / "ct", values, **scaling))
    slope = np.reshape(scaling.get("RescaleSlope", 1), (-1, 1, 1))
    assert image.array.dtype == dtype
    np.testing.assert_allclose(image.array[0], values * slope + scaling["RescaleIntercept"], rtol=1e-6)


def test_signed_values_of_twelve_bits(tmp_path, values):
    signed = values.astype(np.int16) - 2048
    image = read(series(tmp_path / "ct", signed, RescaleIntercept=0))
    assert image.array.dtype == np.int16
    np.testing.assert_array_equal(image.array[0], signed)


def test_one_slice_is_a_plane(tmp_path, values):
    image = read(series(tmp_path / "ct", values[:1]))
    np.testing.assert_array_equal(image.array[0], values[0].astype(int) - 1024)
    assert (image.grid.ndim, image.grid.spacing, image.grid.unit) == (2, (0.9, 0.7), "mm")
    assert read(tmp_path / "ct" / "IM0000").grid == image.grid


def test_slices_that_are_not_there_are_missed(tmp_path, values):
    folder = series(tmp_path / "ct", values)
    places = {file: np.dot(pydicom.dcmread(file).ImagePositionPatient, NORMAL) for file in folder.glob("IM*")}
    order = sorted(places, key=places.__getitem__)
    for file in order[3:5]:
        file.unlink()
    with pytest.raises(DataError, match=rf"2 slices missing: 7.5 mm between {order[2].name} and {order[5].name}"):
        read(folder)


@pytest.mark.parametrize(("more", "said"), [
    ({"SeriesInstanceUID": ["1.2.3"] * 3 + ["1.2.4"] * 4, "SeriesDescription": ["T1"] * 3 + ["T2"] * 4},
     r"2 DICOM series: 'T[12]' \([34] files\), 'T[12]'"),
    ({"ImagePositionPatient": [[0, 0, k // 2] for k in range(7)]}, "two slices at one place"),
    ({"ImageOrientationPatient": [[1, 0, 0, 0, 1, 0]] * 6 + [[0, 1, 0, 0, 0, 1]]}, "another direction"),
    ({"PixelSpacing": [[1, 1]] * 6 + [[2, 2]]}, "another size of pixels"),
    ({"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [[0, 0, k**1.5] for k in range(7)]},
     "uneven distances"),
    ({"ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
      "ImagePositionPatient": [[0, int(k == 3), 3 * k] for k in range(7)]},
     "1 mm beside its place"),
    ({"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [[0, k, 3 * k] for k in range(7)]},
     "sheared"),  # the gantry was tilted
    ({"ImagePositionPatient": None}, "ImagePositionPatient missing"),
    ({"PhotometricInterpretation": "PALETTE COLOR"}, "a DICOM file of PALETTE COLOR"),
    ({"NumberOfFrames": 3}, "a DICOM file of 3 frames"),
    ({"BitsAllocated": [16] * 6 + [8]}, "8 bits per value"),
])
def test_what_is_not_one_volume_of_even_spacing_is_refused(tmp_path, values, more, said):
    folder = series(tmp_path / "ct", values, **more)
    with pytest.raises((DataError, FileError), match=said) as caught:
        read(folder)
    assert caught.value.remedy


@pytest.mark.parametrize("compressed", [False, True])
def test_the_frames_of_an_enhanced_file_are_the_series_of_its_slices(tmp_path, values, compressed):
    folder = series(tmp_path / "ct", values, RescaleSlope=[1.0, 0.5, 2.0, 1.0, 1.25, 1.0, 3.0])
    file = enhanced(folder, tmp_path / "a.dcm")
    if compressed:
        data = pydicom.dcmread(file)
        data.compress(pydicom.uid.RLELossless)
        data.save_as(file)
    image, wanted = read(file), read(folder)
    np.testing.assert_array_equal(image.array, wanted.array)
    assert image.grid == wanted.grid
    assert (image.array.dtype, image.notes) == (wanted.array.dtype, wanted.notes)
    assert peek(file).shape == (7, 5, 6)
    lazy = open_pyramid(file).arrays[0]
    np.testing.assert_array_equal(lazy[:, 2:5, 1:3, 4:], wanted.array[:, 2:5, 1:3, 4:])
    (shown, settings, _), (again, expected, _) = file_layers(file)[0], file_layers(folder)[0]
    np.testing.assert_array_equal(shown, again)
    assert settings["name"] == "a"
    np.testing.assert_array_equal(settings["affine"], expected["affine"])


def test_one_frame_is_a_plane_and_floating_point_stays_so(tmp_path, values):
    image = read(enhanced(series(tmp_path / "ct", values[:1]), tmp_path / "a.dcm"))
    np.testing.assert_array_equal(image.array[0], values[0].astype(int) - 1024)
    assert (image.grid.ndim, image.grid.spacing, image.grid.unit) == (2, (0.9, 0.7), "mm")
    real = np.random.default_rng(1).random((3, 5, 6), np.float32)
    folder = series(tmp_path / "map", values[:3], RescaleIntercept=0)
    file = enhanced(folder, tmp_path / "b.dcm", BitsAllocated=32, FloatPixelData=real.tobytes())
    data = pydicom.dcmread(file)
    for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(data, name)
    data.save_as(file)
    order = np.argsort([(k * 5 + 3) % 3 for k in range(3)])  # of names, which is that of the frames
    np.testing.assert_array_equal(read(file).array[0][order], real)


def test_frames_that_are_not_one_volume_are_refused(tmp_path, values):
    twice = enhanced(series(tmp_path / "ct", values, ImagePositionPatient=[
        [round(float(v), 6) for v in CORNER + (k // 2) * NORMAL] for k in range(7)]), tmp_path / "twice.dcm")
    with pytest.raises(DataError, match=r"two slices at one place \(frame \d of twice.dcm and frame \d of") as caught:
        read(twice)
    assert "dcm2niix, which writes a file for each time point" in caught.value.remedy
    folder = series(tmp_path / "mr", values)
    short = enhanced(folder, tmp_path / "short.dcm", PerFrameFunctionalGroupsSequence=[pydicom.Dataset()] * 5)
    with pytest.raises(DataError, match="7 frames, of which 5 are described"):
        read(short)
    bare = enhanced(folder, tmp_path / "bare.dcm", PerFrameFunctionalGroupsSequence=[pydicom.Dataset()] * 7)
    with pytest.raises(DataError, match="ImagePositionPatient missing in frame 1"):
        read(bare)
    segments = enhanced(folder, tmp_path / "seg.dcm", SOPClassUID=pydicom.uid.SegmentationStorage)
    data = pydicom.dcmread(segments)
    data.file_meta.MediaStorageSOPClassUID = pydicom.uid.SegmentationStorage
    data.save_as(segments)
    with pytest.raises(FileError, match="a DICOM file of 7 frames"):
        read(segments)


def test_F1_a_cut_enhanced_file_is_refused(tmp_path, values):
    file = enhanced(series(tmp_path / "ct", values), tmp_path / "a.dcm")
    whole = file.read_bytes()
    for keep in (200, len(whole) // 2, len(whole) - 70, len(whole) - 20):
        file.write_bytes(whole[:keep])
        with pytest.raises((FileError, DataError), match=r"a\.dcm"):
            read(file)


@pytest.mark.parametrize("keep", [140, 600, -40])
def test_F1_a_cut_slice_is_refused(tmp_path, values, keep):
    folder = series(tmp_path / "ct", values)
    file = folder / "IM0002"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises((FileError, DataError), match="IM0002"):
        read(folder)


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM" + bytes(200))
    for path in (tmp_path, tmp_path / "a.dcm"):
        with pytest.raises(FileError, match="DICOM"):
            open_pyramid(path)


def test_the_user_may_say_the_spacing(tmp_path, values):
    image = read(series(tmp_path / "ct", values), ReadOptions(spacing=(5, 1, 1)))
    assert image.grid.spacing == (5, 1, 1)
    np.testing.assert_allclose(image.grid.direction[:, 2] * (-1, -1, 1), ROW, atol=1e-6)


def test_predict_takes_the_folder_of_a_series(tmp_path, values):
    from biosegkit.inputs import find_jobs

    series(tmp_path / "ct", values)
    (job,) = find_jobs(tmp_path / "ct", tmp_path / "out")
    assert (job.name, [Path(p) for p in job.images]) == ("ct", [tmp_path / "ct"])
    assert [job.name for job in find_jobs(tmp_path, tmp_path / "out")] == ["ct"]
