"""Every method: encode, decode, flips, ignore, blocks; and what each promises beyond."""

import dataclasses
import hashlib
import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biosegkit.errors import DataError, OptionError
from biosegkit.kernels.overlap import overlap_counts
from biosegkit.methods import METHODS, Block, Distance, Flow, Method, Offset, Semantic, decode, oracle

CASES = {
    "classes": Semantic(4),
    "regions": Semantic(4, regions=((1, 2, 3), (2, 3), (3,)), region_values=(1, 2, 3)),
    "distance": Distance(),
    "scale": Distance(normalize="scale", scale=8.0, activation="sigmoid"),
    "offset": Offset(scale=40.0),
    "centroid": Offset(scale=40.0, centre="centroid"),
    "flow": Flow(),
    "euler": Flow(decoder="euler"),
}
SPACES = {"2d": ((40, 44), (1.0, 1.0)), "3d": ((14, 22, 24), (1.0, 1.0, 1.0)), "thick": ((9, 34, 36), (5.0, 1.0, 1.0))}
PROBABILITIES = ("softmax", "sigmoid", "linear")  # a distance is a share of its object's
every = pytest.mark.parametrize("method", CASES.values(), ids=CASES.keys())
everywhere = pytest.mark.parametrize(("shape", "spacing"), SPACES.values(), ids=SPACES.keys())


def ball(shape, centre, radius, spacing):
    grid = np.ogrid[tuple(slice(0, n) for n in shape)]
    return sum(((g - c) * s) ** 2 for g, c, s in zip(grid, centre, spacing, strict=True)) <= radius**2


def balls(shape, spacing, radius, gap, ids=None):
    """Balls on a lattice, ``gap`` voxels apart in the plane (0: they touch); in z well apart."""
    labels = np.zeros(shape, np.uint32)
    axes = []
    for axis, (n, s) in enumerate(zip(shape, spacing, strict=True)):
        r = math.floor(radius / s)
        step = 2 * r + 1 + (gap if axis >= len(shape) - 2 else 1)
        axes.append(range(r + 1, n - r - 1, step))
    for k, centre in enumerate(itertools.product(*axes)):
        inside = ball(shape, centre, radius, spacing) & (labels == 0)
        labels[inside] = ids[k] if ids is not None else k + 1
    return labels


def worst_iou(truth, found):
    overlaps = overlap_counts(truth, found)
    best = np.zeros(overlaps.ids_a.size)
    np.maximum.at(best, overlaps.indexed()[0], overlaps.iou())
    return best.min() if best.size else 1.0


@every
def test_is_a_method_with_options_that_survive_json(method):
    assert isinstance(method, Method)
    assert type(method) in METHODS.values()
    options = json.loads(json.dumps(dataclasses.asdict(method)))
    assert type(method)(**options) == method
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.batch_dice = False
    for tunable in method.tunables.values():
        assert tunable.low <= tunable.default <= tunable.high


@every
@everywhere
def test_heads_targets_outputs_and_loss_fit_together(method, shape, spacing):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, shape).astype(np.uint16)
    valid = rng.random(shape) > 0.2
    targets, weights = method.encode(labels, spacing, valid)
    heads = method.heads(len(shape))
    assert set(targets) == set(weights) == {h.name for h in heads}
    for head in heads:
        assert targets[head.name].shape in (shape, (head.channels, *shape))
        assert weights[head.name].shape == shape
        assert weights[head.name].dtype == np.float32
        assert (weights[head.name][~valid] == 0).all()
        assert (weights[head.name][valid] > 0).all()
    outputs = {h.name: torch.zeros(2, h.channels, *shape, requires_grad=True) for h in heads}
    batch = [{k: torch.from_numpy(np.stack([v, v])) for k, v in d.items()} for d in (targets, weights)]
    terms = method.loss(outputs, *batch)
    total = sum(terms.values())
    total.backward()
    for name, term in terms.items():
        assert term.ndim == 0, name
        assert torch.isfinite(term), name
    for head in heads:
        gradient = outputs[head.name].grad
        assert gradient.abs().max() > 0
        assert gradient[..., torch.from_numpy(~valid)].abs().max() == 0
    maps = method.activate({k: v.detach() for k, v in outputs.items()})
    assert all(m.dtype == torch.float32 and torch.isfinite(m).all() for m in maps.values())
    assert all(0 <= maps[h.name].min() <= maps[h.name].max() <= 1 for h in heads if h.activation in PROBABILITIES)


