"""Thresholds are found where they are, defaults survive ties, ignored voxels count nowhere."""

import numpy as np
import pytest

from biosegkit.methods import Distance
from biosegkit.methods.protocol import Block, Decisions, State, Tunable, checked_thresholds, empty_table
from biosegkit.tune import GOALS, Held, grid_values, search_values, tune


class Threshold:
    """A method whose objects are the truth where the score exceeds one threshold and not another."""

    def __init__(self, tunables):
        self.tunables, self.runs = tunables, 0

    def resolve(self, states, thresholds=None):
        self.runs += 1
        return Decisions(checked_thresholds(self.tunables, thresholds), {}, empty_table(2))

    def paint(self, state, decisions):
        kept = np.zeros(state.arrays["ids"].shape, np.uint16)
        t = decisions.thresholds
        for i, score in enumerate(state.arrays["scores"], 1):
            if score > t["low"] and (t.get("high") is None or score < t["high"]):
                kept[state.arrays["ids"] == i] = i
        return kept, empty_table(2)


def held(scores, real, shape=(12, 40), valid=None, case="a"):
    """Squares in a row; those of ``real`` are in the truth."""
    ids = np.zeros(shape, np.uint16)
    for i in range(len(scores)):
        ids[2:6, 6 * i + 1: 6 * i + 5] = i + 1
    truth = np.where(np.isin(ids, np.flatnonzero(real) + 1), ids, 0)
    return Held(case, State(Block.whole(shape), {"ids": ids, "scores": np.array(scores)}), truth, valid)


LOW = Tunable(0.5, 0.0, 0.9, 4, "keep above")
HIGH = Tunable(0.95, 0.5, 0.95, 4, "keep below")


def test_the_threshold_that_parts_right_from_wrong_is_found():
    tuned = tune(Threshold({"low": LOW}), [held([0.35, 0.45, 0.2, 0.25], [1, 1, 0, 0])])
    assert tuned.thresholds == {"low": 0.3}
    # by hand: with the default nothing is found
    assert (tuned.score, tuned.default_score) == (1.0, 0.0)


def test_two_thresholds_are_searched_together():
    case = held([0.35, 0.4, 0.2, 0.9], [1, 1, 0, 0])
    tuned = tune(Threshold({"low": LOW, "high": HIGH}), [case])
    assert tuned.score == 1.0
    assert tuned.thresholds["low"] == 0.3
    assert 0.4 < tuned.thresholds["high"] <= 0.9


def test_the_score_is_the_mean_pooled_ap_by_hand():
    # 0.5: 0.6 and 0.7 are kept, 0.3 missed: one true positive, one false, one missed at every IoU
    tuned = tune(Threshold({"low": Tunable(0.5, 0, 1, 1, "")}), [held([0.6, 0.7, 0.3], [1, 0, 1])])
    assert tuned.default_score == pytest.approx(1 / 3)
    assert len(GOALS) == 3


def test_ties_keep_the_default():
    tuned = tune(Threshold({"low": LOW}), [held([0.95, 0.99], [1, 1])])
    assert tuned.thresholds == {"low": 0.5}
    assert tuned.score == tuned.default_score == 1.0


def test_nothing_is_tried_twice_and_every_trial_is_listed():
    method = Threshold({"low": LOW, "high": HIGH})
    tuned = tune(method, [held([0.3, 0.8], [1, 0])])
    keys = [tuple(sorted(values.items())) for values, _ in tuned.trials]
    assert len(keys) == len(set(keys)) == method.runs
    assert (tuned.thresholds, tuned.score) in [(v, s) for v, s in tuned.trials]
    assert max(s for _, s in tuned.trials) == tuned.score


