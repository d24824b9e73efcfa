"""Is there anything to see in a part of an image? It is read piece by piece until two values are found."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .layers import look_at, voxels_of

__all__ = ["EMPTY", "coloured", "contrasts"]

#: What is said of a channel without a finite number.
EMPTY = "no finite number (NaN or infinity alone)"
#: Voxels that are read at once, and at most where each has to be read from a file; then nothing is said.
_PIECE, _MOST = 1 << 20, 1 << 24
#: Seconds after which nothing is said of what is read from a file.
_SECONDS = 3.0


def contrasts(layer: Any, axes: str | None, frame: int, level: int, window: Sequence[slice]) -> list[str]:
    """What is wrong with each channel of a part of a layer: nothing finite, or one value alone; empty if nothing is.

    Parameters
    ----------
    layer : snapshot of a napari layer
    axes, frame, level, window
        As for :func:`biosegkit_napari.layers.image_of`.

    Returns
    -------
    list of str
        Empty strings for what is too large to be read through before anything different is found.
    """
    look = look_at(layer, axes)
    data = layer.data[level] if getattr(layer, "multiscale", False) else layer.data
    limited = not isinstance(data, np.ndarray)
    found: list[set[float]] = []
    read, begun = 0, time.monotonic()
    for piece in _pieces(window, _chunk(data, look.axes)):
        values = voxels_of(layer, look, frame, level, piece)
        found = found or [set() for _ in values]
        for seen, channel in zip(found, values, strict=True):
            if len(seen) < 2:
                seen.update(_two(channel))
        read += values[0].size
        slow = limited and (read >= _MOST or time.monotonic() - begun > _SECONDS)
        if all(len(seen) > 1 for seen in found) or slow:
            break
    else:
        return [EMPTY if not seen else f"one value alone ({next(iter(seen)):g})" if len(seen) == 1 else ""
                for seen in found]
    return [""] * len(found)


def coloured(layers: Sequence[Any], axes: str | None, frame: int, level: int, window: Sequence[slice]) -> bool:
    """Whether channels of a part differ anywhere, as they do where grey is not stored in colours.

    Parameters
    ----------
    layers : sequence of snapshots of napari layers
        One with all channels, or one per channel.
    axes, frame, level, window
        As for :func:`biosegkit_napari.layers.image_of`.

    Returns
    -------
    bool
        False for what is too large to be read through before a difference is found.
    """
    read, begun = 0, time.monotonic()
    data = layers[0].data[level] if getattr(layers[0], "multiscale", False) else layers[0].data
    for piece in _pieces(window, _chunk(data, look_at(layers[0], axes).axes)):
        values = np.concatenate([voxels_of(layer, look_at(layer, axes), frame, level, piece) for layer in layers])
        if (values != values[:1]).any():
            return True
        read += values[0].size
        if read >= _MOST or time.monotonic() - begun > _SECONDS:
            break
    return False


def _two(values: Any) -> list[float]:
    """The smallest and the largest finite value; none where there is none."""
    values = values[np.isfinite(values)] if values.dtype.kind in "fc" else values
    return [float(values.min()), float(values.max())] if values.size else []


def _chunk(data: Any, axes: str) -> tuple[int, ...] | None:
    """Of an array that is kept in chunks, as those of zarr and dask are, their sides along the space axes."""
    sides = getattr(data, "chunksize", None) or getattr(data, "chunks", None)
    if not isinstance(sides, tuple) or len(sides) != len(axes) or not all(isinstance(n, int) for n in sides):
        return None
    return tuple(n for n, letter in zip(sides, axes, strict=True) if letter in "zyx")


def _pieces(window: Sequence[slice], chunk: Sequence[int] | None = None) -> Iterator[tuple[slice, ...]]:
    """A part in pieces, from the middle on: borders are black. Pieces are whole chunks: none of these is read twice."""
    size = [w.stop - w.start for w in window]
    step, start = list(size), [w.start for w in window]
    for axis in range(len(size)):
        step[axis] = max(1, min(size[axis], _PIECE // max(1, int(np.prod(size[axis + 1 :], dtype=np.int64)))))
        if step[axis] > 1 or size[axis] == 1:
            break
    if chunk is not None and math.prod(chunk) <= _MOST:
        step, start = list(chunk), [w.start // n * n for w, n in zip(window, chunk, strict=True)]
        for axis in reversed(range(len(step))):
            step[axis] *= max(1, min(-(-size[axis] // step[axis]), _PIECE // math.prod(step)))
    starts = [sorted(range(first, w.stop, s), key=lambda a, w=w, s=s: abs(2 * a + s - w.start - w.stop))
              for first, w, s in zip(start, window, step, strict=True)]
    for place in itertools.product(*starts):
        yield tuple(slice(max(a, w.start), min(a + s, w.stop)) for a, s, w in zip(place, step, window, strict=True))
