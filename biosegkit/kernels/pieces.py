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
    """Fill piece by piece, run by run, from its first voxel; ``number`` is -1 where a voxel may belong to one."""
    nz, ny, nx = ids.shape
    stack = np.empty((256, 4), np.int64)
    count = 0
    for z0 in range(nz):
        for y0 in range(ny):
            for x0 in range(nx):
                label = ids[z0, y0, x0]
                if label == 0 or number[z0, y0, x0] != -1:
                    continue
                if count == boxes.shape[0]:
                    boxes = _doubled(boxes)
                box = boxes[count]
                box[0], box[1], box[2], box[3], box[4], box[5] = z0, z0 + 1, y0, y0 + 1, x0, x0 + 1
                stack[0, 0], stack[0, 1] = z0, y0
                stack[0, 2], stack[0, 3] = _claimed(ids[z0, y0], number[z0, y0], x0, label, count)
                used = 1
                while used > 0:
                    used -= 1
                    z, y, begin, end = stack[used]
                    box[0], box[1] = min(box[0], z), max(box[1], z + 1)
                    box[2], box[3] = min(box[2], y), max(box[3], y + 1)
                    box[4], box[5] = min(box[4], begin), max(box[5], end)
                    for bz in range(max(z - 1, 0), min(z + 2, nz)):
                        for by in range(max(y - 1, 0), min(y + 2, ny)):
                            x, last = max(begin - 1, 0), min(end + 1, nx)
                            while x < last:
                                if number[bz, by, x] != -1 or ids[bz, by, x] != label:
                                    x += 1
                                    continue
                                if used == stack.shape[0]:
                                    stack = _doubled(stack)
                                stack[used, 0], stack[used, 1] = bz, by
                                stack[used, 2], x = _claimed(ids[bz, by], number[bz, by], x, label, count)
                                stack[used, 3] = x
                                used += 1
                count += 1
    return boxes, count


@numba.njit(cache=True, nogil=True)
def _claimed(ids, number, x, label, piece):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Start and stop of the run around ``x`` that belongs to nobody, which is given to a piece."""
    begin, end = x, x
    while begin > 0 and number[begin - 1] == -1 and ids[begin - 1] == label:
        begin -= 1
    while end < len(ids) and number[end] == -1 and ids[end] == label:
        end += 1
    for k in range(begin, end):
        number[k] = piece
    return begin, end


@numba.njit(cache=True, nogil=True)
def _doubled(rows):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """The same rows with room for as many more."""
    more = np.empty((2 * rows.shape[0], rows.shape[1]), rows.dtype)
    more[: rows.shape[0]] = rows
    return more
