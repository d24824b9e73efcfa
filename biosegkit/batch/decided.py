"""What is decided over all blocks of a giant image, on disk: tables of blocks, objects, and what painting needs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit._atomic import atomic_folder, read_json, write_json
from biosegkit.image import smallest_unsigned
from biosegkit.kernels.overlap import overlaps_of, pair_counts
from biosegkit.methods import Block, Decisions, ObjectTable
from biosegkit.methods.protocol import State, empty_table
from biosegkit.planes import joined_by
from biosegkit.state_files import ArrayFile, StateFiles, write_arrays
from biosegkit.tables import merged_rows, stacked_rows
from biosegkit.tidy import carried

from .giant import Work
from .tidied import Tidied, off_border
from .tidying import steps_of

__all__ = ["Painter", "decide", "decided_from"]


def decide(work: Work) -> dict[str, Any]:
    """Decide over the states of all blocks, and keep it in the folder ``decisions``.

    Returns
    -------
    dict
        What was decided from, the number of objects, and the type of labels that holds them.
    """
    folder = work.job.folder / "decisions"
    said = decided_from(work)
    if (folder / "decided.json").exists() and (found := read_json(folder / "decided.json"))["from"] == said:
        return dict(found)
    shutil.rmtree(work.job.folder / "painted", ignore_errors=True)
    with atomic_folder(folder) as temporary:
        table = _objects(work, temporary) if work.is_instance else {}
        if not work.is_instance:
            Painter(work, temporary).tidied.decide(0)
        count = len(table.get("id", ()))
        if work.is_instance:
            write_arrays(temporary / "objects.safetensors", table)
        top = count if work.is_instance else max(work.labels.values)
        found = {"from": said, "objects": count if work.is_instance else None, "dtype": str(smallest_unsigned(top))}
        write_json(temporary / "decided.json", found)
    return found


def decided_from(work: Work) -> dict[str, Any]:
    """Thresholds and post-processing, and the image and model they are applied to."""
    tidy = None if work.source.tidy is None else asdict(work.source.tidy)
    return {"thresholds": work.thresholds, "identity": work.facts["identity"], "layout": work.facts["layout"],
            "tidy": None if tidy is None else {k: list(v) if isinstance(v, tuple) else v for k, v in tidy.items()}}


def _objects(work: Work, folder: Path) -> ObjectTable:
    """Write the tables of all blocks; the objects that are left, in turned and cropped voxels."""
    numbers = [k for k, full in enumerate(work.full) if full]
    if not numbers:
        return empty_table(len(work.prepared.shape))
    if work.layout.planar:
        table = _planes(work, numbers, folder)
    else:
        states = StateFiles([work.state(k) for k in numbers], [work.seen(k) for k in numbers])
        decisions = work.method.resolve(states, work.thresholds)
        _write_lookups(folder, numbers, states.blocks, decisions)
        table = decisions.objects
    tidied = Painter(work, folder).tidied
    owner = tidied.decide(int(table["id"].max(initial=0)))
    found, old = dict(table), table["id"].astype(np.int64)
    if owner is not None:
        found, old = tidied.counted(len(owner) - 1)
        found = carried(found, table, owner[old])
    kept = off_border(found, work.source.tidy, work.frame, work.prepared.shape)
    kept &= (found["area"] >= work.thresholds.get("min_size", 0)) | (owner is None)
    if owner is not None or not kept.all():
        final = np.zeros(int(old.max(initial=0)) + 1, np.uint32)
        final[old[kept]] = np.arange(1, int(kept.sum()) + 1)
        write_arrays(folder / "final.safetensors", {"ids": final})
        found = {name: column[kept] for name, column in found.items()}
        found["id"] = np.arange(1, int(kept.sum()) + 1, dtype=np.uint32)
    return found


def _write_lookups(folder: Path, numbers: Sequence[int], blocks: Sequence[Block], decisions: Decisions) -> None:
    """The table of every block; an empty one has nothing to paint."""
    for number, block in zip(numbers, blocks, strict=True):
        if block.start in decisions.lookup:
            write_arrays(folder / f"{number}.safetensors", {"lookup": decisions.lookup[block.start]})


def _planes(work: Work, numbers: Sequence[int], folder: Path) -> ObjectTable:
    """Every plane of a stack by itself, joined with the plane before as :mod:`biosegkit.planes` does it in memory."""
    tables, last, before = [], 0, dict[tuple[int, ...], tuple[State, npt.NDArray[np.uint32]]]()
    previous: tuple[int, Decisions | None] = (-2, None)
    for plane, group in groupby(numbers, lambda k: work.blocks[k].start[0]):
        mine = list(group)
        states = StateFiles([work.state(k) for k in mine], [work.seen(k) for k in mine])
        decisions = work.method.resolve(states, work.thresholds)
        _write_lookups(folder, mine, states.blocks, decisions)
        earlier = previous[1] if previous[0] == plane - 1 else None
        found = overlaps_of(*_shared(work, states, decisions, before if earlier is not None else {}, earlier))
        count = len(decisions.objects["id"])
        in_stack = joined_by(found, count, last)
        last = max(last, int(in_stack.max(initial=0)))
        for number in mine:
            write_arrays(folder / f"{number}-ids.safetensors", {"ids": in_stack})
        before = {state.block.start: (state, in_stack) for state in states}
        previous = (plane, decisions)
        tables.append(stacked_rows(decisions.objects, plane, in_stack))
    return merged_rows({name: np.concatenate([t[name] for t in tables]) for name in tables[0]})


def _shared(work: Work, states: Sequence[State], decisions: Decisions,
            before: dict[tuple[int, ...], tuple[State, npt.NDArray[np.uint32]]], earlier: Decisions | None
            ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pairs of an object of the plane before and one of this plane, and the voxels they share, block by block."""
    pairs, counts = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int64)]
    for start in sorted({*(s.block.start for s in states), *before}):
        here = next((s for s in states if s.block.start == start), None)
        there = before.get(start)
        block = here.block if here is not None else before[start][0].block
        labels = np.zeros(block.shape, np.uint32) if here is None else work.method.paint(here, decisions)[0]
        old = np.zeros(block.shape, np.uint32)
        if there is not None and earlier is not None:
            old = there[1][work.method.paint(there[0], earlier)[0]]
        found = pair_counts(old.reshape(-1), labels.reshape(-1))
        pairs.append(found[0])
        counts.append(found[1])
    return np.concatenate(pairs), np.concatenate(counts)


