"""The threshold of classes: labels at 0.5 are the argmax, others follow the share; the best by Dice worked by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biosegkit.class_tuning import LEAST_CASES, tune_classes
from biosegkit.methods import Block, Semantic
from biosegkit.methods.protocol import checked_thresholds
from biosegkit.methods.trials import Held


def painted(method, maps, **thresholds):
    """Labels of maps that are one block."""
    state = method.local(maps, Block.whole(next(iter(maps.values())).shape[1:]))
    return method.paint(state, method.resolve([state], checked_thresholds(method.tunables, thresholds)))[0]


def case(name, background, truth, method=None, valid=None):
    """One line of voxels with these probabilities of the background and, of what is left, all in class 1."""
    b = np.asarray(background, np.float64)
    method = method or Semantic(2)
    return Held(name, method.local({"classes": np.stack([b, 1 - b])}, Block.whole(b.shape)), np.asarray(truth), valid)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 300), st.integers(0, 2**32 - 1), st.booleans())
def test_without_a_threshold_labels_are_the_argmax_to_the_last_tie(classes, seed, coarse):
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, 3, (classes, 40)) if coarse else rng.normal(size=(classes, 40))  # coarse: many ties
    maps = (np.exp(logits) / np.exp(logits).sum(0)).astype(np.float32)
    found = painted(Semantic(classes), {"classes": maps})
    np.testing.assert_array_equal(found, maps.argmax(0))
    assert found.dtype == (np.uint8 if classes <= 256 else np.uint16)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 5), st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.35, 0.6, 0.9]))
def test_a_threshold_weighs_the_best_class_against_the_background(classes, seed, limit):
    maps = np.random.default_rng(seed).dirichlet(np.ones(classes), 50).T.astype(np.float32)
    best = maps[1:].max(0)
    share = best / (best + maps[0])
    clear = np.abs(share - limit) > 1 / 255  # shares are kept in 255 steps
    wanted = np.where(share > limit, 1 + maps[1:].argmax(0), 0)
    np.testing.assert_array_equal(painted(Semantic(classes), {"classes": maps}, foreground=limit)[clear], wanted[clear])


def test_the_score_of_a_class_is_its_mean_probability_at_any_threshold():
    method = Semantic(2)
    maps = {"classes": np.array([[0.4, 0.2, 0.9], [0.6, 0.8, 0.1]])}
    state = method.local(maps, Block.whole((3,)))
    table = method.resolve([state], {"foreground": 0.7}).objects
    assert table["area"].tolist() == [1]
    assert table["score"][0] == pytest.approx(0.8, abs=1 / 255)
    assert method.resolve([state]).objects["score"][0] == pytest.approx(0.7, abs=1 / 255)


def test_a_border_drawn_too_wide_is_drawn_where_the_truth_has_it():
    # by hand: the share is 0.9, 0.6, 0.1; truth holds the first alone, so any value in [0.6, 0.9) is right, and 0.6
    # (153 of 255 is not above 153) lies nearest the default
    cases = [case(name, [0.1, 0.4, 0.9], [1, 0, 0]) for name in "abcd"]
    tuned = tune_classes(Semantic(2), cases)
    assert tuned.thresholds == {"foreground": 0.6}
    # default: class 2·1/(2+1), background 2·1/(1+2)
    assert (tuned.score, tuned.default_score) == (1.0, pytest.approx(2 / 3))
    assert tuned.cases == tuple("abcd")
    assert len(tuned.trials) == 19


def test_the_background_counts_as_much_as_a_class():
    # class 1 covers 8 of 10 voxels: below 0.4 its Dice rises from 14/15 to 16/17, the background's falls from 4/5 to
    # 2/3
    background = [0.1] * 7 + [0.6] + [0.55, 0.9]
    truth = [1] * 8 + [0, 0]
    tuned = tune_classes(Semantic(2), [case(n, background, truth) for n in "abc"])
    assert tuned.thresholds == {"foreground": 0.5}


def test_what_differs_from_case_to_case_changes_nothing():
    # the same probabilities are right in half of the cases: a higher value corrects five and spoils four
    cases = [case(str(i), [0.1, 0.4, 0.9], [1, 0, 0] if i % 2 else [1, 1, 0]) for i in range(1, 10)]
    assert tune_classes(Semantic(2), cases).thresholds == {"foreground": 0.5}


def test_few_cases_or_none_keep_the_default():
    cases = [case(name, [0.1, 0.4, 0.9], [1, 0, 0]) for name in "ab"]
    assert len(cases) < LEAST_CASES
    assert tune_classes(Semantic(2), cases).thresholds == {"foreground": 0.5}
    assert tune_classes(Semantic(2), []).cases == ()


def test_planes_of_a_case_are_one_case():
    planes = [(("a", [0.1, 0.4], [1, 0])), ("a", [0.9, 0.9], [0, 0]), ("b", [0.1, 0.4], [1, 0]),
              ("c", [0.1, 0.4], [1, 0])]
    tuned = tune_classes(Semantic(2), [case(*p) for p in planes])
    assert tuned.cases == ("a", "b", "c")
    # by hand, default: class 2/3 everywhere; background of a 2·2/(2+3) over both planes, of b and c 0
    assert tuned.default_score == pytest.approx(((2 / 3 + 4 / 5) / 2 + 2 * (2 / 3) / 2) / 3)


def test_ignored_voxels_count_nowhere():
    known = np.array([True, False, True])
    cases = [case(name, [0.1, 0.4, 0.9], [1, 0, 0], valid=known) for name in "abc"]
    tuned = tune_classes(Semantic(2), cases)
    assert tuned.thresholds == {"foreground": 0.5}
    assert tuned.score == tuned.default_score == 1.0


def test_regions_have_a_threshold_of_their_own():
    method = Semantic(3, regions=((1, 2), (2,)), region_values=(1, 2))
    maps = {"regions": np.array([[0.9, 0.9, 0.6, 0.1], [0.8, 0.6, 0.1, 0.1]])}
    truth = np.array([2, 1, 0, 0])
    cases = [Held(n, method.local(maps, Block.whole((4,))), truth) for n in "abc"]
    tuned = tune_classes(method, cases)
    assert tuned.thresholds == {"region": 0.6}
    assert tuned.score == 1.0
    # by hand, default: background 2/3, whole 4/5, core 2/3
    assert tuned.default_score == pytest.approx((2 / 3 + 4 / 5 + 2 / 3) / 3)
