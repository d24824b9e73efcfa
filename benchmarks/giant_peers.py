"""A giant image in blocks, beside Cellpose's and StarDist's own ways with the same network: time, and errors at seams.

    uv run --with dask-image --with dask-jobqueue --with tensorflow-cpu python benchmarks/giant_peers.py [--write]
        [--size 4096] [--only flow,checked,star]

The image and the stand-in for the network are those of ``giant.py``: nuclei that touch, maps with smooth noise, and the
same answer for a pixel whoever asks. Rows ``flow`` and ``checked``: our flow method in blocks beside
``cellpose.contrib.distributed_segmentation`` on one worker with its default overlap of two diameters; both with their
own decoding, without and with the check of flows (Cellpose does it by default). Cellpose's stand-in gets a whole block
at once, so its tiling costs nothing here; ours is in the figures. Row ``star``: our engine for StarDist models beside
StarDist's ``predict_instances_big`` with an overlap of 64 pixels and a context of 96. TensorFlow is needed since
StarDist imports it; the network in it is not run.

Blocks have 2048 x 2048 pixels, which is what our flow method takes; our stars have the engine's own tiles. Seconds are
those of the processor, in one thread, without those in the stand-in; ours include tables, the multiscale store, and
everything else of a finished output, the peers' their labels as a zarr. An error at a seam is an object that has no
partner with an IoU of 0.95 in the result of the image in one piece by the same program, or the other way round: nothing
else differs between the two. Every run is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import zarr
from giant import GRID, NMS, PATTERN, PROB, RAYS, Perfect, drawn, made, plan_of, stand_in, star_model
from side_by_side import about, alone, say

from biosegkit._atomic import load_npy

RECORD = Path(__file__).parent / "results/giant_peers.json"
BLOCK, DIAMETER = 2048, 40
OVERLAP, CONTEXT = 64, 96


class Timed(torch.nn.Module):
    """Something that is called, and the processor seconds in it."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.seconds = inner, 0.0

    def forward(self, *given):
        started = time.process_time()
        found = self.inner(*given)
        self.seconds += time.process_time() - started
        return found


def looked_up(name, folder, step=1):
    """Maps at the numbers of pixels (y, x) in the pattern, every ``step``-th pixel."""
    maps = {path.stem.removeprefix(f"{name}-"): load_npy(path, mmap=True) for path in folder.glob(f"{name}-*.npy")}

    def found(numbers):
        y, x = np.divmod(numbers[::step, ::step].astype(np.int64), PATTERN)
        return {head: np.asarray(value[:, y, x]) for head, value in maps.items()}

    return Timed(found)


