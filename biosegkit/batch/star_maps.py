"""Maps of a giant image by an official StarDist model, copied from its tiles into the chunks of a box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .maps import kept_map, map_stores
from .star_work import Stars

__all__ = ["paint_star_maps"]


def paint_star_maps(work: Stars, box: tuple[slice, ...]) -> None:
    """Write the chunks of a box of the image; a cell of the model's grid is repeated over its voxels."""
    own = [box[a] for a in work.axes]
    grid, starts, numbers = work.model.config.grid, list(work.tiles), work.tiles_in(box)
    tiles = work.model.tiles(work.shape)
    for name, store in map_stores(work.job, work.image.grid).items():
        for channel in range(store.channels):
            values = np.zeros([o.stop - o.start for o in own], np.float32)
            for k in numbers:
                region = [slice(max(o.start, t.start), min(o.stop, t.stop))
                          for o, t in zip(own, tiles.own(starts[k]), strict=True)]
                into = tuple(slice(r.start - o.start, r.stop - o.start) for r, o in zip(region, own, strict=True))
                values[into] = _spread(kept_map(work.job, k, name)[channel], starts[k], region, grid)
            store.write(channel, [b.start for b in box], values.reshape([b.stop - b.start for b in box]))


def _spread(cells: npt.NDArray[np.float32], start: Sequence[int], region: Sequence[slice],
            grid: Sequence[int]) -> npt.NDArray[np.float32]:
    """A region of the voxels of a tile that begins at ``start``, a multiple of the grid along every axis."""
    inside = [slice(r.start - s, r.stop - s) for r, s in zip(region, start, strict=True)]
    part = cells[tuple(slice(i.start // g, -(-i.stop // g)) for i, g in zip(inside, grid, strict=True))]
    for axis, g in enumerate(grid):
        part = part.repeat(g, axis)
    return np.asarray(part[tuple(slice(i.start % g, i.start % g + i.stop - i.start)
                                 for i, g in zip(inside, grid, strict=True))])
