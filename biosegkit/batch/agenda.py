"""What is to be done next: every image is a chain of steps, the calls of one step may run side by side.

A chain is a generator: it yields the calls of a step, gets their values, and returns the outcome of its image.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from biosegkit.records import Outcome

from .engine import Task
from .tasks import Answer

__all__ = ["Call", "Chain", "Chains"]


@dataclass(frozen=True)
class Call:
    """One call of a step.

    Parameters
    ----------
    step : str
        What is done, for messages and the ledger.
    function : callable
    arguments : tuple
    number : int, optional
        Of the block; None where the step is about the whole image.
    """

    step: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    number: int | None = None


#: Steps of one image: yields calls, is sent their values in the same order, returns what became of the image. The
#: first step has a call; a later one without any is passed over.
Chain = Generator[Sequence[Call], list[Any], Outcome]


@dataclass
class _Open:
    """An image that was begun."""

    chain: Chain
    ready: deque[int] = field(default_factory=deque)
    calls: Sequence[Call] = ()
    values: list[Any] = field(default_factory=list)
    missing: int = 0
    running: int = 0
    failure: Answer | None = None
    inferred: bool = False

    @property
    def in_blocks(self) -> bool:
        """Whether the step is about blocks."""
        return bool(self.calls) and self.calls[0].number is not None

    @property
    def share(self) -> float:
        """How much of the work is done; the first step about blocks is nearly all of it."""
        if self.inferred:
            return 1.0
        return 1 - self.missing / len(self.calls) if self.in_blocks else 0.0


class Chains:
    """Images one after the other, their blocks interleaved.

    The next image is begun when those before it have nothing to give to a worker that is free, and never more than
    ``most`` at a time, since the work of an image that was begun takes space on the disk.

    Parameters
    ----------
    chains : sequence of Chain
        One per image.
    names : sequence of str
        Of the images, for messages.
    most : int
        Images that may be open at a time.
    begun : callable, optional
        Called with the number of an image when it begins.
    order : sequence of int, optional
        In which images are begun; as they are given if left out.

    Examples
    --------
    >>> def chain(name):
    ...     (count,) = yield [Call("count", len, (name,))]
    ...     letters = yield [Call("letter", name.upper().__getitem__, (k,), k) for k in range(count)]
    ...     return Outcome(name, "".join(letters), "done")
    >>> agenda, ends = Chains([chain("ab"), chain("c")], ["ab", "c"]), []
    >>> while (task := agenda.take()) is not None:
    ...     ended = agenda.answer(task, Answer(task.function(*task.arguments)))
    ...     ends += [] if ended is None else [ended.output]
    >>> ends
    ['AB', 'C']
    """

    def __init__(self, chains: Sequence[Chain], names: Sequence[str], most: int = 4,
                 begun: Callable[[int], None] | None = None, order: Sequence[int] | None = None) -> None:
        self._waiting = deque((number, chains[number]) for number in order or range(len(chains)))
        self._names, self._most, self._begun = names, most, begun
        self._open: dict[int, _Open] = {}
        self._calls: dict[int, tuple[int, int]] = {}  # key of a task → image, place in its step
        self._keys = itertools.count()

    def take(self) -> Task | None:
        """The next call that can be made now."""
        for number, image in self._open.items():
            if image.ready:
                return self._task(number, image)
        while self._waiting and len(self._open) < self._most:
            number, chain = self._waiting.popleft()
            image = self._open[number] = _Open(chain)
            if self._begun:
                self._begun(number)
            self._next(number, image, None)
            if image.ready:
                return self._task(number, image)
        return None

    def answer(self, task: Task, answer: Answer) -> Outcome | Answer | None:
        """Take an answer; the outcome of its image if that is over, or the first error that ended it."""
        image, (_, place) = self._open[task.owner], self._calls.pop(task.key)
        image.running -= 1
        image.missing -= 1
        if answer.error is not None:
            image.failure = image.failure or answer
            image.ready.clear()
        else:
            image.values[place] = answer.value
        if image.failure is not None:
            if image.running:
                return None
            image.chain.close()
            del self._open[task.owner]
            return image.failure
        return self._next(task.owner, image, image.values) if not image.missing else None

    def call_of(self, task: Task) -> Call:
        """The call that a task was made of; until it is answered."""
        number, place = self._calls[task.key]
        return self._open[number].calls[place]

    @property
    def blocks(self) -> tuple[int, int]:
        """Calls about blocks in the current steps of open images: over, and all."""
        counted = [image for image in self._open.values() if image.in_blocks]
        return sum(len(i.calls) - i.missing for i in counted), sum(len(i.calls) for i in counted)

    @property
    def shares(self) -> dict[int, float]:
        """How much of the work is done, by the number of an open image."""
        return {number: image.share for number, image in self._open.items()}

    def _task(self, number: int, image: _Open) -> Task:
        place = image.ready.popleft()
        call = image.calls[place]
        image.running += 1
        name = self._names[number] if call.number is None else f"{self._names[number]}, {call.step} {call.number}"
        task = Task(number, name, call.function, call.arguments, next(self._keys))
        self._calls[task.key] = (number, place)
        return task

    def _next(self, number: int, image: _Open, values: list[Any] | None) -> Outcome | None:
        """Go on to the next step of an image; its outcome if there is none."""
        image.inferred |= image.in_blocks
        try:
            image.calls = next(image.chain) if values is None else image.chain.send(values)
            while not image.calls:
                image.calls = image.chain.send([])
        except StopIteration as end:
            del self._open[number]
            outcome: Outcome = end.value
            return outcome
        image.values, image.missing = [None] * len(image.calls), len(image.calls)
        image.ready.extend(range(len(image.calls)))
        return None
