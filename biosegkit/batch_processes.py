"""Batches made by processes, for a GPU: threads that make them hold up the one that starts the GPU's kernels.

A process is a fresh interpreter that is told its job and its steps in lines of JSON: no fork of this one, which holds
the device, and no second run of the user's script. All processes share one copy of the samples, and each hands its
batches over in memory that it shares with this one. A batch is the same bytes whoever makes it, so threads of this
process make the first ones, while the others start, and every one that a process could not make; thereby an error in it
is raised here, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from typing import Any

import psutil
import torch
from torch import Tensor

from ._words import counted
from .batch_worker import Memory, array_at, copy_samples, places_of
from .methods.protocol import Method
from .patches import Batch, Sample, ahead, batches, make_batch
from .plan.budget import MOST_THREADS, by_processes
from .plan.schema import Plan
from .segmenter import method_of

__all__ = ["batches_by_processes", "batches_for"]

#: Bytes of free memory for each process: what libraries and a batch take of it.
_EACH = 1 << 30
#: Share of the free memory that the copy of the samples may take.
_SHARED = 0.5
#: Of the processes: none has threads beside its own, and none sees the device, which training holds.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1",
                "CUDA_VISIBLE_DEVICES": ""}
#: What a process runs, with the same places to import from as this one has.
_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from biosegkit.batch_worker import work; work()"


def batches_for(device: torch.device, samples: Sequence[Sample], plan: Plan, method: Method,
                start: int) -> Generator[Batch, None, None]:
    """Batches of steps ``start``, ``start + 1``, … for ever, the same bytes on every device.

    They are made by processes for a CUDA device, and come in pinned memory; else as `biosegkit.patches.batches` has it.
    A process knows only the method of the plan: for another one there are threads, as for a budget below two minutes.
    """
    able = bool(sys.executable) and not getattr(sys, "frozen", False) and method == method_of(plan)
    if device.type == "cuda" and plan.training.workers and able and by_processes(plan.budget.seconds):
        return batches_by_processes(samples, plan, method, start, pinned=True)
    return batches(samples, plan, method, start)


def batches_by_processes(samples: Sequence[Sample], plan: Plan, method: Method, start: int, *,
                         pinned: bool = False) -> Generator[Batch, None, None]:
    """The same made by as many processes as the plan has workers, fewer where memory is short; closing it ends them.

    Parameters
    ----------
    samples, plan, method, start
        As of `biosegkit.patches.batches`; the method is the plan's.
    pinned : bool
        Whether batches are to lie in memory that a CUDA device reads by itself.
    """
    crew = _Crew(samples, plan, method, start, pinned)
    try:
        yield from ahead(crew.make, plan.training.workers, start, crew.stop)
    finally:
        crew.close()


class _Crew:
    """The processes, and threads of this one in their place: who has nothing to do is in a queue, a thread as None."""

    def __init__(self, samples: Sequence[Sample], plan: Plan, method: Method, start: int, pinned: bool) -> None:
        self._here, self._pinned = partial(make_batch, samples, plan, method), pinned
        self._callers = self._wanted = plan.training.workers
        self._threads, self._at_work, self._stopped = 0, 0, False
        self._members: list[_Member] = []
        self._notes: list[str] = []
        self._idle: SimpleQueue[_Member | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._fill()
        self._starter = threading.Thread(target=self._start, args=(samples, plan, start), daemon=True)
        self._starter.start()

    def make(self, step: int) -> Batch:
        """The batch of a step, by who is free first."""
        member = self._idle.get()
        if self._stopped:
            raise CancelledError
        try:
            batch = None if member is None else member.batch(step, self._pinned)
            if batch is None:
                batch = _copied(self._here(step), pinned=self._pinned)
        finally:
            self._free(member)
        with self._lock:
            notes, self._notes = tuple(self._notes), []
        return replace(batch, notes=notes) if notes else batch

    def stop(self) -> None:
        """End every process; who waits for one is told that there is none."""
        with self._lock:
            self._stopped = True
            for member in self._members:
                member.process.kill()
        for _ in range(self._callers):
            self._idle.put(None)

    def close(self) -> None:
        """Wait until all have ended and give back what they shared, when no one waits for them any more."""
        self.stop()
        self._starter.join()
        for member in self._members:
            member.close()

    def _free(self, member: _Member | None) -> None:
        """Back to the queue, unless a process has ended or a thread is not needed any more."""
        if member is not None and member.alive:
            self._idle.put(member)
            return
        ending = "" if member is None or self._stopped else _ending(member.process)
        with self._lock:
            if member is None:
                self._threads -= 1
            else:
                self._at_work -= 1
                self._notes.append(f"a process that made batches has ended ({ending}): "
                                   f"{counted(self._at_work, 'process')} left")
            self._fill()

    def _fill(self) -> None:
        """Threads, while less than half of the processes are at work."""
        wanted = 0 if 2 * self._at_work >= self._wanted else min(MOST_THREADS, self._callers)
        for _ in range(wanted - self._threads):
            self._threads += 1
            self._idle.put(None)

    def _start(self, samples: Sequence[Sample], plan: Plan, start: int) -> None:
        """The same, and a note where it cannot be done."""
        try:
            self._begin(samples, plan, start)
        except (OSError, MemoryError) as error:
            with self._lock:
                self._notes.append(f"threads make the batches, as there are no processes for it: {error}")

    def _begin(self, samples: Sequence[Sample], plan: Plan, start: int) -> None:
        """Begin the processes, share the samples while they load their libraries, and set each to work."""
        places, size = places_of(samples)
        free = psutil.virtual_memory().available
        if size > _SHARED * free:
            raise MemoryError(f"the samples take {size / 2**30:.3g} GB of {free / 2**30:.3g} GB that are free")
        shared = Memory()
        try:
            self._wanted = max(1, min(self._wanted, int((free - size) / _EACH)))
            for _ in range(self._wanted):
                if not self._admit(_Member(shared)):
                    return
            room = shared.room(max(1, size))
            copy_samples(samples, places, room)
            job = {"plan": plan.model_dump_json(), "samples": places, "shared": shared.handle, "size": len(room)}
            for member in self._members:
                member.send(json.dumps(job | {"memory": member.memory.handle}))
                member.send(str(start))  # a batch that no one takes: by it kernels are loaded
            for member in self._members:
                if member.answer() is not None and not self._stopped:
                    with self._lock:
                        self._at_work += 1
                        self._idle.put(member)
        finally:
            shared.close()
        if not self._at_work and not self._stopped:
            raise OSError(f"{counted(len(self._members), 'process')} of {sys.executable} ended at once "
                          f"({_ending(self._members[0].process)})")

    def _admit(self, member: _Member) -> bool:
        """Whether there is use for one more; it is ended with the others."""
        with self._lock:
            self._members.append(member)
            if self._stopped:
                member.process.kill()
            return not self._stopped


class _Member:
    """One process, seen from here."""

    def __init__(self, shared: Memory) -> None:
        self.memory, self.alive = Memory(), True
        own: dict[str, Any] = {"start_new_session": True} if os.name != "nt" else {
            "creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
            | getattr(subprocess, "CREATE_NO_WINDOW", 0)}
        self.process = subprocess.Popen(  # noqa: S603 - this very program; Ctrl-C is for this process
            [sys.executable, "-P", "-W", "ignore", "-c", _PROGRAM, json.dumps(sys.path)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env=os.environ | _ENVIRONMENT,
            pass_fds=[m.handle for m in (shared, self.memory) if isinstance(m.handle, int)], **own)

    def send(self, line: str) -> None:
        """Write a line; one that has ended does not hear it, which its answer shows."""
        if self.process.stdin is not None:
            with suppress(OSError, ValueError):
                self.process.stdin.write(line.encode() + b"\n")
                self.process.stdin.flush()

    def answer(self) -> dict[str, Any] | None:
        """Its answer to a step; None if it has ended."""
        line = b""
        if self.process.stdout is not None:
            with suppress(OSError, ValueError):
                line = self.process.stdout.readline()
        self.alive = line.endswith(b"\n")
        return json.loads(line) if self.alive else None

    def batch(self, step: int, pinned: bool) -> Batch | None:
        """The batch of a step; None if it could not make it."""
        self.send(str(step))
        said = self.answer()
        if said is None or "failed" in said:
            return None
        room = self.memory.room(said["size"])
        tensors = {name: {k: torch.from_numpy(array_at(place, room)) for k, place in said[name].items()}
                   for name in ("image", "targets", "weights")}
        # A copy, as the next batch comes to the same place.
        return _copied(Batch(tensors["image"][""], tensors["targets"], tensors["weights"], tuple(said["cases"])),
                       pinned=pinned, anew=True)

    def close(self) -> None:
        """End it, if it has not ended."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        self.memory.close()


def _copied(batch: Batch, *, pinned: bool, anew: bool = False) -> Batch:
    """The batch in pinned memory; else as it is, or a copy where one is needed."""
    def one(tensor: Tensor) -> Tensor:
        return tensor.pin_memory() if pinned else tensor.clone() if anew else tensor

    return Batch(one(batch.image), {k: one(v) for k, v in batch.targets.items()},
                 {k: one(v) for k, v in batch.weights.items()}, batch.cases)


def _ending(process: subprocess.Popen[bytes]) -> str:
    """How a process ended."""
    with suppress(subprocess.TimeoutExpired):
        code = process.wait(5)
        return f"signal {-code}" if code < 0 else f"exit code {code}"
    return "its output was closed"
