"""The doctor: every problem of a data set at once, each with file, found, expected and remedy."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ._words import counted
from .cases import Case, Dataset, on_grid_of, split_notes, trainable
from .errors import BiosegError, DataError, FileError, Problem
from .image import COLOURS, Image, Labels, Task
from .io.arrange import NO_SIZE
from .io.colours import DRAWN
from .io.sniff import ending
from .label_problems import (
    label_problems,
    labels_to_check,
    mixed_problems,
    object_problems,
    refused_colours,
    thin_values,
)
from .object_classes import class_problems, vote_problems
from .pictures import digest, is_labels, neighbour_correlations, noise_problems
from .splits import group_problems
from .task_choice import IdCounts, choose_task, count_ids

__all__ = ["Facts", "Visit", "check_case", "compare", "diagnose", "image_problems", "refuse", "task_of", "visit"]

#: Words in a reader's error or note → row of the fault list; the first that occurs decides.
_CODES = (
    ("or cut", "F1"), ("a loop", "F6"), ("more than", "F6"), ("damaged", "F2"), ("chunks", "F3"), ("at offset", "F1"),
    ("dimensions [", "V12"),
    ("fractional", "L3"), ("negative label", "L4"), ("label values", "L5"), ("coloured labels", "V9"),
    ("in JPEG, which", "L11"), ("channels of labels", "V9"), ("voxels of type", "V8"), ("labels of type", "L3"),
    ("time point", "V10"), ("empty axis", "V12"), ("unknown meaning", "V10"), ("spatial ax", "V10"),
    ("right angles", "G4"), ("the affine is used", "G3"), ("qform", "G3"), ("sform", "G3"), ("pixdim", "G6"),
    ("pixel size", "G6"), ("spacing", "G6"), ("unit", "G6"), ("metres", "G6"), ("affine", "G6"), ("alpha", "V9"),
    ("RGB", "V9"), ("palette", "V9"), ("colour", "V9"), ("channel", "D2"), ("mask", "L10"), ("by index", "G2"),
    ("empty file", "F4"), ("content", "F4"), ("GiB", "F5"), ("claims", "F5"), ("page", "V10"), ("images", "V10"),
)

#: Largest number of classes.
CLASSES = 4096


@dataclass(frozen=True)
class Facts:
    """What is kept of a case that was read: enough to compare cases, whatever their size.

    ``classes`` has the class of every object that has one, ``neighbours`` the correlation of neighbouring voxels of
    every channel, ``thin`` the number of values that are lines and specks.
    """

    id: str
    group: str
    split: str | None
    file: str
    shape: tuple[int, ...]
    channels: tuple[str, ...]
    spacing: tuple[float, ...]
    unit: str
    dtype: str
    digest: str
    notes: tuple[str, ...]
    ids: IdCounts
    values: tuple[int, ...]
    classes: tuple[int, ...] = ()
    neighbours: tuple[float, ...] = ()
    thin: int = 0


@dataclass(frozen=True, eq=False)
class Visit:
    """One case read once: its problems, and what was read unless an error forbids its use.

    ``voxels`` counts the voxels of every canonical number of ``labels``.
    """

    problems: tuple[Problem, ...]
    facts: Facts | None = None
    image: Image | None = None
    labels: Labels | None = None
    voxels: tuple[int, ...] = ()


def diagnose(dataset: Dataset, *, progress: Callable[[int, int], None] | None = None) -> list[Problem]:
    """Every problem of a data set; cases are read one after the other and forgotten.

    Parameters
    ----------
    dataset : Dataset
        What :func:`biosegkit.scan` found.
    progress : callable, optional
        Called with (cases done, cases) after each.

    Returns
    -------
    list of Problem
        Errors first.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from biosegkit.cases import scan
    >>> from biosegkit.grid import Grid
    >>> from biosegkit.io import write
    >>> grid = Grid.regular((8, 8), 0.5, "um")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Image(np.arange(64, dtype=np.uint8).reshape(1, 8, 8), grid), folder + "/images/a.tif")
    ...     write(Labels.from_values(np.zeros((8, 8), np.uint8), grid, "semantic"), folder + "/labels/a.tif")
    ...     [(found.code, found.found) for found in diagnose(scan(folder)) if found.severity == "error"]
    [('L7', 'no foreground in any case')]
    """
    problems: list[Problem] = []
    facts: list[Facts] = []
    for number, case in enumerate(dataset, 1):
        seen = visit(dataset, case)
        problems += seen.problems
        facts += [seen.facts] if seen.facts else []
        if progress:
            progress(number, len(dataset))
    return ordered([*problems, *compare(dataset, facts)])


def check_case(dataset: Dataset, case: Case, task: Task | None = None) -> list[Problem]:
    """The problems of one case alone; ``task`` adds what matters for objects only (L10)."""
    seen = visit(dataset, case)
    notes = _note_problems([seen.facts]) if seen.facts else []
    objects = object_problems([seen.facts]) if seen.facts and task == "instance" else []
    return ordered([*seen.problems, *notes, *objects])


def refuse(problems: Iterable[Problem]) -> None:
    """Stop if any problem is an error.

    Raises
    ------
    DataError
        Listing all errors, one per line.
    """
    errors = [p for p in problems if p.severity == "error"]
    if errors:
        listing = "\n".join(f"  {p}" for p in errors)
        raise DataError(f"{counted(len(errors), 'problem')}:\n{listing}\n",
                        remedy="biosegkit doctor lists them again, with warnings")


def task_of(dataset: Dataset, facts: Sequence[Facts], task: Task | None = None) -> tuple[Task, str]:
    """Objects or classes, and why: what is asked for, else what is described, else what the labels look like."""
    if stated := stated_task(dataset, task):
        return stated
    inside = {c.id for c in trainable(dataset)}
    used = [f for f in facts if f.id in inside]
    return choose_task([f.ids for f in used], list(Counter(v for f in used for v in f.values).values()))


def stated_task(dataset: Dataset, task: Task | None = None) -> tuple[Task, str] | None:
    """Objects or classes, and why, where the user or the form of the data says it; None if labels must be looked at."""
    if task or dataset.about.task:
        return task or dataset.about.task or "semantic", "as asked for" if task else "as described"
    if any(c.labels is not None and c.labels.is_dir() and not ending(c.labels) for c in dataset):
        return "instance", "one mask file per object"
    if any(c.classes is not None for c in dataset):
        return "instance", "class images beside the labels"
    if dataset.about.labels:
        return "semantic", "classes are named in the description"
    return None


def ordered(problems: Iterable[Problem]) -> list[Problem]:
    """Errors before warnings, otherwise as they come."""
    return sorted(problems, key=lambda p: p.severity != "error")


def visit(dataset: Dataset, case: Case) -> Visit:
    """Read a case and check what can be checked without the others."""
    file = str(case.images[0])
    try:
        image = dataset.load_image(case)
    except BiosegError as error:
        return Visit((_from_error(case, file, error),))
    problems = image_problems(image, case.id, file)
    try:
        labels = labels_to_check(dataset, case)
    except BiosegError as error:
        code = "D1" if case.labels is None else None
        return Visit((*problems, _from_error(case, file, error, code)))
    try:
        labels = on_grid_of(image, labels, trust_index=dataset.about.trust_index)
    except DataError as error:
        code = "G1" if image.grid.shape != labels.grid.shape else "G2"
        return Visit((*problems, _from_error(case, file, error, code)))
    try:
        votes = dataset.load_classes(case, image, labels)
    except BiosegError as error:
        code = "G1" if "of shape" in error.found else None
        return Visit((*problems, _from_error(case, str(case.classes), error, code)))
    ids, voxels = count_ids(labels)
    values = tuple(int(v) for v, n in zip(labels.values, voxels, strict=True) if n and v)
    if is_labels(image, labels):
        problems.append(Problem("D1", "warning", case.id, file, "the numbers of its own labels", "a picture",
                                "a label file may stand where the image should: put the image there"))
    problems += label_problems(dataset, case, ids, values) + vote_problems(case.id, str(case.classes), votes)
    facts = Facts(case.id, case.group, case.split, file, image.grid.shape, image.channels, image.grid.spacing,
                  image.grid.unit, str(image.array.dtype), digest(image),
                  tuple(dict.fromkeys((*image.notes, *labels.notes))), ids, values,
                  () if votes is None else tuple(int(v) for v in votes.values if v), neighbour_correlations(image),
                  thin_values(labels, voxels))
    if any(p.severity == "error" for p in problems):
        return Visit(tuple(problems), facts)
    return Visit(tuple(problems), facts, image, labels, tuple(int(n) for n in voxels))


def image_problems(image: Image, case: str = "", file: str = "") -> list[Problem]:
    """V1, V4, V12 of one image.

    Examples
    --------
    >>> from biosegkit.grid import Grid
    >>> image = Image(np.array([[[np.nan, 1.0]], [[4.0, 4.0]]]), Grid.regular((1, 2)))
    >>> [(p.code, p.severity) for p in image_problems(image)]
    [('V1', 'error'), ('V4', 'warning'), ('V12', 'warning')]
    """
    found: list[Problem] = []
    for number, name in enumerate(image.channels):
        channel = np.asarray(image.array[number])
        if channel.dtype.kind == "f" and not np.isfinite(channel).all():
            bad = ~np.isfinite(channel)
            first = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
            found.append(Problem("V1", "error", case, file, f"{int(bad.sum())} NaN or infinite voxels in {name}, "
                                 f"first at {first}", "finite numbers", "repair the image or remove the case"))
        elif channel.min() == channel.max():
            found.append(Problem("V4", "warning", case, file, f"a constant {name} (every voxel {channel.flat[0]})",
                                 "an image with contrast", "check the export; it is normalised to zeros"))
    if 1 in image.grid.shape:
        found.append(Problem("V12", "warning", case, file, f"shape {image.grid.shape}, one voxel thick",
                             "several voxels along every axis", "a 2D network is planned, or the axis is padded"))
    return found


def _from_error(case: Case, file: str, error: BiosegError, code: str | None = None) -> Problem:
    if code is None:
        fallback = "F1" if isinstance(error, FileError) else "V10"
        code = next((c for word, c in _CODES if word in error.found), fallback)
    return Problem(code, "error", case.id, error.file or file, error.found, error.expected, error.remedy)


def compare(dataset: Dataset, facts: Sequence[Facts], task: Task | None = None) -> list[Problem]:
    """Problems that only show when cases are compared: D2 to D5, G6, G7, L7, L10, L11, V13, and the readers' notes."""
    found = [*dataset.problems, *(Problem("D1", "warning", "", dataset.source, note, "", "check which files are used")
                                  for note in dataset.notes)]
    if not facts:
        return found
    task = task or task_of(dataset, facts)[0]
    found += _kind_problems(dataset, facts) + _twin_problems(facts) + _spacing_problems(facts)
    refused = refused_colours(dataset, facts) if task != "instance" else []
    found += _name_problems(facts) + noise_problems(facts) + _note_problems(facts, but=DRAWN if refused else NO_SIZE)
    if not any(f.ids.present for f in facts):
        found.append(Problem("L7", "error", "", dataset.source, "no foreground in any case", "labelled voxels",
                             "check the labels, --map and the ignore value"))
    if task == "instance":
        found += object_problems(facts)
    elif refused:
        found += [_from_error(case, str(case.labels), error) for case, error in refused]
    elif (values := len({v for f in facts for v in f.values})) > CLASSES:
        found.append(Problem("L5", "error", "", dataset.source, counted(values, "different label value"),
                             f"at most {CLASSES} classes", "--task instance if the values are objects"))
    else:
        found += mixed_problems(facts, dataset.source)
    without = [c.id for c in dataset if c.classes is None]
    if len(without) < len(dataset):
        found += class_problems(dataset.source, task, without, sorted({v for f in facts for v in f.classes}))
    found += [Problem("D4", "warning", "", dataset.source, note, "more groups", "annotate more cases, or say --group")
              for note in split_notes(dataset, 2) if "single group" in note]
    return found + group_problems(dataset, dataset.source)


