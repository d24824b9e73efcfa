"""Tiled inference over bare network calls: ours, MONAI's, nnU-Net's if installed, and a naive one, paired in one run.

    python benchmarks/sliding_window.py [--repeats 5] [--threads 1] [--json benchmarks/results/sliding_window.json]

Every backend sees the same tiles of the same image with the same network and blends logits (ours blends whatever it is
given, here logits, so that results can be compared). Each timing has the bare network calls timed next to it, before
and after in turn; ``ratio`` is the median over these pairs. ``error`` is the largest difference from the same blend,
with the backend's own window, in float64. ``ours, labels`` adds softmax, slabs and argmax: what a prediction does.

nnU-Net's logits differ because it adds up in half precision; ``halved`` does the same and needs no nnU-Net.
It does not belong to the development packages: install ``nnunetv2`` beside biosegkit to have its time measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import time
from contextlib import redirect_stdout
from importlib.metadata import version
from io import StringIO
from itertools import product
from pathlib import Path
from types import SimpleNamespace

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
HAS_NNUNET = importlib.util.find_spec("nnunetv2") is not None


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
    usual = {name: tunable.default for name, tunable in method.tunables.items()}
    out, none = np.zeros(image.shape, np.uint8), Decisions(usual, {}, empty_table(image.ndim))
    slabs = blend(reader(image, lattice.patch), lattice, forward, planes=planes)
    for maps, block in blocks(slabs, image.shape, planes):
        out[block.write] = method.paint(method.local(maps, block), none)[0]
    return out


def monai(network, image, lattice):
    from monai.inferers import SlidingWindowInferer

    overlap = [1 - s / p for s, p in zip(lattice.step, lattice.patch, strict=True)]
    inferer = SlidingWindowInferer(lattice.patch, 1, overlap, "gaussian", sigma_scale=0.125)
    return inferer(torch.from_numpy(image[None, None]), lambda x: network(x)["classes"])[0]


class Tensors(nn.Module):
    """The network as nnU-Net calls one: it returns a tensor."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)["classes"]


def nnunet(network, lattice, classes):
    """nnU-Net's predictor, made by hand of the three things that its sliding window asks for."""
    with redirect_stdout(StringIO()):  # it says on import that it has no folders, and here that sums stay on the CPU
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        predictor = nnUNetPredictor(tile_step_size=0.5, use_gaussian=True, use_mirroring=False, device=CPU,
                                    allow_tqdm=False)
    predictor.network = Tensors(network)
    predictor.configuration_manager = SimpleNamespace(patch_size=lattice.patch)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=classes)

    def run(image):
        planes = image[None, None] if image.ndim == 2 else image[None]  # it knows 2D images as stacks of one plane
        found = predictor.predict_sliding_window_return_logits(torch.from_numpy(planes))
        return found[:, 0] if image.ndim == 2 else found

    return run


def naive(network, image, lattice, window, dtype=torch.float32):
    total, weight, window = 0, torch.zeros(image.shape, dtype=dtype), window.to(dtype)
    for start in product(*lattice.starts):
        place = tuple(slice(s, s + p) for s, p in zip(start, lattice.patch, strict=True))
        logits = network(torch.from_numpy(image[place])[None, None])["classes"][0]
        total = torch.zeros((len(logits), *image.shape), dtype=dtype) if isinstance(total, int) else total
        total[(slice(None), *place)] += logits * window
        weight[place] += window
    return total / weight


