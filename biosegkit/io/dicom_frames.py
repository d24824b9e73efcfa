"""Slices in DICOM files: one a file, or many as the frames of an enhanced one (PS3.3 C.7.6.16, functional groups)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from biosegkit._lazy import optional
from biosegkit._words import counted
from biosegkit.errors import DataError, FileError

from .raw import Array
from .tiles import DECODING

__all__ = ["CONVERT", "SLIDE", "Slice", "kind", "slices_of"]

#: Storage classes of slides, of the table of contents of a disc, and of segmentations, whose frames are no slices.
SLIDE, _CONTENTS = "1.2.840.10008.5.1.4.1.1.77.1.6", "1.2.840.10008.1.3.10"
_SEGMENTS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_TAGS = ["SOPClassUID", "SeriesInstanceUID", "SeriesDescription", "FrameOfReferenceUID", "Rows", "Columns",
         "BitsAllocated", "BitsStored", "PixelRepresentation", "SamplesPerPixel", "NumberOfFrames",
         "PhotometricInterpretation", "PixelSpacing", "ImagerPixelSpacing", "ImageOrientationPatient",
         "ImagePositionPatient", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"]
_GROUPS = ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]
#: What frames say in groups of their own, in place of the header.
_MACROS = {"PlanePositionSequence": ("ImagePositionPatient",), "PlaneOrientationSequence": ("ImageOrientationPatient",),
           "PixelMeasuresSequence": ("PixelSpacing",),
           "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept")}
CONVERT = "convert the series to NIfTI with dcm2niix"


@dataclass(frozen=True)
class Slice:
    """A file and its header, or a frame of a file and what is said of it there."""

    file: Path
    head: Any
    frame: int | None = None

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return self.file.name if self.frame is None else f"frame {self.frame + 1} of {self.file.name}"

    def numbers(self, keyword: str, count: int) -> Array:
        """Several numbers of the header.

        Raises
        ------
        DataError
            If they are not there, or are no numbers.
        """
        found = getattr(self.head, keyword, None)
        values = np.array([] if found is None else [float(v) for v in np.atleast_1d(np.asarray(found, object))])
        if len(values) != count or not np.isfinite(values).all():
            frame = "" if self.frame is None else f" in frame {self.frame + 1}"
            raise DataError(f"{keyword} {values.tolist() or 'missing'}{frame}", file=self.file,
                            expected=counted(count, "number"),
                            remedy=f"take the original files of the scanner, or {CONVERT}")
        return values

    @property
    def scale(self) -> tuple[float, float]:
        """Slope and intercept from stored values to those of the modality, such as Hounsfield units."""
        return (float(getattr(self.head, "RescaleSlope", None) or 1.0),
                float(getattr(self.head, "RescaleIntercept", None) or 0.0))


def slices_of(path: Path) -> list[Slice]:
    """The slices in a DICOM file, or in the files of a folder but for its table of contents, their pixels not read.

    Raises
    ------
    FileError
        If there are none, or a file is damaged.
    DataError
        If a file says less of its frames than it has.
    OptionError
        If pydicom is not installed.
    """
    pydicom = optional("pydicom")
    files = [path] if not path.is_dir() else sorted(p for p in path.iterdir() if p.is_file() and p.name[:1] != ".")
    found: list[Slice] = []
    for file in files:
        with file.open("rb") as handle:
            if handle.read(132)[128:] != b"DICM":
                continue
        try:
            head = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
            if kind(head) != _CONTENTS:
                found += _frames(file, head)
        except _errors() as error:
            raise _damaged(file, error) from error
    if not found:
        raise FileError("no DICOM image", file=path, expected="the files of one series", remedy="name their folder")
    return found


def kind(head: Any) -> str:
    """The storage class of a file."""
    return str(head.file_meta.get("MediaStorageSOPClassUID", "") or getattr(head, "SOPClassUID", ""))


def planes(slices: Sequence[Slice], dtype: np.dtype[Any], shape: tuple[int, int]) -> Iterator[Array]:
    """The values of slices one after the other, rescaled; a file is opened once for those that follow each other.

    Raises
    ------
    FileError
        For pixels that cannot be decoded, or are others than the header says.
    """
    for file, group in groupby(slices, lambda one: one.file):
        together = list(group)
        try:
            for one, stored in zip(together, _stored(file, together), strict=True):
                if stored.shape != shape:
                    raise FileError(f"pixels of shape {stored.shape}", file=file,
                                    expected=f"{shape}, as its header says", remedy="copy it again")
                yield _rescaled(stored, one.scale, dtype)
        except _errors() as error:
            raise _damaged(file, error) from error


def _frames(file: Path, head: Any) -> list[Slice]:
    """The frames of an enhanced file as slices of their own; any other file as it is."""
    count = int(getattr(head, "NumberOfFrames", None) or 1)
    placed = getattr(head, "ImageOrientationPatient", None) is not None
    if kind(head) in (SLIDE, *_SEGMENTS) or (count == 1 and placed):
        return [Slice(file, head)]
    groups = optional("pydicom").dcmread(file, stop_before_pixels=True, specific_tags=_GROUPS)
    each, shared = getattr(groups, _GROUPS[1], None), getattr(groups, _GROUPS[0], None) or [None]
    if not each:
        return [Slice(file, head)]
    if len(each) != count:
        raise DataError(f"{counted(count, 'frame')}, of which {len(each)} are described", file=file,
                        expected="as many", remedy=f"copy it again, or {CONVERT}")
    known = {name: value for name in _TAGS if (value := getattr(head, name, None)) is not None}
    return [Slice(file, SimpleNamespace(file_meta=head.file_meta, **known | _said(shared[0]) | _said(group)), k)
            for k, group in enumerate(each)]


def _said(group: Any) -> dict[str, Any]:
    """What a functional group says of place, size and scale."""
    found: dict[str, Any] = {}
    for macro, keywords in _MACROS.items():
        item = next(iter(getattr(group, macro, None) or ()), None)
        found |= {keyword: getattr(item, keyword) for keyword in keywords if getattr(item, keyword, None) is not None}
    return found


def _stored(file: Path, slices: Sequence[Slice]) -> Iterator[Array]:
    """Values of slices of one file as they are stored."""
    if slices[0].frame is None:
        data = optional("pydicom").dcmread(file)
        yield from (np.asarray(data.pixel_array) for _ in slices)
    else:
        yield from optional("pydicom.pixels").iter_pixels(file, indices=[one.frame for one in slices])


def _rescaled(stored: Array, scale: tuple[float, float], dtype: np.dtype[Any]) -> Array:
    """Values of the modality; whole numbers stay whole."""
    slope, intercept = scale
    if (slope, intercept) == (1.0, 0.0):
        return stored.astype(dtype)
    if dtype.kind == "f":
        return (stored.astype(np.float64) * slope + intercept).astype(dtype)
    return (stored.astype(np.int64) + int(intercept)).astype(dtype)


def _errors() -> tuple[type[Exception], ...]:
    """What pydicom raises for damaged files and for pixels that it cannot decode."""
    return (*DECODING, optional("pydicom.errors").InvalidDicomError, AttributeError, NotImplementedError, TypeError,
            RuntimeError)


def _damaged(file: Path, error: Exception) -> FileError:
    return FileError(f"DICOM that cannot be read ({str(error)[:200] or type(error).__name__})", file=file,
                     expected="slices of a scanner, or a whole slide", remedy=f"copy it again, or {CONVERT}")
