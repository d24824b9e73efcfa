"""Images too large for memory: pyramids whose levels are read region by region, and the level a model needs.

Opening a pyramid reads metadata only. What is damaged is refused: at once where metadata and file sizes show it, and
when a strip, tile or chunk is read that cannot be decoded (F1, F2, F5, F6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from biosegkit.errors import OptionError
from biosegkit.grid import Grid, unit_factor
from biosegkit.image import COLOURS, GREY, Image, equal_channels

from . import arrange
from .channels import joined, side_by_side
from .formats import images, opened
from .options import ReadOptions
from .raw import Array
from .regions import LazyArray, Regions

__all__ = ["LazyArray", "Pyramid", "at_spacing", "open_pyramid", "positions"]

_LOOK = 1 << 22  # pixels of a level that may be read on opening


@dataclass(frozen=True, eq=False)
class Pyramid:
    """An image with its resolutions, none of them read yet.

    Parameters
    ----------
    source : str
        The file, for messages.
    arrays : tuple of LazyArray, (C, *space)
        Finest first; of formats that can only be read whole, the array itself.
    grids : tuple of Grid
        Of each; all lie in the same world.
    channels : tuple of str
    notes : tuple of str
        What was repaired or assumed.

    Examples
    --------
    >>> array = np.zeros((1, 6, 8), np.uint8)
    >>> pyramid = Pyramid("a.tif", (array,), (Grid.regular((6, 8), 0.5, "um"),), ("H",))
    >>> pyramid.level(0).grid.spacing, pyramid.dtype
    ((0.5, 0.5), dtype('uint8'))
    """

    source: str
    arrays: tuple[LazyArray, ...]
    grids: tuple[Grid, ...]
    channels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels."""
        return self.arrays[0].dtype

    def level(self, k: int) -> Image:
        """One resolution, 0 the finest, as an image whose array is read when it is sliced.

        Raises
        ------
        OptionError
            If there is no such level.
        """
        if not 0 <= k < len(self.arrays):
            raise OptionError(f"level {k}", file=self.source, expected=f"0 to {len(self.arrays) - 1}",
                              remedy="choose one of these, or take at_spacing")
        return Image(cast("Array", self.arrays[k]), self.grids[k], self.channels, self.source, self.notes)


def open_pyramid(path: str | Path | Sequence[str | Path], options: ReadOptions | None = None) -> Pyramid:
    """Open an image of any size: a slide, a pyramidal or plain TIFF, an OME-Zarr, a NIfTI, a DICOM series.

    Parameters
    ----------
    path : path or sequence of paths
        One file, or one per channel. Of an OME-Zarr also a URL that fsspec knows, such as ``https://…`` or ``s3://…``.
    options : ReadOptions, optional
        What the file does not say, or says wrong; among it the pixel size, the time point and the image of several.

    Returns
    -------
    Pyramid
        RGB is three channels. PNG, JPEG, BMP and gzipped NIfTI cannot be read in parts and are read whole.

    Raises
    ------
    FileError
        If the file is missing, damaged, cut, too large for a format that is read whole, or not what its name says.
    DataError
        If axes, geometry or voxel type do not admit one reading.

    Examples
    --------
    >>> import tempfile
    >>> from biosegkit.io import write
    >>> image = Image(np.arange(12, dtype=np.uint8).reshape(1, 3, 4), Grid.regular((3, 4), 0.5, "um"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(image, folder + "/a.tif")
    ...     open_pyramid(folder + "/a.tif").level(0).array[0, 1:, :2].tolist()
    [[4, 5], [8, 9]]
    """
    options = options or ReadOptions()
    if not isinstance(path, str | Path):
        if len(path) != 1:
            return _side_by_side(path, options)
        (path,) = path
    raw = opened(path, options)
    if raw.window is None:
        image = arrange.to_image(raw, options)
        return Pyramid(image.source, (image.array,), (image.grid,), image.channels, image.notes)
    levels, names, notes = arrange.to_regions(raw, options)
    levels.sort(key=lambda level: -level[1].voxels)
    arrays, grids = tuple(array for array, _ in levels), tuple(grid for _, grid in levels)
    if names == COLOURS and len(options.channel_names) != 3 and _is_grey(arrays[-1]):
        arrays, names = tuple(Regions((1, *a.shape[1:]), a.dtype, a.read) for a in arrays), ()
        notes += (GREY,)
    return Pyramid(raw.file, arrays, grids, names, notes)


def _side_by_side(paths: Sequence[str | Path], options: ReadOptions) -> Pyramid:
    """Files that are channels of one image, with the resolutions that all of them have."""
    if not paths:
        raise OptionError("no file", expected="one file, or one per channel")
    found = [open_pyramid(path, replace(options, channel_names=())) for path in paths]
    image = joined([one.level(0) for one in found], options)
    arrays, grids = [cast("LazyArray", image.array)], [image.grid]
    for k, grid in enumerate(found[0].grids[1:], 1):
        alike = [[n for n, g in enumerate(one.grids) if g.shape == grid.shape] for one in found]
        if all(alike):
            arrays.append(side_by_side([one.arrays[n[0]] for one, n in zip(found, alike, strict=True)]))
            grids.append(found[0].grids[k])
    return Pyramid(image.source, tuple(arrays), tuple(grids), image.channels, image.notes)


