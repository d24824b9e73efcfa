"""TIFF: pages, axes and pixel sizes from OME, ImageJ, tifffile or plain metadata; cut stacks are refused (F1, V9)."""

from __future__ import annotations

import hashlib
import logging
import math
import struct
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import numpy as np
import tifffile

from biosegkit._atomic import atomic_path
from biosegkit._words import counted
from biosegkit.errors import DataError, FileError
from biosegkit.image import Image, Labels, narrowed

from .options import ReadOptions
from .raw import Array, Coarser, Position, Raw, Window, check_claim, native, step_between
from .tiffmeta import Meta, describe, ome_metadata, ome_text, pixel_size, shaped_metadata
from .tiffwalk import check_pages
from .tiles import DECODING, memory_mapped, segments

__all__ = ["images", "raw", "write"]

_RATIOS = {1: 1.0, 5: 2731.0, 8: 1032.0, 32773: 64.0, 32946: 1032.0}  # largest expansion by compression tag
_COLOUR = {2, 6}  # RGB, YCbCr
_BAD_COLOUR = {5: "CMYK", 8: "CIELab", 9: "ICCLab", 10: "ITULab"}
_SLIDES = ("svs", "ndpi", "scn", "bif", "philips", "qpi")
_LOGGER = "tifffile"


