"""A race: the two best methods train for an equal short time, and the one that does better has the rest. Pure rules.

Ceilings say what a method could reach with a network that makes no error; which of them a network learns from these
images is known only by trying.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from biosegkit.plan.method_choice import decided
from biosegkit.plan.schema import Decision, MethodEvidence, Plan, Race
from biosegkit.plan.units import duration_text

__all__ = ["CONTENDERS", "TRAINING", "after_race", "race_of", "race_seconds"]

#: How many methods race, for what share of the budget together, and the least time for each.
CONTENDERS, SHARE, LEAST_SECONDS = 2, 0.2, 60.0
#: Share of its time that a contender trains; the rest is for its score.
TRAINING = 0.75
#: Without a clock: the share of the steps that each contender takes.
STEPS_SHARE = 0.1


def race_seconds(budget: float | None) -> float:
    """Seconds for each contender; 0 where a budget has not enough for a race (or there is no clock).

    Examples
    --------
    >>> race_seconds(900), race_seconds(300), race_seconds(None)
    (90.0, 0.0, 0.0)
    """
    each = 0.0 if budget is None else SHARE * budget / CONTENDERS
    return each if each >= LEAST_SECONDS else 0.0


def race_of(evidence: Sequence[MethodEvidence], options: Mapping[str, Mapping[str, object]], budget: float | None,
            steps: int | None) -> tuple[Race | None, Decision]:
    """Who races and for how long, or why nobody does.

    Parameters
    ----------
    evidence : sequence of MethodEvidence
        With verdicts, in order of preference.
    options : mapping
        Options of every method.
    budget : float, optional
        Seconds of the whole command.
    steps : int, optional
        Steps of the whole training where there is no clock.

    Examples
    --------
    >>> rows = [MethodEvidence(method=m, verdict=v) for m, v in (("a", "chosen"), ("b", "able"), ("c", "able"))]
    >>> race, decision = race_of(rows, {"a": {}, "b": {}, "c": {}}, None, 1000)
    >>> race.contenders, race.steps, decision.value
    ({'a': {}, 'b': {}}, 100, 'a, b')
    """
    able = [row.method for row in evidence if row.verdict in ("chosen", "able")]
    found = sorted(able, key=lambda name: not any(r.method == name and r.verdict == "chosen" for r in evidence))
    each = race_seconds(budget)
    if len(found) < CONTENDERS:
        return None, _none("no two methods are about as good on perfect maps: " + (", ".join(found) or "none is known"))
    if steps is None and not each:
        least = duration_text(LEAST_SECONDS * CONTENDERS / SHARE)
        return None, _none(f"each of {CONTENDERS} methods needs {duration_text(LEAST_SECONDS)}, and together they may "
                           f"have {SHARE:.0%} of the budget: --budget {least} or more")
    names = found[:CONTENDERS]
    each_text = f"{duration_text(each)} each" if steps is None else "a tenth of the steps each"
    race = Race(contenders={name: dict(options[name]) for name in names},
                steps=1 if steps is None else max(1, round(STEPS_SHARE * steps)), seconds=each or None)
    return race, Decision(name="race", value=", ".join(names), reason=(
        f"the two best on perfect maps train for {each_text}; the better on held-back cases has the rest"))


def _none(reason: str) -> Decision:
    return Decision(name="race", value="none", reason=reason)


def after_race(plan: Plan, scores: Mapping[str, float]) -> Plan:
    """The plan with the method that won, the scores in its table, and no race left to run."""
    if plan.race is None:
        return plan
    rows = [row.model_copy(update={"raced": scores.get(row.method), "reason": _kept(row)})
            for row in plan.method_evidence]
    method, why, evidence = decided(rows)
    decisions = tuple(d.model_copy(update={"value": method, "reason": why}) if d.name == "method" else d
                      for d in plan.decisions)
    return plan.model_copy(update={"method": method, "method_options": plan.race.contenders[method], "race": None,
                                   "method_evidence": evidence, "decisions": decisions})


def _kept(row: MethodEvidence) -> str:
    """The reason of a row that is judged again, unless it is out."""
    return row.reason if row.verdict in ("low", "unfit") else ""
