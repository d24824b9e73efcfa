"""A CUDA device beside the CPU of its machine: budget and scores of a training on it, and whether both give the same.

    python benchmarks/gpu.py --data DATA [--only msd_hippocampus] [--budget 2m] [--images 3]

Trains on the device, predicts and scores the test cases there, then predicts some of them on the CPU with the same
model: largest difference of the maps (half precision on the device, single on the CPU), share of voxels with the same
foreground, F1 of the objects at an IoU of 0.9, seconds of both. Needs a CUDA device.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from accuracy import TASKS, arguments, measure

import biosegkit as bsk
from biosegkit.metrics.instances import instance_counts

DATA_SETS = ("msd_hippocampus", "dsb2018")


def some_tests(name: str, data: Path, count: int) -> list[Path]:
    """Images of test cases that the benchmark scores, the first few."""
    wanted = dict(pair.split("=", 1) for pair in TASKS[name].rows if "=" in pair) | {"split": "test"}
    folder = data / name.removesuffix("_all")
    with (folder / "cases.csv").open(newline="") as lines:
        rows = [r for r in csv.DictReader(lines) if all(r[k] == v for k, v in wanted.items())]
    return [folder / r["image"] for r in rows[:count]]


def seconds(work) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def beside(run: Path, images: list[Path]) -> dict:
    """The same model on both devices."""
    models = {device: bsk.load_model(run, device=device) for device in ("cuda", "cpu")}
    apart, same, both, spent = 0.0, [], None, {"cuda": 0.0, "cpu": 0.0}
    models["cuda"].predict(bsk.read(images[0]))  # kernels are chosen at the first call
    for path in images:
        image, found = bsk.read(path), {}
        for device, model in models.items():
            spent[device] += seconds(lambda: found.update({device: model.predict(image)}))  # noqa: B023
        maps = {device: model.maps(image) for device, model in models.items()}
        apart = max(apart, *(float(np.abs(maps["cuda"][k] - v).max()) for k, v in maps["cpu"].items()))
        one, other = (found[device].labels.array for device in ("cpu", "cuda"))
        same.append(float(np.mean((one > 0) == (other > 0))))
        counts = instance_counts(one, other, thresholds=(0.9,))
        both = counts if both is None else both + counts
    return {"images": len(images), "maps_apart": apart, "same_foreground": min(same),
            "f1_at_0.9": float(both.f1(0.9)), "seconds": spent}


def main() -> None:
    parser = arguments(__doc__, "2m")
    parser.add_argument("--only", action="append", choices=sorted(TASKS), metavar="DATASET", help="repeatable")
    parser.add_argument("--images", type=int, default=3)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a CUDA device")
    options.device, options.more = "cuda", []
    path = options.results / "gpu.json"
    options.results.mkdir(exist_ok=True)
    record = {"card": torch.cuda.get_device_name(0), "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"),
              "rows": []}
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.only or DATA_SETS:
            folder = (options.keep or Path(scratch)) / name
            folder.mkdir(parents=True)
            torch.cuda.reset_peak_memory_stats()
            row = measure(name, folder, options)
            steps = [json.loads(line) for log in sorted((folder / "run").glob("fold-*/metrics.jsonl"))
                     for line in log.read_text("utf-8").splitlines()]
            times = [s["seconds"] for s in steps if "seconds" in s]
            row |= {"step_seconds": float(np.median(times)), "steps": max(s["step"] for s in steps),
                    "beside_cpu": beside(folder / "run", some_tests(name, options.data, options.images))}
            record["rows"].append(row)
            path.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
            kept = ("name", "budget", "scores", "steps", "step_seconds", "train", "predict", "beside_cpu")
            print(json.dumps({k: row[k] for k in kept}, indent=1), flush=True)


if __name__ == "__main__":
    main()
