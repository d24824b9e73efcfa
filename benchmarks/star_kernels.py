"""Kernels of star-shaped objects beside StarDist's: ray distances, suppression and painting, in 2D and 3D.

    python benchmarks/star_kernels.py [--repeats 3] [--only rays,many_ids,decode,bias,outlier,million,memory] [--write]

Both get the same synthetic nuclei (`side_by_side.nuclei`); what is decoded is their true distances with 3 % of noise
per ray. Objects are compared with those that StarDist finds in the same maps, by its overlap rule: F1 at an IoU of 0.9.
``--write`` adds what was measured to ``results/star_kernels.json``.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
from side_by_side import about, alone, growth, nuclei, peak, say, seconds, turns

from biosegkit.kernels.ray_distances import ray_distances, sparse_ray_distances
from biosegkit.kernels.rays import circle, sphere, spiral
from biosegkit.kernels.star_nms import suppress
from biosegkit.kernels.star_painting import paint_shapes
from biosegkit.methods.star_decoding import shapes_of
from biosegkit.metrics.instances import instance_counts

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from stardist.geometry import polygons_to_label, polyhedron_to_label, star_dist, star_dist3D
    from stardist.nms import non_maximum_suppression, non_maximum_suppression_3d
    from stardist.rays3d import Rays_GoldenSpiral
    from stardist.utils import edt_prob

RECORD = Path(__file__).parent / "results/star_kernels.json"
PROBABILITY, OVERLAP = 0.5, 0.4
FOREGROUND = "ours, foreground only"


def rays_of(ndim):
    return circle(32) if ndim == 2 else spiral(96)


def theirs(labels, grid=None):
    grid = grid or (1,) * labels.ndim
    return star_dist(labels, 32, grid=grid) if labels.ndim == 2 else star_dist3D(labels, Rays_GoldenSpiral(96), grid)


def rays(repeats):
    """Dense distances, as StarDist has them, and those of the foreground alone."""
    rows = []
    for shape, times in (((2048, 2048), repeats), ((32, 128, 128), repeats), ((4096, 4096), 2), ((64, 256, 256), 2)):
        labels, mine = nuclei(shape), rays_of(len(shape))
        jobs = {"ours": lambda: ray_distances(labels, mine, border=True)[0, 0].sum(),  # noqa: B023
                FOREGROUND: lambda: sparse_ray_distances(labels, mine, border=True)[0].size,  # noqa: B023
                "stardist": lambda: theirs(labels)[0, 0].sum()}  # noqa: B023
        row = turns(jobs, times)[0]
        took = row["seconds"]
        row["times_faster_than"] = {"stardist": row["times_faster_than"]["stardist"],
                                    "stardist, foreground only": round(took["stardist"] / took[FOREGROUND], 2)}
        rows.append({"shape": shape, "objects": int(labels.max()), "rays": len(mine), **row})
        say("rays", rows[-1])
    return rows


def many_ids():
    """Distances of a voxel of an object of id 70 001 that touches one of id 70 001 - 65 536."""
    labels = np.zeros((12, 40), np.int32)
    labels[1:-1, :20], labels[1:-1, 20:] = 70001 - 65536, 70001
    mine = np.moveaxis(ray_distances(labels, circle(4), border=True), 0, -1)[6, 30]
    row = {"right": [9.5, 4.5, 10.5, 5.5],  # to the right, down, to the left, up
           "ours": mine.tolist(), "stardist": star_dist(labels, 4)[6, 30].tolist()}
    say("ids above 65 535", row)
    return row


def predicted(shape, grid):
    """Labels, and probability and distances (last axis) as a good network would give them."""
    labels, rng = nuclei(shape), np.random.default_rng([1, *shape])
    every = tuple(slice(None, None, g) for g in grid)
    probability = edt_prob(labels)[every].astype(np.float32)
    probability *= 1 + 0.03 * rng.standard_normal(probability.shape, dtype=np.float32)
    distances = np.moveaxis(ray_distances(labels, rays_of(len(shape)), border=True, grid=grid), 0, -1)
    noisy = distances * (1 + 0.03 * rng.standard_normal(distances.shape, dtype=np.float32))
    return labels, probability, np.ascontiguousarray(np.maximum(noisy, 1e-3))


def candidates(probability, distances, grid):
    where = np.nonzero(probability > PROBABILITY)
    return np.stack(where, 1) * np.array(grid), probability[where], distances[where]


def decode(repeats):
    """Suppression and painting."""
    rows = []
    cases = [((1024, 1024), (2, 2), repeats), ((1024, 1024), (1, 1), repeats), ((4096, 4096), (2, 2), 1),
             ((2048, 2048), (1, 1), 1), ((16, 96, 96), (1, 2, 2), 1), ((16, 96, 96), (1, 1, 1), 1)]
    for shape, grid, times in cases:
        labels, probability, distances = predicted(shape, grid)
        mine, spacing = rays_of(len(shape)), (1.0,) * len(shape)
        golden = Rays_GoldenSpiral(96)

        def ours():
            found = candidates(probability, distances, grid)  # noqa: B023
            return shapes_of(found, mine, spacing, labels.shape, overlap=OVERLAP)  # noqa: B023

        def stardist():
            given = {"grid": grid, "b": 0, "nms_thresh": OVERLAP, "prob_thresh": PROBABILITY}  # noqa: B023
            if len(grid) == 2:  # noqa: B023
                return non_maximum_suppression(distances, probability, **given)  # noqa: B023
            return non_maximum_suppression_3d(distances, probability, golden, **given)  # noqa: B023

        found, (shapes, (points, scores, lengths)) = (lambda t: (t[0], t[1].values()))(
            turns({"ours": ours, "stardist": stardist}, times))

        def paint():
            return paint_shapes(labels.shape, shapes.centres, shapes.distances, mine, ids=shapes.objects)  # noqa: B023

        def stardist_paint():
            if len(grid) == 2:  # noqa: B023
                return polygons_to_label(lengths, points, labels.shape, prob=scores)  # noqa: B023
            return polyhedron_to_label(lengths, points, golden, labels.shape, prob=scores, verbose=False)  # noqa: B023

        painted, (own, other) = (lambda t: (t[0], t[1].values()))(
            turns({"ours": paint, "stardist": stardist_paint}, max(times, 3)))
        both = [a["seconds"]["stardist"] for a in (found, painted)], [a["seconds"]["ours"] for a in (found, painted)]
        rows.append({
            "shape": shape, "grid": grid, "candidates": int((probability > PROBABILITY).sum()),
            "suppression": found, "painting": painted, "both_times_faster": round(sum(both[0]) / sum(both[1]), 2),
            "objects": {"true": int(labels.max()), "ours": len(shapes.scores), "stardist": len(points)},
            "f1_90_with_stardist": f1(other, own, 0.9), "f1_50_with_truth": [f1(labels, a, 0.5) for a in (own, other)],
        })
        say("decode", rows[-1])
    return rows


def f1(one, two, limit):
    return round(instance_counts(one, two, thresholds=(limit,)).f1(limit), 4)


def bias():
    """Distances in balls less the distance to the true sphere, all voxels and rays: mean, in voxels."""
    rows, radii = [], (6.0, 9.3, 13.7)
    for radius in radii:
        size = int(radius) + 3
        axis = np.arange(-size, size + 1)
        at = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).astype(float)
        labels = ((at**2).sum(-1) <= radius**2).astype(np.int32)
        inside, row = labels > 0, {"radius": radius}
        for name, mine in (("ours", sphere(96)), ("ours, stardist's rays", spiral(96)), ("stardist", None)):
            found = theirs(labels) if mine is None else np.moveaxis(ray_distances(labels, mine, border=True), 0, -1)
            along = at[inside] @ (mine or spiral(96)).directions.T
            true = -along + np.sqrt(along**2 + radius**2 - (at[inside] ** 2).sum(-1, keepdims=True))
            row[name] = round(float((found[inside] - true).mean()), 4)
        rows.append(row)
        say("bias", row)
    return rows


def outlier(repeats):
    """Suppression with one more shape, the best of all, that covers everything."""
    _, probability, distances = predicted((1024, 1024), (2, 2))
    places, scores, lengths = candidates(probability, distances, (2, 2))
    order = np.argsort(-scores, kind="stable")
    places, lengths = places[order], lengths[order]
    giant = np.concatenate([places, [[512, 512]]]), np.concatenate([lengths, np.full((1, 32), 700, np.float32)])
    row, found = turns({
        "with": lambda: suppress(*(np.roll(a, 1, 0) for a in giant), circle(32), threshold=OVERLAP, rule="iou"),
        "without": lambda: suppress(places, lengths, circle(32), threshold=OVERLAP, rule="iou"),
        "with, the last": lambda: suppress(*giant, circle(32), threshold=OVERLAP),
    }, repeats)
    row["same others"] = bool(((found["with"][1:] >= 0) == (found["without"] >= 0)).all())
    say("outlier", row)
    return row


def million():
    """Suppression of more than a million candidates, all foreground pixels of 2048 x 2048."""
    labels = nuclei((2048, 2048))
    where, lengths = sparse_ray_distances(labels, circle(32), border=True)
    lengths *= 1 + 0.03 * np.random.default_rng(2).standard_normal(lengths.shape, dtype=np.float32)
    places = np.stack(np.unravel_index(where, labels.shape), 1)
    order = np.argsort(-lengths.min(1), kind="stable")
    took, leader = seconds(lambda: suppress(places[order], lengths[order], circle(32), threshold=OVERLAP))
    row = {"candidates": len(where), "seconds": round(took, 2), "kept": int((leader >= 0).sum()),
           "objects": int(labels.max())}
    say("million", row)
    return row


def child(who, what):
    """One call in a process of its own."""
    if what == "rays":
        labels = nuclei((1024, 1024))
        run = {"ours": lambda n: ray_distances(labels[:n, :n], circle(32), border=True),
               "sparse": lambda n: sparse_ray_distances(labels[:n, :n], circle(32), border=True),
               "stardist": lambda n: star_dist(np.ascontiguousarray(labels[:n, :n]), 32)}[who]
        run(100)
        peak(lambda: run(1024))
        return
    _, probability, distances = predicted((1024, 1024), (1, 1))

    def ours(n):
        found = candidates(probability[:n, :n], distances[:n, :n], (1, 1))
        shapes = shapes_of(found, circle(32), (1.0, 1.0), (n, n), overlap=OVERLAP)
        return paint_shapes((n, n), shapes.centres, shapes.distances, circle(32), ids=shapes.objects)

    def stardist(n):
        points, scores, lengths = non_maximum_suppression(distances[:n, :n], probability[:n, :n], b=0,
                                                          nms_thresh=OVERLAP, prob_thresh=PROBABILITY)
        return polygons_to_label(lengths, points, (n, n), prob=scores)

    run = {"ours": ours, "stardist": stardist}[who]
    run(100)
    peak(lambda: run(1024))


def memory():
    """Bytes beyond the maps, at 1024 x 1024; a label image of 4 bytes is 4 MiB."""
    row = {what: {who: growth(__file__, who, what) for who in names} for what, names in (
        ("rays", ("ours", "sparse", "stardist")), ("decode", ("ours", "stardist")))}
    row["label_image"] = 4 * 1024**2
    say("memory", row)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="rays,many_ids,decode,bias,outlier,million,memory")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    alone()
    warm()
    parts = {"rays": lambda: rays(options.repeats), "many_ids": many_ids, "decode": lambda: decode(options.repeats),
             "bias": bias, "outlier": lambda: outlier(options.repeats), "million": million, "memory": memory}
    for name in options.only.split(","):
        measured = parts[name]()
        if options.write:
            record = json.loads(RECORD.read_text("utf-8")) if RECORD.exists() else {}
            RECORD.write_text(json.dumps({**record, **about("stardist"), name: measured}, indent=1) + "\n", "utf-8")


def warm():
    """Compile before anything is measured."""
    for shape in ((40, 40), (12, 24, 24)):
        labels = nuclei(shape)
        mine = rays_of(len(shape))
        where, lengths = sparse_ray_distances(labels, mine, border=True)
        ray_distances(labels, mine, border=True)
        found = np.stack(np.unravel_index(where, shape), 1), lengths[:, 0], lengths
        shapes = shapes_of(found, mine, (1.0,) * len(shape), shape, overlap=OVERLAP)
        paint_shapes(shape, shapes.centres, shapes.distances, mine, ids=shapes.objects)


if __name__ == "__main__":
    main()
