"""Slabs of maps on their way to labels: onto another grid, into blocks with a halo, back into the image's array."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .methods.protocol import ArrayDict, Block
from .resample import resample_rows, rows_needed
from .tiling import Slab

__all__ = ["blocks", "cut_blocks", "paste", "regrid"]


def regrid(slabs: Iterable[Slab], source: Sequence[int], target: Sequence[int],
           spacings: tuple[Sequence[float], Sequence[float]], planes: int = 8) -> Iterator[Slab]:
    """Maps on another grid over the same field of view, ``planes`` at a time (as nnU-Net: linear, borders aligned).

    Parameters
    ----------
    slabs : iterable of (start, maps)
        In order, covering ``source``.
    source, target : sequence of int
        Shapes.
    spacings : pair of sequence of float
        Of source and target; along a coarse axis the nearest plane is taken.
    planes : int
        Target planes per slab; changes memory only.

    Examples
    --------
    >>> slab = (0, {"p": torch.tensor([[[0.0], [1.0]]])})
    >>> [(start, maps["p"].flatten().tolist()) for start, maps in regrid([slab], (2, 1), (4, 1), ((2, 1), (1, 1)))]
    [(0, [0.0, 0.25, 0.75, 1.0])]
    """
    incoming = iter(slabs)
    held: dict[str, Tensor] = {}
    low = high = 0
    for start in range(0, target[0], planes):
        rows = (start, min(start + planes, target[0]))
        first, last = rows_needed(source[0], target[0], rows)
        parts = [held] if held else []
        while high < last:
            _, maps = next(incoming)
            parts.append({name: value.cpu() for name, value in maps.items()})
            high += next(iter(maps.values())).shape[1]
            del maps  # beside the next slab it would be there once more
        held = _joined(parts, first - low)
        low = first
        yield start, {
            name: torch.from_numpy(resample_rows(value.numpy(), (low, source[0]), target, rows, *spacings))
            for name, value in held.items()
        }


def _joined(parts: Sequence[dict[str, Tensor]], drop: int) -> dict[str, Tensor]:
    """Consecutive planes as one, without the first ones."""
    return {name: torch.cat([part[name] for part in parts], 1)[:, drop:] for name in parts[0]}


def blocks(slabs: Iterable[Slab], shape: Sequence[int], planes: int,
           halo: int = 1, spacing: Sequence[float] = ()) -> Iterator[tuple[ArrayDict, Block]]:
    """Group slabs into blocks of ``planes`` along the first axis, each with a halo where the image has one.

    Parameters
    ----------
    slabs : iterable of (start, maps)
        In order, covering ``shape``.
    shape : sequence of int
        The image.
    planes, halo : int
        Thickness of a core, and of its surroundings.
    spacing : sequence of float, optional
        Of the image.

    Yields
    ------
    maps : dict of ndarray, (C, before + planes + after, *rest)
    block : Block
    """
    incoming = iter(slabs)
    held: dict[str, Tensor] = {}
    low = high = 0
    for start in range(0, shape[0], planes):
        stop = min(start + planes, shape[0])
        block = Block.cut((start, *(0,) * (len(shape) - 1)), (stop - start, *shape[1:]), shape, halo, spacing)
        parts: list[dict[str, Tensor]] = [held] if high > low else []
        while high < stop + block.after[0]:
            _, maps = next(incoming)
            parts.append({name: value.cpu() for name, value in maps.items()})
            high += next(iter(maps.values())).shape[1]
            del maps  # beside the next slab it would be there once more
        held = parts[0] if len(parts) == 1 else {n: torch.cat([p[n] for p in parts], 1) for n in parts[0]}
        window = slice(start - block.before[0] - low, stop + block.after[0] - low)
        yield {name: value[:, window].numpy() for name, value in held.items()}, block
        drop = max(0, stop - halo - low)
        held = {name: value[:, drop:].clone() for name, value in held.items()}
        low += drop


def cut_blocks(slabs: Iterable[Slab], region: Sequence[slice], wanted: Sequence[Block]
               ) -> Iterator[tuple[ArrayDict, Block]]:
    """Cut the slabs of a region into blocks, whatever their place along the other axes.

    Parameters
    ----------
    slabs : iterable of (start, maps)
        In order, covering ``region``.
    region : sequence of slice
        Of the image.
    wanted : sequence of Block
        Within the region, halo included, by their first plane.

    Yields
    ------
    maps : dict of ndarray, (C, *block.array_shape)
    block : Block
    """
    incoming = iter(slabs)
    held: list[tuple[int, int, ArrayDict]] = []  # first plane, plane behind the last, maps
    reached = region[0].start
    for block in wanted:
        need, *lateral = block.read
        while reached < need.stop:
            start, maps = next(incoming)
            reached = start + next(iter(maps.values())).shape[1]
            held.append((start, reached, {name: value.cpu().numpy() for name, value in maps.items()}))
        held = [slab for slab in held if slab[1] > need.start]
        place = tuple(slice(r.start - g.start, r.stop - g.start) for r, g in zip(lateral, region[1:], strict=True))
        found = {name: np.empty((len(a), *block.array_shape), a.dtype) for name, a in held[0][2].items()}
        for start, stop, maps_held in held:
            first, last = max(start, need.start), min(stop, need.stop)
            for name, value in maps_held.items():
                into = slice(first - need.start, last - need.start)
                found[name][:, into] = value[(slice(None), slice(first - start, last - start), *place)]
        yield found, block


def paste(target: npt.NDArray[Any], window: tuple[slice, ...], block: Block, values: npt.NDArray[Any]) -> None:
    """Write a block's core into the turned image; ``values`` may have leading axes."""
    lead = values.ndim - len(window)
    place = tuple(slice(w.start + b.start, w.start + b.stop) for w, b in zip(window, block.write, strict=True))
    target[(*(slice(None),) * lead, *place)] = values
