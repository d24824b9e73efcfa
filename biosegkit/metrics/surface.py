"""Distances between the surfaces of two masks: Hausdorff, HD95, ASSD and normalised surface Dice, in one pass.

The definitions differ between tools, so here is ours. The *surface* of a mask is made of those of its voxels that have
a face neighbour outside the mask; outside the array counts as outside the mask. Distances run between voxel centres,
in world units. From each surface there is one distance per voxel to the other surface (two *directed* sets):

- Hausdorff: the maximum over both sets;
- HD at a percentile (HD95): the larger of the two directed percentiles (as MONAI; not pooled as medpy, nor weighted by
  area as DeepMind's surface-distance), with linear interpolation;
- ASSD: the mean over both sets pooled (as MONAI and medpy; not the mean of the two means);
- NSD at a tolerance: the share of both sets pooled that is at most the tolerance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree

from biosegkit.errors import OptionError
from biosegkit.metrics.overlap import check_masks

__all__ = ["SurfaceScores", "surface_distances", "surface_scores", "surface_voxels"]

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SurfaceScores:
    """Surface distances of one pair of masks; all in the unit of the spacing, NSD without unit.

    ``state`` is ``"defined"``, ``"both_empty"``, ``"truth_empty"`` or ``"prediction_empty"``. Distances are NaN unless
    it is ``"defined"``: a distance to nothing is no number, and one made up (infinity, the image diagonal) would
    decide every mean it enters. Whoever averages counts the states beside the mean. NSD is NaN if both are empty and
    0 if one is, as Dice.
    """

    hausdorff: float
    hausdorff_percentile: float
    percentile: float
    assd: float
    nsd: float
    tolerance: float
    state: str


def surface_voxels(mask: Mask, valid: Mask | None = None) -> Mask:
    """Mark the voxels of a mask that touch its outside with a face.

    Parameters
    ----------
    mask : ndarray of bool, any shape
        Axes of length 1 are no axes: a plane has an outline, not two faces.
    valid : ndarray of bool, same shape, optional
        Voxels whose value is known. Where a mask runs into an unknown region there is no surface.

    Examples
    --------
    >>> surface_voxels(np.ones((1, 3, 4), bool)).astype(int).tolist()
    [[[1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]]]
    """
    inside = mask if valid is None else mask | ~valid
    core = inside.copy()
    for axis in range(mask.ndim):
        if mask.shape[axis] == 1:
            continue
        here, there = _shifted(mask.ndim, axis)
        core[here] &= inside[there]
        core[there] &= inside[here]
        for edge in (0, -1):
            core[(slice(None),) * axis + (edge,)] = False
    surface = mask & ~core
    return surface if valid is None else surface & valid


def _shifted(ndim: int, axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Index pair of all voxels and their next neighbour along one axis."""
    full = (slice(None),) * axis, (slice(None),) * (ndim - axis - 1)
    return (*full[0], slice(None, -1), *full[1]), (*full[0], slice(1, None), *full[1])


def surface_distances(
    prediction: Mask, truth: Mask, spacing: Sequence[float], valid: Mask | None = None
) -> tuple[Floats, Floats]:
    """Distance from every surface voxel of each mask to the surface of the other.

    Parameters
    ----------
    prediction, truth : ndarray of bool, equal shapes, 2D or 3D (any n)
        The masks.
    spacing : sequence of float
        Voxel size per axis, in array order (z, y, x).
    valid : ndarray of bool, same shape, optional
        Known voxels; surfaces exist only there.

    Returns
    -------
    (P,) and (T,) ndarray of float64
        Prediction to truth and truth to prediction, in array order; both are empty if either mask has no surface.

    Raises
    ------
    DataError
        If shapes differ or masks are not boolean.
    OptionError
        If the spacing has not one positive, finite number per axis.

    Examples
    --------
    >>> a, b = np.zeros((2, 1, 9), bool)
    >>> a[0, 2], b[0, 5] = True, True
    >>> surface_distances(a, b, spacing=(1.0, 0.5))[0].tolist()
    [1.5]
    """
    _check(prediction, truth, spacing, valid)
    box = _bounding_box(prediction | truth)
    if box is None:
        return np.empty(0), np.empty(0)
    known = None if valid is None else valid[box]
    found, true = surface_voxels(prediction[box], known), surface_voxels(truth[box], known)
    scale = np.asarray(spacing, np.float64)
    points: list[Floats] = [np.argwhere(surface).astype(np.float64) * scale for surface in (found, true)]
    if not (len(points[0]) and len(points[1])):
        return np.empty(0), np.empty(0)
    return _nearest(points[0], true[found], points[1]), _nearest(points[1], found[true], points[0])


