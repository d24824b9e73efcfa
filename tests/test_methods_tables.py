"""Tables of objects against whole-array numpy, on random labels that are added whole and by blocks."""

import numpy as np
import pytest

from biosegkit.methods.protocol import Block
from biosegkit.methods.tables import Tally, rows_in

SPACES = {"2d": ((13, 21), (5, 21)), "3d": ((5, 8, 17), (2, 8, 6))}


def blocks_of(shape, size):
    """Every block of a cut into parts of a size."""
    for start in np.ndindex(*(-(-n // m) for n, m in zip(shape, size, strict=True))):
        first = tuple(i * m for i, m in zip(start, size, strict=True))
        part = tuple(min(m, n - f) for f, m, n in zip(first, size, shape, strict=True))
        yield tuple(slice(f, f + p) for f, p in zip(first, part, strict=True)), Block.cut(first, part, shape, halo=0)


@pytest.mark.parametrize("score", [np.uint8, np.uint16, np.int64, np.uint32])
@pytest.mark.parametrize("kind", [np.int32, np.uint32, np.int64])
@pytest.mark.parametrize("space", SPACES)
def test_rows_are_what_whole_arrays_say(space, kind, score):
    shape, size = SPACES[space]
    rng = np.random.default_rng([4, *shape])
    labels = np.repeat(rng.integers(0, 8, shape), 2, axis=-1)[..., : shape[-1]].astype(kind)  # runs, some of them long
    labels[labels == 5] = 0  # a number without voxels
    values = rng.integers(0, 255, shape).astype(score)
    whole, parts = Tally(7, len(shape)), Tally(7, len(shape))
    whole.add(labels, values, Block.whole(shape))
    for window, block in blocks_of(shape, size):
        parts.add(labels[window], values[window], block)
    rows = np.array([1, 2, 3, 4, 6, 7])
    table, other = (tally.table(rows, rows + 10, 255.0) for tally in (whole, parts))
    assert whole.area[4] == 0
    for name, column in table.items():
        np.testing.assert_array_equal(column, other[name], err_msg=name)
    for row, k in enumerate(rows):
        mask = labels == k
        places = np.nonzero(mask)
        assert table["id"][row] == k + 10
        assert table["area"][row] == mask.sum()
        assert table["first"][row] == np.flatnonzero(mask)[0]
        assert table["score"][row] == pytest.approx(values[mask].mean() / 255, rel=1e-6)
        for axis, at in zip("zyx"[-len(shape):], places, strict=True):
            assert table[f"centroid_{axis}"][row] == pytest.approx(at.mean(), rel=1e-12)
            assert (table[f"bbox_start_{axis}"][row], table[f"bbox_stop_{axis}"][row]) == (at.min(), at.max() + 1)


def test_every_object_is_listed_by_one_block():
    shape, size = SPACES["2d"]
    labels = np.arange(np.prod(shape)).reshape(shape) // 10 + 1
    tally = Tally(28, 2)
    tally.add(labels, np.zeros(shape, np.uint8), Block.whole(shape))
    table = tally.table(np.arange(1, 29), np.arange(1, 29), 255.0)
    listed = [rows_in(table, block)["id"] for _, block in blocks_of(shape, size)]
    assert sorted(np.concatenate(listed).tolist()) == list(range(1, 29))
    assert all(len(ids) for ids in listed)


def test_without_scores_all_are_0():
    shape, _ = SPACES["3d"]
    labels = np.random.default_rng(9).integers(0, 4, shape)
    given, left_out = Tally(3, 3), Tally(3, 3)
    given.add(labels, np.zeros(shape, np.uint8), Block.whole(shape))
    left_out.add(labels, None, Block.whole(shape))
    tables = [tally.table(np.arange(1, 4), np.arange(1, 4), 1.0) for tally in (given, left_out)]
    for name, column in tables[0].items():
        np.testing.assert_array_equal(column, tables[1][name])
    assert tables[1]["area"].sum() == (labels > 0).sum()
    assert not tables[1]["score"].any()
