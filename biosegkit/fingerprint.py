"""What the data are: shapes, spacings, intensities, classes and objects, measured in one pass over the cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ._words import counted
from .cases import Dataset, trainable
from .checks import CLASSES, Facts, Visit, compare, ordered, refuse, task_of, visit
from .errors import DataError, Problem
from .fingerprint_schema import (
    SCHEMA,
    CaseRecord,
    ChannelStatistics,
    ClassRecord,
    Fingerprint,
    ObjectClassRecord,
    ObjectStatistics,
    Spread,
)
from .image import COLOURS, Image, Labels, Task
from .object_shapes import ObjectSample, anisotropy_of, box_of, joined, sample_objects, spread_of
from .task_choice import AMBIGUOUS

__all__ = ["SCHEMA", "CaseRecord", "ChannelStatistics", "ClassRecord", "Fingerprint", "ObjectStatistics", "Spread",
           "measure", "survey"]

#: Intensities per channel kept for percentiles, and objects measured, over all cases together.
_INTENSITIES, _SIZES, _SHAPES = 1_000_000, 100_000, 2_000
#: First over second principal axis from which an object counts as elongated.
_ELONGATED = 2.0
#: Share of its voxels seen from its best centre from which an object counts as star-convex.
_STAR_CONVEX = 0.95


@dataclass(eq=False)
class _Tally:
    """What is kept while cases go by; its size does not follow theirs."""

    records: list[CaseRecord] = field(default_factory=list)
    samples: list[npt.NDArray[np.float32]] = field(default_factory=list)
    extremes: list[npt.NDArray[np.float64]] = field(default_factory=list)
    voxels: Counter[int] = field(default_factory=Counter)
    cases: Counter[int] = field(default_factory=Counter)
    objects: list[ObjectSample] = field(default_factory=list)
    foreground: int = 0


def survey(dataset: Dataset, *, task: Task | None = None, seed: int = 0,
           progress: Callable[[int, int], None] | None = None) -> tuple[list[Problem], Fingerprint | None]:
    """Check and measure a data set in one reading pass.

    Parameters
    ----------
    dataset : Dataset
        What :func:`biosegkit.scan` found. All cases are checked; those of a table's splits other than train and
        validation are not measured.
    task : {"semantic", "instance"}, optional
        Overrides the description and what is found.
    seed : int
        Of the samples drawn: ``default_rng([seed, position of the case by sorted ids])``.
    progress : callable, optional
        Called with (cases done, cases) after each.

    Returns
    -------
    problems : list of Problem
        As :func:`biosegkit.checks.diagnose` gives them.
    fingerprint : Fingerprint or None
        None if any problem is an error.
    """
    measured = {c.id for c in trainable(dataset)}
    order = {name: i for i, name in enumerate(sorted(measured))}
    problems: list[Problem] = []
    facts: list[Facts] = []
    tally = _Tally()
    for number, case in enumerate(dataset, 1):
        seen = visit(dataset, case)
        problems += seen.problems
        facts += [seen.facts] if seen.facts else []
        if case.id in measured and not any(p.severity == "error" for p in problems):
            _add(tally, seen, task or dataset.about.task, len(measured), np.random.default_rng([seed, order[case.id]]))
        if progress:
            progress(number, len(dataset))
    chosen, reason = task_of(dataset, facts, task)
    problems = ordered([*problems, *compare(dataset, facts, chosen), *_doubts(dataset, reason)])
    if any(p.severity == "error" for p in problems) or not tally.records:
        return problems, None
    inside = [f for f in facts if f.id in measured]
    return problems, _concluded(dataset, tally, inside, (chosen, reason), seed)


def _doubts(dataset: Dataset, reason: str) -> list[Problem]:
    """L10: values taken for classes that may be numbers of objects."""
    if AMBIGUOUS not in reason:
        return []
    return [Problem("L10", "warning", "", dataset.source, f"values taken for classes, {AMBIGUOUS}",
                    "classes or objects",
                    "say --task instance if each number is one object, --task semantic if the values are classes")]


def measure(dataset: Dataset, *, task: Task | None = None, seed: int = 0,
            progress: Callable[[int, int], None] | None = None) -> Fingerprint:
    """Measure a data set; see :func:`survey`.

    Statistics follow nnU-Net's fingerprint (arXiv:1904.08128): the same number of foreground voxels of every case,
    drawn with replacement. Ignored voxels are left out (fault L9).

    Raises
    ------
    DataError
        If the doctor finds an error, all of them listed.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from biosegkit.cases import scan
    >>> from biosegkit.grid import Grid
    >>> from biosegkit.image import Image, Labels
    >>> from biosegkit.io import write
    >>> grid = Grid.regular((8, 8), 0.5, "um")
    >>> mask = np.zeros((8, 8), np.uint8)
    >>> mask[2:6, 2:6] = 255
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("a", "b"):
    ...         write(Image(mask[None], grid), f"{folder}/images/{name}.tif")
    ...         write(Labels.from_values(mask, grid, "semantic"), f"{folder}/labels/{name}.tif")
    ...     found = measure(scan(folder))
    >>> found.task
    'semantic'
    """
    problems, found = survey(dataset, task=task, seed=seed, progress=progress)
    refuse(problems)
    if found is None:
        raise DataError("no case to measure", file=dataset.source, expected="labelled cases", remedy="check the split")
    return found


def _add(tally: _Tally, seen: Visit, task: Task | None, cases: int, rng: np.random.Generator) -> None:
    """Measure one case, in canonical orientation."""
    if seen.image is None or seen.labels is None or seen.facts is None:
        return
    turn = seen.image.grid.canonical_turn()
    image, labels = seen.image.turned(turn), seen.labels.turned(turn)
    voxels = np.array(seen.voxels, dtype=np.int64)
    tally.records.append(_record(image, seen.facts, voxels, seen.image.grid.orientation))
    tally.foreground += int(voxels[1:].sum())
    sample = _foreground(image, labels, max(1, _INTENSITIES // cases), rng)
    if sample is not None:
        tally.samples.append(sample[0])
        tally.extremes.append(sample[1])
    if len(tally.voxels) <= CLASSES:
        for value, count in zip(seen.labels.values[1:].tolist(), voxels[1:].tolist(), strict=True):
            tally.voxels[value] += count
            tally.cases[value] += count > 0
    likely = task == "instance" or (task is None and seen.facts.ids.broken <= seen.facts.ids.present / 2)
    if likely and seen.facts.ids.present:
        tally.objects.append(sample_objects(labels, voxels, rng, sizes=max(1, _SIZES // cases),
                                            shapes=max(1, _SHAPES // cases)))


def _record(image: Image, facts: Facts, voxels: npt.NDArray[np.int64], stored: str) -> CaseRecord:
    shape = image.grid.shape
    cropped = _nonzero_shape(image)
    relative = float(np.prod(np.array(cropped) / np.array(shape)))
    return CaseRecord(
        id=facts.id, group=facts.group, shape=shape, cropped=cropped, relative_size=relative,
        spacing=image.grid.spacing, orientation=stored, dtype=facts.dtype,
        foreground=float(voxels[1:].sum() / max(int(voxels.sum()), 1)), ids=facts.ids.present,
        bytes=int(image.array.dtype.itemsize * np.prod(image.array.shape, dtype=np.int64)),
    )


def _nonzero_shape(image: Image) -> tuple[int, ...]:
    """Sides of the box around voxels that are not 0 in any channel; the whole image if all are 0."""
    mask = np.zeros(image.grid.shape, dtype=bool)
    for channel in image.array:
        mask |= np.asarray(channel) != 0
    return tuple(side.stop - side.start for side in box_of(mask))


def _foreground(image: Image, labels: Labels, size: int, rng: np.random.Generator
                ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]] | None:
    """``size`` foreground intensities with replacement, (C, size), and each channel's extremes, (C, 2)."""
    mask = labels.array > 0
    count = int(np.count_nonzero(mask))
    if not count:
        return None
    picks = rng.integers(0, count, size)
    sample = np.empty((len(image.channels), size), dtype=np.float32)
    extremes = np.empty((len(image.channels), 2))
    for number in range(len(image.channels)):
        values = np.asarray(image.array[number])[mask]
        sample[number] = values[picks]
        extremes[number] = values.min(), values.max()
    return sample, extremes


