"""Objects by three classes: background, border and core; the cores are grown back over the borders by basins.

The border is the outermost part of every object, so that the foreground is all that is not background and touching
objects are parted by the borders of both. No border takes a whole object: its width is at most a share of the object's
own depth, and the deepest voxels are core whatever happens.

Limits: objects at most two voxels wide are core throughout, so they cannot be told apart where they touch; likewise
objects of one plane that touch those of the next. A neck narrower than twice the border parts an object in two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.errors import OptionError
from biosegkit.kernels.bands import bands
from biosegkit.kernels.basins import quantise, quantised
from biosegkit.kernels.distance import boundary_distance, object_max
from biosegkit.kernels.neighbours import other_beside
from biosegkit.kernels.signed import signed_distance
from biosegkit.kernels.windows import window_mean
from biosegkit.methods.basin_decoding import basin_state, paint_basins, resolve_basins
from biosegkit.methods.basin_trials import BASIN_COST, basin_counter
from biosegkit.methods.contacts import beside_unknown, to_unknown
from biosegkit.methods.protocol import (
    ArrayDict,
    Block,
    Decisions,
    Head,
    ObjectTable,
    Requirements,
    State,
    TensorDict,
    Tunable,
    checked_thresholds,
    flipped,
)
from biosegkit.methods.trials import Counter, Held
from biosegkit.plan.objective import Objective

__all__ = ["Boundary"]

# Of its depth an object keeps at least the rest as core: a disc of radius 2 (depths 1, 1.4 and 2.2) its middle five
# voxels.
_SHARE = 0.6
# The widest window in voxels to either side by which borders learn where their core lies.
_REACH = 6


@dataclass(frozen=True)
class Boundary:
    """Options of the boundary method.

    Parameters
    ----------
    width : float, optional
        Width of the border in units of the spacing; one and a half times the finest spacing if left out. Along coarse
        axes one voxel is border where another object follows.
    border_weight : float
        Weight of the border in terms that average over voxels, times that of objects: it is thin, but parts objects.
    batch_dice : bool
        Pool the Dice sums over the batch.
    keep_unseeded : bool
        Keep foreground without a core above the seed threshold, as objects of its own.
    objective : Objective
        The loss. Class weights are two: background, objects.

    References
    ----------
    The three classes are those of Caicedo et al. 2019 (doi:10.1002/cyto.a.23863).

    Examples
    --------
    >>> method = Boundary()
    >>> method.heads(2)
    (Head(name='classes', channels=3, activation='softmax', hidden=0, coarse=False),)
    >>> method.encode(np.array([[0, 4, 4, 4, 9, 9, 9, 0, 7, 0]]), (1.0, 1.0))[0]["classes"].tolist()
    [[0, 1, 2, 1, 1, 2, 1, 0, 2, 0]]
    """

    width: float | None = None
    border_weight: float = 2.0
    batch_dice: bool = True
    keep_unseeded: bool = False
    objective: Objective = field(default_factory=Objective)

    def __post_init__(self) -> None:
        """Refuse options that cannot be trained."""
        if self.width is not None and not self.width > 0.0:
            raise OptionError(f"width={self.width}", expected="a positive width, or none")
        if not self.border_weight > 0.0:
            raise OptionError(f"border_weight={self.border_weight}", expected="a positive weight")
        object.__setattr__(self, "objective", Objective.of(self.objective))
        self.objective.fits(2, "background, objects")

    trial_cost = BASIN_COST

    @property
    def tunables(self) -> dict[str, Tunable]:
        """Foreground and seed thresholds, prominence and smallest size."""
        return {
            "foreground": Tunable(0.5, 0.1, 0.9, 17, "probability above which a voxel is part of an object"),
            "seed": Tunable(0.5, 0.05, 0.95, 19, "probability of core that an object reaches, and that joins pieces"),
            "prominence": Tunable(0.1, 0.0, 0.5, 6, "depth of the valley that parts two objects"),
            "min_size": Tunable(4, 0, 1e9, 1, "smallest object in voxels"),
        }

    @property
    def halo(self) -> int:
        """The window, and one voxel for the basins."""
        return _REACH + 1

    @property
    def exact(self) -> bool:
        """Basins of blocks are joined along their faces."""
        return True

    def heads(self, ndim: int) -> tuple[Head, ...]:
        """A softmax over background, border and core."""
        return (Head("classes", 3, "softmax"),)

    def requirements(self, diameters_px: Sequence[float]) -> Requirements:
        """Border and core are decided within a few voxels."""
        sizes = np.asarray(diameters_px, float)
        notes = []
        if sizes.size and float(np.quantile(sizes, 0.05)) < 3.0:
            notes.append("objects less than 3 voxels wide cannot be told apart where they touch")
        return Requirements(4, None, 3, tuple(notes))

    def encode(
        self, labels: npt.NDArray[Any], spacing: Sequence[float], valid: npt.NDArray[np.bool_] | None = None
    ) -> tuple[ArrayDict, ArrayDict]:
        """Class per voxel (int64, ``(*space)``): 0 background, 1 border, 2 core; with its weight.

        Voxels of objects that something unknown could turn from core to border have no weight. Where the loss needs it,
        ``distance`` has the signed distances to the border of class 1 and of class 2.
        """
        known = np.ones(labels.shape, bool) if valid is None else valid
        ids = labels if known.all() else np.where(known, labels, 0)
        inside = ids > 0
        width = np.float32(self._width(spacing))
        depth = boundary_distance(ids, spacing, valid=None if ids is labels else known)
        core = _core(ids, depth, width)
        sure = known
        if ids is not labels:
            # Something unknown may bound a voxel of the core, or show that its object is deeper than it looks.
            near = other_beside(np.where(known, inside.view(np.uint8), np.uint8(2)))
            near |= to_unknown(known, spacing) <= width
            near |= beside_unknown(ids, known) & (depth <= width)
            sure = known & ~(core & near)
        del depth, ids
        classes = np.add(inside, core, dtype=np.int64)
        targets: ArrayDict = {"classes": classes}
        if self.objective.needs_distance:
            targets["distance"] = signed_distance(np.stack([classes == 1, classes == 2]), spacing, known)
        return targets, {"classes": sure.astype(np.float32)}

    def loss(self, outputs: TensorDict, targets: TensorDict, weights: TensorDict) -> TensorDict:
        """The terms of the objective over three classes."""
        from biosegkit.losses import Loss

        outside, within = self.objective.class_weights or (1.0, 1.0)
        objective = replace(self.objective, class_weights=(outside, within * self.border_weight, within))
        return Loss(objective)(outputs["classes"], targets["classes"], weights["classes"], batch=self.batch_dice,
                               distance=targets.get("distance"))

    def activate(self, outputs: TensorDict) -> TensorDict:
        """Probabilities in float32."""
        return {"classes": outputs["classes"].float().softmax(1)}

    def mirror(self, maps: ArrayDict, axes: Sequence[int]) -> ArrayDict:
        """Flip; probabilities have no direction."""
        return flipped(maps, axes)

    def ideal(self, targets: ArrayDict) -> ArrayDict:
        """Probability 1 for the class of every voxel."""
        return {"classes": np.stack([targets["classes"] == k for k in range(3)]).astype(np.float32)}

    def local(self, maps: ArrayDict, block: Block) -> State:
        """Basins of the probability of core, raised a little by its mean over a window wider than the border.

        So every voxel of a border knows which way the nearest core lies.
        """
        width = self._width(block.spacing)
        reach = tuple(min(_REACH, math.ceil(width / s) + 1) for s in block.spacing)
        outside, _, core = maps["classes"]
        foreground = quantised(outside.shape, lambda part: 1.0 - outside[part])
        return basin_state(_raised(quantise(core), reach), foreground, self.tunables["foreground"].low, block)

    def resolve(self, states: Sequence[State], thresholds: Mapping[str, float] | None = None) -> Decisions:
        """Which basins are one object, which objects survive, and their ids in raster order of the first voxel."""
        return resolve_basins(states, checked_thresholds(self.tunables, thresholds), self.keep_unseeded)

    def paint(self, state: State, decisions: Decisions) -> tuple[npt.NDArray[Any], ObjectTable]:
        """Labels (uint32) of the core and the rows of the objects that begin in it."""
        return paint_basins(state, decisions)

    def counter(self, held: Iterable[Held], tried: Mapping[str, Sequence[float]]) -> Counter:
        """Trials of thresholds from tables of basins; see `biosegkit.methods.trials`."""
        return basin_counter(held, tried["foreground"], self.keep_unseeded,
                             lambda given: checked_thresholds(self.tunables, given))

    def _width(self, spacing: Sequence[float]) -> float:
        """Width of the border in units of the spacing."""
        return self.width or 1.5 * min(float(s) for s in spacing)


def _core(ids: npt.NDArray[Any], depth: npt.NDArray[np.float32], width: np.float32) -> npt.NDArray[np.bool_]:
    """Voxels deeper than the border is wide, but some in every object."""
    _, maxima, dense = object_max(ids, depth)
    # A depth above the limit is in the core; that of the background, which has none, is 0.
    limits = np.minimum(width, np.float32(_SHARE) * np.concatenate([np.zeros(1, np.float32), maxima]))
    core = np.empty(ids.shape, bool)
    # One coarse step can be wider than the border, so contacts count by themselves, unless they leave no core.
    contact = other_beside(ids)
    left = np.zeros(len(limits), bool)
    for part in bands(ids.shape):
        core[part] = depth[part] > limits[dense[part]]
        left[dense[part][core[part] & ~contact[part]]] = True
    for part in bands(ids.shape):
        core[part] &= ~(contact[part] & left[dense[part]])
    return core


def _raised(core: npt.NDArray[np.uint16], reach: tuple[int, ...]) -> npt.NDArray[np.uint16]:
    """Twelve parts of the probability, three of its mean over the next voxels and one of that over a window, rounded.

    The next voxels tell a border beside its own core from the core of a thin neighbour, which the window holds as well.
    """
    near, around = window_mean(core, (1,) * core.ndim), window_mean(core, reach)
    return quantised(core.shape, lambda part: (
        (12 * core[part].astype(np.uint32) + 3 * near[part].astype(np.uint32) + around[part] + 8) // 16
    ).astype(np.uint16))
