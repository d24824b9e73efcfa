"""make_plan: rules, then a short speed and memory probe, then the number of steps that fits the budget."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from .cases import Dataset
from .device import describe, pick, usable_cores
from .errors import OptionError
from .fingerprint import Fingerprint
from .fingerprint_schema import CaseRecord
from .loop import CHECKED
from .oracles import evidence_of, oracle_seconds
from .plan.augmentation import with_strength
from .plan.budget import (
    Allowance,
    Probe,
    budget_for,
    chosen,
    members_for,
    steps_between_validations,
    steps_for,
    wanted_steps,
    widths_of,
    with_workers,
)
from .plan.draft import Wishes, draft, with_width
from .plan.fine_tuning import draft_like
from .plan.networks import ATTENTION_SHOWN, NETWORKS
from .plan.objective import ClassWeights
from .plan.race import TRAINING as RACE_TRAINING
from .plan.race import race_of
from .plan.scale import method_lengths
from .plan.schema import Budget, Configuration, Decision, LabelTable, MethodEvidence, Plan, Training
from .plan.units import duration_text, memory_text, parse_memory
from .pretrained import begin, digest_of
from .probing import CLOSING, batch_seconds, default_memory, preparing_seconds, probed_widths, rehearse
from .segmenter import method_of
from .splits import shares
from .time_needed import LEAST_STEPS, seconds_of, too_small
from .tune import tuning_cases

__all__ = ["DEFAULT_BUDGET", "label_table", "make_plan"]

DEFAULT_BUDGET = "15m"
#: Share of a budget that validation may take; where all held-back cases need more, some of them are scored.
VALIDATING = 0.2
#: Seconds for beginning the validation of a fold: the last state is written, the network built and used a first time.
BEGINNING = 2.0


def make_plan(fingerprint: Fingerprint, dataset: Dataset, *, budget: str | float | None = None,
              memory: str | int | None = None, preset: str = "default", config: str | None = None,
              network: str | None = None, method: str | None = None, loss: str | None = None, seed: int = 0,
              folds: int | None = None, steps: int | None = None, device: str = "auto", elapsed: float = 0.0,
              class_weights: ClassWeights = None, encoder: str | None = None,
              encoder_weights: str | None = None, race: bool = False, like: Plan | None = None) -> Plan:
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
    race : bool
        Let :func:`biosegkit.fit` train the two best methods briefly and keep the better one, if the budget has enough.
    like : Plan, optional
        Of the model whose weights training begins with: network, patch, spacing, normalisation, method are its own.

    Returns
    -------
    Plan

    Raises
    ------
    PlanError, OptionError
        For options that do not exist or do not fit the data.
    """
    here = pick(device)
    assumed = DEFAULT_BUDGET if steps is None and preset == "default" else None
    seconds = seconds_of(assumed if budget is None else budget)
    asked = parse_memory(memory) if memory is not None else None
    limit = default_memory(here) if asked is None else asked
    wishes = Wishes(preset, config, network, method, loss, seed, folds or 1, asked, here.type == "cuda",
                    class_weights, encoder, encoder_weights, seconds=seconds)
    started = time.monotonic()
    labels = label_table(fingerprint, dataset)
    kind = (fingerprint, labels, _name(dataset))
    plan = draft(*kind, wishes) if like is None else draft_like(*kind, wishes, like)
    if encoder_weights and like is None:  # after the draft, which refuses what has no encoder before it is fetched
        wishes = replace(wishes, encoder_digest=digest_of(plan.configuration.architecture.encoder, encoder_weights))
        plan = draft(*kind, wishes)
        begin(plan)
    if labels.task == "instance" and preset == "default" and like is None:
        evidence = _evidence(plan, dataset, fingerprint, method, None if steps is not None else seconds)
        plan = draft(*kind, replace(wishes, evidence=evidence))
    if race:
        plan = _entered(plan, fingerprint, "--from" if like else "--method" if method else None, seconds, steps)
    rest = None if seconds is None else seconds - _racing(plan)
    if folds is None and rest is not None and steps is None:
        plan = _with_members(plan, fingerprint, dataset, rest)
    kept = _Asked(seconds, rest, limit, steps, started - elapsed, like is not None)
    return _measured(plan, dataset, fingerprint, here, kept)


@dataclass(frozen=True)
class _Asked:
    """Seconds of the budget, and without a race; bytes; steps; when the budget began; whether the width is given."""

    seconds: float | None
    rest: float | None
    memory: int
    steps: int | None
    began: float
    fixed: bool = False


