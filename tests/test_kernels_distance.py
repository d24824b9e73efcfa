"""Distance transform against scipy object by object, and the label tools beside it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from biosegkit.errors import DataError
from biosegkit.kernels.components import UnionFind, connected_components, sequential
from biosegkit.kernels.distance import boundary_distance, object_max, share_of_max
from biosegkit.kernels.neighbours import other_beside, other_near


def brute_force(labels, spacing, border):
    """scipy, one object at a time."""
    out = np.zeros(labels.shape)
    for k in np.unique(labels[labels > 0]):
        mask = labels == k
        if border:
            inner = (slice(1, -1),) * labels.ndim
            d = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing)[inner]
        else:
            d = ndimage.distance_transform_edt(mask, sampling=spacing)
        out[mask] = d[mask]
    return out


def blocky(rng, shape, cell):
    """Random labels of cubic grains, background among them."""
    coarse = rng.integers(0, 4, [-(-n // cell) for n in shape])
    return np.kron(coarse, np.ones((cell,) * len(shape), np.int64))[tuple(slice(0, n) for n in shape)]


@pytest.mark.parametrize("shape", [(40,), (23, 37), (7, 19, 21), (1, 12, 13), (9, 1, 13)])
@pytest.mark.parametrize("border", [False, True])
def test_distance_is_that_of_scipy_per_object(shape, border):
    rng = np.random.default_rng(len(shape))
    for cell in (1, 3, 5):
        labels = blocky(rng, shape, cell)
        if len(np.unique(labels)) < 2:
            continue
        spacing = rng.uniform(0.3, 5.0, len(shape))
        found = boundary_distance(labels, spacing, border=border)
        np.testing.assert_allclose(found, brute_force(labels, spacing, border), rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_distance_commutes_with_flips_and_transposition(seed, workers):
    rng = np.random.default_rng(seed)
    labels = blocky(rng, (6, 11, 17), int(rng.integers(1, 4)))
    spacing = (2.0, 1.0, 0.5)
    d = boundary_distance(labels, spacing)
    np.testing.assert_array_equal(boundary_distance(labels, spacing, workers=workers), d)
    flipped = boundary_distance(np.ascontiguousarray(labels[::-1, :, ::-1]), spacing)[::-1, :, ::-1]
    np.testing.assert_allclose(flipped, d, rtol=1e-6)
    turned = boundary_distance(labels.transpose(2, 0, 1), (0.5, 2.0, 1.0)).transpose(1, 2, 0)
    np.testing.assert_allclose(turned, d, rtol=1e-6)


def test_distance_of_a_hand_worked_row():
    labels = np.array([[5, 5, 5, 0, 7, 7, 9, 9]])
    # 5 is cut by the left edge: it is bounded on the right only; 7 and 9 bound each other; 9 goes on to the right
    assert boundary_distance(labels, (9.0, 2.0)).tolist() == [[6.0, 4.0, 2.0, 0.0, 2.0, 2.0, 2.0, 4.0]]
    assert boundary_distance(labels, (9.0, 2.0), border=True).tolist() == [[2.0, 4.0, 2.0, 0.0, 2.0, 2.0, 2.0, 2.0]]


def test_an_object_without_any_border_is_infinitely_deep():
    assert np.isinf(boundary_distance(np.ones((4, 5), np.uint8))).all()
    assert boundary_distance(np.ones((3, 3), np.uint8), border=True).tolist() == [[1, 1, 1], [1, 2, 1], [1, 1, 1]]


def test_voxels_that_are_not_valid_bound_nobody():
    labels = np.array([[1, 1, 1, 0, 0, 0]])
    valid = np.array([[True, True, True, False, True, True]])
    assert np.isinf(boundary_distance(labels, valid=valid)[0, :3]).all()
    assert boundary_distance(labels, valid=valid)[0, 3:].tolist() == [0, 0, 0]


@pytest.mark.parametrize("top", [2**16, 2**31, 2**32 - 1, 2**40])
def test_large_ids_stay_apart(top):
    labels = np.array([[1, 1, top, top, top - 1, 0]], np.uint64)
    assert boundary_distance(labels).tolist() == [[2, 1, 1, 1, 1, 0]]


def test_empty_arrays_and_background_only():
    assert boundary_distance(np.zeros((0, 4), np.uint8)).shape == (0, 4)
    assert boundary_distance(np.zeros((3, 4), np.uint8)).max() == 0


def test_wrong_input_is_refused():
    for labels, spacing in ((np.zeros((2, 2)), (1, 1)), (np.zeros((2, 2), int), (1,)), (np.zeros((2, 2), int), (1, 0))):
        with pytest.raises(DataError):
            boundary_distance(labels, spacing)
    with pytest.raises(DataError, match="negative"):
        boundary_distance(np.array([-1, 2]))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_sequential_and_object_max_agree_with_numpy(seed):
    rng = np.random.default_rng(seed)
    pool = np.unique(rng.integers(1, 2**31 + 5, int(rng.integers(1, 3000)), dtype=np.uint32))
    labels = np.concatenate([[0], pool]).astype(np.uint32)[rng.integers(0, len(pool) + 1, (50, 60))]
    ids, maxima, dense = object_max(labels, values := rng.random(labels.shape).astype(np.float32))
    expected = np.unique(labels[labels > 0])
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(np.concatenate([[0], ids])[dense], labels)
    np.testing.assert_array_equal(maxima, ndimage.maximum(values, labels, expected))
    np.testing.assert_array_equal(sequential(labels)[0], dense)


def test_components_split_labels_and_count_in_raster_order():
    labels = np.array([[4, 4, 0, 4], [0, 0, 2, 0], [2, 2, 0, 0]])
    pieces, count = connected_components(labels)
    assert count == 3
    assert pieces.tolist() == [[1, 1, 0, 2], [0, 0, 3, 0], [3, 3, 0, 0]]
    assert connected_components(labels, connectivity=1)[1] == 4
    assert connected_components(np.array([True, False, True]))[0].tolist() == [1, 0, 2]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_union_find_is_connected_components_with_the_smallest_member_as_root(seed):
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components as graph_components

    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 60, (2, 50))
    sets = UnionFind(60)
    sets.union_many(a, b)
    _, group = graph_components(coo_array((np.ones(50), (a, b)), shape=(60, 60)), directed=False)
    smallest = np.array([np.flatnonzero(group == g)[0] for g in group])
    np.testing.assert_array_equal(sets.roots(), smallest)
    assert all(sets.find(i) == smallest[i] for i in range(60))


@pytest.mark.parametrize(("shape", "share"), [((400,), 0.2), ((29, 33), 0.06), ((11, 12, 13), 0.02)])
@pytest.mark.parametrize("reach", [1, 2])
def test_other_objects_near_are_those_of_a_filter(shape, share, reach):
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 5, shape) * (rng.random(shape) < share)
    inside = labels > 0
    low = ndimage.minimum_filter(np.where(inside, labels, 9), 2 * reach + 1)
    high = ndimage.maximum_filter(labels, 2 * reach + 1)
    found = other_near(labels, inside, reach)
    assert np.array_equal(found, inside & (low < high))
    assert found.any()
    assert not found[inside].all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
@pytest.mark.parametrize("shape", [(300,), (17, 23), (7, 9, 11), (5, 1, 8)])
def test_other_objects_across_faces_are_those_of_shifted_arrays(shape, dtype):
    labels = np.random.default_rng(6).choice([0, 0, 2, 2, 2, 100], shape).astype(dtype)
    expected = np.zeros(shape, bool)
    for axis in range(len(shape)):
        padded = np.pad(labels, [(1, 1) if a == axis else (0, 0) for a in range(len(shape))])
        for way in (-1, 1):
            other = np.take(np.roll(padded, way, axis), np.arange(1, shape[axis] + 1), axis)
            expected |= (labels > 0) & (other > 0) & (other != labels)
    assert np.array_equal(other_beside(labels), expected)
    assert expected.any()
    assert not expected[labels > 0].all()


@pytest.mark.parametrize("top", [254, 255])
def test_distances_of_bytes_are_those_of_the_same_ids_in_more_bytes(top):
    labels = np.repeat(np.random.default_rng(2).choice([0, 1, 7, top], (12, 7)), 3, axis=1).astype(np.uint8)
    known = np.random.default_rng(3).random(labels.shape) > 0.1
    for valid in (None, known):
        expected = boundary_distance(labels.astype(np.int64), (2.0, 1.0), valid=valid)
        assert np.array_equal(boundary_distance(labels, (2.0, 1.0), valid=valid), expected)
    assert (labels == top).any()
    assert len(np.unique(expected[np.isfinite(expected)])) >= 5


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_shares_of_the_largest_value_of_each_object(dtype):
    rng = np.random.default_rng(5)
    labels = rng.choice([0, 2, 7, 90], (21, 18)).astype(dtype)
    values = rng.random(labels.shape).astype(np.float32)
    values[labels == 90] = 0.0
    values[3, 4:9] = np.inf
    expected = np.zeros(labels.shape, np.float32)
    for k in (2, 7, 90):
        mine = labels == k
        top = values[mine & np.isfinite(values)].max()
        expected[mine] = np.where(np.isinf(values[mine]) | (top == 0), 1, values[mine] / np.maximum(top, 1e-9))
    assert np.array_equal(share_of_max(labels, values.copy()), expected)
