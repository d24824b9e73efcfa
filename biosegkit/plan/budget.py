"""Time and memory as inputs: width, batch and steps from measured probes. Pure: probes come in as data.

The balance follows from short-budget evidence: below about a thousand steps nothing converges, beyond a few
thousand a wider network is worth more than more steps; so both grow with the square root of the time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from biosegkit.plan.networks import NETWORKS, width_for
from biosegkit.plan.schema import Decision, Training

__all__ = ["Allowance", "Probe", "budget_for", "by_processes", "members_for", "next_width", "steps_between_validations",
           "steps_for", "wanted_steps", "widths_of", "with_workers"]

#: Visits of a case in one orientation up to which one network gains from more steps. On hippocampus the Dice of
#: held-back patches was best between 15 and 20 of 38 visits. With 105 training cases for training and 35 others for the
#: score three networks of five minutes reached 0.885 and HD95 1.5 mm (each alone 0.877 to 0.880), one of fifteen 0.883
#: and 2.7 mm: the lower end is taken, so that fifteen minutes are three networks there.
VISITS = 16
#: The same where images are bent in half of the patches: on hippocampus one network of 3000 steps (53 visits) had Dice
#: 0.894 on held-back training cases, three of 1500 steps together 0.892.
BENT_VISITS = 50
MOST_MEMBERS = 5
#: Processes that make batches for a GPU, at most. They are processes because threads share the interpreter with the one
#: that starts the GPU's kernels, which got 0.66 of its speed beside one such thread and 0.13 beside four (two cores, no
#: GPU).
MOST_WORKERS = 12
#: Threads that make batches, at most: they share the interpreter with the thread that trains.
MOST_THREADS = 6
#: Seconds of a budget below which threads make the batches for a GPU: a dozen processes take some 10 s to start, and
#: what they import is in the way of a training that has a minute.
PROCESSES_FROM = 120
#: Least time for each of several networks: less was not measured to pay, and on the demo's phantom five networks of
#: twenty seconds reached Dice 0.72 where one had reached 0.83.
MEMBER_SECONDS = 300
#: Seconds below which the narrowest network is measured first: measuring a wide one would take a good part of them.
SHORT = 150
#: Least steps of a training that is worth its time, and how often and for what share of it the live score is taken.
WORTH_STEPS, VALIDATIONS, WATCHING = 100, 20, 0.04
WIDTHS = (8, 12, 16, 20, 24, 32)
#: Steps wanted in four minutes of training, by number of axes (a 2D batch holds about half the voxels of a 3D one).
STEPS_IN_FOUR_MINUTES = {2: 2400, 3: 1100}
#: Voxels of the 2D batch that this holds for, and of the least one: of batches between them more are wanted, the
#: arithmetic being equal.
USUAL_BATCH, LEAST_BATCH = 77_000, 36_864


@dataclass(frozen=True)
class Probe:
    """What one width costs: seconds per training step and per forward pass of a patch, and peak memory in bytes."""

    width: int
    step_seconds: float
    patch_seconds: float
    peak: int


@dataclass(frozen=True)
class Allowance:
    """How the budget of one fold is spent, in seconds."""

    total: float
    before: float
    validation: float
    closing: float

    @property
    def left(self) -> float:
        """What is left for steps, 1 % unspent; less than zero where all else takes longer than there is time."""
        return 0.99 * self.total - self.before - self.validation - self.closing

    @property
    def training(self) -> float:
        """The same, a second at least."""
        return max(1.0, self.left)


def wanted_steps(seconds: float, ndim: int = 3, voxels: int = USUAL_BATCH) -> int:
    """Steps to aim at in a training of this length, with so many voxels in a step (in 2D).

    Examples
    --------
    >>> wanted_steps(240), wanted_steps(960), wanted_steps(240, 2), wanted_steps(240, 2, voxels=38_500)
    (1100, 2200, 2400, 4800)
    """
    more = max(1.0, USUAL_BATCH / max(voxels, LEAST_BATCH)) if ndim == 2 else 1.0
    return max(100, round(more * STEPS_IN_FOUR_MINUTES[ndim] * math.sqrt(seconds / 240)))


def widths_of(network: str) -> tuple[int, ...]:
    """The widths to choose from; none for a network whose widths are its own.

    Examples
    --------
    >>> widths_of("swinunetr"), widths_of("fpn")
    ((12, 24), ())
    """
    return tuple(w for w in WIDTHS if width_for(network, w) == w) if NETWORKS[network].width_step else ()


def next_width(probes: Sequence[Probe], seconds: float, memory: int, ndim: int = 3,
               widths: Sequence[int] = WIDTHS, voxels: int = USUAL_BATCH) -> int | None:
    """The width to probe next, or None when the widest of ``widths`` that fits time and memory is among the probes.

    Time is taken to grow with width to the power 1.3 (measured: below 2, as narrow layers are bound by memory
    traffic), so two probes usually settle it.
    """
    known = {p.width: p for p in probes}
    if not known:
        return 16 if seconds >= SHORT else widths[0]
    last = probes[-1]
    goal = seconds / wanted_steps(seconds, ndim, voxels)

    def expected(width: int) -> float:
        return known[width].step_seconds if width in known else last.step_seconds * (width / last.width) ** 1.3

    fitting = [w for w in widths if expected(w) <= goal and (w not in known or known[w].peak <= memory)]
    best = max(fitting) if fitting else widths[0]
    return None if best in known else best


def chosen(probes: Sequence[Probe], seconds: float, memory: int, ndim: int = 3,
           voxels: int = USUAL_BATCH) -> Probe:
    """The widest probe that allows the wanted steps within memory; the narrowest if none does."""
    goal = seconds / wanted_steps(seconds, ndim, voxels)
    fitting = [p for p in probes if p.step_seconds <= goal and p.peak <= memory]
    return max(fitting, key=lambda p: p.width) if fitting else min(probes, key=lambda p: p.width)


def members_for(visits: float, seconds: float, bent: bool = False) -> int:
    """How many networks to share a budget among, so that none sees its cases much more often than it gains from.

    Steps, and so visits, grow with the square root of the time (`wanted_steps`).

    Parameters
    ----------
    visits : float
        Visits of every case, in one of the orientations it can be mirrored to, if one network took all the time.
    seconds : float
        The whole time.
    bent : bool
        Whether images are bent: ``BENT_VISITS`` in place of ``VISITS``.

    Examples
    --------
    >>> [members_for(v, 3600) for v in (5, 16, 22, 200)], members_for(200, 120)
    ([1, 1, 2, 5], 1)
    """
    wanted = round((visits / (BENT_VISITS if bent else VISITS)) ** 2)
    return max(1, min(MOST_MEMBERS, wanted, int(seconds / MEMBER_SECONDS)))


def budget_for(spent: Allowance, step_seconds: float) -> float:
    """Seconds that leave enough steps for a model, all else being as it is.

    Examples
    --------
    >>> round(budget_for(Allowance(total=30, before=25, validation=6, closing=5), step_seconds=0.5), 1)
    89.4
    """
    needed = spent.before + spent.validation + spent.closing + 1.05 * WORTH_STEPS * step_seconds
    return needed / 0.99


def steps_between_validations(steps: int, cost: Probe, patches: int) -> int:
    """Steps from one live score to the next: twenty scores in a training, fewer if they took more than 4 % of it.

    Parameters
    ----------
    steps : int
        Of the whole training.
    cost : Probe
        Seconds per step and per patch.
    patches : int
        Patches that one live score looks at.

    Examples
    --------
    >>> fast = Probe(width=8, step_seconds=1.0, patch_seconds=0.05, peak=0)
    >>> steps_between_validations(2000, fast, 8), steps_between_validations(65, fast, 8)
    (100, 11)
    """
    share = WATCHING * steps * cost.step_seconds / max(1e-9, patches * cost.patch_seconds)
    return max(1, math.ceil(steps / max(1, min(VALIDATIONS, int(share)))))


def steps_for(seconds: float, step_seconds: float) -> int:
    """Steps that fit, with 5 % for checkpoints and live validation; at least one."""
    return max(1, int(seconds / (1.05 * step_seconds)))


def by_processes(budget: float | None) -> bool:
    """Whether processes make the batches for a GPU; threads do where the budget, in seconds, is short.

    Examples
    --------
    >>> by_processes(None), by_processes(900), by_processes(60)
    (True, True, False)
    """
    return budget is None or budget >= PROCESSES_FROM


def with_workers(training: Training, cores: int, cost: Probe, batch_seconds: float,
                 budget: float | None = None) -> tuple[Training, Probe, Decision]:
    """Who makes batches while a GPU computes, one core left to it; on a CPU they would take its cores.

    Parameters
    ----------
    training : Training
    cores : int
        That may be used.
    cost : Probe
        Of a step whose batch is there.
    batch_seconds : float
        In which one core makes a batch.
    budget : float, optional
        Seconds of the whole training: `by_processes` says what the makers are.

    Returns
    -------
    training : Training
    cost : Probe
        A step takes no less time than all makers together need for a batch.
    decision : Decision

    Examples
    --------
    >>> found, cost, _ = with_workers(Training(steps=10), 5, Probe(32, 0.04, 0.01, 0), 0.2)
    >>> found.workers, cost.step_seconds
    (4, 0.05)
    """
    most, makers = (MOST_WORKERS, "processes") if by_processes(budget) else (MOST_THREADS, "threads")
    workers = max(1, min(most, cores - 1))
    paced = replace(cost, step_seconds=max(cost.step_seconds, batch_seconds / workers))
    decision = Decision(name="workers", value=str(workers), reason=(
        f"{makers} make batches while the GPU computes: a step takes {cost.step_seconds * 1e3:.0f} ms, a batch of "
        f"noise on one core {batch_seconds * 1e3:.0f} ms"))
    return training.model_copy(update={"workers": workers}), paced, decision
