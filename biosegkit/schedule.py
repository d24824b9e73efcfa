"""How far a training is, and what that means for the learning rate: a pure function of step and revisions.

The planned number of steps can be revised by the clock. Revisions are data: they are written to the checkpoint before
they are used, so that a resumed run walks exactly the same schedule.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from .plan.schema import Training

__all__ = ["Clock", "Pace", "learning_rate"]


@dataclass(frozen=True)
class Pace:
    """Total steps, as first planned and as revised.

    Parameters
    ----------
    revisions : tuple of (int, int)
        ``(step, total)``: from ``step`` on the run ends after ``total`` steps. The first is ``(0, planned)``.

    Examples
    --------
    >>> pace = Pace(((0, 100),)).revised(50, 150)
    >>> pace.total, pace.progress(50), pace.progress(100), pace.progress(150)
    (150, 0.5, 0.75, 1.0)
    """

    revisions: tuple[tuple[int, int], ...]

    @property
    def total(self) -> int:
        """Steps in all, as things stand."""
        return self.revisions[-1][1]

    def progress(self, step: float) -> float:
        """Share of the schedule behind us before ``step``, 0 to 1; continuous over revisions.

        The middle of a step, ``step + 0.5``, decides its rate: so neither the first nor the last step has rate 0.
        """
        done = 0.0
        for i, (start, total) in enumerate(self.revisions):
            end = self.revisions[i + 1][0] if i + 1 < len(self.revisions) else step
            if total > start:
                done += (1 - done) * (min(end, step) - start) / (total - start)
            if end >= step:
                break
        return min(done, 1.0)

    def revised(self, step: int, total: int) -> Pace:
        """The same past, another end."""
        return Pace((*self.revisions, (step, max(total, step + 1))))


def learning_rate(plan: Training, progress: float) -> float:
    """Learning rate at a share of the schedule.

    ``one_cycle`` rises linearly over ``warmup`` and falls as a cosine to ``final_fraction`` of the peak (Smith and
    Topin 2019); a ``warmup`` of 1 only rises. ``poly`` is nnU-Net's ``(1 - progress) ** 0.9``.

    Examples
    --------
    >>> plan = Training(steps=10, learning_rate=1.0, warmup=0.1)
    >>> round(learning_rate(plan, 0.05), 3), learning_rate(plan, 0.1), learning_rate(plan, 1.0)
    (0.5, 1.0, 0.0)
    """
    peak = plan.learning_rate
    if plan.schedule == "poly":
        return float(peak * (1 - progress) ** 0.9)
    if plan.warmup and progress <= plan.warmup:
        return peak * progress / plan.warmup
    fall = (progress - plan.warmup) / (1 - plan.warmup)
    return peak * (plan.final_fraction + (1 - plan.final_fraction) * 0.5 * (1 + math.cos(math.pi * fall)))


@dataclass
class Clock:
    """When training must end, and how long a step takes.

    Parameters
    ----------
    deadline : float, optional
        ``time.monotonic()`` at which the last step must be done; None: no clock.
    after : float
        Seconds planned for what follows: on a machine that is slower than planned they take longer, too.
    planned : float, optional
        Seconds per step as planned.
    beside : float
        Seconds that were spent beside steps, in pauses.
    """

    deadline: float | None
    after: float = 0.0
    planned: float | None = None
    seconds: list[float] = field(default_factory=list)
    beside: float = 0.0
    _last: float | None = None
    _paused: float | None = None
    _began: float = field(default_factory=lambda: time.monotonic())
    _reviewed: float = field(default_factory=lambda: time.monotonic())

    def tick(self) -> None:
        """Note that a step ended now."""
        now = time.monotonic()
        if self._last is not None:
            self.seconds.append(now - self._last)
            del self.seconds[:-200]
        self._last = now

    def pause(self) -> None:
        """What follows (validation, a checkpoint) is not part of a step."""
        self._last, self._paused = None, time.monotonic()

    def resume(self) -> None:
        """Steps go on."""
        self._last = time.monotonic()
        if self._paused is not None:
            self.beside, self._paused = self.beside + self._last - self._paused, None

    def spares(self, share: float) -> bool:
        """Whether a look at the network fits into this share of the time, for what is beside steps; always if no clock.

        A look can take far longer than it was planned to: where the first step of a probe loaded the kernels of a GPU,
        the plan takes steps for slow and looks for cheap.
        """
        return self.deadline is None or self.beside <= share * (time.monotonic() - self._began)

    @property
    def step_seconds(self) -> float:
        """Mean of the recent steps."""
        return sum(self.seconds) / len(self.seconds) if self.seconds else 0.0

    @property
    def is_due(self) -> bool:
        """Whether a review is due by time: a twentieth of the training has passed since the last."""
        if self.deadline is None:
            return False
        return time.monotonic() - self._reviewed >= max(1.0, 0.05 * (self.deadline - self._began))

    def _left(self) -> float:
        """Seconds until the last step; where steps are slower than planned, what follows gets more, half at most."""
        left = (self.deadline or 0.0) - time.monotonic()
        slower = self.step_seconds / self.planned - 1 if self.planned else 0.0
        return left - min(max(0.0, slower) * self.after, 0.5 * max(0.0, left))

    def revise(self, pace: Pace, step: int, overhead: float) -> Pace | None:
        """A new pace if the present one misses the deadline by more than 2 % of what is left, else None.

        ``overhead`` is the share of time spent beside steps (validation patches, checkpoints).
        """
        self._reviewed = time.monotonic()
        # At the end of the pace the rate has come to zero: further steps would change nothing.
        if self.deadline is None or not self.seconds or step >= pace.total:
            return None
        left = self._left()
        if len(self.seconds) < 5 and left > 20 * self.step_seconds:
            return None
        total = step + int(left / (self.step_seconds * (1 + overhead))) if left > 0 else step + 1
        if abs(total - pace.total) <= 0.02 * (pace.total - step) + 1:
            return None
        return pace.revised(step, total)
