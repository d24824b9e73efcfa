"""What is tried in turn when memory runs out (fault P5)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .plan.schema import Plan

__all__ = ["Rung", "ladder"]


@dataclass(frozen=True)
class Rung:
    """One way to spend memory: device, place of the sums, tiles per call, tile."""

    device: torch.device
    sums: torch.device
    batch: int
    patch: tuple[int, ...]
    step: tuple[int, ...]
    note: str = ""


def ladder(plan: Plan, device: torch.device, batch: int | None = None) -> list[Rung]:
    """What is tried in turn when memory runs out (fault P5): all but the smaller tiles give the same labels.

    Up to the rounding of a GPU, that is: in half precision one tile per call changed 2 of 100 000 pixels. In turn: sums
    to the CPU, one tile per call, tiles of a half and a quarter, the CPU.
    """
    c, cpu = plan.configuration, torch.device("cpu")
    # A convolution rounds differently for another batch size (by 1e-6), so it follows from the plan alone; on a CPU
    # several tiles at once gain nothing.
    usual = max(1, min(2 * c.batch, 32)) if device.type == "cuda" else 1
    first = Rung(device, device, batch or usual, c.patch, c.tile_step)
    rungs = [first]
    if device.type != "cpu":
        rungs.append(Rung(device, cpu, first.batch, c.patch, c.tile_step, "sums of tiles kept on the CPU"))
    rungs.append(Rung(device, cpu, 1, c.patch, c.tile_step, "one tile per call"))
    divisor = [math.prod(s[a] for s in c.architecture.strides) for a in range(c.ndim)]
    for part in (2, 4):
        patch = tuple(max(d, p // part // d * d) for p, d in zip(c.patch, divisor, strict=True))
        if patch != rungs[-1].patch:
            step = tuple(max(1, round(s * n / p)) for s, n, p in zip(c.tile_step, patch, c.patch, strict=True))
            rungs.append(Rung(device, cpu, 1, patch, step, f"approximate: tiles of {patch} and not {c.patch}"))
    if device.type != "cpu":
        rungs.append(Rung(cpu, cpu, 1, c.patch, c.tile_step, "computed on the CPU"))
    return rungs
