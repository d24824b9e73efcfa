"""What a budget must at least hold: refusals that name one which would do, as early as they can be made."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable

from ._words import counted
from .errors import OptionError
from .plan.budget import Allowance, budget_for
from .plan.schema import Plan
from .plan.units import duration_text, parse_duration

__all__ = ["LEAST_STEPS", "enough_in", "reading_within", "refuse_late", "seconds_of", "too_small"]

#: Share of a budget in which the program has to have started.
TO_START = 0.5
#: Fewer steps than these make no model: the budget is refused.
LEAST_STEPS = 20


def reading_within(budget: str | float | None, started: float) -> Callable[[int, int], None]:
    """A ``progress`` for :func:`biosegkit.fingerprint.survey` that gives up where reading alone takes the budget.

    Parameters
    ----------
    budget : str or float, optional
        As for :func:`biosegkit.make_plan`; None: there is no limit.
    started : float
        ``time.monotonic()`` from which the budget counts.

    Returns
    -------
    callable
        Raises OptionError, with a budget that would do, once a fifth of the budget has gone into reading and the rest
        of the cases, read now and once more for training, would take more than there is.

    Raises
    ------
    OptionError
        At once, if half of the budget has gone into starting the program.
    """
    seconds, begun = seconds_of(budget), time.monotonic()
    if seconds is not None and begun - started > TO_START * seconds:
        late = begun - started
        raise too_small(seconds, 10 * late, f"starting the program took {duration_text(late)}")

    def check(done: int, cases: int) -> None:
        now = time.monotonic()
        if seconds is None or done < 3 or now - begun < 0.2 * seconds:
            return
        per_case = (now - begun) / done
        whole = now - started + per_case * (2 * cases - done)
        if whole > seconds:
            raise too_small(seconds, 1.5 * whole, f"reading {counted(cases, 'case')} for the check and for training "
                             f"takes {duration_text(whole)} (fewer: --where)")

    return check


def refuse_late(plan: Plan, started: float, deadline: float | None) -> None:
    """Give up before the first step where the machine became so slow that hardly any fits: the end would be late, too.

    Parameters
    ----------
    plan : Plan
        With the seconds that were measured.
    started, deadline : float
        On the monotonic clock: when the budget began, and when the last step has to be done.

    Raises
    ------
    OptionError
        With a budget that would do.
    """
    b, now = plan.budget, time.monotonic()
    if b.seconds is None or b.step_seconds is None or deadline is None:
        return
    if now + LEAST_STEPS * b.step_seconds <= deadline:
        return
    around = Allowance(b.seconds, now - started, b.validation_seconds or 0.0, b.closing_seconds)
    error = too_small(b.seconds, 1.2 * budget_for(around, b.step_seconds),
                      f"{duration_text(now - started)} have passed before the first step, as the machine became slower "
                      "than it was when it was measured")
    raise OptionError(error.found, expected=error.expected, remedy=f"{error.remedy}, and --overwrite")


def too_small(seconds: float, least: float, why: str) -> OptionError:
    """The error that says which budget would do."""
    enough = duration_text(10 * math.ceil(least / 10))
    return OptionError(f"--budget {duration_text(seconds)}", expected=f"at least {enough} here: {why}",
                       remedy=f"give --budget {enough} or more")


def enough_in(message: str) -> str:
    """The budget that would do, from the message of a refusal; empty if it is not about the budget.

    Examples
    --------
    >>> enough_in(str(too_small(30, 41, "a step takes 2 s"))), enough_in("found no labels")
    ('50s', '')
    """
    found = re.search(r"--budget (\w+) or more", message)
    return found[1] if found else ""


def seconds_of(budget: str | float | None) -> float | None:
    """A budget in seconds; None stays None."""
    return None if budget is None else parse_duration(budget)
