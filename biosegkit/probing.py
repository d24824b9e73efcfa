"""What this machine can do: time and memory of a few training steps, and of what surrounds a training."""

from __future__ import annotations

import contextlib
import math
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import torch

from .cases import Dataset
from .charts import Curves, loss_chart
from .errors import OptionError
from .fingerprint import Fingerprint
from .grid import Grid
from .image import Labels
from .loop import autocast, forward_loss, make_network, make_optimizer, to_device
from .methods.decoding import decode
from .methods.protocol import Method
from .patches import Batch, Sample, foreground_voxels, make_batch
from .plan.budget import Probe, next_width, widths_of
from .plan.draft import smaller, with_width
from .plan.schema import Configuration, Decision, Plan
from .plan.units import memory_text
from .preprocess import make_sample, sample_key
from .scores import score_pair
from .segmenter import method_of

__all__ = ["batch_seconds", "default_memory", "peak_memory", "preparing_seconds", "probe", "probed_widths", "rehearse"]

#: Share of a budget that measuring networks may take; a narrower one is measured even then.
PROBING = 0.1
#: Seconds of the report and the bundle on an idle core, and how many charts take as long as they do.
CLOSING, CHARTS = 5.0, 12
#: How many times as fast a step in bfloat16 has to be: less is not worth the digits.
WORTH_HALF = 1.15
#: Steps that are measured on a GPU whatever the clock says: the first loads its kernels, which takes seconds.
LEAST_ON_GPU = 3
#: Seconds of a first step on a CPU after which another is taken however late it is: it may have loaded and compiled.
WARMING = 8.0
#: How many batches are made to see how long one takes, and seconds after which no other is begun.
BATCHES, BATCHES_WITHIN = 4, 0.5
#: Edge of the box of noise that is decoded and scored, in voxels.
BOX = 32


def probed_widths(plan: Plan, device: torch.device, per_fold: float | None, memory: int,
                  fixed: bool = False) -> tuple[Plan, list[Probe]]:
    """Measure the given network, or for the default preset widths until the best one is among them.

    With a budget the first is measured in both precisions that a CPU can train in, and the faster is the plan's. Where
    even the narrowest needs more memory than allowed, batch and patch shrink until it does not.

    Parameters
    ----------
    plan : Plan
        As drafted.
    device : torch.device
        Where training is going to run.
    per_fold : float, optional
        Seconds for one network; measuring takes a tenth of them, or one network more.
    memory : int
        Bytes to stay within.
    fixed : bool
        The width is the plan's.

    Raises
    ------
    OptionError
        If no network fits into the memory.
    """
    until = None if per_fold is None else time.monotonic() + PROBING * per_fold
    if plan.preset != "default" or device.type == "cuda":
        return plan, [probe(plan, device, until=until)]
    found: list[Probe] = []
    widths = () if fixed else widths_of(plan.configuration.architecture.name)
    if per_fold is not None:
        first = next_width([], 0.85 * per_fold, memory, widths=widths) if widths else None
        plan, one = _first(plan, first, device, until)
        found.append(one)
    while per_fold is not None and widths and len(found) < 4:
        wanted = next_width(found, 0.85 * per_fold, memory, plan.configuration.ndim, widths, plan.configuration.voxels)
        late = until is not None and time.monotonic() > until
        if wanted is None or (late and wanted > found[-1].width):
            break
        found.append(probe(_at(plan, with_width(plan.configuration, wanted)), device, until=until))
    found = found or [probe(plan, device, until=until)]
    for _ in range(3):
        peak, own = min(p.peak for p in found), psutil.Process().memory_info().rss
        if peak <= memory:
            break
        less = smaller(plan.configuration, 0.9 * max(0.0, memory - own) / max(1, peak - own))
        if less is None:
            raise OptionError(f"--memory {memory_text(memory)}", expected=f"more than {memory_text(own)}, which the "
                              "program takes before it trains", remedy="allow more memory")
        narrow = with_width(less, min(p.width for p in found))
        found = [probe(_at(plan, narrow), device, until=until)]
        shrunk = Decision(name="patch and batch", value=f"{' × '.join(map(str, less.patch))}, {less.batch}", reason=(
            f"made smaller to train within {memory_text(memory)}; measured {memory_text(found[0].peak)}"))
        kept = tuple(d for d in plan.decisions if d.name != shrunk.name)
        plan = _at(plan, less).model_copy(update={"decisions": (*kept, shrunk)})
    return plan, found


