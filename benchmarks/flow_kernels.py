"""Flow targets and decoding of flows beside Cellpose's, on the same nuclei, in 2D and 3D.

    python benchmarks/flow_kernels.py [--repeats 3] [--only targets,largest,decode,shapes,memory,full,filled] [--write]
    python benchmarks/flow_kernels.py --only alike --data DATA [--write]

Cellpose runs on the processor, in one thread like ours (``masks_to_flows_gpu`` is its name on every device). What is
decoded are our targets and Cellpose's, as they are and with normal noise on each component. Objects are compared with
the truth: mean AP over IoU 0.5 to 0.95. ``full`` has targets of 4096 x 4096 and 64 x 256 x 256, for which
Cellpose takes several minutes, ``filled`` those of one object that fills an image, beside all steps walked voxel by
voxel (half a minute). ``alike`` compares what both decoders and Cellpose make of the same flows, those
of touching discs and balls and of nuclei of dsb2018 (`DATA/dsb2018`, fluorescence, split ``test``), with more and more
noise: pooled AP at IoU 0.5, 0.75 and 0.9. ``--write`` adds what was measured to ``results/flow_kernels.json``.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import warnings
from pathlib import Path

import numpy as np
from cellpose import dynamics
from side_by_side import about, alone, growth, nuclei, peak, say, seconds, turns

import biosegkit as bsk
from biosegkit.kernels import heat_flow as heat_module
from biosegkit.kernels.heat_flow import heat_flow
from biosegkit.methods import Flow
from biosegkit.methods.decoding import decode as decoded
from biosegkit.metrics.instances import instance_counts

RECORD = Path(__file__).parent / "results/flow_kernels.json"
DECODERS = ("forest", "euler")
LIMITS = tuple(np.round(np.arange(0.5, 1.0, 0.05), 2))


def theirs(labels):
    if labels.ndim == 2:
        return dynamics.masks_to_flows_gpu(labels)[0]
    return dynamics.masks_to_flows_gpu_3d(labels)


def angles(labels, one, other):
    """Cosines of the angle between two fields inside objects, apart from their centres: median, lowest hundredth."""
    inside = (labels > 0) & (np.square(one).sum(0) > 0.5) & (np.square(other).sum(0) > 0.5)
    cosine = np.sort((one * other).sum(0)[inside])
    return [round(float(cosine[len(cosine) // d]), 4) for d in (2, 100)]


def targets(repeats):
    rows = []
    for shape, times in (((512, 512), repeats), ((1024, 1024), repeats), ((2048, 2048), 1), ((32, 128, 128), 1)):
        labels = nuclei(shape)
        row, found = turns({"ours": lambda: heat_flow(labels), "cellpose": lambda: theirs(labels)}, times)  # noqa: B023
        rows.append({"shape": shape, "objects": int(labels.max()), **row,
                     "cosine_median_and_1st_percentile": angles(labels, found["ours"], found["cellpose"])})
        say("targets", rows[-1])
    return rows


def full(repeats):
    """Targets of large images; Cellpose once."""
    rows = []
    for shape in ((4096, 4096), (64, 256, 256)):
        labels = nuclei(shape)
        row = turns({"ours": lambda: heat_flow(labels)}, repeats)[0]  # noqa: B023
        took = seconds(lambda: theirs(labels))[0]  # noqa: B023
        row["times_faster_than"] = {"cellpose": round(took / row["seconds"]["ours"], 1)}
        row["seconds"]["cellpose"] = round(took, 1)
        rows.append({"shape": shape, "objects": int(labels.max()), **row, "turns_of_cellpose": 1})
        say("full", rows[-1])
    return rows


def largest(repeats):
    """The same nuclei without and with one disc of 480 pixels beside them: seconds of each, and of the disc alone."""
    labels = np.zeros((1024, 1024), np.int32)
    labels[:512, :512] = nuclei((512, 512))
    disc = np.zeros_like(labels)
    y, x = np.ogrid[:1024, :1024]
    disc[(y - 760) ** 2 + (x - 760) ** 2 <= 240**2] = labels.max() + 1
    row = {}
    for name, field in (("ours", heat_flow), ("cellpose", theirs)):
        jobs = {"nuclei": lambda: field(labels), "both": lambda: field(labels + disc)}  # noqa: B023
        if name == "ours":
            jobs["disc alone"] = lambda: heat_flow(disc)
        row[name] = turns(jobs, repeats if name == "ours" else 1)[0]["seconds"]
    alike = heat_flow(labels)[:, :512, :512], heat_flow(labels + disc)[:, :512, :512]
    row["nuclei of the same bytes"] = alike[0].tobytes() == alike[1].tobytes()
    say("largest", row)
    return row


def filled():
    """One object that fills an image: on coarser grids, and with all steps walked voxel by voxel."""
    rows = []
    for shape in ((1024, 1024), (64, 256, 256)):
        labels = np.pad(np.ones([n - 2 for n in shape], np.int32), 1)
        took, found = seconds(lambda: heat_flow(labels))  # noqa: B023
        work, heat_module._WORK = heat_module._WORK, 1 << 62
        longer, expected = seconds(lambda: heat_flow(labels))  # noqa: B023
        heat_module._WORK = work
        apart = np.square(found - expected).sum(0)[labels > 0]
        rows.append({"shape": shape, "seconds": {"ours": round(took, 3), "voxel by voxel": round(longer, 2)},
                     "times_faster": round(longer / took, 1), "mean_square_of_difference": float(f"{apart.mean():.2g}"),
                     "cosine_median_and_1st_percentile": angles(labels, found, expected)})
        say("filled", rows[-1])
    return rows


def score(labels, found):
    counts = instance_counts(labels, found, thresholds=LIMITS)
    return round(float(np.mean([counts.ap(limit) for limit in LIMITS])), 4)


def decode(repeats):
    """Flows of either target with noise; with the check of flows (Cellpose's default) and, in both, without."""
    rows = []
    cases = [((1024, 1024), "ours", 0.0, repeats), ((1024, 1024), "ours", 0.1, repeats),
             ((1024, 1024), "ours", 0.5, repeats), ((1024, 1024), "cellpose", 0.0, repeats),
             ((1024, 1024), "cellpose", 0.1, repeats), ((2048, 2048), "ours", 0.1, 1), ((32, 128, 128), "ours", 0.1, 1)]
    for shape, whose, sigma, times in cases:
        labels = nuclei(shape)
        clean = (heat_flow if whose == "ours" else theirs)(labels).astype(np.float32)
        flow = clean + sigma * np.random.default_rng([3, *shape]).standard_normal(clean.shape, dtype=np.float32)
        for check in (True, False) if len(shape) == 2 else (False,):
            row, found = turns(decoders(flow, (labels > 0).astype(np.float32), check), times)
            took = row["seconds"]
            row["times_faster_than"] = {f"{name} than cellpose": round(took["cellpose"] / took[name], 1)
                                        for name in DECODERS}
            rows.append({"shape": shape, "flows of": whose, "noise": sigma, "check": check, **row,
                         "objects": int(labels.max()), "ap": {name: score(labels, f) for name, f in found.items()}})
            say("decode", rows[-1])
    return rows


def decoders(flow, foreground, check):
    """Ours by both ways of following a path, and Cellpose's, whose network gives five times the flow and logits.

    Our default of ``repulsion`` suits flows of networks; of true flows with noise of single voxels 0.5 is right.
    """
    limit = {"flow_error": 1.0 if check else 4.0, "repulsion": 0.5}
    maps = {"foreground": foreground[None], "flow": flow}
    jobs = {name: lambda name=name: decoded(Flow(decoder=name), maps, limit)[0] for name in DECODERS}
    given = {"do_3D": foreground.ndim == 3, "flow_threshold": 0.4 if check else 0.0}
    return {**jobs, "cellpose": lambda: dynamics.compute_masks(5 * flow, 12 * foreground - 6, **given)}


def touching(shape, radii):
    """Discs or balls of these radii in turn, row by row, each a voxel from the next: most touch four (six) others."""
    labels, place, pitch = np.zeros(shape, np.int32), np.indices(shape), 2 * max(radii) + 1
    for k, cell in enumerate(np.ndindex(*(n // pitch for n in shape)), 1):
        away = sum((axis - pitch * c - pitch // 2) ** 2 for axis, c in zip(place, cell, strict=True))
        labels[away <= (radii[k % len(radii)] + 0.5) ** 2] = k
    return labels


def fluorescent(data, most=40):
    """True labels of nuclei nobody chose anything on, up to 0.4 megapixels each."""
    with (data / "dsb2018/cases.csv").open(encoding="utf-8") as handle:
        rows = [r for r in csv.DictReader(handle) if r["split"] == "test" and r["type"] == "fluo"]
    found = (np.asarray(bsk.read_labels(data / "dsb2018" / r["label"], "instance").array) for r in rows)
    return list(itertools.islice((np.unique(f, return_inverse=True)[1].reshape(f.shape).astype(np.int32)
                                  for f in found if f.size <= 400_000 and f.any()), most))


def alike(data):
    """Pooled AP of both ways to follow a path and of Cellpose, on the same flows, without and with a check of flows."""
    sets = {"discs of radius 4 to 12": [touching((400, 400), (4, 8, 12))],
            "discs of radius 20": [touching((410, 410), (20,))],
            "balls of radius 3 to 6": [touching((39, 104, 104), (3, 5, 6))]}
    if data:
        sets["dsb2018 fluo, test"] = fluorescent(data)
    rows = []
    for name, truths in sets.items():
        for whose, sigma in itertools.product(("ours", "cellpose"), (0.0, 0.1, 0.3, 0.5)):
            fields = [(heat_flow if whose == "ours" else theirs)(t).astype(np.float32) for t in truths]
            for check in (False, True)[: 1 + (truths[0].ndim == 2 and sigma < 0.2)]:
                sums = {}
                for k, (labels, clean) in enumerate(zip(truths, fields, strict=True)):
                    grain = np.random.default_rng([k, round(10 * sigma)]).standard_normal(clean.shape, np.float32)
                    jobs = decoders(clean + sigma * grain, (labels > 0).astype(np.float32), check)
                    for who, job in jobs.items():
                        counts = instance_counts(labels, job(), thresholds=(0.5, 0.75, 0.9))
                        sums[who] = sums[who] + counts if who in sums else counts
                rows.append({"labels": name, "images": len(truths), "objects": sum(int(t.max()) for t in truths),
                             "flows of": whose, "noise": sigma, "check": check,
                             "ap at 0.5, 0.75, 0.9": {who: [round(float(c.ap(t)), 4) for t in (0.5, 0.75, 0.9)]
                                                      for who, c in sums.items()}})
                say("alike", rows[-1])
    return rows


def shapes():
    """How many of 81 discs, and whether one object that fills the image, come back from perfect flows."""
    rows = []
    for radius in (1, 2, 3):
        labels = np.zeros((135, 135), np.int32)
        y, x = np.ogrid[:135, :135]
        for n in range(81):
            labels[(y - 7 - 15 * (n // 9)) ** 2 + (x - 7 - 15 * (n % 9)) ** 2 <= radius**2] = n + 1
        rows.append({"discs of radius": radius, "objects": 81, **recovered(labels)})
    rows.append({"full frame": (96, 96), "objects": 1, **recovered(np.ones((96, 96), np.int32))})
    for row in rows:
        say("shapes", row)
    return rows


def recovered(labels):
    """Objects found at an IoU of 0.5, each with its own targets."""
    foreground = (labels > 0).astype(np.float32)
    flows = {"ours": heat_flow(labels), "cellpose": theirs(labels)}
    found = {
        "ours": decoded(Flow(), {"foreground": foreground[None], "flow": flows["ours"]})[0],
        "cellpose": dynamics.compute_masks(5 * flows["cellpose"], 12 * foreground - 6),
    }
    return {name: int(instance_counts(labels, f, thresholds=(0.5,)).tp[0]) for name, f in found.items()}


def child(who, what):
    """One call in a process of its own."""
    labels = nuclei((1024, 1024))
    small = nuclei((96, 96))
    if what == "targets":
        run = {"ours": heat_flow, "cellpose": theirs}[who]
        run(small)
        peak(lambda: run(labels))
        return
    flow = heat_flow(labels)
    foreground = (labels > 0).astype(np.float32)
    bent = 5 * flow, 12 * foreground - 6

    def run(n):
        if who == "ours":
            return decoded(Flow(), {"foreground": foreground[None, :n, :n], "flow": flow[:, :n, :n]})[0]
        return dynamics.compute_masks(bent[0][:, :n, :n], bent[1][:n, :n])

    run(96)
    peak(lambda: run(1024))


def memory():
    """Bytes at 1024 x 1024; a label image of 4 bytes is 4 MiB."""
    row = {what: {who: growth(__file__, who, what) for who in ("ours", "cellpose")} for what in ("targets", "decode")}
    row["label_image"] = 4 * 1024**2
    say("memory", row)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="targets,largest,decode,shapes,memory")
    parser.add_argument("--data", type=Path, help="folder with dsb2018/, for alike")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    alone()
    warnings.filterwarnings("ignore", message="Sparse invariant checks")
    for ndim in (2, 3):
        labels = nuclei((24,) * ndim)
        decoded(Flow(), {"foreground": (labels > 0).astype(np.float32)[None], "flow": heat_flow(labels)})
    parts = {"targets": lambda: targets(options.repeats), "largest": lambda: largest(options.repeats),
             "decode": lambda: decode(options.repeats), "shapes": shapes, "memory": memory,
             "full": lambda: full(options.repeats), "filled": filled, "alike": lambda: alike(options.data)}
    for name in options.only.split(","):
        measured = parts[name]()
        if options.write:
            record = json.loads(RECORD.read_text("utf-8")) if RECORD.exists() else {}
            record |= {**about("cellpose", "torch"), "beside": "other programs ran on the machine", name: measured}
            RECORD.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
