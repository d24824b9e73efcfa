"""Tiles cover every voxel; windows sum to one; slabs regroup without loss."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biosegkit.lattice import Lattice, gaussian, tile_starts
from biosegkit.methods.protocol import Block
from biosegkit.resample import resample_probabilities
from biosegkit.slabs import blocks, paste, regrid

AXIS = st.tuples(st.integers(1, 40), st.integers(1, 16)).flatmap(
    lambda t: st.tuples(st.just(t[0]), st.just(t[1]), st.integers(1, t[1])))


@given(AXIS)
def test_tiles_cover_an_axis_evenly_and_reach_no_farther(axis):
    size, patch, step = axis
    starts = np.array(tile_starts(size, patch, step))
    assert starts[0] == 0
    assert starts[-1] == max(size - patch, 0)
    gaps = np.diff(starts)
    assert (gaps >= 1).all()
    assert (gaps <= step).all()
    assert np.ptp(gaps) <= 1 if len(gaps) else size <= patch
    # One tile less would leave a gap wider than the step.
    assert len(gaps) <= 1 or (size - patch) / (len(gaps) - 1) > step


@pytest.mark.parametrize(("size", "patch"), [(139, 68), (200, 64), (129, 128), (51, 32), (1000, 256)])
def test_tiles_are_where_nnunet_puts_them(size, patch):
    """Its rule, in its own words of arithmetic: half a patch at most, the number rounded up, the places rounded."""
    number = int(np.ceil((size - patch) / (patch * 0.5))) + 1
    actual = (size - patch) / (number - 1)
    wanted = [int(np.round(actual * i)) for i in range(number)]
    np.testing.assert_allclose(tile_starts(size, patch, patch // 2), wanted, atol=1)  # halves are rounded to even there


@given(st.lists(AXIS, min_size=1, max_size=3))
@settings(max_examples=50)
def test_windows_sum_to_one_at_every_voxel(axes):
    shape, patch, step = zip(*axes, strict=True)
    lattice = Lattice(shape, patch, step)
    for axis, windows in enumerate(lattice.windows()):
        total = np.zeros(lattice.starts[axis][-1] + patch[axis])
        for start, window in windows.items():
            total[start : start + patch[axis]] += window
        np.testing.assert_allclose(total[: shape[axis]], 1, atol=1e-6)
        assert (total[shape[axis] :] == 0).all()


def test_window_is_a_gaussian_of_an_eighth_of_the_patch():
    window = gaussian(9)
    assert window[4] == 1
    assert window[5] == pytest.approx(np.exp(-0.5 * (1 / (9 / 8)) ** 2))
    np.testing.assert_array_equal(window, window[::-1])


def test_lattice_order_has_the_last_axis_fastest_and_counts_itself():
    lattice = Lattice((5, 9), (4, 4), (2, 3))
    tiles = list(lattice)
    assert tiles[:4] == [(0, 0), (0, 3), (0, 5), (1, 0)]
    assert len(lattice) == len(tiles) == 6


@pytest.mark.parametrize("step", [(0, 1), (5, 1)])
def test_a_step_outside_the_patch_is_refused(step):
    with pytest.raises(ValueError, match="step"):
        Lattice((9, 9), (4, 4), step)


def _cut(array, sizes):
    """Slabs of the sizes given, repeated."""
    start, i = 0, 0
    while start < array.shape[1]:
        stop = min(start + sizes[i % len(sizes)], array.shape[1])
        yield start, {"p": torch.from_numpy(array[:, start:stop].copy())}
        start, i = stop, i + 1


@given(st.integers(1, 23), st.lists(st.integers(1, 7), min_size=1, max_size=3), st.integers(1, 9), st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_blocks_are_the_array_with_its_halo_whatever_the_slabs(size, sizes, planes, halo):
    array = np.random.default_rng(size).random((2, size, 3), np.float32)
    out = np.zeros_like(array)
    for maps, block in blocks(_cut(array, sizes), (size, 3), planes, halo):
        np.testing.assert_array_equal(maps["p"], array[(slice(None), *block.read)])
        paste(out, (slice(0, size), slice(0, 3)), block, maps["p"][(slice(None), *block.core)])
    np.testing.assert_array_equal(out, array)


def test_paste_writes_into_the_crop():
    out = np.zeros((4, 5), np.uint8)
    paste(out, (slice(1, 3), slice(2, 5)), Block.whole((2, 3)), np.ones((2, 3), np.uint8))
    assert out.sum() == 6
    assert out[1:3, 2:5].all()


@given(st.integers(1, 12), st.integers(1, 12), st.lists(st.integers(1, 5), min_size=1, max_size=2), st.integers(1, 5),
       st.sampled_from([(1.0, 1.0, 1.0), (5.0, 1.0, 1.0)]))
@settings(max_examples=40, deadline=None)
def test_regridding_slabs_equals_regridding_the_whole(source, target, sizes, planes, spacing):
    array = np.random.default_rng([source, target]).random((2, source, 4, 3), np.float32)
    shape, spacings = (target, 7, 3), (spacing, (1.0, 1.0, 1.0))
    whole = resample_probabilities(array, *spacings, shape)
    parts = list(regrid(_cut(array, sizes), array.shape[1:], shape, spacings, planes))
    assert [start for start, _ in parts] == list(range(0, target, planes))
    np.testing.assert_array_equal(np.concatenate([m["p"].numpy() for _, m in parts], 1), whole)
