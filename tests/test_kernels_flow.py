"""Flows of objects against plain loops, Cellpose and geometry; the check of flows against their own objects."""

import itertools
import warnings

import numpy as np
import pytest
from scipy import ndimage

from biosegkit.kernels.distance_flow import distance_flow
from biosegkit.kernels.flow_paths import EXIT, path_ends
from biosegkit.kernels.flow_trace import flow_fragments, quantise_flow
from biosegkit.kernels.heat_flow import heat_flow
from biosegkit.methods import METHODS, Block, Flow, decode, flow_check
from biosegkit.methods.protocol import State

FIELDS = {"flow": heat_flow, "flow_eikonal": distance_flow}


def discs(radius, shape=(60, 60), pitch=None):
    """Discs (balls) of one radius on a lattice; they do not touch."""
    pitch = pitch or 2 * radius + 3
    labels = np.zeros(shape, np.int32)
    points = np.indices(shape)
    for k, centre in enumerate(np.ndindex(*(max(1, (n - 1) // pitch) for n in shape)), 1):
        middle = [radius + 1 + pitch * c for c in centre]
        labels[sum((p - m) ** 2 for p, m in zip(points, middle, strict=True)) <= radius**2] = k
    return labels


def slow_heat(mask, steps):
    """Cellpose's definition by whole-array means: a source at the voxel nearest the centre of mass."""
    place = np.argwhere(mask)
    away = ((place - place.mean(0)) ** 2).sum(1)
    source = tuple(place[away <= away.min() * (1 + 1e-9) + 1e-9].T)
    heat = np.zeros(mask.shape)
    for _ in range(steps):
        heat[source] += 1 / len(source[0])
        heat = ndimage.uniform_filter(heat, 3, mode="constant") * mask
    gradient = np.stack([ndimage.correlate1d(heat, [-1, 0, 1], axis, mode="constant") for axis in range(mask.ndim)])
    return gradient / np.maximum(np.sqrt((gradient**2).sum(0)), 1e-300)


def cosine(a, b, mask):
    return (a * b).sum(0)[mask]


def bent():
    """Two shapes that touch: a disc, and a crescent around it."""
    y, x = np.mgrid[:34, :36]
    labels = np.zeros((34, 36), np.int64)
    labels[(np.hypot(y - 17, x - 16) < 13) & (x > 12)] = 5
    labels[np.hypot(y - 17, x - 11) < 9] = 2**31 - 1
    return labels


def test_heat_flows_as_plain_means_have_it_and_reads_no_neighbour():
    labels = bent()
    found = heat_flow(labels)
    for k in (5, 2**31 - 1):
        mask = labels == k
        sides = [int(s.stop - s.start) for s in ndimage.find_objects(mask.astype(int))[0]]
        expected = slow_heat(np.pad(mask, 1), 2 * (sum(sides) + 2))[:, 1:-1, 1:-1]
        moving = mask & (np.abs(expected).sum(0) > 0.5) & (np.abs(found).sum(0) > 0)
        assert moving.sum() > 0.97 * mask.sum()
        assert cosine(found, expected, moving).min() > 0.999
    length = np.sqrt((found**2).sum(0))
    assert np.allclose(length[length > 0], 1, atol=1e-5)
    assert not found[:, labels == 0].any()
    alone = heat_flow(np.where(labels == 5, labels, 0))
    assert np.array_equal(alone[:, labels == 5], found[:, labels == 5])


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 1.0, 0.75)])
def test_heat_flows_in_volumes_as_whole_array_means_have_it(spacing):
    """Two objects that touch, one with a hole that is not round, in rows of odd lengths."""
    z, y, x = np.indices((9, 13, 19))
    labels = np.zeros(z.shape, np.int32)
    labels[(z - 4) ** 2 / 16 + (y - 6) ** 2 / 36 + (x - 7) ** 2 / 49 <= 1] = 3
    labels[3:5, 5:8, 9:11] = 0
    labels[(labels == 0) & (np.abs(z - 4) < 3) & (np.abs(y - 6) < 4) & (x > 11) & (x < 18)] = 8
    found = heat_flow(labels, spacing, border=True)
    ratio = np.array(spacing) / min(spacing)
    weights = 1 / (7 * ratio**2)
    for k in (3, 8):
        mask = labels == k
        box = ndimage.find_objects(mask.astype(int))[0]
        steps = int(np.ceil(6 * (3 + sum((s.stop - s.start) * r for s, r in zip(box, ratio, strict=True)))))
        place = np.argwhere(mask)
        away = np.square((place - place.mean(0)) * ratio).sum(1)
        source = tuple(place[away <= away.min() + 1e-9].T)
        heat = np.zeros(mask.shape)
        for _ in range(steps):
            heat[source] += 1 / len(source[0])
            sides = [ndimage.correlate1d(heat, [w, 0, w], a, mode="constant") for a, w in enumerate(weights)]
            heat = (heat * (1 - 2 * weights.sum()) + sum(sides)) * mask
        slope = np.stack([ndimage.correlate1d(heat, [-1, 0, 1], a, mode="constant") / r for a, r in enumerate(ratio)])
        length = np.sqrt((slope**2).sum(0))
        clear = mask & (length > 1e-6 * heat)
        assert clear.sum() > 0.98 * mask.sum() > 100
        np.testing.assert_allclose(found[:, clear], (slope / np.where(clear, length, 1))[:, clear], atol=1e-5)


@pytest.mark.parametrize("shape", [(7, 150), (4, 6, 120)])
def test_heat_flows_the_same_along_wide_gaps_and_across(shape):
    """A frame whose sides are far apart in a row; with the axes turned round they are not."""
    labels = np.ones(shape, np.int32)
    labels[..., 2:-1, 5:-4] = 0
    labels[..., -1:, shape[-1] // 2:] = 0
    turned = heat_flow(labels.T)[::-1]
    np.testing.assert_allclose(heat_flow(labels), turned.transpose(0, *range(labels.ndim, 0, -1)), atol=1e-5)
    assert (np.square(turned).sum(0)[labels.T > 0] > 0.99).mean() > 0.95


def test_one_large_object_does_not_change_the_small_ones():
    small = discs(4)
    both = np.pad(small, ((0, 70), (0, 0)))
    both[64:126, 2:58] = 99
    assert np.array_equal(heat_flow(both)[:, :60][:, small > 0], heat_flow(np.pad(small, ((0, 70), (0, 0))))[:, :60][
        :, small > 0])


def test_heat_flows_as_cellpose_has_it():
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that cellpose imports
        dynamics = pytest.importorskip("cellpose.dynamics", reason="cellpose is an extra")
        labels = discs(7)
        theirs = dynamics.masks_to_flows_gpu(labels.astype(np.int64), device=torch.device("cpu"))
    theirs = np.asarray(theirs[0] if isinstance(theirs, tuple) else theirs)
    ours = heat_flow(labels)
    inner = (labels > 0) & (np.abs(theirs).sum(0) > 0.5) & (np.abs(ours).sum(0) > 0)
    assert np.median(cosine(ours, theirs, inner)) > 0.999


def test_distance_flows_across_a_bar_and_not_along_it():
    labels = np.zeros((15, 60), np.uint8)
    labels[4:11, 5:55] = 3
    flow = distance_flow(labels, (2.0, 2.0))
    assert np.allclose(flow[0, 4:7, 12:48], 1.0, atol=1e-5)
    assert np.allclose(flow[0, 8:11, 12:48], -1.0, atol=1e-5)
    assert np.allclose(flow[1, 4:11, 12:48], 0.0, atol=1e-5)
    assert not flow[:, labels == 0].any()


@pytest.mark.parametrize("name", ["flow", "flow_eikonal"])
@pytest.mark.parametrize(("radius", "shape"), [(1, (30, 30)), (2, (40, 40)), (3, (12, 30, 30)), (9, (60, 60))])
def test_small_and_large_discs_come_back(name, radius, shape):
    labels = discs(radius, shape)
    method = METHODS[name]()
    found, table = decode(method, method.ideal(method.encode(labels, (1.0,) * len(shape))[0]))
    assert len(table["id"]) == labels.max()
    assert np.array_equal(found > 0, labels > 0)


@pytest.mark.parametrize("decoder", ["forest", "euler"])
def test_an_object_as_large_as_the_image(decoder):
    method = Flow(decoder=decoder)
    found, table = decode(method, method.ideal(method.encode(np.ones((80, 90), int), (1.0, 1.0))[0]))
    assert table["area"].tolist() == [80 * 90]
    assert (found == 1).all()


def test_objects_whose_flow_is_not_theirs_are_dropped():
    labels = discs(8, (60, 60))
    method = Flow()
    maps = method.ideal(method.encode(labels, (1.0, 1.0))[0])
    maps["flow"] = np.where(labels == 2, 0.0, maps["flow"]).astype(np.float32)
    kept, _ = decode(method, maps, {"flow_error": 4.0})
    checked, table = decode(method, maps, {"flow_error": 0.75})
    assert (kept[labels == 2] > 0).all()
    assert not checked[labels == 2].any()
    assert len(table["id"]) == labels.max() - 1
    # by hand: no flow against unit vectors is 1 per voxel (0 at the centre), so a limit of 1 keeps it
    assert (decode(method, maps, {"flow_error": 1.0})[0][labels == 2] > 0).all()


def slow_ends(flow, domain, reach, pace, where, core):
    """Euler steps of one path after the other, halved by turning back, in places of the whole array."""
    before, start, full = where
    holds = set(zip(*(axis.tolist() for axis in np.nonzero(domain)), strict=True))
    ends = np.full(core, -1)
    for spot in np.ndindex(*core):
        begin = end = tuple((spot + before).tolist())
        if begin not in holds:
            continue
        at, step, share = np.array(begin, float), np.zeros(3), 1.0
        for _ in range(4 * reach):
            low, v = np.floor(at).astype(int), np.zeros(3)
            for corner in itertools.product((0, 1), repeat=3):
                near = tuple((low + corner).tolist())
                if near in holds:
                    v += np.prod(1 - np.abs(at - near)) * flow[(slice(None), *near)] / 127
            share *= 0.5 if (v * pace) @ step < 0 else 1.0
            step = share * v * pace
            at = at + step
            place = tuple(np.floor(at + 0.5).astype(int).tolist())
            if np.abs(at - begin).max() > reach or place not in holds:
                break
            end = place
            if np.abs(step).max() < 0.05:
                break
        inner = np.array(end) - before
        if (inner >= 0).all() and (inner < core).all():
            ends[spot] = np.ravel_multi_index(tuple(inner), core)
        else:
            ends[spot] = EXIT - np.ravel_multi_index(tuple(inner + start), full)
    return ends


PLACES = {  # array, halo in front, core, its first voxel, the full image, pace
    "plane": ((1, 19, 23), (0, 0, 0), (1, 19, 23), (0, 0, 0), (1, 19, 23), (1.0, 1.0, 1.0)),
    "oblong": ((1, 12, 30), (0, 0, 0), (1, 12, 30), (0, 0, 0), (1, 12, 30), (1.0, 0.4, 1.0)),
    "cut plane": ((1, 20, 24), (0, 5, 0), (1, 10, 18), (0, 30, 0), (1, 60, 50), (1.0, 1.0, 1.0)),
    "one plane of a volume": ((1, 9, 14), (0, 0, 0), (1, 9, 14), (0, 0, 0), (1, 9, 14), (1.0, 1.0, 1.0)),
    "volume": ((5, 9, 11), (0, 0, 0), (5, 9, 11), (0, 0, 0), (5, 9, 11), (0.3, 1.0, 0.8)),
    "cut volume": ((9, 9, 12), (4, 0, 4), (2, 9, 5), (8, 0, 20), (40, 12, 44), (1.0, 1.0, 1.0)),
}


def wild_flow(shape, place, seed=6):
    """Components that change within few voxels, those at the edges pointing anywhere, and a foreground with holes."""
    rng = np.random.default_rng([seed, *shape])
    noise = rng.standard_normal((3, *shape))
    smooth = ndimage.gaussian_filter(noise, (0, 1.5, 1.5, 1.5))
    flow = quantise_flow(0.7 * smooth / smooth.std() + 0.1 * noise)
    flow[0] *= shape[0] > 1 or "volume" in place
    return flow, rng.integers(0, 1200, shape).astype(np.uint16)


@pytest.mark.parametrize("place", PLACES)
def test_paths_end_where_plain_euler_steps_do(place):
    shape, *where, pace = PLACES[place]
    before, core, start, full = (np.array(v) for v in where)
    flow, foreground = wild_flow(shape, place)
    assert bool(flow[0].any()) == ("volume" in place)
    found = [path_ends(flow, foreground, (99, 3, pace), (before, start, full), core, n) for n in (1, 2)]
    expected = slow_ends(flow.astype(float), foreground > 99, 3, np.array(pace), (before, start, full), tuple(core))
    np.testing.assert_array_equal(found[0], expected)
    assert found[0].tobytes() == found[1].tobytes()
    own = np.arange(expected.size).reshape(expected.shape)
    assert ((expected != -1) & (expected != own)).mean() > 0.2  # they lead somewhere
    assert (expected == -1).any()
    assert (expected <= EXIT).any() == ("cut" in place)


@pytest.mark.parametrize("reach", [2, 16])
@pytest.mark.parametrize("ndim", [2, 3])
def test_all_paths_to_one_point_share_one_sink(ndim, reach):
    """Unit vectors towards a point anywhere between voxels, also where they are longest beside it."""
    rng, lead = np.random.default_rng(ndim), 3 - ndim
    shape = (1,) * lead + (15,) * ndim
    points = np.indices(shape, float)
    for centre in rng.uniform(6, 8, (20, 3)):
        centre[:lead] = 0.0
        away = centre.reshape(3, 1, 1, 1) - points
        length = np.sqrt(np.square(away).sum(0))
        flow = quantise_flow(away / np.maximum(length, 1e-9))
        level = np.where(length < 6, 900, 0).astype(np.uint16)
        found = flow_fragments(flow, level, 0, ((0, 0, 0), shape, (0, 0, 0), shape), (1.0, 1.0, 1.0), reach)
        assert len(found.first) == 1
        assert np.array_equal(found.fragment == 0, level > 0)


@pytest.mark.parametrize("place", PLACES)
def test_faces_of_trees_add_up_as_in_a_plain_loop(place):
    """So many pairs that sums of several share a place to be added up in."""
    shape, *where, pace = PLACES[place]
    before, core, start, full = (np.array(v) for v in where)
    flow, foreground = wild_flow(shape, place)
    found = flow_fragments(flow, foreground, 99, tuple(where), pace, 3)
    tables = {}
    for spot in np.argwhere(found.fragment >= 0):
        a = int(found.fragment[tuple(spot)])
        for axis in range(3):
            there = spot + (np.arange(3) == axis)
            i, j = tuple((spot + before).tolist()), tuple((there + before).tolist())
            if any(n >= m for n, m in zip(j, shape, strict=True)) or foreground[j] <= 99:
                continue
            if (there < core).all():
                b = int(found.fragment[tuple(there)])
                key = ("edge", min(a, b), max(a, b))
            else:
                b, key = None, ("link", a, int(np.ravel_multi_index(tuple(there + start), tuple(full))))
            if a == b:
                continue
            low = int(min(foreground[i], foreground[j]))
            row = tables.setdefault(key, [0, 0, 0])
            row[0] += (int(flow[(axis, *j)]) - int(flow[(axis, *i)])) * (low >> 8)
            row[1] += low >> 8
            row[2] = max(row[2], low)
    for kind, rows in (("edge", found.edges), ("link", found.links)):
        assert rows.tolist() == [[*key[1:], *row] for key, row in sorted(tables.items()) if key[0] == kind]
    assert len(found.edges) > 20
    assert bool(len(found.links)) == ("cut" in place)


def disturbed(labels, method, sigma, seed=0):
    """Ideal maps of labels with noise on the flow."""
    maps = method.ideal(method.encode(labels, (1.0,) * labels.ndim)[0])
    noise = np.random.default_rng(seed).standard_normal(maps["flow"].shape, np.float32)
    return {**maps, "flow": maps["flow"] + sigma * noise * (labels > 0)}


@pytest.mark.parametrize("sigma", [0.0, 0.5])
@pytest.mark.parametrize("name", ["flow", "flow_eikonal"])
def test_large_objects_are_checked_on_a_coarser_grid_with_nearly_the_same_error(name, sigma, monkeypatch):
    y, x = np.ogrid[:150, :180]
    labels = ((y - 74) ** 2 / 70**2 + (x - 88) ** 2 / 85**2 <= 1).astype(np.int32)
    labels[60:90, 88:] = 0
    method = METHODS[name]()
    state = method.local(disturbed(labels, method, sigma), Block.whole(labels.shape))
    sums, seen = [], []
    field = FIELDS[name]
    for most in (1 << 17, 9000):
        monkeypatch.setattr(flow_check, "_MOST", most)
        sums.append(flow_check.squared_errors(state, labels, lambda m, s: seen.append(m.size) or field(m, s), 1)[1])
    fine, coarse = np.array(sums) / labels.sum()
    assert seen[0] > 20_000 > 9000 > seen[1]
    assert abs(fine - coarse) < 0.05
    assert (fine < 1e-3) == (sigma == 0)


def test_a_large_thin_object_is_checked_voxel_by_voxel(monkeypatch):
    labels = np.zeros((120, 120), np.int32)
    labels[np.arange(120), np.arange(120)] = labels[np.arange(119), np.arange(1, 120)] = 1
    method = METHODS["flow"]()
    state = method.local(disturbed(labels, method, 0.4), Block.whole(labels.shape))
    whole = flow_check.squared_errors(state, labels, heat_flow, 1)
    monkeypatch.setattr(flow_check, "_MOST", 1000)
    assert flow_check.squared_errors(state, labels, heat_flow, 1).tolist() == whole.tolist()
    assert whole[1] > 10


def test_blocks_do_not_change_what_large_objects_are_checked_by(monkeypatch):
    monkeypatch.setattr(flow_check, "_MOST", 60)
    labels, method = discs(9, (46, 70)), METHODS["flow"]()
    maps = disturbed(labels, method, 0.5)
    ends = ((0, 20), (20, 46)), ((0, 13), (13, 41), (41, 70))
    blocks = [Block.cut([a for a, _ in one], [b - a for a, b in one], labels.shape, method.halo)
              for one in itertools.product(*ends)]
    states = [method.local({n: m[(slice(None), *b.read)] for n, m in maps.items()}, b) for b in blocks]
    limits, kept = np.linspace(0.25, 1.0, 31), []
    for limit in limits:
        thresholds = {"flow_error": float(limit)}
        found = method.resolve(states, thresholds).objects["first"].tolist()
        assert found == method.resolve([method.local(maps, Block.whole(labels.shape))], thresholds).objects[
            "first"].tolist()
        kept.append(len(found))
    assert 0 == kept[0] < kept[-1] == labels.max()


@pytest.mark.parametrize(("shape", "spacing"), [((33, 41), (1.0, 1.0)), ((8, 19, 17), (2.0, 1.0, 1.0))])
@pytest.mark.parametrize("name", ["flow", "flow_eikonal"])
def test_errors_of_objects_are_the_same_one_by_one_in_parts_and_together(name, shape, spacing, monkeypatch):
    rng, method = np.random.default_rng(5), METHODS[name]()
    labels, count = ndimage.label(ndimage.gaussian_filter(rng.standard_normal(shape), 1.0) > 0.2)
    maps = method.ideal(method.encode(labels, spacing)[0])
    maps = {k: (m + rng.normal(0, 0.2, m.shape)).astype(np.float32) for k, m in maps.items()}
    start = (0, *(3 for _ in shape[1:]))
    full = tuple(s + n + 3 for s, n in zip(start, shape, strict=True))
    # a block in the middle of an image, so that some of its sides are edges
    state = State(Block(start, shape, full, (0,) * len(shape), (0,) * len(shape), spacing),
                  {"flow": quantise_flow(maps["flow"])})
    found = []
    for cost, parts in ((-(10**9), 1), (10**9, 1), (10**9, 2), (10**9, 4)):
        monkeypatch.setattr(flow_check, "_CALL", cost)
        monkeypatch.setattr(flow_check, "_PARTS", parts)
        found.append(flow_check.squared_errors(state, labels, FIELDS[name], count + 1))
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])
    np.testing.assert_array_equal(found[3], found[0])
    assert count > 5
    assert (found[0][1: count + 1] > 0).all()
    assert found[0][count + 1] == 0
