"""Layers of the viewer as images and labels of biosegkit: the exact inverse of `biosegkit.viewing`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from biosegkit.errors import DataError, OptionError
from biosegkit.grid import Grid
from biosegkit.image import Image, Labels
from biosegkit.io.arrange import NO_SIZE
from biosegkit.io.options import UNITS
from biosegkit.placement import grid_at, turned_home

__all__ = ["PLACE", "Look", "axes_of", "file_of", "home_grid", "image_of", "is_labels", "labels_of", "look_at",
           "matrix_to_world", "metadata_of", "part_under", "snapshot", "stand_in", "voxels_of"]

#: Axes that are assumed where a layer does not name its own.
_USUAL = {2: "yx", 3: "zyx", 4: "tzyx"}
_SPACE = "zyx"
#: What of a layer says how large its voxels are and what its axes mean: events, held by napari by weak reference.
PLACE = ("scale", "units", "affine", "axis_labels")


@dataclass(frozen=True)
class Look:
    """What a layer says of itself, no voxel read.

    Parameters
    ----------
    name : str
    axes : str
        A letter per axis of its data: ``t c z y x``, ``s`` for colours.
    shape : tuple of int
        Of its data, of the finest level of several.
    dtype : numpy.dtype
    grid : Grid
        Of the space axes.
    levels : tuple of tuple of int
        Space shapes of all levels, finest first.
    """

    name: str
    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    grid: Grid
    levels: tuple[tuple[int, ...], ...]

    @property
    def channels(self) -> int:
        """How many channels it gives."""
        return next((n for letter, n in zip(self.axes, self.shape, strict=True) if letter in "cs"), 1)

    @property
    def frames(self) -> int:
        """Time points."""
        return dict(zip(self.axes, self.shape, strict=True)).get("t", 1)


def snapshot(layer: Any) -> Any:
    """What a layer is now, for work in a thread: its data and its place, whatever becomes of the layer."""
    names = ("name", "data", "ndim", "multiscale", "rgb", "axis_labels", "units", "scale", "translate", "rotate",
             "shear", "affine", "metadata")
    return SimpleNamespace(**{name: getattr(layer, name) for name in names if hasattr(layer, name)})


def axes_of(layer: Any) -> str:
    """A letter per axis of a layer's data, from its axis labels where they are ours, else from their number."""
    rgb = bool(getattr(layer, "rgb", False))
    labels = tuple(str(label).lower() for label in getattr(layer, "axis_labels", ()))
    named = "".join(labels)
    if len(labels) == layer.ndim == len(named) == len(set(named)) and set(named) <= set("tczyx") and named[-2:] == "yx":
        return named + "s" * rgb
    if layer.ndim not in _USUAL:
        raise DataError(f"{layer.ndim} axes", file=layer.name, expected="two or three of space, perhaps time, channels",
                        remedy="name them: axis labels among t, c, z, y, x")
    return _USUAL[layer.ndim] + "s" * rgb


def look_at(layer: Any, axes: str | None = None) -> Look:
    """What a layer is, from its metadata alone.

    Parameters
    ----------
    layer : napari layer
    axes : str, optional
        What its axes are, where it does not say or says wrong.

    Raises
    ------
    DataError
        If the axes or their units do not admit one reading.
    """
    levels = list(layer.data) if getattr(layer, "multiscale", False) else [layer.data]
    letters = axes_of(layer) if axes is None else axes + "s" * (getattr(layer, "rgb", False) and "s" not in axes)
    shape = tuple(int(n) for n in levels[0].shape)
    if len(letters) != len(shape) or not {"y", "x"} <= set(letters):
        raise DataError(f"{len(shape)} axes of sizes {shape}", file=layer.name, expected=f"{len(letters)}: {letters}",
                        remedy="choose other axes")
    space = [i for i, letter in enumerate(letters) if letter in _SPACE]
    unit, factors = _unit(layer, space)
    matrix = matrix_to_world(layer)[np.ix_([*space, -1], [*space, -1])]
    matrix[:-1] *= np.array(factors)[:, None]
    grid = grid_at([shape[i] for i in space], matrix, unit)
    return Look(layer.name, letters, shape, np.dtype(levels[0].dtype), grid,
                tuple(tuple(int(level.shape[i]) for i in space) for level in levels))


