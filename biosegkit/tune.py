"""Thresholds chosen on held-back cases: the maps are reduced once, then only ``resolve`` and ``paint`` run again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from .methods.protocol import Method, State, Tunable
from .metrics.instances import instance_counts

__all__ = ["Held", "Tuned", "search_values", "tune"]

#: IoU thresholds whose mean pooled AP is maximised.
GOALS = (0.5, 0.6, 0.7)
#: About how many combinations a search tries, for planning its time.
TRIALS = 130


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
    """Search the method's tunables for the mean pooled AP at IoU 0.5, 0.6 and 0.7.

    Tunables two by two (rules that part objects work together: the best seed depends on the prominence), in the order
    the method lists them, then again while anything improves. A tunable with a single step is not searched.

    Parameters
    ----------
    method : Method
        Whose ``resolve`` and ``paint`` are run.
    held : sequence of Held
        Cases the network was not trained on.
    passes : int
        Rounds over all pairs; ends early when a round changes nothing.

    Returns
    -------
    Tuned
        A change is kept only when it scores higher, so the defaults survive ties.
    """
    cases = list(held)
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
        for pair in _pairs(method.tunables):
            fixed = dict(best)
            for values in product(*pair.values()):
                trial = {**fixed, **dict(zip(pair, values, strict=True))}
                if (reached := score(trial)) > top + 1e-9:
                    best, top = trial, reached
        if best == before:
            break
    return Tuned(best, top, first, tuple((dict(key), value) for key, value in seen.items()))


def _pairs(tunables: Mapping[str, Tunable]) -> list[dict[str, list[float]]]:
    """Searched tunables in overlapping pairs, last pair first; a lone one by itself."""
    names = [name for name, t in tunables.items() if t.steps > 1]
    groups = [names] if len(names) < 2 else [names[i: i + 2] for i in range(len(names) - 1)][::-1]
    return [{name: search_values(tunables[name]) for name in group} for group in groups if group]


def search_values(tunable: Tunable) -> list[float]:
    """Values tried for a tunable: evenly spaced over its range, seven at most.

    Examples
    --------
    >>> search_values(Tunable(0.5, 0.1, 0.9, 5, ""))
    [0.1, 0.3, 0.5, 0.7, 0.9]
    """
    return [round(float(v), 6) for v in np.linspace(tunable.low, tunable.high, min(tunable.steps, 7))]


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
