"""From what a file holds to (c) z y x on a Grid: axes, colours, spacing. Metadata decide, never sizes (V9, V10, G6)."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from biosegkit._words import counted
from biosegkit.errors import DataError, OptionError
from biosegkit.grid import ORTHONORMAL_TOLERANCE, Grid
from biosegkit.image import COLOURS, Image, equal_channels

from .colours import Renaming, read_by_colour
from .options import ReadOptions
from .raw import Array, Header, Raw, Window, check_budget, native
from .regions import Regions

__all__ = ["NO_SIZE", "axes_of", "channel_names", "sizes_text", "to_header", "to_image", "to_plane", "to_regions"]

#: What is noted of a file that does not say how large its pixels are.
NO_SIZE = "no pixel size in the file: unit px, spacing 1"


@dataclass(frozen=True)
class _Layout:
    """How to get from the stored array to (c, *space): pick indices, transpose, drop alpha."""

    picks: tuple[Any, ...]
    order: tuple[int, ...]
    channels: int
    colour: bool
    grid: Grid
    notes: tuple[str, ...]

    def apply(self, array: Array) -> Array:
        out: Array = array[self.picks].transpose(self.order)
        if out.ndim == self.grid.ndim:
            out = out[None]
        return out[: self.channels]

    def stored(self, region: tuple[slice, ...]) -> tuple[slice, ...]:
        """The part of the stored array that a region of (c, *space) is in; its time point is the first."""
        given = region[1 + self.grid.ndim - len(self.order) :]
        kept: list[slice] = [given[self.order.index(k)] for k in range(len(self.order))]
        return tuple(kept.pop(0) if isinstance(pick, slice) else slice(pick, pick + 1) for pick in self.picks)

    def regions(self, shape: tuple[int, ...], window: Window, dtype: np.dtype[Any]) -> Regions:
        """(c, *space) of a stored array, read by regions."""
        kept = [n for n, pick in zip(shape, self.picks, strict=True) if isinstance(pick, slice)]
        space = [kept[k] for k in self.order][len(self.order) - self.grid.ndim :]
        picks = tuple(pick if isinstance(pick, slice) else 0 for pick in self.picks)

        def read(region: tuple[slice, ...]) -> Array:
            out = window(self.stored(region))[picks].transpose(self.order)
            if out.ndim == self.grid.ndim:
                out = out[None]
            return np.ascontiguousarray(out, dtype)

        return Regions((self.channels, *space), dtype, read)


def to_header(raw: Raw, options: ReadOptions) -> Header:
    """Shape, channels, dtype and grid, without reading voxels."""
    layout = _layout(raw, options)
    return Header(layout.grid.shape, layout.channels, native(raw.dtype, raw.file), layout.grid, layout.notes)


def to_image(raw: Raw, options: ReadOptions) -> Image:
    """The image with its voxels, native dtype; equal colours are made one channel unless three are named."""
    layout = _layout(raw, options)
    array = _loaded(raw, layout, options)
    stored = COLOURS if layout.colour else raw.channels
    image = Image(array, layout.grid, stored if len(stored) == array.shape[0] else (), raw.file, layout.notes)
    if layout.colour:
        image = image.in_channels(len(options.channel_names) or 1)
    names = channel_names(options, image.channels, image.array.shape[0], raw.file)
    return replace(image, array=np.ascontiguousarray(image.array), channels=names)


def to_regions(raw: Raw, options: ReadOptions) -> tuple[list[tuple[Regions, Grid]], tuple[str, ...], tuple[str, ...]]:
    """Every resolution with its grid, finest first, names of the channels, and notes; no voxel is read.

    Raises
    ------
    DataError
        As for :func:`to_image`; also where the format does not allow to read regions.
    """
    layout = _layout(raw, options)
    if raw.window is None:
        raise DataError("a format that can only be read whole", file=raw.file, expected="TIFF, OME-Zarr or plain NIfTI",
                        remedy="convert it to OME-Zarr")
    dtype = native(raw.dtype, raw.file)
    found = [(layout.regions(raw.shape, raw.window, dtype), layout.grid)]
    for level in raw.coarser:
        array = layout.regions(level.shape, level.window, dtype)
        move = np.eye(layout.grid.ndim + 1)
        for i, a in enumerate(layout.grid.axes):
            move[i, i], move[i, -1] = level.steps.get(a, 1.0), level.shifts.get(a, 0.0)
        found.append((array, Grid(array.shape[1:], layout.grid.affine @ move, layout.grid.unit)))
    names = COLOURS if layout.colour else raw.channels
    return found, channel_names(options, names, layout.channels, raw.file), layout.notes


def to_plane(raw: Raw, options: ReadOptions, names: Renaming = MappingProxyType({}),
             taken: Collection[int] | None = None) -> tuple[Array, Grid, tuple[str, ...], dict[int, int]]:
    """One value per voxel for labels: (array, grid, notes, what values are to be renamed to).

    ``taken`` is given where labels are objects: numbers that no colour may stand for.

    Raises
    ------
    DataError
        For several channels, or colours that are neither grey nor named nor objects.
    """
    layout = _layout(raw, options)
    array = _loaded(raw, layout, options)
    numbers = {k: v for k, v in names.items() if isinstance(k, int)}
    if layout.colour and len(numbers) == len(names) and equal_channels(array):
        return array[0], layout.grid, (*layout.notes, "RGB labels with three equal channels read as one"), numbers
    if array.shape[0] != 1 and not layout.colour:
        raise DataError(f"{counted(array.shape[0], 'channel')} of labels", file=raw.file,
                        expected="one integer per voxel",
                        remedy="export an indexed or grey label image; name the axes with --axes if they were misread")
    if layout.colour or len(numbers) < len(names):
        plane, numbers, notes = read_by_colour(array, names, raw.file, raw.palette, taken)
        return plane, layout.grid, (*layout.notes, *notes), numbers
    return array[0], layout.grid, layout.notes, numbers


def _loaded(raw: Raw, layout: _Layout, options: ReadOptions) -> Array:
    """The voxels in (c, *space) order and readable dtype."""
    dtype = native(raw.dtype, raw.file)
    one = raw.window is not None and any(isinstance(p, int) and n > 1 for p, n in zip(layout.picks, raw.shape,
                                                                                     strict=True))
    if raw.window is not None and one:  # a time point of many: the others are not read
        regions = layout.regions(raw.shape, raw.window, dtype)
        check_budget(math.prod(regions.shape) * dtype.itemsize, raw.file, options.budget)
        return regions[...]
    check_budget(math.prod(raw.shape) * dtype.itemsize, raw.file, options.budget)
    array = layout.apply(raw.load())
    return array.astype(dtype, copy=False)


def channel_names(options: ReadOptions, names: tuple[str, ...], count: int, file: str) -> tuple[str, ...]:
    """Names of ``count`` channels: the user's, which must fit, else those of the file, if they do.

    Raises
    ------
    DataError
        If the user names another number.
    """
    if not options.channel_names:
        return names if len(names) == count else ()
    if len(options.channel_names) != count:
        raise DataError(counted(count, "channel"), file=file,
                        expected=f"{len(options.channel_names)}, as named: {', '.join(options.channel_names)}",
                        remedy="correct --channels, or channel_names in dataset.json, or convert the image")
    return options.channel_names


def _layout(raw: Raw, options: ReadOptions) -> _Layout:
    """Decide what every axis of the stored array is."""
    axes, sizes = axes_of(raw, options)
    notes = list(raw.notes)
    picks: list[Any] = [slice(None)] * len(sizes)
    for i, (letter, size) in enumerate(zip(axes, sizes, strict=True)):
        if letter == "t" and size > 1:
            picks[i] = _frame(raw, options, size)
            notes.append(f"time point {picks[i]} of {size}")
        elif letter == "q" and size > 1:
            raise DataError(f"an axis of length {size} of unknown meaning in shape {tuple(sizes)}", file=raw.file,
                            expected="axes named by metadata", remedy="name them, for example --axes zyx or --axes cyx")
        elif letter not in "zyx" and size == 1:
            picks[i] = 0
    kept = [(a, s) for a, s, p in zip(axes, sizes, picks, strict=True) if isinstance(p, slice)]
    letters = "".join(a for a, _ in kept)
    if "c" in letters and "s" in letters:
        raise DataError(f"both a channel axis and colour samples in shape {tuple(sizes)}", file=raw.file,
                        expected="one of them", remedy="split the channels into files")
    colour, channels = _colour(dict(kept), raw.file, notes)
    order = tuple(letters.index(a) for a in "sczyx" if a in letters)
    shape = tuple(dict(kept)[a] for a in "zyx" if a in letters)
    for i, (a, pick) in enumerate(zip(axes, picks, strict=True)):
        if a not in "zyx" and isinstance(pick, slice) and sizes[i] == 0:
            raise DataError(f"shape {tuple(sizes)} with an empty axis", file=raw.file, expected="at least one channel")
    grid = _grid(raw, shape, "".join(a for a in "zyx" if a in letters), options, notes)
    return _Layout(tuple(picks), order, channels, colour, grid, tuple(notes))


def axes_of(raw: Raw, options: ReadOptions) -> tuple[str, tuple[int, ...]]:
    """The letters of the axes; the user's win. Axes of length one the user left out may stand anywhere."""
    named = options.axes
    if named is None:
        return raw.axes, raw.shape
    if raw.axes.startswith("xy") and named[-1] == "x":  # NIfTI stores x first; users may name axes either way round
        named = named[::-1]
    if len(named) == len(raw.shape):
        return named, raw.shape
    if len(named) == sum(s > 1 for s in raw.shape):
        letters = iter(named)
        return "".join(next(letters) if s > 1 else "q" for s in raw.shape), raw.shape
    raise OptionError(f"{counted(len(raw.shape), 'axis')}, shape {raw.shape}", file=raw.file,
                      expected=f"{len(named)}, as named by axes {named!r}", remedy="name every axis with --axes")


