"""Sizes and shapes of labelled objects: what a method must hold, and how they lie together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .convexity import solidity, star_convexity
from .image import Labels

__all__ = ["ObjectSample", "anisotropy_of", "box_of", "joined", "sample_objects", "spread_of"]

Floats = npt.NDArray[np.float64]

#: Voxels of an object's box above which its shape is measured on every second, third … voxel.
_BOX = 1 << 18
#: The same for hull and lines of sight, which do not become more exact with more voxels.
_HULL_BOX = 1 << 15


@dataclass(frozen=True, eq=False)
class ObjectSample:
    """Measurements of some objects of one case (or of many, joined).

    Parameters
    ----------
    count : int
        All objects.
    touching, border : int
        Of those, how many share a voxel face with another, and how many lie at the image's border.
    faces, contacts : int
        Faces between a voxel of an object and one that is not of it, and those of them that lie on another object.
    voxels : int
        Of the images.
    diameter, diameter_px : ndarray, (n,)
        Of the disc or ball of equal size, in units and in voxels.
    extent : ndarray, (n, ndim)
        Sides of the bounding box in voxels.
    radius : ndarray, (m,)
        Largest inscribed radius in units, of a smaller sample, as the next two.
    elongation : ndarray, (m,)
        Length of the first over the second principal axis, at least 1.
    fill : ndarray, (m,)
        Share of the ellipse or ellipsoid with the same moments that the object would fill: about 1 for convex
        rounded shapes, well below for branched, bent or hollow ones.
    solidity, star : ndarray, (m,)
        Share of its convex hull that an object fills, and share of its voxels seen from its best centre.
    """

    count: int
    touching: int
    border: int
    faces: int
    contacts: int
    voxels: int
    diameter: Floats
    diameter_px: Floats
    extent: Floats
    radius: Floats
    elongation: Floats
    fill: Floats
    solidity: Floats
    star: Floats


def sample_objects(labels: Labels, voxels: npt.NDArray[np.int64], rng: np.random.Generator, *, sizes: int,
                   shapes: int) -> ObjectSample:
    """Measure objects of one case: ``sizes`` of them by size and box, ``shapes`` of those by shape too.

    Parameters
    ----------
    labels : Labels
        Canonical numbers are objects.
    voxels : ndarray of int64
        Voxels of every canonical number.
    rng : Generator
        Draws the sample.

    Examples
    --------
    >>> from biosegkit.grid import Grid
    >>> array = np.zeros((9, 9), int)
    >>> array[1:4, 1:7], array[4:8, 2:4] = 1, 2
    >>> found = sample_objects(Labels.from_values(array, Grid.regular((9, 9)), "instance"), np.array([0, 18, 8]),
    ...                        np.random.default_rng(0), sizes=10, shapes=10)
    >>> found.count, found.touching, found.extent.tolist(), found.radius.tolist()
    (2, 2, [[3.0, 6.0], [4.0, 2.0]], [2.0, 1.0])
    """
    present = np.flatnonzero(voxels[1:]) + 1
    spacing = np.array(labels.grid.spacing)
    boxes = ndimage.find_objects(labels.array, max_label=len(voxels) - 1)
    chosen = _drawn(present, sizes, rng)
    count_px = voxels[chosen].astype(np.float64)
    extent = np.array([[s.stop - s.start for s in boxes[i - 1]] for i in chosen], dtype=np.float64)
    detailed = _drawn(chosen, shapes, rng)
    shape = np.array([_shape(labels.array, boxes[i - 1], int(i), spacing) for i in detailed]).reshape(-1, 5)
    touching, faces, contacts = _neighbours(labels.array)
    return ObjectSample(
        present.size, touching, _at_border(labels.array), faces, contacts, int(voxels.sum()),
        _diameter(count_px * spacing.prod(), spacing.size), _diameter(count_px, spacing.size),
        extent.reshape(-1, spacing.size), *shape.T,
    )


def box_of(mask: npt.NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box that holds all that is true; the whole array if nothing is.

    Examples
    --------
    >>> box_of(np.array([[False, True, True], [False, False, True]]))
    (slice(0, 2, None), slice(1, 3, None))
    """
    sides = []
    for axis in range(mask.ndim):
        line = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        sides.append(slice(int(line[0]), int(line[-1]) + 1) if line.size else slice(0, mask.shape[axis]))
    return tuple(sides)


def joined(samples: Sequence[ObjectSample]) -> ObjectSample:
    """Samples of many cases as one."""
    total = [sum(getattr(s, name) for s in samples)
             for name in ("count", "touching", "border", "faces", "contacts", "voxels")]
    arrays = [np.concatenate([getattr(s, name) for s in samples])
              for name in ("diameter", "diameter_px", "extent", "radius", "elongation", "fill", "solidity", "star")]
    return ObjectSample(*total, *arrays)


