"""Layers measured and compared, as plain data: what the widget Measure shows. No Qt; done in a thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from biosegkit.errors import DataError
from biosegkit.extents import point_inside
from biosegkit.image import Image, Labels
from biosegkit.progress import tick

from .films import LayerData
from .layers import image_of, labels_of, look_at, part_under

__all__ = ["Comparison", "Question", "compared", "counted", "features_with", "measured", "place_in", "shown_columns"]

#: Colours of what is wrong, by kind, told apart by colour-blind readers: orange, blue, pink, yellow.
_COLOURS = {"false positives": (1.0, 0.59, 0.0, 1.0), "misses": (0.25, 0.67, 1.0, 1.0),
            "splits": (0.88, 0.34, 0.78, 1.0), "merges": (0.94, 0.89, 0.26, 1.0),
            "wrong class": (0.88, 0.34, 0.78, 1.0)}
_ONE = {"false positives": "false positive", "misses": "miss", "splits": "piece of a split object",
        "merges": "merged object", "wrong class": "wrong class"}


@dataclass(frozen=True, eq=False)
class Question:
    """What is to be measured or compared: snapshots of layers, see :func:`biosegkit_napari.layers.snapshot`.

    Parameters
    ----------
    labels : snapshot
    images : tuple of snapshots
        One with all channels, or one per channel; none for sizes and shapes alone.
    reference : snapshot, optional
        Labels to compare with.
    task : {"instance", "semantic"}
        Whether values stand for objects or classes.
    frame : int
        Time point.
    features : DataFrame, optional
        Of the layer of labels.
    """

    labels: Any
    images: tuple[Any, ...] = ()
    reference: Any = None
    task: str = "instance"
    frame: int = 0
    features: Any = None


@dataclass(frozen=True, eq=False)
class Comparison:
    """What differs between labels and a reference.

    Parameters
    ----------
    scores : dict of ndarray
        ``score``, ``value`` and ``unit``.
    errors : dict of ndarray
        ``what``, ``layer``, ``id`` and size of every object that is wrong, with its box; empty for classes.
    said : str
        The counts, and what was assumed.
    layer : tuple
        What is wrong, in colours: data, settings and kind, as napari's readers return them.
    """

    scores: dict[str, Any]
    errors: dict[str, Any]
    said: str
    layer: LayerData


def measured(question: Question) -> tuple[dict[str, Any], Any]:
    """One row per object, or per class: the columns of :func:`biosegkit.outputs.measured`, boxes in the layer's voxels.

    The second is what becomes of the features of the layer.

    Raises
    ------
    DataError
        If there is nothing to measure, or image and labels do not lie on each other.
    """
    import pandas as pd

    from biosegkit.cases import on_grid_of
    from biosegkit.outputs import Found
    from biosegkit.outputs import measured as measure

    labels = _labels(question.labels, question)
    if not labels.count:
        raise DataError("labels without an object", file=labels.source or None, expected="one at least",
                        remedy="segment first, or choose another layer")
    image = _image(question, labels)
    if image is not None:
        labels = on_grid_of(image, labels)
    task = labels.task
    table = dict(measure(Found.of(labels.array, labels.grid, source=labels.source, task=task), image))
    table["id"] = labels.values[table["id"]]
    if task == "semantic":
        table = {"class": table.pop("id"), **table}
    return table, pd.DataFrame(features_with(question.features, table))


def compared(question: Question) -> Comparison:
    """Scores, and what is wrong as a table and as a layer.

    Raises
    ------
    DataError
        If the layers do not lie on each other.
    """
    from biosegkit.agreement import agreement, error_codes_of, wrong_objects
    from biosegkit.viewing import label_layer

    tick(0, 3, "steps")
    found, true = _labels(question.labels, question), _labels(question.reference, question)
    assumed = []
    if true.grid.unit == "px" != found.grid.unit and true.grid.shape == found.grid.shape:
        true = replace(true, grid=found.grid)  # distances in its unit, and errors where the labels are
        assumed = [f"{question.reference.name} does not say the size of its voxels: that of {question.labels.name}"]
    tick(1, 3, "steps")
    seen = agreement(found, true)
    tick(2, 3, "steps")
    lengths = ("hd95", "assd")
    scores = {"score": np.array(list(seen.scores), object), "value": np.array(list(seen.scores.values())),
              "unit": np.array([seen.unit if name.startswith(lengths) else "" for name in seen.scores], object)}
    errors = wrong_objects(seen) if true.task == "instance" else {}
    if errors:
        of_reference = np.isin(errors["what"], ["misses", "merges"])
        errors["layer"] = np.where(of_reference, question.reference.name, question.labels.name).astype(object)
        errors["what"] = np.array([_ONE[what] for what in errors["what"]], object)
    tick(3, 3, "steps")
    codes = Labels.from_values(error_codes_of(seen), true.grid, "semantic")
    data, settings, kind = label_layer(codes, f"errors of {question.labels.name}")
    kinds = list(seen.errors)
    settings["features"] = {"index": np.arange(1, len(kinds) + 1), "what": [_ONE[name] for name in kinds]}
    settings["metadata"]["errors_of"] = question.labels.name
    # In a cycle: for colours by value napari compiles a loop first, for half a second or more in the viewer's thread.
    settings["colormap"] = np.array([(0.0, 0.0, 0.0, 0.0), *(_COLOURS[name] for name in kinds)], np.float32)
    return Comparison(scores, errors, "\n".join([counted(seen.counts, true.task), *assumed, *seen.notes]),
                      (data.astype(np.uint8), settings, kind))


def counted(counts: Mapping[str, int], task: str) -> str:
    """Counts of what is wrong, in words.

    Examples
    --------
    >>> counted({"false positives": 2, "misses": 1, "splits": 0, "merges": 4}, "instance")
    '2 false positives, 1 miss, no split, 4 merged objects'
    >>> counted({"false positives": 7, "misses": 0, "wrong class": 3}, "semantic")
    'voxels: 7 false positives, no miss, 3 wrong class'
    """
    one = {"false positives": "false positive", "misses": "miss", "splits": "split", "merges": "merge"}
    many = {"splits": "pieces of split objects", "merges": "merged objects"}
    words = [f"no {one.get(name, name)}" if not n else f"{n} {one.get(name, name)}" if n == 1 else
             f"{n} {many.get(name, name)}" for name, n in counts.items()]
    return ("voxels: " if task == "semantic" else "") + ", ".join(words)


def shown_columns(table: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that are shown: boxes are left to the file, places come last.

    Examples
    --------
    >>> list(shown_columns({"id": [1], "centroid_y": [0.5], "bbox_start_y": [0], "area": [3]}))
    ['id', 'area', 'centroid_y']
    """
    first = {name: column for name, column in table.items() if not name.startswith(("bbox_", "centroid_"))}
    return first | {name: column for name, column in table.items() if name.startswith("centroid_")}


