"""Which scores there are, what each means, and which of them are wanted."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from biosegkit.errors import OptionError
from biosegkit.image import Task
from biosegkit.metrics import DEFINITIONS, THRESHOLDS
from biosegkit.metrics.statistics import Bootstrap

__all__ = ["METRICS", "Metric", "ScoreOptions", "checked_names", "lower_is_better", "signed"]


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
    signed : bool
        An error with a sign: of two models the one nearer to 0 is better.
    """

    group: str
    meaning: str
    usual: bool = True
    lower_is_better: bool = False
    shown: bool = False
    signed: bool = False


#: Every score by task and name. ``hd`` is reported as ``hd95`` (or another percentile), ``ap`` also per threshold.
METRICS: Mapping[Task, Mapping[str, Metric]] = {
    "semantic": {
        "dice": Metric("overlap", "2 TP / (2 TP + FP + FN); undefined where truth and prediction are empty",
                       shown=True),
        "iou": Metric("overlap", "TP / (TP + FP + FN)", shown=True),
        "precision": Metric("overlap", "TP / (TP + FP)"),
        "recall": Metric("overlap", "TP / (TP + FN), sensitivity"),
        "specificity": Metric("overlap", "TN / (TN + FP): grows with the empty space around"),
        "volume_error": Metric("overlap", "volume predicted less volume true", signed=True),
        "volume_error_absolute": Metric("overlap", "size of the volume error", lower_is_better=True),
        "relative_volume_error": Metric("overlap", "volume error over the true volume", signed=True),
        "relative_volume_error_absolute": Metric("overlap", "size of the volume error over the true volume",
                                                 lower_is_better=True),
        "hausdorff": Metric("surface", "largest distance between surfaces, both directions", lower_is_better=True),
        "hd": Metric("surface", "larger of the two directed {percentile:g}th percentiles of surface distances",
                     lower_is_better=True, shown=True),
        "assd": Metric("surface", "mean of the surface distances of both directions pooled", lower_is_better=True,
                       shown=True),
        "nsd": Metric("surface", "share of both surfaces within {tolerance:g} of the other surface", shown=True),
        "boundary_precision": Metric("surface", "share of the predicted surface within {tolerance:g} of the true one"),
        "boundary_recall": Metric("surface", "share of the true surface within {tolerance:g} of the predicted one"),
        "boundary_f1": Metric("surface", "harmonic mean of boundary precision and recall"),
        "ece": Metric("calibration", "expected calibration error in the foreground: mean gap between probability and "
                      "share of voxels that are right, 15 bins", lower_is_better=True),
        "mce": Metric("calibration", "largest of these gaps", lower_is_better=True),
        "brier": Metric("calibration", "mean squared error of the probabilities in the foreground, summed over classes",
                        lower_is_better=True),
        "nll": Metric("calibration", "mean negative log-likelihood in the foreground, in nats", lower_is_better=True),
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
        "aji": Metric("jaccard", "aggregated Jaccard index: each true object with the prediction of largest IoU"),
        "aji_plus": Metric("jaccard", "AJI with one-to-one pairs of the largest total IoU"),
        "seg": Metric("tracking", "Cell Tracking Challenge: mean IoU of true objects with the prediction that covers "
                      "more than half of them, 0 without one"),
        "det": Metric("tracking", "Cell Tracking Challenge: 1 - cost of correcting the detections over the cost of "
                      "drawing all, on complete masks"),
        "split_rate": Metric("splits", "share of the true objects that are split", lower_is_better=True),
        "merge_rate": Metric("splits", "share of the predictions that merge true objects", lower_is_better=True),
        "v_rand": Metric("partition", "Rand F-score over the true foreground (ISBI 2012)", usual=False),
        "v_rand_split": Metric("partition", "its part that split errors lower", usual=False),
        "v_rand_merge": Metric("partition", "its part that merge errors lower", usual=False),
        "adapted_rand_error": Metric("partition", "1 - Rand F-score over pairs of different voxels (SNEMI3D)",
                                     usual=False, lower_is_better=True),
        "v_info": Metric("partition", "information F-score over the true foreground (ISBI 2012)", usual=False),
        "v_info_split": Metric("partition", "its part that split errors lower", usual=False),
        "v_info_merge": Metric("partition", "its part that merge errors lower", usual=False),
        "variation_of_information": Metric("partition", "H(S|T) + H(T|S) in bits per voxel", usual=False,
                                           lower_is_better=True),
        "vi_split": Metric("partition", "H(S|T) in bits per voxel", usual=False, lower_is_better=True),
        "vi_merge": Metric("partition", "H(T|S) in bits per voxel", usual=False, lower_is_better=True),
        "object_hausdorff": Metric("object_surface", "mean over matched objects of their Hausdorff distance",
                                   usual=False, lower_is_better=True),
        "object_hd": Metric("object_surface", "mean over matched objects of their Hausdorff distance at percentile "
                            "{percentile:g}", usual=False, lower_is_better=True),
        "object_assd": Metric("object_surface", "mean over matched objects of their ASSD", usual=False,
                              lower_is_better=True),
        "coco_ap": Metric("coco", "COCO mask AP, mean over the thresholds: objects ranked by score, precision over "
                          "recall; all objects of an image count, not only the best 100", usual=False),
        "coco_ar": Metric("coco", "share of true objects found by all predictions, mean over the thresholds",
                          usual=False),
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
    surface : str
        What a surface is and how its distances are put together: a name of :data:`biosegkit.metrics.DEFINITIONS`.
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
        if self.surface not in DEFINITIONS:
            raise OptionError(f"surface {self.surface!r}", expected=f"one of {', '.join(DEFINITIONS)}",
                              remedy="correct --surface")
        if not 0 <= self.percentile <= 100 or not 0 <= self.tolerance < float("inf"):
            raise OptionError(f"percentile {self.percentile}, tolerance {self.tolerance}",
                              expected="a percentile of 0 to 100, and a tolerance of 0 or more",
                              remedy="correct --percentile or --tolerance")

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
        if _key(name) in ("hd", "object_hd"):
            return [f"{_key(name)}{self.percentile:g}"]
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
            found["surface"] = DEFINITIONS[self.surface].sentence
        if task == "instance":
            return found | {"pooled": "from counts summed over images",
                            "mean": "mean over images where the score is defined"}
        return found | {"mean": "mean over cases where the score is defined; of foreground: mean over classes of that"}


def _tabled() -> set[str]:
    """Groups of which some scores are shown by default: with all, the others of them stay in the files."""
    return {m.group for metrics in METRICS.values() for m in metrics.values() if m.shown}


def _key(name: str) -> str:
    """The registry's name of a score: ``hd95`` is ``hd``, ``ap@0.50`` is ``ap``."""
    stem, _, percent = name.rpartition("hd")
    if stem in ("", "object_") and percent.replace(".", "", 1).isdigit():
        return f"{stem}hd"
    return name.partition("@")[0] if name.startswith(("ap@", "coco_ap@")) else name


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
        near = difflib.get_close_matches(wrong[0], sorted(known), 1)
        raise OptionError(f"no score {', '.join(wrong)}", expected=f"of {listed}, or all",
                          remedy=f"correct --metrics{f', perhaps to {near[0]}' if near else ''}")
    other = [n for n in names if _key(n) in ("hd", "object_hd") and n not in (_key(n), f"{_key(n)}{percentile:g}")]
    if other:
        raise OptionError(f"{other[0]} with percentile {percentile:g}", expected=f"{_key(other[0])}{percentile:g}",
                          remedy=f"--percentile {other[0].rpartition('hd')[2]}")


def signed(name: str) -> bool:
    """Whether a score is an error with a sign."""
    return any(metrics[_key(name)].signed for metrics in METRICS.values() if _key(name) in metrics)


def lower_is_better(name: str) -> bool:
    """Whether the smaller of two values of a score is the better one.

    Examples
    --------
    >>> lower_is_better("hd95"), lower_is_better("ap@0.50")
    (True, False)
    """
    return any(metrics[_key(name)].lower_is_better for metrics in METRICS.values() if _key(name) in metrics)
