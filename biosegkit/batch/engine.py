"""The crew of a batch: worker processes of dask.distributed that get paths and numbers and never arrays.

The only engine there is. Without an address the crew is hired on this machine for the time of the batch, one process
per worker, one thread each, talking TLS with a certificate of its own, so that no other user of the machine can send it
work. With an address it is a scheduler that somebody started, on a cluster for example.
"""

from __future__ import annotations

import itertools
import logging
import queue
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from biosegkit._atomic import read_json
from biosegkit._lazy import optional
from biosegkit._words import counted
from biosegkit.errors import BiosegError, FileError, OptionError, Stopped

from .head_start import ENVIRONMENT, PRELOAD
from .tasks import Answer, Claim, carry_out

__all__ = ["Agenda", "Crew", "DaskCrew", "Staff", "Task", "employ", "refuse_others"]

#: Times a task may be running in a process that dies: this often beside others, then as often alone.
DEATHS = 2
#: Seconds without any worker after which a batch gives up: on this machine, elsewhere.
PATIENCE = (120.0, 600.0)
#: Seconds in which a scheduler must answer.
CONNECT = 30.0
#: Seconds between two looks at the workers.
_LOOK = 2.0
#: How often dask looks at its own event loops and processes: its defaults cost two workers 5 % of a core.
_TICK, _MONITOR = "500ms", "5s"
_EXPECTED = "the address or the scheduler file of a dask scheduler that is running"
_SAME = "give workers the environment that biosegkit predict has"
_numbers = itertools.count()


@dataclass(frozen=True)
class Staff:
    """Who is to work.

    Parameters
    ----------
    workers : int, optional
        Processes on this machine; one if there is no scheduler either.
    scheduler : str, optional
        Address (``tcp://host:8786``) or scheduler file of a running dask scheduler.
    memory : int, optional
        Bytes one worker may use; its share of this machine's if left out.
    """

    workers: int | None = None
    scheduler: str | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.scheduler is not None:
            raise OptionError("--workers together with --scheduler", expected="one of them",
                              remedy="a scheduler has the workers it has: leave --workers out")
        if self.workers is not None and self.workers < 1:
            raise OptionError(counted(self.workers, "worker"), expected="at least 1", remedy="give --workers again")

    @property
    def share(self) -> int | None:
        """Bytes of one worker; None where it is not known."""
        if self.memory is not None or self.scheduler is not None:
            return self.memory
        return int(optional("distributed").system.MEMORY_LIMIT) // (self.workers or 1)


@dataclass(frozen=True)
class Task:
    """One call for a worker.

    Parameters
    ----------
    owner : int
        Number of the image it belongs to.
    name : str
        For messages.
    function : callable
        Of a module, so that workers can import it.
    arguments : tuple
        Paths and numbers.
    key : int
        Of this task alone, for who gave it.
    """

    owner: int
    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    key: int = 0


class Agenda(Protocol):
    """Where tasks come from."""

    def take(self) -> Task | None:
        """The next task that can be done now, if there is one."""
        ...


class Crew(Protocol):
    """Whoever carries out tasks."""

    def results(self, agenda: Agenda, claim: Claim,
                stop: Callable[[], bool]) -> Iterator[tuple[Task, Answer] | None]:
        """Carry out what the agenda gives until it gives no more; answers as they come, None while nothing does."""
        ...


