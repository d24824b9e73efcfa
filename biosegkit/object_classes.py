"""Classes of objects: a second label image says what each voxel is, and most voxels of an object decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ._words import counted
from .errors import Problem
from .image import Labels, Task
from .kernels.overlap import overlap_counts

__all__ = ["ClassVotes", "class_problems", "class_votes", "vote_problems"]


@dataclass(frozen=True, eq=False)
class ClassVotes:
    """The class of every object of a case.

    Parameters
    ----------
    values : ndarray of int64, (objects + 1,)
        The user's class of each canonical id; 0 for background and for objects without class.
    without, several : int
        Objects that have no voxel with a class, and that have voxels of several classes.
    """

    values: npt.NDArray[np.int64]
    without: int
    several: int

    def numbered(self, table: tuple[int, ...]) -> npt.NDArray[np.uint16]:
        """The same as places in a table of classes, from 1; classes that it does not have are 0 (not known).

        Examples
        --------
        >>> ClassVotes(np.array([0, 9, 4, 7]), 0, 0).numbered((4, 9)).tolist()
        [0, 2, 1, 0]
        """
        out = np.zeros(self.values.shape, np.uint16)
        for place, value in enumerate(table, 1):
            out[self.values == value] = place
        return out


def class_votes(labels: Labels, classes: Labels) -> ClassVotes:
    """Which class most voxels of each object have; of equals the smallest value.

    Voxels of class 0 have no vote, so that a class that is drawn a little smaller than its object is its class.

    Parameters
    ----------
    labels : Labels
        Objects; ignored voxels are nobody's.
    classes : Labels
        The class of each voxel, on the same grid.

    Examples
    --------
    >>> from .grid import Grid
    >>> grid = Grid.regular((1, 5))
    >>> labels = Labels.from_values(np.array([[5, 5, 5, 8, 0]]), grid, "instance")
    >>> votes = class_votes(labels, Labels.from_values(np.array([[2, 3, 3, 0, 3]]), grid, "semantic"))
    >>> votes.values.tolist(), votes.without, votes.several
    ([0, 3, 0], 1, 1)
    """
    found = overlap_counts(labels.array, classes.array)
    pairs, counts = np.asarray(found.pairs, np.int64), np.asarray(found.counts, np.int64)
    best = np.zeros(len(labels.values), np.int64)
    most = np.zeros(len(labels.values), np.int64)
    kinds = np.zeros(len(labels.values), np.int64)
    for (owner, kind), count in zip(pairs.tolist(), counts.tolist(), strict=True):  # by rising class
        kinds[owner] += 1
        if count > most[owner]:
            most[owner], best[owner] = count, kind
    values = _values(classes)[best]
    values[0] = 0
    return ClassVotes(values, int((values[found.ids_a] == 0).sum()), int((kinds > 1).sum()))


def _values(classes: Labels) -> npt.NDArray[Any]:
    """The user's value of each canonical class, background 0."""
    values = classes.values.astype(np.int64)
    values[0] = 0
    return values


def vote_problems(case: str, file: str, votes: ClassVotes | None) -> list[Problem]:
    """L5 of a class image: objects without class, or with several."""
    if votes is None:
        return []
    count = int((votes.values > 0).sum()) + votes.without
    said = [(votes.without, "without class", "a class for every object", "their class is not trained; draw it"),
            (votes.several, "with several classes", "one class per object", "most voxels decide; check the objects")]
    return [Problem("L5", "warning", case, file, f"{n} of {counted(count, 'object')} {what}", expected, remedy)
            for n, what, expected, remedy in said if n]


def class_problems(source: str, task: Task, without: Sequence[str], values: Sequence[int]) -> list[Problem]:
    """L5 of all class images: not used, only some cases have one (not those of ``without``), or fewer than two classes.

    Examples
    --------
    >>> [p.found for p in class_problems("set", "instance", ["a"], [3])]
    ['1 case without class image: a', '1 class of objects: [3]']
    """
    if task == "semantic":
        return [Problem("L5", "warning", "", source, "class images with --task semantic", "objects",
                        "they are not used; --task instance trains them")]
    found = []
    if without:
        listed = ", ".join(without[:5]) + ", …" * (len(without) > 5)
        found.append(Problem("L5", "warning", "", source,
                             f"{counted(len(without), 'case')} without class image: {listed}",
                             "a class image for every case", "their objects teach no class; add what is missing"))
    if len(values) < 2:
        found.append(Problem("L5", "warning", "", source, f"{counted(len(values), 'class')} of objects: {list(values)}",
                             "at least 2", "no class is trained; check the class images"))
    return found
