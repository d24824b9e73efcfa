"""Labels of an OME-Zarr that are edited on disk: the full resolution while editing, the others when it is saved."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from biosegkit.errors import DataError, FileError
from biosegkit.grid import Grid

from . import peek
from .raw import Array
from .zarrguard import EDITING, OWN, array_metadata, attributes, manifest

__all__ = ["EditedLabels", "open_for_editing"]


@dataclass(frozen=True, eq=False)
class EditedLabels:
    """Labels on disk that are being edited.

    Parameters
    ----------
    path : Path
        The labels group.
    array : zarr array, (Z, Y, X) or (Y, X)
        Its full resolution; what is written there is on disk at once.
    grid : Grid
        The geometry.
    levels : tuple of str
        The arrays of the group, finest first.
    """

    path: Path
    array: Any
    grid: Grid
    levels: tuple[str, ...]

    def save(self) -> None:
        """Make the smaller resolutions anew from the full one, and a new manifest where there was one.

        Every voxel of a smaller resolution is one of the next larger, as when biosegkit writes labels; memory follows
        one chunk.
        """
        for fine, coarse in itertools.pairwise(self.levels):
            _picked(zarr.open_array(self.path / fine, mode="r"), _writable(self.path / coarse))
        group = zarr.open_group(self.path, mode="r+")
        own = group.attrs.get(OWN)
        if isinstance(own, dict):
            plain = {k: v for k, v in own.items() if k != "manifest"}
            group.attrs[OWN] = {**plain, "manifest": manifest(self.path, list(self.levels), plain)}


def open_for_editing(path: str | Path) -> EditedLabels:
    """Open the labels of an OME-Zarr to edit them in place.

    Until :meth:`EditedLabels.save` the store says of itself that it is being edited: it can be read, but its smaller
    resolutions are older.

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
    root = zarr.open_group(group, mode="r+")
    own = root.attrs.get(OWN)
    if isinstance(own, dict):
        root.attrs[OWN] = {**own, "manifest": EDITING}
    return EditedLabels(group, array, header.grid, levels)


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
