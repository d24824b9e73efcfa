"""Post-processing of labels that are never whole: what :mod:`biosegkit.tidy` does to an image, block by block.

Every step looks at pieces: of objects, of a group of classes, or of the background. Pieces of blocks are joined where
they meet at the sides of blocks, what becomes of them is decided over all blocks, and a table per block says so. A
block is painted by following the steps again. Memory is one block, and what lies at the sides of blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from biosegkit.kernels.components import UnionFind
from biosegkit.kernels.runs import Runs, fill_runs, runs_of
from biosegkit.methods import Block
from biosegkit.plan.schema import LabelTable
from biosegkit.tidy import Frame, TidyClasses, TidyObjects, members

__all__ = ["Lookup", "Step", "applied", "decided_step", "steps_of"]

Ints: TypeAlias = npt.NDArray[np.int64]
#: Per piece of a block what its voxels become, and whether they change at all.
Lookup: TypeAlias = tuple[Ints, npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class Step:
    """One thing that is done to labels.

    Parameters
    ----------
    kind : {"pieces", "largest", "foremost", "holes"}
        Make an object of every piece of one; keep the largest piece of each object; keep the largest piece of all of
        ``classes``; fill background that one object, or one of ``classes``, encloses.
    classes : tuple of int
    stacked : bool
        Whether background hangs together from plane to plane.
    leaves : tuple of bool
        Per axis, whether background that reaches the side of the image goes on beyond it.
    """

    kind: str
    classes: tuple[int, ...] = ()
    stacked: bool = True
    leaves: tuple[bool, ...] = ()


def steps_of(tidy: TidyObjects | TidyClasses | None, labels: LabelTable, frame: Frame) -> list[Step]:
    """The steps of a post-processing that need more than a table of objects, in their order.

    Examples
    --------
    >>> table = LabelTable(task="instance", names=("background", "object"), values=(0, 1))
    >>> tidy = TidyObjects(split="largest", fill_holes=True, border_objects="remove")
    >>> [step.kind for step in steps_of(tidy, table, Frame.whole((9, 9)))]
    ['largest', 'holes']
    """
    if isinstance(tidy, TidyObjects):
        steps = [Step(tidy.split)] if tidy.split != "no" else []
        return [*steps, Step("holes", (), frame.stacked, frame.leaves)] if tidy.fill_holes else steps
    if tidy is None:
        return []
    steps = [Step("foremost", members(labels, name)) for name in tidy.largest]
    filled = tuple(sorted({k for name in tidy.fill_holes for k in members(labels, name, regions=False)}))
    return [*steps, Step("holes", filled, frame.stacked, frame.leaves)] if filled else steps


def applied(labels: npt.NDArray[np.int64], step: Step, lookup: Lookup) -> npt.NDArray[np.int64]:
    """Labels of a block after a step."""
    labels = np.array(labels, np.int64, order="C")
    fill_runs(labels, _runs(labels, step), *lookup)
    return labels


def decided_step(step: Step, blocks: Sequence[Block], labels_of: Callable[[int], npt.NDArray[np.int64]],
                 unseen: Sequence[bool] = ()) -> tuple[list[Lookup], Ints]:
    """What a step does to the pieces of every block, and which label each new label was before.

    Parameters
    ----------
    step : Step
    blocks : sequence of Block
        That fill the image.
    labels_of : callable
        Labels of the core of block ``k``, before the step.
    unseen : sequence of bool, optional
        Blocks that nobody looked at: background that reaches one is no hole.

    Returns
    -------
    lookups : list of Lookup
    owner : ndarray of int64
        By new label; the label itself where labels keep their names.

    Examples
    --------
    >>> image = np.array([[1, 0, 1, 1]])
    >>> halves = [Block.cut((0, 0), (1, 3), (1, 4)), Block.cut((0, 3), (1, 1), (1, 4))]
    >>> lookups, owner = decided_step(Step("pieces"), halves, lambda k: image[halves[k].write])
    >>> [values.tolist() for values, _ in lookups], owner.tolist()
    ([[1, 2], [2]], [0, 1, 1])
    """
    parts, sides = [], []
    for k, block in enumerate(blocks):
        labels = np.ascontiguousarray(labels_of(k), np.int64)
        runs = _runs(labels, step)
        parts.append(_Part.of(labels, runs, block, step))
        if unseen and unseen[k]:
            parts[-1].high[:] = _MANY
        sides.append(_side(labels, runs, block))
    offsets = np.concatenate([[0], np.cumsum([len(p.size) for p in parts])]).astype(np.int64)
    piece, label, voxel = _joined_sides(sides, offsets)
    sets = UnionFind(int(offsets[-1]))
    beside = _neighbours(voxel, blocks[0].full_shape, step)
    for a, b in beside():
        both = (piece[a] >= 0) & (piece[b] >= 0)
        if step.kind in ("pieces", "largest"):
            both &= label[a] == label[b]
        sets.union_many(piece[a][both], piece[b][both])
    whole = _Part.joined(parts, sets.roots())
    if step.kind == "holes":
        for a, b in beside():
            for one, other in ((a, b), (b, a)):
                rim = (piece[one] >= 0) & (label[other] > 0)
                whole.meets(sets.roots()[piece[one][rim]], label[other][rim])
    values, changed, owner = _verdict(step, whole, sets.roots())
    cut = [slice(a, b) for a, b in pairwise(offsets)]
    return [(values[c], changed[c]) for c in cut], owner


@dataclass(frozen=True, eq=False)
class _Part:
    """Pieces of a block or of the image: voxels, first voxel in the image, label, and of background what is beside it.

    ``low`` and ``high`` are the smallest and the largest label beside a piece, ``high`` beyond all labels where a way
    leads out.
    """

    size: Ints
    first: Ints
    value: Ints
    low: Ints
    high: Ints

    @classmethod
    def of(cls, labels: npt.NDArray[np.int64], runs: Runs, block: Block, step: Step) -> _Part:
        """The pieces of a block."""
        count = runs.count
        found = cls(runs.sizes, _firsts(runs, block), runs.values, np.full(count, _MANY), np.zeros(count, np.int64))
        if step.kind != "holes":
            return found
        dense = _dense(labels, runs)
        for axis, leaves in enumerate(step.leaves):
            if not leaves:
                continue
            ahead, behind = _ends(axis, slice(1, None)), _ends(axis, slice(None, -1))
            for here, there in ((ahead, behind), (behind, ahead)):
                rim = (dense[here] >= 0) & (labels[there] > 0)
                found.meets(dense[here][rim], labels[there][rim])
            for end, at in ((0, block.start[axis] == 0), (-1, block.start[axis] + block.shape[axis]
                                                          == block.full_shape[axis])):
                if at:
                    out = np.asarray(dense.take(end, axis))
                    found.high[out[out >= 0]] = _MANY
        return found

    @classmethod
    def joined(cls, parts: Sequence[_Part], roots: Ints) -> _Part:
        """The pieces of the image, each at the number of its root."""
        size, first, value, low, high = (np.concatenate([getattr(p, n) for p in parts])
                                         for n in ("size", "first", "value", "low", "high"))
        total = np.zeros(len(roots), np.int64)
        np.add.at(total, roots, size)
        earliest, least, most = np.full(len(roots), _MANY), np.full(len(roots), _MANY), np.zeros(len(roots), np.int64)
        np.minimum.at(earliest, roots, first)
        np.minimum.at(least, roots, low)
        np.maximum.at(most, roots, high)
        return cls(total, earliest, value, least, most)

    def meets(self, pieces: Ints, labels: Ints) -> None:
        """Labels that lie beside pieces."""
        np.minimum.at(self.low, pieces, labels)
        np.maximum.at(self.high, pieces, labels)


#: Beyond all labels and voxels.
_MANY = np.iinfo(np.int64).max


def _verdict(step: Step, whole: _Part, roots: Ints) -> tuple[Ints, npt.NDArray[np.bool_], Ints]:
    """By piece of a block its new label, and whether it changes; and by new label the one before."""
    heads = np.flatnonzero(roots == np.arange(len(roots)))
    heads = heads[np.argsort(whole.first[heads])]
    new, changed = np.zeros(len(roots), np.int64), np.ones(len(roots), np.bool_)
    owner = np.arange(int(whole.value.max(initial=0)) + 1)
    if step.kind == "pieces":
        new[heads] = np.arange(1, len(heads) + 1)
        owner = np.concatenate([[0], whole.value[heads]])
    elif step.kind == "holes":
        filled = (whole.low == whole.high) & (whole.high < _MANY)
        if step.classes:
            filled &= np.isin(whole.low, step.classes)
        new[heads], changed = np.where(filled, whole.low, 0)[heads], filled[roots]
    else:
        groups = whole.value[heads] if step.kind == "largest" else np.zeros(len(heads), np.int64)
        order = np.lexsort((np.arange(len(heads)), -whole.size[heads], groups))
        best = np.ones(len(heads), np.bool_)
        best[1:] = groups[order][1:] != groups[order][:-1]
        stays = np.zeros(len(roots), np.bool_)
        stays[heads[order[best]]] = True
        changed = ~stays[roots]
    return new[roots], changed, owner


def _runs(labels: npt.NDArray[np.int64], step: Step) -> Runs:
    """The pieces that a step looks at."""
    if step.kind == "holes":
        return runs_of(labels, background=True, stacked=step.stacked)
    return runs_of(np.isin(labels, step.classes).view(np.uint8) if step.kind == "foremost" else labels)


def _dense(labels: npt.NDArray[np.int64], runs: Runs) -> Ints:
    """The piece of every voxel, -1 for none."""
    dense = np.full(labels.shape, -1, np.int64)
    fill_runs(dense, runs, np.arange(runs.count), np.ones(runs.count, np.bool_))
    return dense


def _firsts(runs: Runs, block: Block) -> Ints:
    """The first voxel of every piece of a block, as a linear index of the image."""
    rows = np.repeat(np.arange(len(runs.offset) - 1), np.diff(runs.offset))
    _, at = np.unique(runs.piece, return_index=True)
    place = [*np.unravel_index(rows[at], block.shape[:-1]), runs.start[at].astype(np.int64)]
    return np.asarray(np.ravel_multi_index([p + s for p, s in zip(place, block.start, strict=True)], block.full_shape))


def _side(labels: npt.NDArray[np.int64], runs: Runs, block: Block) -> tuple[Ints, Ints, Ints]:
    """Piece, label and linear index of the voxels that touch another block."""
    touches = np.zeros(labels.shape, np.bool_)
    for axis, (start, size, full) in enumerate(zip(block.start, block.shape, block.full_shape, strict=True)):
        if start > 0:
            touches[_ends(axis, 0)] = True
        if start + size < full:
            touches[_ends(axis, -1)] = True
    where = np.nonzero(touches)
    linear = np.ravel_multi_index([w + s for w, s in zip(where, block.start, strict=True)], block.full_shape)
    return _dense(labels, runs)[where], labels[where], np.asarray(linear)


def _joined_sides(sides: Sequence[tuple[Ints, Ints, Ints]], offsets: Ints) -> tuple[Ints, Ints, Ints]:
    """The sides of all blocks, by linear index, with pieces numbered through all blocks."""
    piece = np.concatenate([np.where(p >= 0, p + o, -1) for (p, _, _), o in zip(sides, offsets[:-1], strict=True)])
    label, voxel = (np.concatenate([side[k] for side in sides]) for k in (1, 2))
    order = np.argsort(voxel)
    return piece[order], label[order], voxel[order]


def _neighbours(voxel: Ints, shape: tuple[int, ...], step: Step) -> Callable[[], list[tuple[Ints, Ints]]]:
    """Positions of pairs of voxels that touch: over faces for background, else also over edges and corners."""
    offsets = [o for o in product((-1, 0, 1), repeat=len(shape)) if o > (0,) * len(shape)]
    if step.kind == "holes":
        offsets = [o for o in offsets if sum(map(abs, o)) == 1]
        if not step.stacked:
            offsets = [o for o in offsets if o[0] == 0]
    place = np.unravel_index(voxel, shape) if len(voxel) else ()

    def found() -> list[tuple[Ints, Ints]]:
        pairs = []
        for offset in offsets if len(voxel) else ():
            moved = [p + o for p, o in zip(place, offset, strict=True)]
            inside = np.logical_and.reduce([(m >= 0) & (m < n) for m, n in zip(moved, shape, strict=True)])
            here = np.flatnonzero(inside)
            wanted = np.ravel_multi_index([m[here] for m in moved], shape)
            there = np.minimum(np.searchsorted(voxel, wanted), len(voxel) - 1)
            met = voxel[there] == wanted
            pairs.append((here[met], there[met]))
        return pairs

    return found


def _ends(axis: int, part: int | slice) -> tuple[int | slice, ...]:
    """An index along one axis."""
    return (*(slice(None),) * axis, part)