def _nearest(points: Floats, on_it: Mask, other: Floats) -> Floats:
    """Distance of each point to the nearest of the others; 0 where ``on_it`` says so."""
    distances = np.zeros(len(points))
    if not on_it.all():
        tree = KDTree(other, balanced_tree=False, compact_nodes=False)
        distances[~on_it] = tree.query(points[~on_it])[0]
    return distances


def _bounding_box(mask: Mask) -> tuple[slice, ...] | None:
    """Smallest box around a mask plus one voxel, clipped to the array; None if the mask is empty."""
    box: tuple[slice, ...] = ()
    for axis in range(mask.ndim):
        part = mask[box]
        used = np.flatnonzero(part.any(axis=tuple(k for k in range(mask.ndim) if k != axis)))
        if not used.size:
            return None
        box += (slice(max(int(used[0]) - 1, 0), min(int(used[-1]) + 2, mask.shape[axis])),)
    return box


def _check(prediction: Mask, truth: Mask, spacing: Sequence[float], valid: Mask | None) -> None:
    """Refuse what is not two masks of one grid with a spacing."""
    check_masks(prediction, truth, valid)
    if len(spacing) != truth.ndim or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise OptionError(f"spacing {tuple(spacing)}", expected=f"{truth.ndim} positive numbers in array order")


def surface_scores(
    prediction: Mask,
    truth: Mask,
    spacing: Sequence[float],
    *,
    tolerance: float = 1.0,
    percentile: float = 95.0,
    valid: Mask | None = None,
) -> SurfaceScores:
    """Hausdorff distance, Hausdorff at a percentile, ASSD and NSD of two masks; see the module for the definitions.

    Parameters
    ----------
    prediction, truth : ndarray of bool, equal shapes, 2D or 3D (any n)
        The masks.
    spacing : sequence of float
        Voxel size per axis, in array order (z, y, x), for example in mm.
    tolerance : float
        Largest distance that NSD forgives, in the unit of the spacing.
    percentile : float
        Percentile of the directed distances, 0 to 100; 95 gives HD95.
    valid : ndarray of bool, same shape, optional
        Known voxels (not under an ignore label).

    Returns
    -------
    SurfaceScores
        NaN distances and a ``state`` if a mask is empty (or has no surface in the known region).

    Raises
    ------
    DataError
        If shapes differ or masks are not boolean.
    OptionError
        If spacing, tolerance or percentile make no sense.

    References
    ----------
    Nikolov et al., "Clinically applicable segmentation of head and neck anatomy", 2021 (NSD; here on voxel faces
    without area weights). Maier-Hein et al., "Metrics reloaded", 2024 (choice and pitfalls).

    Examples
    --------
    >>> a, b = np.zeros((2, 9, 9), bool)
    >>> a[2:5, 2:5], b[2:5, 2:6] = True, True
    >>> scores = surface_scores(a, b, spacing=(1.0, 2.0), tolerance=1.0)
    >>> scores.hausdorff, scores.nsd
    (2.0, 0.8333333333333334)
    """
    if not 0 <= percentile <= 100 or not tolerance >= 0:
        raise OptionError(f"percentile {percentile}, tolerance {tolerance}", expected="0 ... 100, and 0 or more")
    there, back = surface_distances(prediction, truth, spacing, valid)
    if there.size == 0:
        nan, state = float("nan"), _state(prediction, truth, valid)
        return SurfaceScores(nan, nan, percentile, nan, nan if state == "both_empty" else 0.0, tolerance, state)
    pooled = np.concatenate([there, back])
    return SurfaceScores(
        hausdorff=float(pooled.max()),
        hausdorff_percentile=float(max(np.percentile(there, percentile), np.percentile(back, percentile))),
        percentile=percentile,
        assd=float(pooled.mean()),
        nsd=float(np.mean(pooled <= tolerance)),
        tolerance=tolerance,
        state="defined",
    )


def _state(prediction: Mask, truth: Mask, valid: Mask | None) -> str:
    """Which of the two has no surface."""
    found, true = (bool(surface_voxels(mask, valid).any()) for mask in (prediction, truth))
    return "truth_empty" if found else "prediction_empty" if true else "both_empty"
