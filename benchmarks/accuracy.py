"""Train on a public data set within a budget, score the images kept for the test, and keep the figures.

Only the command line is used, as anybody would: train, predict, evaluate. The data come with a table whose column
``split`` says what is for training and what for the test; see README.md beside this file.

    python benchmarks/accuracy.py msd_hippocampus --data DATA --budget 15m
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from biosegkit.device import usable_cores

RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Task:
    """One data set: rows to train on and to score, options of the commands, what files do not say, the scores."""

    what: str
    reported: tuple[str, ...]
    rows: tuple[str, ...] = ()
    scoring: tuple[str, ...] = ()
    describe: tuple[str, ...] = ()
    tested: tuple[str, ...] = ()
    predicting: tuple[str, ...] = ()


OBJECTS = ("ap@0.50", "f1", "pq")

#: Data sets by name; what follows an underscore ``_all`` is the same folder with all its rows.
TASKS = {
    "msd_hippocampus": Task("3D MRI, hippocampus, 2 classes", ("dice",)),
    "acdc_cardiac": Task("3D cine MRI, heart, 3 classes", ("dice",)),
    "dsb2018": Task("2D fluorescent nuclei, instances", OBJECTS, rows=("--where", "type=fluo")),
    "dsb2018_all": Task("2D nuclei of all kinds, instances", OBJECTS, describe=("--channels", "red,green,blue")),
    "usiigaci_phase": Task("2D phase contrast cells, instances", OBJECTS),
    "bbbc050_mouse_embryo": Task("3D confocal nuclei of embryos, instances", OBJECTS,
                                 describe=("--spacing", "1.75,0.8,0.8", "--unit", "um")),
    "plantseg_cells3d": Task("3D nuclei of plants, instances", OBJECTS, tested=("--where", "case=1137_mini")),
    "isbi2012_em": Task("2D EM, membranes", ("dice",), scoring=("--include-background",), predicting=("--tta",)),
}


@dataclass(frozen=True)
class Measured:
    """One command: how long it took and the most memory it held, its child processes included."""

    seconds: float
    peak_bytes: int


def biosegkit(*arguments: str) -> Measured:
    """Run the command to its end; stop here if it fails."""
    script = Path(sys.executable).with_name("biosegkit")
    command = [str(script) if script.exists() else shutil.which("biosegkit") or "biosegkit", *arguments]
    print("$", shlex.join(["biosegkit", *command[1:]]), flush=True)
    started, peak = time.monotonic(), 0
    with subprocess.Popen(command) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, resident(watched))
            time.sleep(0.05)
    if process.returncode:
        sys.exit(f"exit code {process.returncode}")
    return Measured(time.monotonic() - started, peak)


def resident(process: psutil.Process) -> int:
    """Bytes in memory, children included; 0 once it is gone."""
    total = 0
    try:
        for one in (process, *process.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def final_rate(run: Path) -> float:
    """Last learning rate as a share of the highest: near 0 if the schedule was walked to its end."""
    shares = []
    for log in sorted(run.glob("fold-*/metrics.jsonl")):
        rates = [row["lr"] for row in map(json.loads, log.read_text("utf-8").splitlines()) if "lr" in row]
        shares += [rates[-1] / max(rates)] if rates else []
    return max(shares, default=float("nan"))


def measure(name: str, folder: Path, options: argparse.Namespace) -> dict:
    """Train, predict, evaluate in ``folder``; return the record."""
    task, table = TASKS[name], str(options.data / name.removesuffix("_all") / "cases.csv")
    run, labels, scores = folder / "run", folder / "labels", folder / "scores.json"
    limit = ("--steps", str(options.steps)) if options.steps else ("--budget", options.budget)
    chosen = ("--where", "split=test", *task.rows, *task.tested, *task.describe)
    device = ("--device", options.device)
    learned = ("--where", "split=train", *task.rows, *task.describe)
    trained = biosegkit("train", table, "-o", str(run), *learned, *limit, *device, *options.more)
    predicted = biosegkit("predict", str(run), table, *chosen, "-o", str(labels), *device, *task.predicting)
    biosegkit("evaluate", str(labels), table, *chosen, *task.scoring, "-o", str(scores))
    record = json.loads(scores.read_text("utf-8"))
    plan = json.loads((run / "plan.json").read_text("utf-8"))
    return {
        "name": name, "what": task.what, "budget": f"{options.steps} steps" if options.steps else options.budget,
        "cases": len(record["cases"]), "scores": {k: record["headline"][k] for k in task.reported},
        "predicting": list(task.predicting),
        "headline": record["headline"], "classes": class_scores(record),
        "train": asdict(trained), "predict": asdict(predicted), "final_rate_share": final_rate(run),
        "plan": {"network": plan["configuration"], "training": plan["training"], "method": plan["method"]},
        "machine": f"{usable_cores()} cores, {platform.machine()}", "device": options.device,
        "python": platform.python_version(), "date": time.strftime("%Y-%m-%d"),
    }


def class_scores(record: dict) -> dict:
    """Mean Dice of each class, if the task has classes."""
    found = record.get("classes", {})
    return {k: v["dice"] for k, v in found.items() if isinstance(v, dict) and isinstance(v.get("dice"), float)}


def arguments(about: str, budget: str, data: bool = True) -> argparse.ArgumentParser:
    """What every benchmark that trains takes, with a folder of data or not."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    if data:
        parser.add_argument("--data", type=Path, required=True, help="folder that holds the data set's folder")
    parser.add_argument("--budget", default=budget, help="time for training, all folds, from start to report")
    parser.add_argument("--steps", type=int, help="train so many steps in place of the budget, to try the script")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--keep", type=Path, help="keep run and predictions in this new folder")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the records")
    return parser


def main() -> None:
    parser = arguments(__doc__, "15m")
    parser.add_argument("name", choices=sorted(TASKS))
    options, more = parser.parse_known_args()
    options.more = more
    if options.keep:
        options.keep.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        record = measure(options.name, options.keep or Path(scratch), options)
    keep(options.name, record, options.results)


def keep(name: str, record: dict, results: Path) -> None:
    """Write a record among the results, and print it as the row of a table."""
    results.mkdir(exist_ok=True)
    path = results / f"{name}-{record['budget'].replace(' ', '')}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    from table import HEAD, row  # beside this script

    print("\n".join([*HEAD, row(record)]))
    print(f"record in {path}")


if __name__ == "__main__":
    main()