def _concluded(dataset: Dataset, tally: _Tally, facts: Sequence[Facts], task: tuple[Task, str], seed: int
               ) -> Fingerprint:
    """The fingerprint of everything seen."""
    names = facts[0].channels
    objects = _object_statistics(tally, facts) if task[0] == "instance" and tally.objects else None
    notes = []
    if objects and objects.anisotropy and facts[0].unit == "px" and not 0.8 <= objects.anisotropy <= 1.25:
        notes.append(f"no voxel size is known; the objects' boxes suggest a z spacing of {objects.anisotropy:.2f} "
                     "in-plane pixels (give --spacing)")
    left = len(dataset) - len(tally.records)
    notes += [f"{counted(left, 'case')} outside train and val: not measured"] * bool(left)
    return Fingerprint(
        source=dataset.source, seed=seed, unit=facts[0].unit, is_rgb=names == COLOURS,
        task=task[0], task_reason=task[1], cases=tuple(sorted(tally.records, key=lambda r: r.id)),
        channels=_channels(tally, names), classes=_classes(dataset, tally, task[0]), objects=objects,
        relative_size=float(np.median([r.relative_size for r in tally.records])),
        foreground=float(np.mean([r.foreground for r in tally.records])),
        ignore_value=dataset.about.ignore_value, notes=tuple(notes),
        object_classes=_object_classes(facts) if task[0] == "instance" else (),
    )


