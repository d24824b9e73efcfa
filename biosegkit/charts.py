"""Charts of a training run, drawn by matplotlib's objects without its global state, as PNG bytes."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ._words import counted
from .errors import FileError

__all__ = ["Curves", "bar_chart", "loss_chart", "read_metrics", "reliability_chart", "smoothed",
           "threshold_chart", "validation_chart"]

#: One colour per fold or term (Okabe and Ito, legible to colour-blind readers).
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7a7a7a")
_WIDTH, _DPI = 9.6, 120


@dataclass(frozen=True)
class Curves:
    """What one fold's ``metrics.jsonl`` tells, in order of steps.

    ``terms`` maps a loss term to ``(step, value)`` pairs; ``validation`` a metric likewise. ``seconds`` is the time the
    steps took, from the pace that each line states.
    """

    step: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    terms: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    validation: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    seconds: float = 0.0
    total: int = 0


def read_metrics(path: str | Path) -> Curves:
    """Curves from a ``metrics.jsonl``; a last line cut by a crash is passed over.

    After a resume a step may stand twice; the later line counts.

    Raises
    ------
    FileError
        If a line other than the last is no JSON.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    rows: dict[int, dict[str, Any]] = {}
    checks: dict[int, Mapping[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise FileError(f"line {number} is no JSON", file=path, remedy="delete the line") from error
        if "validation" in row:
            checks[int(row["step"])] = row["validation"]
        if "loss" in row:
            rows[int(row["step"])] = row
    steps = [0, *sorted(rows)]
    spent = sum((after - before) * _finite(rows[after].get("seconds", 0.0)) for before, after in pairwise(steps))
    curves = Curves(seconds=spent, total=max((int(r.get("total", 0)) for r in rows.values()), default=0))
    for step, row in sorted(rows.items()):
        curves.step.append(step)
        curves.loss.append(_finite(row["loss"]))
        curves.rate.append(_finite(row.get("lr")))
        for name, value in row.get("terms", {}).items():
            curves.terms.setdefault(name, []).append((step, _finite(value)))
    for step, found in sorted(checks.items()):
        for name, value in found.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                curves.validation.setdefault(name, []).append((step, float(value)))
    return curves


def _finite(value: Any) -> float:
    """A number, or NaN for what JSON wrote as null."""
    return float("nan") if value is None else float(value)


def smoothed(values: Sequence[float], window: int) -> npt.NDArray[np.float64]:
    """Centred moving mean over at most ``window`` values, shorter at the ends; NaN is left out of the means.

    Examples
    --------
    >>> smoothed([1.0, 2.0, 6.0], 3).tolist()
    [1.5, 3.0, 4.0]
    """
    data = np.asarray(values, dtype=np.float64)
    known = np.isfinite(data)
    half = max(0, window // 2)
    first = np.maximum(np.arange(data.size) - half, 0)
    last = np.minimum(np.arange(data.size) + half + 1, data.size)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, data, 0.0))])
    count = np.concatenate([[0], np.cumsum(known)])
    number = count[last] - count[first]
    return np.asarray(np.divide(total[last] - total[first], number, out=np.full(data.size, np.nan), where=number > 0))


