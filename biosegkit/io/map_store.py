"""Maps too large for memory, written to an OME-Zarr chunk by chunk; the store is that of :mod:`biosegkit.io.zarr`.

Several processes may write at the same time, each whole chunks of its own; a chunk that is written twice is the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from biosegkit.grid import Grid

from . import ngff
from .label_store import LabelStore, complete, pieces
from .zarr import create_array, halved, halved_axes, writable
from .zarrguard import OWN, manifest

__all__ = ["MapStore"]


@dataclass(frozen=True)
class MapStore:
    """An OME-Zarr group of numbers of several channels on its way.

    Parameters
    ----------
    folder : Path
        Of the group.
    grid : Grid
    channels : int

    Examples
    --------
    >>> import tempfile
    >>> from biosegkit.io import read
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = MapStore(Path(folder) / "a.ome.zarr", Grid.regular((2, 3), 0.5, "um"), 2)
    ...     store.begin()
    ...     store.write(1, (0, 0), np.array([[0, 1, 2], [3, 4, 5]], np.float32))
    ...     store.finish()
    ...     read(store.folder).array.tolist()
    [[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]]
    """

    folder: Path
    grid: Grid
    channels: int

    @property
    def axes(self) -> str:
        """A single channel has no axis."""
        return self.grid.axes if self.channels == 1 else "c" + self.grid.axes

    @property
    def chunk(self) -> tuple[int, ...]:
        """Voxels of a chunk; it holds one channel."""
        return LabelStore(self.folder, self.grid, "uint8").chunk

    def begin(self) -> None:
        """Make the group and the array of full resolution, empty."""
        group = zarr.open_group(self.folder, mode="w", zarr_format=3)
        create_array(group, "0", self._shaped(self.grid.shape), "float32", self.axes, self.grid.ndim)

    def write(self, channel: int, start: Sequence[int], values: npt.NDArray[Any]) -> None:
        """Write whole chunks of a channel."""
        where = tuple(slice(s, s + n) for s, n in zip(start, values.shape, strict=True))
        self._level(0)[self._of(channel, where)] = values

    def finish(self) -> None:
        """Make the further resolutions, means of the one before, and write what makes the store valid."""
        group = zarr.open_group(self.folder, mode="r+", zarr_format=3)
        complete(self._level(0))
        shapes = [self.grid.shape]
        for axes in halved_axes(self.grid):
            before = shapes[-1]
            shapes.append(tuple(-(-n // 2) if a in axes else n for a, n in enumerate(before)))
            fine, name = self._level(len(shapes) - 2), str(len(shapes) - 1)
            shutil.rmtree(self.folder / name, ignore_errors=True)  # of an attempt before this one
            coarse = create_array(group, name, self._shaped(shapes[-1]), "float32", self.axes, self.grid.ndim)
            for into in pieces(shapes[-1], coarse.chunks[-self.grid.ndim :]):
                source = tuple(slice(2 * i.start, min(2 * i.stop, n)) if a in axes else i
                               for a, (i, n) in enumerate(zip(into, before, strict=True)))
                for channel in range(self.channels):
                    values = np.asarray(fine[self._of(channel, source)])
                    for axis in axes:
                        values = halved(values, axis - self.grid.ndim, mean=True)
                    coarse[self._of(channel, into)] = values
        levels = ngff.levels_of(self.grid, shapes, mean=True)
        name = self.folder.name.split(".")[0]
        content = {"multiscales": ngff.multiscales(self.axes, self.grid.unit, levels, "0.5", name),
                   "omero": ngff.omero([f"channel {c}" for c in range(self.channels)], self._ranges())}
        own: dict[str, Any] = {"affine": self.grid.affine.tolist(), "unit": self.grid.unit}
        own["manifest"] = manifest(self.folder, [level.path for level in levels], own)
        group.attrs.update({"ome": {"version": "0.5", **content}, OWN: own})

    def _ranges(self) -> list[tuple[float, float]]:
        """Least and largest value of every channel."""
        fine, out = self._level(0), []
        for channel in range(self.channels):
            low, high = np.inf, -np.inf
            for into in pieces(self.grid.shape, self.chunk):
                values = np.asarray(fine[self._of(channel, into)])
                low, high = min(low, float(values.min())), max(high, float(values.max()))
            out.append((low, high))
        return out

    def _level(self, number: int) -> Any:
        return writable(self.folder / str(number))

    def _shaped(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape if self.channels == 1 else (self.channels, *shape)

    def _of(self, channel: int, where: tuple[slice, ...]) -> tuple[Any, ...]:
        return where if self.channels == 1 else (channel, *where)