def _measured(plan: Plan, dataset: Dataset, fingerprint: Fingerprint, device: torch.device, asked: _Asked) -> Plan:
    """Width and steps that fit what was asked for, from what this machine can do."""
    seconds, count = asked.seconds, plan.training.folds
    per_fold = None if asked.rest is None else asked.rest / count
    closing, preparing = CLOSING, 0.0
    if seconds is not None:
        closing, preparing = rehearse(plan), preparing_seconds(plan, dataset, fingerprint)
        known = time.monotonic() - asked.began + preparing + closing
        if known > 0.9 * seconds:  # measuring the network would be in vain
            raise too_small(seconds, 2 * known, f"start, reading and report take {duration_text(known)} by themselves")
    plan, probes = probed_widths(plan, device, per_fold, asked.memory, asked.fixed)
    spent = (time.monotonic() - asked.began + preparing) / count
    limits = _Limits(seconds, per_fold, asked.memory, asked.steps, spent, closing / count, asked.fixed)
    return _settled(plan, probes, device, limits, fingerprint)


def _entered(plan: Plan, fingerprint: Fingerprint, decided: str | None, seconds: float | None,
             steps: int | None) -> Plan:
    """The plan with a race, or with the reason why there is none; ``decided`` is the option that names the method.

    Raises
    ------
    OptionError
        If there is no choice of a method that a race could make.
    """
    if plan.labels.task != "instance" or plan.preset != "default" or decided:
        why = decided or (f"--preset {plan.preset}" if plan.preset != "default" else "classes")
        raise OptionError(f"--race with {why}", expected="objects, the default preset, no --method and no --from: a "
                          "race chooses the method", remedy="leave --race out, or the other option")
    c = plan.configuration
    options = {row.method: {"batch_dice": c.batch_dice, **method_lengths(row.method, fingerprint.objects, c.spacing)}
               for row in plan.method_evidence}
    found, decision = race_of(plan.method_evidence, options, None if steps is not None else seconds, steps)
    return plan.model_copy(update={"race": found, "decisions": (*plan.decisions, decision)})


def _racing(plan: Plan) -> float:
    """Seconds of the race, all contenders together."""
    return 0.0 if plan.race is None else len(plan.race.contenders) * (plan.race.seconds or 0.0)


def _evidence(plan: Plan, dataset: Dataset, fingerprint: Fingerprint, method: str | None,
              seconds: float | None) -> tuple[MethodEvidence, ...]:
    """Ceilings of the shortlist, or of the one method asked for, within a small share of the budget."""
    return evidence_of(plan, dataset, fingerprint, methods=None if method is None else [method],
                       seconds=oracle_seconds(seconds))


def _with_members(plan: Plan, fingerprint: Fingerprint, dataset: Dataset, seconds: float) -> Plan:
    """Several networks on different shares of the cases where the time is long for so few cases; the default only."""
    if plan.preset != "default" or len({c.group for c in fingerprint.cases}) < 10:
        return plan
    c, augmentation = plan.configuration, plan.training.augmentation
    seen = wanted_steps(0.85 * seconds, c.ndim, c.voxels) * c.voxels
    orientations = 2 ** len(augmentation.mirror_axes) * (2 if augmentation.transpose_axes else 1)
    visits = seen / sum(_voxels(case, c) for case in fingerprint.cases) / orientations
    wanted = members_for(visits, seconds, augmentation.elastic > 0)
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


@dataclass(frozen=True)
class _Limits:
    """What the plan has to keep; ``spent`` and ``closing`` are the seconds before and after, for one network."""

    seconds: float | None
    per_fold: float | None
    memory: int
    steps: int | None
    spent: float
    closing: float
    fixed: bool = False


def _settled(plan: Plan, probes: Sequence[Probe], device: torch.device, limits: _Limits,
             fingerprint: Fingerprint) -> Plan:
    """Width and steps from the probes."""
    best, decisions = probes[-1], list(plan.decisions)
    configuration, training = plan.configuration, plan.training
    searched = plan.preset == "default" and device.type != "cuda" and not limits.fixed
    if limits.per_fold is not None and searched:
        best = chosen(probes, 0.85 * limits.per_fold, limits.memory, configuration.ndim, configuration.voxels)
        configuration = with_width(configuration, best.width)
        decisions.append(_width_decision(best, probes, limits, configuration))
    if device.type == "cuda":
        training, best, told = with_workers(training, usable_cores(), best, batch_seconds(plan), limits.seconds)
        decisions.append(told)
    tuned, tuning = _tuning(plan, fingerprint, limits.per_fold)
    training = training.model_copy(update={"tune_cases": tuned})
    validation = tuning + _validation_seconds(fingerprint, configuration, best, training)
    if limits.per_fold is not None:
        validation = min(validation, VALIDATING * limits.per_fold)
    steps, reason = _steps(training.steps, limits, validation, best.step_seconds, describe(device))
    decisions.append(Decision(name="steps", value=str(steps), reason=reason))
    every = training.steps_per_epoch
    if plan.preset == "default":
        every = steps_between_validations(steps, best, CHECKED)
    training = training.model_copy(update={"steps": steps, "steps_per_epoch": every})
    if plan.preset == "default":
        training, decision = with_strength(training, steps * configuration.batch / len(fingerprint.cases))
        decisions.append(decision)
    race = plan.race
    if race is not None and race.seconds is not None:
        race = race.model_copy(update={"steps": steps_for(RACE_TRAINING * race.seconds, best.step_seconds)})
    measured = Budget(seconds=limits.seconds, memory=limits.memory, step_seconds=best.step_seconds,
                      validation_seconds=validation, closing_seconds=limits.closing * plan.training.folds,
                      device=device.type)
    return plan.model_copy(update={"configuration": configuration, "training": training, "budget": measured,
                                   "race": race, "decisions": tuple(decisions)})


