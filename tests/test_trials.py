"""Trials from tables: the same counts as resolving, painting and comparing, for any thresholds, block and truth."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from biosegkit.errors import OptionError
from biosegkit.methods import METHODS, Block, Distance, Flow, Semantic, Star
from biosegkit.methods.trials import Counting, Held, counter_of, decoding_counter
from biosegkit.metrics.instances import count_matches
from biosegkit.tune import grid_values, tune

COUNTING = {name: make() for name, make in METHODS.items() if name != "semantic" and isinstance(make(), Counting)}
ALL = COUNTING | {"star merged": Star(merge=True, rule="iou", n_rays=8), "star alone": Star(reach=1.0),
                  "flow by euler": Flow(decoder="euler")}


def case(method, shape, seed, ignored=False):
    """Blobs that touch, their maps with noise, and a truth of sparse ids."""
    rng = np.random.default_rng(seed)
    labels, count = ndimage.label(ndimage.gaussian_filter(rng.standard_normal(shape), 1.5) > 0.02)
    labels = rng.permutation(5 * count + 1)[: count + 1][labels] * (labels > 0)
    labels = labels.astype(np.int32)
    targets, _ = method.encode(labels, (1.0,) * len(shape))
    maps = {name: (m + rng.normal(0, 0.3, m.shape)).astype(np.float32) for name, m in method.ideal(targets).items()}
    valid = ndimage.gaussian_filter(rng.standard_normal(shape), 3) > -0.05 if ignored else None
    return Held("a", method.local(maps, Block.whole(shape)), labels, valid)


def usual(tunable, rng):
    """Where thresholds usually lie, and the ends of the range."""
    inner = rng.uniform(max(tunable.low, 0), min(tunable.high, 1) if tunable.low < 1 else tunable.high, 4)
    return sorted([*inner, tunable.low, min(tunable.high, 4)])


def chosen(method, rng, tried):
    """Random thresholds among those announced; the smallest size is free."""
    values = {name: float(rng.choice(tried[name])) for name in tried if name != "min_size"}
    return {**values, "min_size": float(rng.integers(0, 40))}


def test_the_distance_method_counts_from_tables():
    assert "distance" in COUNTING


@pytest.mark.parametrize("name", COUNTING)
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**16), st.sampled_from([(33, 41), (1, 7), (9, 14, 15)]), st.booleans())
def test_overlaps_are_those_of_the_painted_labels(name, seed, shape, ignored):
    method, rng = COUNTING[name], np.random.default_rng(seed)
    held = case(method, shape, seed, ignored)
    tried = {n: usual(t, rng) for n, t in method.tunables.items()}
    table, painted = counter_of(method, [held], tried), decoding_counter(method, [held])
    for _ in range(6):
        values = chosen(method, rng, tried)
        (ours,), (slow,) = table(values), painted(values)
        # true objects are numbered on, everything else is the same
        slow = dataclasses.replace(slow, ids_a=np.arange(1, len(slow.ids_a) + 1), pairs=np.column_stack(
            [np.searchsorted(slow.ids_a, slow.pairs[:, 0]) + 1, slow.pairs[:, 1]]))
        for f in dataclasses.fields(slow):
            np.testing.assert_array_equal(getattr(ours, f.name), getattr(slow, f.name), err_msg=f.name)


@pytest.mark.parametrize("name", ALL)
def test_cases_side_by_side_are_the_sum_of_all(name):
    method, rng = ALL[name], np.random.default_rng(3)
    held = [case(method, (30, 20 + 9 * k), k, ignored=k == 1) for k in range(4)]
    tried = {n: grid_values(t) for n, t in method.tunables.items()}
    table, painted = counter_of(method, held, tried), decoding_counter(method, held)
    for _ in range(20):
        values = chosen(method, rng, tried)
        (ours,), (first, *more) = map(count_matches, table(values)), map(count_matches, painted(values))
        total = sum(more, first)
        assert (ours.tp, ours.n_true, ours.n_pred, ours.pq_tp) == (total.tp, total.n_true, total.n_pred, total.pq_tp)
        assert ours.iou_sum == pytest.approx(total.iou_sum)


@pytest.mark.parametrize("name", COUNTING)
def test_tuning_by_tables_and_by_painting_is_the_same(name):
    method = COUNTING[name]
    held = [case(method, (40, 44), k, ignored=k == 1) for k in range(3)]

    class Painting:
        """The method without its counter."""

        tunables, resolve, paint = method.tunables, staticmethod(method.resolve), staticmethod(method.paint)

    ours, slow = tune(method, held), tune(Painting(), held)
    assert dataclasses.replace(ours, trials=()) == dataclasses.replace(slow, trials=())
    for (values, score), (same, painted) in zip(ours.trials, slow.trials, strict=True):
        assert values == same
        assert score == painted if score is not None else painted <= ours.score
    assert all(score is not None for _, score in ours.trials) == ("flow" not in name)


@pytest.mark.parametrize("name", [name for name in ALL if "flow" in name])
def test_what_a_trial_may_reach_is_never_below_what_it_does(name):
    """Each look holds more objects than in the end at most and fewer at least; the last holds those of painting."""
    method, rng = ALL[name], np.random.default_rng(8)
    held = [case(method, (50, 60), k) for k in range(3)]
    tried, looks = {n: grid_values(t) for n, t in method.tunables.items()}, 0
    painted = decoding_counter(method, held)
    for _ in range(12):
        values = {**chosen(method, rng, tried), "flow_error": 1.0}
        steps = list(counter_of(method, held, tried).narrow(values))
        first, *more = map(count_matches, painted(values))
        true, false = sum(more, first).tp, [sum(more, first).n_pred - tp for tp in sum(more, first).tp]
        for every, certain in steps:
            most, least = count_matches(every), count_matches(certain)
            assert all(a >= b for a, b in zip(most.tp, true, strict=True))
            assert all(least.n_pred - a <= b for a, b in zip(least.tp, false, strict=True))
        assert (most.tp, most.n_pred, least) == (true, false[0] + true[0], most)
        looks += len(steps)
    assert looks > 20  # not all is known at once


def test_a_value_that_was_not_announced_is_refused():
    method = Distance()
    count = counter_of(method, [case(method, (20, 20), 0)], {"foreground": [0.5]})
    with pytest.raises(OptionError, match=r"foreground=0\.3"):
        count({"foreground": 0.3})


def test_nothing_to_count_is_no_match():
    method = Distance()
    empty = Held("a", case(method, (8, 8), 0).state, np.zeros((8, 8), np.int32), np.zeros((8, 8), bool))
    (counts,) = map(count_matches, counter_of(method, [empty], {"foreground": [0.5]})({}))
    assert (counts.n_true, counts.n_pred) == (0, 0)
    (counts,) = map(count_matches, counter_of(method, [], {"foreground": [0.5]})({}))
    assert (counts.n_true, counts.n_pred) == (0, 0)


def test_other_methods_are_painted():
    assert not isinstance(Semantic(2), Counting)
