"""Progress: one tick per tile, none that costs where nobody watches, and a cancel that acts within one tile."""

from __future__ import annotations

import threading

import pytest
from stub_models import Bands, Context, image, segmenter, stub_plan

from biosegkit.errors import Cancelled
from biosegkit.lattice import Lattice
from biosegkit.progress import counted, tick, watched


def test_every_tile_is_told_and_the_labels_are_the_same():
    model, picture = segmenter(Context(), stub_plan(3)), image((12, 20, 9))
    tiles = len(Lattice((12, 20, 9), (8, 8, 8), (4, 4, 4)))
    seen = []
    with watched(lambda *said: seen.append(said)):
        watched_labels = model.predict(picture).labels.array
    assert seen == [(k, tiles, "tiles") for k in range(tiles + 1)]
    assert (model.predict(picture).labels.array == watched_labels).all()
    assert len(seen) == tiles + 1, "nobody watches any more"


def test_a_cancel_acts_before_the_next_tile():
    network = Bands()
    model = segmenter(network, stub_plan(3))

    def stop_at_the_third(done, total, stage):
        if done == 2:
            raise Cancelled("a click on Cancel")

    with pytest.raises(Cancelled), watched(stop_at_the_third):
        model.predict(image((12, 20, 9)))
    assert network.calls == 2
    assert model.predict(image((8, 8, 8))).labels.array.shape == (8, 8, 8), "the model can be used again"


def test_threads_do_not_hear_each_other():
    mine, theirs = [], []

    def other():
        tick(1, 1, "unheard")
        with watched(lambda *said: theirs.append(said)):
            tick(1, 2, "other")

    with watched(lambda *said: mine.append(said)):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        tick(1, 3, "own")
    assert (mine, theirs) == ([(1, 3, "own")], [(1, 2, "other")])


def test_the_last_of_several_tiles_at_once_is_not_counted_twice():
    seen = []
    with watched(lambda done, total, stage: seen.append((done, total))):
        assert list(counted("abc", 5, "tiles", each=2)) == ["a", "b", "c"]
    assert seen == [(0, 5), (2, 5), (4, 5), (5, 5)]
