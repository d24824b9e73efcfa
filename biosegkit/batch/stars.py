"""Giant images by official StarDist models: the objects of the whole image, found by tiles and decided over all.

The steps are those of :mod:`biosegkit.batch.blocks`. A tile, with its surroundings, is what it is for an image in
memory; of it only candidates are kept, not maps. They are put in one order, overlapping ones are suppressed, and what
is left is painted box by box: labels, ids and table are those of the image in one piece (but for tiles without tissue,
at which nobody looks).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from biosegkit._atomic import atomic_folder, read_json, sha256, write_json
from biosegkit._words import counted
from biosegkit.device import describe
from biosegkit.engines.star_model import StarModel
from biosegkit.engines.star_shapes import Candidates
from biosegkit.engines.streamed import boxes_of
from biosegkit.errors import FileError, OptionError
from biosegkit.image import smallest_unsigned
from biosegkit.io.label_store import LabelStore
from biosegkit.kernels.star_nms import suppress
from biosegkit.methods import Block, ObjectTable
from biosegkit.methods.tables import Tally
from biosegkit.outputs import Found, write_all, write_csv
from biosegkit.signals import finish_first
from biosegkit.state_files import ArrayFile, write_arrays
from biosegkit.tidy import TidyObjects

from .blocks import COLOURED, Steps
from .findings import publish
from .giant import GiantJob
from .star_order import in_order
from .star_work import Stars, identity_of, image_of, model_of, stars_of
from .steps import write_steps

__all__ = ["finish_stars", "infer_stars", "paint_stars", "prepare_stars", "refuse_tidy", "resolve_stars"]

#: Candidates that are looked at together where they are suppressed; changes memory only.
_ORDER = 2**20
#: Voxels that are painted together where objects are numbered; changes memory only.
_BAND = 2**24


def refuse_tidy(model: StarModel) -> None:
    """Post-processing needs whole objects of the whole image, but for leaving objects out.

    Raises
    ------
    OptionError
        If other is asked for.
    """
    if replace(model.tidy, border_objects="keep") != TidyObjects():
        raise OptionError("post-processing of objects with a StarDist model and an image in blocks",
                          expected="border_objects alone, or ordinary images",
                          remedy="leave it out of --option, or cut the image")


def prepare_stars(job: GiantJob) -> Steps:
    """Measure the percentiles of the image once.

    Raises
    ------
    DataError
        If the image has other axes or channels than the model takes.
    OptionError
        For post-processing, which images in blocks do not have.
    """
    model, path = model_of(job), job.folder / "image.json"
    refuse_tidy(model)
    said = identity_of(job, model)
    if not (path.exists() and _identity_in(path) == said):
        for old in job.folder.glob("*"):
            if old != Path(job.tissue):
                shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink()
        bounds, notes = Stars(job, model, image_of(job), {}).measured()
        write_json(path, {"identity": said, "bounds": bounds.tolist(), "notes": notes})
    work = stars_of(job)
    write_steps(job.folder, len(work.groups), len(work.boxes))
    return Steps(tuple(range(len(work.groups))), tuple(range(len(work.boxes))))


def infer_stars(job: GiantJob, group: int) -> int:
    """Keep the candidates of a group of tiles; how many tiles were computed."""
    return _inferred(stars_of(job), group)


def resolve_stars(job: GiantJob) -> dict[str, Any]:
    """Decide which candidates are objects; damaged files of candidates are made again.

    Returns
    -------
    dict
        ``objects``, and ``dtype`` of the labels.
    """
    work, folder = stars_of(job), job.folder / "decisions"
    for group in range(len(work.groups)):
        _inferred(work, group, thoroughly=True)
    if not (folder / "decided.json").exists():
        shutil.rmtree(job.folder / "painted", ignore_errors=True)
        with atomic_folder(folder) as temporary:
            best = _suppressed(work)
            lookup, table = _numbered(work, best)
            write_arrays(temporary / "objects.safetensors", _arrays(best))
            write_arrays(temporary / "table.safetensors", {"lookup": lookup, **table})
            write_json(temporary / "decided.json", {
                "objects": len(table["id"]), "dtype": str(smallest_unsigned(len(table["id"]))), "columns": list(table)})
    found = read_json(folder / "decided.json")
    if not (job.folder / "painted").is_dir():
        store = _store(work, found)
        shutil.rmtree(store.folder, ignore_errors=True)
        store.begin()
        (job.folder / "painted").mkdir()
    return {name: found[name] for name in ("objects", "dtype")}


def paint_stars(job: GiantJob, box: int) -> None:
    """Write the chunks of one box of the labels."""
    work, done = stars_of(job), job.folder / "painted" / f"{box}.done"
    if done.exists():
        return
    store = _store(work, read_json(job.folder / "decisions" / "decided.json"))
    place = work.boxes[box]
    lookup = ArrayFile(job.folder / "decisions" / "table.safetensors")["lookup"]
    labels = lookup[work.painted(place, work.best)]
    with finish_first():
        store.write([p.start for p in place], labels)
        done.touch()


def finish_stars(job: GiantJob, made_from: Mapping[str, Any] | None = None, kinds: Sequence[str] = (),
                 notes: Sequence[str] = ()) -> dict[str, Any]:
    """Write further resolutions, table and record, and put the output where it belongs; the work is then removed.

    Parameters and errors are those of :func:`biosegkit.batch.blocks.finish_image`.
    """
    work = stars_of(job)
    found, grid = read_json(job.folder / "decisions" / "decided.json"), work.image.grid
    missing = [k for k in range(len(work.boxes)) if not (job.folder / "painted" / f"{k}.done").exists()]
    if missing:
        raise FileError(f"{counted(len(missing), 'box')} not painted", file=job.folder, expected="all of them painted",
                        remedy="paint them first")
    file = ArrayFile(job.folder / "decisions" / "table.safetensors")
    table: ObjectTable = {name: file[name] for name in found["columns"]}
    record = {
        "file": Path(job.output).name, "task": "instance", "objects": found["objects"], "grid": grid.to_dict(),
        "notes": [*work.facts["notes"], *notes], "blocks": sum(map(len, work.groups)), "exact": True,
        "options": {"tta": False, "thresholds": dict(job.thresholds), "tissue": Path(job.tissue).stem},
        "versions": {name: metadata.version(name) for name in ("biosegkit", "torch", "numpy")},
        "device": describe(work.model.device), "model": work.model.record, "made_from": dict(made_from or {}),
    }
    store = _store(work, found)
    if store.folder.exists():  # else it is in its place already
        store.finish(np.arange(1 + min(found["objects"], COLOURED)))

    def beside(output: Path) -> list[Path]:
        stem = output.name.removesuffix(".ome.zarr")
        labels: Any = zarr.open_array(output / "0", mode="r")
        whole = Found(labels, table, grid, source=Path(job.images[0]).name)
        written = write_all(whole, work.image, output.parent, stem, kinds) if kinds else []
        if "csv" not in kinds:
            write_csv(table, output.with_name(stem + ".csv"))
        return written

    return publish(job, store, record, beside)


def _identity_in(path: Path) -> Any:
    """That of the work that is there; what cannot be read has none."""
    try:
        return read_json(path)["identity"]
    except (FileError, KeyError, TypeError):
        return None


def _inferred(work: Stars, group: int, *, thoroughly: bool = False) -> int:
    """Make the candidates of a group if they are not there, or, looked at thoroughly, damaged."""
    path, starts = work.state(group), work.groups[group]
    try:
        said = read_json(path.with_suffix(".json"))
        if path.stat().st_size == said["bytes"] and (not thoroughly or sha256(path) == said["sha256"]):
            return 0
    except (FileError, OSError, KeyError, TypeError):
        pass  # not there, or not readable: made now
    found = work.model.candidates(work.source, work.shape, starts, work.thresholds)
    write_json(path.with_suffix(".json"), write_arrays(path, _arrays(found)))
    return len(starts)


def _arrays(found: Candidates) -> dict[str, npt.NDArray[Any]]:
    classes = {} if found.classes is None else {"classes": found.classes}
    return {"points": found.points, "prob": found.prob, "dist": found.dist, **classes}


def _suppressed(work: Stars) -> Candidates:
    """The candidates that are objects; no more of the others are held than are looked at together."""
    rays, ndim = work.model.rays, len(work.shape)
    classes = np.zeros(0, np.int64) if work.model.config.n_classes else None
    best = Candidates(np.zeros((0, ndim), np.int64), np.zeros(0, np.float32), np.zeros((0, len(rays)), np.float32),
                      classes)
    files = [ArrayFile(work.state(group)) for group in range(len(work.groups))]
    for part in in_order(files, _ORDER):  # those kept so far suppress none of each other: they are kept again
        some = Candidates.stacked([best, part])
        best = some.kept(np.flatnonzero(suppress(some.points, some.dist, rays, threshold=work.thresholds["nms"]) >= 0))
    return best


def _numbered(work: Stars, best: Candidates) -> tuple[npt.NDArray[np.uint32], ObjectTable]:
    """The number of each object by its first voxel, 0 for those that nothing is seen of; and their table."""
    shape, boxes = work.image.grid.shape, (best, *work.reaches(best))
    tally = Tally(len(best.prob), len(shape))
    rows = max(1, _BAND // int(np.prod(shape[1:])))
    for band in boxes_of(shape, (rows, *shape[1:])):
        labels = work.painted(band, boxes)
        block = Block(tuple(b.start for b in band), labels.shape, shape, (0,) * len(shape), (0,) * len(shape))
        tally.add(labels, None, block)
    alive = np.flatnonzero((tally.area > 0) & ~_left_out(work, tally))
    alive = alive[np.argsort(tally.first[alive])]
    lookup = np.zeros(len(best.prob) + 1, np.uint32)
    lookup[alive + 1] = np.arange(1, len(alive) + 1)
    table = tally.table(alive + 1, lookup[alive + 1], 1.0)
    table.pop("first")
    table["score"] = best.prob[alive].astype(np.float32)
    if best.classes is not None:
        table["class"] = best.classes[alive].astype(np.int64)
    return lookup, table


def _left_out(work: Stars, tally: Tally) -> npt.NDArray[np.bool_]:
    """Which objects touch the border of the image, if such are not wanted."""
    found = np.zeros(len(tally.area), np.bool_)
    if work.model.tidy.border_objects == "remove":
        shape = work.image.grid.shape
        for axis, size in enumerate(shape, 3 - len(shape)):
            if size > 1:
                found |= (tally.low[:, axis] == 0) | (tally.high[:, axis] == size - 1)
    return found


def _store(work: Stars, found: Mapping[str, Any]) -> LabelStore:
    """The labels on their way; they have the name of the output."""
    return LabelStore(work.job.folder / Path(work.job.output).name, work.image.grid, found["dtype"])
