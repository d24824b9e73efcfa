"""Raw: what a format module found in a file, before it is laid out as (c) z y x."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.errors import DataError, FileError
from biosegkit.grid import Grid

__all__ = ["Array", "Coarser", "Header", "Position", "Raw", "Window", "check_budget", "check_claim", "first_bytes",
           "native", "step_between"]

Array = npt.NDArray[Any]
#: Reads a region, one slice per axis of the stored array (start and stop, step one), and nothing else.
Window = Callable[[tuple[slice, ...]], Array]


@dataclass(frozen=True, eq=False)
class Coarser:
    """A lower resolution of an array in a file, with the same axes.

    ``steps`` and ``shifts`` say by letter (``z y x``) where its voxels are among those of the full resolution: voxel
    ``i`` is at ``steps * i + shifts``. Letters left out have step 1 and no shift.
    """

    shape: tuple[int, ...]
    window: Window
    steps: Mapping[str, float]
    shifts: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Raw:
    """An array in a file, its axes and geometry, and how to load it.

    ``axes`` has one letter per array axis: ``t c z y x``, ``s`` (colour samples) or ``q`` (meaning unknown).
    ``affine`` maps array index (z, y, x) to world (x, y, z) and wins over ``spacing`` (by letter, missing where the
    file has none). ``load`` reads all voxels; ``window``, where the format allows it, a region alone; ``coarser`` are
    the further resolutions of a pyramid, finest first. ``palette`` has the colour of each value, as ``#rrggbb``, where
    values are kept as indices.
    """

    file: str
    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    load: Callable[[], Array]
    affine: Array | None = None
    spacing: Mapping[str, float] = field(default_factory=dict)
    unit: str = "px"
    channels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    window: Window | None = None
    coarser: tuple[Coarser, ...] = ()
    palette: tuple[str, ...] = ()


@dataclass(frozen=True)
class Position:
    """One of the images of a file: what it is called, its number (None if it is the only one), its time points."""

    name: str
    series: int | None = None
    times: int = 1


@dataclass(frozen=True)
class Header:
    """What can be said about an image without reading its voxels.

    ``dtype`` is that of the array :func:`biosegkit.io.read` returns; ``channels`` may turn out to be 1 for colour
    images whose three channels are equal.
    """

    shape: tuple[int, ...]
    channels: int
    dtype: np.dtype[Any]
    grid: Grid
    notes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Size of the whole array in memory."""
        return self.grid.voxels * self.channels * self.dtype.itemsize


def step_between(finer: int, coarser: int) -> float:
    """How many voxels of an axis one voxel of a reduced axis stands for.

    Writers reduce by whole numbers and drop, or add, a last voxel that is not full.

    Examples
    --------
    >>> step_between(46001, 11500), step_between(46001, 11501), step_between(1000, 300)
    (4.0, 4.0, 3.3333333333333335)
    """
    whole = max(round(finer / coarser), 1)
    return float(whole) if coarser in (finer // whole, -(-finer // whole)) else finer / coarser


def first_bytes(path: Path, count: int) -> bytes:
    """The first bytes of a file."""
    with path.open("rb") as handle:
        return handle.read(count)


def native(dtype: np.dtype[Any], file: str) -> np.dtype[Any]:
    """The dtype voxels of a stored dtype are read as: native byte order, bool as uint8, half widened (V7).

    Raises
    ------
    DataError
        For complex, structured, object and other types that are not real numbers (V8).

    Examples
    --------
    >>> native(np.dtype(">u2"), "a.tif"), native(np.dtype("f2"), "a.tif")
    (dtype('uint16'), dtype('float32'))
    """
    if dtype.kind not in "buif":
        raise DataError(f"voxels of type {dtype}", file=file, expected="real numbers",
                        remedy="save magnitude, or one real channel per part")
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype.kind == "f" and dtype.itemsize not in (4, 8):
        return np.dtype(np.float32 if dtype.itemsize < 4 else np.float64)
    return np.dtype(f"{dtype.kind}{dtype.itemsize}")  # also one name for types of equal size


def check_claim(nbytes: int, file: str, stored: int, ratio: float = 1.0) -> None:
    """Refuse, before anything is allocated, a header that claims more than the file can hold (F5).

    ``stored`` is the number of bytes that hold the voxels in the file and ``ratio`` the largest expansion the
    compression can give (1032 for deflate).
    """
    if nbytes > stored * ratio + 4096 * (ratio > 1):
        raise FileError(f"a header that claims {nbytes} bytes of voxels in {stored} bytes of data", file=file,
                        expected=f"at most {int(stored * ratio)} bytes", remedy="the file is cut or its header is "
                        "damaged; get it again from where it was made")


def check_budget(nbytes: int, file: str, budget: int) -> None:
    """Refuse to load what is larger than the memory budget (F5)."""
    if nbytes > budget:
        raise FileError(f"{nbytes / 2**30:.3g} GiB of voxels", file=file,
                        expected=f"at most {budget / 2**30:.3g} GiB, the memory budget",
                        remedy="crop the image, give more --memory (memory_budget), or let predict do it in blocks: "
                        "OME-Zarr, TIFF and slides, with a model trained with biosegkit or a StarDist model")
