"""How long does a new threshold take on one image, once its maps were reduced to states?

A grid of discs, its ideal maps blurred with smooth noise. Measured are ``local`` (once per image) and ``resolve`` +
``paint`` (once per threshold), the median of several.

    OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python benchmarks/rethreshold.py --json benchmarks/results/rethreshold.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import numpy as np
from tuning import noisy

from biosegkit.methods import METHODS, Block


def discs(size: int, pitch: int) -> np.ndarray:
    """Discs side by side that nearly touch."""
    y, x = np.mgrid[:size, :size]
    ids = (y // pitch) * (size // pitch + 1) + x // pitch + 1
    inside = (y % pitch - pitch / 2) ** 2 + (x % pitch - pitch / 2) ** 2 < (0.49 * pitch) ** 2
    return np.where(inside, ids, 0).astype(np.int32)


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="distance,signed_distance,boundary,hv,offset")
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--pitch", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    labels, rows = discs(args.size, args.pitch), []
    for name in args.methods.split(","):
        method = METHODS[name]()
        maps = noisy(method, labels, (1.0, 1.0), 0)
        begun = time.perf_counter()
        state = method.local(maps, Block.whole(labels.shape))
        local, times = time.perf_counter() - begun, []
        t = method.tunables["foreground"]
        for value in np.linspace(0.6 * t.low + 0.4 * t.high, 0.4 * t.low + 0.6 * t.high, args.repeats + 1):
            begun = time.perf_counter()
            found, _ = method.paint(state, method.resolve([state], {"foreground": float(value)}))
            times.append(time.perf_counter() - begun)
        row = {"method": name, "voxels": labels.size, "objects": int(found.max()), "local_seconds": round(local, 3),
               "rethreshold_seconds": round(statistics.median(times[1:]), 4)}  # the first compiles
        rows.append(row)
        print(json.dumps(row), flush=True)
    if args.json:
        record = {"machine": f"{platform.machine()}, one thread", "maps": "ideal maps of discs, blurred, with smooth "
                  "noise", "rows": rows}
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
