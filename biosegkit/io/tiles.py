"""Regions of a TIFF: only the strips or tiles that reach into them are read, each checked as it is decoded (F1, F2).

The file is opened for every region and closed again: no handle is left over, and any number of threads and processes
may read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from biosegkit._words import counted
from biosegkit.errors import FileError

from .raw import Array, Window

__all__ = ["DECODING", "memory_mapped", "segments"]

#: What decoders raise on damaged input (imagecodecs' errors are RuntimeErrors).
DECODING = (ValueError, RuntimeError, OSError, IndexError, KeyError, TypeError, ZeroDivisionError, AttributeError,
            OverflowError, EOFError, AssertionError, NotImplementedError)

_JPEG = {6, 7, 34892, 33007}
_YCBCR_JPEG2000 = 33003  # Aperio: luminance and colour differences, of which the stream itself says nothing
_LARGEST = 1 << 30  # bytes of a strip or tile of an image that is smaller than that
_END_OF_IMAGE = b"\xff\xd9"


def memory_mapped(path: Path, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...]) -> Window:
    """Regions of an uncompressed array that lies in the file in one piece."""

    def window(region: tuple[slice, ...]) -> Array:
        mapped = np.memmap(path, dtype, "r", offset, shape)
        return np.array(mapped[region])

    return window


def segments(path: Path, series: Any, fill: int | None = None) -> Window | None:
    """Regions of one resolution of a series, or None where its pages are not laid out one after the other.

    Parameters
    ----------
    path : Path
    series : tifffile.TiffPageSeries
        All its pages are there. Nothing of it is kept but the places of its segments and their decoder.
    fill : int, optional
        The value of segments that are not stored; without it they are refused.
    """
    page = series.keyframe
    shape = tuple(int(s) for s in series.shape)
    inner = _squeezed(page.shape)
    wide = [axis for axis, size in enumerate(shape) if size > 1]
    lead, own = wide[: len(wide) - len(inner)], wide[len(wide) - len(inner) :]
    if [shape[a] for a in own] != inner or math.prod(shape[a] for a in lead) != len(series.pages):
        return None
    options = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if int(page.compression) in _JPEG else {}
    places = [(np.array(p.dataoffsets, np.int64), np.array(p.databytecounts, np.int64)) for p in series.pages]
    _check_places(path, page, places)
    source = _Page(path, tuple(int(s) for s in page.shaped), _chunk(page), page.decode, options, int(page.compression),
                   np.dtype(series.dtype).newbyteorder("="), fill)

    def window(region: tuple[slice, ...]) -> Array:
        pages = product(*(range(region[a].start, region[a].stop) for a in lead))
        inside = source.region([region[a] for a in own])
        sizes = [s.stop - s.start for s in inside]
        counts = [region[a].stop - region[a].start for a in lead]
        out = np.empty((math.prod(counts), *sizes), source.dtype)
        with path.open("rb") as handle:
            for row, index in enumerate(pages):
                number = int(np.ravel_multi_index(index, [shape[a] for a in lead])) if lead else 0
                source.read(handle, places[number], inside, out[row])
        return out.reshape([s.stop - s.start for s in region])

    return window


def _check_places(path: Path, page: Any, places: Sequence[tuple[Array, Array]]) -> None:
    """As many strips or tiles as the shape needs, none of an impossible size (F5)."""
    shape, chunk = [int(s) for s in page.shaped], _chunk(page)
    itemsize = max(int(page.bitspersample) // 8, 1)
    if min(*shape, *chunk) < 1 or math.prod(chunk) * itemsize > max(_LARGEST, 2 * math.prod(shape) * itemsize):
        raise FileError(f"strips or tiles of {' × '.join(map(str, chunk[1:4]))} for {' × '.join(map(str, shape[1:4]))}",
                        file=path, expected="sizes that can be", remedy="the file is damaged; copy or export it again")
    count = math.prod(math.ceil(n / c) for n, c in zip(shape, chunk, strict=True))
    for offsets, lengths in places:
        if len(offsets) != count or len(lengths) != count or min(offsets.min(), lengths.min()) < 0:
            raise FileError(f"{len(offsets)} strips or tiles", file=path, expected=f"{count}, each with place and size",
                            remedy="the file is damaged; copy or export it again")


def _squeezed(shape: Sequence[int]) -> list[int]:
    return [int(s) for s in shape if s > 1]


def _chunk(page: Any) -> tuple[int, ...]:
    """Size of a segment in (plane of samples, depth, length, width, samples)."""
    samples = int(page.shaped[4])
    if page.is_tiled:
        return (1, int(page.tiledepth), int(page.tilelength), int(page.tilewidth), samples)
    return (1, 1, min(int(page.rowsperstrip), int(page.imagelength)), int(page.imagewidth), samples)


@dataclass(frozen=True, eq=False)
class _Page:
    """Pages of one kind: how they are cut into segments, and how a segment is decoded."""

    path: Path
    shape: tuple[int, ...]  # (planes of samples, depth, length, width, samples)
    chunk: tuple[int, ...]
    decode: Callable[..., Any]
    options: dict[str, Any]
    compression: int
    dtype: np.dtype[Any]
    fill: int | None

    def region(self, wide: Sequence[slice]) -> list[slice]:
        """A region of the axes longer than one → of all five."""
        given = iter(wide)
        return [next(given) if size > 1 else slice(0, 1) for size in self.shape]

    def read(self, handle: Any, places: tuple[Array, Array], inside: Sequence[slice], out: Array) -> None:
        """Fill ``out`` with a region of one page."""
        counts = [math.ceil(n / c) for n, c in zip(self.shape, self.chunk, strict=True)]
        touched = [range(s.start // c, math.ceil(s.stop / c)) if s.stop > s.start else range(0)
                   for s, c in zip(inside, self.chunk, strict=True)]
        for at in product(*touched):
            number = int(np.ravel_multi_index(at, counts))
            values = self._segment(handle, int(places[0][number]), int(places[1][number]), number)
            start = [i * c for i, c in zip(at, self.chunk, strict=True)]
            low = [max(s.start, b) for s, b in zip(inside, start, strict=True)]
            high = [min(s.stop, b + c) for s, b, c in zip(inside, start, self.chunk, strict=True)]
            target = tuple(slice(a - s.start, b - s.start) for a, b, s in zip(low, high, inside, strict=True))
            if values is None:
                out[target] = self.fill
                continue
            cut = tuple(slice(a - b, c - b) for a, b, c in zip(low, start, high, strict=True))
            out[target] = values[None][cut]

    def _segment(self, handle: Any, offset: int, count: int, number: int) -> Array | None:
        """One strip or tile, (depth, length, width, samples), or None where it is not stored."""
        if count == 0 and self.fill is not None:
            return None
        handle.seek(offset)
        data = handle.read(count)
        if len(data) < count or count == 0:
            raise self._damaged(offset, number, f"{counted(len(data), 'byte')} of {count}")
        if self.compression == 7 and "jpegheader" in self.options and self.options["jpegheader"] is None \
                and not _ends_where_it_should(data):  # decoders paint what is missing grey, without a word
            raise self._damaged(offset, number, "the end of its JPEG image is not at its end")
        try:
            values: Array = self.decode(data, number, **self.options)[0]
        except (*DECODING, MemoryError) as error:
            raise self._damaged(offset, number, str(error)[:150]) from error
        return _red_green_blue(values) if self.compression == _YCBCR_JPEG2000 and _left_as_stored(data) else values

    def _damaged(self, offset: int, number: int, reason: str) -> FileError:
        return FileError(f"a damaged strip or tile, number {number} at offset {offset} ({reason})", file=self.path,
                         expected="whole data", remedy="copy or export the file again")


def _ends_where_it_should(data: bytes) -> bool:
    """Whether the first end of image after the headers of a JPEG stream is within its last 16 bytes.

    Headers say how long they are, and may hold any bytes; in the scan 0xFF is stuffed (ITU-T T.81, annex B).
    """
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
        at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    return data.find(_END_OF_IMAGE, at) >= max(0, len(data) - 16)


def _left_as_stored(data: bytes) -> bool:
    """Whether the JPEG 2000 decoder leaves colours as they are: it converts those it finds subsampled or transformed.

    Main header of ITU-T T.800, annex A: SIZ comes first, with three bytes per component; COD tells the transform.
    """
    coding = data.find(b"\xff\x52", 42)
    return len(data) > 54 and data[46] == 1 and not (coding > 0 and data[coding + 8] == 1)


def _red_green_blue(values: Array) -> Array:
    """Full-range YCbCr to RGB (ITU-R BT.601, as in JFIF)."""
    y, blue, red = (values[..., i].astype(np.float32) for i in range(3))
    blue, red = blue - 128, red - 128
    colours = np.stack([y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue], -1)
    return np.asarray(np.clip(np.rint(colours), 0, 255), values.dtype)
