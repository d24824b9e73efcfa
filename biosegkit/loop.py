"""One training run of one network: the loop reads top to bottom on one page."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import checkpoint
from ._words import counted
from .batch_processes import batches_for
from .bundle import network_of
from .errors import DataError, Stopped
from .methods.protocol import Method
from .patches import Batch, Sample, make_batch
from .plan.defaults import deep_supervision_weights
from .plan.schema import Plan, Training
from .schedule import Clock, Pace, learning_rate

__all__ = ["CHECKED", "Progress", "Stopped", "make_network", "train"]

#: Patches of held-back cases that a live score looks at.
CHECKED = 8
#: Steps in a row with a loss or gradient that is not finite after which training is given up (fault V2).
MAX_BAD_STEPS = 10

Progress = Callable[[Mapping[str, Any]], None]


@dataclass
class _State:
    """Everything that a checkpoint holds."""

    network: nn.Module
    average: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    pace: Pace
    step: int = 0
    bad: int = 0
    skipped: int = 0
    elapsed: float = 0.0
    started: float = field(default_factory=time.monotonic)


def make_network(plan: Plan, method: Method, device: torch.device) -> nn.Module:
    """The plan's network on a device, its weights drawn from the plan's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        network = network_of(plan, method).train()
    if plan.training.memory_format == "channels_last":
        layout = torch.channels_last if plan.configuration.ndim == 2 else torch.channels_last_3d
        network = network.to(memory_format=layout)
    return network.to(device)


def train(plan: Plan, method: Method, samples: Sequence[Sample], held_back: Sequence[Sample], folder: Path,
          *, device: torch.device, deadline: float | None = None, start_weights: Mapping[str, Tensor] | None = None,
          progress: Progress | None = None, stop: Callable[[], bool] = lambda: False) -> dict[str, Tensor]:
    """Train one network and return its weights (their average where the plan has one).

    Parameters
    ----------
    plan, method : Plan, Method
        What to train.
    samples, held_back : sequences of Sample
        Training cases, and cases for the live Dice.
    folder : Path
        Gets ``metrics.jsonl`` and ``checkpoints/``; a checkpoint there is continued.
    device : torch.device
        Where to train.
    deadline : float, optional
        ``time.monotonic()`` by which the last step should be done.
    start_weights : mapping, optional
        Weights to begin from (fine-tuning); heads of other shapes start anew.
    progress : callable, optional
        Called with plain numbers after each logged step.
    stop : callable
        Asked between steps; True saves and raises.

    Raises
    ------
    Stopped
        When asked to stop.
    DataError
        When the loss is not finite ten times in a row; the message names the cases (fault V2).
    """
    t = plan.training
    network = make_network(plan, method, device)
    anew = () if start_weights is None else adopt(network, start_weights)
    optimizer = make_optimizer(network, t)
    state = _State(network, _copy(network), optimizer, Pace(((0, t.steps),)))
    notes = restore(state, folder)
    if anew and state.step == 0:
        notes = (*notes, f"weights that do not fit and start anew: {', '.join(anew)}")
    scaler = torch.amp.GradScaler(enabled=device.type == "cuda")
    # What was spent before an interruption counts.
    clock, overhead = Clock(None if deadline is None else deadline - state.elapsed, _after(plan),
                            plan.budget.step_seconds), 0.05
    log = _Log(folder / "metrics.jsonl", state.step, progress)
    log.notes(state, notes)
    saved = time.monotonic()
    network.train()
    with closing(batches_for(device, samples, plan, method, state.step)) as made:
        for batch in made:
            if state.step >= state.pace.total:
                break
            rate = learning_rate(t, state.pace.progress(state.step + 0.5))
            for group in optimizer.param_groups:
                group["lr"] = rate
            log.notes(state, batch.notes)
            loss, terms = _step(state, scaler, batch, plan, method, device)
            state.step += 1
            clock.tick()
            if log.is_due(state.step, state.pace.total):
                log.step(state, loss, terms, rate, clock)
            due = _is_review(state) or clock.is_due
            clock_says = clock.revise(state.pace, state.step, overhead) if due else None
            if held_back and _is_validation(state, t, clock.spares(overhead)):
                clock.pause()
                log.validation(state, validation_dice(_weights(state, t), plan, method, held_back, device))
                clock.resume()
            if clock_says or stop() or time.monotonic() - saved > t.checkpoint_seconds:
                clock.pause()
                state.pace = clock_says or state.pace
                save(state, folder)
                saved = time.monotonic()
                clock.resume()
                if stop():
                    raise Stopped(f"stopped after step {state.step} of {state.pace.total}", file=folder,
                                  remedy="continue with --resume")
    if state.skipped and state.skipped >= state.step:
        raise _not_finite(state.skipped, batch)
    save(state, folder)
    return _weights(state, t)


