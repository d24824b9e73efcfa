"""make_plan: rules, then a short speed and memory probe, then the number of steps that fits the budget."""

from __future__ import annotations

import contextlib
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import torch

from .cases import Dataset
from .device import describe, pick
from .errors import OptionError
from .fingerprint import Fingerprint
from .fingerprint_schema import CaseRecord
from .loop import autocast, forward_loss, make_network, make_optimizer, to_device
from .methods.protocol import Method
from .patches import Batch
from .plan.budget import Allowance, Probe, chosen, members_for, next_width, steps_for, wanted_steps, widths_of
from .plan.draft import Wishes, draft, smaller, with_strength, with_width
from .plan.networks import ATTENTION_SHOWN, NETWORKS
from .plan.objective import ClassWeights
from .plan.schema import Budget, Configuration, Decision, LabelTable, Plan, Training
from .plan.units import duration_text, memory_text, parse_duration, parse_memory
from .pretrained import begin, digest_of
from .segmenter import method_of
from .splits import shares
from .tune import TRIALS

__all__ = ["DEFAULT_BUDGET", "label_table", "make_plan", "peak_memory", "probe"]

DEFAULT_BUDGET = "15m"
#: Seconds kept for loading, the report and writing the bundle, beside the validation.
CLOSING = 5.0
#: Seconds per voxel of one decoding with other thresholds (resolve, paint, count), measured on nuclei.
DECODE_SECONDS = 2.5e-7


def make_plan(fingerprint: Fingerprint, dataset: Dataset, *, budget: str | float | None = None,
              memory: str | int | None = None, preset: str = "default", config: str | None = None,
              network: str | None = None, method: str | None = None, loss: str | None = None, seed: int = 0,
              folds: int | None = None, steps: int | None = None, device: str = "auto", elapsed: float = 0.0,
              class_weights: ClassWeights = None, encoder: str | None = None,
              encoder_weights: str | None = None) -> Plan:
    """Decide everything that training and prediction need, each decision with its reason.

    Parameters
    ----------
    fingerprint : Fingerprint
        From :func:`biosegkit.measure`.
    dataset : Dataset
        Names of channels, labels and regions.
    budget : str or float, optional
        Time from the start of the command to the report, all folds (``"15m"`` or seconds).
    memory : str or int, optional
        Memory for training (``"8GB"`` or bytes); by default most of the GPU's, or 4 GB (or half of what is free) on
        a CPU.
    preset : str
        ``default``, or nnU-Net's ``nnunet``, ``resenc_m``, ``resenc_l``, ``resenc_xl``.
    config : str, optional
        ``2d``, ``3d_fullres`` or ``3d_lowres``.
    network, method, loss : str, optional
        Overrides of the choices; losses and when to choose them: `biosegkit.plan.losses`.
    seed : int
        Of everything random.
    folds : int, optional
        How many folds the budget is for; by default one, or a few if one network would only learn the cases by heart.
    steps : int, optional
        Takes the clock out: exactly so many steps.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    elapsed : float
        Seconds of the budget already spent.
    class_weights : str or sequence of float, optional
        One number per class, background first (or per region), also as ``"1,2,5"``; or ``"balanced"``.
    encoder, encoder_weights : str, optional
        Encoder of a 2D network that takes one, and what it begins with: a ``.safetensors`` file, or the name of a
        download (``imagenet``), which is made now.

    Returns
    -------
    Plan

    Raises
    ------
    PlanError, OptionError
        For options that do not exist or do not fit the data.
    """
    here = pick(device)
    limit = parse_memory(memory) if memory is not None else default_memory(here)
    asked = limit if memory is not None else None
    wishes = Wishes(preset, config, network, method, loss, seed, folds or 1, asked, here.type == "cuda",
                    class_weights, encoder, encoder_weights)
    started = time.monotonic()
    labels = label_table(fingerprint, dataset)
    plan = draft(fingerprint, labels, _name(dataset), wishes)
    if encoder_weights:  # after the draft, which refuses what has no encoder before anything is fetched
        digest = digest_of(plan.configuration.architecture.encoder, encoder_weights)
        plan = draft(fingerprint, labels, _name(dataset), replace(wishes, encoder_digest=digest))
        begin(plan)
    seconds = parse_duration(budget) if budget is not None else None
    if seconds is None and steps is None and preset == "default":
        seconds = parse_duration(DEFAULT_BUDGET)
    if folds is None and seconds is not None and steps is None:
        plan = _with_members(plan, fingerprint, dataset, seconds)
    count = plan.training.folds
    per_fold = None if seconds is None else seconds / count
    plan, probes = _probes(plan, here, per_fold, limit)
    spent = elapsed + time.monotonic() - started
    return _settled(plan, probes, here, _Limits(seconds, per_fold, limit, steps, spent / count), fingerprint)