def test_no_trial_begins_after_the_time_is_up_and_the_best_so_far_is_taken(monkeypatch):
    """A clock that moves a second per look: with ten of them, ten trials beside the default."""
    case, clock = [held([0.35, 0.4, 0.2, 0.9], [1, 1, 0, 0])], iter(range(10_000))
    monkeypatch.setattr("biosegkit.tune.time.monotonic", lambda: float(next(clock)))
    all_of_it = tune(Threshold({"low": LOW, "high": HIGH}), case)
    late = tune(Threshold({"low": LOW, "high": HIGH}), case, until=-1.0)
    assert late.trials == (({"low": 0.5, "high": 0.95}, late.default_score),)
    some = tune(Threshold({"low": LOW, "high": HIGH}), case, until=next(clock) + 4.5)
    assert 1 < len(some.trials) < len(all_of_it.trials)
    assert some.trials == all_of_it.trials[: len(some.trials)]
    assert some.score == max(score for _, score in some.trials)


def test_cases_are_pooled():
    cases = [held([0.2], [1]), held([0.2, 0.15, 0.15], [0, 0, 0]), held([0.2, 0.3], [1, 1])]
    tuned = tune(Threshold({"low": Tunable(0.1, 0.1, 0.25, 4, "")}), cases)
    # 0.15: three true, one false → 3/4; 0.1: three true, three false → 1/2; 0.2: one true, two missed → 1/3
    assert tuned.thresholds["low"] == pytest.approx(0.15)
    assert tuned.score == pytest.approx(3 / 4)


def test_L9_ignored_objects_do_not_decide():
    valid = np.ones((12, 40), bool)
    valid[:, 12:] = False
    case = held([0.3, 0.3, 0.2, 0.2], [1, 1, 0, 0], valid=valid)
    assert tune(Threshold({"low": Tunable(0.1, 0.1, 0.9, 1, "")}), [case]).score == 1.0


def test_L8_without_objects_or_cases_the_defaults_stay():
    for cases in ([], [held([], [])]):
        tuned = tune(Threshold({"low": LOW}), cases)
        assert tuned.thresholds == {"low": 0.5}
        assert tuned.score == 0.0


def test_search_values_are_a_coarse_part_of_the_grid():
    for steps in (2, 5, 7, 8, 17, 99):
        tunable = Tunable(0.5, 0.0, 1.0, steps, "")
        grid, coarse = grid_values(tunable), search_values(tunable)
        assert len(grid) == steps
        assert set(coarse) <= set(grid)
        assert (coarse[0], coarse[-1], len(coarse)) == (0.0, 1.0, min(steps, 7))
        assert max(np.diff(coarse)) <= 1 / (len(coarse) - 1) + 1 / (steps - 1)
    assert search_values(Tunable(0.5, 0.2, 0.8, 2, "")) == [0.2, 0.8]


def test_the_search_becomes_finer_around_the_best():
    # right and wrong are parted between 0.42 and 0.45 only, where no coarse value lies
    tunable = Tunable(0.9, 0.0, 0.96, 33, "")
    assert not any(0.42 <= v < 0.45 for v in search_values(tunable))
    tuned = tune(Threshold({"low": tunable}), [held([0.46, 0.45, 0.42, 0.1, 0.2, 0.3], [1, 1, 0, 0, 0, 0])])
    assert tuned.score == 1.0
    assert 0.42 <= tuned.thresholds["low"] < 0.45
    assert len(tuned.trials) < 33


def test_cases_are_listed_and_read_once():
    read = []

    def cases():
        for name in "abc":
            read.append(name)
            yield held([0.35], [1], case=name)

    assert tune(Threshold({"low": LOW}), cases()).cases == ("a", "b", "c")
    assert read == ["a", "b", "c"]


def test_a_real_method_is_tuned_from_its_states():
    labels = np.zeros((32, 32), np.uint16)
    labels[4:14, 4:14], labels[18:28, 10:24] = 1, 2
    method = Distance()
    targets, _ = method.encode(labels, (1.0, 1.0))
    maps = method.ideal(targets)
    state = method.local({k: v * 0.45 for k, v in maps.items()}, Block.whole((32, 32)))
    tuned = tune(method, [Held("a", state, labels)])
    assert tuned.score >= tuned.default_score
    assert tuned.score == 1.0
