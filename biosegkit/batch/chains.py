"""What is done with one image, step by step; see :mod:`biosegkit.batch.agenda`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from biosegkit.inputs import Job
from biosegkit.kept_states import KEPT, NOT_RUN
from biosegkit.records import Outcome

from .agenda import Call, Chain
from .giant import GiantJob
from .giants import Begun, Stages, begin, finish
from .tasks import Errand, image_task

__all__ = ["in_blocks", "whole"]


def whole(errand: Errand, job: Job, states: Path | None = None) -> Chain:
    """An ordinary image: one call."""
    outcomes: list[Outcome] = yield [Call("image", image_task, (errand, job, states))]
    return outcomes[0]


def in_blocks(errand: Errand, job: Job, task: GiantJob, stages: Stages) -> Chain:
    """A giant image: a call per group of blocks and per box of the labels, with decisions between."""
    begun: Outcome | Begun
    (begun,) = yield [Call("begin", begin, (errand, job, task))]
    if isinstance(begun, Outcome):
        return begun
    (steps,) = yield [Call("prepare", stages.prepare, (begun.task,))]
    made: list[int] = yield [Call("infer", stages.infer, (begun.task, group), group) for group in steps.groups]
    yield [Call("resolve", stages.resolve, (begun.task,))]
    yield [Call("paint", stages.paint, (begun.task, box), box) for box in steps.boxes]
    outcomes: list[Outcome] = yield [Call("finish", finish, (errand, job, begun, stages.finish))]
    said = (KEPT if sum(made) else NOT_RUN,) if task.states else ()
    return replace(outcomes[0], notes=(*outcomes[0].notes, *said))
