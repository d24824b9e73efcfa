"""Objects by one map: the signed distance to their own border, positive inside, decoded at its zero level by basins.

The logit of the network is the distance itself in units of ``length``, and the map is its logistic, so that 0.5 is the
border, the neighbourhood of the border is finely resolved, and far away nothing is left to learn. Where two objects
touch there is no outside between them: there the distance is that to the other object less a whole voxel, so that the
outermost voxels of both are exactly on the zero level, with a rise on either side.

Limits: an object must be at least three voxels wide to rise above the level of a contact. A neck narrower than twice
the distance that the seed threshold stands for parts an object in two. An object cut by the edge of the patch is taken
to go on beyond it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.errors import OptionError
from biosegkit.kernels.bands import bands
from biosegkit.kernels.basins import quantise
from biosegkit.kernels.distance import boundary_distance
from biosegkit.kernels.neighbours import other_beside
from biosegkit.kernels.signed import signed_distance
from biosegkit.methods.basin_decoding import basin_state, paint_basins, resolve_basins
from biosegkit.methods.basin_trials import BASIN_COST, basin_counter
from biosegkit.methods.contacts import near_contact, to_unknown
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

__all__ = ["SignedDistance"]

# Background is learnt with full weight up to the distance where the map is this far from its end.
_FAR = 0.05
# A target that an unknown voxel could move by more than this is not learnt.
_DOUBT = 0.02


@dataclass(frozen=True)
class SignedDistance:
    """Options of the signed distance method.

    Parameters
    ----------
    length : float, optional
        The distance, in units of the spacing, at which the map is 0.73 (inside) or 0.27 (outside); three times the
        finest spacing if left out, good for objects of 5 to 100 voxels; about a sixth of a usual diameter is good.
    sharpness : float
        The foreground loss sees the distance times this.
    distance_weight : float
        Factor of the distance term in the loss.
    background_weight : float
        Weight of the background far from any object in the distance term, all else being 1.
    contact_weight : float
        Weight of voxels within two voxels of another object in the distance term.
    batch_dice : bool
        Pool the Dice sums over the batch.
    keep_unseeded : bool
        Keep foreground no peak of which exceeds the seed threshold, as objects of its own.
    objective : Objective
        The loss of the foreground; the distance has its own. Class weights are two: background, objects.

    References
    ----------
    Xue et al. 2020 (Shape-aware organ segmentation by predicting signed distance maps, arXiv:1912.03849): distance and
    sharpened foreground learnt from one output.

    Examples
    --------
    >>> method = SignedDistance(length=2.0)
    >>> method.heads(2)
    (Head(name='signed_distance', channels=1, activation='sigmoid', hidden=0, coarse=False),)
    >>> target = method.encode(np.array([[0, 0, 4, 4, 4, 9, 9]]), (1.0, 1.0))[0]["signed_distance"]
    >>> (2 * np.log(target / (1 - target))).round(1).tolist()  # the distance again
    [[-1.5, -0.5, 0.5, 1.0, 0.0, 0.0, 1.0]]
    """

    length: float | None = None
    sharpness: float = 10.0
    distance_weight: float = 4.0
    background_weight: float = 0.1
    contact_weight: float = 4.0
    batch_dice: bool = True
    keep_unseeded: bool = False
    objective: Objective = field(default_factory=Objective)

    def __post_init__(self) -> None:
        """Refuse options that cannot be trained."""
        if self.length is not None and not self.length > 0.0:
            raise OptionError(f"length={self.length}", expected="a positive length, or none")
        if not self.sharpness > 0.0:
            raise OptionError(f"sharpness={self.sharpness}", expected="a positive factor")
        object.__setattr__(self, "objective", Objective.of(self.objective))
        self.objective.fits(2, "background, objects")

    trial_cost = BASIN_COST

    @property
    def tunables(self) -> dict[str, Tunable]:
        """Level of the border, seed, prominence and smallest size."""
        return {
            "foreground": Tunable(0.48, 0.36, 0.6, 7, "value above which a voxel is of an object; 0.5 is the border"),
            "seed": Tunable(0.56, 0.5, 0.8, 7, "value an object must reach, and above which pieces are one"),
            "prominence": Tunable(0.03, 0.0, 0.12, 5, "depth of the valley that parts two objects"),
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
        """One map."""
        return (Head("signed_distance", 1, "sigmoid"),)

    def requirements(self, diameters_px: Sequence[float]) -> Requirements:
        """The network must see the border of an object from its centre: half the largest diameter."""
        sizes = np.asarray(diameters_px, float)
        context = int(np.ceil(sizes.max() / 2)) + 1 if sizes.size else 1
        notes = []
        if sizes.size and float(np.quantile(sizes, 0.05)) < 3.0:
            notes.append("objects less than 3 voxels wide do not rise above the seed level")
        return Requirements(context, None, 3, tuple(notes))

    def encode(
        self, labels: npt.NDArray[Any], spacing: Sequence[float], valid: npt.NDArray[np.bool_] | None = None
    ) -> tuple[ArrayDict, ArrayDict]:
        """Logistic of the signed distance, and foreground 0/1 for its loss, (both float32, ``(*space)``).

        Voxels on a contact have no weight in the foreground: they lie on the zero level. Voxels whose distance
        something unknown could change have none in the distance. Where the loss needs it, ``border`` has the signed
        distance to the border of the foreground, whatever touches.
        """
        known = np.ones(labels.shape, bool) if valid is None else valid
        ids = labels if known.all() else np.where(known, labels, 0)
        inside = ids > 0
        unit = np.float32(self.length or 3.0 * min(float(s) for s in spacing))
        distance = _signed(ids, inside, spacing, None if ids is labels else known)
        sure = known if ids is labels else known & _certain(distance, inside, known, spacing, unit)
        target = distance  # in place
        for part in bands(labels.shape):
            target[part] = _logistic(distance[part] / unit)
        weight = np.where(target < _FAR, np.float32(self.background_weight), np.float32(1.0))
        weight[near_contact(labels, inside)] = self.contact_weight
        weight[~sure] = 0.0
        targets: ArrayDict = {"signed_distance": target, "foreground": inside.astype(np.float32)}
        if self.objective.needs_distance:
            targets["border"] = signed_distance(inside[None], spacing, known)
        return targets, {"signed_distance": weight, "foreground": (known & ~other_beside(ids)).astype(np.float32)}

    def loss(self, outputs: TensorDict, targets: TensorDict, weights: TensorDict) -> TensorDict:
        """The objective's terms on the sharpened distance, smooth L1 on its logistic."""
        from biosegkit.losses import Loss, masked_smooth_l1

        logits = outputs["signed_distance"].float()
        terms = Loss(self.objective)(logits * self.sharpness, targets["foreground"], weights["foreground"],
                                     batch=self.batch_dice, distance=targets.get("border"))
        distance = masked_smooth_l1(logits.sigmoid(), targets["signed_distance"], weights["signed_distance"])
        return {**terms, "distance": distance * self.distance_weight}

    def activate(self, outputs: TensorDict) -> TensorDict:
        """Logistic of the signed distance, in float32."""
        return {"signed_distance": outputs["signed_distance"].float().sigmoid()}

    def mirror(self, maps: ArrayDict, axes: Sequence[int]) -> ArrayDict:
        """Flip; distances have no direction."""
        return flipped(maps, axes)

    def ideal(self, targets: ArrayDict) -> ArrayDict:
        """The target with a channel axis."""
        return {"signed_distance": targets["signed_distance"][None].astype(np.float32)}

    def local(self, maps: ArrayDict, block: Block) -> State:
        """Basins of the map and the graph that joins them; needs one voxel of halo."""
        height = quantise(maps["signed_distance"][0])
        return basin_state(height, height, self.tunables["foreground"].low, block)

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


