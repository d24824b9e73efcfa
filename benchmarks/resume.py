"""Kill a training at random points, resume it, and compare its weights with those of a run that was never stopped.

    python benchmarks/resume.py [DATASET] [--kills 10] [--steps 40] [--seed 0] [--task semantic]

Without a data set the generated phantom is used. Each kill is a SIGKILL of the child at a seeded moment of its life: in
preprocessing, in a step, while a state is saved, in validation. The plan is the default one made narrow, and a state is
saved every few seconds. Prints one line per kill and ends with 1 if any weight differs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from biosegkit.cases import scan
from biosegkit.configure import make_plan
from biosegkit.fingerprint import measure
from biosegkit.plan.draft import with_width
from biosegkit.plan.schema import Plan

CHILD = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from biosegkit.cases import scan
from biosegkit.plan.schema import Plan
from biosegkit.train import fit
plan, data, run = sys.argv[1:4]
fit(Plan.read(plan), scan(data), run, device="cpu", resume=Path(run).exists())
"""


def main() -> int:
    """Run the straight training once, then kill and resume another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", nargs="?")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--task", choices=["semantic", "instance"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = Path(options.dataset) if options.dataset else _phantom(folder / "data")
        _make_plan(data, options.steps, options.task).write(folder / "plan.json")
        begun = time.monotonic()
        _child(folder, data, folder / "straight", None)
        whole = time.monotonic() - begun
        print(f"straight run: {whole:.1f} s")
        random, same, number = np.random.default_rng([options.seed]), True, 0
        for kill in range(options.kills):
            run, after = folder / f"killed-{number}", float(random.uniform(0.2, 0.8) * whole)
            killed = _child(folder, data, run, after)
            print(f"kill {kill + 1}: " + (f"after {after:.1f} s, {_where(run)}" if killed else "the run had ended"))
            if not killed or kill == options.kills - 1:
                if killed:
                    _child(folder, data, run, None)
                equal = _weights(run) == _weights(folder / "straight")
                print("weights are equal" if equal else "WEIGHTS DIFFER", flush=True)
                same, number = same and equal, number + 1
    return 0 if same else 1


def _phantom(folder: Path) -> Path:
    from biosegkit_samples.generate import write_phantoms

    write_phantoms(folder, cases=6)
    return folder


def _make_plan(data: Path, steps: int, task: str | None) -> Plan:
    dataset = scan(data)
    plan = make_plan(measure(dataset, task=task), dataset, steps=steps, device="cpu")
    training = plan.training.model_copy(update={"checkpoint_seconds": 2.0})
    return plan.model_copy(update={"configuration": with_width(plan.configuration, 8), "training": training})


def _child(folder: Path, data: Path, run: Path, after: float | None) -> bool:
    """Train in a child, killed after some seconds; whether it was killed."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder / "plan.json"), str(data), str(run)])
    try:
        code = child.wait(after)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        return True
    if code:
        raise SystemExit(f"the child ended with {code}")
    return False


def _where(run: Path) -> str:
    saved = sorted(run.glob("fold-0/checkpoints/*.json"))
    return f"last state {int(saved[-1].stem[5:])}" if saved else "nothing saved yet"


def _weights(run: Path) -> dict[str, str]:
    weights: dict[str, str] = json.loads((run / "bundle" / "bundle.json").read_text())["weights"]
    return weights


if __name__ == "__main__":
    raise SystemExit(main())
