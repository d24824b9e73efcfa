"""A batch: many images by many workers; one that fails is recorded and the others go on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from biosegkit._atomic import sweep
from biosegkit.inputs import Input, Job
from biosegkit.predict import files_to_do, predict_files, states_of
from biosegkit.predictor import Predictor
from biosegkit.records import Outcome, Wish, shown, write_failures
from biosegkit.run_folder import locked
from biosegkit.signals import asked_to_stop

from .agenda import Call, Chain, Chains
from .chains import Errand, whole
from .engine import Crew, Staff, Task, employ
from .ledger import Ledger, open_ledger
from .tasks import Answer, Claim, Opening, absolute, open_model

__all__ = ["Standing", "predict_batch"]

#: Images that must be done before the time left is guessed.
_FEW = 3


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
    out, wish = Path(out), wish or Wish()
    if staff is None:
        return _here(open_model(opening), inputs, out, wish, progress, states=states, resume=resume,
                     overwrite=overwrite)
    opening = _checked(opening)
    if wish.reading.memory_budget is None and staff.share is not None:
        wish = replace(wish, reading=replace(wish.reading, memory_budget=int(0.8 * staff.share)))
    model = open_model(opening)
    jobs, kept = files_to_do(model, inputs, out, wish, states, anew=not (resume or overwrite))
    opening = replace(opening, digest=getattr(model, "digest", None))
    with ExitStack() as stack:
        holder = stack.enter_context(locked(out))
        stack.enter_context(nullcontext() if kept is None else locked(kept))
        sweep(out)
        ledger = stack.enter_context(open_ledger(out, anew=overwrite and not resume))
        ledger.begin(_about(opening, model, wish, staff), [(shown(job), _place(job, out)) for job in jobs])
        errand = Errand(opening, wish, Claim(str(out.absolute()), holder), resume and not overwrite)
        chains = [whole(errand, absolute(job), _absolute(states_of(job, out, kept))) for job in jobs]
        batch = _Batch(out, jobs, ledger, progress)
        with _closing(ledger, batch), asked_to_stop() as stop, employ(staff) as crew:
            batch.carry_out(crew, chains, errand.claim, stop)
    return batch.sorted


def _here(model: Predictor, inputs: Input | Sequence[Input], out: Path, wish: Wish, progress: Progress | None,
          **options: Any) -> list[Outcome]:
    """In this process."""
    standing = Standing(0)

    def told(outcome: Outcome, done: int, total: int) -> None:
        standing.images, standing.ended = total, done
        standing.objects += outcome.objects or 0
        standing.failed += outcome.error is not None
        if progress:
            progress(standing, outcome)

    return predict_files(model, inputs, out, tta=wish.tta, thresholds=wish.thresholds, save_maps=wish.save_maps,
                         also=wish.also, options=wish.reading, progress=told, **options)


def _checked(opening: Opening) -> Opening:
    """With a path that workers in another folder find too."""
    prefix, colon, rest = opening.model.partition(":")
    if Path(opening.model).exists():
        return replace(opening, model=str(Path(opening.model).absolute()))
    if colon and Path(rest).exists():
        return replace(opening, model=f"{prefix}:{Path(rest).absolute()}")
    return opening


def _about(opening: Opening, model: Predictor, wish: Wish, staff: Staff) -> dict[str, Any]:
    """What the ledger says of a run."""
    options = json.dumps(wish.data, sort_keys=True, default=str)
    return {"version": Claim("", "").version, "model": Path(opening.model).name, "options": options,
            "model_hash": getattr(model, "digest", None), "options_hash": hashlib.sha256(options.encode()).hexdigest(),
            "workers": staff.scheduler or f"{staff.workers or 1} on this machine"}


def _place(job: Job, out: Path) -> str:
    """The name of an output in the ledger."""
    return job.output.relative_to(out).as_posix()


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


@contextmanager
def _closing(ledger: Ledger, batch: _Batch) -> Iterator[None]:
    """The last word in the ledger, however the batch ends."""
    state = "stopped"
    try:
        yield
        state = "failed" if batch.standing.failed else "done"
    finally:
        ledger.end(state)


class _Batch:
    """The images of one run, and what came of them.

    Parameters
    ----------
    out : Path
    jobs : list of Job
    ledger : Ledger
    progress : callable, optional
    """

    def __init__(self, out: Path, jobs: list[Job], ledger: Ledger, progress: Progress | None) -> None:
        self.out, self.jobs, self.ledger, self.progress = out, jobs, ledger, progress
        self.outcomes: dict[int, Outcome] = {}
        self.standing = Standing(len(jobs))
        self._sizes = [max(1, sum(_bytes(path) for path in job.images)) for job in jobs]
        self._began = 0.0

    @property
    def sorted(self) -> list[Outcome]:
        """Outcomes in the order of the inputs."""
        return [self.outcomes[number] for number in sorted(self.outcomes)]

    def carry_out(self, crew: Crew, chains: Sequence[Chain], claim: Claim, stop: Callable[[], bool]) -> None:
        """Have everything done."""
        write_failures(self.out, [])
        agenda = Chains(chains, [shown(job) for job in self.jobs], begun=self._begins)
        for answered in crew.results(agenda, claim, stop):
            outcome = None
            if answered is not None:
                task, answer = answered
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
        job = self.jobs[number]
        if isinstance(end, Outcome):
            return replace(end, input=shown(job), output=str(job.output), error=_as_given(end.error, job))
        return Outcome(shown(job), str(job.output), "failed", _as_given(end.error, job), end.seconds, trace=end.trace)

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
        """Say how far it is; the time left follows the bytes of the images, once a few are done."""
        done = [number for number, outcome in self.outcomes.items() if outcome.state == "done"]
        if len(done) >= _FEW and outcome is not None:
            rest = sum(self._sizes) - sum(self._sizes[number] for number in self.outcomes)
            self.standing.left = (time.monotonic() - self._began) * rest / sum(self._sizes[number] for number in done)
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
