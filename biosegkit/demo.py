"""The whole flow on sample data in minutes, without a network: real nuclei in 2D, a phantom in 3D."""

from __future__ import annotations

import importlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ._words import counted
from .cases import scan
from .checks import refuse
from .errors import FileError, OptionError
from .fingerprint import survey
from .overlay import Overlay, compose, overlay_of, write_png
from .plan.schema import Plan
from .summaries import number_text
from .time_needed import enough_in

__all__ = ["NUCLEI_BUDGET", "PHANTOM_BUDGET", "Part", "run_demo"]

#: Seconds for each training; both parts with everything around them stay below five minutes on two cores.
NUCLEI_BUDGET, PHANTOM_BUDGET = 120.0, 120.0

Progress = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Part:
    """What one part of the demo made.

    Parameters
    ----------
    title : str
        What was segmented.
    score : str
        Scores on images that were not trained on, for people.
    scores : dict
        The same as numbers: the headline of ``test-scores.json``.
    report, labels, picture : Path
        The report, the folder of predicted labels, and a picture of one of them.
    seconds : float
        All that this part took.
    """

    title: str
    score: str
    scores: dict[str, float]
    report: Path
    labels: Path
    picture: Path
    seconds: float


def run_demo(folder: str | Path = "biosegkit-demo", *, device: str = "auto", overwrite: bool = False,
             budgets: tuple[float, float] = (NUCLEI_BUDGET, PHANTOM_BUDGET), steps: int | None = None,
             progress: Progress | None = None) -> list[Part]:
    """Write sample data, train on the rows of split ``train``, segment and score the rows of split ``test``.

    Parameters
    ----------
    folder : str or Path
        Gets ``data/``, ``nuclei/`` and ``phantom/``; the last two have ``run/``, ``labels/``, ``test-scores.json`` and
        ``picture.png``.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    overwrite : bool
        Replace the folder if it exists.
    budgets : tuple of float
        Seconds to train the nuclei and the phantom.
    steps : int, optional
        So many training steps in place of the budgets.
    progress : callable, optional
        As for :func:`biosegkit.fit`.

    Returns
    -------
    list of Part
        Nuclei, then phantom.

    Raises
    ------
    FileError
        If the folder exists and ``overwrite`` is not set, or is not the folder of a demo.
    """
    samples = importlib.import_module("biosegkit_samples.generate")
    folder = Path(folder)
    _cleared(folder, overwrite)
    if progress:
        progress({"stage": "loading the libraries: the first time after installing them takes longest"})
    for heavy in ("configure", "train", "predict"):  # before the clock: of a fresh installation they take half a minute
        importlib.import_module(f"{__package__}.{heavy}")
    made = []
    for name, title, write, method, budget in (
            ("nuclei", "Nuclei in 2D, one id per nucleus", samples.write_nuclei, "distance", budgets[0]),
            ("phantom", "MRI-like phantom in 3D, two structures", samples.write_phantoms, "semantic", budgets[1])):
        started = time.monotonic()
        if progress:
            progress({"stage": f"{title}: writing the data"})
        home = folder / name
        table = write(folder / "data" / name)
        plan = _trained(table, home / "run", method, (budget, steps, device, started), progress)
        made.append(_tested(home, title, table, plan, device, started))
    return made


def _cleared(folder: Path, overwrite: bool) -> None:
    """Make way; a folder that is no demo's is never removed."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise FileError("an output that exists", file=folder, expected="a new name",
                        remedy="choose another name, or replace it with --overwrite")
    inside = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    if not inside <= {"data", "nuclei", "phantom"}:
        raise FileError(f"something else than a demo ({', '.join(sorted(inside)[:5])})", file=folder,
                        expected="the folder of an earlier demo", remedy="choose another name")
    shutil.rmtree(folder)


def _trained(table: Path, run: Path, method: str, limits: tuple[float, int | None, str, float],
             progress: Progress | None) -> Plan:
    """Check, measure, plan, fit."""
    from .configure import make_plan
    from .train import fit

    budget, steps, device, started = limits
    dataset = scan(table, where={"split": "train"})
    problems, measured = survey(dataset)
    refuse(problems)
    if measured is None:
        raise FileError("no case to train on", file=table)
    limit: str | float | None = None if steps else budget
    while True:
        try:
            plan = make_plan(measured, dataset, budget=limit, method=method, steps=steps, device=device,
                             elapsed=time.monotonic() - started)
            fit(plan, dataset, run, device=device, steps=steps, started=started, progress=progress,
                fingerprint=measured, problems=problems, overwrite=True)
        except OptionError as error:  # nobody chose this budget: a slow machine gets the one that it needs, once
            enough = enough_in(str(error))
            if limit != budget or not enough:
                raise
            limit = enough
            if progress:
                progress({"stage": f"this machine needs {enough} for it: {error.expected}"})
        else:
            return plan


def _tested(home: Path, title: str, table: Path, plan: Plan, device: str, started: float) -> Part:
    """Segment and score the images kept for the test, and draw one of them."""
    from ._atomic import write_json
    from .bundle import load
    from .evaluate import ScoreOptions, evaluate_folder
    from .predict import predict_files

    test = scan(table, where={"split": "test"})
    outcomes = predict_files(load(home / "run", device), [case.images[0] for case in test], home / "labels")
    failed = [f"{o.input}: {o.error}" for o in outcomes if o.error]
    if failed:
        raise FileError("; ".join(failed), file=home / "labels")
    scores = evaluate_folder(home / "labels", table, where={"split": "test"}, task=plan.labels.task,
                             options=ScoreOptions())
    write_json(home / "test-scores.json", scores)
    headline = {name: float(value) for name, value in scores["headline"].items()}
    shown = ", ".join(f"{name} {number_text(value)}" for name, value in headline.items())
    write_png(home / "picture.png", _beside([compose(_drawn(home, plan, index)) for index in range(min(2, len(test)))]))
    return Part(title, f"{shown} on {counted(len(test), 'test image')}", headline, home / "run" / "report.html",
                home / "labels",
                home / "picture.png", time.monotonic() - started)


def _drawn(home: Path, plan: Plan, index: int) -> Overlay:
    """Truth and prediction on one test image."""
    from .io import read_labels

    test = scan(home.parent / "data" / home.name / "cases.csv", where={"split": "test"})
    image, truth = test.load(test[index], plan.labels.task)
    output = next(path for path in sorted((home / "labels").iterdir())
                  if path.name.startswith(f"{test[index].id}.") and not path.name.endswith((".json", ".csv")))
    predicted = read_labels(output, plan.labels.task)
    return overlay_of(test[index].id, image.array, truth.restored(), predicted.restored(), None, image.grid.spacing)


def _beside(pictures: Sequence[npt.NDArray[np.uint8]], gap: int = 8) -> npt.NDArray[np.uint8]:
    """Pictures in a row on white."""
    height = max(picture.shape[0] for picture in pictures)
    row = [np.pad(p, ((0, height - p.shape[0]), (0, gap), (0, 0)), constant_values=255) for p in pictures]
    return np.concatenate(row, axis=1)[:, :-gap]