def numbers_of(colour):
    """The number of every pixel in the pattern, from its three channels."""
    red, green, blue = (c.astype(np.int64) for c in colour)
    return (red * 8 + blue // 16) * PATTERN + green * 8 + blue % 16


def our_flow(image, size, folder, part, whole):
    """The flow method, in blocks or in one piece."""
    from biosegkit import segmenter as segmenting
    from biosegkit.batch import blocks, giant
    from biosegkit.bundle import Bundle
    from biosegkit.grid import Grid
    from biosegkit.image import Image
    from biosegkit.methods import METHODS

    segmenting.method_of = lambda _: Perfect(METHODS["flow"]())
    network = Timed(stand_in("flow", folder, None)).eval()
    model = segmenting.Segmenter(plan_of("flow", 256, 16), (network,), torch.device("cpu"), {})
    opened = Image(zarr.open_array(image, mode="r"), Grid.regular((size, size)))
    thresholds = {} if part == "checked" else {"flow_error": 4.0}
    if whole:
        found = model.predict(Image(opened.array[:], opened.grid), thresholds=thresholds)
        return found.labels.restored, network, 1
    bundle = Bundle(model, {}, Path(), "benchmark", weights_digest="benchmark")
    for module in (giant, blocks):
        module.opened_model = lambda *_: bundle
        module.opened_image = lambda *_: opened
    job = giant.GiantJob((str(image),), f"{folder}/ours-{part}.ome.zarr", "stand-in",
                         thresholds=tuple(thresholds.items()))
    return labels_in(job.output), network, blocks.segment_giant(job)["blocks"]


def our_stars(image, size, folder, part, whole):
    """The engine of StarDist models."""
    from biosegkit.batch import giant, star_work, stars
    from biosegkit.grid import Grid
    from biosegkit.image import Image

    model, network = star_model(folder, lambda *given: Timed(stand_in(*given)))
    opened = Image(zarr.open_array(image, mode="r"), Grid.regular((size, size)))
    if whole:
        return model.predict(Image(opened.array[:], opened.grid)).labels.restored, network, 1
    for module in (star_work, stars):
        module.model_of, module.image_of = (lambda _: model), (lambda _: opened)
    job = giant.GiantJob((str(image),), f"{folder}/ours-{part}.ome.zarr", "stand-in")
    steps = stars.prepare_stars(job)
    for group in steps.groups:
        stars.infer_stars(job, group)
    stars.resolve_stars(job)
    for box in steps.boxes:
        stars.paint_stars(job, box)
    return labels_in(job.output), network, stars.finish_stars(job)["blocks"]


def labels_in(store):
    """What reads the labels of a store, once it is there."""
    from biosegkit.io import read_labels

    return lambda: read_labels(store, "instance").restored()


def their_flow(image, size, folder, part, whole):
    """Cellpose's functions; its image has one channel, the number of the pixel in the pattern."""
    import cellpose.models
    from cellpose import dynamics
    from cellpose.contrib import distributed_segmentation as theirs
    from distributed import Client, LocalCluster

    lookup = looked_up("flow", folder)

    class Standing:
        """In place of Cellpose's network: the same answers."""

        def __init__(self, **_):
            pass

        def eval(self, numbers, **_):
            maps = lookup(numbers)
            return (dynamics.compute_masks(5 * maps["flow"], 12 * maps["foreground"][0] - 6, min_size=15,
                                           flow_threshold=0.4 if part == "checked" else 0.0),)

    cellpose.models.CellposeModel = Standing
    logging.disable(logging.INFO)
    numbers = zarr.open(folder / "numbers.zarr", mode="a", shape=(size, size), chunks=(512, 512), dtype="uint32")
    if not numbers[1:2].any():
        numbers[:] = numbers_of(zarr.open_array(image, mode="r")[:])
    if whole:
        labels = Standing().eval(numbers[:])[0]
        return (lambda: labels.astype(np.int64)), lookup, 1
    opened = theirs.zarr.open
    theirs.zarr.open = lambda store, mode="a", **more: opened(store, mode=mode, **more)  # zarr 3 wants the name
    os.chdir(folder)  # where Cellpose keeps its logs
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        cluster.client = Client(cluster)
        found, _ = theirs.distributed_eval(
            numbers, (BLOCK, BLOCK), str(folder / f"theirs-{part}.zarr"), model_kwargs={},
            eval_kwargs={"diameter": DIAMETER}, cluster=cluster, temporary_directory=str(folder))
    theirs.zarr.open = opened
    return (lambda: found[:].astype(np.int64)), lookup, (-(-size // BLOCK)) ** 2


def their_stars(image, size, folder, part, whole):
    """StarDist's functions."""
    from stardist.models import Config2D, StarDist2D

    lookup = looked_up("star", folder, GRID[0])

    def answer(x):
        maps = lookup(numbers_of(np.moveaxis(x[0], -1, 0)))
        return [np.moveaxis(maps[name], 0, -1)[None] for name in ("probability", "distances")]

    network = Timed(answer)

    class Network:
        """In place of the network of Keras: (1, y, x, 3) to probability and distances, channels last."""

        def predict(self, x, **_):
            return network(x)

    class Standing(StarDist2D):
        """A model without a network of its own."""

        def _build(self):
            return Network()

    warnings.filterwarnings("ignore", message="Predicting on non-float input")
    model = Standing(Config2D(axes="YXC", n_rays=RAYS, grid=GRID, n_channel_in=3), basedir=None)
    model._tile_overlap = [(CONTEXT, CONTEXT)] * 2
    model.thresholds = {"prob": PROB, "nms": NMS}
    colour = zarr.open_array(image, mode="r")
    if whole:
        found = model.predict_instances(colour[:], axes="CYX")[0]
        return (lambda: found.astype(np.int64)), network, 1
    out = zarr.open(folder / "theirs-star.zarr", mode="w", shape=(size, size), chunks=(1024, 1024), dtype="int32")
    model.predict_instances_big(colour, axes="CYX", block_size=BLOCK, min_overlap=OVERLAP, context=CONTEXT,
                                labels_out=out, show_progress=False)
    step = BLOCK - OVERLAP - 2 * CONTEXT
    return (lambda: out[:].astype(np.int64)), network, (-(-(size - BLOCK) // step) + 1) ** 2


WHO = {("ours", "flow"): our_flow, ("ours", "checked"): our_flow, ("ours", "star"): our_stars,
       ("theirs", "flow"): their_flow, ("theirs", "checked"): their_flow, ("theirs", "star"): their_stars}


def child(who, part, how, options):
    """One run; its labels are left in a file."""
    torch.set_num_threads(1)
    folder, size = Path(options.folder), options.size
    image = made(size, folder)
    warm_up(who, part, folder)
    started = time.process_time()
    labels, network, blocks = WHO[who, part](image, size, folder, part, how == "whole")
    took = time.process_time() - started - network.seconds
    np.save(folder / f"{who}-{part}-{how}.npy", labels())
    print(json.dumps({"seconds": round(took, 1), "blocks": blocks}))


def warm_up(who, part, folder):
    """Import and compile what a run needs, on a small image: starts are not compared here."""
    own = folder / "warm-up"
    own.mkdir(exist_ok=True)
    for path in folder.glob("*-*.npy"):
        if path.stem.startswith(("flow-", "star-")) and not (own / path.name).exists():
            (own / path.name).symlink_to(path)
    WHO[who, part](made(PATTERN, own), PATTERN, own, part, who == "theirs")


def main():
    """Every part: ours and theirs, in blocks and whole."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--only", default="flow,checked,star")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--folder", help="where images and labels go; a temporary folder by default")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    alone()
    if options.child:
        child(*options.child, options)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(options.folder or name)
        folder.mkdir(exist_ok=True)
        made(options.size, folder)
        rows = {}
        for part in options.only.split(","):
            drawn("star" if part == "star" else "flow", folder)
            rows[part] = {who: run(who, part, folder, options.size) for who in ("ours", "theirs")}
            rows[part]["times_faster"] = round(rows[part]["theirs"]["seconds"] / rows[part]["ours"]["seconds"], 1)
            say(part, rows[part])
    if options.write:
        before = json.loads(RECORD.read_text("utf-8"))["rows"] if RECORD.exists() else {}
        record = {**about("torch", "zarr", "cellpose", "stardist", "dask"), "size": options.size, "block": BLOCK,
                  "rows": {**before, **rows}}
        RECORD.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


def run(who, part, folder, size):
    """In blocks and whole, and what differs between the two."""
    from biosegkit.metrics.instances import instance_counts

    found = {}
    for how in ("blocks", "whole"):
        call = [sys.executable, __file__, "--size", str(size), "--folder", str(folder), "--child", who, part, how]
        done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True)
        found[how] = json.loads(done.stdout.splitlines()[-1])
    whole, cut = (load_npy(folder / f"{who}-{part}-{how}.npy") for how in ("whole", "blocks"))
    counts = instance_counts(whole, cut, thresholds=(0.95,))
    alike = counts.tp[0]
    return {**found["blocks"], "whole_s": found["whole"]["seconds"],
            "objects": counts.n_pred, "objects_whole": counts.n_true,
            "errors_at_seams": counts.n_pred + counts.n_true - 2 * alike}


if __name__ == "__main__":
    main()
