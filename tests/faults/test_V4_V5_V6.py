"""Intensity faults: NaN, constant images, few bright objects, more voxels than a quantile takes."""

import numpy as np
import pytest

from biosegkit import normalize
from biosegkit.normalize import SCHEMES, apply, nonfinite_mask, statistics

CT = ({"low": 0.0, "high": 10.0, "mean": 5.0, "std": 2.0},)
RELATIVE = ("zscore", "rescale_to_0_1", "percentile")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_V1_nonfinite_voxels_become_the_channel_minimum(scheme):
    image = np.random.default_rng([1]).uniform(2, 9, (1, 6, 7)).astype(np.float32)
    image[0, 0, 0], image[0, 1, 1], image[0, 2, 2] = np.nan, np.inf, -np.inf
    clean = image.copy()
    clean[~np.isfinite(image)] = image[np.isfinite(image)].min()
    measured = statistics(image, scheme, dataset=CT)
    out = apply(image, measured)
    assert (out == apply(clean, measured)).all()
    assert nonfinite_mask(image).sum() == 3
    assert any("NaN or infinity in 3 voxels" in note for note in measured.notes)


def test_V1_image_without_a_single_finite_voxel_is_zero():
    image = np.full((1, 3, 3), np.nan)
    measured = statistics(image, "zscore")
    assert (apply(image, measured) == 0).all()
    assert len(measured.notes) == 2


@pytest.mark.parametrize("scheme", RELATIVE)
@pytest.mark.parametrize("value", [0, 1, 7.3, -1e9, 65535])
def test_V4_constant_image_becomes_zeros_with_a_note(scheme, value):
    image = np.full((1, 40, 50), value, np.float32)
    measured = statistics(image, scheme)
    assert (apply(image, measured) == 0).all()
    assert "constant" in measured.notes[0]


def test_V4_empty_mask_becomes_zeros():
    image = np.zeros((1, 4, 4), np.uint8)
    mask = image[0] > 0
    measured = statistics(image, "zscore", mask=mask)
    assert (apply(image, measured, mask) == 0).all()


def test_V4_varying_image_is_not_called_constant():
    image = np.array([[0, 1]], np.uint8)
    assert statistics(image, "zscore").notes == ()


def test_V5_few_bright_objects_stay_visible_although_the_percentiles_are_equal():
    image = np.full((1, 100, 100), 100, np.uint16)
    image[0, 50:53, 50:53] = 4000  # 9 of 10 000 voxels: beyond percentile 99.8
    measured = statistics(image, "percentile")
    out = apply(image, measured)
    assert out[0, 51, 51] == 1
    assert out[0, 0, 0] == 0
    assert "full range" in measured.notes[0]


def test_V5_percentiles_are_the_plans():
    image = np.arange(1000, dtype=np.float64).reshape(1, 1000)
    channel = statistics(image, "percentile", percentiles=(10.0, 90.0)).channels[0]
    assert channel["offset"] == pytest.approx(99.9)
    assert channel["scale"] == pytest.approx(799.2)


def test_V6_large_images_are_sampled_with_a_fixed_seed(monkeypatch):
    image = np.random.default_rng([4]).normal(size=(1, 300, 400)).astype(np.float32)
    exact = statistics(image, "percentile").channels[0]
    monkeypatch.setattr(normalize, "EXACT", 100_000)
    monkeypatch.setattr(normalize, "SAMPLE", 40_000)
    sampled = statistics(image, "percentile").channels[0]
    assert sampled != exact
    assert sampled["offset"] == pytest.approx(exact["offset"], abs=0.1)
    assert sampled["scale"] == pytest.approx(exact["scale"], rel=0.05)
    assert sampled == statistics(image, "percentile").channels[0]
    monkeypatch.setattr(normalize, "SLAB", 1000)
    assert sampled["offset"] == statistics(image, "percentile").channels[0]["offset"]


def test_V6_more_than_2_24_voxels():
    image = np.zeros((1, 4097, 4097), np.uint8)
    image[0, :2000] = 200
    channel = statistics(image, "percentile").channels[0]
    assert (channel["offset"], channel["scale"]) == (0, 200)