class _Errors(logging.Handler):
    """Collects what tifffile reports as errors and then goes on in spite of (F1)."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.messages.append(record.getMessage())


@contextmanager
def _opened(path: Path) -> Iterator[tifffile.TiffFile]:
    """An open file; what tifffile logs as an error, and every error of its decoders, is a FileError."""
    logger, errors = logging.getLogger(_LOGGER), _Errors()
    logger.addHandler(errors)
    try:
        # other files named inside an OME-XML are never opened (S6)
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            yield tiff
    except (FileError, DataError):
        raise
    except (tifffile.TiffFileError, struct.error, ParseError, *DECODING) as error:
        raise _damaged(path, str(error)) from error
    finally:
        logger.removeHandler(errors)
    if errors.messages:
        raise _damaged(path, errors.messages[0])


def _damaged(path: Path, reason: str) -> FileError:
    return FileError(f"a damaged or cut TIFF ({reason[:200]})", file=path, expected="a whole file",
                     remedy="copy or export it again")


def images(path: Path, options: ReadOptions) -> tuple[Position, ...]:
    """The images of a TIFF with their time points; pyramids, labels and macro images of slides do not count.

    Raises
    ------
    FileError, DataError
        As for :func:`raw`.
    """
    check_pages(path)
    with _opened(path) as tiff:
        ome_text(tiff, str(path))
        chosen = _full(tiff) if options.series is None else [_series(tiff, options, str(path), [])[0]]
        found = [Position(f"p{i:04}", i, _times(tiff.series[i], options)) for i in chosen]
    return tuple(found) if len(found) > 1 else (Position("", options.series, found[0].times),)


def _times(series: Any, options: ReadOptions) -> int:
    """Length of the axis that is time, by the file or by what the user says."""
    axes = options.axes or str(series.axes).lower()
    kept = [s for s in series.shape if len(axes) == len(series.shape) or s > 1]  # axes of one may be left out
    return int(kept[axes.index("t")]) if "t" in axes and len(kept) == len(axes) else 1


def raw(path: Path, options: ReadOptions, *, labels: bool = False) -> Raw:
    """Axes, geometry and loader of a TIFF.

    Raises
    ------
    FileError
        For damaged, cut, looping or lying files (F1, F5, F6).
    DataError
        For axes with more than one meaning and colours that are not grey or RGB (V9, V10).
    """
    file = str(path)
    check_pages(path)
    notes: list[str] = []
    with _opened(path) as tiff:
        ome = ome_text(tiff, file)
        index, series = _series(tiff, options, file, notes)
        meta = describe(tiff, series, ome, file, notes)
        page = series.keyframe
        axes = _axes(series, page, labels, options, file, notes)
        shape, dtype = tuple(int(s) for s in series.shape), np.dtype(series.dtype)
        if series.kind in _SLIDES:
            _check_whole(tiff, file)
        empty = _check_series(tiff, series, meta, file)
        if empty:
            notes.append(f"left out by the scanner and white: {counted(empty, 'tile')}")
        palette = int(page.photometric) == 3 and page.colormap is not None and not labels
        kept = labels and int(page.photometric) == 3 and page.colormap is not None
        colours = tuple(f"#{r:02x}{g:02x}{b:02x}" for r, g, b in _table(page.colormap)) if kept else ()
        window = None if palette else _window(path, series)
        coarser = _coarser(tiff, path, series, axes, file) if window else ()
    if palette:
        axes, shape, dtype = axes + "s", (*shape, 3), np.dtype(np.uint16)
        notes.append("palette expanded to colours")
        dtype = np.dtype(np.uint8)

    if meta.affine is not None and len(meta.affine) == 4 and "z" not in axes:  # our one plane in three dimensions
        axes, shape, window = "z" + axes, (1, *shape), _one_plane(window)

    def load() -> Array:
        if window is not None:
            return window(tuple(slice(0, size) for size in shape))
        with _opened(path) as again:
            array = np.asarray(again.series[index].asarray(maxworkers=1))
            array = _expanded(array, again.series[index].keyframe.colormap) if palette else array
            return array.reshape(shape)

    return Raw(file, axes, shape, dtype, load, spacing=meta.spacing, unit=meta.unit, affine=meta.affine,
               channels=meta.channels, notes=tuple(notes), window=window, coarser=coarser, palette=colours)


def _window(path: Path, series: Any) -> Window | None:
    """How a region of one resolution is read."""
    if series.dataoffset is not None and int(series.keyframe.bitspersample) == np.dtype(series.dtype).itemsize * 8:
        dtype = np.dtype(series.dtype).newbyteorder(series.keyframe.parent.byteorder)
        return memory_mapped(path, dtype, int(series.dataoffset), tuple(int(s) for s in series.shape))
    return segments(path, series, _white(series))


def _white(series: Any) -> int | None:
    """What tiles are that a scanner does not store, where no tissue is."""
    return int(np.iinfo(series.dtype).max) if series.kind in _SLIDES and series.dtype.kind == "u" else None


def _one_plane(window: Window | None) -> Window | None:
    return None if window is None else lambda region: window(region[1:])[None]


def _coarser(tiff: tifffile.TiffFile, path: Path, series: Any, axes: str, file: str) -> tuple[Coarser, ...]:
    """The reduced resolutions of a pyramid that have the axes and dtype of the full one."""
    out = []
    for level in series.levels[1:]:
        shape = tuple(int(s) for s in level.shape)
        steps = {a: step_between(n, m) for a, n, m in zip(axes, series.shape, shape, strict=False)}
        alike = len(shape) == len(series.shape) and np.dtype(level.dtype) == np.dtype(series.dtype)
        if not alike or any(steps[a] != 1 for a in axes if a not in "yxz"):
            continue
        _check_series(tiff, level, Meta(), file)
        window = _window(path, level)
        if window is not None:
            own = {a: steps[a] for a in axes if a in "zyx"}
            out.append(Coarser(shape, window, own, {a: (s - 1) / 2 for a, s in own.items()}))
    return tuple(out)


def _series(tiff: tifffile.TiffFile, options: ReadOptions, file: str, notes: list[str]) -> tuple[int, Any]:
    """The one image of the file (V10): pyramids and slide labels do not count as others."""
    if options.series is not None:
        if not 0 <= options.series < len(tiff.series):
            raise DataError(f"images 0 to {len(tiff.series) - 1}", file=file,
                            expected=f"one with number {options.series}")
        return options.series, tiff.series[options.series]
    if not tiff.series:
        raise FileError("no image", file=file, expected="one image", remedy="export it again")
    full = _full(tiff)
    if len(full) > 1:
        shapes = [tuple(tiff.series[i].shape) for i in full[:6]]
        raise DataError(f"{len(full)} images of shapes {shapes}", file=file, expected="one image per file",
                        remedy="save each to its own file, or choose one with ReadOptions(series=…)")
    index = full[0]
    if tiff.series[index].kind == "bif":
        raise DataError("a slide of tiles that overlap", file=file, expected="one that needs no joining",
                        remedy="give it a name that ends in .bif: then OpenSlide reads it")
    if len(tiff.series) > 1:
        notes.append(f"image {index} of {len(tiff.series)} in the file read; the others are thumbnails or labels")
    return index, tiff.series[index]


def _full(tiff: tifffile.TiffFile) -> list[int]:
    """Numbers of the images that are neither reduced nor the label or macro image of a slide."""
    full = [i for i, s in enumerate(tiff.series) if not s.keyframe.is_reduced]
    if len(full) > 1 and tiff.series[0].kind == "scn":  # every scanned region is an image, the whole slide another
        sizes = {i: pixel_size(tiff.series[i].keyframe) for i in full}
        return [i for i in full if sizes[i] <= 1.5 * min(sizes.values())]
    if len(full) > 1 and tiff.series[0].kind in _SLIDES:
        return full[:1]
    return full or [0]


def _axes(series: Any, page: Any, labels: bool, options: ReadOptions, file: str, notes: list[str]) -> str:
    """Our letters for tifffile's. Pages without a name are z; what may also be channels is asked for (V9).

    One page alone, as Python programs write (1, y, x) and (y, x, 1), is no axis.
    """
    photometric = int(page.photometric)
    if photometric in _BAD_COLOUR:
        raise DataError(f"colour space {_BAD_COLOUR[photometric]}", file=file, expected="grey, RGB or a palette",
                        remedy="convert it to RGB; print colours have no one meaning as channels")
    axes = str(series.axes).lower()
    axes = axes.replace("s", "s" if photometric in _COLOUR else "c") if "c" not in axes else axes
    several = [(a, int(n)) for a, n in zip(axes, series.shape, strict=True) if n > 1 or a not in "qi"]
    shaped, guessed = _shaped(page), [a for a, _ in several] == ["s", "y", "x"]
    if options.axes is None and guessed and shaped and "axes" not in shaped:  # tifffile took colours by size
        raise _ambiguous(series, file, "as colours in planes or as channels or slices")
    pages = [(a, n) for a, n in several if a in "qi"]
    if options.axes is None and pages:
        (letter, size), (_, width) = pages[0], several[-1]
        if len(pages) > 1 or "z" in axes or (not labels and (size <= 4 or width <= 4)):
            raise _ambiguous(series, file, "as slices, channels or time points")
        notes.append(f"{counted(size, 'page')} read as z")
        axes = "".join("z" if a == letter and n > 1 else a for a, n in zip(axes, series.shape, strict=True))
    out = "".join(a if a in "tczyxs" else "q" for a in axes)
    if options.axes is None and any(out.count(a) > 1 for a in "tczyxs"):
        raise _ambiguous(series, file, "in several ways")
    return out


def _ambiguous(series: Any, file: str, ways: str) -> DataError:
    return DataError(f"shape {tuple(series.shape)}, which can be read {ways}", file=file,
                     expected="axes named in the file", remedy="name them, for example --axes cyx or --axes zyx")


def _shaped(page: Any) -> dict[str, Any]:
    """Tifffile's own JSON description, or nothing."""
    meta = page.parent.shaped_metadata
    return dict(meta[0]) if meta else {}


