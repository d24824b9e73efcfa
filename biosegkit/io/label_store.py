"""Labels too large for memory, written to an OME-Zarr chunk by chunk; the store is that of :mod:`biosegkit.io.zarr`.

Several processes may write at the same time, each whole chunks of its own; a chunk that is written twice is the same.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from biosegkit.errors import DataError
from biosegkit.grid import Grid

from . import ngff
from .zarr import CHUNK, create_array, halved_axes, writable
from .zarrguard import OWN, manifest

__all__ = ["LabelStore", "complete", "pieces"]

#: Voxels that are read together where a resolution is made from the one before; changes memory only.
_PIECE = 2**24


@dataclass(frozen=True)
class LabelStore:
    """An OME-Zarr group of labels on its way.

    Parameters
    ----------
    folder : Path
        Of the group.
    grid : Grid
    dtype : str
        Of the labels.

    Examples
    --------
    >>> import tempfile
    >>> from biosegkit.io import read_labels
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = LabelStore(Path(folder) / "a.ome.zarr", Grid.regular((2, 3), 0.5, "um"), "uint8")
    ...     store.begin()
    ...     store.write((0, 0), np.array([[0, 1, 1], [2, 0, 0]]))
    ...     store.finish(np.arange(3))
    ...     read_labels(store.folder, "instance").array.tolist()
    [[0, 1, 1], [2, 0, 0]]
    """

    folder: Path
    grid: Grid
    dtype: str

    @property
    def chunk(self) -> tuple[int, ...]:
        """Voxels of a chunk."""
        return tuple(min(c, n) for c, n in zip(CHUNK[self.grid.ndim], self.grid.shape, strict=True))

    def begin(self) -> None:
        """Make the group and the array of full resolution, empty."""
        group = zarr.open_group(self.folder, mode="w", zarr_format=3)
        create_array(group, "0", self.grid.shape, self.dtype, self.grid.axes, self.grid.ndim)

    def write(self, start: Sequence[int], values: npt.NDArray[Any]) -> None:
        """Write whole chunks of full resolution.

        Raises
        ------
        DataError
            Where a chunk is written in part, so that two writers could spoil it.
        """
        for s, n, c, full in zip(start, values.shape, self.chunk, self.grid.shape, strict=True):
            if s % c or (n % c and s + n != full):
                raise DataError(f"{values.shape} voxels from {tuple(start)}", expected=f"whole chunks of {self.chunk}")
        where = tuple(slice(s, s + n) for s, n in zip(start, values.shape, strict=True))
        self.level(0)[where] = values.astype(self.dtype, copy=False)

    def level(self, number: int = 0) -> Any:
        """The array of a resolution, which reads what it is asked for."""
        return writable(self.folder / str(number))

    def finish(self, values: npt.NDArray[Any]) -> None:
        """Make the further resolutions, and write what makes the store valid.

        Parameters
        ----------
        values : ndarray of int
            The user's values, background first, of which the first few get colours.
        """
        group = zarr.open_group(self.folder, mode="r+", zarr_format=3)
        complete(self.level(0))
        shapes = [self.grid.shape]
        for axes in halved_axes(self.grid):
            before = shapes[-1]
            shapes.append(tuple(-(-n // 2) if a in axes else n for a, n in enumerate(before)))
            fine = self.level(len(shapes) - 2)
            shutil.rmtree(self.folder / str(len(shapes) - 1), ignore_errors=True)  # of an attempt before this one
            coarse = create_array(group, str(len(shapes) - 1), shapes[-1], self.dtype, self.grid.axes, self.grid.ndim)
            for into in pieces(shapes[-1], coarse.chunks):
                source = tuple(slice(2 * i.start, min(2 * i.stop, n), 2) if a in axes else i
                               for a, (i, n) in enumerate(zip(into, before, strict=True)))
                coarse[into] = _picked(fine, source)
        levels = ngff.levels_of(self.grid, shapes, mean=False)
        name = self.folder.name.split(".")[0]
        content = {"multiscales": ngff.multiscales(self.grid.axes, self.grid.unit, levels, "0.5", name),
                   "image-label": ngff.image_label(values, "0.5", inside=False)}
        own: dict[str, Any] = {"affine": self.grid.affine.tolist(), "unit": self.grid.unit}
        own["manifest"] = manifest(self.folder, [level.path for level in levels], own)
        group.attrs.update({"ome": {"version": "0.5", **content}, OWN: own})


def complete(array: Any) -> None:
    """Store the chunks that nobody wrote, as zeros: a store of ours has all of them, so that a lost one is seen."""
    if array.nchunks_initialized == array.nchunks:
        return
    root = Path(array.store.root) / array.path
    for at in product(*(range(-(-n // c)) for n, c in zip(array.shape, array.chunks, strict=True))):
        if not root.joinpath("c", *map(str, at)).exists():
            array[tuple(slice(i * c, min((i + 1) * c, n))
                        for i, c, n in zip(at, array.chunks, array.shape, strict=True))] = 0


def _picked(array: Any, region: tuple[slice, ...]) -> npt.NDArray[Any]:
    """Every second voxel of a region along the axes that are halved."""
    whole = np.asarray(array[tuple(slice(r.start, r.stop) for r in region)])
    return whole[tuple(slice(None, None, r.step) for r in region)]


def pieces(shape: Sequence[int], chunk: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Boxes of whole chunks that cover an array, each of about :data:`_PIECE` voxels at most."""
    size = list(chunk)
    for axis in reversed(range(len(size))):
        room = max(1, _PIECE // math.prod(size))
        size[axis] = min(-(-shape[axis] // size[axis]), room) * size[axis]
    for start in product(*(range(0, n, s) for n, s in zip(shape, size, strict=True))):
        yield tuple(slice(a, min(a + s, n)) for a, s, n in zip(start, size, shape, strict=True))
