"""Giant images in blocks: how much memory, and how much time beyond the bare network calls.

    python benchmarks/giant.py [--sizes 4000,10000,20000] [--methods distance,star,flow,semantic,stardist,cellpose]
        [--diameter 30] [--network] [--write]

The image is RGB of ``size`` x ``size`` pixels on disk, nuclei that touch at 1340 pixels per nucleus (so 298 000 at
20 000), read in parts. A stand-in takes the place of the network's answer: a pixel's colour says where in a pattern it
is, and the maps are the method's own targets for the pattern, with smooth noise. With ``--network`` the network of a
plan for microscopy runs on every tile, too, so that seconds are what they would be. ``stardist`` is the engine for
StarDist models, with a grid of 2 and a probability from 0.4, which gives many candidates per object. ``cellpose`` is
the engine for Cellpose models: it resizes the image by 30 / ``--diameter``, so that colours cannot be looked up; its
image is the maps themselves, 8 bits each, and the stand-in gives them back; with ``--network`` a network of Cellpose's
kind runs, too, of ``--width`` features at full resolution (Cellpose's own has 32). Every image is
segmented from start to finish, in a process of its own with one thread: peak resident set after every step, beside the
``expected_MB`` that the planning counts with while groups are computed (of ``--memory``, 2 GiB), seconds in the network
(of all calls, those for tiles at the edges of groups included), and seconds in all. ``--write`` makes
``results/giant.json``.
"""

from __future__ import annotations

import argparse
import json
import mmap
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from side_by_side import about, alone, nuclei, say

from biosegkit._atomic import load_npy

