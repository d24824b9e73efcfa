"""Maps of a giant image, for those who ask for them: kept part by part, then written as OME-Zarr.

A part that was computed keeps its own maps, a file per map. A box that is painted copies those of its parts into whole
chunks, channel by channel, so that maps are never held whole. In boxes that nobody looked at they are 0.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit._atomic import load_npy, read_json, sha256, write_json, write_npy
from biosegkit.errors import FileError
from biosegkit.grid import Grid
from biosegkit.io.map_store import MapStore

from .giant import GiantJob, Work

__all__ = ["are_kept", "begin_maps", "finished_maps", "keep_maps", "kept_map", "map_names", "map_stores",
           "paint_maps"]

_LIST = "maps.json"


def keep_maps(job: GiantJob, number: int, maps: Mapping[str, npt.NDArray[np.float32]]) -> dict[str, Any]:
    """Write what a part has of every map, (C, *part); what its record needs: channels, size and SHA-256 by name."""
    told: dict[str, Any] = {}
    for name, values in maps.items():
        path = _path(job, number, name)
        write_npy(path, values)
        told[name] = {"channels": len(values), "bytes": path.stat().st_size, "sha256": sha256(path)}
    return told


def are_kept(job: GiantJob, number: int, told: Mapping[str, Any] | None, *, thoroughly: bool = False) -> bool:
    """Whether the maps of a part are there as its record says; a record without maps has none."""
    if not told:
        return False
    try:
        return all(_path(job, number, name).stat().st_size == one["bytes"]
                   and (not thoroughly or sha256(_path(job, number, name)) == one["sha256"])
                   for name, one in told.items())
    except OSError:
        return False


def kept_map(job: GiantJob, number: int, name: str) -> npt.NDArray[np.float32]:
    """What a part has of a map, (C, *part), read when it is sliced."""
    values: npt.NDArray[np.float32] = load_npy(_path(job, number, name), mmap=True)
    return values


def begin_maps(job: GiantJob, grid: Grid, told: Mapping[str, Any]) -> None:
    """Make the stores, empty, once all parts are computed; ``told`` is what :func:`keep_maps` said of any of them."""
    path = job.folder / _LIST
    if path.exists():
        return
    channels = {name: int(one["channels"]) for name, one in told.items()}
    for store in _stores(job, grid, channels).values():
        shutil.rmtree(store.folder, ignore_errors=True)
        store.begin()
    write_json(path, channels)


def map_stores(job: GiantJob, grid: Grid) -> dict[str, MapStore]:
    """The stores on their way, by the ends of their names."""
    return _stores(job, grid, read_json(job.folder / _LIST))


def paint_maps(work: Work, members: Sequence[int], ends: Sequence[tuple[int, int]], start: Sequence[int]) -> None:
    """Write the chunks of one box.

    Parameters
    ----------
    work : Work
    members : sequence of int
        The blocks of the box.
    ends : sequence of (int, int)
        Of its chunks, in the turned image.
    start : sequence of int
        Of its chunks, in the image.
    """
    prepared = work.prepared
    for name, store in map_stores(work.job, work.image.grid).items():
        for channel in range(store.channels):
            values = np.zeros([stop - first for first, stop in ends], np.float32)
            for k in members:
                if work.full[k]:
                    into = tuple(slice(w.start + r.start - e[0], w.start + r.stop - e[0])
                                 for w, r, e in zip(prepared.window, work.blocks[k].write, ends, strict=True))
                    values[into] = kept_map(work.job, k, name)[channel]
            store.write(channel, start, prepared.turn.inverse().apply(values))


def map_names(job: GiantJob, grid: Grid) -> list[str]:
    """What the stores are called, also once they are moved; none where maps are not asked for."""
    return [store.folder.name for store in map_stores(job, grid).values()] if job.maps else []


def finished_maps(job: GiantJob, grid: Grid) -> dict[str, Path]:
    """Write further resolutions of every map; the stores by their names, those that are moved left out."""
    found = {}
    for store in map_stores(job, grid).values() if job.maps else ():
        if store.folder.exists():
            store.finish()
            found[store.folder.name] = store.folder
    return found


def _path(job: GiantJob, number: int, name: str) -> Path:
    if "/" in name or name.startswith("."):
        raise FileError(f"a map called {name!r}", file=job.folder, expected="a plain name")
    return job.folder / "maps" / f"{number}-{name}.npy"


def _stores(job: GiantJob, grid: Grid, channels: Mapping[str, int]) -> dict[str, MapStore]:
    stem = Path(job.output).name.removesuffix(".ome.zarr")
    return {name: MapStore(job.folder / f"{stem}_{name}.ome.zarr", grid, count) for name, count in channels.items()}