def _channels(tally: _Tally, names: Sequence[str]) -> tuple[ChannelStatistics, ...]:
    if not tally.samples:
        return tuple(ChannelStatistics(name=n) for n in names)
    pooled = np.concatenate(tally.samples, axis=1)
    extremes = np.array(tally.extremes)
    found = []
    for number, name in enumerate(names):
        values = pooled[number].astype(np.float64)
        low, median, high = np.percentile(values, (0.5, 50, 99.5))
        found.append(ChannelStatistics(
            name=name, mean=float(values.mean()), median=float(median), std=float(values.std()), low=float(low),
            high=float(high), minimum=float(extremes[:, number, 0].min()), maximum=float(extremes[:, number, 1].max()),
        ))
    return tuple(found)


def _classes(dataset: Dataset, tally: _Tally, task: Task) -> tuple[ClassRecord, ...]:
    if task == "instance":
        return (ClassRecord(name="object", value=1, voxels=tally.foreground,
                            cases=sum(r.ids > 0 for r in tally.records)),)
    names: dict[int, str] = {value: name for name, value in dataset.about.classes}
    known = dataset.about.known_values - {0, dataset.about.ignore_value}  # those of regions have no name of their own
    values = sorted(known | {v for v, n in tally.voxels.items() if n})
    return tuple(ClassRecord(name=names.get(v, f"class {v}"), value=v, voxels=tally.voxels[v], cases=tally.cases[v])
                 for v in values)


def _object_classes(facts: Sequence[Facts]) -> tuple[ObjectClassRecord, ...]:
    objects = Counter(v for f in facts for v in f.classes)
    cases = Counter(v for f in facts for v in set(f.classes))
    return tuple(ObjectClassRecord(value=v, objects=objects[v], cases=cases[v]) for v in sorted(objects))


def _object_statistics(tally: _Tally, facts: Sequence[Facts]) -> ObjectStatistics:
    pool = joined(tally.objects)
    total = max(pool.count, 1)

    def spread(values: Any) -> Spread:
        return Spread(**spread_of(values))

    return ObjectStatistics(
        count=pool.count, measured=pool.radius.size, per_case=spread([float(r.ids) for r in tally.records]),
        diameter=spread(pool.diameter), diameter_px=spread(pool.diameter_px),
        extent_px=tuple(spread(pool.extent[:, a]) for a in range(pool.extent.shape[1])),
        inscribed_radius=spread(pool.radius), elongation=spread(pool.elongation), fill=spread(pool.fill),
        elongated=float(np.mean(pool.elongation >= _ELONGATED)), touching=pool.touching / total,
        at_border=pool.border / total, split=sum(f.ids.split for f in facts) / total,
        single_voxel=sum(f.ids.single for f in facts) / total, anisotropy=anisotropy_of(pool.extent),
        solidity=spread(pool.solidity), star_convexity=spread(pool.star),
        star_convex=float(np.mean(pool.star >= _STAR_CONVEX)), contact=pool.contacts / max(pool.faces, 1),
        density=1e6 * pool.count / max(pool.voxels, 1),
    )
