"""Objects by a field that flows to their centres: a foreground map and D components of the flow of heat.

Inside every object the network learns the unit vector along which heat from its centre falls off, reversed (Cellpose:
Stringer et al. 2021, doi:10.1038/s41592-020-01018-x; the target is `biosegkit.kernels.heat_flow`), and 0 outside.
Decoding follows the field: voxels whose paths end in the same sink are one object, and so are neighbouring sinks whose
flows do not part where they meet. No seed has to be met by a number of paths, so objects of one voxel and objects
as large as the image are found; and nothing depends on how the image is cut into blocks.

Limits: an object cut by the edge of the patch flows to the centre of its visible part, so encode on a larger patch and
crop if objects are of the size of the patch. A piece of an object that touches the rest nowhere is an object by itself.
Where no border is in sight nothing flows away from one: such an object has no flow of ``eikonal`` at all. Voxels
without flow that touch are one object with any ``repulsion`` above 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from biosegkit.errors import OptionError
from biosegkit.kernels.distance_flow import distance_flow
from biosegkit.kernels.heat_flow import heat_flow
from biosegkit.kernels.signed import signed_distance
from biosegkit.methods.flow_decoding import WORST, flow_state, paint_flows, resolve_flows
from biosegkit.methods.flow_trials import FLOW_COST, flow_counter
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

__all__ = ["REACH", "Flow"]

#: Targets by name, ``(labels, spacing, valid=None) -> (D, *space)``.
_FIELDS: Mapping[str, Callable[..., npt.NDArray[np.float32]]] = {"heat": heat_flow, "eikonal": distance_flow}

#: How much flows part where two objects meet, at the least, by field: those of networks are blurred and part less than
#: true ones, but along a middle line those of one object part, too. See ``benchmarks/flow_repulsion.py``.
_REPULSION: Mapping[str, float] = {"heat": 0.1, "eikonal": 0.5}

#: Voxels along an axis that a path goes before it is rounded to a voxel, by decoder.
REACH: Mapping[str, int] = {"forest": 2, "euler": 16}


@dataclasses.dataclass(frozen=True)
class Flow:
    """Options of the flow method.

    Parameters
    ----------
    field : {"heat", "eikonal"}
        Towards the centre, or towards the middle line (the method ``flow_eikonal``).
    decoder : {"forest", "euler"}
        How far a path is followed before it is rounded to a voxel whose own path it shares from there: 2 voxels (fast,
        needs little surroundings) or 16 (like integrating to the end). Both are exact whatever the blocks.
    flow_weight : float
        Factor of the flow term in the loss, which is the squared length of the error, averaged by weight.
    background_weight : float
        Weight of the background (where the flow is 0) in the flow term, foreground being 1.
    repulsion : float, optional
        Default of the threshold of this name, which is tuned after training; 0.1 for heat, 0.5 for eikonal.
    batch_dice : bool
        Pool the Dice sums over the batch.
    objective : Objective
        The loss of the foreground; the flow has its own. Class weights are two: background, objects.

    Examples
    --------
    >>> [(head.name, head.channels) for head in Flow().heads(3)]
    [('foreground', 1), ('flow', 3)]
    """

    field: Literal["heat", "eikonal"] = "heat"
    decoder: Literal["forest", "euler"] = "forest"
    flow_weight: float = 4.0
    background_weight: float = 0.1
    repulsion: float | None = None
    batch_dice: bool = True
    objective: Objective = dataclasses.field(default_factory=Objective)

    def __post_init__(self) -> None:
        """Refuse options that cannot be trained."""
        if self.field not in _FIELDS:
            raise OptionError(f"field={self.field!r}", expected=f"one of {', '.join(_FIELDS)}")
        if self.decoder not in REACH:
            raise OptionError(f"decoder={self.decoder!r}", expected=f"one of {', '.join(REACH)}")
        if self.flow_weight <= 0 or self.background_weight < 0:
            raise OptionError(f"flow_weight={self.flow_weight}, background_weight={self.background_weight}",
                              expected="a positive flow_weight and a background_weight of at least 0")
        if self.repulsion is not None and not -0.1 <= self.repulsion <= 1.1:
            raise OptionError(f"repulsion={self.repulsion}", expected="a number from -0.1 to 1.1")
        object.__setattr__(self, "objective", Objective.of(self.objective))
        self.objective.fits(2, "background, objects")

    trial_cost = FLOW_COST

    @property
    def tunables(self) -> dict[str, Tunable]:
        """Foreground threshold, what parts objects, and smallest size."""
        return {
            "foreground": Tunable(0.5, 0.1, 0.9, 17, "probability above which a voxel is part of an object"),
            "repulsion": Tunable(_REPULSION[self.field] if self.repulsion is None else self.repulsion, -0.1, 1.1, 7,
                                 "how much flows must part where two sinks meet to be two objects"),
            "flow_error": Tunable(1.0, 0.25, WORST, 6, "squared error of its flow above which an object is dropped; "
                                                       "1 is that of no flow at all, 4 keeps all"),
            "min_size": Tunable(4, 0, 1e9, 1, "smallest object in voxels"),
        }

    @property
    def halo(self) -> int:
        """Paths are followed as far as the decoder's reach, and interpolated one voxel beyond."""
        return REACH[self.decoder] + 1

    @property
    def exact(self) -> bool:
        """Trees of blocks are joined where paths leave them."""
        return True

    def heads(self, ndim: int) -> tuple[Head, ...]:
        """A foreground probability and the components of the flow, in the order of the space axes."""
        return Head("foreground", 1, "sigmoid"), Head("flow", ndim, "linear")

    def requirements(self, diameters_px: Sequence[float]) -> Requirements:
        """The network must see the centre of an object from its border: half the largest diameter."""
        sizes = np.asarray(diameters_px, float)
        return Requirements(int(np.ceil(sizes.max() / 2)) + 1 if sizes.size else 1, None, 1)

    def encode(
        self, labels: npt.NDArray[Any], spacing: Sequence[float], valid: npt.NDArray[np.bool_] | None = None
    ) -> tuple[ArrayDict, ArrayDict]:
        """Foreground 0/1, ``(*space)``, and flow, ``(D, *space)``, both float32, with their weights.

        Where the loss needs it, ``border`` has the signed distance to the border of the foreground.
        """
        known = np.ones(labels.shape, bool) if valid is None else valid
        ids = labels if known.all() else np.where(known, labels, 0)
        inside = ids > 0
        targets: ArrayDict = {
            "foreground": inside.astype(np.float32),
            "flow": _FIELDS[self.field](ids, spacing, valid=None if ids is labels else known),
        }
        weight = known.astype(np.float32)
        near = np.where(inside, np.float32(1.0), np.float32(self.background_weight)) * weight
        if self.objective.needs_distance:
            targets["border"] = signed_distance(inside[None], spacing, known)
        return targets, {"foreground": weight, "flow": near.astype(np.float32)}

    def loss(self, outputs: TensorDict, targets: TensorDict, weights: TensorDict) -> TensorDict:
        """The objective's terms on the foreground, squared length of the error on the flow."""
        from biosegkit.losses import Loss, masked_squares

        terms = Loss(self.objective)(outputs["foreground"], targets["foreground"], weights["foreground"],
                                     batch=self.batch_dice, distance=targets.get("border"))
        flow = outputs["flow"]
        error = masked_squares(flow, targets["flow"], weights["flow"]) * flow.shape[1]
        return {**terms, "flow": error * self.flow_weight}

    def activate(self, outputs: TensorDict) -> TensorDict:
        """Probability of foreground, and flow of length one at most, in float32."""
        flow = outputs["flow"].float()
        length = flow.norm(dim=1, keepdim=True)
        return {"foreground": outputs["foreground"].float().sigmoid(), "flow": flow / length.clamp(min=1.0)}

    def mirror(self, maps: ArrayDict, axes: Sequence[int]) -> ArrayDict:
        """Flip, and turn the components along the flipped axes round."""
        return flipped(maps, axes, "flow")

    def ideal(self, targets: ArrayDict) -> ArrayDict:
        """The targets, foreground with a channel axis."""
        return {"foreground": targets["foreground"][None].astype(np.float32), "flow": targets["flow"]}

    def local(self, maps: ArrayDict, block: Block) -> State:
        """Trees of paths and how much neighbouring trees repel; needs the halo."""
        floor = self.tunables["foreground"].low
        return flow_state(maps["flow"], maps["foreground"][0], floor, REACH[self.decoder], block)

    def resolve(self, states: Sequence[State], thresholds: Mapping[str, float] | None = None) -> Decisions:
        """Which trees are one object, which objects survive, and their ids in raster order of the first voxel."""
        return resolve_flows(states, checked_thresholds(self.tunables, thresholds), _FIELDS[self.field])

    def paint(self, state: State, decisions: Decisions) -> tuple[npt.NDArray[Any], ObjectTable]:
        """Labels (uint32) of the core and the rows of the objects that begin in it."""
        return paint_flows(state, decisions)

    def counter(self, held: Iterable[Held], tried: Mapping[str, Sequence[float]]) -> Counter:
        """Trials of thresholds from tables of trees; see `biosegkit.methods.trials`."""
        return flow_counter(held, tried["foreground"], _FIELDS[self.field],
                            lambda given: checked_thresholds(self.tunables, given))
