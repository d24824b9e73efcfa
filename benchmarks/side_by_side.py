"""What the benchmarks of kernels share: nuclei to measure on, seconds in turns, memory in a process of its own.

Seconds are those of the processor, in one thread, which other work on the machine does not lengthen; ratios are medians
over turns in which every contestant runs once. Memory is the growth of the resident peak of a fresh process.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil

#: Pixels (voxels) per nucleus, and their radii, by number of axes.
ROOM = {2: (1340, 7.0, 14.0), 3: (5000, 5.0, 9.0)}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def nuclei(shape, seed=0):
    """Ellipses of random half axes along the axes of the array, half of them touching another, none overlapping."""
    room, low, high = ROOM[len(shape)]
    rng = np.random.default_rng([seed, *shape])
    labels = np.zeros(shape, np.int32)
    wanted, placed = round(np.prod(shape) / room), []
    for _ in range(60 * wanted):
        if len(placed) == wanted:
            break
        radii = rng.uniform(low, high, len(shape))
        spots, rim = [rng.uniform(0, 1, len(shape)) * shape], 1.5
        if len(placed) % 2 == 1:
            away = rng.standard_normal(len(shape))
            away /= np.linalg.norm(away)
            start, other = placed[rng.integers(len(placed))]
            near = 1 / np.linalg.norm(away / radii) + 1 / np.linalg.norm(away / other)
            spots, rim = [start + away * (near + gap) for gap in (-0.5, 0.0, 0.5, 1.0, 1.5)], 0.0
        for centre in spots:
            if (centre < 0).any() or (centre >= shape).any():
                break
            window, inside = ellipse(shape, centre, radii + rim)
            if not labels[window][inside].any():
                window, inside = ellipse(shape, centre, radii)
                placed.append((centre, radii))
                labels[window][inside] = len(placed)
                break
    return labels


def ellipse(shape, centre, radii):
    """The box of an ellipse within the array, and its pixels there."""
    window = tuple(slice(max(0, int(c - r)), min(n, int(c + r) + 2))
                   for n, c, r in zip(shape, centre, radii, strict=True))
    axes = np.ogrid[window]
    return window, sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)) <= 1


def seconds(job):
    """Processor seconds of a call, and what it returns."""
    started = time.process_time()
    result = job()
    return time.process_time() - started, result


def turns(jobs, repeats):
    """Every job once per turn: seconds by name, the last results, and how often the first is faster than each other.

    A turn before is not counted: memory that is used for the first time may cost more than the job itself.
    """
    for job in jobs.values():
        job()
    spent, results = {name: [] for name in jobs}, {}
    for _ in range(repeats):
        for name, job in jobs.items():
            took, results[name] = seconds(job)
            spent[name].append(took)
    first, *others = jobs
    ratios = {name: round(statistics.median(b / a for a, b in zip(spent[first], spent[name], strict=True)), 2)
              for name in others}
    medians = {name: float(f"{statistics.median(values):.4g}") for name, values in spent.items()}
    return {"seconds": medians, "times_faster_than": ratios, "turns": repeats}, results


def growth(script, *what):
    """What ``script --child WHAT`` printed last: by how many bytes it grew the resident peak of its process."""
    env = {**os.environ, **ONE_THREAD, "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed goes back at once
    call = [sys.executable, script, "--child", *what]
    done = subprocess.run(call, check=True, capture_output=True, text=True, env=env)
    return json.loads(done.stdout.splitlines()[-1])


def grown(job):
    """By how many bytes a call lets the resident peak of this process grow, and what it returns."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    before = psutil.Process().memory_info().rss
    result = job()
    status = Path("/proc/self/status").read_text()
    top = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    return max(top - before, 0), result


def peak(job):
    """Print what `grown` finds, for `growth`."""
    added, result = grown(job)
    print(json.dumps(added))
    return result


def about(*packages):
    """The machine, the day and versions."""
    return {"machine": f"{platform.machine()}, one core of {os.cpu_count()}", "system": platform.system(),
            "python": platform.python_version(), "date": datetime.now(UTC).date().isoformat(),
            "versions": {name: version(name) for name in ("biosegkit", "numpy", "numba", *packages)}}


def alone():
    """Start the script anew with one thread everywhere, unless it runs so."""
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_THREAD})


def say(name, row):
    """One line per measurement."""
    print(name, json.dumps(row), flush=True)
