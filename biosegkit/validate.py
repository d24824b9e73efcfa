"""What a run is worth: every held-back case segmented by the network that has not seen it, tuned, scored, pictured."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ._atomic import load_npy, write_json, write_npy
from ._words import counted
from .calibrate import calibration_row
from .cases import Case, Dataset
from .class_tuning import tune_classes
from .image import Image, Labels
from .inputs import output_ending
from .io import write
from .loop import make_network
from .methods import Semantic
from .methods.classes import without_classes
from .methods.protocol import Block, State
from .methods.trials import Held
from .overlay import Overlay, overlay_of, with_attention
from .plan.networks import ATTENTION_SHOWN, NETWORKS
from .plan.schema import Plan
from .prepared import decoding_spacing, turn_of
from .scores import ScoreOptions, score_pair, summarise
from .segmenter import Segmenter, method_of
from .tidy_choice import TidyChoice, retidied, trials_of
from .tune import tune

__all__ = ["Outcome", "score_options", "validate"]

#: Cases shown in the report, half worst and half best.
SHOWN = 8
#: Largest maps of a case that are kept to score their calibration.
MAPS_BYTES = 1 << 28
#: Share of the time left after training that choosing thresholds may take.
TUNING = 0.4
#: Share of the time left after tuning in which cases are predicted; the rest is for scoring them once more.
FIRST = 0.9
#: How much longer than the first time it may take to score all cases again: they are read again, too.
AGAIN = 1.5
#: Notes of predictions that are repeated beside the scores.
NOTES = 5


@dataclass(frozen=True, eq=False)
class Outcome:
    """Scores record, tuned thresholds, pictures of the worst and best cases, and options of post-processing."""

    scores: dict[str, Any]
    thresholds: dict[str, float]
    overlays: list[Overlay]
    postprocessing: dict[str, Any]


@dataclass(frozen=True, eq=False)
class _Job:
    plan: Plan
    dataset: Dataset
    out: Path
    device: torch.device
    weights: Mapping[str, Mapping[str, Tensor]]
    held: Mapping[str, Sequence[str]]
    between: Callable[[str], None]
    until: float | None = None

    def within(self, share: float) -> _Job:
        """The same with a share of the time that is left."""
        now = time.monotonic()
        return self if self.until is None else replace(self, until=now + share * max(0.0, self.until - now))


def validate(plan: Plan, dataset: Dataset, out: Path,
             folds: Mapping[str, tuple[Mapping[str, Tensor], Sequence[str]]], device: torch.device,
             between: Callable[[str], None], warnings: Sequence[str] = (), until: float | None = None) -> Outcome:
    """Score a run on its held-back cases.

    Labels go to ``fold-K/validation/``, trials of the thresholds to ``tuning.json``, those of post-processing to
    ``postprocessing.json``; where some is chosen, the cases are scored again with it. Memory follows one case
    (and, for methods that must paint to compare, the reduced states of the plan's ``tune_cases``).

    Parameters
    ----------
    plan, dataset : Plan, Dataset
        Of the run.
    out : Path
        The RUN folder.
    folds : mapping of fold name to (weights, ids)
        State of each network, and the cases it has not seen.
    device : torch.device
        Where to compute.
    between : callable
        Called with a text between cases; may raise to stop.
    warnings : sequence of str
        Put first among the notes of the scores.
    until : float, optional
        ``time.monotonic()`` at which to be done: cases are taken in random order, and those that would end later are
        left out, except the first of every fold. The notes say how many were scored.
    """
    weights, held = {k: w for k, (w, _) in folds.items()}, {k: ids for k, (_, ids) in folds.items()}
    job = _Job(plan, dataset, out, device, weights, held, between, until)
    thresholds = _tuned(job.within(TUNING))
    options = score_options(plan)
    trials, scored = trials_of(plan, thresholds), _Scored(job, options)
    said: dict[str, None] = {}
    with _spool(out) as spool:
        for fold, segmenter, case in _cases(job.within(FIRST)):
            image, truth = _load(job, case)
            calibrate = _maps_fit(plan, truth)
            prediction = segmenter.predict(image, thresholds=thresholds, maps=calibrate)
            said |= dict.fromkeys(n for n in prediction.notes if n not in image.notes)
            if calibrate and prediction.maps:
                maps = next(iter(prediction.maps.values()))
                scored.more[case.id] = calibration_row(maps, truth, list(plan.labels.values), options)
            trials.add(prediction.labels, truth)
            scored.add(fold, case, (image, truth), prediction.labels)
            place = spool / f"{list(scored.cases).index(case.id)}.npy"
            write_npy(place, np.asarray(prediction.labels.array), durable=False)
        chosen = _postprocessed(job, trials.decided(), scored, thresholds, spool)
    record = summarise(scored.scores, plan.labels.task, unit=scored.unit, options=options,
                       groups={case.id: case.group for case in dataset if case.id in scored.scores},
                       notes=[*warnings, _scored(job, len(scored.scores)), *list(said)[:NOTES]])
    write_json(out / "scores.json", record)
    pictures = _ends(scored.pictures, SHOWN)
    if NETWORKS[plan.configuration.architecture.name].attention:
        pictures = _looked_at(job, pictures)
    return Outcome(record, thresholds, [picture for picture, _ in pictures], chosen.options)


class _Scored:
    """Scores and pictures of cases; one that is added again is replaced."""

    def __init__(self, job: _Job, options: ScoreOptions) -> None:
        self.job, self.options = job, options
        self.scores: dict[str, dict[str, Any]] = {}
        self.more: dict[str, dict[str, Any]] = {}
        self.cases: dict[str, tuple[str, Case]] = {}
        self.overlays: dict[str, Overlay] = {}
        self.unit, self.seconds = "px", 0.0

    def add(self, fold: str, case: Case, loaded: tuple[Image, Labels], found: Labels) -> None:
        """Write, score and picture the labels of a case."""
        begun, (image, truth) = time.monotonic(), loaded
        place = self.job.out / f"fold-{fold}" / "validation" / (case.id + output_ending(case.images[0]))
        write(found, place)
        self.cases[case.id], self.unit = (fold, case), truth.grid.unit
        self.scores[case.id] = score_pair(found, truth, self.options) | self.more.get(case.id, {})
        self.overlays[case.id] = _picture(case, image, truth, found, self.scores[case.id])
        self.seconds += time.monotonic() - begun

    @property
    def pictures(self) -> list[tuple[Overlay, str]]:
        """Pictures with the ids of their cases."""
        return [(picture, case) for case, picture in self.overlays.items()]


@contextmanager
def _spool(out: Path) -> Iterator[Path]:
    """A folder for predictions as they were decoded, removed afterwards."""
    folder = out / ".validation"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _postprocessed(job: _Job, chosen: TidyChoice, scored: _Scored, thresholds: Mapping[str, float],
                   spool: Path) -> TidyChoice:
    """Score the cases again with the post-processing that was chosen, if there is time; what is done in the end."""
    if chosen.options and job.until is not None and time.monotonic() + AGAIN * scored.seconds > job.until:
        nothing = type(chosen.tidy)()
        chosen = replace(chosen, tidy=nothing, reason=f"{chosen.reason}; left out, as the budget left no time to score "
                         "the cases again")
    write_json(job.out / "postprocessing.json", {
        "options": chosen.options, "reason": chosen.reason, "trials": list(chosen.trials)})
    for number, (fold, case) in enumerate(scored.cases.values() if chosen.options else ()):
        job.between(f"post-processing: {case.id}")
        image, truth = _load(job, case)
        array = load_npy(spool / f"{number}.npy")
        values = job.plan.labels.values if job.plan.labels.task == "semantic" else range(int(array.max(initial=0)) + 1)
        plain = Labels(array, image.grid, np.array(values, np.int64), job.plan.labels.task, source=image.source)
        found = retidied(plain, job.plan, chosen.tidy, thresholds.get("min_size", 0.0))
        scored.add(fold, case, (image, truth), found)
    return chosen


def _cases(job: _Job, among: Set[str] | None = None, what: str = "validation") -> Iterator[
        tuple[str, Segmenter, Case]]:
    """Every held-back case (of those named) with the segmenter of its fold; ``what`` for is told with each."""
    for done, (fold, held) in enumerate(job.held.items()):
        ids = [i for i in _in_order(job, held) if among is None or i in among]
        end = job.within(1 / (len(job.held) - done)).until
        slowest, begun = 0.0, time.monotonic()
        network = make_network(job.plan, method_of(job.plan), job.device)
        network.load_state_dict(dict(job.weights[fold]))
        segmenter = Segmenter(job.plan, (network.eval(),), job.device, {})
        for place, case in enumerate(job.dataset.select(ids)):
            if place and end is not None and time.monotonic() + slowest > end:
                break
            job.between(f"{what}: {case.id}")
            yield fold, segmenter, case
            slowest, begun = max(slowest, time.monotonic() - begun), time.monotonic()


def _in_order(job: _Job, held: Sequence[str]) -> list[str]:
    """Held-back cases as listed; at random where the time may not be enough for all, as lists are sorted by patient."""
    if job.until is None:
        return list(held)
    return [held[i] for i in np.random.default_rng([job.plan.seed, 13]).permutation(len(held))]


def _scored(job: _Job, count: int) -> str:
    """How many cases the scores are of."""
    every = sum(len(ids) for ids in job.held.values())
    where = f"of fold {', '.join(job.held)}"
    if count < every:
        return f"{count} of {every} held-back cases {where}; the budget left no time for more"
    return f"{counted(count, 'held-back case')} {where}"


def _load(job: _Job, case: Case) -> tuple[Image, Labels]:
    return job.dataset.load(case, job.plan.labels.task)


def _tuned(job: _Job) -> dict[str, float]:
    """Thresholds from the states of the first cases of every fold."""
    method = without_classes(method_of(job.plan))
    if isinstance(method, Semantic):
        goal, tuned = "mean Dice of all classes and the background", tune_classes(method, _held(job))
    else:
        goal, tuned = "mean pooled AP at IoU 0.5, 0.6, 0.7", tune(method, _held(job), until=job.until)
    write_json(job.out / "tuning.json", {
        "goal": f"{goal} on held-back cases", "cases": list(tuned.cases),
        "thresholds": tuned.thresholds, "score": tuned.score, "default_score": tuned.default_score,
        "tunables": {name: asdict(t) for name, t in method_of(job.plan).tunables.items()},
        "trials": [list(t) for t in tuned.trials]})
    return tuned.thresholds


def _held(job: _Job) -> Iterator[Held]:
    """States and truth of the first cases of every fold, one at a time."""
    method = without_classes(method_of(job.plan))
    share = max(1, job.plan.training.tune_cases // len(job.held))
    first = {case for held in job.held.values() for case in held[:share]}
    for fold, segmenter, case in _cases(job, first, "thresholds"):
        if case.id not in job.held[fold][:share]:
            continue
        image, truth = _load(job, case)
        valid = np.ones(truth.array.shape, bool) if truth.ignore is None else ~truth.ignore
        # Maps with a direction (flows, rays) point along the plan's axes, so the truth is turned to them.
        turn = turn_of(image.grid, job.plan)
        spacing = decoding_spacing(image.grid.turned(turn), job.plan)
        maps_of_case = {name: np.ascontiguousarray(turn.apply(a)) for name, a in segmenter.maps(image).items()}
        classes = truth.as_classes(job.plan.labels.values) if isinstance(method, Semantic) else truth
        turned = (np.ascontiguousarray(turn.apply(classes.array)), np.ascontiguousarray(turn.apply(valid)))
        for maps, array, known in _planes(maps_of_case, *turned, ndim=job.plan.configuration.ndim):
            state: State = method.local(maps, Block.whole(array.shape, spacing[-array.ndim:]))
            yield Held(case.id, state, array, known)


def _planes(maps: dict[str, npt.NDArray[np.float32]], truth: npt.NDArray[Any], valid: npt.NDArray[np.bool_],
            ndim: int) -> Iterator[tuple[dict[str, npt.NDArray[np.float32]], npt.NDArray[Any], npt.NDArray[np.bool_]]]:
    """The case itself, or each plane of a stack for a 2D model: what the method decodes at once."""
    if truth.ndim == ndim:
        yield maps, truth, valid
        return
    for z in range(len(truth)):
        yield {name: m[:, z] for name, m in maps.items()}, truth[z], valid[z]


def _maps_fit(plan: Plan, truth: Labels) -> bool:
    """Whether the probabilities of a case are small enough to be kept whole for their calibration."""
    channels = len(plan.labels.regions or plan.labels.values)
    return plan.labels.task == "semantic" and 4 * channels * truth.array.size <= MAPS_BYTES


def score_options(plan: Plan) -> ScoreOptions:
    """Classes or regions of the plan by name."""
    if plan.labels.task == "instance":
        return ScoreOptions()
    table = plan.labels
    regions = tuple((name, tuple(table.values[i] for i in members)) for name, members in table.regions)
    return ScoreOptions(classes=tuple(zip(table.names, table.values, strict=True)), regions=regions)


def _picture(case: Case, image: Image, truth: Labels, found: Labels, scores: Mapping[str, Any]) -> Overlay:
    """One slice of a case; copied, so that the volume can be let go."""
    value = scores.get("dice", scores.get("ap@0.50"))
    score = None if value is None or not np.isfinite(value) else float(value)
    picture = overlay_of(case.id, np.asarray(image.array), truth.restored(), found.restored(), score,
                         truth.grid.spacing)
    return picture._replace(image=np.array(picture.image), truth=_own(picture.truth), predicted=_own(picture.predicted))


def _own(array: npt.NDArray[Any] | None) -> npt.NDArray[Any] | None:
    return None if array is None else np.array(array)


def _looked_at(job: _Job, pictures: Sequence[tuple[Overlay, str]]) -> list[tuple[Overlay, str]]:
    """The worst and the best of the pictures with the attention of the network at that place."""
    wanted = {case for _, case in _ends(pictures, ATTENTION_SHOWN)}
    found = {case: picture for picture, case in pictures}
    for _, segmenter, case in _cases(job, wanted):
        attention = segmenter.attention(_load(job, case)[0])
        found[case.id] = with_attention(found[case.id], attention)
    return [(found[case], case) for _, case in pictures]


def _ends(overlays: Sequence[tuple[Overlay, str]], count: int) -> list[tuple[Overlay, str]]:
    """The worst and the best cases."""
    ranked = sorted(overlays, key=lambda o: -1.0 if o[0].score is None else o[0].score)
    return ranked if len(ranked) <= count else ranked[: count // 2] + ranked[-count // 2:]
