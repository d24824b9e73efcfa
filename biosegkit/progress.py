"""How far work is, for whoever watches: flows tick once per tile, and nobody pays where nobody watches.

The watcher is a matter of the thread (a context variable), so that no function between a flow and its innermost loop
has to hand a callback on, and two images segmented at once do not report to each other. A watcher that raises
:class:`biosegkit.errors.Cancelled` ends the work within one tile; nothing is written and no half result is returned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

__all__ = ["Watcher", "counted", "tick", "watched"]

#: Called with how many are done, of how many, and what they are.
Watcher = Callable[[int, int, str], None]
Item = TypeVar("Item")

_WATCHER: ContextVar[Watcher | None] = ContextVar("biosegkit_watcher", default=None)


@contextmanager
def watched(callback: Watcher) -> Iterator[None]:
    """Report what happens in this block, in this thread, to a callback.

    Parameters
    ----------
    callback : callable
        Takes done, total and stage. What it raises ends the work; raise ``Cancelled`` to cancel it.

    Examples
    --------
    >>> seen = []
    >>> with watched(lambda done, total, stage: seen.append(f"{stage} {done}/{total}")):
    ...     tick(1, 2, "tiles")
    >>> tick(2, 2, "tiles")
    >>> seen
    ['tiles 1/2']
    """
    token = _WATCHER.set(callback)
    try:
        yield
    finally:
        _WATCHER.reset(token)


def tick(done: int, total: int, stage: str) -> None:
    """Say that so many of so many are done; nothing happens if nobody watches.

    Parameters
    ----------
    done, total : int
    stage : str
        What is counted, in a word for people: ``"tiles"``.
    """
    watcher = _WATCHER.get()
    if watcher is not None:
        watcher(done, total, stage)


def counted(items: Iterable[Item], total: int, stage: str, each: int = 1) -> Iterator[Item]:
    """The items, with a tick before each and one after the last.

    Parameters
    ----------
    items : iterable
    total : int
        How many things there are in all.
    stage : str
    each : int
        Things per item; the last item may hold fewer.

    Examples
    --------
    >>> seen = []
    >>> with watched(lambda done, total, stage: seen.append(done)):
    ...     batches = list(counted([(0, 1), (2,)], 3, "tiles", each=2))
    >>> seen
    [0, 2, 3]
    """
    done = 0
    for item in items:
        tick(min(done, total), total, stage)
        yield item
        done += each
    tick(min(done, total), total, stage)
