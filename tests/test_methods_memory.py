"""What every method takes beside its own maps, in label images of 4 bytes per pixel."""

import tracemalloc

import numpy as np
import pytest

from biosegkit.methods import METHODS, Block

OBJECTS = [name for name in METHODS if name != "semantic"]
LIMIT = 3.0


def discs(size):
    """Discs of radius 9 on a lattice, half of them touching the next."""
    labels = np.zeros((size, size), np.int32)
    y, x = np.ogrid[:size, :size]
    for k, (i, j) in enumerate(np.ndindex(size // 24, size // 24), 1):
        away = (y - 12 - 24 * i) ** 2 + (x - 12 - 24 * j + 5 * (j % 2)) ** 2
        labels[(away <= 81) & (labels == 0)] = k
    return labels


def held(parts):
    """Bytes of the arrays of dicts; one that is there twice counts once."""
    return sum({id(a): a.nbytes for part in parts for a in part.values()}.values())


def traced(job):
    """What a call returns, and by how many bytes it lets the arrays grow on the way."""
    tracemalloc.start()
    try:
        result = job()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", OBJECTS)
def test_targets_and_objects_take_three_label_images_at_most(name):
    method, spacing = METHODS[name](), (1.0, 1.0)
    for size in (48, 552):  # the first compiles, and is lost in tables
        labels = discs(size)
        known = np.ones(labels.shape, bool)
        known[: size // 8] = known[::37, ::41] = False
        shares = {}
        for step, valid in (("unknown", known), ("encode", None)):
            targets, peak = traced(lambda valid=valid: method.encode(labels, spacing, valid))  # noqa: B023
            shares[step] = (peak - held(targets)) / labels.nbytes
        maps = {key: np.ascontiguousarray(values) for key, values in method.ideal(targets[0]).items()}
        block = Block.whole(labels.shape, spacing)

        def decoded():
            state = method.local(maps, block)  # noqa: B023
            return state, method.paint(state, method.resolve([state]))

        (state, (found, _)), peak = traced(decoded)
        shares["decode"] = (peak - held([state.arrays])) / labels.nbytes
    assert found.max() == labels.max()
    assert found.nbytes == labels.nbytes
    assert {step: share for step, share in shares.items() if share > LIMIT} == {}
    assert shares["decode"] > 0.9  # the labels themselves: it does measure


@pytest.mark.parametrize("name", ["flow", "flow_eikonal"])
@pytest.mark.parametrize("shape", [(300, 310), (24, 60, 64)])
def test_an_object_without_a_border_takes_no_more(name, shape):
    """Without the check of flows, which looks at a part of a large object, and at all of one of this size."""
    method = METHODS[name]()
    for size in ((8,) * len(shape), shape):
        labels = np.ones(size, np.int32)
        targets, _ = method.encode(labels, (1.0,) * labels.ndim)
        maps = {key: np.ascontiguousarray(values) for key, values in method.ideal(targets).items()}

        def decoded():
            state = method.local(maps, Block.whole(maps["flow"].shape[1:], ()))  # noqa: B023
            return state, method.paint(state, method.resolve([state], {"flow_error": 4.0}))

        (state, (found, _)), peak = traced(decoded)
    assert (found == 1).all()
    assert 0.9 < (peak - held([state.arrays])) / labels.nbytes < LIMIT
