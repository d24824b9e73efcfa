"""ImageJ regions of interest in a zip, as Fiji's ROI Manager opens it: one region per object and plane.

An object of one piece without holes is a polygon, any other a composite of rings. Corners are whole pixels where
ImageJ's 16 bits and the scale allow it, else floating-point numbers, which every ImageJ since 1.47 reads.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from biosegkit._atomic import atomic_path
from biosegkit.kernels.contours import contours

from .objects import Found, ObjectRuns, object_runs

__all__ = ["rois", "write_rois"]

Points = npt.NDArray[np.float64]

_VERSION = 227
_POLYGON, _RECTANGLE = 0, 1
_SUBPIXEL = 128
#: Larger coordinates are not written as 16 bits: ImageJ takes what is beyond 60536 for negative numbers.
_LARGEST = 60000
_MOVE, _LINE, _CLOSE = 0.0, 1.0, 4.0


def write_rois(found: Found, path: str | Path) -> None:
    """Write the objects of an image as a zip of ImageJ regions; the file appears only when whole.

    Parameters
    ----------
    found : Found
        Names of regions are ids; in stacks the plane is behind them, and the region lies on that plane.
    path : path
        Ending in ``.zip``.

    Examples
    --------
    >>> import tempfile, zipfile
    >>> from biosegkit.grid import Grid
    >>> found = Found.of(np.array([[0, 7, 7]]), Grid.regular((1, 3)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_rois(found, folder + "/a.zip")
    ...     zipfile.ZipFile(folder + "/a.zip").namelist()
    ['7.roi']
    """
    with rois(found, path) as add:
        for part in object_runs(found):
            add(part)


@contextmanager
def rois(found: Found, path: str | Path) -> Iterator[Callable[[ObjectRuns], None]]:
    """A file to which objects are added as they come, for several outputs of one reading."""
    ids, stack = np.asarray(found.table["id"]), found.labels.ndim == 3
    scale = np.array([found.scale[1], found.scale[0]])
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        archive = _Zip(file)

        def add(part: ObjectRuns) -> None:
            lines = contours(part.offset, part.y, part.start, part.stop)
            points = lines.points * scale
            for n, number in enumerate(ids[part.rows].tolist()):
                first, last = lines.piece[lines.owner[n]], lines.piece[lines.owner[n + 1]]
                rings = [points[lines.ring[r]: lines.ring[r + 1]] for r in range(first, last)]
                name = f"{number}-{part.plane + 1}" if stack else f"{number}"
                archive.add(f"{name}.roi", _region(rings, name, part.plane + 1 if stack else 0))

        yield add
        archive.finish()


def _region(rings: list[Points], name: str, plane: int) -> bytes:
    """One region as ImageJ stores it: header, coordinates, second header, name."""
    low, high = np.min([r.min(0) for r in rings], axis=0), np.max([r.max(0) for r in rings], axis=0)
    box = [int(v) for v in (np.floor(low[1]), np.floor(low[0]), np.ceil(high[1]), np.ceil(high[0]))]
    whole = max(box) <= _LARGEST and all((r == np.rint(r)).all() for r in rings)
    head = [v if v < 1 << 15 else v - (1 << 16) if v < 1 << 16 else 0 for v in box]
    count, shape, options, kind = 0, 0, 0, _POLYGON
    if len(rings) > 1:
        data = np.concatenate([_path(ring) for ring in rings]).astype(">f4").tobytes()
        kind, shape = _RECTANGLE, len(data) // 4
    else:
        points = rings[0]
        count = len(points)
        relative = np.rint(points - low).clip(0, (1 << 16) - 1).astype(np.uint16).astype(">u2")
        data = relative.tobytes(order="F")
        if not whole:
            options = _SUBPIXEL
            data += points.astype(">f4").tobytes(order="F")
    size = count if count < 1 << 16 else 0  # more corners are counted in four bytes elsewhere
    header = b"Iout" + struct.pack(">hBx4hH", _VERSION, kind, *head, size)
    header += struct.pack(">i12x", 0 if size else count)
    header += struct.pack(">hi8xhhHhi", 0, shape, 0, options, 0, 0, plane)
    second = 64 + len(data)
    text = name.encode("utf-16-be")
    tail = struct.pack(">4x3i2i", 0, plane, 0, second + 64, len(name)).ljust(64, b"\0")
    return header + struct.pack(">i", second) + data + tail + text


def _path(ring: Points) -> Points:
    """A ring of a composite: move to the first corner, lines to the others, close."""
    steps: Points = np.empty((len(ring), 3))
    steps[:, 0] = _LINE
    steps[0, 0] = _MOVE
    steps[:, 1:] = ring
    return np.append(steps.ravel(), _CLOSE)


class _Zip:
    """A zip of many small members that is written once from front to back; the list of members stays small.

    The standard library keeps a few hundred bytes of objects per member, which a million of them would feel.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.at, self.count = file, 0, 0
        self.list = bytearray()

    def add(self, name: str, data: bytes) -> None:
        """Write a member."""
        packed, label = zlib.compress(data, 1, wbits=-15), name.encode()
        common = struct.pack("<HHHHHIIIHH", 20, 1 << 11, 8, 0, 33, zlib.crc32(data), len(packed), len(data), len(label),
                             0)  # names in UTF-8, deflated, dated 1980: the same objects give the same bytes
        far = self.at >= 0xFFFFFFFF
        more = struct.pack("<HHQ", 1, 8, self.at) if far else b""
        self.list += b"PK\1\2" + struct.pack("<H", 45 if far else 20) + common[:-2] + struct.pack(
            "<HHHHII", len(more), 0, 0, 0, 0, 0xFFFFFFFF if far else self.at) + label + more
        self.file.write(b"PK\3\4" + common + label + packed)
        self.at += 30 + len(label) + len(packed)
        self.count += 1

    def finish(self) -> None:
        """Write the list of members, with the larger fields where there are many."""
        self.file.write(self.list)
        start, size = self.at, len(self.list)
        if self.count >= 0xFFFF or start + size >= 0xFFFFFFFF:
            fields = (44, 45, 45, 0, 0, self.count, self.count, size, start)
            self.file.write(b"PK\6\6" + struct.pack("<QHHIIQQQQ", *fields))
            self.file.write(b"PK\6\7" + struct.pack("<IQI", 0, start + size, 1))
        few, near = min(self.count, 0xFFFF), min(start, 0xFFFFFFFF)
        self.file.write(b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, few, few, min(size, 0xFFFFFFFF), near, 0))