def loss_chart(folds: Mapping[str, Curves]) -> bytes:
    """Loss per step, faint as it was and strong as a moving mean, and the learning rate below, one colour per fold."""
    figure, (top, below) = _figure(3.7, (3, 1))
    for colour, (name, curves) in zip(_endless(len(folds)), folds.items(), strict=True):
        top.plot(curves.step, curves.loss, color=colour, alpha=0.22, linewidth=0.8)
        top.plot(curves.step, smoothed(curves.loss, max(3, len(curves.loss) // 25)), color=colour, linewidth=1.8,
                 label=name)
        below.plot(curves.step, curves.rate, color=colour, linewidth=1.2)
    only = next(iter(folds.values()))
    if len(folds) == 1 and len(only.terms) > 1:
        for colour, (name, points) in zip(_endless(len(only.terms), 1), only.terms.items(), strict=True):
            steps, values = zip(*points, strict=True)
            top.plot(steps, smoothed(values, max(3, len(values) // 25)), color=colour, linewidth=1.0, label=name)
    if len(top.get_lines()) > 2:
        top.legend(frameon=False, fontsize=9, ncols=4, loc="upper right")
    top.set_ylabel("loss")
    below.set_ylabel("learning rate")
    below.set_xlabel("step")
    below.locator_params(axis="x", integer=True)
    top.tick_params(labelbottom=False)
    return _png(figure)


def validation_chart(folds: Mapping[str, Curves]) -> bytes | None:
    """Validation scores per step; None when there are none."""
    lines = [(name if len(folds) == 1 else f"{fold} {name}", points)
             for fold, curves in folds.items() for name, points in curves.validation.items()]
    if not lines:
        return None
    figure, (axes,) = _figure(2.9, (1,))
    for colour, (name, points) in zip(_endless(len(lines)), lines, strict=True):
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color=colour, marker="o", markersize=3.5, linewidth=1.5, label=name)
    axes.legend(frameon=False, fontsize=9, ncols=4, loc="best")
    axes.set_xlabel("step")
    axes.locator_params(axis="x", integer=True)
    axes.set_ylabel("validation")
    return _png(figure)


def bar_chart(names: Sequence[str], values: Sequence[float], label: str) -> bytes:
    """One bar per case, worst first."""
    order = np.argsort([v if np.isfinite(v) else -1.0 for v in values], kind="stable")
    figure, (axes,) = _figure(2.4, (1,))
    axes.bar(range(len(order)), [values[i] for i in order], color=COLOURS[0], width=0.8)
    axes.set_ylabel(label)
    if len(order) <= 24:
        axes.set_xticks(range(len(order)), [names[i][:18] for i in order], rotation=35, ha="right", fontsize=8)
    else:
        axes.set_xlabel(f"{counted(len(order), 'case')}, worst first")
    return _png(figure)


def reliability_chart(curve: Mapping[str, Sequence[float]]) -> bytes:
    """Probability against the share of voxels that are right, with the number of voxels of each bin below.

    Parameters
    ----------
    curve : dict
        Arrays over bins ``low high count confidence accuracy``, as :class:`biosegkit.metrics.CalibrationCounts` gives.
    """
    low, high, count, confidence, accuracy = (
        np.array([np.nan if v is None else v for v in curve[k]], np.float64)
        for k in ("low", "high", "count", "confidence", "accuracy"))
    figure, (top, below) = _figure(4.2, (3, 1))
    used = count > 0
    top.plot([0, 1], [0, 1], color="#7a7a7a", linewidth=1.0, linestyle="--", label="calibrated")
    top.plot(confidence[used], accuracy[used], color=COLOURS[0], marker="o", markersize=4, linewidth=1.6, label="model")
    top.set_ylabel("share right")
    top.set_ylim(0, 1.02)
    top.legend(frameon=False, fontsize=9, loc="upper left")
    below.bar((low + high) / 2, count, width=(high - low) * 0.9, color=COLOURS[4])
    below.set_yscale("log")
    below.set_ylim(0.5, None)
    below.set_ylabel("voxels")
    below.set_xlabel("probability")
    below.set_xlim(0, 1)
    return _png(figure)


def threshold_chart(tuning: Mapping[str, Any]) -> bytes | None:
    """Best score of all trials at every value of a threshold, side by side; the tuned value is marked.

    None where nothing was searched.
    """
    names = [name for name, t in tuning.get("tunables", {}).items() if t["steps"] > 1]
    trials = [(values, score) for values, score in tuning.get("trials", []) if score is not None]
    if not names or not trials:
        return None
    figure, rows = _figure(2.6, (1,), len(names))
    for axes, name in zip(rows, names, strict=True):
        best: dict[float, float] = {}
        for values, score in trials:
            best[values[name]] = max(score, best.get(values[name], 0.0))
        axes.plot(sorted(best), [best[v] for v in sorted(best)], color=COLOURS[0], marker="o", markersize=3.5)
        axes.axvline(tuning["thresholds"][name], color=COLOURS[5], linewidth=1.2)
        axes.set_xlabel(name)
    rows[0].set_ylabel("best score")
    return _png(figure)


def _endless(count: int, start: int = 0) -> list[str]:
    """So many colours, from the beginning again when they run out."""
    return [COLOURS[(start + i) % len(COLOURS)] for i in range(count)]


def _figure(height: float, ratios: tuple[int, ...], columns: int = 1) -> tuple[Any, list[Any]]:
    """A figure with axes one above the other, or in columns of one scale."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    made = figure.subplots(len(ratios), columns, sharex=len(ratios) > 1, sharey=columns > 1, squeeze=False,
                           height_ratios=ratios).reshape(-1)
    for axes in made:
        axes.grid(axis="y", color="#e3e8ee", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    return figure, list(made)


def _png(figure: Any) -> bytes:
    """PNG without a date, so that equal charts are equal bytes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Names in scripts that the font does not have are boxes in a picture; the page beside it has them as text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
