"""A giant image and an official StarDist model: everything a worker opens for it, by paths alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit._atomic import load_npy
from biosegkit.engines.intensities import between, chosen_channels, flat_notes, part_of, space_axes
from biosegkit.engines.star_model import StarModel
from biosegkit.engines.star_shapes import Candidates
from biosegkit.engines.streamed import boxes_of, streamed_bounds
from biosegkit.errors import OptionError
from biosegkit.image import Image
from biosegkit.io import open_pyramid
from biosegkit.io.zarr import CHUNK
from biosegkit.kernels.star_painting import paint_shapes
from biosegkit.methods import Block
from biosegkit.state_files import ArrayFile
from biosegkit.tidy import Frame

from .giant import GiantJob, facts_of_job, identity_of_image, stamp_of
from .sources import OBJECTS
from .tasks import Opening, opened
from .tidied import Tidied
from .tidying import steps_of

__all__ = ["Stars", "identity_of", "image_of", "model_of", "stars_of"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

#: Tiles that one call computes.
_GROUP = 16
#: Chunks that one call paints, per axis.
_CHUNKS = {2: (2, 2), 3: (2, 4, 4)}


@dataclass(frozen=True, eq=False)
class Stars:
    """A job with everything opened."""

    job: GiantJob
    model: StarModel
    image: Image
    facts: Mapping[str, Any]

    @cached_property
    def axes(self) -> tuple[int, ...]:
        """Of the image, those that the model looks at."""
        return space_axes(self.image)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of the image along them."""
        return tuple(self.image.grid.shape[a] for a in self.axes)

    @cached_property
    def thresholds(self) -> dict[str, float]:
        """All of them."""
        return self.model.chosen(dict(self.job.thresholds))

    def intensities(self, box: Sequence[slice], notes: list[str] | None = None) -> Floats:
        """A box of the channels that the network takes, not yet stretched."""
        said: list[str] = [] if notes is None else notes
        return chosen_channels(part_of(self.image, box), self.model.options.channel, self.model.config.n_channel_in,
                               said)

    def source(self, box: tuple[slice, ...]) -> Floats:
        """A box as the network takes it."""
        bounds = np.asarray(self.facts["bounds"], np.float32)
        return between(self.intensities(box), bounds.reshape(*bounds.shape, *(1 for _ in box)))

    def measured(self) -> tuple[Floats, list[str]]:
        """The bounds of every channel, (2, C), which the whole image is read for; and notes."""
        notes, o = self.model.notes_of(self.image), self.model.options
        self.intensities([slice(0, 1)] * len(self.shape), notes)
        bounds = streamed_bounds(self.intensities, self.shape, (o.low, o.high), joint=o.joint)
        notes += flat_notes(bounds, o.low, o.high)
        if self.image.grid.unit != "px":
            notes.append("StarDist models know no pixel size: the finest level is taken as it is")
        return bounds, notes

    @cached_property
    def groups(self) -> list[list[tuple[int, ...]]]:
        """The tiles that are looked at, as many together as one call computes."""
        tiles = self.model.tiles(self.shape)
        starts = [start for start in tiles.starts if self._shows_tissue(tiles.own(start))]
        return [starts[k: k + _GROUP] for k in range(0, len(starts), _GROUP)]

    def _shows_tissue(self, own: Sequence[slice]) -> bool:
        if not self.job.tissue:
            return True
        mask = load_npy(self.job.tissue)
        cells = mask.reshape([mask.shape[a] for a in self.axes])
        return bool(cells[tuple(slice(o.start * c // n, -(-min(o.stop, n) * c // n))
                                for o, n, c in zip(own, self.shape, cells.shape, strict=True))].any())

    @cached_property
    def boxes(self) -> list[tuple[slice, ...]]:
        """Of whole chunks of the labels, along all axes of the image."""
        ndim = self.image.grid.ndim
        return list(boxes_of(self.image.grid.shape, [c * k for c, k in zip(CHUNK[ndim], _CHUNKS[ndim], strict=True)]))

    @cached_property
    def tiles(self) -> dict[tuple[int, ...], int]:
        """The number of every tile that is looked at, by where it begins."""
        return {start: k for k, start in enumerate(start for group in self.groups for start in group)}

    @cached_property
    def _ends(self) -> tuple[Ints, Ints]:
        """First voxel and last + 1 of these tiles, (tiles, axes)."""
        own = [self.model.tiles(self.shape).own(start) for start in self.tiles]
        ends = np.array([[(o.start, o.stop) for o in one] for one in own], np.int64)
        ends = ends.reshape(len(own), len(self.axes), 2)
        return ends[..., 0], ends[..., 1]

    def tiles_in(self, box: Sequence[slice]) -> list[int]:
        """The numbers of the tiles that a box of the image meets."""
        own, (low, high) = [box[a] for a in self.axes], self._ends
        met = ((low < [o.stop for o in own]) & (high > [o.start for o in own])).all(1)
        return [int(k) for k in np.flatnonzero(met)]

    def tidied(self, folder: Path, best: tuple[Candidates, Ints, Ints]) -> Tidied:
        """Boxes with post-processing; object ``k`` is candidate ``k - 1`` before it."""
        shape = self.image.grid.shape
        blocks = [Block.cut([b.start for b in box], [b.stop - b.start for b in box], shape) for box in self.boxes]
        steps = steps_of(self.model.tidy, OBJECTS, Frame.whole(shape))
        unseen = [not self.tiles_in(box) for box in self.boxes] if self.job.tissue else [False] * len(blocks)
        return Tidied(folder, blocks, steps, lambda k: self.painted(self.boxes[k], best), unseen)

    def state(self, group: int) -> Path:
        """The candidates of a group."""
        return self.job.kept / "states" / f"{group}.safetensors"

    @cached_property
    def best(self) -> tuple[Candidates, Ints, Ints]:
        """The objects, and the first and last voxel that each may reach, along the axes of the model."""
        file = ArrayFile(self.job.folder / "decisions" / "objects.safetensors")
        found = Candidates(file["points"], file["prob"], file["dist"], file.get("classes"))
        return found, *self.reaches(found)

    @cached_property
    def decided(self) -> Tidied:
        """Boxes by what was decided."""
        return self.tidied(self.job.folder / "decisions", self.best)

    def reaches(self, found: Candidates) -> tuple[Ints, Ints]:
        """First and last voxel of boxes around shapes, (K, ndim)."""
        ndim = len(self.shape)
        low, high = found.points.copy(), found.points.copy()
        steps = self.model.rays.steps((1.0,) * ndim)[:, 3 - ndim :].astype(np.float32)
        for axis in range(ndim):
            along = found.dist * steps[:, axis]
            low[:, axis] += np.floor(along.min(1, initial=0)).astype(np.int64) - 1
            high[:, axis] += np.ceil(along.max(1, initial=0)).astype(np.int64) + 1
        return low, high

    def painted(self, box: Sequence[slice], best: tuple[Candidates, Ints, Ints]
                ) -> npt.NDArray[np.uint32]:
        """A box of the image, object ``k`` being candidate ``k - 1``; the more probable one wins."""
        found, low, high = best
        own = [box[a] for a in self.axes]
        start, stop = [o.start for o in own], [o.stop for o in own]
        which = np.flatnonzero(((low < stop) & (high >= start)).all(1))[::-1]
        out = paint_shapes([b - a for a, b in zip(start, stop, strict=True)], found.points[which], found.dist[which],
                           self.model.rays, ids=which + 1, start=start)
        return out.reshape([b.stop - b.start for b in box])


def model_of(job: GiantJob) -> StarModel:
    """The model, loaded once per process."""
    found = opened(Opening(job.model, job.device, job.options, job.depth, job.digest))
    if not isinstance(found, StarModel):
        raise OptionError(f"model {job.model}", expected="a StarDist model", remedy="name one")
    return found


def image_of(job: GiantJob) -> Image:
    """The image at its finest level, read when it is sliced."""
    return open_pyramid(job.images, job.reading).level(0)


def identity_of(job: GiantJob, model: StarModel) -> dict[str, Any]:
    """What candidates depend on."""
    return {**identity_of_image(job), "model": model.digest, "thresholds": model.chosen(dict(job.thresholds))}


def stars_of(job: GiantJob) -> Stars:
    """What :func:`biosegkit.batch.stars.prepare_stars` left, opened."""
    return _opened(job, stamp_of(job))


@lru_cache(maxsize=2)
def _opened(job: GiantJob, stamp: int) -> Stars:
    model = model_of(job)
    return Stars(job, model, image_of(job), facts_of_job(job, identity_of(job, model)))