@every
def test_the_loss_of_perfect_outputs_is_near_zero(method):
    labels = balls((40, 44), (1, 1), 5, 1) % 4
    targets, weights = method.encode(labels, (1.0, 1.0), None)
    ideal = method.ideal(targets)
    outputs = {}
    for head in method.heads(2):
        maps = torch.from_numpy(ideal[head.name])[None]
        outputs[head.name] = {
            "softmax": lambda m: 40 * (m - 0.5), "linear": lambda m: m, "sigmoid": lambda m: torch.logit(m, 1e-7),
            "tanh": lambda m: 4 * torch.atanh(m / method.scale), "exp": lambda m: torch.log(16 * m / method.scale),
        }[head.activation](maps)
    tensors = [{k: torch.from_numpy(v)[None] for k, v in d.items()} for d in (targets, weights)]
    for name, term in method.loss(outputs, *tensors).items():
        assert float(term) == pytest.approx(0.0, abs=1e-3), name
    for name, maps in method.activate(outputs).items():
        np.testing.assert_allclose(maps[0].numpy(), ideal[name], atol=1e-4)


@every
@everywhere
@pytest.mark.parametrize("gap", [0, 2], ids=["touching", "apart"])
def test_decode_of_encode_is_the_labels(method, shape, spacing, gap):
    if isinstance(method, Semantic):
        labels = balls(shape, spacing, 6.0, gap) % 4
        decoded, table = decode(method, method.ideal(method.encode(labels, spacing, None)[0]))
        np.testing.assert_array_equal(decoded, labels)
        assert table["area"].tolist() == [int((labels == k).sum()) for k in table["id"]]
        return
    labels = balls(shape, spacing, 6.0, gap)
    decoded, table = decode(method, method.ideal(method.encode(labels, spacing, None)[0]), None, spacing)
    assert len(table["id"]) == len(np.unique(labels)) - 1
    assert worst_iou(labels, decoded) >= 0.9


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(SPACES)), st.integers(2, 7), st.integers(0, 2))
def test_distance_recovers_balls_whatever_their_size_and_ids(seed, space, radius, gap):
    shape, spacing = SPACES[space]
    rng = np.random.default_rng(seed)
    ids = np.unique(rng.integers(1, 2**31, 500, dtype=np.uint32))
    labels = balls(shape, spacing, radius, gap, rng.permutation(ids))
    method = Distance()
    targets, _ = method.encode(labels, spacing, None)
    decoded, table = decode(method, method.ideal(targets))
    assert worst_iou(labels, decoded) >= 0.9
    # ids: 1..K in raster order of the first voxel, whatever the true ids were
    firsts = [np.flatnonzero(decoded == k)[0] for k in table["id"]]
    assert firsts == sorted(firsts) == table["first"].tolist()
    again = np.concatenate([[0], rng.permutation(len(ids)) + 1])[np.searchsorted(ids, labels) + (labels > 0)]
    for name, target in method.encode(again, spacing, None)[0].items():
        np.testing.assert_array_equal(target, targets[name])


def test_two_pixel_discs_and_single_voxels_are_found():
    for radius in (0, 1, 2):
        labels = balls((96, 96), (1, 1), radius, 2)
        scores = oracle(Distance(), labels, (1.0, 1.0), {"min_size": 1})
        assert scores["ap90"] == 1.0, radius


def test_a_small_neighbour_takes_nothing_from_a_large_one():
    labels = np.zeros((40, 60), int)
    labels[2:38, 2:38] = 1
    for k in range(9):
        labels[2 + 4 * k : 6 + 4 * k, 38:42] = k + 2
    decoded, _ = decode(Distance(), Distance().ideal(Distance().encode(labels, (1, 1), None)[0]))
    assert worst_iou(labels, decoded) == 1.0


def test_non_convex_and_thin_objects_stay_whole():
    yy, xx = np.mgrid[:64, :64]
    r = np.hypot(yy - 32, xx - 32)
    labels = ((r < 16) & (r > 10) & ~((xx > 32) & (abs(yy - 32) < 8))).astype(int)
    labels[2:5, 2:60] = 2
    labels[5:8, 2:60] = 3
    assert oracle(Distance(), labels, (1.0, 1.0)) == {"ap50": 1.0, "ap75": 1.0, "ap90": 1.0, "iou": 1.0}


