"""A fingerprint for people: rows of names and texts, and small tables, for the doctor and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ._words import counted
from .fingerprint import Fingerprint, ObjectStatistics, Spread
from .plan.schema import MethodEvidence

__all__ = ["data_rows", "data_tables", "method_table", "number_text", "threshold_table", "tidy_table"]


def number_text(value: Any) -> str:
    """A number for people: whole numbers whole, others with three decimals, a dash for what is undefined.

    Examples
    --------
    >>> number_text(0.91234), number_text(12), number_text(None), number_text(float("nan")), number_text(1234.5)
    ('0.912', '12', '–', '–', '1234.5')
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
    return str(value)


def data_rows(found: Fingerprint) -> list[tuple[str, str]]:
    """What was measured, one line each."""
    groups = len({case.group for case in found.cases})
    dtypes = sorted({case.dtype for case in found.cases})
    rows = [
        ("cases", f"{len(found.cases)}" + (f" in {counted(groups, 'group')}" if groups != len(found.cases) else "")),
        ("task", f"{found.task}: {found.task_reason}"),
        ("size", f"{_ranges([case.shape for case in found.cases])} voxels ({'zyx'[-found.ndim:]})"),
        ("spacing", f"{_ranges([case.spacing for case in found.cases])} {found.unit}"),
        ("voxel type", ", ".join(dtypes)),
        ("labelled", f"{100 * found.foreground:.3g} % of the voxels on average"),
    ]
    if found.relative_size < 0.99:
        rows.append(("not zero", f"{100 * found.relative_size:.3g} % of an image in the median"))
    if found.ignore_value is not None:
        rows.append(("ignored", f"voxels labelled {found.ignore_value}"))
    return rows + [("note", note) for note in found.notes]


def data_tables(found: Fingerprint) -> list[dict[str, Any]]:
    """Tables of channels, classes and objects: ``title``, ``head`` and ``rows`` of texts."""
    tables = [{"title": "Channels, within the labels", "head": ["channel", "mean", "std", "min", "0.5 %", "median",
                                                                "99.5 %", "max"],
               "rows": [[c.name, *(f"{v:.4g}" for v in (c.mean, c.std, c.minimum, c.low, c.median, c.high, c.maximum))]
                        for c in found.channels]}]
    if found.objects is None:
        tables.append({"title": "Classes", "head": ["class", "value", "voxels", "cases"],
                       "rows": [[c.name, str(c.value), str(c.voxels), str(c.cases)] for c in found.classes]})
        return tables
    o = found.objects
    physical = [] if found.unit == "px" else [(f"diameter ({found.unit})", o.diameter)]
    spreads = [("per image", o.per_case), *physical, ("diameter (px)", o.diameter_px),
               (f"inscribed radius ({found.unit})", o.inscribed_radius), ("elongation", o.elongation),
               ("fill of its ellipse", o.fill),
               *((name, s) for name, s in (("solidity", o.solidity), ("seen from its centre", o.star_convexity)) if s)]
    tables.append({"title": _object_title(o), "head": ["", "min", "5 %", "median", "95 %", "max"],
                   "rows": [[name, *_spread(spread)] for name, spread in spreads]})
    return tables


def method_table(evidence: Sequence[MethodEvidence]) -> dict[str, Any]:
    """The table a method was chosen from: ``title``, ``head`` and ``rows`` of texts.

    Examples
    --------
    >>> method_table([MethodEvidence(method="star", verdict="low", reason="rods", ap50=0.5)])["rows"]
    [['star', 'low', 'rods', '0.500', '–', '–', '–', '–']]
    """
    raced = any(row.raced is not None for row in evidence)
    head = ["method", "verdict", "reason", "AP@0.5", "AP@0.75", "AP@0.9", "boundary IoU", "seconds"]
    rows = [[row.method, row.verdict, row.reason,
             *(number_text(v) for v in (row.ap50, row.ap75, row.ap90, row.boundary_iou)),
             "–" if row.seconds is None else f"{row.seconds:.2f}", *([number_text(row.raced)] if raced else [])]
            for row in evidence]
    objects = max((row.objects for row in evidence), default=0)
    return {"title": f"Methods: what perfect maps of {objects} of your own objects would give, before any training",
            "head": [*head, *(["AP in the race"] if raced else [])], "rows": rows}


def threshold_table(tuning: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's ``tuning.json`` says of every threshold: ``head`` and ``rows`` of texts.

    Examples
    --------
    >>> seed = {"default": 0.5, "low": 0.0, "high": 1.0, "steps": 1, "meaning": "least height"}
    >>> threshold_table({"thresholds": {"seed": 0.5}, "tunables": {"seed": seed}})["rows"]
    [['seed', 'least height', '0.5', '0.5 (not searched)', '0 to 1']]
    """
    rows = []
    for name, t in tuning.get("tunables", {}).items():
        chosen = f"{tuning['thresholds'][name]:g}" + ("" if t["steps"] > 1 else " (not searched)")
        rows.append([name, t["meaning"], f"{t['default']:g}", chosen, f"{t['low']:g} to {t['high']:g}"])
    return {"head": ["threshold", "meaning", "default", "tuned", "range"], "rows": rows}


def tidy_table(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's ``postprocessing.json`` says of every trial: ``head`` and ``rows`` of texts.

    Examples
    --------
    >>> trial = {"name": "fill_holes=yes", "before": 0.5, "after": 0.625, "done": True}
    >>> tidy_table({"trials": [trial]})["rows"]
    [['fill_holes=yes', '0.500', '0.625', 'yes']]
    """
    rows = [[t["name"], number_text(t["before"]), number_text(t["after"]), "yes" if t["done"] else "no"]
            for t in record.get("trials", ())]
    return {"head": ["option", "score without", "score with", "done"], "rows": rows}


def _object_title(o: ObjectStatistics) -> str:
    """How many objects there are and how they lie together."""
    parts = [counted(o.count, "object"), f"{100 * o.touching:.0f} % touch another",
             f"{100 * o.at_border:.0f} % the border of the image"]
    if o.contact is not None:
        parts.append(f"{100 * o.contact:.0f} % of their surface lies on another")
    if o.star_convex is not None:
        parts.append(f"{100 * o.star_convex:.0f} % are star-convex")
    if o.density is not None:
        parts.append(f"{o.density:.3g} in a million voxels")
    return ", ".join(parts)


def _spread(spread: Spread) -> list[str]:
    return [f"{v:.4g}" for v in (spread.minimum, spread.p05, spread.median, spread.p95, spread.maximum)]


def _ranges(values: Sequence[Sequence[float]]) -> str:
    """Per axis one number, or smallest to largest.

    Examples
    --------
    >>> _ranges([(1.0, 2.0), (1.0, 3.5)])
    '1 × 2–3.5'
    """
    table = np.array(values, dtype=np.float64)
    return " × ".join(f"{low:.4g}" if round(low, 6) == round(high, 6) else f"{low:.4g}–{high:.4g}"
                      for low, high in zip(table.min(0), table.max(0), strict=True))
