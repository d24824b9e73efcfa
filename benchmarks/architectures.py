"""Train several networks within the same budget on the same data, and put what came out into one table.

Each network is trained, applied and scored by the command line, as accuracy.py does it; the records are kept per data
set, and a network measured again takes the place of its old row. Data sets and networks can so be run apart.

    python benchmarks/architectures.py --data DATA --budget 5m
    python benchmarks/architectures.py --data DATA --only isbi2012_em --networks unet,unetplusplus
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from accuracy import TASKS, arguments, measure
from table import architectures

from biosegkit.comparison import compare_runs
from biosegkit.plan.networks import NETWORKS

DATA_SETS = ("msd_hippocampus", "isbi2012_em")
COMPARED = ("unet", "attention_unet", "unetplusplus", "resenc_unet")


def one_row(name: str, network: str, folder: Path, options: argparse.Namespace) -> tuple[dict, dict]:
    """Train, predict, evaluate one network; what holds for the data set, and the row."""
    folder.mkdir()
    options.more = ["--network", network]
    record = measure(name, folder, options)
    found = compare_runs({network: folder / "run"}, "../scores.json")
    row, = found.pop("rows")
    about = {"kind": "architectures", "name": name, "what": TASKS[name].what, "limit": record["budget"],
             **{key: found[key] for key in ("unit", "level", "cases")}}
    kept = ("classes", "train", "predict", "final_rate_share", "machine", "device", "date")
    widths = record["plan"]["network"]["architecture"]["features"]
    return about, row | {key: record[key] for key in kept} | {"features": widths}


def merged(path: Path, about: dict, row: dict) -> dict:
    """The record with the new row in its place; rows of another budget or of other cases are dropped."""
    old = json.loads(path.read_text("utf-8")) if path.exists() else {}
    same = all(old.get(key) == value for key, value in about.items())
    rows = {r["network"]: r for r in (old["rows"] if same else [])} | {row["network"]: row}
    return about | {"rows": [rows[network] for network in NETWORKS if network in rows]}


def main() -> None:
    parser = arguments(__doc__, "5m")
    parser.add_argument("--only", action="append", choices=sorted(TASKS), metavar="DATASET", help="repeatable")
    parser.add_argument("--networks", default=",".join(COMPARED), help="names, separated by commas")
    options = parser.parse_args()
    networks = options.networks.split(",")
    if unknown := [network for network in networks if network not in NETWORKS]:
        parser.error(f"unknown network {unknown[0]}; known: {', '.join(NETWORKS)}")
    options.results.mkdir(exist_ok=True)
    records = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.only or DATA_SETS:
            path = options.results / f"architectures-{name}.json"
            for network in networks:
                folder = (options.keep or Path(scratch)) / f"{name}-{network}"
                folder.parent.mkdir(parents=True, exist_ok=True)
                record = merged(path, *one_row(name, network, folder, options))
                path.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
            records.append(record)
    print(architectures(records))


if __name__ == "__main__":
    main()
