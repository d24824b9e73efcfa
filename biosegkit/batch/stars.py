"""Giant images by official StarDist models: the objects of the whole image, found by tiles and decided over all.

The steps are those of :mod:`biosegkit.batch.blocks`. A tile, with its surroundings, is what it is for an image in
memory; of it candidates are kept, and maps only if they are asked for. Candidates are put in one order, overlapping
ones are suppressed, and what is left is painted box by box: labels, ids and table are those of the image in one piece
(but for tiles without tissue, at which nobody looks).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from biosegkit._atomic import atomic_folder, read_json, write_json
from biosegkit.device import describe
from biosegkit.engines.star_shapes import Candidates
from biosegkit.image import smallest_unsigned
from biosegkit.io.label_store import LabelStore
from biosegkit.kernels.star_nms import suppress
from biosegkit.methods import ObjectTable
from biosegkit.outputs import Found, Written, write_csv, write_possible
from biosegkit.signals import finish_first
from biosegkit.state_files import ArrayFile, is_kept, keep, write_arrays
from biosegkit.tidy import Frame

from .blocks import COLOURED, Steps, is_painted, painted_mark, refuse_unpainted
from .findings import publish
from .giant import FACTS, GiantJob, clear, is_prepared
from .maps import are_kept, begin_maps, finished_maps, keep_maps, map_names
from .star_maps import paint_star_maps
from .star_order import in_order
from .star_work import Stars, identity_of, image_of, model_of, stars_of
from .steps import write_steps
from .tidied import off_border

__all__ = ["finish_stars", "infer_stars", "paint_stars", "prepare_stars", "resolve_stars"]

#: Candidates that are looked at together where they are suppressed; changes memory only.
_ORDER = 2**20


def prepare_stars(job: GiantJob) -> Steps:
    """Measure the percentiles of the image once.

    Raises
    ------
    DataError
        If the image has other axes or channels than the model takes.
    """
    model = model_of(job)
    said = identity_of(job, model)
    if not is_prepared(job, said):
        clear(job)
        bounds, notes = Stars(job, model, image_of(job), {}).measured()
        write_json(job.kept / FACTS, {"identity": said, "bounds": bounds.tolist(), "notes": notes})
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
            lookup, table = _numbered(work, best, temporary)
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
    if job.maps:
        told = read_json(work.state(0).with_suffix(".json"))["maps"] if work.groups else {"0": {}}
        begin_maps(job, work.image.grid, next(iter(told.values())))
    return {name: found[name] for name in ("objects", "dtype")}


def paint_stars(job: GiantJob, box: int) -> None:
    """Write the chunks of one box of the labels."""
    work = stars_of(job)
    if is_painted(job, box):
        return
    store = _store(work, read_json(job.folder / "decisions" / "decided.json"))
    place = work.boxes[box]
    lookup = ArrayFile(job.folder / "decisions" / "table.safetensors")["lookup"]
    labels = lookup[work.decided.labels(box)]
    with finish_first():
        store.write([p.start for p in place], labels)
        if job.maps:
            paint_star_maps(work, place)
        painted_mark(job, box).touch()


def finish_stars(job: GiantJob, made_from: Mapping[str, Any] | None = None, kinds: Sequence[str] = (),
                 notes: Sequence[str] = ()) -> dict[str, Any]:
    """Write further resolutions, table and record, and put the output where it belongs; the work is then removed.

    Parameters and errors are those of :func:`biosegkit.batch.blocks.finish_image`.
    """
    work = stars_of(job)
    found, grid = read_json(job.folder / "decisions" / "decided.json"), work.image.grid
    refuse_unpainted(job, [k for k in range(len(work.boxes)) if not is_painted(job, k)])
    file = ArrayFile(job.folder / "decisions" / "table.safetensors")
    table: ObjectTable = {name: file[name] for name in found["columns"]}
    names = map_names(job, grid)
    record = {
        "file": Path(job.output).name, "task": "instance", "objects": found["objects"], "grid": grid.to_dict(),
        "notes": [*work.facts["notes"], *notes], "blocks": sum(map(len, work.groups)), "exact": True,
        "options": job.asked,
        "versions": {name: metadata.version(name) for name in ("biosegkit", "torch", "numpy")},
        "device": describe(work.model.device), "model": work.model.record, "made_from": dict(made_from or {}),
        **({"maps": names} if names else {}),
    }
    store = _store(work, found)
    if store.folder.exists():  # else it is in its place already
        store.finish(np.arange(1 + min(found["objects"], COLOURED)))

    def beside(output: Path) -> Written:
        stem = output.name.removesuffix(".ome.zarr")
        labels: Any = zarr.open_array(output / "0", mode="r")
        whole = Found(labels, table, grid, source=Path(job.images[0]).name)
        written = write_possible(whole, work.image, output.parent, stem, kinds) if kinds else Written()
        if "csv" not in kinds:
            write_csv(table, output.with_name(stem + ".csv"))
        return written

    return publish(job, store, record, beside, finished_maps(job, grid))


def _inferred(work: Stars, group: int, *, thoroughly: bool = False) -> int:
    """Make the candidates of a group if they are not there, or, looked at thoroughly, damaged."""
    job, path, starts = work.job, work.state(group), work.groups[group]
    numbers = [work.tiles[start] for start in starts]

    def maps(said: Mapping[str, Any]) -> bool:
        return not job.maps or all(are_kept(job, k, said.get("maps", {}).get(str(k)), thoroughly=thoroughly)
                                   for k in numbers)

    if is_kept(path, maps, thoroughly=thoroughly):
        return 0
    told: dict[str, Any] = {}

    def hold(start: tuple[int, ...], own: dict[str, npt.NDArray[np.float32]]) -> None:
        told[str(work.tiles[start])] = keep_maps(job, work.tiles[start], own)

    found = work.model.candidates(work.source, work.shape, starts, work.thresholds, hold if job.maps else None)
    keep(path, {**write_arrays(path, _arrays(found)), **({"maps": told} if job.maps else {})})
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


def _numbered(work: Stars, best: Candidates, folder: Path) -> tuple[npt.NDArray[np.uint32], ObjectTable]:
    """The number of each object by its first voxel, 0 for those that nothing is seen of; and their table.

    Post-processing is decided, and written to ``folder``; numbers are those of the labels after it.
    """
    shape = work.image.grid.shape
    tidied = work.tidied(folder, (best, *work.reaches(best)))
    owner = tidied.decide(len(best.prob))
    count = len(best.prob) if owner is None else len(owner) - 1
    found, old = tidied.counted(count)
    kept = off_border(found, work.model.tidy, Frame.whole(shape), shape)
    old = old[kept]
    lookup = np.zeros(count + 1, np.uint32)
    lookup[old] = np.arange(1, len(old) + 1)
    table = {name: column[kept] for name, column in found.items() if name != "first"}
    table["id"] = lookup[old]
    candidate = (old if owner is None else owner[old]) - 1
    table["score"] = best.prob[candidate].astype(np.float32)
    if best.classes is not None:
        table["class"] = best.classes[candidate].astype(np.int64)
    return lookup, table


def _store(work: Stars, found: Mapping[str, Any]) -> LabelStore:
    """The labels on their way; they have the name of the output."""
    return LabelStore(work.job.folder / Path(work.job.output).name, work.image.grid, found["dtype"])