@dataclass(frozen=True)
class Painter:
    """Labels of blocks by what was decided.

    Parameters
    ----------
    work : Work
    folder : Path
        Of the decisions.
    """

    work: Work
    folder: Path

    @cached_property
    def tidied(self) -> Tidied:
        """With post-processing, before objects get their last names."""
        work = self.work
        steps = steps_of(work.source.tidy, work.labels, work.frame)
        return Tidied(self.folder, work.blocks, steps, self.plain, [not full for full in work.full])

    def plain(self, number: int) -> npt.NDArray[Any]:
        """Labels of the core of a block, before post-processing."""
        work = self.work
        if not work.full[number]:
            return np.zeros(work.blocks[number].shape, np.uint8)
        block, lookups = work.seen(number), {}
        path = self.folder / f"{number}.safetensors"
        if path.exists():
            lookups[block.start] = ArrayFile(path)["lookup"]
        decisions = Decisions(work.thresholds, lookups, empty_table(len(block.shape)))
        labels, _ = work.method.paint(State(block, ArrayFile(work.state(number))), decisions)
        path = self.folder / f"{number}-ids.safetensors"
        if path.exists():
            labels = ArrayFile(path)["ids"][labels]
        return labels.reshape(work.blocks[number].shape)

    def labels(self, number: int) -> npt.NDArray[Any]:
        """Labels of the core of a block: objects, or classes by the user's values."""
        labels = self.tidied.labels(number)
        if not self.work.is_instance:
            return np.asarray(np.asarray(self.work.labels.values)[labels])
        path = self.folder / "final.safetensors"
        return np.asarray(ArrayFile(path)["ids"][labels] if path.exists() else labels)

    def boxes(self, number: int) -> Iterator[tuple[tuple[slice, ...], npt.NDArray[Any]]]:
        """The labels of the blocks of a box to paint, each with its place in the cropped array."""
        for k in self.work.layout.members(self.work.layout.boxes)[number]:
            if self.work.full[k]:
                yield self.work.blocks[k].write, self.labels(k)