def halved(network, image, lattice):
    """nnU-Net's rule for weights and sums, by its published definition: half precision, the window's peak at 10.

    A window falls to exp(-8) per axis at its border. Half precision ends at 2^-24 (6e-8): in a corner of an image,
    which only one tile covers, a 3D weight of 10 exp(-24) = 4e-10 is lifted to that smallest number, and the product
    with a logit is rounded to a whole multiple of it. So logits there become whole numbers: wrong by up to 0.5. In 2D
    a weight of 10 exp(-16) is 19 such steps, which leaves an error of a half in 19.
    """
    smooth = 1.0
    for p in lattice.patch:
        smooth = np.multiply.outer(smooth, np.exp(-0.5 * ((np.arange(p) - p // 2) / (p / 8)) ** 2))
    window = torch.from_numpy(10 * smooth).half()
    window[window == 0] = window[window > 0].min()
    total, weight = torch.zeros((), dtype=torch.half), torch.zeros(image.shape, dtype=torch.half)
    for start in product(*lattice.starts):
        place = tuple(slice(s, s + p) for s, p in zip(start, lattice.patch, strict=True))
        logits = network(torch.from_numpy(image[place])[None, None])["classes"][0].half()
        total = torch.zeros((len(logits), *image.shape), dtype=torch.half) if total.ndim == 0 else total
        total[(slice(None), *place)] += logits * window
        weight[place] += window
    return total / weight


def windows(lattice):
    """The blending window of each backend in float64: its error is that to its own blend."""
    smooth = torch.ones((), dtype=torch.float64)
    for p in lattice.patch:
        smooth = smooth[..., None] * torch.from_numpy(gaussian(p))
    found = {"ours": smooth, "naive": smooth, "halved": smooth,
             "monai": smooth.clamp(min=1e-3)}  # MONAI lifts small weights to 0.001
    if HAS_NNUNET:
        from nnunetv2.inference.sliding_window_prediction import compute_gaussian

        found["nnunet"] = compute_gaussian(lattice.patch, 1 / 8, 10, torch.float64, CPU)
    return found


def timed(run):
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def paired(run, bare, repeats):
    """Seconds of ``run`` and of the bare calls next to it, each first in turn so that a drift cancels out."""
    pairs = []
    for i in range(repeats):
        first = timed(run) if i % 2 else None
        alone = timed(bare)
        pairs.append((first if i % 2 else timed(run), alone))
    return pairs


def one_case(name, network, image, lattice, classes, repeats):
    blends = windows(lattice)
    backends = {
        "bare": lambda: bare(network, image, lattice),
        "ours": lambda: ours(network, image, lattice),
        "ours, labels": lambda: ours_labels(network, image, lattice, classes),
        "monai": lambda: monai(network, image, lattice),
        "naive": lambda: naive(network, image, lattice, blends["naive"]),
        "halved": lambda: halved(network, image, lattice),
    }
    if HAS_NNUNET:
        predictor = nnunet(network, lattice, classes)
        backends["nnunet"] = lambda: predictor(image)
    rows = []
    with torch.inference_mode():
        for key, run in backends.items():
            error = None
            if key in blends:
                exact = naive(network, image, lattice, blends[key], torch.float64)
                error = float((run().double() - exact).abs().max())
            run()
            pairs = paired(run, backends["bare"], repeats)
            rows.append({"case": name, "backend": key, "tiles": len(lattice),
                         "seconds": statistics.median(seconds for seconds, _ in pairs),
                         "ratio": statistics.median(seconds / alone for seconds, alone in pairs), "error": error})
    return rows


def machine():
    """What the figures depend on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    packages = ["torch", "monai", *(["nnunetv2"] if HAS_NNUNET else [])]
    return {"machine": f"{cores} core{'s' if cores != 1 else ''}, {platform.machine()}",
            "threads": torch.get_num_threads(), "python": platform.python_version(),
            "versions": {package: version(package) for package in packages}, "date": time.strftime("%Y-%m-%d")}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", default="", help="only cases whose name has this in it")
    parser.add_argument("--json", type=Path, help="where to write the figures")
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
    if not HAS_NNUNET:
        print("\nnnU-Net is not installed here: not measured.")
    about = machine()
    print(f"\n{about['machine']}, {about['threads']} thread, {about['versions']}")
    if options.json:
        record = about | {"repeats": options.repeats, "rows": rows}
        options.json.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
