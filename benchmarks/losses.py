"""Forward and backward of each loss: ours over MONAI's on the same arrays, paired in one run.

    python benchmarks/losses.py [--repeats 7] [--threads 1] [--json losses.json]

Softmax of three classes in 2D and 3D; everything is annotated, as MONAI has no voxel weights. ``ratio`` is the median
over pairs timed in turn, below 1 where ours is faster; ``difference`` that of the two values, for options that make the
definitions the same. Lovász, top-k and boundary have no counterpart: their time stands alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import monai.losses as peers
import torch

from biosegkit.kernels.signed import signed_distance
from biosegkit.losses import Loss
from biosegkit.plan.objective import Objective

SHAPES = {"2D, 6 of 160 × 160": (6, 3, 160, 160), "3D, 2 of 64 × 64 × 64": (2, 3, 64, 64, 64)}
WHOLE = {"softmax": True, "to_onehot_y": True}
SMOOTH = {"smooth_nr": 1e-5, "smooth_dr": 1e-5}
FRONT = {"include_background": False}

#: Loss, our options, MONAI's, and what its value is multiplied by.
PAIRS = {
    "dice": ({}, lambda: peers.DiceLoss(**WHOLE, **FRONT, **SMOOTH, batch=True), 1),
    "ce_dice": ({}, lambda: peers.DiceCELoss(**WHOLE, **FRONT, **SMOOTH, batch=True), 1),
    "tversky": ({}, lambda: peers.TverskyLoss(**WHOLE, **FRONT, **SMOOTH, batch=True, alpha=0.3, beta=0.7), 1),
    "generalized_dice": ({"generalized_dice.smooth": 0.0},
                         lambda: peers.GeneralizedDiceLoss(**WHOLE, smooth_nr=0, smooth_dr=0, batch=True), 1),
    "focal": ({}, lambda: peers.FocalLoss(to_onehot_y=True, use_softmax=True, gamma=2.0), 3),
    # MONAI pools channels and adds no Dice; timed with it, as a training would have it
    "cldice": ({"cldice.iterations": 3}, lambda: _DiceAndCentreline(), None),
    **{name: ({}, None, None) for name in ("focal_tversky", "topk_ce", "lovasz", "boundary")},
}


class _DiceAndCentreline:
    """MONAI's Dice and soft centreline Dice of the foreground."""

    def __init__(self):
        self.dice = peers.DiceLoss(**WHOLE, **FRONT, **SMOOTH, batch=True)
        self.line = peers.SoftclDiceLoss(**WHOLE, **FRONT, iter_=3)

    def __call__(self, logits, target):
        return self.dice(logits, target) + self.line(logits, target)


def blobs(shape):
    """Logits of noise, and classes in blobs of about ten voxels."""
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=g)
    pool = torch.nn.functional.avg_pool2d if len(shape) == 4 else torch.nn.functional.avg_pool3d
    smooth = pool(torch.rand((shape[0], 1, *shape[2:]), generator=g), 9, 1, 4)[:, 0]
    return logits, (smooth > smooth.median()).long() + (smooth > smooth.quantile(0.9)).long()


def seconds(call, logits):
    x = logits.clone().requires_grad_()
    begun = time.perf_counter()
    value = call(x)
    value.backward()
    return time.perf_counter() - begun, float(value.detach())


def measure(name, shape, repeats):
    options, peer, factor = PAIRS[name]
    logits, target = blobs(shape)
    weight = torch.ones(target.shape)
    masks = torch.stack([target == 1, target == 2], 1).numpy()
    begun = time.perf_counter()
    distance = torch.stack([torch.from_numpy(signed_distance(m)) for m in masks]) if name == "boundary" else None
    row = {"loss": name, "distance_ms": (time.perf_counter() - begun) * 1e3} if name == "boundary" else {"loss": name}
    loss, other = Loss(Objective(name, options)), peer and peer()
    pairs = []
    for i in range(repeats + 1):
        def ours(x):
            return sum(loss(x, target, weight, distance=distance).values())

        calls = [ours, *([lambda x: other(x, target[:, None])] if other else [])]
        found = [seconds(call, logits) for call in (calls if i % 2 else calls[::-1])]
        pairs.append(found if i % 2 else found[::-1])
    pairs = pairs[1:]
    row["ours_ms"] = 1e3 * statistics.median(p[0][0] for p in pairs)
    if other:
        row["monai_ms"] = 1e3 * statistics.median(p[1][0] for p in pairs)
        row["ratio"] = statistics.median(p[0][0] / p[1][0] for p in pairs)
        if factor:
            row["difference"] = abs(pairs[0][0][1] - factor * pairs[0][1][1])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    signed_distance((torch.rand(1, 8, 8) > 0.5).numpy())  # compiles once
    record = {"machine": platform.machine(), "threads": options.threads, "torch": torch.__version__,
              "monai": version("monai"), "results": {}}
    print(f"torch {record['torch']}, MONAI {record['monai']}, {options.threads} threads")
    for what, shape in SHAPES.items():
        print(f"\n{what}\n{'loss':<18}{'ours':>10}{'MONAI':>10}{'ratio':>8}{'difference':>13}")
        rows = record["results"][what] = []
        for name in PAIRS:
            row = measure(name, shape, options.repeats)
            rows.append(row)
            cells = [f"{row['ours_ms']:.1f} ms", f"{row['monai_ms']:.1f} ms" if "monai_ms" in row else "",
                     f"{row['ratio']:.2f}" if "ratio" in row else "",
                     f"{row['difference']:.1e}" if "difference" in row else ""]
            extra = f"   + {row['distance_ms']:.1f} ms for distances" if "distance_ms" in row else ""
            print(f"{name:<18}{cells[0]:>10}{cells[1]:>10}{cells[2]:>8}{cells[3]:>13}{extra}")
    if options.json:
        options.json.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
