"""Trials of thresholds on cases with a known truth: what agrees with what, without decoding anew where a method can.

A method that knows how (`Counting`) reads every case once and leaves a counter that answers from sparse tables. Others
are asked to resolve and paint for every trial. Both give the same counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from biosegkit.kernels.overlap import Overlaps, overlap_counts
from biosegkit.methods.protocol import Method, State

__all__ = ["DECODING_COST", "Cost", "Costed", "Counter", "Counting", "Held", "Narrowing", "cost_of", "counter_of",
           "decoding_counter"]

#: Overlaps of truth and objects at some thresholds, of each case by itself or of several side by side: only the sums
#: over all matched pairs count.
Counter: TypeAlias = Callable[[Mapping[str, float]], Iterable[Overlaps]]


@dataclass(frozen=True, eq=False)
class Held:
    """One held-back case: the state of its maps, and the truth (0 where ignored counts nowhere)."""

    case: str
    state: State
    truth: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Cost:
    """What a search takes per voxel: ``seconds`` of its whole time, and ``bytes`` that are kept while it runs."""

    seconds: float
    bytes: float


#: About 150 trials of a method that must resolve, paint and compare, at several times the least measured.
DECODING_COST = Cost(seconds=150 * 2.5e-7, bytes=16)


@runtime_checkable
class Narrowing(Protocol):
    """A counter that looks at objects one group after the other: a trial that cannot win is left before its end."""

    def __call__(self, thresholds: Mapping[str, float]) -> Iterable[Overlaps]:
        """Of all objects there are; the end of `narrow`."""
        ...

    def narrow(self, thresholds: Mapping[str, float]) -> Iterator[tuple[Overlaps, Overlaps]]:
        """Overlaps with all objects there may be, and with those there certainly are, until both are the same.

        An object has the same voxels in both, and those there are in the end are among the first and hold the second.
        """
        ...


@runtime_checkable
class Costed(Protocol):
    """A method that knows what a search takes."""

    @property
    def trial_cost(self) -> Cost:
        """Of a search, with its counter if it has one."""
        ...


@runtime_checkable
class Counting(Costed, Protocol):
    """A method that counts without painting."""

    def counter(self, held: Iterable[Held], tried: Mapping[str, Sequence[float]]) -> Counter:
        """Read each case once, one at a time; the counter is asked for no other values than those of ``tried``."""
        ...


def counter_of(method: Method, held: Iterable[Held], tried: Mapping[str, Sequence[float]]) -> Counter:
    """The quickest counter a method has.

    Parameters
    ----------
    method : Method
    held : iterable of Held
        Read once; kept only if the method has no counter of its own.
    tried : dict of str to sequence of float
        Every value that will be asked for, by threshold.
    """
    return method.counter(held, tried) if isinstance(method, Counting) else decoding_counter(method, held)


def cost_of(method: Method) -> Cost:
    """What a search with the method's counter takes.

    Examples
    --------
    >>> from biosegkit.methods import Distance, Semantic
    >>> cost_of(Distance()).seconds > cost_of(Semantic(2)).seconds
    True
    """
    return method.trial_cost if isinstance(method, Costed) else DECODING_COST


def decoding_counter(method: Method, held: Iterable[Held]) -> Counter:
    """Resolve, paint and compare for every trial: what any method can."""
    cases = list(held)

    def count(thresholds: Mapping[str, float]) -> Iterator[Overlaps]:
        for case in cases:
            labels, _ = method.paint(case.state, method.resolve([case.state], thresholds))
            yield overlap_counts(case.truth, labels, case.valid)

    return count
