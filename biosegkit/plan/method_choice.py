"""Which method for these objects: a shortlist by shape, ceilings on the user's own labels, an order of preference.

Pure: what was measured comes in as data. Nothing is left out without a reason, and every reason goes into the plan.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from biosegkit.errors import PlanError
from biosegkit.plan.preferences import METHOD_NAMES, PREFERENCES
from biosegkit.plan.schema import LabelTable, MethodEvidence

if TYPE_CHECKING:
    from biosegkit.fingerprint_schema import ObjectStatistics

__all__ = ["TOLERANCE", "ceiling", "checked_method", "decided", "kind_of", "long_or_bent", "method_of_task",
           "shortlist"]

#: A method whose ceiling is this far below the best is left out.
TOLERANCE = 0.015
#: Shares of objects, or medians over them, at which their kind changes.
_LONG, _BENT, _STARS, _DENSE = 0.3, 0.85, 0.8, 0.4
#: Share of star-convex objects below which rays from a centre cannot describe them.
_RAYS = 0.9


def checked_method(name: str) -> str:
    """The name of a method that exists.

    Raises
    ------
    PlanError
        For any other name, with the nearest one.

    Examples
    --------
    >>> checked_method("distance")
    'distance'
    """
    if name not in METHOD_NAMES:
        near = difflib.get_close_matches(name, METHOD_NAMES, 1)
        raise PlanError(f"method {name!r}", expected=f"one of {', '.join(METHOD_NAMES)}",
                        remedy=f"did you mean {near[0]}?" if near else "correct --method")
    return name


def method_of_task(labels: LabelTable, wish: str | None, evidence: Sequence[MethodEvidence],
                   objects: ObjectStatistics | None) -> tuple[str, str, tuple[MethodEvidence, ...]]:
    """The method, why, and the evidence with its verdicts: the one asked for, else by task, else by evidence.

    Raises
    ------
    PlanError
        For a method that does not exist, or that is for another task.
    """
    method = wish or ("semantic" if labels.task == "semantic" else PREFERENCES["round"][0][0])
    if (checked_method(method) == "semantic") != (labels.task == "semantic"):
        others = ", ".join(n for n in METHOD_NAMES if n != "semantic")
        raise PlanError(f"method {method!r} for a task of kind {labels.task}",
                        expected=f"semantic for classes, for objects one of {others}",
                        remedy="correct --method or --task")
    if wish:
        return method, "asked for", _asked(evidence)
    if method == "semantic":
        return method, "classes: one probability per class", ()
    if not evidence:
        return method, f"objects: {METHOD_NAMES[method]}", ()
    return decided(evidence, objects)


def _asked(evidence: Sequence[MethodEvidence]) -> tuple[MethodEvidence, ...]:
    return tuple(row.model_copy(update={"verdict": "chosen", "reason": row.reason or "asked for"}) for row in evidence)


def kind_of(objects: ObjectStatistics | None) -> tuple[str, str]:
    """The kind of objects, a key of `PREFERENCES`, and what was measured that makes them so.

    Examples
    --------
    >>> kind_of(None)
    ('round', 'nothing is known of the shape of the objects')
    """
    if objects is None:
        return "round", "nothing is known of the shape of the objects"
    contact = 0.0 if objects.contact is None else objects.contact
    stars = 1.0 if objects.star_convex is None else objects.star_convex
    if contact >= _DENSE:
        return "dense", f"{contact:.0%} of the objects' surface lies on another object"
    if why := long_or_bent(objects):
        return "long or bent", why
    return "round", (f"{stars:.0%} of the objects are star-convex, {objects.elongated:.0%} elongated, "
                     f"{contact:.0%} of their surface lies on another")


def long_or_bent(objects: ObjectStatistics) -> str:
    """What was measured that makes objects long or bent; empty if they are not."""
    solidity = 1.0 if objects.solidity is None else objects.solidity.median
    stars = 1.0 if objects.star_convex is None else objects.star_convex
    if objects.elongated >= _LONG:
        return f"{objects.elongated:.0%} of the objects are at least twice as long as wide"
    if solidity < _BENT:
        return f"the median object fills {solidity:.0%} of its convex hull"
    return f"only {stars:.0%} of the objects are star-convex" if stars < _STARS else ""


def shortlist(names: Iterable[str], objects: ObjectStatistics | None) -> tuple[MethodEvidence, ...]:
    """Methods for these objects in order of preference; those that cannot hold them last, with the reason.

    Parameters
    ----------
    names : iterable of str
        Methods that exist; ``semantic`` is passed over.
    objects : ObjectStatistics, optional
        From the fingerprint.

    Examples
    --------
    >>> [row.method for row in shortlist(["semantic", "star", "a new one", "distance"], None)]
    ['distance', 'star', 'a new one']
    """
    order = PREFERENCES[kind_of(objects)[0]][0]
    ranked = sorted((n for n in names if n != "semantic"),
                    key=lambda n: (order.index(n) if n in order else len(order), n))
    rows = [_row(name, _unfit(name, objects)) for name in ranked]
    return tuple(sorted(rows, key=lambda row: row.verdict == "unfit"))


def _row(name: str, unfit: str) -> MethodEvidence:
    return MethodEvidence(method=name, verdict="unfit" if unfit else "unmeasured", reason=unfit)


def _unfit(name: str, objects: ObjectStatistics | None) -> str:
    """Why a method cannot hold these objects; empty if it may."""
    if name == "star" and objects is not None and objects.star_convex is not None and objects.star_convex < _RAYS:
        return (f"{objects.star_convex:.0%} of the objects are star-convex, rays from one centre need "
                f"{_RAYS:.0%}")
    return ""


def ceiling(row: MethodEvidence) -> float | None:
    """The mean of a method's AP at IoU 0.5 and 0.75 on perfect maps; None if it was not measured.

    At 0.9 the last voxel of small objects decides, of which no trained network is sure.
    """
    return None if row.ap50 is None or row.ap75 is None else (row.ap50 + row.ap75) / 2


def decided(rows: Sequence[MethodEvidence], objects: ObjectStatistics | None = None
            ) -> tuple[str, str, tuple[MethodEvidence, ...]]:
    """The method to train, why, and the rows with their verdicts.

    A race decides where there was one; else the first of ``rows`` (in order of preference) whose ceiling is at most
    :data:`TOLERANCE` below the best. What was not measured is chosen only if nothing was.

    Parameters
    ----------
    rows : sequence of MethodEvidence
        From :func:`shortlist`, with what was measured put in.
    objects : ObjectStatistics, optional
        From the fingerprint.

    Examples
    --------
    >>> a = MethodEvidence(method="a", verdict="unmeasured", ap50=0.9, ap75=0.8)
    >>> b = MethodEvidence(method="b", verdict="unmeasured", ap50=1.0, ap75=1.0)
    >>> decided([a, b])[0]
    'b'
    """
    kind, measured = kind_of(objects)
    best = max((c for row in rows if (c := ceiling(row)) is not None), default=None)
    judged = [_judged(row, best) for row in rows]
    able = [row for row in judged if row.verdict == "able"] or [r for r in judged if r.verdict == "unmeasured"]
    if not able:
        able = judged[:1]
    raced = [row for row in able if row.raced is not None]
    chosen = max(raced, key=lambda row: row.raced or 0.0) if raced else able[0]
    why = f"{kind} objects ({measured}): {PREFERENCES[kind][1]}"
    if best is not None:
        own = ceiling(chosen) or 0.0
        why += f"; on perfect maps of your labels it reaches {own:.3f} of {best:.3f}"
    if raced:
        others = ", ".join(f"{row.method} {row.raced:.3f}" for row in raced if row is not chosen)
        why = f"won the race with {chosen.raced:.3f} on held-back cases against {others}"
    won = "won the race" if raced else "preferred for such objects"
    marked = tuple(row.model_copy(update={"verdict": "chosen", "reason": row.reason or won}) if row is chosen else row
                   for row in judged)
    return chosen.method, why, marked


def _judged(row: MethodEvidence, best: float | None) -> MethodEvidence:
    """Whether a measured method is good enough."""
    reached = ceiling(row)
    if row.verdict == "unfit" or reached is None or best is None:
        return row
    if reached < best - TOLERANCE:
        return row.model_copy(update={"verdict": "low", "reason": (
            f"even perfect maps reach only {reached:.3f}, {best - reached:.3f} below the best")})
    return row.model_copy(update={"verdict": "able"})
