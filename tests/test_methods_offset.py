"""Spatial embedding: targets and losses by hand, decoding against the greedy rule, units, limits."""

import itertools
import math

import numpy as np
import pytest
import torch

from biosegkit.errors import DataError, OptionError
from biosegkit.losses import Loss
from biosegkit.methods import Block, Offset, decode, oracle

METHOD = Offset(scale=32.0)
SPACES = [((30, 34), (1.0, 1.0)), ((9, 20, 21), (4.0, 1.0, 1.5))]


def test_targets_by_hand():
    labels = np.array([[0, 5, 5, 5, 0, 9]])
    targets, weights = METHOD.encode(labels, (1.0, 2.0), np.array([[True, True, True, True, True, True]]))
    assert targets["offset"].tolist() == [[[0, 0, 0, 0, 0, 0]], [[0, 2, 0, -2, 0, 0]]]
    # volumes 6 and 2, roots / 4, at least half the smallest step; centres 6 apart, so no cap
    wide = [math.sqrt(6) / 4, math.sqrt(2) / 4]
    rest = METHOD.scale / 16
    assert targets["bandwidth"][0].tolist() == pytest.approx([rest, *[wide[0]] * 3, rest, max(wide[1], 0.5)])
    assert targets["seed"].tolist() == targets["foreground"].tolist() == [[0, 1, 1, 1, 0, 1]]
    assert all((w == 1).all() for w in weights.values())


def test_the_bandwidth_parts_long_objects_side_by_side():
    labels = np.repeat(np.arange(1, 9), 2)[:, None] * np.ones(60, int)
    sigma = METHOD.encode(labels, (1.0, 1.0))[0]["bandwidth"]
    assert sigma.max() == pytest.approx(2 / (2 * math.sqrt(2 * math.log(2))))
    assert oracle(METHOD, labels, (1.0, 1.0))["ap90"] == 1.0


def test_the_edge_of_a_patch_gives_the_centre_of_the_visible_part():
    labels = np.zeros((5, 20), int)
    labels[1:4, 0:11] = 1
    whole = METHOD.encode(labels, (1.0, 1.0))[0]["offset"][1]
    cut = METHOD.encode(labels[:, :6], (1.0, 1.0))[0]["offset"][1]
    assert whole[2, 0] == 5
    assert cut[2, 0] == 2.5


def test_losses_by_hand():
    labels = np.array([[0, 3, 3, 3]])
    valid = np.array([[True, True, True, False]])
    targets, weights = METHOD.encode(labels, (1.0, 1.0), valid)
    tensors = [{k: torch.from_numpy(v)[None] for k, v in d.items()} for d in (targets, weights)]
    outputs = {h.name: torch.zeros(1, h.channels, 1, 4) for h in METHOD.heads(2)}
    outputs["offset"][0, 1, 0, 1] = 4 * math.atanh(1.25 / 32)
    outputs["bandwidth"][0, 0, 0, 1] = math.log(16 / 32)
    terms = {k: float(v) for k, v in METHOD.loss(outputs, *tensors).items()}
    # two known voxels of the object, at 1 and 2: centre 1.5, offsets +0.5 and -0.5, true bandwidth sqrt(2)/4 → 0.5
    errors = [1.25 - 0.5, 0.5]
    pull = np.mean([math.sqrt((e / 0.5) ** 2 + 1) - 1 for e in errors])
    assert terms["offset"] == pytest.approx(METHOD.offset_weight * pull, rel=1e-5)
    # bandwidths 1 and 2 against 0.5: differences of logarithm 0.693 (parabola) and 1.386 (line)
    width = np.mean([math.log(2) ** 2 / 2, math.log(4) - 0.5])
    assert terms["bandwidth"] == pytest.approx(METHOD.bandwidth_weight * width, rel=1e-5)
    phi = [0.0, math.exp(-errors[0] ** 2 / 2), math.exp(-errors[1] ** 2 / 8)]
    seed = np.mean([(0.5 - p) ** 2 for p in phi])  # the voxel that is not valid counts nowhere
    assert terms["seed"] == pytest.approx(METHOD.seed_weight * seed, rel=1e-5)
    alone = Loss(METHOD.objective)(outputs["foreground"], tensors[0]["foreground"], tensors[1]["foreground"])
    assert {k: terms[k] for k in alone} == {k: float(v) for k, v in alone.items()}


def test_the_seed_teaches_neither_offset_nor_bandwidth():
    targets, weights = METHOD.encode(np.array([[0, 3, 3, 3]]), (1.0, 1.0))
    tensors = [{k: torch.from_numpy(v)[None] for k, v in d.items()} for d in (targets, weights)]
    outputs = {h.name: torch.full((1, h.channels, 1, 4), 0.3, requires_grad=True) for h in METHOD.heads(2)}
    METHOD.loss(outputs, *tensors)["seed"].backward()
    assert outputs["seed"].grad.abs().max() > 0
    assert outputs["offset"].grad is outputs["bandwidth"].grad is None or not outputs["offset"].grad.any()