class DaskCrew:
    """The workers of one dask scheduler.

    Parameters
    ----------
    client : distributed.Client
    patience : float
        Seconds without any worker after which to give up.
    """

    def __init__(self, client: Any, patience: float) -> None:
        self.client, self.patience = client, patience
        self._looked, self._seen, self._hands = 0.0, time.monotonic(), 0
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._running: dict[Any, Task] = {}
        self._suspects: list[Task] = []

    def results(self, agenda: Agenda, claim: Claim,
                stop: Callable[[], bool]) -> Iterator[tuple[Task, Answer] | None]:
        """Answers as they come; None about twice a second while there is none.

        A task whose worker died is put aside and tried alone at the end, so that a task beside it is not blamed. When
        ``stop`` says so nothing more is begun, what runs ends, and :class:`Stopped` is raised.
        """
        while True:
            self._look()
            while not stop() and len(self._running) < self._hands and (task := agenda.take()) is not None:
                self._begin(task, claim)
            if not self._running and self._suspects and not stop():
                self._begin(self._suspects.pop(), claim, alone=True)
            if not self._running and (stop() or self._hands):
                break
            answered = self._wait()
            yield answered
        if stop():
            raise Stopped("stopped between two tasks", file=claim.folder, remedy="continue with --resume")

    def _begin(self, task: Task, claim: Claim, *, alone: bool = False) -> None:
        key = f"biosegkit-{'alone-' if alone else ''}{next(_numbers)}-{time.time_ns()}"
        future = self.client.submit(carry_out, task.function, task.arguments, claim, key=key, pure=False)
        self._running[future] = task
        future.add_done_callback(self._answers.put)

    def _wait(self) -> tuple[Task, Answer] | None:
        """The next answer, if one comes soon."""
        try:
            future = self._answers.get(timeout=0.5)
        except queue.Empty:
            return None
        task = self._running.pop(future, None)
        if task is None:  # told twice
            return None
        if future.status == "finished":
            answer: Answer = future.result()
            return task, answer
        if future.status == "cancelled" or self.client.status != "running":
            raise self._gone()
        error = future.exception()
        if type(error).__name__ != "KilledWorker":
            remedy = f". {_SAME}" if isinstance(error, ImportError) else ""
            return task, Answer(None, f"{task.name}: {type(error).__name__}: {error}{remedy}")
        if "-alone-" not in future.key:
            self._suspects.append(task)
            return None
        return task, Answer(None, f"{task.name}: the process died every time, alone as well (killed, out of memory, or "
                            "a crash in a library); give workers more memory (--workers fewer), or leave it out")

    def _look(self) -> None:
        """How many workers there are; nobody for a long time is an error, and never a wait without end (fault P4)."""
        now = time.monotonic()
        if now - self._looked < _LOOK and self._hands:
            return
        self._looked = now
        try:
            self._hands = sum(self.client.nthreads().values())
        except OSError as error:
            raise self._gone() from error
        if self._hands:
            self._seen = now
        elif now - self._seen > self.patience:
            raise FileError(f"no worker for {self.patience:.0f} s", file=_address(self.client),
                            expected="at least one", remedy="start workers, then --resume")
        else:
            time.sleep(0.2)

    def _gone(self) -> BiosegError:
        return FileError("a scheduler that is gone", file=_address(self.client), expected="one that runs to the end",
                         remedy="start it again, then --resume")


@contextmanager
def employ(staff: Staff) -> Iterator[DaskCrew]:
    """Hire a crew, and let it go at the end.

    Raises
    ------
    OptionError
        If the extra ``batch`` is not installed, or there is no scheduler at the address.
    """
    distributed = optional("distributed")
    with ExitStack() as stack:
        if staff.scheduler is not None:
            stack.enter_context(_quiet("distributed.client"))  # what goes wrong is an error with a remedy, said once
            client = stack.enter_context(_joined(distributed, staff.scheduler))
            refuse_others(client.run(metadata.version, "biosegkit", on_error="return"))
            yield DaskCrew(client, PATIENCE[1])
            return
        cluster = stack.enter_context(_hired(distributed, staff))
        client = stack.enter_context(distributed.Client(cluster, set_as_default=False))
        client.register_worker_callbacks(_leave_interrupts)
        yield DaskCrew(client, PATIENCE[0])


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Nothing is logged by this name for a while."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def _joined(distributed: ModuleType, place: str) -> Any:
    """A client of a scheduler that runs somewhere."""
    address = _address_of(distributed, place)
    try:
        return distributed.Client(address, timeout=CONNECT, set_as_default=False)
    except TypeError as error:  # of tls:// without certificates
        raise OptionError(f"no scheduler at {place} ({error})", expected="dask's configuration to name certificates",
                          remedy="set distributed.comm.tls in it, as for the scheduler") from error
    except (OSError, ValueError) as error:
        raise OptionError(f"no scheduler at {place} ({error})", expected=_EXPECTED,
                          remedy="start one with `dask scheduler`") from error


