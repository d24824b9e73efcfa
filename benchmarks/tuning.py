"""How many trials of thresholds per second, beside decoding anew for every trial?

Maps are made from true labels: each target is blurred, and smooth noise is added, so that every threshold matters (the
maps of a network that is not yet good). Three ways give the same score for every trial: tables of overlaps (`tune`),
``resolve`` + ``paint`` + comparison from the states of ``local``, and all of that with ``local``. The three take turns
in one process, trial by trial.

    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/tuning.py --data DATA --json benchmarks/results/tuning.json
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from scipy import ndimage

import biosegkit as bsk
from biosegkit.methods import METHODS, Block, Method
from biosegkit.methods.protocol import ArrayDict
from biosegkit.methods.trials import Counter, Held, counter_of, decoding_counter
from biosegkit.metrics.instances import count_matches
from biosegkit.tune import GOALS, grid_values, tune


def noisy(method: Method, labels: np.ndarray, spacing: tuple[float, ...], seed: int) -> ArrayDict:
    """Ideal maps, blurred, with smooth noise."""
    rng = np.random.default_rng(seed)
    space = (0, *(1.5 / s * min(spacing) for s in spacing))
    grain = (0, *(1.0 / s * min(spacing) for s in spacing))
    targets, _ = method.encode(labels, spacing)
    return {name: (ndimage.gaussian_filter(m, space) + 0.35 * ndimage.gaussian_filter(
        rng.standard_normal(m.shape), grain)).astype(np.float32) for name, m in method.ideal(targets).items()}


def images(table: Path, count: int, **where: str) -> Iterator[np.ndarray]:
    """True labels of the first rows of a table of cases."""
    with table.open(encoding="utf-8") as handle:
        rows = [r for r in csv.DictReader(handle) if all(r[k] == v for k, v in where.items())]
    for row in rows[:count]:
        yield np.asarray(bsk.read_labels(table.parent / row["label"], "instance").array)


def scored(count: Counter, values: Mapping[str, float]) -> list[float]:
    """Pooled AP at the goals."""
    first, *more = (count_matches(o, GOALS) for o in count(values))
    total = sum(more, first)
    return [total.ap(t) for t in GOALS]


def timed(work: object, *given: object) -> tuple[float, object]:
    """Processor seconds and result of a call: other programs on the core do not count."""
    begun = time.process_time()
    result = work(*given)  # type: ignore[operator]
    return time.process_time() - begun, result


def measure(name: str, truths: list[np.ndarray], repeats: int) -> dict[str, object]:
    """One method on one set of images."""
    method = METHODS[name]()
    spacing = (1.0,) * truths[0].ndim
    maps = [noisy(method, truth, spacing, k) for k, truth in enumerate(truths)]

    def states() -> list[Held]:
        return [Held(str(k), method.local(m, Block.whole(t.shape, spacing)), t)
                for k, (m, t) in enumerate(zip(maps, truths, strict=True))]

    held = states()
    tuned = tune(method, held)  # compiles
    whole = statistics.median(timed(tune, method, held)[0] for _ in range(3))
    tried = {n: sorted({*grid_values(t), t.default}) for n, t in method.tunables.items()}
    build, table = timed(counter_of, method, held, tried)
    slow = decoding_counter(method, held)
    order = np.random.default_rng(0).permutation(len(tuned.trials))[:repeats]
    times: list[tuple[float, float, float]] = []
    for i in order:
        values = tuned.trials[i][0]
        scored(table, values)
        fast, ours = timed(scored, table, values)
        paint, theirs = timed(scored, slow, values)
        local, _ = timed(states)
        if ours != theirs:
            raise SystemExit(f"{name}: {values} score {ours} from tables and {theirs} from labels")
        times.append((fast, paint, local))
    fast, paint, local = (statistics.median(t) for t in zip(*times, strict=True))
    trials, voxels = len(tuned.trials), sum(t.size for t in truths)
    return {
        "method": name, "images": len(truths), "voxels": voxels, "objects": sum(len(np.unique(t)) - 1 for t in truths),
        "trials": trials, "build_seconds": round(build, 4), "search_seconds": round(whole, 4),
        "trials_per_second": round(trials / whole, 1), "local_seconds": round(local, 4),
        "paint_seconds_per_trial": round(paint, 5),
        "ratio_to_decoding_anew": round(trials * (local + paint) / (local + whole), 1),
        "ratio_to_painting_anew": round(trials * paint / whole, 1),
        "paint_nanoseconds_per_voxel": round(paint / voxels * 1e9, 1),
        "search_nanoseconds_per_voxel": round(whole / voxels * 1e9, 1),
        "score": round(tuned.score, 4), "default_score": round(tuned.default_score, 4),
    }


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with dsb2018/ and bbbc050_mouse_embryo/")
    parser.add_argument("--methods", default=",".join(n for n in METHODS if n != "semantic"))
    parser.add_argument("--images", type=int, default=16, help="images in 2D")
    parser.add_argument("--volumes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15, help="trials timed per method")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    sets = {
        "dsb2018 fluo": list(images(args.data / "dsb2018/cases.csv", args.images, type="fluo", split="train")),
        "bbbc050": list(images(args.data / "bbbc050_mouse_embryo/cases.csv", args.volumes, split="train")),
    }
    rows = []
    for label, truths in ((label, truths) for label, truths in sets.items() if truths):
        for name in args.methods.split(","):
            row = {"data": label, **measure(name, truths, args.repeats)}
            rows.append(row)
            print(json.dumps(row))
    if args.json:
        record = {"machine": f"{platform.machine()}, one thread", "maps": "ideal maps of the true labels, blurred "
                  "(1.5 px), with smooth noise", "rows": rows}
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
