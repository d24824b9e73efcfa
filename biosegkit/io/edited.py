"""Labels of an OME-Zarr that are edited on disk: the full resolution while editing, the others when it is saved."""

from __future__ import annotations

import itertools
import math
import threading
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from biosegkit.errors import DataError, FileError
from biosegkit.grid import Grid, Turn

from . import peek
from .raw import Array
from .zarrguard import EDITING, OWN, array_metadata, attributes, manifest

__all__ = ["EditedArray", "EditedLabels", "open_for_editing"]


@dataclass(eq=False)
class _Mark:
    """What a store says of itself while it is edited; said before a change, so that it is true whenever this ends."""

    group: Path
    lock: threading.Lock = field(default_factory=threading.Lock)
    #: Whether anything was written since the last save began.
    changed: bool = False

    def put(self) -> None:
        """Say it, unless the store says so already: asked of the disk, as others may have saved it."""
        own = attributes(self.group).get(OWN)
        if isinstance(own, dict) and own.get("manifest") != EDITING:
            zarr.open_group(self.group, mode="r+").attrs[OWN] = {**own, "manifest": EDITING}


#: One for all that edit a store.
_mark = cache(_Mark)


class EditedArray:
    """An array on disk, turned as it is shown: what is written to it is there at once, and its store says so first.

    Parameters
    ----------
    group : Path
        The labels group.
    array : zarr array
        Its full resolution.
    turn : Turn
        From the array on disk to this one.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     stored = zarr.create_array(folder, data=np.arange(6).reshape(2, 3))
    ...     edited = EditedArray(Path(folder), stored, Turn((1, 0), (0,)))
    ...     edited[0, :] = 9
    ...     edited.shape, edited[...].tolist(), stored[...].tolist()
    ((3, 2), [[9, 9], [1, 4], [0, 3]], [[0, 1, 9], [3, 4, 9]])
    """

    def __init__(self, group: Path, array: Any, turn: Turn) -> None:
        self.group, self.array, self.turn = group, array, turn
        self.shape, self.chunks = (tuple(int(n[p]) for p in turn.perm) for n in (array.shape, array.chunks))
        self.ndim, self.size, self.dtype = len(self.shape), math.prod(self.shape), np.dtype(array.dtype)

    def turned(self, turn: Turn) -> EditedArray:
        """The same voxels, turned further."""
        return EditedArray(self.group, self.array, self.turn.then(turn))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """All of it, read now."""
        return np.asarray(self[...], dtype)

    def __getitem__(self, key: Any) -> Array:
        """Read with an entry per axis: numbers and slices, or numbers and arrays of numbers."""
        place, turn, _ = self._stored(key)
        return turn.apply(np.asarray(self.array[place]))

    def __setitem__(self, key: Any, value: Any) -> None:
        """Write where reading would read."""
        place, turn, shape = self._stored(key)
        values = turn.inverse().apply(np.broadcast_to(np.asarray(value, self.dtype), shape))
        if values.size:
            mark = _mark(self.group.resolve())
            with mark.lock:
                mark.put()
                mark.changed = True
                self.array[place] = values

    def _stored(self, key: Any) -> tuple[tuple[Any, ...], Turn, tuple[int, ...]]:
        """Of a key the one on disk, the turn of what that one gives, and the shape of it when it is turned."""
        given = key if isinstance(key, tuple) else (key,)
        here = next((k for k, entry in enumerate(given) if entry is ...), len(given))
        rest = [slice(None)] * (self.ndim - len(given) + (here < len(given)))
        place: list[Any] = [None] * self.ndim
        kept: list[int] = []  # axes on disk that are sliced, in the order of the axes here
        back, shape = [], []
        entries = (*given[:here], *rest, *given[here + 1 :])
        for axis, (entry, source, size) in enumerate(zip(entries, self.turn.perm, self.shape, strict=True)):
            voxels = range(size)[::-1] if axis in self.turn.flips else range(size)
            if not isinstance(entry, slice):
                place[source] = _looked_up(voxels, entry)
                continue
            found = voxels[entry]
            if found.step < 0:
                back.append(len(kept))
                found = found[::-1]
            place[source] = slice(found.start, found.stop, found.step) if found else slice(0, 0)
            kept.append(source)
            shape.append(len(found))
        points = [entry for entry in place if not isinstance(entry, slice)]
        if not any(map(np.ndim, points)):
            return tuple(place), Turn(tuple(sorted(kept).index(p) for p in kept), tuple(back)), tuple(shape)
        if kept:
            raise IndexError("slices beside arrays of indices: use one or the other")
        return tuple(place), Turn(()), np.broadcast_shapes(*map(np.shape, points))


@dataclass(frozen=True, eq=False)
class EditedLabels:
    """Labels on disk that are being edited.

    Parameters
    ----------
    path : Path
        The labels group.
    array : EditedArray, (Z, Y, X) or (Y, X)
        Its full resolution as the file has it; what is written there is on disk at once.
    grid : Grid
        The geometry.
    levels : tuple of str
        The arrays of the group, finest first.
    """

    path: Path
    array: EditedArray
    grid: Grid
    levels: tuple[str, ...]

    def save(self) -> None:
        """Make the smaller resolutions anew from the full one, and a new manifest where there was one.

        Every voxel of a smaller resolution is one of the next larger, as when biosegkit writes labels; memory follows
        one chunk. What is changed meanwhile is for the next time: the store goes on saying that it is being edited.
        """
        mark = _mark(self.path.resolve())
        with mark.lock:
            mark.put()
            mark.changed = False
        for fine, coarse in itertools.pairwise(self.levels):
            _picked(zarr.open_array(self.path / fine, mode="r"), _writable(self.path / coarse))
        with mark.lock:
            group = zarr.open_group(self.path, mode="r+")
            own = group.attrs.get(OWN)
            if isinstance(own, dict) and not mark.changed:
                plain = {k: v for k, v in own.items() if k != "manifest"}
                group.attrs[OWN] = {**plain, "manifest": manifest(self.path, list(self.levels), plain)}


