"""Post-processing chosen by what it does on held-back cases; the networks are not asked again.

Classes follow nnU-Net's rule (Isensee et al. 2021): first the largest component of the whole foreground, kept if the
mean Dice rises and that of no class falls; then the largest component of each class or region, where its own Dice
rises; and after the same rule the holes of each class. Objects: what is done with pieces and with holes, by the mean
pooled AP.
Objects at the border are never removed unasked: whether they count is not a matter of accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ._words import counted
from .image import Labels
from .kernels.overlap import overlap_counts
from .metrics.instances import InstanceCounts, count_matches
from .plan.schema import Plan
from .prepared import turn_of
from .tidy import FOREGROUND, Frame, Tidy, TidyClasses, TidyObjects, members, tidy_classes, tidy_objects

__all__ = ["GAIN", "ClassTrials", "ObjectTrials", "TidyChoice", "retidied", "trials_of"]

#: The least rise that is worth a rule which may be wrong on other images.
GAIN = 1e-3
#: Fewer cases choose nothing.
LEAST_CASES = 3
#: IoU thresholds whose mean pooled AP is compared; holes matter at the upper ones.
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)

_SPLITS: tuple[Literal["no", "pieces", "largest"], ...] = ("no", "largest", "pieces")
Trial: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class TidyChoice:
    """What was chosen, the reason, and all trials: name, score before, score after, and whether it is done."""

    tidy: Tidy
    reason: str
    trials: tuple[Trial, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """What differs from doing nothing, as plain data."""
        nothing = asdict(type(self.tidy)())
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self.tidy).items()
                if v != nothing[name]}


def trials_of(plan: Plan, thresholds: Mapping[str, float]) -> ObjectTrials | ClassTrials:
    """What gathers the trials for a plan; ``thresholds`` are those of the model."""
    return ObjectTrials(plan, thresholds) if plan.labels.task == "instance" else ClassTrials(plan)


def retidied(labels: Labels, plan: Plan, tidy: Tidy, min_size: float = 0) -> Labels:
    """Labels that a model predicted, as it would have predicted them with this post-processing.

    Parameters
    ----------
    labels : Labels
        With the classes of the plan, or objects ``1..K``.
    plan : Plan
    tidy : Tidy
    min_size : float
        The model's threshold of this name.
    """
    out = np.array(labels.array)
    view = turn_of(labels.grid, plan).apply(out)
    if isinstance(tidy, TidyClasses):
        view[...] = tidy_classes(view, tidy, plan.labels, _frame(plan, view))
        return replace(labels, array=out)
    view[...] = tidy_objects(view, tidy, _frame(plan, view), min_size=min_size)[0]
    return replace(labels, array=out, values=np.arange(int(out.max(initial=0)) + 1, dtype=np.int64))


def _frame(plan: Plan, view: npt.NDArray[Any]) -> Frame:
    """Of a whole turned image; planes are looked at one by one for objects alone."""
    ndim = plan.configuration.ndim if plan.labels.task == "instance" else view.ndim
    return Frame.of([slice(0, n) for n in view.shape], view.shape, ndim)


@dataclass
class ObjectTrials:
    """Counts of matches per choice, summed over cases."""

    plan: Plan
    thresholds: Mapping[str, float]
    cases: int = 0
    counts: dict[TidyObjects, InstanceCounts] = field(default_factory=dict)

    def add(self, found: Labels, truth: Labels) -> None:
        """One case, as it was predicted without post-processing."""
        turn = turn_of(found.grid, self.plan)
        array, true = turn.apply(np.asarray(found.array)), turn.apply(np.asarray(truth.array))
        valid = None if truth.ignore is None else ~turn.apply(truth.ignore)
        least, frame = self.thresholds.get("min_size", 0.0), _frame(self.plan, array)
        plain = count_matches(overlap_counts(true, array, valid), LEVELS)
        for split, fill in product(_SPLITS, (False, True)):
            tidy = TidyObjects(split=split, fill_holes=fill)
            matches = plain
            if tidy != TidyObjects():
                other = tidy_objects(array, tidy, frame, min_size=least)[0]
                if not np.array_equal(other, array):
                    matches = count_matches(overlap_counts(true, other, valid), LEVELS)
            self.counts[tidy] = self.counts[tidy] + matches if tidy in self.counts else matches
        self.cases += 1

    def decided(self) -> TidyChoice:
        """The simplest of the best, if it is better than nothing by :data:`GAIN`."""
        if self.cases < LEAST_CASES:
            return TidyChoice(TidyObjects(), _few(self.cases))
        reached = {tidy: float(np.nan_to_num(c.mean_ap())) for tidy, c in self.counts.items()}
        before = reached[TidyObjects()]
        best = max(reached, key=lambda t: round(reached[t] / GAIN))  # of equals the first, which does least
        best = best if reached[best] >= before + GAIN else TidyObjects()
        goal = f"mean AP at IoU {LEVELS[0]:g} to {LEVELS[-1]:g}"
        trials = tuple({"name": _text(t), "before": before, "after": v, "done": t == best}
                       for t, v in reached.items() if t != TidyObjects())
        said = (f"nothing raised the {goal} of {self.cases} held-back cases ({before:.3f}) by {GAIN:g}"
                if best == TidyObjects() else
                f"{_text(best)}: the {goal} of {self.cases} held-back cases rose from {before:.3f} to "
                f"{reached[best]:.3f}")
        return TidyChoice(best, said, trials)


def _few(cases: int) -> str:
    verb = "is" if cases == 1 else "are"
    return f"{counted(cases, 'held-back case')} {verb} too few to choose from; {LEAST_CASES} are needed"


def _text(tidy: TidyObjects) -> str:
    """Options as they are given on the command line."""
    said = [] if tidy.split == "no" else [f"split={tidy.split}"]
    return ", ".join([*said, *(["fill_holes=yes"] if tidy.fill_holes else [])])


@dataclass
class ClassTrials:
    """Dice of every case, group of classes, and combination of rules.

    ``dice`` has per group and (foreground rule, own largest, own holes) the Dice of each case.
    """

    plan: Plan
    cases: int = 0
    dice: dict[tuple[str, bool, bool, bool], list[float]] = field(default_factory=dict)

    @property
    def groups(self) -> tuple[str, ...]:
        """What is scored: regions if there are any, else classes."""
        table = self.plan.labels
        return tuple(name for name, _ in table.regions) or tuple(table.names[1:])

    @property
    def _foreground(self) -> bool:
        """Whether the foreground is something else than the only class, and can be named."""
        return len(self.groups) > 1 and FOREGROUND not in self.plan.labels.names

    def add(self, found: Labels, truth: Labels) -> None:
        """One case, as it was predicted without post-processing."""
        array, true = np.asarray(found.array), np.asarray(truth.as_classes(self.plan.labels.values).array)
        known = np.ones(true.shape, bool) if truth.ignore is None else ~truth.ignore
        first = self._tidied(array, largest=(FOREGROUND,)) if self._foreground else array
        same = first is array or np.array_equal(first, array)
        for name in self.groups:
            for key, value in self._dice(array, (true, known), name):
                self.dice.setdefault((name, False, *key), []).append(value)
                if same:
                    self.dice.setdefault((name, True, *key), []).append(value)
            if not same:
                for key, value in self._dice(first, (true, known), name):
                    self.dice.setdefault((name, True, *key), []).append(value)
        self.cases += 1

    def _dice(self, array: npt.NDArray[Any], truth: tuple[npt.NDArray[Any], npt.NDArray[np.bool_]],
              name: str) -> Iterator[tuple[tuple[bool, bool], float]]:
        """Dice of one group with and without its own two rules; looked at in the box that holds it."""
        wanted, (true, known) = members(self.plan.labels, name), truth
        positives = int((np.isin(true, wanted) & known).sum())
        boxes = ndimage.find_objects(np.isin(array, wanted).view(np.uint8))
        box = boxes[0] if boxes else (slice(0, 0),) * array.ndim
        part, inside = array[box], np.isin(true[box], wanted)
        frame = Frame.of(box, array.shape, array.ndim)
        for largest, holes in product((False, True), (False, True)):
            if holes and len(wanted) > 1:
                yield (largest, holes), float("nan")
                continue
            tidy = TidyClasses(largest=(name,) if largest else (), fill_holes=(name,) if holes else ())
            now = part if tidy == TidyClasses() or not part.size else tidy_classes(part, tidy, self.plan.labels, frame)
            mask = np.isin(now, wanted) & known[box]
            total = positives + int(mask.sum())
            yield (largest, holes), 2 * int((mask & inside).sum()) / total if total else float("nan")

    def _tidied(self, array: npt.NDArray[Any], **options: Any) -> npt.NDArray[Any]:
        return tidy_classes(array, TidyClasses(**options), self.plan.labels, Frame.whole(array.shape))

    def decided(self) -> TidyChoice:
        """nnU-Net's rule."""
        if self.cases < LEAST_CASES:
            return TidyChoice(TidyClasses(), _few(self.cases))
        trials: list[Trial] = []
        base, largest, holes = False, [], []
        if self._foreground:
            before, after = (np.array([self._mean(g, rule, False, False) for g in self.groups])
                             for rule in (False, True))
            there = np.isfinite(before)
            before, after = before[there], after[there]
            base = bool(there.any() and after.mean() >= before.mean() + GAIN and (after >= before).all())
            if there.any():
                trials.append({"name": f"largest={FOREGROUND}", "before": float(before.mean()),
                               "after": float(after.mean()), "done": base})
        for name in self.groups:
            kept = self._tried(trials, f"largest={name}", (name, base, False, False), (name, base, True, False))
            if kept:
                largest.append(name)
            if self._tried(trials, f"fill_holes={name}", (name, base, kept, False), (name, base, kept, True)):
                holes.append(name)
        tidy = TidyClasses(largest=((FOREGROUND,) if base else ()) + tuple(largest), fill_holes=tuple(holes))
        done = [f"{t['name']} ({t['before']:.3f} to {t['after']:.3f})" for t in trials if t["done"]]
        said = (f"Dice of {self.cases} held-back cases rose by {', '.join(done)}" if done else
                f"nothing raised the Dice of {self.cases} held-back cases by {GAIN:g}")
        return TidyChoice(tidy, said, tuple(trials))

    def _tried(self, trials: list[Trial], name: str, before: tuple[str, bool, bool, bool],
               after: tuple[str, bool, bool, bool]) -> bool:
        """Whether a rule raises the Dice of its class; noted if it can be told."""
        was, now = self._mean(*before), self._mean(*after)
        done = bool(now >= was + GAIN)
        if np.isfinite(now):
            trials.append({"name": name, "before": was, "after": now, "done": done})
        return done

    def _mean(self, name: str, base: bool, largest: bool, holes: bool) -> float:
        """Mean of the cases that have the group in truth or prediction."""
        values = np.array(self.dice[name, base, largest, holes])
        known = values[np.isfinite(values)]
        return float(known.mean()) if known.size else float("nan")
