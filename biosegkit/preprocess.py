"""Cases to training samples, kept in a store whose keys say what they were made from.

A sample is made once per (files, preprocessing plan, format) and read again afterwards; a damaged one is made anew
(fault F9).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ._atomic import atomic_folder, load_npy, read_json, sha256, write_json, write_npy
from .cases import Case, Dataset
from .description import Description
from .errors import DataError, FileError
from .image import Image, Labels
from .object_classes import ClassVotes
from .patches import Sample, annotated_voxels, foreground_voxels
from .plan.schema import Plan
from .prepared import prepare
from .resample import resample_labels

__all__ = ["FORMAT", "load_or_make", "make_sample", "sample_key"]

#: Changed whenever stored arrays would differ.
FORMAT = 2

Array = npt.NDArray[Any]


def load_or_make(dataset: Dataset, cases: Sequence[Case], plan: Plan, store: Path,
                 progress: Callable[[int, int], None] | None = None) -> list[Sample]:
    """Samples of the cases, from the store where it has them.

    Parameters
    ----------
    dataset, cases : Dataset, sequence of Case
        Where to read, and what.
    plan : Plan
        Its preprocessing part is part of the key.
    store : Path
        Folder of samples; made if missing.
    progress : callable, optional
        Called with (done, all).
    """
    found = []
    for i, case in enumerate(cases):
        folder = store / sample_key(case, plan, dataset.about)
        try:
            sample = _load(folder, case)
        except FileError:
            shutil.rmtree(folder, ignore_errors=True)
            image, labels = dataset.load(case, plan.labels.task)
            votes = dataset.load_classes(case, image, labels) if plan.labels.object_values else None
            sample = make_sample(image, labels, plan, case.id, votes)
            _save(folder, sample)
        found.append(sample)
        if progress:
            progress(i + 1, len(cases))
    return found


def sample_key(case: Case, plan: Plan, about: Description) -> str:
    """Name of a sample's folder: hash of file contents, how they are read, preprocessing plan and format."""
    read_as = f"{about.model_dump_json()} {sorted(case.attributes.items())}"
    digest = hashlib.sha256(f"{FORMAT} {case.id} {plan.preprocessing_hash} {plan.seed} {read_as}".encode())
    classes = case.classes if plan.labels.object_values else None
    for path in (p for p in (*case.images, case.labels, classes) if p):
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            digest.update(sha256(file).encode())
    return digest.hexdigest()[:24]


def make_sample(image: Image, labels: Labels, plan: Plan, case: str, votes: ClassVotes | None = None) -> Sample:
    """Turn, crop, normalise and resample one case; ``votes`` are the classes of its objects.

    Raises
    ------
    DataError
        If the image holds NaN or infinite voxels (fault V1), or a label value the plan does not know (L5).
    """
    if image.array.dtype.kind == "f" and not np.isfinite(image.array).all():
        raise DataError("NaN or infinite voxels", file=case, expected="finite numbers",
                        remedy="run doctor on the data set")
    if plan.labels.task == "semantic":
        labels = labels.as_classes(plan.labels.values)
    ready = prepare(image, plan)
    turned = labels.turned(ready.turn)
    array, ignore = turned.array[ready.window], None if turned.ignore is None else turned.ignore[ready.window]
    if array.shape != ready.shape:
        ratio = tuple(n / m for n, m in zip(array.shape, ready.shape, strict=True))
        spacing = turned.grid.spacing
        step = tuple(s * f for s, f in zip(spacing, ratio, strict=True))
        array = resample_labels(array, spacing, step, ready.shape, instance=plan.labels.task == "instance")
        if ignore is not None:
            ignore = resample_labels(ignore.astype(np.uint8), spacing, step, ready.shape, instance=True) > 0
    data = ready.read((0,) * len(ready.shape), ready.shape)
    valid = None if ignore is None or not ignore.any() else ~ignore
    counted = array if valid is None else np.where(valid, array, 0)
    foreground = foreground_voxels(np.asarray(counted), plan.labels.task, plan.seed)
    annotated = None if valid is None else annotated_voxels(valid, plan.seed)
    return Sample(case, data, np.ascontiguousarray(array), valid, foreground, annotated,
                  None if votes is None else votes.numbered(plan.labels.object_values))


def _save(folder: Path, sample: Sample) -> None:
    arrays = {"image": sample.image, "labels": sample.labels}
    if sample.valid is not None:
        arrays["valid"] = sample.valid
    if sample.annotated is not None:
        arrays["annotated"] = sample.annotated
    if sample.classes is not None:
        arrays["classes"] = sample.classes
    arrays |= {f"foreground-{k}": v for k, v in sample.foreground.items()}
    with atomic_folder(folder) as temporary:
        # Not forced onto the disk file by file, which took two thirds of the time for small images: what a power
        # failure spoils has another checksum and is made again.
        sums = {name: write_npy(temporary / f"{name}.npy", a, durable=False) for name, a in arrays.items()}
        write_json(temporary / "sample.json", {"format": FORMAT, "case": sample.case, "crc32": sums})


def _load(folder: Path, case: Case) -> Sample:
    """A stored sample, every array checked against its sum."""
    about = read_json(folder / "sample.json")
    sums = about.get("crc32", {}) if isinstance(about, dict) else {}
    if not {"image", "labels"} <= set(sums):
        raise FileError("an incomplete sample", file=folder, remedy="delete it; it is made again")
    arrays = {name: load_npy(folder / f"{name}.npy", crc=crc) for name, crc in sums.items()}
    foreground = {int(k.split("-")[1]): v for k, v in arrays.items() if k.startswith("foreground-")}
    return Sample(case.id, arrays["image"], arrays["labels"], arrays.get("valid"), foreground, arrays.get("annotated"),
                  arrays.get("classes"))
