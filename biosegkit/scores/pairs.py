"""From two label images to scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from biosegkit.errors import DataError
from biosegkit.image import Labels
from biosegkit.scores.classes import class_rows, foreground_mean
from biosegkit.scores.objects import object_row
from biosegkit.scores.options import ScoreOptions

__all__ = ["score_pair"]

_SAME_GRID = 1e-3  # voxels at a corner (fault G2)


def score_pair(prediction: Labels, truth: Labels, options: ScoreOptions | None = None,
               scores: Mapping[int, float] | None = None) -> dict[str, Any]:
    """Score one prediction; classes are compared by the user's values, the truth says whether they are objects.

    Parameters
    ----------
    prediction, truth : Labels
        On the same grid. Voxels ignored in the truth count nowhere.
    options : ScoreOptions, optional
        How to score.
    scores : mapping of int to float, optional
        How sure the model is of each predicted object, by its id: what COCO's AP needs.

    Returns
    -------
    dict
        Semantic: the foreground means and ``classes`` with the scores of each. Instance: all instance scores, the
        counts at the first threshold, and ``counts`` to pool. ``notes`` says what was assumed.

    Raises
    ------
    DataError
        If shapes (G1) or positions (G2) differ, or a value is no known class (L5).
    OptionError
        If the scores chosen are of the other task.

    Examples
    --------
    >>> from biosegkit.grid import Grid
    >>> a, b = (Labels.from_values(np.array([v]), Grid.regular((1, 3)), "semantic") for v in ([0, 7, 7], [0, 7, 0]))
    >>> round(score_pair(a, b)["classes"]["7"]["dice"], 3)
    0.667
    """
    options = options or ScoreOptions()
    options.groups(truth.task)
    notes = _comparable(prediction, truth, options)
    valid = None if truth.ignore is None else np.logical_not(truth.ignore)
    if truth.task == "instance":
        return {**object_row(prediction, truth, valid, options, scores), "notes": notes}
    classes = class_rows(prediction, truth, valid, options)
    return {**foreground_mean(classes, options), "classes": classes, "notes": notes}


def _comparable(prediction: Labels, truth: Labels, options: ScoreOptions) -> list[str]:
    """Refuse two grids that are not one; return what had to be assumed."""
    here, there = truth.grid, prediction.grid
    if here.shape != there.shape:
        raise DataError(f"shape {there.shape}", file=prediction.source or "prediction",
                        expected=f"{here.shape}, the shape of the truth", remedy="predict on the grid of the truth")
    if (here.unit == "px") != (there.unit == "px"):
        return ["compared voxel by voxel: only one file has a physical size"]
    apart = here.mismatch(there) if here.unit == there.unit else math.inf
    if apart <= _SAME_GRID:
        return []
    found = f"spacing {there.spacing} {there.unit}, origin {there.origin}, orientation {there.orientation}"
    if options.trust_index:
        return [f"compared voxel by voxel although positions differ (prediction: {found})"]
    raise DataError(found, file=prediction.source or "prediction",
                    expected=f"spacing {here.spacing} {here.unit}, origin {here.origin}, orientation "
                    f"{here.orientation}, the grid of the truth",
                    remedy="resample the prediction to the truth's grid, or --trust-index")
