"""What each instance method can and cannot hold: AP of decode(encode(labels)) on shapes that part the methods.

    python benchmarks/oracles.py                      # prints the tables
    python benchmarks/oracles.py --write              # writes the record, and the tables into docs/methods.md
    python benchmarks/oracles.py --methods star,flow  # only these; kept beside the others of the record

Labels are made, the same every time. Methods have the lengths that the planner would give them for these objects, and
default thresholds; images are not resampled. Seconds are of the second of two round trips, as the first may compile.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile

from biosegkit import measure, scan
from biosegkit.description import Description
from biosegkit.fingerprint_schema import ObjectStatistics
from biosegkit.methods import METHODS, round_trip
from biosegkit.metrics.instances import instance_counts
from biosegkit.plan.scale import method_lengths

HERE = Path(__file__).resolve().parent
PAGE, RECORD = HERE.parent / "docs" / "methods.md", HERE / "results" / "oracles.json"
START, END = "<!-- oracles -->", "<!-- /oracles -->"
LIMITS = (0.5, 0.75, 0.9)
ANISOTROPIC = 5.0


def scattered(shape, draw, count, seed):
    """Labels with up to ``count`` groups that do not overlap; ``draw(points, rng)`` numbers the objects of one."""
    rng, labels = np.random.default_rng(seed), np.zeros(shape, np.uint16)
    points = np.indices(shape).astype(float)
    for _ in range(count):
        for _ in range(40):
            group = np.asarray(draw(points, rng)).astype(np.uint16)
            inside = group > 0
            if inside.any() and not labels[inside].any() and not _at_edge(inside):
                labels[inside] = group[inside] + labels.max()
                break
    return labels


def _at_edge(inside):
    return any(np.take(inside, [0, -1], axis).any() for axis in range(inside.ndim))


def _place(points, rng):
    """Coordinates around a random centre, the last two axes turned by a random angle."""
    centred = [p - rng.uniform(0, n) for p, n in zip(points, points.shape[1:], strict=True)]
    angle = rng.uniform(0, np.pi)
    y, x = centred[-2:]
    return [*centred[:-2], np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x]


def c_shape(points, rng):
    """Three quarters of a ring, 6 wide, with a disc in its hollow that touches it; in 3D as thick as that."""
    *z, y, x = _place(points, rng)
    radius = np.hypot(y, x)
    ring = (radius >= 8) & (radius < 14) & ~((x > 0) & (np.abs(y) < x))
    return _thick(np.where(radius < 8, 2, ring), z, 3)


def rods(points, rng):
    """Three side by side that touch along their length, each 4 wide, 40 long."""
    *z, y, x = _place(points, rng)
    inside = (np.abs(y) < 6) & (np.abs(x) < 20)
    return _thick(np.where(inside, 2 + np.floor((y + 2) / 4), 0), z, 2)


def _thick(plane, z, half):
    return np.where(np.abs(z[0]) < half, plane, 0) if z else plane


def small_disc(points, rng):
    """Radius 2, centred on a voxel."""
    centre = [rng.integers(0, n) for n in points.shape[1:]]
    return sum((p - c) ** 2 for p, c in zip(points, centre, strict=True)) <= 4


def touching(shape, radius):
    """Discs that touch their neighbours along both axes."""
    step = 2 * radius + 1
    points, cells = np.indices(shape), [n // step for n in shape]
    cell = [np.minimum(p // step, c - 1) for p, c in zip(points, cells, strict=True)]
    centre = [c * step + radius for c in cell]
    inside = sum((p - c) ** 2 for p, c in zip(points, centre, strict=True)) <= (radius + 0.5) ** 2
    number = np.ravel_multi_index(cell, cells) + 1
    return np.where(inside, number, 0).astype(np.uint16)


def flattened_ball(points, rng):
    """Round where the first axis has voxels five times as long: radius 10 along the others."""
    centre = [rng.uniform(0, n) for n in points.shape[1:]]
    steps = (ANISOTROPIC, *(1.0,) * (len(points) - 1))
    return sum(((p - c) * s) ** 2 for p, c, s in zip(points, centre, steps, strict=True)) < 100


def shapes(ndim):
    """Labels and spacing by the name of the shape."""
    wide = (160, 160) if ndim == 2 else (24, 72, 72)
    even = (1.0,) * ndim
    many = 14 if ndim == 2 else 6
    return {
        "C-shapes": (scattered(wide, c_shape, many, 1), even),
        "rods 4 × 40": (scattered(wide, rods, many, 2), even),
        "touching, radius 8": (touching((136, 136) if ndim == 2 else (34, 68, 68), 8), even),
        "radius 2": (scattered(wide, small_disc, 8 * many, 3), even),
        "the whole frame": (np.ones((128,) * 2 if ndim == 2 else (32,) * 3, np.uint16), even),
        "voxels 1 : 5": (scattered((40, 160) if ndim == 2 else (12, 72, 72), flattened_ball, many, 4),
                         (ANISOTROPIC, *even[1:])),
    }


def objects_of(labels, spacing) -> ObjectStatistics:
    """What the planner would know of the objects."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("images", "labels"):
            (Path(folder) / name).mkdir()
            tifffile.imwrite(Path(folder) / name / "a.tif", labels, photometric="minisblack")
        about = Description.from_data({"spacing": list(spacing), "unit": "um", "axes": "zyx"[-labels.ndim:]})
        found = measure(scan(folder, describe=about), task="instance").objects
    assert found is not None
    return found


