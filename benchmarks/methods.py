"""Train every instance method within the same budget on the same data; its score beside its ceiling, in one table.

The ceiling is the score of decode(encode(labels)) on the test labels with the options and the default thresholds of the
plan: what the method would reach with a network that makes no error. Records are kept per data set; a method measured
again takes the place of its old row.

    python benchmarks/methods.py --data DATA --only dsb2018 --budget 5m
    python benchmarks/methods.py --data DATA --only bbbc050_mouse_embryo --methods distance,star
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from accuracy import TASKS, arguments, measure

from biosegkit import scan
from biosegkit._options import Geometry
from biosegkit.methods import METHODS, decode
from biosegkit.metrics.instances import instance_counts
from biosegkit.plan.schema import Plan
from biosegkit.prepared import decoding_spacing, turn_of
from biosegkit.segmenter import method_of

DATA_SETS = ("dsb2018", "bbbc050_mouse_embryo")
INSTANCES = tuple(name for name in METHODS if name != "semantic")


def ceiling(plan: Plan, name: str, data: Path) -> dict[str, float]:
    """Pooled AP of decode(encode(labels)) over the test labels, at 0.5, 0.75 and 0.9."""
    task, method, total = TASKS[name], method_of(plan), None
    pairs = ("split=test", *(pair for pair in (*task.rows, *task.tested) if "=" in pair))
    where: dict[str, tuple[str, ...]] = {key: (value,) for key, _, value in (p.partition("=") for p in pairs)}
    described = dict(zip(task.describe[::2], task.describe[1::2], strict=True))
    about = Geometry(spacing=described.get("--spacing"), unit=described.get("--unit"),
                     channels=described.get("--channels")).description()
    cases = scan(data / name.removesuffix("_all") / "cases.csv", where=where, describe=about)
    ndim = plan.configuration.ndim
    for case in cases:
        labels = cases.load(case, "instance")[1]
        turn = turn_of(labels.grid, plan)
        array, spacing = turn.apply(labels.array), decoding_spacing(labels.grid.turned(turn), plan)[-ndim:]
        for part in [array] if array.ndim == ndim else array:
            targets, _ = method.encode(part, spacing)
            found, _ = decode(method, method.ideal(targets), None, spacing)
            counts = instance_counts(part, found, thresholds=(0.5, 0.75, 0.9))
            total = counts if total is None else total + counts
    return {f"ap@{limit:.2f}": float(total.ap(limit)) for limit in (0.5, 0.75, 0.9)}


def one_row(name: str, method: str, folder: Path, options: argparse.Namespace) -> tuple[dict, dict]:
    """Train, predict, evaluate one method; what holds for the data set, and the row."""
    folder.mkdir()
    options.more = [] if method == "automatic" else ["--method", method]
    record = measure(name, folder, options)
    plan = Plan.read(folder / "run" / "plan.json")
    kept = ("headline", "train", "predict", "final_rate_share", "machine", "device", "date")
    about = {"kind": "methods", "name": name, "what": TASKS[name].what, "limit": record["budget"],
             "cases": record["cases"]}
    return about, {"method": method, "chosen": plan.method, "ceiling": ceiling(plan, name, options.data),
                   "steps": plan.training.steps, "features": plan.configuration.architecture.features,
                   "spacing": plan.configuration.spacing, **{key: record[key] for key in kept}}


def merged(path: Path, about: dict, row: dict) -> dict:
    """The record with the new row in its place; rows of another budget or of other cases are dropped."""
    old = json.loads(path.read_text("utf-8")) if path.exists() else {}
    same = all(old.get(key) == value for key, value in about.items())
    rows = {r["method"]: r for r in (old["rows"] if same else [])} | {row["method"]: row}
    return about | {"rows": list(rows.values())}


def main() -> None:
    parser = arguments(__doc__, "5m")
    parser.add_argument("--only", action="append", choices=sorted(TASKS), metavar="DATASET", help="repeatable")
    parser.add_argument("--methods", default=",".join(INSTANCES), help="names, separated by commas, or automatic")
    options = parser.parse_args()
    chosen = options.methods.split(",")
    if unknown := [method for method in chosen if method not in (*INSTANCES, "automatic")]:
        parser.error(f"unknown method {unknown[0]}; known: {', '.join(INSTANCES)}, automatic")
    options.results.mkdir(exist_ok=True)
    records = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.only or DATA_SETS:
            path = options.results / f"methods-{name}.json"
            for method in chosen:
                folder = (options.keep or Path(scratch)) / f"{name}-{method}"
                folder.parent.mkdir(parents=True, exist_ok=True)
                record = merged(path, *one_row(name, method, folder, options))
                path.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
            records.append(record)
    from table import methods  # beside this script

    print(methods(records))


if __name__ == "__main__":
    main()
