"""What to do in the viewer about an error whose remedy names options of the command line."""

from __future__ import annotations

import re
from typing import Any

from biosegkit.errors import BiosegError

from .layers import axes_of

__all__ = ["in_viewer"]

#: Options that say how large voxels are, and those that say what axes are.
_SIZE, _AXES = {"--pixel-size", "--spacing", "--unit"}, {"--axes"}


def in_viewer(error: BiosegError, layer: Any, *, unit: str, axes: str | None = None) -> str:
    """The message of an error about a layer, with a remedy that can be followed in the viewer.

    Parameters
    ----------
    error : BiosegError
    layer : napari layer, or a snapshot of one
    unit : str
        Of the model that it was to be given to: ``"um"``, ``"mm"``, or ``"px"`` for one that knows pixels only; it is
        not asked for of a model without plan.
    axes : str, optional
        What the layer's axes are, where it does not say.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> layer = SimpleNamespace(name="cells", ndim=2, axis_labels=("y", "x"))
    >>> print(in_viewer(BiosegError("no size", remedy="give --pixel-size in µm"), layer, unit="um").split(": ")[1])
    viewer.layers['cells'].scale = (y, x) in um, then viewer.layers['cells'].units = ('um', 'um')
    """
    options = set(re.findall(r"--[a-z][a-z-]*", error.remedy))
    remedy = error.remedy
    if options & _SIZE and unit:
        remedy = _sized(layer, unit, axes)
    elif options & _AXES:
        remedy = "use a 2D model, or choose what the axes are"
    return str(type(error)(error.found, file=error.file, expected=error.expected, remedy=remedy))


def _sized(layer: Any, unit: str, axes: str | None) -> str:
    """How the size of a layer's voxels is set; along axes that are not of space the unit stays what it is."""
    letters = (axes or axes_of(layer)).replace("s", "")
    name = f"viewer.layers[{layer.name!r}]"
    units = tuple(("pixel" if unit == "px" else unit) if letter in "zyx" else "pixel" for letter in letters)
    if unit == "px":
        return f"in the console: {name}.units = {units}, as this model knows pixels only"
    scale = ", ".join(letter if letter in "zyx" else "1" for letter in letters)
    what = "voxels" if "z" in letters else "pixels"
    return (f"set the size of the layer's {what} in the console: {name}.scale = ({scale}) in {unit}, then "
            f"{name}.units = {units}")