def _with_members(plan: Plan, fingerprint: Fingerprint, dataset: Dataset, seconds: float) -> Plan:
    """Several networks on different shares of the cases where the time is long for so few cases; the default only."""
    if plan.preset != "default" or len({c.group for c in fingerprint.cases}) < 10:
        return plan
    c, augmentation = plan.configuration, plan.training.augmentation
    seen = wanted_steps(0.85 * seconds, c.ndim) * c.batch * math.prod(c.patch)
    orientations = 2 ** len(augmentation.mirror_axes) * (2 if augmentation.transpose_axes else 1)
    visits = seen / sum(_voxels(case, c) for case in fingerprint.cases) / orientations
    wanted = members_for(visits, seconds)
    count = min(wanted, len(shares(dataset, wanted, plan.training.validation_fraction)))
    if count == 1:
        return plan
    decision = Decision(name="networks", value=str(count), reason=(
        f"one network would see each case about {visits:.0f} times and learn it by heart; {count} networks share "
        "the time, each trained without another share of the cases, and their probabilities are averaged; --folds 0 "
        "trains one"))
    return plan.model_copy(update={"training": plan.training.model_copy(update={"folds": count}),
                                   "decisions": (*plan.decisions, decision)})


def _voxels(case: CaseRecord, c: Configuration) -> float:
    """Voxels of a case at the working spacing, at least one patch."""
    planes, shape = _working(case, c)
    return planes * math.prod(max(n, p) for n, p in zip(shape, c.patch, strict=True))


def _working(case: CaseRecord, c: Configuration) -> tuple[int, list[float]]:
    """How many images a network of these axes sees in a case, and their shape at its spacing."""
    space = zip(case.shape[-c.ndim:], case.spacing[-c.ndim:], c.spacing, strict=True)
    return math.prod(case.shape[:-c.ndim]), [n * s / t for n, s, t in space]


class _Limits:
    """What the plan has to keep."""

    def __init__(self, seconds: float | None, per_fold: float | None, memory: int, steps: int | None,
                 spent: float) -> None:
        self.seconds, self.per_fold, self.memory, self.steps, self.spent = seconds, per_fold, memory, steps, spent


def _probes(plan: Plan, device: torch.device, per_fold: float | None, memory: int) -> tuple[Plan, list[Probe]]:
    """Measure the given network, or for the default preset widths until the best one is among them.

    Where even the narrowest needs more memory than allowed, batch and patch shrink until it does not.
    """
    if plan.preset != "default" or device.type == "cuda":
        return plan, [probe(plan, device)]
    found: list[Probe] = []
    widths = widths_of(plan.configuration.architecture.name)
    while per_fold is not None and widths and len(found) < 4:
        wanted = next_width(found, 0.85 * per_fold, memory, plan.configuration.ndim, widths)
        if wanted is None:
            break
        found.append(probe(_at(plan, with_width(plan.configuration, wanted)), device))
    found = found or [probe(plan, device)]
    for _ in range(3):
        peak, own = min(p.peak for p in found), psutil.Process().memory_info().rss
        if peak <= memory:
            break
        less = smaller(plan.configuration, 0.9 * max(0.0, memory - own) / max(1, peak - own))
        if less is None:
            raise OptionError(f"--memory {memory_text(memory)}", expected=f"more than {memory_text(own)}, which the "
                              "program takes before it trains", remedy="allow more memory")
        narrow = with_width(less, min(p.width for p in found))
        found = [probe(_at(plan, narrow), device)]
        shrunk = Decision(name="patch and batch", value=f"{' × '.join(map(str, less.patch))}, {less.batch}", reason=(
            f"made smaller to train within {memory_text(memory)}; measured {memory_text(found[0].peak)}"))
        kept = tuple(d for d in plan.decisions if d.name != shrunk.name)
        plan = _at(plan, less).model_copy(update={"decisions": (*kept, shrunk)})
    return plan, found


