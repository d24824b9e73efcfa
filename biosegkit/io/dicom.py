"""DICOM: slices of a scanner, in a folder of one series or in one file (extra ``dicom``), and slides (`wsi_dicom`).

Where a slice lies is said by Image Position and Image Orientation (Patient), PS3.3 C.7.6.2.1.1: the world of DICOM
points left, posterior and superior; that of a grid right, anterior and superior. Slices are put in order by their
positions, never by their names or numbers, and what is not one whole volume of even spacing is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from biosegkit._words import counted
from biosegkit.errors import DataError, FileError

from .dicom_frames import CONVERT, SLIDE, Slice, kind, planes, slices_of
from .options import ReadOptions
from .raw import Array, Raw, Window

__all__ = ["raw"]

#: What of a slice must be that of all others: by keyword, and in words.
_ALIKE = {"Rows": "rows", "Columns": "columns", "SamplesPerPixel": "samples per pixel",
          "PixelRepresentation": "signs of values", "BitsAllocated": "bits per value"}
#: How far directions, in radians, and distances, as a share of the step, may be from those of the others.
_ANGLE, _SHARE = 1e-3, 0.02


def raw(path: Path, options: ReadOptions, *, labels: bool = False) -> Raw:
    """Geometry and loader of one series of slices in a folder or an enhanced file, of a single slice, or of a slide.

    Raises
    ------
    FileError
        If a file is damaged or no image of slices, or the folder holds several series.
    DataError
        If slices are missing, twice at one place, or do not lie on each other.
    OptionError
        If pydicom is not installed.
    """
    slices = slices_of(path)
    if any(kind(one.head) == SLIDE for one in slices):
        from . import wsi_dicom

        return wsi_dicom.raw(path, options, labels=labels)
    _refuse_others(slices, path)
    return _volume(path, slices, labels)


def _refuse_others(slices: Sequence[Slice], path: Path) -> None:
    """What is no series of plain grey slices, or more than one."""
    for one in slices:
        head = one.head
        if not all(getattr(head, name, None) for name in ("Rows", "Columns", "BitsAllocated")):
            raise FileError(f"DICOM without pixels, of class {kind(head) or 'unknown'}", file=one.file,
                            expected="slices of a scanner, or a whole slide",
                            remedy=f"take this file out of the folder, or {CONVERT}")
        frames, samples = int(getattr(head, "NumberOfFrames", None) or 1), int(getattr(head, "SamplesPerPixel", 1))
        colours = str(getattr(head, "PhotometricInterpretation", None) or "unknown colours")
        alone = frames > 1 and one.frame is None
        if alone or samples > 1 or not colours.startswith("MONO"):
            raise FileError(f"a DICOM file of {counted(frames, 'frame') if alone else colours}", file=one.file,
                            expected="one grey slice per file, or frames that say where they lie",
                            remedy=CONVERT)
        if getattr(head, "ModalityLUTSequence", None):
            raise FileError("values by a table (Modality LUT)", file=one.file, expected="a rescale slope and intercept",
                            remedy=CONVERT)
    series: dict[tuple[str, ...], set[Path]] = {}
    for one in slices:
        key = tuple(str(getattr(one.head, keyword, "")) for keyword in
                    ("SeriesInstanceUID", "FrameOfReferenceUID", "SeriesDescription"))
        series.setdefault(key, set()).add(one.file)
    if len({key[:2] for key in series}) > 1:
        named = ", ".join(f"{key[2] or 'no description'!r} ({counted(len(files), 'file')})" for key, files in
                          list(series.items())[:6])
        raise FileError(f"{len(series)} DICOM series: {named}", file=path, expected="one",
                        remedy="move the files of each series into a folder of its own")
    for keyword, words in _ALIKE.items():
        kinds = Counter(int(getattr(one.head, keyword, None) or 0) for one in slices)
        if len(kinds) > 1:
            (usual, _), *_, (odd, _) = kinds.most_common()
            file = next(one.file for one in slices if int(getattr(one.head, keyword, None) or 0) == odd)
            raise DataError(f"{odd} {words}", file=file, expected=f"{usual}, as in most slices",
                            remedy=_apart(slices, "volume"))


def _apart(slices: Sequence[Slice], what: str) -> str:
    """What to do with several of something."""
    if len({one.file for one in slices}) == 1:
        return f"{CONVERT}, which writes a file for each {what.split(',')[0]}"
    return f"move the files of each {what} into a folder of its own"


def _volume(path: Path, slices: Sequence[Slice], labels: bool) -> Raw:
    """One slice as (y, x), several as (z, y, x) in the order of their places."""
    affine: Array | None = None
    spacing: Mapping[str, float] = {}
    if len(slices) > 1:
        slices, affine = _ordered(slices, path)
    else:
        spacing = _plane_spacing(slices[0])
    dtype = _dtype(slices, labels)
    rows, columns = int(slices[0].head.Rows), int(slices[0].head.Columns)
    shape = (len(slices), rows, columns)

    def window(region: tuple[slice, ...]) -> Array:
        z, y, x = region if affine is not None else (slice(0, 1), *region)
        out = np.empty((z.stop - z.start, y.stop - y.start, x.stop - x.start), dtype)
        for k, plane in enumerate(planes(slices[z], dtype, (rows, columns))):
            out[k] = plane[y, x]
        return out if affine is not None else out[0]

    notes = [] if affine is None else [f"{counted(len(slices), 'DICOM slice')} put in order by their positions"]
    if any(str(one.head.PhotometricInterpretation) == "MONOCHROME1" for one in slices):
        notes.append("low values are meant to be shown bright (MONOCHROME1): values are as stored")
    known = affine is not None or bool(spacing)
    stored = shape if affine is not None else shape[1:]
    return Raw(str(path), "zyx" if affine is not None else "yx", stored, dtype,
               _whole(window, stored, dtype, str(path)), affine=affine, spacing=spacing, unit="mm" if known else "px",
               notes=tuple(notes), window=window)


def _whole(window: Window, shape: tuple[int, ...], dtype: np.dtype[Any], file: str) -> Callable[[], Array]:
    """Reads all."""
    def load() -> Array:
        return window(tuple(slice(0, n) for n in shape))

    return load


def _plane_spacing(one: Slice) -> dict[str, float]:
    """The size of a pixel of a single slice, or of a radiograph at its detector; empty where it is not said."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        if getattr(one.head, keyword, None) is not None:
            y, x = one.numbers(keyword, 2)
            return {"y": float(y), "x": float(x)}
    return {}


