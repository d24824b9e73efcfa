"""Ceilings of methods on the user's own labels: seconds of work, before any training.

``decode(encode(labels))`` says what a method could reach with a network that makes no error. A few crops of a few cases
are enough to tell what a method cannot hold; they are the same for every method, and the time is bounded.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .cases import Dataset, trainable
from .errors import BiosegError
from .fingerprint_schema import Fingerprint
from .kernels.components import sequential
from .kernels.distance import boundary_distance
from .kernels.overlap import overlap_counts
from .layouts import Case
from .methods import METHODS, Method, decode, round_trip
from .metrics.instances import InstanceCounts, instance_counts
from .plan.draft import cpu_patch
from .plan.method_choice import shortlist
from .plan.scale import method_lengths
from .plan.schema import MethodEvidence, Plan
from .prepared import decoding_spacing, turn_of, working_shape
from .resample import resample_labels
from .segmenter import method_of
from .slabs import regrid

__all__ = ["Crop", "Oracle", "crops_of", "evidence_of", "oracle_seconds"]

#: Crops, and voxels of one.
CROPS, VOXELS = 6, {2: 300_000, 3: 260_000}
#: How many times more (or fewer) of them a crop may have on an image's own grid, where that is finer (or coarser).
FINER = 4.0
#: Share of the budget for all methods together, and bounds in seconds.
SHARE, LEAST, MOST = 0.03, 1.0, 40.0
#: The first use of a method after an installation compiles it; that may take this much more.
COMPILING = 3.0
_LIMITS = (0.5, 0.75, 0.9)
#: Width of the border whose overlap is scored, in voxels.
BAND = 2.0

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Crop:
    """Labels ``1 … n`` of a part of one case, and the same on the working grid; spacings in the plan's unit."""

    labels: Array
    spacing: tuple[float, ...]
    working: Array
    working_spacing: tuple[float, ...]

    def round_trip(self, method: Method) -> Array:
        """What perfect maps give that are made on the working grid and decoded on the image's own, as in a prediction.

        Maps with a direction lose a little between two grids, and some methods more than others.
        """
        if self.working is self.labels:
            return round_trip(method, self.labels, self.spacing)
        maps = method.ideal(method.encode(self.working, self.working_spacing)[0])
        slab = (0, {name: torch.from_numpy(np.ascontiguousarray(m, np.float32)) for name, m in maps.items()})
        target = self.labels.shape
        (_, fine), = regrid([slab], self.working.shape, target, (self.working_spacing, self.spacing), target[0])
        return decode(method, {name: m.numpy() for name, m in fine.items()}, None, self.spacing)[0]


@dataclass(frozen=True)
class Oracle:
    """Scores of one method, pooled over crops by addition.

    Examples
    --------
    >>> square = np.pad(np.ones((6, 6), int), 3)
    >>> one = Oracle.of(square, np.where(square, 5, 0), 0.1)
    >>> (one + one).filled(MethodEvidence(method="a", verdict="able")).boundary_iou
    1.0
    """

    counts: InstanceCounts
    iou: float
    boundary: float
    seconds: float

    @classmethod
    def of(cls, truth: Array, found: Array, seconds: float) -> Oracle:
        """Score one crop; ``iou`` and ``boundary`` are sums over the true objects."""
        counts = instance_counts(truth, found, thresholds=_LIMITS)
        return cls(counts, _best(truth, found), _best(_band(truth), _band(found)), seconds)

    def __add__(self, other: Oracle) -> Oracle:
        """Pool with another crop."""
        return Oracle(self.counts + other.counts, self.iou + other.iou, self.boundary + other.boundary,
                      self.seconds + other.seconds)

    def filled(self, row: MethodEvidence) -> MethodEvidence:
        """The row with these scores."""
        scores = {f"ap{round(100 * t)}": round(float(self.counts.ap(t)), 4) for t in _LIMITS}
        count = max(1, self.counts.n_true)
        return row.model_copy(update={
            **scores, "objects": self.counts.n_true, "iou": round(self.iou / count, 4),
            "boundary_iou": round(self.boundary / count, 4), "seconds": round(self.seconds, 3)})


