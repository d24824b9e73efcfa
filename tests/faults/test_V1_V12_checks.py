"""Faults V1, V4, V8, V9, V10, V12, V13 as the doctor sees them, and labels in place of an image (D1, L11)."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import tifffile

from biosegkit.cases import scan
from biosegkit.checks import diagnose
from biosegkit.errors import DataError
from biosegkit.fingerprint import measure
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.pictures import neighbour_correlations


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


def smooth(seed: int) -> np.ndarray:
    """Two waves: neighbours are alike."""
    y, x = np.indices((24, 26))
    return (100 + 50 * np.sin(y / 4 + seed) + 40 * np.cos(x / 5)).astype(np.uint8)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (24, 26)).astype(np.uint8)


def test_V13_an_image_of_noise_among_pictures_is_told(tmp_path):
    for name, image in {"a": smooth(0), "b": smooth(1), "c": noise(5)}.items():
        write(tmp_path, image, mask((24, 26)), name)
    problem, = found(tmp_path, "V13")
    assert (problem.severity, problem.case) == ("warning", "c")
    flat = noise(5).astype(float)
    known = max(np.corrcoef(flat[1:].ravel(), flat[:-1].ravel())[0, 1],
                np.corrcoef(flat[:, 1:].ravel(), flat[:, :-1].ravel())[0, 1])
    assert f"correlate by {known:.3f}" in problem.found


@pytest.mark.parametrize("images", [[noise(0), noise(1), noise(2)], [smooth(0), smooth(1), smooth(2) // 60],
                                    [noise(0)]], ids=["all noise", "pictures", "one case"])
def test_V13_noise_everywhere_or_nowhere_is_not_told(tmp_path, images):
    for name, image in zip("abc", images, strict=False):
        write(tmp_path, image, mask((24, 26)), name)
    assert found(tmp_path, "V13") == []


def test_V13_channels_are_looked_at_one_by_one_and_along_their_best_axis(tmp_path):
    """Planes of a stack may have nothing in common; a channel of noise is found beside a good one."""
    planes = np.stack([np.random.default_rng(7).permutation(smooth(0)) for _ in range(3)])
    image = Image(np.stack([planes, noise(2)[None].repeat(3, 0)]), Grid.regular((3, 24, 26)))
    good, bad = neighbour_correlations(image)
    assert good > 0.9
    assert neighbour_correlations(Image(noise(3)[None], Grid.regular((24, 26))))[0] < 0.1 < bad  # copies of one plane
    assert np.isnan(neighbour_correlations(Image(np.ones((1, 5, 5)), Grid.regular((5, 5))))[0])
    assert np.isnan(neighbour_correlations(Image(np.array([[[1.0, np.inf], [2, 3]]]), Grid.regular((2, 2))))[0])


def test_D1_labels_in_the_place_of_an_image_are_told(tmp_path):
    write(tmp_path, smooth(0), mask((24, 26)), "a")
    write(tmp_path, mask((24, 26)), mask((24, 26)), "b")
    problem, = found(tmp_path, "D1")
    assert (problem.severity, problem.case, problem.found) == ("warning", "b", "the numbers of its own labels")


def test_L11_labels_in_jpeg_are_refused(tmp_path):
    write(tmp_path, smooth(0), mask((24, 26)))
    (tmp_path / "labels/a.tif").unlink()
    PIL.Image.fromarray(mask((24, 26)) * 255).save(tmp_path / "labels/a.jpg")
    problem, = [p for p in diagnose(scan(tmp_path)) if p.severity == "error"]
    assert (problem.code, problem.found) == ("L11", "labels in JPEG, which changes values")
