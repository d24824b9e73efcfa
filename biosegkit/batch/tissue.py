"""Where a slide has tissue: empty glass need not be looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from biosegkit._atomic import read_json, write_npy
from biosegkit._words import counted
from biosegkit.errors import DataError, FileError, OptionError
from biosegkit.grid import Grid, unit_factor
from biosegkit.image import GREY
from biosegkit.io import Pyramid, read_labels
from biosegkit.io.rescaled import rescaled

__all__ = ["Tissue", "find_tissue", "region_of", "tissue_of"]

Mask = npt.NDArray[np.bool_]

_SIDE = 2048  # cells of a mask along its longer side, at most
_FACTOR = 8  # pixels of the full resolution that a cell stands for, at least
_GLASS = 0.65  # of the range: glass is brighter, else the image is not one of transmitted light
_LIMITS = (0.04, 0.10)  # of the range: how much darker than glass tissue is taken to begin
_APART = "one mask is for every slide of a batch: predict this one apart, with its own or --tissue auto"


@dataclass(frozen=True, eq=False)
class Tissue:
    """Where to look.

    Parameters
    ----------
    mask : ndarray of bool, (*cells), optional
        Over the whole image, of any resolution; None where everything is looked at.
    note : str
        How it was found.
    """

    mask: Mask | None
    note: str

    def write(self, path: str | Path) -> str:
        """As ``.npy``, for :class:`biosegkit.batch.giant.GiantJob`; what to name there: the file, or "" for no mask."""
        if self.mask is None:
            return ""
        write_npy(path, self.mask)
        return str(path)


def tissue_of(choice: str, pyramid: Pyramid, *, threshold: float | None = None, margin: float = 50.0) -> Tissue:
    """Where to look, by what the user chose.

    Parameters
    ----------
    choice : str
        ``auto``, ``off``, or a file: a mask of any resolution over the whole image, or regions as GeoJSON.
    pyramid : Pyramid
    threshold, margin
        As for :func:`find_tissue`.

    Raises
    ------
    FileError, DataError
        As for :func:`region_of`.

    Examples
    --------
    >>> pyramid = Pyramid("a.svs", (np.full((3, 64, 64), 240, np.uint8),), (Grid.regular((64, 64), 0.5, "um"),))
    >>> tissue_of("off", pyramid).mask is None, tissue_of("auto", pyramid).mask.any()
    (True, np.False_)
    """
    if choice == "off":
        return Tissue(None, "the whole image is looked at")
    if choice == "auto":
        return find_tissue(pyramid, threshold, margin)
    return region_of(choice, pyramid)


def find_tissue(pyramid: Pyramid, threshold: float | None = None, margin: float = 50.0) -> Tissue:
    """Tissue on a slide of transmitted light: what is darker than its glass in any colour.

    A level of at most 2048 pixels a side is looked at. Glass is its 98th percentile in each of the three colours.
    Without a ``threshold`` that of Otsu is taken, held between 4 and 10 % of the range of values, so that neither
    the noise of an empty slide nor the darker half of a full one decides. Images that are not of three colours (equal
    ones, read as one channel, are three), or whose glass is not bright, such as those of fluorescence, are looked at
    everywhere.

    Parameters
    ----------
    pyramid : Pyramid
    threshold : float, optional
        How much darker than glass tissue is, in per cent of the range of values.
    margin : float
        Micrometres (pixels of the full resolution where the pixel size is unknown) around tissue that are looked at.

    Returns
    -------
    Tissue

    Raises
    ------
    OptionError
        For a threshold or margin that makes no sense.

    Examples
    --------
    >>> image = np.full((3, 160, 160), 240, np.uint8)
    >>> image[1, 64:96, 64:96] = 120
    >>> pyramid = Pyramid("a.svs", (image,), (Grid.regular((160, 160), 0.5, "um"),))
    >>> find_tissue(pyramid, margin=0).mask.sum(), find_tissue(pyramid, margin=4).mask.sum()
    (np.int64(16), np.int64(32))
    """
    if threshold is not None and not 0 < threshold < 100:
        raise OptionError(f"a threshold of {threshold:g} %", expected="more than 0, less than 100")
    if not margin >= 0:
        raise OptionError(f"a margin of {margin:g}", expected="0 or more")
    array, grid = pyramid.arrays[0], pyramid.grids[0]
    grey = array.shape[0] == 1 and GREY in pyramid.notes
    if not (grey or array.shape[0] == 3) or array.dtype.kind != "u":
        return Tissue(None, "not an image of three colours: looked at everywhere")
    seen = _coarse(pyramid).astype(np.float32) / float(np.iinfo(array.dtype).max)
    glass = np.percentile(seen.reshape(len(seen), -1), 98, axis=1).astype(np.float32)
    if glass.min() < _GLASS:
        return Tissue(None, "no bright glass: looked at everywhere")
    darker = np.max(glass.reshape(len(seen), *(1,) * grid.ndim) - seen, axis=0)
    level = float(np.clip(_otsu(darker), *_LIMITS)) if threshold is None else threshold / 100
    mask = _widened(darker > level, grid, margin)
    return Tissue(mask, f"tissue, {mask.mean():.1%} of the image: what is {level:.1%} darker than glass")


def _coarse(pyramid: Pyramid) -> npt.NDArray[Any]:
    """The image in cells, averaged from the coarsest level that is fine enough; depth stays as it is."""
    finest = pyramid.grids[0].shape
    factor = max(_FACTOR, max(finest[-2:]) / _SIDE)
    cells = (*finest[:-2], *(max(1, round(n / factor)) for n in finest[-2:]))
    enough = [k for k, g in enumerate(pyramid.grids) if all(n >= m for n, m in zip(g.shape, cells, strict=True))]
    return rescaled(pyramid.arrays[enough[-1]], cells)[...]


def _otsu(values: npt.NDArray[Any]) -> float:
    """The threshold that separates two groups best (N. Otsu, IEEE Trans. SMC 9, 1979), by a histogram of 256 bins."""
    counts, borders = np.histogram(values, 256, (0, 1))
    centres = (borders[1:] + borders[:-1]) / 2
    below, mass = np.cumsum(counts), np.cumsum(counts * centres)
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = (mass[-1] * below / below[-1] - mass) ** 2 / (below * (below[-1] - below))
    return float(borders[1:][int(np.argmax(np.nan_to_num(apart, posinf=0)))])


def _widened(mask: Mask, grid: Grid, margin: float) -> Mask:
    """With all cells in a plane whose centre is within the margin of that of a marked one."""
    pixels = margin if grid.unit == "px" else margin * unit_factor("um", grid.unit) / min(grid.spacing[-2:])
    sampling = [n / m for n, m in zip(grid.shape[-2:], mask.shape[-2:], strict=True)]
    if not mask.any() or pixels < min(sampling):
        return mask
    planes = mask.reshape(-1, *mask.shape[-2:])
    near = [ndimage.distance_transform_edt(~plane, sampling) <= pixels if plane.any() else plane for plane in planes]
    return np.stack(near).reshape(mask.shape)


def region_of(path: str | Path, pyramid: Pyramid) -> Tissue:
    """A mask or regions that the user gives.

    Parameters
    ----------
    path : path
        GeoJSON, as QuPath exports it: polygons in pixels (x, y) of the full resolution. Or an image: what is not 0 is
        looked at; it may be of any resolution and covers the whole image.
    pyramid : Pyramid

    Returns
    -------
    Tissue
        Every cell that the regions touch.

    Raises
    ------
    FileError, DataError
        If the file cannot be read, has no region in the image, or a mask is not of the image's proportions.
    """
    path, grid = Path(path), pyramid.grids[0]
    polygons = path.suffix.lower() in (".geojson", ".json")
    mask = _of_polygons(path, grid) if polygons else _of_image(path, grid, pyramid.source)
    if not mask.any():
        how = "polygons are in pixels of its full resolution, x before y; " if polygons else ""
        raise DataError("no region in the image", file=path, expected=f"one in {pyramid.source}", remedy=how + _APART)
    return Tissue(mask, f"{mask.mean():.1%} of the image, as {path.name} says")


def _of_image(path: Path, grid: Grid, source: str) -> Mask:
    found: Mask = read_labels(path, "semantic").restored() != 0
    if found.ndim < grid.ndim:
        found = found[None]
    scale = [n / m for n, m in zip(grid.shape[-2:], found.shape[-2:], strict=True)]
    least = [n / (m + 1) for n, m in zip(grid.shape[-2:], found.shape[-2:], strict=True)]
    most = [n / max(m - 1, 0.5) for n, m in zip(grid.shape[-2:], found.shape[-2:], strict=True)]
    if found.ndim != grid.ndim or max(least) > 1.02 * min(most):
        raise DataError(f"a mask of shape {found.shape}, {scale[0]:.3g} × {scale[1]:.3g} times coarser", file=path,
                        expected=f"the proportions of {source}, {' × '.join(map(str, grid.shape))}",
                        remedy=f"make it for the whole image; {_APART}")
    return found


def _of_polygons(path: Path, grid: Grid) -> Mask:
    from skimage.draw import polygon

    height, width = grid.shape[-2:]
    factor = max(1.0, max(height, width) / (2 * _SIDE))
    shape = (max(1, round(height / factor)), max(1, round(width / factor)))
    scale = np.array([shape[1] / width, shape[0] / height])
    mask: Mask = np.zeros(shape, bool)
    for rings in _polygons(read_json(path), path):
        inside: Mask = np.zeros(shape, bool)
        for ring in rings:
            points = ring * scale
            one: Mask = np.zeros(shape, bool)
            one[polygon(points[:, 1] - 0.5, points[:, 0] - 0.5, shape)] = True
            inside ^= one
        for ring in rings:
            inside |= _outline(ring * scale, shape)
        mask |= inside
    return mask if grid.ndim == 2 else mask[None]


def _outline(points: npt.NDArray[np.float64], shape: tuple[int, int]) -> Mask:
    """The cells that a closed line passes through, and those beside them."""
    mask: Mask = np.zeros(shape, bool)
    ends = np.roll(points, -1, axis=0)
    steps = np.ceil(2 * np.abs(ends - points).max(1)).astype(np.int64) + 1
    share = (np.arange(steps.sum()) - np.repeat(np.cumsum(steps) - steps, steps)) / np.repeat(steps, steps)
    x, y = np.floor(np.repeat(points, steps, 0) + share[:, None] * np.repeat(ends - points, steps, 0)).astype(int).T
    near = (x >= 0) & (y >= 0) & (x < shape[1]) & (y < shape[0])
    mask[y[near], x[near]] = True
    return np.asarray(ndimage.binary_dilation(mask, np.ones((3, 3), bool)))


def _polygons(found: Any, path: Path) -> Iterator[Sequence[npt.NDArray[np.float64]]]:
    """Rings of each polygon, (n, 2) as x, y."""
    if isinstance(found, list):  # features without their collection, as QuPath may write them
        found = {"type": "FeatureCollection", "features": found}
    found = found if isinstance(found, dict) else {}
    kind = found.get("type")
    if kind in ("FeatureCollection", "GeometryCollection"):
        for one in found.get("features" if kind == "FeatureCollection" else "geometries") or ():
            yield from _polygons(one, path)
    elif kind == "Feature":
        yield from _polygons(found.get("geometry"), path)
    elif kind in ("Polygon", "MultiPolygon"):
        rings = found.get("coordinates") or []
        for parts in [rings] if kind == "Polygon" else rings:
            yield [_ring(ring, path) for ring in parts]
    else:
        raise FileError(f"a geometry {kind!r}", file=path, expected="polygons as GeoJSON",
                        remedy="draw areas, and export them with QuPath as GeoJSON")


def _ring(ring: Any, path: Path) -> npt.NDArray[np.float64]:
    try:
        points = np.array([[float(p[0]), float(p[1])] for p in ring])
    except (TypeError, ValueError, IndexError) as error:
        raise FileError(f"a polygon that cannot be read ({error})", file=path, expected="pairs of numbers",
                        remedy="export it again") from error
    if len(points) < 3 or not np.isfinite(points).all():
        raise FileError(f"a polygon of {counted(len(points), 'point')}", file=path,
                        expected="at least 3, all of them numbers",
                        remedy="draw it again")
    return points
