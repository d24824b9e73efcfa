"""What a probability head is trained for: loss, options and class weights, and what the plan says of the choice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from biosegkit._words import counted
from biosegkit.errors import PlanError
from biosegkit.plan.losses import TERMS, loss_options, terms_of
from biosegkit.plan.schema import Decision, LabelTable, Training

if TYPE_CHECKING:
    from biosegkit.fingerprint_schema import Fingerprint

__all__ = ["USUAL", "ClassWeights", "Objective", "balanced", "parse_class_weights", "with_objective"]

#: What ``default`` is.
USUAL = "ce_dice"
_WHY_USUAL = ("nnU-Net's choice for any data: Dice sees each class as a whole, however small, and cross-entropy every "
              "voxel, also of a class that is absent")

#: As asked for: numbers, text of numbers, or ``"balanced"``.
ClassWeights = str | Sequence[float] | None


@dataclass(frozen=True)
class Objective:
    """What a probability head is trained for: a loss by name, its options, and weights of the classes.

    Parameters
    ----------
    loss : str
        See `terms_of`.
    options : tuple of (str, float)
        ``("tversky.alpha", 0.5)`` replaces a default; every term also has ``weight``. A mapping is taken too.
    class_weights : tuple of float
        One per class (background first), or one per region; empty: all alike. See `biosegkit.losses.Comparison`.

    Raises
    ------
    PlanError
        For a name or option that does not exist, or a number that cannot be one.

    Examples
    --------
    >>> Objective("tversky", {"tversky.alpha": 0.5}).of_term("tversky")
    {'alpha': 0.5, 'beta': 0.7, 'smooth': 1e-05}
    >>> Objective("boundary").needs_distance
    True
    """

    loss: str = "default"
    options: tuple[tuple[str, float], ...] = ()
    class_weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Plain data (from JSON) become tuples; what cannot be computed is refused."""
        given = {str(k): float(v) for k, v in dict(self.options).items()}
        object.__setattr__(self, "options", tuple(sorted(given.items())))
        object.__setattr__(self, "class_weights", tuple(float(w) for w in self.class_weights))
        known = {f"{term}.weight" for term in self.terms} | set(loss_options(self.loss))
        wrong = [k for k in given if k not in known]
        if wrong:
            raise PlanError(f"loss option {wrong[0]!r}", expected=f"one of {', '.join(sorted(known))}",
                            remedy="correct training.loss_options")
        for key, value in given.items():
            share, positive = key.endswith(".share"), key in ("topk_ce.share", "focal_tversky.gamma")
            if not math.isfinite(value) or value < 0 or (positive and value == 0) or (share and value > 1):
                wanted = "a share above 0, up to 1" if share else "above 0" if positive else "at least 0"
                raise PlanError(f"loss option {key}={value}", expected=wanted, remedy="correct training.loss_options")
        if self.class_weights:
            _checked(self.class_weights, "class weights")

    @classmethod
    def of(cls, value: Objective | Mapping[str, Any]) -> Objective:
        """An objective, or one from plain data."""
        return value if isinstance(value, Objective) else cls(**value)

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms."""
        return terms_of(self.loss)

    @property
    def needs_distance(self) -> bool:
        """Whether targets must come with the distance to the true border."""
        return "boundary" in self.terms

    def of_term(self, term: str) -> dict[str, float]:
        """Options of one term, without its weight."""
        given = {k.partition(".")[2]: v for k, v in self.options if k.partition(".")[0] == term}
        return {k: v for k, v in {**TERMS[term].options, **given}.items() if k != "weight"}

    def weight_of(self, term: str) -> float:
        """Weight of one term in the sum."""
        return dict(self.options).get(f"{term}.weight", TERMS[term].options.get("weight", 1.0))

    def fits(self, count: int, what: str) -> None:
        """Refuse weights that are not ``count``."""
        if self.class_weights and len(self.class_weights) != count:
            raise PlanError(counted(len(self.class_weights), "class weight"), expected=f"{count}: {what}",
                            remedy="correct --class-weights")


def parse_class_weights(given: str | Sequence[float]) -> tuple[float, ...] | None:
    """Weights from numbers or from ``"1,2,5"``; None for ``"balanced"``, which only the data can say.

    Raises
    ------
    PlanError
        If there is anything but numbers of at least 0, one of them above.

    Examples
    --------
    >>> parse_class_weights("1, 2.5"), parse_class_weights((1, 2)), parse_class_weights("balanced")
    ((1.0, 2.5), (1.0, 2.0), None)
    """
    if isinstance(given, str) and given.strip() == "balanced":
        return None
    try:
        found = tuple(float(part) for part in (given.split(",") if isinstance(given, str) else given))
    except ValueError:
        raise PlanError(f"class weights {given!r}", expected="numbers separated by commas, or balanced",
                        remedy="for example --class-weights 1,2,5") from None
    return _checked(found, f"class weights {given!r}")


def _checked(weights: tuple[float, ...], told: str) -> tuple[float, ...]:
    if not all(math.isfinite(w) and w >= 0 for w in weights) or max(weights, default=0) == 0:
        raise PlanError(told, expected="numbers of at least 0, one of them above", remedy="correct --class-weights")
    return weights


def balanced(voxels: Sequence[float]) -> tuple[float, ...]:
    """Weights inverse to how often a class occurs, their mean over all voxels 1: ``total / (classes × voxels)``.

    Examples
    --------
    >>> balanced([900, 90, 10])
    (0.3704, 3.704, 33.33)
    """
    total, count = float(sum(voxels)), len(voxels)
    return tuple(float(f"{total / (count * max(1.0, v)):.4g}") for v in voxels)


def with_objective(training: Training, wishes: tuple[str | None, ClassWeights], labels: LabelTable,
                   fingerprint: Fingerprint) -> tuple[Training, list[Decision]]:
    """The training with loss and class weights, and what the plan says of them.

    Parameters
    ----------
    training : Training
        Its other fields stay.
    wishes : tuple of (loss, class weights)
        As asked for.
    labels : LabelTable
        One weight per class, background first; or one per region where there are regions.
    fingerprint : Fingerprint
        How often each class occurs, for ``balanced``.

    Raises
    ------
    PlanError
        For a loss that does not exist, or weights that are not as many as the classes or regions.
    """
    name = USUAL if wishes[0] in (None, "default") else str(wishes[0])
    text = " + ".join(f"{term}: {TERMS[term].what} ({TERMS[term].source})" for term in terms_of(name))
    reason = f"{_WHY_USUAL}; --loss replaces it" if wishes[0] is None else (
        f"asked for; without --loss it would be {USUAL}. {text}")
    said = [Decision(name="loss", value=name, reason=reason)]
    weights: tuple[float, ...] = ()
    if wishes[1] is not None:
        given = parse_class_weights(wishes[1])
        names = [region for region, _ in labels.regions] or list(labels.names)
        weights = given or balanced(_voxels(labels, fingerprint))
        Objective(name, (), weights).fits(len(names), ", ".join(names))
        value = ", ".join(f"{n} {w:g}" for n, w in zip(names, weights, strict=True))
        said.append(Decision(name="class weights", value=value, reason=(
            "asked for" if given else "inverse to how often each occurs in the data")))
    return training.model_copy(update={"loss": name, "class_weights": weights}), said


def _voxels(labels: LabelTable, fingerprint: Fingerprint) -> list[float]:
    """Voxels of each region, or of each class with the background first (from the mean labelled share)."""
    voxels = [float(c.voxels) for c in fingerprint.classes]
    inside = sum(voxels)
    each = [inside * (1.0 / max(fingerprint.foreground, 1e-9) - 1.0), *voxels]
    return [sum(each[k] for k in members) for _, members in labels.regions] or each
