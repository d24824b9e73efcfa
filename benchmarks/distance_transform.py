"""Distance of every pixel to the border of its own object: ours, all objects in one pass, beside edt and scipy.

    python benchmarks/distance_transform.py [--repeats 5] [--write]

``edt`` is the package of that name (labels in one call, one thread; ``uv pip install edt`` if it is missing), ``scipy``
is `distance_transform_edt` of each object in its box. All measure to the centre of the nearest pixel of another label,
the edge of the image bounding nothing. ``--write`` makes ``results/distance_transform.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import edt
import numpy as np
from scipy import ndimage
from side_by_side import about, alone, growth, nuclei, peak, say, turns

from biosegkit.kernels.distance import boundary_distance

RECORD = Path(__file__).parent / "results/distance_transform.json"
CASES = [((1024, 1024), None), ((2048, 2048), None), ((4096, 4096), None), ((2048, 2048), (2.0, 0.5)),
         ((64, 256, 256), None), ((64, 256, 256), (2.5, 0.8, 0.8))]


def per_object(labels, spacing):
    """Every object alone, in its box with a rim of one pixel where the image goes on."""
    out = np.zeros(labels.shape, np.float32)
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        if box is None:
            continue
        window = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box)
        inside = labels[window] == number
        out[window][inside] = ndimage.distance_transform_edt(inside, spacing)[inside]
    return out


def package(labels, spacing):
    return edt.edt(labels, anisotropy=spacing or (1.0,) * labels.ndim, black_border=False, parallel=1)


CONTESTANTS = {"ours": boundary_distance, "edt": package, "scipy": per_object}


def compared(shape, spacing, repeats, only=("ours", "edt", "scipy")):
    """Seconds, and the largest differences of values."""
    labels = nuclei(shape)
    jobs = {name: lambda run=CONTESTANTS[name]: run(labels, spacing) for name in only}
    row, found = turns(jobs, repeats)
    apart = {name: float(np.abs(found[name] - found["ours"]).max()) for name in only if name != "ours"}
    row = {"shape": shape, "spacing": spacing, "objects": int(labels.max()), **row, "largest_difference": apart}
    say("distance", row)
    return row


def child(who, shape):
    """Bytes of one call."""
    labels = nuclei(tuple(int(n) for n in shape.split("x")))
    CONTESTANTS[who](labels[(slice(64),) * labels.ndim].copy(), None)
    peak(lambda: CONTESTANTS[who](labels, None))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    alone()
    for ndim in (2, 3):
        boundary_distance(nuclei((24,) * ndim), (1.0,) * ndim)
    rows = [compared(shape, spacing, options.repeats) for shape, spacing in CASES]
    added = {shape: {who: growth(__file__, who, shape) for who in CONTESTANTS} for shape in ("2048x2048", "64x256x256")}
    say("memory", added)
    if options.write:
        record = {**about("edt", "scipy"), "rows": rows, "added_bytes": added}
        RECORD.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
