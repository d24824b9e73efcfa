"""What is done with one image, step by step; see :mod:`biosegkit.batch.agenda`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biosegkit.inputs import Job
from biosegkit.records import Outcome, Wish

from .agenda import Call, Chain
from .tasks import Claim, Opening, image_task

__all__ = ["Errand", "whole"]


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


def whole(errand: Errand, job: Job, states: Path | None = None) -> Chain:
    """An ordinary image: one call."""
    arguments: tuple[Any, ...] = (errand.opening, job, errand.wish, states, errand.resume, errand.claim)
    outcomes: list[Outcome] = yield [Call("image", image_task, arguments)]
    return outcomes[0]
