"""Thresholds chosen on held-back cases: the maps are reduced once, then trials of thresholds need no network.

First a coarse grid over the range of every threshold, then a fine one around the best; a method that counts from tables
(see `biosegkit.methods.trials`) paints nothing on the way. Where such a method looks at its objects one group after the
other, a trial ends as soon as the best it can still reach is not as good as the best so far: what is found is the same.

Many thresholds often reach the top, and which of them was tried first says nothing. Scores that differ by at most
`EQUAL` are as good as each other: the defaults stay where they are among them, and else every threshold moves to the
middle of its values that are, the others held, so that other images may differ a little either way.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product, takewhile

import numpy as np

from .kernels.overlap import Overlaps
from .methods.protocol import Method, Tunable
from .methods.trials import Counter, Held, Narrowing, cost_of, counter_of
from .metrics.instances import InstanceCounts, count_matches

__all__ = ["EQUAL", "GOALS", "Held", "Tuned", "grid_values", "search_values", "tune", "tuning_cases"]

#: IoU thresholds whose mean pooled AP is maximised.
GOALS = (0.5, 0.6, 0.7)
#: A difference of scores that chooses nothing, as in post-processing. One object in less than a thousand makes more, so
#: that equal scores alone pass for it; with more objects the standard error of a score is many times as large.
EQUAL = 1e-3
#: Values of one threshold in the coarse search.
COARSE = 7
#: The most cases that choose thresholds.
MOST_CASES = 32
#: Bytes that a search may keep of its cases.
STATE_BYTES = 1 << 30


@dataclass(frozen=True)
class Tuned:
    """The best thresholds, their score, the score of the defaults, every trial, and the cases in order.

    A trial that was left before its end, as it could not become as good as the best, has None for a score.
    """

    thresholds: dict[str, float]
    score: float
    default_score: float
    trials: tuple[tuple[dict[str, float], float | None], ...]
    cases: tuple[str, ...] = ()


def tune(method: Method, held: Iterable[Held], passes: int = 2, until: float | None = None) -> Tuned:
    """Search the method's tunables for the mean pooled AP at IoU 0.5, 0.6 and 0.7.

    Tunables two by two (rules that part objects work together: the best seed depends on the prominence), in the order
    the method lists them, then again while anything improves; coarsely at first, then value by value around the best.
    A tunable with a single step is not searched.

    Parameters
    ----------
    method : Method
        Whose thresholds are searched.
    held : iterable of Held
        Cases the network was not trained on; read once, one at a time.
    passes : int
        Rounds over all pairs, coarse and fine; ends early when a round changes nothing.
    until : float, optional
        On the monotonic clock; no trial is begun after it, and the best so far is taken.

    Returns
    -------
    Tuned
        The defaults survive where nothing scores higher by more than `EQUAL`; else the thresholds are in the middle of
        those that are as good as the best, and ``score`` is their own.
    """
    tunables = method.tunables
    names: list[str] = []

    def noted() -> Iterator[Held]:
        for case in held:
            names.append(case.case)
            yield case

    tried = {name: sorted({*grid_values(t), t.default}) for name, t in tunables.items()}
    search = _Search(counter_of(method, noted(), tried), {name: t.default for name, t in tunables.items()}, until)
    coarse = {name: search_values(t) for name, t in tunables.items()}
    for _ in range(passes):
        if not search.round(coarse, tunables):
            break
    for _ in range(passes):
        if not search.round({name: _around(t, search.best[name]) for name, t in tunables.items()}, tunables):
            break
    best, score = _settled(search, tunables, tried, passes)
    listed = tuple((dict(key), value) for key, value in search.seen.items())
    return Tuned(best, score, search.first, listed, tuple(names))


def tuning_cases(method: Method, voxels: float, held: int, seconds: float | None) -> tuple[int, float]:
    """How many cases choose the thresholds, and about how long the search takes.

    Parameters
    ----------
    method : Method
    voxels : float
        Of a case.
    held : int
        Cases there are.
    seconds : float, optional
        The most the search may take; a single case is searched even then.

    Examples
    --------
    >>> from biosegkit.methods import Distance
    >>> tuning_cases(Distance(), 1e6, 100, 6.0)[0], tuning_cases(Distance(), 1e6, 8, None)[0]
    (20, 8)
    """
    cost = cost_of(method)
    each, kept = voxels * cost.seconds, voxels * cost.bytes
    most = min(MOST_CASES, int(STATE_BYTES / kept)) if kept else MOST_CASES
    most = most if seconds is None else min(most, int(seconds / each + 1e-9))
    count = max(1, min(most, held))
    return count, count * each


class _Search:
    """The best so far, and what every trial scored."""

    def __init__(self, count: Counter, start: dict[str, float], until: float | None) -> None:
        self.count, self.best, self.until = count, start, until
        self.seen: dict[tuple[tuple[str, float], ...], float | None] = {}
        self.first = self.top = self.seen[_key(start)] = _score(count(start))

    def score(self, values: Mapping[str, float]) -> float | None:
        """Of thresholds, or None if it cannot become as good as the best so far; none is tried twice.

        What scores higher than the best is the best from then on.
        """
        key = _key(values)
        if key not in self.seen:
            narrow = self.count.narrow(values) if isinstance(self.count, Narrowing) else None
            reached = _score(self.count(values)) if narrow is None else _narrowed(narrow, self.bar)
            self.seen[key] = reached
            if reached is not None and reached > self.top + 1e-9:
                self.best, self.top = dict(values), reached
        return self.seen[key]

    @property
    def bar(self) -> float:
        """What is as good as the best so far."""
        return self.top - EQUAL - 1e-9

    def late(self) -> bool:
        """Whether no trial may begin any more."""
        return self.until is not None and time.monotonic() > self.until

    def as_good(self, values: Mapping[str, float]) -> bool:
        """Whether thresholds are as good as the best; those nobody tried are not, once it is late."""
        if _key(values) not in self.seen and self.late():
            return False
        reached = self.score(values)
        return reached is not None and reached >= self.bar

    def round(self, values: Mapping[str, list[float]], tunables: Mapping[str, Tunable]) -> bool:
        """Try all pairs of tunables with these values; whether anything became better."""
        before = self.best
        for pair in _pairs(tunables):
            fixed = dict(self.best)
            for chosen in product(*(values[name] for name in pair)):
                if self.late():
                    return False
                self.score({**fixed, **dict(zip(pair, chosen, strict=True))})
        return self.best != before


def _settled(search: _Search, tunables: Mapping[str, Tunable], values: Mapping[str, list[float]], passes: int
             ) -> tuple[dict[str, float], float]:
    """Defaults, if they are as good as the best; else the best, threshold by threshold moved to the middle."""
    defaults = {name: t.default for name, t in tunables.items()}
    if search.first >= search.bar:
        return defaults, search.first
    best = search.best
    for _ in range(passes):
        before = best
        for name in (name for name, t in tunables.items() if t.steps > 1):
            best = {**best, name: _middle(search, best, name, values[name], defaults[name])}
        if not search.as_good(best):  # a higher place was met on the way
            best = search.best
        elif best == before:
            break
    reached = search.score(best)
    return (search.best, search.top) if reached is None else (best, reached)


def _middle(search: _Search, best: Mapping[str, float], name: str, values: list[float], default: float) -> float:
    """The default or, if it is not one, the middle of the values next to each other that are as good as the best."""
    at = values.index(best[name])
    ends = []
    for beyond in (values[:at][::-1], values[at + 1:]):
        good = [*takewhile(lambda value: search.as_good({**best, name: value}), beyond)]
        ends.append(good[-1] if good else best[name])
    if ends[0] <= default <= ends[1]:
        return default
    middle = (ends[0] + ends[1]) / 2
    inside = (v for v in values if ends[0] <= v <= ends[1])
    return min(inside, key=lambda value: (round(abs(value - middle), 9), abs(value - default)))


def _pairs(tunables: Mapping[str, Tunable]) -> list[list[str]]:
    """Searched tunables in overlapping pairs, last pair first; a lone one by itself."""
    names = [name for name, t in tunables.items() if t.steps > 1]
    if len(names) < 2:
        return [names] if names else []
    return [names[i: i + 2] for i in range(len(names) - 1)][::-1]


def grid_values(tunable: Tunable) -> list[float]:
    """All values a search may choose: as many as the tunable has steps, evenly spaced over its range.

    Examples
    --------
    >>> grid_values(Tunable(0.5, 0.1, 0.9, 5, ""))
    [0.1, 0.3, 0.5, 0.7, 0.9]
    >>> grid_values(Tunable(4, 0, 1e9, 1, "not searched"))
    [4]
    """
    if tunable.steps < 2:
        return [tunable.default]
    return [round(float(v), 6) for v in np.linspace(tunable.low, tunable.high, tunable.steps)]


def search_values(tunable: Tunable) -> list[float]:
    """Values tried at first: of the grid seven at most, the ends included.

    Examples
    --------
    >>> search_values(Tunable(0.5, 0.0, 1.0, 11, ""))
    [0.0, 0.2, 0.3, 0.5, 0.7, 0.8, 1.0]
    """
    grid = grid_values(tunable)
    return [grid[i] for i in np.rint(np.linspace(0, len(grid) - 1, min(len(grid), COARSE))).astype(int)]


def _around(tunable: Tunable, value: float) -> list[float]:
    """Values of the grid less than a coarse step away from one."""
    coarse = search_values(tunable)
    step = max((b - a for a, b in pairwise(coarse)), default=0.0)
    return [v for v in grid_values(tunable) if abs(v - value) < step - 1e-9] or [value]


def _key(values: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """What thresholds are known by."""
    return tuple(sorted(values.items()))


def _narrowed(steps: Iterable[tuple[Overlaps, Overlaps]], bar: float) -> float | None:
    """The score at the end of the steps; None as soon as it cannot reach another.

    Objects match or not by themselves (above an IoU of 0.5 nobody else can), so none that may yet be found are matched
    beyond those of all objects, and none of those that certainly are there cease to be false.
    """
    score = 0.0
    for every, certain in steps:
        found = count_matches(every, GOALS)
        score = _mean([found.ap(t) for t in GOALS])
        if certain is every:
            break
        sure = count_matches(certain, GOALS)
        most = [hit / max(1, found.n_true + sure.n_pred - kept) for hit, kept in zip(found.tp, sure.tp, strict=True)]
        if _mean(most) < bar:
            return None
    return score


def _score(overlaps_of_cases: Iterable[Overlaps]) -> float:
    """Mean pooled AP of the cases."""
    total: InstanceCounts | None = None
    for overlaps in overlaps_of_cases:
        counts = count_matches(overlaps, GOALS)
        total = counts if total is None else total + counts
    if total is None:
        return 0.0
    return _mean([total.ap(t) for t in GOALS])


def _mean(reached: Sequence[float]) -> float:
    """Of AP at the goals; 0 where there is none."""
    return float(np.mean(reached)) if np.isfinite(reached).all() else 0.0
