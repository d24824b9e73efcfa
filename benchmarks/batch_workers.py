"""A batch of slides by one worker and by two, one torch thread each: seconds of the whole command, and their files.

    python benchmarks/batch_workers.py MODEL SLIDE [--slides 32] [--repeats 1] [--write]

The slides are pieces of SLIDE, 1000 x 1200 pixels each, cut as in ``batch_kill.py``; every worker has 2 GB. Seconds are
those of a clock, so both cores have to be free; the start of the programs and the report are in them. All files of both
are compared but the records, which say in how many blocks a slide was cut. ``--write`` makes
``results/batch_workers.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from batch_kill import batch, cut, files
from side_by_side import ONE_THREAD, about

RECORD = Path(__file__).parent / "results/batch_workers.json"
SIDE = (1000, 1200)


def main() -> int:
    """Both, in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("slide", type=Path)
    parser.add_argument("--slides", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    os.environ.update(ONE_THREAD)
    spent, found = {1: [], 2: []}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cut(options.slide, folder / "slides", options.slides, np.random.default_rng([0]), SIDE)
        for _ in range(options.repeats):
            for workers in spent:
                options.workers, out = workers, folder / "out"
                begun = time.monotonic()
                batch(options, folder, out, None, ("--memory", "2GB"))
                spent[workers].append(round(time.monotonic() - begun, 1))
                found[workers] = {k: v for k, v in files(out).items() if not k.endswith(".zarr.json")}
                shutil.rmtree(out)
                print(f"{workers} at work: {spent[workers][-1]} s", flush=True)
    times = statistics.median(a / b for a, b in zip(spent[1], spent[2], strict=True))
    record = {**about(), "slides": options.slides, "megapixels": options.slides * SIDE[0] * SIDE[1] / 1e6,
              "seconds": spent, "times_faster": round(times, 2), "equal": found[1] == found[2]}
    print(f"two workers are {times:.2f} times as fast; files are {'equal' if record['equal'] else 'DIFFERENT'}")
    if options.write:
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if record["equal"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
