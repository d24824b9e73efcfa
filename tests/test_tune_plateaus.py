"""Of thresholds as good as the best those in the middle are taken, and the defaults where they are among them."""

import numpy as np
import pytest

from biosegkit.kernels.overlap import Overlaps
from biosegkit.methods.protocol import Tunable
from biosegkit.methods.trials import Cost
from biosegkit.tune import EQUAL, tune

#: True objects of the counter: a score is a multiple of one in so many.
MANY = 4000


def matched(score):
    """Objects that lie on true ones exactly, so that AP at every IoU is the score, and no object that is wrong."""
    true, hits = np.arange(1, MANY + 1), np.arange(1, round(score * MANY) + 1)
    return Overlaps(true, hits, np.full(MANY, 9), np.full(len(hits), 9), np.column_stack([hits, hits]),
                    np.full(len(hits), 9), np.zeros(len(hits), int))


class Landscape:
    """A method whose score is a function of its thresholds; how often it was asked."""

    trial_cost = Cost(0.0, 0.0)

    def __init__(self, score, **defaults):
        self.asked, self.score_of = 0, score
        self.tunables = {name: Tunable(default, 0.0, 1.0, 21, "") for name, default in defaults.items()}

    def counter(self, held, tried):
        assert not list(held)

        def count(values):
            self.asked += 1
            return [matched(self.score_of(**values))]

        return count


def test_the_middle_of_a_plateau_is_taken():
    tuned = tune(Landscape(lambda a: 0.9 if 0.2 <= a <= 0.6 else 0.4, a=0.95), [])
    assert tuned.thresholds == {"a": 0.4}
    assert (tuned.score, tuned.default_score) == pytest.approx((0.9, 0.4))


def test_a_plateau_that_reaches_an_end_of_the_range_has_a_middle_too():
    assert tune(Landscape(lambda a: 0.9 if a >= 0.6 else 0.4, a=0.1), []).thresholds == {"a": 0.8}


def test_an_even_plateau_is_parted_on_the_side_of_the_default():
    # 0.3, 0.35, 0.4, 0.45: the middle lies between two
    for default, middle in ((0.1, 0.35), (0.9, 0.4)):
        assert tune(Landscape(lambda a: 0.9 if 0.29 < a < 0.46 else 0.4, a=default), []).thresholds == {"a": middle}


def test_a_plateau_ends_where_a_score_is_lower_even_if_it_rises_again():
    tuned = tune(Landscape(lambda a: 0.9 if a < 0.26 or a > 0.64 else 0.4, a=0.5), [])
    assert tuned.thresholds["a"] in (0.1, 0.15)  # 0 to 0.25, found first


def test_a_single_peak_is_found_where_it_is():
    tuned = tune(Landscape(lambda a, b: 0.9 - abs(a - 0.35) - 0.5 * abs(b - 0.7), a=0.6, b=0.4), [])
    assert tuned.thresholds == {"a": 0.35, "b": 0.7}
    assert tuned.score == pytest.approx(0.9)


def test_the_middle_of_a_ridge_is_on_the_ridge():
    """As good where a + b is near one and neither near an end: moved along a, then along b, nobody falls off."""
    def score(a, b):
        return 0.9 if abs(a + b - 1) < 0.16 and 0.19 < a < 0.81 else 0.5 - 0.2 * abs(a + b - 1)

    tuned = tune(Landscape(score, a=0.0, b=0.0), [])
    a, b = tuned.thresholds.values()
    assert tuned.score == pytest.approx(0.9)
    assert abs(a + b - 1) < 0.06  # across the ridge, five values wide along either, in its middle


def test_the_middle_of_a_block_is_its_middle_along_both():
    tuned = tune(Landscape(lambda a, b: 0.9 if 0.19 < a < 0.61 and 0.49 < b < 0.91 else 0.3, a=1.0, b=0.0), [])
    assert tuned.thresholds == {"a": 0.4, "b": 0.7}


def test_defaults_on_the_plateau_stay():
    method = Landscape(lambda a, b: 0.9 if a > 0.3 and b > 0.3 else 0.3, a=0.95, b=0.35)
    tuned = tune(method, [])
    assert tuned.thresholds == {"a": 0.95, "b": 0.35}
    assert tuned.score == tuned.default_score == pytest.approx(0.9)


def test_one_default_stays_where_another_has_to_move():
    tuned = tune(Landscape(lambda a, b: 0.9 if a > 0.59 and b > 0.29 else 0.3, a=0.1, b=0.35), [])
    assert tuned.thresholds == {"a": 0.8, "b": 0.35}


@pytest.mark.parametrize(("less", "middle"), [(EQUAL / 2, 0.5), (2 * EQUAL, 0.7)])
def test_a_thousandth_chooses_nothing_and_more_does(less, middle):
    """One value higher than the others of a plateau, by half of what counts or by twice that."""
    tuned = tune(Landscape(lambda a: 0.9 if abs(a - 0.7) < 0.01 else 0.9 - less if 0.29 < a < 0.71 else 0.4, a=0.0), [])
    assert tuned.thresholds == {"a": middle}
    assert tuned.score == pytest.approx(0.9 - less if middle == 0.5 else 0.9)


def test_few_trials_more_than_there_are_values_and_none_twice():
    method = Landscape(lambda a, b: 0.9 if 0.19 < a < 0.61 and 0.49 < b < 0.91 else 0.3, a=1.0, b=0.0)
    tuned = tune(method, [])
    assert method.asked == len(tuned.trials) == len({tuple(sorted(values.items())) for values, _ in tuned.trials})
    assert len(tuned.trials) < 200  # of 441
    again = tune(Landscape(method.score_of, a=1.0, b=0.0), [])
    assert (again.thresholds, again.trials) == (tuned.thresholds, tuned.trials)


def test_a_trial_that_is_left_early_may_not_have_been_as_good():
    """Of all objects there may be first, then those there are: what could still be as good is counted to its end."""
    ends = []

    class Narrow(Landscape):
        def counter(self, held, tried):
            score_of = self.score_of

            class Counting:
                def __call__(self, values):
                    return [matched(score_of(**values))]

                def narrow(self, values):
                    yield matched(min(score_of(**values) + 0.05, 1)), matched(0.0)
                    ends.append(score_of(**values))
                    yield matched(score_of(**values)), matched(score_of(**values))

            return Counting()

    tuned = tune(Narrow(lambda a: 0.9 if 0.2 <= a <= 0.6 else 0.4, a=0.95), [])
    assert tuned.thresholds == {"a": 0.4}
    assert ends.count(0.9) == 9
    assert None in [score for _, score in tuned.trials]


def test_after_the_time_is_up_the_middle_is_sought_among_what_was_tried(monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr("biosegkit.tune.time.monotonic", lambda: float(next(clock)))
    plateau = Landscape(lambda a: 0.9 if 0.2 <= a <= 0.6 else 0.4, a=0.95)
    tuned = tune(plateau, [], until=7.5)  # as many trials as the coarse search has values
    assert plateau.asked == len(tuned.trials) <= 9
    assert tuned.score == pytest.approx(0.9)
