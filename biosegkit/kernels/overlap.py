"""Overlap counts of two label arrays: one pass, sparse, whatever the ids are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from biosegkit.errors import DataError

__all__ = ["Overlaps", "overlap_counts", "overlaps_of", "pair_counts"]

Ints = npt.NDArray[np.int64]
_NOTHING = (np.empty(0, np.int64), np.empty(0, np.int64))
_CHUNK = 1 << 20  # voxels converted to int64 at a time: 16 MB of scratch, whatever the image


@dataclass(frozen=True)
class Overlaps:
    """How many voxels each object of ``a`` shares with each object of ``b``.

    Only voxels that are valid count, for areas as for overlaps. Background (id 0) is no object.

    Parameters
    ----------
    ids_a, ids_b : ndarray of int64, (A,) and (B,)
        The ids present, ascending.
    area_a, area_b : ndarray of int64, (A,) and (B,)
        Their sizes in voxels.
    pairs : ndarray of int64, (K, 2)
        The pairs (id in ``a``, id in ``b``) that share a voxel, in lexicographic order.
    counts : ndarray of int64, (K,)
        The voxels each pair shares.
    ignored_b : ndarray of int64, (B,)
        The voxels of each object of ``b`` that are not valid, which count nowhere above: 0 without an ignore mask.
    """

    ids_a: Ints
    ids_b: Ints
    area_a: Ints
    area_b: Ints
    pairs: Ints
    counts: Ints
    ignored_b: Ints

    def mostly_ignored(self) -> npt.NDArray[np.bool_]:
        """Mark the objects of ``b`` that lie to more than half under the ignore mask, shape (B,)."""
        return self.ignored_b > self.area_b

    def indexed(self) -> tuple[Ints, Ints]:
        """Return the pairs as positions in ``ids_a`` and ``ids_b``."""
        return np.searchsorted(self.ids_a, self.pairs[:, 0]), np.searchsorted(self.ids_b, self.pairs[:, 1])

    def iou(self) -> npt.NDArray[np.float64]:
        """Intersection over union of each pair, the correctly rounded quotient of two integers, shape (K,)."""
        i, j = self.indexed()
        union = self.area_a[i] + self.area_b[j] - self.counts
        return np.asarray(self.counts / union, dtype=np.float64)


def overlap_counts(
    a: npt.NDArray[Any], b: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None = None
) -> Overlaps:
    """Count the voxels shared by each pair of objects of two label arrays.

    Time follows the voxels plus the pairs that really occur; memory follows those pairs, never the largest id nor the
    product of the object counts. The result does not depend on the order in which voxels are visited.

    Parameters
    ----------
    a, b : ndarray of bool or int, any equal shape
        Labels, 0 is background. Ids may be sparse, up to 2**63 - 1.
    valid : ndarray of bool, same shape, optional
        Voxels to count; the others (an ignore mask) are left out altogether.

    Raises
    ------
    DataError
        If shapes differ, a dtype is not integer, or an id is negative or above 2**63 - 1.

    Examples
    --------
    >>> a = np.array([[1, 1, 0, 7]])
    >>> b = np.array([[0, 3_000_000_000, 3_000_000_000, 3_000_000_000]])
    >>> found = overlap_counts(a, b)
    >>> found.pairs.tolist(), found.counts.tolist(), found.area_b.tolist()
    ([[1, 3000000000], [7, 3000000000]], [1, 1], [3])
    """
    _check(a, b, valid)
    flat_a, flat_b = a.reshape(-1), b.reshape(-1)
    if valid is None:
        keys, counts = _table(flat_a, flat_b, None)
        return _collect(keys, counts, *_NOTHING)
    flat_valid = valid.reshape(-1)
    ignored, hidden = _table(flat_b, flat_b, ~flat_valid)
    keys, counts = _table(flat_a, flat_b, flat_valid)
    return _collect(keys, counts, ignored[:, 1], hidden)


def pair_counts(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> tuple[Ints, Ints]:
    """How often each pair of values occurs in two flat arrays of one length, background included; in no order.

    Returns
    -------
    pairs : ndarray of int64, (K, 2)
    counts : ndarray of int64, (K,)

    Raises
    ------
    DataError
        As for :func:`overlap_counts`.

    Examples
    --------
    >>> pairs, counts = pair_counts(np.array([4, 4, 0]), np.array([7, 7, 7]))
    >>> sorted(zip(pairs.tolist(), counts.tolist()))
    [([0, 7], 1), ([4, 7], 2)]
    """
    _check(a, b, None)
    return _table(a, b, None)


def overlaps_of(pairs: npt.NDArray[Any], counts: npt.NDArray[Any]) -> Overlaps:
    """Overlaps from the pairs of several parts of two arrays, as :func:`pair_counts` gives them, one after the other.

    Examples
    --------
    >>> found = overlaps_of(np.array([[4, 7], [0, 7], [4, 7]]), np.array([2, 1, 3]))
    >>> found.pairs.tolist(), found.counts.tolist(), found.area_b.tolist()
    ([[4, 7]], [5], [6])
    """
    unique, row = np.unique(np.asarray(pairs, np.int64).reshape(-1, 2), axis=0, return_inverse=True)
    total = np.zeros(len(unique), np.int64)
    np.add.at(total, row.reshape(-1), counts)
    return _collect(unique, total, *_NOTHING)


def _table(
    flat_a: npt.NDArray[Any], flat_b: npt.NDArray[Any], keep: npt.NDArray[np.bool_] | None
) -> tuple[Ints, Ints]:
    """Count each pair of values that occurs among the voxels to keep, in no order."""
    keys, counts, used = np.full((1024, 2), -1, np.int64), np.zeros(1024, np.int64), 0
    for start in range(0, flat_a.size, _CHUNK):
        stop = min(start + _CHUNK, flat_a.size)
        left, right = (np.ascontiguousarray(f[start:stop], dtype=np.int64) for f in (flat_a, flat_b))
        if keep is not None:
            left, right = left[keep[start:stop]], right[keep[start:stop]]
        keys, counts, used, bad = _tally(left, right, keys, counts, used)
        if bad >= 0:
            raise DataError(
                f"a label that is negative or above 2**63 - 1 ({left[bad]}, {right[bad]} as int64)",
                expected="labels 0 ... 2**63 - 1",
                remedy="map the values to positive ids first",
            )
    filled = keys[:, 0] >= 0
    return keys[filled], counts[filled]


def _check(a: npt.NDArray[Any], b: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None) -> None:
    """Refuse arrays that cannot be compared voxel by voxel."""
    if a.shape != b.shape or (valid is not None and valid.shape != a.shape):
        shapes = f"{a.shape} and {b.shape}" + ("" if valid is None else f", valid {valid.shape}")
        raise DataError(f"shapes {shapes}", expected="equal shapes", remedy="compare labels of the same grid")
    for array in (a, b):
        if array.dtype.kind not in "bui":
            raise DataError(
                f"labels of type {array.dtype}",
                expected="an integer type",
                remedy="convert to integers; biosegkit.read_labels does it safely",
            )
    if valid is not None and valid.dtype != np.bool_:
        raise DataError(f"a valid mask of type {valid.dtype}", expected="bool", remedy="pass mask != 0")


def _collect(keys: Ints, counts: Ints, ignored: Ints, hidden: Ints) -> Overlaps:
    """Sort the table and split it into object sizes and true pairs; ``hidden`` are the voxels of ``ignored`` ids."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    keys, counts = keys[order], counts[order]
    ids_a, area_a = _areas(keys[:, 0], counts)
    ids_b, area_b = _areas(keys[:, 1], counts)
    both = (keys[:, 0] > 0) & (keys[:, 1] > 0)
    ignored_b = np.zeros(ids_b.size, np.int64)
    _, here, there = np.intersect1d(ids_b, ignored, assume_unique=True, return_indices=True)
    ignored_b[here] = hidden[there]
    return Overlaps(ids_a, ids_b, area_a, area_b, keys[both], counts[both], ignored_b)


