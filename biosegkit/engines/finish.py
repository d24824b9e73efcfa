"""From what was found to a Prediction: tidied, numbered by raster order of the first voxel, and tabled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.image import Image, Labels, smallest_unsigned
from biosegkit.kernels.components import connected_components, sequential
from biosegkit.predictor import Prediction
from biosegkit.tidy import Frame, TidyObjects, tidy_objects

from .found import Found

__all__ = ["classes_prediction", "objects_prediction"]


def classes_prediction(classes: npt.NDArray[Any], count: int, image: Image, notes: Sequence[str]) -> Prediction:
    """A prediction of ``count`` classes, background included."""
    array = classes.astype(smallest_unsigned(count - 1))
    values = np.arange(count, dtype=np.int64)
    return Prediction(Labels(array, image.grid, values, "semantic", source=image.source), notes=tuple(notes))


def objects_prediction(found: Found, image: Image, tidy: TidyObjects, min_size: int,
                       notes: Sequence[str]) -> Prediction:
    """A prediction of objects of at least ``min_size`` voxels, tidied.

    The score of every object is 1: such a segmenter has no doubts.
    """
    pieces = connected_components(found.mask)[0] if found.mask is not None else sequential(np.asarray(found.objects))[0]
    array, table = tidy_objects(pieces, tidy, Frame.whole(pieces.shape), min_size=min_size)
    table.pop("first")
    ids = np.arange(len(table["id"]) + 1, dtype=np.int64)
    return Prediction(Labels(array, image.grid, ids, "instance", source=image.source), table, notes=tuple(notes))
