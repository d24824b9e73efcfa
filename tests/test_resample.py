"""Resampling against scipy and scikit-image, and the properties that nothing shifts and nothing appears."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.transform import resize

from biosegkit.errors import OptionError
from biosegkit.resample import (
    resample_image,
    resample_labels,
    resample_probabilities,
    resample_rows,
    rows_needed,
)


def ones(ndim):
    return (1.0,) * ndim


def zoomed(array, shape, order):
    """Resampling by scipy with half-pixel centres."""
    zoom = [m / n for m, n in zip(shape, array.shape, strict=True)]
    return ndimage.zoom(array.astype(np.float64), zoom, order=order, mode="nearest", grid_mode=True)


SHAPES = [
    ((9, 14, 11), (9, 20, 7)),
    ((9, 14, 11), (18, 7, 33)),
    ((5, 6, 7), (10, 12, 14)),
    ((30, 41), (17, 90)),
    ((50,), (13,)),
]


@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_linear_equals_scipy(old, new):
    maps = np.random.default_rng([1]).random((2, *old)).astype(np.float32)
    out = resample_probabilities(maps, ones(len(old)), ones(len(old)), new)
    assert out.dtype == np.float32
    for before, after in zip(maps, out, strict=True):
        np.testing.assert_allclose(after, zoomed(before, new, 1), atol=1e-5)


@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_cubic_equals_scipy_within_the_images_range(old, new):
    image = np.random.default_rng([2]).normal(size=(1, *old)).astype(np.float32)
    out = resample_image(image, ones(len(old)), ones(len(old)), new)[0]
    expected = np.clip(zoomed(image[0], new, 3), image.min(), image.max())
    np.testing.assert_allclose(out, expected, atol=2e-5)


def test_cubic_equals_scikit_image():
    image = np.random.default_rng([3]).normal(size=(1, 12, 15)).astype(np.float32)
    expected = resize(image[0].astype(float), (20, 11), order=3, mode="edge", anti_aliasing=False)
    np.testing.assert_allclose(resample_image(image, (1, 1), (1, 1), (20, 11))[0], expected, atol=2e-5)


def test_coarse_axis_is_nearest_and_slices_are_resampled_on_their_own():
    image = np.random.default_rng([4]).normal(size=(1, 4, 12, 10)).astype(np.float32)
    out = resample_image(image, (5.0, 1.0, 1.0), (2.5, 0.5, 2.0))
    assert out.shape == (1, 8, 24, 5)
    for z in range(8):
        plane = np.clip(zoomed(image[0, z // 2], (24, 5), 3), image.min(), image.max())
        np.testing.assert_allclose(out[0, z], plane, atol=2e-5)


def test_shape_follows_the_spacing():
    maps = np.zeros((1, 10, 20), np.float32)
    assert resample_probabilities(maps, (1.0, 1.0), (2.0, 0.5)).shape == (1, 5, 40)


def test_unchanged_shape_is_not_touched():
    image = np.random.default_rng([5]).normal(size=(1, 6, 7)).astype(np.float32)
    assert resample_image(image, (1, 1), (1.01, 1)) is image
    labels = np.arange(6).reshape(2, 3)
    assert resample_labels(labels, (1, 1), (1, 1), instance=True) is labels


@pytest.mark.parametrize("function", [resample_probabilities, resample_image])
@pytest.mark.parametrize("new", [(37, 40), (11, 90)])
def test_ramps_stay_ramps(function, new):
    # positions of the new centres in old voxels, away from the edge padding
    y, x = np.mgrid[:30, :60].astype(np.float32)
    out = function((2 * y - 3 * x)[None], (1, 1), (1, 1), new)[0]
    rows, columns = ((np.arange(m) + 0.5) * n / m - 0.5 for n, m in zip((30, 60), new, strict=True))
    expected = 2 * rows[:, None] - 3 * columns[None]
    # the cubic prefilter carries the kink at the edge inwards, by a factor 0.27 per voxel
    inner = [(c > 12) & (c < n - 13) for c, n in ((rows, 30), (columns, 60))]
    np.testing.assert_allclose(
        out[np.ix_(*inner)], expected[np.ix_(*inner)], atol=1e-3 if function is resample_image else 1e-4
    )


@pytest.mark.parametrize("new", [(23, 9, 16), (7, 30, 16), (12, 20, 10)])
@pytest.mark.parametrize("spacing", [(1, 1, 1), (5, 1, 1), (1, 5, 1)])
def test_rows_are_the_bytes_of_the_whole(new, spacing):
    maps = np.random.default_rng([6]).random((2, 12, 20, 16)).astype(np.float32)
    whole = resample_probabilities(maps, spacing, (1, 1, 1), new)
    for a, b in itertools.pairwise((0, 1, 4, new[0])):
        lo, hi = rows_needed(12, new[0], (a, b))
        part = resample_rows(maps[:, lo:hi], (lo, 12), new, (a, b), spacing, (1, 1, 1))
        assert part.tobytes() == np.ascontiguousarray(whole[:, a:b]).tobytes()


def test_rows_need_few_source_rows():
    assert rows_needed(100, 200, (100, 110)) == (49, 56)


def test_missing_source_rows_are_refused():
    with pytest.raises(OptionError, match="rows_needed"):
        resample_rows(np.zeros((1, 2, 4)), (0, 8), (16, 4), (8, 12), (1, 1), (1, 1))


def test_threads_do_not_change_bytes():
    image = np.random.default_rng([7]).normal(size=(1, 20, 30, 25)).astype(np.float32)
    one, three = (resample_image(image, ones(3), ones(3), (31, 22, 40), workers=n) for n in (1, 3))
    assert one.tobytes() == three.tobytes()


@pytest.mark.parametrize(
    "bad", [((1, 1), (1, 1, 1), None), ((1, 1, 1), (1, 1, 1), (4, 4)), ((1, 1, 1), (1, 1, 1), (4, 0, 4))]
)
def test_mismatched_axes_are_refused(bad):
    spacing, new_spacing, shape = bad
    with pytest.raises(OptionError, match="per spatial axis"):
        resample_image(np.zeros((1, 3, 3, 3)), spacing, new_spacing, shape)


# --- labels ---------------------------------------------------------------------------------------------------------


def balls(ndim, seed):
    """Separate balls of radius 5 to 8 at random places."""
    rng = np.random.default_rng([seed])
    grid = np.stack(np.meshgrid(*[np.arange(48)] * ndim, indexing="ij"), axis=-1)
    labels = np.zeros((48,) * ndim, np.uint16)
    for number, corner in enumerate(itertools.product((12, 35), repeat=ndim), start=1):
        centre = np.array(corner) + rng.uniform(-2, 2, ndim)
        labels[((grid - centre) ** 2).sum(axis=-1) < rng.uniform(5, 8) ** 2] = number
    return labels


def centres(labels):
    ids = np.unique(labels[labels > 0])
    return np.array(ndimage.center_of_mass(labels > 0, labels, ids))


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("instance", [True, False])
@pytest.mark.parametrize("factor", [0.5, 0.37, 0.8, 1.5, 2.0, 3.1])
def test_G9_round_trip_moves_no_object(ndim, instance, factor):
    shifts = []
    for seed in range(4):
        labels = balls(ndim, seed)
        there = resample_labels(labels, ones(ndim), (1 / factor,) * ndim, instance=instance)
        back = resample_labels(there, (1 / factor,) * ndim, ones(ndim), labels.shape, instance=instance)
        assert set(np.unique(back)) == set(np.unique(labels))
        shifts.append(centres(back) - centres(labels))
    moved = np.concatenate(shifts)
    assert np.abs(moved.mean(axis=0)).max() < 0.1  # no drift
    if factor >= 1:
        assert np.abs(moved).max() < 0.1
    else:
        # one small object cannot be placed better than a fraction of a coarse voxel
        assert np.abs(moved).max() < 0.5 / factor


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_G9_enlarged_and_reduced_labels_are_the_same(factor):
    labels = balls(3, 9)
    new = tuple(n * factor for n in labels.shape)
    for instance in (True, False):
        there = resample_labels(labels, ones(3), ones(3), new, instance=instance)
        back = resample_labels(there, ones(3), ones(3), labels.shape, instance=instance)
        assert (back == labels).mean() > 0.995
        if instance:
            assert (back == labels).all()


@settings(max_examples=60, deadline=None)
@given(
    old=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    data=st.data(),
    instance=st.booleans(),
    dtype=st.sampled_from([np.uint8, np.uint16, np.uint32, np.int16, np.int64]),
)
def test_L11_no_label_appears(old, data, instance, dtype):
    new = data.draw(st.tuples(*[st.integers(1, 20)] * len(old)))
    values = data.draw(st.lists(st.integers(0, 100), min_size=1, max_size=4))
    labels = np.random.default_rng([data.draw(st.integers(0, 99))]).choice(values, old).astype(dtype)
    if np.dtype(dtype).kind == "i":
        labels[labels == 100] = -1
    out = resample_labels(labels, ones(len(old)), ones(len(old)), new, instance=instance)
    assert out.shape == new
    assert out.dtype == labels.dtype
    assert set(np.unique(out)) <= set(np.unique(labels))


def test_semantic_is_a_threshold_of_one_half():
    labels = (ndimage.gaussian_filter(np.random.default_rng([8]).normal(size=(24, 30)), 2) > 0).astype(np.uint8)
    share = zoomed(labels, (37, 50), 1)
    clear = np.abs(share - 0.5) > 1e-3
    out = resample_labels(labels, (1, 1), (1, 1), (37, 50), instance=False)
    assert (out[clear] == (share[clear] > 0.5)).all()


def test_semantic_with_many_labels_is_the_largest_share():
    labels = np.random.default_rng([10]).integers(0, 5, (7, 8, 9)).astype(np.int32) * 50_000
    new = (12, 5, 14)
    shares = np.stack([zoomed(labels == value, new, 1) for value in range(0, 250_000, 50_000)])
    ranked = np.sort(shares, axis=0)
    clear = ranked[-1] - ranked[-2] > 1e-3
    out = resample_labels(labels, ones(3), ones(3), new, instance=False)
    assert (out[clear] == shares.argmax(axis=0)[clear] * 50_000).all()


def test_junction_of_three_labels_has_no_hole():
    labels = np.array([[1, 2], [3, 1]], np.uint8)
    assert (resample_labels(labels, (1, 1), (1, 1), (16, 16), instance=False) > 0).all()


def test_semantic_labels_of_anisotropic_stacks_are_nearest_along_the_coarse_axis():
    labels = np.random.default_rng([11]).integers(0, 2, (3, 8, 8)).astype(np.uint8)
    out = resample_labels(labels, (6.0, 1.0, 1.0), (2.0, 1.0, 1.0), instance=False)
    assert (out == np.repeat(labels, 3, axis=0)).all()
