"""The threshold of classes or regions, chosen on held-back cases: each case is predicted once and painted per value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from .methods.protocol import Decisions, empty_table
from .methods.semantic import Semantic
from .methods.trials import Held
from .metrics.overlap import OverlapCounts
from .tune import Tuned, grid_values

__all__ = ["LEAST_CASES", "tune_classes"]

#: Fewer cases choose nothing.
LEAST_CASES = 3


def tune_classes(method: Semantic, held: Iterable[Held]) -> Tuned:
    """Search the threshold of a semantic method for the mean Dice of all classes, the background among them.

    A network may draw all uncertain borders too wide, or all too narrow; one number corrects it. The background counts
    as a class, as it may be one (membranes beside cells).

    Parameters
    ----------
    method : Semantic
    held : iterable of Held
        Cases the network was not trained on, or their planes one after the other; truth in the classes of the method.
        Read once, one at a time.

    Returns
    -------
    Tuned
        Of the values that are as good as the best, within the standard error of their difference over the cases, the
        one nearest the default (Breiman et al. 1984, the rule of one standard error). ``score`` is its mean Dice.

    Examples
    --------
    >>> from biosegkit.methods.protocol import Block, State
    >>> truth, block = np.repeat([0, 1], [7, 3]), Block.whole((10,))
    >>> maps = np.stack([1 - np.arange(10) / 10, np.arange(10) / 10])
    >>> cases = [Held(name, Semantic(2).local({"classes": maps}, block), truth) for name in "abc"]
    >>> tune_classes(Semantic(2), cases).thresholds, tune_classes(Semantic(2), cases).score
    ({'foreground': 0.6}, 1.0)
    """
    (name, tunable), = method.tunables.items()
    values = sorted({*grid_values(tunable), tunable.default})
    counts: dict[str, list[list[OverlapCounts]]] = {}
    for case in held:
        painted = [_counted(method, case, {name: value}) for value in values]
        before = counts.get(case.case)
        counts[case.case] = painted if before is None else [
            [a + b for a, b in zip(*pair, strict=True)] for pair in zip(before, painted, strict=True)]
    dice = np.array([[_mean(groups) for groups in case] for case in counts.values()]).reshape(-1, len(values))
    start = values.index(tunable.default)
    chosen = _chosen(dice, start) if len(dice) >= LEAST_CASES else start
    means = [_mean_of(column) for column in dice.T]
    trials = tuple(({name: value}, mean) for value, mean in zip(values, means, strict=True))
    return Tuned({name: values[chosen]}, means[chosen], means[start], trials, tuple(counts))


def _counted(method: Semantic, case: Held, thresholds: dict[str, float]) -> list[OverlapCounts]:
    """Voxels that agree, of the background and of every class or region."""
    decisions = Decisions(thresholds, {}, empty_table(len(case.state.block.shape)))
    painted = method.paint(case.state, decisions)[0]
    n = method.n_classes
    pairs = np.asarray(case.truth, np.int64) * n + painted
    if case.valid is not None:
        pairs = pairs[case.valid]
    matrix = np.bincount(pairs.ravel(), minlength=n * n).reshape(n, n)
    groups: Sequence[Sequence[int]] = [[0], *(method.regions or ([c] for c in range(1, n)))]
    return [_of(matrix, list(group)) for group in groups]


def _of(matrix: npt.NDArray[np.int64], group: list[int]) -> OverlapCounts:
    """Counts of some classes taken together, from the voxels by true and by painted class."""
    both = int(matrix[np.ix_(group, group)].sum())
    return OverlapCounts(both, int(matrix[:, group].sum()) - both, int(matrix[group].sum()) - both)


def _mean(groups: Iterable[OverlapCounts]) -> float:
    """Mean Dice of a case over what is there in truth or prediction."""
    return _mean_of(np.array([group.dice for group in groups]))


def _mean_of(values: npt.NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else 0.0


def _chosen(dice: npt.NDArray[np.float64], start: int) -> int:
    """The column nearest ``start`` whose mean is within one standard error of the best."""
    best = int(np.argmax(dice.mean(0)))
    lost = dice[:, [best]] - dice
    within = lost.mean(0) <= lost.std(0, ddof=1) / math.sqrt(len(dice))
    columns: list[int] = np.flatnonzero(within).tolist()
    return min(columns, key=lambda k: (abs(k - start), -dice[:, k].mean()))
