"""Builders of bad files, ten lines each: functions from bytes to bytes, and small TIFF, PNG and NIfTI seeds."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import tifffile


def put(folder: Path, name: str, data: bytes) -> Path:
    """A file of these bytes."""
    path = folder / name
    path.write_bytes(data)
    return path


def cut(data: bytes, fraction: float) -> bytes:
    """The first part of a file, as an interrupted copy leaves it."""
    return data[: max(int(len(data) * fraction), 1)]


def flip(data: bytes, bit: int) -> bytes:
    """One bit turned over."""
    out = bytearray(data)
    out[bit // 8] ^= 1 << (bit % 8)
    return bytes(out)


def patch(data: bytes, offset: int, new: bytes) -> bytes:
    """Bytes replaced in place."""
    return data[:offset] + new + data[offset + len(new) :]


def nifti(array: np.ndarray, affine: np.ndarray | None = None, **fields: object) -> bytes:
    """An uncompressed NIfTI-1 file; ``fields`` are header fields set after the affine, raw and unchecked."""
    header = nib.Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine, header, dtype=array.dtype)
    data = image.to_bytes()
    head = nib.Nifti1Header(data[:348], check=False)
    for name, value in fields.items():
        head[name] = value
    return head.binaryblock + data[348:]


def pack(data: bytes) -> bytes:
    """Gzip without a time, so that equal input is equal output."""
    return gzip.compress(data, compresslevel=6, mtime=0)


def tiff(array: np.ndarray, **options: object) -> bytes:
    """A TIFF in memory; ``options`` are those of tifffile.imwrite."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def tiff_loop(data: bytes) -> bytes:
    """The last page's link leads back to the first page (classic little-endian TIFF)."""
    first = at = struct.unpack_from("<I", data, 4)[0]
    while True:
        link = at + 2 + 12 * struct.unpack_from("<H", data, at)[0]
        following = struct.unpack_from("<I", data, link)[0]
        if not following:
            return patch(data, link, struct.pack("<I", first))
        at = following


def tiff_tag(data: bytes, tag: int, value: int) -> bytes:
    """The inline value of a tag of the first page replaced (classic little-endian TIFF)."""
    at = struct.unpack_from("<I", data, 4)[0]
    for i in range(struct.unpack_from("<H", data, at)[0]):
        entry = at + 2 + 12 * i
        code, kind = struct.unpack_from("<HH", data, entry)
        if code == tag:
            return patch(data, entry + 8, struct.pack("<H" if kind == 3 else "<I", value))
    raise KeyError(tag)


def png_chunk(name: bytes, body: bytes) -> bytes:
    """A PNG chunk with its checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(rows: np.ndarray, colour: int, depth: int = 8, extra: bytes = b"") -> bytes:
    """A PNG of any colour type; ``rows`` is (y, bytes per row); ``extra`` goes before the voxels (a palette)."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    width = rows.shape[1] * 8 // (samples * depth)
    head = struct.pack(">IIBBBBB", width, rows.shape[0], depth, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + bytes(r) for r in rows))
    chunks = png_chunk(b"IHDR", head), extra, png_chunk(b"IDAT", body), png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
