"""Ctrl-C and SIGTERM: a write that has begun ends first, work stops where it can be continued (fault P8)."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from .errors import Stopped

__all__ = ["asked_to_stop", "finish_first", "hear_in_own_session"]


@contextmanager
def finish_first() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM until the block ends; elsewhere than in the main thread this does nothing.

    Examples
    --------
    >>> with finish_first():
    ...     pass
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    old = {number: signal.signal(number, lambda n, frame: came.append((n, frame)))
           for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0][0])


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a question that work asks between steps; a second Ctrl-C stops at once.

    The :class:`Stopped` that answers it carries the signal's number, which decides the exit code. In another thread
    than the main one the answer is always no.

    Examples
    --------
    >>> with asked_to_stop() as stop:
    ...     stop()
    False
    """
    asked = threading.Event()
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        came.append(number)
        asked.set()

    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    except Stopped as error:
        error.signal = came[0] if came else error.signal
        raise
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def hear_in_own_session() -> None:
    """Hear SIGINT again in a process that leads a session of its own, as batches and trainings of the viewer do.

    A shell makes what it begins in the background deaf to SIGINT, so that a Ctrl-C for another program does not end it,
    and all that is begun from there stays deaf: Cancel would not be heard if the viewer was begun so. A session of its
    own gets no Ctrl-C of any terminal; a SIGINT there is meant.

    Examples
    --------
    >>> hear_in_own_session()
    """
    if sys.platform != "win32" and signal.getsignal(signal.SIGINT) is signal.SIG_IGN and os.getsid(0) == os.getpid():
        signal.signal(signal.SIGINT, signal.default_int_handler)