def refuse_others(versions: Mapping[str, Any]) -> None:
    """Refuse workers that could do nothing, before every image fails by them; those that come later answer themselves.

    Parameters
    ----------
    versions : dict
        Of biosegkit, or why there is none, by the address of a worker.

    Raises
    ------
    OptionError
        If one has another version than this process.

    Examples
    --------
    >>> refuse_others({"tcp://10.0.0.2:4001": metadata.version("biosegkit")})
    """
    mine = metadata.version("biosegkit")
    for address, version in versions.items():
        if version != mine:
            found = f"biosegkit {version}" if isinstance(version, str) else "no biosegkit"
            raise OptionError(f"{found} in the worker {address}", expected=f"biosegkit {mine}, as here",
                              remedy=_SAME)


def _address_of(distributed: ModuleType, place: str) -> str:
    """The address that was given, or that a scheduler file names."""
    if not Path(place).is_file() and Path(place).suffix != ".json":
        address = place
    else:
        try:
            address = str(dict(read_json(Path(place)))["address"])
        except (FileError, KeyError, TypeError, ValueError) as error:
            raise OptionError(f"no scheduler file {place} ({error})", expected="the one that a running dask scheduler "
                              "wrote", remedy=f"start one with `dask scheduler --scheduler-file {place}`") from error
    try:
        host, _ = distributed.comm.get_address_host_port(address)
    except ValueError as error:
        raise OptionError(f"no address: {place!r} ({error})", expected=_EXPECTED,
                          remedy="for example --scheduler tcp://host:8786") from error
    if not host:
        raise OptionError(f"no host in {place!r}", expected=_EXPECTED, remedy="for example --scheduler tcp://host:8786")
    return address


@contextmanager
def _hired(distributed: ModuleType, staff: Staff) -> Iterator[Any]:
    """Workers of this machine: one process, one thread and one torch thread each."""
    dask = optional("dask")
    settings = {"scheduler.allowed-failures": DEATHS - 1, "worker.multiprocessing-method": "spawn",
                "worker.memory.target": False, "worker.memory.spill": False, "worker.memory.pause": False,
                "worker.memory.terminate": 0.95, "worker.profile.enabled": False,
                "nanny.pre-spawn-environ": ENVIRONMENT, "admin.tick.interval": _TICK,
                "admin.system-monitor.interval": _MONITOR}
    if sys.platform == "linux":  # the libraries are loaded once, and processes begin in a moment
        settings["worker.multiprocessing-method"] = "forkserver"
    with dask.config.set({f"distributed.{name}": value for name, value in settings.items()}):
        if sys.platform == "linux":
            distributed.utils.get_mp_context().set_forkserver_preload(list(PRELOAD))  # if there was no head start
        count = staff.workers or 1
        cluster = distributed.LocalCluster(
            n_workers=count, threads_per_worker=1, processes=True, security=True,
            dashboard_address="127.0.0.1:0", scheduler_kwargs={"dashboard": False},  # two batches may run side by side
            memory_limit=max(staff.share or 0, int(distributed.system.MEMORY_LIMIT) // count),
            silence_logs=logging.CRITICAL)
        with cluster:
            yield cluster


def _leave_interrupts() -> None:
    """In every worker of this machine: Ctrl-C is for the driver, which lets running tasks end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _address(client: Any) -> str:
    return str(client.scheduler.address) if client.scheduler else "the scheduler"
