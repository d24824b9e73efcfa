"""What blocks need of a model over one image: trained here, or a Cellpose model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from biosegkit.bundle import Bundle
from biosegkit.device import describe
from biosegkit.engines.cellpose_model import CellposeModel, activated
from biosegkit.engines.found import relative
from biosegkit.engines.intensities import between, flat_notes, space_axes
from biosegkit.engines.planes import PlaneNet
from biosegkit.engines.streamed import streamed_bounds
from biosegkit.errors import DataError
from biosegkit.grid import Turn
from biosegkit.image import Image
from biosegkit.io import Pyramid
from biosegkit.methods import Block, Method
from biosegkit.methods.protocol import ArrayDict, checked_thresholds
from biosegkit.normalize import Statistics
from biosegkit.plan.schema import LabelTable
from biosegkit.prepared import Prepared, decoding_spacing, facts_of, prepare, prepared_again
from biosegkit.tidy import Tidy, TidyObjects

from .layout import Costs
from .levels import level_for

if TYPE_CHECKING:
    from .giant import GiantJob

__all__ = ["OBJECTS", "BundleSource", "FlowSource", "Shows", "Source"]

Mask = npt.NDArray[np.bool_]
#: Whether a box of the turned and cropped image is worth looking at, by its first voxels and its size.
Shows = Callable[[Sequence[int], Sequence[int]], bool]
#: What labels mean where all objects are of one kind.
OBJECTS = LabelTable(task="instance", names=("background", "object"), values=(0, 1))
#: Bytes per voxel that a group takes beside its input, of the image and of what it is resized to.
_HELD, _RESIZED = 56, 44


class Source(Protocol):
    """A model as blocks need it."""

    @property
    def digest(self) -> str:
        """What states depend on."""
        ...

    @property
    def method(self) -> Method:
        """Decodes."""
        ...

    @property
    def tidy(self) -> Tidy | None:
        """Post-processing."""
        ...

    @property
    def labels(self) -> LabelTable:
        """What the numbers mean."""
        ...

    @property
    def masked(self) -> bool:
        """Whether a mask of the image is kept."""
        ...

    def ndim(self, image: Image) -> int:
        """Axes that are decoded together."""
        ...

    def thresholds(self, image: Image, given: dict[str, float]) -> dict[str, float]:
        """All of them, checked."""
        ...

    def image(self, pyramid: Pyramid) -> Image:
        """On the grid that is segmented, read when it is sliced."""
        ...

    def measure(self, image: Image) -> tuple[Prepared, dict[str, Any]]:
        """Measure the image once; the second is plain data."""
        ...

    def again(self, image: Image, facts: dict[str, Any], mask: Mask | None) -> Prepared:
        """What :meth:`measure` gave, from plain data."""
        ...

    def costs(self, image: Image, prepared: Prepared, job: GiantJob) -> Costs:
        """What the size of groups depends on."""
        ...

    def spacing(self, image: Image, prepared: Prepared) -> tuple[float, ...]:
        """Of voxels for decoding."""
        ...

    def reached(self, image: Image, prepared: Prepared, block: Block, shows: Shows) -> bool:
        """Whether a tile that is looked at reaches a block."""
        ...

    def parts(self, image: Image, prepared: Prepared, wanted: Sequence[Block], *, tta: bool, shows: Shows | None
              ) -> Iterator[tuple[ArrayDict, Block]]:
        """Maps (C, *block.array_shape) of blocks that fill a box."""
        ...

    def record(self) -> dict[str, Any]:
        """What is written beside results."""
        ...

    def remarks(self, job: GiantJob) -> list[str]:
        """What else there is to say of a result."""
        ...


@dataclass(frozen=True, eq=False)
class BundleSource:
    """A model that was trained here."""

    bundle: Bundle

    @property
    def digest(self) -> str:
        """Of the weights."""
        return self.bundle.weights_digest

    @property
    def method(self) -> Method:
        """Of the plan."""
        return self.bundle.segmenter.method

    @property
    def tidy(self) -> Tidy | None:
        """Of the model."""
        return self.bundle.segmenter.tidy

    @property
    def labels(self) -> LabelTable:
        """Of the plan."""
        return self.bundle.plan.labels

    @property
    def masked(self) -> bool:
        """Where values that are not zero are looked for."""
        return self.bundle.plan.preprocessing.use_nonzero_mask

    def ndim(self, image: Image) -> int:
        """Of the network, for objects."""
        return self.bundle.plan.configuration.ndim if self.labels.task == "instance" else image.grid.ndim

    def thresholds(self, image: Image, given: dict[str, float]) -> dict[str, float]:
        """Those of the model, overridden."""
        return checked_thresholds(self.method.tunables, {**self.bundle.thresholds, **given})

    def image(self, pyramid: Pyramid) -> Image:
        """On the grid of the network."""
        return level_for(self.bundle.plan, pyramid)

    def measure(self, image: Image) -> tuple[Prepared, dict[str, Any]]:
        """As the plan says."""
        prepared = prepare(image, self.bundle.plan, resample=False)
        return prepared, facts_of(prepared)

    def again(self, image: Image, facts: dict[str, Any], mask: Mask | None) -> Prepared:
        """From plain data."""
        return prepared_again(image, self.bundle.plan, facts, mask)

    def costs(self, image: Image, prepared: Prepared, job: GiantJob) -> Costs:
        """By the lattice of the network."""
        lattice, ndim = self.bundle.segmenter.lattice(prepared.shape), self.bundle.plan.configuration.ndim
        channels = sum(head.channels for head in self.method.heads(ndim))
        pixel = image.array.shape[0] * image.array.dtype.itemsize
        return Costs(channels, pixel, lattice.patch, lattice.step, self.method.halo, job.memory, job.workers,
                     planar=self.labels.task == "instance" and image.grid.ndim > ndim)

    def spacing(self, image: Image, prepared: Prepared) -> tuple[float, ...]:
        """In the unit that targets were encoded in."""
        return decoding_spacing(image.grid.turned(prepared.turn), self.bundle.plan)

    def reached(self, image: Image, prepared: Prepared, block: Block, shows: Shows) -> bool:
        """Whether a tile of the lattice that is looked at does."""
        lattice = self.bundle.segmenter.lattice(prepared.shape)
        low, high = [r.start for r in block.read], [r.stop for r in block.read]
        return any(shows(tile, lattice.patch) for tile in lattice.within(low, high))

    def parts(self, image: Image, prepared: Prepared, wanted: Sequence[Block], *, tta: bool, shows: Shows | None
              ) -> Iterator[tuple[ArrayDict, Block]]:
        """Tile by tile along the first axis."""
        patch = self.bundle.segmenter.lattice(prepared.shape).patch
        tiles = None if shows is None else (lambda tile: shows(tile, patch))
        return self.bundle.segmenter.region_parts(prepared, wanted, tta=tta, tiles=tiles)

    def remarks(self, job: GiantJob) -> list[str]:
        """On mirrored copies."""
        if job.tta and not self.bundle.segmenter.mirrored:
            return ["test-time augmentation changes nothing: this model was trained without mirroring"]
        return []

    def record(self) -> dict[str, Any]:
        """Plan, thresholds and versions."""
        bundle = self.bundle
        return {"device": describe(bundle.device), "seed": bundle.plan.seed, "plan": bundle.plan.hash,
                "thresholds": dict(bundle.thresholds), "postprocessing": bundle.postprocessing,
                "bundle_versions": bundle.info.get("versions", {}), "depth": bundle.segmenter.depth or None}


@dataclass(frozen=True, eq=False)
class FlowSource:
    """A Cellpose model. Images are not turned; scale and percentiles are those of the whole image."""

    model: CellposeModel

    @property
    def digest(self) -> str:
        """Of weights and options."""
        return self.model.digest

    @property
    def method(self) -> Method:
        """As for images in memory."""
        return self.model.method

    @property
    def tidy(self) -> Tidy | None:
        """Of the options."""
        return None if self.model.tidy == TidyObjects() else self.model.tidy

    @property
    def labels(self) -> LabelTable:
        """Objects of one kind."""
        return OBJECTS

    @property
    def masked(self) -> bool:
        """No."""
        return False

    @property
    def net(self) -> PlaneNet:
        """What the model runs."""
        return cast("PlaneNet", self.model.run)

    def ndim(self, image: Image) -> int:
        """Those that count."""
        return len(space_axes(image))

    def thresholds(self, image: Image, given: dict[str, float]) -> dict[str, float]:
        """Those of the model for so many axes, overridden."""
        return self.model.chosen(given, self.ndim(image))

    def image(self, pyramid: Pyramid) -> Image:
        """The finest level."""
        return pyramid.level(0)

    def measure(self, image: Image) -> tuple[Prepared, dict[str, Any]]:
        """The percentiles of every channel, for which the whole image is read."""
        axes, ndim = space_axes(image), image.grid.ndim
        if axes != tuple(range(ndim - len(axes), ndim)):
            raise DataError(f"an image of {image.grid.shape} voxels in blocks", file=image.source or None,
                            expected="one plane, or a stack of planes", remedy="write its axes as z, y, x")
        o, notes = self.model.options, self.model.notes_of(image)
        shape = tuple(image.grid.shape[a] for a in axes)
        bounds = streamed_bounds(lambda box: self.model.intensities(image, box), shape, (o.low, o.high), joint=False)
        notes += flat_notes(bounds, o.low, o.high)
        if image.grid.unit != "px":
            notes.append("Cellpose models know no pixel size: the finest level is taken, and resized by diameter alone")
        facts = {"notes": [*image.notes, *notes], "bounds": bounds.tolist()}
        return self.again(image, facts, None), facts

    def again(self, image: Image, facts: dict[str, Any], mask: Mask | None) -> Prepared:
        """As it was read."""
        shape = image.grid.shape
        low, high = facts["bounds"]
        channels = tuple({"low": a, "high": b} for a, b in zip(low, high, strict=True))
        return Prepared(image.array, Turn(tuple(range(len(shape)))), tuple(slice(0, n) for n in shape), shape,
                        Statistics(channels), mask, None, tuple(facts["notes"]))

    def costs(self, image: Image, prepared: Prepared, job: GiantJob) -> Costs:
        """Maps of a group are held whole."""
        axes, net, shape = space_axes(image), self.net, image.grid.shape
        small = net.resized_shape([shape[a] for a in axes], self.spacing(image, prepared)[-len(axes):])
        ratio = [1.0] * (len(shape) - len(axes)) + [m / shape[a] for a, m in zip(axes, small, strict=True)]
        patch = tuple(max(1, round(net.tile / r)) if a in axes else 1 for a, r in enumerate(ratio))
        step = tuple(max(1, round(n / 1.2)) for n in patch)
        planar = len(axes) < len(shape)
        held = _HELD + (_RESIZED + 4 * net.channels) * float(np.prod(ratio))
        return Costs(1 + len(axes), image.array.shape[0] * image.array.dtype.itemsize, patch, step, self.method.halo,
                     job.memory, job.workers, planar, held)

    def spacing(self, image: Image, prepared: Prepared) -> tuple[float, ...]:
        """Relative to the finest axis of those that count."""
        axes = space_axes(image)
        return (*(1.0,) * (image.grid.ndim - len(axes)), *relative([image.grid.spacing[a] for a in axes]))

    def reached(self, image: Image, prepared: Prepared, block: Block, shows: Shows) -> bool:
        """Whether a tile of a plane that is looked at does."""
        shape, scale, lead = self._seen(image, prepared)
        boxes = self.net.tiles(shape, scale, block.read[lead:])
        return any(_shown(shows, lead)(box) for box in boxes)

    def parts(self, image: Image, prepared: Prepared, wanted: Sequence[Block], *, tta: bool, shows: Shows | None
              ) -> Iterator[tuple[ArrayDict, Block]]:
        """All at once; Cellpose models have no test-time augmentation."""
        shape, scale, lead = self._seen(image, prepared)
        channels = prepared.measured.channels
        bounds = np.array([[c["low"] for c in channels], [c["high"] for c in channels]], np.float32)
        bounds = bounds.reshape(*bounds.shape, *(1,) * len(shape))
        box = tuple(slice(min(b.read[a].start for b in wanted), max(b.read[a].stop for b in wanted))
                    for a in range(lead, image.grid.ndim))
        maps = self.net.boxed(lambda part: between(self.model.intensities(image, part), bounds), shape, scale, box,
                              None if shows is None else _shown(shows, lead))
        found = activated(maps[:-1], maps[-1])
        for block in wanted:
            place = tuple(slice(r.start - b.start, r.stop - b.start)
                          for r, b in zip(block.read[lead:], box, strict=True))
            yield {name: np.ascontiguousarray(m[(slice(None), *place)]).reshape(len(m), *block.array_shape)
                   for name, m in found.items()}, block

    def remarks(self, job: GiantJob) -> list[str]:
        """None."""
        return []

    def record(self) -> dict[str, Any]:
        """The model's own."""
        return {"device": describe(self.net.device), "model": self.model.record}

    def _seen(self, image: Image, prepared: Prepared) -> tuple[tuple[int, ...], tuple[float, ...], int]:
        """Shape and voxel size along the axes that count, and how many axes are before them."""
        lead = image.grid.ndim - len(space_axes(image))
        return image.grid.shape[lead:], self.spacing(image, prepared)[lead:], lead


def _shown(shows: Shows, lead: int) -> Callable[[tuple[slice, ...]], bool]:
    """The same question for a box along the axes that count."""
    return lambda box: shows([0] * lead + [b.start for b in box], [1] * lead + [b.stop - b.start for b in box])