def _at(plan: Plan, configuration: Configuration) -> Plan:
    return plan.model_copy(update={"configuration": configuration})


def _first(plan: Plan, width: int | None, device: torch.device, until: float | None) -> tuple[Plan, Probe]:
    """Measure a network, on a CPU with instructions for it in bfloat16 too; the plan gets the faster, and the reason.

    One convolution tells processors without them, where whole steps would take very long. Where no time is left for
    the second measurement it is one step that warms up, which hardly ever wins.
    """
    tried = plan if width is None else _at(plan, with_width(plan.configuration, width))
    best, found = probe(tried, device, until=until), "float32"
    if device.type != "cpu":
        return plan, best
    told = f"bfloat16 is not faster on this processor ({platform.machine()})"
    if WORTH_HALF * _convolving(torch.bfloat16) < _convolving(torch.float32):
        half = probe(_precise(tried, "bfloat16"), device, until=until)
        told = f"a step took {best.step_seconds * 1e3:.0f} ms in float32, {half.step_seconds * 1e3:.0f} ms in bfloat16"
        if WORTH_HALF * half.step_seconds < best.step_seconds:
            best, found, told = half, "bfloat16", f"{told}; weights, losses and prediction are float32"
    decision = Decision(name="precision", value=found, reason=told)
    return _precise(plan, found).model_copy(update={"decisions": (*plan.decisions, decision)}), best


def _precise(plan: Plan, precision: str) -> Plan:
    return plan.model_copy(update={"training": plan.training.model_copy(update={"precision": precision})})


def _convolving(dtype: torch.dtype) -> float:
    """Seconds of a small convolution and its gradients, the fastest of three."""
    layer = torch.nn.Conv2d(16, 16, 3, padding=1).to(dtype).to(memory_format=torch.channels_last)
    image = torch.zeros(2, 16, 96, 96, dtype=dtype).to(memory_format=torch.channels_last)
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        layer(image).sum().backward()
        times.append(time.perf_counter() - begun)
    return min(times)


def probe(plan: Plan, device: torch.device, repeats: int = 3, until: float | None = None) -> Probe:
    """Train a few steps on noise: seconds per step, seconds per patch forward, peak memory.

    The first step warms up and is not counted if another follows; the fastest of the others is, as other programs only
    ever slow it down (and the schedule is revised by the clock if they go on doing so). After ``until``, on the
    monotonic clock, no step is begun but a second one where the first was short, as it may be slow for the first time
    only; on a GPU the first tells nothing at all, and the next two are.
    """
    method = method_of(plan)
    reset_peak(device)
    network = make_network(plan, method, device)
    optimizer = make_optimizer(network, plan.training)
    batch = _noise(plan, method)
    network.train()
    times: list[float] = []
    while _goes_on(times, repeats, device, until):
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
    with torch.inference_mode(), autocast(device):  # prediction on a CPU is in float32
        for _ in range(2):
            begun = time.perf_counter()
            network(image)
            if device.type == "cuda":
                torch.cuda.synchronize()
            forward.append(time.perf_counter() - begun)
    width = plan.configuration.architecture.features[0]
    # Making a batch (cropping, augmenting, encoding) costs about a tenth of a step on top; for a GPU others make it,
    # but the average of weights and the scaling of the loss are not in a probe either.
    return Probe(width, 1.1 * min(times[1:] or times), min(forward), peak)