def positions(path: str | Path, options: ReadOptions | None = None) -> dict[str, ReadOptions]:
    """The images of a file: its positions, each with its time points.

    Parameters
    ----------
    path : path
        As for :func:`open_pyramid`.
    options : ReadOptions, optional
        A ``series`` or ``frame`` in it is the only one.

    Returns
    -------
    dict of str to ReadOptions
        By name (``t0003``, ``p0001``, ``p0001_t0003``, ``A1_0_t0003``; empty for the only image) how it is read.

    Raises
    ------
    FileError, DataError
        As for :func:`open_pyramid`.

    Examples
    --------
    >>> import tempfile, tifffile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tifffile.imwrite(folder + "/a.ome.tif", np.zeros((3, 8, 8), np.uint8), ome=True, metadata={"axes": "TYX"})
    ...     found = positions(folder + "/a.ome.tif")
    >>> list(found), found["t0002"].frame
    (['t0000', 't0001', 't0002'], 2)
    """
    options = options or ReadOptions()
    out = {}
    for one in images(path, options):
        chosen = replace(options, series=one.series)
        if one.times == 1 or options.frame is not None:
            out[one.name] = chosen
            continue
        for time in range(one.times):
            out["_".join(filter(None, (one.name, f"t{time:04}")))] = replace(chosen, frame=time)
    return out


def _is_grey(array: LazyArray) -> bool:
    """Whether the three colours are equal everywhere; a level too large to look at is not asked."""
    if np.prod(array.shape[1:], dtype=np.int64) > _LOOK:
        return False
    return equal_channels(array[...])


def at_spacing(pyramid: Pyramid, spacing: Sequence[float], unit: str, tolerance: float = 0.05) -> Image:
    """The image with the pixel size a model works at.

    A level that has it within the tolerance is taken as it is. Else the next finer level is averaged over the area of
    the new pixels (or, where even the finest level is coarser, interpolated linearly), region by region: the value of
    a voxel does not depend on the region it is read with.

    Parameters
    ----------
    pyramid : Pyramid
    spacing : sequence of float
        Of the model, in array order. One for ``(y, x)`` leaves the planes of a stack as they are.
    unit : {"mm", "um", "nm", "px"}
        Of ``spacing``. A model in ``px`` knows no sizes and gets the finest level.
    tolerance : float
        Relative.

    Returns
    -------
    Image
        Read when it is sliced; the notes say which level and which factor.

    Raises
    ------
    OptionError
        If the image has no pixel size and the model needs one, or they differ in the number of axes.

    Examples
    --------
    >>> array = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    >>> pyramid = Pyramid("a.tif", (array,), (Grid.regular((4, 4), 0.25, "um"),))
    >>> image = at_spacing(pyramid, (0.5, 0.5), "um")
    >>> image.grid.spacing, image.array[0, :, 1:].tolist()
    ((0.5, 0.5), [[4], [12]])
    """
    finest = pyramid.grids[0]
    if unit == "px":
        return pyramid.level(0).noted("the model knows no pixel size: the finest level is taken as it is")
    if finest.unit == "px":
        sizes = " × ".join(f"{s:g}" for s in spacing)
        raise OptionError("no pixel size", file=pyramid.source, expected=f"one, as the model works at {sizes} {unit}",
                          remedy="give it: --pixel-size 0.25 for 0.25 um")
    if len(spacing) not in (finest.ndim, 2):
        raise OptionError(f"{finest.ndim} axes", file=pyramid.source, expected=f"{len(spacing)}, as the model has",
                          remedy="use a model of the same number of axes")
    factor = unit_factor(unit, finest.unit)
    wanted = np.array([*finest.spacing[: finest.ndim - len(spacing)], *(s * factor for s in spacing)])
    ratios = [np.array(g.spacing) / wanted for g in pyramid.grids]
    fine = [k for k, ratio in enumerate(ratios) if (ratio <= 1 + tolerance).all()]
    k = max(fine, key=lambda i: (float(np.prod(ratios[i])), -i), default=0)
    return _fitted(pyramid, k, ratios[k], tolerance)


def _fitted(pyramid: Pyramid, k: int, ratio: Array, tolerance: float) -> Image:
    """A level as it is, or with the axes that do not fit resampled."""
    image = pyramid.level(k)
    said = f"level {k} of {len(pyramid.grids)} ({arrange.sizes_text(image.grid)})"
    keep = np.abs(ratio - 1) <= tolerance
    shape = tuple(n if fits else max(1, round(float(n * r)))
                  for n, r, fits in zip(image.grid.shape, ratio, keep, strict=True))
    if shape == image.grid.shape:
        return image.noted(f"{said} read")
    from .rescaled import rescaled  # its kernels take a second to load

    grid = image.grid.resized(shape)
    how = "averaged" if min(ratio) < 1 else "interpolated"
    changed = " × ".join(f"{n / m:.4g}" for n, m in zip(image.grid.shape, shape, strict=True))
    array = cast("Array", rescaled(pyramid.arrays[k], shape))
    note = f"{said} {how} to {arrange.sizes_text(grid)}, reduced {changed} times along {', '.join(grid.axes)}"
    return Image(array, grid, image.channels, image.source, (*image.notes, note))