def _check_whole(tiff: tifffile.TiffFile, file: str) -> None:
    """No page of a slide, label and macro image included, reaches beyond the file: else it was cut (F1)."""
    size = int(tiff.filehandle.size)
    ends = [o + c for page in tiff.pages for o, c in zip(page.dataoffsets, page.databytecounts, strict=False)]
    if max(ends, default=0) > size:
        raise FileError(f"{size} bytes", file=file, expected=f"at least {max(ends)}, where its last image ends",
                        remedy="the slide is cut; copy it again")


def _check_series(tiff: tifffile.TiffFile, series: Any, meta: Meta, file: str) -> int:
    """All declared pages exist, all their bytes inside the file (F1, F5). Returns how many tiles a scanner left out."""
    size = int(tiff.filehandle.size)
    native(np.dtype(series.dtype), file)
    if meta.samples and meta.samples != math.prod(series.shape):
        raise FileError(f"shape {tuple(series.shape)}", file=file, expected=f"{meta.samples} samples, as its metadata "
                        "say", remedy="the stack is cut; copy or export it again")
    if series.dataoffset is not None and series.dataoffset + series.nbytes > size:
        raise FileError(f"{size} bytes", file=file, expected=f"{series.dataoffset + series.nbytes}, as its metadata "
                        "say", remedy="the stack is cut; copy or export it again")
    stored, empty = 0, 0
    for page in series.pages:
        if page is None:
            raise FileError("a page that is missing", file=file, expected="every plane its metadata name",
                            remedy="the stack is cut or in several files; export it to one")
        ends = [o + c for o, c in zip(page.dataoffsets, page.databytecounts, strict=False) if c]
        left_out = len(page.databytecounts) - len(ends)
        empty += left_out
        if not ends or (left_out and _white(series) is None) or max(ends) > size:
            raise FileError(f"voxels missing before offset {max(ends, default=0)} of {size}", file=file,
                            expected="every strip or tile stored", remedy="copy or export it again")
        stored += sum(page.databytecounts)
    if series.dataoffset is not None:
        stored = max(stored, series.nbytes)
    bits = max(int(series.keyframe.bitspersample), 1)
    ratio = _RATIOS.get(int(series.keyframe.compression))
    unpacked = np.dtype(series.dtype).itemsize * 8 / bits  # 1 to 12 bits per sample become whole bytes
    if ratio is not None:
        check_claim(int(series.nbytes), file, stored, ratio * unpacked)
    return empty


