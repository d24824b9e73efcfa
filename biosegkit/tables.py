"""Object tables from the axes of the decoding back to those of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .grid import Turn

__all__ = ["stacked_rows", "turned_table"]

Table = dict[str, npt.NDArray[Any]]
_NAMES = ("z", "y", "x")


def turned_table(table: Mapping[str, npt.NDArray[Any]], window: Sequence[slice], shape: Sequence[int],
                 turn: Turn) -> Table:
    """Centroids and boxes in voxels of the image; ``first`` (an index of the decoding) is left out.

    Parameters
    ----------
    table : dict of ndarray
        Of the turned, cropped image.
    window : sequence of slice
        The crop within the turned image.
    shape : sequence of int
        Of the whole turned image.
    turn : Turn
        From the image to the turned image.

    Examples
    --------
    >>> t = {"id": np.array([1]), "centroid_y": np.array([1.0]), "centroid_x": np.array([5.0])}
    >>> turned = turned_table(t, (slice(0, 4), slice(0, 8)), (4, 8), Turn((1, 0), (0,)))
    >>> turned["centroid_y"].tolist(), turned["centroid_x"].tolist()
    ([5.0], [2.0])
    """
    names = _NAMES[-len(shape) :]
    result: Table = {k: v for k, v in table.items() if k != "first" and k.rsplit("_", 1)[-1] not in names}
    for axis, name in enumerate(names):
        own = names[turn.perm[axis]]
        offset, top = window[axis].start, shape[axis]
        flip = axis in turn.flips
        if f"centroid_{name}" in table:
            centre = table[f"centroid_{name}"] + offset
            result[f"centroid_{own}"] = top - 1 - centre if flip else centre
        if f"bbox_start_{name}" in table:
            start, stop = table[f"bbox_start_{name}"] + offset, table[f"bbox_stop_{name}"] + offset
            result[f"bbox_start_{own}"] = top - stop if flip else start
            result[f"bbox_stop_{own}"] = top - start if flip else stop
    return {k: result[k] for k in table if k in result}


def stacked_rows(table: Mapping[str, npt.NDArray[Any]], plane: int, offset: int) -> Table:
    """The table of one plane as rows of a stack, with ids that go on from ``offset``."""
    count = len(table["id"])
    rows: Table = {"id": (table["id"] + offset).astype(np.uint32)}
    for name, column in table.items():
        if name == "centroid_y":
            rows["centroid_z"] = np.full(count, float(plane))
        if name == "bbox_start_y":
            rows["bbox_start_z"] = np.full(count, plane, np.int64)
        if name == "bbox_stop_y":
            rows["bbox_stop_z"] = np.full(count, plane + 1, np.int64)
        if name not in ("id", "first"):
            rows[name] = column
    return rows
