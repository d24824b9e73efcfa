"""Tasks that go wrong in a worker process, and a crew without processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from biosegkit.batch.tasks import carry_out, image_task
from biosegkit.errors import Stopped


def dying_image_task(errand, job, states):
    """An image named ``killer`` kills its worker every time, ``once`` the first time; others are done."""
    if job.name == "once":
        marker = Path(job.images[0]).with_suffix(".died")
        if marker.exists():
            return image_task(errand, job, states)
        marker.write_text("")
    if job.name in ("killer", "once"):
        os.kill(os.getpid(), signal.SIGKILL)
    return image_task(errand, job, states)


def limit_files(size):
    """Files of the worker may have so many bytes: the disk is full for larger ones; the limit before."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    return before


class Alone:
    """A crew without processes; ``crash`` answers tell it where to break off."""

    def __init__(self, crash=None):
        self.crash = crash

    def results(self, agenda, claim, stop):
        count = 0
        while not stop() and (task := agenda.take()) is not None:
            if count == self.crash:
                raise KeyboardInterrupt
            yield task, carry_out(task.function, task.arguments, claim)
            count += 1
        if stop():
            raise Stopped("stopped between two tasks")
