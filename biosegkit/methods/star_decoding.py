"""From candidates with distances along rays to objects: suppression over all blocks, painting block by block.

`star_labels` is the same for maps of official StarDist models, whole images at once::

    labels, table = star_labels(probability, distances, rays, grid=(2, 2), threshold=0.5, overlap=0.4)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.errors import DataError
from biosegkit.kernels.rays import Rays
from biosegkit.kernels.star_nms import Rule, suppress
from biosegkit.kernels.star_painting import paint_shapes
from biosegkit.methods.protocol import Block, ObjectTable
from biosegkit.methods.tables import Tally

__all__ = ["Shapes", "in_order", "shapes_of", "shapes_within", "star_labels"]


@dataclass(frozen=True, eq=False)
class Shapes:
    """Star-shaped pieces in the order of painting (the best last), each of an object.

    Parameters
    ----------
    centres : ndarray of int64, (K, ndim)
        In voxels of the full image.
    distances : ndarray of float32, (K, n_rays)
        In units of the spacing.
    objects : ndarray of int64, (K,)
        Number of the object, 1 to N; 1 is the best.
    scores : ndarray of float64, (N,)
        Probability of the best piece of each object.
    """

    centres: npt.NDArray[np.int64]
    distances: npt.NDArray[np.float32]
    objects: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]


def in_order(candidates: tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]], full_shape: Sequence[int]
             ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Positions, probabilities and distances of candidates, the best first; arguments as for `shapes_of`."""
    places = np.asarray(candidates[0], np.int64).reshape(-1, len(full_shape))
    probability, lengths = np.asarray(candidates[1], np.float64), np.asarray(candidates[2], np.float32)
    linear = np.zeros(0, np.int64)
    if len(places):
        linear = np.asarray(np.ravel_multi_index(tuple(places.T), tuple(full_shape)), np.int64)
    order = _ranked(probability, lengths, linear)
    return places[order], probability[order], lengths[order]


def shapes_of(candidates: tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]], rays: Rays,
              spacing: Sequence[float], full_shape: Sequence[int], *, overlap: float, rule: Rule = "stardist",
              merge: bool = False) -> Shapes:
    """The candidates that survive, in a total order: by probability, by mean distance, by place in raster order.

    Parameters
    ----------
    candidates : tuple of ndarray, (M, ndim), (M,), (M, n_rays)
        Positions in voxels, probabilities, and distances in units of the spacing; in any order.
    rays, spacing, full_shape
        Of the image.
    overlap, rule, merge
        See `biosegkit.kernels.star_nms.suppress`.
    """
    places, probability, lengths = in_order(candidates, full_shape)
    leader = suppress(places, lengths, rays, spacing, threshold=overlap, rule=rule, merge=merge)
    kept = np.flatnonzero(leader >= 0)
    leaders, number = np.unique(leader[kept], return_inverse=True)
    scores = probability[leaders]
    back = slice(None, None, -1)
    return Shapes(places[kept][back], lengths[kept][back], (number + 1)[back].astype(np.int64), scores)