def _at(plan: Plan, configuration: Configuration) -> Plan:
    return plan.model_copy(update={"configuration": configuration})


def _settled(plan: Plan, probes: Sequence[Probe], device: torch.device, limits: _Limits,
             fingerprint: Fingerprint) -> Plan:
    """Width and steps from the probes."""
    best, decisions = probes[-1], list(plan.decisions)
    configuration, training = plan.configuration, plan.training
    if limits.per_fold is not None and len(probes) > 0 and plan.preset == "default" and device.type != "cuda":
        best = chosen(probes, 0.85 * limits.per_fold, limits.memory, configuration.ndim)
        configuration = with_width(configuration, best.width)
        fixed = not widths_of(configuration.architecture.name)
        decisions.append(Decision(name="width", value="its own" if fixed else str(best.width), reason=(
            "this network has one width" if fixed else
            f"the widest of the probed {sorted(p.width for p in probes)} that leaves about "
            f"{wanted_steps(0.85 * limits.per_fold, configuration.ndim)} steps within {memory_text(limits.memory)}")))
    tuned, tuning = _tuning(fingerprint, limits.per_fold, training.validation_fraction)
    training = training.model_copy(update={"tune_cases": tuned})
    validation = tuning + _validation_seconds(fingerprint, configuration, best, training)
    steps, reason = training.steps, "nnU-Net's 1000 epochs of 250 steps (rule 1.13)"
    if limits.steps is not None:
        steps, reason = limits.steps, "asked for; no clock"
    elif limits.per_fold is not None:
        allowance = Allowance(limits.per_fold, limits.spent, validation, CLOSING)
        steps = steps_for(allowance.training, best.step_seconds)
        reason = (f"{duration_text(allowance.training)} of training at {best.step_seconds * 1e3:.0f} ms per step on "
                  f"{describe(device)}; {duration_text(validation)} are kept for validation")
    decisions.append(Decision(name="steps", value=str(steps), reason=reason))
    epochs = max(1, steps // 20) if plan.preset == "default" else training.steps_per_epoch
    training = training.model_copy(update={"steps": steps, "steps_per_epoch": epochs})
    if plan.preset == "default":
        training, decision = with_strength(training, steps * configuration.batch / len(fingerprint.cases))
        decisions.append(decision)
    measured = Budget(seconds=limits.seconds, memory=limits.memory, step_seconds=best.step_seconds,
                      validation_seconds=validation, device=device.type)
    return plan.model_copy(update={"configuration": configuration, "training": training, "budget": measured,
                                   "decisions": tuple(decisions)})


def _tuning(fingerprint: Fingerprint, per_fold: float | None, share: float) -> tuple[int, float]:
    """How many held-back cases choose the thresholds, and how long that takes: at most a twentieth of the budget."""
    if fingerprint.task != "instance":
        return 16, 0.0
    voxels = float(np.median([math.prod(c.shape) for c in fingerprint.cases]))
    per_case = TRIALS * DECODE_SECONDS * voxels
    most = 16 if per_fold is None else min(16, int(0.05 * per_fold / per_case))
    count = max(1, min(most, round(share * len(fingerprint.cases))))
    return count, count * per_case


def _validation_seconds(fingerprint: Fingerprint, c: Configuration, best: Probe, training: Training) -> float:
    """Time for predicting and scoring the held-back cases, those that choose thresholds twice."""
    tiles = []
    for case in fingerprint.cases:
        planes, shape = _working(case, c)
        tiles.append(planes * math.prod(max(1, math.ceil((n - p) / s) + 1)
                                        for n, p, s in zip(shape, c.patch, c.tile_step, strict=True)))
    count = max(1, round(training.validation_fraction * len(tiles)))
    if fingerprint.task == "instance":
        count += training.tune_cases
    if NETWORKS[c.architecture.name].attention:
        count += min(count, ATTENTION_SHOWN)
    return count * (float(np.mean(tiles)) * best.patch_seconds * 1.2 + 0.1)


def probe(plan: Plan, device: torch.device, repeats: int = 3) -> Probe:
    """Train a few steps on noise: seconds per step, seconds per patch forward, peak memory.

    The first step warms up and is not counted; the fastest of the others is, as other programs only ever slow it down
    (and the schedule is revised by the clock if they go on doing so).
    """
    method = method_of(plan)
    reset_peak(device)
    network = make_network(plan, method, device)
    optimizer = make_optimizer(network, plan.training)
    batch = _noise(plan, method)
    network.train()
    times = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        loss = torch.stack(list(forward_loss(network, method, batch, plan, device).values())).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    peak = peak_memory(device)
    network.eval()
    image = to_device(batch.image[:1], plan, device)
    forward = []
    with torch.inference_mode(), autocast(device):
        for _ in range(2):
            begun = time.perf_counter()
            network(image)
            if device.type == "cuda":
                torch.cuda.synchronize()
            forward.append(time.perf_counter() - begun)
    width = plan.configuration.architecture.features[0]
    # Making a batch (cropping, augmenting, encoding) costs about a tenth of a step on top.
    return Probe(width, 1.1 * min(times[1:]), min(forward), peak)


def _noise(plan: Plan, method: Method) -> Batch:
    """A batch of noise with blocky labels."""
    c = plan.configuration
    rng = np.random.default_rng([plan.seed, 7])
    image = rng.standard_normal((c.batch, len(plan.preprocessing.channels), *c.patch)).astype(np.float32)
    labels = np.zeros(c.patch, np.uint8)
    labels[tuple(slice(p // 4, max(p // 4 + 1, p // 2)) for p in c.patch)] = 1
    targets, weights = method.encode(labels, c.spacing)
    return Batch(torch.from_numpy(image),
                 {k: torch.from_numpy(np.stack([v] * c.batch)) for k, v in targets.items()},
                 {k: torch.from_numpy(np.stack([v] * c.batch)) for k, v in weights.items()}, ())


def label_table(fingerprint: Fingerprint, dataset: Dataset) -> LabelTable:
    """Names and values of the classes, regions and the ignore label."""
    about = dataset.about
    mapping = dict(about.mapping)
    if fingerprint.task == "instance":
        return LabelTable(task="instance", names=("background", "object"), values=(0, 1),
                          ignore_value=fingerprint.ignore_value, mapping=mapping)
    names = ("background", *(c.name for c in fingerprint.classes))
    values = (0, *(c.value for c in fingerprint.classes))
    return LabelTable(task="semantic", names=names, values=values, regions=_regions(dataset, values),
                      region_classes=tuple(values.index(v) for v in about.regions_class_order if v in values),
                      ignore_value=fingerprint.ignore_value, mapping=mapping)


def _regions(dataset: Dataset, values: tuple[int, ...]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Regions of the description as indices of classes."""
    position = {v: i for i, v in enumerate(values)}
    found = []
    for name, members in dataset.about.regions:
        found.append((name, tuple(position[v] for v in members if v in position)))
    return tuple(found)


def default_memory(device: torch.device) -> int:
    """Nine tenths of a GPU, or on a CPU 4 GB but not more than half of what is free."""
    if device.type == "cuda":
        return int(0.9 * torch.cuda.get_device_properties(device).total_memory)
    return int(min(4 * 2**30, psutil.virtual_memory().available / 2))


def peak_memory(device: torch.device) -> int:
    """Bytes at the peak since :func:`reset_peak`: of the GPU, or of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if platform.system() == "Linux":
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
    return int(getattr(psutil.Process().memory_info(), "peak_wset", psutil.Process().memory_info().rss))


def reset_peak(device: torch.device) -> None:
    """Start measuring the peak anew, where the system can (CUDA and Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif platform.system() == "Linux":
        # A container may forbid it; then the peak is that of the whole process so far, an upper bound.
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _name(dataset: Dataset) -> str:
    source = Path(str(dataset.source).split("::")[0] or "dataset")
    return source.parent.name if source.suffix == ".csv" else source.name
