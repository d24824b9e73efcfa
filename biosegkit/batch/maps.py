"""The network's maps of a giant image, for those who ask for them: kept block by block, then written as OME-Zarr.

A block keeps its own maps in a file per map. A box that is painted copies those of its blocks into whole chunks,
channel by channel, so that maps are never held whole. In boxes that nobody looked at they are 0.
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
from biosegkit.io.map_store import MapStore
from biosegkit.methods import Block

from .giant import Work

__all__ = ["are_kept", "begin_maps", "finished_maps", "keep_maps", "paint_maps"]

_LIST = "maps.json"


def keep_maps(work: Work, number: int, maps: Mapping[str, npt.NDArray[np.float32]], block: Block) -> dict[str, Any]:
    """Write what a block has of every map, (C, *core); what its record needs: channels, size and SHA-256 by name."""
    told: dict[str, Any] = {}
    for name, values in maps.items():
        path = _path(work, number, name)
        write_npy(path, values[(slice(None), *block.core)])
        told[name] = {"channels": len(values), "bytes": path.stat().st_size, "sha256": sha256(path)}
    return told


def are_kept(work: Work, number: int, told: Mapping[str, Any] | None, *, thoroughly: bool = False) -> bool:
    """Whether the maps of a block are there as its record says; a record without maps has none."""
    if not told:
        return False
    try:
        return all(_path(work, number, name).stat().st_size == one["bytes"]
                   and (not thoroughly or sha256(_path(work, number, name)) == one["sha256"])
                   for name, one in told.items())
    except OSError:
        return False


def begin_maps(work: Work) -> None:
    """Make the stores, empty, once all blocks are computed."""
    path = work.job.folder / _LIST
    if path.exists():
        return
    full = next((k for k, full in enumerate(work.full) if full), None)
    told: dict[str, Any] = {} if full is None else read_json(work.state(full).with_suffix(".json"))["maps"]
    channels = {name: int(one["channels"]) for name, one in told.items()}
    for store in _stores(work, channels).values():
        shutil.rmtree(store.folder, ignore_errors=True)
        store.begin()
    write_json(path, channels)


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
    for name, store in _stores(work, read_json(work.job.folder / _LIST)).items():
        for channel in range(store.channels):
            values = np.zeros([stop - first for first, stop in ends], np.float32)
            for k in members:
                if work.full[k]:
                    into = tuple(slice(w.start + r.start - e[0], w.start + r.stop - e[0])
                                 for w, r, e in zip(prepared.window, work.blocks[k].write, ends, strict=True))
                    values[into] = load_npy(_path(work, k, name), mmap=True)[channel]
            store.write(channel, start, prepared.turn.inverse().apply(values))


def finished_maps(work: Work) -> dict[str, Path]:
    """Write further resolutions of every map; the stores by the ends of their names, those that are moved left out."""
    path = work.job.folder / _LIST
    if not work.job.maps or not path.exists():
        return {}
    found = {}
    for name, store in _stores(work, read_json(path)).items():
        if store.folder.exists():
            store.finish()
            found[name] = store.folder
    return found


def _path(work: Work, number: int, name: str) -> Path:
    if "/" in name or name.startswith("."):
        raise FileError(f"a map called {name!r}", file=work.job.folder, expected="a plain name")
    return work.job.folder / "maps" / f"{number}-{name}.npy"


def _stores(work: Work, channels: Mapping[str, int]) -> dict[str, MapStore]:
    stem = Path(work.job.output).name.removesuffix(".ome.zarr")
    return {name: MapStore(work.job.folder / f"{stem}_{name}.ome.zarr", work.image.grid, count)
            for name, count in channels.items()}
