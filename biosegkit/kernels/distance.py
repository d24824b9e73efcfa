"""Distance of every voxel to the border of its own object, for all objects in one pass.

Convention: the distance is measured from voxel centre to the centre of the nearest voxel of a *different* label
(background included), in units of the spacing, so the outermost voxels of an object have the spacing and never 0.
The border surface itself lies half a voxel nearer. Background is 0. The edge of the array is not a border unless
asked: an object cut by it is taken to go on. Voxels that are not valid act like the outside of the array.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from biosegkit.errors import DataError
from biosegkit.kernels.components import distinct, sequential
from biosegkit.kernels.threads import spread

__all__ = ["boundary_distance", "coded", "object_max", "share_of_max"]

_LANES = 16


def boundary_distance(
    labels: npt.NDArray[Any],
    spacing: Sequence[float] | None = None,
    *,
    border: bool = False,
    valid: npt.NDArray[np.bool_] | None = None,
    workers: int = 1,
) -> npt.NDArray[np.float32]:
    """Euclidean distance to the nearest voxel of a different label.

    Parameters
    ----------
    labels : ndarray of int, (Z, Y, X), (Y, X) or (X,)
        Any non-negative ids, with gaps; 0 is background.
    spacing : sequence of float, optional
        Voxel size per axis; 1 by default.
    border : bool
        Whether the outside of the array counts as a different label.
    valid : ndarray of bool, optional
        False where nothing is known: such voxels are 0 and bound nobody.
    workers : int
        Threads; the result does not depend on them.

    Returns
    -------
    ndarray of float32
        ``inf`` in an object that meets no different voxel at all.

    Raises
    ------
    DataError
        For more than three axes, negative ids or a spacing that does not fit.

    Notes
    -----
    Separable lower envelopes of parabolas (Felzenszwalb and Huttenlocher 2012, doi:10.4086/toc.2012.v008a019),
    run by run of equal label so that objects do not mix. O(voxels) for any number of objects.

    Examples
    --------
    >>> boundary_distance(np.array([0, 1, 1, 1, 2, 2])).tolist()
    [0.0, 1.0, 2.0, 1.0, 1.0, 2.0]
    """
    ndim = labels.ndim
    steps = (1.0,) * ndim if spacing is None else tuple(float(s) for s in spacing)
    if not 1 <= ndim <= 3 or len(steps) != ndim or min(steps) <= 0:
        raise DataError(
            f"labels of {ndim} axes, spacing {steps}", expected="1 to 3 axes and a positive spacing for each"
        )
    void, ids = coded(labels, valid)
    volume = ids.reshape((1,) * (3 - ndim) + labels.shape)
    squared = np.empty(volume.shape, np.float32)
    if volume.size == 0:
        return squared.reshape(labels.shape)
    nz, ny, nx = volume.shape
    wz, wy, wx = (1.0,) * (3 - ndim) + steps
    rows, out = volume.reshape(nz * ny, nx), squared.reshape(nz * ny, nx)
    spread(lambda lo, hi: _along_rows(rows, out, lo, hi, wx, border, void), nz * ny, workers)
    if ny > 1:
        lanes = nz * ((nx + _LANES - 1) // _LANES)
        spread(lambda lo, hi: _along_middle(volume, squared, lo, hi, wy, border, void), lanes, workers)
    elif border and ndim >= 2:
        np.minimum(squared, np.float32(wy * wy), out=squared)
    if nz > 1:
        flat, flat_out = volume.reshape(1, nz, ny * nx), squared.reshape(1, nz, ny * nx)
        lanes = (ny * nx + _LANES - 1) // _LANES
        spread(lambda lo, hi: _along_middle(flat, flat_out, lo, hi, wz, border, void), lanes, workers)
    elif border and ndim == 3:
        np.minimum(squared, np.float32(wz * wz), out=squared)
    return np.sqrt(squared, out=squared).reshape(labels.shape)


def object_max(
    labels: npt.NDArray[Any], values: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Maximum of ``values`` over every object.

    Parameters
    ----------
    labels : ndarray of int
        Ids; 0 is background and has no row.
    values : ndarray of float32
        Of the same shape.

    Returns
    -------
    ids, maxima : ndarray, (K,)
        In ascending order of the id.
    dense : ndarray of int32
        The labels as ``0..K``, so that ``maxima[dense - 1]`` is defined inside objects.

    Examples
    --------
    >>> ids, maxima, dense = object_max(np.array([7, 7, 0, 9]), np.array([1, 3, 5, 2], np.float32))
    >>> ids.tolist(), maxima.tolist(), dense.tolist()
    ([7, 9], [3.0, 2.0], [1, 1, 0, 2])
    """
    dense, ids = sequential(labels, np.int32)
    maxima = np.full(len(ids), -np.inf, np.float32)
    _max_into(dense.reshape(-1), np.ascontiguousarray(values, np.float32).reshape(-1), maxima)
    return ids, maxima, dense


