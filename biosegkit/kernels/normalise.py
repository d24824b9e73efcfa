"""Instance norm and leaky ReLU in one pass over channels-last numbers, forward and backward, in float32 or bfloat16.

Written for tensors as a CPU holds them while a network trains: one row of channels per voxel. The sums of a chunk of
rows are taken in the accuracy of the numbers (float32 for bfloat16), those of chunks are added in float64 in their
order. The interpreter lock is free while it runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, types
from numba.extending import overload

__all__ = ["Rows", "normalise", "normalise_backward"]

Array = npt.NDArray[Any]
#: Rows of channels, (B, N, C): float32, float64, or the bits of bfloat16 as uint16.
Rows = npt.NDArray[Any]

#: Numbers in a chunk, and rows that are added to each other before they are added to a sum.
CHUNK, TOGETHER = 32768, 4


def normalise(x: Rows, weight: Array, bias: Array, slope: float, eps: float, out: Rows) -> tuple[Array, Array]:
    """``lrelu(weight (x - mean) / sqrt(variance + eps) + bias)`` per sample and channel into ``out``.

    Parameters
    ----------
    x, out : ndarray, (B, N, C)
        ``out`` may be ``x``.
    weight, bias : ndarray of float32 or float64, (C,)
    slope : float
        Below zero; 1 is no activation.
    eps : float
        Added to the variance (the biased one).

    Returns
    -------
    mean, rstd : ndarray, (B, C)
        In the accuracy of ``weight``.

    Examples
    --------
    >>> x = np.array([[[1.0], [3.0]]], np.float32)
    >>> y, one = np.empty_like(x), np.ones(1, np.float32)
    >>> mean, rstd = normalise(x, one, 0 * one, 0.1, 0.0, y)
    >>> [round(float(v), 3) for v in y.ravel()], mean.item(), rstd.item()
    ([-0.1, 1.0], 2.0, 1.0)
    """
    mean, rstd = np.empty((x.shape[0], x.shape[2]), weight.dtype), np.empty((x.shape[0], x.shape[2]), weight.dtype)
    _forward(x, weight, bias, weight.dtype.type(slope), eps, _rows(x), out, mean, rstd)
    return mean, rstd


def normalise_backward(x: Rows, dy: Rows, weight: Array, bias: Array, slope: float, mean: Array, rstd: Array,
                       out: Rows) -> tuple[Array, Array]:
    """Gradient of the input into ``out`` (which may be ``dy``); those of weight and bias are returned.

    With z = (x - mean) rstd and g the gradient below the activation, dx = weight rstd (g - mean(g) - z mean(g z)),
    dweight = sum g z and dbias = sum g (Ioffe and Szegedy 2015, section 3, over one sample's channel).

    Examples
    --------
    >>> x, one = np.array([[[1.0], [3.0]]]), np.ones(1)
    >>> dx = np.empty_like(x)
    >>> dw, db = normalise_backward(x, np.array([[[0.0], [1.0]]]), one, 0 * one, 1.0, 2 * one[None], one[None], dx)
    >>> dw.tolist(), db.tolist(), dx.ravel().tolist()
    ([1.0], [1.0], [0.0, 0.0])
    """
    dweight, dbias = np.zeros(x.shape[2]), np.zeros(x.shape[2])
    _backward(x, dy, weight, bias, weight.dtype.type(slope), mean, rstd, _rows(x), out, dweight, dbias)
    return dweight.astype(weight.dtype), dbias.astype(weight.dtype)


def _rows(x: Rows) -> int:
    """Rows of a chunk, a multiple of ``TOGETHER``."""
    return max(TOGETHER, CHUNK // int(x.shape[2]) // TOGETHER * TOGETHER)


def _load(value: Any) -> Any:
    """A stored number as it is computed with; bfloat16 is the upper half of float32."""
    raise TypeError(f"{value} outside a kernel")


def _store(value: Any, like: Any) -> Any:
    """A number as it is stored; to bfloat16 it is rounded to nearest, ties to even."""
    raise TypeError(f"{value}, {like} outside a kernel")


@overload(_load, inline="always")
def _load_of(value):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    if value == types.uint16:
        return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)
    return lambda value: value


@overload(_store, inline="always")
def _store_of(value, like):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    if like == types.uint16:
        def rounded(value, like):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
            bits = np.float32(value).view(np.uint32)
            return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))
        return rounded
    return lambda value, like: value


@njit(nogil=True, cache=True)
def _forward(x, weight, bias, slope, eps, rows, out, mean, rstd):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    samples, count, channels = x.shape
    shift, one, two, scale = np.empty_like(weight), np.empty_like(weight), np.empty_like(weight), np.empty_like(weight)
    zero = weight[0] - weight[0]
    for b in range(samples):
        total, square = np.zeros(channels), np.zeros(channels)
        for c in range(channels):
            shift[c] = _load(x[b, 0, c])
        for lo in range(0, count, rows):
            hi = min(count, lo + rows)
            one[:] = zero
            two[:] = zero
            whole = lo + (hi - lo) // 4 * 4
            for i in range(lo, whole, 4):
                for c in range(channels):
                    p, q = _load(x[b, i, c]) - shift[c], _load(x[b, i + 1, c]) - shift[c]
                    r, s = _load(x[b, i + 2, c]) - shift[c], _load(x[b, i + 3, c]) - shift[c]
                    one[c] += (p + q) + (r + s)
                    two[c] += (p * p + q * q) + (r * r + s * s)
            for i in range(whole, hi):
                for c in range(channels):
                    p = _load(x[b, i, c]) - shift[c]
                    one[c] += p
                    two[c] += p * p
            for c in range(channels):
                total[c] += one[c]
                square[c] += two[c]
        for c in range(channels):
            away = total[c] / count
            mean[b, c] = shift[c] + away
            rstd[b, c] = 1.0 / np.sqrt(max(0.0, square[c] / count - away * away) + eps)
            scale[c] = weight[c] * rstd[b, c]
            shift[c] = mean[b, c]
        for i in range(count):
            for c in range(channels):
                y = scale[c] * (_load(x[b, i, c]) - shift[c]) + bias[c]
                out[b, i, c] = _store(y if y > zero else slope * y, x[b, i, c])


@njit(nogil=True, cache=True)
def _backward(x, dy, weight, bias, slope, mean, rstd, rows, out, dweight, dbias):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    samples, count, channels = x.shape
    one, two = np.empty_like(weight), np.empty_like(weight)
    scale, middle = np.empty_like(weight), np.empty_like(weight)
    level, tilt = np.empty_like(weight), np.empty_like(weight)
    zero = weight[0] - weight[0]
    full = zero + 1
    for b in range(samples):
        total, along = np.zeros(channels), np.zeros(channels)
        for c in range(channels):
            middle[c] = mean[b, c]
            scale[c] = weight[c] * rstd[b, c]
        for lo in range(0, count, rows):
            hi = min(count, lo + rows)
            one[:] = zero
            two[:] = zero
            whole = lo + (hi - lo) // 4 * 4
            for i in range(lo, whole, 4):
                for c in range(channels):
                    a, k, m = scale[c], bias[c], middle[c]
                    p, q = _load(x[b, i, c]) - m, _load(x[b, i + 1, c]) - m
                    r, s = _load(x[b, i + 2, c]) - m, _load(x[b, i + 3, c]) - m
                    e = _load(dy[b, i, c]) * (full if a * p + k > zero else slope)
                    f = _load(dy[b, i + 1, c]) * (full if a * q + k > zero else slope)
                    g = _load(dy[b, i + 2, c]) * (full if a * r + k > zero else slope)
                    h = _load(dy[b, i + 3, c]) * (full if a * s + k > zero else slope)
                    one[c] += (e + f) + (g + h)
                    two[c] += (e * p + f * q) + (g * r + h * s)
            for i in range(whole, hi):
                for c in range(channels):
                    p = _load(x[b, i, c]) - middle[c]
                    e = _load(dy[b, i, c]) * (full if scale[c] * p + bias[c] > zero else slope)
                    one[c] += e
                    two[c] += e * p
            for c in range(channels):
                total[c] += one[c]
                along[c] += two[c]
        for c in range(channels):
            dbias[c] += total[c]
            dweight[c] += along[c] * rstd[b, c]
            level[c] = -scale[c] * total[c] / count
            tilt[c] = -scale[c] * rstd[b, c] * rstd[b, c] * along[c] / count
        for i in range(count):
            for c in range(channels):
                p = _load(x[b, i, c]) - middle[c]
                e = _load(dy[b, i, c]) * (full if scale[c] * p + bias[c] > zero else slope)
                out[b, i, c] = _store(scale[c] * e + level[c] + tilt[c] * p, x[b, i, c])
