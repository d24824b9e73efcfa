"""A child process that trains and kills itself with SIGKILL at a given point.

Children are forked from a server that has the library loaded, so that a kill costs a second and not ten.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path


def killed(kind, point, plan, data, run, timeout=120):
    """Train in a child until it dies; its exit code.

    ``kind`` is ``step`` (before the n-th step of this child) or ``save`` (after the n-th file of its training states
    was moved into place). ``point`` is n.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["biosegkit.train", "torch._dynamo", "killed_child"])
    child = context.Process(target=_train, args=(kind, point, str(plan), str(data), str(run)))
    child.start()
    child.join(timeout)
    if child.is_alive():
        child.kill()
        child.join()
        raise TimeoutError(f"the child was alive after {timeout} s")
    return child.exitcode


def _train(kind, point, plan, data, run):
    import torch

    from biosegkit import loop
    from biosegkit.cases import scan
    from biosegkit.plan.schema import Plan
    from biosegkit.train import fit

    torch.set_num_threads(1)
    count = 0

    def counted(function, before):
        def wrapped(*args, **kwargs):
            nonlocal count
            count += 1
            if count == point and before:
                os.kill(os.getpid(), signal.SIGKILL)
            found = function(*args, **kwargs)
            if count == point:
                os.kill(os.getpid(), signal.SIGKILL)
            return found
        return wrapped

    if kind == "step":
        loop.forward_loss = counted(loop.forward_loss, before=True)
    else:
        save, replace = loop.save, counted(Path.replace, before=False)

        def saving(*args):
            plain, Path.replace = Path.replace, replace
            try:
                save(*args)
            finally:
                Path.replace = plain

        loop.save = saving
    fit(Plan.read(plan), scan(data), run, device="cpu", resume=Path(run).exists())
