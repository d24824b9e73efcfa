"""An image as the network wants it: turned, cropped, measured once, read tile by tile (law 6)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from ._words import counted
from .errors import DataError
from .grid import Grid, Turn, unit_factor
from .image import Image
from .normalize import Statistics, apply, nonzero_mask, statistics
from .plan.schema import Channel, Plan
from .plan.spacing import new_shape
from .resample import resample_image
from .views import Rolling, is_lazy, viewed

__all__ = [
    "AHEAD", "Prepared", "decoding_spacing", "facts_of", "prepare", "prepared_again", "refuse_unfit", "turn_of",
    "working_shape",
]

#: A spacing this many times off the plan's is worth a warning (fault G7).
_FAR = 4.0
#: Schemes that take stored values as they are; the others scale each image by its own values.
_AS_STORED = ("ct", "rgb_to_0_1", "none")
#: Planes that are read together of an image that is read in parts, by number of axes.
AHEAD = {2: 256, 3: 16}
#: Voxels looked at to see whether intensities are in the plan's unit (fault V11).
_LOOKED_AT = 2**18


@dataclass(frozen=True, eq=False)
class Prepared:
    """One image, ready to be read in tiles.

    Parameters
    ----------
    array : array, (C, *space)
        Turned and cropped, values as they were read; a view or a lazy array.
    turn : Turn
        From the image's axes to those of ``array``.
    window : tuple of slice
        The crop within the turned image.
    shape : tuple of int
        Of the grid the network works on.
    measured : Statistics
        Of the whole (cropped) image.
    mask : ndarray of bool, optional
        Where z-score took its statistics.
    resampled : ndarray of float32, optional
        Normalised and on the network's grid, where that differs from the image's.
    notes : tuple of str
        What was repaired or is unusual.
    """

    array: Any
    turn: Turn
    window: tuple[slice, ...]
    shape: tuple[int, ...]
    measured: Statistics
    mask: npt.NDArray[np.bool_] | None
    resampled: npt.NDArray[np.float32] | None
    notes: tuple[str, ...]

    def read(self, start: Sequence[int], size: Sequence[int]) -> npt.NDArray[np.float32]:
        """A normalised tile (C, *size); zeros beyond the image."""
        region = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))
        if self.resampled is not None:
            tile = self.resampled[(slice(None), *region)]
        else:
            mask = None if self.mask is None else self.mask[region]
            tile = apply(np.asarray(self.array[(slice(None), *region)]), self.measured, mask)
        if tile.shape[1:] == tuple(size):
            return tile
        whole = np.zeros((tile.shape[0], *size), np.float32)
        whole[(slice(None), *(slice(0, n) for n in tile.shape[1:]))] = tile
        return whole

    def rolling(self, region: Sequence[slice], patch: Sequence[int]) -> Prepared:
        """For who reads a region in lattice order: of an array that is read when it is sliced, every voxel once."""
        if not is_lazy(self.array):
            return self
        return replace(self, array=Rolling(self.array, region, min(AHEAD[len(region)], patch[0])))


def turn_of(grid: Grid, plan: Plan) -> Turn:
    """From an image's axes to the plan's: first canonical (fault G5), then the plan's order.

    A stack for a plan of planes keeps its first axis first; a plane for a plan of stacks has the axes of their planes.
    """
    order = plan.preprocessing.transpose
    if grid.ndim > len(order):
        order = (0, *(1 + axis for axis in order))
    elif grid.ndim < len(order):
        order = tuple(int(rank) for rank in np.argsort(np.argsort(order[1:])))
    return grid.canonical_turn().then(Turn(tuple(order)))


def working_shape(grid: Grid, plan: Plan) -> tuple[int, ...]:
    """Shape of a turned grid once it has the plan's spacing; axes the network does not see stay as they are."""
    if not plan.preprocessing.resample:
        return grid.shape
    target, lead = plan.configuration.spacing, grid.ndim - len(plan.configuration.spacing)
    spacing = _spacing(grid, plan)
    return new_shape(grid.shape, spacing, (*spacing[:lead], *target))


def decoding_spacing(grid: Grid, plan: Plan) -> tuple[float, ...]:
    """Spacing of a turned grid in the unit that targets were encoded in, for maps with a length or a direction.

    A plan that does not resample takes every image to have its own spacing, as the network did.
    """
    if not plan.preprocessing.resample:
        target = plan.configuration.spacing
        return (*grid.spacing[: max(0, grid.ndim - len(target))], *target[-grid.ndim:])
    return _spacing(grid, plan)


def _spacing(grid: Grid, plan: Plan) -> tuple[float, ...]:
    """Spacing of a turned grid in the plan's unit.

    A plan that knows no physical size takes a voxel of any image for one of the images it was made for.
    """
    p = plan.preprocessing
    if p.unit == "px" and grid.unit != "px" and p.stored_spacing:
        return (*(1.0,) * (grid.ndim - len(p.stored_spacing)), *p.stored_spacing[-grid.ndim:])
    factor = unit_factor(grid.unit, p.unit)
    return tuple(s * factor for s in grid.spacing)


