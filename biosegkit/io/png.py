"""PNG, JPEG and BMP through Pillow, with what it lets through closed: chunk checksums, 16-bit colour (F1, F2, V9)."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from biosegkit._atomic import atomic_path
from biosegkit._words import counted
from biosegkit.errors import DataError, FileError
from biosegkit.image import Image, Labels, narrowed

from .options import ReadOptions
from .raw import Array, Raw, check_claim, first_bytes

__all__ = ["raw", "write"]

_MODES: dict[str, tuple[str, str]] = {  # Pillow's mode → axes, dtype
    "1": ("yx", "u1"), "L": ("yx", "u1"), "P": ("yx", "u1"), "I;16": ("yx", "u2"), "I;16B": ("yx", "u2"),
    "I": ("yx", "i4"), "F": ("yx", "f4"), "LA": ("yxs", "u1"), "RGB": ("yxs", "u1"), "RGBA": ("yxs", "u1"),
    "PA": ("yxs", "u1"), "CMYK": ("yxs", "u1"), "YCbCr": ("yxs", "u1"),
}
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


@dataclass(frozen=True)
class _Head:
    """Size and mode as the file states them; ``deep`` is 16-bit colour, which Pillow would cut to 8 bits."""

    width: int
    height: int
    mode: str
    transparent: bool
    rotated: int
    deep: int = 0
    palette: tuple[str, ...] = ()


def raw(path: Path, options: ReadOptions, *, labels: bool = False) -> Raw:
    """Header and loader of a PNG, JPEG or BMP file. A palette is expanded for images, kept as indices for labels.

    Raises
    ------
    FileError
        For damaged or cut files and for images larger than the memory budget.
    DataError
        For colour spaces that are not grey or RGB, and for labels in a lossy format.
    """
    file = str(path)
    head = _head(path)
    notes: list[str] = []
    if labels and _is_jpeg(path):
        raise DataError("labels in JPEG, which changes values", file=file, expected="PNG, TIFF, NIfTI or OME-Zarr",
                        remedy="export the labels again in one of these")
    if head.rotated not in (0, 1):
        notes.append(f"EXIF orientation {head.rotated} is not applied")
    if head.deep:
        axes, dtype = "yxs", "u2"
        shape: tuple[int, ...] = (head.height, head.width, head.deep)
        load: Callable[[], Array] = lambda: _deep(path)  # noqa: E731
    else:
        mode = _target(head, labels, notes, file)
        axes, dtype = _MODES[mode]
        bands = len(PIL.Image.new(mode, (1, 1)).getbands()) if axes == "yxs" else 1
        shape = (head.height, head.width, bands)[: len(axes)]
        load = lambda: _pixels(path, mode, dtype)  # noqa: E731
    nbytes = int(np.prod([*shape, np.dtype(dtype).itemsize], dtype=np.int64))
    check_claim(nbytes, file, path.stat().st_size, _ratio(path))
    return Raw(file, axes, shape, np.dtype(dtype), load, notes=tuple(notes), palette=head.palette if labels else ())


def _ratio(path: Path) -> float:
    """Largest expansion: deflate times the bits packed in a byte; JPEG's blocks of one value; BMP run lengths."""
    return 1032.0 * 8 * (3 if _is_jpeg(path) else 1)


def _is_jpeg(path: Path) -> bool:
    return first_bytes(path, 2) == b"\xff\xd8"


def _target(head: _Head, labels: bool, notes: list[str], file: str) -> str:
    """The mode to convert to, with a note where that changes anything (V9)."""
    if head.mode == "P" and not labels:
        notes.append("palette expanded to colours")
        return "RGBA" if head.transparent else "RGB"
    if head.mode == "PA":
        notes.append("palette expanded to colours")
        return "RGBA"
    if head.mode in ("CMYK", "YCbCr", "LAB", "HSV") or head.mode not in _MODES:
        raise DataError(f"colour space {head.mode}", file=file, expected="grey, RGB or a palette",
                        remedy="convert it to RGB; print colours have no one meaning as channels")
    return head.mode


