"""Panoptic quality with stuff and things, per class.

A *segment* is one instance of a thing class, or all voxels of a stuff class. Segments of the same class match where
IoU > 0.5, strictly, which makes the match unique. Per class PQ = Σ IoU of the matches / (TP + FP/2 + FN/2) = SQ × RQ;
the score is the mean over the classes that occur in truth or prediction, of all, of things and of stuff.

Class 0 is background: no segment, and no match for one. To score it, give it a number and call it stuff. *Void* is what
``valid`` leaves out: it leaves every area and overlap, and an unmatched prediction that lies in it to more than half is
no false positive. Counts of many images are summed before the quotient is taken, as the reference code does; the mean
over images of per-image PQ is another number, and so is that over cells of all classes pooled (binary PQ).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.errors import DataError
from biosegkit.kernels.overlap import overlap_counts

__all__ = ["PanopticClass", "PanopticCounts", "panoptic_counts"]

Ints = npt.NDArray[np.int64]
_SHIFT = 32  # a segment is numbered class * 2**32 + instance


@dataclass(frozen=True)
class PanopticClass:
    """Segments of one class that matched, were invented and were missed."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    iou_sum: float = 0.0

    def __add__(self, other: PanopticClass) -> PanopticClass:
        """Pool with the counts of other images."""
        return PanopticClass(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.iou_sum + other.iou_sum)

    @property
    def pq(self) -> float:
        """Panoptic quality; NaN if the class occurs nowhere."""
        return _ratio(2 * self.iou_sum, 2 * self.tp + self.fp + self.fn)

    @property
    def sq(self) -> float:
        """Mean IoU of the matches: 0 without one, as the reference code has it; NaN if the class occurs nowhere."""
        return _ratio(self.iou_sum, self.tp) if self.tp else 0 * self.rq

    @property
    def rq(self) -> float:
        """F1 of the matches; NaN if the class occurs nowhere."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


@dataclass(frozen=True)
class PanopticCounts:
    """Counts of every class, of one image or summed over many.

    Parameters
    ----------
    classes : mapping of int to PanopticClass
        By class number; a class that occurs in no image may be missing.
    things : frozenset of int
        The classes whose instances are told apart; the others are stuff.

    Examples
    --------
    >>> counts = PanopticCounts({1: PanopticClass(2, 1, 1, 1.8), 2: PanopticClass(1, 0, 0, 0.8)}, frozenset({1}))
    >>> {name: round(value, 3) for name, value in counts.scores().items() if name.startswith("pq")}
    {'pq': 0.7, 'pq_things': 0.6, 'pq_stuff': 0.8}
    """

    classes: Mapping[int, PanopticClass] = field(default_factory=dict)
    things: frozenset[int] = frozenset()

    def __add__(self, other: PanopticCounts) -> PanopticCounts:
        """Pool with the counts of other images."""
        none = PanopticClass()
        known = sorted({*self.classes, *other.classes})
        pooled = {c: self.classes.get(c, none) + other.classes.get(c, none) for c in known}
        return PanopticCounts(pooled, self.things | other.things)

    def scores(self) -> dict[str, float]:
        """``pq sq rq`` as means over classes, of all and with ``_things`` and ``_stuff``; NaN where no class occurs."""
        groups: dict[str, Iterable[int]] = {
            "": self.classes, "_things": self.classes.keys() & self.things, "_stuff": self.classes.keys() - self.things}
        return {f"{name}{suffix}": _mean([getattr(self.classes[c], name) for c in sorted(group)])
                for suffix, group in groups.items() for name in ("pq", "sq", "rq")}


def _mean(values: list[float]) -> float:
    """Mean of what is defined."""
    defined = [v for v in values if not np.isnan(v)]
    return float(np.mean(defined)) if defined else float("nan")


def panoptic_counts(
    truth: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    prediction: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    things: Collection[int],
    *,
    valid: npt.NDArray[np.bool_] | None = None,
) -> PanopticCounts:
    """Match the segments of one image, class by class, and count.

    Parameters
    ----------
    truth, prediction : (classes, instances), two ndarray of int of one shape
        Class and instance id of each voxel. Class 0 is no segment. Of thing classes, instance 0 is no segment, and one
        id in two classes is two segments; of stuff classes the ids are not looked at.
    things : collection of int
        The classes whose instances are told apart.
    valid : ndarray of bool, same shape, optional
        Voxels whose truth is known.

    Returns
    -------
    PanopticCounts
        Counts that can be summed over images with ``+``.

    Raises
    ------
    DataError
        If the arrays cannot be compared, a class is above 2**31 - 1 or an instance id above 2**32 - 1.

    References
    ----------
    Kirillov et al., "Panoptic segmentation", CVPR 2019, section 4 (eq. 1, void labels).

    Examples
    --------
    >>> classes, ids = np.array([1, 1, 1, 2, 2, 1]), np.array([1, 1, 1, 0, 0, 2])
    >>> found = panoptic_counts((classes, ids), (classes, np.array([5, 5, 0, 0, 0, 0])), things={1})
    >>> found.classes[1]
    PanopticClass(tp=1, fp=0, fn=1, iou_sum=0.6666666666666666)
    >>> found.scores()["pq_stuff"]
    1.0
    """
    known = frozenset(int(c) for c in things)
    overlaps = overlap_counts(_segments(*truth, known), _segments(*prediction, known), valid)
    same = (overlaps.pairs[:, 0] >> _SHIFT) == (overlaps.pairs[:, 1] >> _SHIFT)
    iou = overlaps.iou()
    match = same & (iou > 0.5)
    pairs, iou = overlaps.pairs[match], iou[match]
    missed = overlaps.ids_a[~np.isin(overlaps.ids_a, pairs[:, 0])]
    invented = overlaps.ids_b[~np.isin(overlaps.ids_b, pairs[:, 1]) & ~overlaps.mostly_ignored()]
    of_match, of_missed, of_invented = (ids >> _SHIFT for ids in (pairs[:, 0], missed, invented))
    classes = {}
    for c in np.unique(np.concatenate([of_match, of_missed, of_invented])).tolist():
        hit = of_match == c
        classes[c] = PanopticClass(int(hit.sum()), int(np.sum(of_invented == c)), int(np.sum(of_missed == c)),
                                   float(iou[hit].sum()))
    return PanopticCounts(classes, known)


def _segments(classes: npt.NDArray[Any], instances: npt.NDArray[Any], things: frozenset[int]) -> Ints:
    """Number the segments so that the class can be read from the number."""
    if classes.shape != instances.shape:
        raise DataError(f"classes {classes.shape} and instances {instances.shape}", expected="equal shapes",
                        remedy="give both for the same grid")
    for array, name, bits in ((classes, "class", 31), (instances, "instance id", 32)):
        if array.dtype.kind not in "bui":
            raise DataError(f"{name} of type {array.dtype}", expected="an integer type")
        if array.size and (int(array.min()) < 0 or int(array.max()) >= 2**bits):
            raise DataError(f"{name} {int(array.min())} ... {int(array.max())}", expected=f"0 ... 2**{bits} - 1",
                            remedy="number them again from 1")
    segments = classes.astype(np.int64) << _SHIFT
    thing = np.isin(classes, list(things)) & (classes > 0)
    segments[thing] += instances[thing].astype(np.int64)
    segments[thing & (instances == 0)] = 0
    return segments
