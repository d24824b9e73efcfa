"""Distance from every voxel of an object along rays to the border of the object, for all objects in one pass.

Convention: objects are unions of voxel cells, and a distance runs from the centre of the voxel to the face through
which the ray leaves its object, in units of the spacing. That is exact for the cells, hence without bias: integrated
over all directions it gives back the object's volume. (``stardist.geometry`` steps voxel by voxel instead; in 3D its
distances come out half a voxel too long, and it keeps 16 bits of an id.)

A ray that meets the edge of the array, or a voxel that is not valid, before the border of its object has an unknown
length. Its distance so far is given with a **negative sign**: a lower bound. With ``border=True`` the edge of the array
ends objects, as it does for ``stardist``.

How it is computed: `biosegkit.kernels.ray_bytes` for objects that are not large, `biosegkit.kernels.ray_walk` for
large ones; both walk all voxels of an object together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from biosegkit.errors import DataError
from biosegkit.kernels.components import connected_components, sequential
from biosegkit.kernels.ray_bytes import PASS, small, walk_bytes
from biosegkit.kernels.ray_walk import LONGEST, by_code, traverse, walk
from biosegkit.kernels.rays import Rays
from biosegkit.kernels.threads import spread

__all__ = ["ray_distances", "sparse_ray_distances"]

#: Boxes of objects may cover the image this often before scattered objects are taken apart.
_COVER = 4
#: Height of the bands that objects are taken from one after the other.
_BAND = 32


def ray_distances(
    labels: npt.NDArray[Any],
    rays: Rays,
    spacing: Sequence[float] | None = None,
    *,
    border: bool = False,
    valid: npt.NDArray[np.bool_] | None = None,
    grid: Sequence[int] | None = None,
    workers: int = 1,
) -> npt.NDArray[np.float32]:
    """Distances of all voxels of an image.

    Parameters
    ----------
    labels : ndarray of int, (Z, Y, X) or (Y, X)
        Any non-negative ids, with gaps; 0 is background.
    rays : Rays
        Directions, in physical space.
    spacing : sequence of float, optional
        Voxel size per axis; 1 by default.
    border : bool
        Whether the edge of the array ends objects.
    valid : ndarray of bool, optional
        False where nothing is known.
    grid : sequence of int, optional
        Only every n-th voxel of each axis; 1 by default.
    workers : int
        Threads; the result does not depend on them.

    Returns
    -------
    ndarray of float32, (n_rays, *every n-th voxel of the space)
        0 in the background; negative where the length is only known to be at least the absolute value.

    Raises
    ------
    DataError
        For other than two or three axes, negative ids, rays, spacing or grid that do not fit, or an object of more
        voxels from end to end than 65 531.

    References
    ----------
    Amanatides and Woo, "A fast voxel traversal algorithm for ray tracing", 1987, for the sequence of cells.

    Examples
    --------
    >>> from biosegkit.kernels.rays import circle
    >>> labels = np.array([[0, 0, 0, 0], [0, 7, 7, 9]])
    >>> ray_distances(labels, circle(4))[:, 1].tolist()  # to the right, down, to the left, up
    [[0.0, 1.5, 0.5, -0.5], [0.0, -0.5, -0.5, -0.5], [0.0, 0.5, 1.5, 0.5], [0.0, 0.5, 0.5, 0.5]]
    """
    job = _job(labels, rays, spacing, border, valid, grid)
    out = np.zeros((len(rays), *job.shape), np.float32)
    job.run(out.reshape(-1), None, (1, int(np.prod(job.shape))), workers)
    lead = 3 - labels.ndim
    return out.reshape(len(rays), *job.shape[lead:])


def sparse_ray_distances(
    labels: npt.NDArray[Any],
    rays: Rays,
    spacing: Sequence[float] | None = None,
    *,
    border: bool = False,
    valid: npt.NDArray[np.bool_] | None = None,
    grid: Sequence[int] | None = None,
    workers: int = 1,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Distances of the voxels of objects only: memory follows the foreground.

    Parameters
    ----------
    labels, rays, spacing, border, valid, grid, workers
        As in `ray_distances`.

    Returns
    -------
    where : ndarray of int64, (K,)
        Positions in the flattened array of every n-th voxel; object by object, in raster order within each.
    distances : ndarray of float32, (K, n_rays)

    Examples
    --------
    >>> from biosegkit.kernels.rays import circle
    >>> where, distances = sparse_ray_distances(np.array([[0, 7, 7, 0]]), circle(4), border=True)
    >>> where.tolist(), distances.tolist()
    ([1, 2], [[1.5, 0.5, 0.5, 0.5], [0.5, 0.5, 1.5, 0.5]])
    """
    job = _job(labels, rays, spacing, border, valid, grid)
    where = np.empty(int(job.first[-1]), np.int64)
    out = np.empty((len(where), len(rays)), np.float32)
    job.run(out.reshape(-1), where, (len(rays), 1), workers)
    return where, out


