"""Counts that can be summed over cases, as plain data, and the scores of their sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.metrics import (
    AggregatedJaccard,
    CalibrationCounts,
    InstanceCounts,
    MatchedSurface,
    PartitionSums,
    SplitMergeCounts,
    TrackingChallengeCounts,
)

__all__ = ["DistanceSums", "Pool", "distance_sums", "pools", "restored", "total"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DistanceSums:
    """Distances of matched objects, summed over objects: their mean is over objects and not over images.

    Examples
    --------
    >>> (DistanceSums(1, 4.0, 3.0, 1.0) + DistanceSums(3, 4.0, 1.0, 1.0)).scores()
    {'object_hausdorff': 2.0, 'object_hd95': 1.0, 'object_assd': 0.5}
    """

    pairs: int = 0
    hausdorff: float = 0.0
    hd: float = 0.0
    assd: float = 0.0
    percentile: float = 95.0

    def __add__(self, other: DistanceSums) -> DistanceSums:
        """Pool with the objects of other images."""
        return DistanceSums(self.pairs + other.pairs, self.hausdorff + other.hausdorff, self.hd + other.hd,
                            self.assd + other.assd, self.percentile)

    def scores(self) -> dict[str, float]:
        """Mean over the objects of each distance; NaN if there is none."""
        sums = {"object_hausdorff": self.hausdorff, f"object_hd{self.percentile:g}": self.hd, "object_assd": self.assd}
        return {name: value / self.pairs if self.pairs else float("nan") for name, value in sums.items()}


def distance_sums(found: MatchedSurface) -> DistanceSums:
    """Sums over the matched objects that have a distance."""
    known = ~np.isnan(found.assd)
    hausdorff, hd, assd = (float(values[known].sum())
                           for values in (found.hausdorff, found.hausdorff_percentile, found.assd))
    return DistanceSums(int(known.sum()), hausdorff, hd, assd, found.percentile)


Counts = (AggregatedJaccard | CalibrationCounts | DistanceSums | InstanceCounts | PartitionSums | SplitMergeCounts
          | TrackingChallengeCounts)
_TYPES: dict[str, type[Counts]] = {
    "matching": InstanceCounts, "jaccard": AggregatedJaccard, "tracking": TrackingChallengeCounts,
    "splits": SplitMergeCounts, "partition": PartitionSums, "object_surface": DistanceSums,
    "calibration": CalibrationCounts,
}
#: Fields that say how was counted, the same in every case.
_FIXED = ("thresholds", "percentile")


def restored(group: str, data: Mapping[str, Any]) -> Counts:
    """Counts from plain data."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    return _TYPES[group](**fields)


def total(group: str, counts: Sequence[Mapping[str, Any]]) -> Counts:
    """The sum of counts given as plain data."""
    found: Any = restored(group, counts[0])
    for other in counts[1:]:
        found = found + restored(group, other)
    return found  # type: ignore[no-any-return]


class Pool:
    """Counts of one group: what each case adds to the sums, and the scores of sums.

    Parameters
    ----------
    group : str
        Name of the group.
    counts : sequence of dict
        Of each case, as plain data.
    """

    def __init__(self, group: str, counts: Sequence[Mapping[str, Any]]) -> None:
        self.group = group
        self._fixed = {k: v for k, v in counts[0].items() if k in _FIXED}
        self._sizes = {k: len(v) if isinstance(v, list | tuple) else 0 for k, v in counts[0].items()
                       if k not in self._fixed}
        self.rows: Floats = np.array([[x for k in self._sizes for x in (c[k] if self._sizes[k] else [c[k]])]
                                      for c in counts], np.float64)
        self.names = list(restored(group, counts[0]).scores())

    def scores(self, sums: Floats) -> Floats:
        """Sums (r, k) to scores (r, m)."""
        return np.array([list(restored(self.group, self._fields(row)).scores().values()) for row in sums.tolist()])

    def _fields(self, row: list[float]) -> dict[str, Any]:
        """The fields of the counts from one row of sums."""
        fields: dict[str, Any] = dict(self._fixed)
        start = 0
        for name, size in self._sizes.items():
            fields[name] = tuple(row[start:start + size]) if size else row[start]
            start += size or 1
        return fields


def pools(rows: Sequence[Mapping[str, Any]]) -> list[Pool]:
    """The groups that all of these cases have counts of."""
    counts = [row.get("counts", {}) for row in rows]
    return [Pool(group, [c[group] for c in counts]) for group in counts[0] if all(group in c for c in counts)]