def _frame(raw: Raw, options: ReadOptions, size: int) -> int:
    if options.frame is None:
        raise DataError(f"{size} time points", file=raw.file, expected="one image per file",
                        remedy="save one time point per file, or --axes with z or c in place of t if it is no time")
    if not 0 <= options.frame < size:
        raise OptionError(f"time point {options.frame}", file=raw.file, expected=f"0 to {size - 1}")
    return options.frame


def _colour(sizes: dict[str, int], file: str, notes: list[str]) -> tuple[bool, int]:
    """Whether the channels are colours, and how many stay after alpha is dropped (V9)."""
    samples = sizes.get("s")
    if samples is None:
        return False, sizes.get("c", 1)
    if samples in (2, 4):
        notes.append("alpha channel dropped")
    elif samples != 3:
        raise DataError(counted(samples, "colour sample"), file=file, expected="1 to 4",
                        remedy="name the axes with --axes")
    return samples > 2, 1 if samples == 2 else 3


def _grid(raw: Raw, shape: tuple[int, ...], letters: str, options: ReadOptions, notes: list[str]) -> Grid:
    """The geometry of the file, changed by what the user said about it."""
    try:
        return _checked(_stated(raw, shape, letters, options, notes), raw.file, notes)
    except DataError as error:
        raise DataError(error.found, file=raw.file, expected=error.expected, remedy=error.remedy) from error


