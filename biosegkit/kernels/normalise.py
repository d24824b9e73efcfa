"""Instance norm and leaky ReLU in one pass over channels-last numbers, forward and backward, in float32 or bfloat16.

Written for tensors as a CPU holds them while a network trains: one row of channels per voxel. The sums of a chunk of
rows are taken in the accuracy of the numbers (float32 for bfloat16), those of chunks are added in float64 in their
order: the same bytes for any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, types
from numba.extending import overload

from biosegkit.kernels.threads import spread_often

__all__ = ["Rows", "normalise", "normalise_backward"]

Array = npt.NDArray[Any]
#: Rows of channels, (B, N, C): float32, float64, or the bits of bfloat16 as uint16.
Rows = npt.NDArray[Any]

#: Numbers in a chunk of work; numbers, and threads allowed, from which on more threads than one are worth their start.
#: With two allowed one was faster (a training step on two cores took 0.9 of the time): threads of torch wait for work
#: without sleep, and hold the second core.
CHUNK, MANY, SEVERAL = 32768, 131072, 3


def normalise(x: Rows, weight: Array, bias: Array, slope: float, eps: float, out: Rows,
              threads: int = 1) -> tuple[Array, Array]:
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
    threads : int
        How many may work on a large tensor.

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
    kind = weight.dtype
    rows, chunks, jobs, threads = _work(x, threads)
    shift, sums = np.empty((x.shape[0], x.shape[2]), kind), np.empty((x.shape[0], chunks, 2, x.shape[2]), kind)
    _first(x, shift)  # the variance of numbers far from zero keeps its digits
    spread_often(lambda lo, hi: _sums(x, shift, rows, sums, lo, hi), jobs, threads)
    total, square = sums.sum(1, dtype=np.float64).swapaxes(0, 1) / x.shape[1]
    mean = (shift + total).astype(kind)
    rstd = (1 / np.sqrt(np.maximum(square - total**2, 0) + eps)).astype(kind)
    law, below = _stacked(mean, weight * rstd, bias), kind.type(slope)
    spread_often(lambda lo, hi: _apply(x, law, below, rows, out, lo, hi), jobs, threads)
    return mean, rstd


def normalise_backward(x: Rows, dy: Rows, weight: Array, bias: Array, slope: float,
                       statistics: tuple[Array, Array], out: Rows, threads: int = 1) -> tuple[Array, Array]:
    """Gradient of the input into ``out`` (which may be ``dy``); those of weight and bias are returned.

    With z = (x - mean) rstd and g the gradient below the activation, dx = weight rstd (g - mean(g) - z mean(g z)),
    dweight = sum g z and dbias = sum g (Ioffe and Szegedy 2015, section 3, over one sample's channel).
    ``statistics`` are what :func:`normalise` returned.

    Examples
    --------
    >>> x, one = np.array([[[1.0], [3.0]]]), np.ones(1)
    >>> dx = np.empty_like(x)
    >>> dw, db = normalise_backward(x, np.array([[[0.0], [1.0]]]), one, 0 * one, 1.0, (2 * one[None], one[None]), dx)
    >>> dw.tolist(), db.tolist(), dx.ravel().tolist()
    ([1.0], [1.0], [0.0, 0.0])
    """
    kind = weight.dtype
    rows, chunks, jobs, threads = _work(x, threads)
    mean, rstd = statistics
    scale, below = weight * rstd, kind.type(slope)
    law, sums = _stacked(mean, scale, bias), np.empty((x.shape[0], chunks, 2, x.shape[2]), kind)
    spread_often(lambda lo, hi: _products(x, dy, law, below, rows, sums, lo, hi), jobs, threads)
    total, along = sums.sum(1, dtype=np.float64).swapaxes(0, 1)
    along *= rstd
    whole = _stacked(mean, scale, bias, -scale * total / x.shape[1], -scale * rstd * along / x.shape[1])
    spread_often(lambda lo, hi: _gradient(x, dy, whole, below, rows, out, lo, hi), jobs, threads)
    return along.sum(0).astype(kind), total.sum(0).astype(kind)


def _work(x: Rows, threads: int) -> tuple[int, int, int, int]:
    """Rows of a chunk (a multiple of 4, added to each other first), chunks of a sample and of all, threads."""
    rows = max(4, CHUNK // int(x.shape[2]) // 4 * 4)
    chunks = -(-int(x.shape[1]) // rows)
    return rows, chunks, x.shape[0] * chunks, threads if x.size >= MANY and threads >= SEVERAL else 1


def _stacked(mean: Array, *others: Array) -> Array:
    """What a kernel needs of a channel, (B, count, C): mean, scale, bias; level and tilt of the gradient."""
    return np.stack([mean, *(np.broadcast_to(one, mean.shape) for one in others)], 1).astype(mean.dtype)


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
def _sums(x, shift, rows, sums, lo, hi):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Sums and squares of x - shift over the chunks lo to hi, counted through all samples."""
    channels, chunks = x.shape[2], sums.shape[1]
    for job in range(lo, hi):
        b = job // chunks
        k = job - b * chunks
        source = x[b, k * rows:(k + 1) * rows]
        last = source.shape[0]
        whole = last // 4 * 4
        one, two, away = np.zeros_like(shift[b]), np.zeros_like(shift[b]), shift[b].copy()
        for i in range(0, whole, 4):
            for c in range(channels):
                m = away[c]
                p, q = _load(source[i, c]) - m, _load(source[i + 1, c]) - m
                r, s = _load(source[i + 2, c]) - m, _load(source[i + 3, c]) - m
                one[c] += (p + q) + (r + s)
                two[c] += (p * p + q * q) + (r * r + s * s)
        for i in range(whole, last):
            for c in range(channels):
                p = _load(source[i, c]) - away[c]
                one[c] += p
                two[c] += p * p
        sums[b, k, 0], sums[b, k, 1] = one, two


@njit(nogil=True, cache=True)
def _first(x, shift):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    for b in range(x.shape[0]):
        for c in range(x.shape[2]):
            shift[b, c] = _load(x[b, 0, c])


@njit(nogil=True, cache=True)
def _apply(x, law, slope, rows, out, lo, hi):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Scaled, shifted and activated numbers of the chunks lo to hi."""
    channels, chunks = x.shape[2], -(-x.shape[1] // rows)
    zero = slope - slope
    for job in range(lo, hi):
        b = job // chunks
        k = job - b * chunks
        middle, factor, bias = law[b, 0].copy(), law[b, 1].copy(), law[b, 2].copy()
        source, target = x[b, k * rows:(k + 1) * rows], out[b, k * rows:(k + 1) * rows]
        for i in range(source.shape[0]):
            for c in range(channels):
                y = factor[c] * (_load(source[i, c]) - middle[c]) + bias[c]
                target[i, c] = _store(y if y > zero else slope * y, source[i, c])


@njit(nogil=True, cache=True)
def _products(x, dy, law, slope, rows, sums, lo, hi):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Sums of the gradient below the activation, and of its product with x - mean, over the chunks lo to hi."""
    channels, chunks = x.shape[2], sums.shape[1]
    zero = slope - slope
    full = zero + 1
    for job in range(lo, hi):
        b = job // chunks
        k = job - b * chunks
        source, above = x[b, k * rows:(k + 1) * rows], dy[b, k * rows:(k + 1) * rows]
        last = source.shape[0]
        whole = last // 4 * 4
        one, two = np.zeros_like(law[b, 0]), np.zeros_like(law[b, 0])
        middle, factor, bias = law[b, 0].copy(), law[b, 1].copy(), law[b, 2].copy()
        for i in range(0, whole, 4):
            for c in range(channels):
                a, t, m = factor[c], bias[c], middle[c]
                p, q = _load(source[i, c]) - m, _load(source[i + 1, c]) - m
                r, s = _load(source[i + 2, c]) - m, _load(source[i + 3, c]) - m
                e = _load(above[i, c]) * (full if a * p + t > zero else slope)
                f = _load(above[i + 1, c]) * (full if a * q + t > zero else slope)
                g = _load(above[i + 2, c]) * (full if a * r + t > zero else slope)
                h = _load(above[i + 3, c]) * (full if a * s + t > zero else slope)
                one[c] += (e + f) + (g + h)
                two[c] += (e * p + f * q) + (g * r + h * s)
        for i in range(whole, last):
            for c in range(channels):
                p = _load(source[i, c]) - middle[c]
                e = _load(above[i, c]) * (full if factor[c] * p + bias[c] > zero else slope)
                one[c] += e
                two[c] += e * p
        sums[b, k, 0], sums[b, k, 1] = one, two


@njit(nogil=True, cache=True)
def _gradient(x, dy, law, slope, rows, out, lo, hi):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """``scale g + level + tilt (x - mean)`` of the chunks lo to hi."""
    channels, chunks = x.shape[2], -(-x.shape[1] // rows)
    zero = slope - slope
    full = zero + 1
    for job in range(lo, hi):
        b = job // chunks
        k = job - b * chunks
        middle, factor, bias = law[b, 0].copy(), law[b, 1].copy(), law[b, 2].copy()
        base, slant = law[b, 3].copy(), law[b, 4].copy()
        source, above = x[b, k * rows:(k + 1) * rows], dy[b, k * rows:(k + 1) * rows]
        target = out[b, k * rows:(k + 1) * rows]
        for i in range(source.shape[0]):
            for c in range(channels):
                p = _load(source[i, c]) - middle[c]
                e = _load(above[i, c]) * (full if factor[c] * p + bias[c] > zero else slope)
                target[i, c] = _store(factor[c] * e + base[c] + slant[c] * p, source[i, c])