def _best(truth: Array, found: Array) -> float:
    """Sum over the true objects of their best intersection over union."""
    overlaps = overlap_counts(truth, found)
    best = np.zeros(overlaps.ids_a.size)
    np.maximum.at(best, overlaps.indexed()[0], overlaps.iou())
    return float(best.sum())


def _band(labels: Array) -> Array:
    """The outermost voxels of every object (Boundary IoU, Cheng et al. 2021, with a width in voxels)."""
    return np.where(boundary_distance(labels) <= BAND, labels, 0)


def oracle_seconds(budget: float | None) -> float | None:
    """How long all ceilings together may take.

    Examples
    --------
    >>> oracle_seconds(900), oracle_seconds(20), oracle_seconds(7200), oracle_seconds(None)
    (27.0, 1.0, 40.0, None)
    """
    return None if budget is None else min(MOST, max(LEAST, SHARE * budget))


def evidence_of(plan: Plan, dataset: Dataset, fingerprint: Fingerprint, *, methods: Sequence[str] | None = None,
                seconds: float | None = None) -> tuple[MethodEvidence, ...]:
    """The shortlist with ceilings measured on some of the user's labels.

    Parameters
    ----------
    plan : Plan
        Working resolution and axes; its method does not matter.
    dataset : Dataset
        Whose labels are read.
    fingerprint : Fingerprint
        Describes the objects.
    methods : sequence of str, optional
        Only these; all by default.
    seconds : float, optional
        No crop and no method is begun after this time (compiling aside); without it all :data:`CROPS` are scored.

    Returns
    -------
    tuple of MethodEvidence
        In order of preference. Every method that was measured was measured on the same crops.
    """
    rows = shortlist(METHODS if methods is None else methods, fingerprint.objects)
    able = {row.method: _method(plan, row.method, fingerprint) for row in rows
            if row.verdict != "unfit" or methods is not None}
    clock = _Clock(seconds)
    found: dict[str, Oracle] = {}
    failed: dict[str, str] = {}
    for crop in crops_of(plan, dataset, fingerprint):
        if found and clock.over():
            break
        here: dict[str, Oracle] = {}
        for name in list(able):
            if here and clock.over(1.0 if found else 0.5):
                break
            try:
                if not found:
                    clock.compile(able[name], crop)
                here[name] = _score(able[name], crop)
            except BiosegError as error:
                failed[name] = str(error)
                del able[name]
        if not found:  # what had no time for the first crop is not measured at all
            able = {name: method for name, method in able.items() if name in here}
        if len(here) < len(able):  # not all in time: the crop counts for none
            break
        found = {name: score + found[name] if name in found else score for name, score in here.items()}
    return tuple(_filled(row, found, failed) for row in rows)


