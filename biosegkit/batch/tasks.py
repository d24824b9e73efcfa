"""What runs in a worker process: one call, given paths and numbers, that never takes the worker down with it.

A worker opens its own files and loads the model once; its answers are small.
"""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from biosegkit.errors import BiosegError, FileError, PlanError
from biosegkit.inputs import Job
from biosegkit.io.formats import remote_url
from biosegkit.predictor import Predictor
from biosegkit.records import Outcome, Wish

__all__ = ["Answer", "Claim", "Errand", "Opening", "absolute", "carry_out", "image_task", "open_model",
           "opened"]


@dataclass(frozen=True)
class Claim:
    """Who works in the output folder, so that a worker whose batch is gone writes nothing more (fault F8).

    Parameters
    ----------
    folder : str
        Of the outputs.
    holder : str
        What its lock says.
    version : str
        Of biosegkit.
    """

    folder: str
    holder: str
    version: str = metadata.version("biosegkit")

    def check(self) -> None:
        """Refuse to go on where the folder is not seen, or is another's by now.

        Raises
        ------
        FileError
            With what to do.
        PlanError
            In a worker with another version.
        """
        if self.version != (mine := metadata.version("biosegkit")):
            raise PlanError(f"biosegkit {mine} in a worker", expected=f"biosegkit {self.version}, as where the batch "
                            "was started", remedy="give workers the same environment")
        lock = Path(self.folder) / "lock"
        try:
            found = lock.read_text()
        except OSError as error:
            raise FileError(f"no lock ({error.strerror})", file=lock, expected=f"the one of {self.holder}",
                            remedy="workers and --scheduler must share the disk of the output folder") from error
        if found != self.holder:
            raise FileError(f"a lock of {found}", file=lock, expected=f"the one of {self.holder}",
                            remedy="another batch took the folder over; nothing was written")


@dataclass(frozen=True)
class Opening:
    """How to open a model, in plain words that travel; see :func:`biosegkit.engines.load_model`.

    Parameters
    ----------
    model : str
    device : str
    options : tuple of (str, value)
    depth : str, optional
    digest : str, optional
        Which model it must be.
    """

    model: str
    device: str = "auto"
    options: tuple[tuple[str, Any], ...] = ()
    depth: str | None = None
    digest: str | None = None


@dataclass(frozen=True)
class Answer:
    """What came of one task.

    Parameters
    ----------
    value : object
        What the function gave, if it gave anything.
    error, trace : str
        Why it did not, and where in the code.
    seconds : float
    worker : str
        Host and process.
    """

    value: Any = None
    error: str | None = None
    trace: str = ""
    seconds: float = 0.0
    worker: str = ""


@dataclass(frozen=True)
class Errand:
    """What all images of a batch have in common; it travels to the workers.

    Parameters
    ----------
    opening : Opening
    wish : Wish
    claim : Claim
    resume : bool
        Keep outputs that are made from the same.
    """

    opening: Opening
    wish: Wish
    claim: Claim
    resume: bool = False


def open_model(opening: Opening) -> Predictor:
    """Load the model.

    Raises
    ------
    PlanError
        If it is another one than ``digest`` says.
    """
    from biosegkit.engines import load_model

    model = load_model(opening.model, opening.device, dict(opening.options), depth=opening.depth)
    found = getattr(model, "digest", None)
    if opening.digest is not None and found != opening.digest:
        raise PlanError(f"model {found}", file=opening.model, expected=f"{opening.digest}, as when the batch began",
                        remedy="leave a model alone while a batch uses it; --resume does what is left")
    return model


#: The model of this worker, loaded once.
opened = lru_cache(maxsize=1)(open_model)


def carry_out(function: Callable[..., Any], arguments: tuple[Any, ...], claim: Claim) -> Answer:
    """Call a function in a worker, on one thread; whatever goes wrong is the answer (faults P4, F8)."""
    import torch

    started, worker = time.monotonic(), f"{socket.gethostname()}:{os.getpid()}"
    try:
        torch.set_num_threads(1)
        claim.check()
        return Answer(function(*arguments), None, "", time.monotonic() - started, worker)
    except Exception as error:  # noqa: BLE001 - the worker serves other images; the driver records it
        text = str(error) if isinstance(error, BiosegError) else f"{type(error).__name__}: {error}"
        return Answer(None, text, traceback.format_exc(), time.monotonic() - started, worker)


def image_task(errand: Errand, job: Job, states: Path | None) -> Outcome:
    """Segment one ordinary image."""
    from biosegkit.predict import predict_file

    return predict_file(opened(errand.opening), job, errand.wish, states, resume=errand.resume,
                        check=errand.claim.check)


def absolute(job: Job) -> Job:
    """The same job for a process that stands in another folder."""
    images = tuple(path if remote_url(path) else path.absolute() for path in job.images)
    return replace(job, images=images, output=job.output.absolute())
