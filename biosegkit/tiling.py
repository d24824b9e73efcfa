"""The network over the lattice: tiles in, blended maps out, slab by slab, so that memory follows the patch.

Maps (activated outputs: probabilities, distances) are blended, not logits: what leaves here is a convex combination of
what the network said, and folds and mirrored copies are averaged in the same unit. Tiles are added in lattice order
into a ring of ``patch[0]`` planes; planes no later tile can touch are handed out and their place is used again. Neither
how tiles are grouped into calls nor who asks for the slabs changes a bit of the sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from math import isfinite
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .errors import DataError
from .lattice import Lattice
from .methods.protocol import ArrayDict, Method
from .progress import counted

__all__ = ["Forward", "Nothing", "Part", "Slab", "blend", "is_out_of_memory"]

#: First plane and maps (C, planes, *rest) of finished planes.
Slab = tuple[int, dict[str, Tensor]]

#: The weights of the tiles that were not left out.
_SEEN = ""

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; every other error must pass through (fault P5).

    Examples
    --------
    >>> is_out_of_memory(RuntimeError("CUDA error: out of memory")), is_out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


class Activation(Protocol):
    """The part of a method that tiles need."""

    def activate(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Logits to maps, in float32."""
        ...

    def mirror(self, maps: ArrayDict, axes: Sequence[int]) -> ArrayDict:
        """Flip maps ``(C, *space)`` along space axes."""
        ...


@dataclass(frozen=True, eq=False)
class Nothing:
    """In the place of :class:`Forward` for an image that shows nothing (fault V4): maps of background, everywhere."""

    method: Method
    ndim: int
    device: torch.device

    def __call__(self, tiles: Tensor) -> dict[str, Tensor]:
        """What a network that never errs says of no object, or of the first class; the tiles are not looked at."""
        side = (4,) * self.ndim
        maps = self.method.ideal(self.method.encode(np.zeros(side, np.uint8), (1.0,) * self.ndim)[0])
        corner = (slice(None), *(slice(0, 1),) * self.ndim)
        values = {name: torch.from_numpy(np.ascontiguousarray(m[corner], np.float32)) for name, m in maps.items()}
        lead = tiles.ndim - 2 - self.ndim
        return {name: value.reshape(1, len(value), *(1,) * (lead + self.ndim)).to(self.device).expand(
            len(tiles), len(value), *tiles.shape[2:]) for name, value in values.items()}


@dataclass(frozen=True, eq=False)
class Forward:
    """Activated maps of a batch of tiles: networks, activation, mirrored copies, average.

    Parameters
    ----------
    networks : tuple of Module
        One per fold, in evaluation mode, on ``device``.
    method : Activation
        A method: gives the activation and says how maps turn under a flip.
    device : torch.device
        Where the networks are.
    mirror_axes : tuple of int
        Space axes of the network that are mirrored; every combination is averaged. Empty: no copies.
    channels_last : bool
        Memory layout of the input.
    plane : bool
        The networks are one axis short: tiles are one plane thick and reach them without that axis.
    """

    networks: tuple[nn.Module, ...]
    method: Activation
    device: torch.device
    mirror_axes: tuple[int, ...] = ()
    channels_last: bool = False
    plane: bool = False

    def __call__(self, tiles: Tensor) -> dict[str, Tensor]:
        """Maps (B, C, *space) in float32 of tiles (B, channels, *space).

        Raises
        ------
        DataError
            If a network returns a value that is not finite (fault V3).
        """
        tiles = (tiles.squeeze(2) if self.plane else tiles).to(self.device, non_blocking=True)
        total: dict[str, Tensor] = {}
        flips = _combinations(self.mirror_axes)
        for network in self.networks:
            for axes in flips:
                maps = self._one(network, tiles, axes)
                total = maps if not total else {name: total[name].add_(maps[name]) for name in total}
        count = len(self.networks) * len(flips)
        if count > 1:
            total = {name: value.div_(count) for name, value in total.items()}
        return {name: value.unsqueeze(2) for name, value in total.items()} if self.plane else total

    def _one(self, network: nn.Module, tiles: Tensor, axes: tuple[int, ...]) -> dict[str, Tensor]:
        """Maps of one network for one mirrored copy, mirrored back."""
        x = tiles.flip([2 + a for a in axes]) if axes else tiles
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
        with torch.autocast(self.device.type, dtype=torch.float16, enabled=self.device.type == "cuda"):
            logits: dict[str, Tensor] = network(x)
        for name, value in logits.items():
            if not isfinite(torch.sum(value, dtype=torch.float32).item()):
                raise DataError(f"values that are not finite in the network's output {name!r}",
                                expected="finite numbers",
                                remedy="the weights or the image are damaged; look at the training log and the image")
        maps: dict[str, Tensor] = self.method.activate(logits)
        return _mirrored(self.method, maps, axes) if axes else maps


