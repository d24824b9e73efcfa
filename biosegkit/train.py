"""fit: preprocess, train each fold, tune on what was held back, bundle, score, report — inside the budget."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import checkpoint
from ._atomic import read_json
from ._words import counted
from .bundle import Bundle, load, write_bundle
from .cases import Dataset, trainable
from .device import describe, pick
from .errors import DataError, Problem, ResumeError, Stopped
from .fingerprint import Fingerprint
from .loop import Progress, adopt, make_network, train
from .methods.protocol import Method
from .plan.schema import Plan
from .plan.units import duration_text
from .preprocess import load_or_make
from .pretrained import begin
from .racing import RaceTrack, as_decided, run_race
from .report import write_report
from .run_folder import is_finished, locked, open_run, update_run
from .segmenter import method_of
from .signals import asked_to_stop
from .splits import chosen_folds, shares, split_notes
from .time_needed import refuse_late
from .validate import validate

__all__ = ["fit"]


@dataclass(frozen=True, eq=False)
class _Job:
    """What every step of a run needs."""

    plan: Plan
    method: Method
    dataset: Dataset
    out: Path
    device: torch.device
    progress: Progress | None
    stop: Callable[[], bool]
    began: float


def fit(plan: Plan, dataset: Dataset, out: str | Path, *, folds: Sequence[int] | str | None = None,
        steps: int | None = None, init: str | Path | None = None, resume: bool = False, overwrite: bool = False,
        device: str = "auto", started: float | None = None, progress: Progress | None = None,
        fingerprint: Fingerprint | None = None, problems: Sequence[Problem] = ()) -> Bundle:
    """Train a model and everything that belongs to it.

    Parameters
    ----------
    plan : Plan
        From :func:`biosegkit.make_plan`.
    dataset : Dataset
        The cases.
    out : str or Path
        The RUN folder.
    folds : sequence of int or "all", optional
        Folds of a five-fold cross-validation to train; None holds back one share of the cases for each of the plan's
        networks.
    steps : int, optional
        Takes the clock out: exactly so many steps per fold.
    init : str or Path, optional
        A model whose weights to begin with.
    resume, overwrite : bool
        Continue an existing run, or replace it.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    started : float, optional
        ``time.monotonic()`` from which the budget counts; now by default.
    progress : callable, optional
        Gets a dict of plain numbers after each logged step, and ``{"stage": text}`` between stages.
    fingerprint, problems : optional
        Stored with the run and shown in its report.

    Returns
    -------
    Bundle
        The loaded model.

    Raises
    ------
    ResumeError
        If ``resume`` meets another plan, other data or another version (fault P3).
    Stopped
        After Ctrl-C or SIGTERM; the state is saved, or the run is whole if it came that late.
    """
    started = time.monotonic() if started is None else started
    out, here = Path(out), pick(device)
    if steps is not None:
        training = plan.training.model_copy(update={"steps": steps, "steps_per_epoch": max(1, steps // 20)})
        plan = plan.model_copy(update={
            "training": training, "budget": plan.budget.model_copy(update={"seconds": None}),
            "race": plan.race and plan.race.model_copy(update={"seconds": None})})
    plan = as_decided(plan, out) if resume else plan
    chosen = _folds(plan, dataset, folds)
    origin = None if init is None else _origin(plan, init)
    with locked(out), asked_to_stop() as stop:
        open_run(out, plan, dataset, resume=resume, overwrite=overwrite, problems=problems,
                 facts={"device": describe(here), "from": None if origin is None else origin.digest,
                        "notes": split_notes(list(dataset), 5 if folds is not None else 2),
                        "folds": {k: {"train": len(t), "validation": len(v)} for k, (t, v) in chosen.items()}})
        if resume and plan.race is None and is_finished(out):  # scoring again would have what its budget has left
            _say(progress, f"{out} is finished: nothing to continue")
            return load(out, here)
        if fingerprint is not None:
            fingerprint.write(out / "fingerprint.json")
        spent = float(read_json(out / "run.json").get("spent", 0.0))
        plan = run_race(plan, RaceTrack(dataset, out, next(iter(chosen.values())), here, progress, stop))
        job = _Job(plan, method_of(plan), dataset, out, here, progress, stop, started - spent)
        end = None if plan.budget.seconds is None else job.began + 0.99 * plan.budget.seconds
        weights = {}
        for done, (fold, (train_ids, held_ids)) in enumerate(chosen.items()):
            deadline = _deadline(plan, end, len(chosen) - done)
            weights[fold] = _fold(job, fold, (train_ids, held_ids), deadline, origin)
            update_run(out, spent=spent + time.monotonic() - started)
        return _conclude(job, weights, {k: v for k, (_, v) in chosen.items()}, started, end)


def _folds(plan: Plan, dataset: Dataset, folds: Sequence[int] | str | None) -> dict[str, tuple[Any, Any]]:
    """Name of each fold to its training and held-back ids."""
    if folds is None:
        found = shares(list(dataset), plan.training.folds, plan.training.validation_fraction)
        return {str(k): fold for k, fold in enumerate(found)}
    return {str(number): fold for number, fold in chosen_folds(dataset, folds).items()}


def _deadline(plan: Plan, end: float | None, left: int) -> float | None:
    """When the next fold's last step must be done, an equal share for every fold that is left."""
    if end is None:
        return None
    now = time.monotonic()
    share = (end - now - plan.budget.closing_seconds) / left
    return now + share - (plan.budget.validation_seconds or 0.0)


