"""OME-Zarr 0.5 and 0.4: images and labels with checksummed chunks; every chunk is stored, none may be lost (F2, F3)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from biosegkit._atomic import atomic_folder, read_json, write_json
from biosegkit.errors import DataError, FileError
from biosegkit.grid import Grid
from biosegkit.image import Image, Labels, narrowed

from . import arrange, ngff
from .options import ReadOptions
from .raw import Array, Coarser, Position, Raw, Window, native
from .zarrguard import EDITING, OWN, Place, array_metadata, attributes, manifest, verify

__all__ = ["CHUNK", "create_array", "halved", "halved_axes", "images", "raw", "writable", "write"]

#: Voxels of a chunk.
CHUNK = {2: (1024, 1024), 3: (32, 256, 256)}
_SMALLEST = 1024  # levels are added until y and x are no larger than this
_FAILURES = (RuntimeError, ValueError, OSError, KeyError, TypeError, IndexError, NotImplementedError, AttributeError)


def images(path: Place, options: ReadOptions) -> tuple[Position, ...]:
    """The images of a store: one, or those of a container, a plate or a well, in the order it lists them."""
    several = _several(path, attributes(path))
    if not several or options.series is not None:
        found = raw(path, options)
        return (Position("", options.series, _times(found, options)),)
    numbered = ((number, name, raw(path, replace(options, series=number))) for number, (name, _) in enumerate(several))
    return tuple(Position(name, number, _times(found, options)) for number, name, found in numbered)


def _times(found: Raw, options: ReadOptions) -> int:
    axes, sizes = arrange.axes_of(found, options)
    return sizes[axes.index("t")] if "t" in axes else 1


def raw(path: Place, options: ReadOptions, *, labels: bool = False) -> Raw:
    """The full-resolution array of an image or labels group, or a plain zarr array.

    Raises
    ------
    FileError
        For damaged or incomplete stores and unknown codecs (F1–F3, F5, S4).
    DataError
        Where it is not clear which array is meant, or what its axes are (V9, V10).
    """
    notes: list[str] = []
    group = _image_group(path, labels, options, notes)
    found = attributes(group)
    meta = ngff.parse(found, str(group))
    own = found.get(OWN)
    if isinstance(own, dict) and meta is not None and isinstance(group, Path):
        verify(group, own)
        if own.get("manifest") == EDITING:
            notes.append("labels that were edited and not saved: the smaller resolutions are older")
    folder = group if meta is None else _inside(group, meta.path)
    header = array_metadata(folder)
    if header is None and meta is None and not isinstance(group, Path):
        raise FileError("no array", file=str(group), expected="an OME-Zarr image or a zarr array",
                        remedy="check the address, which is that of a folder with a zarr.json or .zattrs in it")
    if header is None:
        raise FileError("no array" if meta is None else f"no array {meta.path!r}", file=str(group),
                        expected="an OME-Zarr image or a zarr array", remedy="copy or write the store again")
    if meta is None:
        meta = _plain_array(header, labels)
    whole = isinstance(own, dict)
    shape, dtype = _opened(folder)
    if len(meta.axes) != len(shape):
        raise DataError(f"axes {meta.axes!r} for shape {shape}", file=str(group), expected="one axis per dimension",
                        remedy="name them with --axes")
    native(dtype, str(group))
    return Raw(str(path), meta.axes, shape, dtype, lambda: _loaded(folder, whole), affine=_affine(meta, own),
               spacing=meta.spacing, unit=_unit(meta, own), channels=meta.channels, notes=(*notes, *meta.notes),
               window=_window(folder, whole), coarser=tuple(_coarser(group, meta, shape, dtype, whole)))


def _array(folder: Place, whole: bool = False) -> Any:
    """An array; see :meth:`biosegkit.io.remote.Remote.store` for ``whole``."""
    return zarr.open_array(folder if isinstance(folder, Path) else folder.store(whole=whole), mode="r")


def _window(folder: Place, whole: bool) -> Window:
    """Regions of an array; a chunk that cannot be decoded is refused when it is read."""
    array = _array(folder, whole)

    def window(region: tuple[slice, ...]) -> Array:
        with _sound(folder):
            return np.asarray(array[region])

    return window


@contextmanager
def _sound(folder: Place) -> Iterator[None]:
    """What reading raises, as an error that says whether the data are damaged or the network is silent."""
    try:
        with nullcontext() if isinstance(folder, Path) else folder.answering():
            yield
    except _FAILURES as error:
        raise FileError(f"a damaged zarr array ({str(error)[:200]})", file=str(folder),
                        expected="whole metadata and chunks", remedy="copy or write the store again") from error


def _coarser(group: Place, meta: ngff.Multiscale, shape: tuple[int, ...], dtype: np.dtype[Any],
             whole: bool) -> Iterator[Coarser]:
    """The further resolutions that are there and fit the first."""
    for path, steps, shifts in meta.coarser:
        folder = _inside(group, path)
        if array_metadata(folder) is None:
            raise FileError(f"no array {path!r}", file=str(group), expected="every resolution its metadata name",
                            remedy="copy or write the store again")
        sizes, stored = _opened(folder)
        if len(sizes) == len(shape) and stored == dtype and all(
            m == n for a, m, n in zip(meta.axes, sizes, shape, strict=True) if a not in "zyx"
        ):
            yield Coarser(sizes, _window(folder, whole), steps, shifts)


def _inner(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """The attributes of OME-Zarr, whichever version."""
    inner = found.get("ome", found)
    return inner if isinstance(inner, Mapping) else {}


def _several(path: Place, found: Mapping[str, Any]) -> list[tuple[str, Place]]:
    """Names and places of the images of a container, a plate or a well; none of an image or array."""
    inner = _inner(found)
    if "plate" in inner:
        wells = [str(well["path"]) for well in inner["plate"].get("wells", ())]
        places = [(well.replace("/", ""), _inside(path, well)) for well in wells]
        fields = ((name, *one) for name, well in places for one in _several(well, attributes(well)))
        return [(f"{name}_{field}", place) for name, field, place in fields]
    if "well" in inner:
        return [(str(one["path"]), _inside(path, str(one["path"]))) for one in inner["well"].get("images", ())]
    if "bioformats2raw.layout" not in inner or inner.get("multiscales"):
        return []
    out: list[tuple[str, Place]] = []
    while _inner(attributes(path / str(len(out)))).get("multiscales"):
        out.append((f"p{len(out):04}", path / str(len(out))))
    if not out:
        raise FileError("no image 0", file=str(path), expected="the images that its layout announces",
                        remedy="copy or write the store again")
    return out


def _image_group(path: Place, labels: bool, options: ReadOptions, notes: list[str]) -> Place:
    """The group meant by a path: itself, one image of a container, or the only labels of an image."""
    found = attributes(path)
    several = _several(path, found)
    inner = _inner(found)
    if several:
        number = 0 if options.series is None and len(several) == 1 and "plate" not in inner else options.series
        if number is None or not 0 <= number < len(several):
            names = ", ".join(name for name, _ in several[:6])
            raise DataError(f"{len(several)} images ({names}{' …' if len(several) > 6 else ''})", file=str(path),
                            expected="one image", remedy="name one, for example STORE.zarr/0 or PLATE.zarr/A/1/0")
        notes.append(f"image {several[number][0]} of the store")
        path, inner = several[number][1], {}
    elif "plate" in inner or "well" in inner:
        raise DataError("a plate or well that lists no image", file=str(path), expected="one image",
                        remedy="name an image in it, for example PLATE.zarr/A/1/0")
    elif options.series:
        raise DataError("one image", file=str(path), expected=f"one with number {options.series}")
    if labels and "image-label" not in inner:
        listed = _inner(attributes(path / "labels")).get("labels") or []
        if len(listed) > 1:
            raise DataError(f"labels {listed}", file=str(path), expected="one",
                            remedy=f"name one: {path.name}/labels/{listed[0]}")
        if listed:
            notes.append(f"labels group {listed[0]!r} of the image")
            return _inside(path / "labels", str(listed[0]))
    return path


def _inside(group: Place, name: str) -> Place:
    """A path named in metadata, which must stay inside the store (S6)."""
    target = group / name
    outside = not target.resolve().is_relative_to(group.resolve()) if isinstance(target, Path) and isinstance(
        group, Path) else ".." in name or "://" in name or name.startswith("/")
    if not name or outside:
        raise FileError(f"the path {name!r} in its metadata", file=str(group), expected="a path inside the store",
                        remedy="do not use this store")
    return target


def _plain_array(header: dict[str, Any], labels: bool) -> ngff.Multiscale:
    """A zarr array without OME metadata: its own dimension names, else only what has one meaning."""
    names = [str(n or "q").lower() for n in header.get("dimension_names") or ()]
    size = len(header.get("shape", ()))
    if len(names) == size and all(n in "tczyxs" and len(n) == 1 for n in names):
        return ngff.Multiscale("", "".join(names))
    space = "zyx" if size == 3 and labels else "yx"
    return ngff.Multiscale("", "q" * (size - len(space)) + space)


def _affine(meta: ngff.Multiscale, own: Any) -> Array | None:
    """Our own exact affine, else scale and translation."""
    letters = [a for a in "zyx" if a in meta.axes]
    if isinstance(own, dict) and "affine" in own:
        return np.array(own["affine"], dtype=np.float64)
    if not meta.spacing or not any(meta.translation.values()):
        return None
    if not all(math.isfinite(meta.spacing[a]) and meta.spacing[a] > 0 for a in letters):
        return None  # refused with the axis named, where spacing is checked
    affine = np.array(Grid.regular((1,) * len(letters), tuple(meta.spacing[a] for a in letters)).affine)
    affine[:-1, -1] = [meta.translation[a] for a in reversed(letters)]
    return affine


def _unit(meta: ngff.Multiscale, own: Any) -> str:
    return str(own["unit"]) if isinstance(own, dict) and "unit" in own else meta.unit


def _opened(folder: Place) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with _sound(folder):
        array = _array(folder)
        return tuple(int(s) for s in array.shape), np.dtype(array.dtype)


def _loaded(folder: Place, whole: bool) -> Array:
    with _sound(folder):
        return np.asarray(_array(folder, whole)[...])


def write(item: Image | Labels, path: Path, version: ngff.Version = "0.5") -> None:
    """Write an OME-Zarr; ``STORE.zarr/labels/NAME`` adds labels to an image that is there.

    Chunks are compressed with zstd and its checksum and all are stored; the attributes hold a manifest, the exact
    affine and the unit. Large images get further resolutions (labels by picking, intensities by the mean).
    """
    parent = path.parent.parent if path.parent.name == "labels" else None
    inside = parent is not None and bool(attributes(parent))
    if inside and parent is not None:
        version = "0.5" if (parent / "zarr.json").is_file() else "0.4"
    with atomic_folder(path) as temporary:
        _write_group(item, temporary, version, path.name.split(".")[0], inside)
    if inside:
        _register(path.parent, path.name, version)


def _write_group(item: Image | Labels, folder: Path, version: ngff.Version, name: str, inside: bool) -> None:
    array, axes = _storable(item)
    mean = isinstance(item, Image)
    pyramid = _pyramid(array, item.grid, mean)
    shapes = [tuple(a.shape[-item.grid.ndim :]) for a in pyramid]
    levels = ngff.levels_of(item.grid, shapes, mean=mean)
    group = zarr.open_group(folder, mode="w", zarr_format=2 if version == "0.4" else 3)
    for level, values in zip(levels, pyramid, strict=True):
        create_array(group, level.path, values.shape, values.dtype, axes, item.grid.ndim, version)[...] = values
    content: dict[str, Any] = {"multiscales": ngff.multiscales(axes, item.grid.unit, levels, version, name)}
    if isinstance(item, Image):
        ranges = [(float(c.min()), float(c.max())) for c in item.array]
        content["omero"] = ngff.omero(item.channels, ranges)
    else:
        content["image-label"] = ngff.image_label(item.values, version, inside=inside)
    own = {"affine": item.grid.affine.tolist(), "unit": item.grid.unit}
    own["manifest"] = manifest(folder, [level.path for level in levels], own)
    group.attrs.update({"ome": {"version": "0.5", **content}, OWN: own} if version == "0.5" else {**content, OWN: own})


def _storable(item: Image | Labels) -> tuple[Array, str]:
    if isinstance(item, Labels):
        return narrowed(item.restored()), item.grid.axes
    array = item.array.astype(native(item.array.dtype, item.source), copy=False)
    return (array[0], item.grid.axes) if array.shape[0] == 1 else (array, "c" + item.grid.axes)


def create_array(group: Any, name: str, shape: tuple[int, ...], dtype: Any, axes: str, ndim: int,
                 version: ngff.Version = "0.5") -> Any:
    """An empty array of a group, in checksummed chunks of which every one that is written is stored."""
    chunk = (1,) * (len(shape) - ndim) + CHUNK[ndim]
    options: dict[str, Any] = {
        "shape": shape, "dtype": dtype, "fill_value": 0, "config": {"write_empty_chunks": True},
        "chunks": tuple(min(c, s) for c, s in zip(chunk, shape, strict=True)),
    }
    if version == "0.4":
        from numcodecs import Zstd

        return group.create_array(name, compressors=Zstd(level=3, checksum=True),
                                  chunk_key_encoding={"name": "v2", "separator": "/"}, **options)
    codec = zarr.codecs.ZstdCodec(level=3, checksum=True)
    return group.create_array(name, compressors=codec, dimension_names=list(axes), **options)


def writable(folder: Path) -> Any:
    """An array of :func:`create_array` that is there, to be written to: chunks of zeros are stored too."""
    with zarr.config.set({"array.write_empty_chunks": True}):  # zarr keeps it with the array in memory, not on the disk
        return zarr.open_array(folder, mode="r+")


def halved_axes(grid: Grid) -> list[tuple[int, ...]]:
    """Which axes each further resolution halves: none that is much coarser than the finest."""
    shape, spacing, out = np.array(grid.shape), np.array(grid.spacing), []
    while max(shape[-2:]) > _SMALLEST:
        axes = np.flatnonzero((spacing <= 1.5 * spacing.min()) & (shape > 1))
        shape[axes], spacing[axes] = (shape[axes] + 1) // 2, 2 * spacing[axes]
        out.append(tuple(int(a) for a in axes))
    return out


def _pyramid(array: Array, grid: Grid, mean: bool) -> list[Array]:
    """Full resolution and halves of it."""
    out = [array]
    for axes in halved_axes(grid):
        level = out[-1]
        for axis in axes:
            level = halved(level, axis - grid.ndim, mean)
        out.append(level)
    return out


def halved(array: Array, axis: int, mean: bool) -> Array:
    """Half as many voxels along an axis, counted from the last: means of two, or every second one."""
    front: list[Any] = [slice(None)] * array.ndim
    front[axis] = slice(0, None, 2)
    first: Array = array[tuple(front)]
    if not mean:
        return first
    back = list(front)
    back[axis] = slice(1, None, 2)
    second = array[tuple(back)]
    if second.shape[axis] < first.shape[axis]:  # an odd last voxel stands alone
        last = list(front)
        last[axis] = slice(-1, None)
        second = np.concatenate([second, array[tuple(last)]], axis=axis)
    average: Array = (first.astype(np.float64) + second) / 2
    return np.asarray(np.rint(average) if array.dtype.kind in "iu" else average, dtype=array.dtype)


def _register(labels: Path, name: str, version: ngff.Version) -> None:
    """List a labels group in its parent; a 0.5 list also needs the version."""
    if version == "0.4":
        if not (labels / ".zgroup").is_file():
            write_json(labels / ".zgroup", {"zarr_format": 2})
        found = attributes(labels)
        write_json(labels / ".zattrs", {**found, "labels": sorted({*found.get("labels", ()), name})})
        return
    target = labels / "zarr.json"
    fresh: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    node: dict[str, Any] = read_json(target) if target.is_file() else fresh
    ome = node["attributes"].get("ome", {})
    node["attributes"]["ome"] = {**ome, "version": "0.5", "labels": sorted({*ome.get("labels", ()), name})}
    write_json(target, node)