def prepare(image: Image, plan: Plan, *, resample: bool = True) -> Prepared:
    """Turn, crop and measure an image; nothing large is copied unless it must be resampled.

    Without ``resample`` the image is taken to have the spacing of the plan.

    Raises
    ------
    DataError
        If channels, axes or unit do not fit the plan.
    """
    image = image.in_channels(len(plan.preprocessing.channels))
    refuse_unfit(image, plan)
    turn = turn_of(image.grid, plan)
    array, grid = viewed(image.array, turn), image.grid.turned(turn)
    p = plan.preprocessing
    mask = nonzero_mask(np.asarray(array[:])) if p.use_nonzero_mask else None
    window = _nonzero_window(array) if p.crop_to_nonzero else tuple(slice(0, n) for n in grid.shape)
    if any(s.stop - s.start < n for s, n in zip(window, grid.shape, strict=True)):
        array = viewed(image.array, turn, window)
        mask = None if mask is None else mask[window]
        grid = grid.window(tuple(s.start for s in window), tuple(s.stop - s.start for s in window))
    dataset = [{"low": c.low, "high": c.high, "mean": c.mean, "std": c.std} for c in p.channels]
    measured = statistics(array, [c.scheme for c in p.channels], mask=mask, dataset=dataset, seed=plan.seed)
    shape = working_shape(grid, plan) if resample else grid.shape
    if shape != grid.shape:
        _check_memory(image, shape, plan)
    resampled = None if shape == grid.shape else _resampled(array, measured, mask, grid, shape)
    notes = (*image.notes, *measured.notes, *_unlike(array, p.channels), *_unlike_grid(grid, plan))
    return Prepared(array, turn, window, shape, measured, mask, resampled, notes)


def facts_of(prepared: Prepared) -> dict[str, Any]:
    """What was measured, as plain data from which :func:`prepared_again` needs no second look at the image."""
    return {"window": [[w.start, w.stop] for w in prepared.window], "notes": list(prepared.notes),
            "channels": [dict(entry) for entry in prepared.measured.channels], "nothing": prepared.measured.nothing}


def prepared_again(image: Image, plan: Plan, facts: Mapping[str, Any],
                   mask: npt.NDArray[np.bool_] | None = None) -> Prepared:
    """The image as it was prepared before, on the grid of the network, nothing of it read.

    Parameters
    ----------
    image, plan
        As they were.
    facts : dict
        Of :func:`facts_of`; infinite limits may have become None, as JSON has it.
    mask : ndarray of bool, optional
        As it was.
    """
    image = image.in_channels(len(plan.preprocessing.channels))
    turn = turn_of(image.grid, plan)
    window = tuple(slice(int(start), int(stop)) for start, stop in facts["window"])
    limits = {"low": -math.inf, "high": math.inf}
    channels = tuple({k: limits[k] if v is None else float(v) for k, v in entry.items()} for entry in facts["channels"])
    return Prepared(viewed(image.array, turn, window), turn, window, tuple(w.stop - w.start for w in window),
                    Statistics(channels, nothing=bool(facts.get("nothing"))), mask, None, tuple(facts["notes"]))


