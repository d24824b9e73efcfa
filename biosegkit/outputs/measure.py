"""Size, shape and intensities of every object, in the unit of the image, read once and tile by tile."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from biosegkit._words import counted
from biosegkit.errors import DataError
from biosegkit.image import Image
from biosegkit.kernels.object_runs import crossings, hull_pixels, intensities, moments

from .objects import Found, ObjectRuns, Table, TileRuns, object_runs

__all__ = ["crofton_perimeter", "measured"]

Floats = npt.NDArray[np.float64]

#: Of each channel, in this order.
_INTENSITIES = ("mean", "std", "min", "max")


def measured(found: Found, image: Image | None = None) -> Table:
    """The table with columns of size, shape and intensity.

    Of planes: ``area_um2``, ``perimeter_um``, ``equivalent_diameter_um``, ``major_axis_um``, ``minor_axis_um``,
    ``eccentricity``, ``circularity`` and ``solidity``; of stacks: ``volume_um3``, ``equivalent_diameter_um`` and the
    axes, ``middle_axis_um`` among them. The unit is the grid's: with ``px`` there is no second area. Of an image:
    ``mean_NAME``, ``std_NAME``, ``min_NAME``, ``max_NAME`` for every channel.

    Parameters
    ----------
    found : Found
    image : Image, optional
        Intensities on the same grid; its array may be read lazily.

    Raises
    ------
    DataError
        If the image has another shape, or labels and table do not belong together.

    Notes
    -----
    Perimeters are Crofton's with four directions; axes are those of the ellipse or ellipsoid with the same second
    moments; solidity is the share of the pixels of the convex hull: all as in scikit-image (``perimeter_crofton``,
    ``axis_major_length``, ``solidity``). Circularity is 4 pi area / perimeter squared; small objects can exceed 1.

    Examples
    --------
    >>> from biosegkit.grid import Grid
    >>> grid = Grid.regular((3, 4), 0.5, "um")
    >>> found = Found.of(np.array([[1, 1, 0, 0], [1, 1, 0, 2], [0, 0, 0, 2]]), grid)
    >>> rows = measured(found, Image(np.arange(12).reshape(1, 3, 4), grid, ("dapi",)))
    >>> rows["area_um2"].tolist(), rows["mean_dapi"].tolist(), rows["max_dapi"].tolist()
    ([1.0, 0.5], [2.5, 9.0], [5.0, 11.0])
    """
    ndim, count = found.labels.ndim, found.count
    if image is not None and tuple(image.array.shape[1:]) != tuple(found.labels.shape):
        raise DataError(f"an image of {tuple(image.array.shape[1:])}", file=image.source or None,
                        expected=f"{tuple(found.labels.shape)}, as the labels",
                        remedy="use the image that was segmented")
    seen = None if image is None else _Intensities(image, count)
    place = np.zeros((count, 3), np.int64)
    for axis, name in zip(range(3 - ndim, 3), ("z", "y", "x")[-ndim:], strict=True):
        place[:, axis] = found.table[f"bbox_start_{name}"]
    sums: Floats = np.zeros((count, 10))
    crossed, hull = np.zeros((count, 4), np.int64), np.zeros(count, np.int64)
    for part in object_runs(found, None if seen is None else seen.add):
        _add_moments(part, place, sums)
        if ndim == 2:
            crossed[part.rows] = crossings(part.offset, part.y, part.start, part.stop)
            hull[part.rows] = hull_pixels(part.offset, part.y, part.start, part.stop)
    area = np.asarray(found.table.get("area", sums[:, 0]))
    if (area != sums[:, 0]).any():
        worst = int(np.flatnonzero(area != sums[:, 0])[0])
        raise DataError(f"{counted(int(sums[worst, 0]), 'voxel')} of object {int(found.table['id'][worst])}",
                        file=found.source or None, expected=f"{int(area[worst])}, as the table says",
                        remedy="use the table the labels came with")
    table: Table = dict(found.table)
    table.update(_shapes(found, sums))
    if ndim == 2:
        spacing = found.grid.spacing
        perimeter = crofton_perimeter(crossed, spacing)
        table[f"perimeter_{found.grid.unit}"] = perimeter
        table["circularity"] = 4 * math.pi * sums[:, 0] * math.prod(spacing) / np.maximum(perimeter, 1e-300) ** 2
        table["solidity"] = sums[:, 0] / np.maximum(hull, 1)
    if seen is not None:
        table.update(seen.columns(sums[:, 0]))
    return table


def crofton_perimeter(crossed: npt.NDArray[np.int64], spacing: Sequence[float]) -> Floats:
    """Perimeters from how often lines of four directions cross the border.

    Parameters
    ----------
    crossed : ndarray, (N, 4)
        Along x, y and the two diagonals.
    spacing : sequence of float
        Along y and x. A direction counts for the angles that it is nearest to.

    References
    ----------
    Legland, Kieu, Devaux, "Computation of Minkowski measures on 2D and 3D binary images", Image Anal Stereol 26, 2007.

    Examples
    --------
    The perimeter of a single pixel, and of one twice as high:

    >>> once = np.full((1, 4), 2)
    >>> [round(float(crofton_perimeter(once, s)[0]), 3) for s in ((1.0, 1.0), (2.0, 1.0))]
    [2.682, 4.083]
    """
    dy, dx = spacing
    angle = math.atan2(dy, dx)
    diagonal = dx * dy / math.hypot(dx, dy)
    weights = [angle * dy, (math.pi / 2 - angle) * dx, math.pi / 4 * diagonal, math.pi / 4 * diagonal]
    return np.asarray(crossed @ np.array(weights) / 2)


def _add_moments(part: ObjectRuns, place: npt.NDArray[np.int64], sums: Floats) -> None:
    """Add one plane's objects."""
    here = place[part.rows]
    here[:, 0] = part.plane - here[:, 0]
    some = sums[part.rows]
    moments(part.offset, (part.y, part.start, part.stop), here, some)
    sums[part.rows] = some


