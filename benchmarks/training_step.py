"""A training step of a U-Net on a CPU: ours beside the same network with torch's norm and activation, in turns.

    python benchmarks/training_step.py [--threads 1] [--repeats 15] [--write]

Half width of nnU-Net, a batch as the default preset takes it. ``norm`` is instance norm and leaky ReLU alone, forward
and backward, at the network's full resolution; ``step`` is forward, loss, backward and AdamW. Torch's way is group norm
with one channel per group, then leaky ReLU. Ratios are medians over pairs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from unittest import mock

import torch
from side_by_side import about, say
from torch import nn
from torch.nn import functional as F

from biosegkit.nets.instance_norm import EPS, InstanceNorm
from biosegkit.nets.unet import UNet
from biosegkit.plan.schema import Architecture

RECORD = Path(__file__).parent / "results" / "training_step.json"
#: Batch and patch, and features of the network, by number of axes.
CASES = {2: ((3, 160, 160), (16, 32, 64, 128, 160)), 3: ((2, 32, 48, 48), (16, 32, 64, 128))}


def torch_way(norm, x):
    """Instance norm and activation by torch's operations."""
    y = F.group_norm(x, x.shape[1], norm.weight.to(x.dtype), norm.bias.to(x.dtype), EPS)
    return F.leaky_relu(y, norm.slope, inplace=True)


def network(ndim):
    features = CASES[ndim][1]
    kernels = ((3,) * ndim,) * len(features)
    strides = ((1,) * ndim, *((2,) * ndim,) * (len(features) - 1))
    blocks = (1, *(2,) * (len(features) - 1))
    torch.manual_seed(0)
    made = UNet(ndim, 1, Architecture(features=features, kernels=kernels, strides=strides, encoder_blocks=blocks,
                                      decoder_blocks=blocks[:-1], deep_supervision=False), {"classes": 2})
    return made.to(memory_format=layout(ndim))


def layout(ndim):
    return torch.channels_last if ndim == 2 else torch.channels_last_3d


def norm_job(ndim, half):
    """Forward and backward of norm and activation at full resolution."""
    (batch, *patch), features = CASES[ndim]
    kind = torch.bfloat16 if half else torch.float32
    x, dy = (torch.randn(batch, features[0], *patch).to(kind).contiguous(memory_format=layout(ndim)) for _ in range(2))
    x.requires_grad_()
    norm = InstanceNorm(features[0], slope=0.01)

    def job():
        norm(x).backward(dy)

    return job


def step_job(ndim, half):
    """One step of training."""
    (batch, *patch), _ = CASES[ndim]
    net = network(ndim).train()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-4)
    image = torch.randn(batch, 1, *patch).contiguous(memory_format=layout(ndim))
    target = (image[:, 0] > 0).long()

    def job():
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = net(image)["classes"]
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(out.float(), target).backward()
        optimizer.step()

    return job


def compare(ours, theirs, repeats):
    """Milliseconds of both, and the median of theirs over ours."""
    spent = {True: [], False: []}
    for turn in range(repeats + 1):
        for own, job in ((True, ours), (False, theirs)):
            with mock.patch.object(InstanceNorm, "forward", InstanceNorm.forward if own else torch_way):
                begun = time.perf_counter()
                job()
                took = time.perf_counter() - begun
            if turn:
                spent[own].append(took)
    ratio = statistics.median(b / a for a, b in zip(spent[True], spent[False], strict=True))
    ours, theirs = (round(1e3 * statistics.median(spent[own]), 2) for own in (True, False))
    return {"ms": ours, "torch_ms": theirs, "times_as_fast": round(ratio, 2)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--write", action="store_true", help="keep the record")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = {}
    for ndim in CASES:
        for half in (False, True):
            name = f"{ndim}D, {'bfloat16' if half else 'float32'}"
            rows[f"norm, {name}"] = compare(norm_job(ndim, half), norm_job(ndim, half), given.repeats)
            rows[f"step, {name}"] = compare(step_job(ndim, half), step_job(ndim, half), given.repeats)
    for name, row in rows.items():
        say(name, row)
    if given.write:
        RECORD.write_text(json.dumps({**about("torch"), "threads": given.threads, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
