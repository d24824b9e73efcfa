"""Loss and Dice by step while a network is trained: what the curve shows, of a few steps or of millions. No Qt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

__all__ = ["Points"]

#: Colours of loss and Dice that are told apart on light and dark ground.
_LOSS, _DICE = "#e69f00", "#56b4e9"
#: Parts of a line of which the lowest and the highest point are drawn, where it has more points.
_PARTS = 256


@dataclass
class Points:
    """Loss and Dice by step, per fold; steps that come again, of a run that was resumed, replace the older ones.

    ``back`` is the step to which each series went back at the lowest: what was known of it before is valid up to there.
    """

    loss: dict[str, dict[int, float]] = field(default_factory=dict)
    dice: dict[str, dict[int, float]] = field(default_factory=dict)
    total: int = 0
    back: dict[tuple[str, str], int] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Points:
        """Points of rows of ``metrics.jsonl`` with their ``fold``; in a thread, for they may be many.

        Examples
        --------
        >>> Points.of([{"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.0}, {"step": 15, "loss": 2.5}]).loss
        {'0': {10: 3.0, 15: 2.5}}
        """
        found = cls()
        for row in rows:
            fold, step = str(row.get("fold", "0")), int(row["step"])
            found.total = int(row.get("total") or found.total)
            for name, value in (("loss", row.get("loss")), ("dice", dict(row.get("validation") or {}).get("dice"))):
                if value is not None:
                    series = getattr(found, name).setdefault(fold, {})
                    found.back[name, fold] = min(step, found.back.get((name, fold), step))
                    _cut(series, step)
                    series[step] = float(value)
        return found

    def join(self, later: Points) -> None:
        """Add what has come since: the time that this takes does not grow with what is there already."""
        self.total = later.total or self.total
        for (name, fold), step in later.back.items():
            series = getattr(self, name).setdefault(fold, {})
            _cut(series, step)
            series.update(getattr(later, name)[fold])
            self.back[name, fold] = min(step, self.back.get((name, fold), step))

    @property
    def text(self) -> str:
        """Where the training is, in a line."""
        if not any(self.loss.values()):
            return "no step yet"
        fold = list(self.loss)[-1]
        step, loss = next(reversed(self.loss[fold].items()))
        seen = self.dice.get(fold)
        best = f", Dice {next(reversed(seen.values())):.3f}" if seen else ""
        return f"fold {fold}, step {step} of {self.total}, loss {loss:.3f}{best}"

    def lines(self) -> list[tuple[str, list[tuple[float, float]]]]:
        """Polylines in the unit square, x to the right and y up: colour and points.

        A line of many points is drawn through the lowest and the highest of each of its parts.

        Examples
        --------
        >>> Points.of([{"step": 1, "total": 2, "loss": 4.0}, {"step": 2, "total": 2, "loss": 2.0}]).lines()
        [('#e69f00', [(0.5, 1.0), (1.0, 0.5)])]
        """
        arrays = [(_LOSS, *_arrays(series)) for series in self.loss.values()]
        end = max([self.total, 1, *(steps[-1] for _, steps, _ in arrays if len(steps))])
        top = max([float(values.max()) for _, _, values in arrays if len(values)], default=0.0) or 1.0
        drawn = [(colour, steps / end, np.clip(values / top, 0, 1)) for colour, steps, values in arrays]
        for series in self.dice.values():
            steps, values = _arrays(series)
            drawn.append((_DICE, steps / end, np.clip(values, 0, 1)))
        return [(colour, list(zip(x.tolist(), y.tolist(), strict=True)))
                for colour, x, y in (_thinned(*line) for line in drawn) if len(x)]


def _cut(series: dict[int, float], step: int) -> None:
    """Forget what is later than a step; a series is in the order of its steps."""
    while series and next(reversed(series)) > step:
        series.popitem()


def _arrays(series: Mapping[int, float]) -> tuple[Any, Any]:
    """Steps and values, those alone that are finite."""
    steps = np.fromiter(series.keys(), np.float64, len(series))
    values = np.fromiter(series.values(), np.float64, len(series))
    finite = np.isfinite(values)
    return steps[finite], values[finite]


def _thinned(colour: str, x: Any, y: Any) -> tuple[str, Any, Any]:
    """A line through the lowest and the highest point of each of its parts, and its ends."""
    if len(x) <= 2 * _PARTS:
        return colour, x, y
    edges = np.linspace(0, len(x), _PARTS + 1).astype(np.int64)
    ends = {0, len(x) - 1}
    for a, b in pairwise(edges.tolist()):
        ends |= {a + int(y[a:b].argmin()), a + int(y[a:b].argmax())}
    places = np.array(sorted(ends))
    return colour, x[places], y[places]
