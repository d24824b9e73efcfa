"""Labels as sequential numbers, connected components, and a union-find that depends on nothing but its input."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["UnionFind", "connected_components", "distinct", "find", "sequential", "union"]


def connected_components(
    labels: npt.NDArray[Any], connectivity: int | None = None
) -> tuple[npt.NDArray[np.int64], int]:
    """Connected pieces of a mask or of a label image; voxels of different labels never join.

    Parameters
    ----------
    labels : ndarray of bool or int, (*space)
    connectivity : int, optional
        1 joins faces only, the number of axes (default) joins diagonals too.

    Returns
    -------
    pieces : ndarray of int64
        ``1..count`` in raster order of the first voxel; 0 in the background.
    count : int

    Examples
    --------
    >>> connected_components(np.array([3, 3, 0, 3, 5]))
    (array([1, 1, 0, 2, 3]), 3)
    """
    from skimage.measure import label

    dense = labels if labels.dtype == bool else sequential(labels)[0]
    pieces, count = label(dense, background=0, connectivity=connectivity or labels.ndim, return_num=True)
    return pieces.astype(np.int64), int(count)


def sequential(labels: npt.NDArray[Any], dtype: type[Any] = np.int64) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Renumber ids to ``1..K`` in ascending order; 0 stays 0.

    Parameters
    ----------
    labels : ndarray of bool or int, (*space)
    dtype : type
        Of the new ids.

    Returns
    -------
    dense : ndarray, (*space)
    ids : ndarray, (K,)
        ``ids[dense - 1]`` is the old id.

    Examples
    --------
    >>> sequential(np.array([0, 70000, 3, 70000]))
    (array([0, 2, 1, 2]), array([    3, 70000]))
    """
    flat = np.ascontiguousarray(labels).reshape(-1)
    if flat.dtype == bool:
        flat = flat.view(np.uint8)
    ids = distinct(flat)
    dense = np.empty(flat.size, dtype)
    _renumber(flat, ids, dense)
    return dense.reshape(labels.shape), ids.astype(labels.dtype if labels.dtype != bool else np.uint8)


def distinct(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Whole numbers other than 0 that occur in a contiguous array of one axis, ascending.

    Examples
    --------
    >>> distinct(np.array([0, 7, 7, 3])).tolist()
    [3, 7]
    """
    slots, count = _distinct(values)
    return np.sort(slots[:count])


class UnionFind:
    """Disjoint sets of ``0..n-1``; the smallest member of a set is its root.

    Examples
    --------
    >>> sets = UnionFind(4)
    >>> sets.union(3, 1)
    1
    >>> sets.roots().tolist()
    [0, 1, 2, 1]
    """

    def __init__(self, n: int) -> None:
        self.parent: npt.NDArray[np.int64] = np.arange(n, dtype=np.int64)

    def find(self, a: int) -> int:
        """Root of the set of ``a``."""
        return int(find(self.parent, a))

    def union(self, a: int, b: int) -> int:
        """Join two sets and return the root."""
        return int(union(self.parent, a, b))

    def union_many(self, a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> None:
        """Join ``a[i]`` with ``b[i]`` for all i."""
        _union_many(self.parent, a, b)

    def roots(self) -> npt.NDArray[np.int64]:
        """Root of every member."""
        out = np.empty_like(self.parent)
        _roots(self.parent, out)
        return out


@numba.njit(cache=True, nogil=True)
def find(parent, a):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Root of ``a``, halving the path on the way."""
    while parent[a] != a:
        parent[a] = parent[parent[a]]
        a = parent[a]
    return a


@numba.njit(cache=True, nogil=True)
def union(parent, a, b):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Join the sets of ``a`` and ``b``; the smaller root stays root."""
    a, b = find(parent, a), find(parent, b)
    if b < a:
        a, b = b, a
    parent[b] = a
    return a


@numba.njit(cache=True, nogil=True)
def _union_many(parent, a, b):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Join pairs in order."""
    for i in range(a.size):
        union(parent, a[i], b[i])


@numba.njit(cache=True, nogil=True)
def _roots(parent, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Root of every member."""
    for i in range(parent.size):
        out[i] = find(parent, i)


@numba.njit(cache=True, nogil=True)
def _distinct(flat):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Distinct non-zero values, unsorted, in a growing open-addressing table."""
    size = 1024
    table = np.zeros(size, flat.dtype)
    found = np.empty(size, flat.dtype)
    count = 0
    last = flat.dtype.type(0)
    for i in range(flat.size):
        value = flat[i]
        if value == 0 or value == last:
            continue
        last = value
        slot = (np.uint64(value) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(20)) & np.uint64(size - 1)
        while table[slot] != 0 and table[slot] != value:
            slot = (slot + np.uint64(1)) & np.uint64(size - 1)
        if table[slot] == value:
            continue
        table[slot] = value
        found[count] = value
        count += 1
        if 2 * count >= size:
            size *= 2
            table = np.zeros(size, flat.dtype)
            grown = np.empty(size, flat.dtype)
            for k in range(count):
                grown[k] = found[k]
                s = (np.uint64(found[k]) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(20)) & np.uint64(size - 1)
                while table[s] != 0:
                    s = (s + np.uint64(1)) & np.uint64(size - 1)
                table[s] = found[k]
            found = grown
    return found, count


@numba.njit(cache=True, nogil=True)
def _renumber(flat, ids, dense):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Position of every value in the sorted ids, plus one; runs of one value are looked up once."""
    last = flat.dtype.type(0)
    rank = 0
    for i in range(flat.size):
        value = flat[i]
        if value != last:
            last = value
            rank = 0 if value == 0 else np.searchsorted(ids, value) + 1
        dense[i] = rank
