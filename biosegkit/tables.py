"""Object tables from the axes of the decoding back to those of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .grid import Turn

__all__ = ["merged_rows", "stacked_rows", "turned_table"]

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


def stacked_rows(table: Mapping[str, npt.NDArray[Any]], plane: int, ids: npt.NDArray[np.uint32]) -> Table:
    """The table of one plane as rows of a stack; ``ids`` holds the id in the stack of each of the plane's."""
    count = len(table["id"])
    rows: Table = {"id": ids[table["id"]]}
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


def merged_rows(table: Mapping[str, npt.NDArray[Any]]) -> Table:
    """One row per id: areas add up, boxes grow, centroids and scores are means weighted by area.

    Examples
    --------
    >>> rows = {"id": np.array([1, 2, 1]), "area": np.array([3, 5, 1]), "centroid_z": np.array([0.0, 0.0, 4.0]),
    ...         "bbox_stop_z": np.array([1, 1, 5])}
    >>> {name: column.tolist() for name, column in merged_rows(rows).items()}
    {'id': [1, 2], 'area': [4, 5], 'centroid_z': [1.0, 0.0], 'bbox_stop_z': [5, 1]}
    """
    ids, first, row = np.unique(table["id"], return_index=True, return_inverse=True)
    area = np.bincount(row, weights=table["area"], minlength=len(ids))
    merged: Table = {}
    for name, column in table.items():
        merged[name] = column[first]
        if name.startswith("bbox_start"):
            np.minimum.at(merged[name], row, column)
        elif name.startswith("bbox_stop"):
            np.maximum.at(merged[name], row, column)
        elif name == "area":
            merged[name] = np.rint(area).astype(column.dtype)
        elif name != "id":
            mean = np.bincount(row, weights=column * table["area"], minlength=len(ids)) / area
            merged[name] = mean.astype(column.dtype)
    return merged
