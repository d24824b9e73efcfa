"""Layers of a viewer: images, labels and predictions, placed in the world, scaled and named.

What is small is read whole. Slides and other images with several resolutions, and what is large, are read while they
are looked at: their layers hold arrays that are read region by region.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ._lazy import optional
from .errors import DataError
from .grid import Grid, Turn
from .image import COLOURS, GREY, Image, Labels
from .io import Pyramid, ReadOptions, open_pyramid, peek, read, read_labels
from .io.formats import images
from .placement import placed
from .predictor import Prediction
from .shown_arrays import channel_of, colours_last, film, limits, limits_of_most, remembered, thinned
from .views import is_lazy, viewed

__all__ = ["LayerData", "file_layers", "image_layers", "label_file_layer", "label_layer", "layers",
           "prediction_layers", "show", "stored_label_layer"]

#: Data, settings and kind of a layer, as napari's readers return them.
LayerData: TypeAlias = tuple[Any, dict[str, Any], str]

#: Colours of several channels shown on each other, told apart by colour-blind readers.
_COLOURS = ("magenta", "green", "cyan", "yellow", "blue", "red")
#: Bytes of voxels that are read whole, and of a plane that is shown without a lower resolution.
_WHOLE, _PLANE = 1 << 28, 1 << 30
#: Pixels along a side that graphics cards show.
_SIDE = 16384
#: Images of one file that are shown together.
_TOGETHER = 24
#: Time points of a film that stay open.
_OPEN = 64


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
    found = image_layers(image, _name(image)) if isinstance(image, Image) else file_layers(image, options)
    if labels is not None:
        truth = labels if isinstance(labels, Labels) else read_labels(labels, "instance", options)
        grids = {Grid.from_dict(settings["metadata"]["biosegkit"]["grid"]).shape for _, settings, _ in found}
        if grids != {truth.grid.shape}:
            raise DataError(f"labels of shape {truth.grid.shape}", file=truth.source or None,
                            expected=f"{min(grids)}, as {_name(image)}",
                            remedy="name the labels that belong to this image")
        found.append(label_layer(truth, f"{_name(labels)} labels"))
    return found


def file_layers(path: str | Path, options: ReadOptions | None = None) -> list[LayerData]:
    """Layers of an image file; of a slide, and of what is large, no voxel is read before it is looked at.

    Parameters
    ----------
    path : path
        What :func:`biosegkit.io.open_pyramid` opens. Several images in one file are several layers; time points are
        one layer with an axis ``t``.
    options : ReadOptions, optional
        What the file does not say; with ``frame`` or ``series`` only that time point, only that image.

    Raises
    ------
    DataError
        For more images in one file than can be shown together, or one too large to be shown.
    FileError
        As for :func:`biosegkit.io.open_pyramid`.

    Examples
    --------
    >>> import tempfile, tifffile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tifffile.imwrite(folder + "/a.ome.tif", np.zeros((3, 8, 9), np.uint8), ome=True, metadata={"axes": "TYX"})
    ...     (data, settings, kind), = file_layers(folder + "/a.ome.tif")
    >>> data.shape, settings["axis_labels"]
    ((3, 8, 9), ('t', 'y', 'x'))
    """
    options = options or ReadOptions()
    there = images(path, options)
    if len(there) > _TOGETHER:
        raise DataError(f"{len(there)} images in one file", file=str(path), expected=f"{_TOGETHER} at most to be shown",
                        remedy="open one: biosegkit.viewing.file_layers(path, ReadOptions(series=0)) in the console")
    found = []
    for one in there:
        chosen = replace(options, series=one.series)
        name = f"{_name(path)} {one.name}".strip()
        times = one.times if options.frame is None else 1
        found += _film_layers(path, chosen, times, name) if times > 1 else _still_layers(path, chosen, name)
    return found


def _still_layers(path: str | Path, options: ReadOptions, name: str) -> list[LayerData]:
    """Layers of one image at one time."""
    pyramid = open_pyramid(path, options)
    large = _bytes(pyramid.arrays[0]) > _WHOLE
    if not large and (len(pyramid.arrays) == 1 or pyramid.grids[0].ndim == 3):  # volumes are rendered at one resolution
        return image_layers(read(path, options), name)
    turn, place = placed(pyramid.grids[0])
    levels = [viewed(array, turn) for array in pyramid.arrays]
    if levels[0].ndim == 3:
        levels = [remembered(array) for array in levels]
    levels = _with_overview(levels, str(path))
    place["metadata"] = _kept(pyramid.level(0), turn)
    return _as_layers(levels, pyramid.level(0).channels, place, name)


def _film_layers(path: str | Path, options: ReadOptions, times: int, name: str) -> list[LayerData]:
    """Layers of one image at many times, t first."""
    first = open_pyramid(path, replace(options, frame=0))
    if not options.channel_names and (first.channels == COLOURS or GREY in first.notes):
        options = replace(options, channel_names=COLOURS)  # whether colours are grey is not asked of each time point
        first = open_pyramid(path, replace(options, frame=0))
    turn, place = placed(first.grids[0])

    @lru_cache(maxsize=_OPEN)
    def frame(t: int) -> Pyramid:
        return first if t == 0 else open_pyramid(path, replace(options, frame=t))

    def level(k: int) -> Any:
        return film(lambda t: viewed(frame(t).arrays[k], turn), times)

    large = times * _bytes(first.arrays[0]) > _WHOLE
    levels = [level(k) for k in range(len(first.arrays))] if large else [level(0)[...]]
    image = first.level(0)
    place["metadata"] = _kept(replace(image, notes=tuple(n for n in image.notes if not n.startswith("time point"))),
                              turn)
    return _as_layers(levels, image.channels, _through_time(place), name)


def label_file_layer(path: str | Path, name: str, options: ReadOptions | None = None) -> LayerData:
    """The layer of a file of labels; what is large is read while it is looked at, with all its resolutions.

    Raises
    ------
    FileError, DataError
        As for :func:`biosegkit.io.read_labels`.

    Examples
    --------
    >>> import tempfile
    >>> from biosegkit.io import write
    >>> labels = Labels.from_values(np.array([[0, 7]]), Grid.regular((1, 2), 0.5, "um"), "instance")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(labels, f"{folder}/a.tif")
    ...     data, settings, kind = label_file_layer(f"{folder}/a.tif", "a")
    >>> data.tolist(), settings["scale"], kind
    ([[0, 7]], (0.5, 0.5), 'labels')
    """
    header = peek(path, options)
    if header.bytes <= _WHOLE or header.dtype.kind not in "ui" or header.channels != 1:
        data, settings, kind = label_layer(read_labels(path, "instance", options), name)
        del settings["metadata"]["task"]  # a file does not say whether its values are objects or classes
        return data, settings, kind
    return _lazy_labels(path, name, options)


def stored_label_layer(path: str | Path, name: str, grid: Grid | None = None) -> LayerData:
    """The layer of labels in an OME-Zarr, however small, with all its resolutions, read while it is looked at.

    Parameters
    ----------
    path : path
    name : str
    grid : Grid, optional
        Where the full resolution lies, if elsewhere than the file says: as its image does that was moved in the viewer.

    Raises
    ------
    FileError, DataError
        As for :func:`biosegkit.io.open_pyramid`; or if the grid has another shape.

    Examples
    --------
    >>> import tempfile
    >>> from biosegkit.io import write
    >>> labels = Labels.from_values(np.array([[0, 7]]), Grid.regular((1, 2), 0.5, "um"), "instance")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(labels, f"{folder}/a.ome.zarr")
    ...     data, settings, _ = stored_label_layer(f"{folder}/a.ome.zarr", "a", Grid.regular((1, 2), 3.0, "um"))
    ...     np.asarray(data[0, :]).tolist(), settings["scale"]
    ([0, 7], (3.0, 3.0))
    """
    return _lazy_labels(path, name, None, grid)


def _lazy_labels(path: str | Path, name: str, options: ReadOptions | None, grid: Grid | None = None) -> LayerData:
    """Labels that are read while they are looked at."""
    pyramid = open_pyramid(path, options)
    if grid is not None and grid.shape != pyramid.grids[0].shape:
        raise DataError(f"labels of shape {pyramid.grids[0].shape}", file=str(path), expected=f"{grid.shape}")
    finest = pyramid.level(0)
    finest = finest if grid is None else replace(finest, grid=grid)
    turn, place = placed(finest.grid)
    arrays = _with_overview([viewed(array, turn) for array in pyramid.arrays], str(path))
    levels = [channel_of(array, 0) for array in arrays]
    metadata = _kept(finest, turn)
    return _levels(levels), {"name": name, **place, **_multiscale(levels), "metadata": metadata}, "labels"


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
    place["metadata"] = _kept(image, turn)
    return _as_layers([viewed(image.array, turn)], image.channels, place, name)


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


def _as_layers(levels: Sequence[Any], channels: Sequence[str], place: Mapping[str, Any], name: str) -> list[LayerData]:
    """Layers of arrays (C, *shown), finest first: one in colours, or one per channel."""
    if tuple(channels) == COLOURS and np.dtype(levels[0].dtype) == np.uint8:
        colours = [colours_last(array) for array in levels]
        return [(_levels(colours), {"name": name, "rgb": True, **_multiscale(levels), **place}, "image")]
    many = len(channels) > 1
    found: list[LayerData] = []
    for k, channel in enumerate(channels):
        arrays = [channel_of(array, k) for array in levels]
        settings: dict[str, Any] = {"name": f"{name} {channel}" if many else name}
        settings |= {"colormap": _COLOURS[k % len(_COLOURS)]} if many else {}
        span = limits(arrays) if is_lazy(levels[0]) else limits_of_most(arrays[0])
        settings |= {"contrast_limits": span} if span else {}
        found.append((_levels(arrays), {**settings, "blending": "additive", **_multiscale(levels), **place}, "image"))
    return found


def _with_overview(arrays: Sequence[Any], source: str) -> list[Any]:
    """(C, *space) of one resolution with a lower one, where a plane is more than can be shown at once."""
    one, plane = len(arrays) == 1, arrays[0].shape[-2:]
    if one and (max(plane) > _SIDE or _bytes(arrays[0]) // arrays[0].shape[-3] > _PLANE):
        return [arrays[0], thinned(arrays[0], source)]
    return list(arrays)


def _levels(arrays: Sequence[Any]) -> Any:
    """The data of a layer: an array, or a list of several resolutions."""
    return arrays[0] if len(arrays) == 1 else list(arrays)


def _multiscale(arrays: Sequence[Any]) -> dict[str, bool]:
    """What is to be said of several resolutions."""
    return {"multiscale": True} if len(arrays) > 1 else {}


def _through_time(place: Mapping[str, Any]) -> dict[str, Any]:
    """The place of a layer with an axis of time before those of space, which counts time points."""
    longer = {**place, "units": ("pixel", *place["units"]), "axis_labels": ("t", *place["axis_labels"])}
    if "affine" in place:
        n = len(place["affine"])
        longer["affine"] = np.eye(n + 1)
        longer["affine"][1:, 1:] = place["affine"]
        return longer
    return {**longer, "scale": (1.0, *place["scale"]), "translate": (0.0, *place["translate"])}


def _bytes(array: Any) -> int:
    """Size in memory."""
    return int(math.prod(array.shape) * np.dtype(array.dtype).itemsize)


def _name(item: str | Path | Image | Labels) -> str:
    """A layer's name: that of the file without its endings."""
    source = item.source if isinstance(item, Image | Labels) else item
    return Path(source).name.split(".")[0] or ("image" if isinstance(item, Image) else "labels")


def _kept(item: Image | Labels, turn: Turn) -> dict[str, Any]:
    """What a layer keeps of where it came from, so that it can be written as it was read."""
    return {"biosegkit": {"grid": item.grid.to_dict(), "source": item.source, "notes": list(item.notes),
                          "turned": not turn.is_identity}}
