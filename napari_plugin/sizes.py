"""The size of voxels as a person writes it: for the command line, or set for a layer and what lies on it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from biosegkit.errors import OptionError
from biosegkit.placement import UNIT_NAMES

from .layers import axes_of, is_labels, matrix_to_world, metadata_of

__all__ = ["set_size", "size_of", "sizes_of"]

#: A number without a sign, and what units are called.
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:[eE]-?\d+)?")
_UNITS = {"mm": "mm", "um": "um", "µm": "um", "μm": "um", "micron": "um", "microns": "um", "nm": "nm"}
_PIXELS = {"px": "px", "pixel": "px", "pixels": "px"}


def sizes_of(text: str) -> dict[str, Any]:
    """Options of the command line from the size of a voxel as a person writes it; none from nothing.

    Raises
    ------
    OptionError
        If it is no size.

    Examples
    --------
    >>> sizes_of("1.75, 0.8, 0.8 um"), sizes_of("0.5 µm"), sizes_of("")
    ({'spacing': '1.75,0.8,0.8', 'unit': 'um'}, {'pixel_size': 0.5, 'unit': 'um'}, {})
    """
    if not text.strip():
        return {}
    numbers, unit = _parsed(text, _UNITS)
    size = {"pixel_size": float(numbers[0])} if len(numbers) == 1 else {"spacing": ",".join(numbers)}
    return {**size, "unit": unit}


def size_of(layer: Any, axes: str | None = None) -> str:
    """The size of a layer's voxels as it would be written, empty for pixels.

    Examples
    --------
    >>> from napari.layers import Image
    >>> size_of(Image(np.zeros((4, 4)), axis_labels=("y", "x"), scale=(0.5, 0.25), units=("um", "um")))
    '0.5, 0.25 um'
    """
    space = [i for i, letter in enumerate((axes or axes_of(layer)).replace("s", "")) if letter in "zyx"]
    units = {str(layer.units[i]) for i in space}
    name = next(iter(units))
    if len(units) > 1 or name in ("pixel", "dimensionless"):
        return ""
    short = {"millimeter": "mm", "micrometer": "um", "nanometer": "nm"}.get(name, name)
    return ", ".join(f"{size:.4g}" for size in _spacing(layer)[space]) + f" {short}"


def set_size(viewer: Any, layer: Any, text: str, axes: str | None = None) -> None:
    """Give a layer, the other channels of its file and what lies on it the size of their voxels; the plane stays.

    Labels of the same shape that say no size are put on it first.

    Raises
    ------
    OptionError
        If it is no size, or has another number of axes than the layer.
    """
    numbers, unit = _parsed(text, {**_UNITS, **_PIXELS})
    letters = (axes or axes_of(layer)).replace("s", "")
    space = [i for i, letter in enumerate(letters) if letter in "zyx"]
    sizes = [float(number) for number in numbers]
    if len(sizes) == 1 and (len(space) == 2 or unit == "px"):
        sizes *= len(space)
    if len(sizes) != len(space) or not all(sizes):
        raise OptionError(f"the voxel size {text!r} of {len(space)} axes",
                          expected=f"{', '.join(letters[i] for i in space)} and their unit",
                          remedy=f"write for example {', '.join(['2', '0.5', '0.5'][-len(space):])} um")
    factor = np.ones(layer.ndim)
    factor[space] = sizes / _spacing(layer)[space]
    matrix = matrix_to_world(layer)
    oblique = np.count_nonzero(matrix[:-1, :-1]) > layer.ndim
    stretched = matrix @ np.diag([*factor, 1]) @ np.linalg.inv(matrix)  # along the layer's own axes
    units = tuple(UNIT_NAMES[unit] if i in space else str(one) for i, one in enumerate(layer.units))
    place = layer.world_to_data(viewer.dims.point[-layer.ndim :])
    for one in [one for one in viewer.layers if _is_of(one, layer)]:
        for name in ("scale", "translate", "rotate", "shear", "affine", "units"):
            setattr(one, name, getattr(layer, name))
    for one in [one for one in viewer.layers if _belongs(one, layer)]:
        one.units = units
        if oblique:
            one.affine = stretched @ one.affine.affine_matrix
        else:
            one.scale, one.translate = one.scale * factor, one.translate * factor
    first = viewer.dims.ndim - layer.ndim
    for axis, value in enumerate(layer.data_to_world(place)):
        viewer.dims.set_point(first + axis, float(value))
    viewer.reset_view()


def _spacing(layer: Any) -> np.ndarray[Any, Any]:
    """How far apart the voxels of a layer are in the world along each of its axes, however it is turned."""
    return np.asarray(np.linalg.norm(matrix_to_world(layer)[:-1, :-1], axis=0))


def _belongs(one: Any, layer: Any) -> bool:
    """Whether a layer is that one, another channel of its file, or lies on it in the same voxels."""
    if one is layer:
        return True
    if one.ndim != layer.ndim:
        return False
    if tuple(one.units) != tuple(layer.units):
        return False
    if not np.allclose(matrix_to_world(one)[:-1, :-1], matrix_to_world(layer)[:-1, :-1]):
        return False
    source = metadata_of(layer).get("source")
    if hasattr(one, "rgb"):
        return bool(source) and metadata_of(one).get("source") == source
    inside, whole = one.extent.world, layer.extent.world
    return not is_labels(one) or bool((inside[0] >= whole[0] - 1e-6).all() and (inside[1] <= whole[1] + 1e-6).all())


def _is_of(one: Any, layer: Any) -> bool:
    """Whether a layer holds labels of that image whose file does not say the size of their voxels."""
    same = is_labels(one) and one.ndim == layer.ndim and axes_of(one) == axes_of(layer).replace("s", "")
    return same and not size_of(one) and _shape(one) == _shape(layer)


def _shape(layer: Any) -> tuple[int, ...]:
    """Of its finest resolution, without colours."""
    data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    return tuple(data.shape[: layer.ndim])


def _parsed(text: str, units: dict[str, str]) -> tuple[list[str], str]:
    """Numbers and unit."""
    numbers, unit = _NUMBER.findall(text), _NUMBER.sub("", text).replace(",", " ").replace("×", " ").split()
    if not 1 <= len(numbers) <= 3 or len(unit) != 1 or unit[0].lower() not in units:
        raise OptionError(f"the voxel size {text!r}", expected="z, y, x and their unit, or one number for pixels",
                          remedy="write for example 2, 0.5, 0.5 um, or 0.5 um")
    return numbers, units[unit[0].lower()]
