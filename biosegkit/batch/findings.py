"""What comes out beside the labels of a giant image, read from them tile by tile."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import zarr

from biosegkit._atomic import write_json
from biosegkit.exports import class_names, recorded
from biosegkit.io import open_pyramid
from biosegkit.io.label_store import LabelStore
from biosegkit.methods import ObjectTable
from biosegkit.outputs import Found, Written, write_possible
from biosegkit.records import file_hash, record_path
from biosegkit.signals import finish_first

from .giant import GiantJob, Work

__all__ = ["publish", "write_found"]


@dataclass(frozen=True, eq=False)
class _Classes:
    """Labels with the user's values, as numbers of classes; read when they are sliced."""

    array: Any
    values: npt.NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the image."""
        return tuple(self.array.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, key: Any) -> npt.NDArray[np.int64]:
        order = np.argsort(self.values)
        return np.asarray(order[np.searchsorted(self.values, self.array[key], sorter=order)])


def write_found(work: Work, table: ObjectTable, output: Path, kinds: Sequence[str]) -> Written:
    """Write outputs beside labels that are in their place.

    Parameters
    ----------
    work : Work
    table : dict of ndarray
        Of the objects; empty for classes.
    output : Path
        The OME-Zarr of the labels.
    kinds : sequence of str
        See :data:`biosegkit.outputs.OUTPUTS`.

    Returns
    -------
    Written
        The files, and what cannot be.
    """
    labels, grid = work.labels, work.image.grid
    finest = open_pyramid(work.job.images, work.job.reading).grids[0]
    y, x = (a / b for a, b in zip(grid.spacing[-2:], finest.spacing[-2:], strict=True))
    array: Any = zarr.open_array(output / "0", mode="r")
    if work.is_instance:
        found = Found(array, table, grid)
    else:
        values = np.asarray(labels.values, np.int64)
        found = Found.of(cast("npt.NDArray[Any]", _Classes(array, values)), grid)
        found = replace(found, table={**found.table, "class": values[found.table["id"]]})
    found = replace(found, classes=class_names(labels), scale=(y, x), source=Path(work.job.images[0]).name)
    return write_possible(found, work.image, output.parent, output.name.removesuffix(".ome.zarr"), kinds)


def publish(job: GiantJob, store: LabelStore, record: Mapping[str, Any],
            beside: Callable[[Path], Written], maps: Mapping[str, Path] | None = None) -> dict[str, Any]:
    """Put labels that are finished in their place, and write what belongs beside them; the work is then removed.

    Parameters
    ----------
    job : GiantJob
    store : LabelStore
        With all its resolutions; not there any more if it is in its place already.
    record : dict
        To be completed by hashes, and written last.
    beside : callable
        Given the place of the labels, writes further files and says which the record is to know.
    maps : dict of Path, optional
        Further stores that are finished, by their names beside the labels.

    Returns
    -------
    dict
        The record.
    """
    output, whole = Path(job.output), dict(record)
    with finish_first():
        if store.folder.exists():
            record_path(output).unlink(missing_ok=True)
            if output.exists():
                shutil.rmtree(output)
            output.parent.mkdir(parents=True, exist_ok=True)
            store.folder.replace(output)
        for name, folder in (maps or {}).items():
            place = output.with_name(name)
            if place.exists():
                shutil.rmtree(place)
            folder.replace(place)
        whole |= recorded(beside(output))
        whole["output"] = file_hash(output)
        write_json(record_path(output), whole)
    shutil.rmtree(job.folder, ignore_errors=True)
    return whole