def _ordered(slices: Sequence[Slice], path: Path) -> tuple[list[Slice], Array]:
    """Slices along their normal, and the affine from (z, y, x) to right, anterior, superior.

    The step between planes is that of their positions, not of SpacingBetweenSlices or SliceThickness, which scanners
    fill in differently.
    """
    first = slices[0].numbers("ImageOrientationPatient", 6)
    sizes = slices[0].numbers("PixelSpacing", 2)
    along_x, along_y = first[:3], first[3:]
    if abs(np.linalg.norm(along_x) - 1) > _ANGLE or abs(np.linalg.norm(along_y) - 1) > _ANGLE or not (sizes > 0).all():
        raise DataError(f"directions {first.tolist()}, pixels of {sizes.tolist()}", file=slices[0].file,
                        expected="two unit vectors and positive sizes", remedy=CONVERT)
    for one in slices:
        turned = np.abs(one.numbers("ImageOrientationPatient", 6) - first).max()
        grown = np.abs(one.numbers("PixelSpacing", 2) / sizes - 1).max()
        if turned > _ANGLE or grown > _ANGLE:
            raise DataError("another direction or size of pixels" if turned > _ANGLE else "another size of pixels",
                            file=one.file, expected=f"those of {slices[0].name}",
                            remedy=_apart(slices, "volume, localizers too,"))
    normal = np.cross(along_x, along_y)
    places = np.array([one.numbers("ImagePositionPatient", 3) for one in slices])
    order = np.argsort(places @ normal, kind="stable")
    slices, places = [slices[i] for i in order], places[order]
    _refuse_gaps(slices, places @ normal, path)
    step = (places[-1] - places[0]) / (len(slices) - 1)
    aside = np.linalg.norm(places - (places[0] + np.arange(len(slices))[:, None] * step), axis=1)
    if aside.max() > _SHARE * np.linalg.norm(step) + 1e-3:
        raise DataError(f"a slice {aside.max():.3g} mm beside its place", file=slices[int(aside.argmax())].file,
                        expected="slices on one line", remedy=f"move it out, or {CONVERT}")
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = step, along_y * sizes[0], along_x * sizes[1]
    affine[:3, 3] = places[0]
    affine[:2] *= -1
    return list(slices), affine


def _refuse_gaps(slices: Sequence[Slice], heights: Array, path: Path) -> None:
    """Two slices at one place, and slices that are not there."""
    steps = np.diff(heights)
    usual = float(np.median(steps))
    twice = np.flatnonzero(steps < 1e-3)
    if len(twice):
        pair = f"{slices[twice[0]].name} and {slices[twice[0] + 1].name}"
        raise DataError(f"two slices at one place ({pair}; {counted(len(twice), 'place')})", file=path,
                        expected="one volume", remedy=_apart(slices, "time point, echo or contrast"))
    odd = np.flatnonzero(np.abs(steps - usual) > _SHARE * usual + 1e-3)
    if len(odd):
        k = int(odd[np.argmax(steps[odd])])
        missing = round(float(steps[k]) / usual) - 1
        what = f"{counted(missing, 'slice')} missing" if missing > 0 else "uneven distances"
        pair = f"{slices[k].name} and {slices[k + 1].name}"
        raise DataError(f"{what}: {steps[k]:.4g} mm between {pair}", file=path,
                        expected=f"{usual:.4g} mm between all slices",
                        remedy="copy the missing files" if missing > 0 else "resample the series to even distances")


def _dtype(slices: Sequence[Slice], labels: bool) -> np.dtype[Any]:
    """The smallest type that holds rescaled values: whole numbers stay whole."""
    head = slices[0].head
    if getattr(head, "PixelRepresentation", None) is None:  # values are stored as floating point
        return np.dtype(np.float64 if int(head.BitsAllocated) > 32 else np.float32)
    bits = max(int(getattr(one.head, "BitsStored", head.BitsAllocated)) for one in slices)
    scales = [one.scale for one in slices]
    if any(slope != 1 or intercept % 1 for slope, intercept in scales):
        return np.dtype(np.float64 if labels or bits > 16 else np.float32)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if head.PixelRepresentation else (0, 2**bits - 1)
    low, high = low + int(min(i for _, i in scales)), high + int(max(i for _, i in scales))
    kinds = (np.uint8, np.uint16, np.int16, np.uint32, np.int32, np.int64)
    return next(np.dtype(k) for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max)