def scored(name, labels, spacing, objects) -> dict:
    """AP at the limits, and seconds of the second of two round trips."""
    method = METHODS[name](**method_lengths(name, objects, spacing))
    for _ in range(2):
        begun = time.perf_counter()
        found = round_trip(method, labels, spacing)
        seconds = time.perf_counter() - begun
    counts = instance_counts(labels, found, thresholds=LIMITS)
    reached = [round(float(counts.ap(limit)), 4) for limit in LIMITS]
    return {"objects": counts.n_true, "ap": reached, "seconds": round(seconds, 4)}


def table(rows: dict, ndim: int) -> list[str]:
    """One line per method: AP at 0.5, 0.75 and 0.9 of every shape; one number where all three are the same."""
    names = list(next(iter(rows.values())))
    lines = [f"| {ndim}D | {' | '.join(names)} | seconds |", "|---" * (len(names) + 2) + "|"]
    for method, found in rows.items():
        cells = [" / ".join(f"{v:.2f}" for v in (cell["ap"] if len(set(cell["ap"])) > 1 else cell["ap"][:1]))
                 for cell in found.values()]
        lines.append(f"| `{method}` | {' | '.join(cells)} | {sum(c['seconds'] for c in found.values()):.2f} |")
    return lines


def written(page: str, tables: str) -> str:
    """The page with the tables between the marks."""
    head, rest = page.split(START)
    return f"{head}{START}\n{tables}\n{END}{rest.split(END)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(name for name in METHODS if name != "semantic"))
    parser.add_argument("--write", action="store_true", help="write the record and docs/methods.md")
    options = parser.parse_args()
    old = json.loads(RECORD.read_text("utf-8"))["rows"] if RECORD.exists() else {}
    rows: dict = {}
    for ndim in (2, 3):
        made = {name: (*case, objects_of(*case)) for name, case in shapes(ndim).items()}
        new = {name: {shape: scored(name, *case) for shape, case in made.items()}
               for name in options.methods.split(",")}
        known = {**old.get(str(ndim), {}), **new}
        rows[str(ndim)] = {name: known[name] for name in METHODS if name in known}
    tables = "\n\n".join("\n".join(table(rows[str(ndim)], ndim)) for ndim in (2, 3))
    print(tables)
    if options.write:
        record = {"kind": "oracles", "limits": LIMITS, "machine": platform.machine(), "rows": rows}
        RECORD.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        PAGE.write_text(written(PAGE.read_text("utf-8"), tables), "utf-8")


if __name__ == "__main__":
    main()
