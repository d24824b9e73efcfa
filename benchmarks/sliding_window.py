"""Tiled inference over bare network calls: ours, MONAI's, nnU-Net's if installed, and a naive one, paired in one run.

    python benchmarks/sliding_window.py [--repeats 5] [--threads 1] [--json out.json]

Every backend sees the same tiles of the same image with the same network and blends logits (ours blends whatever it is
given, here logits, so that results can be compared). ``ratio`` is the median over repeats of time / time of the bare
network calls of the same repeat. ``error`` is the largest difference from a naive float64 accumulation.
``ours, labels`` adds softmax, slabs and argmax: what a prediction does.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from itertools import product

import numpy as np
import torch
from torch import nn

from biosegkit.lattice import Lattice, gaussian
from biosegkit.methods import Semantic
from biosegkit.methods.protocol import Decisions, empty_table
from biosegkit.nets import build
from biosegkit.plan.schema import Architecture, Configuration
from biosegkit.slabs import blocks
from biosegkit.tiling import Forward, blend

CPU = torch.device("cpu")


class Logits:
    """A method that hands logits through, so that all backends blend the same."""

    @staticmethod
    def activate(outputs):
        return outputs


class Cheap(nn.Module):
    """Next to nothing: what remains is the machinery."""

    def __init__(self, ndim, classes):
        super().__init__()
        self.conv = (nn.Conv2d if ndim == 2 else nn.Conv3d)(1, classes, 1)

    def forward(self, x):
        return {"classes": self.conv(x)}


def unet(ndim, classes, patch, features):
    stages = len(features)
    architecture = Architecture(
        features=features, kernels=((3,) * ndim,) * stages, strides=((1,) * ndim, *((2,) * ndim,) * (stages - 1)),
        encoder_blocks=(2,) * stages, decoder_blocks=(2,) * (stages - 1), deep_supervision=False,
    )
    configuration = Configuration(
        name="2d" if ndim == 2 else "3d_fullres", ndim=ndim, spacing=(1.0,) * ndim, median_shape=patch, patch=patch,
        batch=2, tile_step=patch, architecture=architecture)
    return build(configuration, 1, {"classes": classes}).eval()


def bare(network, image, lattice):
    read = reader(image, lattice.patch)
    for start in lattice:
        network(torch.from_numpy(read(start)[None]))


def reader(image, patch):
    def read(start):
        return image[None, *(slice(s, s + p) for s, p in zip(start, patch, strict=True))]

    return read


def ours(network, image, lattice):
    forward = Forward((network,), Logits(), CPU)
    return torch.cat([m["classes"] for _, m in blend(reader(image, lattice.patch), lattice, forward)], 1)


def ours_labels(network, image, lattice, classes):
    method = Semantic(classes)
    forward = Forward((network,), method, CPU)
    planes = max(1, 2**22 // int(np.prod(image.shape[1:])))
    out, none = np.zeros(image.shape, np.uint8), Decisions({}, {}, empty_table(image.ndim))
    slabs = blend(reader(image, lattice.patch), lattice, forward, planes=planes)
    for maps, block in blocks(slabs, image.shape, planes):
        out[block.write] = method.paint(method.local(maps, block), none)[0]
    return out


def monai(network, image, lattice):
    from monai.inferers import SlidingWindowInferer

    overlap = [1 - s / p for s, p in zip(lattice.step, lattice.patch, strict=True)]
    inferer = SlidingWindowInferer(lattice.patch, 1, overlap, "gaussian", sigma_scale=0.125)
    return inferer(torch.from_numpy(image[None, None]), lambda x: network(x)["classes"])[0]


def naive(network, image, lattice, classes, dtype=torch.float32, floor=0.0):
    total, weight = torch.zeros((classes, *image.shape), dtype=dtype), torch.zeros(image.shape, dtype=dtype)
    window = torch.ones((), dtype=torch.float64)
    for p in lattice.patch:
        window = window[..., None] * torch.from_numpy(gaussian(p))
    window = window.clamp(min=floor).to(dtype)
    for start in product(*lattice.starts):
        place = tuple(slice(s, s + p) for s, p in zip(start, lattice.patch, strict=True))
        total[(slice(None), *place)] += network(torch.from_numpy(image[place])[None, None])["classes"][0] * window
        weight[place] += window
    return total / weight


def one_case(name, network, image, lattice, classes, repeats):
    backends = {
        "bare": lambda: bare(network, image, lattice),
        "ours": lambda: ours(network, image, lattice),
        "ours, labels": lambda: ours_labels(network, image, lattice, classes),
        "monai": lambda: monai(network, image, lattice),
        "naive": lambda: naive(network, image, lattice, classes),
    }
    times = {key: [] for key in backends}
    with torch.inference_mode():
        exact = {floor: naive(network, image, lattice, classes, torch.float64, floor) for floor in (0.0, 1e-3)}
        # MONAI lifts small weights to 0.001: its error is that to the same blend in float64.
        floors = {"ours": 0.0, "monai": 1e-3, "naive": 0.0}
        errors = {key: float((backends[key]().double() - exact[f]).abs().max()) for key, f in floors.items()}
        for _ in range(repeats):
            for key, run in backends.items():
                started = time.perf_counter()
                run()
                times[key].append(time.perf_counter() - started)
    rows = []
    for key, seconds in times.items():
        ratios = [s / b for s, b in zip(seconds, times["bare"], strict=True)]
        rows.append({"case": name, "backend": key, "tiles": len(lattice), "seconds": statistics.median(seconds),
                     "ratio": statistics.median(ratios), "error": errors.get(key)})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", default="", help="only cases whose name has this in it")
    parser.add_argument("--json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    cases = [
        ("2d unet", unet(2, 3, (128, 128), (8, 16, 32)), (512, 512), (128, 128), 3),
        ("3d unet", unet(3, 3, (32, 32, 32), (8, 16, 32)), (64, 64, 64), (32, 32, 32), 3),
        ("2d cheap", Cheap(2, 3), (1024, 1024), (256, 256), 3),
        ("3d cheap", Cheap(3, 3), (96, 96, 96), (48, 48, 48), 3),
        ("3d cheap 24 classes", Cheap(3, 24), (96, 96, 96), (48, 48, 48), 24),
    ]
    rows = []
    print("| case | backend | tiles | s | over bare | max abs error |\n|---|---|---|---|---|---|")
    for name, network, shape, patch, classes in (c for c in cases if options.case in c[0]):
        image = rng.standard_normal(shape, dtype=np.float32)
        lattice = Lattice(shape, patch, tuple(p // 2 for p in patch))
        for row in one_case(name, network.eval(), image, lattice, classes, options.repeats):
            error = "" if row["error"] is None else f"{row['error']:.2e}"
            cells = (name, row["backend"], row["tiles"], f"{row['seconds']:.4g}", f"{row['ratio']:.3f}", error)
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
            rows.append(row)
    if importlib.util.find_spec("nnunetv2") is None:
        print("\nnnU-Net is not installed here: not measured.")
    if options.json:
        from pathlib import Path

        Path(options.json).write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
