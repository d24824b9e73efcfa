"""Two label images beside each other: the scores that people ask for first, and what is wrong as label images."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .error_map import error_objects
from .image import Labels
from .outputs import boxed
from .scores import score_pair

__all__ = ["Agreement", "agreement", "error_codes_of", "wrong_objects"]

_OBJECTS = ("ap@0.50", "ap@0.75", "ap", "f1", "pq")
_MASKS = ("dice", "iou", "hd95", "assd", "nsd")


@dataclass(frozen=True, eq=False)
class Agreement:
    """How far a prediction agrees with a reference.

    Parameters
    ----------
    scores : dict of str to float
        By name; NaN where undefined. Distances are in ``unit``.
    errors : dict of str to ndarray
        See :func:`biosegkit.error_map.error_objects`.
    counts : dict of str to int
        Objects in each of them; voxels where labels are classes.
    unit : str
        Of the reference's grid.
    notes : tuple of str
        What was assumed.
    """

    scores: dict[str, float]
    errors: dict[str, npt.NDArray[Any]]
    counts: dict[str, int]
    unit: str
    notes: tuple[str, ...] = ()


def agreement(prediction: Labels, truth: Labels) -> Agreement:
    """Compare labels with a reference; its task says whether values are objects or classes.

    Objects: AP at IoU 0.5 and 0.75, its mean, F1 and PQ, and of all objects together as one mask Dice, IoU, HD95, ASSD
    and NSD. Classes: the latter of every class, and their mean.

    Raises
    ------
    DataError
        If the grids differ (G1, G2), or a class is unknown (L5).

    Examples
    --------
    >>> from biosegkit.grid import Grid
    >>> found, true = (Labels.from_values(np.array([v]), Grid.regular((1, 4)), "instance")
    ...                for v in ([5, 5, 0, 0], [1, 1, 0, 2]))
    >>> seen = agreement(found, true)
    >>> seen.scores["ap@0.50"], round(seen.scores["dice of the foreground"], 3), seen.counts["misses"]
    (0.5, 0.8, 1)
    """
    row = score_pair(prediction, truth)
    errors = error_objects(prediction, truth)
    notes = tuple(row["notes"])
    if truth.task == "semantic":
        scores = {name: float(row.get(name, math.nan)) for name in _MASKS}
        shown = {k: v for k, v in row["classes"].items() if v.get("value") != 0}
        if len(shown) > 1:
            scores |= {f"{name} of class {k}": float(one[name]) for k, one in shown.items() for name in _MASKS}
        counts = {name: int(np.count_nonzero(array)) for name, array in errors.items()}
        return Agreement(scores, errors, counts, truth.grid.unit, notes)
    together = score_pair(_mask(prediction), _mask(truth))
    scores = {name: float(row[name]) for name in _OBJECTS}
    scores |= {f"{name} of the foreground": float(together[name]) for name in _MASKS}
    counts = {name: int(np.count_nonzero(np.unique(array))) for name, array in errors.items()}
    return Agreement(scores, errors, counts, truth.grid.unit, notes)


def _mask(labels: Labels) -> Labels:
    """All objects as one class."""
    return replace(labels, array=(labels.array > 0).astype(np.uint8), values=np.array([0, 1]), task="semantic")


def error_codes_of(found: Agreement) -> npt.NDArray[np.uint8]:
    """One label image of all that is wrong: 1 for the first kind of ``found.errors``, 2 for the next, and so on.

    Where kinds lie on each other, the later one is seen: a merge before a split, both before a miss.

    Examples
    --------
    >>> errors = {"false positives": np.array([[3, 3, 0]]), "misses": np.array([[0, 7, 0]])}
    >>> error_codes_of(Agreement({}, errors, {}, "px")).tolist()
    [[1, 2, 0]]
    """
    shape = next(iter(found.errors.values())).shape
    codes = np.zeros(shape, np.uint8)
    for number, where in enumerate(found.errors.values(), 1):
        codes[where > 0] = number
    return codes


def wrong_objects(found: Agreement) -> dict[str, npt.NDArray[Any]]:
    """A row per object that is wrong: ``what`` (a key of ``found.errors``), ``id``, ``area`` and box in voxels.

    Examples
    --------
    >>> errors = {"false positives": np.array([[3, 3, 0]]), "misses": np.array([[0, 7, 9]])}
    >>> rows = wrong_objects(Agreement({}, errors, {}, "px"))
    >>> rows["what"].tolist(), rows["id"].tolist(), rows["area"].tolist(), rows["bbox_start_x"].tolist()
    (['false positives', 'misses', 'misses'], [3, 7, 9], [2, 1, 1], [0, 1, 2])
    """
    tables = {name: boxed(where) for name, where in found.errors.items()}
    rows: dict[str, npt.NDArray[Any]] = {
        "what": np.repeat(np.array(list(tables), object), [len(table["id"]) for table in tables.values()])}
    for column in next(iter(tables.values())):
        if not column.startswith("centroid"):
            rows[column] = np.concatenate([table[column] for table in tables.values()])
    return rows
