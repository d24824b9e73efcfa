"""Offset of every voxel from the centre of its own object, in shares of the object's reach on that side; and back.

Inside an object the offset along an axis rises along that axis and is constant along all others. Where two voxels side
by side disagree with that, one object ends and another begins.
"""

from __future__ import annotations

import itertools
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from biosegkit.kernels.components import sequential

__all__ = ["centred_offsets", "offset_breaks"]


def centred_offsets(labels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Signed offset from the centre of mass along every axis, divided by its extreme on that side.

    Parameters
    ----------
    labels : ndarray of int, (*space), one to three axes
        Any ids; 0 is background.

    Returns
    -------
    ndarray of float32, (axes, *space)
        -1 to 1 in every object that is wider than one voxel, 0 in the background.

    References
    ----------
    Graham et al. 2019 (HoVer-Net, doi:10.1016/j.media.2019.101563), section 3.1; the centre is not rounded.

    Examples
    --------
    >>> centred_offsets(np.array([5, 5, 5, 0, 2, 2, 9])).tolist()
    [[-1.0, 0.0, 1.0, 0.0, -1.0, 1.0, 0.0]]
    """
    dense, ids = sequential(labels, np.int32)
    volume = dense.reshape((1,) * (3 - labels.ndim) + labels.shape)
    out = np.zeros((labels.ndim, *volume.shape), np.float32)
    _offsets(volume, len(ids), out)
    return out.reshape(labels.ndim, *labels.shape)


def offset_breaks(
    offsets: npt.NDArray[np.int16], foreground: npt.NDArray[np.uint16], steps: tuple[int, ...], floor: int
) -> npt.NDArray[np.uint16]:
    """How far the offsets of neighbouring voxels differ from those of one object; of all neighbours the largest.

    Between two neighbours (diagonals included) offsets are averaged over a few voxels on either side, weighted by the
    foreground. The length of their difference counts, without what rises along its own axis as it should, and half of
    it, times the lower foreground of the two: 1 where offsets fall from 1 to -1.

    Parameters
    ----------
    offsets : ndarray of int16, (axes, *space)
        -32767 to 32767 stands for -1 to 1.
    foreground : ndarray of uint16, (*space)
        0 to 65535 stands for 0 to 1.
    steps : tuple of int
        Voxels averaged, per axis; along diagonals the least of their axes.
    floor : int
        Voxels whose foreground does not exceed it are left out.

    Returns
    -------
    ndarray of uint16, (*space)
        At most 65535; each depends on ``steps`` voxels around it only.

    Examples
    --------
    >>> line = np.array([[-32767, 0, 32767, -32767, 0, 32767]], np.int16)
    >>> offset_breaks(line, np.full(6, 65535, np.uint16), (1,), 0).tolist()
    [0, 0, 65535, 65535, 0, 0]
    """
    lead = 3 - foreground.ndim
    volume = np.ascontiguousarray(foreground).reshape((1,) * lead + foreground.shape)
    maps = np.ascontiguousarray(offsets).reshape(-1, *volume.shape)
    out = np.zeros(volume.shape, np.uint16)
    for direction in itertools.product((0, 1, -1), repeat=foreground.ndim):
        if direction > (0,) * foreground.ndim:  # each pair of neighbours once
            count = min(s for s, d in zip(steps, direction, strict=True) if d)
            _breaks(maps, volume, (*(0,) * lead, *direction), count, floor, out)
    return out.reshape(foreground.shape)


@numba.njit(cache=True, nogil=True)
def _offsets(dense, count, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Two passes: sums and extremes of whole numbers, then the quotients."""
    nz, ny, nx = dense.shape
    lead = 3 - len(out)
    size = np.zeros(count + 1, np.int64)
    sums = np.zeros((count + 1, 3), np.int64)
    low = np.full((count + 1, 3), np.iinfo(np.int64).max, np.int64)
    high = np.full((count + 1, 3), -1, np.int64)
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                k = dense[z, y, x]
                if k == 0:
                    continue
                size[k] += 1
                at = (z, y, x)
                for a in range(3):
                    sums[k, a] += at[a]
                    low[k, a] = min(low[k, a], at[a])
                    high[k, a] = max(high[k, a], at[a])
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                k = dense[z, y, x]
                if k == 0:
                    continue
                at = (z, y, x)
                for a in range(lead, 3):
                    # Whole numbers times the size: what lies left and right of the centre has exactly one sign.
                    offset = at[a] * size[k] - sums[k, a]
                    reach = high[k, a] * size[k] - sums[k, a] if offset > 0 else sums[k, a] - low[k, a] * size[k]
                    if reach > 0:
                        out[a - lead, z, y, x] = offset / reach


@numba.njit(cache=True, nogil=True)
def _mean_beside(maps, weight, at, go, steps):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Weighted mean of the last three maps over ``steps`` voxels from ``at`` on; sums of whole numbers, one quotient.

    Where there are fewer, the first stands for those that are not there.
    """
    z, y, x = at
    middle, last = max(0, len(maps) - 2), len(maps) - 1
    total = a = b = c = np.int64(0)
    for _ in range(steps):
        if not (0 <= z < weight.shape[0] and 0 <= y < weight.shape[1] and 0 <= x < weight.shape[2]):
            break
        w = np.int64(weight[z, y, x])
        total += w
        a += w * maps[0, z, y, x]
        b += w * maps[middle, z, y, x]
        c += w * maps[last, z, y, x]
        z, y, x = z + go[0], y + go[1], x + go[2]
    return a / total, b / total, c / total


@numba.njit(cache=True, nogil=True)
def _breaks(maps, weight, go, steps, floor, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """All pairs of neighbours in one direction."""
    dz, dy, dx = go
    nz, ny, nx = weight.shape
    for z in range(nz - dz):
        for y in range(max(0, -dy), ny - max(0, dy)):
            for x in range(max(0, -dx), nx - max(0, dx)):
                lower = min(np.int64(weight[z, y, x]), np.int64(weight[z + dz, y + dy, x + dx]))
                if lower <= floor:
                    continue
                before = _mean_beside(maps, weight, (z, y, x), (-dz, -dy, -dx), steps)
                after = _mean_beside(maps, weight, (z + dz, y + dy, x + dx), go, steps)
                square = 0.0
                for a in range(3 - len(maps), 3):
                    step = after[a] - before[a]
                    if step * go[a] <= 0.0:
                        square += step * step
                # 65534 is the fall from 1 to -1, so a half of the foreground's 65535
                level = min(np.int64(np.sqrt(square) * lower / 65534.0), np.int64(65535))
                out[z, y, x] = max(np.int64(out[z, y, x]), level)
                out[z + dz, y + dy, x + dx] = max(np.int64(out[z + dz, y + dy, x + dx]), level)
