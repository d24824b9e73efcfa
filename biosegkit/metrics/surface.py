"""Distances between the surfaces of two masks, in one pass: Hausdorff, HD95, ASSD, surface Dice, boundary F1.

Tools call different numbers by one name, so every definition here has a name of its own: :data:`DEFINITIONS`. They
differ in what the *surface* is, and in how the two *directed* sets of distances (prediction to truth and back) are
put together. Hausdorff is always the maximum over both sets; NSD at a tolerance is always the share of both surfaces
together that is at most the tolerance away from the other.

Surfaces: ``"voxel"``, the centres of those voxels of a mask that have a face neighbour outside it (outside the array
counts as outside the mask), each of equal weight; ``"surfel"``, the corners between voxels that are not all in or all
out, weighted by area (:mod:`biosegkit.metrics.surfels`); ``"subvoxel"``, a smooth surface through the steps of the
mask, weighted by area (:mod:`biosegkit.metrics.subvoxel`). Distances are in world units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree

from biosegkit.errors import OptionError
from biosegkit.kernels.simplices import simplex_distances
from biosegkit.metrics.overlap import check_masks
from biosegkit.metrics.subvoxel import simplex_areas, smooth_surface
from biosegkit.metrics.surfels import surfel_surface

__all__ = [
    "DEFINITIONS", "SurfaceDefinition", "SurfaceScores", "surface_distances", "surface_scores", "surface_voxels",
]

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SurfaceDefinition:
    """What is measured under one name.

    Parameters
    ----------
    surface : {"voxel", "surfel", "subvoxel"}
        What the surface is; see the module.
    percentile : {"directed", "pooled"}
        Of a percentile: the larger of those of the two directions, or that of both sets pooled. Of voxels it is
        interpolated linearly; of weighted surfaces it is the smallest distance within which that share of area lies.
    average : {"pooled", "directed"}
        Of ASSD: the mean over both sets pooled, or the mean of the two directed means.
    sentence : str
        The definition in words.
    """

    surface: str
    percentile: str
    average: str
    sentence: str


#: Every definition by name. ``"voxel"`` is the default; results of different definitions must not be compared.
DEFINITIONS: dict[str, SurfaceDefinition] = {
    "voxel": SurfaceDefinition(
        "voxel", "directed", "pooled",
        "surface voxels; larger of the two directed percentiles; pooled mean (as MONAI 1.5 ff.)"),
    "medpy": SurfaceDefinition(
        "voxel", "pooled", "pooled", "surface voxels; percentile and mean of both directions pooled (as medpy 0.5)"),
    "seg-metrics": SurfaceDefinition(
        "voxel", "pooled", "directed",
        "surface voxels; percentile of both directions pooled; mean of the two directed means (as seg-metrics' msd)"),
    "deepmind": SurfaceDefinition(
        "surfel", "directed", "directed",
        "surface elements between voxels weighted by area; larger of the two directed percentiles; mean of the two "
        "directed means (as DeepMind's surface-distance 0.1)"),
    "subvoxel": SurfaceDefinition(
        "subvoxel", "directed", "pooled",
        "smooth surface through the steps of the mask, weighted by area; from the middle of each of its triangles to "
        "the nearest point of the other; larger of the two directed percentiles; pooled mean"),
}


@dataclass(frozen=True)
class _Sets:
    """Both directed sets of distances with their weights (None: all equal), and whether each surface exists."""

    there: Floats
    back: Floats
    weights: tuple[Floats, Floats] | None
    exist: tuple[bool, bool]


@dataclass(frozen=True)
class SurfaceScores:
    """Surface distances of one pair of masks; all in the unit of the spacing, NSD and F1 without unit.

    ``state`` is ``"defined"``, ``"both_empty"``, ``"truth_empty"`` or ``"prediction_empty"``. Distances are NaN unless
    it is ``"defined"``: a distance to nothing is no number, and one made up (infinity, the image diagonal) would
    decide every mean it enters. Whoever averages counts the states beside the mean. NSD and boundary F1 are NaN if
    both are empty and 0 if one is, as Dice.

    ``boundary_precision`` is the share of the prediction's surface within the tolerance of the truth's,
    ``boundary_recall`` the share of the truth's within that of the prediction's, ``boundary_f1`` their harmonic mean
    (Csurka et al. 2013, who ask for less than the tolerance where this asks for at most it; theirs is 0.75 % of the
    image's diagonal). Precision is NaN where nothing is predicted, recall where there is nothing to find.
    """

    hausdorff: float
    hausdorff_percentile: float
    percentile: float
    assd: float
    nsd: float
    tolerance: float
    state: str
    boundary_precision: float
    boundary_recall: float
    boundary_f1: float
    definition: str


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
    sets = _voxel_sets(prediction, truth, spacing, valid)
    return sets.there, sets.back


def _voxel_sets(prediction: Mask, truth: Mask, spacing: Sequence[float], valid: Mask | None) -> _Sets:
    """Distances between the centres of surface voxels."""
    box = _bounding_box(prediction | truth)
    if box is None:
        return _Sets(np.empty(0), np.empty(0), None, (False, False))
    known = None if valid is None else valid[box]
    found, true = surface_voxels(prediction[box], known), surface_voxels(truth[box], known)
    scale = np.asarray(spacing, np.float64)
    points: list[Floats] = [np.argwhere(surface).astype(np.float64) * scale for surface in (found, true)]
    exist = (len(points[0]) > 0, len(points[1]) > 0)
    if not all(exist):
        return _Sets(np.empty(0), np.empty(0), None, exist)
    there, back = _nearest(points[0], true[found], points[1]), _nearest(points[1], found[true], points[0])
    return _Sets(there, back, None, exist)


def _surfel_sets(prediction: Mask, truth: Mask, spacing: Sequence[float], valid: Mask | None) -> _Sets:
    """Distances between surface elements, with their areas."""
    box = _bounding_box(prediction | truth)
    if box is None:
        return _Sets(np.empty(0), np.empty(0), None, (False, False))
    known = None if valid is None else valid[box]
    found, true = (surfel_surface(mask[box], spacing, known) for mask in (prediction, truth))
    exist = (found.points.size > 0, true.points.size > 0)
    if not all(exist):
        return _Sets(np.empty(0), np.empty(0), None, exist)
    there = _nearest(found.points, true.marked[found.marked], true.points)
    back = _nearest(true.points, found.marked[true.marked], found.points)
    return _Sets(there, back, (found.areas, true.areas), exist)


def _smooth_sets(prediction: Mask, truth: Mask, spacing: Sequence[float], valid: Mask | None) -> _Sets:
    """Distances from the middle of each triangle of one smooth surface to the other, with their areas."""
    axes = [k for k in range(truth.ndim) if truth.shape[k] > 1] or [0]
    shape, steps = tuple(truth.shape[k] for k in axes), [spacing[k] for k in axes]
    known = None if valid is None else valid.reshape(shape)
    found, true = (smooth_surface(mask.reshape(shape), steps, known) for mask in (prediction, truth))
    exist = (len(found) > 0, len(true) > 0)
    if not all(exist):
        return _Sets(np.empty(0), np.empty(0), None, exist)
    there, back = simplex_distances(found.mean(1), true), simplex_distances(true.mean(1), found)
    return _Sets(there, back, (simplex_areas(found), simplex_areas(true)), exist)


_SURFACES = {"voxel": _voxel_sets, "surfel": _surfel_sets, "subvoxel": _smooth_sets}


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
    definition: str = "voxel",
) -> SurfaceScores:
    """Hausdorff distance, Hausdorff at a percentile, ASSD, NSD and boundary F1 of two masks.

    Parameters
    ----------
    prediction, truth : ndarray of bool, equal shapes, 2D or 3D (any n for voxel surfaces)
        The masks.
    spacing : sequence of float
        Voxel size per axis, in array order (z, y, x), for example in mm.
    tolerance : float
        Largest distance that NSD and boundary F1 forgive, in the unit of the spacing.
    percentile : float
        Percentile of the directed distances, 0 to 100; 95 gives HD95.
    valid : ndarray of bool, same shape, optional
        Known voxels (not under an ignore label).
    definition : str
        A name of :data:`DEFINITIONS`.

    Returns
    -------
    SurfaceScores
        NaN distances and a ``state`` if a mask is empty (or has no surface in the known region).

    Raises
    ------
    DataError
        If shapes differ, masks are not boolean, or the definition does not know masks of so many axes.
    OptionError
        If spacing, tolerance, percentile or definition make no sense.

    References
    ----------
    Nikolov et al., "Clinically applicable segmentation of head and neck anatomy", 2021 (NSD; with area weights in
    the definition "deepmind", counted in voxels in the others on voxels). Csurka et al., "What is a good evaluation
    measure for semantic segmentation?", BMVC 2013 (boundary F1). Maier-Hein et al., "Metrics reloaded", 2024
    (choice and pitfalls).

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
    if definition not in DEFINITIONS:
        raise OptionError(f"surface definition {definition!r}", expected=f"one of {', '.join(DEFINITIONS)}")
    _check(prediction, truth, spacing, valid)
    rule = DEFINITIONS[definition]
    sets = _SURFACES[rule.surface](prediction, truth, spacing, valid)
    if not all(sets.exist):
        return _undefined(sets.exist, tolerance, percentile, definition)
    within = _share(sets, tolerance)
    return SurfaceScores(
        hausdorff=float(max(sets.there.max(), sets.back.max())),
        hausdorff_percentile=_percentile(sets, percentile, rule.percentile),
        percentile=percentile,
        assd=_average(sets, rule.average),
        nsd=within[2],
        tolerance=tolerance,
        state="defined",
        boundary_precision=within[0],
        boundary_recall=within[1],
        boundary_f1=2 * within[0] * within[1] / (within[0] + within[1]) if within[0] + within[1] else 0.0,
        definition=definition,
    )


def _undefined(exist: tuple[bool, bool], tolerance: float, percentile: float, definition: str) -> SurfaceScores:
    """Scores where a surface is missing."""
    found, true = exist
    nan, none = float("nan"), 0.0 if found or true else float("nan")
    return SurfaceScores(
        hausdorff=nan, hausdorff_percentile=nan, percentile=percentile, assd=nan, nsd=none, tolerance=tolerance,
        state="truth_empty" if found else "prediction_empty" if true else "both_empty",
        boundary_precision=0.0 if found else nan, boundary_recall=0.0 if true else nan, boundary_f1=none,
        definition=definition,
    )


def _percentile(sets: _Sets, percentile: float, how: str) -> float:
    """Percentile of the distances, of both sets together or the larger of the two."""
    weights = sets.weights or (None, None)
    if how == "directed":
        return max(_quantile(d, percentile, w) for d, w in zip((sets.there, sets.back), weights, strict=True))
    pooled = np.concatenate([sets.there, sets.back])
    return _quantile(pooled, percentile, None if sets.weights is None else np.concatenate(sets.weights))


def _quantile(distances: Floats, percentile: float, weights: Floats | None) -> float:
    """Percentile: interpolated, or of weighted distances the first that reaches the share."""
    if weights is None:
        return float(np.percentile(distances, percentile))
    order = np.argsort(distances)
    reached = np.cumsum(weights[order]) / weights.sum()
    at = min(int(np.searchsorted(reached, percentile / 100)), len(distances) - 1)
    return float(distances[order[at]])


def _average(sets: _Sets, how: str) -> float:
    """Mean of the distances, over both sets together or of the two means."""
    if how == "directed":
        weights = sets.weights or (None, None)
        means = [np.average(d, weights=w) for d, w in zip((sets.there, sets.back), weights, strict=True)]
        return float(np.mean(means))
    pooled = np.concatenate([sets.there, sets.back])
    return float(np.average(pooled, weights=None if sets.weights is None else np.concatenate(sets.weights)))


def _share(sets: _Sets, tolerance: float) -> tuple[float, float, float]:
    """Share of the prediction's surface, of the truth's and of both together that is within the tolerance."""
    weights = sets.weights or (np.ones_like(sets.there), np.ones_like(sets.back))
    whole = [float(w.sum()) for w in weights]
    part = [float(w[d <= tolerance].sum()) for d, w in zip((sets.there, sets.back), weights, strict=True)]
    return part[0] / whole[0], part[1] / whole[1], sum(part) / sum(whole)
