"""Where a prediction is wrong: per voxel agreement, false positive, miss, or the wrong class or object."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .image import Labels
from .kernels.overlap import overlap_counts
from .metrics import match_instances, split_merge_pairs
from .overlay import BOTH, PREDICTED, RGB, TRUTH, to_rgb

__all__ = ["AGREED", "COLOURS", "INVENTED", "MISSED", "WRONG", "error_codes", "error_objects", "error_picture"]

#: Codes of voxels; 0 is background in both, or ignored.
AGREED, INVENTED, MISSED, WRONG = 1, 2, 3, 4
#: Their colours: those of the outlines, and one more for what is there but called something else.
COLOURS = {AGREED: BOTH, INVENTED: PREDICTED, MISSED: TRUTH, WRONG: (224, 86, 200)}
#: How much of the image shows through.
_COVER = {AGREED: 0.22, INVENTED: 0.8, MISSED: 0.8, WRONG: 0.8}


def error_codes(prediction: Labels, truth: Labels) -> npt.NDArray[np.uint8]:
    """A code per voxel.

    Classes are compared voxel by voxel. Objects are compared as wholes, matched at IoU 0.5 or more: all of an object
    without a match is invented or missed, and where two of these lie on each other (pieces, merged objects) wrong.

    Parameters
    ----------
    prediction, truth : Labels
        Of equal shape.

    Examples
    --------
    >>> from biosegkit.grid import Grid
    >>> pair = ([0, 1, 1, 2, 0], [0, 1, 0, 1, 1])
    >>> error_codes(*(Labels.from_values(np.array([v]), Grid.regular((1, 5)), "semantic") for v in pair)).tolist()
    [[0, 1, 2, 4, 3]]
    """
    found, true = prediction.array > 0, truth.array > 0
    codes = np.zeros(truth.array.shape, np.uint8)
    if truth.task == "instance":
        valid = None if truth.ignore is None else np.logical_not(truth.ignore)
        pairs = match_instances(overlap_counts(truth.array, prediction.array, valid))[0]
        matched = [np.isin(np.arange(len(labels.values)), ids)[labels.array]
                   for labels, ids in ((truth, pairs[:, 0]), (prediction, pairs[:, 1]))]
        codes[(true & matched[0]) | (found & matched[1])] = AGREED
        true, found = true & ~matched[0], found & ~matched[1]
        codes[true & found] = WRONG
    else:
        same = prediction.values[prediction.array] == truth.values[truth.array]
        codes[true & found] = np.where(same, AGREED, WRONG)[true & found]
    codes[found & ~true] = INVENTED
    codes[true & ~found] = MISSED
    if truth.ignore is not None:
        codes[truth.ignore] = 0
    return codes


def error_objects(prediction: Labels, truth: Labels) -> dict[str, npt.NDArray[Any]]:
    """Label images of what is wrong, each with the ids of the labels it is taken from.

    Objects: ``false positives`` (predicted) and ``misses`` (true) without a match at IoU 0.5 or more that are no part
    of a split or a merge; ``splits``, the predicted pieces of split true objects; ``merges``, the true objects that one
    prediction holds (:mod:`biosegkit.metrics.splits_merges`). Classes: ``false positives`` (predicted where there is
    none), ``misses`` (true where none is predicted) and ``wrong class`` (the predicted one).

    Parameters
    ----------
    prediction, truth : Labels
        Of equal shape. Voxels ignored in the truth are 0.

    Examples
    --------
    >>> from biosegkit.grid import Grid
    >>> pair = ([4, 4, 5, 5, 0, 7, 7, 7, 7], [1, 1, 1, 1, 2, 3, 3, 6, 6])
    >>> found, true = (Labels.from_values(np.array([v]), Grid.regular((1, 9)), "instance") for v in pair)
    >>> [array[0].tolist() for array in error_objects(found, true).values()]  # doctest: +NORMALIZE_WHITESPACE
    [[0, 0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 2, 0, 0, 0, 0],
     [4, 4, 5, 5, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 3, 3, 6, 6]]
    """
    valid = None if truth.ignore is None else np.logical_not(truth.ignore)
    if truth.task == "semantic":
        found, true = prediction.values[prediction.array], truth.values[truth.array]
        where = {"false positives": (found, true == 0), "misses": (true, found == 0),
                 "wrong class": (found, (found != true) & (found != 0) & (true != 0))}
        shown = {name: np.where(place, values, 0) for name, (values, place) in where.items()}
    else:
        overlaps = overlap_counts(truth.array, prediction.array, valid)
        pairs = match_instances(overlaps)[0]
        split, merged = split_merge_pairs(overlaps)
        shown = {
            "false positives": _without(prediction, [pairs[:, 1], split[:, 1], merged[:, 1]]),
            "misses": _without(truth, [pairs[:, 0], split[:, 0], merged[:, 0]]),
            "splits": _only(prediction, split[:, 1]), "merges": _only(truth, merged[:, 0])}
    return shown if valid is None else {name: np.where(valid, values, 0) for name, values in shown.items()}


def _only(labels: Labels, ids: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """These objects with the user's ids."""
    kept = np.zeros_like(labels.values)
    kept[ids] = labels.values[ids]
    return np.asarray(kept[labels.array])


def _without(labels: Labels, ids: list[npt.NDArray[np.int64]]) -> npt.NDArray[Any]:
    """All other objects with the user's ids."""
    return _only(labels, np.setdiff1d(np.arange(1, len(labels.values)), np.concatenate(ids)))


def error_picture(image: npt.NDArray[Any], codes: npt.NDArray[np.uint8]) -> RGB:
    """A plane with its errors filled in.

    Parameters
    ----------
    image : ndarray, (y, x) or (C, y, x)
        Intensities, shown grey.
    codes : ndarray of uint8, (y, x)
        From :func:`error_codes`.
    """
    grey = to_rgb(image).mean(axis=2, keepdims=True) * 0.8
    picture = np.repeat(grey, 3, axis=2)
    for code, colour in COLOURS.items():
        where = codes == code
        picture[where] = (1 - _COVER[code]) * picture[where] + _COVER[code] * np.array(colour)
    return np.asarray(np.rint(picture).astype(np.uint8))
