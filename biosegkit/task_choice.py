"""Whether label values name classes or objects, found from the labels of all cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.measure import label as connected_regions

from ._words import counted
from .image import Labels, Task
from .object_shapes import box_of

__all__ = ["AMBIGUOUS", "IdCounts", "choose_task", "count_ids"]

#: In the reason where values may as well be the numbers of objects, counted up in every image.
AMBIGUOUS = "but each is one piece and the largest varies, as where objects are numbered"

#: Share of broken ids up to which they can still be objects: annotators cut a few.
_BROKEN = 0.1
#: An id is broken if its largest piece holds less than this share of it; crumbs beside an object are slips of the pen.
_WHOLE = 0.9
#: Objects in one image from which varying numbers speak for objects even where most values recur.
_MANY = 10
#: The same, where hardly any id recurs, or where ids are counted up from 1 without a gap to many different numbers.
_SOME = 5
#: Different numbers of ids that classes, of which the last are missing here and there, hardly have.
_NUMBERS = 4
#: Cases a value is in, up to which it names nothing that recurs.
_ONCE = 1.2


@dataclass(frozen=True)
class IdCounts:
    """What the ids of one case look like.

    ``present`` ids, ``top`` the largest user value, ``split`` ids in several pieces (of full connectivity), ``broken``
    those whose largest piece holds less than 90 % of them, ``single`` ids of one voxel.
    """

    present: int
    top: int
    split: int
    broken: int
    single: int


def count_ids(labels: Labels) -> tuple[IdCounts, npt.NDArray[np.int64]]:
    """Count ids and their pieces; also the voxels of every canonical number.

    Returns
    -------
    IdCounts
        Without background and ignored voxels.
    ndarray of int64, (len(labels.values),)
        Voxels per canonical number, background first (ignored voxels are not counted).

    Examples
    --------
    >>> from biosegkit.grid import Grid
    >>> labels = Labels.from_values(np.array([[5, 0, 5, 9]]), Grid.regular((1, 4)), "instance")
    >>> count_ids(labels)
    (IdCounts(present=2, top=9, split=1, broken=1, single=1), array([1, 2, 1]))
    """
    flat = labels.array.reshape(-1)
    voxels = np.bincount(flat, minlength=len(labels.values)).astype(np.int64)
    if labels.ignore is not None:
        voxels[0] -= int(np.count_nonzero(labels.ignore))
    present = np.flatnonzero(voxels[1:]) + 1
    pieces, largest = _pieces(labels.array, len(labels.values))
    return IdCounts(
        present=present.size, top=int(labels.values[present].max(initial=0)),
        split=int(np.count_nonzero(pieces[1:] > 1)),
        broken=int(np.count_nonzero(largest[1:] < _WHOLE * voxels[1:])), single=int(np.count_nonzero(voxels[1:] == 1)),
    ), voxels


def _pieces(array: npt.NDArray[Any], numbers: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Number of connected pieces of every number in 0 … numbers - 1, and the voxels of the largest."""
    array = array[box_of(array > 0)]  # numbering the pieces takes eight bytes a voxel
    regions, count = connected_regions(np.ascontiguousarray(array), background=0, return_num=True)
    flat = regions.reshape(-1)
    owner = np.zeros(count + 1, dtype=np.int64)
    owner[flat] = array.reshape(-1)  # every voxel of a region writes the same number
    pieces: npt.NDArray[np.int64] = np.bincount(owner[1:], minlength=numbers)
    largest = np.zeros(numbers, dtype=np.int64)
    np.maximum.at(largest, owner[1:], np.bincount(flat, minlength=count + 1)[1:])
    return pieces, largest


def choose_task(counts: Sequence[IdCounts], cases_per_value: Sequence[int]) -> tuple[Task, str]:
    """Objects or classes, and the reason in words.

    Objects are connected, and their ids vary from case to case as counts do: either the largest id follows the number
    of objects (ids counted up in every image), or hardly any id recurs. Classes recur under the same values. Ids that
    are 1 to n in every case, with at least four different n, are counted up, however few they are.

    Parameters
    ----------
    counts : sequence of IdCounts
        One per labelled case.
    cases_per_value : sequence of int
        For every value that occurs, the number of cases with it; may be cut off after many.

    Examples
    --------
    >>> choose_task([IdCounts(1, 255, 1, 1, 0)] * 3, [3])[0]
    'semantic'
    >>> choose_task([IdCounts(n, n, 0, 0, 0) for n in (4, 40, 9)], [3, 3, 3, 3] + [2] * 5 + [1] * 31)[0]
    'instance'
    """
    filled = [c for c in counts if c.present]
    total, broken = sum(c.present for c in filled), sum(c.broken for c in filled)
    if not total:
        return "semantic", "no foreground"
    if broken > _BROKEN * total:
        return "semantic", f"{broken} of {counted(total, 'id')} in several pieces, so values name classes"
    numbers = {c.present for c in filled}
    most = max(numbers)
    if len(filled) == 1:
        if most >= _MANY:
            return "instance", f"{most} ids, each in one piece, in the only case"
        return "semantic", f"only {counted(most, 'id')} in the only case (say --task instance if they are objects)"
    cases, recurrence = len(filled), sum(cases_per_value) / max(len(cases_per_value), 1)
    numbered = float(np.median([c.present / c.top for c in filled])) >= 0.7 and len({c.top for c in filled}) > 1
    if how := _as_counts(filled, recurrence, numbered):
        span = f"{min(numbers)} to {most}" if len(numbers) > 1 else str(most)
        return "instance", f"{span} ids per case, {total - broken} of {total} in one piece, and {how}"
    if len(numbers) == 1:
        return "semantic", f"every case has {counted(most, 'id')}, so values name classes"
    doubt = f"; {AMBIGUOUS}" if numbered and not broken else ""
    return "semantic", f"the same values recur (a value is in {recurrence / cases:.0%} of the cases on average){doubt}"


def _as_counts(filled: Sequence[IdCounts], recurrence: float, numbered: bool) -> str:
    """How ids vary as counts of objects do; empty if they do not."""
    cases, numbers = len(filled), {c.present for c in filled}
    most = max(numbers)
    varied = len(numbers) >= min(3, cases)
    follows = varied and numbered and (most >= _MANY or recurrence <= cases / 2)
    if follows or (len(numbers) >= _NUMBERS and most >= _SOME and all(c.present == c.top for c in filled)):
        return "the largest id follows their number"
    unique = most >= _SOME and recurrence <= (max(cases / 4, _ONCE) if varied else _ONCE)
    return "hardly any id recurs" if unique else ""
