"""What a recipe says, carried out by the public functions: one run, or one per network and a table of all."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._atomic import read_json
from ._words import counted
from .errors import DataError, FileError, OptionError, ResumeError
from .image import Task
from .plan.draft import Wishes, refuse_unknown
from .plan.schema import Plan
from .plan.units import parse_duration, parse_memory
from .recipe import Predicting, Recipe, load_recipe

if TYPE_CHECKING:
    from .batch.run import Standing
    from .cases import Dataset
    from .records import Outcome

__all__ = ["run_recipe"]

_AS_BEGUN = "correct the recipe or the options, or replace the run with --overwrite"


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
    from .run_folder import begun, update_run

    started = time.monotonic() if started is None else started
    todo = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if todo.data is None:
        raise OptionError(f"recipe {todo.name} without data", expected="a data set", remedy="give --data DATASET")
    tell = progress or (lambda row: None)
    how: dict[str, Any] = {"device": device, "resume": resume, "overwrite": overwrite, "progress": progress}
    if todo.networks:
        return _compare(todo, how, started, tell)
    asked = _asked(todo)
    if resume:
        _refuse_other(todo.folder, asked)
    with begun(todo.folder, asked, resume=resume):
        plan = _train(todo, how, started, tell)
    if todo.predict and not (resume and _is_predicted(todo)):
        tell({"stage": "predicting"})
        _predict(todo, todo.predict, how, plan.labels.task)
        update_run(todo.folder, predicted=_wished(todo))
    return todo.folder


def _asked(todo: Recipe) -> dict[str, Any]:
    """What the recipe asks of the plan, as ``biosegkit train`` writes its options down."""
    plan = todo.plan.model_dump(mode="json")
    weights = plan["class_weights"]
    return {**plan, "class_weights": ",".join(f"{w:g}" for w in weights) if isinstance(weights, list) else weights,
            "folds": None if todo.plan.folds is None else ",".join(map(str, range(todo.plan.folds))),
            "plan": None, "origin": None if todo.origin is None else str(Path(todo.origin).absolute())}


def _refuse_other(out: Path, asked: Mapping[str, Any]) -> None:
    """Refuse to continue what was begun with other options of the plan (fault P3)."""
    from .run_folder import asked_of

    began = asked_of(out)
    if began is None:  # by an older version
        return
    places = ("plan", "origin", "encoder_weights")  # known by their hashes, which fit compares
    other = [f"{name} {began.get(name)} when the run began, {now} in the recipe" for name, now in asked.items()
             if name not in places and now != began.get(name)]
    if other:
        raise ResumeError("; ".join(other), file=out, expected="the recipe the run began with", remedy=_AS_BEGUN)


def _wished(todo: Recipe) -> str:
    """A hash of what the recipe says of prediction and scores."""
    said = todo.model_dump_json(include={"predict", "evaluate", "where", "describe"})
    return hashlib.sha256(said.encode()).hexdigest()


def _is_predicted(todo: Recipe) -> bool:
    """Whether the predictions that are there, with their scores, are those of this recipe."""
    whole = not todo.evaluate or (todo.predictions / "scores.json").is_file()
    return whole and read_json(todo.folder / "run.json").get("predicted") == _wished(todo)


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
    from .bundle import plan_of
    from .cases import scan
    from .checks import refuse
    from .configure import make_plan
    from .fingerprint import survey
    from .run_folder import is_finished, refuse_no_run, refuse_run
    from .time_needed import reading_within
    from .train import fit

    out = todo.folder
    if how["resume"]:
        refuse_no_run(out)
    elif not how["overwrite"]:
        refuse_run(out)  # before the data are read
    wish = todo.plan
    refuse_unknown(Wishes(wish.preset, wish.config, wish.network, wish.method, wish.loss,
                          class_weights=wish.class_weights))
    like = None if todo.origin is None else plan_of(todo.origin)
    dataset = scan(todo.data or "", where=todo.where, describe=todo.describe)
    tell({"stage": f"{todo.name}: {counted(len(dataset), 'case')}"})
    stored = _stored_plan(todo, out) if how["resume"] else None
    if stored and is_finished(out):  # whether the data are the same is seen without measuring them
        fit(stored, dataset, out, folds=_fold_numbers(todo), steps=todo.plan.steps, init=todo.origin, started=started,
            **how)
        return stored
    limited = stored is None and todo.plan.steps is None
    problems, measured = survey(dataset, progress=reading_within(todo.plan.budget if limited else None, started))
    refuse(problems)
    if measured is None:
        raise DataError("no case to train on", file=todo.data, expected="labelled cases", remedy="correct where")
    plan = stored or make_plan(measured, dataset, **todo.plan.model_dump(), device=how["device"], like=like,
                               elapsed=time.monotonic() - started)
    if todo.predict:
        _refuse_prediction(todo, todo.predict, how, plan)
    fit(plan, dataset, out, folds=_fold_numbers(todo), steps=todo.plan.steps, init=todo.origin, started=started,
        fingerprint=measured, problems=problems, **how)
    return plan


def _fold_numbers(todo: Recipe) -> Sequence[int] | None:
    return None if todo.plan.folds is None else range(todo.plan.folds)


def _refuse_prediction(recipe: Recipe, todo: Predicting, how: Mapping[str, Any], plan: Plan) -> None:
    """What could not be predicted is refused before training: options, thresholds, depth, inputs, a folder in use."""
    from .inputs import find_jobs
    from .methods.protocol import checked_thresholds
    from .predict import checked_states
    from .segmenter import method_of
    from .tidy import tidy_of

    tidy_of(plan.labels, todo.options)
    if plan.race is None:  # else the method is not known yet
        checked_thresholds(method_of(plan).tunables, todo.thresholds)
    if todo.depth is not None:
        _refuse_depth(plan, todo.depth)
    out = recipe.predictions
    if todo.states is not None:
        checked_states(todo.states, out, todo.save_maps)
    find_jobs(_inputs(recipe, todo), out, len(plan.preprocessing.channels))
    if todo.out and out.is_dir() and any(out.iterdir()) and not (how["resume"] or how["overwrite"]):
        raise FileError("an output that exists", file=out, expected="a new or empty folder for predict.out",
                        remedy="choose another, or use --resume or --overwrite")


def _refuse_depth(plan: Plan, depth: int | str) -> None:
    """Refuse a depth that the network will not have; it is asked of one without weights."""
    import torch

    from .loop import make_network
    from .nets.unetplusplus import at_depth
    from .segmenter import method_of

    nothing = torch.device("meta")
    with nothing:
        at_depth(make_network(plan, method_of(plan), nothing), depth)


def _inputs(recipe: Recipe, todo: Predicting) -> Sequence[str] | Dataset:
    """What to segment."""
    from .cases import scan

    return todo.inputs or scan(recipe.data or "", where=todo.where, describe=recipe.describe)


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
                              remedy=_AS_BEGUN)
    return plan


def _teller(progress: Callable[[Mapping[str, Any]], None] | None) -> Callable[[Standing, Outcome | None], None]:
    """Says of each image that it is done, and what is to be known of it, each note once."""
    said: set[str] = set()

    def tell(standing: Standing, outcome: Outcome | None) -> None:
        if progress is None or outcome is None:
            return
        progress({"stage": f"image {standing.ended} of {standing.images}: {outcome.state} {outcome.output}"})
        for note in outcome.notes:
            if note not in said:
                said.add(note)
                progress({"message": note})

    return tell


def _predict(recipe: Recipe, todo: Predicting, how: dict[str, Any], task: Task) -> None:
    """Segment the inputs with the new model and score them where truth is at hand."""
    from ._atomic import write_json
    from .batch.engine import Staff
    from .batch.run import predict_batch
    from .batch.tasks import Opening
    from .evaluate import ScoreOptions, evaluate_folder
    from .records import Wish

    run = recipe.folder
    out = recipe.predictions
    memory = None if todo.memory is None else parse_memory(todo.memory)
    options = tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in todo.options.items())
    depth = None if todo.depth is None else str(todo.depth)
    outcomes = predict_batch(Opening(str(run), how["device"], options, depth), _inputs(recipe, todo), out,
                             Staff(todo.workers, memory=memory) if todo.workers or memory else None,
                             wish=Wish(todo.tta, todo.thresholds, todo.save_maps, recipe.describe.read_options(),
                                       todo.also, todo.tissue), states=todo.states, resume=how["resume"],
                             overwrite=how["overwrite"], progress=_teller(how["progress"]))
    failed = [f"{o.input}: {o.error}" for o in outcomes if o.error]
    if failed:
        raise FileError(f"{len(failed)} of {counted(len(outcomes), 'image')} failed:\n" + "\n".join(failed), file=out,
                        remedy="correct these images and predict again")
    if recipe.evaluate:
        where = recipe.evaluate.where or todo.where
        scores = evaluate_folder(out, recipe.evaluate.truth or recipe.data or "", where=where or None,
                                 describe=recipe.describe, task=task,
                                 options=ScoreOptions(include_background=recipe.evaluate.include_background))
        write_json(out / "scores.json", scores)
