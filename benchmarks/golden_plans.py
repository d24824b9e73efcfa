"""Compare biosegkit's nnU-Net rules with published nnU-Net plans, cell by cell; exit 1 if any cell differs."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from biosegkit.plan.nnunet import Configuration, NnunetSpec, configure

TABLE = Path(__file__).with_suffix(".json")
PRESETS = ("nnunet", "resenc_m", "resenc_l")


def planned(truth: dict, preset: str) -> dict[str, Configuration]:
    spec = NnunetSpec(
        3,
        (tuple(truth["spacing"]),),
        (tuple(truth["median_shape"]),),
        truth["cases"],
        truth["classes"],
        truth["channels"],
        preset,
    )
    return configure(spec)


def shown(patch, batch) -> str:
    return "×".join(str(edge) for edge in patch) + f" b{batch}"


def stages(rows) -> str:
    return " ".join("".join(str(value) for value in row) for row in rows)


def cells(truth: dict):
    """Yield (cell, published, ours)."""
    for preset in PRESETS:
        plans = planned(truth, preset)
        for name, key in (("3d_fullres", "3d"), ("2d", "2d")):
            ours = plans[name]
            yield f"{preset} {name}", shown(*truth[key][preset]), shown(ours.patch, ours.batch)
    plans = planned(truth, "nnunet")
    full = plans["3d_fullres"]
    yield "nnunet strides", " ".join(truth["strides"]), stages(full.strides)
    flat, n_stages = truth["flat_first_kernels"], len(truth["strides"])
    yield "nnunet kernels", stages([(1, 3, 3)] * flat + [(3, 3, 3)] * (n_stages - flat)), stages(full.kernels)
    low, published = plans.get("3d_lowres"), truth["lowres"]
    expected = f"{published['spacing']} {published['patch']}" if published else "none"
    yield "nnunet 3d_lowres", expected, f"{[round(s, 3) for s in low.spacing]} {list(low.patch)}" if low else "none"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, default=TABLE, help="JSON of published plans (default: beside this file)")
    parser.add_argument("--differences", action="store_true", help="show only cells that differ")
    options = parser.parse_args(arguments)
    truth = json.loads(options.table.read_text(encoding="utf-8"))["datasets"]
    different = total = 0
    start = time.perf_counter()
    print(f"{'data set':12} {'cell':22} {'':9} {'published':40} ours")
    for dataset, row in truth.items():
        for cell, published, ours in cells(row):
            total, different = total + 1, different + (published != ours)
            verdict = "equal" if published == ours else "DIFFERENT"
            if published != ours or not options.differences:
                print(f"{dataset:12} {cell:22} {verdict:9} {published:40} {ours}")
    print(f"{total - different} of {total} cells equal, {time.perf_counter() - start:.2f} s")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