def _goes_on(times: Sequence[float], repeats: int, device: torch.device, until: float | None) -> bool:
    """Whether another step is measured after those that took so many seconds."""
    if until is None or time.monotonic() <= until:
        return len(times) <= repeats
    if device.type == "cuda":
        return len(times) < LEAST_ON_GPU
    return len(times) < (2 if sum(times) < WARMING else 1)


def _noise(plan: Plan, method: Method) -> Batch:
    """A batch of noise with blocky labels."""
    c = plan.configuration
    rng = np.random.default_rng([plan.seed, 7])
    image = rng.standard_normal((c.batch, len(plan.preprocessing.channels), *c.patch)).astype(np.float32)
    targets, weights = method.encode(_block(c.patch), c.spacing)
    return Batch(torch.from_numpy(image),
                 {k: torch.from_numpy(np.stack([v] * c.batch)) for k, v in targets.items()},
                 {k: torch.from_numpy(np.stack([v] * c.batch)) for k, v in weights.items()}, ())


def batch_seconds(plan: Plan) -> float:
    """Seconds in which one core makes a batch of patches of noise; the first loads what it needs and is not counted."""
    c, method = plan.configuration, method_of(plan)
    labels = _block(tuple(2 * p for p in c.patch))
    rng = np.random.default_rng([plan.seed, 8])
    image = rng.standard_normal((len(plan.preprocessing.channels), *labels.shape), np.float32)
    one = Sample("noise", image, labels, None, foreground_voxels(labels, plan.labels.task, plan.seed))
    make_batch([one], plan, method, 0)
    times: list[float] = []
    while len(times) < BATCHES and sum(times) < BATCHES_WITHIN:
        begun = time.perf_counter()
        make_batch([one], plan, method, len(times) + 1)
        times.append(time.perf_counter() - begun)
    return sum(times) / len(times)


def _block(shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Labels with one block."""
    labels = np.zeros(shape, np.uint8)
    labels[tuple(slice(p // 4, max(p // 4 + 1, p // 2)) for p in shape)] = 1
    return labels


def rehearse(plan: Plan) -> float:
    """Step, decode, score and draw once, on next to nothing; return the seconds that report and bundle will take.

    What is compiled, imported or searched for on first use then costs its time now, before the time is divided, and not
    after training, when none is left.
    """
    method, c = method_of(plan), plan.configuration
    weight = torch.nn.Linear(1, 1)
    weight(torch.ones(1, 1)).sum().backward()
    make_optimizer(weight, plan.training).step()
    labels = _block(tuple(min(p, BOX) for p in c.patch))
    targets, _ = method.encode(labels, c.spacing)
    found, _ = decode(method, method.ideal(targets), spacing=c.spacing)
    grid = Grid.regular(labels.shape, c.spacing, plan.preprocessing.unit)
    prediction, truth = (Labels.from_values(array, grid, plan.labels.task) for array in (found, labels))
    score_pair(prediction, truth)
    curves = Curves(step=[1, 2], loss=[1.0, 0.5], rate=[1.0, 0.5], total=2)
    loss_chart({"": curves})
    begun = time.perf_counter()
    loss_chart({"": curves})
    return max(CLOSING, CHARTS * (time.perf_counter() - begun))


def preparing_seconds(plan: Plan, dataset: Dataset, fingerprint: Fingerprint) -> float:
    """Seconds for reading all cases again and making their samples, from one of median size; 0 without their files."""
    voxels = {c.id: math.prod(c.shape) for c in fingerprint.cases}
    here = sorted((c for c in dataset if c.id in voxels and c.images and all(p.exists() for p in c.images)),
                  key=lambda c: voxels[c.id])
    if not here:
        return 0.0
    case = here[len(here) // 2]
    begun = time.monotonic()
    sample_key(case, plan, dataset.about)
    make_sample(*dataset.load(case, plan.labels.task), plan, case.id)
    # The samples are written and checked as well.
    return 1.3 * max(len(voxels), sum(voxels.values()) / voxels[case.id]) * (time.monotonic() - begun)


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
