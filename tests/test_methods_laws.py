"""What holds for every method in `METHODS` that finds objects, above the limits that it states itself."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biosegkit.kernels.distance import boundary_distance, object_max
from biosegkit.kernels.overlap import overlap_counts
from biosegkit.methods import METHODS, Block, decode, oracle
from biosegkit.metrics.instances import instance_counts
from biosegkit.plan.losses import LOSSES
from biosegkit.plan.objective import Objective

OBJECTS = [name for name in METHODS if name != "semantic"]
SPACES = {"2d": ((44, 48), (1.0, 1.0)), "3d": ((14, 20, 22), (1.0, 1.0, 1.0)), "thick": ((9, 28, 30), (4.0, 1.0, 1.0)),
          "unit": ((40, 44), (0.25, 0.25))}
every = pytest.mark.parametrize("name", OBJECTS)
everywhere = pytest.mark.parametrize("space", SPACES)
quick = settings(max_examples=6, deadline=None, derandomize=True)


def cells(seed, shape, spacing, smallest, count=9):
    """Balls that press against each other (every voxel goes to the ball it lies deepest in), with ids of up to 2³¹.

    What is left of a ball is dropped where it is nowhere ``smallest`` voxels thick.
    """
    rng = np.random.default_rng([seed, 7])
    grid = np.ogrid[tuple(slice(0, n) for n in shape)]
    depth, labels = np.zeros(shape), np.zeros(shape, np.uint32)
    unit = min(spacing)
    for number in rng.permutation(rng.integers(1, 2**31, count, dtype=np.uint32)):
        centre = rng.uniform(0, shape)
        radius = unit * rng.uniform(max(3.0, smallest / 2), 9.0 + smallest / 2)
        power = sum(((g - c) * s) ** 2 for g, c, s in zip(grid, centre, spacing, strict=True)) - radius**2
        labels[power < depth] = number
        depth = np.minimum(depth, power)
    _, thickness, dense = object_max(labels, boundary_distance(labels))
    keep = np.concatenate([[False], 2 * thickness - 1 >= smallest])
    return np.where(keep[dense], labels, 0).astype(np.uint32)


def drawn(seed, method, space):
    shape, spacing = SPACES[space]
    return cells(seed, shape, spacing, method.requirements([]).min_object_px), spacing


def ideal(method, labels, spacing, valid=None):
    return method.ideal(method.encode(labels, spacing, valid)[0])


def same_share(a, b):
    """Share of the objects of either image that have a partner with an IoU of at least 0.95 in the other."""
    shares = []
    for one, two in ((a, b), (b, a)):
        overlaps = overlap_counts(one, two)
        best = np.zeros(overlaps.ids_a.size)
        np.maximum.at(best, overlaps.indexed()[0], overlaps.iou())
        shares.append(float((best >= 0.95).mean()) if best.size else 1.0)
    return min(shares)


def assert_same_objects(a, b, lost=0):
    """As many objects, each with its partner; voxels midway between two peaks may go to either."""
    assert abs(int(a.max()) - int(b.max())) <= lost
    assert (overlap_counts(a, b).iou() > 0.5).sum() >= max(a.max(), b.max()) - lost


@every
@everywhere
def test_decode_of_encode_is_the_objects(name, space):
    """Pooled over random images; a few of the hundred objects have odd shapes, as others were pressed into them."""
    method, total = METHODS[name](), None
    for seed in range(12):
        labels, spacing = drawn(seed, method, space)
        decoded, _ = decode(method, ideal(method, labels, spacing), spacing=spacing)
        counts = instance_counts(labels, decoded, thresholds=(0.5, 0.75))
        total = counts if total is None else total + counts
    assert total.ap(0.5) >= (0.87 if space == "thick" else 0.93)
    assert total.ap(0.75) >= 0.75


@every
@everywhere
@quick
@given(seed=st.integers(0, 2**32 - 1))
def test_ids_do_not_matter_and_those_found_count_in_raster_order(name, space, seed):
    method = METHODS[name]()
    labels, spacing = drawn(seed, method, space)
    ids = np.unique(labels[labels > 0])
    rng = np.random.default_rng(seed)
    others = np.concatenate([[0], rng.permutation(2**31 - 1 - np.arange(len(ids)) * 7)]).astype(np.int64)
    renamed = others[np.searchsorted(ids, labels) + (labels > 0)]
    one, two = method.encode(labels, spacing, None), method.encode(renamed, spacing, None)
    for a, b in zip(one, two, strict=True):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)
    decoded, table = decode(method, method.ideal(one[0]), spacing=spacing)
    firsts = [int(np.flatnonzero(decoded == k)[0]) for k in range(1, int(decoded.max()) + 1)]
    assert firsts == sorted(firsts) == table["first"].tolist()


@every
@everywhere
@quick
@given(seed=st.integers(0, 2**32 - 1))
def test_flips_commute_with_encoding_and_decoding(name, space, seed):
    method = METHODS[name]()
    labels, spacing = drawn(seed, method, space)
    maps = ideal(method, labels, spacing)
    ndim = labels.ndim
    axes = [k for k in range(ndim) if (seed >> k) % 2] or [ndim - 1]
    flipped = ideal(method, np.ascontiguousarray(np.flip(labels, axes)), spacing)
    mirrored = method.mirror(maps, axes)
    assert set(mirrored) == set(flipped)
    for key, values in mirrored.items():
        np.testing.assert_allclose(values, flipped[key], rtol=1e-4, atol=1e-4, err_msg=key)
    twice = method.mirror(mirrored, axes)
    for key, values in maps.items():
        np.testing.assert_array_equal(twice[key], values, err_msg=key)
    there = decode(method, {k: np.ascontiguousarray(v) for k, v in mirrored.items()}, spacing=spacing)[0]
    assert_same_objects(np.flip(there, axes), decode(method, maps, spacing=spacing)[0])


@every
@pytest.mark.parametrize("space", ["2d", "3d", "unit"])
@quick
@given(seed=st.integers(0, 2**32 - 1), turns=st.integers(1, 3))
def test_quarter_turns_change_neither_maps_without_direction_nor_objects(name, space, seed, turns):
    method = METHODS[name]()
    labels, spacing = drawn(seed, method, space)
    turned = np.ascontiguousarray(np.rot90(labels, turns, (-2, -1)))
    one, two = ideal(method, labels, spacing), ideal(method, turned, spacing)
    for head in method.heads(labels.ndim):
        if head.channels == 1:
            apart = np.abs(np.rot90(one[head.name], turns, (-2, -1)) - two[head.name])
            assert apart.max() < 0.05
            assert (apart > 1e-4).mean() < 0.02
    again = np.rot90(decode(method, two, spacing=spacing)[0], -turns, (-2, -1))
    # rays of a sphere are other rays after a turn: one small object may be lost
    assert_same_objects(again, decode(method, one, spacing=spacing)[0], lost=int(name == "star"))


@every
@everywhere
def test_nothing_and_one_object_that_fills_the_image(name, space):
    method, (shape, spacing) = METHODS[name](), SPACES[space]
    empty = np.zeros(shape, np.uint8)
    decoded, table = decode(method, ideal(method, empty, spacing), spacing=spacing)
    assert decoded.shape == shape
    assert not decoded.any()
    assert all(len(column) == 0 for column in table.values())
    full = np.full(shape, 2**31 - 1, np.int64)
    assert oracle(method, full, spacing)["ap75"] == 1.0
    nothing = np.zeros(shape, bool)
    _, weights = method.encode(full, spacing, nothing)
    assert all(not w.any() for w in weights.values())


@every
@everywhere
@quick
@given(seed=st.integers(0, 2**32 - 1))
def test_what_is_ignored_teaches_nothing_and_does_not_matter(name, space, seed):
    method = METHODS[name]()
    labels, spacing = drawn(seed, method, space)
    rng = np.random.default_rng([seed, 1])
    valid = rng.random(labels.shape) > 0.02
    valid[tuple(slice(0, int(rng.integers(1, n // 3))) for n in labels.shape)] = False
    targets, weights = method.encode(labels, spacing, valid)
    for key, weight in weights.items():
        space_of = np.broadcast_to(~valid, weight.shape)
        assert (weight[space_of] == 0).all(), key
        assert (weight >= 0).all()
        assert weight.any()
    other = np.where(valid, labels.astype(np.int64), rng.integers(-5, 2**31 - 1, labels.shape))
    for a, b in zip((targets, weights), method.encode(other, spacing, valid), strict=True):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


@every
@pytest.mark.parametrize("space", ["2d", "3d"])
@quick
@given(seed=st.integers(0, 2**32 - 1))
def test_what_is_learnt_near_ignored_voxels_would_be_the_same_without_them(name, space, seed):
    """Targets that something unknown could change have no weight: hide a part, and those left must not move."""
    method = METHODS[name]()
    labels, spacing = drawn(seed, method, space)
    rng = np.random.default_rng([seed, 2])
    valid = np.ones(labels.shape, bool)
    start = [int(rng.integers(0, n - 4)) for n in labels.shape]
    valid[tuple(slice(s, s + int(rng.integers(2, 8))) for s in start)] = False
    whole, _ = method.encode(labels, spacing, None)
    targets, weights = method.encode(labels, spacing, valid)
    for head in method.heads(labels.ndim):
        a, b = whole[head.name], targets[head.name]
        learnt = np.broadcast_to(weights[head.name] > 0, b.shape)
        if name in HONEST:
            np.testing.assert_allclose(a[learnt], b[learnt], atol=0.05, err_msg=head.name)
        np.testing.assert_array_equal(np.isfinite(b[learnt]), True)


#: Methods that leave out what unknown voxels could change; the others take a part cut off for the whole.
HONEST = ("signed_distance", "boundary", "hv")


@pytest.mark.parametrize("name", [*OBJECTS, "star merged"])
@everywhere
@quick
@given(seed=st.integers(0, 2**32 - 1))
def test_blocks_give_what_the_whole_image_gives(name, space, seed):
    method = METHODS["star"](merge=True, n_rays=16) if name == "star merged" else METHODS[name]()
    labels, spacing = drawn(seed, method, space)
    rng = np.random.default_rng([seed, 3])
    maps = {k: v + rng.normal(0, 0.05, v.shape).astype(np.float32) for k, v in ideal(method, labels, spacing).items()}
    whole, table = decode(method, maps, spacing=spacing)
    shape = labels.shape
    cuts = [sorted({0, *rng.integers(3, n, 2).tolist()}) for n in shape]
    places = [list(zip(c, [*c[1:], n], strict=True)) for c, n in zip(cuts, shape, strict=True)]
    blocks = [Block.cut([a for a, _ in one], [b - a for a, b in one], shape, method.halo, spacing)
              for one in (tuple(p[i] for p, i in zip(places, where, strict=True))
                          for where in np.ndindex(*(len(p) for p in places)))]
    blocks = [blocks[k] for k in rng.permutation(len(blocks))]

    def local(block):
        return method.local({k: np.ascontiguousarray(v[(slice(None), *block.read)]) for k, v in maps.items()}, block)

    with ThreadPoolExecutor(2) as pool:
        states = list(pool.map(local, blocks))
    decisions = method.resolve(states)
    painted, listed = np.zeros_like(whole), []
    for state in states:
        painted[state.block.write], rows = method.paint(state, decisions)
        listed += rows["id"].tolist()
    if getattr(method, "exact", True):
        np.testing.assert_array_equal(painted, whole)
        assert sorted(listed) == table["id"].tolist()
    else:
        assert same_share(painted, whole) >= 0.995
    assert len(set(listed)) == len(listed)


def strips(turned, shape=(70, 70), width=4, length=38):
    """Strips side by side that touch along their length, and which strip a voxel is of by its coordinates."""
    y, x = np.indices(shape) - (shape[0] - 1) / 2
    across, along = np.cos(turned) * y - np.sin(turned) * x, np.sin(turned) * y + np.cos(turned) * x
    number = np.floor(across / width) + 4
    return np.where((number >= 1) & (number <= 6) & (abs(along) < length / 2), number, 0).astype(np.uint8)


@pytest.mark.parametrize("turned", np.linspace(0.0, np.pi, 9))
@pytest.mark.parametrize("method", [
    METHODS["boundary"](), METHODS["star"](merge=True, n_rays=16), METHODS["distance"](),
    METHODS["flow_eikonal"](repulsion=0.9)], ids=lambda m: type(m).__name__)
def test_long_thin_objects_side_by_side_stay_whole_at_any_angle(method, turned):
    """Four voxels wide: a border of one leaves a core of two, and a ray along a strip is ten times one across."""
    labels = strips(turned)
    assert oracle(method, labels, (1.0, 1.0))["ap90"] == 1.0


@pytest.mark.parametrize("degrees", [0, 15, 30, 60, 75])
@pytest.mark.parametrize(("width", "length"), [(4, 40), (6, 60)])
def test_places_part_thin_objects_side_by_side(degrees, width, length):
    """Turned rods are told apart by little: places jump by about twice width over length where they touch."""
    labels = strips(np.deg2rad(degrees), (100, 100), width, length)
    assert oracle(METHODS["hv"](), labels, (1.0, 1.0))["ap75"] == 1.0


@every
@everywhere
def test_threads_change_no_byte(name, space):
    method = METHODS[name]()
    labels, spacing = drawn(5, method, space)

    def run(_=0):
        targets, weights = method.encode(labels, spacing, None)
        decoded, table = decode(method, method.ideal(targets), spacing=spacing)
        return [a.tobytes() for d in (targets, weights, table) for a in d.values()] + [decoded.tobytes()]

    alone, threads = run(), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with ThreadPoolExecutor(2) as pool:
            assert all(found == alone for found in pool.map(run, range(4)))
    finally:
        torch.set_num_threads(threads)


@every
def test_options_survive_json(name):
    objective = Objective("tversky", {"tversky.alpha": 0.4}, (1.0, 2.0))
    method = METHODS[name](batch_dice=False, objective=objective)
    again = METHODS[name](**json.loads(json.dumps(dataclasses.asdict(method))))
    assert again == method
    assert METHODS[name]() == METHODS[name](**json.loads(json.dumps(dataclasses.asdict(METHODS[name]()))))


@every
@pytest.mark.parametrize("space", ["2d", "thick"])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_falls_towards_the_targets_and_moves_nothing_unknown(name, space, loss):
    method = METHODS[name](objective=Objective(loss))
    labels, spacing = drawn(11, METHODS[name](), space)
    valid = np.ones(labels.shape, bool)
    valid[..., :6] = False
    encoded = method.encode(labels, spacing, valid)
    tensors = [{k: torch.from_numpy(np.stack([v, v])) for k, v in d.items()} for d in encoded]
    torch.manual_seed(0)
    outputs = {h.name: (0.1 * torch.randn(2, h.channels, *labels.shape)).requires_grad_() for h in
               method.heads(labels.ndim)}
    terms = method.loss(outputs, *tensors)
    total = sum(terms.values())
    total.backward()
    assert all(t.ndim == 0 and torch.isfinite(t) for t in terms.values())
    unknown = torch.from_numpy(~valid)
    step = {}
    for key, values in outputs.items():
        assert values.grad.abs().max() > 0, key
        assert values.grad[..., unknown].abs().max() == 0, key
        step[key] = values.detach() - 0.05 * values.grad / values.grad.norm() * values.detach().norm()
    assert float(sum(method.loss(step, *tensors).values())) < float(total.detach())
