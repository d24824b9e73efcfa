"""Time and memory of our networks beside MONAI's at equal topology: forward pass and training step, paired in one run.

    python benchmarks/networks.py [--quick] [--repeats 7] [--threads 1] [--json benchmarks/results/networks.json]

Equal topology: the same features, kernels, strides and convolutions per stage, one input channel, two classes, the
norm that MONAI's class has. Ours runs in the memory format that plans use (channels last); MONAI's is timed as
it comes and in channels last too, and the faster of the two counts. In every round all three are timed in turn; the
ratio is the median over the rounds. A training step is forward, mean of squares, backward and AdamW. On
one thread the clock is the processor time of the process, so that other programs disturb less.

Memory is the peak of resident memory above what the process held before the network was made, over two steps, each in
a process of its own (``memory_child``); of MONAI's two formats the leaner counts.

``AttentionUnet`` has one convolution per decoder level (with norm and PReLU), batch norm elsewhere, and transposed
convolutions of kernel 3 with norm: ours is built with one convolution per decoder level and batch norm.
``BasicUNetPlusPlus`` halves by pooling, ours by strides; both have an output at every depth.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

import psutil
import torch
from monai.networks.nets import AttentionUnet, BasicUNetPlusPlus, DynUNet
from torch import Tensor

from biosegkit.nets import build
from biosegkit.plan.schema import Architecture, Configuration

#: Processes that have imported everything and computed nothing (Linux, as is the peak of resident memory).
FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(["torch", "monai.networks.nets", "biosegkit.nets"])
PEERS = {"unet": "DynUNet", "attention_unet": "AttentionUnet", "unetplusplus": "BasicUNetPlusPlus"}
#: Name: axes, features, patch, batch.
CASES = {
    "2d": (2, (32, 64, 128, 256, 512), (192, 192), 2), "3d": (3, (24, 48, 96, 192, 240), (48, 48, 48), 1),
    "2d quick": (2, (16, 32, 64, 128, 160), (128, 128), 2), "3d quick": (3, (12, 24, 48, 96, 120), (32, 32, 32), 1),
}


def ours(name, ndim, features, patch):
    n = len(features)
    architecture = Architecture(
        name=name, features=features, kernels=((3,) * ndim,) * n, strides=((1,) * ndim, *((2,) * ndim,) * (n - 1)),
        encoder_blocks=(2,) * n, decoder_blocks=(1 if name == "attention_unet" else 2,) * (n - 1),
        norm="batch" if name == "attention_unet" else "instance", deep_supervision=name == "unetplusplus")
    return build(Configuration(
        name="2d" if ndim == 2 else "3d_fullres", ndim=ndim, spacing=(1.0,) * ndim, median_shape=patch, patch=patch,
        batch=1, tile_step=patch, architecture=architecture), 1, {"classes": 2})


def theirs(name, ndim, features):
    n = len(features)
    if name == "unet":
        return DynUNet(ndim, 1, 2, [3] * n, [1] + [2] * (n - 1), [2] * (n - 1), filters=features)
    if name == "attention_unet":
        return AttentionUnet(ndim, 1, 2, features, (2,) * (n - 1))
    return BasicUNetPlusPlus(ndim, 1, 2, (*features, features[0]), deep_supervision=True)


def contestant(who, name, case):
    """Network and input: ``ours``, or ``theirs`` as it comes or in channels last."""
    ndim, features, patch, batch = CASES[case]
    torch.manual_seed(0)
    network = ours(name, ndim, features, patch) if who == "ours" else theirs(name, ndim, features)
    image = torch.randn(batch, 1, *patch)
    if who == "theirs":
        return network, image
    layout = torch.channels_last if ndim == 2 else torch.channels_last_3d
    return network.to(memory_format=layout), image.to(memory_format=layout)


def leaves(output):
    """All tensors of an output, whatever it is made of."""
    if isinstance(output, Tensor):
        return [output]
    return [t for part in (output.values() if isinstance(output, dict) else output) for t in leaves(part)]


def forward(network, image, _):
    network.eval()
    with torch.inference_mode():
        network(image)


def train_step(network, image, optimizer):
    network.train()
    loss = torch.stack([t.square().mean() for t in leaves(network(image))]).sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


MODES = {"forward": forward, "training step": train_step}


def seconds(function, *arguments):
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begun = clock()
    function(*arguments)
    return clock() - begun


def times(name, case, mode, repeats):
    """Milliseconds of ours and of theirs, and the median of the ratios."""
    found = {who: [] for who in ("ours", "theirs", "theirs, channels last")}
    made = {}
    for who in found:
        network, image = contestant(who, name, case)
        made[who] = (network, image, torch.optim.AdamW(network.parameters()))
    for who in found:
        seconds(MODES[mode], *made[who])
    for _ in range(repeats):
        for who, row in found.items():
            row.append(1e3 * seconds(MODES[mode], *made[who]))
    best = min(("theirs", "theirs, channels last"), key=lambda who: statistics.median(found[who]))
    return {"ours_ms": statistics.median(found["ours"]), "theirs_ms": statistics.median(found[best]),
            "their_format": "channels last" if "last" in best else "contiguous",
            "ratio": statistics.median(a / b for a, b in zip(found["ours"], found[best], strict=True))}


def memory_child(who, name, case, mode, threads):
    """Bytes at the peak of two steps, above what was there before the network; runs in a process of its own."""
    torch.set_num_threads(threads)
    before = psutil.Process().memory_info().rss
    network, image = contestant(who, name, case)
    optimizer = torch.optim.AdamW(network.parameters())
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    for _ in range(2):
        MODES[mode](network, image, optimizer)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) - before


def memory(name, case, mode, threads):
    """Peaks of ours and of theirs in the leaner format, in MiB, and their ratio."""
    peaks = {}
    for who in ("ours", "theirs", "theirs, channels last"):
        with ProcessPoolExecutor(1, mp_context=FRESH) as process:
            peaks[who] = process.submit(memory_child, who, name, case, mode, threads).result() / 2**20
    best = min(peaks["theirs"], peaks["theirs, channels last"])
    return {"ours_mib": peaks["ours"], "theirs_mib": best, "memory_ratio": peaks["ours"] / best}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="small networks: about two minutes on one core")
    parser.add_argument("--networks", nargs="*", default=list(PEERS), choices=PEERS)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for case in [c for c in CASES if c.endswith("quick") == options.quick]:
        for name in options.networks:
            ndim, features, patch, batch = CASES[case]
            for mode in MODES:
                counts = [sum(p.numel() for p in n.parameters())
                          for n in (ours(name, ndim, features, patch), theirs(name, ndim, features))]
                row = {"network": name, "peer": PEERS[name], "case": case, "mode": mode, "patch": patch, "batch": batch,
                       "features": features, "parameters": counts[0], "their_parameters": counts[1],
                       **times(name, case, mode, options.repeats), **memory(name, case, mode, options.threads)}
                rows.append(row)
                print(f"{case:9} {name:15} {mode:14} {row['ours_ms']:7.0f} ms, {PEERS[name]} {row['theirs_ms']:7.0f} "
                      f"({row['their_format']}): {row['ratio']:.2f}   {row['ours_mib']:6.0f} MiB, "
                      f"{row['theirs_mib']:6.0f}: {row['memory_ratio']:.2f}", flush=True)
    if options.json:
        machine = {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count(),
                   "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None, "threads": options.threads,
                   "repeats": options.repeats, "torch": version("torch"), "monai": version("monai"),
                   "date": time.strftime("%Y-%m-%d")}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"on": machine, "rows": rows}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