def _signed(ids: npt.NDArray[Any], inside: npt.NDArray[np.bool_], spacing: Sequence[float],
            known: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.float32]:
    """Signed distance in units of the spacing; infinite where no border is in sight."""
    rim = np.float32(min(float(s) for s in spacing))
    steps = [float(s) for s in spacing]
    either = boundary_distance(inside.view(np.uint8) + np.uint8(1), steps, valid=known)
    either -= rim / 2
    # With the background not valid, only other objects bound an object. Ways that leave it for background are seen
    # along some axes only; what lies beyond is hardly nearer (by less than half a voxel), so turns cost a little.
    others = boundary_distance(ids, steps, valid=inside)
    others -= rim
    np.minimum(either, others, out=either, where=inside)
    np.negative(either, out=either, where=~inside)
    return np.minimum(either, np.float32(0.0), out=either, where=other_beside(ids))


def _certain(distance: npt.NDArray[np.float32], inside: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_],
             spacing: Sequence[float], unit: np.float32) -> npt.NDArray[np.bool_]:
    """Where no unknown voxel could move the target much."""
    rim = min(float(s) for s in spacing)
    beside = other_beside(np.where(known, inside.view(np.uint8), np.uint8(2)))
    unseen = to_unknown(known, spacing)
    sure = np.empty(known.shape, bool)
    for part in bands(known.shape):
        within, far, found = inside[part], unseen[part], distance[part]
        # An unknown voxel may be of another object or of the background: the distance could then be as small as this.
        nearest = np.where(within, np.where(beside[part], 0.0, far - rim), rim / 2 - far).astype(np.float32)
        bound = np.where(within, np.minimum(found, nearest), np.maximum(found, nearest))
        moved = _logistic(np.asarray(bound / unit, np.float32)) - _logistic(found / unit)
        sure[part] = np.abs(moved) <= _DOUBT
    return sure


def _logistic(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """``1 / (1 + exp(-v))`` by way of tanh, which does not overflow."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * values), np.float32)
