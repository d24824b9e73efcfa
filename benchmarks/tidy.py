"""How long does post-processing take, beside scipy, scikit-image and Cellpose on the same labels?

Discs (2D) and balls (3D) side by side with holes and fragments: holes filled, the largest piece of each object kept,
objects at the border left out, all renumbered. scipy and scikit-image do the same job, object by object within its box
as is usual; Cellpose's function (`fill_holes_and_remove_small_masks`, if the package is installed) fills and renumbers
only, plane by plane, and makes no table of objects. They take turns in one process; the median of several, in processor
seconds.

    OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python benchmarks/tidy.py --json benchmarks/results/tidy.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage.segmentation import relabel_sequential

from biosegkit.tidy import Frame, TidyObjects, tidy_objects

TIDY = {"fill": TidyObjects(fill_holes=True), "largest": TidyObjects(split="largest"),
        "border": TidyObjects(border_objects="remove"),
        "all three": TidyObjects(split="largest", fill_holes=True, border_objects="remove")}


def crowd(shape: tuple[int, ...], pitch: int) -> np.ndarray:
    """Balls that nearly touch, each with a hole, some with a crumb in the gap between four of them."""
    at = np.indices(shape)
    cell = np.zeros(shape, np.int64)
    for axis, n in enumerate(shape):
        cell = cell * (n // pitch + 1) + at[axis] // pitch
    off = np.sqrt(sum((a % pitch - pitch / 2) ** 2 for a in at))
    labels = np.where((off < 0.46 * pitch) & (off > 0.12 * pitch), cell + 1, 0)
    crumb = np.all([a % pitch < 2 for a in at], axis=0) & (cell % 3 == 0)
    return np.where(crumb, cell + 1, labels).astype(np.uint32)


def by_object(labels: np.ndarray, tidy: TidyObjects) -> np.ndarray:
    """The same with scipy and scikit-image, object by object in its box."""
    out, full = labels.copy(), np.ones((3,) * labels.ndim)
    for k, box in enumerate(ndimage.find_objects(labels), 1):
        if box is None:
            continue
        mask = labels[box] == k
        if tidy.split == "largest":
            pieces, count = ndimage.label(mask, full)
            if count > 1:
                best = 1 + np.argmax(np.bincount(pieces[mask])[1:])
                out[box][mask & (pieces != best)] = 0
                mask = pieces == best
        if tidy.fill_holes:
            out[box][ndimage.binary_fill_holes(mask) & (out[box] == 0)] = k
    if tidy.border_objects == "remove":
        sides = [np.unique(out.take(place, axis)) for axis in range(out.ndim) for place in (0, -1)]
        out[np.isin(out, np.unique(np.concatenate(sides)))] = 0
    return relabel_sequential(out)[0]


def cellpose(labels: np.ndarray) -> np.ndarray:
    """Holes by Cellpose."""
    from cellpose.utils import fill_holes_and_remove_small_masks

    return fill_holes_and_remove_small_masks(labels.astype(np.int32), min_size=0)


def taken(work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Processor seconds and result."""
    begun = time.process_time()
    found = work()
    return time.process_time() - begun, found


def measured(labels: np.ndarray, name: str, tidy: TidyObjects, repeats: int) -> dict[str, object]:
    """One row: seconds of every way, and whether ours and scipy's leave the same voxels and as many objects."""
    ways: dict[str, Callable[[], np.ndarray]] = {
        "biosegkit": lambda: tidy_objects(labels, tidy, Frame.whole(labels.shape))[0],
        "scipy and scikit-image": lambda: by_object(labels, tidy)}
    if name == "fill" and importlib.util.find_spec("cellpose"):
        ways["cellpose"] = lambda: cellpose(labels)
    spent: dict[str, list[float]] = {way: [] for way in ways}
    found: dict[str, np.ndarray] = {}
    for _ in range(repeats + 1):
        for way, work in ways.items():
            seconds, found[way] = taken(work)
            spent[way].append(seconds)
    ours, theirs = found["biosegkit"], found["scipy and scikit-image"]
    return {"shape": list(labels.shape), "objects": int(len(np.unique(labels)) - 1), "job": name,
            "same": bool(np.array_equal(ours > 0, theirs > 0) and ours.max() == theirs.max()),
            "seconds": {way: round(statistics.median(s[1:]), 4) for way, s in spent.items()}}  # the first compiles


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--depth", type=int, default=64)
    parser.add_argument("--pitch", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for shape in ((args.size, args.size), (args.depth, args.size // 8, args.size // 8)):
        labels = crowd(shape, args.pitch)
        for name, tidy in TIDY.items():
            rows.append(measured(labels, name, tidy, args.repeats))
            print(json.dumps(rows[-1]), flush=True)
    if args.json:
        record = {"machine": f"{platform.machine()}, one thread", "rows": rows}
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
