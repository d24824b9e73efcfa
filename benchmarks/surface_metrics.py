"""HD, HD95, ASSD and NSD of two masks: ours in one call beside MONAI, medpy, surface-distance and scipy, paired.

    python benchmarks/surface_metrics.py [--size 256] [--repeats 3] [--json benchmarks/results/surface_metrics.json]

Two cases: many blobs, and one large organ. Every peer is timed with ours right before it; ``ratio`` is the median of
peer over ours. Memory is the growth of the resident peak of a fresh process over the masks. medpy and surface-distance
do not belong to the development packages: install them beside biosegkit to have them measured; what is missing is said.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import platform
import statistics
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
from scipy import ndimage

from biosegkit.metrics import surface_scores

SPACING, TOLERANCE = (2.5, 0.8, 0.8), 2.0


def blobs(n):
    """Many objects, and the same with a rough border and some false ones."""
    noise = [np.random.default_rng([1, k]).standard_normal((n, n, n), dtype=np.float32) for k in (0, 1)]
    coarse, fine = (ndimage.gaussian_filter(f, n / w, mode="wrap") for f, w in zip(noise, (12, 20), strict=True))
    coarse, fine = coarse / coarse.std(), fine / fine.std()
    return coarse + 0.15 * fine > 0.8, coarse > 0.8


def organ(n):
    """One object that fills most of the image, and a guess at it."""
    z, y, x = np.ogrid[-1 : 1 : n * 1j, -1 : 1 : n * 1j, -1 : 1 : n * 1j]
    wave = np.sin(5 * x) * np.cos(4 * y)
    true = (z / 0.8) ** 2 + (y / 0.75) ** 2 + (x / 0.85) ** 2 + 0.1 * wave < 1
    return (z / 0.78) ** 2 + ((y - 0.02) / 0.77) ** 2 + (x / 0.85) ** 2 + 0.12 * wave * np.cos(3 * z) < 1, true


def ours(found, true):
    scores = surface_scores(found, true, SPACING, tolerance=TOLERANCE)
    return [scores.hausdorff, scores.hausdorff_percentile, scores.assd, scores.nsd]


def subvoxel(found, true):
    scores = surface_scores(found, true, SPACING, tolerance=TOLERANCE, definition="subvoxel")
    return [scores.hausdorff, scores.hausdorff_percentile, scores.assd, scores.nsd]


def monai(found, true):
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
    torch.set_num_threads(1)
    one, two = (torch.from_numpy(mask)[None, None] for mask in (found, true))
    options = {"include_background": True, "spacing": SPACING}
    return [float(v) for v in (
        compute_hausdorff_distance(one, two, **options),
        compute_hausdorff_distance(one, two, percentile=95, **options),
        compute_average_surface_distance(one, two, symmetric=True, **options),
        compute_surface_dice(one, two, class_thresholds=[TOLERANCE], **options))]


def medpy(found, true):
    from medpy.metric import binary
    return [float(f(found, true, SPACING)) for f in (binary.hd, binary.hd95, binary.assd)]


def surface_distance(found, true):
    import surface_distance as sd
    both = sd.compute_surface_distances(true, found, SPACING)
    return [float(v) for v in (
        sd.compute_robust_hausdorff(both, 100), sd.compute_robust_hausdorff(both, 95),
        np.mean(sd.compute_average_surface_distance(both)), sd.compute_surface_dice_at_tolerance(both, TOLERANCE))]


def scipy(found, true):
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (found, true)]
    there, back = (ndimage.distance_transform_edt(~b, SPACING)[a] for a, b in (surfaces, surfaces[::-1]))
    both = np.concatenate([there, back])
    return [float(v) for v in (both.max(), max(np.percentile(there, 95), np.percentile(back, 95)), both.mean(),
                               np.mean(both <= TOLERANCE))]


PEERS = {"monai": (monai, "monai"), "medpy": (medpy, "medpy"), "scipy": (scipy, "scipy"),
         "surface-distance": (surface_distance, "surface_distance"), "ours, subvoxel": (subvoxel, "biosegkit")}
CASES = {"blobs": blobs, "organ": organ}


def seconds(function, masks):
    start = time.perf_counter()
    function(*masks)
    return time.perf_counter() - start


def peak(connection, function, case, size):
    """Growth of the resident peak, in a process of its own, once everything is imported and compiled."""
    warnings.simplefilter("ignore")
    small = np.zeros((2, 8, 8, 8), bool)
    small[0, 2:5, 2:5, 2:5] = small[1, 3:6, 2:5, 2:5] = True
    function(*small)
    masks = CASES[case](size)
    Path("/proc/self/clear_refs").write_text("5")
    before = psutil.Process().memory_info().rss
    function(*masks)
    status = Path("/proc/self/status").read_text()
    high = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    connection.send(high - before)


def extra_memory(function, case, size):
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=peak, args=(sender, function, case, size))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:  # no such file but on Linux, or the peer failed
        return None
    finally:
        process.join()


def measure(case, size, repeats):
    masks = CASES[case](size)
    lines = {"ours": {"scores": ours(*masks), "extra_bytes": extra_memory(ours, case, size)}}
    own = []
    for name, (function, module) in PEERS.items():
        if importlib.util.find_spec(module) is None:
            lines[name] = {"missing": f"{module} is not installed: not measured"}
            print(f"{case:6} {name:17} {lines[name]['missing']}")
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scores = function(*masks)
            pairs = [(seconds(ours, masks), seconds(function, masks)) for _ in range(repeats)]
        own += [a for a, _ in pairs]
        lines[name] = {"scores": scores, "seconds": statistics.median(b for _, b in pairs),
                       "ratio": statistics.median(b / a for a, b in pairs),
                       "extra_bytes": extra_memory(function, case, size)}
    lines["ours"]["seconds"] = statistics.median(own)
    for name, line in lines.items():
        if "scores" in line:
            memory = "?" if line["extra_bytes"] is None else f"{line['extra_bytes'] / 1e6:.0f} MB"
            print(f"{case:6} {name:17} {line['seconds']:7.3f} s  x{line.get('ratio', 1):5.1f}  {memory:>8}  "
                  + " ".join(f"{v:.4f}" for v in line["scores"]), flush=True)
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"{options.size}^3, spacing {SPACING}, one core, {platform.machine()}; columns: seconds, times ours, extra "
          "memory, HD HD95 ASSD NSD")
    cases = {case: measure(case, options.size, options.repeats) for case in CASES}
    if options.json:
        packages = [p for p in ("numpy", "scipy", "numba", "monai", "medpy", "surface-distance")
                    if importlib.util.find_spec(p.replace("-", "_"))]
        record = {"kind": "surface_metrics", "size": options.size, "spacing": SPACING, "repeats": options.repeats,
                  "cores": 1, "machine": platform.machine(), "versions": {p: version(p) for p in packages},
                  "cases": cases}
        options.json.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
