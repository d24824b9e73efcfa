"""Trials for spatial embeddings: points are clustered once per foreground and membership, for all seeds and reaches.

Clusters begin from the best seed to the worst, so those above a seed threshold do not depend on the others: they are
the first of those at the lowest. Which of the first clusters owns a voxel, within which reach, is counted once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from biosegkit.kernels.basins import level_of
from biosegkit.kernels.cluster_claims import claims
from biosegkit.kernels.clusters import lead
from biosegkit.kernels.overlap import Overlaps
from biosegkit.methods.offset_decoding import reaches, seeds_of
from biosegkit.methods.piece_counts import NEVER, Above, announced, overlaps_of, truth_of
from biosegkit.methods.protocol import State
from biosegkit.methods.trials import Cost, Counter, Held

__all__ = ["OFFSET_COST", "offset_counter"]

Ints = npt.NDArray[np.int64]

#: Over twice what a search took in ``benchmarks/tuning.py``; states and the truth of their voxels are kept.
OFFSET_COST = Cost(seconds=2e-6, bytes=36)
#: Tables that are kept; a search asks for as many in turn as there are values of the membership.
_TABLES = 16


@dataclass(frozen=True, eq=False)
class _Case:
    """State and truth of a case, the latter by voxel of the state; voxels and true objects of the cases before it."""

    state: State
    marks: Ints
    objects: int
    voxels: int
    area: Ints


@dataclass(frozen=True, eq=False)
class _Table:
    """Claims of all cases side by side, those of a true object together.

    ``rows`` (cluster, until, limit, true object), as of `Claims`, their ``voxels`` and the ``first`` of these; ``seed``
    of every cluster.
    """

    rows: Ints
    voxels: Ints
    first: Ints
    seed: Ints

    def above(self, level: int, limit: int) -> Above:
        """Clusters whose seed exceeds a level, and the voxels they own within a limit."""
        live = self.seed > level
        cluster, until = self.rows[:, 0], self.rows[:, 1]
        some = np.flatnonzero(live[cluster] & ~((until >= 0) & live[until]) & (self.rows[:, 2] <= limit))
        first = np.full(len(live), NEVER)
        np.minimum.at(first, cluster[some], self.first[some])
        return Above(live, self.rows[some][:, [0, 3]], self.voxels[some], first)


def offset_counter(held: Iterable[Held], tried: Mapping[str, Sequence[float]],
                   checked: Callable[[Mapping[str, float]], Mapping[str, float]]) -> Counter:
    """Counter of the offset method.

    Parameters
    ----------
    held : iterable of Held
        Each of one block, the whole image.
    tried : dict of str to sequence of float
        The values of seed and reach that will be asked for.
    checked : callable
        Fills in the thresholds that are left out.

    Returns
    -------
    Counter
        Raises OptionError for a threshold that was not announced.
    """
    cases, objects, voxels = [], 0, 0
    for case in held:
        truth = truth_of(case)
        cases.append(_Case(case.state, truth.numbers[case.state.arrays["voxels"]], objects, voxels, truth.area))
        objects, voxels = objects + len(truth.area), voxels + len(truth.numbers)
    area = np.concatenate([np.zeros(0, np.int64), *(case.area for case in cases)])
    lowest, far = min(tried["seed"]), sorted(set(tried["reach"]))

    @lru_cache(_TABLES)
    def table(foreground: float, membership: float) -> _Table:
        """Of the clusters at the lowest seed."""
        used = {"foreground": foreground, "membership": membership, "seed": lowest}
        return _side_by_side([_claimed(case, used, far) for case in cases])

    def count(thresholds: Mapping[str, float]) -> list[Overlaps]:
        values = checked(thresholds)
        for name in ("seed", "reach"):
            announced(name, values[name], tried[name])
        found = table(values["foreground"], values["membership"])
        at = found.above(level_of(values["seed"]), far.index(values["reach"]))
        root = np.where(at.left, np.arange(len(at.left)), -1)
        return [overlaps_of(root, at, values["min_size"], area)]

    return count


def _claimed(case: _Case, used: Mapping[str, float], far: Sequence[float]) -> _Table:
    """Clusters of a case and their claims."""
    a = case.state.arrays
    order = seeds_of(case.state, used)
    limits = [reaches({**used, "reach": reach}) for reach in far]
    clusters = lead(a["points"], a["sigma"], limits[0][0], limits[0][0], order)
    inside = np.flatnonzero(a["foreground"] > level_of(used["foreground"]))
    found = claims(clusters, [limit for _, limit in limits], a["points"], case.marks, inside)
    rows, true = found.rows, found.rows[:, 3]
    rows[:, 3] = np.where(true > len(case.area), -1, np.where(true > 0, true + case.objects, 0))
    first = a["voxels"][found.first].astype(np.int64) + case.voxels
    return _Table(rows, found.counts, first, a["seed"][clusters.leader].astype(np.int64))


def _side_by_side(tables: Sequence[_Table]) -> _Table:
    """Clusters numbered on from case to case."""
    rows, clusters = [np.zeros((0, 4), np.int64)], 0
    for one in tables:
        until = np.where(one.rows[:, 1] < 0, -1, one.rows[:, 1] + clusters)
        rows.append(np.column_stack([one.rows[:, 0] + clusters, until, one.rows[:, 2:]]))
        clusters += len(one.seed)
    whole = np.concatenate(rows)
    order = np.argsort(whole[:, 3], kind="stable")
    voxels, first, seed = (np.concatenate([np.zeros(0, np.int64), *(getattr(one, name) for one in tables)])
                           for name in ("voxels", "first", "seed"))
    return _Table(whole[order], voxels[order], first[order], seed)
