"""The command line: one verb per arrow of the flow, each a call of the public functions and nothing more.

Heavy packages are imported inside the verbs, so that ``--help`` is instant. Exit codes: 0 all done; 1 refused, or some
cases failed; 2 usage; 130 and 143 stopped by a signal.
"""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from ._help import Verb
from ._options import (
    Choosing,
    Common,
    Computing,
    Describing,
    Geometry,
    Grouping,
    Meaning,
    Planning,
    Replacing,
    Scoring,
    Training,
    Writing,
    flattened,
)
from ._planned import (
    announce,
    as_begun,
    asked,
    cases_of,
    folds_of,
    in_time,
    origin_of,
    planned,
    refuse_options,
    stored_plan,
    surveyed,
)
from ._predict_options import Batching, Predicting
from ._words import counted
from .errors import BiosegError, FileError, OptionError, Stopped
from .signals import hear_in_own_session

__all__ = ["app", "main"]

app = typer.Typer(name="biosegkit", no_args_is_help=True, add_completion=True, rich_markup_mode=None,
                  pretty_exceptions_enable=False,
                  context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
                  epilog="For research. Not a medical device.")

#: Told to the verbs when this process is the command and nothing else.
_OWN_PROCESS = "biosegkit"

Source = Annotated[str, typer.Argument(
    metavar="DATASET", help="A folder with images/ and labels/, an nnU-Net folder, a CSV, or 'IMAGES::LABELS' globs.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="A run, a bundle (folder or zip), or a segmenter without "
                                      "training such as otsu; biosegkit models lists all.")]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"biosegkit {version('biosegkit')}")
        raise typer.Exit


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True,
                                                help="Show the version and exit.")] = False) -> None:
    """Segment biomedical images, 2D and 3D: point it at images and labels, it configures, trains and predicts."""


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function: its option groups are laid out, its errors become messages and exit codes."""
    flat = flattened(function)

    def guarded(**values: Any) -> None:
        from ._console import out, show_error

        try:
            flat(**values)
        except BiosegError as error:
            if values.get("verbose"):
                out(stderr=True).print_exception()
            show_error(error)
            if isinstance(error, Stopped):
                raise typer.Exit(128 + error.signal) from error
            raise typer.Exit(2 if isinstance(error, OptionError) else 1) from error
        except KeyboardInterrupt as error:
            more = ": what was begun goes on with --resume" if "resume" in values else ""
            out(stderr=True).print(f"stopped{more}")
            raise typer.Exit(130) from error

    guarded.__name__, guarded.__doc__ = flat.__name__, flat.__doc__
    guarded.__signature__, guarded.__annotations__ = flat.__signature__, flat.__annotations__  # type: ignore[attr-defined]
    app.command(cls=Verb, short_help=re.split("[;:.]", function.__doc__ or "")[0] + ".",
                no_args_is_help=function.__name__ in ("predict", "evaluate"))(guarded)
    return function


@verb
def doctor(dataset: Source, data: Describing, common: Common) -> None:
    """List every problem of a data set at once, each with file, found, expected and remedy."""
    from ._console import out, problem_table, score_table
    from .fingerprint import survey
    from .summaries import data_rows, data_tables

    found = cases_of(dataset, data, partial=True)
    announce(f"reading {counted(len(found), 'case')}")
    problems, measured = survey(found)
    if measured:
        score_table("", ("", ""), data_rows(measured), numbers_from=9)
        for block in data_tables(measured):
            score_table(block["title"], block["head"], block["rows"])
    if problems:
        problem_table(problems, whole=common.verbose)
    errors = sum(p.severity == "error" for p in problems)
    out().print(f"{counted(len(found), 'case')} in {found.source}: {counted(errors, 'error')}, "
                f"{counted(len(problems) - errors, 'warning')}")
    if errors:
        raise typer.Exit(1)


@verb
def plan(dataset: Source, data: Describing, planning: Planning, computing: Computing, writing: Writing, common: Common,
         output: Annotated[Path | None, typer.Option(
             "-o", "--output", metavar="plan.json", help="Where to write the plan.")] = None) -> None:
    """Measure a data set and decide everything about the model; print each decision with its reason."""
    from ._console import describe_plan, out

    _refuse_existing(output, writing.overwrite)
    refuse_options(planning, computing)
    found = cases_of(dataset, data)
    _, measured = surveyed(found)
    made = planned(found, measured, planning, computing, Training(), time.monotonic())
    describe_plan(made)
    if output:
        made.write(output)
        out().print(f"plan written to {output}")


@verb
def train(context: typer.Context, dataset: Source,
          output: Annotated[Path, typer.Option("-o", "--output", metavar="RUN", help="Folder of the run.")],
          data: Describing, planning: Planning, training: Training, computing: Computing, writing: Writing,
          common: Common) -> None:
    """Configure, train, tune and evaluate a model within the time given; the run folder is the model."""
    from ._console import TrainingProgress, describe_plan, out, show_scores
    from .run_folder import begun, is_finished, refuse_no_run

    started = _started(context)
    if training.resume:
        refuse_no_run(output)
        planning, training = as_begun(output, planning, training)
    else:
        _refuse_existing(output, writing.overwrite, "continue it with --resume, ")
    refuse_options(planning, computing)
    with begun(output, asked(planning, training), resume=training.resume):
        like = origin_of(training)
        found = cases_of(dataset, data)
        folds = folds_of(found, training)
        stored = stored_plan(output, planning, training)
        if stored and training.resume and is_finished(output):  # whether the data are the same is seen without reading
            made, seen = stored, dict[str, Any]()
        else:
            problems, measured = surveyed(found, None if stored or training.steps else in_time(planning, started))
            made = stored or planned(found, measured, planning, computing, training, started, like)
            seen = {"fingerprint": measured, "problems": problems}
        if common.verbose:
            describe_plan(made)
        from .train import fit

        with TrainingProgress() as progress:
            fit(made, found, output, folds=folds, steps=training.steps, init=training.origin,
                resume=training.resume, overwrite=writing.overwrite, device=computing.device, started=started,
                progress=progress, **seen)
    show_scores(output / "scores.json")
    out().print(f"model   {output}\nreport  {output / 'report.html'}")


@verb
def predict(model: Model,
            inputs: Annotated[list[str], typer.Argument(
                metavar="INPUT...", help="Images, folders, globs, or URLs of OME-Zarr.")],
            output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="Folder of the results.")],
            predicting: Predicting, batching: Batching, choosing: Choosing, geometry: Geometry, computing: Computing,
            writing: Writing, common: Common) -> None:
    """Segment images with a model; one result per image, in the image's own space and the labels' own values."""
    if not predicting.resume:
        _refuse_existing(output, writing.overwrite, "continue with --resume, ")
    batching.prepare(inputs)
    from ._console import BatchProgress, out
    from .batch.run import predict_batch
    from .cases import scan

    if predicting.resume and (not output.is_dir() or not any(output.iterdir())):
        out(stderr=True).print(f"nothing to continue in {output}: it begins with the first image", style="yellow",
                               markup=False)
    where = choosing.conditions()
    wanted = [scan(source, where=where) for source in inputs] if where else list(inputs)
    wish = predicting.wish(geometry.description().read_options(), batching.tissue)
    with BatchProgress() as progress:
        outcomes = predict_batch(predicting.opening(model, computing.device), wanted, output, batching.staff(),
                                 wish=wish, states=predicting.states, resume=predicting.resume,
                                 overwrite=writing.overwrite, progress=progress)
    failed = [o for o in outcomes if o.error]
    out().print(f"{len(outcomes) - len(failed)} of {counted(len(outcomes), 'image')} done, results in {output}")
    if failed:
        out().print(f"failures in {output / 'failures.csv'}", soft_wrap=True, markup=False)
    if (output / "report.html").is_file():
        out().print(f"all on one page in {output / 'report.html'}", soft_wrap=True, markup=False)
    if failed:
        raise typer.Exit(1)


@verb
def evaluate(prediction: Annotated[Path, typer.Argument(metavar="PRED", help="A label file, or a folder of them.")],
             truth: Annotated[str, typer.Argument(
                 metavar="TRUTH", help="The true labels, file or folder, or a DATASET with its images.")],
             scoring: Scoring, choosing: Choosing, geometry: Geometry, meaning: Meaning, grouping: Grouping,
             writing: Writing, common: Common,
             output: Annotated[Path | None, typer.Option(
                 "-o", "--output", metavar="scores.json",
                 help="Where to write the scores, with a CSV and a page of pictures beside.")] = None) -> None:
    """Compare predicted with true labels; print scores with their intervals, per class or per image."""
    from ._console import out, print_scores
    from .evaluate import compared, score_files
    from .pairing import pair_files, with_maps
    from .score_page import companions, write_scores

    for path in () if output is None else (output, *companions(output)):
        _refuse_existing(path, writing.overwrite)
    options = scoring.options()
    pairs = pair_files(prediction, truth, where=choosing.conditions(),
                       describe=geometry.description(group=grouping.group, **meaning.entries()))
    pairs = pairs if scoring.maps is None else with_maps(pairs, scoring.maps)
    scores = score_files(pairs, options)
    scores = scores if scoring.compare is None else compared(scores, pairs, scoring.compare, options)
    print_scores(scores)
    if output:
        files = write_scores(scores, output, None if scoring.no_pictures else pairs)
        out().print(f"scores written to {', '.join(map(str, files))}", soft_wrap=True)


@verb
def run(context: typer.Context,
        recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name or path.")],
        computing: Computing, writing: Writing, common: Common,
        replacing: Replacing,
        resume: Annotated[bool, typer.Option("--resume", help="Continue what was stopped.")] = False) -> None:
    """Carry out a recipe: check, plan, train, predict, evaluate, report; or compare the networks it names."""
    from ._atomic import read_json
    from ._console import TrainingProgress, out, score_table, show_scores
    from .recipe import load_recipe
    from .recipe_run import run_recipe

    loaded = load_recipe(recipe).changed(**replacing.changes())
    with TrainingProgress() as progress:
        folder = run_recipe(loaded, device=computing.device, resume=resume, overwrite=writing.overwrite,
                            started=_started(context), progress=progress)
    if loaded.networks:
        from .comparison import comparison_table

        found = read_json(folder / "comparison.json")
        score_table(*comparison_table(found))
        for note in found.get("notes", ()):
            out(stderr=True).print(note, style="yellow", markup=False)
        out().print(f"models  {folder}\npage    {folder / 'comparison.html'}")
        return
    show_scores(folder / "scores.json")
    if loaded.predict:
        out().print(f"\npredictions in {loaded.predictions}", soft_wrap=True)
        show_scores(loaded.predictions / "scores.json")
    out().print(f"model   {folder}\nreport  {folder / 'report.html'}")


@verb
def models(common: Common,
           folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Where to look.")] = Path()) -> None:
    """List what can be used as MODEL: runs and bundles below a folder, engines; and the recipes that come along."""
    from ._console import out, score_table
    from .engines import described
    from .models import find_models
    from .recipe import recipe_names

    rows = [[m["model"], m["task"], m["method"], m["network"],
             ", ".join(f"{k} {v:.3f}" for k, v in m["scores"].items())] for m in find_models(folder)]
    if rows:
        score_table("", ("model", "task", "method", "network", "scores"), rows)
    else:
        out().print(f"no run or bundle in {folder.resolve()}; make one with biosegkit train or biosegkit demo")
    score_table("", ("model without a run", "axes", "what it does"), described(), numbers_from=9)
    out().print(f"recipes for biosegkit run: {', '.join(recipe_names())}")


@verb
def view(image: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image.")], geometry: Geometry, common: Common,
         labels: Annotated[Path | None, typer.Argument(metavar="[LABELS]", help="Its labels.")] = None) -> None:
    """Open napari with the layers scaled and named."""
    from .viewing import show

    show(image, labels, geometry.description().read_options())


@verb
def demo(computing: Computing, writing: Writing, common: Common,
         output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Where to write.")] = Path(
             "biosegkit-demo")) -> None:
    """Run the whole flow on sample data, 2D nuclei and a 3D phantom, in minutes; needs no download."""
    from ._console import TrainingProgress, out
    from .demo import run_demo

    _refuse_existing(output, writing.overwrite)
    with TrainingProgress() as progress:
        parts = run_demo(output, device=computing.device, overwrite=writing.overwrite, progress=progress)
    for part in parts:
        out().print(f"[bold]{part.title}[/]  {part.score}\n  report   {part.report}\n  labels   {part.labels}\n"
                    f"  picture  {part.picture}")


def _refuse_existing(path: Path | None, overwrite: bool, otherwise: str = "") -> None:
    """An output is never replaced unasked (``otherwise`` is what else could be done), nor begun where none can be."""
    if path is not None and not overwrite and path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileError("an output that exists", file=path, expected="a new name",
                        remedy=f"{otherwise}choose another name, or replace it with --overwrite")
    above = None if path is None else next(p for p in path.absolute().parents if p.exists())
    if above is not None and not (above.is_dir() and os.access(above, os.W_OK)):
        found = "a folder that nothing can be written to" if above.is_dir() else "a file in the place of a folder"
        raise FileError(found, file=above, expected=f"a folder in which {path} can be made",
                        remedy="choose another place")


def _started(context: typer.Context) -> float:
    """The moment on the monotonic clock from which the budget counts: the start of the process if it is ours."""
    import psutil

    if context.obj is not _OWN_PROCESS:
        return time.monotonic()
    return time.monotonic() - max(0.0, time.time() - psutil.Process().create_time())


def _terminate(number: int, frame: FrameType | None) -> None:
    """Leave at a signal as an exit does: temporary files are removed on the way out."""
    raise SystemExit(128 + number)


def main() -> None:
    """The command ``biosegkit``; its budget counts from the start of the process, imports included."""
    # Threads that wait sleep instead of spinning: beside other programs training steps measured three to four times
    # faster. It must be said before torch loads its OpenMP.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a pipe on Windows may not know µ or ×
            stream.reconfigure(errors="replace")
    signal.signal(signal.SIGTERM, _terminate)
    hear_in_own_session()
    app(obj=_OWN_PROCESS)
