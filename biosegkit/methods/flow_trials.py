"""Trials for methods that decode by flows: trees are linked once per foreground threshold, and cut for every trial.

All limits of the repulsion are cuts of one linkage, so an object is a node of it and turns up in many trials; how far
its flow is from the predicted one is computed when a trial first asks for it. Voxels are counted once, by tree.
A trial that cannot become the best even if its errors are as one would wish them ends before they are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.kernels.basins import level_of
from biosegkit.kernels.flow_graph import FlowGraph
from biosegkit.kernels.flow_linkage import Linkage, cut_linkage, link_trees
from biosegkit.kernels.overlap import Overlaps
from biosegkit.methods.flow_check import Field, squared_errors
from biosegkit.methods.flow_decoding import WORST, graph_of, labels_of
from biosegkit.methods.piece_counts import Above, announced, count_pieces, overlaps_of, side_by_side, truth_of
from biosegkit.methods.protocol import State
from biosegkit.methods.trials import Cost, Counter, Held

__all__ = ["FLOW_COST", "flow_counter"]

Ints = npt.NDArray[np.int64]

#: Five times what a search took in ``benchmarks/tuning.py``; fragments, foreground and flow are kept.
FLOW_COST = Cost(seconds=3e-6, bytes=12)


@dataclass(frozen=True, eq=False)
class _Case:
    """State and graph of a case, and the number of its first tree among those of all cases."""

    state: State
    graph: FlowGraph
    offset: int


@dataclass(frozen=True, eq=False)
class _Level:
    """Table and linkage above a foreground level.

    ``errors`` are those of objects by their name (see `cut_linkage`), NaN where nobody has asked.
    """

    level: int
    table: Above
    linked: Linkage
    errors: npt.NDArray[np.float64]


def flow_counter(held: Iterable[Held], foregrounds: Sequence[float], field: Field,
                 checked: Callable[[Mapping[str, float]], Mapping[str, float]]) -> Counter:
    """Counter of a method whose states are those of :func:`flow_state`.

    Parameters
    ----------
    held : iterable of Held
        Each of one block, the whole image.
    foregrounds : sequence of float
        The foreground thresholds that will be asked for.
    field : callable
        As for :func:`resolve_flows`.
    checked : callable
        Fills in the thresholds that are left out.

    Returns
    -------
    Counter
        Raises OptionError for a foreground threshold that was not announced.
    """
    levels = np.unique([level_of(f) for f in foregrounds])
    cases: list[_Case] = []
    tables, trees = [], 0
    for case in held:
        graph, arrays = graph_of([case.state]), case.state.arrays
        tables.append(count_pieces(arrays["fragment"], graph.tree_of[0], graph.count, arrays["foreground"], levels,
                                   truth_of(case)))
        cases.append(_Case(case.state, graph, trees))
        trees += graph.count
    table = side_by_side(tables, len(levels))
    at = {int(level): k for k, level in enumerate(levels)}

    @cache
    def above(level: int) -> _Level:
        """Trees that are left above a foreground level, numbered anew in order, and their linkage."""
        found = table.above(at[level])
        into, height, turn = [np.zeros(0, np.int64)], [np.zeros(0)], [np.zeros(0, np.int64)]
        for case in cases:
            linked = link_trees(case.graph, level)
            into.append(linked.into + case.offset)
            height.append(linked.height)
            turn.append(linked.turn)
        left = found.left
        whole = Linkage(found.number[np.concatenate(into)[left]], np.concatenate(height)[left],
                        np.concatenate(turn)[left])
        return _Level(level, found, whole, np.full(2 * len(found.first), np.nan))

    def placed(thresholds: Mapping[str, float]) -> tuple[_Level, Mapping[str, float]]:
        values = checked(thresholds)
        announced("foreground", values["foreground"], foregrounds)
        return above(level_of(values["foreground"])), values

    return _Counter(placed, cases, field, table.area)


@dataclass(frozen=True, eq=False)
class _Counter:
    """Counts objects, at first with those whose error is not known; see `biosegkit.methods.trials.Narrowing`."""

    placed: Callable[[Mapping[str, float]], tuple[_Level, Mapping[str, float]]]
    cases: Sequence[_Case]
    field: Field
    area: Ints

    def __call__(self, thresholds: Mapping[str, float]) -> list[Overlaps]:
        *_, (found, _) = self.narrow(thresholds)
        return [found]

    def narrow(self, thresholds: Mapping[str, float]) -> Iterator[tuple[Overlaps, Overlaps]]:
        """Before errors are computed, after those of half the voxels in the smallest objects, and after all."""
        here, values = self.placed(thresholds)
        root, name = cut_linkage(here.linked, values["repulsion"])
        least, worst = max(1.0, values["min_size"]), values["flow_error"]
        if worst >= WORST:
            found = overlaps_of(root, here.table, least, self.area)
            yield found, found
            return
        area = np.bincount(root[here.table.rows[:, 0]], weights=here.table.voxels, minlength=len(root))
        kept = (area >= least) & (root == np.arange(len(root)))
        for share in (0.0, 0.5, 1.0):
            _complete(here, self.cases, np.where(_smallest(here, kept, name, area, share)[root], root, -1), name, area,
                      self.field)
            error = here.errors[name]
            every, certain = (np.where((kept & fits)[root], root, -1) for fits in (~(error > worst), error <= worst))
            found = overlaps_of(every, here.table, least, self.area)
            if np.array_equal(every, certain):
                yield found, found
                return
            yield found, overlaps_of(certain, here.table, least, self.area)


def _smallest(here: _Level, kept: npt.NDArray[np.bool_], name: Ints, area: npt.NDArray[Any], share: float
              ) -> npt.NDArray[np.bool_]:
    """Of the kept objects whose error is not known, the smallest, which together have a share of their voxels."""
    open_ = np.flatnonzero(kept & np.isnan(here.errors[name]))
    open_ = open_[np.argsort(area[open_], kind="stable")]
    chosen = np.zeros(len(kept), bool)
    total = np.cumsum(area[open_])
    chosen[open_[total <= share * (total[-1] if len(total) else 0)]] = True
    return chosen


def _complete(here: _Level, cases: Sequence[_Case], root: Ints, name: Ints, area: npt.NDArray[Any],
              field: Field) -> None:
    """Fill in the errors of objects that have none yet; ``root`` is -1 where nobody asks."""
    wanted = (root >= 0) & np.isnan(here.errors[name])
    if not wanted.any():
        return
    every = np.full(len(here.table.left), -1, np.int64)
    every[here.table.left] = np.where(wanted, root, -1)
    for case in cases:
        mine = every[case.offset: case.offset + case.graph.count]
        heads = np.unique(mine[mine >= 0])
        if not len(heads):
            continue
        number = np.where(mine >= 0, np.searchsorted(heads, mine) + 1, 0)
        labels = labels_of(case.state, here.level, number[case.graph.tree_of[0]])
        squares = squared_errors(case.state, labels, field, len(heads))[1:]
        here.errors[name[heads]] = squares / np.maximum(area[heads], 1)
