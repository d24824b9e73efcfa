"""Instance metrics by sparse counting beside StarDist's dense matching: time and peak memory, paired in one run.

    python benchmarks/instance_metrics.py [--repeats 3] [--json benchmarks/results/instance_metrics.json]

Each measurement is a process of its own in one thread: it draws the same labels, warms its compiled parts on a corner
of them, notes its memory, and then counts once. Seconds are those of the processor, which other work on the machine
does not lengthen. ``matching`` is 12 544 objects in 4096 x 4096 pixels at 10 thresholds, ours and StarDist's by turns;
ratios are medians over the turns. ``sparse`` is 100 000 x 100 000 objects, ours alone, by metric. StarDist's matrices
take about 4 GB: with less than 8 GB free it is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil

CASES = {"matching": ((112, 112), 36, 4096), "sparse": ((250, 400), 16, None)}
METRICS = ("counts", "matches", "aji", "challenge", "splits", "partition", "coco")
NEEDED = 8 * 2**30


def labels(case):
    """Discs on a grid, and a prediction of them moved, swollen, lost and merged."""
    (rows, columns), cell, side = CASES[case]
    shape = (side, side) if side else (rows * cell, columns * cell)
    rng = np.random.default_rng([7])
    truth, found = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    axis = np.arange(cell) - (cell - 1) / 2
    distance = np.hypot(axis[:, None], axis)
    for k in range(rows * columns):
        place = tuple(slice(c * cell, (c + 1) * cell) for c in divmod(k, columns))
        truth[place][distance < 0.42 * cell] = k + 1
        if case == "sparse" or rng.random() < 0.97:
            moved = np.roll(distance, rng.integers(-cell // 8, cell // 8 + 1, 2), (0, 1))
            found[place][moved < rng.uniform(0.34, 0.44) * cell] = k if k % 50 == 1 and case == "matching" else k + 1
    if case == "sparse":
        found = np.roll(found, (1, 3), (0, 1))  # every object meets its neighbours too
        found[:, ::cell] = 0
    return truth, found


def ours(truth, found, corner):
    from biosegkit.kernels.overlap import overlap_counts
    from biosegkit.metrics import count_matches

    count_matches(overlap_counts(truth[corner], found[corner]))
    yield
    counts = count_matches(overlap_counts(truth, found))
    yield [counts.tp[k] for k in range(10)]


def stardist(truth, found, corner):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from stardist.matching import matching
    thresholds = tuple(k / 20 for k in range(10, 20))
    matching(truth[corner], found[corner], thresh=thresholds)
    yield
    yield [int(m.tp) for m in matching(truth, found, thresh=thresholds)]


def sparse(truth, found, corner):
    """Every metric in turn: seconds each."""
    from biosegkit import metrics
    from biosegkit.kernels.overlap import overlap_counts

    def run(truth, found):
        seconds, overlaps = {}, None
        steps = {
            "counts": lambda: overlap_counts(truth, found),
            "matches": lambda: metrics.count_matches(overlaps),
            "aji": lambda: metrics.aggregated_jaccard(overlaps),
            "challenge": lambda: metrics.tracking_challenge_counts(overlaps),
            "splits": lambda: metrics.split_merge_counts(overlaps),
            "partition": lambda: metrics.partition_sums(overlaps),
            "coco": lambda: metrics.coco_detections(overlaps, overlaps.area_b / 1e3, most=None).mean_ap(),
        }
        for name in METRICS:
            started = time.process_time()
            result = steps[name]()
            seconds[name] = time.process_time() - started
            overlaps = result if name == "counts" else overlaps
        return {**seconds, "objects": [overlaps.ids_a.size, overlaps.ids_b.size], "pairs": len(overlaps.pairs)}

    run(truth[corner], found[corner])
    yield
    yield run(truth, found)


def child(what, case):
    """Measure one thing and print it."""
    truth, found = labels(case)
    steps = {"ours": ours, "stardist": stardist, "sparse": sparse}[what](truth, found, np.s_[:160, :160])
    next(steps)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    before = psutil.Process().memory_info().rss
    wall, processor = time.perf_counter(), time.process_time()
    result = next(steps)
    seconds, wall = time.process_time() - processor, time.perf_counter() - wall
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    added = max(peak - before, 0)
    print(json.dumps({"seconds": seconds, "wall_seconds": wall, "added_bytes": added, "result": result}))


def measure(what, case):
    one_core = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--child", what, case]
    done = subprocess.run(command, env=one_core, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    record = {
        "machine": f"{platform.machine()}, one core of {os.cpu_count()}", "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("biosegkit", "numpy", "numba", "scipy", "stardist")},
    }
    turns = []
    for _ in range(options.repeats):
        turn = {"ours": measure("ours", "matching")}
        if psutil.virtual_memory().available >= NEEDED:
            turn["stardist"] = measure("stardist", "matching")
            turn["same"] = turn["ours"]["result"] == turn["stardist"]["result"]
        turns.append(turn)
        print(json.dumps(turn), flush=True)
    record["matching"] = {"objects": 112 * 112, "pixels": 4096**2, "thresholds": 10, "turns": turns}
    pairs = [turn for turn in turns if "stardist" in turn]
    if pairs:
        for key in ("seconds", "added_bytes"):
            ratios = [turn["stardist"][key] / turn["ours"][key] for turn in pairs]
            record["matching"][f"{key}_ratio"] = statistics.median(ratios)
            print(f"{key}: StarDist takes {statistics.median(ratios):.1f} times ours (median of {len(ratios)} turns)")
    else:
        print("StarDist was left out: too little memory is free.")
    record["sparse"] = [measure("sparse", "sparse") for _ in range(options.repeats)]
    print("100 000 x 100 000: median", statistics.median(r["seconds"] for r in record["sparse"]), "s for all metrics;",
          {m: round(statistics.median(r["result"][m] for r in record["sparse"]), 3) for m in METRICS})
    if options.json:
        Path(options.json).write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
