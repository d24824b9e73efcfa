"""Thresholds chosen on held-back cases: the maps are reduced once, then only ``resolve`` and ``paint`` run again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .methods.protocol import Method, State, Tunable
from .metrics.instances import instance_counts

__all__ = ["Held", "Tuned", "search_values", "tune"]

#: IoU thresholds whose mean pooled AP is maximised.
GOALS = (0.5, 0.6, 0.7)
#: Cases looked at; more change the choice little and cost time in proportion.
MOST_CASES = 24


@dataclass(frozen=True, eq=False)
class Held:
    """One held-back case: the state of its maps, and the truth (0 where ignored counts nowhere)."""

    case: str
    state: State
    truth: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Tuned:
    """The best thresholds, their score, the score of the defaults, and every trial."""

    thresholds: dict[str, float]
    score: float
    default_score: float
    trials: tuple[tuple[dict[str, float], float], ...]


def tune(method: Method, held: Sequence[Held], passes: int = 2) -> Tuned:
    """Coordinate search over the method's tunables for the mean pooled AP at IoU 0.5, 0.6 and 0.7.

    Parameters
    ----------
    method : Method
        Whose ``resolve`` and ``paint`` are run.
    held : sequence of Held
        Cases the network was not trained on; the first 24 are used.
    passes : int
        Rounds over all tunables; ends early when a round changes nothing.

    Returns
    -------
    Tuned
        A change is kept only when it scores higher, so the defaults survive ties.
    """
    cases = list(held)[:MOST_CASES]
    best = {name: t.default for name, t in method.tunables.items()}
    seen: dict[tuple[tuple[str, float], ...], float] = {}

    def score(values: Mapping[str, float]) -> float:
        key = tuple(sorted(values.items()))
        if key not in seen:
            seen[key] = _score(method, cases, values)
        return seen[key]

    first = top = score(best)
    for _ in range(passes):
        before = dict(best)
        for name, tunable in method.tunables.items():
            for value in search_values(tunable):
                trial = {**best, name: value}
                if (reached := score(trial)) > top + 1e-9:
                    best, top = trial, reached
        if best == before:
            break
    return Tuned(best, top, first, tuple((dict(key), value) for key, value in seen.items()))


def search_values(tunable: Tunable) -> list[float]:
    """Values tried for a tunable: evenly spaced, or for open ranges (sizes) a geometric row.

    Examples
    --------
    >>> search_values(Tunable(0.5, 0.1, 0.9, 5, ""))
    [0.1, 0.3, 0.5, 0.7, 0.9]
    >>> search_values(Tunable(4, 0, 1e9, 5, ""))
    [0.0, 4.0, 8.0, 16.0, 32.0, 64.0]
    """
    if tunable.high > 1e6:
        return [0.0, 4.0, 8.0, 16.0, 32.0, 64.0]
    return [round(float(v), 6) for v in np.linspace(tunable.low, tunable.high, min(tunable.steps, 9))]


def _score(method: Method, held: Sequence[Held], values: Mapping[str, float]) -> float:
    """Mean pooled AP of the cases with these thresholds."""
    total = None
    for case in held:
        labels, _ = method.paint(case.state, method.resolve([case.state], values))
        counts = instance_counts(case.truth, labels, valid=case.valid, thresholds=GOALS)
        total = counts if total is None else total + counts
    if total is None:
        return 0.0
    found = total.scores()
    reached = [found[f"ap@{t:.2f}"] for t in GOALS]
    return float(np.mean(reached)) if np.isfinite(reached).all() else 0.0
