"""Run a kernel that frees the interpreter lock over ranges, in plain threads.

numba's own parallel loops need a threading layer that dies when a process forks after using it or when two
threads enter it at once, and loaders do both. Plain threads over disjoint ranges do neither and give the same bytes
for any number of them.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

__all__ = ["spread", "spread_often"]


def spread(kernel: Callable[[int, int], object], count: int, workers: int = 1) -> None:
    """Call ``kernel(lo, hi)`` on disjoint ranges that cover ``0..count``.

    Examples
    --------
    >>> seen = []
    >>> spread(lambda lo, hi: seen.extend(range(lo, hi)), 5, workers=2)
    >>> sorted(seen)
    [0, 1, 2, 3, 4]
    """
    workers = max(1, min(workers, count))
    if workers == 1:
        kernel(0, count)
        return
    edges = [count * k // workers for k in range(workers + 1)]
    with ThreadPoolExecutor(workers) as pool:
        for job in [pool.submit(kernel, lo, hi) for lo, hi in itertools.pairwise(edges)]:
            job.result()


def spread_often(kernel: Callable[[int, int], object], count: int, workers: int = 1) -> None:
    """The same with threads that are kept, for kernels of microseconds; ``kernel`` must not spread anything itself.

    The calling thread takes a range, too. Threads do not survive a fork: a child makes its own.

    Examples
    --------
    >>> seen = []
    >>> spread_often(lambda lo, hi: seen.extend(range(lo, hi)), 5, workers=2)
    >>> sorted(seen)
    [0, 1, 2, 3, 4]
    """
    workers = max(1, min(workers, count))
    edges = [count * k // workers for k in range(workers + 1)]
    jobs = [_kept(os.getpid(), workers).submit(kernel, lo, hi) for lo, hi in itertools.pairwise(edges[1:])]
    kernel(0, edges[1])
    for job in jobs:
        job.result()


@functools.cache
def _kept(process: int, workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, workers - 1), thread_name_prefix="kernel")
