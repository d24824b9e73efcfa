"""Classical post-processing, for every method and every engine: one place where labels are tidied after the decoding.

It works on the label image, the one array of an image's size that a prediction holds anyway; besides it there is one
copy, and runs (:mod:`biosegkit.kernels.runs`). Nothing depends on blocks, tiles or threads: they are gone by then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from ._words import wanted
from .errors import OptionError
from .kernels.runs import enclosed_by, fill_runs, runs_of
from .plan.schema import LabelTable

__all__ = ["Frame", "Tidy", "TidyClasses", "TidyObjects", "carried", "members", "numbered", "tidied_digest",
           "tidy_classes", "tidy_objects", "tidy_of"]

Table: TypeAlias = Mapping[str, npt.NDArray[Any]]

#: Voxels that are tabled together; changes memory only.
_SLAB = 2**22
#: What stands for all classes but the background.
FOREGROUND = "foreground"


def _names(value: Any) -> Any:
    """Text of the command line as names."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Names: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_names)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TidyObjects:
    """What is done to objects once they are found, in this order."""

    split: Literal["no", "pieces", "largest"] = Field(
        default="no", description="objects of several pieces: no keeps them, pieces makes an object of each, largest "
        "keeps the largest piece alone")
    fill_holes: bool = Field(default=False, description="fill background that one object encloses")
    border_objects: Literal["keep", "remove"] = Field(
        default="keep", description="remove: leave out objects that touch the border of the image")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TidyClasses:
    """What is done to classes, in this order; classes and regions by name."""

    largest: Names = Field(default=(), description="classes, regions or foreground (all classes together) of which the "
                           "largest component alone is kept")
    fill_holes: Names = Field(default=(), description="classes, or foreground for each of them, that are given the "
                              "background they enclose")


Tidy: TypeAlias = TidyObjects | TidyClasses


def tidy_of(labels: LabelTable, options: Mapping[str, Any] | None = None) -> Tidy:
    """The post-processing of a model with these options, which may be text.

    Parameters
    ----------
    labels : LabelTable
        Of the model's plan.
    options : dict, optional
        By the names of the fields of :class:`TidyObjects` or :class:`TidyClasses`.

    Raises
    ------
    OptionError
        For an unknown option, value, class or region.

    Examples
    --------
    >>> table = LabelTable(task="instance", names=("background", "object"), values=(0, 1))
    >>> tidy_of(table, {"fill_holes": "yes", "split": "largest"})
    TidyObjects(split='largest', fill_holes=True, border_objects='keep')
    """
    kind: type[TidyObjects] | type[TidyClasses] = TidyObjects if labels.task == "instance" else TidyClasses
    given = dict(options or {})
    names = [f.name for f in fields(kind)]
    for name in given:
        if name not in names:
            hint = "--threshold min_size=N" if name == "min_size" and kind is TidyObjects else "correct --option"
            raise OptionError(f"option {name!r} of a model of {labels.task} labels",
                              expected=f"one of {', '.join(names)}", remedy=hint)
    try:
        tidy = kind(**given)
    except ValidationError as error:
        first = error.errors()[0]
        raise OptionError(f"option {first['loc'][0]}={first['input']}", expected=wanted(first["type"], first["msg"]),
                          remedy="correct --option") from error
    if isinstance(tidy, TidyClasses):
        for group in tidy.largest:
            members(labels, group)
        for group in tidy.fill_holes:
            members(labels, group, regions=False)
    return tidy


def tidied_digest(digest: str, tidy: Tidy, own: Tidy | None = None) -> str:
    """The identity of a model of this ``digest`` with other post-processing than its ``own`` (by default none).

    Examples
    --------
    >>> tidied_digest("ab", TidyObjects()), tidied_digest("ab", TidyObjects(fill_holes=True)) == "ab"
    ('ab', False)
    """
    if tidy == (own or type(tidy)()):
        return digest
    return hashlib.sha256(f"{digest} {json.dumps(asdict(tidy), sort_keys=True)}".encode()).hexdigest()


@plain_dataclass(frozen=True)
class Frame:
    """How an array of labels lies in its image, axis by axis.

    Parameters
    ----------
    sides : tuple of (bool, bool)
        Whether the first and the last side of the array are those of the image.
    leaves : tuple of bool
        Whether objects can go on along the axis: not where the image is one voxel thick, nor across planes that are
        looked at one by one.
    """

    sides: tuple[tuple[bool, bool], ...]
    leaves: tuple[bool, ...]

    @classmethod
    def of(cls, window: Sequence[slice], shape: Sequence[int], ndim: int) -> Frame:
        """A window of an image of ``shape``; with more axes than ``ndim``, planes are looked at one by one.

        Examples
        --------
        >>> Frame.of((slice(0, 4), slice(2, 9)), (4, 9), 2)
        Frame(sides=((True, True), (False, True)), leaves=(True, True))
        >>> Frame.of((slice(0, 4),) * 3, (4, 4, 4), 2).leaves
        (False, True, True)
        """
        sides = tuple((w.start == 0, w.stop == n) for w, n in zip(window, shape, strict=True))
        return cls(sides, tuple(n > 1 and axis >= len(shape) - ndim for axis, n in enumerate(shape)))

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Frame:
        """An array that is the image."""
        return cls.of([slice(0, n) for n in shape], shape, len(shape))

    @property
    def stacked(self) -> bool:
        """Whether background hangs together from plane to plane."""
        return len(self.leaves) < 3 or self.leaves[0]


