"""Connected pieces of equal label with their bounding boxes: what kernels that work object by object start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from biosegkit.errors import DataError

__all__ = ["Pieces", "pieces", "planes"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pieces:
    """Pieces ``0..K-1`` in raster order of their first voxel.

    ``number`` (int32, (Z, Y, X)) is the piece of every voxel, or -1 in the background and -2 where nothing is known;
    ``boxes`` has rows (z0, z1, y0, y1, x0, x1), ends excluded.
    """

    number: npt.NDArray[np.int32]
    boxes: Ints


def planes(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """As z y x: a plane or a line becomes a volume of one plane.

    Examples
    --------
    >>> planes(np.zeros((4, 5))).shape
    (1, 4, 5)
    """
    return np.ascontiguousarray(array).reshape((1,) * (3 - array.ndim) + array.shape)


def pieces(labels: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None = None) -> Pieces:
    """Pieces of every object; diagonal neighbours hold together.

    Parameters
    ----------
    labels : ndarray of bool or int, (Z, Y, X), (Y, X) or (X,)
        Any ids; 0 is background.
    valid : ndarray of bool, optional
        False where nothing is known.

    Raises
    ------
    DataError
        For more than three axes, labels that are no whole numbers, or 2^31 voxels and more.

    Examples
    --------
    >>> found = pieces(np.array([7, 7, 0, 7, 2]))
    >>> found.number.tolist(), found.boxes[:, 4:].tolist()
    ([[[0, 0, -1, 1, 2]]], [[0, 2], [3, 4], [4, 5]])
    """
    if not 1 <= labels.ndim <= 3 or labels.dtype.kind not in "biu":
        raise DataError(f"labels of {labels.ndim} axes and type {labels.dtype}",
                        expected="1 to 3 axes of whole numbers")
    if labels.size >= 2**31:
        raise DataError(f"{labels.size} voxels at once", expected="less than 2^31", remedy="work in blocks")
    ids = planes(labels.view(np.uint8) if labels.dtype == bool else labels)
    number = np.full(ids.shape, -1, np.int32)
    if valid is not None:
        number[~planes(valid)] = -2
    boxes = np.empty((64, 6), np.int64)
    boxes, count = _flood(ids, number, boxes)
    return Pieces(number, boxes[:count].copy())


@numba.njit(cache=True, nogil=True)
def _flood(ids, number, boxes):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Fill piece by piece from its first voxel; ``number`` is -1 where a voxel may belong to one."""
    nz, ny, nx = ids.shape
    stack = np.empty(1024, np.int64)
    count = 0
    for start in range(ids.size):
        z0, y0, x0 = start // (ny * nx), start // nx % ny, start % nx
        label = ids[z0, y0, x0]
        if label == 0 or number[z0, y0, x0] != -1:
            continue
        if count == boxes.shape[0]:
            more = np.empty((2 * count, 6), np.int64)
            more[:count] = boxes
            boxes = more
        box = boxes[count]
        box[0], box[1], box[2], box[3], box[4], box[5] = z0, z0, y0, y0, x0, x0
        number[z0, y0, x0] = count
        stack[0] = start
        used = 1
        while used > 0:
            used -= 1
            z, y, x = stack[used] // (ny * nx), stack[used] // nx % ny, stack[used] % nx
            box[0], box[1] = min(box[0], z), max(box[1], z)
            box[2], box[3] = min(box[2], y), max(box[3], y)
            box[4], box[5] = min(box[4], x), max(box[5], x)
            if used + 27 > stack.size:
                wider = np.empty(2 * stack.size, np.int64)
                wider[:used] = stack[:used]
                stack = wider
            for bz in range(max(z - 1, 0), min(z + 2, nz)):
                for by in range(max(y - 1, 0), min(y + 2, ny)):
                    for bx in range(max(x - 1, 0), min(x + 2, nx)):
                        if number[bz, by, bx] == -1 and ids[bz, by, bx] == label:
                            number[bz, by, bx] = count
                            stack[used] = (bz * ny + by) * nx + bx
                            used += 1
        box[1] += 1
        box[3] += 1
        box[5] += 1
        count += 1
    return boxes, count
