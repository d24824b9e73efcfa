"""Voxels counted once by piece, true object and foreground level: what trials of thresholds need instead of labels.

A piece is the least that any thresholds keep together: a basin, a tree of flows, a star-shaped polygon. Whatever makes
objects of pieces, the overlaps of objects and truth are then sums over a table with a row for every piece and true
object that meet. Cases lie in one table side by side, so the time of a trial follows the pieces and not voxels or
cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from biosegkit.errors import OptionError
from biosegkit.kernels.components import sequential
from biosegkit.kernels.overlap import Overlaps, pair_counts
from biosegkit.methods.trials import Held

__all__ = ["NEVER", "Above", "PieceCounts", "Truth", "announced", "count_pieces", "overlaps_of", "side_by_side",
           "truth_of"]

Ints = npt.NDArray[np.int64]

#: The first voxel of what has none.
NEVER = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, eq=False)
class Truth:
    """Voxels of a case by true object: 0 is background, 1..K the objects, K + 1 ignored; and the objects' sizes."""

    numbers: Ints
    area: Ints


@dataclass(frozen=True, eq=False)
class Above:
    """What lies above a foreground level; ``left`` are the pieces it has a place for, numbered anew in order.

    ``rows`` (piece, true object; 0 is background, -1 the ignored part), those of a true object together and in order;
    ``voxels`` of each row, ``first`` voxel of each piece.
    """

    left: npt.NDArray[np.bool_]
    rows: Ints
    voxels: Ints
    first: Ints

    @property
    def number(self) -> Ints:
        """The new number of every piece that is left."""
        return np.asarray(np.cumsum(self.left) - 1, np.int64)


@dataclass(frozen=True, eq=False)
class PieceCounts:
    """One or more cases side by side.

    As `Above`, with a column per level: ``voxels`` (rows, levels) and ``first`` (pieces, levels) hold how many voxels
    exceed each level and the first that does; ``area`` the sizes of the true objects; ``size`` all voxels.
    """

    rows: Ints
    voxels: Ints
    first: Ints
    area: Ints
    size: int

    def at(self, k: int) -> Above:
        """The table at one level, with every piece."""
        some = self.voxels[:, k] > 0
        return Above(np.ones(len(self.first), bool), self.rows[some], self.voxels[some, k], self.first[:, k])

    def above(self, k: int) -> Above:
        """The table at one level, with the pieces that reach above it."""
        whole, left = self.at(k), self.first[:, k] < NEVER
        found = Above(left, whole.rows, whole.voxels, whole.first[left])
        found.rows[:, 0] = found.number[found.rows[:, 0]]
        return found


def truth_of(held: Held) -> Truth:
    """The truth of a case as `count_pieces` takes it."""
    known = held.truth if held.valid is None else np.where(held.valid, held.truth, 0)
    numbers, ids = sequential(known.astype(np.int64, copy=False))
    if held.valid is not None:
        numbers[~held.valid] = len(ids) + 1
    flat = numbers.reshape(-1)
    return Truth(flat, np.bincount(flat, minlength=len(ids) + 2).astype(np.int64)[1: len(ids) + 1])


def announced(name: str, value: float, tried: Sequence[float]) -> None:
    """Refuse a threshold that was not announced."""
    if value not in tried:
        raise OptionError(f"{name}={value}", expected=f"one of {sorted(tried)}",
                          remedy="announce every value that will be tried")


