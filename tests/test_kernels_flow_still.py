"""Voxels without flow are one tree where they touch: an object that flows nowhere costs no more than others."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage

from biosegkit.kernels import flow_trace
from biosegkit.kernels.distance_flow import distance_flow
from biosegkit.kernels.flow_paths import EXIT, path_ends
from biosegkit.kernels.flow_trace import flow_fragments, quantise_flow
from biosegkit.methods import METHODS, Block, Flow, decode
from biosegkit.methods.flow_decoding import graph_of

WHOLE = {"plane": (40, 52), "volume": (12, 20, 24), "one row": (1, 30)}


def states(method, maps, shape, cuts=()):
    """States of the whole image, or of the blocks between cuts along the last axis."""
    ends = [0, *cuts, shape[-1]]
    made = []
    for low, high in pairwise(ends):
        block = Block.cut((0,) * (len(shape) - 1) + (low,), (*shape[:-1], high - low), shape, halo=method.halo)
        around = slice(low - block.before[-1], high + block.after[-1])
        made.append(method.local({name: m[..., around] for name, m in maps.items()}, block))
    return made


@pytest.mark.parametrize("shape", WHOLE.values(), ids=WHOLE)
def test_an_object_without_a_border_is_one_tree(shape):
    method = METHODS["flow_eikonal"]()
    targets, _ = method.encode(np.full(shape, 7), (1.0,) * len(shape))
    assert not targets["flow"].any()  # no border is in sight anywhere
    state, = states(method, method.ideal(targets), shape)
    assert len(state.arrays["first"]) == 1
    assert len(state.arrays["edges"]) == len(state.arrays["links"]) == 0  # nothing is left to be merged
    found, table = decode(method, method.ideal(targets))
    assert (found == 1).all()
    assert table["area"].tolist() == [np.prod(shape)]


@pytest.mark.parametrize("shape", WHOLE.values(), ids=WHOLE)
def test_cut_into_blocks_it_is_a_tree_per_block_that_lead_on(shape):
    method = METHODS["flow_eikonal"]()
    maps = method.ideal(method.encode(np.ones(shape, int), (1.0,) * len(shape))[0])
    parts = states(method, maps, shape, (5, 6, 17))
    lines = int(np.prod(shape[:-1]))  # what leaves a block does so row by row
    assert [len(part.arrays["first"]) for part in parts] == [1, lines, lines, lines]
    assert graph_of(parts).count == 1
    assert len(method.resolve(parts).objects["id"]) == 1


@pytest.mark.parametrize("space", ["plane", "volume"])
def test_paths_of_still_voxels_lead_to_the_still_neighbour_in_front(space):
    """By a plain loop: along the last axis if it has no flow there, else the middle, else the first, else nowhere."""
    shape = (1, 15, 18) if space == "plane" else (6, 9, 10)
    rng = np.random.default_rng(4)
    flow = quantise_flow(np.where(rng.random(shape) < 0.7, 0.0, rng.choice([-0.6, 0.6], (3, *shape))))
    flow[0] *= space == "volume"
    foreground = rng.choice([0, 900], shape, p=[0.2, 0.8]).astype(np.uint16)
    before, core = (np.array([0, 3, 4]), np.array([1, 10, 11])) if space == "plane" else (
        np.array([3, 0, 3]), np.array([3, 6, 7]))
    full = np.array([30, 40, 50])
    ends = path_ends(flow, foreground, (9, 2, (1.0, 1.0, 1.0)), (before, before + 2, full), core)
    still = (foreground > 9) & ~flow.any(axis=0)
    checked = 0
    for spot in np.ndindex(*core):
        at = np.array(spot) + before
        if not still[tuple(at)]:
            continue
        to = at
        for axis in (2, 1, 0):
            front = at - np.eye(3, dtype=int)[axis]
            if front.min() >= 0 and still[tuple(front)]:
                to = front
                break
        inner = to - before
        inside = (inner >= 0).all() and (inner < core).all()
        expected = np.ravel_multi_index(tuple(inner), tuple(core)) if inside else (
            EXIT - np.ravel_multi_index(tuple(inner + before + 2), tuple(full)))
        assert ends[spot] == expected
        checked += 1
    assert checked > 40


@pytest.mark.parametrize("shape", [(40, 52), (12, 20, 24)])
@pytest.mark.parametrize("cuts", [(), (9, 30)])
def test_without_any_flow_objects_are_what_hangs_together(shape, cuts):
    """Whatever its form: holes, bays and spirals have several trees, which nothing parts."""
    cuts = tuple(c for c in cuts if c < shape[-1])
    smooth = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal(shape), 1.2)
    inside = smooth > 0
    expected, count = ndimage.label(inside)
    maps = {"foreground": inside[None].astype(np.float32), "flow": np.zeros((len(shape), *shape), np.float32)}
    method = Flow()
    parts = states(method, maps, shape, cuts)
    decided = method.resolve(parts, {"min_size": 1})
    found = np.concatenate([method.paint(part, decided)[0] for part in parts], axis=-1)
    assert count > 3
    pairs = set(zip(found.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert len(pairs) == count + 1
    assert len(parts[0].arrays["first"]) < inside.sum() / 4  # far fewer trees than voxels


@pytest.mark.parametrize("name", ["flow", "flow_eikonal"])
def test_an_object_without_a_border_comes_back_from_a_noisy_network(name):
    """Small components that cancel nothing: many trees, one object."""
    method, shape = METHODS[name](), (24, 32, 32)
    maps = method.ideal(method.encode(np.ones(shape, int), (1.0,) * 3)[0])
    maps["flow"] = maps["flow"] + 0.02 * np.random.default_rng(0).standard_normal(maps["flow"].shape, np.float32)
    _, table = decode(method, maps, {"flow_error": 4.0})
    assert table["area"].max() > 0.99 * np.prod(shape)


def test_faces_of_a_pair_of_trees_are_one_row_however_many_trees_there_are():
    """A box with a border flows to its middle plane, a tree per column; its rows would else be as many as faces."""
    shape = (26, 60, 56)
    ids = np.pad(np.ones([n - 2 for n in shape], np.int32), 1)
    flow, foreground = quantise_flow(distance_flow(ids)), np.where(ids > 0, 900, 0).astype(np.uint16)
    zero, whole = np.zeros(3, np.int64), np.array(shape)
    trees = flow_fragments(flow, foreground, 0, (zero, shape, zero, shape), (1.0, 1.0, 1.0), 2)
    rows = flow_trace._faces(flow, foreground, 0, (zero, zero, whole), trees.fragment)
    assert len(trees.first) > 350  # more than there is room for at first, with their pairs
    assert len(rows) > flow_trace._PLACES // 2
    assert len(rows) == len(np.unique(rows[:, [0, 1, 5]], axis=0))
    by_hand = {}
    for axis in range(3):
        front, back = (np.moveaxis(trees.fragment, axis, 0)[part] for part in (np.s_[:-1], np.s_[1:]))
        for a, b in zip(front.ravel().tolist(), back.ravel().tolist(), strict=True):
            if a != b and min(a, b) >= 0:
                by_hand[min(a, b), max(a, b)] = by_hand.get((min(a, b), max(a, b)), 0) + (900 >> 8)
    assert {(a, b): weight for a, b, _, weight, _, _ in rows.tolist()} == by_hand
