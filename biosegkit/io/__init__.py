"""Files in and out: read, read_labels, write. Formats are told by content, geometry by metadata, damage is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from biosegkit import _atomic
from biosegkit._endings import ENDINGS
from biosegkit._words import counted
from biosegkit.errors import DataError, FileError, OptionError
from biosegkit.grid import Grid
from biosegkit.image import Image, Labels, Task

from . import arrange
from .channels import SAME_GRID, joined
from .colours import Renaming, renaming
from .formats import MODULES, module, opened
from .lazy import LazyArray, Pyramid, at_spacing, open_pyramid, positions
from .options import ReadOptions
from .raw import Array, Header
from .sniff import ending, sniff

__all__ = ["Header", "LazyArray", "Pyramid", "ReadOptions", "at_spacing", "formats", "open_pyramid", "peek",
           "positions", "read", "read_labels", "write"]

_WRITABLE = (".nii", ".nii.gz", ".tif", ".tiff", ".ome.tif", ".ome.tiff", ".png", ".zarr", ".ome.zarr")

Source = str | Path | Sequence[str | Path]


def formats() -> dict[str, str]:
    """Endings of file names and the format each stands for.

    Examples
    --------
    >>> formats()[".nii.gz"]
    'nifti.gz'
    """
    return dict(ENDINGS)


def read(source: Source, options: ReadOptions | None = None) -> Image:
    """Read an image as (c, z, y, x) or (c, y, x) in its own dtype, with its geometry.

    Parameters
    ----------
    source : path or sequence of paths
        One file, or one file per channel on the same grid.
    options : ReadOptions, optional
        What the file does not say, or says wrong.

    Returns
    -------
    Image
        ``notes`` lists every repair and assumption.

    Raises
    ------
    FileError
        If a file is missing, damaged, cut, too large, or not what its name says (F1, F2, F4, F5).
    DataError
        If axes, geometry or voxel type do not admit one reading (V8, V9, V10, G4, G6).

    Examples
    --------
    >>> import tempfile
    >>> from biosegkit.grid import Grid
    >>> image = Image(np.arange(6, dtype=np.uint8).reshape(1, 2, 3), Grid.regular((2, 3), 0.5, "um"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(image, folder + "/a.tif")
    ...     again = read(folder + "/a.tif")
    >>> again.array.tolist(), again.grid.spacing, again.grid.unit
    ([[[0, 1, 2], [3, 4, 5]]], (0.5, 0.5), 'um')
    """
    options = options or ReadOptions()
    if not isinstance(source, str | Path) and len(source) == 1:
        (source,) = source
    if isinstance(source, str | Path):
        return arrange.to_image(opened(source, options), options)
    if not source:
        raise OptionError("no file", expected="one file, or one per channel")
    single = replace(options, channel_names=())
    return joined([arrange.to_image(opened(p, single), single) for p in source], options)


def read_labels(
    path: str | Path,
    task: Task | None = None,
    options: ReadOptions | None = None,
    *,
    ignore_value: int | None = None,
    mapping: Mapping[int, int] | Renaming | None = None,
) -> Labels:
    """Read labels: a label image, a labels group of an OME-Zarr, or a folder with one mask file per object.

    Parameters
    ----------
    path : path
        The file or folder.
    task : {"semantic", "instance"}, optional
        Whether values name classes or objects. Left out, :func:`biosegkit.evaluate` takes what the other labels are,
        and all else takes values for classes; a folder of masks holds objects.
    options : ReadOptions, optional
        What the file does not say.
    ignore_value : int, optional
        The value of voxels without annotation (L9).
    mapping : mapping of int or str to int, optional
        Values to rename on reading, e.g. ``{255: 1}``; of labels drawn in colours the number that each colour stands
        for, ``{"#ff0000": 1}``. Black that is not named is 0. Of objects every other colour is one, whose value is
        ``0xrrggbb``; objects of one colour are one.

    Raises
    ------
    FileError, DataError
        As for :func:`read`; also for fractional (L3) or negative (L4) values, colours of classes that ``mapping``
        does not name, and colours of objects that are mixed along edges (V9).

    Examples
    --------
    >>> import tempfile
    >>> from biosegkit.grid import Grid
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Labels.from_values(np.array([[0, 7, 7]]), Grid.regular((1, 3)), "instance"), folder + "/a.tif")
    ...     read_labels(folder + "/a.tif", "instance").values.tolist()
    [0, 7]
    """
    options, names = options or ReadOptions(), renaming(mapping or {})
    if sniff(path) == "folder":
        task = task or "instance"
        array, grid, notes = _masks(Path(path), task, options)
        numbers = {k: v for k, v in names.items() if isinstance(k, int)}
    else:
        taken = None if task != "instance" else () if ignore_value is None else (ignore_value,)
        array, grid, notes, numbers = arrange.to_plane(opened(path, options, labels=True), options, names, taken)
    found = Labels.from_values(array, grid, task or "semantic", ignore_value=ignore_value, mapping=numbers,
                               source=str(path), notes=notes)
    return found if task else replace(found, task_said=False)


def _masks(folder: Path, task: Task, options: ReadOptions) -> tuple[Array, Grid, tuple[str, ...]]:
    """A folder of per-object masks → one instance label image; the first mask keeps a voxel two claim."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and ending(p))
    if not files:
        raise FileError("a folder without image files", file=folder, expected="one mask file per object")
    if task != "instance":
        raise DataError(counted(len(files), "mask file"), file=folder, expected="one label file for a semantic task",
                        remedy="--task instance, or merge the masks into one file per case")
    grid = peek(files[0], options).grid
    out: Array = np.zeros(grid.shape, np.uint32)
    notes: tuple[str, ...] = ()
    overlap = 0
    for number, file in enumerate(files, 1):
        mask, here, notes, _ = arrange.to_plane(opened(file, options, labels=True), options)
        if not grid.mismatch(here) <= SAME_GRID:
            raise DataError(f"a mask of shape {here.shape}", file=file, expected=f"{grid.shape}, as the others")
        inside = mask != 0
        overlap += int(np.count_nonzero(inside & (out > 0)))
        out[inside & (out == 0)] = number
    summary = f"{counted(len(files), 'mask')} read as objects in the order of their names"
    if overlap:
        summary += f"; {counted(overlap, 'voxel')} claimed twice, left to the first"
    return out, grid, (*notes, summary)


def peek(path: str | Path, options: ReadOptions | None = None) -> Header:
    """Shape, channels, dtype, grid and notes of an image, without reading its voxels."""
    options = options or ReadOptions()
    return arrange.to_header(opened(path, options), options)


def write(
    item: Image | Labels,
    path: str | Path,
    provenance: Mapping[str, Any] | None = None,
    *,
    ngff: Literal["0.5", "0.4"] = "0.5",
) -> None:
    """Write an image or labels; the ending of the name chooses the format. The file appears only when whole.

    Labels are written with the user's values, in the smallest unsigned dtype that holds them. With ``provenance`` a
    file ``<name>.json`` is written after it: the provenance, the notes, the grid and the file's SHA-256. ``ngff`` is
    the version of an OME-Zarr; the path ``STORE.zarr/labels/NAME`` adds labels to the image in that store.

    Raises
    ------
    OptionError
        For an ending no format can be written to.
    DataError
        For values the format cannot hold exactly (L1, L2).
    FileError
        If the place cannot be written; an older file is then unchanged (F7).
    """
    path = Path(path)
    found = ending(path) or (".zarr" if path.parent.name == "labels" and ending(path.parent.parent) else "")
    if found not in _WRITABLE:
        raise OptionError(f"a name ending in {path.suffix!r}", file=path, expected=", ".join(_WRITABLE))
    if ENDINGS[found] == "zarr":
        module("zarr").write(item, path, ngff)
    else:
        module(MODULES[ENDINGS[found]]).write(item, path)
    if provenance is not None:
        _sidecar(item, path, provenance)


def _sidecar(item: Image | Labels, path: Path, provenance: Mapping[str, Any]) -> None:
    """The record beside an output: what it was made from, and its hash."""
    record: dict[str, Any] = {"file": path.name, **provenance, "grid": item.grid.to_dict(), "notes": list(item.notes)}
    if path.is_file():
        record["sha256"] = _atomic.sha256(path)
    _atomic.write_json(path.with_name(path.name + ".json"), record)
