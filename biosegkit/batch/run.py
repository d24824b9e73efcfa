"""A batch: many images by many workers; one that fails is recorded and the others go on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from biosegkit._atomic import sweep
from biosegkit.errors import BiosegError, FileError, Stopped
from biosegkit.inputs import Input, Job
from biosegkit.predict import Todo, files_to_do, predict_jobs
from biosegkit.predictor import Predictor
from biosegkit.records import Outcome, Wish, shown, write_failures
from biosegkit.signals import asked_to_stop

from .agenda import Call, Chain, Chains
from .chains import in_blocks, whole
from .engine import Crew, Staff, Task, employ
from .giants import checked_tissue, giant_job, is_giant, refuse_hopeless, stages_of
from .ledger import FILE as LEDGER
from .ledger import Ledger, open_ledger
from .made_with import about_run, rows_of
from .report import REPORT, Left, Run, resume_command, write_batch_report
from .tasks import Answer, Claim, Errand, Opening, absolute, open_model

__all__ = ["Standing", "predict_batch"]

#: Of the work, what must be done before the time left is guessed.
_SOME = 0.02


@dataclass
class Standing:
    """How far a batch is.

    Parameters
    ----------
    images, ended, failed : int
        How many there are, how many of them are over, and how many of those failed.
    blocks, blocks_ended : int
        Pieces of the giant images begun so far.
    objects : int
        Found so far.
    left : float, optional
        Seconds that the rest may take; None while nothing is known.
    """

    images: int
    ended: int = 0
    failed: int = 0
    blocks: int = 0
    blocks_ended: int = 0
    objects: int = 0
    left: float | None = None


#: Told after every answer, and about twice a second in between (then without an outcome).
Progress = Callable[[Standing, Outcome | None], None]


def predict_batch(
    opening: Opening,
    inputs: Input | Sequence[Input],
    out: str | Path,
    staff: Staff | None = None,
    *,
    wish: Wish | None = None,
    resume: bool = False,
    overwrite: bool = False,
    states: str | Path | None = None,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Segment files, by worker processes if there is a staff, else in this one.

    The files written are those of :func:`biosegkit.predict_files`; with workers also a ledger
    (:mod:`biosegkit.batch.ledger`).

    Parameters
    ----------
    opening : Opening
        The model, by name: every worker opens it itself.
    inputs : path, Dataset, or sequence of these
    out : path
    staff : Staff, optional
        How many workers, or where they are.
    wish : Wish, optional
        What changes the result: ``tta``, ``thresholds``, ``save_maps``, ``reading``; and further formats, ``also``.
    resume, overwrite, states
        As for :func:`biosegkit.predict_files`.
    progress : callable, optional
        Called with a :class:`Standing` and, when an image is over, its outcome.

    Returns
    -------
    list of Outcome
        In the order of the inputs; failures are also in ``failures.csv``.

    Raises
    ------
    Stopped
        After Ctrl-C or SIGTERM, when what was running has ended; ``resume`` goes on from there.
    FileError, DataError, OptionError
        As :func:`biosegkit.predict_files`; or if no worker is there, or the disk is full.
    """
    opening, wish = _checked(opening), wish or Wish()
    if staff is not None and wish.reading.memory_budget is None and staff.share is not None:
        wish = replace(wish, reading=replace(wish.reading, memory_budget=int(0.8 * staff.share)))
    model = open_model(opening)
    stages = stages_of(model)
    giant = None if stages is None else partial(_is_giant, model, wish)
    todo = files_to_do(model, inputs, Path(out), wish, states, anew=not (resume or overwrite), is_giant=giant)
    resume = resume and not overwrite
    giants = sum(job.giant for job in todo.jobs)
    wish = checked_tissue(wish, giants)
    refuse_hopeless(model, wish, todo.jobs)
    if staff is None and (giants or (todo.out / LEDGER).is_file()):  # a batch goes on as one: its page tells of it
        staff = Staff()
    if staff is None:
        return _here(model, todo, wish, progress, resume)
    opening = replace(opening, digest=getattr(model, "digest", None))
    about = about_run(opening, wish, staff)
    with ExitStack() as stack:
        hired = None if staff.scheduler is None else stack.enter_context(employ(staff))  # a wrong one leaves no folder
        holder = stack.enter_context(todo.held())
        for folder in (todo.out, todo.kept):
            if folder is not None:
                sweep(folder)
        ledger = stack.enter_context(open_ledger(todo.out, anew=overwrite and not resume))
        ledger.begin(about, [(shown(job), _place(job, todo.out)) for job in todo.jobs])
        errand = Errand(opening, wish, Claim(str(todo.out.absolute()), holder), resume)
        batch = _Batch(todo, ledger, progress)
        stack.enter_context(_reporting(batch, rows_of(about, model, staff, todo.kept)))
        with _closing(ledger, batch), asked_to_stop() as stop, nullcontext(hired) if hired else employ(staff) as crew:
            chains = [whole(errand, absolute(job), kept) if stages is None or not job.giant else
                      in_blocks(errand, absolute(job), giant_job(errand, absolute(job), staff, giants, kept), stages)
                      for job, kept in ((job, _states_of(todo, job)) for job in todo.jobs)]
            batch.carry_out(crew, chains, errand.claim, stop)
    return batch.sorted


