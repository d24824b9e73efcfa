"""Trials for star-shaped objects: suppression and painting once per overlap, whatever the other thresholds.

Suppression goes from the best candidate to the worst, so what it decides on those above a probability does not depend
on the others; and a voxel belongs to the best of the shapes that hold it, so it does not change hands when worse ones
go. Both done once at the lowest probability, a trial takes the shapes above its own. The same holds for shapes with
their reach (see `Star`), so a voxel has two owners, and the second one counts where the first is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from biosegkit.kernels.basins import level_of
from biosegkit.kernels.components import sequential
from biosegkit.kernels.overlap import Overlaps
from biosegkit.kernels.rays import Rays
from biosegkit.kernels.star_nms import Rule, suppress
from biosegkit.methods.piece_counts import (
    Above,
    PieceCounts,
    Truth,
    announced,
    count_pieces,
    overlaps_of,
    side_by_side,
    truth_of,
)
from biosegkit.methods.protocol import State
from biosegkit.methods.star_decoding import in_order, owners
from biosegkit.methods.trials import Cost, Counter, Held

__all__ = ["STAR_COST", "Settings", "star_counter"]

Ints = npt.NDArray[np.int64]

#: Over twice what a search took in ``benchmarks/tuning.py``; candidates are kept, less than a voxel in eight.
STAR_COST = Cost(seconds=6e-7, bytes=16)


@dataclass(frozen=True)
class Settings:
    """What a search does not change: the rays by number of axes, and the options of `suppress`."""

    rays: Callable[[int], Rays]
    rule: Rule
    merge: bool
    reach: float


def star_counter(held: Iterable[Held], tried: Mapping[str, Sequence[float]], settings: Settings,
                 checked: Callable[[Mapping[str, float]], Mapping[str, float]]) -> Counter:
    """Counter of the star method.

    Parameters
    ----------
    held : iterable of Held
        Each of one block, the whole image.
    tried : dict of str to sequence of float
        The values of probability, overlap and foreground that will be asked for.
    settings : Settings
    checked : callable
        Fills in the thresholds that are left out.

    Returns
    -------
    Counter
        Raises OptionError for a threshold that was not announced.
    """
    lowest = min(level_of(p) for p in tried["probability"])
    levels = np.unique([_trim(f) for f in tried["foreground"]])
    cases: list[_Candidates] = []
    painted: dict[float, list[_Painted]] = {overlap: [] for overlap in tried["overlap"]}
    for case in held:
        cases.append(_candidates(case.state, lowest))
        truth = truth_of(case)
        for overlap, parts in painted.items():
            parts.append(_painted(case.state, cases[-1].above(lowest), overlap, settings, levels, truth))
    tables = {overlap: side_by_side([p.counts for p in parts], len(levels)) for overlap, parts in painted.items()}
    at = {int(level): k for k, level in enumerate(levels)}

    @cache
    def above(overlap: float, level: int) -> Above:
        """The table of an overlap above a foreground level."""
        return tables[overlap].at(at[level])

    @cache
    def roots(overlap: float, level: int) -> Ints:
        """What every piece belongs to above a probability: shapes to the best of their object, -1 those below."""
        found, before = [np.zeros(0, np.int64)], 0
        for case, part in zip(cases, painted[overlap], strict=True):
            leader = _leaders(case.above(level), overlap, settings) if settings.merge else part.leader
            among = int(np.searchsorted(part.kept, len(case.above(level).probability)))
            root = np.full(len(part.kept) + 1, -1, np.int64)  # the last is that of no shape
            root[:among] = np.searchsorted(part.kept, leader[part.kept[:among]])
            near, far = root[part.near], root[part.far]
            root = np.concatenate([root[:-1], np.where(near >= 0, near, far)])
            found.append(np.where(root >= 0, root + before, -1))
            before += len(root)
        return np.concatenate(found)

    def count(thresholds: Mapping[str, float]) -> list[Overlaps]:
        values = checked(thresholds)
        for name in ("probability", "overlap", "foreground"):
            announced(name, values[name], tried[name])
        overlap = values["overlap"]
        found = above(overlap, _trim(values["foreground"]))
        root = roots(overlap, level_of(values["probability"]))
        return [overlaps_of(root, found, values["min_size"], tables[overlap].area)]

    return count


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Candidates of a case, the best first."""

    places: Ints
    probability: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.float32]
    spacing: tuple[float, ...]

    def above(self, level: int) -> _Candidates:
        """Those of a probability above a level."""
        n = int(np.searchsorted(-self.probability, -level))
        return _Candidates(self.places[:n], self.probability[:n], self.lengths[:n], self.spacing)


@dataclass(frozen=True, eq=False)
class _Painted:
    """Leaders of the candidates of a case by one overlap, those that are kept, and the voxels of its pieces.

    Pieces are the kept shapes, which have no voxels themselves, and then what has the same two owners ``near`` and
    ``far``, among the kept; -1 for none.
    """

    leader: Ints
    kept: Ints
    near: Ints
    far: Ints
    counts: PieceCounts


def _candidates(state: State, lowest: int) -> _Candidates:
    """The candidates of a state above the lowest level."""
    a = state.arrays
    chosen = a["probability"] > lowest
    found = a["places"][chosen], a["probability"][chosen], a["distances"][chosen].astype(np.float32)
    return _Candidates(*in_order(found, state.block.full_shape), state.block.spacing)


def _leaders(found: _Candidates, overlap: float, settings: Settings) -> Ints:
    """Leaders by one overlap."""
    return suppress(found.places, found.lengths, settings.rays(len(found.spacing)), found.spacing, threshold=overlap,
                    rule=settings.rule, merge=settings.merge)


def _painted(state: State, found: _Candidates, overlap: float, settings: Settings, levels: Ints,
             truth: Truth) -> _Painted:
    """Suppress by one overlap, paint what is left, and count its voxels."""
    leader = _leaders(found, overlap, settings)
    kept = np.flatnonzero(leader >= 0)
    block, count = state.block, len(kept)
    pair = owners(block, found.places[kept][::-1], found.lengths[kept][::-1], settings.rays(len(found.spacing)),
                  settings.reach)
    numbers, codes = sequential(pair[0].astype(np.int64) * (count + 1) + pair[1])
    near, far = (np.where(p > 0, count - p, -1) for p in np.divmod(codes, count + 1))  # painted the worst first
    counts = count_pieces(numbers - 1, count + np.arange(len(codes)), count + len(codes), state.arrays["foreground"],
                          levels, truth)
    return _Painted(leader, kept, near, far, counts)


def _trim(foreground: float) -> int:
    """As `level_of`; a foreground of 0 leaves shapes as they are."""
    return level_of(foreground) if foreground > 0 else -1
