"""The whole of an image that is too large for memory: its file in blocks, by `biosegkit predict` in another process.

What is computed is the batch's own: level, blocks, decisions over all of them, labels and table on disk. Here it is
begun, watched, stopped, and its labels are laid on the image; all of it in threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biosegkit.batch.steps import PIECES
from biosegkit.errors import BiosegError, Cancelled, DataError
from biosegkit.grid import Grid

from .batches import absolute_model, features_of
from .films import LayerData
from .layers import Look, axes_of, file_of, metadata_of
from .options import command_options

if TYPE_CHECKING:
    from biosegkit.io import ReadOptions
    from biosegkit.predictions import Batch, Item

    from .wishes import Wish

__all__ = ["Giant", "giant_of", "segmented_giant"]

#: Memory of the process that computes, in GiB: the most that it makes use of first.
_MEMORY = (4, 2, 1)
#: Of this memory what the process is told of counts as free for one array, as for the command line.
_ARRAY = 0.8
#: Seconds between two looks, and seconds after which a block that is at work need not end when it is cancelled.
_LOOK, _SOON = 0.25, 1.0
#: What is said when all is painted.
_LAST = "writing smaller resolutions, the table and outlines"


@dataclass(frozen=True, eq=False)
class Giant:
    """A file that is segmented in blocks.

    Parameters
    ----------
    model, file : str
        As on the command line, absolute.
    out : Path
        The folder for results.
    options : dict
        Of ``biosegkit predict``.
    home : Grid
        Where the file's own array lies in the viewer.
    goes_on : bool
        Whether it was begun before.
    """

    model: str
    file: str
    out: Path
    options: Mapping[str, Any]
    home: Grid
    goes_on: bool = False

    def about(self, tiles: int | None) -> str:
        """What it takes, for people."""
        count = "" if tiles is None else f"{tiles} tiles at most, "
        how = "goes on in" if self.goes_on else "with its results in"
        return f"{count}in blocks on disk, {self.options['memory']} of memory; {how} {self.out.name}"


def giant_of(wish: Wish, look: Look, model: Any) -> Giant:
    """How all of a layer is segmented in blocks, of which no voxel is read.

    Raises
    ------
    BiosegError
        If it cannot be: the message says why, and its remedy what else can be done.
    """
    from biosegkit.batch.giants import stages_of
    from biosegkit.bundle import Bundle
    from biosegkit.io import ReadOptions

    if stages_of(model) is None:
        raise DataError("a model that takes images whole", remedy="take a model trained with biosegkit, StarDist's or "
                        "Cellpose's")
    if wish.tta and not isinstance(model, Bundle):
        raise DataError("mirrored copies with a model of another kind", remedy="leave them out")
    if wish.axes is not None and wish.axes != axes_of(wish.layers[0]).rstrip("s"):
        raise DataError("axes that the file does not have", remedy="choose the axes that the layer says")
    file = _one_file(wish)
    home = _home(look, metadata_of(wish.layers[0]))
    said = _told(file, home)
    _refuse_another(file, ReadOptions(**said), home, look.channels if len(wish.layers) == 1 else len(wish.layers))
    options: dict[str, Any] = {"memory": f"{_memory(file, said, model)}GB", **({"tta": True} if wish.tta else {}),
                               **command_options(wish.options)}
    if said:
        options |= {"spacing": ",".join(f"{s:.9g}" for s in home.spacing), "unit": home.unit}
    name = absolute_model(wish.model)
    out, goes_on = _folder(file, wish.out, name, options)
    return Giant(name, str(file), out, options, home, goes_on)


def segmented_giant(giant: Giant, name: str) -> tuple[LayerData, str, tuple[str, ...]]:
    """The layer of the labels, how many there are, and notes; ticks of progress come in blocks.

    Raises
    ------
    BiosegError
        If it failed, or was stopped by somebody else.
    Cancelled
        What was computed is kept, and goes on when the same is wished for again.
    """
    from biosegkit._atomic import read_json
    from biosegkit._words import counted
    from biosegkit.records import record_path
    from biosegkit.viewing import stored_label_layer

    item = _done(giant)
    output = Path(item.output or "")
    record = read_json(record_path(output))
    data, settings, kind = stored_label_layer(output, name, _followed(item, giant))
    settings["metadata"] |= {"task": str(record.get("task", "instance")), "model": giant.model,
                             "image": giant.home.to_dict()}
    features = features_of(item)
    if features is not None:
        settings["features"] = features
    said = "classes" if item.objects is None else counted(item.objects, "object")
    return (data, settings, kind), f"{said}, kept in {item.output}", tuple(map(str, record.get("notes", ())))


def _done(giant: Giant) -> Item:
    """Begin or go on, wait for the end, and see what it brought."""
    from biosegkit.progress import tick

    tick(0, 0, "beginning in a process of its own")
    batch, pace = _begun(giant), _Pace()
    try:
        while batch.running():
            tick(*pace.at(batch.blocks()))
            time.sleep(_LOOK)
    except Cancelled:
        batch.halt(soon=_SOON)
        raise
    standing = batch.standing()
    item = standing.items[0]
    if item.state == "done":
        return item
    if item.state == "failed" or standing.name == "failed":
        raise DataError(item.message or standing.message)
    raise BiosegError("a process that was stopped", file=giant.out, expected="one that ends by itself",
                      remedy="Run goes on from there")


def _begun(giant: Giant) -> Batch:
    """The process: a new one, one that goes on, or one that is at it already."""
    from biosegkit.predictions import attach_batch, resume_batch, start_batch

    if not giant.goes_on:
        return start_batch(giant.model, [giant.file], giant.out, giant.options)
    before = attach_batch(giant.out)
    return before if before.running() else resume_batch(giant.out)


class _Pace:
    """Seconds that are left, from the blocks since the first look."""

    def __init__(self) -> None:
        self._what, self._first, self._since = "", 0, 0.0

    def at(self, found: tuple[int, int, str] | None) -> tuple[int, int, str]:
        """Done, all, and what is counted with the time that is left."""
        from biosegkit.plan.units import duration_text

        if found is None:
            return 0, 0, "loading the model and looking at the image" if not self._what else _LAST
        done, total, what = found
        if self._what == PIECES and (done == total or what != PIECES):  # what is done is removed file by file
            return 0, 0, _LAST
        if done == total and what != PIECES:
            return 0, 0, "deciding over all blocks"
        now = time.monotonic()
        if what != self._what:
            self._what, self._first, self._since = what, done, now
        if not self._first < done < total:
            return done, total, what
        left = (now - self._since) * (total - done) / (done - self._first)
        return done, total, f"{what}, {duration_text(left)} left"


def _one_file(wish: Wish) -> Path:
    """The file that all layers show: of one image at one time."""
    from biosegkit._words import counted
    from biosegkit.io import positions

    files = {file_of(layer) for layer in wish.layers}
    file = next(iter(files))
    if len(files) > 1:
        raise DataError(f"{len(files)} files", remedy="choose a layer of one")
    if file is None:
        raise DataError("no file that biosegkit has opened", remedy="open its file with biosegkit; an array has to be "
                        "saved first, as OME-Zarr or TIFF")
    several = len(positions(file))
    if several > 1:
        raise DataError(f"{counted(several, 'image')} or time points in one file",
                        remedy="predict the file with Batch, which does all of them")
    return file


def _home(look: Look, kept: Mapping[str, Any]) -> Grid:
    """Where the file's own array lies, wherever its layer was moved to."""
    try:
        grid = Grid.from_dict(dict(kept["grid"]))
        turn = grid.canonical_turn()
        fits = grid.ndim == look.grid.ndim
    except (DataError, KeyError, TypeError, ValueError):
        return look.grid
    if not fits:
        return look.grid
    moved = look.grid.turned(turn.inverse())
    return grid if grid.unit == moved.unit and moved.mismatch(grid) <= 1e-3 else moved


