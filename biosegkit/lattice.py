"""The lattice of network tiles: it belongs to the plan and to the image, never to a block of work (law 7).

Tiles lie evenly between the first voxel and the last, as in nnU-Net: none overhangs an image that is larger than the
patch, for what a network normalises over would be padding there. Since the lattice is a product of axes, the weights
with which overlapping tiles are summed are products of one-dimensional windows and can be normalised axis by axis: no
map of summed weights is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil

import numpy as np
import numpy.typing as npt

__all__ = ["Lattice", "gaussian", "tile_starts"]


def tile_starts(size: int, patch: int, step: int) -> tuple[int, ...]:
    """First voxels of the tiles along one axis: as few as are no farther apart than the step, evenly spread.

    Source: nnU-Net's sliding window (Isensee et al. 2021).

    Examples
    --------
    >>> tile_starts(10, 4, 2), tile_starts(11, 4, 3), tile_starts(3, 4, 2)
    ((0, 2, 4, 6), (0, 2, 5, 7), (0,))
    """
    if size <= patch:
        return (0,)
    gaps = ceil((size - patch) / step)
    return tuple((2 * i * (size - patch) + gaps) // (2 * gaps) for i in range(gaps + 1))


def gaussian(patch: int) -> npt.NDArray[np.float64]:
    """Blending window of one axis: a Gaussian with a standard deviation of an eighth of the patch.

    Source: nnU-Net's importance map (Isensee et al. 2021).

    Examples
    --------
    >>> gaussian(1).tolist(), bool(gaussian(8)[3] == gaussian(8)[4])
    ([1.0], True)
    """
    position = np.arange(patch) - (patch - 1) / 2
    return np.asarray(np.exp(-0.5 * (position / (patch / 8)) ** 2))


@dataclass(frozen=True)
class Lattice:
    """Tiles of one image.

    Parameters
    ----------
    shape, patch, step : tuple of int
        In voxels of the preprocessed array, same length; ``1 <= step <= patch``.

    Examples
    --------
    >>> lattice = Lattice((10, 5), (4, 8), (2, 4))
    >>> lattice.rows, len(lattice), list(lattice)[1]
    ((0, 2, 4, 6), 4, (2, 0))
    """

    shape: tuple[int, ...]
    patch: tuple[int, ...]
    step: tuple[int, ...]

    def __post_init__(self) -> None:
        if not (len(self.shape) == len(self.patch) == len(self.step)):
            raise ValueError(f"shape {self.shape}, patch {self.patch} and step {self.step} differ in length")
        if not all(1 <= s <= p for s, p in zip(self.step, self.patch, strict=True)):
            raise ValueError(f"step {self.step} must be within 1 and the patch {self.patch}")

    @property
    def starts(self) -> tuple[tuple[int, ...], ...]:
        """First voxels per axis."""
        return tuple(tile_starts(s, p, t) for s, p, t in zip(self.shape, self.patch, self.step, strict=True))

    @property
    def rows(self) -> tuple[int, ...]:
        """First planes of the rows of tiles, along axis 0."""
        return self.starts[0]

    def __len__(self) -> int:
        total = 1
        for axis in self.starts:
            total *= len(axis)
        return total

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        """First voxel of each tile in lattice order: the last axis fastest."""
        return product(*self.starts)

    def within(self, start: Sequence[int], stop: Sequence[int]) -> Iterator[tuple[int, ...]]:
        """The tiles that reach a region, in lattice order: its maps need no other and are summed as in the whole image.

        Examples
        --------
        >>> list(Lattice((10, 5), (4, 8), (2, 4)).within((6, 0), (8, 5)))
        [(4, 0), (6, 0)]
        """
        limits = zip(self.starts, self.patch, start, stop, strict=True)
        return product(*([s for s in axis if low - patch < s < high] for axis, patch, low, high in limits))

    def windows(self) -> tuple[dict[int, npt.NDArray[np.float32]], ...]:
        """Per axis and start, the normalised window of the tile: at every voxel the windows of all tiles sum to 1.

        Voxels beyond the image get 0.
        """
        result = []
        for size, patch, starts in zip(self.shape, self.patch, self.starts, strict=True):
            window, total = gaussian(patch), np.zeros(starts[-1] + patch)
            for start in starts:
                total[start : start + patch] += window
            axis = {}
            for start in starts:
                share = window / total[start : start + patch]
                share[max(size - start, 0) :] = 0
                axis[start] = share.astype(np.float32)
            result.append(axis)
        return tuple(result)
