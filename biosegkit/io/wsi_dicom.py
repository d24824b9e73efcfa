"""Slides as DICOM (VL Whole Slide Microscopy): a folder with one file per level (extra ``slides``)."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from biosegkit._lazy import optional
from biosegkit._words import counted
from biosegkit.errors import DataError, FileError

from .options import ReadOptions
from .raw import Array, Coarser, Raw, Window, step_between
from .tiles import DECODING

__all__ = ["raw"]

_ERRORS = ("WsiDicomError", "WsiDicomFileError", "WsiDicomMatchError", "WsiDicomNotFoundError",
           "WsiDicomNotSupportedError", "WsiDicomOutOfBoundsError", "WsiDicomStrictRequirementError",
           "WsiDicomUidDuplicateError", "WsiDicomNoResolutionError", "InvalidDicomError", "BytesLengthException")


def raw(path: Path, options: ReadOptions, *, labels: bool = False) -> Raw:
    """Geometry and levels of a slide in a folder of DICOM files, or in one file.

    Raises
    ------
    FileError
        If the files are damaged, or are no slide.
    DataError
        For several focal planes or optical paths.
    OptionError
        If wsidicom is not installed.
    """
    try:
        return _described(path)
    except _errors() as error:
        raise _unreadable(path, error) from error


def _described(path: Path) -> Raw:
    levels = list(_handle(path).levels)
    finest = levels[0]
    if len(finest.optical_paths) > 1 or len(finest.focal_planes) > 1:
        several = (counted(len(finest.optical_paths), "optical path"), counted(len(finest.focal_planes), "focal plane"))
        raise DataError(", ".join(several), file=path, expected="one of each",
                        remedy="export the one wanted as OME-TIFF")
    sizes = [(int(level.size.height), int(level.size.width)) for level in levels]
    windows = [_window(path, int(level.level)) for level in levels]
    sample = windows[-1]((slice(0, 1), slice(0, 1), slice(0, 4)))
    spacing = {"y": float(finest.mpp.height), "x": float(finest.mpp.width)}
    coarser = []
    for size, window in zip(sizes[1:], windows[1:], strict=True):
        steps = {a: step_between(n, m) for a, n, m in zip("yx", sizes[0], size, strict=True)}
        coarser.append(Coarser((*size, sample.shape[2]), window, steps, {a: (s - 1) / 2 for a, s in steps.items()}))
    shape = (*sizes[0], sample.shape[2])
    return Raw(str(path), "yxs", shape, sample.dtype, lambda: windows[0](tuple(slice(0, n) for n in shape)),
               spacing=spacing, unit="um", notes=("read by wsidicom",), window=windows[0], coarser=tuple(coarser))


def _handle(path: Path) -> Any:
    """The slide, open: once per process, and again when its files have changed."""
    files = [path, *(path.iterdir() if path.is_dir() else ())]
    return _opened(str(path), os.getpid(), max(file.stat().st_mtime_ns for file in files))


@lru_cache(maxsize=4)
def _opened(path: str, process: int, changed: int) -> Any:
    try:
        return optional("wsidicom").WsiDicom.open(path)
    except _errors() as error:
        raise _unreadable(path, error) from error


def _errors() -> tuple[type[Exception], ...]:
    """What reading raises; the errors of wsidicom and pydicom have no class in common."""
    modules = [optional("wsidicom.errors"), optional("pydicom.errors")]
    return (*DECODING, *(getattr(module, name) for module in modules for name in _ERRORS if hasattr(module, name)))


def _unreadable(path: str | Path, error: Exception) -> FileError:
    return FileError(f"DICOM files that are no whole slide ({str(error)[:200] or type(error).__name__})", file=path,
                     expected="a folder with the levels of one VL Whole Slide Microscopy image",
                     remedy="copy it again, with all files of its folder")


def _window(path: Path, level: int) -> Window:
    """Regions of one level, stored as it is."""

    def window(region: tuple[slice, ...]) -> Array:
        y, x, colours = region
        try:
            found = _handle(path).read_region((x.start, y.start), level, (x.stop - x.start, y.stop - y.start),
                                              as_array=True)
        except _errors() as error:
            raise _unreadable(path, error) from error
        pixels = np.asarray(found)
        return (pixels if pixels.ndim == 3 else pixels[..., None])[..., colours]

    return window
