"""The five steps of a giant image, each a function of paths and numbers that may be repeated at any time.

1. :func:`prepare_image` measures the image once, and plans: it returns the numbers of groups and boxes.
2. :func:`infer_block`, for every group: runs the network, and keeps what thresholds act on.
3. :func:`resolve_image` decides over all blocks.
4. :func:`paint_block`, for every box: writes chunks of the labels. Then :func:`painted_labels` gives labels and
   table to whoever writes more from them.
5. :func:`finish_image` writes the rest, and only then there is an output.

Groups, and boxes, may be done in any order and by several processes that share a disk. What was done is not done again,
so that whoever calls may die at any instant. :func:`segment_giant` calls them one after the other.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from biosegkit._atomic import read_json, write_json, write_npy
from biosegkit._words import counted
from biosegkit.errors import FileError
from biosegkit.grid import Grid
from biosegkit.io.label_store import LabelStore
from biosegkit.io.zarr import CHUNK
from biosegkit.methods import ObjectTable
from biosegkit.methods.classes import decided
from biosegkit.outputs import Written, write_csv
from biosegkit.planes import JOINED_NOTE
from biosegkit.signals import finish_first
from biosegkit.state_files import ArrayFile, is_kept, keep, write_state
from biosegkit.tables import turned_table

from .decided import Painter, decide, decided_from
from .findings import publish, write_found
from .giant import FACTS, GiantJob, Work, clear, identity_of, is_prepared, opened_image, source_of
from .layout import plan_layout
from .maps import are_kept, begin_maps, finished_maps, keep_maps, map_names, paint_maps
from .steps import write_steps

__all__ = ["COLOURED", "Steps", "finish_image", "infer_block", "is_painted", "paint_block", "painted_labels",
           "painted_mark", "prepare_image", "refuse_unpainted", "resolve_image", "segment_giant"]

#: Objects that may get a colour of their own in the metadata.
COLOURED = 1024


@dataclass(frozen=True)
class Steps:
    """Which groups are to be computed, and which boxes to be painted: the numbers that the functions take."""

    groups: tuple[int, ...]
    boxes: tuple[int, ...]


def prepare_image(job: GiantJob) -> Steps:
    """Measure the image once and plan how it is cut.

    Raises
    ------
    DataError
        If the image does not fit the model.
    OptionError
        If the memory is not enough, or the model has no blocks.
    """
    source = source_of(job)
    identity = identity_of(job, source)
    if not is_prepared(job, identity):
        clear(job)
        image = opened_image(job, source)
        prepared, facts = source.measure(image)
        costs = source.costs(image, prepared, job)
        full = image.grid.turned(prepared.turn).shape
        layout = plan_layout(prepared.window, full, prepared.turn, CHUNK[image.grid.ndim], costs)
        if prepared.mask is not None:
            write_npy(job.kept / "mask.npy", prepared.mask)
        write_json(job.kept / FACTS, {"identity": identity, "prepared": facts, "layout": layout.to_dict()})
    work = Work.of(job)
    steps = Steps(tuple(k for k, m in enumerate(work.layout.members(work.layout.groups)) if _any_full(work, m)),
                  tuple(k for k, m in enumerate(work.layout.members(work.layout.boxes)) if _any_full(work, m)))
    write_steps(job.folder, sum(work.full), len(steps.boxes))
    return steps


def infer_block(job: GiantJob, group: int) -> int:
    """Run the network over a group of blocks, and keep the state of each; how many were made.

    Raises
    ------
    DataError
        If the network returns values that are not finite.
    """
    work = Work.of(job)
    return _inferred(work, work.layout.members(work.layout.groups)[group])


def resolve_image(job: GiantJob) -> dict[str, Any]:
    """Decide over the states of all blocks, which are read one at a time; damaged ones are made again.

    Returns
    -------
    dict
        ``objects``, or None for classes; and ``dtype`` of the labels.
    """
    work = Work.of(job)
    for members in work.layout.members(work.layout.groups):
        _inferred(work, members, thoroughly=True)
    found = decide(work)
    store = _store(work, found)
    if not (job.folder / "painted").is_dir():
        shutil.rmtree(store.folder, ignore_errors=True)
        store.begin()
        (job.folder / "painted").mkdir()
    if job.maps:
        any_full = next((k for k, full in enumerate(work.full) if full), None)
        told = {} if any_full is None else read_json(work.state(any_full).with_suffix(".json"))["maps"]
        begin_maps(job, work.image.grid, told)
    return {name: found[name] for name in ("objects", "dtype")}


def paint_block(job: GiantJob, box: int) -> None:
    """Write the chunks of one box of the labels."""
    work = Work.of(job)
    if is_painted(job, box):
        return
    store = _store(work, _decided(work))
    window, turn = work.prepared.window, work.prepared.turn
    place = tuple(slice(w.start + b.start, w.start + b.stop)
                  for w, b in zip(window, work.layout.box(box), strict=True))
    full = work.image.grid.turned(turn).shape
    outer = _whole_chunks(place, turn, work.image.grid.shape, store.chunk)
    turned = tuple(outer[p] for p in turn.perm)
    ends = [(full[a] - t.stop, full[a] - t.start) if a in turn.flips else (t.start, t.stop)
            for a, t in enumerate(turned)]
    values = np.zeros([stop - start for start, stop in ends], store.dtype)
    for where, labels in Painter(work, job.folder / "decisions").boxes(box):
        into = tuple(slice(w.start + r.start - e[0], w.start + r.stop - e[0])
                     for w, r, e in zip(window, where, ends, strict=True))
        values[into] = labels
    with finish_first():
        store.write([o.start for o in outer], turn.inverse().apply(values))
        if job.maps:
            paint_maps(work, work.layout.members(work.layout.boxes)[box], ends, [o.start for o in outer])
        painted_mark(job, box).touch()


def painted_labels(job: GiantJob) -> tuple[Any, Grid, ObjectTable]:
    """The labels once all boxes are painted, before :func:`finish_image`.

    Returns
    -------
    labels : array, (*space)
        The user's values; reads what it is sliced with.
    grid : Grid
    table : dict of ndarray
        Of the objects, in voxels of the image; empty for classes.
    """
    work = Work.of(job)
    labels = _store(work, _decided(work)).level(0)
    return labels, work.image.grid, _table(work) if work.is_instance else {}


def finish_image(job: GiantJob, made_from: Mapping[str, Any] | None = None, kinds: Sequence[str] = (),
                 notes: Sequence[str] = ()) -> dict[str, Any]:
    """Write further resolutions, table and record, and put the output where it belongs; the work is then removed.

    Parameters
    ----------
    job : GiantJob
    made_from : dict, optional
        What the record says that the output was made from.
    kinds : sequence of str
        Of :data:`biosegkit.outputs.OUTPUTS`: what is written beside the labels and the table.
    notes : sequence of str
        To be added to those of the image.

    Returns
    -------
    dict
        The record.

    Raises
    ------
    FileError
        If a box was not painted.
    """
    work = Work.of(job)
    found = _decided(work)
    boxes = work.layout.members(work.layout.boxes)
    missing = [k for k, members in enumerate(boxes)
               if _any_full(work, members) and not is_painted(job, k)]
    refuse_unpainted(job, missing)
    record = {**_record(work, found), "made_from": dict(made_from or {})}
    record["notes"] = [*record["notes"], *notes]
    store = _store(work, found)
    if store.folder.exists():  # else it is in its place already
        store.finish(np.arange(1 + min(found["objects"], COLOURED)) if work.is_instance
                     else np.asarray(work.labels.values))
    table = _table(work) if work.is_instance else {}

    def beside(output: Path) -> Written:
        written = write_found(work, table, output, kinds) if kinds else Written()
        if work.is_instance and "csv" not in kinds:
            write_csv(table, output.with_name(output.name.removesuffix(".ome.zarr") + ".csv"))
        return written

    return publish(job, store, record, beside, finished_maps(job, work.image.grid))


def segment_giant(job: GiantJob) -> dict[str, Any]:
    """All steps in this process, one after the other; the record of the output."""
    steps = prepare_image(job)
    for group in steps.groups:
        infer_block(job, group)
    resolve_image(job)
    for box in steps.boxes:
        paint_block(job, box)
    return finish_image(job)


def painted_mark(job: GiantJob, box: int) -> Path:
    """What is there once a box is painted, with its maps if they are asked for."""
    return job.folder / "painted" / f"{box}.{'maps' if job.maps else 'done'}"


def is_painted(job: GiantJob, box: int) -> bool:
    """Whether a box is."""
    return painted_mark(job, box).exists()


def refuse_unpainted(job: GiantJob, boxes: Sequence[int]) -> None:
    """Nothing is finished while boxes are missing."""
    if boxes:
        raise FileError(f"{counted(len(boxes), 'box')} not painted", file=job.folder, expected="all of them painted",
                        remedy="paint them first")


def _any_full(work: Work, members: tuple[int, ...]) -> bool:
    return any(work.full[k] for k in members)


def _inferred(work: Work, members: tuple[int, ...], *, thoroughly: bool = False) -> int:
    """Make the states of blocks that are not there."""
    left = [k for k in members if work.full[k] and not _is_made(work, k, thoroughly)]
    if not left:
        return 0
    numbers = {work.blocks[k].start: k for k in left}
    for maps, block in work.parts(left):
        number = numbers[block.start]
        told = {}
        if work.job.maps:
            told["maps"] = keep_maps(work.job, number, {n: m[(slice(None), *block.core)] for n, m in maps.items()})
        if work.layout.planar:
            maps = {name: value[:, 0] for name, value in maps.items()}
        state = work.method.local(maps, work.seen(number))
        path = work.state(number)
        keep(path, {**write_state(path, state), **told})
    return len(left)


def _is_made(work: Work, number: int, thoroughly: bool) -> bool:
    """Whether the state of a block is there, and if looked at thoroughly whether it is undamaged."""
    def maps(said: Mapping[str, Any]) -> bool:
        return not work.job.maps or are_kept(work.job, number, said.get("maps"), thoroughly=thoroughly)

    return is_kept(work.state(number), maps, thoroughly=thoroughly)


def _decided(work: Work) -> dict[str, Any]:
    """What was decided, if it was decided from the same."""
    found = read_json(work.job.folder / "decisions" / "decided.json")
    if found["from"] != decided_from(work):
        raise FileError("decisions by other thresholds", file=work.job.folder, expected="those of this job",
                        remedy="resolve the image again")
    return dict(found)


def _store(work: Work, found: Mapping[str, Any]) -> LabelStore:
    """The labels on their way; they have the name of the output."""
    return LabelStore(work.job.folder / Path(work.job.output).name, work.image.grid, found["dtype"])


def _whole_chunks(place: tuple[slice, ...], turn: Any, shape: tuple[int, ...],
                  chunk: tuple[int, ...]) -> tuple[slice, ...]:
    """The chunks of the image that a box of the turned image lies in."""
    found = [slice(0)] * len(shape)
    for axis, source in enumerate(turn.perm):
        low, high, size, step = place[axis].start, place[axis].stop, shape[source], chunk[source]
        if axis in turn.flips:
            low, high = size - high, size - low
        found[source] = slice(low // step * step, min(-(-high // step) * step, size))
    return tuple(found)


def _table(work: Work) -> ObjectTable:
    """The objects in voxels of the image."""
    prepared, file = work.prepared, ArrayFile(work.job.folder / "decisions" / "objects.safetensors")
    full = work.image.grid.turned(prepared.turn).shape
    table = turned_table({name: file[name] for name in _columns(file)}, prepared.window, full, prepared.turn)
    return decided(table, work.labels.object_values)


def _record(work: Work, found: Mapping[str, Any]) -> dict[str, Any]:
    """What there is to say of an output."""
    job, source, names = work.job, work.source, map_names(work.job, work.image.grid)
    of_model = source.record()
    if "thresholds" in of_model:  # those of the model, and in their place those that were asked for
        of_model["thresholds"] = {**of_model["thresholds"], **dict(job.thresholds)}
    notes = [*work.prepared.notes, *([JOINED_NOTE] if work.layout.planar and work.image.grid.shape[0] > 1 else [])]
    return {
        "file": Path(job.output).name, "task": work.labels.task, "objects": found["objects"],
        "grid": work.image.grid.to_dict(), "notes": list(dict.fromkeys([*notes, *source.remarks(job)])),
        "blocks": len(work.blocks), "exact": work.method.exact,
        "options": job.asked,
        "versions": {name: metadata.version(name) for name in ("biosegkit", "torch", "numpy")},
        **of_model, **({"maps": names} if names else {}),
    }


def _columns(file: ArrayFile) -> list[str]:
    """The columns in the order of tables."""
    usual = [f"{name}_{axis}" for name in ("centroid", "bbox_start", "bbox_stop") for axis in "zyx"]
    order = ["id", "score", "area", *usual]
    return sorted(file, key=lambda name: (order.index(name) if name in order else len(order), name))
