"""Losses by name: what each is, when to choose it, and its options; the arithmetic is in `biosegkit.losses`.

A loss is a sum of terms, each of weight 1 unless its option ``weight`` says otherwise. Every term is defined for a
softmax head (one class per voxel) and for sigmoid heads (regions, foreground), where ``ce`` is the binary one.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from biosegkit.errors import PlanError

__all__ = ["LOSSES", "TERMS", "Objective", "Term", "balanced", "loss_options", "parse_class_weights", "terms_of"]


@dataclass(frozen=True)
class Term:
    """One summand of a loss.

    Parameters
    ----------
    what : str
        The formula in words.
    choose : str
        When to choose it.
    source : str
        The paper or rule it comes from.
    options : mapping of str to float
        Its options and their defaults, beside ``weight`` (1).
    needs : tuple of str
        Terms that come along where a loss has no others: a term that only refines does not find objects by itself.
    """

    what: str
    choose: str
    source: str
    options: Mapping[str, float] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


TERMS: Mapping[str, Term] = {
    "ce": Term("cross-entropy (binary on sigmoid heads)", "a calibrated start; rare classes need another term",
               "rule 1.10 of nnU-Net"),
    "bce": Term("binary cross-entropy of each class against the rest", "regions, and classes told apart one by one",
                "rule 1.10 of nnU-Net"),
    "dice": Term("1 - soft Dice, mean over the foreground classes", "objects much smaller than the background",
                 "Milletari et al. 2016; rule 1.10 of nnU-Net", {"smooth": 1e-5}),
    "tversky": Term("1 - Tversky index: Dice with its own prices of false positives (alpha) and false negatives (beta)",
                    "small lesions that are missed", "Salehi et al. 2017", {"alpha": 0.3, "beta": 0.7, "smooth": 1e-5}),
    "focal_tversky": Term("(1 - Tversky index) to the power 1/gamma", "small lesions, hard classes first",
                          "Abraham and Khan 2019", {"alpha": 0.3, "beta": 0.7, "gamma": 4 / 3, "smooth": 1e-5}),
    "generalized_dice": Term("1 - Dice pooled over all classes, each divided by its squared volume",
                             "classes of very different volume", "Sudre et al. 2017", {"smooth": 1e-5}),
    "focal": Term("cross-entropy times (1 - p)^gamma: voxels that are right already count little",
                  "an overwhelming and easy background", "Lin et al. 2017", {"gamma": 2.0}),
    "topk_ce": Term("cross-entropy of the share of voxels that are worst", "mistakes sit in few voxels: contacts, rims",
                    "nnU-Net's 10 % (Wu et al. 2016)", {"share": 0.1}),
    "lovasz": Term("Lovász extension of 1 - IoU: softmax of the classes present, hinge on sigmoid heads",
                   "IoU is the score that counts; late in training", "Berman et al. 2018"),
    "boundary": Term("mean of error times distance to the true border", "the border matters, voxels far off are wrong",
                     "Kervadec et al. 2019", {"weight": 0.01}, needs=("ce", "dice")),
    "cldice": Term("1 - centreline Dice by soft skeletons", "thin structures that must not break: vessels, membranes",
                   "Shit et al. 2021", {"iterations": 5, "smooth": 1.0}, needs=("dice",)),
}

#: Names that stand for several terms.
_SUMS: Mapping[str, tuple[str, ...]] = {
    "default": ("ce", "dice"), "ce_dice": ("ce", "dice"), "bce_dice": ("bce", "dice"),
}

#: Every name `--loss` takes, and the terms it stands for; names are joined by ``+``.
LOSSES: Mapping[str, tuple[str, ...]] = {
    **_SUMS, **{name: (*term.needs, name) for name, term in TERMS.items()},
}


def terms_of(name: str) -> tuple[str, ...]:
    """The terms of a loss, in their order.

    Parameters
    ----------
    name : str
        A name of `LOSSES`, or several joined by ``+``. Beside another loss a name stands for its own term only:
        ``boundary`` alone is ``ce + dice + boundary``, ``tversky+boundary`` is just these two.

    Raises
    ------
    PlanError
        For a name that does not exist (the right ones are listed, the nearest first) or a term that comes twice.

    Examples
    --------
    >>> terms_of("ce_dice"), terms_of("dice+topk_ce"), terms_of("boundary")
    (('ce', 'dice'), ('dice', 'topk_ce'), ('ce', 'dice', 'boundary'))
    """
    parts = [part.strip() for part in name.split("+")]
    for part in parts:
        if part not in LOSSES:
            near = _nearest(part)
            raise PlanError(f"loss {part!r}", expected=f"one of {', '.join(near)}, or several joined by +",
                            remedy=f"correct --loss, perhaps to {near[0]}")
    found = [term for part in parts for term in _SUMS.get(part, (part,))]
    if all(TERMS[term].needs for term in found):
        needed = [n for term in found for n in TERMS[term].needs]
        found = [*dict.fromkeys(needed), *found]
    twice = sorted({term for term in found if found.count(term) > 1})
    if twice:
        raise PlanError(f"loss {name!r} with {', '.join(twice)} twice", expected="every term once",
                        remedy="take one away")
    return tuple(found)


def _nearest(name: str) -> list[str]:
    """All names, the most alike first."""
    def likeness(known: str) -> float:
        words = difflib.SequenceMatcher(None, "_".join(sorted(name.split("_"))), "_".join(sorted(known.split("_"))))
        return max(words.ratio(), difflib.SequenceMatcher(None, name, known).ratio())

    return sorted(LOSSES, key=likeness, reverse=True)


def loss_options(name: str) -> dict[str, float]:
    """The options of a loss as a plan holds them, ``term.option``, with their defaults.

    Examples
    --------
    >>> loss_options("tversky")
    {'tversky.alpha': 0.3, 'tversky.beta': 0.7, 'tversky.smooth': 1e-05}
    """
    return {f"{term}.{key}": value for term in terms_of(name) for key, value in TERMS[term].options.items()}


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
            positive = key.endswith((".gamma", ".share", ".iterations"))
            if not math.isfinite(value) or value < 0 or (positive and value == 0) or (
                    key.endswith(".share") and value > 1):
                raise PlanError(f"loss option {key}={value}", expected="a share above 0 and up to 1"
                                if key.endswith(".share") else f"a number {'above' if positive else 'of at least'} 0",
                                remedy="correct training.loss_options")
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
            raise PlanError(f"{len(self.class_weights)} class weights", expected=f"{count}: {what}",
                            remedy="correct --class-weights")


def parse_class_weights(text: str) -> tuple[float, ...] | None:
    """Weights from ``"1,2,5"``; None for ``"balanced"``, which only the data can say.

    Raises
    ------
    PlanError
        If there is anything but numbers of at least 0, one of them above.

    Examples
    --------
    >>> parse_class_weights("1, 2.5"), parse_class_weights("balanced")
    ((1.0, 2.5), None)
    """
    if text.strip() == "balanced":
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise PlanError(f"class weights {text!r}", expected="numbers separated by commas, or balanced",
                        remedy="for example --class-weights 1,2,5") from None
    return _checked(found, f"class weights {text!r}")


def _checked(weights: tuple[float, ...], told: str) -> tuple[float, ...]:
    if not all(math.isfinite(w) and w >= 0 for w in weights) or max(weights) == 0:
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