def _told(file: Path, home: Grid) -> dict[str, Any]:
    """What has to be said of the file for it to have the voxels of its layer: nothing, or their size."""
    from biosegkit.io import open_pyramid

    grid = open_pyramid(file).grids[0]
    same = grid.unit == home.unit and grid.ndim == home.ndim and np.allclose(grid.spacing, home.spacing, rtol=1e-3)
    return {} if same else {"spacing": home.spacing, "unit": home.unit}


def _refuse_another(file: Path, reading: ReadOptions, home: Grid, channels: int) -> None:
    """A file is what its layer shows: of this shape, with these channels."""
    from biosegkit._words import counted
    from biosegkit.io import open_pyramid

    pyramid = open_pyramid(file, reading)
    there = pyramid.arrays[0].shape[0]
    if pyramid.grids[0].shape != home.shape:
        raise DataError(f"a file of shape {pyramid.grids[0].shape} and a layer of shape {home.shape}",
                        remedy="open the file anew with biosegkit")
    if there != channels:
        raise DataError(f"{counted(channels, 'channel')} of {there}",
                        remedy="select the layers of all channels of the file, or save those that are meant as a file")


def _memory(file: Path, said: Mapping[str, Any], model: Any) -> int:
    """Gigabytes for the process, with which the image is one that is segmented in blocks."""
    import psutil

    from biosegkit.batch.giants import is_giant
    from biosegkit.io import ReadOptions

    most = psutil.virtual_memory().total / 2 / 2**30
    for size in [one for one in _MEMORY if one <= most] or _MEMORY[-1:]:
        if is_giant(file, ReadOptions(**said, memory_budget=int(_ARRAY * size * 2**30)), model):
            return size
    raise DataError(f"{file.name}, which is read whole", remedy="save it as OME-Zarr or a pyramidal TIFF and open that")


def _folder(file: Path, chosen: str, model: str, options: Mapping[str, Any]) -> tuple[Path, bool]:
    """Where results go, and whether the same was begun there before: beside the file, unless a folder was chosen."""
    from biosegkit.io.sniff import case_name
    from biosegkit.processes import beside

    names = [f"{case_name(file.name)}_results{n}" for n in ["", *range(2, 1000)]]
    for place in [Path(chosen).absolute()] if chosen else [file.with_name(name) for name in names]:
        if beside(place, "batch.json").is_file() and _is_same(place, str(file), model, options):
            return place, True
        if not place.exists() or (chosen and place.is_dir() and not any(place.iterdir())):
            near = next(folder for folder in place.parents if folder.exists())
            if not os.access(near, os.W_OK):
                raise DataError(f"{near}, which cannot be written to", remedy="choose another folder for the results")
            return place, False
    raise DataError(f"{chosen or file.parent}, which holds something else", remedy="choose a new folder for results")


def _is_same(place: Path, file: str, model: str, options: Mapping[str, Any]) -> bool:
    """Whether a folder has what was begun with the same words."""
    from biosegkit.predictions import attach_batch

    try:
        before = attach_batch(place)
    except BiosegError:
        return False
    return (before.model, before.inputs, before.options) == (model, [file], dict(options))


def _followed(item: Item, giant: Giant) -> Grid | None:
    """Where the labels lie, their image being where its layer is; None for where their file says."""
    from biosegkit.io import open_pyramid

    image = open_pyramid(item.images, item.reading).grids[0]
    if image == giant.home:
        return None
    labels = open_pyramid(item.output or "").grids[0]
    return Grid(labels.shape, giant.home.affine @ np.linalg.inv(image.affine) @ labels.affine, giant.home.unit)
