"""Slides whose tiles only OpenSlide can join, such as MIRAX and Ventana (extra ``slides``).

What TIFF stores as one plain grid of tiles (Aperio, Hamamatsu, Leica, Philips, OME) :mod:`biosegkit.io.tiff` reads.
"""

from __future__ import annotations

import os
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from biosegkit._lazy import optional
from biosegkit.errors import FileError

from .options import ReadOptions
from .raw import Array, Coarser, Raw, Window, step_between

__all__ = ["raw"]

#: Side of the cells a level is read in whose pixels do not lie on those of the full resolution.
_CELL = 512


def raw(path: Path, options: ReadOptions, *, labels: bool = False) -> Raw:
    """Geometry and levels of a slide.

    Raises
    ------
    FileError
        If OpenSlide does not know or cannot read it.
    OptionError
        If OpenSlide is not installed.
    """
    handle = _handle(path)
    told = handle.properties
    sizes = [(int(h), int(w)) for w, h in handle.level_dimensions]
    spacing = {a: float(told[f"openslide.mpp-{a}"]) for a in "yx" if told.get(f"openslide.mpp-{a}")}
    notes = [f"read by OpenSlide as {told.get('openslide.vendor', 'a slide')}"]
    glass = _colour(told.get("openslide.background-color"))
    windows = [_window(path, k, size, float(handle.level_downsamples[k]), glass) for k, size in enumerate(sizes)]
    coarser = []
    for size, window in zip(sizes[1:], windows[1:], strict=True):
        steps = {a: step_between(n, m) for a, n, m in zip("yx", sizes[0], size, strict=True)}
        coarser.append(Coarser((*size, 3), window, steps, {a: (s - 1) / 2 for a, s in steps.items()}))
    shape = (*sizes[0], 3)
    return Raw(str(path), "yxs", shape, np.dtype(np.uint8), lambda: windows[0](tuple(slice(0, n) for n in shape)),
               spacing=spacing, unit="um" if spacing else "px", notes=tuple(notes), window=windows[0],
               coarser=tuple(coarser))


def _handle(path: Path) -> Any:
    """The slide, open: once per process, as handles do not survive a fork, and again when its file has changed."""
    return _opened(str(path), os.getpid(), path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _opened(path: str, process: int, changed: int) -> Any:
    library = optional("openslide")
    try:
        return library.OpenSlide(path)
    except (library.OpenSlideError, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | Path, error: Exception) -> FileError:
    return FileError(f"a slide that OpenSlide cannot read ({str(error)[:200] or type(error).__name__})", file=path,
                     expected="a whole slide, with the folder that belongs to it",
                     remedy="copy it again, or export it as OME-TIFF")


def _colour(text: str | None) -> Array:
    """Of glass, where nothing was scanned: as the slide says, else white."""
    named = text if text and len(text) == 6 else "FFFFFF"
    return np.array([int(named[i : i + 2], 16) for i in (0, 2, 4)], np.float32)


def _window(path: Path, level: int, size: tuple[int, int], step: float, glass: Array) -> Window:
    """Regions of one level.

    OpenSlide is told places in pixels of the full resolution and interpolates where they do not fall on a pixel of the
    level. Such levels are read in cells of one fixed grid: a pixel does not depend on the region it is read with.
    """
    whole = abs(step - round(step)) < 1e-9

    def window(region: tuple[slice, ...]) -> Array:
        y, x, colours = region
        if whole:
            return cell(y, x)[..., colours]
        out = np.empty((y.stop - y.start, x.stop - x.start, 3), np.uint8)
        for part in product(*(range(s.start // _CELL, -(-s.stop // _CELL)) for s in (y, x))):
            own = [slice(i * _CELL, min((i + 1) * _CELL, n)) for i, n in zip(part, size, strict=True)]
            low = [max(s.start, o.start) for s, o in zip((y, x), own, strict=True)]
            high = [min(s.stop, o.stop) for s, o in zip((y, x), own, strict=True)]
            cut = tuple(slice(a - o.start, b - o.start) for a, b, o in zip(low, high, own, strict=True))
            out[tuple(slice(a - s.start, b - s.start) for a, b, s in zip(low, high, (y, x), strict=True))] = cell(
                *own)[cut]
        return out[..., colours]

    def cell(y: slice, x: slice) -> Array:
        library, handle = optional("openslide"), _handle(path)
        place = (round(x.start * step), round(y.start * step))
        try:
            pixels = np.asarray(handle.read_region(place, level, (x.stop - x.start, y.stop - y.start)))
        except (library.OpenSlideError, OSError) as error:
            _opened.cache_clear()  # after an error a handle answers nothing else
            raise _unreadable(path, error) from error
        return _on_glass(pixels, glass)

    return window


def _on_glass(pixels: Array, glass: Array) -> Array:
    """Colours with transparency → what is seen on glass."""
    opaque = pixels[..., 3:]
    if (opaque == 255).all():
        return np.ascontiguousarray(pixels[..., :3])
    share = opaque.astype(np.float32) / 255
    return np.rint(pixels[..., :3] * share + glass * (1 - share)).astype(np.uint8)
