"""Calibration of predictions whose probability maps were kept: one map at a time beside its truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from ._words import counted
from .errors import DataError, OptionError
from .image import Labels
from .io import read
from .metrics import CalibrationCounts, calibration_counts, mask_calibration_counts
from .pairing import Pairs
from .scores import ScoreOptions

__all__ = ["calibrated", "calibration_row", "case_calibration"]


def calibrated(pairs: Pairs, cases: Mapping[str, dict[str, Any]], options: ScoreOptions,
               values: set[int]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The cases' scores with those of their probabilities, and remarks.

    Parameters
    ----------
    pairs : Pairs
        With the files of the maps.
    cases : mapping of str to dict
        Scores so far.
    options : ScoreOptions
        Classes or regions by name; calibration is left out if other scores were chosen.
    values : set of int
        Label values met, for labels without named classes.

    Raises
    ------
    OptionError
        If scores of calibration were chosen and maps are missing.
    DataError
        If a map does not fit its labels.
    """
    result = dict(cases)
    if pairs.task != "semantic" or "calibration" not in options.groups("semantic"):
        return result, []
    chosen = bool(options.metrics) and "all" not in options.metrics
    missing = [name for name in cases if name not in pairs.maps]
    if missing:
        if chosen:
            raise OptionError(f"{counted(len(missing), 'case')} without probability map: {', '.join(missing)}",
                              expected="<name>_classes beside the prediction, or in --maps FOLDER",
                              remedy="predict with --save-maps, or choose other --metrics")
        some = f"no calibration: {counted(len(missing), 'case')} of {len(cases)} without probability map"
        return result, [some] if pairs.maps else []
    classes = [v for _, v in options.classes] or sorted(values)
    for case in pairs.dataset:
        truth = pairs.dataset.load_labels(case, pairs.task)
        probabilities = read(pairs.maps[case.id], None)
        try:
            row = calibration_row(np.asarray(probabilities.array), truth, sorted({0, *classes}), options)
        except DataError as error:
            if options.classes or options.regions or chosen:
                raise DataError(error.found, file=pairs.maps[case.id], expected=error.expected,
                                remedy=error.remedy) from error
            note = f"no calibration: {pairs.maps[case.id].name} has {error.found}; name the classes in dataset.json"
            return dict(cases), [note]
        result[case.id] = {**cases[case.id], **row}
    return result, []


def calibration_row(probabilities: Any, truth: Labels, classes: list[int], options: ScoreOptions) -> dict[str, Any]:
    """What calibration adds to the scores of a case: see :func:`case_calibration`."""
    counts = case_calibration(probabilities, truth, classes, options)
    return {**counts.scores(), "counts": {"calibration": asdict(counts)}}


def case_calibration(probabilities: Any, truth: Labels, classes: list[int], options: ScoreOptions) -> CalibrationCounts:
    """Counts of one case, in the foreground: where truth or prediction is not background.

    Parameters
    ----------
    probabilities : ndarray, (C, *space)
        One channel per class, background first, in the order of the values; or one per region.
    truth : Labels
        On the same grid.
    classes : list of int
        Values of the classes, background included.
    options : ScoreOptions
        Its regions, if it has some.

    Raises
    ------
    DataError
        If there is not one channel per class or region, or a value is no probability.
    """
    valid = None if truth.ignore is None else np.logical_not(truth.ignore)
    names = [name for name, _ in options.regions] or classes
    if len(probabilities) != len(names):
        raise DataError(f"{counted(len(probabilities), 'channel')} of probabilities",
                        expected=f"{len(names)}, one per {'region' if options.regions else 'class'}: "
                        f"{', '.join(map(str, names))}", remedy="name all classes of the model in dataset.json")
    if not options.regions:
        return calibration_counts(probabilities, truth.as_classes(classes).array, foreground=True, valid=valid)
    parts = [mask_calibration_counts(channel, np.isin(truth.values, values)[truth.array], foreground=True, valid=valid)
             for channel, (_, values) in zip(probabilities, options.regions, strict=True)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