def _shapes(found: Found, sums: Floats) -> Table:
    """Area or volume, diameter and axes."""
    ndim, unit, spacing = found.labels.ndim, found.grid.unit, np.array(found.grid.spacing)
    first = 3 - ndim
    count = np.maximum(sums[:, 0], 1)
    mean = sums[:, 1 + first: 4] / count[:, None]
    spread: Floats = np.empty((len(sums), ndim, ndim))
    for i in range(ndim):
        for j in range(ndim):
            second = 4 + first + i if i == j else {(0, 1): 7, (0, 2): 8, (1, 2): 9}[
                (min(i, j) + first, max(i, j) + first)]
            spread[:, i, j] = (sums[:, second] / count - mean[:, i] * mean[:, j]) * spacing[i] * spacing[j]
    axes = np.maximum(np.linalg.eigvalsh(spread)[:, ::-1], 0) if len(sums) else np.zeros((0, ndim))
    lengths = 4 * np.sqrt(axes) if ndim == 2 else 2 * np.sqrt(5 * axes)
    size = sums[:, 0] * spacing.prod()
    table: Table = {} if unit == "px" else {f"area_{unit}2" if ndim == 2 else f"volume_{unit}3": size}
    diameter = 2 * np.sqrt(size / math.pi) if ndim == 2 else np.cbrt(6 * size / math.pi)
    table[f"equivalent_diameter_{unit}"] = diameter
    for k, name in enumerate(("major", "minor") if ndim == 2 else ("major", "middle", "minor")):
        table[f"{name}_axis_{unit}"] = lengths[:, k]
    if ndim == 2:
        longest = np.where(axes[:, 0] > 0, axes[:, 0], 1)
        table["eccentricity"] = np.where(axes[:, 0] > 0, np.sqrt(np.maximum(1 - axes[:, 1] / longest, 0)), 0)
    return table


class _Intensities:
    """Intensities of every object, gathered tile by tile."""

    def __init__(self, image: Image, count: int) -> None:
        self.array, self.names = image.array, _column_names(image.channels)
        shape = (count, len(self.names))
        self.found: tuple[Floats, ...] = (np.full(shape, np.nan), np.zeros(shape), np.zeros(shape),
                                          np.full(shape, np.inf), np.full(shape, -np.inf))

    def add(self, tile: TileRuns) -> None:
        """Look at the pixels of a tile."""
        window = tile.window[4 - self.array.ndim:]
        pixels = np.asarray(self.array[(slice(None), *window)])
        kind = {"b1": "u1", "f2": "f4"}.get(pixels.dtype.str[1:], pixels.dtype.newbyteorder("="))  # what kernels know
        pixels = np.ascontiguousarray(pixels, kind).reshape(-1, *(w.stop - w.start for w in tile.window))
        intensities((tile.offset, tile.start, tile.stop), tile.owner, pixels, self.found)

    def columns(self, area: Floats) -> Table:
        """Mean, standard deviation, lowest and highest of every channel."""
        first, total, squares, low, high = self.found
        count = np.maximum(area, 1)[:, None]
        mean = total / count
        with np.errstate(invalid="ignore"):
            spread = np.sqrt(np.maximum(squares / count - mean**2, 0))
        values = dict(zip(_INTENSITIES, (first + mean, spread, low, high), strict=True))
        return {f"{what}_{name}": values[what][:, c] for c, name in enumerate(self.names) for what in _INTENSITIES}


def _column_names(channels: Sequence[str]) -> list[str]:
    """Names of channels without spaces, each once.

    Examples
    --------
    >>> _column_names(("channel 0", "DAPI", "DAPI"))
    ['channel_0', 'DAPI', 'DAPI_2']
    """
    names: list[str] = []
    for k, channel in enumerate(channels):
        name = re.sub(r"\s+", "_", channel.strip()) or f"channel_{k}"
        names.append(f"{name}_{k}" if name in names else name)
    return names
