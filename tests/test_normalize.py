"""Normalisation against numpy on the whole image, and block against whole."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biosegkit import normalize
from biosegkit.errors import DataError, OptionError
from biosegkit.normalize import SCHEMES, apply, nonfinite_mask, nonzero_mask, statistics

CT = ({"low": -900.0, "high": 300.0, "mean": 40.0, "std": 80.0},) * 2


@pytest.fixture
def image():
    return np.random.default_rng([1]).normal(30, 7, (2, 5, 30, 20)).astype(np.float32)


def test_zscore_has_mean_zero_and_spread_one(image):
    image[1] += 1000
    out = apply(image, statistics(image, "zscore"))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out.mean(axis=(1, 2, 3), dtype=float), 0, atol=1e-5)
    np.testing.assert_allclose(out.std(axis=(1, 2, 3), dtype=float), 1, atol=1e-5)


def test_zscore_inside_a_mask(image):
    mask = np.zeros(image.shape[1:], bool)
    mask[1:4, 5:20] = True
    out = apply(image, statistics(image, "zscore", mask=mask), mask)
    assert (out[:, ~mask] == 0).all()
    expected = (image[0][mask] - image[0][mask].mean(dtype=float)) / image[0][mask].std(dtype=float)
    np.testing.assert_allclose(out[0][mask], expected, atol=1e-4)


def test_zscore_mask_must_be_given_again(image):
    measured = statistics(image, "zscore", mask=image[0] > 0)
    with pytest.raises(OptionError, match="mask"):
        apply(image, measured)


def test_ct_clips_and_uses_the_dataset():
    image = np.array([[-2000.0, -40.0, 40.0, 120.0, 2000.0]])
    out = apply(image, statistics(image, "ct", dataset=CT))
    # clipped to [-900, 300], minus 40, by 80
    assert out[0].tolist() == [-11.75, -1.0, 0.0, 1.0, 3.25]


@pytest.mark.parametrize("dataset", [(), ({"low": 0.0, "high": 1.0, "mean": 0.0, "std": 0.0},)])
def test_ct_without_usable_dataset_statistics_is_refused(image, dataset):
    with pytest.raises(OptionError, match="low, high, mean, std"):
        statistics(image[:1], "ct", dataset=dataset)


def test_ranges():
    image = np.array([[10, 20, 30], [0, 128, 255]], np.uint8)
    out = apply(image, statistics(image, ("rescale_to_0_1", "rgb_to_0_1")))
    np.testing.assert_allclose(out, [[0, 0.5, 1], [0, 128 / 255, 1]], atol=1e-7)


def test_rgb_beyond_eight_bit_is_refused():
    with pytest.raises(DataError, match="0 to 255"):
        statistics(np.array([[0, 256]], np.uint16), "rgb_to_0_1")


def test_none_only_casts(image):
    assert (apply(image, statistics(image, "none")) == image).all()


def test_percentiles_map_to_zero_and_one_without_clipping(image):
    out = apply(image, statistics(image, "percentile"))
    for before, after in zip(image, out, strict=True):
        low, high = np.percentile(before.astype(float), (1, 99.8))
        np.testing.assert_allclose(after, (before - low) / (high - low), atol=1e-5)
    assert out.max() > 1 > 0 > out.min()


@pytest.mark.parametrize(("schemes", "message"), [("zscores", "zscore"), (("none",), "2 channels")])
def test_unknown_scheme_or_wrong_count(image, schemes, message):
    with pytest.raises(OptionError, match=message):
        statistics(image, schemes)


def test_block_with_other_channels_is_refused(image):
    with pytest.raises(OptionError, match="2"):
        apply(image[:1], statistics(image, "none"))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float16, np.float32, np.float64])
def test_blocks_give_the_bytes_of_the_whole(scheme, dtype):
    image = np.random.default_rng([2]).integers(0, 200, (2, 7, 33, 29)).astype(dtype)
    if np.dtype(dtype).kind == "f":
        image[0, 3, 4, 5] = np.nan
    measured = statistics(image, scheme, dataset=CT)
    whole = apply(image, measured)
    tiles = np.empty_like(whole)
    for z in range(0, 7, 3):
        for y in range(0, 33, 10):
            for x in range(0, 29, 11):
                tile = (slice(None), slice(z, z + 3), slice(y, y + 10), slice(x, x + 11))
                tiles[tile] = apply(image[tile], measured)
    assert tiles.tobytes() == whole.tobytes()
    assert np.isfinite(whole).all()


def test_statistics_do_not_need_the_whole_in_memory(image, monkeypatch):
    class Lazy:
        """Counts the voxels handed out at once."""

        shape, dtype, largest = image.shape, image.dtype, 0

        def __getitem__(self, key):
            part = image[key]
            self.largest = max(self.largest, part.size)
            return part

    at_once = statistics(image, "zscore").channels
    monkeypatch.setattr(normalize, "SLAB", 700)
    lazy = Lazy()
    in_slabs = statistics(lazy, "zscore").channels
    assert lazy.largest == len(image) * 600  # all channels together
    for a, b in zip(at_once, in_slabs, strict=True):
        assert a == pytest.approx(b, rel=1e-12)


def test_uint16_offset_is_kept_to_single_precision():
    image = (60000 + np.arange(5)).astype(np.uint16).reshape(1, 5)
    out = apply(image, statistics(image, "zscore"))
    np.testing.assert_allclose(out[0], (np.arange(5) - 2) / math.sqrt(2), atol=1e-6)


def test_tiny_units_are_not_taken_for_constant():
    image = np.array([[1e-12, 2e-12, 3e-12]])
    out = apply(image, statistics(image, "zscore"))
    np.testing.assert_allclose(out[0], [-math.sqrt(1.5), 0, math.sqrt(1.5)], atol=1e-6)


def test_nonzero_mask_joins_channels_and_fills_holes():
    image = np.zeros((2, 7, 9), np.uint8)
    image[0, 1:6, 1:4] = 1
    image[1, 1:6, 3:6] = 1
    image[:, 3, 2] = 0
    mask = nonzero_mask(image)
    assert mask.sum() == 25
    assert mask[3, 2]


@settings(max_examples=40, deadline=None)
@given(scale=st.floats(1e-3, 1e6), offset=st.floats(-1e6, 1e6))
def test_zscore_ignores_gain_and_offset(scale, offset):
    image = np.random.default_rng([3]).normal(size=(1, 8, 9))
    changed = image * scale + offset
    out = apply(changed, statistics(changed, "zscore"))
    np.testing.assert_allclose(out, apply(image, statistics(image, "zscore")), atol=1e-4)


def test_nonfinite_mask_covers_any_channel():
    image = np.zeros((2, 3))
    image[0, 1], image[1, 2] = np.nan, -np.inf
    assert nonfinite_mask(image).tolist() == [False, True, True]
    assert not nonfinite_mask(image.astype(np.float32)[:, :1].astype(np.uint8)).any()
