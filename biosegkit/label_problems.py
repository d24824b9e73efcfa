"""Problems of labels alone: unnamed values and empty cases (L5, L7), objects in pieces (L10), mixed values (L11)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ._words import counted
from .cases import Case, Dataset
from .errors import BiosegError, DataError, Problem
from .image import Labels
from .io.colours import DRAWN, in_squares
from .task_choice import IdCounts

if TYPE_CHECKING:
    from .checks import Facts

__all__ = ["label_problems", "labels_to_check", "mixed_problems", "object_problems", "refused_colours", "thin_values"]

#: Thin values in one case from which they speak for interpolation: a few classes may be lines.
_THIN = 4


def labels_to_check(dataset: Dataset, case: Case) -> Labels:
    """The labels as objects: the number of a value does not depend on the task, which is not known yet.

    Of colours it does: where no class is named each is taken for an object, which :func:`refused_colours` takes back if
    the set turns out to have classes. Where they cannot be objects, the error says what classes need.
    """
    if dataset.about.task != "instance" and dataset.about.known_values:
        return dataset.load_labels(case, "semantic")
    try:
        return dataset.load_labels(case, "instance")
    except DataError as error:
        if dataset.about.task != "instance" and error.found.startswith("coloured labels"):
            dataset.load_labels(case, "semantic")
        raise


def refused_colours(dataset: Dataset, facts: Sequence[Facts]) -> list[tuple[Case, BiosegError]]:
    """V9 of a set with classes: the colours that nobody named, of each case that was read as objects by its colours."""
    found = []
    for name in (f.id for f in facts if _drawn(f)):
        case = dataset.case(name)
        try:
            dataset.load_labels(case, "semantic")
        except BiosegError as error:
            found.append((case, error))
    return found


def _drawn(facts: Facts) -> bool:
    """Whether the labels were read as objects by their colours."""
    return any(note.startswith(DRAWN) for note in facts.notes)


def label_problems(dataset: Dataset, case: Case, ids: IdCounts, values: Sequence[int]) -> list[Problem]:
    """L5 and L7 of one case."""
    found: list[Problem] = []
    known = dataset.about.known_values
    unknown = [v for v in values if v not in known] if known and dataset.about.task != "instance" else []
    if unknown:
        listed = ", ".join(map(str, unknown[:10])) + ", …" * (len(unknown) > 10)
        found.append(Problem("L5", "error", case.id, str(case.labels), f"label values {listed}",
                             f"one of {sorted(known)}, named in dataset.json",
                             f"name them in labels, --map {unknown[0]}=VALUE, or --task instance if they are objects"))
    if not ids.present:
        found.append(Problem("L7", "warning", case.id, str(case.labels), "no foreground", "some labelled voxels",
                             "it trains as background only; check that this is meant"))
    return found


def object_problems(facts: Sequence[Facts]) -> list[Problem]:
    """L10: ids in several pieces and objects of one voxel; masks of one value are told once."""
    masks = [f for f in facts if f.ids.present == f.ids.split == 1]
    if len(masks) > 1 and len({v for f in facts for v in f.values}) == 1:
        return [Problem("L10", "warning", "", masks[0].file, f"one id, {masks[0].values[0]}, in several pieces in "
                        f"{len(masks)} of {counted(len(facts), 'case')}: a mask, in which all objects are one",
                        "one id per object",
                        "give each object its number (skimage.measure.label parts those that do not touch), or "
                        "train the mask with --task semantic")]
    found = []
    for f in facts:
        parts = [f"{f.ids.split} of {counted(f.ids.present, 'id')} in several pieces"] * bool(f.ids.split)
        parts += [f"{counted(f.ids.single, 'object')} of one voxel"] * bool(f.ids.single)
        if parts:
            shared = "give objects that share a colour one each, or a number; " * _drawn(f)
            found.append(Problem("L10", "warning", f.id, f.file, "; ".join(parts), "one connected piece per object",
                                 f"{shared}correct the labels; most methods keep one piece of each"))
    return found


def thin_values(labels: Labels, voxels: npt.NDArray[np.int64]) -> int:
    """How many values are lines and specks: less than half of their voxels lie in a square of 2 × 2 of their own.

    Parameters
    ----------
    labels : Labels
        Of one case.
    voxels : ndarray of int64, (len(labels.values),)
        Of every canonical number, background first.

    Examples
    --------
    >>> from biosegkit.grid import Grid
    >>> ramp = np.tile([0, 0, 60, 190, 255, 255], (4, 1))       # a smoothed edge
    >>> labels = Labels.from_values(ramp, Grid.regular(ramp.shape), "semantic")
    >>> thin_values(labels, np.bincount(labels.array.ravel()))
    2
    """
    if min(labels.array.shape[-2:]) < 2:
        return 0
    thick = np.bincount(labels.array[in_squares(labels.array)], minlength=len(voxels))
    return int(np.count_nonzero(2 * thick[1:] < voxels[1:]))


def mixed_problems(facts: Sequence[Facts], source: str) -> list[Problem]:
    """L11: classes most of which are lines and specks, as smoothing, resizing or JPEG makes of a mask's edges."""
    mixed = [f for f in facts if f.thin >= _THIN and 2 * f.thin > f.ids.present]
    if not mixed:
        return []
    worst = max(mixed, key=lambda f: f.thin)
    few = ", ".join(map(str, worst.values[:6])) + ", …" * (len(worst.values) > 6)
    return [Problem("L11", "warning", worst.id, source, f"{worst.ids.present} values in one label image ({few}), "
                    f"{worst.thin} of them lines and specks, in {len(mixed)} of {counted(len(facts), 'case')}: edges "
                    "mixed by smoothing, resizing or JPEG?", "one value per class",
                    "export the labels unsmoothed, by nearest neighbour, or threshold them; if these are classes, all "
                    "is well")]
