"""Images, labels and probabilities to another grid: separable, with half-pixel centres and edge padding.

The outer borders of the two grids coincide, so that nothing shifts; there is no smoothing before a reduction.
Interpolation goes axis by axis, the axes that shrink first, each output voxel by the same arithmetic whether the
whole or only some rows are computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from biosegkit.errors import OptionError
from biosegkit.kernels.threads import spread
from biosegkit.plan.spacing import new_shape, separate_axis

SPLINE_PAD = 12  # rows after which the cubic prefilter has forgotten the border to single precision
TIE = 1e-4  # two labels whose shares differ by less are equally present

Float = npt.NDArray[np.float32]
Taps = tuple[npt.NDArray[np.int64], Float]


def resample_image(
    image: npt.NDArray[Any],
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    shape: Sequence[int] | None = None,
    workers: int = 1,
) -> Float:
    """Cubic spline interpolation of an image; nearest neighbour along a coarse axis.

    Parameters
    ----------
    image : ndarray, (C, *space)
        Finite values.
    spacing, new_spacing : sequence of float
        Per spatial axis, in one unit. They decide whether an axis is coarse (`plan.spacing.separate_axis`).
    shape : sequence of int, optional
        Spatial shape of the result; by default what the spacings give.
    workers : int
        Threads; the result is the same for any number.

    Returns
    -------
    ndarray of float32, (C, *shape)
        Within each channel's range: the overshoot of the spline is cut off.

    Notes
    -----
    As in nnU-Net. Splines: Unser, IEEE Signal Processing Magazine 1999.

    Examples
    --------
    >>> resample_image(np.ones((1, 4, 4)), (1.0, 1.0), (0.5, 2.0)).shape
    (1, 8, 2)
    """
    target, orders = _grid(image.shape[1:], spacing, new_spacing, shape, order=3)
    if target == image.shape[1:]:
        return image.astype(np.float32, copy=False)
    out = np.empty((image.shape[0], *target), np.float32)
    for values, result in zip(image, out, strict=True):
        single = values.astype(np.float32, copy=False)
        _separable(single, target, orders, result, workers)
        np.clip(result, single.min(), single.max(), out=result)
    return out


def resample_probabilities(
    maps: npt.NDArray[Any],
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    shape: Sequence[int] | None = None,
    workers: int = 1,
) -> Float:
    """Linear interpolation of probability or other dense maps; nearest neighbour along a coarse axis.

    Parameters
    ----------
    maps : ndarray, (C, *space)
        What a network predicted.
    spacing, new_spacing, shape, workers
        As in `resample_image`.

    Returns
    -------
    ndarray of float32, (C, *shape)

    See Also
    --------
    resample_rows : The same for some rows, when the whole does not fit in memory.

    Examples
    --------
    >>> resample_probabilities(np.array([[0.0, 1.0]]), (2.0,), (1.0,)).tolist()
    [[0.0, 0.25, 0.75, 1.0]]
    """
    target, orders = _grid(maps.shape[1:], spacing, new_spacing, shape, order=1)
    if target == maps.shape[1:]:
        return maps.astype(np.float32, copy=False)
    out = np.empty((maps.shape[0], *target), np.float32)
    for values, result in zip(maps, out, strict=True):
        _separable(values.astype(np.float32, copy=False), target, orders, result, workers)
    return out


def rows_needed(n_source: int, n_target: int, rows: tuple[int, int]) -> tuple[int, int]:
    """Source rows that some target rows are computed from, as (first, last + 1).

    Examples
    --------
    >>> rows_needed(10, 20, (4, 8))
    (1, 5)
    """
    index = _linear(n_source, n_target)[0][rows[0] : rows[1]]
    return int(index.min()), int(index.max()) + 1


def resample_rows(
    source: npt.NDArray[Any],
    source_rows: tuple[int, int],
    shape: Sequence[int],
    rows: tuple[int, int],
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    workers: int = 1,
) -> Float:
    """Part of what `resample_probabilities` returns, from part of its input: the same bytes.

    Parameters
    ----------
    source : ndarray, (C, rows, *rest)
        Rows of the maps along the first spatial axis, at least those of `rows_needed`.
    source_rows : tuple of int
        Index of the first of them, and the number of rows the whole has.
    shape : sequence of int
        Spatial shape of the whole result.
    rows : tuple of int
        The wanted rows of the result, as (first, last + 1).
    spacing, new_spacing, workers
        As in `resample_probabilities`.

    Returns
    -------
    ndarray of float32, (C, rows[1] - rows[0], *shape[1:])

    Raises
    ------
    OptionError
        If a needed row is not in `source`.

    Examples
    --------
    >>> whole = np.arange(8.0).reshape(1, 4, 2)
    >>> lo, hi = rows_needed(4, 8, (2, 5))
    >>> part = resample_rows(whole[:, lo:hi], (lo, 4), (8, 2), (2, 5), (1, 1), (0.5, 1))
    >>> bool((part == resample_probabilities(whole, (1, 1), (0.5, 1))[:, 2:5]).all())
    True
    """
    first, n_rows = source_rows
    full = (n_rows, *source.shape[2:])
    target, orders = _grid(full, spacing, new_spacing, shape, order=1)
    lo, hi = rows_needed(n_rows, target[0], rows)
    if lo < first or hi > first + source.shape[1] or not 0 <= rows[0] < rows[1] <= target[0]:
        raise OptionError(
            f"source rows {first} to {first + source.shape[1]} for rows {rows[0]} to {rows[1]}",
            expected=f"at least {lo} to {hi}, for rows within 0 to {target[0]}",
            remedy="ask rows_needed",
        )
    taps: list[Taps | None] = [_taps(n, m, order) for n, m, order in zip(full, target, orders, strict=True)]
    kept = source[:, lo - first : hi - first]
    whole = taps[0] or (np.arange(n_rows)[:, None], np.ones((n_rows, 1), np.float32))
    taps[0] = (whole[0][rows[0] : rows[1]] - lo, whole[1][rows[0] : rows[1]])
    out = np.empty((source.shape[0], rows[1] - rows[0], *target[1:]), np.float32)
    turn = _turn(full, target)
    for values, result in zip(kept, out, strict=True):
        _apply(values.astype(np.float32, copy=False), taps, turn, result, workers)
    return out


def resample_labels(
    labels: npt.NDArray[Any],
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    shape: Sequence[int] | None = None,
    *,
    instance: bool,
) -> npt.NDArray[Any]:
    """Labels on another grid; no value appears that was not there.

    Parameters
    ----------
    labels : ndarray of int, (*space)
        0 is background.
    spacing, new_spacing, shape
        As in `resample_image`.
    instance : bool
        True: nearest neighbour. A voxel halfway between two takes them in turn, so that objects do not drift.
        False: the label with the largest share of the linearly interpolated neighbourhood. With two labels this is a
        threshold of 0.5 on the one-hot map; where three meet and none has half, the largest wins, not background.

    Returns
    -------
    ndarray, (*shape)
        Of the dtype of `labels`.

    Notes
    -----
    As in nnU-Net, which lets such junctions become background.

    Examples
    --------
    >>> resample_labels(np.array([0, 7, 7, 0]), (1.0,), (0.5,), instance=True).tolist()
    [0, 0, 7, 7, 7, 7, 0, 0]
    """
    target, orders = _grid(labels.shape, spacing, new_spacing, shape, order=0 if instance else 1)
    if target == labels.shape:
        return labels
    if not instance:
        return _largest_share(labels, target, orders)
    out = labels
    for axis in _turn(labels.shape, target):
        if out.shape[axis] != target[axis]:
            out = np.take(out, _nearest(out.shape[axis], target[axis]), axis=axis)
    return out


def _largest_share(labels: npt.NDArray[Any], target: tuple[int, ...], orders: Sequence[int]) -> npt.NDArray[Any]:
    """Per voxel the label with the largest interpolated share; the effort does not depend on the number of labels."""
    lead = (1,) * (3 - labels.ndim)
    source, shape = labels.reshape(lead + labels.shape), lead + target
    pairs = [_pair(n, m, order) for n, m, order in zip(source.shape, shape, (*lead, *orders), strict=True)]
    out = np.empty(shape, labels.dtype)
    _vote(np.ascontiguousarray(source), *(part for pair in pairs for part in pair), out)
    return out.reshape(target)


def _pair(n_source: int, n_target: int, order: int) -> Taps:
    """Two source rows and weights per target row, also where one would do."""
    index, weight = _taps(n_source, n_target, order) or (_nearest(n_source, n_target)[:, None], None)
    if index.shape[1] == 2 and weight is not None:
        return index, weight
    return np.repeat(index, 2, axis=1), np.tile(np.array([1, 0], np.float32), (n_target, 1))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _vote(
    labels: Any, z_rows: Any, z_weights: Any, y_rows: Any, y_weights: Any, x_rows: Any, x_weights: Any, out: Any
) -> None:
    """Add up the shares of the eight neighbours' labels; among equals the larger label wins, background last."""
    seen = np.empty(8, labels.dtype)
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                first = labels[z_rows[z, 0], y_rows[y, 0], x_rows[x, 0]]
                same = True
                for k in range(8):
                    seen[k] = labels[z_rows[z, k >> 2], y_rows[y, (k >> 1) & 1], x_rows[x, k & 1]]
                    same &= seen[k] == first
                out[z, y, x] = first
                if same:
                    continue
                best = -1.0
                for k in range(8):
                    share = 0.0
                    for other in range(8):
                        if seen[other] == seen[k]:
                            in_plane = y_weights[y, (other >> 1) & 1] * x_weights[x, other & 1]
                            share += z_weights[z, other >> 2] * in_plane
                    ahead = seen[k] != 0 and (out[z, y, x] == 0 or seen[k] > out[z, y, x])
                    if share > best + TIE or (ahead and share > 0 and share >= best - TIE):
                        best = share
                        out[z, y, x] = seen[k]