def _is_giant(model: Predictor, wish: Wish, path: Path, said: Mapping[str, Any]) -> bool:
    """Whether an image is segmented in blocks, read as it is to be read."""
    return is_giant(path, wish.for_case(said).reading, model)


def _states_of(todo: Todo, job: Job) -> Path | None:
    """Where the states of an image are kept, if they are."""
    states = todo.states_of(job)
    return None if states is None else states.absolute()


def _here(model: Predictor, todo: Todo, wish: Wish, progress: Progress | None, resume: bool) -> list[Outcome]:
    """In this process."""
    standing = Standing(0)

    def told(outcome: Outcome, done: int, total: int) -> None:
        standing.images, standing.ended = total, done
        standing.objects += outcome.objects or 0
        standing.failed += outcome.error is not None
        if progress:
            progress(standing, outcome)

    return predict_jobs(model, todo, wish, resume=resume, progress=told)


def _checked(opening: Opening) -> Opening:
    """With a path that workers in another folder find too."""
    prefix, colon, rest = opening.model.partition(":")
    if Path(opening.model).exists():
        return replace(opening, model=str(Path(opening.model).absolute()))
    if colon and Path(rest).exists():
        return replace(opening, model=f"{prefix}:{Path(rest).absolute()}")
    return opening


def _place(job: Job, out: Path) -> str:
    """The name of an output in the ledger."""
    return job.output.relative_to(out).as_posix()


@contextmanager
def _closing(ledger: Ledger, batch: _Batch) -> Iterator[None]:
    """The last word in the ledger, however the batch ends."""
    state = "stopped"
    try:
        yield
        state = "failed" if batch.standing.failed else "done"
    finally:
        ledger.end(state)


@contextmanager
def _reporting(batch: _Batch, about: Mapping[str, str]) -> Iterator[None]:
    """The page of the batch at its end, also where it is stopped or broken off by an error; none of an earlier run.

    A second Ctrl-C waits for nothing.
    """
    (batch.out / REPORT).unlink(missing_ok=True)
    started, command = time.monotonic(), resume_command(sys.argv)
    try:
        yield
    except BiosegError as error:
        why = "stopped" if isinstance(error, Stopped) else f"broken off: found {error.found}"
        with suppress(FileError):  # such as a full disk, which is the error already
            run = Run(batch.left, why, time.monotonic() - started, command)
            write_batch_report(batch.out, batch.sorted, about=about, run=run)
        raise
    run = Run(seconds=time.monotonic() - started, command=command)
    write_batch_report(batch.out, batch.sorted, about=about, run=run)