def _width_decision(best: Probe, probes: Sequence[Probe], limits: _Limits, configuration: Configuration) -> Decision:
    """The width that was taken, and whether it leaves the steps that are wanted."""
    if not widths_of(configuration.architecture.name):
        return Decision(name="width", value="its own", reason="this network has one width")
    seconds = 0.85 * (limits.per_fold or 0.0)
    wanted, widths = wanted_steps(seconds, configuration.ndim, configuration.voxels), sorted(p.width for p in probes)
    fits = best.step_seconds <= seconds / wanted and best.peak <= limits.memory
    rule = (f"the widest of the probed {widths} that leaves about" if fits else
            f"the narrowest of the probed {widths}, as none leaves")
    return Decision(name="width", value=str(best.width), reason=f"{rule} {wanted} steps within "
                    f"{memory_text(limits.memory)}")


def _steps(planned: int, limits: _Limits, validation: float, step_seconds: float, where: str) -> tuple[int, str]:
    """How many steps, and why.

    Raises
    ------
    OptionError
        If hardly a step fits: the budget is too small for the data or the machine.
    """
    if limits.steps is not None:
        return limits.steps, "asked for; no clock"
    if limits.per_fold is None or limits.seconds is None:
        return planned, "nnU-Net's 1000 epochs of 250 steps"
    allowance = Allowance(limits.per_fold, limits.spent, validation, limits.closing)
    if allowance.left < LEAST_STEPS * step_seconds:
        around = limits.spent + validation + limits.closing
        raise too_small(limits.seconds, budget_for(allowance, step_seconds) * limits.seconds / limits.per_fold,
                         f"start, reading, measuring, validation and report take {duration_text(around)}, and a step "
                         f"of training {duration_text(step_seconds)} on {where}")
    steps = steps_for(allowance.training, step_seconds)
    return steps, (f"{duration_text(allowance.training)} of training at {step_seconds * 1e3:.0f} ms per step on "
                   f"{where}; {duration_text(validation)} are kept for validation")


def _tuning(plan: Plan, fingerprint: Fingerprint, per_fold: float | None) -> tuple[int, float]:
    """How many held-back cases choose the thresholds, and how long that takes: at most a twentieth of the budget."""
    voxels = float(np.median([math.prod(c.shape) for c in fingerprint.cases]))
    held = round(plan.training.validation_fraction * len(fingerprint.cases))
    return tuning_cases(method_of(plan), voxels, held, None if per_fold is None else 0.05 * per_fold)


def _validation_seconds(fingerprint: Fingerprint, c: Configuration, best: Probe, training: Training) -> float:
    """Time for predicting and scoring the held-back cases, those that choose thresholds twice."""
    working = (_working(case, c) for case in fingerprint.cases)
    tiles = [planes * math.prod(max(1, math.ceil((n - p) / s) + 1)
                                for n, p, s in zip(shape, c.patch, c.tile_step, strict=True))
             for planes, shape in working]
    count = max(1, round(training.validation_fraction * len(tiles))) + training.tune_cases
    if NETWORKS[c.architecture.name].attention:
        count += min(count, ATTENTION_SHOWN)
    return BEGINNING + count * (float(np.mean(tiles)) * best.patch_seconds * 1.2 + 0.1)


def label_table(fingerprint: Fingerprint, dataset: Dataset) -> LabelTable:
    """Names and values of the classes, regions and the ignore label."""
    about = dataset.about
    mapping = dict(about.mapping)
    if fingerprint.task == "instance":
        kinds = fingerprint.object_values
        return LabelTable(task="instance", names=("background", "object"), values=(0, 1), mapping=mapping,
                          object_names=tuple(f"class {v}" for v in kinds), object_values=kinds,
                          ignore_value=fingerprint.ignore_value)
    names = ("background", *(c.name for c in fingerprint.classes))
    values = (0, *(c.value for c in fingerprint.classes))
    return LabelTable(task="semantic", names=names, values=values, regions=_regions(dataset, values),
                      region_classes=tuple(values.index(v) for v in about.regions_class_order if v in values),
                      ignore_value=fingerprint.ignore_value, mapping=mapping)


def _regions(dataset: Dataset, values: tuple[int, ...]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Regions of the description as indices of classes."""
    position = {v: i for i, v in enumerate(values)}
    return tuple((name, tuple(position[v] for v in members if v in position))
                 for name, members in dataset.about.regions)


def _name(dataset: Dataset) -> str:
    source = Path(str(dataset.source).split("::")[0] or "dataset")
    return source.parent.name if source.suffix == ".csv" else source.name