def anisotropy_of(extent: Floats) -> float | None:
    """How much coarser z is than y and x, if objects are round on average: median of (y + x) / 2z of their boxes.

    None in 2D and for less than 20 objects (BiaPy's rule for images without voxel size).

    Examples
    --------
    >>> anisotropy_of(np.array([[4.0, 12.0, 12.0]] * 20))
    3.0
    """
    if extent.shape[0] < 20 or extent.shape[1] != 3:
        return None
    return float(np.median(extent[:, 1:].mean(axis=1) / extent[:, 0]))


def _drawn(ids: npt.NDArray[np.int64], most: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    return ids if ids.size <= most else np.sort(rng.choice(ids, most, replace=False))


def _diameter(size: Floats, ndim: int) -> Floats:
    """Diameter of the disc or ball of an area or volume."""
    return np.asarray(2 * np.sqrt(size / np.pi) if ndim == 2 else np.cbrt(6 * size / np.pi), dtype=np.float64)


def _neighbours(array: npt.NDArray[Any]) -> tuple[int, int, int]:
    """Objects with a voxel face on another object; faces of objects; faces between two objects, once per object."""
    hits, faces, contacts = [], 0, 0
    for axis in range(array.ndim):
        rows = np.moveaxis(array, axis, 0)
        here, there = rows[:-1], rows[1:]
        differ = here != there
        meet = differ & (here > 0) & (there > 0)
        hits += [np.unique(here[meet]), np.unique(there[meet])]
        both = int(np.count_nonzero(meet))
        faces, contacts = faces + int(np.count_nonzero(differ)) + both, contacts + 2 * both
    touching = int(np.unique(np.concatenate(hits)).size) if hits else 0
    return touching, faces, contacts


def _at_border(array: npt.NDArray[Any]) -> int:
    """Number of objects with a voxel in an outermost plane of an axis that has more than one."""
    planes = [np.unique(np.take(array, end, axis)) for axis in range(array.ndim) if array.shape[axis] > 1
              for end in (0, -1)]
    found = np.unique(np.concatenate(planes)) if planes else np.zeros(0)
    return int(np.count_nonzero(found))


def _shape(array: npt.NDArray[Any], box: tuple[slice, ...], number: int, spacing: Floats
           ) -> tuple[float, float, float, float, float]:
    """Inscribed radius, elongation, fill, solidity and star-convexity of one object."""
    inside = array[box] == number
    step = int(np.ceil((inside.size / _BOX) ** (1 / inside.ndim)))
    inside, spacing = inside[(slice(None, None, step),) * inside.ndim], spacing * step
    if not inside.any():
        return float(spacing.min()), 1.0, 1.0, 1.0, 1.0
    flat = [a for a in range(inside.ndim) if inside.shape[a] > 1] or [inside.ndim - 1]
    # A plane of a stack that is one voxel thick has no inside along that axis.
    plane = inside.reshape([inside.shape[a] for a in flat])
    depth = ndimage.distance_transform_edt(np.pad(plane, 1), sampling=list(spacing[flat]))
    points = np.argwhere(plane) * spacing[flat]
    # Each voxel is a box, not a point: its own variance keeps one-voxel objects from having no extent.
    spread = np.atleast_2d(np.cov(points.T, bias=True)) + np.diag(spacing[flat] ** 2 / 12)
    axes = np.sqrt(np.sort(np.linalg.eigvalsh(spread))[::-1])
    elongation = float(axes[0] / axes[1]) if len(axes) > 1 else 1.0
    # Half axes of the solid ellipse with these moments are 2 σ (2D) and √5 σ (3D).
    factor = {1: np.sqrt(12), 2: 4 * np.pi, 3: 4 / 3 * np.pi * 5**1.5}[len(axes)]
    ellipse = factor * axes.prod()
    fill = float(len(points) * spacing[flat].prod() / ellipse)
    return float(depth.max()), elongation, fill, *_convexity(plane, depth[(slice(1, -1),) * plane.ndim])


def _convexity(plane: npt.NDArray[np.bool_], depth: npt.NDArray[Any]) -> tuple[float, float]:
    """Solidity and star-convexity of an object within its box; a line is convex."""
    every = (slice(None, None, int(np.ceil((plane.size / _HULL_BOX) ** (1 / plane.ndim)))),) * plane.ndim
    if plane.ndim < 2 or not plane[every].any():
        return 1.0, 1.0
    return solidity(plane[every]), star_convexity(plane[every], depth[every])


def spread_of(values: Iterable[float]) -> dict[str, float]:
    """Mean, extremes and percentiles of some values; zeros for none."""
    array = np.fromiter(values, dtype=np.float64)
    if not array.size:
        array = np.zeros(1)
    low, median, high, top = np.percentile(array, (5, 50, 95, 99))
    return {"mean": float(array.mean()), "minimum": float(array.min()), "p05": float(low), "median": float(median),
            "p95": float(high), "p99": float(top), "maximum": float(array.max())}