def open_for_editing(path: str | Path) -> EditedLabels:
    """Open the labels of an OME-Zarr to edit them in place.

    From now, and again from the first change after a save, until :meth:`EditedLabels.save` the store says of itself
    that it is being edited: it can be read, but its smaller resolutions are older.

    Parameters
    ----------
    path : path
        A labels group, or an image with one labels group.

    Raises
    ------
    FileError
        If there is no such group, or it cannot be written.
    DataError
        If there are several, or the labels have other axes than z, y, x.

    Examples
    --------
    >>> import tempfile
    >>> from biosegkit.image import Labels
    >>> from biosegkit.io import read_labels, write
    >>> labels = Labels.from_values(np.array([[0, 7, 7]]), Grid.regular((1, 3), 0.5, "um"), "instance")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(labels, folder + "/a.ome.zarr")
    ...     edited = open_for_editing(folder + "/a.ome.zarr")
    ...     edited.array[0, 1] = 0
    ...     edited.save()
    ...     read_labels(folder + "/a.ome.zarr", "instance").restored().tolist()
    [[0, 0, 7]]
    """
    group = _group(Path(path))
    scales = _ome(group)["multiscales"]
    levels = tuple(str(d["path"]) for d in scales[0]["datasets"])
    for level in levels:
        if not (group / level).resolve().is_relative_to(group.resolve()) or array_metadata(group / level) is None:
            raise FileError(f"no array {level!r}", file=group, expected="every resolution its metadata name",
                            remedy="copy or write the store again")
    header = peek(group)  # also compares the store with its manifest
    array = _writable(group / levels[0])
    if tuple(array.shape) != header.grid.shape or np.dtype(array.dtype).kind not in "ui":
        raise DataError(f"an array of shape {tuple(array.shape)} and type {array.dtype}", file=group,
                        expected="whole numbers along z, y, x or y, x",
                        remedy="save the labels as a new OME-Zarr and edit that")
    mark = _mark(group.resolve())
    with mark.lock:
        mark.put()
    straight = Turn(tuple(range(header.grid.ndim)))
    return EditedLabels(group, EditedArray(group, array, straight), header.grid, levels)


def _looked_up(voxels: range, entry: Any) -> Any:
    """The voxels with these numbers, or the one with this number."""
    index = np.asarray(entry)
    if index.dtype.kind not in "ui" or ((index < -len(voxels)) | (index >= len(voxels))).any():
        raise IndexError(f"voxels {entry!r} of {len(voxels)}")
    found = voxels.start + voxels.step * (index.astype(np.int64) % len(voxels))
    return found if index.ndim else int(found)


def _group(path: Path) -> Path:
    """The labels group that a path means."""
    if not path.is_dir():
        raise FileError("no such folder", file=path, expected="an OME-Zarr")
    if "image-label" not in _ome(path) and (path / "labels").is_dir():
        names = _ome(path / "labels").get("labels") or []
        if len(names) != 1:
            raise DataError(f"labels {names}", file=path, expected="one labels group",
                            remedy=f"name one: {path.name}/labels/NAME")
        path = path / "labels" / str(names[0])
    if not _ome(path).get("multiscales"):
        raise FileError("no labels", file=path, expected="a labels group of an OME-Zarr",
                        remedy="write the labels as OME-Zarr first")
    return path


def _ome(group: Path) -> dict[str, Any]:
    """The OME metadata of a group, either version."""
    found = attributes(group)
    inner = found.get("ome", found)
    return inner if isinstance(inner, dict) else {}


def _writable(folder: Path) -> Any:
    """An array to write to; chunks that become empty are stored as well."""
    try:
        with zarr.config.set({"array.write_empty_chunks": True}):  # taken over by the array when it is opened
            return zarr.open_array(folder, mode="r+")
    except (OSError, ValueError, KeyError) as error:
        raise FileError(f"cannot open for writing: {error}", file=folder, expected="a writable array",
                        remedy="copy the store to a folder that can be written") from error


def _picked(fine: Any, coarse: Any) -> None:
    """Fill a resolution with voxels of the next finer one, chunk by chunk."""
    for start in itertools.product(*(range(0, n, c) for n, c in zip(coarse.shape, coarse.chunks, strict=True))):
        window = tuple(slice(s, min(s + c, n)) for s, c, n in zip(start, coarse.chunks, coarse.shape, strict=True))
        picks = [_positions(n, m)[w] for n, m, w in zip(fine.shape, coarse.shape, window, strict=True)]
        block = np.asarray(fine[tuple(slice(int(p[0]), int(p[-1]) + 1) for p in picks)])
        coarse[window] = block[np.ix_(*(p - p[0] for p in picks))]


def _positions(fine: int, coarse: int) -> Array:
    """Which voxels along an axis stand for the coarser ones: the first of every n, or the nearest."""
    step = -(-fine // coarse)
    exact = -(-fine // step) == coarse
    return np.arange(coarse) * step if exact else ((np.arange(coarse) + 0.5) * fine / coarse).astype(np.int64)