def image_of(layers: Sequence[Any], *, axes: str | None = None, frame: int = 0, level: int = 0,
             window: Sequence[slice] | None = None) -> Image:
    """One image of one or several layers, its voxels in memory.

    Parameters
    ----------
    layers : sequence of napari layers
        One with all channels, or one per channel.
    axes : str, optional
        As for :func:`look_at`.
    frame, level : int
        Time point, and resolution of a layer with several.
    window : sequence of slice, optional
        Of the space axes, in voxels of that level; all by default.

    Raises
    ------
    DataError
        If the layers do not lie on each other.
    """
    if not layers:
        raise OptionError("no layer", expected="an image", remedy="open one, or choose a layer")
    parts, first = [], look_at(layers[0], axes)
    for layer in layers:
        look = look_at(layer, axes)
        if not first.grid.mismatch(look.grid) <= 1e-3:
            raise DataError(f"a grid of shape {look.grid.shape}, spacing {look.grid.spacing}", file=layer.name,
                            expected=f"that of {first.name}: {first.grid.shape}, {first.grid.spacing}",
                            remedy="choose layers of one image")
        parts.append(voxels_of(layer, look, frame, level, window))
    grid = first.grid if level == 0 else first.grid.resized(first.levels[level])
    names = _channel_names(layers, len(parts[0]))
    array = parts[0] if len(parts) == 1 else np.concatenate(parts)
    whole = tuple(slice(0, n) for n in grid.shape)
    if window is not None and tuple(window) != whole:
        spans = [range(n)[w] for n, w in zip(grid.shape, window, strict=True)]
        grid = grid.window(tuple(s.start for s in spans), tuple(len(s) for s in spans))
    turn, home = turned_home(grid, metadata_of(layers[0]))
    notes = tuple(str(note) for note in metadata_of(layers[0]).get("notes", ()) if note != NO_SIZE or home.unit == "px")
    return Image(np.ascontiguousarray(turn.apply(array)), home, names, layers[0].name, notes)


def labels_of(layer: Any, task: str = "instance", *, frame: int = 0) -> Labels:
    """Labels of a layer, as they are now.

    Raises
    ------
    DataError
        For negative values.
    """
    look = look_at(layer)
    array = voxels_of(layer, look, frame, 0, None)[0]
    turn, home = turned_home(look.grid, metadata_of(layer))
    return Labels.from_values(np.ascontiguousarray(turn.apply(array)), home, "semantic" if task == "semantic" else
                              "instance", source=str(metadata_of(layer).get("source", "")) or layer.name)


def part_under(labels: Any, image: Any) -> tuple[int, tuple[slice, ...] | None]:
    """Resolution and part of an image that labels lie on, voxel on voxel: where a part of it was segmented.

    The whole of the finest resolution (None) where they lie on no part of any.
    """
    under, own = look_at(image), look_at(labels).grid
    for level, shape in enumerate(under.levels):
        grid = under.grid.resized(shape) if level else under.grid
        if own.unit != grid.unit or own.ndim != grid.ndim:
            continue
        start = np.rint((np.linalg.inv(grid.affine) @ own.affine[:, -1])[:-1]).astype(int)
        inside = (start >= 0).all() and (start + own.shape <= shape).all()
        if inside and grid.window(tuple(start.tolist()), own.shape).mismatch(own) <= 1e-3:
            return level, tuple(slice(a, a + n) for a, n in zip(start.tolist(), own.shape, strict=True))
    return 0, None


def metadata_of(layer: Any) -> dict[str, Any]:
    """What `biosegkit.viewing` left in a layer."""
    kept = layer.metadata.get("biosegkit", {}) if isinstance(layer.metadata, dict) else {}
    return dict(kept) if isinstance(kept, dict) else {}


def file_of(layer: Any) -> Path | None:
    """The file that a layer was opened from with biosegkit; None for an array, and for what is not on this disk."""
    source = str(metadata_of(layer).get("source", ""))
    return Path(source).absolute() if source and Path(source).exists() else None


def is_labels(layer: Any) -> bool:
    """Whether a layer holds labels, other than those that show what is wrong."""
    return hasattr(layer, "selected_label") and "errors_of" not in layer.metadata


