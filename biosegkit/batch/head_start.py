"""The process that workers of this machine are forked from, begun before anything heavy is imported here.

It loads the libraries of the workers on another core while this process loads its own: of a batch of few images that is
a good part of the time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

__all__ = ["ENVIRONMENT", "PRELOAD", "head_start"]

#: What workers need, loaded once for all of them.
PRELOAD = ("distributed", "biosegkit.batch.warmed")
#: Of the processes of workers. Dask would set ``MALLOC_TRIM_THRESHOLD_`` as well, by which every map of a network is
#: given back to the system and zeroed again: a sixth of the time, and more with two workers, who wait for the memory.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def head_start(preload: Sequence[str] = PRELOAD) -> None:
    """Begin the process, if this is Linux and none was begun; it ends with this one, whatever it is about.

    Parameters
    ----------
    preload : sequence of str
        Modules that it loads.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return
    from multiprocessing import forkserver

    forkserver.set_forkserver_preload(["biosegkit.batch.orphaned", *preload])
    with _environment(ENVIRONMENT), _interrupts_left():
        forkserver.ensure_running()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables for the time being."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _interrupts_left() -> Iterator[None]:
    """A process begun here does not hear Ctrl-C, which is for its parent."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