def _stated(raw: Raw, shape: tuple[int, ...], letters: str, options: ReadOptions, notes: list[str]) -> Grid:
    if len(shape) not in (2, 3):
        raise DataError(f"spatial axes {letters!r}", expected="yx or zyx", remedy="name the axes with --axes")
    wanted = _wanted(raw, letters, options)
    if raw.affine is not None and len(raw.affine) == len(shape) + 1:
        grid = Grid(shape, raw.affine, raw.unit)
    elif wanted is not None and not all(math.isfinite(v) and v > 0 for v in raw.spacing.values()):
        notes.append(f"impossible spacing {dict(raw.spacing)} in the file replaced by what was given")
        grid = Grid.regular(shape, wanted, raw.unit)
    else:
        grid = Grid.regular(shape, _from_file(raw, letters, [] if wanted else notes), raw.unit if raw.spacing else "px")
    if wanted is None and options.unit is None:
        return grid
    unit = options.unit or (grid.unit if options.pixel_size is None or grid.unit != "px" else "um")
    changed = Grid(shape, (grid if wanted is None else grid.with_spacing(wanted)).affine, unit)
    known = raw.affine is not None or bool(raw.spacing)
    if options.spacing is None and options.pixel_size and "z" in letters and raw.affine is None \
            and "z" not in raw.spacing:
        notes.append("distance of the planes unknown, taken as the pixel size: --spacing Z,Y,X gives it")
    if known and (not np.allclose(changed.spacing, grid.spacing, rtol=1e-6) or unit != grid.unit):
        notes.append(f"spacing {sizes_text(changed)} as given; the file says {sizes_text(grid)}")
    return changed


