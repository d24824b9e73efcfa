"""How far the outlines of matched objects are apart: Hausdorff, HD95 and ASSD object by object.

Objects are matched one to one at an IoU threshold (:func:`biosegkit.metrics.instances.match_instances`); the distances
are those of :mod:`biosegkit.metrics.surface` between the two objects alone, other objects being outside. What has no
match has no distance: the mean says how well what was found is drawn, and must stand beside a recall. It is a mean over
objects, not over images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects

from biosegkit.errors import OptionError
from biosegkit.kernels.overlap import Overlaps, overlap_counts
from biosegkit.metrics.instances import match_instances
from biosegkit.metrics.surface import surface_scores

__all__ = ["MatchedSurface", "matched_surface"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Box = tuple[slice, ...]
_CHUNK = 1 << 20


@dataclass(frozen=True, eq=False)
class MatchedSurface:
    """Distances of the matched objects of one image, or of many one after the other.

    Parameters
    ----------
    pairs : ndarray of int64, (M, 2)
        Matched ids, of truth and prediction.
    hausdorff, hausdorff_percentile, assd : ndarray of float64, (M,)
        Distances of each pair, in the unit of the spacing; NaN where an ignore mask hides a whole surface.
    percentile : float
        Of the Hausdorff distance.

    Examples
    --------
    >>> one = MatchedSurface(np.array([[1, 1]]), np.array([2.0]), np.array([1.5]), np.array([0.5]))
    >>> (one + MatchedSurface()).scores()
    {'object_hausdorff': 2.0, 'object_hd95': 1.5, 'object_assd': 0.5}
    """

    pairs: Ints = field(default_factory=lambda: np.empty((0, 2), np.int64))
    hausdorff: Floats = field(default_factory=lambda: np.empty(0))
    hausdorff_percentile: Floats = field(default_factory=lambda: np.empty(0))
    assd: Floats = field(default_factory=lambda: np.empty(0))
    percentile: float = 95.0

    def __add__(self, other: MatchedSurface) -> MatchedSurface:
        """Append the pairs of other images."""
        if self.percentile != other.percentile:
            raise OptionError(f"percentile {other.percentile}", expected=f"the same percentile {self.percentile}")
        return MatchedSurface(
            np.concatenate([self.pairs, other.pairs]), np.concatenate([self.hausdorff, other.hausdorff]),
            np.concatenate([self.hausdorff_percentile, other.hausdorff_percentile]),
            np.concatenate([self.assd, other.assd]), self.percentile,
        )

    @property
    def undefined(self) -> int:
        """Pairs without a distance."""
        return int(np.count_nonzero(np.isnan(self.assd)))

    def scores(self) -> dict[str, float]:
        """Mean over the pairs of each distance: NaN if there is no pair with one."""
        named = {"object_hausdorff": self.hausdorff, f"object_hd{self.percentile:g}": self.hausdorff_percentile,
                 "object_assd": self.assd}
        return {name: float(np.nanmean(v)) if not np.isnan(v).all() else float("nan") for name, v in named.items()}


def matched_surface(
    truth: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    spacing: Sequence[float],
    *,
    threshold: float = 0.5,
    percentile: float = 95.0,
    valid: npt.NDArray[np.bool_] | None = None,
    overlaps: Overlaps | None = None,
) -> MatchedSurface:
    """Measure the distances between the outlines of each matched pair of objects, in the box around the two.

    Parameters
    ----------
    truth, prediction : ndarray of bool or int, equal shapes, 2D or 3D (any n)
        Instance labels, 0 is background, any ids.
    spacing : sequence of float
        Voxel size per axis, in array order (z, y, x).
    threshold : float
        IoU at which objects match, 0.5 to 1.
    percentile : float
        Of the Hausdorff distance, 0 to 100.
    valid : ndarray of bool, same shape, optional
        Voxels with a known truth; outlines end where it ends.
    overlaps : Overlaps, optional
        Of these two arrays and this mask, if they are known already.

    Returns
    -------
    MatchedSurface
        Distances by pair; those of many images add with ``+``.

    Raises
    ------
    DataError
        If the arrays cannot be compared.
    OptionError
        If threshold, percentile or spacing make no sense.

    Examples
    --------
    >>> truth = np.zeros((9, 9), int)
    >>> truth[2:6, 2:6] = 7
    >>> found = matched_surface(truth, np.roll(truth, 1, 1), spacing=(1.0, 0.5))
    >>> found.hausdorff.tolist(), found.scores()["object_hd95"]
    ([0.5], 0.5)
    """
    overlaps = overlap_counts(truth, prediction, valid) if overlaps is None else overlaps
    pairs = match_instances(overlaps, threshold)[0]
    boxes = [_boxes(labels, ids) for labels, ids in zip((truth, prediction), pairs.T, strict=True)]
    rows = np.empty((len(pairs), 3))
    for row, (true, found), *two in zip(rows, pairs.tolist(), *boxes, strict=True):
        box = _around(two, truth.shape)
        scores = surface_scores(prediction[box] == found, truth[box] == true, spacing, percentile=percentile,
                                valid=None if valid is None else valid[box])
        row[:] = scores.hausdorff, scores.hausdorff_percentile, scores.assd
    return MatchedSurface(pairs, rows[:, 0], rows[:, 1], rows[:, 2], percentile)


def _boxes(labels: npt.NDArray[Any], ids: Ints) -> list[Box]:
    """Where each of these ids is, in their order."""
    order = np.argsort(ids)
    known = ids[order]
    flat = labels.reshape(-1)
    numbers = np.zeros(flat.size, np.int32)  # ids may be sparse and huge: number the wanted ones from 1
    for start in range(0, flat.size if ids.size else 0, _CHUNK):
        part = flat[start:start + _CHUNK].astype(np.int64)
        position = np.minimum(np.searchsorted(known, part), known.size - 1)
        numbers[start:start + _CHUNK] = np.where(known[position] == part, order[position] + 1, 0)
    return [box for box in find_objects(numbers.reshape(labels.shape), ids.size) if box is not None]


def _around(boxes: Sequence[Box], shape: tuple[int, ...]) -> Box:
    """Smallest box around both, and one voxel more: a surface is where the next voxel is outside."""
    spans = zip(*boxes, strict=True)
    return tuple(slice(max(min(s.start for s in span) - 1, 0), min(max(s.stop for s in span) + 1, size))
                 for span, size in zip(spans, shape, strict=True))