def tidy_objects(labels: npt.NDArray[Any], tidy: TidyObjects, frame: Frame, *, min_size: float = 0,
                 table: Table | None = None) -> tuple[npt.NDArray[np.uint32], dict[str, npt.NDArray[Any]]]:
    """Objects split, filled, without those at the border or too small, numbered by raster order of the first voxel.

    Pieces hold together over faces, edges and corners. A hole is background that hangs together over faces, does not
    reach the border, and has one object alone for neighbour; of planes that were segmented one by one, holes and
    borders are those of each plane.

    Parameters
    ----------
    labels : ndarray of int, (*space)
        ``1..K``; left as it is.
    tidy : TidyObjects
    frame : Frame
    min_size : float
        Smallest object that is kept, in voxels, after all else.
    table : dict of ndarray, optional
        Of the objects; a piece or a filled object keeps score and class of the object it was found as.

    Returns
    -------
    labels : ndarray of uint32, (*space)
    table : dict of ndarray
        Columns as in ``table``; ``id``, ``score`` (1), ``area``, centroid, box and ``first`` if there was none.

    Examples
    --------
    >>> labels = np.array([[2, 2, 2, 0, 1], [2, 0, 2, 0, 0], [2, 2, 2, 0, 1]])
    >>> tidy = TidyObjects(split="pieces", fill_holes=True)
    >>> tidy_objects(np.pad(labels, 1), tidy, Frame.whole((5, 7)))[0][1:-1, 1:-1].tolist()
    [[1, 1, 1, 0, 2], [1, 1, 1, 0, 0], [1, 1, 1, 0, 3]]
    """
    array = np.array(labels, order="C")
    owner = np.arange(int(array.max(initial=0)) + 1)
    if tidy.split != "no":
        array, owner = _split(array, tidy.split)
    if tidy.fill_holes:
        _fill_holes(array, frame)
    unwanted = _at_border(array, frame) if tidy.border_objects == "remove" else np.zeros(0, np.int64)
    array, found, old = numbered(array, min_size, unwanted, own=True)
    if table is None:
        return array, found
    return array, carried(found, table, owner[old])