class _Clock:
    """Seconds that are left for measuring, and for compiling beside them."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds, self._started, self._compiled = seconds, time.monotonic(), 0.0

    def over(self, share: float = 1.0) -> bool:
        """Whether a share of the time is spent, or all of that for compiling."""
        if self._seconds is None:
            return False
        spent = time.monotonic() - self._started - self._compiled
        return spent > share * self._seconds or self._compiled > COMPILING * self._seconds

    def compile(self, method: Method, crop: Crop) -> None:
        """A small round trip, so that the next is timed as any other."""
        begun = time.monotonic()
        corner = crop.labels[tuple(slice(0, 32) for _ in crop.spacing)]
        round_trip(method, corner, crop.spacing)
        self._compiled += time.monotonic() - begun


def _filled(row: MethodEvidence, found: dict[str, Oracle], failed: dict[str, str]) -> MethodEvidence:
    if row.method in failed:
        return row.model_copy(update={"verdict": "unfit", "reason": failed[row.method]})
    return found[row.method].filled(row) if row.method in found else row


def _method(plan: Plan, name: str, fingerprint: Fingerprint) -> Method:
    lengths = method_lengths(name, fingerprint.objects, plan.configuration.spacing)
    return method_of(plan.model_copy(update={"method": name, "method_options": lengths}))


def _score(method: Method, crop: Crop) -> Oracle:
    begun = time.perf_counter()
    found = crop.round_trip(method)
    return Oracle.of(crop.labels, found, time.perf_counter() - begun)


def crops_of(plan: Plan, dataset: Dataset, fingerprint: Fingerprint) -> Iterator[Crop]:
    """Crops of cases that have objects, spread over the data set, each around many objects; the same every time."""
    with_objects = {case.id for case in fingerprint.cases if case.ids}
    cases = sorted((c for c in trainable(dataset) if c.id in with_objects), key=lambda c: c.id)
    picks = {round(k * (len(cases) - 1) / max(1, CROPS - 1)) for k in range(CROPS)} if cases else set()
    for number, index in enumerate(sorted(picks)):
        crop = _crop(plan, dataset, cases[index], np.random.default_rng([plan.seed, 77, number]))
        if crop.labels.any():
            yield crop


def _crop(plan: Plan, dataset: Dataset, case: Case, rng: np.random.Generator) -> Crop:
    """A bounded part of a case on the plan's axes and working spacing."""
    image, labels = dataset.load(case, "instance")
    turn = turn_of(image.grid, plan)
    turned = labels.turned(turn)
    array, grid = np.asarray(turned.array), image.grid.turned(turn)
    if turned.ignore is not None:
        array = np.where(turned.ignore, 0, array)
    ndim = plan.configuration.ndim
    if array.ndim > ndim:  # a 2D model sees a stack plane by plane
        array = array[int(np.argmax(np.count_nonzero(array.reshape(len(array), -1), axis=1)))]
    own, shape = decoding_spacing(grid, plan)[-ndim:], working_shape(grid, plan)[-ndim:]
    ratio = array.size / math.prod(shape)
    side = cpu_patch(own, array.shape, round(VOXELS[ndim] * min(FINER, max(ratio, 1 / FINER))))
    cut = _uncut(array, _window(array, side, rng))
    if array.shape == shape:
        return Crop(cut, own, cut, own)
    there = tuple(max(1, round(n * m / w)) for n, m, w in zip(cut.shape, shape, array.shape, strict=True))
    steps = tuple(s * n / m for s, n, m in zip(own, cut.shape, there, strict=True))
    return Crop(cut, own, resample_labels(cut, own, steps, there, instance=True), steps)


def _window(array: Array, side: Sequence[int], rng: np.random.Generator) -> tuple[slice, ...]:
    """The window with the most objects among some around voxels of objects."""
    inside = np.flatnonzero(array)
    windows = []
    for position in rng.choice(inside, min(8, inside.size), replace=False) if inside.size else [0]:
        middle = np.unravel_index(int(position), array.shape)
        starts = [int(np.clip(m - s // 2, 0, max(0, n - s))) for m, s, n in zip(middle, side, array.shape, strict=True)]
        windows.append(tuple(slice(a, a + s) for a, s in zip(starts, side, strict=True)))
    return max(windows, key=lambda w: np.unique(array[w]).size)


def _uncut(array: Array, window: tuple[slice, ...]) -> Array:
    """The window with ids ``1 … n``, without objects of which it holds less than half."""
    crop = np.ascontiguousarray(array[window])
    if crop.size < array.size:
        ids, kept = np.unique(crop, return_counts=True)
        whole = np.bincount(array.reshape(-1), minlength=int(ids.max()) + 1)[ids]
        crop = np.where(np.isin(crop, ids[kept < whole / 2]), 0, crop)
    return sequential(crop)[0]
