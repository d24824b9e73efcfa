"""From options to checked cases and a plan: what several verbs of the command line begin with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ._options import Computing, Describing, Planning, Training
from ._words import counted
from .errors import OptionError, PlanError

if TYPE_CHECKING:
    from .cases import Dataset
    from .errors import Problem
    from .fingerprint import Fingerprint
    from .plan.schema import Plan

__all__ = ["announce", "as_begun", "asked", "cases_of", "folds_of", "in_time", "origin_of", "planned", "refuse_options",
           "stored_plan", "surveyed"]


def asked(planning: Planning, training: Training) -> dict[str, Any]:
    """All options that make a run what it is, as plain data."""
    paths = {name: None if path is None else str(path.absolute())
             for name, path in (("plan", training.plan), ("origin", training.origin))}
    return {**planning.given(), **paths, "folds": training.folds, "steps": training.steps}


def as_begun(output: Path, planning: Planning, training: Training) -> tuple[Planning, Training]:
    """The options to continue a run with: those it was begun with, which may be given again, others not.

    Raises
    ------
    OptionError
        Naming the options that differ.
    """
    from .run_folder import asked_of

    began = asked_of(output)
    if began is None:
        return planning, training
    given = {name: value for name, value in asked(planning, training).items() if value is not None}
    named = {*planning.changed(), *(name for name in ("folds", "steps") if name in given)}
    other = sorted(name for name in named if name != "encoder_weights" and given[name] != began.get(name))
    if other:
        raise OptionError("; ".join(f"--{name.replace('_', '-')} {given[name]}" for name in other),
                          expected="; ".join(f"{name} {began.get(name)}" for name in other) + ", as the run began",
                          remedy="leave the options out, or start anew in another folder, with --from this run")
    if (output / "plan.json").is_file():
        return Planning(), replace(training, folds=began.get("folds"))
    path = {name: Path(began[name]) if began.get(name) else None for name in ("plan", "origin")}
    return (Planning(**{f.name: began[f.name] for f in fields(Planning)}),
            replace(training, folds=began["folds"], steps=began["steps"], plan=path["plan"],
                    origin=training.origin or path["origin"]))


def cases_of(source: str, data: Describing, *, partial: bool = False) -> Dataset:
    """The cases of a data set, with what was noticed on the way."""
    from ._console import out
    from .cases import scan

    found = scan(source, where=data.conditions(), describe=data.description(), partial=partial)
    for note in found.notes:
        out(stderr=True).print(note, style="yellow", markup=False)
    return found


def in_time(planning: Planning, started: float) -> Callable[[int, int], None]:
    """What stops a survey that leaves no time to train."""
    from .configure import DEFAULT_BUDGET
    from .time_needed import reading_within

    return reading_within(planning.budget or (DEFAULT_BUDGET if planning.preset == "default" else None), started)


def announce(stage: str) -> None:
    """Say what begins and may take long, so that a command that reads much is not silent."""
    from ._console import out

    out(stderr=True).print(stage, markup=False)


def surveyed(found: Dataset, progress: Callable[[int, int], None] | None = None) -> tuple[
        Sequence[Problem], Fingerprint]:
    """Check and measure; a data set with errors is refused with all of them in a table."""
    from ._console import out, problem_table
    from .fingerprint import survey

    announce(f"reading {counted(len(found), 'case')}")
    problems, measured = survey(found, progress=progress)
    if problems:
        problem_table(problems)
    if measured is None:
        out(stderr=True).print("[bold red]refused[/]: correct the errors above, or leave these cases out with --where")
        raise typer.Exit(1)
    return problems, measured


def folds_of(found: Dataset, training: Training) -> list[int] | str | None:
    """The folds asked for; a number there is none of is refused before the data are read."""
    from .splits import chosen_folds

    folds = training.fold_list()
    if folds is not None:
        chosen_folds(found, folds)
    return folds


def origin_of(training: Training) -> Plan | None:
    """The plan of the model to begin with, so that one that is not there is refused before the data are read."""
    from .bundle import plan_of

    return None if training.origin is None else plan_of(training.origin)


def refuse_options(planning: Planning, computing: Computing) -> None:
    """Refuse what is wrong whatever the data are, before they are read."""
    from .device import pick
    from .plan.draft import Wishes, refuse_unknown
    from .plan.units import parse_duration, parse_memory

    if planning.budget is not None:
        parse_duration(planning.budget)
    if planning.memory is not None:
        parse_memory(planning.memory)
    with _as_usage():
        refuse_unknown(Wishes(planning.preset, planning.config, planning.network, planning.method, planning.loss,
                              class_weights=planning.class_weights))
    pick(computing.device)


@contextmanager
def _as_usage() -> Iterator[None]:
    """A plan that cannot be made of the options is an error of usage."""
    try:
        yield
    except PlanError as error:
        raise OptionError(error.found, file=error.file, expected=error.expected, remedy=error.remedy) from error


def planned(found: Dataset, measured: Fingerprint, planning: Planning, computing: Computing, training: Training,
            started: float, like: Plan | None = None) -> Plan:
    """Decide; ``like`` is the plan of a model to begin with."""
    from .configure import make_plan
    from .splits import chosen_folds

    folds = training.fold_list()
    count = None if folds is None else len(chosen_folds(found, folds))
    announce("planning")
    with _as_usage():
        made = make_plan(measured, found, **planning.given(), folds=count, steps=training.steps, like=like,
                         device=computing.device, elapsed=time.monotonic() - started)
    if planning.race and made.race is None:
        announce("; ".join(f"no race: {d.reason}" for d in made.decisions if d.name == "race"))
    return made


def stored_plan(output: Path, planning: Planning, training: Training) -> Plan | None:
    """The plan to train if there is one already: the run's own when it is resumed, or the file given."""
    from .plan.schema import Plan

    stored = output / "plan.json"
    resumed = training.resume and stored.is_file()
    path = stored if resumed else training.plan
    if path is None:
        return None
    if planning.changed():
        options = ", ".join(f"--{name}" for name in planning.changed())
        raise OptionError(f"{options} together with {'--resume' if resumed else '--plan'}",
                          expected="a plan, or options to make one",
                          remedy="leave the options out: a run is continued with its own plan" if resumed
                          else f"edit {path}, or leave the options out")
    return Plan.read(path)
