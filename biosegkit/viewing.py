"""Layers of a viewer: images, labels and predictions, placed in the world, scaled and named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ._lazy import optional
from .errors import DataError
from .grid import Turn
from .image import Image, Labels
from .io import ReadOptions, read, read_labels
from .placement import placed
from .predictor import Prediction

__all__ = ["LayerData", "image_layers", "label_layer", "layers", "prediction_layers", "show"]

#: Data, settings and kind of a layer, as napari's readers return them.
LayerData: TypeAlias = tuple[Any, dict[str, Any], str]

#: Colours of several channels shown on each other, told apart by colour-blind readers.
_COLOURS = ("magenta", "green", "cyan", "yellow", "blue", "red")
_RGB = ("red", "green", "blue")


def layers(image: str | Path | Image, labels: str | Path | Labels | None = None,
           options: ReadOptions | None = None) -> list[LayerData]:
    """Layers of an image, one per channel or one in colours, then of its labels with the user's values.

    Parameters
    ----------
    image : path or Image
    labels : path or Labels, optional
    options : ReadOptions, optional
        What the files do not say.

    Raises
    ------
    DataError
        If the labels have another shape than the image.

    Examples
    --------
    >>> import tempfile
    >>> from biosegkit.grid import Grid
    >>> from biosegkit.io import write
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Image(np.zeros((1, 4, 5), np.uint8), Grid.regular((4, 5), 0.5, "um")), f"{folder}/a.tif")
    ...     (data, settings, kind), = layers(f"{folder}/a.tif")
    >>> data.shape, settings["name"], settings["scale"], settings["units"], kind
    ((4, 5), 'a', (0.5, 0.5), ('um', 'um'), 'image')
    """
    picture = image if isinstance(image, Image) else read(image, options)
    found = image_layers(picture, _name(image))
    if labels is not None:
        truth = labels if isinstance(labels, Labels) else read_labels(labels, "instance", options)
        if truth.grid.shape != picture.grid.shape:
            raise DataError(f"labels of shape {truth.grid.shape}", file=truth.source or None,
                            expected=f"{picture.grid.shape}, as {picture.source or 'the image'}",
                            remedy="name the labels that belong to this image")
        found.append(label_layer(truth, f"{_name(labels)} labels"))
    return found


def image_layers(image: Image, name: str) -> list[LayerData]:
    """One layer per channel; red, green and blue of 8 bits are one layer in colours.

    Examples
    --------
    >>> from biosegkit.grid import Grid
    >>> image = Image(np.zeros((3, 4, 5), np.uint8), Grid.regular((4, 5)), ("red", "green", "blue"))
    >>> [(data.shape, settings["rgb"]) for data, settings, _ in image_layers(image, "slide")]
    [((4, 5, 3), True)]
    """
    turn, place = placed(image.grid)
    array = turn.apply(image.array)
    place["metadata"] = _kept(image, turn)
    if tuple(image.channels) == _RGB and array.dtype == np.uint8:
        return [(np.moveaxis(array, 0, -1), {"name": name, "rgb": True, **place}, "image")]
    many = len(image.channels) > 1
    settings = [{"name": f"{name} {channel}", "colormap": _COLOURS[i % len(_COLOURS)]} if many else {"name": name}
                for i, channel in enumerate(image.channels)]
    return [(array[i], {**own, "blending": "additive", **place}, "image") for i, own in enumerate(settings)]


def label_layer(labels: Labels, name: str, objects: Mapping[str, Any] | None = None) -> LayerData:
    """Labels with the user's values, and a row of features per object.

    Examples
    --------
    >>> from biosegkit.grid import Grid
    >>> labels = Labels.from_values(np.array([[0, 7]]), Grid.regular((1, 2)), "instance")
    >>> data, settings, kind = label_layer(labels, "cells", {"id": np.array([7]), "score": np.array([0.5])})
    >>> data.tolist(), settings["features"]["index"].tolist(), kind
    ([[0, 7]], [7], 'labels')
    """
    turn, place = placed(labels.grid)
    settings = {"name": name, **place, "metadata": _kept(labels, turn) | {"task": labels.task}}
    if objects is not None and "id" in objects:
        columns = {key: np.asarray(column) for key, column in objects.items() if key != "id"}
        settings["features"] = {"index": np.asarray(objects["id"]), **columns}
    return turn.apply(labels.restored()), settings, "labels"


def prediction_layers(prediction: Prediction, name: str) -> list[LayerData]:
    """The labels of a prediction with its table of objects, and below them its maps if it has any.

    Examples
    --------
    >>> from biosegkit.grid import Grid
    >>> labels = Labels.from_values(np.array([[0, 1]]), Grid.regular((1, 2)), "instance")
    >>> maps = {"foreground": np.zeros((1, 1, 2), np.float32)}
    >>> [settings["name"] for _, settings, _ in prediction_layers(Prediction(labels, maps=maps), "cells")]
    ['cells foreground', 'cells']
    """
    found: list[LayerData] = []
    for title, values in (prediction.maps or {}).items():
        many = len(values) > 1
        names = tuple(f"{title} {i}" for i in range(len(values))) if many else (title,)
        shown = image_layers(Image(values, prediction.labels.grid, names), name if many else f"{name} {title}")
        found.extend((data, {**settings, "visible": False}, kind) for data, settings, kind in shown)
    return [*found, label_layer(prediction.labels, name, prediction.objects)]


def show(image: str | Path, labels: str | Path | None = None, options: ReadOptions | None = None) -> None:
    """Open napari and wait until it is closed.

    Raises
    ------
    OptionError
        If napari is not installed.
    """
    found = layers(image, labels, options)
    napari = optional("napari")
    viewer = napari.Viewer(title=f"biosegkit: {Path(image).name}")
    for data, settings, kind in found:
        getattr(viewer, f"add_{kind}")(data, **settings)
    if len(viewer.layers) and viewer.layers[0].ndim == 3:
        viewer.dims.set_point(0, (viewer.dims.range[0].start + viewer.dims.range[0].stop) / 2)
    viewer.scale_bar.visible = True
    napari.run()


def _name(item: str | Path | Image | Labels) -> str:
    """A layer's name: that of the file without its endings."""
    source = item.source if isinstance(item, Image | Labels) else item
    return Path(source).name.split(".")[0] or ("image" if isinstance(item, Image) else "labels")


def _kept(item: Image | Labels, turn: Turn) -> dict[str, Any]:
    """What a layer keeps of where it came from, so that it can be written as it was read."""
    return {"biosegkit": {"grid": item.grid.to_dict(), "source": item.source, "notes": list(item.notes),
                          "turned": not turn.is_identity}}
