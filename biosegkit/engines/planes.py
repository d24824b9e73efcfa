"""Networks for planes over images: resized, cut into tiles that overlap, averaged; in 3D along all three axes.

Whatever box of an image is computed, its maps are those of the whole image: resizing, tiles and their order belong to
the image. On a CPU the network sees one tile at a time, which is no slower there, and maps are the same bit by bit; on
a GPU calls have as many tiles whatever the box, and maps are the same but for the network's own rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from math import ceil, prod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from biosegkit.errors import DataError, OptionError
from biosegkit.kernels.area import taps, weighted
from biosegkit.progress import counted

__all__ = ["Box", "PlaneNet", "PlaneTiles", "Read", "resized", "taper"]

Floats = npt.NDArray[np.float32]
Box = tuple[slice, ...]
#: Reads a box of an image, (C, *box).
Read = Callable[[Box], Floats]
#: Whether a box is worth looking at.
Shows = Callable[[Box], bool]
_TILE, _OVERLAP, _BATCH, _DIVISOR = 224, 0.1, 8, 16
_LARGEST = 1 << 30  # voxels after resizing, of an image that is held whole
#: The logit of the foreground where nobody looked.
_NOTHING = -60.0


def resized(read: Read, old: Sequence[int], new: Sequence[int], box: Box) -> Floats:
    """A box of an image at another size, linearly, the outer faces of images falling on each other.

    Parameters
    ----------
    read : callable
    old, new : sequence of int
        Shapes of the image before and after.
    box : tuple of slice
        Of the new one.

    Examples
    --------
    >>> row = np.array([[[0.0, 2.0]]], np.float32)
    >>> resized(lambda box: row[:, *box], (1, 2), (1, 4), (slice(0, 1), slice(1, 4))).tolist()
    [[[0.5, 1.5, 2.0]]]
    """
    found = [taps(n, m, b.start, b.stop, averaged=False) if n != m else None
             for n, m, b in zip(old, new, box, strict=True)]
    need = tuple(b if f is None else slice(*f.rows) for f, b in zip(found, box, strict=True))
    values = read(need)
    for axis, (rows, part) in enumerate(zip(found, need, strict=True), 1):
        values = values if rows is None else weighted(values, rows, part.start, axis)
    return values


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


@dataclass(frozen=True)
class PlaneTiles:
    """Tiles of a plane, with zeros around it; they overlap by a tenth or more.

    Parameters
    ----------
    shape : (int, int)
        Of the plane.
    tile : int
        Width of a tile.
    filled : bool
        A plane that is smaller than a tile is made as large, by zeros.

    Examples
    --------
    >>> PlaneTiles((40, 300)).sizes, PlaneTiles((40, 300)).starts
    ((64, 224), ([-12], [-10, 86]))
    >>> PlaneTiles((40, 300), 256, filled=True).sizes
    (256, 256)
    """

    shape: tuple[int, int]
    tile: int = _TILE
    filled: bool = False

    @cached_property
    def pads(self) -> list[tuple[int, int]]:
        """Zeros before and behind each axis."""
        missing = [max(0, self.tile - n - _DIVISOR) if self.filled and n < self.tile else -n % _DIVISOR
                   for n in self.shape]
        return [(_DIVISOR // 2 + m // 2, _DIVISOR // 2 + (m + 1) // 2) for m in missing]

    @cached_property
    def _whole(self) -> list[int]:
        return [n + sum(pad) for n, pad in zip(self.shape, self.pads, strict=True)]

    @cached_property
    def sizes(self) -> tuple[int, int]:
        """Of a tile."""
        y, x = (min(self.tile, n) for n in self._whole)
        return y, x

    @cached_property
    def starts(self) -> tuple[list[int], list[int]]:
        """Where tiles begin along each axis, in pixels of the plane; the first before its first one."""
        y, x = ([int(s) - pad[0] for s in np.linspace(0, n - size, self._count(n)).astype(int)]
                for n, size, pad in zip(self._whole, self.sizes, self.pads, strict=True))
        return y, x

    def _count(self, size: int) -> int:
        return 1 if size <= self.tile else ceil((1 + 2 * _OVERLAP) * size / self.tile)

    def within(self, box: Box) -> list[tuple[int, int]]:
        """The tiles that reach a box of the plane, in raster order."""
        ys, xs = ([s for s in starts if s < b.stop and s + size > b.start]
                  for starts, size, b in zip(self.starts, self.sizes, box, strict=True))
        return list(product(ys, xs))

    def place(self, start: Sequence[int]) -> Box:
        """What of the plane a tile shows."""
        return tuple(slice(max(0, s), min(n, s + size))
                     for s, size, n in zip(start, self.sizes, self.shape, strict=True))


@dataclass(frozen=True, eq=False)
class PlaneNet:
    """A network for planes, and how images are given to it.

    Parameters
    ----------
    net : callable
        Images (B, C, y, x) to flow along y and x and a logit, (B, 3, y, x).
    device : torch.device
    channels : int
        That the network takes; missing ones are 0.
    factor : float
        What images are resized by.
    tile : int
    filled : bool
        See :class:`PlaneTiles`.
    square : bool
        Pixels of a plane are resized alike; otherwise voxels are made equal, the finest axis being resized by
        ``factor``.
    """

    net: Callable[[Tensor], Tensor]
    device: torch.device
    channels: int
    factor: float = 1.0
    tile: int = _TILE
    filled: bool = False
    square: bool = False

    def __call__(self, values: Floats, scale: tuple[float, ...]) -> tuple[Floats, Floats]:
        """Flow (D, *space) and logit (*space) of an image (C, *space).

        Raises
        ------
        OptionError
            If it would be too large once it is resized.
        """
        shape = values.shape[1:]
        small = self.resized_shape(shape, scale)
        if prod(small) > _LARGEST:
            raise OptionError(f"an image of {small} voxels after resizing by {self.factor:.3g}",
                              expected=f"at most {_LARGEST}",
                              remedy="give a larger --option diameter, or a part of the image")
        maps = self.boxed(lambda box: values[:, *box], shape, scale, tuple(slice(0, n) for n in shape))
        return maps[:-1], maps[-1]

    def resized_shape(self, shape: Sequence[int], scale: Sequence[float]) -> tuple[int, ...]:
        """Of an image as the network sees it; ``scale`` is the voxel size relative to the finest axis."""
        ratio = [1.0] * len(shape)
        if not self.square:
            ratio = list(scale)
        elif len(shape) == 3:
            ratio[0] = scale[0] / min(scale[1:])
        return tuple(max(1, int(n * r * self.factor)) for n, r in zip(shape, ratio, strict=True))

    def boxed(self, read: Read, shape: Sequence[int], scale: Sequence[float], box: Box,
              shows: Shows | None = None) -> Floats:
        """Flow and logit of a box of an image, (D + 1, *box).

        Parameters
        ----------
        read : callable
            Gives a box of the image, (C, *box).
        shape : sequence of int
            Of the image.
        scale : sequence of float
            Size of a voxel relative to the finest axis.
        box : tuple of slice
        shows : callable, optional
            Whether a box of the image is worth looking at; tiles of which it is not are taken for background.
        """
        small = self.resized_shape(shape, scale)
        inner = tuple(b if n == m else slice(*taps(m, n, b.start, b.stop, averaged=False).rows)
                      for n, m, b in zip(shape, small, box, strict=True))
        source, seen = partial(resized, read, shape, small), _resized_shows(shows, shape, small)
        maps = self._flat(source, small, inner, seen) if len(small) == 2 else self._deep(source, small, inner, seen)
        return resized(lambda part: maps[:, *(slice(p.start - i.start, p.stop - i.start)
                                              for p, i in zip(part, inner, strict=True))], small, shape, box)

    def tiles(self, shape: Sequence[int], scale: Sequence[float], box: Box) -> Iterator[Box]:
        """What of an image is seen by each tile that reaches a box of it."""
        small = self.resized_shape(shape, scale)
        inner = tuple(slice(*taps(m, n, b.start, b.stop, averaged=False).rows)
                      for n, m, b in zip(shape, small, box, strict=True))
        for axis in range(3) if len(small) == 3 else (-1,):  # -1: a plane, not one across an axis
            others = [a for a in range(len(small)) if a != axis]
            tiles = self._tiles([small[a] for a in others])
            planes = range(inner[axis].start, inner[axis].stop) if axis >= 0 else range(1)
            for plane, start in product(planes, tiles.within(tuple(inner[a] for a in others))):
                place = dict(zip(others, tiles.place(start), strict=True))
                seen = tuple(place.get(a, slice(plane, plane + 1)) for a in range(len(small)))
                yield _grown(seen, small, shape)

    def _tiles(self, shape: Sequence[int]) -> PlaneTiles:
        return PlaneTiles((shape[0], shape[1]), self.tile, self.filled)

    def _flat(self, read: Read, shape: Sequence[int], box: Box, shows: Shows | None) -> Floats:
        """Maps (3, y, x) of a box of one plane."""
        def planes(part: Box) -> Floats:
            return read(part[1:])[:, None]

        seen = None if shows is None else lambda part: shows(part[1:])
        return self._planes(planes, (1, *shape), (slice(0, 1), *box), seen)[:, 0]

    def _deep(self, read: Read, shape: Sequence[int], box: Box, shows: Shows | None) -> Floats:
        """Maps (4, z, y, x) of a box of a stack: flow z, y, x and logit, means over the planes along all axes."""
        total = np.zeros((4, *(b.stop - b.start for b in box)), np.float32)
        for axis, (first, second) in enumerate(((1, 2), (0, 2), (0, 1))):
            maps = self._across(axis, read, shape, box, shows)
            total[first] += maps[0] / 2
            total[second] += maps[1] / 2
            total[3] += maps[2] / 3
        return total

    def _across(self, axis: int, read: Read, shape: Sequence[int], box: Box, shows: Shows | None) -> Floats:
        """Maps (3, z, y, x) of a box of a stack, from the planes across an axis."""
        def back(part: Box) -> Box:
            return (*part[1 : axis + 1], part[0], *part[axis + 1 :])

        def planes(part: Box) -> Floats:
            return np.moveaxis(read(back(part)), 1 + axis, 1)

        order = (axis, *(a for a in range(3) if a != axis))
        seen = None if shows is None else lambda part: shows(back(part))
        maps = self._planes(planes, [shape[a] for a in order], tuple(box[a] for a in order), seen)
        return np.moveaxis(maps, 1, 1 + axis)

    def _planes(self, read: Read, shape: Sequence[int], box: Box, shows: Shows | None) -> Floats:
        """Maps (3, *box) of a box of planes (n, y, x), each by itself."""
        tiles, numbers = self._tiles(shape[1:]), range(box[0].start, box[0].stop)
        wanted = tiles.within(box[1:])
        reach = [tiles.place(start) for start in (wanted[0], wanted[-1])]
        seen = tuple(slice(a.start, b.stop) for a, b in zip(*reach, strict=True))
        places = [(n, start) for n, start in product(numbers, wanted)
                  if shows is None or shows((slice(n, n + 1), *tiles.place(start)))]
        total = np.zeros((3, *(b.stop - b.start for b in box)), np.float32)
        norm = np.zeros(total.shape[1:], np.float32)
        values = read((box[0], *seen)) if places else np.zeros((0, 0, 0, 0), np.float32)
        weight = np.outer(*(taper(size) for size in tiles.sizes)).astype(np.float32)
        batch = 1 if self.device.type == "cpu" else _batch(shape[0] * prod(map(len, tiles.starts)))
        for first in counted(range(0, len(places), batch), len(places), "tiles", batch):
            some = places[first : first + batch]
            cut = np.zeros((batch, self.channels, *tiles.sizes), np.float32)
            for tile, (n, start) in zip(cut, some, strict=False):
                _put(tile, values[:, n - box[0].start], seen, tiles.place(start), start)
            for (n, start), maps in zip(some, self._seen(cut), strict=False):
                clip = tuple(slice(max(0, b.start - s), min(size, b.stop - s))
                             for s, size, b in zip(start, tiles.sizes, box[1:], strict=True))
                into = (n - box[0].start, *(slice(s + c.start - b.start, s + c.stop - b.start)
                                            for s, c, b in zip(start, clip, box[1:], strict=True)))
                total[(slice(None), *into)] += maps[(slice(None), *clip)] * weight[clip]
                norm[into] += weight[clip]
        unseen = norm == 0
        total /= np.where(unseen, np.float32(1), norm)
        total[2][unseen] = _NOTHING
        return total

    def _seen(self, tiles: Floats) -> Floats:
        with torch.inference_mode():
            # in memory of torch's own: sums round by how their numbers are aligned
            maps = self.net(torch.from_numpy(tiles).clone().to(self.device)).float().cpu().numpy()
        if not np.isfinite(maps).all():
            raise DataError("values that are not finite in the network's output", expected="finite numbers",
                            remedy="the weights or the image are damaged")
        return np.asarray(maps)


def _put(tile: Floats, plane: Floats, seen: Box, place: Box, start: Sequence[int]) -> None:
    """Copy what a tile that begins at ``start`` shows from a part ``seen`` of the plane; zeros stay around it."""
    into = tuple(slice(p.start - s, p.stop - s) for p, s in zip(place, start, strict=True))
    of = tuple(slice(p.start - s.start, p.stop - s.start) for p, s in zip(place, seen, strict=True))
    tile[(slice(len(plane)), *into)] = plane[(slice(None), *of)]


def _batch(count: int) -> int:
    """Tiles per call, the same for all boxes of an image: calls that are not full are filled up."""
    return ceil(count / ceil(count / _BATCH))


def _resized_shows(shows: Shows | None, shape: Sequence[int], small: Sequence[int]) -> Shows | None:
    """The same question for a box of the resized image."""
    return None if shows is None else lambda box: shows(_grown(box, small, shape))


def _grown(box: Box, small: Sequence[int], shape: Sequence[int]) -> Box:
    """The voxels of an image that a box of the resized one covers."""
    return tuple(slice(b.start * n // m, -(-b.stop * n // m)) for b, m, n in zip(box, small, shape, strict=True))
