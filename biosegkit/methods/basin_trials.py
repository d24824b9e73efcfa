"""Trials for methods that decode by basins: voxels are counted once, by basin, true object and foreground level.

What a trial needs then is the cut of the graph and sums over a table with a row for every basin and true object that
meet. All cases lie in one table side by side, so the time of a trial follows the basins and not the voxels or cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numba
import numpy as np
import numpy.typing as npt

from biosegkit.errors import OptionError
from biosegkit.kernels.basin_graph import BasinGraph, cut, join
from biosegkit.kernels.components import sequential
from biosegkit.kernels.overlap import Overlaps, pair_counts
from biosegkit.methods.basin_decoding import fragments_of, level_of, limits_of
from biosegkit.methods.trials import Counter, Held

__all__ = ["basin_counter"]

Ints = npt.NDArray[np.int64]

_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class _Table:
    """One or more cases side by side.

    ``rows`` (basin, true object) are ordered by true object (0 is background, -1 the ignored part); ``voxels`` (rows,
    levels) and ``first`` (basins, levels) hold how many voxels exceed each level and the first that does;
    ``area`` the sizes of the true objects; ``size`` all voxels.
    """

    peak: Ints
    edges: Ints
    rows: Ints
    voxels: Ints
    first: Ints
    area: Ints
    size: int


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
    whole = _side_by_side([_counted(case, levels) for case in held], len(levels))
    at = {int(level): k for k, level in enumerate(levels)}
    numbers = np.arange(1, len(whole.area) + 1)

    @cache
    def above(level: int) -> tuple[BasinGraph, Ints, Ints, Ints]:
        """What is left of the graph and the tables above a foreground level, its basins numbered anew in order."""
        k = at[level]
        left, some = whole.first[:, k] < _NEVER, whole.voxels[:, k] > 0
        number = np.cumsum(left) - 1
        edges, rows = whole.edges[whole.edges[:, 3] > level], whole.rows[some]
        edges[:, :2], rows[:, 0] = number[edges[:, :2]], number[rows[:, 0]]
        return BasinGraph((), whole.peak[left], edges), rows, whole.voxels[some, k], whole.first[left, k]

    def count(thresholds: Mapping[str, float]) -> list[Overlaps]:
        values = lifted(thresholds)
        level, seed, prominence, least = limits_of(values)
        if level not in at:
            raise OptionError(f"foreground={values['foreground']}", expected=f"one of {sorted(foregrounds)}",
                              remedy="announce every value that will be tried")
        graph, rows, voxels, first = above(level)
        root = cut(graph, level, seed, prominence, keep_unseeded)
        pairs, shared, ids, areas = _summed(root, rows, voxels, first, least)
        return [Overlaps(numbers, ids, whole.area, areas[:, 0], pairs, shared, areas[:, 1])]

    return count


def _counted(held: Held, levels: Ints) -> _Table:
    """The table of one case."""
    arrays = held.state.arrays
    graph = join([fragments_of(held.state)])
    above = np.searchsorted(levels, np.arange(int(levels[-1]) + 2), side="left")  # levels that a value exceeds
    code = np.empty(arrays["fragment"].size, np.int64)
    first = np.full((len(graph.peak), len(levels)), _NEVER, np.int64)
    _code(arrays["fragment"].reshape(-1), arrays["foreground"].reshape(-1), graph.basin_of[0], above, code, first)
    known = held.truth if held.valid is None else np.where(held.valid, held.truth, 0)
    truth, ids = sequential(known.astype(np.int64, copy=False))
    if held.valid is not None:
        truth[~held.valid] = len(ids) + 1
    keys, counts = pair_counts(code, truth.reshape(-1))
    area = np.bincount(keys[:, 1], weights=counts, minlength=len(ids) + 2).astype(np.int64)[1: len(ids) + 1]
    painted = keys[:, 0] > 0
    basin, level = np.divmod(keys[painted, 0] - 1, len(levels))
    row, place = np.unique(keys[painted, 1] * max(1, len(graph.peak)) + basin, return_inverse=True)
    voxels = np.zeros((len(row), len(levels)), np.int64)
    voxels[place, level] = counts[painted]
    meets, of = np.divmod(row, max(1, len(graph.peak)))
    meets[meets > len(ids)] = -1
    voxels = np.cumsum(voxels[:, ::-1], axis=1)[:, ::-1]
    first = np.minimum.accumulate(first[:, ::-1], axis=1)[:, ::-1]
    return _Table(graph.peak, graph.edges, np.column_stack([of, meets]), voxels, first, area, code.size)


def _side_by_side(tables: Sequence[_Table], levels: int) -> _Table:
    """Basins, true objects and voxels numbered on from case to case."""
    peak, edges = [np.zeros(0, np.int64)], [np.zeros((0, 4), np.int64)]
    rows, voxels = [np.zeros((0, 2), np.int64)], [np.zeros((0, levels), np.int64)]
    first, area = [np.zeros((0, levels), np.int64)], [np.zeros(0, np.int64)]
    basins = objects = size = 0
    for table in tables:
        peak.append(table.peak)
        edges.append(table.edges + np.array((basins, basins, 0, 0)))
        real = table.rows[:, 1] > 0
        rows.append(table.rows + np.column_stack([np.full(len(real), basins), np.where(real, objects, 0)]))
        voxels.append(table.voxels)
        first.append(np.where(table.first == _NEVER, _NEVER, table.first + size))
        area.append(table.area)
        basins, objects, size = basins + len(table.peak), objects + len(table.area), size + table.size
    return _Table(np.concatenate(peak), np.concatenate(edges), np.concatenate(rows), np.concatenate(voxels),
                  np.concatenate(first), np.concatenate(area), size)


@numba.njit(cache=True, nogil=True)
def _code(fragment, foreground, basin, above, code, first):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Number every voxel by basin and highest level exceeded, from 1; 0 where none is."""
    levels = first.shape[1]
    top = above.size - 1
    for i in range(fragment.size):
        code[i] = 0
        if fragment[i] < 0:
            continue
        k = above[min(np.int64(foreground[i]), top)] - 1
        if k >= 0:
            b = basin[fragment[i]]
            code[i] = b * levels + k + 1
            first[b, k] = min(first[b, k], i)


