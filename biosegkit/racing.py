"""Run a race of methods within a run folder: train each briefly, score it on held-back cases, decide the plan.

Everything lies in ``race/METHOD`` of the run, so that a race that was stopped goes on where it was: a contender that
has its scores is not trained again, one that was training continues from its checkpoint.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ._atomic import read_json
from .cases import Dataset
from .errors import OptionError, Stopped
from .loop import Progress, train
from .plan.race import TRAINING, after_race
from .plan.schema import Budget, Plan, Race
from .plan.units import duration_text
from .preprocess import load_or_make
from .run_folder import update_run
from .segmenter import method_of
from .validate import validate

__all__ = ["RaceTrack", "as_decided", "run_race"]

#: Held-back cases that score a contender.
SCORED = 6


@dataclass(frozen=True, eq=False)
class RaceTrack:
    """Where and on what methods race: ids of the first fold's training and held-back cases."""

    dataset: Dataset
    out: Path
    ids: tuple[Sequence[str], Sequence[str]]
    device: torch.device
    progress: Progress | None
    stop: Callable[[], bool]


def as_decided(plan: Plan, out: Path) -> Plan:
    """The plan as an earlier call decided it, if this is the plan that its race began with."""
    if plan.race is None or not (out / "plan.json").is_file() or not (out / "run.json").is_file():
        return plan
    stored = Plan.read(out / "plan.json")
    return stored if stored.race is None and read_json(out / "run.json").get("undecided") == plan.hash else plan


def run_race(plan: Plan, track: RaceTrack) -> Plan:
    """Train and score every contender, and write the decided plan into the run folder.

    Parameters
    ----------
    plan : Plan
        With a ``race``; another is returned as it is.
    track : RaceTrack

    Returns
    -------
    Plan
        With the method that did best: the highest mean of the AP at IoU 0.5 and 0.75. A draw goes to the one that
        stands first in the order of preference.

    Raises
    ------
    Stopped
        When asked to stop; the next call goes on.
    OptionError
        If no case is held back.
    """
    if plan.race is None:
        return plan
    if not track.ids[1]:
        raise OptionError("--race without a held-back case", expected="at least two cases", remedy="leave --race out")
    scores = {name: _raced(plan, plan.race, name, track) for name in plan.race.contenders}
    found = after_race(plan, scores)
    # The run knows both plans before one takes the place of the other: stopped in between, it still is the same run.
    update_run(track.out, plan=found.hash, undecided=plan.hash, race=scores)
    found.write(track.out / "plan.json")
    _say(track, f"race: {', '.join(f'{name} {score:.3f}' for name, score in scores.items())}; {found.method} goes on")
    return found


def _raced(plan: Plan, race: Race, name: str, track: RaceTrack) -> float:
    """The score of one contender."""
    folder = track.out / "race" / name
    if not (folder / "scores.json").is_file():
        begun, spent = time.monotonic(), float(read_json(track.out / "run.json").get("spent", 0.0))
        _compete(_alone(plan, race, name), race.seconds, folder, track)
        update_run(track.out, spent=spent + time.monotonic() - begun)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return _score(read_json(folder / "scores.json"))


def _alone(plan: Plan, race: Race, name: str) -> Plan:
    """The plan of a contender: the same network and data, its own method, few steps."""
    training = plan.training.model_copy(update={"steps": race.steps, "steps_per_epoch": race.steps, "folds": 1})
    budget = Budget(step_seconds=plan.budget.step_seconds, closing_seconds=0.0)
    return plan.model_copy(update={"method": name, "method_options": race.contenders[name], "training": training,
                                   "budget": budget, "race": None})


def _compete(plan: Plan, seconds: float | None, folder: Path, track: RaceTrack) -> None:
    """Train and score one contender within its time."""
    def between(text: str) -> None:
        if track.stop():
            raise Stopped("stopped in a race", file=track.out, remedy="continue with --resume")
        _say(track, f"race: {plan.method}, {text}")

    held_ids = _some(track.ids[1], plan.seed)
    # Before the time counts: the samples that the first contender makes are read by the others and by the training.
    samples, held = (load_or_make(track.dataset, list(track.dataset.select(ids)), plan, track.out / "store")
                     for ids in (track.ids[0], held_ids))
    between("training" if seconds is None else f"training for {duration_text(TRAINING * seconds)}")
    begun = time.monotonic()
    deadline = None if seconds is None else begun + TRAINING * seconds
    weights = train(plan, method_of(plan), samples, held, folder, device=track.device, deadline=deadline,
                    progress=track.progress, stop=track.stop)
    validate(plan, track.dataset, folder, {"0": (weights, held_ids)}, track.device, between,
             until=None if seconds is None else begun + seconds)


def _some(ids: Sequence[str], seed: int) -> list[str]:
    """The same few held-back cases for every contender."""
    order = np.random.default_rng([seed, 19]).permutation(len(ids))
    return [ids[i] for i in order[:SCORED]]


def _score(record: Mapping[str, Any]) -> float:
    """Mean AP at IoU 0.5 and 0.75, as of the ceilings; 0 where none is defined."""
    found = [record["pooled"].get(f"ap@{limit:.2f}") for limit in (0.5, 0.75)]
    defined = [float(v) for v in found if v is not None and np.isfinite(v)]
    return float(np.mean(defined)) if defined else 0.0


def _say(track: RaceTrack, stage: str) -> None:
    if track.progress:
        track.progress({"stage": stage})