def home_grid(layer: Any, axes: str | None = None) -> Grid:
    """The grid of the file that a layer shows, at its finest resolution."""
    return turned_home(look_at(layer, axes).grid, metadata_of(layer))[1]


def matrix_to_world(layer: Any) -> Any:
    """From an index of the data (row by row, and 1) to the world, all transforms together; colours are no axis."""
    from napari.utils.transforms import Affine

    own = Affine(scale=layer.scale, translate=layer.translate, rotate=layer.rotate, shear=layer.shear)
    return np.array(layer.affine.affine_matrix @ own.affine_matrix, dtype=np.float64)


def stand_in(look: Look, window: Sequence[slice] | None = None, channels: int | None = None) -> Image:
    """An image of this shape and type that takes no memory: for questions that voxels do not answer.

    Parameters
    ----------
    look : Look
    window : sequence of slice, optional
        Of the space axes of its grid.
    channels : int, optional
        Those of the layer by default.

    Examples
    --------
    >>> look = Look("a", "yx", (4, 5), np.dtype("uint8"), Grid.regular((4, 5)), ((4, 5),))
    >>> stand_in(look).array.shape
    (1, 4, 5)
    """
    grid = look.grid
    if window is not None:
        spans = [range(n)[w] for n, w in zip(grid.shape, window, strict=True)]
        grid = grid.window(tuple(s.start for s in spans), tuple(len(s) for s in spans))
    return Image(np.broadcast_to(np.zeros((), look.dtype), (channels or look.channels, *grid.shape)), grid, (),
                 look.name)


def voxels_of(layer: Any, look: Look, frame: int, level: int, window: Sequence[slice] | None) -> Any:
    """The voxels (C, *space) of a window, read now.

    Raises
    ------
    DataError
        If they are read from elsewhere and do not fit in memory.
    """
    data = layer.data[level] if getattr(layer, "multiscale", False) else layer.data
    inside = iter(window or [slice(None)] * look.grid.ndim)
    keys: list[Any] = [frame if a == "t" else next(inside) if a in _SPACE else slice(None) for a in look.axes]
    if not isinstance(data, np.ndarray):
        _refuse_large(layer.name, data, keys)
    array = np.asarray(data[tuple(keys)])
    kept = [a for a in look.axes if a != "t"]
    if "s" in kept:
        return np.moveaxis(array, kept.index("s"), 0)[:3]
    return np.moveaxis(array, kept.index("c"), 0) if "c" in kept else array[None]


def _refuse_large(name: str, data: Any, keys: Sequence[Any]) -> None:
    """A part that memory does not hold, before it is read."""
    import psutil

    from biosegkit.plan.units import memory_text

    voxels = math.prod(len(range(n)[key]) for key, n in zip(keys, data.shape, strict=True) if isinstance(key, slice))
    needed, there = voxels * np.dtype(data.dtype).itemsize, 0.8 * psutil.virtual_memory().available
    if needed > there:
        raise DataError(f"{memory_text(needed)} to be read at once", file=name,
                        expected=f"{memory_text(there)} at most",
                        remedy="take a part, such as this view or a rectangle; what was segmented in blocks has a "
                        "table of its objects beside it")


def _unit(layer: Any, space: Sequence[int]) -> tuple[str, list[float]]:
    """The unit of the space axes, and the factor into it per axis."""
    names = [str(unit).lower() for unit in getattr(layer, "units", ())] or ["pixel"] * layer.ndim
    found = [UNITS.get(names[i]) for i in space]
    if any(one is None for one in found):
        raise DataError(f"units {', '.join(names)}", file=layer.name, expected="lengths, or pixels",
                        remedy="set the layer's units")
    kinds = {one[0] for one in found if one is not None}
    if len(kinds) > 1:
        raise DataError(f"axes in {' and '.join(sorted(kinds))}", file=layer.name, expected="one unit for all",
                        remedy="set the layer's units")
    return kinds.pop(), [one[1] for one in found if one is not None]


def _channel_names(layers: Sequence[Any], channels: int) -> tuple[str, ...]:
    """Names of channels where layers give them."""
    if len(layers) > 1:
        return tuple(str(layer.name) for layer in layers) if channels == 1 else ()
    return ("red", "green", "blue") if getattr(layers[0], "rgb", False) else ()
