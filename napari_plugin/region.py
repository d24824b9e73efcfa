"""Which part of a layer is meant: all of it, this view, this plane, or a rectangle that was drawn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from biosegkit.errors import OptionError

from .layers import Look

__all__ = ["REGIONS", "Region", "frame_of", "look_to", "region_of"]

#: What can be chosen, and what it means.
REGIONS = {
    "whole": "the whole image, all planes",
    "view": "what is in view now; of a volume all its planes for a 3D model, this plane for a 2D model",
    "plane": "the plane that is shown now, all of it",
    "rectangle": "the first shape that is selected in a layer of shapes, or the last that was drawn",
}

#: Slices of the space axes in voxels of the finest level, and the place of the plane that is shown (None in 2D).
Region = tuple[tuple[slice, ...], int | None]


def region_of(kind: str, viewer: Any, layer: Any, look: Look) -> Region:
    """The part of a layer that a choice of :data:`REGIONS` means now, its planes all of them.

    Raises
    ------
    OptionError
        If nothing of the layer is in view, or no shape is drawn.
    """
    whole = tuple(slice(0, n) for n in look.grid.shape)
    plane = _plane(viewer, layer, look)
    if kind in ("whole", "plane"):
        return whole, plane
    corners = _in_view(viewer, layer, look) if kind == "view" else _of_shape(viewer, layer, look)
    found = []
    for low, high, n in zip(*corners, look.grid.shape, strict=True):
        start, stop = max(0, int(np.floor(low))), min(n, int(np.ceil(high)))
        if start >= stop:
            raise OptionError(f"nothing of {layer.name} in the {kind}", expected="a part of the image",
                              remedy="move the view or the shape onto it")
        found.append(slice(start, stop))
    return (*([whole[0]] if len(whole) == 3 else []), *found[-2:]), plane


def frame_of(viewer: Any, layer: Any, look: Look) -> int:
    """The time point that is shown."""
    return _index(viewer, layer, look, "t") if "t" in look.axes else 0


def look_to(viewer: Any, layer: Any, place: tuple[float, ...]) -> None:
    """Show a place of a layer in the middle of the view."""
    world = layer.data_to_world(place)
    first = viewer.dims.ndim - len(world)
    for k, value in enumerate(world):
        if first + k in viewer.dims.not_displayed:
            viewer.dims.set_point(first + k, float(value))
    shown = [d - first for d in viewer.dims.displayed]
    viewer.camera.center = tuple(float(world[d]) for d in shown)


def _plane(viewer: Any, layer: Any, look: Look) -> int | None:
    """The z that is shown."""
    return _index(viewer, layer, look, "z") if look.grid.ndim == 3 else None


def _index(viewer: Any, layer: Any, look: Look, axis: str) -> int:
    """The index along an axis at the viewer's point."""
    place = look.axes.index(axis)
    point = layer.world_to_data(viewer.dims.point[-layer.ndim :])
    return int(np.clip(round(float(point[place])), 0, look.shape[place] - 1))


def _in_view(viewer: Any, layer: Any, look: Look) -> Sequence[Any]:
    """First and last corner of what is in view, of the space axes, in voxels of the finest level.

    Where there is a window, by its camera: from 0.9 on napari lets the corners of a layer be those of whole chunks, and
    does not move them when the view becomes a part of what it was.
    """
    if hasattr(viewer, "window") and hasattr(viewer, "canvas") and viewer.dims.ndisplay == 2:
        return _in_camera(viewer, layer, look)
    corners = np.asarray(layer.corner_pixels, float)[:, [i for i, a in enumerate(look.axes) if a in "zyx"]]
    level = layer.data_level if getattr(layer, "multiscale", False) else 0
    finer = np.array(look.levels[0]) / np.array(look.levels[level])
    return corners[0] * finer, (corners[1] + 1) * finer


def _in_camera(viewer: Any, layer: Any, look: Look) -> Sequence[Any]:
    """The same from where the camera is and how far it sees; axes before the last two are not its own."""
    half = np.asarray(viewer.canvas.viewbox_size(viewer.layers), float) / (2 * viewer.camera.zoom)
    centre, axes = np.asarray(viewer.camera.center[-2:], float), [i for i, a in enumerate(look.axes) if a in "zyx"]
    points = []
    for signs in product((-1, 1), repeat=2):
        world = np.array(viewer.dims.point, float)
        world[list(viewer.dims.displayed)] = centre + half * signs
        points.append(np.asarray(layer.world_to_data(world[-layer.ndim :]), float)[axes])
    low, high = np.min(points, 0) + 0.5, np.max(points, 0) + 0.5  # a voxel reaches half a step before its place
    low[:-2], high[:-2] = 0, 1
    return low, high


def _of_shape(viewer: Any, layer: Any, look: Look) -> Sequence[Any]:
    """Bounding box of a shape in voxels of the layer."""
    for shapes in reversed([one for one in viewer.layers if hasattr(one, "shape_type") and len(one.data)]):
        number = next(iter(sorted(shapes.selected_data)), len(shapes.data) - 1)
        axes = [i for i, a in enumerate(look.axes) if a in "zyx"]
        points = []
        for vertex in shapes.data[number]:
            world = np.asarray(viewer.dims.point, float)
            own = np.asarray(shapes.data_to_world(vertex), float)
            world[len(world) - len(own) :] = own
            points.append(np.asarray(layer.world_to_data(world[-layer.ndim :]), float)[axes])
        return np.min(points, 0), np.max(points, 0) + 1
    raise OptionError("no shape", expected="a rectangle around what is to be segmented",
                      remedy="add a layer of shapes and draw one, or choose another region")
