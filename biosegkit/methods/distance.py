"""Objects by the distance to their own border: a foreground map and a distance map, decoded by basins.

Inside every object the network learns the distance to the nearest voxel that is not of the object (Euclidean, with
spacing), by default divided by the object's maximum, so that touching objects are parted by a valley and the height
of a peak does not depend on size.

Limits: an object cut by the edge of the patch is taken to go on beyond it, so its maximum is that of the visible part;
encode on a larger patch and crop if objects are of the size of the patch. Objects at most two voxels wide have no
valley between them when they touch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from biosegkit.errors import OptionError
from biosegkit.kernels.basins import quantise, quantised
from biosegkit.kernels.distance import boundary_distance, share_of_max
from biosegkit.kernels.neighbours import other_beside
from biosegkit.kernels.signed import signed_distance
from biosegkit.methods.basin_decoding import basin_state, paint_basins, resolve_basins
from biosegkit.methods.basin_trials import BASIN_COST, basin_counter
from biosegkit.methods.contacts import near_contact
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

__all__ = ["Distance"]

# Where the distance is 0 the foreground still decides which way is up, or rims would be plateaus.
_LIFT = 1.0 / 16.0


@dataclass(frozen=True)
class Distance:
    """Options of the distance method.

    Parameters
    ----------
    normalize : {"object", "scale"}
        Divide distances by the maximum of their object, or by ``scale`` (then clipped at 1).
    scale : float, optional
        A length in units of the spacing; needed for ``normalize="scale"``.
    activation : {"linear", "sigmoid"}
        How the distance head becomes a map; linear outputs are clamped to 0..1.
    background_weight : float
        Weight of the background (where the distance is 0) in the distance term, foreground being 1.
    distance_weight : float
        Factor of the distance term in the loss.
    contact_weight : float
        Weight of voxels within two voxels of another object in the distance term: few, but they part objects (the
        idea of the weight map of Ronneberger et al. 2015).
    batch_dice : bool
        Pool the Dice sums over the batch.
    keep_unseeded : bool
        Keep foreground no peak of which exceeds the seed threshold, as objects of its own.
    objective : Objective
        The loss of the foreground; the distance has its own. Class weights are two: background, objects.

    Examples
    --------
    >>> [head.name for head in Distance().heads(2)]
    ['foreground', 'distance']
    """

    normalize: Literal["object", "scale"] = "object"
    scale: float | None = None
    activation: Literal["linear", "sigmoid"] = "linear"
    background_weight: float = 0.1
    distance_weight: float = 4.0
    contact_weight: float = 4.0
    batch_dice: bool = True
    keep_unseeded: bool = False
    objective: Objective = field(default_factory=Objective)

    def __post_init__(self) -> None:
        """Refuse options that cannot be trained."""
        if self.normalize not in ("object", "scale") or self.activation not in ("linear", "sigmoid"):
            raise OptionError(f"normalize={self.normalize!r}, activation={self.activation!r}")
        if self.normalize == "scale" and not (self.scale or 0.0) > 0.0:
            raise OptionError(f"scale={self.scale}", expected="a positive length for normalize='scale'")
        object.__setattr__(self, "objective", Objective.of(self.objective))
        self.objective.fits(2, "background, objects")

    trial_cost = BASIN_COST

    @property
    def tunables(self) -> dict[str, Tunable]:
        """Foreground and seed thresholds, prominence and smallest size."""
        return {
            "foreground": Tunable(0.5, 0.1, 0.9, 17, "probability above which a voxel is part of an object"),
            "seed": Tunable(0.4, 0.05, 0.95, 19, "distance an object must reach, and above which pieces are one"),
            "prominence": Tunable(0.1, 0.0, 0.5, 6, "depth of the valley that parts two objects"),
            "min_size": Tunable(4, 0, 1e9, 1, "smallest object in voxels"),
        }

    @property
    def halo(self) -> int:
        """Basins need one voxel of surroundings."""
        return 1

    @property
    def exact(self) -> bool:
        """Basins of blocks are joined along their faces."""
        return True

    def heads(self, ndim: int) -> tuple[Head, ...]:
        """A foreground probability and a distance."""
        return Head("foreground", 1, "sigmoid"), Head("distance", 1, self.activation)

    def requirements(self, diameters_px: Sequence[float]) -> Requirements:
        """The network must see the border of an object from its centre: half the largest diameter."""
        sizes = np.asarray(diameters_px, float)
        context = int(np.ceil(sizes.max() / 2)) + 1 if sizes.size else 1
        notes = []
        if sizes.size and float(np.quantile(sizes, 0.05)) < 3.0:
            notes.append("objects less than 3 voxels wide cannot be told apart where they touch")
        return Requirements(context, None, 3, tuple(notes))

    def encode(
        self, labels: npt.NDArray[Any], spacing: Sequence[float], valid: npt.NDArray[np.bool_] | None = None
    ) -> tuple[ArrayDict, ArrayDict]:
        """Foreground 0/1 and distance 0..1 (both float32, ``(*space)``), with their weights.

        Where the loss needs it, ``border`` has the signed distance to the border of the foreground.
        """
        known = np.ones(labels.shape, bool) if valid is None else valid
        ids = labels if known.all() else np.where(known, labels, 0)
        distance = boundary_distance(ids, spacing, valid=None if ids is labels else known)
        inside = ids > 0
        # One voxel is taken off, and a contact is 0 on both sides even along a coarse axis, so neither object can claim
        # voxels of the other, however different their sizes. Objects all rim, or with no border in sight, are 1.
        rim = min(float(s) for s in spacing)
        distance -= np.float32(rim)
        np.maximum(distance, np.float32(0.0), out=distance)
        distance[other_beside(ids)] = 0.0
        if self.normalize == "object":
            target = share_of_max(ids, distance)
        else:
            target = np.minimum(distance / np.float32(self.scale or 1.0), np.float32(1.0), out=distance)
            target[~inside] = 0.0
        weight = known.astype(np.float32)
        near = np.full(labels.shape, self.background_weight, np.float32)
        near[inside] = 1.0
        near *= weight
        np.multiply(near, np.float32(self.contact_weight), out=near, where=near_contact(labels, inside))
        targets: ArrayDict = {"foreground": inside.astype(np.float32), "distance": target}
        if self.objective.needs_distance:
            targets["border"] = signed_distance(inside[None], spacing, known)
        return targets, {"foreground": weight, "distance": near}

    def loss(self, outputs: TensorDict, targets: TensorDict, weights: TensorDict) -> TensorDict:
        """The objective's terms on the foreground, smooth L1 on the distance."""
        from biosegkit.losses import Loss, masked_smooth_l1

        terms = Loss(self.objective)(outputs["foreground"], targets["foreground"], weights["foreground"],
                                     batch=self.batch_dice, distance=targets.get("border"))
        predicted = outputs["distance"].float()
        if self.activation == "sigmoid":
            predicted = predicted.sigmoid()
        distance = masked_smooth_l1(predicted, targets["distance"], weights["distance"])
        return {**terms, "distance": distance * self.distance_weight}

    def activate(self, outputs: TensorDict) -> TensorDict:
        """Probability of foreground and distance in 0..1, in float32."""
        distance = outputs["distance"].float()
        distance = distance.sigmoid() if self.activation == "sigmoid" else distance.clamp(0.0, 1.0)
        return {"foreground": outputs["foreground"].float().sigmoid(), "distance": distance}

    def mirror(self, maps: ArrayDict, axes: Sequence[int]) -> ArrayDict:
        """Flip; distances have no direction."""
        return flipped(maps, axes)

    def ideal(self, targets: ArrayDict) -> ArrayDict:
        """The targets with a channel axis."""
        return {name: targets[name][None].astype(np.float32) for name in ("foreground", "distance")}

    def local(self, maps: ArrayDict, block: Block) -> State:
        """Basins of ``foreground × (distance + lift)`` and the graph that joins them; needs one voxel of halo."""
        foreground, distance = maps["foreground"][0], maps["distance"][0]
        height = quantised(foreground.shape, lambda part: np.clip(foreground[part], 0.0, 1.0) * (
            (distance[part] + _LIFT) / (1.0 + _LIFT)))
        return basin_state(height, quantise(foreground), self.tunables["foreground"].low, block)

    def resolve(self, states: Sequence[State], thresholds: Mapping[str, float] | None = None) -> Decisions:
        """Which basins are one object, which objects survive, and their ids in raster order of the first voxel."""
        used = checked_thresholds(self.tunables, thresholds)
        return replace(resolve_basins(states, _lifted(used), self.keep_unseeded), thresholds=used)

    def paint(self, state: State, decisions: Decisions) -> tuple[npt.NDArray[Any], ObjectTable]:
        """Labels (uint32) of the core and the rows of the objects that begin in it."""
        return paint_basins(state, decisions)

    def counter(self, held: Iterable[Held], tried: Mapping[str, Sequence[float]]) -> Counter:
        """Trials of thresholds from tables of basins; see `biosegkit.methods.trials`."""
        return basin_counter(held, tried["foreground"], self.keep_unseeded,
                             lambda given: _lifted(checked_thresholds(self.tunables, given)))


def _lifted(used: Mapping[str, float]) -> dict[str, float]:
    """Thresholds of the height that `Distance.local` makes of the distance."""
    return {**used, "seed": (used["seed"] + _LIFT) / (1.0 + _LIFT), "prominence": used["prominence"] / (1.0 + _LIFT)}