def _kind_problems(dataset: Dataset, facts: Sequence[Facts]) -> list[Problem]:
    """D2: channel counts, channel names, dimensions; G6: units that do not compare."""
    kinds: dict[str, list[str]] = {}
    for f in facts:
        colours = ", colours" * (f.channels == COLOURS)
        kinds.setdefault(f"{len(f.shape)}D, {counted(len(f.channels), 'channel')}{colours}", []).append(f.id)
    found: list[Problem] = []
    if len(kinds) > 1:
        columns = sorted({c for case in dataset for c in case.attributes} - {"image", "label", "case"})
        choice = f" (--where, columns {', '.join(columns)})" if columns else ""
        if any("colours" in kind for kind in kinds):
            choice += "; --channels red,green,blue reads grey RGB images as colours"
        found.append(Problem("D2", "error", "", dataset.source, f"{len(kinds)} kinds of images: " + _table(kinds),
                             "one number of dimensions and channels",
                             f"select one kind or convert the others{choice}"))
    names: dict[str, list[str]] = {}
    for f in facts:
        names.setdefault(", ".join(f.channels), []).append(f.id)
    if len(names) > 1 and len(kinds) == 1:
        exchanged = len({tuple(sorted(f.channels)) for f in facts}) < len(names)
        found.append(Problem("D2", "error" if exchanged else "warning", "", dataset.source,
                             "unlike channel names: " + _table(names), "the same channels in the same order",
                             "name the channels in dataset.json, once they are in one order"))
    units: dict[str, list[str]] = {}
    for f in facts:
        units.setdefault(f.unit, []).append(f.id)
    if len(units) > 1:
        found.append(Problem("G6", "error", "", dataset.source, "several units of length: " + _table(units),
                             "one unit (px where the size is not known)", "give --spacing and --unit, or fill columns "
                             "spacing and unit of a table"))
    elif "px" in units:
        found.append(Problem("G6", "warning", "", dataset.source, f"no physical size in {counted(len(facts), 'case')}",
                             "a pixel size", _no_size_remedy(facts)))
    return found


