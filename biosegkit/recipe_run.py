"""What a recipe says, carried out by the public functions: one run, or one per network and a table of all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .errors import DataError, FileError, OptionError, ResumeError
from .image import Task
from .plan.schema import Plan
from .plan.units import parse_duration, parse_memory
from .recipe import Predicting, Recipe, load_recipe

__all__ = ["run_recipe"]


def run_recipe(recipe: Recipe | str | Path, *, device: str = "auto", resume: bool = False, overwrite: bool = False,
               started: float | None = None, progress: Callable[[Mapping[str, Any]], None] | None = None) -> Path:
    """Carry out a recipe: scan, check, measure, plan, fit; then predict and evaluate if it says so.

    A recipe with ``networks`` does this for each of them, in ``out``/name, and writes ``comparison.json``, ``.csv`` and
    ``.html`` into ``out``.

    Parameters
    ----------
    recipe : Recipe, or name or path of one
        What to do.
    device : str
        Where to compute.
    resume, overwrite : bool
        Continue what was begun, what is finished standing as it is; or replace a run that exists.
    started : float, optional
        ``time.monotonic()`` from which the budget counts; now by default. For ``networks``, the first one's.
    progress : callable, optional
        Called with rows of ``metrics.jsonl`` and with ``{"stage": text}``.

    Returns
    -------
    Path
        The run folder. Predictions and their scores are in ``predictions/`` of it unless the recipe says otherwise.

    Raises
    ------
    OptionError
        If no data set is named, or the model would not have an option of ``predict``.
    FileError
        If a run exists, without ``resume`` or ``overwrite``.
    ResumeError
        If a run to continue was begun with another network, budget, data or version, or was never begun.
    """
    started = time.monotonic() if started is None else started
    todo = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if todo.data is None:
        raise OptionError(f"recipe {todo.name} without data", expected="a data set", remedy="give --data DATASET")
    tell = progress or (lambda row: None)
    how: dict[str, Any] = {"device": device, "resume": resume, "overwrite": overwrite, "progress": progress}
    if todo.networks:
        return _compare(todo, how, started, tell)
    plan = _train(todo, how, started, tell)
    if todo.predict and not (resume and (todo.predictions / "scores.json").is_file()):
        tell({"stage": "predicting"})
        _predict(todo, todo.predict, how, plan.labels.task)
    return todo.folder


def _compare(todo: Recipe, how: dict[str, Any], started: float, tell: Callable[[Mapping[str, Any]], None]) -> Path:
    """One run per network, then the table of all."""
    from .comparison import compare_runs, write_comparison
    from .run_folder import refuse_no_run

    runs = {name: todo.alone(name) for name in todo.networks}
    there = [run.out for run in runs.values() if run.folder.exists() and any(run.folder.iterdir())]
    if there and not (how["resume"] or how["overwrite"]):
        raise FileError("runs that exist", file=there[0], expected="a new folder",
                        remedy="continue them with --resume or replace them with --overwrite")
    if how["resume"] and not there:
        refuse_no_run(todo.folder)
    for count, (name, run) in enumerate(runs.items(), 1):
        tell({"stage": f"network {count} of {len(runs)}: {name}"})
        begun = how["resume"] and run.out in there
        run_recipe(run, started=started if count == 1 else None, **{**how, "resume": begun})
    scores = "predictions/scores.json" if todo.predict and todo.evaluate else "scores.json"
    write_comparison(compare_runs({name: run.folder for name, run in runs.items()}, scores), todo.folder, todo.name)
    return todo.folder


def _train(todo: Recipe, how: dict[str, Any], started: float, tell: Callable[[Mapping[str, Any]], None]) -> Plan:
    """Plan and fit, or continue; a run that is finished is only checked."""
    from .cases import scan
    from .checks import refuse
    from .configure import make_plan
    from .fingerprint import survey
    from .run_folder import is_finished, open_run, refuse_no_run, refuse_run
    from .tidy import tidy_of
    from .time_needed import reading_within
    from .train import fit

    out = todo.folder
    if how["resume"]:
        refuse_no_run(out)
    elif not how["overwrite"]:
        refuse_run(out)  # before the data are read
    dataset = scan(todo.data or "", where=todo.where, describe=todo.describe)
    tell({"stage": f"{todo.name}: {len(dataset)} cases"})
    stored = _stored_plan(todo, out) if how["resume"] else None
    if stored and is_finished(out):
        open_run(out, stored, dataset, resume=True, overwrite=False)
        tell({"stage": f"{out} is finished"})
        return stored
    limited = stored is None and todo.plan.steps is None
    problems, measured = survey(dataset, progress=reading_within(todo.plan.budget if limited else None, started))
    refuse(problems)
    if measured is None:
        raise DataError("no case to train on", file=todo.data, expected="labelled cases", remedy="correct where")
    folds = todo.plan.folds
    plan = stored or make_plan(measured, dataset, **todo.plan.model_dump(), device=how["device"],
                               elapsed=time.monotonic() - started)
    tidy_of(plan.labels, todo.predict.options if todo.predict else {})  # a wrong option is refused before training
    fit(plan, dataset, out, folds=None if folds is None else range(folds), steps=todo.plan.steps, started=started,
        fingerprint=measured, problems=problems, **how)
    return plan


def _stored_plan(todo: Recipe, out: Path) -> Plan | None:
    """The plan of a run that was begun, if the recipe still asks for it."""
    if not (out / "plan.json").is_file() or not (out / "run.json").is_file():
        return None
    plan, asked = Plan.read(out / "plan.json"), todo.plan
    here: dict[str, tuple[Any, Any]] = {
        "network": (plan.configuration.architecture.name, asked.network), "method": (plan.method, asked.method),
        "steps": (plan.training.steps, asked.steps), "seed": (plan.seed, asked.seed),
        "budget": (plan.budget.seconds, None if asked.budget is None else parse_duration(asked.budget)),
    }
    here = here if asked.steps is None else {k: v for k, v in here.items() if k != "budget"}
    for name, (was, now) in here.items():
        if now is not None and was != now:
            raise ResumeError(f"{name} {was} when the run began, {now} in the recipe", file=out,
                              expected="the recipe the run began with",
                              remedy="correct the recipe or the options, or replace the run with --overwrite")
    return plan


def _predict(recipe: Recipe, todo: Predicting, how: dict[str, Any], task: Task) -> None:
    """Segment the inputs with the new model and score them where truth is at hand."""
    from ._atomic import write_json
    from .batch.engine import Staff
    from .batch.run import predict_batch
    from .batch.tasks import Opening
    from .cases import scan
    from .evaluate import ScoreOptions, evaluate_folder
    from .records import Wish

    run = recipe.folder
    out = recipe.predictions
    inputs = todo.inputs or scan(recipe.data or "", where=todo.where, describe=recipe.describe)
    memory = None if todo.memory is None else parse_memory(todo.memory)
    options = tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in todo.options.items())
    outcomes = predict_batch(Opening(str(run), how["device"], options), inputs, out,
                             Staff(todo.workers, memory=memory) if todo.workers or memory else None,
                             wish=Wish(todo.tta, todo.thresholds, todo.save_maps, recipe.describe.read_options(),
                                       todo.also, todo.tissue), resume=how["resume"])
    failed = [f"{o.input}: {o.error}" for o in outcomes if o.error]
    if failed:
        raise FileError(f"{len(failed)} of {len(outcomes)} images failed:\n" + "\n".join(failed), file=out,
                        remedy="correct these images and predict again")
    if recipe.evaluate:
        where = recipe.evaluate.where or todo.where
        scores = evaluate_folder(out, recipe.evaluate.truth or recipe.data or "", where=where or None,
                                 describe=recipe.describe, task=task,
                                 options=ScoreOptions(include_background=recipe.evaluate.include_background))
        write_json(out / "scores.json", scores)