def _head(path: Path) -> _Head:
    deep = _check_png(path) if first_bytes(path, 8) == b"\x89PNG\r\n\x1a\n" else 0

    def action(image: PIL.Image.Image) -> _Head:
        rotated = 0
        if image.format == "JPEG":
            rotated = int(image.getexif().get(0x0112, 1))
        flat = (image.getpalette("RGB") or []) if image.mode == "P" else []
        palette = tuple(f"#{r:02x}{g:02x}{b:02x}" for r, g, b in zip(flat[::3], flat[1::3], flat[2::3], strict=True))
        return _Head(image.width, image.height, image.mode, "transparency" in image.info, rotated, deep, palette)

    out: _Head = _opened(path, action)
    return out


def _opened(path: Path, action: Callable[[PIL.Image.Image], Any]) -> Any:
    """Run ``action`` on the open image; Pillow's many errors become FileError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # the size is checked against the memory budget here, not against a constant
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(path) as image:
                return action(image)
    except PIL.Image.DecompressionBombError as error:
        raise FileError("more pixels than Pillow reads from such a file", file=path,
                        remedy="convert it to TIFF or OME-Zarr") from error
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error, UserWarning, IndexError) as error:
        raise FileError(f"a damaged or cut image ({error})", file=path, expected="a whole file",
                        remedy="copy or export it again") from error


def _pixels(path: Path, mode: str, dtype: str) -> Array:
    def action(image: PIL.Image.Image) -> Array:
        image.load()
        return np.array(image if image.mode == mode else image.convert(mode)).astype(dtype, copy=False)

    out: Array = _opened(path, action)
    return out


def _deep(path: Path) -> Array:
    """16-bit grey with alpha, RGB and RGBA, at full depth."""
    import imagecodecs

    try:
        return np.asarray(imagecodecs.png_decode(path.read_bytes()))
    except imagecodecs.PngError as error:
        raise FileError(f"a damaged image ({error})", file=path, remedy="copy or export it again") from error


def _check_png(path: Path) -> int:
    """Verify the checksum of every chunk, which Pillow does not (F2); return the samples of 16-bit colour or 0."""
    size = path.stat().st_size
    deep = 0
    with path.open("rb") as handle:
        handle.seek(8)
        while True:
            at = handle.tell()
            head = handle.read(8)
            length = int.from_bytes(head[:4], "big")
            if len(head) < 8 or at + 12 + length > size:
                raise FileError(f"a cut file: the part at offset {at} of {size} is not whole", file=path,
                                expected="a whole PNG", remedy="copy or export it again")
            body = handle.read(length)
            if zlib.crc32(head[4:] + body) != int.from_bytes(handle.read(4), "big"):
                raise FileError(f"a damaged file: the checksum at offset {at} is wrong", file=path,
                                expected="a whole PNG", remedy="copy or export it again")
            if head[4:] == b"IHDR" and length >= 10 and body[8] == 16 and body[9] in (2, 4, 6):
                deep = _SAMPLES[body[9]]
            if head[4:] == b"IEND":
                return deep


def write(item: Image | Labels, path: Path) -> None:
    """Write a 2D PNG: grey or RGB images of 8 or 16 bits, labels up to 65535 (L2).

    Raises
    ------
    DataError
        For anything PNG cannot hold exactly.
    """
    array = _storable(item, path)
    import imagecodecs

    # a copy, as the encoder refuses the strides numpy calls contiguous where an axis has one element
    data = bytes(imagecodecs.png_encode(array.copy(order="C"), level=6))
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _storable(item: Image | Labels, path: Path) -> Array:
    """(y, x) or (y, x, 3) of 8 or 16 bits."""
    if item.grid.ndim != 2:
        raise DataError(f"shape {item.grid.shape}", file=path, expected="two axes in a PNG",
                        remedy="write .tif, .nii.gz or .ome.zarr")
    if isinstance(item, Labels):
        values = item.restored()
        low, top = int(values.min(initial=0)), int(values.max(initial=0))
        if low < 0 or top > 65535:
            raise DataError(f"label value {top if top > 65535 else low}", file=path, expected="0 to 65535 in a PNG",
                            remedy="write .tif or .ome.zarr")
        return narrowed(values)
    array = item.array
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    if array.dtype not in (np.uint8, np.uint16) or array.shape[0] not in (1, 3):
        raise DataError(f"{counted(array.shape[0], 'channel')} of {array.dtype}", file=path,
                        expected="1 or 3 channels of uint8 or uint16 in a PNG", remedy="write .tif or .ome.zarr")
    return array[0] if array.shape[0] == 1 else np.moveaxis(array, 0, -1)
