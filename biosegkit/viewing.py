"""Look at an image and its labels in napari, scaled and named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ._lazy import optional
from .errors import DataError
from .io import ReadOptions, read, read_labels

__all__ = ["layers", "show"]


def layers(image: str | Path, labels: str | Path | None = None,
           options: ReadOptions | None = None) -> list[tuple[Any, dict[str, Any], str]]:
    """Layer data as napari readers return them: one image layer per channel, then the labels with the user's values.

    Raises
    ------
    DataError
        If the labels have another shape than the image.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from biosegkit.grid import Grid
    >>> from biosegkit.image import Image
    >>> from biosegkit.io import write
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Image(np.zeros((1, 4, 5), np.uint8), Grid.regular((4, 5), 0.5, "um")), f"{folder}/a.tif")
    ...     (data, settings, kind), = layers(f"{folder}/a.tif")
    >>> data.shape, settings["name"], settings["scale"], settings["units"], kind
    ((4, 5), 'a', (0.5, 0.5), ('um', 'um'), 'image')
    """
    picture = read(image, options)
    grid, name = picture.grid, Path(image).name.split(".")[0]
    place = {"scale": grid.spacing, "units": ("pixel" if grid.unit == "px" else grid.unit,) * grid.ndim,
             "axis_labels": tuple(grid.axes)}
    many = len(picture.channels) > 1
    found: list[tuple[Any, dict[str, Any], str]] = [
        (picture.array[i], {"name": f"{name} {channel}" if many else name, "blending": "additive", **place}, "image")
        for i, channel in enumerate(picture.channels)]
    if labels is not None:
        truth = read_labels(labels, "instance", options)
        if truth.grid.shape != grid.shape:
            raise DataError(f"labels of shape {truth.grid.shape}", file=labels, expected=f"{grid.shape}, as {image}",
                            remedy="name the labels that belong to this image")
        found.append((truth.restored(), {"name": f"{Path(labels).name.split('.')[0]} labels", **place}, "labels"))
    return found


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
        viewer.dims.set_point(0, viewer.dims.range[0].stop / 2)
    viewer.scale_bar.visible = True
    napari.run()
