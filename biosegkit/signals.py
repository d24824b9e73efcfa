"""Ctrl-C and SIGTERM while something is being written: the write ends, then the signal takes effect (fault P8)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["finish_first"]


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