def count_pieces(fragment: npt.NDArray[Any], piece_of: Ints, pieces: int, foreground: npt.NDArray[Any], levels: Ints,
                 truth: Truth) -> PieceCounts:
    """The table of one case.

    Parameters
    ----------
    fragment : ndarray of int, (*space)
        What each voxel is part of; -1 for nothing.
    piece_of : ndarray of int64
        The piece of every fragment, below ``pieces``.
    pieces : int
    foreground : ndarray of uint16, (*space)
    levels : ndarray of int64, (L,)
        Ascending; a voxel counts at those its foreground exceeds.
    truth : Truth

    Examples
    --------
    >>> truth = Truth(np.array([0, 1, 1, 1]), np.array([3]))
    >>> fragment, level = np.array([0, 0, 0, -1]), np.array([9, 9, 4, 9])
    >>> counts = count_pieces(fragment, np.array([0]), 1, level, np.array([3, 5]), truth)
    >>> counts.rows.tolist(), counts.voxels.tolist(), counts.first.tolist()
    ([[0, 0], [0, 1]], [[1, 1], [2, 1]], [[0, 0]])
    """
    above = np.searchsorted(levels, np.arange(int(levels[-1]) + 2), side="left")  # levels that a value exceeds
    code = np.empty(fragment.size, np.int64)
    first = np.full((pieces, len(levels)), NEVER, np.int64)
    _code(fragment.reshape(-1), foreground.reshape(-1), piece_of, above, code, first)
    keys, counts = pair_counts(code, truth.numbers)
    painted = keys[:, 0] > 0
    piece, level = np.divmod(keys[painted, 0] - 1, len(levels))
    row, place = np.unique(keys[painted, 1] * max(1, pieces) + piece, return_inverse=True)
    voxels = np.zeros((len(row), len(levels)), np.int64)
    voxels[place, level] = counts[painted]
    meets, of = np.divmod(row, max(1, pieces))
    meets[meets > len(truth.area)] = -1
    voxels = np.ascontiguousarray(np.cumsum(voxels[:, ::-1], axis=1)[:, ::-1])
    first = np.ascontiguousarray(np.minimum.accumulate(first[:, ::-1], axis=1)[:, ::-1])
    return PieceCounts(np.column_stack([of, meets]), voxels, first, truth.area, code.size)


def side_by_side(tables: Sequence[PieceCounts], levels: int) -> PieceCounts:
    """Pieces, true objects and voxels numbered on from case to case."""
    rows, voxels = [np.zeros((0, 2), np.int64)], [np.zeros((0, levels), np.int64)]
    first, area = [np.zeros((0, levels), np.int64)], [np.zeros(0, np.int64)]
    pieces = objects = size = 0
    for table in tables:
        real = table.rows[:, 1] > 0
        rows.append(table.rows + np.column_stack([np.full(len(real), pieces), np.where(real, objects, 0)]))
        voxels.append(table.voxels)
        first.append(np.where(table.first == NEVER, NEVER, table.first + size))
        area.append(table.area)
        pieces, objects, size = pieces + len(table.first), objects + len(table.area), size + table.size
    return PieceCounts(np.concatenate(rows), np.concatenate(voxels), np.concatenate(first), np.concatenate(area), size)


def overlaps_of(root: Ints, at: Above, least: float, area: Ints) -> Overlaps:
    """Overlaps of the true objects, of sizes ``area``, with the objects that are made of pieces.

    Parameters
    ----------
    root : ndarray of int64, (pieces,)
        The piece each piece is one with; -1 for those that are dropped.
    at : Above
    least : float
        Size below which objects are dropped.
    area : ndarray of int64, (objects,)

    Examples
    --------
    >>> at = Above(np.ones(2, bool), np.array([[0, 0], [0, 1], [1, 1]]), np.array([1, 2, 3]), np.array([0, 3]))
    >>> found = overlaps_of(np.array([0, 0]), at, 1, np.array([6]))
    >>> found.pairs.tolist(), found.counts.tolist(), found.area_b.tolist()
    ([[1, 1]], [5], [6])
    """
    pairs, shared, ids, areas = _summed(root, at.rows, at.voxels, at.first, float(least))
    return Overlaps(np.arange(1, len(area) + 1), ids, area, areas[:, 0], pairs, shared, areas[:, 1])


@numba.njit(cache=True, nogil=True)
def _code(fragment, foreground, piece_of, above, code, first):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Number every voxel by piece and highest level exceeded, from 1; 0 where none is."""
    levels = first.shape[1]
    top = above.size - 1
    for i in range(fragment.size):
        code[i] = 0
        if fragment[i] < 0:
            continue
        k = above[min(np.int64(foreground[i]), top)] - 1
        if k >= 0:
            b = piece_of[fragment[i]]
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
    start = np.full(count, NEVER, np.int64)
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
