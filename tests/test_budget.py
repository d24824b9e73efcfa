"""From probes to width and steps: laws that hold whatever the tuned numbers are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biosegkit.plan.budget import (
    BENT_VISITS,
    MEMBER_SECONDS,
    MOST_MEMBERS,
    VISITS,
    WIDTHS,
    Allowance,
    Probe,
    chosen,
    members_for,
    next_width,
    steps_for,
    wanted_steps,
)

SECONDS = st.floats(10, 1e5)
GB = 2**30


def machine(speed, power=1.3, memory_per_width=GB // 16):
    """A machine on which a width costs ``speed`` seconds at 16, rising with a power."""
    return lambda w: Probe(w, speed * (w / 16) ** power, speed / 3 * (w / 16) ** power, w * memory_per_width)


def search(measure, seconds, memory):
    """Probe until the rules are content."""
    found = []
    while (width := next_width(found, seconds, memory)) is not None:
        assert width not in [p.width for p in found]
        found.append(measure(width))
    return found


@given(SECONDS, st.floats(1e-3, 30), st.floats(0.8, 2.2))
def test_the_search_ends_within_the_known_widths(seconds, speed, power):
    found = search(machine(speed, power), seconds, 64 * GB)
    assert 1 <= len(found) <= len(WIDTHS)
    assert set(p.width for p in found) <= set(WIDTHS) | {16}  # noqa: C401
    assert chosen(found, seconds, 64 * GB) in found


@given(SECONDS, st.floats(1e-3, 30))
def test_the_choice_leaves_the_wanted_steps_or_is_the_narrowest(seconds, speed):
    found = search(machine(speed), seconds, 64 * GB)
    best = chosen(found, seconds, 64 * GB)
    assert best.step_seconds * wanted_steps(seconds) <= seconds * 1.0001 or best.width == min(p.width for p in found)


@given(SECONDS, st.floats(1e-3, 30), st.integers(1, 40))
def test_memory_is_kept_where_a_probed_width_keeps_it(seconds, speed, sixteenths):
    memory = sixteenths * GB // 16 * 4
    found = search(machine(speed), seconds, memory)
    best = chosen(found, seconds, memory)
    goal = seconds / wanted_steps(seconds)
    assert best.peak <= memory or all(p.peak > memory or p.step_seconds > goal for p in found)


@given(st.floats(1e-3, 3), SECONDS)
def test_a_faster_machine_never_gets_a_narrower_network(speed, seconds):
    widths = [chosen(search(machine(s), seconds, 64 * GB), seconds, 64 * GB).width for s in (speed, speed / 2)]
    assert widths[1] >= widths[0]


@given(SECONDS, SECONDS)
def test_more_time_never_wants_fewer_steps(a, b):
    low, high = sorted((a, b))
    assert wanted_steps(low) <= wanted_steps(high)
    assert wanted_steps(low) >= 1


@given(st.floats(0.01, 1e5), st.floats(1e-4, 100))
def test_steps_fit_in_the_time(seconds, step):
    count = steps_for(seconds, step)
    assert count >= 1
    assert count == 1 or count * step <= seconds


def test_an_allowance_is_what_is_left():
    # 1 % of 100 s unspent, 10 s before, 20 s validation, 8 s at the end
    assert Allowance(100.0, 10.0, 20.0, 8.0).training == pytest.approx(61.0)
    assert Allowance(10.0, 9.0, 20.0, 8.0).training == 1.0


def test_networks_grow_as_visits_would():
    """Twice the visits of one network are four times its time: four networks of the old time."""
    assert members_for(0, 1e6) == members_for(VISITS, 1e6) == 1
    assert members_for(2 * VISITS, 1e6) == 4
    assert members_for(1e6, 1e6) == MOST_MEMBERS
    assert members_for(BENT_VISITS, 1e6, bent=True) == 1 < members_for(BENT_VISITS, 1e6)
    assert members_for(2 * BENT_VISITS, 1e6, bent=True) == 4
    assert [members_for(1e6, k * MEMBER_SECONDS) for k in (0.5, 1, 2.9, 3)] == [1, 1, 2, 3]


@given(st.floats(60, 7200), st.integers(100, 10**7))
def test_a_smaller_2d_batch_gets_more_steps_of_at_most_the_same_arithmetic(seconds, voxels):
    usual, wanted = wanted_steps(seconds, 2), wanted_steps(seconds, 2, voxels)
    assert usual <= wanted <= 2.1 * usual + 1
    assert voxels >= 77_000 or (wanted - 0.5) * voxels <= (usual + 0.5) * 77_000
    assert wanted_steps(seconds, 3, voxels) == wanted_steps(seconds, 3)
