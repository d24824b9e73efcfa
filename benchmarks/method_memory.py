"""How much memory every instance method takes to make its targets and to find the objects of its maps.

    python benchmarks/method_memory.py [--methods flow,star] [--write]

Measured in a process of its own per method and step, in units of the label image (4 bytes per voxel): growth of the
resident peak during `encode` beyond the targets and weights it returns, and during `decode` beyond the state it keeps
of a block (the maps of a network lie in memory before; the labels it returns count). ``unknown`` is `encode` again with
an eighth of the image and single voxels ignored. The labels are synthetic nuclei; maps are perfect. At most 3 is what
the project aims at. ``one object``, ``no border`` and ``strips`` are `decode` of an object that fills the image but for
a rim, of one that fills it altogether, and of twelve that reach from one end of it to the other. ``--write`` makes
``results/method_memory.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from side_by_side import about, alone, grown, growth, nuclei, say

from biosegkit.methods import METHODS
from biosegkit.methods.protocol import Block

RECORD = Path(__file__).parent / "results/method_memory.json"
SHAPES = {"2D": (2048, 2048), "3D": (64, 256, 256)}
LARGE = {"2D": (1024, 1024), "3D": (64, 256, 256)}
SMALL = {"2D": (64, 64), "3D": (16, 32, 32)}


def size(value):
    """Bytes of all arrays in nested containers; what shares memory counts once."""
    seen = {}

    def visit(part):
        if isinstance(part, np.ndarray):
            while isinstance(part.base, np.ndarray):
                part = part.base
            seen[id(part)] = part.nbytes
        for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list | tuple) else ():
            visit(inner)

    visit(value)
    return sum(seen.values())


def decoded(method, maps):
    """State and labels of a whole image."""
    block = Block.whole(next(iter(maps.values())).shape[1:], ())
    state = method.local(maps, block)
    return state, method.paint(state, method.resolve([state]))


def large(shape):
    """Labels of one object in a rim of one voxel, of one without, and of twelve strips along the last axis."""
    strips = np.zeros(shape, np.int32)
    width = shape[-2] // 12
    for k in range(12):
        strips[..., k * width: (k + 1) * width - 2, :] = k + 1
    return {"one object": np.pad(np.ones([n - 2 for n in shape], np.int32), 1), "no border": np.ones(shape, np.int32),
            "strips": strips}


def child(name, space):
    """Bytes added by both steps, those of them that are kept, and those of the label image."""
    method = METHODS[name]()
    row = {}
    for shape in (SMALL[space], SHAPES[space]):  # the first compiles
        labels, spacing = nuclei(shape), (1.0,) * len(shape)
        unit = 4 * labels.size
        known = np.random.default_rng(0).random(shape) > 1e-3
        known[: shape[0] // 8] = False
        for step, valid in (("unknown", known), ("encode", None)):
            added, (targets, weights) = grown(lambda: method.encode(labels, spacing, valid))  # noqa: B023
            row[step], row["targets"] = added - size([targets, weights]), size([targets, weights])
            del weights
        maps = {k: np.ascontiguousarray(v) for k, v in method.ideal(targets).items()}
        del targets
        row["maps"] = size(maps)
        added, (state, _) = grown(lambda: decoded(method, maps))  # noqa: B023
        row["decode"], row["state"] = added - size(state.arrays), size(state.arrays)
    del state
    for what, labels in large(LARGE[space]).items():
        share = unit / (4 * labels.size)
        added, (targets, weights) = grown(lambda: method.encode(labels, (1.0,) * labels.ndim))  # noqa: B023
        row[f"{what}, encode"] = (added - size([targets, weights])) * share
        maps = {k: np.ascontiguousarray(v) for k, v in method.ideal(targets).items()}
        del targets, weights
        added, (state, _) = grown(lambda: decoded(method, maps))  # noqa: B023
        row[what] = (added - size(state.arrays)) * share
        del state
    print(json.dumps({step: round(value / unit, 2) for step, value in row.items()}))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", default=",".join(name for name in METHODS if name != "semantic"))
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    alone()
    rows = json.loads(RECORD.read_text("utf-8"))["rows"] if RECORD.exists() else {}
    for name in options.methods.split(","):
        rows[name] = {space: growth(__file__, name, space) for space in SHAPES}
        say(name, rows[name])
    if options.write:
        record = {**about(), "unit": "label images of 4 bytes per voxel", "shapes": SHAPES, "rows": rows}
        RECORD.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
