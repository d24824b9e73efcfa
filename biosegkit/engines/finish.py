"""From what was found to a Prediction: tidied, numbered by raster order of the first voxel, and tabled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.image import Image, Labels, smallest_unsigned
from biosegkit.kernels.components import connected_components, sequential
from biosegkit.predictor import Prediction

from .found import Found

__all__ = ["classes_prediction", "fill_enclosed", "numbered", "objects_prediction"]


def classes_prediction(classes: npt.NDArray[Any], count: int, image: Image, notes: Sequence[str]) -> Prediction:
    """A prediction of ``count`` classes, background included."""
    array = classes.astype(smallest_unsigned(count - 1))
    values = np.arange(count, dtype=np.int64)
    return Prediction(Labels(array, image.grid, values, "semantic", source=image.source), notes=tuple(notes))


def objects_prediction(found: Found, image: Image, tidy: tuple[int, bool], notes: Sequence[str]) -> Prediction:
    """A prediction of objects; ``tidy`` is the smallest size in voxels, and whether holes are filled.

    The score of every object is 1: such a segmenter has no doubts.
    """
    pieces = connected_components(found.mask)[0] if found.mask is not None else sequential(np.asarray(found.objects))[0]
    if tidy[1]:
        pieces = fill_enclosed(pieces)
    array, table = numbered(pieces, np.ones(pieces.shape, np.uint8), 1.0, tidy[0])
    ids = np.arange(len(table["id"]) + 1, dtype=np.int64)
    return Prediction(Labels(array, image.grid, ids, "instance", source=image.source), table, notes=tuple(notes))


def numbered(objects: npt.NDArray[Any], score: npt.NDArray[Any], scale: float,
             min_size: int = 0) -> tuple[npt.NDArray[np.uint32], dict[str, npt.NDArray[Any]]]:
    """Objects ``1..K`` numbered by raster order of the first voxel, small ones removed, and their table.

    Parameters
    ----------
    objects : ndarray of int, (*space)
        ``1..K`` in any order.
    score : ndarray of whole numbers, (*space)
        Its mean over an object, divided by ``scale``, is the object's score.
    min_size : int
        In voxels.

    Examples
    --------
    >>> labels, table = numbered(np.array([[2, 2, 0, 1]]), np.ones((1, 4), np.uint8), 1.0, 2)
    >>> labels.tolist(), table["id"].tolist(), table["bbox_stop_x"].tolist()
    ([[1, 1, 0, 0]], [1], [2])
    """
    from biosegkit.methods.protocol import Block
    from biosegkit.methods.tables import Tally

    count = int(objects.max(initial=0))
    tally = Tally(count, objects.ndim)
    tally.add(objects, score, Block.whole(objects.shape))
    alive = np.flatnonzero(tally.area >= max(1, min_size))
    alive = alive[np.argsort(tally.first[alive])]
    lookup = np.zeros(count + 1, np.uint32)
    lookup[alive + 1] = np.arange(1, len(alive) + 1)
    table = tally.table(alive + 1, lookup[alive + 1], scale)
    table.pop("first")
    return lookup[objects], table


def fill_enclosed(objects: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Give background that one object alone encloses to that object.

    Examples
    --------
    >>> ring = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]])
    >>> fill_enclosed(np.pad(ring, 1))[2].tolist(), fill_enclosed(np.array([[1, 0, 2]])).tolist()
    ([0, 1, 1, 1, 0], [[1, 0, 2]])
    """
    from scipy import ndimage

    holes, count = ndimage.label(ndimage.binary_fill_holes(objects > 0) & (objects == 0))
    if not count:
        return objects
    top = int(objects.max()) + 1  # filters compare as floats: no larger than must be
    names = np.arange(1, count + 1)
    faces = ndimage.generate_binary_structure(objects.ndim, 1)
    most = ndimage.maximum(ndimage.maximum_filter(objects, footprint=faces, mode="nearest"), holes, names)
    filled = np.where(objects == 0, top, objects.astype(np.int64))
    fewest = ndimage.minimum(ndimage.minimum_filter(filled, footprint=faces, mode="nearest"), holes, names)
    owner = np.concatenate([[0], np.where(most == fewest, most, 0)]).astype(objects.dtype)
    return np.where(objects == 0, owner[holes], objects)
