"""How an image is cut for the network of a StarDist model: the same tiles whether it is in memory or on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

__all__ = ["Region", "Tiles"]

Floats = npt.NDArray[np.float32]
#: Reads a box of an image, (C, *space), as the network takes it.
Region = Callable[[tuple[slice, ...]], Floats]


@dataclass(frozen=True)
class Tiles:
    """Tiles that cover an image, each read with surroundings as far as the network sees.

    Parameters
    ----------
    shape : tuple of int
        Of the image.
    divisor : tuple of int
        What sizes must be multiples of; the image is mirrored at its end as far as that.
    core, halo : tuple of int
        A tile without its surroundings, and these; multiples of the divisor.

    Examples
    --------
    >>> tiles = Tiles((7,), (2,), (4,), (2,))
    >>> tiles.starts, tiles.around((4,))
    ([(0,), (4,)], (slice(2, 8, None),))
    >>> tiles.read(lambda box: np.arange(7, dtype=np.float32)[None, *box], (4,)).tolist()
    [[2.0, 3.0, 4.0, 5.0, 6.0, 5.0]]
    """

    shape: tuple[int, ...]
    divisor: tuple[int, ...]
    core: tuple[int, ...]
    halo: tuple[int, ...]

    @property
    def padded(self) -> tuple[int, ...]:
        """Size of the image with what is mirrored."""
        return tuple(-(-n // d) * d for n, d in zip(self.shape, self.divisor, strict=True))

    @property
    def starts(self) -> list[tuple[int, ...]]:
        """Where tiles begin, in raster order."""
        return list(product(*(range(0, n, c) for n, c in zip(self.padded, self.core, strict=True))))

    def own(self, start: Sequence[int]) -> tuple[slice, ...]:
        """A tile without surroundings, within the padded image."""
        return tuple(slice(s, min(s + c, n)) for s, c, n in zip(start, self.core, self.padded, strict=True))

    def around(self, start: Sequence[int]) -> tuple[slice, ...]:
        """A tile with its surroundings, within the padded image."""
        return tuple(slice(max(0, own.start - h), min(n, own.stop + h))
                     for own, h, n in zip(self.own(start), self.halo, self.padded, strict=True))

    def inside(self, start: Sequence[int], grid: Sequence[int]) -> tuple[slice, ...]:
        """Where the own part of a tile lies among the cells of its maps."""
        return tuple(slice((own.start - box.start) // g, (own.stop - box.start) // g)
                     for own, box, g in zip(self.own(start), self.around(start), grid, strict=True))

    def read(self, source: Region, start: Sequence[int]) -> Floats:
        """What the network is given for a tile, (C, *box).

        What is mirrored is less than the surroundings, so that they hold all that it is made from.
        """
        box = self.around(start)
        values = source(tuple(slice(b.start, min(b.stop, n)) for b, n in zip(box, self.shape, strict=True)))
        missing = [(0, max(0, b.stop - n)) for b, n in zip(box, self.shape, strict=True)]
        padded = np.pad(values, [(0, 0), *missing], mode="reflect" if min(self.shape) > 1 else "edge")
        return np.ascontiguousarray(padded)
