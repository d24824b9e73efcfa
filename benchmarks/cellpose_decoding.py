"""What the Cellpose engine makes of a model's maps, by either decoder, beside what Cellpose itself makes of them.

    python benchmarks/cellpose_decoding.py --data DATA [--run RUN] [--images 40] [--write]

The official weights may not be shipped, so what decoders are given are flows and logits as a Cellpose network has them
(five times the unit vectors): Cellpose's own targets of discs and balls that touch and of nuclei of dsb2018
(`DATA/dsb2018`, fluorescence, split ``test``), as they are, with noise of every voxel by itself, and with noise that
neighbours share (blurred by 2 pixels, as errors of networks are); and, with ``--run``, the maps that a run of method
``flow`` predicts for the same images and, with more values of the threshold ``repulsion``, for those it held back from
training: its default was chosen there. Both sides keep their other defaults for a model: flow error 0.4 in 2D and no
check in 3D, 15 pixels at least; no largest size. AP is pooled, at an IoU of 0.5 and 0.9, against Cellpose's masks and
against the truth. Seconds are those of the processor for all images of a row. ``--write`` makes
``results/cellpose_decoding.json``.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
from cellpose import dynamics
from flow_kernels import fluorescent, theirs, touching
from scipy import ndimage
from side_by_side import about, alone, say, seconds

import biosegkit as bsk
from biosegkit.engines.cellpose_model import CellposeModel, CellposeOptions
from biosegkit.metrics.instances import instance_counts

RECORD = Path(__file__).parent / "results/cellpose_decoding.json"
DECODERS = ("forest", "euler")
LIMITS = (0.5, 0.9)
NOISE = (("none", 0.0), ("single voxels", 0.1), ("single voxels", 0.3), ("shared", 0.1), ("shared", 0.3))


def noise(kind, sigma, shape, seed):
    """Normal noise of this standard deviation; ``shared`` is blurred first."""
    grain = np.random.default_rng(seed).standard_normal(shape, np.float32)
    if kind == "shared":
        grain = ndimage.gaussian_filter(grain, (0, *(2.0,) * (len(shape) - 1)))
        grain /= grain.std()
    return sigma * grain


def of_a_model(flow, logit, thresholds):
    """What the engine makes of a network's flow and logit, by decoder."""
    engines = {name: CellposeModel("maps", "1-3", lambda *_: (flow, logit), CellposeOptions(decoder=name), "")
               for name in DECODERS}
    return {name: lambda e=engine: e.decode(unit(flow, logit), thresholds).labels.array
            for name, engine in engines.items()}


def unit(flow, logit):
    """As `CellposeModel.maps` hands them on."""
    short = flow / 5
    short = short / np.maximum(np.linalg.norm(short, axis=0, keepdims=True), 1)
    return {"foreground": (1 / (1 + np.exp(-logit)))[None].astype(np.float32), "flow": short.astype(np.float32)}


def by_cellpose(flow, logit):
    """Masks by the package, with its own defaults but for the largest size."""
    return dynamics.compute_masks(flow, logit, do_3D=logit.ndim == 3, flow_threshold=0.4, min_size=15,
                                  max_size_fraction=1.0)


def row(truths, maps, **thresholds):
    """AP of each against Cellpose's masks and the truth, and seconds; ``maps`` are pairs of flow and logit."""
    against = {"cellpose": {}, "truth": {}}
    spent = dict.fromkeys((*DECODERS, "cellpose"), 0.0)
    for truth, (flow, logit) in zip(truths, maps, strict=True):
        jobs = {**of_a_model(flow, logit, thresholds), "cellpose": lambda f=flow, c=logit: by_cellpose(f, c)}
        found = {}
        for who, job in jobs.items():
            took, found[who] = seconds(job)
            spent[who] += took
        for whose, wanted in (("cellpose", found["cellpose"]), ("truth", truth)):
            for who, labels in found.items():
                counts = instance_counts(wanted.astype(np.int32), labels.astype(np.int32), thresholds=LIMITS)
                sums = against[whose]
                sums[who] = sums[who] + counts if who in sums else counts
    scores = {f"ap at 0.5, 0.9 against {whose}": {who: [round(float(c.ap(t)), 4) for t in LIMITS]
                                                  for who, c in sums.items() if who != whose}
              for whose, sums in against.items()}
    return {**thresholds, "images": len(truths), "objects": sum(len(np.unique(t)) - 1 for t in truths), **scores,
            "seconds": {who: round(took, 3) for who, took in spent.items()},
            "times_faster_than_cellpose": {who: round(spent["cellpose"] / spent[who], 1) for who in DECODERS}}


def noisy(truths):
    """Rows of Cellpose's targets with every kind of noise."""
    fields = [theirs(t).astype(np.float32) for t in truths]
    for kind, sigma in NOISE:
        maps = [(5 * (f + noise(kind, sigma, f.shape, [k, round(10 * sigma)])), np.where(t > 0, 6.0, -6.0))
                for k, (t, f) in enumerate(zip(truths, fields, strict=True))]
        yield {"noise": kind, "sigma": sigma}, maps


def predicted(run, data, split, count):
    """Truths, and flow and logit that a run's network predicts, of images it was not trained on.

    Those are the ones of split ``test``, and of split ``train`` the ones held back in fold 0.
    """
    bundle = bsk.load(run, "cpu")
    held = {path.name.partition(".")[0] for path in (run / "fold-0/validation").iterdir()}
    cases = bsk.scan(data / "dsb2018/cases.csv", where={"split": (split,), "type": ("fluo",)})
    for case in itertools.islice((c for c in cases if split == "test" or c.id in held), count):
        image, labels = cases.load(case, "instance")
        maps = bundle.maps(image)
        share = np.clip(maps["foreground"].squeeze().astype(np.float64), 1e-6, 1 - 1e-6)
        flow = maps["flow"].reshape(-1, *share.shape)[-2:]
        yield np.asarray(labels.array).reshape(share.shape), (5 * flow, np.log(share / (1 - share)))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with dsb2018/")
    parser.add_argument("--run", type=Path, help="a run of method flow on dsb2018, trained on its split train")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    alone()
    sets = {"touching discs of radius 4 to 12": [touching((400, 400), (4, 8, 12))],
            "touching balls of radius 3 to 6": [touching((39, 104, 104), (3, 5, 6))],
            "dsb2018 fluo, test": fluorescent(options.data, options.images)}
    for truths in ([touching((60, 60), (8,))], [touching((20, 40, 40), (5,))]):  # the first compiles
        row(truths, next(noisy(truths))[1])
    rows = []
    for name, truths in sets.items():
        for what, maps in noisy(truths):
            rows.append({"labels": name, "maps": "Cellpose's targets", **what, **row(truths, maps)})
            say("cellpose_decoding", rows[-1])
    if options.run:
        for split in ("train", "test"):
            truths, maps = zip(*predicted(options.run, options.data, split, options.images), strict=True)
            name = "dsb2018 fluo, test" if split == "test" else "dsb2018 fluo, held back from training"
            for repulsion in (-0.1, 0.0, 0.1, 0.2, 0.3, 0.5) if split == "train" else (0.1, 0.5):
                rows.append({"labels": name, "maps": "a network's", **row(truths, maps, repulsion=repulsion)})
                say("cellpose_decoding", rows[-1])
    if options.write:
        record = {**about("cellpose", "torch"), "beside": "other programs ran on the machine", "rows": rows}
        RECORD.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