def _no_size_remedy(facts: Sequence[Facts]) -> str:
    """What to do without a physical size: volumes need the distance of their planes, too."""
    if any(len(f.shape) == 3 for f in facts):
        return "voxels are taken as cubes of 1 px; --spacing Z,Y,X --unit um gives the distances"
    return "lengths are in pixels; --pixel-size 0.5 gives the distance in um"


def _table(kinds: dict[str, list[str]]) -> str:
    return "; ".join(f"{len(ids)} × [{kind}] ({', '.join(ids[:3])}{', …' * (len(ids) > 3)})"
                     for kind, ids in sorted(kinds.items(), key=lambda item: -len(item[1])))


def _twin_problems(facts: Sequence[Facts]) -> list[Problem]:
    """D3: the same voxels under two names; one group on both sides of a split."""
    found: list[Problem] = []
    same: dict[str, list[Facts]] = {}
    for f in facts:
        same.setdefault(f.digest, []).append(f)
    for twins in same.values():
        if len(twins) > 1:
            leak = " in different groups, so that a split may part them" * (len({t.group for t in twins}) > 1)
            names = ", ".join(t.id for t in twins)
            found.append(Problem("D3", "warning", twins[0].id, twins[0].file, f"the same image as {names}{leak}",
                                 "different images", "remove the copies, or give them one group"))
    splits: dict[str, set[str]] = {}
    for f in facts:
        splits.setdefault(f.group, set()).update([f.split] if f.split else [])
    for group, sides in splits.items():
        if len(sides) > 1:
            found.append(Problem("D3", "warning", group, "", f"group {group} in splits {', '.join(sorted(sides))}",
                                 "one group in one split", "correct the column split"))
    return found


