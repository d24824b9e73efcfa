"""Correct and what goes on beside it: other layers and time points, strokes of the brush, labels that take long."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from biosegkit.errors import DataError


class Gate:
    """Lets a function in a thread begin, and end only when it may."""

    def __init__(self, function):
        self.function, self.open, self.calls = function, threading.Event(), []

    def __call__(self, *arguments, **options):
        self.calls.append(arguments)
        found = self.function(*arguments, **options)
        self.open.wait(60)
        return found


@pytest.fixture
def gate(monkeypatch):
    """Holds a function of `edits` back until it is opened."""
    from biosegkit_napari import edits

    made = []

    def close(name):
        made.append(Gate(getattr(edits, name)))
        monkeypatch.setattr(edits, name, made[-1])
        return made[-1]

    yield close
    for one in made:
        one.open.set()


@pytest.fixture
def correct(model, spin):
    """Correct, opened and closed as often as is asked for."""
    from biosegkit_napari.correct import CorrectWidget

    made = []

    def open_dock(wait=True):
        made.append(CorrectWidget(model))
        if wait:
            spin(lambda: made[-1].session is not None and made[-1]._task is None)
        return made[-1]

    yield open_dock
    for widget in made:
        widget.close()
        widget.deleteLater()


def blobs(*ids, dtype=np.uint8, shape=(20, 30)):
    values = np.zeros(shape, dtype)
    for k, number in enumerate(ids):
        values[2 + 6 * k : 7 + 6 * k, 3:20] = number
    return values


def threads_of():
    """Threads of the plugin that are at work."""
    return [one for one in threading.enumerate() if one.name.startswith("biosegkit")]


def drag(layer, points):
    """As with the mouse: one stroke, one event of napari."""
    with layer.block_history():
        for point in points:
            layer.paint(point, layer.selected_label)


@pytest.mark.parametrize("moves", ["B", "BA", "BABA"])
def test_listings_of_layers_that_were_left_are_put_nowhere(model, correct, spin, gate, moves):
    first, second = blobs(1), blobs(7, 9)
    layers = {"A": model.add_labels(first.copy(), name="A"), "B": model.add_labels(second.copy(), name="B")}
    closed = gate("readied")
    made = correct(wait=False)
    made.layer.layer = layers["A"]
    for name in moves:
        made.layer.layer = layers[name]
    closed.open.set()
    spin(lambda: made.session is not None and made._task is None and not threads_of())
    calls, end = len(closed.calls), time.monotonic() + 0.1
    spin(lambda: time.monotonic() > end and made._task is None)
    assert len(closed.calls) == calls <= len(moves) + 2, "it comes to rest"
    np.testing.assert_array_equal(layers["A"].data, first)
    np.testing.assert_array_equal(layers["B"].data, second)
    assert made.session.data is layers[moves[-1]].data
    assert made.session.canvas.ids() == ([1] if moves[-1] == "A" else [7, 9])
    assert all(layer.editable for layer in layers.values())


@pytest.mark.parametrize("back", [False, True])
def test_a_step_that_ends_after_another_layer_was_chosen_is_of_its_own_layer(model, correct, spin, gate, back):
    layer, other = model.add_labels(blobs(1, 2), name="A"), model.add_labels(blobs(1, 7), name="B")
    made = correct()
    made.layer.layer = layer
    spin(lambda: made.session is not None and made._task is None)
    made.session.pick(1)
    drawn = []
    layer.events.set_data.connect(drawn.append)
    closed = gate("act")
    made.act("delete")
    spin(lambda: closed.calls)
    session = made.session
    made.layer.layer = other
    spin(lambda: made.session is not None and made.session is not session and made._task is None)
    made.session.pick(1)
    if back:
        made.layer.layer = layer
        assert made.session is None
    drawn.clear()
    assert not layer.editable, "it is being changed"
    closed.open.set()
    spin(lambda: layer.editable and made.session is not None and made._task is None)
    assert 1 not in layer.data
    assert drawn, "what was changed is seen"
    assert [row["operation"] for row in layer.metadata["corrections"]] == ["delete"]
    if back:
        assert made.session.data is layer.data
        assert made.session.canvas.ids() == [2]
    else:
        assert (made.session.data is other.data, made.session.picked) == (True, [1])
        assert 1 in other.data
        assert other.metadata["corrections"] == []


def test_what_was_done_is_remembered_when_a_layer_is_left_and_the_dock_closed(model, correct, spin):
    layer, other = model.add_labels(blobs(1, 2, 3)), model.add_labels(blobs(5))
    made = correct()
    for number in (1, 2):
        made.layer.layer = layer
        spin(lambda: made.session is not None and made._task is None)
        made.session.pick(number)
        made.act("delete")
        spin(lambda: made._task is None)
        made.layer.layer = other
        spin(lambda: made.session is not None and made._task is None)
    assert [row["ids"] for row in layer.metadata["corrections"]] == [[1], [2]]
    assert other.metadata["corrections"] == []
    model.layers.remove(other)
    made.close()
    made._release()
    made = correct()
    made.session.pick(3)
    made.act("delete")
    spin(lambda: made._task is None)
    assert [row["ids"] for row in layer.metadata["corrections"]] == [[1], [2], [3]]
    made.make_editable()
    spin(lambda: len(model.layers) == 2 and made.session is not None and made._task is None)
    copy = model.layers[-1]
    assert [row["ids"] for row in copy.metadata["corrections"]] == [[1], [2], [3]]
    drag(copy, [(0, 0)])
    assert len(copy.metadata["corrections"]) == 4
    assert len(layer.metadata["corrections"]) == 3, "each has its own from then on"


def test_every_time_point_has_its_own_history(model, correct, spin):
    film = np.stack([blobs(1, 2, dtype=np.uint32), blobs(4, 5, 6, dtype=np.uint32)])
    layer = model.add_labels(film, axis_labels=("t", "y", "x"))
    model.dims.set_point(0, 0)
    made = correct()

    def at(time):
        model.dims.set_point(0, time)
        spin(lambda: made._task is None and made.session is not None and made.session.number == time)
        return [row["ids"] for row in layer.metadata["corrections"]]

    for time_point, number in ((0, 1), (1, 4)):
        assert at(time_point) == []
        made.session.pick(number)
        made.act("delete")
        spin(lambda: made._task is None)
    made.close()
    made._release()
    made = correct()
    assert at(1) == [[4]]
    assert at(0) == [[1]]
    made.session.pick(2)
    made.act("delete")
    spin(lambda: made._task is None)
    assert at(1) == [[4]]
    assert at(0) == [[1], [2]]
    copy = {key: value for key, value in layer.metadata.items() if key != "corrections"}  # as Tune begins anew
    model.layers.remove(layer)
    layer = model.add_labels(film, axis_labels=("t", "y", "x"), metadata=copy)
    spin(lambda: made.session is not None and made._task is None)
    assert at(1) == at(0) == []


def test_a_time_point_that_cannot_be_listed_is_tried_once_each_time_it_is_shown(model, correct, spin, monkeypatch):
    from biosegkit_napari import edits

    readied, tries = edits.readied, []

    def readied_but_at_one(data, spacing, features, journal, at, before):
        tries.append(at[1])
        if at[1] == 1 and len(tries) < 4:
            raise DataError("a part that cannot be read", file="film.zarr", expected="a chunk", remedy="copy it anew")
        return readied(data, spacing, features, journal, at, before)

    monkeypatch.setattr(edits, "readied", readied_but_at_one)
    film = np.stack([blobs(1, 2, dtype=np.uint32), blobs(4, 5, dtype=np.uint32)])
    layer = model.add_labels(film.copy(), axis_labels=("t", "y", "x"))
    model.dims.set_point(0, 0)
    made = correct()

    def at(number, wanted):
        model.dims.set_point(0, number)
        end = time.monotonic() + 0.2
        spin(lambda: time.monotonic() > end and made._task is None)
        assert tries == wanted

    for wanted in ([0, 1], [0, 1, 1]):
        at(1, wanted)
        assert "copy it anew" in made.said.text()
        made.session.pick(1)
        made.act("delete")  # of the time point before, which is not in sight
        at(0, wanted)
    np.testing.assert_array_equal(layer.data, film)
    made.session.pick(2)
    made.act("delete")
    spin(lambda: made._task is None)
    assert (layer.data[0] == 2).sum() == 0 < (film[0] == 2).sum()
    at(1, [0, 1, 1, 1])
    assert made.session.canvas.ids() == [4, 5]


def test_a_drag_of_the_brush_is_one_step(model, correct, spin):
    values = blobs(1, 2)
    layer = model.add_labels(values)
    made = correct()
    layer.selected_label, layer.brush_size = 2, 5
    for _ in range(2):
        drag(layer, [(k, 2 * k) for k in range(12)])
        painted = layer.data.copy()
        assert (painted != values).sum() > 100
        assert [row["operation"] for row in made.session.canvas.log][-1] == "paint"
        assert made.session.canvas.area(2) == (painted == 2).sum()
        made.act("undo")
        spin(lambda: made._task is None)
        np.testing.assert_array_equal(layer.data, values)
    assert len(made.session.canvas.log) == 4
    made.act("redo")
    spin(lambda: made._task is None)
    np.testing.assert_array_equal(layer.data, painted)


def test_indices_of_older_versions_are_a_stroke_as_well(model, correct, spin):
    values = blobs(1, 2)
    layer = model.add_labels(values)
    made = correct()
    layer.data_setitem((np.array([3, 3, 9, 0]), np.array([4, 5, 4, 0])), np.array([8, 9, 8, 9]))
    assert [made.session.canvas.area(i) for i in (1, 2, 8, 9)] == [83, 84, 2, 2]
    made.act("undo")
    spin(lambda: made._task is None)
    np.testing.assert_array_equal(layer.data, values)


def test_a_drag_through_time_is_a_step_of_the_time_that_is_shown(model, correct, spin):
    layer = model.add_labels(np.zeros((3, 9, 9), np.uint32), axis_labels=("t", "y", "x"))
    model.dims.set_point(0, 1)
    made = correct()
    layer.n_edit_dimensions, layer.brush_size, layer.selected_label = 3, 3, 4
    drag(layer, [(1, 4, 4), (1, 4, 6)])
    assert (layer.data[0] == 4).any()
    assert made.session.canvas.area(4) == (layer.data[1] == 4).sum()
    made.act("undo")
    spin(lambda: made._task is None)
    assert not layer.data[1].any()
    assert layer.data[0].any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_no_stroke_is_lost_while_objects_are_listed(model, correct, spin, gate, dtype):
    layer = model.add_labels(blobs(1, dtype=dtype))
    layer.mode = "paint"
    closed = gate("readied")
    made = correct(wait=False)
    assert (layer.editable, layer.mode) == (False, "pan_zoom"), "a drag would move the view"
    assert "after that" in made.said.text()
    spin(lambda: closed.calls)
    drag(layer, [(15, k) for k in range(5, 20)])  # a script does not ask
    painted = layer.data.copy()
    assert (painted[15] == 1).any()
    closed.open.set()
    spin(lambda: made.session is not None and made._task is None)
    np.testing.assert_array_equal(layer.data, painted)
    assert made.session.canvas.area(1) == (painted == 1).sum()
    assert layer.data.dtype == np.uint32
    assert layer.editable


def refuse(*_):
    raise DataError("labels that cannot be read")


@pytest.mark.parametrize("end", ["another layer", "no layer", "failure", "closed"])
def test_a_layer_can_be_painted_on_again_however_the_listing_ends(model, correct, spin, gate, end):
    layer, other = model.add_labels(blobs(1)), model.add_labels(blobs(2))
    layer.mode = "paint"
    closed = gate("readied")
    if end == "failure":
        closed.function = refuse
    made = correct(wait=False)
    made.layer.layer = layer
    assert not layer.editable
    if end == "another layer":
        made.layer.layer = other
    elif end == "no layer":
        model.layers.clear()
    elif end == "closed":
        made._release()
    closed.open.set()
    spin(lambda: made._task is None and not threads_of())
    assert (layer.editable, layer.mode) == (True, "paint")


def test_the_brush_stays_from_one_time_point_to_the_next(model, correct, spin):
    layer = model.add_labels(np.stack([blobs(1), blobs(2), blobs(3)]), axis_labels=("t", "y", "x"))
    model.dims.set_point(0, 0)
    made = correct()
    layer.mode = "paint"
    for time_point in (1, 2, 1, 0):
        drag(layer, [(made.session.number, 0, 0)])  # so that its session is kept
        model.dims.set_point(0, time_point)
        spin(lambda: made._task is None and made.session.number == time_point)  # noqa: B023 - called at once
        assert (layer.mode, layer.editable) == ("paint", True)
    made.session.pick(1)
    made.act("grow")
    spin(lambda: made._task is None)
    assert layer.mode == "paint", "and after a step"
    made.use("pick")
    assert layer.mode == "pan_zoom"


class Slow:
    """An array that takes long to read, and tells in which thread it was."""

    def __init__(self, array):
        self.array, self.shape, self.ndim, self.dtype, self.threads = array, array.shape, array.ndim, array.dtype, []

    def __getitem__(self, key):
        self.threads.append(threading.current_thread())
        return self.array[key]

    def __setitem__(self, key, value):
        self.array[key] = value


def test_objects_are_looked_for_in_a_thread_and_the_last_wish_is_shown(model, correct, spin):
    values = np.zeros((40, 20, 30), np.uint32)
    values[2:9, 3:9, 3:9], values[20:37, 12:18, 12:18] = 1, 2
    layer = model.add_labels(values, axis_labels=("z", "y", "x"))
    made = correct()
    slow = made.session.canvas.array = Slow(values)
    for _ in range(3):
        made.go()
    assert made.session.picked == [1], "around once"
    assert layer.selected_label == 1
    assert slow.threads == [] or threading.main_thread() not in slow.threads
    made.go()
    spin(lambda: not made._finding.busy)
    assert threading.main_thread() not in slow.threads
    assert values[model.dims.current_step[0]].max() == 2
    assert 20 <= model.dims.current_step[0] < 37
    made._release()  # what is found for labels that were left moves nothing
    model.dims.set_point(0, 0)
    made._on_place_found((object(), (5.0, 5.0, 5.0)))
    assert model.dims.current_step[0] == 0


def test_next_among_a_million_objects_takes_a_moment(model, correct, spin):
    number = np.arange(1, 10**6 + 1, dtype=np.uint32).reshape(1000, 1000)
    values = np.zeros((2000, 2000), np.uint32)
    values[::2, ::2] = number
    scores = np.random.default_rng(0).random(10**6)
    layer = model.add_labels(values, features={"index": number.ravel(), "score": scores})
    made = correct()
    made.order.setCurrentText("score")
    taken = []
    for order in ("score", "score", "id", "area"):
        made.order.setCurrentText(order)
        begun = time.perf_counter()
        made.session.next(order)
        taken.append(time.perf_counter() - begun)
        if len(taken) == 1:
            assert made.session.picked == [scores.argmin() + 1]
    assert max(taken) < 0.2, "0.01 s on a machine at rest, 0.5 s and more with a loop over all"
    assert layer.data is made.session.data