@numba.njit(cache=True, nogil=True)
def _summed(root, rows, voxels, first, least):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Pairs (true object, object), the voxels they share, ids of objects, and their (known, ignored) voxels.

    Objects are numbered by their first voxel, those of ``least`` voxels or more only, as painting numbers them; one
    that lies in the ignored part alone has a number but is not listed.
    """
    count = root.size
    areas = np.zeros((count, 2), np.int64)
    start = np.full(count, _NEVER, np.int64)
    for b in range(count):
        if root[b] >= 0:
            start[root[b]] = min(start[root[b]], first[b])
    for r in range(rows.shape[0]):
        k = root[rows[r, 0]]
        if k >= 0:
            areas[k, 1 if rows[r, 1] < 0 else 0] += voxels[r]
    alive = np.flatnonzero(areas[:, 0] + areas[:, 1] >= max(1.0, least))
    alive = alive[np.argsort(start[alive])]
    number = np.zeros(count, np.int64)
    for i in range(alive.size):
        number[alive[i]] = i + 1
    pairs, shared = np.empty((rows.shape[0], 2), np.int64), np.empty(rows.shape[0], np.int64)
    here, touched = np.zeros(alive.size + 1, np.int64), np.empty(rows.shape[0], np.int64)
    used = r = 0
    while r < rows.shape[0]:
        true, met = rows[r, 1], 0
        while r < rows.shape[0] and rows[r, 1] == true:
            k = root[rows[r, 0]]
            k = number[k] if k >= 0 and true > 0 else 0
            if k > 0:
                if here[k] == 0:
                    touched[met] = k
                    met += 1
                here[k] += voxels[r]
            r += 1
        for k in np.sort(touched[:met]):
            pairs[used, 0], pairs[used, 1], shared[used] = true, k, here[k]
            here[k] = 0
            used += 1
    listed = np.flatnonzero(areas[alive, 0] > 0)
    return pairs[:used], shared[:used], listed + 1, areas[alive[listed]]