RECORD = Path(__file__).parent / "results/giant.json"
PATTERN = 1250
#: The largest number in each channel of the image.
HIGHEST = ((PATTERN - 1) // 8, (PATTERN - 1) // 8, 7 * 16 + 7)
#: What the model draws on.
DRAWN = {"stardist": "star", "cellpose": "flow"}
#: Pixels that objects of a Cellpose model measure where it does not resize.
UNRESIZED = 30
#: Of the StarDist model.
RAYS, GRID, PROB, NMS = 32, (2, 2), 0.4, 0.4


class Perfect:
    """A method whose maps come from the network as they are."""

    def __init__(self, method):
        self._method = method

    def __getattr__(self, name):
        return getattr(self._method, name)

    def activate(self, outputs):
        return {name: value.float() for name, value in outputs.items()}


def method_of(name):
    """A method; that of classes finds nuclei and background."""
    from biosegkit.methods import METHODS, Semantic

    return Semantic(n_classes=2) if name == "semantic" else METHODS[name]()


def pattern(name):
    """Maps of the pattern, (channels, y, x), with noise."""
    from scipy import ndimage

    method, labels = method_of(name), np.pad(nuclei((PATTERN - 8, PATTERN - 8)), 4)
    labels = (labels > 0).astype(np.int32) if name == "semantic" else labels
    targets, _ = method.encode(labels, (1.0, 1.0), None)
    rng = np.random.default_rng(0)
    maps = {}
    for name, value in method.ideal(targets).items():
        noise = ndimage.gaussian_filter(rng.standard_normal(value.shape[1:]), 2).astype(np.float32)
        maps[name] = value + 0.3 * noise * (labels > 0)
    return maps


def drawn(name, folder):
    """Write the maps of the pattern, in a process of its own: what they take is no part of the figures."""
    for head, value in pattern(name).items():
        np.save(folder / f"{name}-{head}.npy", np.ascontiguousarray(value, np.float32))


def stand_in(name, folder, network):
    """The network: looks the maps of every pixel up by its colour; the pattern stays on disk."""
    import torch
    from torch import nn

    maps = {path.stem.removeprefix(f"{name}-"): np.lib.format.open_memmap(path, mode="r")
            for path in sorted(folder.glob(f"{name}-*.npy"))}

    class StandIn(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network
            self.seconds, self.calls, self.bare = 0.0, 0, 0.0

        def forward(self, x):
            started = time.perf_counter()
            if self.inner is not None:
                self.inner(x)
            self.bare += time.perf_counter() - started
            colour = (x * 255).round().long()
            colour = colour.numpy()
            y, x = colour[:, 0] * 8 + colour[:, 2] // 16, colour[:, 1] * 8 + colour[:, 2] % 16
            found = {}
            for name, value in maps.items():
                found[name] = torch.from_numpy(np.moveaxis(value[:, y, x], 0, 1).copy())
                value._mmap.madvise(mmap.MADV_DONTNEED)
            self.seconds += time.perf_counter() - started
            self.calls += 1
            return found

    return StandIn().eval()


def plan_of(name, patch, width):
    from biosegkit.plan.schema import (
        Architecture,
        Channel,
        Configuration,
        LabelTable,
        Plan,
        Preprocessing,
        Training,
    )

    stages = 6
    architecture = Architecture(
        features=tuple(min(width * 2**k, 256) for k in range(stages)), kernels=((3, 3),) * stages,
        strides=((1, 1), *((2, 2),) * (stages - 1)), encoder_blocks=(2,) * stages, decoder_blocks=(2,) * (stages - 1),
        deep_supervision=False)
    configuration = Configuration(
        name="2d", ndim=2, spacing=(1.0, 1.0), median_shape=(patch, patch), patch=(patch, patch), batch=2,
        tile_step=(patch // 2, patch // 2), architecture=architecture)
    return Plan(
        name="giant", preset="default", method=name, configuration=configuration, training=Training(steps=1),
        labels=LabelTable(task="semantic" if name == "semantic" else "instance", names=("background", "object"),
                          values=(0, 1)),
        preprocessing=Preprocessing(channels=tuple(Channel(name=c, scheme="rgb_to_0_1") for c in "rgb"),
                                    transpose=(0, 1), resample=False, crop_to_nonzero=False))


def made(size, folder):
    """The image on disk, band by band."""
    import zarr

    path = folder / f"{size}.zarr"
    if path.exists():
        return path
    array = zarr.create_array(path, shape=(3, size, size), chunks=(3, 512, 512), dtype="uint8")
    x = np.arange(size) % PATTERN
    for low in range(0, size, 512):
        y = np.arange(low, min(low + 512, size)) % PATTERN
        band = np.empty((3, len(y), size), np.uint8)
        band[0], band[1] = (y // 8)[:, None], x // 8
        band[2] = (y % 8)[:, None] * 16 + x % 8
        array[:, low : low + len(y)] = band
    return path


def coded(folder):
    """Flow and logit of the pattern as a Cellpose network says them: 8 bits each (3, y, x), the least, and the span."""
    flow, foreground = (load_npy(folder / f"flow-{name}.npy") for name in ("flow", "foreground"))
    said = np.concatenate([5 * flow, 12 * foreground.clip(-0.1, 1.1) - 6])
    least, most = said.min((1, 2), keepdims=True), said.max((1, 2), keepdims=True)
    return ((said - least) / (most - least) * 255).round().astype(np.uint8), least, most - least


def made_of_maps(size, folder):
    """The image of the Cellpose model on disk, band by band."""
    import zarr

    path = folder / f"{size}-maps.zarr"
    if path.exists():
        return path
    array, part = zarr.create_array(path, shape=(3, size, size), chunks=(3, 512, 512), dtype="uint8"), coded(folder)[0]
    wide = np.tile(part, (1, 1, -(-size // PATTERN)))[:, :, :size]
    for low in range(0, size, 512):
        array[:, low : low + 512] = wide[:, np.arange(low, min(low + 512, size)) % PATTERN]
    return path


def cellpose_model(folder, options):
    """The engine of Cellpose models on a stand-in, which is the second thing returned; and tiles of an image."""
    import torch

    from biosegkit.engines.cellpose_model import CellposeModel, CellposeOptions
    from biosegkit.engines.cellpose_network import CellposeNet
    from biosegkit.engines.planes import PlaneNet, PlaneTiles

    _, least, span = (torch.from_numpy(part) for part in coded(folder))
    net = CellposeNet([3, *(options.width * 2**k for k in range(4))], 3).eval() if options.network else None

    class StandIn(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.seconds, self.calls, self.bare = 0.0, 0, 0.0

        def forward(self, x):
            started = time.perf_counter()
            if net is not None:
                net(x)
            self.bare += time.perf_counter() - started
            found = x * span + least
            self.seconds += time.perf_counter() - started
            self.calls += 1
            return found

    network = StandIn()
    run = PlaneNet(network, torch.device("cpu"), 3, UNRESIZED / options.diameter, square=True)
    model = CellposeModel("stand-in", "4", run, CellposeOptions(low=0, high=100), "benchmark")
    return model, network, lambda shape: len(list(PlaneTiles(run.resized_shape(shape, (1.0, 1.0))).within(
        [slice(0, n) for n in run.resized_shape(shape, (1.0, 1.0))])))


def star_model(folder, network=stand_in):
    """The engine of StarDist models on a stand-in, which is the second thing returned."""
    import torch

    from biosegkit.engines.star_config import Thresholds, read_config
    from biosegkit.engines.star_files import StarFiles
    from biosegkit.engines.star_model import StarModel, StarOptions
    from biosegkit.engines.star_shapes import rays_of

    inner = network("star", folder, None)
    scale = torch.tensor(HIGHEST).reshape(1, 3, 1, 1) / 255

    class Network(torch.nn.Module):
        def forward(self, x):
            maps = inner(x[:, :, :: GRID[0], :: GRID[1]] * scale)
            return {"prob": maps["probability"], "dist": maps["distances"]}

    config = read_config({"axes": "YXC", "n_rays": RAYS, "grid": list(GRID), "n_channel_in": 3}, "stand-in")
    files = StarFiles(config, Thresholds(prob=PROB, nms=NMS), b"", "", "", "stand-in")
    model = StarModel(Network(), files, rays_of(config, ""), StarOptions(low=0, high=100), torch.device("cpu"),
                      "benchmark")
    return model, inner


def segmenter_of(name, options):
    """Our network's stand-in with a method: model, stand-in, and number of tiles of an image."""
    import torch

    from biosegkit import segmenter as segmenting
    from biosegkit.bundle import Bundle, network_of

    plan = plan_of(name, options.patch, options.width)
    method = method_of(name)
    network = stand_in(name, Path(options.folder), network_of(plan).eval() if options.network else None)
    segmenting.method_of = lambda _: Perfect(method)
    model = segmenting.Segmenter(plan, (network,), torch.device("cpu"), {})
    bundle = Bundle(model, {}, Path(), "benchmark", weights_digest="benchmark")
    return bundle, network, lambda shape: len(model.lattice(shape))


def expected_of(work):
    """Bytes that the planning counts with."""
    from biosegkit.batch.layout import expected_peak

    return int(expected_peak(work.layout, work.source.costs(work.image, work.prepared, work.job)))


def child(name, size, image, options):
    """Segment one image, and say what it took."""
    import torch
    import zarr

    from biosegkit.batch import blocks, giant, giants, star_work, stars
    from biosegkit.grid import Grid
    from biosegkit.image import Image

    torch.set_num_threads(1)
    opened = Image(zarr.open_array(image, mode="r"), Grid.regular((size, size)))
    if name == "stardist":
        model, network = star_model(Path(options.folder))
        tiles = len(model.tiles((size, size)).starts)
        for module in (star_work, stars):
            module.model_of, module.image_of = (lambda _: model), (lambda _: opened)
    else:
        model, network, tiles_of = (cellpose_model(Path(options.folder), options) if name == "cellpose"
                                    else segmenter_of(name, options))
        tiles = tiles_of((size, size))
        for module in (giant, blocks):
            module.opened_model, module.opened_image = (lambda *_: model), (lambda *_: opened)
    stages = giants.stages_of(model)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        job = giant.GiantJob((str(image),), f"{folder}/a.ome.zarr", "stand-in", memory=options.memory)
        spent, peaks, started = {}, {}, time.perf_counter()

        def step(what, call, *given):
            begun = time.perf_counter()
            found = call(*given)
            spent[what] = spent.get(what, 0) + time.perf_counter() - begun
            peaks[what] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
            return found

        peaks["start"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        steps = step("prepare", stages.prepare, job)
        expected = 0 if name == "stardist" else expected_of(giant.Work.of(job)) >> 20
        for k in steps.groups:
            step("infer", stages.infer, job, k)
        kept = sum(f.stat().st_size for f in (job.folder / "states").iterdir())
        found = step("resolve", stages.resolve, job)
        for k in steps.boxes:
            step("paint", stages.paint, job, k)
        step("finish", stages.finish, job)
        total = time.perf_counter() - started
    megapixels = size * size / 1e6
    print(json.dumps({
        "objects": found["objects"], "peak_MB": peaks, "expected_MB": expected,
        "seconds": {k: round(v, 1) for k, v in spent.items()},
        "total_s": round(total, 1), "stand_in_s": round(network.seconds - network.bare, 1),
        "network_s": round(network.bare * tiles / network.calls, 1),
        "tiles_again": round(network.calls / tiles - 1, 3),
        "beyond_s_per_megapixel": round(
            (total - (network.seconds - network.bare) - network.bare * tiles / network.calls) / megapixels, 4),
        "states_bytes_per_pixel": round(kept / size / size, 2), "groups": len(steps.groups)}))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="4000,10000,20000")
    parser.add_argument("--methods", default="distance,star,flow")
    parser.add_argument("--patch", type=int, default=256)
    parser.add_argument("--width", type=int, default=16, help="features of the network at full resolution")
    parser.add_argument("--diameter", type=float, default=UNRESIZED, help="of objects, for cellpose")
    parser.add_argument("--memory", type=int, default=2 << 30)
    parser.add_argument("--network", action="store_true", help="run the network of the plan, too")
    parser.add_argument("--folder", help="where images and work go; a temporary folder by default")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--pattern", help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pattern:
        drawn(options.pattern, Path(options.folder))
        return
    if options.child:
        child(options.child[0], int(options.child[1]), Path(options.child[2]), options)
        return
    alone()
    measured(options)


def measured(options):
    """Every method on every size, each in a process of its own."""
    import subprocess
    import sys

    rows = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        for name in {DRAWN.get(name, name) for name in options.methods.split(",")}:
            subprocess.run([sys.executable, __file__, "--folder", str(folder), "--pattern", name], check=True)
        for size in map(int, options.sizes.split(",")):
            for name in options.methods.split(","):
                image = made_of_maps(size, folder) if name == "cellpose" else made(size, folder)
                call = [sys.executable, __file__, "--patch", str(options.patch), "--width", str(options.width),
                        "--diameter", str(options.diameter), "--memory", str(options.memory), "--folder", str(folder),
                        *["--network"] * options.network, "--child", name, str(size), str(image)]
                done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True)
                how = f" of {options.diameter:g} pixels" if name == "cellpose" else ""
                key = f"{name}{how} {size}{' with network' if options.network else ''}"
                rows[key] = row = json.loads(done.stdout.splitlines()[-1])
                say(key, row)
    if options.write:
        before = json.loads(RECORD.read_text("utf-8"))["rows"] if RECORD.exists() else {}
        record = {**about("torch", "zarr"), "memory": options.memory, "patch": options.patch,
                  "rows": {**before, **rows}}
        RECORD.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