@every
@everywhere
def test_flips_commute_with_encode_and_decode(method, shape, spacing):
    labels = balls(shape, spacing, 5.0, 1)
    labels = labels % 4 if isinstance(method, Semantic) else labels
    maps = method.ideal(method.encode(labels, spacing, None)[0])
    for axes in ([0], [len(shape) - 1], list(range(len(shape)))):
        flipped = method.ideal(method.encode(np.flip(labels, axes), spacing, None)[0])
        for name, m in method.mirror(maps, axes).items():
            np.testing.assert_allclose(flipped[name], m, rtol=1e-6)
        assert worst_iou(decode(method, maps, None, spacing)[0],
                         np.flip(decode(method, flipped, None, spacing)[0], axes)) >= 0.98


@every
def test_empty_image(method):
    labels = np.zeros((20, 21), np.uint8)
    targets, _ = method.encode(labels, (1.0, 1.0), np.ones_like(labels, bool))
    decoded, table = decode(method, method.ideal(targets))
    assert decoded.shape == labels.shape
    assert decoded.max() == 0
    assert all(len(column) == 0 for column in table.values())
    assert all(math.isnan(v) for v in oracle(method, labels, (1.0, 1.0)).values())


def test_one_object_that_fills_the_patch():
    labels = np.full((20, 20), 7)
    targets, _ = Distance().encode(labels, (1.0, 1.0), None)
    assert (targets["distance"] == 1).all()
    assert oracle(Distance(), labels, (1.0, 1.0))["ap90"] == 1.0


def test_the_edge_of_the_patch_is_no_border():
    labels = np.zeros((9, 20), int)
    labels[2:7, :12] = 1
    cut = Distance().encode(labels[:, :6], (1.0, 1.0), None)[0]["distance"]
    np.testing.assert_array_equal(cut[:, :4], Distance().encode(labels, (1.0, 1.0), None)[0]["distance"][:, :4])
    assert cut[4, 0] == 1.0


def test_distance_target_by_hand():
    labels = np.array([[0, 3, 3, 3, 3, 3, 0, 8, 0]])
    target = Distance().encode(labels, (2.0, 2.0), None)[0]["distance"]
    assert target.tolist() == [[0, 0, 0.5, 1, 0.5, 0, 0, 1, 0]]
    scaled = Distance(normalize="scale", scale=8.0).encode(labels, (2.0, 2.0), None)[0]["distance"]
    assert scaled.tolist() == [[0, 0, 0.25, 0.5, 0.25, 0, 0, 0, 0]]


def test_a_part_cut_off_by_the_ignore_mask_spoils_nothing():
    labels, valid = np.array([[0, 1, 1, 1, 1, 1]]), np.array([[True, True, True, True, False, True]])
    assert Distance().encode(labels, (1.0, 1.0), valid)[0]["distance"].tolist() == [[0, 0, 0.5, 1, 0, 1]]


def test_distance_weights():
    labels = np.array([[0, 1, 1, 0]])
    _, weights = Distance(background_weight=0.25).encode(labels, (1.0, 1.0), np.array([[True, True, True, False]]))
    assert weights["distance"].tolist() == [[0.25, 1, 1, 0]]
    assert weights["foreground"].tolist() == [[1, 1, 1, 0]]


@every
def test_blocks_give_what_the_whole_image_gives(method):
    rng = np.random.default_rng(4)
    shape = (37, 45)
    maps = {h.name: rng.random((h.channels, *shape)).astype(np.float32) for h in method.heads(2)}
    whole, table = decode(method, maps)
    corners = [(y, x) for y in (26, 0, 13) for x in (0, 40, 20)]
    blocks = [Block.cut((y, x), (min(13, 37 - y), min(20, 45 - x)), shape, method.halo) for y, x in corners]
    states = [method.local({k: m[(slice(None), *b.read)] for k, m in maps.items()}, b) for b in blocks]
    decisions = method.resolve(states)
    labels, listed = np.zeros_like(whole), []
    for state in states:
        labels[state.block.write], rows = method.paint(state, decisions)
        listed += rows["id"].tolist()
    np.testing.assert_array_equal(labels, whole)
    assert sorted(listed) == table["id"].tolist()
    assert decisions.objects["centroid_y"].tolist() == table["centroid_y"].tolist()


