"""What a segmenter is and what it returns: the only thing batch, evaluate and napari know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from .grid import Grid
from .image import Image, Labels

__all__ = ["MapPredictor", "Prediction", "Predictor", "WholePredictor"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """The result of segmenting one image.

    Parameters
    ----------
    labels : Labels
        On the grid of the input.
    objects : dict of 1-D arrays
        Columns of equal length, one row per object (``id``, ``score``, ``area``, centroid, box, …); empty for classes.
    maps : dict of ndarray, (C, *space), optional
        Probability or distance maps on the input grid, when asked for.
    notes : tuple of str
        What was repaired or approximated.
    filled : ndarray of bool, grid.shape, optional
        Voxels of the image that were NaN or infinite in a channel and were taken as its minimum; None where all were
        numbers, and from models that are no bundle.

    Examples
    --------
    >>> import numpy as np
    >>> from biosegkit.grid import Grid
    >>> labels = Labels.from_values(np.array([[0, 1], [2, 2]]), Grid.regular((2, 2)), "instance")
    >>> found = Prediction(labels, {"id": np.array([1, 2]), "area": np.array([1, 2])})
    >>> dict(zip(found.objects["id"].tolist(), found.objects["area"].tolist()))
    {1: 1, 2: 2}
    """

    labels: Labels
    objects: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    maps: Mapping[str, npt.NDArray[np.float32]] | None = None
    notes: tuple[str, ...] = ()
    filled: npt.NDArray[np.bool_] | None = None


@runtime_checkable
class Predictor(Protocol):
    """Anything that segments: a bundle, an ensemble, an official model, a classical segmenter."""

    def predict(self, image: Image) -> Prediction:
        """Segment one image."""
        ...


@runtime_checkable
class MapPredictor(Predictor, Protocol):
    """A predictor with dense maps, so that thresholds can be moved without running the network again."""

    def maps(self, image: Image) -> Mapping[str, npt.NDArray[np.float32]]:
        """Dense maps on the image's grid."""
        ...

    def decode(self, maps: Mapping[str, npt.NDArray[np.float32]], thresholds: Mapping[str, float],
               grid: Grid | None = None) -> Prediction:
        """Labels from maps; ``grid`` is the image's, of unit spacing if left out."""
        ...


@runtime_checkable
class WholePredictor(Predictor, Protocol):
    """A predictor that holds a whole image, and says beforehand what it needs for that."""

    def memory(self, image: Image) -> int:
        """Bytes beyond the image, at their peak; no voxel is looked at."""
        ...
