"""Which format a file is, by its first bytes; a name that says otherwise is refused (F4)."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

from biosegkit._endings import ENDINGS
from biosegkit.errors import FileError

__all__ = ["case_name", "ending", "sniff"]

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NIFTI_SIZES = {(348).to_bytes(4, "little"), (348).to_bytes(4, "big"), (540).to_bytes(4, "little"),
                (540).to_bytes(4, "big")}
#: Files of a folder that are looked at to see whether it is one of DICOM.
_FIRST = 4
#: What names of files may hold on every system.
_PLAIN = re.compile(r"[^\w.\-]+")
_ZARR = ("zarr.json", ".zgroup", ".zattrs", ".zarray")


def ending(path: str | Path) -> str:
    """The part of a name that tells the format, lower case, or "" if it is none we know.

    Examples
    --------
    >>> ending("a.b.nii.gz"), ending("scan.OME.TIF"), ending("notes.txt")
    ('.nii.gz', '.ome.tif', '')
    """
    name = Path(path).name.lower()
    return next((e for e in ENDINGS if name.endswith(e)), "")


def sniff(path: str | Path) -> str:
    """The format of a file: one of nifti, nifti.gz, tiff, png, jpeg, bmp, zarr, openslide, dicom, or folder.

    Raises
    ------
    FileError
        If the file is missing, empty, of no known format, or of another format than its name says.
    """
    path = Path(path)
    if path.is_dir():
        if any((path / name).is_file() for name in _ZARR):
            return "zarr"
        return "dicom" if any(_is_dicom(file) for file in sorted(path.iterdir())[:_FIRST]) else "folder"
    try:
        with path.open("rb") as handle:
            head = handle.read(1024)
    except OSError as error:
        raise FileError(f"no readable file ({error.strerror or error})", file=path,
                        remedy="check the path and its permissions") from error
    if not head:
        raise FileError("an empty file", file=path, expected="an image", remedy="copy or export it again")
    found, claimed = _magic(head), ENDINGS.get(ending(path))
    if claimed == "openslide":  # several files, of which the named one may hold a thumbnail or a data base
        return claimed
    if not found:
        raise FileError(f"unknown content (starts with {head[:8]!r})", file=path,
                        expected="NIfTI, TIFF, PNG, JPEG, BMP, OME-Zarr, a DICOM series or slide",
                        remedy="convert it to one of these")
    if claimed and claimed != found:
        raise FileError(f"{found} content", file=path, expected=f"{claimed}, as the name says",
                        remedy="rename the file to what it is, or export it again")
    return found


def _magic(head: bytes) -> str:
    """The format whose magic bytes these are, or ""."""
    if head[:4] in _TIFF:
        return "tiff"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if head[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if head[:2] == b"BM":
        return "bmp"
    if head[:2] == b"\x1f\x8b":
        return "nifti.gz" if _is_nifti(_inflated(head)) else ""
    if head[128:132] == b"DICM":
        return "dicom"
    return "nifti" if _is_nifti(head) else ""


def _is_dicom(file: Path) -> bool:
    """Whether a file in a folder is DICOM; what cannot be read is not."""
    try:
        with file.open("rb") as handle:
            return handle.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _inflated(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(head, 540)
    except zlib.error:
        return b""


def _is_nifti(head: bytes) -> bool:
    return head[:4] in _NIFTI_SIZES and (head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0"))


def case_name(text: str) -> str:
    """A name for a case from any text, such as the name of a layer or file.

    Examples
    --------
    >>> case_name("mouse 7/well A (red)"), case_name("scan.nii.gz"), case_name("..")
    ('mouse_7_well_A_red', 'scan', 'case')
    """
    name = text[: len(text) - len(ending(text))] if ending(text) else text
    return _PLAIN.sub("_", name).strip("_.-") or "case"
