"""Where objects are: compared with brute force, before and after changes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from biosegkit import corrections, extents
from biosegkit.canvas import Canvas
from biosegkit.errors import Cancelled
from biosegkit.extents import listed, point_inside
from biosegkit.progress import watched


def random_labels(seed, shape, dtype, top):
    values = np.random.default_rng(seed).integers(0, top, shape)
    return np.where(values % 3 == 0, 0, values).astype(dtype)


@pytest.mark.parametrize("dtype", ["u1", "i2", "<u4", ">u4", "u8"])
@pytest.mark.parametrize("shape", [(9, 7), (5, 6, 7), (0, 4), (1, 1)])
@pytest.mark.parametrize("slab", [1, 50, 1 << 24])
def test_sizes_and_boxes_are_those_of_every_object(monkeypatch, dtype, shape, slab):
    monkeypatch.setattr(extents, "_SLAB", slab)
    values = random_labels(3, shape, dtype, 40)
    known = listed(values)
    assert known.ids.tolist() == np.unique(values[values > 0]).tolist()
    for number in known.ids.tolist():
        assert known.area(number) == (values == number).sum()
        assert (known.window(number),) == tuple(ndimage.find_objects((values == number).astype(int)))
    assert 3 not in known
    assert 10**12 not in known
    assert -1 not in known


def test_the_largest_ids_there_are_stay_exact():
    top = 2**64 - 1
    assert listed(np.array([[top, top - 1]], np.uint64)).ids.tolist() == [top - 1, top]


def test_a_table_is_never_changed_but_replaced():
    known = listed(np.array([[1, 1, 0, 5]]))
    changed = known.changed((slice(0, 1), slice(0, 3)), {1: -2, 9: 3})
    assert (known.ids.tolist(), known.area(1)) == ([1, 5], 2)
    assert (changed.ids.tolist(), changed.area(9)) == ([5, 9], 3)
    assert listed(np.zeros((2, 2), int)).changed((slice(0, 1), slice(0, 1)), {4: 1}).ids.tolist() == [4]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(30, 40), (9, 20, 21), (1, 8, 20, 21)])
def test_the_point_shown_lies_on_the_object(seed, shape):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    values = (field > np.quantile(field, 0.9)) * np.uint8(7)
    whole = tuple(slice(0, n) for n in shape)
    assert values[point_inside(values, whole, 7)] == 7
    (box,) = ndimage.find_objects(values.astype(bool).astype(int))
    assert values[point_inside(values, box, 7)] == 7
    assert point_inside(values, whole, 8) is None


class Counting:
    """An array that counts the voxels that are read."""

    def __init__(self, array):
        self.array, self.shape, self.ndim, self.dtype, self.read = array, array.shape, array.ndim, array.dtype, 0

    def __getitem__(self, key):
        found = self.array[key]
        self.read += np.size(found)
        return found


def test_of_a_large_object_little_is_read():
    ball = sum((np.ogrid[tuple(map(slice, (101,) * 3))][k] - 50) ** 2 for k in range(3)) <= 50**2
    array = Counting(ball.astype(np.uint8))
    canvas = Canvas(array)
    array.read = 0
    assert canvas.place(1) == (50, 50, 50)
    assert array.read <= 101**2


def test_an_object_that_was_painted_elsewhere_without_telling_is_found():
    values = np.zeros((9, 9), np.uint8)
    values[0, 0] = 4
    canvas = Canvas(values)
    values[0, 0], values[7, 8] = 0, 4
    assert canvas.place(4) == (7, 8)


def test_listing_ends_when_it_is_cancelled(monkeypatch):
    monkeypatch.setattr(extents, "_SLAB", 1)
    array = Counting(np.ones((50, 4), np.uint8))

    def stop(done, total, stage):
        if done == 3:
            raise Cancelled("a click on Cancel")

    with watched(stop), pytest.raises(Cancelled):
        listed(array)
    assert array.read == 3 * 4


@pytest.mark.parametrize("order", corrections.ORDERS)
def test_walks_go_through_all_objects_in_order_and_back(order):
    rng = np.random.default_rng(1)
    canvas = Canvas(random_labels(5, (12, 40), np.uint16, 60))
    scores = {int(i): float(s) for i, s in zip(rng.permutation(60)[:30], rng.integers(0, 4, 30) / 4, strict=True)}
    scores[canvas.ids()[0]] = float("nan")
    sure = {i: np.inf if np.isnan(scores.get(i, np.nan)) else scores[i] for i in canvas.ids()}
    wanted = sorted(canvas.ids(), key=lambda i: ({"id": 0, "area": canvas.area(i), "score": sure[i]}[order], i))
    assert corrections.in_order(canvas, order, scores) == wanted
    for known in (scores, corrections.Scores(list(scores), list(scores.values()))):
        for back in (False, True):
            walk = [corrections.next_object(canvas, 0, order, known, back=back)]
            while len(walk) <= len(wanted):
                walk.append(corrections.next_object(canvas, walk[-1], order, known, back=back))
            assert walk[:-1] == wanted[:: -1 if back else 1]
            assert walk[-1] == walk[0]