def _step(state: _State, scaler: torch.amp.GradScaler, batch: Batch, plan: Plan, method: Method,
          device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """Forward, backward, clip, and (if everything is finite) one step of optimiser and average.

    Otherwise the network is as before: running statistics that the forward pass has spoilt are taken back (fault V2).
    """
    before = [buffer.clone() for buffer in state.network.buffers()]
    terms = forward_loss(state.network, method, batch, plan, device)
    loss = torch.stack(list(terms.values())).sum()
    state.optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    scaler.unscale_(state.optimizer)
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), plan.training.clip_norm)
    if _is_finite(state, loss, norm, batch):
        scaler.step(state.optimizer)
        update_average(state.average, state.network, plan.training, state.step, state.pace.total)
    else:
        for buffer, kept in zip(state.network.buffers(), before, strict=True):
            buffer.copy_(kept)
    scaler.update()
    return loss, terms


def _weights(state: _State, t: Training) -> dict[str, Tensor]:
    """The averaged weights, or a copy of the network's where the plan has no average."""
    return state.average if t.average else _copy(state.network)


def make_optimizer(network: nn.Module, t: Training) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum as in nnU-Net."""
    if t.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), t.learning_rate, momentum=t.momentum, nesterov=True,
                               weight_decay=t.weight_decay)
    return torch.optim.AdamW(network.parameters(), t.learning_rate, weight_decay=t.weight_decay)


def forward_loss(network: nn.Module, method: Method, batch: Batch, plan: Plan,
                 device: torch.device) -> dict[str, Tensor]:
    """Loss terms summed over all outputs of the network; coarser targets are every n-th voxel.

    Outputs of falling resolution count with nnU-Net's weights; those of one resolution (U-Net++) equally.
    """
    image = to_device(batch.image, plan, device)
    targets, weights = ({k: v.to(device, non_blocking=device.type == "cuda") for k, v in whole.items()}
                        for whole in (batch.targets, batch.weights))
    with autocast(device, plan.training.precision):
        outputs = network(image)
    levels = outputs if isinstance(outputs, list) else [outputs]
    sizes = [next(iter(level.values())).shape[2:] for level in levels]
    factors = deep_supervision_weights(len(levels)) if len(set(sizes)) > 1 else (1 / len(levels),) * len(levels)
    total: dict[str, Tensor] = {}
    for level, size, factor in zip(levels, sizes, factors, strict=True):
        if factor == 0:
            continue
        every = _every(image.shape[2:], size, plan)
        here = {k: v[every] for k, v in targets.items()}
        for name, term in method.loss(level, here, {k: v[every] for k, v in weights.items()}).items():
            total[name] = total.get(name, torch.zeros((), device=device)) + factor * term
    return total


def _every(whole: Sequence[int], size: Sequence[int], plan: Plan) -> Any:
    """The voxels of a target that an output of this size stands for: every n-th, by the plan's strides."""
    strides = np.cumprod(np.array(plan.configuration.architecture.strides), axis=0).T
    steps = (next(int(s) for s in axis if -(-n // int(s)) == m)
             for axis, n, m in zip(strides, whole, size, strict=True))
    return (..., *(slice(None, None, s) for s in steps))


def to_device(image: Tensor, plan: Plan, device: torch.device) -> Tensor:
    """The image on the device in the plan's memory format; a GPU fetches it by itself where its memory is pinned."""
    by_itself = device.type == "cuda"
    if plan.training.memory_format == "channels_last":
        layout = torch.channels_last if image.ndim == 4 else torch.channels_last_3d
        return image.to(device, memory_format=layout, non_blocking=by_itself)
    return image.to(device, non_blocking=by_itself)


def autocast(device: torch.device, precision: str = "float32") -> Any:
    """Half precision on CUDA; on a CPU bfloat16 where the plan says so, which needs no scaling of the loss."""
    if device.type == "cuda":
        return torch.autocast("cuda", torch.float16)
    return torch.autocast("cpu", torch.bfloat16) if device.type == "cpu" and precision == "bfloat16" else nullcontext()


def update_average(average: dict[str, Tensor], network: nn.Module, t: Training, step: int, total: int) -> None:
    """Exponential average of weights over about ``average_window`` of the run; young averages forget faster."""
    if not t.average:
        return
    decay = min(1 - 1 / max(2.0, t.average_window * total), (1 + step) / (10 + step))
    current = network.state_dict()
    pairs = [(a, current[k]) for k, a in average.items() if a.is_floating_point()]
    torch._foreach_lerp_([a for a, _ in pairs], [b.detach() for _, b in pairs], 1 - decay)
    for k, a in average.items():
        if not a.is_floating_point():
            a.copy_(current[k])


@torch.no_grad()
def validation_dice(weights: Mapping[str, Tensor], plan: Plan, method: Method, samples: Sequence[Sample],
                    device: torch.device, count: int = CHECKED) -> dict[str, float]:
    """Dice of foreground over a few fixed patches of held-back cases: a live estimate, not the score."""
    network = make_network(plan, method, device)
    network.load_state_dict(dict(weights))
    network.eval()
    hits = np.zeros(2)
    for i in range(max(1, count // plan.configuration.batch)):
        batch = make_batch(samples, plan, method, i, augment=False)
        with autocast(device, plan.training.precision):
            maps = method.activate(network(to_device(batch.image, plan, device)))
        name = next(iter(batch.targets))
        truth, known = batch.targets[name].numpy(), batch.weights[name].numpy() > 0
        found = maps[name].cpu().numpy()
        found = found.argmax(1) if truth.ndim < found.ndim and name == "classes" else found > 0.5
        found, truth = found.reshape(truth.shape).astype(int), np.rint(truth).astype(int)
        known = np.broadcast_to(known if known.ndim == truth.ndim else known[:, None], truth.shape)
        both = (found == truth) & (truth > 0) & known
        hits += [2 * both.sum(), ((found > 0) & known).sum() + ((truth > 0) & known).sum()]
    return {"dice": float(hits[0] / hits[1]) if hits[1] else float("nan")}


def adopt(network: nn.Module, weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Copy the weights that fit by name and shape; return the names that start anew.

    Raises
    ------
    DataError
        If less than half of the network's numbers fit: by accident some vectors do in any two networks.
    """
    own = network.state_dict()
    fitting = {k: v for k, v in weights.items() if k in own and own[k].shape == v.shape}
    share = sum(v.numel() for v in fitting.values()) / sum(v.numel() for v in own.values())
    if share < 0.5:
        raise DataError(f"weights of another network ({share:.0%} fit)", expected="a model with the same topology",
                        remedy="leave --plan out, so that the network is that model's (Python: make_plan with like), "
                        "or train without --from")
    network.load_state_dict(fitting, strict=False)
    return tuple(k for k in own if k not in fitting)


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in network.state_dict().items()}


def _is_finite(state: _State, loss: Tensor, norm: Tensor, batch: Batch) -> bool:
    """Whether the step may be taken; gives up after too many that may not."""
    if torch.isfinite(loss) and torch.isfinite(norm):
        state.bad = 0
        return True
    state.bad += 1
    state.skipped += 1
    if state.bad >= MAX_BAD_STEPS:
        raise _not_finite(state.bad, batch)
    return False


def _not_finite(steps: int, batch: Batch) -> DataError:
    return DataError(f"a loss that is not finite in {counted(steps, 'step')} in a row, last with cases "
                     f"{', '.join(sorted(set(batch.cases)))}", expected="finite numbers",
                     remedy="run doctor on these cases or lower the learning rate; the last checkpoint is good")


def _after(plan: Plan) -> float:
    """Seconds planned for validation and report."""
    return (plan.budget.validation_seconds or 0.0) + plan.budget.closing_seconds


def _is_review(state: _State) -> bool:
    """Whether the clock is looked at after this step: at 20 steps, then every 4 % of the run."""
    return state.step == 20 or (state.step > 20 and state.step % max(20, state.pace.total // 25) == 0)


def _is_validation(state: _State, t: Training, spare: bool) -> bool:
    """Whether a live score is due: once an epoch while the time for it is there, and after the last step."""
    return (spare and state.step % max(1, t.steps_per_epoch) == 0) or state.step == state.pace.total


def save(state: _State, folder: Path) -> None:
    """Write a checkpoint; nothing is written while the last steps were not finite (fault V2)."""
    if state.bad:
        return
    tensors = {f"network.{k}": v for k, v in state.network.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in state.average.items()}
    flat, skeleton = checkpoint.flatten(state.optimizer.state_dict(), "optimizer")
    tensors |= flat
    tensors["random"] = torch.get_rng_state()
    elapsed = state.elapsed + time.monotonic() - state.started
    checkpoint.save(folder / "checkpoints", state.step, tensors,
                    {"step": state.step, "optimizer": skeleton, "revisions": [list(r) for r in state.pace.revisions],
                     "skipped": state.skipped, "elapsed": elapsed})


def restore(state: _State, folder: Path) -> tuple[str, ...]:
    """Continue from the newest whole checkpoint, if there is one; the notes name damaged ones (fault P1)."""
    if not any((folder / "checkpoints").glob("*.json")):
        return ()
    tensors, saved, notes = checkpoint.load_latest(folder / "checkpoints")
    state.network.load_state_dict({k[8:]: v for k, v in tensors.items() if k.startswith("network.")})
    state.average = {k[8:]: v for k, v in tensors.items() if k.startswith("average.")}
    state.optimizer.load_state_dict(checkpoint.unflatten(saved["optimizer"], tensors))
    torch.set_rng_state(tensors["random"])
    state.pace = Pace(tuple((int(a), int(b)) for a, b in saved["revisions"]))
    state.step, state.skipped, state.elapsed = int(saved["step"]), int(saved["skipped"]), float(saved["elapsed"])
    return notes


class _Log:
    """``metrics.jsonl``: one line per logged step or validation; lines after the restored step are dropped."""

    def __init__(self, path: Path, step: int, progress: Progress | None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        path.write_text("".join(f"{line}\n" for line in kept))
        self.path, self.progress, self.dice = path, progress, float("nan")

    def is_due(self, step: int, total: int) -> bool:
        return step % max(1, min(10, total // 20)) == 0 or step == total

    def step(self, state: _State, loss: Tensor, terms: Mapping[str, Tensor], rate: float, clock: Clock) -> None:
        left = (state.pace.total - state.step) * clock.step_seconds if clock.seconds else None  # not known yet
        self._write({"step": state.step, "total": state.pace.total, "loss": float(loss.detach()), "lr": rate,
                     "seconds": clock.step_seconds, "left": left, "skipped": state.skipped,
                     "terms": {k: float(v.detach()) for k, v in terms.items()}})

    def notes(self, state: _State, notes: Sequence[str]) -> None:
        for note in notes:
            self._write({"step": state.step, "total": state.pace.total, "note": note})

    def validation(self, state: _State, scores: Mapping[str, float]) -> None:
        self.dice = scores["dice"]
        self._write({"step": state.step, "total": state.pace.total, "validation": dict(scores)})

    def _write(self, row: Mapping[str, Any]) -> None:
        with self.path.open("a") as handle:
            handle.write(json.dumps(_plain(row), allow_nan=False) + "\n")
        if self.progress:
            self.progress({**row, "dice": self.dice})


def _step_of(line: str) -> float:
    """Step of a logged line; infinite for one that a crash has cut."""
    try:
        return float(json.loads(line)["step"])
    except ValueError:
        return float("inf")


def _plain(value: Any) -> Any:
    """NaN and infinity as null, so that every line is JSON."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value