def carried(found: Table, table: Table, owner: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
    """The table of tidied objects: where one lies is new, what it is (score, class) is that of its ``owner``.

    Parameters
    ----------
    found : dict of ndarray
        Of the tidied objects, by their voxels.
    table : dict of ndarray
        Of the objects before, by rising ``id``.
    owner : ndarray of int64
        By row of ``found``, the id that the object had.

    Examples
    --------
    >>> before = {"id": np.array([1, 4]), "score": np.array([0.5, 0.9]), "area": np.array([7, 8])}
    >>> pieces = {"id": np.array([1, 2, 3]), "score": np.ones(3), "area": np.array([4, 4, 8])}
    >>> {name: column.tolist() for name, column in carried(pieces, before, np.array([4, 4, 1])).items()}
    {'id': [1, 2, 3], 'score': [0.9, 0.9, 0.5], 'area': [4, 4, 8]}
    """
    rows = np.searchsorted(table["id"], owner)
    return {name: found[name] if name in found and name != "score" else column[rows] for name, column in table.items()}


def numbered(objects: npt.NDArray[Any], min_size: float = 0, without: npt.NDArray[Any] | None = None, *,
             own: bool = False) -> tuple[npt.NDArray[np.uint32], dict[str, npt.NDArray[Any]], npt.NDArray[np.int64]]:
    """Objects ``1..K`` numbered by raster order of the first voxel, small ones removed, their table, and old numbers.

    Parameters
    ----------
    objects : ndarray of int, (*space)
        ``1..K`` in any order.
    min_size : float
        In voxels.
    without : ndarray of int, optional
        Objects to leave out.
    own : bool
        Whether ``objects`` may be written over, where its type is that of the result.

    Examples
    --------
    >>> labels, table, old = numbered(np.array([[2, 2, 0, 1]]), 2)
    >>> labels.tolist(), table["id"].tolist(), table["bbox_stop_x"].tolist(), old.tolist()
    ([[1, 1, 0, 0]], [1], [2], [2])
    """
    from .methods.protocol import Block
    from .methods.tables import Tally

    count, rest = int(objects.max(initial=0)), objects.shape[1:]
    tally = Tally(count, objects.ndim)
    planes = max(1, _SLAB // max(1, int(np.prod(rest))))
    starts = range(0, objects.shape[0], planes)
    for start in starts:
        slab = objects[start: start + planes]
        block = Block((start, *(0 for _ in rest)), slab.shape, objects.shape, (0,) * objects.ndim, (0,) * objects.ndim)
        tally.add(slab, np.ones(slab.shape, np.uint8), block)
    kept = tally.area >= max(1, min_size)
    if without is not None:
        kept[without - 1] = False
    alive = np.flatnonzero(kept)
    alive = alive[np.argsort(tally.first[alive])]
    lookup = np.zeros(count + 1, np.uint32)
    lookup[alive + 1] = np.arange(1, len(alive) + 1)
    out = objects if own and objects.dtype == np.uint32 else np.empty(objects.shape, np.uint32)
    for start in starts:
        out[start: start + planes] = lookup[objects[start: start + planes]]
    return out, tally.table(alive + 1, lookup[alive + 1], 1.0), alive + 1


def tidy_classes(classes: npt.NDArray[Any], tidy: TidyClasses, labels: LabelTable,
                 frame: Frame) -> npt.NDArray[Any]:
    """Classes of which the largest component alone is kept, of equals the first, and with holes filled.

    Components hold together over faces, edges and corners; what is removed becomes background (as nnU-Net does it).

    Parameters
    ----------
    classes : ndarray of int, (*space)
        Canonical classes; left as they are.
    tidy : TidyClasses
    labels : LabelTable
        Names of classes and regions.
    frame : Frame

    Examples
    --------
    >>> table = LabelTable(task="semantic", names=("background", "a", "b"), values=(0, 5, 7))
    >>> tidy = TidyClasses(largest=("a",))
    >>> tidy_classes(np.array([[1, 0, 2, 0, 1, 1]]), tidy, table, Frame.whole((1, 6))).tolist()
    [[0, 0, 2, 0, 1, 1]]
    """
    array = np.array(classes, order="C")
    for name in tidy.largest:
        mask = np.isin(array, members(labels, name)).view(np.uint8)
        runs = runs_of(mask)
        if runs.count > 1:
            others = np.ones(runs.count, np.bool_)
            others[int(runs.sizes.argmax())] = False
            fill_runs(array, runs, np.zeros(runs.count), others)
    filled = {k for name in tidy.fill_holes for k in members(labels, name, regions=False)}
    if filled:
        _fill_holes(array, frame, lambda owner: np.isin(owner, list(filled)))
    return array


def members(labels: LabelTable, name: str, regions: bool = True) -> tuple[int, ...]:
    """Canonical classes of a class by name or value, of a region, or of the foreground."""
    known = dict(zip(map(str, labels.values[1:]), range(1, len(labels.values)), strict=True))
    known |= dict(zip(labels.names[1:], range(1, len(labels.names)), strict=True))
    if name in known:
        return (known[name],)
    if name == FOREGROUND:
        return tuple(range(1, len(labels.values)))
    unions = dict(labels.regions) if regions else {}
    if name in unions:
        return tuple(unions[name])
    raise OptionError(f"class {name!r}", expected=f"one of {', '.join([FOREGROUND, *labels.names[1:], *unions])}",
                      remedy="correct the name")


def _split(array: npt.NDArray[Any], how: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Every piece an object, or the largest of each alone; and which object each number was."""
    runs = runs_of(array)
    owner = runs.values
    if how == "pieces":
        array = array.astype(np.uint32, copy=False)
        fill_runs(array, runs, np.arange(1, runs.count + 1), np.ones(runs.count, np.bool_))
        return array, np.concatenate([[0], owner])
    order = np.lexsort((np.arange(runs.count), -runs.sizes, owner))  # by object, the largest first, of equals the first
    best = np.ones(runs.count, np.bool_)
    best[1:] = owner[order][1:] != owner[order][:-1]
    others = np.ones(runs.count, np.bool_)
    others[order[best]] = False
    fill_runs(array, runs, np.zeros(runs.count), others)
    return array, np.arange(int(owner.max(initial=0)) + 1)


def _fill_holes(array: npt.NDArray[Any], frame: Frame,
                wanted: Callable[[npt.NDArray[Any]], npt.NDArray[np.bool_]] | None = None) -> None:
    """Give background that one label alone encloses to that label, if it is wanted; in place."""
    runs = runs_of(array, background=True, stacked=frame.stacked)
    owner = enclosed_by(array, runs, frame.leaves)
    fill_runs(array, runs, owner, owner > 0 if wanted is None else (owner > 0) & wanted(owner))


def _at_border(array: npt.NDArray[Any], frame: Frame) -> npt.NDArray[np.int64]:
    """Objects with a voxel on a side of the image."""
    found = [np.zeros(0, np.int64)]
    for axis, (ends, leaves) in enumerate(zip(frame.sides, frame.leaves, strict=True)):
        for place, is_side in zip((0, -1), ends, strict=True):
            if is_side and leaves and array.size:
                found.append(np.unique(array.take(place, axis)).astype(np.int64))
    ids = np.unique(np.concatenate(found))
    return ids[ids > 0]