def _grid(
    shape: tuple[int, ...],
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    wanted: Sequence[int] | None,
    order: int,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Target shape and order per axis."""
    lengths = {len(shape), len(spacing), len(new_spacing), len(shape if wanted is None else wanted)}
    if len(lengths) != 1 or 0 in (*shape, *(wanted or ())):
        raise OptionError(
            f"shape {shape}, spacing {tuple(spacing)}, new spacing {tuple(new_spacing)}, new shape {wanted}",
            expected="one value per spatial axis in each, no empty axis",
            remedy="give spacings of the array's spatial axes",
        )
    target = new_shape(shape, spacing, new_spacing) if wanted is None else tuple(int(n) for n in wanted)
    coarse = separate_axis(spacing, new_spacing)
    return target, tuple(0 if axis == coarse else order for axis in range(len(shape)))


def _turn(shape: Sequence[int], target: Sequence[int]) -> list[int]:
    """Axes in the order of work: those that shrink most first, then the last, whose short steps are the slowest."""
    return sorted(range(len(shape)), key=lambda axis: (target[axis] / shape[axis], -axis))


def _separable(source: Float, target: tuple[int, ...], orders: Sequence[int], out: Float, workers: int) -> None:
    taps = [_taps(n, m, order) for n, m, order in zip(source.shape, target, orders, strict=True)]
    _apply(source, taps, _turn(source.shape, target), out, workers)


def _apply(source: Float, taps: Sequence[Taps | None], turn: Sequence[int], out: Float, workers: int) -> None:
    """Interpolate along every axis that has taps, the last time into `out`."""
    work = [(axis, tap) for axis in turn if (tap := taps[axis]) is not None]
    for position, (axis, tap) in enumerate(work):
        if tap[0].shape[1] == 4:  # cubic
            source = _spline_coefficients(source, axis)
        shape = (*source.shape[:axis], len(tap[0]), *source.shape[axis + 1 :])
        result = out if position == len(work) - 1 else np.empty(shape, np.float32)
        _along(np.ascontiguousarray(source), axis, tap, result, workers)
        source = result


def _spline_coefficients(source: Float, axis: int) -> Float:
    """Cubic B-spline coefficients along an axis, of the image continued by its edge."""
    width = [(SPLINE_PAD, SPLINE_PAD) if a == axis else (0, 0) for a in range(source.ndim)]
    padded = np.pad(source, width, mode="edge")
    result: Float = ndimage.spline_filter1d(padded, 3, axis, output=np.float32, mode="mirror")
    return result


def _along(source: Float, axis: int, taps: Taps, out: Float, workers: int) -> None:
    """Weighted sums of rows along one axis."""
    index, weight = taps
    before, after = math.prod(source.shape[:axis]), math.prod(source.shape[axis + 1 :])
    flat, result = source.reshape(before, -1, after), out.reshape(before, -1, after)
    spread(lambda lo, hi: _weighted_rows(flat, index, weight, result, lo, hi), before * len(index), workers)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _weighted_rows(source: Float, index: Any, weight: Float, out: Float, lo: int, hi: int) -> None:
    """Rows `lo` to `hi` of the flattened first two axes of `out`."""
    rows, inner, taps = out.shape[1], out.shape[2], index.shape[1]
    a, j = lo // rows, lo % rows
    for _ in range(lo, hi):
        if taps == 2:
            i, k, v, w = index[j, 0], index[j, 1], weight[j, 0], weight[j, 1]
            for c in range(inner):
                out[a, j, c] = v * source[a, i, c] + w * source[a, k, c]
        else:
            for c in range(inner):
                out[a, j, c] = weight[j, 0] * source[a, index[j, 0], c]
            for t in range(1, taps):
                i, w = index[j, t], weight[j, t]
                for c in range(inner):
                    out[a, j, c] += w * source[a, i, c]
        j += 1
        if j == rows:
            a, j = a + 1, 0


def _taps(n_source: int, n_target: int, order: int) -> Taps | None:
    """Source rows and weights of every target row; None where nothing changes."""
    if n_source == n_target:
        return None
    if order == 0:
        return _nearest(n_source, n_target)[:, None], np.ones((n_target, 1), np.float32)
    return _linear(n_source, n_target) if order == 1 else _cubic(n_source, n_target)


def _nearest(n_source: int, n_target: int) -> npt.NDArray[np.int64]:
    """Source row whose extent holds the centre of each target row, in exact arithmetic."""
    row = np.arange(n_target, dtype=np.int64)
    index, rest = np.divmod((2 * row + 1) * n_source, 2 * n_target)
    # On a border between two source rows always taking one side would shift everything by half a row.
    index -= (rest == 0) & (row % 2 == 0)
    return index


def _positions(n_source: int, n_target: int) -> npt.NDArray[np.floating[Any]]:
    """Centres of the target rows in source rows; the outer borders coincide."""
    return (np.arange(n_target) + 0.5) * (n_source / n_target) - 0.5


def _linear(n_source: int, n_target: int) -> Taps:
    position = np.clip(_positions(n_source, n_target), 0, n_source - 1)
    low = np.floor(position).astype(np.int64)
    upper = (position - low).astype(np.float32)
    index = np.stack([low, np.minimum(low + 1, n_source - 1)], axis=1)
    return index, np.stack([1 - upper, upper], axis=1)


def _cubic(n_source: int, n_target: int) -> Taps:
    """Cubic B-spline weights of the padded coefficients."""
    position = _positions(n_source, n_target) + SPLINE_PAD
    low = np.floor(position).astype(np.int64)
    t = position - low
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    index = np.clip(low[:, None] + np.arange(-1, 3), 0, n_source + 2 * SPLINE_PAD - 1)
    return index, (np.stack(weights, axis=1) / 6).astype(np.float32)
