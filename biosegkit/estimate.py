"""Before a model runs: does it fit the image, in how many tiles, and with how much memory? No voxel is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ._words import counted
from .engines.classical import Classical
from .engines.intensities import space_axes
from .engines.star_model import StarModel
from .errors import DataError
from .grid import unit_factor
from .image import Image
from .ladder import ladder
from .lattice import Lattice
from .plan.schema import Plan
from .plan.units import memory_text
from .predictor import Predictor, WholePredictor
from .prepared import refuse_unfit, turn_of, working_shape
from .segmenter import Segmenter, method_of

__all__ = ["Estimate", "estimate", "level_for"]


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    Parameters
    ----------
    tiles : int, optional
        Calls of the network; None where a model does not say.
    memory : int, optional
        Bytes beyond the image, at their peak.
    note : str
        How the image will be looked at, in a sentence.
    """

    tiles: int | None
    memory: int | None
    note: str = ""

    def __str__(self) -> str:
        """For people."""
        parts = [] if self.tiles is None else [counted(self.tiles, "tile")]
        parts += [] if self.memory is None else [f"about {memory_text(self.memory)} of memory"]
        return "; ".join([", ".join(parts), self.note] if self.note else [", ".join(parts)]).strip("; ")


def estimate(model: Predictor, image: Image) -> Estimate:
    """What a model would take for an image of this shape and type; its voxels are not looked at.

    Parameters
    ----------
    model : Predictor
        A bundle tells all; of others little is known before they run.
    image : Image

    Raises
    ------
    DataError
        If channels, axes or unit do not fit the model: the message says what to do.

    Examples
    --------
    >>> import numpy as np, biosegkit as bsk
    >>> image = Image(np.zeros((1, 100, 100)), bsk.Grid.regular((100, 100)))
    >>> print(estimate(bsk.load_model("otsu"), image))
    about 312.5kB of memory
    """
    segmenter = getattr(model, "segmenter", model)
    if isinstance(segmenter, Segmenter):
        return _of_plan(segmenter, image)
    axes = len(space_axes(image))
    if isinstance(model, StarModel) and axes != model.config.ndim:
        raise DataError(f"an image of {axes} axes", file=image.source or None,
                        expected=f"{model.config.ndim}, which this model takes", remedy="choose another model")
    if isinstance(model, Classical) and axes not in model.rule.ndims:
        raise DataError(f"an image of {axes} axes", file=image.source or None,
                        expected=" or ".join(f"{n}D" for n in model.rule.ndims), remedy="choose another model")
    return Estimate(None, model.memory(image) if isinstance(model, WholePredictor) else None)


def _of_plan(segmenter: Segmenter, image: Image) -> Estimate:
    """Tiles of the lattice; sums, maps of a block with their states, labels, and the resampled image."""
    plan = segmenter.plan
    image = image.in_channels(len(plan.preprocessing.channels))
    refuse_unfit(image, plan)
    grid = image.grid.turned(turn_of(image.grid, plan))
    shape = working_shape(grid, plan)
    rung = ladder(plan, segmenter.device, segmenter.batch)[0]
    lead = len(shape) - plan.configuration.ndim
    lattice = Lattice(shape, (1,) * lead + rung.patch, (1,) * lead + rung.step)
    maps = sum(head.channels for head in method_of(plan).heads(plan.configuration.ndim))
    ring = 4 * maps * min(lattice.patch[0], shape[0]) * math.prod(shape[1:])
    states = 8 * grid.voxels if plan.labels.task == "instance" else maps * 4 * grid.voxels
    resampled = 4 * image.array.shape[0] * math.prod(shape) if shape != grid.shape else 0
    note = f"looked at as {' × '.join(map(str, shape))}, the model's voxel size" if resampled else ""
    return Estimate(len(lattice), ring + states + 4 * grid.voxels + resampled, note)


def level_for(plan: Plan | None, spacings: Sequence[Sequence[float]], unit: str, otherwise: int = 0) -> int:
    """Which of several resolutions, finest first, a model should be given: the coarsest that is fine enough.

    Parameters
    ----------
    plan : Plan, optional
        Of a model.
    spacings : sequence of sequence of float
        Of each resolution, in ``unit``.
    unit : str
    otherwise : int
        For a model without plan, or that knows no size, or where the image has none; the finest by default.

    Examples
    --------
    >>> level_for(None, [(0.25, 0.25), (1.0, 1.0)], "um")
    0
    """
    if plan is None or not plan.preprocessing.resample or "px" in (unit, plan.preprocessing.unit):
        return otherwise
    factor = unit_factor(plan.preprocessing.unit, unit)
    wanted = [s * factor for s in plan.configuration.spacing]
    n = min(len(wanted), *(len(spacing) for spacing in spacings))
    fine = [k for k, spacing in enumerate(spacings)
            if all(s <= 1.05 * w for s, w in zip(spacing[-n:], wanted[-n:], strict=True))]
    return max(fine, default=0)