def _spacing_problems(facts: Sequence[Facts]) -> list[Problem]:
    """G7: a spacing more than four times off the data set's median."""
    found: list[Problem] = []
    for ndim in {len(f.spacing) for f in facts}:
        inside = [f for f in facts if len(f.spacing) == ndim]
        # Sorted per case, so that files with exchanged axes compare: this is about units, not about orientation.
        sizes = np.array([sorted(f.spacing) for f in inside])
        median = np.median(sizes, axis=0)
        for f, size in zip(inside, sizes, strict=True):
            if (size > 4 * median).any() or (4 * size < median).any():
                typical = ", ".join(f"{m:.4g}" for m in median)
                found.append(Problem("G7", "warning", f.id, f.file, f"spacing {f.spacing} {f.unit}",
                                     f"within 4 times the data set's median (sorted: {typical})",
                                     "check the unit of the header (µm written as mm?)"))
    return found


def _name_problems(facts: Sequence[Facts]) -> list[Problem]:
    """D5: names that are one name where case does not count."""
    names: dict[str, list[str]] = {}
    for f in facts:
        names.setdefault(f.id.casefold(), []).append(f.id)
    return [Problem("D5", "warning", ids[0], "", f"ids that differ in upper and lower case only: {', '.join(ids)}",
                    "names that differ on every system", "rename before the run is moved to Windows or macOS")
            for ids in names.values() if len(ids) > 1]


def _note_problems(facts: Sequence[Facts], but: str = NO_SIZE) -> list[Problem]:
    """What readers repaired: one warning per kind of note, with the number of cases; what is told else is left out."""
    kinds: dict[str, list[tuple[Facts, str]]] = {}
    for f in facts:
        for note in f.notes:
            if not note.startswith((but, NO_SIZE)):
                kinds.setdefault(re.sub(r"[\d.]+", "#", note), []).append((f, note))
    found = []
    for hits in kinds.values():
        first, note = hits[0]
        more = f" (and {counted(len(hits) - 1, 'more case')})" if len(hits) > 1 else ""
        code = next((c for word, c in _CODES if word in note), "F4")
        found.append(Problem(code, "warning", first.id, first.file, note + more, "", "accepted; recorded in the run"))
    return found