def share_of_max(labels: npt.NDArray[Any], values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Values over the largest of their object, in place: 0 to 1, and 0 in the background.

    Parameters
    ----------
    labels : ndarray of int
        Ids; 0 is background.
    values : ndarray of float32
        Of the same shape, contiguous, at least 0. Infinite ones, and those of objects without a positive one, become 1.

    Examples
    --------
    >>> share_of_max(np.array([7, 7, 0, 9, 9]), np.array([1, 4, 5, 0, np.inf], np.float32)).tolist()
    [0.25, 1.0, 0.0, 1.0, 1.0]
    """
    flat = np.ascontiguousarray(labels.view(np.uint8) if labels.dtype == bool else labels).reshape(-1)
    ids = distinct(flat)
    maxima = np.zeros(len(ids), np.float32)
    _share(flat, ids, values.reshape(-1), maxima)
    return values


def coded(labels: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None) -> tuple[int, npt.NDArray[Any]]:
    """Contiguous unsigned ids, with the code that marks voxels that are not valid.

    Of 4 bytes if they fit; bytes stay bytes, unless they need every value themselves.
    """
    if labels.dtype.kind not in "biu":
        raise DataError(f"labels of type {labels.dtype}", expected="integers")
    top = int(labels.max()) if labels.size else 0
    if labels.dtype.kind == "i" and labels.size and int(labels.min()) < 0:
        raise DataError("negative label values", expected="ids of at least 0", remedy="give ignored voxels as `valid`")
    dtype: type[np.unsignedinteger[Any]] = np.uint32 if top < np.iinfo(np.uint32).max else np.uint64
    if labels.dtype.itemsize == 1 and top < np.iinfo(np.uint8).max:
        dtype = np.uint8
    void = int(np.iinfo(dtype).max)
    same = labels.dtype.isnative and labels.dtype.itemsize == np.dtype(dtype).itemsize  # no id is negative
    ids = np.ascontiguousarray(labels).view(dtype) if same else np.ascontiguousarray(labels, dtype)
    if valid is not None:
        ids = np.ascontiguousarray(np.where(valid, ids, dtype(void)))
    return void, ids


@numba.njit(cache=True, nogil=True)
def _along_rows(ids, out, lo, hi, step, border, void):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Squared distance along the last axis, rows ``lo..hi``."""
    n = ids.shape[1]
    for r in range(lo, hi):
        i = 0
        while i < n:
            label = ids[r, i]
            j = i + 1
            while j < n and ids[r, j] == label:
                j += 1
            if label == 0 or label == void:
                for k in range(i, j):
                    out[r, k] = 0.0
            else:
                left = border if i == 0 else ids[r, i - 1] != void
                right = border if j == n else ids[r, j] != void
                for k in range(i, j):
                    best = np.inf
                    if left:
                        best = (k - i + 1) * step
                    if right:
                        best = min(best, (j - k) * step)
                    out[r, k] = best * best
            i = j


@numba.njit(cache=True, nogil=True)
def _along_middle(ids, f, lo, hi, step, border, void):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Squared distance along the middle axis, in place; a lane is 16 neighbouring columns copied together."""
    _, n, nx = ids.shape
    groups = (nx + _LANES - 1) // _LANES
    labels = np.empty((_LANES, n), ids.dtype)
    column = np.empty((_LANES, n), np.float32)
    where = np.empty(n + 2, np.int64)
    height = np.empty(n + 2, np.float64)
    start = np.empty(n + 3, np.float64)
    w = step * step
    for lane in range(lo, hi):
        z = lane // groups
        x0 = (lane % groups) * _LANES
        width = min(_LANES, nx - x0)
        for y in range(n):
            for c in range(width):
                labels[c, y] = ids[z, y, x0 + c]
                column[c, y] = f[z, y, x0 + c]
        for c in range(width):
            _envelope(labels[c], column[c], w, border, void, where, height, start)
        for y in range(n):
            for c in range(width):
                f[z, y, x0 + c] = column[c, y]


@numba.njit(cache=True, nogil=True)
def _envelope(labels, f, w, border, void, where, height, start):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Lower envelope of one column, run by run of equal label; the voxel beyond a run is a parabola of height 0."""
    n = labels.shape[0]
    i = 0
    while i < n:
        label = labels[i]
        j = i + 1
        while j < n and labels[j] == label:
            j += 1
        if label != 0 and label != void:
            left = border if i == 0 else labels[i - 1] != void
            right = border if j == n else labels[j] != void
            m = 0
            for q in range(i - 1 if left else i, j + 1 if right else j):
                g = 0.0
                if i <= q < j:
                    g = np.float64(f[q])
                    if g == np.inf:
                        continue
                at = -np.inf
                while m > 0:
                    v = where[m - 1]
                    at = ((g + w * q * q) - (height[m - 1] + w * v * v)) / (2.0 * w * (q - v))
                    if at > start[m - 1]:
                        break
                    m -= 1
                    at = -np.inf
                where[m] = q
                height[m] = g
                start[m] = at
                m += 1
            if m > 0:
                k = 0
                for q in range(i, j):
                    while k + 1 < m and start[k + 1] < q:
                        k += 1
                    d = q - where[k]
                    f[q] = w * d * d + height[k]
        i = j


@numba.njit(cache=True, nogil=True)
def _share(flat, ids, values, maxima):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Maxima, then quotients; runs of one id are looked up once."""
    for divide in (False, True):
        last, k = flat.dtype.type(0), -1
        for i in range(flat.size):
            if flat[i] != last:
                last = flat[i]
                k = -1 if last == 0 else np.searchsorted(ids, last)
            if k < 0:
                values[i] = 0.0 if divide else values[i]
            elif not divide:
                if values[i] < np.inf:
                    maxima[k] = max(maxima[k], values[i])
            elif values[i] < np.inf and maxima[k] > 0:
                values[i] /= maxima[k]
            else:
                values[i] = 1.0


@numba.njit(cache=True, nogil=True)
def _max_into(dense, values, maxima):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Scatter maximum."""
    for i in range(dense.size):
        k = dense[i]
        if k > 0 and values[i] > maxima[k - 1]:
            maxima[k - 1] = values[i]