def _resampled(array: Any, measured: Statistics, mask: npt.NDArray[np.bool_] | None, grid: Grid,
               shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The normalised image on the network's grid (as in nnU-Net: normalise first, then resample)."""
    working = tuple(s * n / m for s, n, m in zip(grid.spacing, grid.shape, shape, strict=True))
    return resample_image(apply(np.asarray(array), measured, mask), grid.spacing, working, shape)


def _check_memory(image: Image, shape: tuple[int, ...], plan: Plan) -> None:
    """Refuse what cannot be held at the plan's spacing, before it is allocated (faults F5, G7)."""
    import psutil

    needed, available = 4 * image.array.shape[0] * math.prod(shape), psutil.virtual_memory().available
    if needed > 0.8 * available:
        unit = plan.preprocessing.unit
        raise DataError(f"{' × '.join(map(str, shape))} voxels ({needed / 2**30:.3g} GB) at the model's spacing",
                        file=image.source or None, expected=f"at most {0.8 * available / 2**30:.3g} GB",
                        remedy=f"check the spacing: {image.grid.spacing} {image.grid.unit} here, "
                        f"{plan.configuration.spacing} {unit} in the model (--spacing, --unit); or cut the image")


def refuse_unfit(image: Image, plan: Plan) -> None:
    """Refuse an image whose channels, axes or unit do not fit a plan; its voxels are not looked at."""
    p, source = plan.preprocessing, image.source or None
    if image.array.shape[0] != len(p.channels):
        raise DataError(f"{counted(image.array.shape[0], 'channel')} ({', '.join(image.channels)})", file=source,
                        expected=f"{len(p.channels)} ({', '.join(c.name for c in p.channels)})",
                        remedy="choose the channels the model was trained on, in this order (files of one channel "
                        "each are joined if named CASE_0000, CASE_0001, … and all are given)")
    if image.grid.ndim < plan.configuration.ndim:
        raise DataError(counted(image.grid.ndim, "spatial axis"), file=source, expected=f"{plan.configuration.ndim}",
                        remedy="use a 2D model, or name the axes with --axes")
    if p.resample and (image.grid.unit == "px") != (p.unit == "px") and not (p.unit == "px" and p.stored_spacing):
        raise DataError(f"no physical spacing that fits (unit {image.grid.unit!r})", file=source,
                        expected=f"a spacing in {p.unit}, the unit of the model",
                        remedy="give --pixel-size in µm, or --spacing and --unit" if p.unit != "px" else
                        "give --spacing and --unit px: this model knows pixels only")


def _nonzero_window(array: Any) -> tuple[slice, ...]:
    """Smallest box that holds every voxel that is not zero; everything if there is none. Looked at in slabs."""
    shape = array.shape[1:]
    planes = max(1, 2**22 // max(1, math.prod(shape[1:])))
    seen = [np.zeros(n, bool) for n in shape]
    for start in range(0, shape[0], planes):
        slab = np.asarray(array[:, start : start + planes])
        inside = (slab != 0).any(axis=0)
        for axis in range(len(shape)):
            here = inside.any(axis=tuple(a for a in range(len(shape)) if a != axis))
            if axis == 0:
                seen[0][start : start + len(here)] = here
            else:
                seen[axis] |= here
    if not seen[0].any():
        return tuple(slice(0, n) for n in shape)
    return tuple(slice(int(s.argmax()), len(s) - int(s[::-1].argmax())) for s in seen)


def _unlike(array: Any, channels: Sequence[Channel]) -> list[str]:
    """Warn where an image cannot be in the training set's unit (fault V11).

    Only where the scheme takes values as they are: one that scales each image by its own values makes up for any unit,
    and such intensities (MRI, fluorescence) often have none. ``low`` to ``high`` is the range of the foreground,
    outside which most voxels of an ordinary image may lie. So the sign is that hardly any voxel is inside, or that the
    image's whole contrast is a fiftieth of it (0 to 1 for HU).
    """
    notes = []
    looked_at = _sparse(array)
    for index, channel in enumerate(channels):
        if channel.scheme not in _AS_STORED or not channel.high > channel.low:
            continue
        values = looked_at[index].reshape(-1)
        values = values[values != 0] if (values != 0).any() else values
        values = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        inside = float(((values >= channel.low) & (values <= channel.high)).mean()) if values.size else 1.0
        low, high = (float(v) for v in np.percentile(values, (0.5, 99.5))) if values.size else (0.0, 0.0)
        flat = 0 < high - low < 0.02 * (channel.high - channel.low)
        if inside < 0.01 or flat:
            notes.append(f"{channel.name}: values {low:g} to {high:g}, but {channel.low:g} to {channel.high:g} "
                         "in the objects of the training set; is the image in another unit?")
    return notes


def _sparse(array: Any) -> npt.NDArray[Any]:
    """About a quarter of a million voxels, (C, …): every n-th per axis, or windows of what is read lazily."""
    shape = array.shape[1:]
    if not is_lazy(array):
        step = max(1, math.ceil((math.prod(shape) / _LOOKED_AT) ** (1 / len(shape))))
        return np.asarray(array[(slice(None), *(slice((min(step, n) - 1) // 2, None, step) for n in shape))])
    count = 8 if len(shape) == 2 else 4
    side = round((_LOOKED_AT / count ** len(shape)) ** (1 / len(shape)))
    starts = [np.unique(np.linspace(0, max(0, n - side), count).astype(int)) for n in shape]
    parts = [np.asarray(array[(slice(None), *(slice(s, s + side) for s in at))]) for at in product(*starts)]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], 1)


def _unlike_grid(grid: Grid, plan: Plan) -> list[str]:
    """Warn where an image is of another kind than those of training: a stack for planes, a size for pixels (G6)."""
    notes, p = [], plan.preprocessing
    if grid.ndim > len(p.transpose):
        notes.append(f"a stack of {counted(grid.shape[0], 'plane')} for a model of single planes: each is segmented by "
                     "itself")
    if p.unit != "px" or grid.unit == "px":
        return notes + _far(grid, plan)
    size = " × ".join(f"{s:.4g}" for s in grid.spacing[-plan.configuration.ndim:])
    unsized = (f"the model knows no physical size: a voxel of {size} {grid.unit} is taken for a pixel of the images it "
               "was trained on; is this the same kind of image?")
    return [*notes, unsized]


def _far(grid: Grid, plan: Plan) -> list[str]:
    """Warn where the spacing is far from that of the images the plan was made for (faults G6, G7)."""
    ndim = plan.configuration.ndim
    target = plan.preprocessing.stored_spacing[-ndim:] or plan.configuration.spacing
    spacing = _spacing(grid, plan)[-ndim:]
    worst = max(max(s / t, t / s) for s, t in zip(spacing, target, strict=False))
    if worst <= _FAR:
        return []
    shown = tuple(round(s, 4) for s in spacing)
    unit = plan.preprocessing.unit
    return [f"spacing {shown} is {worst:.3g} times off the model's {tuple(target)} {unit}; is the unit right?"]
