"""A bounded walk along the pages of a TIFF before any library sees it: loops and cut files end here (F1, F6)."""

from __future__ import annotations

import struct
from pathlib import Path

from biosegkit.errors import FileError

__all__ = ["MAX_PAGES", "check_pages"]

#: More pages than this are refused; the largest stacks known have some ten thousand.
MAX_PAGES = 200_000


def check_pages(path: Path) -> int:
    """Number of pages of the main chain.

    Raises
    ------
    FileError
        If the chain loops, leaves the file, or has more than ``MAX_PAGES`` pages.
    """
    size = path.stat().st_size
    with path.open("rb") as handle:
        head = handle.read(16)
        order = "<" if head[:2] == b"II" else ">"
        big = head[2:4] in (b"+\0", b"\0+")
        count_format, step, next_format = (order + "Q", 20, order + "Q") if big else (order + "H", 12, order + "I")
        if path.suffix.lower() == ".ndpi" and not big and order == "<":  # places of pages have 64 bits all the same
            next_format = "<Q"
        count_bytes, next_bytes = struct.calcsize(count_format), struct.calcsize(next_format)
        at = _unpack(next_format, head[8:16] if big else head[4 : 4 + next_bytes], path, 4)
        seen: set[int] = set()
        while at:
            if at in seen:
                raise FileError(f"pages that form a loop (page {len(seen)} leads back to offset {at})", file=path,
                                expected="a chain with an end", remedy="the file is damaged; export it again")
            if len(seen) >= MAX_PAGES:
                raise FileError(f"more than {MAX_PAGES} pages", file=path, expected=f"at most {MAX_PAGES}",
                                remedy="convert it to OME-Zarr")
            if at + count_bytes > size:
                raise FileError(f"{size} bytes, page {len(seen)} at offset {at}", file=path,
                                expected="every page inside the file", remedy="the file is cut; copy it again")
            seen.add(at)
            handle.seek(at)
            tags = _unpack(count_format, handle.read(count_bytes), path, at)
            if at + count_bytes + tags * step > size:
                raise FileError(f"{tags} entries on page {len(seen) - 1} at offset {at} of {size}", file=path,
                                expected="every page inside the file", remedy="the file is cut; copy it again")
            handle.seek(at + count_bytes + tags * step)
            at = _unpack(next_format, handle.read(next_bytes), path, at)
    if not seen:
        raise FileError("a TIFF without pages", file=path, expected="at least one", remedy="export it again")
    return len(seen)


def _unpack(form: str, data: bytes, path: Path, at: int) -> int:
    try:
        return int(struct.unpack(form, data)[0])
    except struct.error as error:
        raise FileError(f"a cut file at offset {at} of {path.stat().st_size}", file=path, expected="a whole TIFF",
                        remedy="copy or export it again") from error
