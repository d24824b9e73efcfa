"""How a giant image is cut: blocks that are decoded, groups of blocks that a worker computes, boxes it paints.

Nothing of it changes a label. A *block* is what a method decodes at once; it has a state of its own. A *group* is a box
of blocks whose tiles are computed in one pass along the first axis, so that a tile is computed again at the edge of
groups only. A *box* to paint is made of blocks and of whole chunks of the output. All are cut along the axes of the
image and counted in voxels of the turned, cropped array that the network sees.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from biosegkit.errors import OptionError
from biosegkit.grid import Turn
from biosegkit.methods.protocol import Block
from biosegkit.prepared import AHEAD

__all__ = ["Costs", "Layout", "expected_peak", "plan_layout"]

#: Voxels of a block; changes memory only.
_BLOCK = 2**22
#: Voxels of a group at most: what one task computes.
_GROUP = 2**27
#: Planes of maps that are handed on together.
_PLANES = 64
#: Of the memory of a worker: what program and network take.
_PROGRAM = 900 << 20
#: Bytes per voxel of a block that decoding takes beside its maps.
_DECODE = 48


@dataclass(frozen=True)
class Costs:
    """What the size of groups depends on.

    Parameters
    ----------
    channels, pixel : int
        Of all maps together; bytes of a voxel of the image.
    patch, step : tuple of int
        Of the lattice, one number per axis of the array.
    halo : int
        Of the method.
    memory : int
        Bytes of a worker.
    workers : int
        That share the groups of one image.
    planar : bool
        Planes are decoded one by one.
    held : float
        Bytes per voxel of a group whose maps are held whole; 0 where they come plane by plane.
    """

    channels: int
    pixel: int
    patch: tuple[int, ...]
    step: tuple[int, ...]
    halo: int
    memory: int
    workers: int = 1
    planar: bool = False
    held: float = 0.0


@dataclass(frozen=True)
class Layout:
    """Where blocks, groups and boxes begin along every axis of the turned, cropped array.

    Parameters
    ----------
    shape : tuple of int
        Of that array.
    blocks, groups, boxes : tuple of tuple of int
        First voxels per axis, 0 first; those of groups and boxes are among those of blocks.
    planar : bool
        Blocks are planes of a stack, with no surroundings in front or behind.

    Examples
    --------
    >>> layout = Layout((6, 5), ((0, 2, 4), (0, 3)), ((0, 4), (0,)), ((0,), (0, 3)))
    >>> len(layout.all_blocks(1)), layout.members(layout.groups), layout.box(1)
    (6, [(0, 1, 2, 3), (4, 5)], (slice(0, 6, None), slice(3, 5, None)))
    """

    shape: tuple[int, ...]
    blocks: tuple[tuple[int, ...], ...]
    groups: tuple[tuple[int, ...], ...]
    boxes: tuple[tuple[int, ...], ...]
    planar: bool = False

    def all_blocks(self, halo: int, spacing: Sequence[float] = ()) -> list[Block]:
        """The blocks, in raster order."""
        found = []
        for box in _boxes(self.blocks, self.shape):
            start, size = tuple(b.start for b in box), tuple(b.stop - b.start for b in box)
            block = Block.cut(start, size, self.shape, halo, spacing)
            if self.planar:
                block = Block(start, size, self.shape, (0, *block.before[1:]), (0, *block.after[1:]), tuple(spacing))
            found.append(block)
        return found

    def members(self, starts: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
        """The numbers of the blocks of every group or box, in raster order."""
        inside = [[[k for k, b in enumerate(mine) if low <= b < high] for low, high in _spans(axis, n)]
                  for mine, axis, n in zip(self.blocks, starts, self.shape, strict=True)]
        counts = [len(axis) for axis in self.blocks]
        return [tuple(_flat(place, counts) for place in product(*part)) for part in product(*inside)]

    def box(self, number: int) -> tuple[slice, ...]:
        """The place of a box to paint."""
        counts = [len(axis) for axis in self.boxes]
        place = []
        for count in reversed(counts):
            number, k = divmod(number, count)
            place.append(k)
        spans = [_spans(axis, n)[k] for axis, n, k in zip(self.boxes, self.shape, reversed(place), strict=True)]
        return tuple(slice(*span) for span in spans)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"shape": list(self.shape), "blocks": [list(a) for a in self.blocks],
                "groups": [list(a) for a in self.groups], "boxes": [list(a) for a in self.boxes],
                "planar": self.planar}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Layout:
        """The inverse of :meth:`to_dict`."""
        blocks, groups, boxes = (tuple(tuple(int(v) for v in axis) for axis in data[name])
                                 for name in ("blocks", "groups", "boxes"))
        return cls(tuple(data["shape"]), blocks, groups, boxes, bool(data["planar"]))


def plan_layout(window: Sequence[slice], full: Sequence[int], turn: Turn, chunk: Sequence[int], costs: Costs) -> Layout:
    """Cut an image so that a worker stays within its memory and computes few tiles twice.

    Parameters
    ----------
    window : sequence of slice
        The crop within the turned image.
    full : sequence of int
        Shape of the turned image.
    turn : Turn
        From the image to the turned image.
    chunk : sequence of int
        Voxels of a chunk of the output, along the axes of the image.
    costs : Costs

    Raises
    ------
    OptionError
        If the memory is not enough for one chunk.
    """
    shape = tuple(w.stop - w.start for w in window)
    unit = [chunk[p] for p in turn.perm]
    block = _block(shape, unit, costs)
    thinner = [[max(1, block[0] // part), *block[1:]] for part in (1, 2, 4)]  # leaves more room to the sides
    found = [(_group(shape, size, costs), size) for size in thinner]
    (_, group), block = min(found, key=lambda one: one[0][0])
    if not math.isfinite(min(time for (time, _), _ in found)):
        raise OptionError(f"{costs.memory / 2**20:.0f} MB per worker", expected="enough for a chunk of the output and "
                          f"its {costs.channels} maps", remedy="give more with --memory")
    box = [max(u, b) for u, b in zip(unit, block, strict=True)]

    def cuts(size: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        return tuple(_cuts(size[a], window[a], full[a], a in turn.flips) for a in range(len(shape)))

    return Layout(shape, cuts(block), cuts(group), cuts(box), costs.planar)


def _cuts(size: int, window: slice, full: int, flipped: bool) -> tuple[int, ...]:
    """Multiples of a size along an axis of the image, as first voxels of the turned and cropped one."""
    at = (full - c if flipped else c for c in range(0, full + size, size))
    return (0, *sorted(c - window.start for c in at if window.start < c < window.stop))


def _spans(starts: Sequence[int], end: int) -> list[tuple[int, int]]:
    """First and last + 1."""
    return list(zip(starts, [*starts[1:], end], strict=True))


def _boxes(starts: Sequence[Sequence[int]], shape: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """All boxes of a product of cuts, in raster order."""
    for place in product(*(_spans(axis, n) for axis, n in zip(starts, shape, strict=True))):
        yield tuple(slice(*span) for span in place)


def _flat(place: Sequence[int], counts: Sequence[int]) -> int:
    """The number in raster order."""
    number = 0
    for k, count in zip(place, counts, strict=True):
        number = number * count + k
    return number


def _block(shape: Sequence[int], unit: Sequence[int], costs: Costs) -> list[int]:
    """Voxels of a block: multiples or parts of a chunk that a worker can decode."""
    room = min(_BLOCK, int(0.35 * _room(costs) / _decoding(costs)))
    size = [1 if costs.planar and axis == 0 else u for axis, u in enumerate(unit)]
    while math.prod(size) > room and max(size) > 32:
        axis = size.index(max(size))
        size[axis] //= 2
    for axis in reversed(range(1, len(size))):
        most = max(1, min(-(-shape[axis] // size[axis]), room // math.prod(size)))
        size[axis] *= most if size[axis] == unit[axis] else 1
    return size


def _room(costs: Costs) -> int:
    """Bytes for maps and decoding."""
    return max(costs.memory - _PROGRAM, costs.memory // 4)


def _group(shape: Sequence[int], block: Sequence[int], costs: Costs) -> tuple[float, list[int]]:
    """Tiles of the slowest worker, and voxels of the groups with which it has the fewest; infinite if nothing fits."""
    best = (math.inf, list(block))
    for size in product(*(_multiples(b, n) for b, n in zip(block, shape, strict=True))):
        capped = [min(s, n) for s, n in zip(size, shape, strict=True)]
        fits = _held(shape, capped, block[0], costs) <= 0.6 * _room(costs)
        if not fits or math.prod(capped) > max(_GROUP, math.prod(block)):
            continue
        best = min(best, (_slowest(shape, size, costs), list(size)))
    return best


def _held(shape: Sequence[int], group: Sequence[int], deep: int, costs: Costs) -> float:
    """Bytes of maps and image that are held of a group whose blocks are ``deep`` voxels along the first axis."""
    if costs.held:
        return math.prod(min(s + 2 * costs.halo, n) for s, n in zip(group, shape, strict=True)) * costs.held
    row = 4 * costs.channels * (costs.patch[0] + costs.step[0] + deep + 2 * costs.halo + _PLANES)
    row += costs.pixel * (costs.patch[0] + min(AHEAD[len(shape)], costs.patch[0]))
    return math.prod(group[1:]) * row


def _decoding(costs: Costs) -> float:
    """Bytes that a voxel of a block takes while it is decoded."""
    return 8 * costs.channels + _DECODE


def expected_peak(layout: Layout, costs: Costs) -> float:
    """Bytes that a worker is taken to need at most while it computes a group: what the planning counts with."""
    def largest(starts: Sequence[Sequence[int]]) -> list[int]:
        return [max(b - a for a, b in _spans(axis, n)) for axis, n in zip(starts, layout.shape, strict=True)]

    group, block = largest(layout.groups), largest(layout.blocks)
    return _PROGRAM + _held(layout.shape, group, block[0], costs) + math.prod(block) * _decoding(costs)


def _multiples(unit: int, size: int) -> list[int]:
    """Candidates: every number of units up to the whole axis, thinned out where there are many."""
    most = -(-size // unit)
    counts = sorted({*range(1, min(most, 12) + 1), *(-(-most // k) for k in range(1, 13)), most})
    return [unit * c for c in counts]


def _slowest(shape: Sequence[int], size: Sequence[int], costs: Costs) -> float:
    """Tiles of the worker that has most to do, where each takes the next group."""
    per_axis = []
    for n, s, p, t in zip(shape, size, costs.patch, costs.step, strict=True):
        ends = [(a, min(a + s, n)) for a in range(0, n, s)]
        per_axis.append([(b + costs.halo - max(0, a - costs.halo - p) + t - 1) // t for a, b in ends])
    most, total = math.prod(max(axis) for axis in per_axis), math.prod(sum(axis) for axis in per_axis)
    if math.prod(len(axis) for axis in per_axis) > 8 * costs.workers:
        return total / costs.workers + most / 2
    loads = [0.0] * costs.workers
    for tiles in sorted((math.prod(place) for place in product(*per_axis)), reverse=True):
        loads[loads.index(min(loads))] += tiles
    return max(loads)