class _Batch:
    """The images of one run, and what came of them.

    Parameters
    ----------
    todo : Todo
    ledger : Ledger
    progress : callable, optional
    """

    def __init__(self, todo: Todo, ledger: Ledger, progress: Progress | None) -> None:
        self.out, self.jobs, self.ledger, self.progress = todo.out, todo.jobs, ledger, progress
        self.outcomes: dict[int, Outcome] = {}
        self.standing = Standing(len(self.jobs))
        self._sizes = [max(1, sum(_bytes(path) for path in job.images)) for job in self.jobs]
        self._seconds = [0.0] * len(self.jobs)
        self._began = 0.0

    @property
    def sorted(self) -> list[Outcome]:
        """Outcomes in the order of the inputs."""
        return [self.outcomes[number] for number in sorted(self.outcomes)]

    @property
    def left(self) -> list[Left]:
        """Images that are not over, in the order of the inputs."""
        return [Left(shown(job), job.output) for number, job in enumerate(self.jobs) if number not in self.outcomes]

    def carry_out(self, crew: Crew, chains: Sequence[Chain], claim: Claim, stop: Callable[[], bool]) -> None:
        """Have everything done."""
        write_failures(self.out, [])
        largest_first = sorted(range(len(self.jobs)), key=lambda number: -self._sizes[number])  # none is left for last
        agenda = Chains(chains, [shown(job) for job in self.jobs], begun=self._begins, order=largest_first)
        for answered in crew.results(agenda, claim, stop):
            outcome = None
            if answered is not None:
                task, answer = answered
                self._seconds[task.owner] += answer.seconds
                self._note_block(task, agenda.call_of(task), answer)
                end = agenda.answer(task, answer)
                outcome = None if end is None else self._ended(task.owner, self._outcome(task.owner, end))
            self._tell(agenda, outcome)

    def _begins(self, number: int) -> None:
        self._began = self._began or time.monotonic()
        self.ledger.start(_place(self.jobs[number], self.out))

    def _note_block(self, task: Task, call: Call, answer: Answer) -> None:
        """Write down what became of a block."""
        if call.number is not None:
            self.ledger.block(_place(self.jobs[task.owner], self.out), call.step, call.number,
                              state="failed" if answer.error else "done", seconds=answer.seconds, worker=answer.worker)

    def _outcome(self, number: int, end: Outcome | Answer) -> Outcome:
        """What became of an image, said with the paths as they were given."""
        job, seconds = self.jobs[number], self._seconds[number]
        if isinstance(end, Outcome):
            return replace(end, input=shown(job), output=str(job.output), error=_as_given(end.error, job),
                           seconds=seconds)
        return Outcome(shown(job), str(job.output), "failed", _as_given(end.error, job), seconds, trace=end.trace)

    def _ended(self, number: int, outcome: Outcome) -> Outcome:
        """Write down what became of an image."""
        self.outcomes[number] = outcome
        self.ledger.finish(outcome, _place(self.jobs[number], self.out))
        self.standing.ended += 1
        self.standing.objects += outcome.objects or 0
        if outcome.error:
            self.standing.failed += 1
            write_failures(self.out, self.sorted)
        return outcome

    def _tell(self, agenda: Chains, outcome: Outcome | None) -> None:
        """Say how far it is; the time left follows the bytes of the images, once some of them are done."""
        self.standing.blocks_ended, self.standing.blocks = agenda.blocks
        begun = sum(self._sizes[number] * share for number, share in agenda.shares.items())
        done = begun + sum(self._sizes[n] for n, outcome in self.outcomes.items() if outcome.state == "done")
        rest = sum(self._sizes) - begun - sum(self._sizes[number] for number in self.outcomes)
        if done > _SOME * (done + rest):
            self.standing.left = (time.monotonic() - self._began) * rest / done
        if self.progress:
            self.progress(self.standing, outcome)


def _as_given(error: str | None, job: Job) -> str | None:
    """An error that names the files as the user named them."""
    for path in (*job.images, job.output):
        error = None if error is None else error.replace(str(path.absolute()), str(path))
    return error


def _bytes(path: Path) -> int:
    """Size of a file or a folder's files, as far as can be seen; for the time left only."""
    try:
        if path.is_dir():
            return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
        return path.stat().st_size
    except OSError:
        return 0
