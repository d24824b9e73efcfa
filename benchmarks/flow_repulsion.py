"""Which default of `repulsion` should `flow` and `flow_eikonal` have? AP over its values, on flows of any quality.

    python benchmarks/flow_repulsion.py --data DATA [--run RUN:dsb2018:fluo ...] [--images 6] [--write]

Decoded are the targets of the shapes of `oracles.py` and of real objects (`DATA/dsb2018`, fluorescence, and, as they
are, `usiigaci_phase`, `bbbc050_mouse_embryo`, `plantseg_cells3d`): as they are; with noise of every voxel by itself or
that neighbours share; and blurred, as a network blurs what it is not sure of, by a quarter and a half of the radius of
the median object (two voxels at most), with shared noise. With ``--run`` (a run or bundle, the data set and the type of
images it was trained on), also the maps that a network predicts for images of split ``test``. Flow errors are checked
with the default. AP is pooled, the mean of those at IoU 0.5 and 0.75. ``--write`` makes
``results/flow_repulsion.json``.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
from cellpose_decoding import noise
from oracles import shapes
from scipy import ndimage
from side_by_side import about, alone, say

import biosegkit as bsk
from biosegkit.methods import METHODS, Block
from biosegkit.metrics.instances import instance_counts

RECORD = Path(__file__).parent / "results/flow_repulsion.json"
VALUES = (-0.1, 0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.1)
LIMITS = (0.5, 0.75)
#: Blur in radii of the median object, kind of noise, its standard deviation.
FLAWS = ((0.0, "none", 0.0), (0.0, "single voxels", 0.3), (0.0, "shared", 0.3), (0.25, "shared", 0.1),
         (0.5, "shared", 0.1), (0.5, "shared", 0.3))


def flawed(ideal, labels, spacing, flaw, seed):
    """Maps as a network would give them, which is not sure."""
    blur, kind, sigma = flaw
    sizes = np.bincount(labels.reshape(-1))[1:]
    radius = (float(np.median(sizes[sizes > 0])) / np.pi) ** 0.5 if labels.ndim == 2 else (
        float(np.median(sizes[sizes > 0])) * 3 / (4 * np.pi)) ** (1 / 3)
    width = [min(blur * radius, 2.0) * min(spacing) / s for s in spacing]
    flow = np.stack([ndimage.gaussian_filter(c, width) for c in ideal["flow"]])
    flow = flow + noise(kind, sigma, flow.shape, [seed, round(10 * sigma)])
    flow = flow / np.maximum(np.linalg.norm(flow, axis=0, keepdims=True), 1)  # as `Flow.activate`
    return {"foreground": ndimage.gaussian_filter(ideal["foreground"], [0, *width]), "flow": flow.astype(np.float32)}


def real(data, images):
    """Labels and spacing by data set."""
    for name, only, spacing in (("dsb2018", "fluo", (1.0, 1.0)), ("usiigaci_phase", "", (1.0, 1.0)),
                                ("bbbc050_mouse_embryo", "", (1.75, 0.8, 0.8)),
                                ("plantseg_cells3d", "", (1.0, 1.0, 1.0))):
        where = {"split": ("train",), **({"type": (only,)} if only else {})}
        cases = bsk.scan(data / name / "cases.csv", where=where)
        found = []
        for case in itertools.islice(cases, images if len(spacing) == 2 else 2):
            labels = np.asarray(cases.load(case, "instance")[1].array).squeeze()
            labels = labels[tuple(slice(0, n) for n in ((600, 600) if labels.ndim == 2 else (48, 128, 128)))]
            if labels.any():
                number = np.unique(labels, return_inverse=True)[1]
                found.append((number.reshape(labels.shape).astype(np.int32), spacing))
        yield name, found


def over_values(method, maps):
    """Pooled AP by value; ``maps`` are triples of maps, labels and spacing."""
    sums = {}
    for given, labels, spacing in maps:
        state = method.local(given, Block.whole(labels.shape, spacing))
        for value in VALUES:
            found = method.paint(state, method.resolve([state], {"repulsion": value}))[0]
            counts = instance_counts(labels, found, thresholds=LIMITS)
            sums[value] = sums[value] + counts if value in sums else counts
    return {str(v): round(float(np.mean([c.ap(t) for t in LIMITS])), 4) for v, c in sums.items()}


def of_labels(name, labelled):
    """Rows of targets with every flaw."""
    for field, flaw in itertools.product(("flow", "flow_eikonal"), FLAWS):
        method = METHODS[field]()
        maps = [(flawed(method.ideal(method.encode(labels, spacing)[0]), labels, spacing, flaw, k), labels, spacing)
                for k, (labels, spacing) in enumerate(labelled)]
        yield {"labels": name, "method": field, "blur": flaw[0], "noise": flaw[1], "sigma": flaw[2],
               "ap": over_values(method, maps)}


def of_run(given, data, images):
    """A row of what a network predicts for images it never saw."""
    run, name, kind = (given + ":").split(":")[:3]
    bundle = bsk.load(run, "cpu")
    cases = bsk.scan(data / name / "cases.csv", where={"split": ("test",), **({"type": (kind,)} if kind else {})})
    maps = []
    for case in itertools.islice(cases, images):
        image, labels = cases.load(case, "instance")
        found = bundle.maps(image)
        shape = found["flow"].shape[1:]
        maps.append((found, np.asarray(labels.array).reshape(shape), tuple(image.grid.spacing[-len(shape):])))
    method = METHODS[bundle.plan.method]()
    return {"labels": " ".join((name, kind)).strip(), "images": len(maps), "method": bundle.plan.method,
            "maps": f"a network's, {bundle.plan.training.steps} steps", "ap": over_values(method, maps)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", nargs="*", default=[], metavar="RUN:SET:TYPE")
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--networks-only", action="store_true", help="add rows of --run to those of the record")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    alone()
    rows = json.loads(RECORD.read_text("utf-8"))["rows"] if options.networks_only else []
    sets = [(f"{name}, {ndim}D", [case]) for ndim in (2, 3) for name, case in shapes(ndim).items()]
    for name, labelled in () if options.networks_only else itertools.chain(sets, real(options.data, options.images)):
        for row in of_labels(name, labelled):
            rows.append(row)
            say("flow_repulsion", row)
    for run in options.run:
        rows.append(of_run(run, options.data, options.images))
        say("flow_repulsion", rows[-1])
    if options.write:
        RECORD.write_text(json.dumps({**about(), "values": VALUES, "rows": rows}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
