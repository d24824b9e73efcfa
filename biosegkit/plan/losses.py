"""Losses by name: what each is, when to choose it, and its options; the arithmetic is in `biosegkit.losses`.

A loss is a sum of terms, each of weight 1 unless its option ``weight`` says otherwise. Every term is defined for a
softmax head (one class per voxel) and for sigmoid heads (regions, foreground), where ``ce`` is the binary one.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from biosegkit.errors import PlanError

__all__ = ["LOSSES", "TERMS", "Term", "loss_options", "terms_of"]


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
               "nnU-Net (Isensee et al. 2021)"),
    "bce": Term("binary cross-entropy of each class against the rest", "regions, and classes told apart one by one",
                "nnU-Net (Isensee et al. 2021)"),
    "dice": Term("1 - soft Dice, mean over the foreground classes", "objects much smaller than the background",
                 "Milletari et al. 2016; nnU-Net (Isensee et al. 2021)", {"smooth": 1e-5}),
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
