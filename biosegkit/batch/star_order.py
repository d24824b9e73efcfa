"""Candidates of many files in one order, a part of it at a time: memory follows the part, not the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from biosegkit.engines.star_shapes import Candidates
from biosegkit.state_files import ArrayFile

__all__ = ["in_order"]

#: Levels of probability that parts begin and end between; a power of two, so that rounding changes no order.
_LEVELS = 2**20


def in_order(files: Sequence[ArrayFile], most: int) -> Iterator[Candidates]:
    """Candidates of all files, the most probable first, then by place, in parts.

    Every file has an order of its own by probability, so that a part is a run of rows in each: they are read once, and
    nothing else is.

    Parameters
    ----------
    files : sequence of ArrayFile
        With ``points``, ``prob``, ``dist`` and maybe ``classes``; the most probable first.
    most : int
        Candidates of a part; those of equal probability (to a millionth) are never in two, so that a part may have
        more. Changes memory only.

    Yields
    ------
    Candidates
    """
    part_of = _part_of_levels(files, most)
    bounds = np.zeros((len(files), int(part_of[0]) + 2), np.int64)
    for row, file in zip(bounds, files, strict=True):
        row[:] = np.searchsorted(part_of[_levels(file["prob"])], np.arange(len(row)))
    for low, high in zip(bounds.T[:-1], bounds.T[1:], strict=True):
        parts = [_rows(file, a, b) for file, a, b in zip(files, low.tolist(), high.tolist(), strict=True) if a < b]
        if parts:
            yield Candidates.joined(parts)


def _levels(prob: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    return (prob * np.float32(_LEVELS)).astype(np.int64).clip(0, _LEVELS)


def _part_of_levels(files: Sequence[ArrayFile], most: int) -> npt.NDArray[np.int64]:
    """The part that candidates of each level of probability go to: the highest level to the first."""
    counts = np.zeros(_LEVELS + 1, np.int64)
    for file in files:
        levels, times = np.unique(_levels(file["prob"]), return_counts=True)
        counts[levels] += times
    before = np.cumsum(counts[::-1])[::-1] - counts
    return np.asarray(before // most)


def _rows(file: ArrayFile, low: int, high: int) -> Candidates:
    return Candidates(file.rows("points", low, high), file.rows("prob", low, high), file.rows("dist", low, high),
                      file.rows("classes", low, high) if "classes" in file else None)