def _fold(job: _Job, fold: str, ids: tuple[Any, Any], deadline: float | None,
          origin: Bundle | None) -> dict[str, Tensor]:
    """Train one fold, or take its finished weights."""
    folder = job.out / f"fold-{fold}"
    finished = folder / "weights.safetensors"
    if finished.exists():
        return checkpoint.load_tensors(finished)
    _say(job.progress, f"fold {fold}: preprocessing")
    store = job.out / "store"
    samples, held = (load_or_make(job.dataset, list(job.dataset.select(part)), job.plan, store) for part in ids)
    saved = any((folder / "checkpoints").glob("*.json"))
    start: Mapping[str, Tensor] | None = None if origin is None else _weights_of(origin, fold)
    began = read_json(job.out / "run.json").get("from")
    if start is None and began and not saved:
        raise ResumeError(f"fold {fold} without a saved state in a run that began with model {began[:12]}",
                          file=job.out, expected="the weights of that model", remedy="give --from again")
    if start is None and not saved:
        start = begin(job.plan)
    _check_stop(job)
    if not saved and not any(job.out.glob("fold-*/weights.safetensors")):
        refuse_late(job.plan, job.began, deadline)
    goes_on = ", from the state that was saved last" if saved else ""
    _say(job.progress, f"fold {fold}: training on {counted(len(samples), 'case')}, {len(held)} held back, "
         f"{describe(job.device)}{goes_on}")
    # Every fold begins with other weights and draws other patches: alike networks would gain less from their average.
    plan = job.plan.model_copy(update={"seed": job.plan.seed + (int(fold) if fold.isdigit() else 0)})
    weights = train(plan, job.method, samples, held, folder, device=job.device, deadline=deadline,
                    start_weights=start, progress=job.progress, stop=job.stop)
    weights = {k: v.cpu().contiguous() for k, v in weights.items()}
    checkpoint.save_tensors(finished, weights)
    return weights


def _origin(plan: Plan, init: str | Path) -> Bundle:
    """The model to begin with; refused before anything is written if its weights do not fit."""
    origin = load(init, "cpu")
    try:
        adopt(make_network(plan, method_of(plan), torch.device("cpu")), _weights_of(origin, "0"))
    except DataError as error:
        raise DataError(error.found, file=init, expected=error.expected, remedy=error.remedy) from error
    return origin


def _weights_of(origin: Bundle, fold: str) -> Mapping[str, Tensor]:
    """Weights of another model: of the same fold where it has that, else of its first."""
    networks = origin.segmenter.networks
    index = int(fold) if fold.isdigit() and int(fold) < len(networks) else 0
    return networks[index].state_dict()


def _conclude(job: _Job, weights: Mapping[str, Mapping[str, Tensor]], held: Mapping[str, Sequence[str]],
              started: float, end: float | None) -> Bundle:
    """Tune and score on the held-back cases, as many as there is time for, then bundle and report."""
    def between(text: str) -> None:
        _check_stop(job)
        _say(job.progress, text)

    folds = {name: (weights[name], held[name]) for name in held}
    found = validate(job.plan, job.dataset, job.out, folds, job.device, between, _warnings(job, held, started),
                     until=None if end is None else end - job.plan.budget.closing_seconds)
    write_bundle(job.out / "bundle", job.plan, weights, thresholds=found.thresholds, scores=found.scores["headline"],
                 postprocessing=found.postprocessing)
    update_run(job.out, seconds=time.monotonic() - started, finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    write_report(job.out, overlays=found.overlays)
    _say(job.progress, "done")
    if job.stop():  # too late to leave anything undone; but what would come after this command is not to begin
        raise Stopped("asked to stop when all was done", file=job.out, remedy="use the run as it is, it is whole")
    return load(job.out, job.device)


def _warnings(job: _Job, held: Mapping[str, Sequence[str]], started: float) -> list[str]:
    """What makes a finished model a poor one: hardly any step, or time that was not there."""
    found = []
    for fold, ids in held.items():
        rows = [json.loads(line) for line in (job.out / f"fold-{fold}/metrics.jsonl").read_text().splitlines()]
        seen = max((row["step"] for row in rows), default=0) * job.plan.configuration.batch
        cases = len(trainable(list(job.dataset))) - len(ids)
        if seen < cases:
            found.append(f"fold {fold} saw {counted(seen, 'patch')} of {counted(cases, 'case')}: hardly trained; "
                         f"allow {'more --steps' if job.plan.budget.seconds is None else 'a larger --budget'}")
    seconds, spent = job.plan.budget.seconds, time.monotonic() - started
    if seconds is not None and spent > 1.1 * seconds:
        found.append(f"training ended {duration_text(spent)} after the start, beyond the budget of "
                     f"{duration_text(seconds)}: the machine was slower than measured, or the budget too small")
    return found


def _check_stop(job: _Job) -> None:
    """Stop between cases as training stops between steps: weights are stored, the rest is made again."""
    if job.stop():
        raise Stopped("stopped between two cases", file=job.out, remedy="continue with --resume")


def _say(progress: Progress | None, stage: str) -> None:
    if progress:
        progress({"stage": stage})
