"""Corrections by hand: compared with brute force, and with laws that hold for every operation."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from biosegkit import corrections
from biosegkit.canvas import Canvas
from biosegkit.errors import DataError, OptionError

SHAPES = [(9, 11), (5, 7, 6)]


def blobs(seed, shape, ids=(3, 4, 9, 200)):
    """Touching random objects, some in several pieces, with holes."""
    rng = np.random.default_rng([seed, 5])
    seeds = rng.integers(0, len(ids) + 1, shape)
    field = ndimage.gaussian_filter(rng.normal(size=(len(ids) + 1, *shape)), (0, *(1,) * len(shape)))
    values = np.array([0, *ids], np.uint16)[field.argmax(0)]
    values[seeds == 0] = 0
    return values


def operations(canvas, rng):
    """One of each operation on random objects, by name."""
    ids = canvas.ids()
    one = int(rng.choice(ids))
    inside = np.argwhere(canvas.array[...] == one)
    points = inside[rng.choice(len(inside), min(2, len(inside)), replace=False)]
    middle = inside.mean(axis=0)
    line = [np.append(middle[:-1].round(), -2), np.append(middle[:-1].round(), canvas.shape[-1] + 2)]
    return {
        "merge": lambda: corrections.merge(canvas, [one, *[i for i in ids if i != one][:2]]),
        "delete": lambda: corrections.delete(canvas, ids[:2]),
        "relabel": lambda: corrections.relabel(canvas, one),
        "fill": lambda: corrections.fill_holes(canvas, one),
        "grow": lambda: corrections.grow(canvas, one, 1.5),
        "shrink": lambda: corrections.shrink(canvas, one),
        "points": lambda: corrections.split_points(canvas, one, points),
        "line": lambda: corrections.split_line(canvas, one, line, axis=0 if len(canvas.shape) == 3 else None),
    }


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), shape=st.sampled_from(SHAPES))
def test_undo_restores_every_byte_and_sizes_stay_true(seed, shape):
    values = blobs(seed, shape)
    canvas, rng = Canvas(values), np.random.default_rng(seed)
    states = [values.copy()]
    for name in rng.permutation(list(operations(canvas, rng)) if canvas.ids() else []):
        if not canvas.ids():
            break
        try:
            change = operations(canvas, rng)[name]()
        except DataError:
            assert np.array_equal(values, states[-1]), "what is refused changes nothing"
            continue
        different = values != states[-1]
        assert np.count_nonzero(different) == change.voxels
        if change.voxels:
            outside = np.ones(shape, bool)
            outside[change.window] = False
            assert not (different & outside).any()
            states.append(values.copy())
        assert {i: canvas.area(i) for i in canvas.ids()} == {
            int(i): int(n) for i, n in zip(*np.unique(values[values > 0], return_counts=True), strict=True)}
        for i in canvas.ids():
            (box,) = ndimage.find_objects((values == i).astype(np.uint8))
            assert canvas.window(i) == box
    last = states[-1]
    for state in reversed(states[:-1]):
        assert canvas.undo().voxels > 0
        assert np.array_equal(values, state)
    assert canvas.undo() is None
    while canvas.redo() is not None:
        pass
    assert np.array_equal(values, last)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.5, 0.5)])
@pytest.mark.parametrize("amount", [1, 2.5])
def test_growing_and_shrinking_are_what_distances_say(spacing, amount):
    """Against distances from every voxel to every other; growth stays out of other objects and does not jump."""
    for seed in range(4):
        values = blobs(seed, (5, 7, 6))
        one = Canvas(values).ids()[0]
        places = np.argwhere(np.ones(values.shape, bool)) * np.array(spacing)
        inside = (values == one).reshape(-1)
        apart = np.sqrt(((places[:, None] - places[None]) ** 2).sum(-1))
        reach = amount * min(spacing) + 1e-9
        near = apart[:, inside].min(1) <= reach
        free = (near & (values.reshape(-1) == 0)).reshape(values.shape)
        pieces, _ = ndimage.label(free | (values == one))
        expected = np.where(np.isin(pieces, np.unique(pieces[values == one])) & free, one, values)
        grown = values.copy()
        corrections.grow(Canvas(grown, spacing), one, amount)
        assert np.array_equal(grown, expected)
        rim = inside & (apart[:, ~inside].min(1) <= reach)
        shrunk, canvas = values.copy(), None
        canvas = Canvas(shrunk, spacing)
        if rim.sum() == inside.sum():
            with pytest.raises(DataError, match="nothing left"):
                corrections.shrink(canvas, one, amount)
        else:
            corrections.shrink(canvas, one, amount)
            assert np.array_equal(shrunk.reshape(-1), np.where(rim, 0, values.reshape(-1)))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), shape=st.sampled_from(SHAPES), count=st.integers(2, 4))
def test_points_part_the_object_exactly(seed, shape, count):
    values = blobs(seed, shape)
    canvas = Canvas(values)
    one = max(canvas.ids(), key=canvas.area)
    before = values.copy()
    inside = np.argwhere(before == one)
    points = inside[np.random.default_rng(seed).choice(len(inside), count, replace=False)]
    change = corrections.split_points(canvas, one, points)
    assert len(set(change.ids)) == count
    assert change.ids[0] == one
    assert np.array_equal(np.isin(values, change.ids), before == one)
    assert np.array_equal(values[before != one], before[before != one])
    assert [int(values[tuple(p)]) for p in points] == list(change.ids)


def test_two_touching_discs_are_split_at_their_waist():
    y, x = np.indices((21, 40))
    first, second = (y - 10) ** 2 + (x - 11) ** 2 <= 81, (y - 10) ** 2 + (x - 28) ** 2 <= 81
    values = (first | second).astype(np.uint8)
    corrections.split_points(Canvas(values), 1, [(10, 11), (10, 28)])
    assert (values[first & (x < 19)] == 1).all()
    assert (values[second & (x > 20)] == 2).all()


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("bend", [False, True])
def test_a_line_parts_what_is_on_its_sides(ndim, bend):
    """A straight and a bent line through a square (and, in a stack, through all of its planes)."""
    plane = np.zeros((14, 14), np.uint16)
    plane[2:12, 2:12] = 5
    line = [(0, 4.6), (6, 4.6), (6, 9.4), (13, 9.4)] if bend else [(0, 6.6), (13, 6.6)]
    y, x = np.indices(plane.shape)
    left_of = (x < np.where(y < 6, 4.6, 9.4)) if bend else x < 6.6
    values = plane if ndim == 2 else np.repeat(plane[None], 3, axis=0)
    before = values.copy()
    canvas = Canvas(values)
    change = corrections.split_line(canvas, 5, line if ndim == 2 else [(1, *p) for p in line])
    assert np.array_equal(np.isin(values, change.ids), before == 5)
    clear = (before == 5) & ~((np.abs(y - 6) < 1) & bend)
    sides = [np.unique(values[clear & np.broadcast_to(side, values.shape)]) for side in (left_of, ~left_of)]
    assert [len(s) for s in sides] == [1, 1]
    assert sides[0] != sides[1]
    assert canvas.area(5) >= canvas.area(change.ids[1]), "the larger part keeps the id"


def test_a_line_cuts_only_where_it_is_drawn():
    """One arm of a U is cut; the other arm, on the prolongation of the line, is not, nor is a piece apart."""
    values = np.zeros((12, 16), np.uint8)
    values[1:10, 1:4] = values[1:10, 8:11] = values[8:11, 1:11] = 1
    values[1:3, 13:15] = 1
    change = corrections.split_line(Canvas(values), 1, [(4, -1), (4, 6)])
    fresh = change.ids[1]
    assert (values[1:4, 1:4] == fresh).all()
    assert (values[1:10, 8:11] == 1).all()
    assert (values[1:3, 13:15] == 1).all()


def test_a_line_that_ends_inside_is_refused():
    values = np.ones((8, 8), np.uint8)
    canvas = Canvas(values)
    with pytest.raises(DataError, match="does not part object 1"):
        corrections.split_line(canvas, 1, [(-1, 4), (4, 4)])
    assert (values == 1).all()
    assert canvas.undo() is None


def test_holes_are_filled_around_what_lies_in_them():
    values = np.zeros((5, 9, 9), np.uint8)
    values[:, 1:8, 1:8], values[1:4, 2:7, 2:7] = 1, 0
    values[2, 4, 4] = 6
    tunnel = values.copy()
    tunnel[0, 4, 4] = 0
    corrections.fill_holes(Canvas(values), 1)
    assert np.array_equal(values > 0, ndimage.binary_fill_holes(values > 0))
    assert values[2, 4, 4] == 6
    canvas = Canvas(tunnel)
    assert corrections.fill_holes(canvas, 1).voxels == 0
    assert corrections.fill_holes(canvas, 1, axis=0).voxels > 50
    assert tunnel[2, 4, 4] == 6


def test_strokes_of_others_are_undone_with_the_rest():
    values = np.array([[1, 1, 2, 2, 0, 0]], np.uint16)
    canvas = Canvas(values)
    places = (np.zeros(3, int), np.array([1, 2, 4]))
    before = values[places].copy()
    values[places] = 7
    canvas.painted([((slice(0, 1), slice(1, 5)), np.array([[True, True, False, True]]), before, 7)])
    assert (canvas.ids(), canvas.area(7), canvas.area(1)) == ([1, 2, 7], 3, 1)
    corrections.delete(canvas, [7])
    assert values.tolist() == [[1, 0, 0, 2, 0, 0]]
    assert [canvas.undo().operation for _ in range(2)] == ["undo delete", "undo paint"]
    assert values.tolist() == [[1, 1, 2, 2, 0, 0]]
    assert (canvas.ids(), canvas.area(2)) == ([1, 2], 2)


def test_what_was_painted_in_one_drag_is_one_step(tmp_path):
    values = np.array([[1, 1, 2, 2, 0, 0]], np.uint16)
    before, canvas = values.copy(), Canvas(values, journal=tmp_path / "j.jsonl")
    drag, told = [(slice(0, 1), slice(k, k + 2)) for k in range(4)], []
    for window in drag:
        where = values[window] != 7
        told.append((window, where, values[window][where], 7))
        values[window] = 7
    change = canvas.painted(told)
    assert (change.ids, change.voxels, change.window) == ((1, 2, 7), 5, (slice(0, 1), slice(0, 5)))
    assert len((tmp_path / "j.jsonl").read_text().splitlines()) == 1
    assert (canvas.ids(), canvas.area(7)) == ([7], 5)
    assert canvas.undo().voxels == 5
    assert np.array_equal(values, before)
    assert canvas.undo() is None
    canvas.redo()
    assert values.tolist() == [[7, 7, 7, 7, 7, 0]]
    assert canvas.painted([(drag[0], np.ones((1, 2), bool), 7, 7)]).voxels == 0, "nothing was changed"


def test_a_log_goes_on():
    canvas = Canvas(np.array([[1, 2, 3]], np.uint8), log=[{"operation": "merge"}])
    corrections.delete(canvas, [2])
    assert [row["operation"] for row in canvas.log] == ["merge", "delete"]


def test_new_and_smaller_objects_are_found_without_telling():
    values = np.array([[1, 1, 0, 0, 2]], np.uint8)
    canvas = Canvas(values)
    values[0, 0] = 0
    values[0, 3] = 8
    assert canvas.window(1) == (slice(0, 1), slice(1, 2))
    assert canvas.area(8) == 1


def test_the_journal_tells_every_step(tmp_path):
    canvas = Canvas(np.array([[1, 2, 3]], np.uint8), journal=tmp_path / "j.jsonl", by="ada")
    corrections.merge(canvas, [1, 3])
    canvas.undo()
    corrections.fill_holes(canvas, 2)  # nothing to fill, nothing to tell
    rows = [json.loads(line) for line in (tmp_path / "j.jsonl").read_text().splitlines()]
    assert [(r["operation"], r["ids"], r["voxels"], r["by"]) for r in rows] == [
        ("merge", [1, 3], 1, "ada"), ("undo merge", [1, 3], 1, "ada")]
    assert rows == canvas.log


def test_the_oldest_steps_are_forgotten_when_memory_ends():
    values = np.zeros((64, 64), np.uint16)
    values[:, :32], values[:, 32:] = 1, np.random.default_rng(0).integers(2, 9, (64, 32))
    canvas = Canvas(values, memory=600)
    for i in (2, 3, 4, 5):
        corrections.delete(canvas, [i])
    taken = 0
    while canvas.undo():
        taken += 1
    assert 1 <= taken < 4


def test_labels_on_disk_are_edited_there(tmp_path):
    values = blobs(1, (6, 40, 40))
    array = zarr.create_array(tmp_path / "a.zarr", shape=values.shape, chunks=(2, 16, 16), dtype=values.dtype)
    array[...] = values
    canvas, twin = Canvas(array, (2, 1, 1)), Canvas(values, (2, 1, 1))
    one = twin.ids()[1]
    for act in (lambda c: corrections.grow(c, one, 2), lambda c: corrections.merge(c, c.ids()[:2]),
                lambda c: corrections.relabel(c, c.ids()[0], 77)):
        assert act(canvas) == act(twin)
        assert np.array_equal(zarr.open_array(tmp_path / "a.zarr", mode="r")[...], values)
    while canvas.undo():
        twin.undo()
    assert np.array_equal(zarr.open_array(tmp_path / "a.zarr", mode="r")[...], blobs(1, (6, 40, 40)))


def test_the_order_to_look_at_objects():
    canvas = Canvas(np.array([[1, 2, 2, 3, 3, 3, 9]], np.uint8))
    scores = {1: 0.9, 2: 0.1, 3: float("nan")}
    assert corrections.in_order(canvas, "score", scores) == [2, 1, 3, 9]
    walk = [0]
    for _ in range(5):
        walk.append(corrections.next_object(canvas, walk[-1], "score", scores))
    assert walk == [0, 2, 1, 3, 9, 2]
    assert corrections.next_object(canvas, 2, "score", scores, back=True) == 9


def test_ids_of_a_small_type_fill_gaps_and_end():
    values = np.zeros((1, 256), np.uint8)
    values[0, 1:] = np.arange(1, 256)
    canvas = Canvas(values)
    with pytest.raises(DataError, match="convert the labels to 32 bits"):
        canvas.new_ids()
    corrections.delete(canvas, [17])
    assert canvas.new_ids() == [17]


@pytest.mark.parametrize(("act", "kind", "said"), [
    (lambda c: corrections.merge(c, [1]), DataError, "two or more"),
    (lambda c: corrections.merge(c, [1, 5]), DataError, "no object 5"),
    (lambda c: corrections.delete(c, [5]), DataError, "one of the 2 there are: 1, 2"),
    (lambda c: corrections.relabel(c, 1, 2), DataError, "merge 1 with 2"),
    (lambda c: corrections.relabel(c, 1, 300), DataError, "1 to 255"),
    (lambda c: corrections.split_points(c, 1, [(0, 0), (0, 2)]), DataError, "the background"),
    (lambda c: corrections.split_points(c, 1, [(0, 0), (0, 0)]), DataError, "one per part"),
    (lambda c: corrections.split_line(c, 1, [(0, 0)]), DataError, "two or more points"),
    (lambda c: corrections.grow(c, 1, 0), OptionError, "more than 0"),
    (lambda c: corrections.in_order(c, "size"), OptionError, "score, id, area"),
])
def test_what_cannot_be_done_is_refused_and_changes_nothing(act, kind, said):
    values = np.array([[1, 1, 0, 2]], np.uint8)
    canvas = Canvas(values)
    with pytest.raises(kind, match=said):
        act(canvas)
    assert values.tolist() == [[1, 1, 0, 2]]
    assert canvas.undo() is None


@pytest.mark.parametrize("array", [np.zeros((2, 2), bool), np.zeros((2, 2)), np.zeros((1, 1, 2, 2), int)])
def test_arrays_that_are_no_labels_are_refused(array):
    with pytest.raises(DataError, match="whole numbers"):
        Canvas(array)
