"""Which scores there are, what each means, and which of them are wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from biosegkit.errors import OptionError
from biosegkit.image import Task
from biosegkit.metrics import THRESHOLDS
from biosegkit.metrics.statistics import Bootstrap

__all__ = ["METRICS", "Metric", "ScoreOptions", "checked_names", "lower_is_better"]


@dataclass(frozen=True)
class Metric:
    """One score.

    Parameters
    ----------
    group : str
        Scores of one group are computed together.
    meaning : str
        One sentence; ``{percentile}``, ``{tolerance}`` and ``{thresholds}`` are filled in.
    usual : bool
        Computed unless others are chosen.
    lower_is_better : bool
        Distances and errors.
    shown : bool
        A column of the printed table unless others are chosen.
    """

    group: str
    meaning: str
    usual: bool = True
    lower_is_better: bool = False
    shown: bool = False


#: Every score by task and name. ``hd`` is reported as ``hd95`` (or another percentile), ``ap`` also per threshold.
METRICS: Mapping[Task, Mapping[str, Metric]] = {
    "semantic": {
        "dice": Metric("overlap", "2 TP / (2 TP + FP + FN); undefined where truth and prediction are empty",
                       shown=True),
        "iou": Metric("overlap", "TP / (TP + FP + FN)", shown=True),
        "precision": Metric("overlap", "TP / (TP + FP)"),
        "recall": Metric("overlap", "TP / (TP + FN), sensitivity"),
        "hausdorff": Metric("surface", "largest distance between surfaces, both directions", lower_is_better=True),
        "hd": Metric("surface", "larger of the two directed {percentile:g}th percentiles of surface distances",
                     lower_is_better=True, shown=True),
        "assd": Metric("surface", "mean of the surface distances of both directions pooled", lower_is_better=True,
                       shown=True),
        "nsd": Metric("surface", "share of the surfaces within {tolerance:g} of the other surface", shown=True),
    },
    "instance": {
        "ap": Metric("matching", "mean of ap@t over t = {thresholds}; ap@t is TP / (TP + FP + FN), objects matched one "
                     "to one at IoU >= t; not COCO AP", shown=True),
        "f1": Metric("matching", "2 TP / (2 TP + FP + FN) of objects at the first threshold", shown=True),
        "precision": Metric("matching", "TP / (TP + FP) of objects at the first threshold"),
        "recall": Metric("matching", "TP / (TP + FN) of objects at the first threshold"),
        "mean_matched_iou": Metric("matching", "mean IoU of the pairs matched at the first threshold"),
        "pq": Metric("matching", "panoptic quality, SQ x RQ, matches at IoU > 0.5", shown=True),
        "sq": Metric("matching", "mean IoU of the pairs with IoU > 0.5"),
        "rq": Metric("matching", "F1 at IoU > 0.5"),
    },
}

#: Printed beside ``ap`` if counted.
_AP_SHOWN = (0.5, 0.75)


@dataclass(frozen=True)
class ScoreOptions:
    """How to score.

    Parameters
    ----------
    include_background : bool
        Score the background as a class, and let it enter the means.
    classes : tuple of (str, int)
        Names and values of the classes; others are refused. Empty: the values found, named by their number.
    regions : tuple of (str, tuple of int)
        Names and values of regions to score instead of classes.
    metrics : tuple of str
        Scores wanted, by name as in :data:`METRICS`, or ``"all"``; empty: the usual ones.
    surface : {"voxel", "subvoxel"}
        Distances between surface voxels, or between surfaces placed inside voxels.
    tolerance : float
        Of NSD, in the unit of the truth's grid.
    percentile : float
        Of the Hausdorff distance.
    thresholds : tuple of float
        IoU thresholds of instance scores.
    trust_index : bool
        Compare voxel by voxel although the two files say they lie elsewhere (fault G2); noted in the result.
    bootstrap : Bootstrap
        How intervals are made.

    Examples
    --------
    >>> options = ScoreOptions(metrics=("dice", "hd90"), percentile=90)
    >>> options.shown("semantic"), sorted(options.groups("semantic"))
    (['dice', 'hd90'], ['overlap', 'surface'])
    """

    include_background: bool = False
    classes: tuple[tuple[str, int], ...] = ()
    regions: tuple[tuple[str, tuple[int, ...]], ...] = ()
    metrics: tuple[str, ...] = ()
    surface: str = "voxel"
    tolerance: float = 1.0
    percentile: float = 95.0
    thresholds: tuple[float, ...] = THRESHOLDS
    trust_index: bool = False
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    def __post_init__(self) -> None:
        """Refuse what cannot be measured before anything is read."""
        checked_names(self.metrics, self.percentile)
        if self.surface not in ("voxel", "subvoxel"):
            raise OptionError(f"surface {self.surface!r}", expected="voxel or subvoxel", remedy="choose one of the two")
        if not 0 <= self.percentile <= 100 or not 0 <= self.tolerance < float("inf"):
            raise OptionError(f"percentile {self.percentile}, tolerance {self.tolerance}",
                              expected="a percentile of 0 to 100, and a tolerance of 0 or more")

    def groups(self, task: Task) -> frozenset[str]:
        """The groups of scores to compute: those of the scores chosen, all, or the usual ones.

        Raises
        ------
        OptionError
            If scores are chosen and none of them is of this task.
        """
        known = METRICS[task]
        if "all" in self.metrics:
            return frozenset(m.group for m in known.values())
        if not self.metrics:
            return frozenset(m.group for m in known.values() if m.usual)
        chosen = frozenset(known[key].group for name in self.metrics if (key := _key(name)) in known)
        if not chosen:
            raise OptionError(f"scores {', '.join(self.metrics)} for {task} labels",
                              expected=f"of {', '.join(known)}", remedy="choose scores of the task, or give --task")
        return chosen

    def shown(self, task: Task) -> list[str]:
        """Names of the scores to print, as they stand in the record."""
        if self.metrics and "all" not in self.metrics:
            names = [n for n in self.metrics if _key(n) in METRICS[task]]
        else:
            names = [n for n, m in METRICS[task].items() if m.shown or (self.metrics and m.group not in _tabled())]
        return list(dict.fromkeys(n for name in names for n in self._reported(name, sweep=name not in self.metrics)))

    def _reported(self, name: str, *, sweep: bool) -> list[str]:
        """A name as the record has it."""
        if name in ("hd", f"hd{self.percentile:g}"):
            return [f"hd{self.percentile:g}"]
        if name == "ap" and sweep:
            return [*(f"ap@{t:.2f}" for t in self.thresholds if t in _AP_SHOWN), "ap"]
        return [name]

    def definitions(self, task: Task) -> dict[str, str]:
        """One sentence per score: numbers without a definition cannot be compared."""
        filled = {"percentile": self.percentile, "tolerance": self.tolerance,
                  "thresholds": ", ".join(f"{t:.2f}" for t in self.thresholds)}
        groups = self.groups(task)
        found = {self._reported(name, sweep=False)[0]: metric.meaning.format(**filled)
                 for name, metric in METRICS[task].items() if metric.group in groups}
        if "surface" in groups and task == "semantic":
            found["surface"] = ("voxels with a face neighbour outside, distances between their centres"
                                if self.surface == "voxel" else "placed inside voxels, weighted by area")
        if task == "instance":
            return found | {"pooled": "from counts summed over images",
                            "mean": "mean over images where the score is defined"}
        return found | {"mean": "mean over cases where the score is defined; of foreground: mean over classes of that"}


def _tabled() -> set[str]:
    """Groups of which some scores are shown by default: with all, the others of them stay in the files."""
    return {m.group for metrics in METRICS.values() for m in metrics.values() if m.shown}


def _key(name: str) -> str:
    """The registry's name of a score: ``hd95`` is ``hd``, ``ap@0.50`` is ``ap``."""
    if name.startswith("ap@"):
        return "ap"
    return "hd" if name.startswith("hd") and name[2:].replace(".", "", 1).isdigit() else name


def checked_names(names: tuple[str, ...], percentile: float = 95.0) -> None:
    """Refuse scores that do not exist.

    Raises
    ------
    OptionError
        With all that exist.
    """
    known = {n for metrics in METRICS.values() for n in metrics} | {"all"}
    wrong = [n for n in names if _key(n) not in known]
    if wrong:
        listed = "; ".join(f"{task}: {', '.join(metrics)}" for task, metrics in METRICS.items())
        raise OptionError(f"no score {', '.join(wrong)}", expected=f"of {listed}, or all", remedy="correct --metrics")
    other = [n for n in names if n != "hd" and _key(n) == "hd" and n != f"hd{percentile:g}"]
    if other:
        raise OptionError(f"{', '.join(other)} with percentile {percentile:g}", expected=f"hd{percentile:g}",
                          remedy=f"--percentile {other[0][2:]}")


def lower_is_better(name: str) -> bool:
    """Whether the smaller of two values of a score is the better one.

    Examples
    --------
    >>> lower_is_better("hd95"), lower_is_better("ap@0.50")
    (True, False)
    """
    return any(metrics[_key(name)].lower_is_better for metrics in METRICS.values() if _key(name) in metrics)
