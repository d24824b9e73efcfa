"""Overlap counts against a dictionary filled voxel by voxel."""

import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from biosegkit.errors import DataError
from biosegkit.kernels.overlap import overlap_counts


def brute(a, b, valid):
    both, left, right = Counter(), Counter(), Counter()
    for x, y, keep in zip(a.ravel().tolist(), b.ravel().tolist(), valid.ravel().tolist(), strict=True):
        if keep:
            left[x] += 1
            right[y] += 1
            both[x, y] += 1
    pairs = {k: v for k, v in both.items() if k[0] and k[1]}
    return pairs, {k: v for k, v in left.items() if k}, {k: v for k, v in right.items() if k}


def as_dicts(found):
    return (
        {(int(i), int(j)): int(n) for (i, j), n in zip(found.pairs, found.counts, strict=True)},
        dict(zip(found.ids_a.tolist(), found.area_a.tolist(), strict=True)),
        dict(zip(found.ids_b.tolist(), found.area_b.tolist(), strict=True)),
    )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_a_count_voxel_by_voxel(data):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=6))
    ids = st.sampled_from([0, 1, 2, 3, 65_535, 65_536, 2**31 + 5, 2**63 - 1])
    a = data.draw(hnp.arrays(np.uint64, shape, elements=ids))
    b = data.draw(hnp.arrays(np.int64, shape, elements=ids))
    valid = data.draw(hnp.arrays(np.bool_, shape))
    found = overlap_counts(a, b, valid)
    assert as_dicts(found) == brute(a, b, valid)
    ignored = [np.sum(~valid & (b == k)) for k in found.ids_b]
    assert found.ignored_b.tolist() == ignored
    assert found.mostly_ignored().tolist() == [np.mean(valid[b == k]) < 0.5 for k in found.ids_b]
    assert np.array_equal(found.pairs, np.array(sorted(map(tuple, found.pairs.tolist()))).reshape(-1, 2))


def test_many_pairs_make_the_table_grow():
    rng = np.random.default_rng([3])
    a, b = rng.integers(0, 300, (2, 200_000))
    assert as_dicts(overlap_counts(a, b)) == brute(a, b, np.ones(a.shape, bool))


def test_iou_by_hand():
    a = np.array([[1, 1, 1, 0], [2, 2, 0, 0]], np.uint8)
    b = np.array([[5, 5, 0, 0], [5, 9, 9, 9]], np.uint16)
    found = overlap_counts(a, b)
    assert found.pairs.tolist() == [[1, 5], [2, 5], [2, 9]]
    assert found.iou().tolist() == [2 / 4, 1 / 4, 1 / 4]


def test_memory_and_views_do_not_matter():
    rng = np.random.default_rng([4])
    a, b = rng.integers(0, 9, (2, 7, 8, 9))
    expected = as_dicts(overlap_counts(a, b))
    assert as_dicts(overlap_counts(np.asfortranarray(a), b)) == expected
    assert as_dicts(overlap_counts(np.swapaxes(a, 0, 2), np.swapaxes(b, 0, 2))) == expected
    assert as_dicts(overlap_counts(a[::-1], b[::-1])) == expected
    assert as_dicts(overlap_counts(a.astype(">i4"), b)) == expected


def test_bool_masks_and_empty_arrays():
    one = np.array([True, False, True])
    assert overlap_counts(one, one).area_a.tolist() == [2]
    none = overlap_counts(np.zeros((0, 4), np.uint8), np.zeros((0, 4), np.uint8))
    assert none.pairs.shape == (0, 2)
    assert none.iou().size == 0


def test_ten_thousand_objects_are_sparse():
    side = 16
    ids = np.arange(1, 10_001, dtype=np.uint32).reshape(100, 100) * 400_000  # up to 4e9
    a = np.kron(ids, np.ones((side, side), np.uint32))
    b = np.roll(a, (3, 5), (0, 1))
    overlap_counts(a[:4], b[:4])  # compile
    tracemalloc.start()
    found = overlap_counts(a, b)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.ids_a.size == found.ids_b.size == 10_000
    assert found.counts.sum() == a.size
    assert peak < 100e6  # a dense 10 000 x 10 000 int64 matrix would be 800 MB


@pytest.mark.parametrize(("a", "b"), [
    (np.array([1, 2]), np.array([1, 2, 3])),
    (np.array([1.0]), np.array([1])),
    (np.array([-1]), np.array([1])),
    (np.array([2**63], np.uint64), np.array([1], np.uint64)),
])
def test_what_cannot_be_counted_is_refused(a, b):
    with pytest.raises(DataError):
        overlap_counts(a, b)


def test_valid_must_fit():
    a = np.array([1, 2])
    with pytest.raises(DataError):
        overlap_counts(a, a, np.array([True]))
    with pytest.raises(DataError):
        overlap_counts(a, a, np.array([1, 0]))
