"""Trials for methods that decode by basins: what a trial needs is the cut of the graph, and sums over a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from biosegkit.kernels.basin_graph import BasinGraph, cut, join
from biosegkit.kernels.basins import level_of
from biosegkit.kernels.overlap import Overlaps
from biosegkit.methods.basin_decoding import fragments_of, limits_of
from biosegkit.methods.piece_counts import Above, announced, count_pieces, overlaps_of, side_by_side, truth_of
from biosegkit.methods.trials import Cost, Counter, Held

__all__ = ["BASIN_COST", "basin_counter"]

Ints = npt.NDArray[np.int64]

#: Over twice what a search took in ``benchmarks/tuning.py``; of the cases nothing is kept.
BASIN_COST = Cost(seconds=3e-7, bytes=0)


def basin_counter(held: Iterable[Held], foregrounds: Sequence[float], keep_unseeded: bool,
                  lifted: Callable[[Mapping[str, float]], Mapping[str, float]]) -> Counter:
    """Counter of a method whose states are those of :func:`basin_state`.

    Parameters
    ----------
    held : iterable of Held
        Each of one block, the whole image.
    foregrounds : sequence of float
        The foreground thresholds that will be asked for.
    keep_unseeded : bool
        As for :func:`resolve_basins`.
    lifted : callable
        From the method's thresholds to those of :func:`resolve_basins`.

    Returns
    -------
    Counter
        Raises OptionError for a foreground threshold that was not announced.
    """
    levels = np.unique([level_of(f) for f in foregrounds])
    tables, peak, edges = [], [np.zeros(0, np.int64)], [np.zeros((0, 4), np.int64)]
    basins = 0
    for case in held:
        graph, arrays = join([fragments_of(case.state)]), case.state.arrays
        tables.append(count_pieces(arrays["fragment"], graph.basin_of[0], len(graph.peak), arrays["foreground"], levels,
                                   truth_of(case)))
        peak.append(graph.peak)
        edges.append(graph.edges + np.array((basins, basins, 0, 0)))
        basins += len(graph.peak)
    table = side_by_side(tables, len(levels))
    peaks, between = np.concatenate(peak), np.concatenate(edges)
    at = {int(level): k for k, level in enumerate(levels)}

    @cache
    def above(level: int) -> tuple[BasinGraph, Above]:
        """What is left of the graph and the table above a foreground level."""
        found = table.above(at[level])
        left = between[between[:, 3] > level]
        left[:, :2] = found.number[left[:, :2]]
        return BasinGraph((), peaks[found.left], left), found

    def count(thresholds: Mapping[str, float]) -> list[Overlaps]:
        values = lifted(thresholds)
        level, seed, prominence, least = limits_of(values)
        announced("foreground", values["foreground"], foregrounds)
        graph, found = above(level)
        root = cut(graph, level, seed, prominence, keep_unseeded)
        return [overlaps_of(root, found, least, table.area)]

    return count