def test_the_table_is_that_of_the_labels():
    labels = balls((14, 30, 32), (1, 1, 1), 5, 1)
    decoded, table = decode(Distance(), Distance().ideal(Distance().encode(labels, (1, 1, 1), None)[0]))
    for row, k in enumerate(table["id"]):
        at = np.argwhere(decoded == k)
        assert table["area"][row] == len(at)
        assert [table[f"centroid_{a}"][row] for a in "zyx"] == pytest.approx(at.mean(0).tolist())
        assert [table[f"bbox_start_{a}"][row] for a in "zyx"] == at.min(0).tolist()
        assert [table[f"bbox_stop_{a}"][row] for a in "zyx"] == (at.max(0) + 1).tolist()
        assert table["score"][row] == 1.0


def test_regions_are_painted_in_order_above_the_threshold():
    method = CASES["regions"]
    maps = {"regions": np.array([[[0.9, 0.6, 0.4]], [[0.2, 0.8, 0.9]], [[0.1, 0.7, 0.3]]], np.float32)}
    assert decode(method, maps)[0].tolist() == [[1, 3, 2]]
    assert decode(method, maps, {"region": 0.75})[0].tolist() == [[1, 2, 2]]


def test_thresholds_outside_their_range_and_unknown_are_refused():
    state = Distance().local(
        {k: np.zeros((1, 4, 4), np.float32) for k in ("foreground", "distance")}, Block.whole((4, 4))
    )
    with pytest.raises(OptionError, match=r"foreground=0\.01"):
        Distance().resolve([state], {"foreground": 0.01})
    with pytest.raises(OptionError, match="nms"):
        Distance().resolve([state], {"nms": 0.5})


def test_wrong_options_and_unknown_classes_are_refused():
    for wrong in (
        lambda: Semantic(1),
        lambda: Semantic(3, regions=((1, 3),)),
        lambda: Semantic(3, regions=((1, 2),), region_values=(1, 2)),
        lambda: Distance(normalize="scale"),
        lambda: Distance(activation="tanh"),
    ):
        with pytest.raises(OptionError):
            wrong()
    with pytest.raises(DataError, match=r"0\.\.7"):
        Semantic(3).encode(np.array([[0, 7]]), (1.0, 1.0), None)
    # under the ignore mask any value may stand
    assert Semantic(3).encode(np.array([[0, 7]]), (1.0, 1.0), np.array([[True, False]]))[0]["classes"].max() == 0


def test_values_under_the_ignore_mask_do_not_matter():
    rng = np.random.default_rng(6)
    labels = balls((40, 44), (1, 1), 5, 1).astype(np.int64)
    valid = rng.random(labels.shape) > 0.1
    for method in (Distance(), Semantic(100)):
        one = method.encode(labels, (1.0, 1.0), valid)
        two = method.encode(np.where(valid, labels, -1), (1.0, 1.0), valid)
        for a, b in zip(one, two, strict=True):
            for name in a:
                np.testing.assert_array_equal(a[name], b[name])


def test_requirements_warn_of_objects_too_thin():
    assert Distance().requirements([10.0, 40.0]).context_px == 21
    assert Distance().requirements([10.0, 40.0]).warnings == ()
    assert "3 voxels" in Distance().requirements([1.5] * 20).warnings[0]
    assert Distance().requirements([]).context_px == 1


def test_decode_of_fixed_maps_is_the_same_bytes_everywhere():
    # whole-number arithmetic makes the maps, so that no library's noise generator or exp can move them
    i = np.arange(48 * 64, dtype=np.int64)
    noise = ((i * 2654435761) % 4093 / 4093.0).reshape(48, 64)
    y, x = np.divmod(i.reshape(48, 64), 64)
    wave = 1.0 - (abs(y % 16 - 8) + abs(x % 20 - 10)) / 18.0
    maps = {
        "foreground": np.float32(0.7 * wave + 0.3 * noise)[None],
        "distance": np.float32(np.clip(1.5 * wave - 0.6 + 0.2 * noise[::-1], 0, 1))[None],
    }
    labels, table = decode(Distance(), maps)
    assert labels.dtype == np.uint32
    digest = hashlib.sha256(labels.astype("<u4").tobytes()).hexdigest()[:16]
    assert (int(labels.max()), digest) == GOLDEN
    assert table["area"].sum() == (labels > 0).sum()


GOLDEN = (9, "f6a987f634679aae")