@dataclass(frozen=True, eq=False)
class _Job:
    """What both layouts need: ids as one kind of array, boxes, the cells that rays cross."""

    ids: npt.NDArray[np.uint32]
    known: npt.NDArray[np.bool_]
    objects: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.int32]
    first: npt.NDArray[np.int64]
    table: tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]
    grid: tuple[int, ...]
    shape: tuple[int, ...]
    border: bool

    def run(self, out: npt.NDArray[np.float32], where: npt.NDArray[np.int64] | None, strides: tuple[int, int],
            workers: int) -> None:
        """Fill ``out``; a given ``where`` makes it the sparse layout."""
        sparse = where is not None
        places = where if where is not None else np.empty(0, np.int64)
        flags = (self.border, sparse)
        # neighbours one after the other, for they share lines of memory
        order = np.lexsort((self.boxes[:, 2], self.boxes[:, 1] // _BAND, self.boxes[:, 0] // _BAND))
        layout = (self.grid, self.shape, flags, strides, places)
        cells, lengths = self.table
        few = small(self.boxes)[order]
        for chosen, kernel in ((order[few], walk_bytes), (order[~few], walk)):
            if len(chosen):
                table = self.table if kernel is walk_bytes else (cells[:, :-PASS].copy(), by_code(lengths))
                image = (self.ids, self.known, self.objects[chosen], self.boxes[chosen], self.first[chosen])
                spread(partial(kernel, image, table, layout, out), len(chosen), workers)


def _job(labels: npt.NDArray[Any], rays: Rays, spacing: Sequence[float] | None, border: bool,
         valid: npt.NDArray[np.bool_] | None, grid: Sequence[int] | None) -> _Job:
    """Check the input and find the objects."""
    ndim = labels.ndim
    every = tuple(int(g) for g in (grid or (1,) * ndim))
    if ndim != rays.ndim or len(every) != ndim or min(every) < 1:
        raise DataError(f"labels of {ndim} axes, rays of {rays.ndim}, grid {every}",
                        expected="two or three axes, and as many everywhere")
    steps = rays.steps((1.0,) * ndim if spacing is None else spacing)
    lead = (1,) * (3 - ndim)
    known = np.ones((0, 0, 0), np.bool_) if valid is None else np.ascontiguousarray(valid).reshape(lead + labels.shape)
    ids = _ids(labels, valid).reshape(lead + labels.shape)
    objects, boxes, first = _found(ids, (*lead, *every))
    if _volume(boxes) > _COVER * max(1, ids.size):
        # Rays never leave a piece without leaving the object, so pieces may be walked one by one.
        pieces, _ = connected_components(ids[0] if ndim == 2 else ids)
        ids = np.ascontiguousarray(pieces, np.uint32).reshape(ids.shape)
        objects, boxes, first = _found(ids, (*lead, *every))
    widest = (boxes[:, 3:] - boxes[:, :3]).max(axis=0, initial=1).astype(np.int64)
    shape = tuple(-(-n // g) for n, g in zip(ids.shape, (*lead, *every), strict=True))
    return _Job(ids, known, objects, boxes, first, _cells(steps, widest), (*lead, *every), shape, border)


def _ids(labels: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.uint32]:
    """Contiguous ids of 4 bytes no larger than there are voxels; 0 where not valid."""
    if labels.dtype.kind not in "biu":
        raise DataError(f"labels of type {labels.dtype}", expected="integers")
    if valid is not None:
        labels = np.where(valid, labels, 0)
    if labels.dtype.kind == "i" and labels.size and int(labels.min()) < 0:
        raise DataError("negative label values", expected="ids of at least 0", remedy="give ignored voxels as `valid`")
    if labels.size and int(labels.max()) > labels.size:
        labels = sequential(labels)[0]
    return np.ascontiguousarray(labels, np.uint32)


def _found(ids: npt.NDArray[np.uint32], grid: tuple[int, ...]) -> tuple[
        npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Ids of the objects, their boxes (start, stop), and at which row of the sparse layout each begins."""
    top = int(ids.max(initial=0)) + 1
    boxes = np.empty((top, 6), np.int32)
    boxes[:, :3], boxes[:, 3:] = np.iinfo(np.int32).max, 0
    counts = np.zeros(top, np.int64)
    _boxes(ids, grid, boxes, counts)
    objects = np.flatnonzero(boxes[:, 3] > 0)
    first = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts[objects])])
    return objects, np.ascontiguousarray(boxes[objects]), first


def _volume(boxes: npt.NDArray[np.int32]) -> int:
    """Voxels in all boxes."""
    return int((boxes[:, 3:] - boxes[:, :3]).astype(np.int64).prod(axis=1).sum())


def _cells(steps: npt.NDArray[np.float64], widest: npt.NDArray[np.int64]) -> tuple[
        npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Cells every ray enters one after the other, relative to where it starts, and the lengths until then."""
    longest = int(widest.sum()) + 4
    if longest > LONGEST:
        raise DataError(f"an object of {' x '.join(str(n) for n in widest)} voxels (z, y, x)",
                        expected=f"at most {LONGEST - 4} together", remedy="cut the image or make it coarser")
    cells = np.zeros((len(steps), longest + PASS, 3), np.int32)
    lengths = np.zeros((len(steps), longest), np.float32)
    traverse(steps, widest, cells, lengths)
    return cells, lengths


@numba.njit(cache=True, nogil=True)
def _boxes(ids, grid, boxes, counts):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Bounding boxes, run by run, and how many voxels of the grid each object has."""
    nz, ny, nx = ids.shape
    for z in range(nz):
        for y in range(ny):
            on = z % grid[0] == 0 and y % grid[1] == 0
            x = 0
            while x < nx:
                k = ids[z, y, x]
                begin = x
                x += 1
                while x < nx and ids[z, y, x] == k:
                    x += 1
                if k == 0:
                    continue
                box = boxes[k]
                box[0], box[3] = min(box[0], z), max(box[3], z + 1)
                box[1], box[4] = min(box[1], y), max(box[4], y + 1)
                box[2], box[5] = min(box[2], begin), max(box[5], x)
                if on:
                    counts[k] += (x - 1) // grid[2] - (begin - 1) // grid[2]