def _expanded(array: Array, colormap: Array) -> Array:
    """Palette indices → 8-bit RGB."""
    table = _table(colormap)
    if int(array.max(initial=0)) >= len(table):
        raise DataError(f"palette index {int(array.max())}", expected=f"below {len(table)}")
    return np.asarray(table[array])


def _table(colormap: Array) -> Array:
    """The 8-bit RGB of every index (a colour map has 16 bits per entry)."""
    return np.asarray((np.asarray(colormap) >> 8).astype(np.uint8).T)


def write(item: Image | Labels, path: Path) -> None:
    """Write an OME-TIFF (zlib, which has a checksum); 64-bit integers as TIFF with tifffile's own description.

    Axes, pixel sizes, units, channel names and, where it is not plain, the affine are kept.
    """
    if isinstance(item, Labels):
        array = narrowed(item.restored())
        axes, names = item.grid.axes.upper(), None
    else:
        array = item.array.astype(native(item.array.dtype, str(path)), copy=False)
        single = array.shape[0] == 1
        axes = item.grid.axes.upper() if single else "C" + item.grid.axes.upper()
        array, names = (array[0] if single else array), list(item.channels)
    array = np.ascontiguousarray(array)
    ome = not (array.dtype.kind in "iu" and array.dtype.itemsize == 8)
    metadata = ome_metadata(item.grid, axes, names) if ome else shaped_metadata(item.grid, axes, names)
    if ome:  # named by content: tifffile would draw it from clock and network card, and equal labels differ in bytes
        digest = hashlib.sha256(array.view(np.uint8).data if array.size else b"").hexdigest()
        metadata["UUID"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}"
    with atomic_path(path) as temporary:
        tifffile.imwrite(
            temporary, array, ome=ome, photometric="minisblack", planarconfig=None,
            compression="zlib", compressionargs={"level": 6}, metadata=metadata, bigtiff=array.nbytes > 3_900_000_000,
            maxworkers=1,
        )


