"""Learning rates by their formulas; revisions by the clock that lose nothing."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biosegkit import schedule
from biosegkit.plan.schema import Training
from biosegkit.schedule import Clock, Pace, learning_rate

SHARES = st.floats(0, 1)


@given(SHARES)
def test_poly_is_nnunets(progress):
    plan = Training(steps=1, schedule="poly", learning_rate=0.01)
    assert learning_rate(plan, progress) == pytest.approx(0.01 * (1 - progress) ** 0.9)


@given(SHARES, st.floats(0, 1), st.floats(0, 1))
def test_one_cycle_by_its_formula(progress, warmup, final):
    plan = Training(steps=1, learning_rate=2.0, warmup=warmup, final_fraction=final)
    if warmup == 1 or progress < warmup:
        expected = 2 * progress / warmup
    else:
        share = (progress - warmup) / (1 - warmup)
        expected = 2 * final + (2 - 2 * final) * (1 + math.cos(math.pi * share)) / 2
    assert learning_rate(plan, progress) == pytest.approx(expected, abs=1e-12)


def test_one_cycle_by_hand():
    plan = Training(steps=1, learning_rate=1.0, warmup=0.2, final_fraction=0.1)
    found = [learning_rate(plan, p) for p in (0.0, 0.1, 0.2, 0.6, 1.0)]
    assert found == pytest.approx([0.0, 0.5, 1.0, 0.55, 0.1])


@given(st.integers(20, 5000), st.sampled_from(["one_cycle", "poly"]), st.floats(0, 0.5))
def test_every_step_learns_and_the_last_is_annealed(steps, schedule, warmup):
    plan, pace = Training(steps=steps, learning_rate=1.0, schedule=schedule, warmup=warmup), Pace(((0, steps),))
    rates = [learning_rate(plan, pace.progress(s + 0.5)) for s in (0, steps - 1)]
    assert rates[0] > 0
    assert 0 < rates[1] < (0.01 if schedule == "one_cycle" or steps > 100 else 0.05)


def test_a_warmup_of_the_whole_run_only_rises():
    plan = Training(steps=1, learning_rate=3.0, warmup=1.0)
    assert [learning_rate(plan, p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.0, 1.5, 3.0])


@st.composite
def paces(draw):
    pace = Pace(((0, draw(st.integers(1, 200))),))
    step = 0
    for _ in range(draw(st.integers(0, 4))):
        step = draw(st.integers(step, pace.total))
        pace = pace.revised(step, draw(st.integers(1, 400)))
    return pace


@given(paces())
def test_progress_runs_from_0_to_1_and_never_back(pace):
    found = [pace.progress(s) for s in range(pace.total + 1)]
    assert found[0] == 0
    assert found[-1] == pytest.approx(1)
    assert all(b >= a for a, b in itertools.pairwise(found))


@given(paces(), st.data())
def test_X2_a_revision_changes_nothing_that_was(pace, data):
    step = data.draw(st.integers(pace.revisions[-1][0], pace.total))
    revised = pace.revised(step, data.draw(st.integers(1, 500)))
    assert all(revised.progress(s) == pace.progress(s) for s in range(step + 1))
    assert all(revised.progress(s + 0.5) == pace.progress(s + 0.5) for s in range(step))
    assert revised.total > step


def test_progress_by_hand():
    # half of 100, then the other half stretched over 150 more steps
    pace = Pace(((0, 100),)).revised(50, 200)
    assert [pace.progress(s) for s in (25, 50, 125, 200)] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    # revised twice before a step is taken
    again = pace.revised(50, 60)
    assert again.progress(55) == pytest.approx(0.75)


@pytest.fixture
def now(monkeypatch):
    """A clock that is set by hand."""
    time = [0.0]
    monkeypatch.setattr(schedule.time, "monotonic", lambda: time[0])
    return time


def run(clock, now, steps, seconds):
    clock.resume()
    for _ in range(steps):
        now[0] += seconds
        clock.tick()


def test_the_clock_measures_steps_without_what_lies_between(now):
    clock = Clock(None)
    run(clock, now, 10, 0.5)
    clock.pause()
    now[0] += 100
    run(clock, now, 10, 0.5)
    assert clock.step_seconds == pytest.approx(0.5)
    assert clock.revise(Pace(((0, 10),)), 5, 0.0) is None


def test_slow_steps_shorten_the_run_and_fast_ones_lengthen_it(now):
    pace = Pace(((0, 100),))
    slow, fast, right = Clock(100.0), Clock(100.0), Clock(100.0)
    for clock, seconds in ((slow, 2.0), (fast, 0.5), (right, 1.0)):
        now[0] = 0.0
        run(clock, now, 20, seconds)
        clock.now = now[0]
    now[0] = slow.now
    assert slow.revise(pace, 20, 0.0).total == 20 + 30  # 60 s left at 2 s
    now[0] = fast.now
    assert fast.revise(pace, 20, 0.0).total == 20 + 180
    now[0] = right.now
    assert right.revise(pace, 20, 0.0) is None
    assert right.revise(pace, 20, 0.25).total == 20 + 64
    assert fast.revise(pace, pace.total, 0.0) is None  # the rate has come to zero: steps would change nothing


def test_after_the_deadline_one_step_is_left(now):
    clock = Clock(5.0)
    run(clock, now, 20, 1.0)
    assert clock.revise(Pace(((0, 100),)), 20, 0.0).total == 21


def test_a_slow_machine_keeps_more_time_for_what_follows(now):
    """Steps of 2 s were planned as 1 s: the 10 s planned for validation and report are going to be 20."""
    pace = Pace(((0, 100),))
    found = {}
    for name, clock in (("alone", Clock(100.0)), ("with", Clock(100.0, after=10.0, planned=1.0)),
                        ("quick", Clock(100.0, after=10.0, planned=4.0))):
        now[0] = 0.0
        run(clock, now, 20, 2.0)
        found[name] = clock.revise(pace, 20, 0.0).total
    assert found == {"alone": 20 + 60 // 2, "with": 20 + 50 // 2, "quick": 20 + 60 // 2}
    now[0] = 0.0
    clock = Clock(100.0, after=1000.0, planned=1.0)
    run(clock, now, 20, 2.0)
    assert clock.revise(pace, 20, 0.0).total == 20 + 30 // 2  # never more than half of what is left


def test_slow_steps_are_reviewed_by_time_and_not_by_count(now):
    """Of 100 s every twentieth is a reason to look; two steps of 30 s tell enough to end in time."""
    clock = Clock(100.0)
    assert not clock.is_due
    now[0] = 4.9
    assert not clock.is_due
    now[0] = 5.0
    assert clock.is_due
    run(clock, now, 2, 30.0)  # 65 s are gone, 35 s hold one more
    assert clock.revise(Pace(((0, 50),)), 2, 0.0).total == 3
    assert not clock.is_due
    assert not Clock(None).is_due


def test_live_scores_wait_while_they_took_more_than_their_share(now):
    """A look of 6 s after 10 s of steps: at 5 % the next is due after 120 s."""
    clock, free = Clock(1000.0), Clock(None)
    run(clock, now, 10, 1.0)
    assert clock.spares(0.05)
    for c in (clock, free):
        c.pause()
    now[0] += 6
    for c in (clock, free):
        c.resume()
    assert clock.beside == 6
    assert not clock.spares(0.05)
    now[0] = 119.9
    assert not clock.spares(0.05)
    now[0] = 120.0
    assert clock.spares(0.05)
    assert free.spares(0.0)  # nothing depends on the time without a deadline
