"""Labels of one time point as a layer of the whole time series, empty at all other times. No Qt; done in threads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from biosegkit.errors import DataError

from .layers import Look, axes_of, look_at, matrix_to_world, snapshot

__all__ = ["Frame", "blank", "in_time", "one_time"]

#: Data, settings and kind, as napari's readers return them.
LayerData: TypeAlias = tuple[Any, dict[str, Any], str]

#: Bytes from which on only those time points take memory that hold something, and sides of what is kept together.
_LARGE, _TILE, _PLANES = 1 << 28, 1024, 32


class Frame:
    """One time point of an array, which may lie on disk, as an array of its own: what is written to it goes there.

    Parameters
    ----------
    data : ndarray or zarr array
    axes : str
        A letter per axis of it, ``t`` and perhaps ``c`` among them.
    number : int
        The time point.

    Examples
    --------
    >>> film = np.zeros((2, 3, 4), np.uint8)
    >>> frame = Frame(film, "tyx", 1)
    >>> frame[0:1, 2:3] = 7
    >>> frame.shape, film[1, 0, 2], frame.inside((1, 0, 2)), frame.outside((0, 2))
    ((3, 4), np.uint8(7), (0, 2), (1, 0, 2))
    """

    def __init__(self, data: Any, axes: str, number: int) -> None:
        self.data, self.axes, self.number = data, axes, number
        self.shape = self.inside(data.shape)
        self.ndim, self.dtype = len(self.shape), np.dtype(data.dtype)

    def inside(self, place: Sequence[Any]) -> tuple[Any, ...]:
        """Of an entry per axis of all of the data those of space."""
        return tuple(one for one, letter in zip(place, self.axes, strict=True) if letter in "zyx")

    def outside(self, place: Sequence[Any]) -> tuple[Any, ...]:
        """From an entry per axis of space to one per axis of all of the data."""
        left = iter(place)
        return tuple(self.number if letter == "t" else next(left) if letter in "zyx" else 0 for letter in self.axes)

    def _key(self, key: Any) -> tuple[Any, ...]:
        given = key if isinstance(key, tuple) else (key,)
        return self.outside((*given, *[slice(None)] * (self.ndim - len(given))))

    def __getitem__(self, key: Any) -> Any:
        return self.data[self._key(key)]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.data[self._key(key)] = value


def blank(shape: Sequence[int], dtype: Any) -> Any:
    """Labels without an object: an array, or for what is large one in memory of which only tiles with objects are kept.

    Examples
    --------
    >>> type(blank((2, 3, 4), np.uint32)).__name__, type(blank((1000, 2000, 2000), np.uint32)).__name__
    ('ndarray', 'Array')
    """
    if math.prod(shape) * np.dtype(dtype).itemsize <= _LARGE:
        return np.zeros(shape, dtype)
    import zarr

    tile = [1] * (len(shape) - 3) + [_PLANES] * (len(shape) > 3) + [_TILE, _TILE]
    chunks = tuple(min(n, t) for n, t in zip(shape, [1] * (len(shape) - len(tile)) + tile, strict=True))
    return zarr.create_array(zarr.storage.MemoryStore(), shape=tuple(shape), chunks=chunks, dtype=np.dtype(dtype),
                             compressors=None, fill_value=0)


def in_time(made: LayerData, layer: Any, look: Look, frame: int) -> LayerData:
    """The layer of the labels of one time point, with the axis of time of its image and empty at other times.

    A channel axis between time and space has one entry, as long as all channels together.

    Parameters
    ----------
    made : tuple
        Data, settings and kind, of the axes of space.
    layer : snapshot of a napari layer
        The image.
    look : Look
        Of it.
    frame : int
    """
    data, settings, kind = made
    letters = look.axes.replace("s", "")
    first = len(letters) - len(letters.lstrip("c"))
    kept = range(first, len(letters))
    sizes = iter(data.shape)
    shape = [look.shape[i] if letters[i] == "t" else 1 if letters[i] == "c" else next(sizes) for i in kept]
    film = Frame(blank(shape, np.promote_types(data.dtype, np.uint32)), letters[first:], frame)  # room for other ids
    film[...] = data
    whole, space = matrix_to_world(layer), _own_matrix(settings, data.ndim)
    n, of_space = len(shape), [k for k, i in enumerate(kept) if letters[i] in "zyx"]
    matrix = np.eye(n + 1)
    matrix[np.ix_([*of_space, n], [*of_space, n])] = space
    for k, i in enumerate(kept):
        if letters[i] not in "zyx":
            many = look.shape[i] if letters[i] == "c" else 1
            matrix[k, k], matrix[k, n] = many * whole[i, i], whole[i, -1] + whole[i, i] * (many - 1) / 2
    units, own_units = [str(unit) for unit in layer.units], iter(settings["units"])
    place: dict[str, Any] = {"axis_labels": tuple(letters[first:]),
                             "units": tuple(next(own_units) if letters[i] in "zyx" else units[i] for i in kept)}
    if "affine" in settings:
        place["affine"] = matrix
    else:
        place |= {"scale": tuple(np.diag(matrix)[:n].tolist()), "translate": tuple(matrix[:n, n].tolist())}
    metadata = {**settings.get("metadata", {}), "frame": frame}
    return film.data, {**settings, **place, "metadata": metadata}, kind


def one_time(layer: Any) -> Any:
    """A layer as it is at the one time at which it has labels; the layer itself if it has no axis of time.

    Raises
    ------
    DataError
        If it has labels at several times, of which a file holds one.
    """
    axes = axes_of(layer)
    if "t" not in axes or layer.multiscale:
        return layer
    frames = [Frame(layer.data, axes, number) for number in range(look_at(layer).frames)]
    used = [frame for frame in frames if np.asarray(frame[...]).any()] or frames[:1]
    if len(used) > 1:
        raise DataError(f"labels at {len(used)} time points", file=layer.name, expected="labels at one time",
                        remedy="save each with Save… of Correct, which takes the time point that is shown")
    keys = tuple(slice(used[0].number, used[0].number + 1) if letter == "t" else slice(None) for letter in axes)
    only = snapshot(layer)
    only.data = np.asarray(layer.data[keys])
    only.features = layer.features
    return only


def _own_matrix(settings: dict[str, Any], ndim: int) -> Any:
    """From an index to the world, of the place of a layer."""
    if "affine" in settings:
        return np.asarray(settings["affine"], float)
    matrix = np.diag([*settings["scale"], 1.0])
    matrix[:ndim, ndim] = settings["translate"]
    return matrix
