"""Steps on a GPU whose batches are made by threads, and by processes, beside steps that take one batch again and again.

    python benchmarks/batch_workers_gpu.py [--device cuda] [--ndim 2] [--seconds 6] [--workers N] [--write]

Generated images of nuclei, the plan that `make_plan` drafts for them, the steps of `biosegkit.loop`. ``step_ms`` is
the mean over so many seconds, after the first ten steps and, of processes, once all are at work; ``ready_seconds`` is
how long that took. ``launches`` is how many tiny operations a thread starts per second beside those who make batches as
fast as they can, as a share of those beside none: what is left to the thread that starts the kernels. With
``--device cpu`` batches are made by threads and by processes all the same.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from contextlib import closing
from itertools import repeat
from pathlib import Path
from unittest import mock

import numpy as np
import tifffile
import torch
from side_by_side import nuclei, say

import biosegkit as bsk
from biosegkit import batch_processes, loop, patches
from biosegkit.device import describe, usable_cores
from biosegkit.plan.budget import MOST_THREADS, MOST_WORKERS
from biosegkit.preprocess import load_or_make
from biosegkit.schedule import Pace
from biosegkit.segmenter import method_of

RECORD = Path(__file__).parent / "results" / "batch_workers_gpu.json"
WARM = 10
SHAPES = {2: (256, 256), 3: (64, 128, 128)}


def write_nuclei(folder, ndim, cases=12):
    """A data set of noisy ellipses."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    (folder / "dataset.json").write_text('{"task": "instance"}')
    for i in range(cases):
        labels = nuclei(SHAPES[ndim], seed=i).astype(np.uint16)
        image = 20 + 180 * (labels > 0) + np.random.default_rng(i).normal(0, 8, labels.shape)
        tifffile.imwrite(folder / f"images/c{i}.tif", image.clip(0, 255).astype(np.uint8))
        tifffile.imwrite(folder / f"labels/c{i}.tif", labels)
    return bsk.scan(folder)


def stepper(plan, method, device):
    """A function that trains a step on a batch."""
    network = loop.make_network(plan, method, device)
    state = loop._State(network, loop._copy(network), loop.make_optimizer(network, plan.training), Pace(((0, 10**6),)))
    scaler = torch.amp.GradScaler(enabled=device.type == "cuda")

    def step(batch):
        loop._step(state, scaler, batch, plan, method, device)

    return step


class Launcher:
    """Starts tiny operations for a fiftieth of a second per batch, so that who makes batches has no rest."""

    def __init__(self):
        self.count, self.seconds, self.one = 0, 0.0, torch.zeros(1)

    def __call__(self, _):
        begun = time.perf_counter()
        while (spent := time.perf_counter() - begun) < 0.02:
            for _ in range(100):
                self.one.add_(1)
            self.count += 100
        self.seconds += spent


def measured(batches, work, seconds):
    """Seconds per call of ``work`` with a batch, and calls."""
    calls, begun = 0, time.perf_counter()
    while (spent := time.perf_counter() - begun) < seconds:
        work(next(batches))
        calls += 1
    return spent / calls, calls


def warmed(batches, work, ready):
    """Seconds until ten steps were taken and all who make batches are at work."""
    begun = time.perf_counter()
    for count, batch in enumerate(batches):
        work(batch)
        if count >= WARM and (ready is None or ready()):
            return time.perf_counter() - begun
    raise AssertionError("batches never end")


def ways(plan, method, samples, pinned):
    """Each way to have batches: its name, the batches, and a question whether all who make them are at work."""
    one = patches.make_batch(samples, plan, method, 0)
    yield "the same batch", repeat(one), None
    with closing(patches.batches(samples, plan, method, 0)) as made:
        yield f"{min(MOST_THREADS, plan.training.workers)} threads", made, None
    crews = []

    class Seen(batch_processes._Crew):
        def __init__(self, *given):
            super().__init__(*given)
            crews.append(self)

    def ready():
        return crews[0]._at_work >= len(crews[0]._members) > 0 and not crews[0]._starter.is_alive()

    with mock.patch.object(batch_processes, "_Crew", Seen), closing(
            batch_processes.batches_by_processes(samples, plan, method, 0, pinned=pinned)) as made:
        yield f"{plan.training.workers} processes", made, ready


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--ndim", type=int, choices=(2, 3), default=2)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each way")
    parser.add_argument("--workers", type=int, default=max(1, min(MOST_WORKERS, usable_cores() - 1)))
    parser.add_argument("--write", action="store_true", help="keep the record")
    given = parser.parse_args()
    device = torch.device(given.device)
    with tempfile.TemporaryDirectory() as scratch:
        cases = write_nuclei(Path(scratch) / "data", given.ndim)
        plan = bsk.make_plan(bsk.measure(cases), cases, steps=100, device=given.device)
        told = [d.reason for d in plan.decisions if d.name == "workers"]
        plan = plan.model_copy(update={"training": plan.training.model_copy(update={"workers": given.workers})})
        method, samples = method_of(plan), load_or_make(cases, list(cases), plan, Path(scratch) / "store")
        step, rows, alone = stepper(plan, method, device), {}, None
        say("plan", {"method": plan.method, "batch": plan.configuration.batch, "patch": plan.configuration.patch,
                     "told": told})
        for way, batches, ready in ways(plan, method, samples, device.type == "cuda"):
            waited, launcher = warmed(batches, step, ready), Launcher()
            took, calls = measured(batches, step, given.seconds)
            measured(batches, launcher, given.seconds / 2)
            rate = launcher.count / launcher.seconds
            alone = alone or (took, rate)
            rows[way] = {"step_ms": round(1e3 * took, 1), "steps": calls, "times_alone": round(took / alone[0], 2),
                         "launches": round(rate / alone[1], 2), "ready_seconds": round(waited, 1)}
            say(way, rows[way])
    if given.write:
        RECORD.write_text(json.dumps({"device": describe(device), "cores": usable_cores(), "torch": torch.__version__,
                                      "date": time.strftime("%Y-%m-%d"), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