def sizes_text(grid: Grid) -> str:
    """Spacing and unit for messages: ``2 × 0.5 × 0.5 um``."""
    return " × ".join(f"{s:.6g}" for s in grid.spacing) + f" {grid.unit}"


def _wanted(raw: Raw, letters: str, options: ReadOptions) -> tuple[float, ...] | None:
    """The spacing the user gave, for each spatial axis."""
    if options.spacing is not None:
        if len(options.spacing) != len(letters):
            raise OptionError(counted(len(options.spacing), "spacing"), file=raw.file,
                              expected=f"{len(letters)}, in the order {letters}",
                              remedy=f"give --spacing {','.join(letters.upper())}")
        return options.spacing
    if options.pixel_size is None:
        return None
    size = options.pixel_size
    depth = raw.spacing.get("z")
    if raw.affine is not None and len(raw.affine) == 4:
        depth = float(np.linalg.norm(raw.affine[:3, 0]))
    depth = depth if options.unit in (None, raw.unit) else None
    return tuple((depth or size) if a == "z" else size for a in letters)


def _from_file(raw: Raw, letters: str, notes: list[str]) -> tuple[float, ...]:
    """The spacing the file states; missing axes are filled and noted, impossible ones refused (G6)."""
    if not raw.spacing:
        notes.append(NO_SIZE)
        return (1.0,) * len(letters)
    for axis, value in raw.spacing.items():
        if not (math.isfinite(value) and value > 0):
            raise DataError(f"spacing {value} along {axis}", expected="a positive number",
                            remedy="correct the file or give --spacing")
    known = [raw.spacing[a] for a in "xyz" if a in raw.spacing]
    missing = [a for a in letters if a not in raw.spacing]
    if missing:
        notes.append(f"no spacing along {', '.join(missing)} in the file: {known[0]} {raw.unit} assumed")
    return tuple(raw.spacing.get(a, known[0]) for a in letters)


def _checked(grid: Grid, file: str, notes: list[str]) -> Grid:
    """Refuse shear that no rotation explains (G4)."""
    skew = grid.orthonormality
    if skew > ORTHONORMAL_TOLERANCE:
        raise DataError(
            f"a sheared affine (axes {skew:.2g} away from right angles)", file=file,
            expected=f"at most {ORTHONORMAL_TOLERANCE}",
            remedy="resample it to right angles first: nib-conform INPUT OUTPUT (comes with nibabel)",
        )
    if skew > 1e-6:
        notes.append(f"axes {skew:.2g} away from right angles: accepted")
    return grid