def _ranked(probability: npt.NDArray[np.float64], lengths: npt.NDArray[np.float32],
            linear: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The order of candidates: by probability, those that are equal by mean length, then by place."""
    order: npt.NDArray[np.int64] = np.argsort(-probability, kind="stable")
    equal = probability[order[1:]] == probability[order[:-1]]
    if equal.any():
        tied = np.concatenate([equal, [False]]) | np.concatenate([[False], equal])
        rows = order[tied]
        # rounded, so that the order of summation does not matter
        size = np.round(lengths[rows].astype(np.float64).mean(axis=1), 4)
        order[tied] = rows[np.lexsort((linear[rows], -size, -probability[rows]))]
    return order


def owners(block: Block, centres: npt.NDArray[Any], distances: npt.NDArray[Any], rays: Rays, reach: float
           ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """The shape that holds each voxel of a core, from 1 in the order given (the last wins); 0 for none.

    Parameters
    ----------
    block : Block
    centres, distances : ndarray, (K, ndim), (K, n_rays)
        Of the shapes, the worst first.
    rays : Rays
    reach : float
        At least 1.

    Returns
    -------
    near, far : ndarray of uint32, (*core)
        By the shapes as they are, and by shapes ``reach`` times as large; the same array where that is 1.
    """
    ids = np.arange(1, len(centres) + 1, dtype=np.uint32)
    near = paint_shapes(block.shape, centres, distances, rays, block.spacing, ids=ids, start=block.start)
    if reach <= 1:
        return near, near
    wide = (distances * np.float32(reach)).astype(np.float32)
    return near, paint_shapes(block.shape, centres, wide, rays, block.spacing, ids=ids, start=block.start)


def shapes_within(shapes: Shapes, block: Block, reach: float = 1.0) -> npt.NDArray[np.bool_]:
    """Which shapes, ``reach`` times as large, may get into the core of a block."""
    inside = np.ones(len(shapes.centres), bool)
    far = reach * shapes.distances.max(axis=1, initial=0.0)
    for axis, (start, size, step) in enumerate(zip(block.start, block.shape, block.spacing, strict=True)):
        around = np.ceil(far / step) + 1
        at = shapes.centres[:, axis]
        inside &= (at + around >= start) & (at - around < start + size)
    return inside


def star_labels(probability: npt.NDArray[Any], distances: npt.NDArray[Any], rays: Rays, *,
                grid: Sequence[int] | None = None, threshold: float = 0.5, overlap: float = 0.4, rim: int = 2,
                shape: Sequence[int] | None = None) -> tuple[npt.NDArray[np.uint32], ObjectTable]:
    """Objects of the maps of a StarDist model, by its rules: every voxel above the threshold is a candidate.

    Parameters
    ----------
    probability : ndarray, (*cells)
        One value per cell of the grid.
    distances : ndarray, (n_rays, *cells)
        In voxels of the image.
    rays : Rays
        Of the model.
    grid : sequence of int, optional
        Voxels per cell; 1 by default.
    threshold, overlap : float
        Least probability, and the overlap (over the smaller area) above which the worse of two shapes is dropped.
    rim : int
        Cells at the border of the image that are no candidates.
    shape : sequence of int, optional
        Of the image; the cells times the grid by default.

    Returns
    -------
    labels : ndarray of uint32, shape
    table : dict of ndarray
        As methods make it.

    Raises
    ------
    DataError
        For maps that do not fit together.

    References
    ----------
    Schmidt et al. 2018 (arXiv:1806.03535), Weigert et al. 2020 (arXiv:1908.03636).

    Examples
    --------
    >>> from biosegkit.kernels.rays import circle
    >>> probability = np.zeros((9, 9))
    >>> probability[4, 4] = 0.9
    >>> labels, table = star_labels(probability, np.full((32, 9, 9), 2.1), circle(32))
    >>> int(table["area"][0]), round(float(table["score"][0]), 3)
    (13, 0.9)
    """
    ndim = probability.ndim
    every = tuple(int(g) for g in (grid or (1,) * ndim))
    if rays.ndim != ndim or distances.shape != (len(rays), *probability.shape) or len(every) != ndim:
        raise DataError(f"probability {probability.shape}, distances {distances.shape}, grid {every}",
                        expected=f"{len(rays)} distances per cell, rays and grid of as many axes")
    full = tuple(n * g for n, g in zip(probability.shape, every, strict=True)) if shape is None else tuple(shape)
    inner = np.zeros(probability.shape, bool)
    inner[tuple(slice(rim, max(rim, n - rim)) for n in probability.shape)] = True
    cells = np.argwhere((probability > threshold) & inner)
    where = tuple(cells.T)
    found = (cells * np.array(every), probability[where], np.stack([ray[where] for ray in distances], 1))
    shapes = shapes_of(found, rays, (1.0,) * ndim, full, overlap=overlap)
    painted = paint_shapes(full, shapes.centres, shapes.distances, rays, ids=shapes.objects)
    tally = Tally(len(shapes.scores), ndim)
    tally.add(painted, None, Block.whole(full))
    alive = np.flatnonzero(tally.area > 0)
    alive = alive[np.argsort(tally.first[alive])]
    ids = np.zeros(len(shapes.scores) + 1, np.uint32)
    ids[alive + 1] = np.arange(1, len(alive) + 1)
    table = tally.table(alive + 1, np.arange(1, len(alive) + 1), 1.0)
    table["score"] = shapes.scores[alive].astype(np.float32)
    return ids[painted], table