def _all(_: tuple[int, ...]) -> bool:
    """Every tile."""
    return True


@dataclass(frozen=True)
class Part:
    """What of an image is computed.

    Parameters
    ----------
    region : tuple of slice
        In voxels of the lattice.
    wanted : callable
        Whether the tile that starts at a voxel is given to the network; the others are taken to show background.
    background : tuple of str
        Maps of which the first channel is the background's, 1 where there is nothing; the others are 0 there.
    """

    region: tuple[slice, ...]
    wanted: Callable[[tuple[int, ...]], bool] = _all
    background: tuple[str, ...] = ()


def _combinations(axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Every subset of axes, the empty one first."""
    return [c for n in range(len(axes) + 1) for c in combinations(axes, n)]


def _mirrored(method: Activation, maps: Mapping[str, Tensor], axes: tuple[int, ...]) -> dict[str, Tensor]:
    """The method's own mirroring, tile by tile: rays are permuted and flows change sign."""
    device = next(iter(maps.values())).device
    arrays = {name: value.cpu().numpy() for name, value in maps.items()}
    batch = len(next(iter(arrays.values())))
    turned = [method.mirror({name: a[i] for name, a in arrays.items()}, axes) for i in range(batch)]
    return {name: torch.from_numpy(np.stack([t[name] for t in turned])).to(device) for name in maps}


@torch.inference_mode()
def blend(
    read: Callable[[tuple[int, ...]], npt.NDArray[np.float32]],
    lattice: Lattice,
    forward: Callable[[Tensor], Mapping[str, Tensor]],
    *,
    batch: int = 1,
    device: torch.device | None = None,
    planes: int | None = None,
    part: Part | None = None,
) -> Iterator[Slab]:
    """Blended maps of an image or of a region of it, in slabs along the first axis.

    Parameters
    ----------
    read : callable
        Preprocessed tile (channels, *patch) in float32 that starts at the voxel given, zeros beyond the image.
    lattice : Lattice
        Where the tiles are.
    forward : callable
        Tiles (B, channels, *patch) to maps (B, C, *patch).
    batch : int
        Tiles per call, always this many; changes speed only, but for a network's own rounding.
    device : torch.device, optional
        Where sums are kept; by default where ``forward`` returns them.
    planes : int, optional
        Most planes of one slab; changes memory only.
    part : Part, optional
        The region, bit by bit as it is in the maps of the whole image; all of the image by default.

    Yields
    ------
    start : int
        First plane of the slab in the image.
    maps : dict of str to Tensor, (C, planes, *rest)
        Float32, on ``device``; ``rest`` are the other axes of the region.
    """
    part = part or Part(tuple(slice(0, n) for n in lattice.shape))
    end = part.region[0].stop
    sums: _Ring | None = None
    done = part.region[0].start
    low, high = [r.start for r in part.region], [r.stop for r in part.region]
    left_out = part.wanted is not _all
    wanted = [start for start in lattice.within(low, high) if part.wanted(start)]
    for starts in counted(_batched(wanted, batch), len(wanted), "tiles", batch):
        tiles = _stacked([read(s) for s in starts], batch)
        maps = dict(forward(tiles))
        if left_out:
            one = next(iter(maps.values()))
            maps[_SEEN] = torch.ones((1, 1, *one.shape[2:]), device=one.device).expand(batch, 1, *one.shape[2:])
        if sums is None:
            sums = _Ring(lattice, part.region, {name: value.shape[1] for name, value in maps.items()},
                         device or next(iter(maps.values())).device)
        for i, start in enumerate(starts):
            while done < start[0]:
                stop = min(start[0], done + (planes or start[0]), done + sums.depth)
                yield done, _without_seen(sums.take(done, stop), part)
                done = stop
            sums.add(start, {name: value[i] for name, value in maps.items()})
        del maps, tiles  # or they would be there beside those of the next call
    while sums is not None and done < end:
        stop = min(end, done + (planes or end), done + sums.depth)
        yield done, _without_seen(sums.take(done, stop), part)
        done = stop


def _without_seen(sums: dict[str, Tensor], part: Part) -> dict[str, Tensor]:
    """The maps, with background for what tiles that were left out would have added."""
    seen = sums.pop(_SEEN, None)
    if seen is not None:
        unseen = (1 - seen[0]).clamp_(0, 1)
        for name in part.background:
            sums[name][0] += unseen
    return sums


def _stacked(tiles: list[npt.NDArray[np.float32]], batch: int) -> Tensor:
    """Tiles of one call; the last one is filled up: a network may round differently for another batch size."""
    if batch == 1:
        return torch.from_numpy(np.ascontiguousarray(tiles[0])[None])
    tiles = tiles + [np.zeros_like(tiles[0])] * (batch - len(tiles))
    return torch.from_numpy(np.stack(tiles))


def _batched(tiles: Iterable[tuple[int, ...]], size: int) -> Iterator[list[tuple[int, ...]]]:
    tiles = iter(tiles)
    while chunk := list(islice(tiles, size)):
        yield chunk


class _Ring:
    """Sums of the planes that tiles still reach; plane ``z`` lives at ``z mod depth``."""

    def __init__(self, lattice: Lattice, region: tuple[slice, ...], channels: Mapping[str, int],
                 device: torch.device) -> None:
        self.region, self.device = region, device
        first, *rest = (r.stop - r.start for r in region)
        self.depth = min(lattice.patch[0], first)
        self.sums = {name: torch.zeros((c, self.depth, *rest), device=device) for name, c in channels.items()}
        self.windows = [{start: torch.from_numpy(w).to(device) for start, w in axis.items()}
                        for axis in lattice.windows()]

    def add(self, start: tuple[int, ...], maps: Mapping[str, Tensor]) -> None:
        """Add one tile with its normalised window, leaving out what lies beyond the region."""
        inside = [slice(max(0, r.start - s), min(len(axis[s]), r.stop - s))
                  for axis, s, r in zip(self.windows, start, self.region, strict=True)]
        weight = self._weight(start, inside)
        lateral = tuple(slice(s + i.start - r.start, s + i.stop - r.start)
                        for s, i, r in zip(start[1:], inside[1:], self.region[1:], strict=True))
        for name, value in maps.items():
            tile = value[(slice(None), *inside)].to(self.device)
            for ring, part in self._pieces(start[0] + inside[0].start, start[0] + inside[0].stop):
                target = self.sums[name][(slice(None), ring, *lateral)]
                target.addcmul_(tile[:, part], weight[part])

    def take(self, start: int, stop: int) -> dict[str, Tensor]:
        """Finished planes as a tensor of their own; their place is cleared."""
        taken = {}
        for name, total in self.sums.items():
            pieces = [total[:, ring] for ring, _ in self._pieces(start, stop)]
            taken[name] = torch.cat(pieces, dim=1)
            for piece in pieces:
                piece.zero_()
        return taken

    def _weight(self, start: tuple[int, ...], inside: Sequence[slice]) -> Tensor:
        """Outer product of the windows of the axes."""
        weight = self.windows[0][start[0]][inside[0]]
        for axis in range(1, len(start)):
            weight = weight.unsqueeze(-1) * self.windows[axis][start[axis]][inside[axis]]
        return weight

    def _pieces(self, start: int, stop: int) -> list[tuple[slice, slice]]:
        """Planes start..stop as one or two runs: where in the ring, and where among the planes given."""
        runs, at = [], start
        while at < stop:
            place = at % self.depth
            count = min(stop - at, self.depth - place)
            runs.append((slice(place, place + count), slice(at - start, at - start + count)))
            at += count
        return runs
