"""The level of a pyramid that a model works at."""

from __future__ import annotations

from typing import Any, cast

import numpy.typing as npt

from biosegkit.image import Image
from biosegkit.io import Pyramid, at_spacing
from biosegkit.io.rescaled import rescaled
from biosegkit.plan.schema import Plan
from biosegkit.prepared import turn_of, working_shape

__all__ = ["level_for"]

#: A spacing that is off the plan's by less than this is taken for it.
TOLERANCE = 0.05


def level_for(plan: Plan, pyramid: Pyramid) -> Image:
    """The level with the pixel size of a model, or the next finer one resampled to it.

    Raises
    ------
    OptionError
        If the model works at a physical pixel size and the image has none.
    """
    finest, unit, spacing = pyramid.grids[0], plan.preprocessing.unit, plan.configuration.spacing
    turn = turn_of(finest, plan)
    back = turn.inverse().perm  # of each axis of the image the one of the model
    if unit != "px" and (finest.unit != "px" or plan.preprocessing.resample):
        lead = finest.ndim - len(spacing)
        return at_spacing(pyramid, [spacing[axis - lead] for axis in back if axis >= lead], unit, TOLERANCE)
    turned = working_shape(finest.turned(turn), plan)
    shape = tuple(turned[axis] for axis in back)
    if all(abs(n / m - 1) <= TOLERANCE for n, m in zip(finest.shape, shape, strict=True)):
        return at_spacing(pyramid, spacing, "px")
    image = pyramid.level(0)
    array = cast("npt.NDArray[Any]", rescaled(pyramid.arrays[0], shape))
    note = f"{' × '.join(map(str, finest.shape))} pixels resampled to {' × '.join(map(str, shape))}, as for training"
    return Image(array, finest.resized(shape), image.channels, image.source, (*image.notes, note))