def features_with(features: Any, table: Mapping[str, Any]) -> dict[str, Any]:
    """Features of a layer with what was measured; what else is known of the objects, such as scores, is kept.

    Examples
    --------
    >>> import pandas
    >>> kept = pandas.DataFrame({"index": [9, 3], "score": [0.5, 0.9]})
    >>> {k: list(map(float, v)) for k, v in features_with(kept, {"id": np.array([3, 4]), "area": np.ones(2)}).items()}
    {'index': [3.0, 4.0], 'score': [0.9, nan], 'area': [1.0, 1.0]}
    """
    ids = np.asarray(table["id" if "id" in table else "class"])
    made: dict[str, Any] = {"index": ids}
    known = {} if features is None or "index" not in features else {
        int(number): row for row, number in enumerate(features["index"])}
    if known:
        rows = np.array([known.get(int(number), -1) for number in ids], np.int64)
        for name in features:
            if name != "index" and name not in table:
                column = np.asarray(features[name])[rows]
                made[str(name)] = column if (rows >= 0).all() else np.where(
                    rows >= 0, column, np.nan if column.dtype.kind in "fiub" else None)
    return made | {name: column for name, column in shown_columns(table).items() if name not in ("id", "class")}


def place_in(layer: Any, table: Mapping[str, Any], row: int, frame: int = 0) -> tuple[float, ...]:
    """A voxel of a layer inside an object of a table, near its middle; of a snapshot in a thread.

    Raises
    ------
    DataError
        If the object is not there any more.
    """
    look = look_at(layer)
    number = int(table["id" if "id" in table else "class"][row])
    spans = {a: slice(int(table[f"bbox_start_{a}"][row]), int(table[f"bbox_stop_{a}"][row]))
             for a in "zyx" if f"bbox_start_{a}" in table}
    window = [slice(frame, frame + 1) if a == "t" else spans[a] for a in look.axes if a == "t" or a in spans]
    finest = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    place = point_inside(finest, window, number)
    if place is None:
        raise DataError(f"object {number} is not where it was measured", file=layer.name,
                        expected="labels that have not changed since", remedy="click Measure or Compare again")
    return tuple(map(float, place))


def _as_shown(layer: Any) -> Any:
    """A layer as it lies in the viewer, whatever the order of axes of its file: boxes then are the layer's own."""
    return SimpleNamespace(**{**vars(layer), "metadata": {}})


def _labels(layer: Any, question: Question) -> Labels:
    """Labels in the order that is shown."""
    return labels_of(_as_shown(layer), question.task, frame=_frame(layer, question))


def _frame(layer: Any, question: Question) -> int:
    """The time point of a layer, which is the same in all that have several.

    Raises
    ------
    DataError
        If it ends before.
    """
    frames = look_at(layer).frames
    if frames > 1 and question.frame >= frames:
        raise DataError(f"{frames} time points", file=layer.name, expected=f"one more than {question.frame} at least",
                        remedy="go to a time point that all of these layers have")
    return question.frame if frames > 1 else 0


def _image(question: Question, labels: Labels) -> Image | None:
    """The image that was chosen, its channels named; one without a size of pixels takes that of the labels."""
    if not question.images:
        return None
    shown = [_as_shown(layer) for layer in question.images]
    level, window = part_under(_as_shown(question.labels), shown[0])
    image = image_of(shown, frame=_frame(question.images[0], question), level=level, window=window)
    if image.grid.unit == "px" and labels.grid.unit != "px" and image.grid.shape == labels.grid.shape:
        image = replace(image, grid=labels.grid)
    if len(question.images) == 1 and len(image.array) == 1:
        image = replace(image, channels=(question.images[0].name,))
    return image
