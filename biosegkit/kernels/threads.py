"""Run a kernel that frees the interpreter lock over ranges, in plain threads.

numba's own parallel loops need a threading layer that dies when a process forks after using it or when two
threads enter it at once, and loaders do both. Plain threads over disjoint ranges do neither and give the same bytes
for any number of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

__all__ = ["spread"]


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