def _areas(ids: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """Sum the counts of each id but 0."""
    present, inverse = np.unique(ids, return_inverse=True)
    area = np.zeros(present.size, np.int64)
    np.add.at(area, inverse.reshape(-1), counts)
    return present[present > 0], area[present > 0]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _add(keys: Ints, counts: Ints, a: int, b: int, amount: int) -> int:
    """Add to one entry of an open-addressing table; return 1 if the entry is new."""
    mask = np.uint64(counts.size - 1)
    h = np.uint64(a) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(b) * np.uint64(0xC2B2AE3D27D4EB4F)
    h ^= h >> np.uint64(29)
    h *= np.uint64(0xBF58476D1CE4E5B9)
    h ^= h >> np.uint64(32)
    slot = h & mask
    while True:
        if keys[slot, 0] == a and keys[slot, 1] == b:
            counts[slot] += amount
            return 0
        if keys[slot, 0] < 0:
            keys[slot, 0], keys[slot, 1], counts[slot] = a, b, amount
            return 1
        slot = (slot + np.uint64(1)) & mask


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _grown(keys: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """Copy the table into one four times as large."""
    size = 4 * counts.size
    new_keys, new_counts = np.full((size, 2), -1, np.int64), np.zeros(size, np.int64)
    for slot in range(counts.size):
        if keys[slot, 0] >= 0:
            _add(new_keys, new_counts, keys[slot, 0], keys[slot, 1], counts[slot])
    return new_keys, new_counts


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _tally(a: Ints, b: Ints, keys: Ints, counts: Ints, used: int) -> tuple[Ints, Ints, int, int]:
    """Add a run of voxels to the table; the last value is the first bad voxel or -1."""
    n, start = a.size, 0
    while start < n:
        # Labels are constant along runs, so the table is touched once per run and not once per voxel.
        left, right = a[start], b[start]
        if left < 0 or right < 0:
            return keys, counts, used, start
        end = start + 1
        while end < n and a[end] == left and b[end] == right:
            end += 1
        used += _add(keys, counts, left, right, end - start)
        if 2 * used > counts.size:
            keys, counts = _grown(keys, counts)
        start = end
    return keys, counts, used, -1
