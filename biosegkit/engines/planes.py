"""Networks for planes over images: resized, cut into tiles that overlap, averaged; in 3D along all three axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import ceil

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from biosegkit.progress import counted

__all__ = ["over_planes", "over_stack", "resized", "taper"]

Floats = npt.NDArray[np.float32]
Net = Callable[[Tensor], Tensor]
_TILE, _OVERLAP, _BATCH, _DIVISOR = 224, 0.1, 8, 16


def resized(values: Floats, shape: Sequence[int]) -> Floats:
    """Channels (C, *space) at another size, linearly, the outer faces of images falling on each other.

    Examples
    --------
    >>> resized(np.array([[[0.0, 2.0]]], np.float32), (1, 4)).tolist()
    [[[0.0, 0.5, 1.5, 2.0]]]
    """
    if values.shape[1:] == tuple(shape):
        return values
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    done = functional.interpolate(torch.from_numpy(np.ascontiguousarray(values))[None], tuple(shape), mode=mode)
    return np.asarray(done[0].numpy())


def taper(size: int) -> npt.NDArray[np.float64]:
    """Weight of the pixels of a tile along one axis: 1 inside, falling off towards the border.

    Examples
    --------
    >>> bool(taper(224)[112] > 0.99), bool(taper(224)[0] < 0.1), bool(taper(32).min() > 0.99)
    (True, True, True)
    """
    whole = max(_TILE, size)
    far = np.abs(np.arange(whole) - (whole - 1) / 2)
    weight = 1.0 / (1.0 + np.exp((far - (whole / 2 - 20)) / 7.5))
    start = whole // 2 - size // 2
    return np.asarray(weight[start : start + size])


def over_planes(net: Net, planes: Floats, device: torch.device) -> Floats:
    """Maps (N, K, y, x) of planes (N, C, y, x), with zeros around and tiles of 224 pixels that overlap by a tenth."""
    height, width = planes.shape[2:]
    pads = [(_DIVISOR // 2 + (-n % _DIVISOR) // 2, _DIVISOR // 2 + (-n % _DIVISOR + 1) // 2) for n in (height, width)]
    whole = np.pad(planes, [(0, 0), (0, 0), *pads])
    sizes = [min(_TILE, n) for n in whole.shape[2:]]
    counts = [1 if n <= _TILE else ceil((1 + 2 * _OVERLAP) * n / _TILE) for n in whole.shape[2:]]
    starts = [np.linspace(0, n - s, c).astype(int) for n, s, c in zip(whole.shape[2:], sizes, counts, strict=True)]
    weight = np.outer(taper(sizes[0]), taper(sizes[1])).astype(np.float32)
    places = [(n, y, x) for n in range(len(planes)) for y, x in product(*starts)]
    total: Floats | None = None
    norm = np.zeros(whole.shape[2:], np.float32)
    for y, x in product(*starts):
        norm[y : y + sizes[0], x : x + sizes[1]] += weight
    for first in counted(range(0, len(places), _BATCH), len(places), "tiles", _BATCH):
        batch = places[first : first + _BATCH]
        tiles = np.stack([whole[n, :, y : y + sizes[0], x : x + sizes[1]] for n, y, x in batch])
        with torch.inference_mode():
            maps = net(torch.from_numpy(tiles).to(device)).float().cpu().numpy()
        if total is None:
            total = np.zeros((len(planes), maps.shape[1], *whole.shape[2:]), np.float32)
        for (n, y, x), m in zip(batch, maps, strict=True):
            total[n, :, y : y + sizes[0], x : x + sizes[1]] += m * weight
    if total is None:
        return np.zeros((0, 3, height, width), np.float32)
    total /= norm
    return total[:, :, pads[0][0] : pads[0][0] + height, pads[1][0] : pads[1][0] + width]


def over_stack(net: Net, stack: Floats, device: torch.device) -> Floats:
    """Flow z, y, x and logit, (4, z, y, x), of a stack (C, z, y, x): means over the planes along all three axes."""
    total = np.zeros((4, *stack.shape[1:]), np.float32)
    for axis, (first, second) in enumerate(((1, 2), (0, 2), (0, 1))):
        maps = over_planes(net, np.ascontiguousarray(np.moveaxis(stack, 1 + axis, 0)), device)
        maps = np.moveaxis(maps, 0, 1 + axis)
        total[first] += maps[0] / 2
        total[second] += maps[1] / 2
        total[3] += maps[2] / 3
    return total
