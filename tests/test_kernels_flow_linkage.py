"""Merges of trees against a plain loop over all pairs; what they cost in the worst case."""

from math import log2

import numpy as np
import pytest

from biosegkit.kernels import flow_linkage
from biosegkit.kernels.flow_graph import FlowGraph
from biosegkit.kernels.flow_linkage import cut_linkage, link_trees, merge_trees


def random_graph(rng, trees=60, edges=150):
    """Few different repulsions, so that many are equal."""
    pairs = np.unique(np.sort(rng.integers(0, trees, (edges, 2)), axis=1), axis=0)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    weight = rng.integers(1, 4, len(pairs))
    rows = [pairs, rng.integers(-3, 4, len(pairs)) * 60 * weight, weight, rng.integers(0, 3, len(pairs))]
    return FlowGraph(trees, (), np.column_stack(rows))


@pytest.mark.parametrize("seed", range(20))
def test_every_limit_is_a_cut_of_one_linkage_and_names_tell_objects_apart(seed):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    whole, objects = link_trees(graph, 0), {}
    for limit in np.linspace(-1.6, 1.6, 33):
        root, names = cut_linkage(whole, limit)
        np.testing.assert_array_equal(root, merge_trees(graph, 0, limit))
        for name in np.unique(names):
            trees = frozenset(np.flatnonzero(names == name).tolist())
            assert objects.setdefault(name, trees) == trees
    assert len(set(objects.values())) == len(objects) > graph.count


def slow_merges(graph, foreground, limit):
    """(mean, tree, tree it goes into) of every merge: the least of all pairs again and again, by sums over faces."""
    rows = [(k, {int(a)}, {int(b)}, int(push), int(weight))
            for k, (a, b, push, weight, most) in enumerate(graph.edges) if most > foreground]
    merges = []
    while rows:
        mean, _, k = min((push / weight, first, k) for k, (first, _, _, push, weight) in enumerate(rows))
        if not mean < limit * 127:
            break
        _, one, other, _, _ = rows[k]
        merges.append((mean, max(min(one), min(other)), min(*one, *other)))
        both, kept = one | other, {}
        for first, a, b, push, weight in rows:
            ends = frozenset(frozenset(both if end <= both else end) for end in (a, b))
            if len(ends) == 2:
                least, pushes, weights = kept.get(ends, (first, 0, 0))
                kept[ends] = min(least, first), pushes + push, weights + weight
        rows = [(first, *(set(end) for end in ends), push, weight) for ends, (first, push, weight) in kept.items()]
    return merges


@pytest.mark.parametrize("limit", [np.inf, 0.1])
@pytest.mark.parametrize("seed", range(8))
def test_the_pair_that_repels_least_is_merged_first(seed, limit):
    """Also of several that repel alike."""
    graph = random_graph(np.random.default_rng(seed), trees=40, edges=90)
    linked = link_trees(graph, 0, limit)
    turns = np.argsort(linked.turn)
    found = [(linked.height[b], b, linked.into[b]) for b in turns[linked.turn[turns] > 0].tolist()]
    assert found == slow_merges(graph, 0, limit)
    assert len(found) > 5
    assert (linked.into[linked.turn == 0] == np.flatnonzero(linked.turn == 0)).all()


def graph_of(rows):
    """Of rows (a, b, repulsion) with weight 1."""
    rows = np.array(rows)
    return FlowGraph(rows[:, 1].max() + 1, (), np.column_stack([rows, np.ones((len(rows), 2), int)]))


def chain(n):
    """Ever more repulsion from one to the next: only one pair at a time is each other's least."""
    return graph_of([(k, k + 1, k - n) for k in range(n)])


def hub(n):
    """One tree touches all others and gets another smallest tree with every merge."""
    return graph_of([(k, n, -k) for k in range(n)])


def wheel(n):
    """A hub whose neighbours are in a ring, all alike."""
    return graph_of([*((0, k, 3) for k in range(1, n)), *((k, k + 1, 3) for k in range(1, n - 1))])


def grid(n):
    """Trees of a square that touch four others, in any order."""
    side = int(n**0.5)
    k = np.arange(side * side).reshape(side, side)
    pairs = np.concatenate([np.stack([k[:, :-1], k[:, 1:]], -1).reshape(-1, 2),
                            np.stack([k[:-1], k[1:]], -1).reshape(-1, 2)])
    push = np.random.default_rng(n).permutation(len(pairs)) - len(pairs)
    return graph_of(np.column_stack([pairs, push]))


@pytest.mark.parametrize("make", [chain, hub, wheel, grid])
def test_neighbours_are_handed_over_n_log_n_times_at_most(make):
    """By a count: the two ends of each row move only into a tree with at least as many."""
    for size in (500, 20_000):
        graph = make(size)
        rows, limit = graph.edges, 1e9
        found = np.arange(graph.count), np.zeros(graph.count), np.zeros(graph.count, np.int64)
        handed = flow_linkage._link(rows[:, :2].copy(), rows[:, 2].copy(), rows[:, 3].copy(), limit, found)
        assert (found[0][1:] < np.arange(1, graph.count)).all()  # all are one in the end
        assert handed <= len(rows) * log2(2 * len(rows))
