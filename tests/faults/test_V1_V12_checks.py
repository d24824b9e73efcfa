"""Faults V1, V4, V8, V9, V10, V12 as the doctor sees them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile

from biosegkit.cases import scan
from biosegkit.checks import diagnose
from biosegkit.errors import DataError
from biosegkit.fingerprint import measure


def write(root: Path, image: np.ndarray, labels: np.ndarray, name: str = "a", **options) -> Path:
    for folder, data, extra in (("images", image, options), ("labels", labels, {})):
        (root / folder).mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(root / folder / f"{name}.tif", data, **extra)
    return root


def mask(shape=(10, 11)) -> np.ndarray:
    array = np.zeros(shape, np.uint8)
    array[..., 2:5, 2:5] = 1
    return array


def found(root: Path, code: str) -> list:
    return [p for p in diagnose(scan(root)) if p.code == code]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_V1_not_finite_voxels_are_refused_with_count_and_first_index(tmp_path, bad):
    image = np.random.default_rng(0).normal(size=(10, 11)).astype(np.float32)
    image[4, 7] = image[9, 0] = bad
    problem, = found(write(tmp_path, image, mask()), "V1")
    assert problem.severity == "error"
    assert problem.found == "2 NaN or infinite voxels in channel 0, first at (4, 7)"
    with pytest.raises(DataError, match="first at"):
        measure(scan(tmp_path))


def test_V4_constant_images_are_told_and_measured(tmp_path):
    problem, = found(write(tmp_path, np.full((10, 11), 7, np.uint8), mask()), "V4")
    assert (problem.severity, problem.found) == ("warning", "a constant channel 0 (every voxel 7)")
    channel, = measure(scan(tmp_path)).channels
    assert (channel.mean, channel.std, channel.low, channel.high) == (7, 0, 7, 7)


def test_V8_complex_voxels_are_refused(tmp_path):
    problem = diagnose(scan(write(tmp_path, np.zeros((10, 11), np.complex64), mask())))[0]
    assert (problem.code, problem.severity) == ("V8", "error")
    assert "complex64" in problem.found


def test_V9_coloured_labels_are_refused(tmp_path):
    write(tmp_path, np.random.default_rng(0).integers(0, 9, (10, 11)).astype(np.uint8), mask())
    tifffile.imwrite(tmp_path / "labels/a.tif", np.random.default_rng(0).integers(0, 9, (10, 11, 3)).astype(np.uint8),
                     photometric="rgb")
    problem = diagnose(scan(tmp_path))[0]
    assert (problem.code, problem.severity) == ("V9", "error")


def test_V10_time_series_are_refused(tmp_path):
    image = np.random.default_rng(0).integers(0, 9, (4, 10, 11)).astype(np.uint8)
    write(tmp_path, image, mask(), imagej=True, metadata={"axes": "TYX"})
    problem, = [p for p in found(tmp_path, "V10") if p.severity == "error"]
    assert "4 time points" in problem.found


def test_V12_one_slice_is_told(tmp_path):
    for folder, array in (("images", np.random.default_rng(0).normal(size=(11, 10, 1)).astype(np.float32)),
                          ("labels", mask()[None].T.copy())):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / folder / "a.nii.gz")
    problem, = found(tmp_path, "V12")
    assert (problem.severity, problem.found) == ("warning", "shape (1, 10, 11), one voxel thick")
    fingerprint = measure(scan(tmp_path))
    assert (fingerprint.ndim, fingerprint.cases[0].shape) == (3, (1, 10, 11))


def test_notes_of_readers_become_one_warning_per_kind(tmp_path):
    for i, name in enumerate("abc"):
        grey = np.random.default_rng(i).integers(0, 255, (10, 11, 1)).astype(np.uint8)
        write(tmp_path, np.repeat(grey, 3, axis=2), mask(), name, photometric="rgb")
    problem, = found(tmp_path, "V9")
    assert problem.severity == "warning"
    assert problem.found == "RGB with three equal channels read as one channel (and 2 more cases)"
