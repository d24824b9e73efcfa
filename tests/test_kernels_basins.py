"""Basins: by hand, against a plain flood, and the same for every partition into blocks."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.segmentation import watershed

from biosegkit.errors import DataError
from biosegkit.kernels.bands import bands
from biosegkit.kernels.basin_graph import BasinGraph, cut, join
from biosegkit.kernels.basins import TOP, fragments, quantise, quantised
from biosegkit.methods import Block
from biosegkit.methods.basin_decoding import basin_state, paint_basins, resolve_basins

ZERO = (0, 0, 0)
THRESHOLDS = (
    {"foreground": 0.5, "seed": 0.5, "prominence": 0.05, "min_size": 4},
    {"foreground": 0.3, "seed": 0.2, "prominence": 0.15, "min_size": 0},
    {"foreground": 0.1, "seed": 0.7, "prominence": 0.0, "min_size": 1},
)


def smooth_noise(rng, shape, sigma):
    f = ndimage.gaussian_filter(rng.standard_normal(shape), sigma)
    return (f - f.min()) / np.ptp(f)


def maps(rng, shape, levels=None):
    """Height and foreground; with few levels there are plateaus everywhere."""
    foreground = np.clip(smooth_noise(rng, shape, 2) * 1.5 - 0.2, 0, 1)
    height = foreground * smooth_noise(rng, shape, 1)
    if levels:
        height, foreground = np.round(height * levels) / levels, np.round(foreground * levels) / levels
    return height, foreground


def decoded(height, foreground, thresholds, blocks, keep=False):
    """Labels, ids listed by blocks, and the table."""
    states = [basin_state(height[b.read], foreground[b.read], 0.1, b) for b in blocks]
    decisions = resolve_basins(states, thresholds, keep)
    labels, listed = np.zeros(height.shape, np.uint32), []
    for state in states:
        labels[state.block.write], rows = paint_basins(state, decisions)
        listed.extend(rows["id"].tolist())
    return labels, sorted(listed), decisions.objects


def partition(rng, shape):
    """A random grid of blocks in random order, with random halos."""
    edges = []
    for n in shape:
        cuts = np.sort(rng.choice(np.arange(1, n), int(rng.integers(0, min(4, n))), replace=False)) if n > 1 else []
        edges.append(list(itertools.pairwise([0, *map(int, cuts), n])))
    blocks = [
        Block.cut([a for a, _ in cell], [b - a for a, b in cell], shape, int(rng.integers(1, 4)))
        for cell in itertools.product(*edges)
    ]
    return [blocks[i] for i in rng.permutation(len(blocks))]


@pytest.mark.parametrize("shape", [(97,), (48, 61), (13, 21, 26), (1, 40, 33)])
@pytest.mark.parametrize("levels", [None, 7, 1])
def test_any_partition_gives_the_same_labels_ids_and_table(shape, levels):
    rng = np.random.default_rng([len(shape), levels or 0])
    height, foreground = maps(rng, shape, levels)
    for thresholds, keep in itertools.product(THRESHOLDS, (False, True)):
        whole, ids, table = decoded(height, foreground, thresholds, [Block.whole(shape)], keep)
        assert ids == table["id"].tolist() == list(range(1, int(whole.max()) + 1))
        for _ in range(5):
            labels, listed, rows = decoded(height, foreground, thresholds, partition(rng, shape), keep)
            np.testing.assert_array_equal(labels, whole)
            assert listed == ids
            for name, column in table.items():
                np.testing.assert_array_equal(rows[name], column, err_msg=name)


def test_threads_do_not_change_the_fragments():
    height, foreground = (quantise(m)[None] for m in maps(np.random.default_rng(5), (60, 70), 9))
    one = fragments(height, foreground, 6553, ZERO, ZERO, ZERO, height.shape)
    many = fragments(height, foreground, 6553, ZERO, ZERO, ZERO, height.shape, workers=5)
    for name in ("fragment", "root", "peak", "edges"):
        np.testing.assert_array_equal(getattr(one, name), getattr(many, name))


def plain_basins(height, domain):
    """Every voxel climbs to its best neighbour, one step at a time, in plain python."""
    best = {}
    for at in zip(*np.nonzero(domain), strict=True):
        options = []
        for step in itertools.product((-1, 0, 1), repeat=height.ndim):
            to = tuple(int(a) + s for a, s in zip(at, step, strict=True))
            if all(0 <= t < n for t, n in zip(to, height.shape, strict=True)) and domain[to]:
                options.append((-int(height[to]), np.ravel_multi_index(to, height.shape), to))
        best[tuple(map(int, at))] = min(options)[2]
    ends = {}
    for at in best:
        k = at
        while best[k] != k:
            k = best[k]
        ends[at] = k
    return ends


@pytest.mark.parametrize("shape", [(14, 17), (5, 7, 8)])
def test_basins_and_passes_are_those_of_their_definition(shape):
    rng = np.random.default_rng(8)
    height, foreground = rng.integers(0, 6, (2, *shape)).astype(np.uint16)
    domain = foreground > 1
    ends = plain_basins(height, domain)
    roots = sorted(set(ends.values()))
    expected = {}
    for a, b in itertools.combinations(ends, 2):
        if ends[a] != ends[b] and max(abs(p - q) for p, q in zip(a, b, strict=True)) == 1:
            pair = tuple(sorted((roots.index(ends[a]), roots.index(ends[b]))))
            h, f = expected.get(pair, (0, 0))
            both = (min(int(height[a]), int(height[b])), min(int(foreground[a]), int(foreground[b])))
            expected[pair] = (max(h, both[0]), max(f, both[1]))
    full = (1,) * (3 - len(shape)) + shape
    parts = fragments(height.reshape(full), foreground.reshape(full), 1, ZERO, ZERO, ZERO, full)
    graph = join([parts])
    found = parts.fragment.reshape(shape)
    assert all(found[at] == roots.index(end) for at, end in ends.items())
    assert (found[~domain] == -1).all()
    assert graph.peak.tolist() == [int(height[r]) for r in roots]
    assert {(a, b): (h, f) for a, b, h, f in graph.edges.tolist()} == expected
    order = [(-h, a, b) for a, b, h, _ in graph.edges.tolist()]
    assert order == sorted(order)


def test_agrees_with_a_seeded_flood_on_smooth_maps():
    rng = np.random.default_rng(2)
    height = smooth_noise(rng, (96, 96), 3)
    thresholds = {"foreground": 0.1, "seed": 0.6, "prominence": 0.0, "min_size": 0}
    labels, _, _ = decoded(height, np.ones_like(height), thresholds, [Block.whole(height.shape)])
    seeds, count = ndimage.label(height > 0.6, np.ones((3, 3)))
    flood = watershed(-height, seeds, connectivity=2)
    assert labels.max() == count
    # ids differ in order: compare the partitions through the seed each object holds
    order = np.zeros(count + 1, int)
    order[labels[seeds > 0]] = seeds[seeds > 0]
    assert (order[labels] == flood).mean() > 0.99


def line(peaks, edges):
    return BasinGraph((np.arange(len(peaks)),), np.array(peaks), np.array(edges, np.int64).reshape(-1, 4))


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((0, 50, 0), [0, 1, 1, 1]),  # 70 and 90 meet at 60 > seed; 20 is no seed and joins 90
        ((0, 65, 0), [0, 1, 2, 2]),  # the pass of 60 parts them
        ((0, 65, 11), [0, 1, 1, 1]),  # 70 rises only 10 above its pass
        ((0, 65, 51), [0, 0, 0, 0]),  # and 80 only 50
        ((5, 65, 11), [0, 1, 1, -1]),  # the last edge has a foreground of 5
        ((9, 85, 0), [-1, -1, 2, -1]),  # no edge is left; only 90 is a seed
    ],
)
def test_cut_by_hand(limits, expected):
    graph = line([80, 70, 90, 20], [[1, 2, 60, 9], [0, 1, 30, 9], [2, 3, 10, 5]])
    foreground, seed, prominence = limits
    assert cut(graph, foreground, seed, prominence).tolist() == expected


def test_unseeded_components_can_be_kept():
    graph = line([80, 20, 30], [[1, 2, 10, 9]])
    assert cut(graph, 0, 50, 0).tolist() == [0, -1, -1]
    assert cut(graph, 0, 50, 0, keep_unseeded=True).tolist() == [0, 1, 1]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_raising_prominence_only_merges_and_raising_foreground_only_removes(seed):
    rng = np.random.default_rng(seed)
    height, foreground = maps(rng, (30, 35), 20)
    block = [Block.whole(height.shape)]
    low = {"foreground": 0.2, "seed": 0.2, "prominence": 0.02, "min_size": 0}
    a, _, _ = decoded(height, foreground, low, block)
    b, _, _ = decoded(height, foreground, {**low, "prominence": 0.2}, block)
    assert len(np.unique(np.stack([a, b]).reshape(2, -1), axis=1).T) == a.max() + int((a == 0).any())
    c, _, _ = decoded(height, foreground, {**low, "foreground": 0.6}, block)
    assert not ((c > 0) & ~(foreground > 0.6)).any()


def test_quantise_rounds_clips_and_takes_nan_for_nothing():
    values = np.array([np.nan, -np.inf, -1, 0, 0.25 / TOP, 0.75 / TOP, 1, np.inf], np.float32)
    assert quantise(values).tolist() == [0, 0, 0, 0, 0, 1, TOP, TOP]


def test_a_missing_block_or_halo_is_refused():
    height = np.tile(np.linspace(0.2, 1, 20), (4, 1))
    left = Block.cut((0, 0), (4, 10), (4, 20))
    state = basin_state(height[left.read], height[left.read], 0.1, left)
    with pytest.raises(DataError, match="all blocks"):
        resolve_basins([state], THRESHOLDS[0], False)
    bare = Block((0, 0), (4, 10), (4, 20), (0, 0), (0, 0))
    with pytest.raises(DataError, match="halo"):
        basin_state(height[:, :10], height[:, :10], 0.1, bare)
    with pytest.raises(DataError, match="shape"):
        basin_state(height, height, 0.1, left)


@pytest.mark.parametrize("size", [1, 7, 60, 1 << 16])
@pytest.mark.parametrize("shape", [(), (0,), (5, 0), (23,), (7, 9), (4, 5, 6), (3, 1, 2, 5)])
def test_bands_are_the_array_in_raster_order(shape, size):
    places = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    parts = [places[band] for band in bands(shape, size)]
    if not shape or not places.size:
        assert not parts
        return
    assert np.concatenate([part.ravel() for part in parts]).tolist() == places.ravel().tolist()
    assert all(part.size <= max(size, shape[-1] if len(shape) > 1 else 1) for part in parts)


def test_values_are_rounded_alike_in_bands_of_any_kind_of_array():
    values = np.random.default_rng(4).uniform(-0.2, 1.2, (2, 300, 310))
    values[0, 3, 4] = np.nan
    expected = quantise(values.astype(np.float32))
    assert quantise(values).tobytes() == expected.tobytes()
    assert quantise(np.asfortranarray(values)).tobytes() == expected.tobytes()
    assert quantised(values.shape, lambda part: values[part]).tobytes() == expected.tobytes()
    assert (expected.min(), expected.max()) == (0, TOP)