def noisy(shape, spacing, seed, top=1.0):
    """Maps of a network that is often wrong."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, int)
    for k in range(1, 13):
        centre = [rng.uniform(0, n) for n in shape]
        grid = np.ogrid[tuple(slice(0, n) for n in shape)]
        inside = sum(((g - c) * s) ** 2 for g, c, s in zip(grid, centre, spacing, strict=True)) < 25
        labels[inside] = k
    maps = METHOD.ideal(METHOD.encode(labels, spacing)[0])
    maps["offset"] = maps["offset"] + rng.normal(0, top, maps["offset"].shape).astype(np.float32)
    maps["bandwidth"] = maps["bandwidth"] * rng.uniform(0.5, 2, maps["bandwidth"].shape).astype(np.float32)
    maps["seed"] = np.clip(maps["seed"] - rng.uniform(0, 0.8, maps["seed"].shape), 0, 1).astype(np.float32)
    maps["foreground"] = np.clip(maps["foreground"] + rng.normal(0, 0.2, maps["seed"].shape), 0, 1).astype(np.float32)
    return maps


@pytest.mark.parametrize(("shape", "spacing"), SPACES)
def test_decoding_is_the_greedy_rule_of_the_paper(shape, spacing):
    maps = noisy(shape, spacing, 1)
    used = {"foreground": 0.5, "seed": 0.4, "membership": 0.5, "reach": 1.5, "min_size": 1}
    found, table = decode(METHOD, maps, used, spacing)
    step = min(spacing) / 32
    position = np.indices(shape) * np.array(spacing).reshape(-1, *(1,) * len(shape))
    e = np.rint((position + maps["offset"].astype(np.float64)) / step).reshape(len(shape), -1).T
    sigma = np.maximum(1, np.rint(maps["bandwidth"].astype(np.float64).reshape(-1) / step))
    foreground = np.rint(maps["foreground"].reshape(-1) * 65535) > math.floor(0.5 * 65535)
    seed = np.rint(maps["seed"].reshape(-1) * np.float32(65535))
    order = sorted(np.flatnonzero(foreground & (seed > math.floor(0.4 * 65535))), key=lambda i: (-seed[i], i))
    phi = lambda i, k: math.exp(-((e[i] - e[k]) ** 2).sum() / (2 * sigma[k] ** 2))  # noqa: E731 - equation 5
    leaders = []
    for i in order:
        if all(phi(i, k) <= 0.5 for k in leaders):
            leaders.append(i)
    assert len(leaders) > 3
    owner = np.full(len(e), -1)
    for i in np.flatnonzero(foreground):
        d = [((e[i] - e[k]) ** 2).sum() / sigma[k] ** 2 for k in leaders]
        if min(d) < 1.5**2 * 2 * math.log(2):
            owner[i] = int(np.argmin(d))
    assert len(table["id"]) == len(np.unique(owner[owner >= 0]))
    pairs = np.unique(np.stack([owner + 1, found.reshape(-1)]), axis=1)
    assert len(pairs.T) == len(np.unique(pairs[0])) == len(np.unique(pairs[1]))  # one to one


@pytest.mark.parametrize(("shape", "spacing"), SPACES)
def test_five_cuts_into_blocks_give_what_the_whole_image_gives(shape, spacing):
    maps = noisy(shape, spacing, 2)
    maps["seed"] = np.round(maps["seed"], 1)  # many ties
    whole, table = decode(METHOD, maps, {"seed": 0.3}, spacing)
    rng = np.random.default_rng(5)
    for _ in range(5):
        size = [int(rng.integers(3, n + 1)) for n in shape]
        starts = list(itertools.product(*(range(0, n, s) for n, s in zip(shape, size, strict=True))))
        blocks = []
        for k in rng.permutation(len(starts)):
            core = tuple(min(s, n - a) for s, n, a in zip(size, shape, starts[k], strict=True))
            blocks.append(Block.cut(starts[k], core, shape, int(rng.integers(0, 3)), spacing))
        states = [METHOD.local({k: m[(slice(None), *b.read)] for k, m in maps.items()}, b) for b in blocks]
        decisions = METHOD.resolve(states, {"seed": 0.3})
        labels = np.zeros_like(whole)
        for state in states:
            labels[state.block.write] = METHOD.paint(state, decisions)[0]
        np.testing.assert_array_equal(labels, whole)
        for name, column in table.items():
            np.testing.assert_array_equal(decisions.objects[name], column)


def test_flips_turn_the_offset():
    maps = {h.name: np.arange(6 * h.channels, dtype=np.float32).reshape(h.channels, 2, 3) for h in METHOD.heads(2)}
    turned = METHOD.mirror(maps, [1])
    assert turned["offset"].tolist() == [[[2, 1, 0], [5, 4, 3]], [[-8, -7, -6], [-11, -10, -9]]]
    assert turned["bandwidth"].tolist() == [[[2, 1, 0], [5, 4, 3]]]
    again = METHOD.mirror(METHOD.mirror(maps, [0, 1]), [0, 1])
    assert all(np.array_equal(again[name], m) for name, m in maps.items())


def test_ids_up_to_the_largest_and_holes_and_gaps_do_not_matter():
    labels = np.zeros((24, 24), np.uint32)
    labels[2:8, 2:8], labels[2:8, 8:14], labels[12:20, 3:11] = 2**31, 2**31 + 65536, 7
    labels[15, 6] = 0
    targets, _ = METHOD.encode(labels, (1.0, 1.0))
    found, table = decode(METHOD, METHOD.ideal(targets))
    assert len(table["id"]) == 3
    assert len(np.unique(np.stack([labels.reshape(-1), found.reshape(-1)]), axis=1).T) == 4


def test_objects_with_one_centre_need_the_medoid():
    yy, xx = np.mgrid[:40, :40]
    r = np.hypot(yy - 20, xx - 20)
    labels = np.where(r < 4, 1, np.where((r > 9) & (r < 14) & (xx > 12), 2, 0))  # an open ring around a disc
    assert oracle(Offset(centre="medoid"), labels, (1.0, 1.0))["ap90"] == 1.0
    ring = np.where(r < 4, 1, np.where((r > 9) & (r < 14), 2, 0))
    assert oracle(Offset(centre="centroid"), ring, (1.0, 1.0))["ap90"] == 0.0


def test_offsets_have_a_bound_and_it_is_told():
    labels = np.ones((3, 200), int)
    small, large = Offset(scale=16.0), Offset(scale=128.0)
    assert abs(small.ideal(small.encode(labels, (1.0, 1.0))[0])["offset"]).max() == 16
    assert oracle(small, labels, (1.0, 1.0))["ap50"] == 0.0
    assert oracle(large, labels, (1.0, 1.0))["ap90"] == 1.0
    assert "200 voxels" in small.requirements([10.0, 200.0]).warnings[0]
    assert small.requirements([10.0, 200.0]).max_object_px == 32
    assert large.requirements([10.0, 200.0]).warnings == ()
    assert Offset().requirements([]).context_px == 1


def test_thresholds_do_what_they_say():
    maps = {h.name: np.zeros((h.channels, 1, 12), np.float32) for h in METHOD.heads(2)}
    maps["foreground"][0, 0, :10], maps["bandwidth"][:] = 0.8, 1.0
    maps["seed"][0, 0] = [0.9, 0.8, 0, 0, 0, 0, 0, 0, 0.6, 0.7, 0, 0]
    maps["offset"][1, 0] = [0, -1, -1.5, -2.5, -5, -4, -2, 0, 1, 0, 0, 0]  # embeddings 0 0 .5 .5 -1 1 4 7 9 9
    plain = {"reach": 1.0, "min_size": 1}
    assert decode(METHOD, maps, plain)[0].tolist() == [[1, 1, 1, 1, 1, 1, 0, 0, 2, 2, 0, 0]]
    assert decode(METHOD, maps, {**plain, "seed": 0.75})[0].tolist() == [[1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]]
    assert decode(METHOD, maps, {**plain, "min_size": 3})[0].tolist() == [[1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]]
    assert decode(METHOD, maps, {**plain, "reach": 2.0})[0].tolist() == [[1, 1, 1, 1, 1, 1, 0, 2, 2, 2, 0, 0]]
    assert decode(METHOD, maps, {**plain, "membership": 0.8})[0].tolist() == [[1, 1, 1, 1, 0, 0, 0, 0, 2, 2, 0, 0]]
    assert decode(METHOD, maps, {"foreground": 0.85})[0].max() == 0


def test_wrong_options_and_maps_are_refused():
    for wrong in (lambda: Offset(scale=0.0), lambda: Offset(scale=math.inf), lambda: Offset(centre="mean")):
        with pytest.raises(OptionError):
            wrong()
    maps = {h.name: np.zeros((h.channels, 4, 4), np.float32) for h in METHOD.heads(2)}
    with pytest.raises(DataError, match="shape"):
        METHOD.local(maps, Block.whole((4, 5)))
