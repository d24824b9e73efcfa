"""Objects by offsets from their centre (HoVer-Net): foreground, and per axis how far the centre of mass is.

Along every axis the offset runs from -1 at one end of an object through 0 at its centre to 1 at the other end, whatever
the size. Where it falls instead of rising, one object ends and another begins. The energy is that fall over a window
of fixed width on a fixed scale (1 is a fall from 1 to -1), never stretched to the range of a tile, so it depends on
nothing but the neighbourhood.

Limits: where parallel thin objects lie side by side at an angle, offsets fall by about twice width over length only;
below a tenth of that from 1 to -1 they are joined (rods 4 wide and 40 long at exactly 45°). The network must see an
object whole; one cut by the edge of the patch is taken for what is visible.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.errors import OptionError
from biosegkit.kernels.bands import bands
from biosegkit.kernels.basins import TOP, quantise
from biosegkit.kernels.centred import centred_offsets, offset_breaks
from biosegkit.kernels.signed import signed_distance
from biosegkit.methods.basin_decoding import basin_state, paint_basins, resolve_basins
from biosegkit.methods.basin_trials import BASIN_COST, basin_counter
from biosegkit.methods.contacts import beside_unknown
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

__all__ = ["HoverMaps"]

# The widest window in voxels, which is what blocks must overlap by.
_REACH = 8


@dataclass(frozen=True)
class HoverMaps:
    """Options of the method of horizontal, vertical (and depth) maps.

    Parameters
    ----------
    window : float, optional
        Over how far a fall is measured to either side, in units of the spacing; the finest spacing if left out.
        At least one and at most eight voxels on every axis.
    offset_weight, gradient_weight : float
        Factors of the squared error of the offsets and of their slopes in the loss.
    background_weight : float
        Weight of the background, where offsets are 0, in the term of the offsets.
    batch_dice : bool
        Pool the Dice sums over the batch.
    keep_unseeded : bool
        Keep foreground no peak of which exceeds the seed threshold, as objects of its own.
    objective : Objective
        The loss of the foreground. Class weights are two: background, objects.

    References
    ----------
    Graham et al. 2019 (HoVer-Net, doi:10.1016/j.media.2019.101563), sections 3.1 to 3.3. Other than there: any number
    of axes, slopes by differences of neighbours, a fixed scale, and basins in the place of a marker watershed.

    Examples
    --------
    >>> method = HoverMaps()
    >>> [(head.name, head.channels) for head in method.heads(3)]
    [('foreground', 1), ('offsets', 3)]
    >>> method.encode(np.array([[0, 4, 4, 4, 9, 9, 9, 0]]), (1.0, 1.0))[0]["offsets"][1].tolist()
    [[0.0, -1.0, 0.0, 1.0, -1.0, 0.0, 1.0, 0.0]]
    """

    window: float | None = None
    offset_weight: float = 2.0
    gradient_weight: float = 2.0
    background_weight: float = 0.2
    batch_dice: bool = True
    keep_unseeded: bool = False
    objective: Objective = field(default_factory=Objective)

    def __post_init__(self) -> None:
        """Refuse options that cannot be trained."""
        if self.window is not None and not self.window > 0.0:
            raise OptionError(f"window={self.window}", expected="a positive length, or none")
        object.__setattr__(self, "objective", Objective.of(self.objective))
        self.objective.fits(2, "background, objects")

    trial_cost = BASIN_COST

    @property
    def tunables(self) -> dict[str, Tunable]:
        """Foreground and seed thresholds, prominence and smallest size."""
        return {
            "foreground": Tunable(0.5, 0.1, 0.9, 17, "probability above which a voxel is part of an object"),
            "seed": Tunable(0.9, 0.2, 0.95, 16, "height an object must reach, and above which pieces are one"),
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
        """A foreground probability and one offset per axis."""
        return Head("foreground", 1, "sigmoid"), Head("offsets", ndim, "linear")

    def requirements(self, diameters_px: Sequence[float]) -> Requirements:
        """From one end of an object the network must see the other: the largest diameter."""
        sizes = np.asarray(diameters_px, float)
        context = int(np.ceil(sizes.max())) + 1 if sizes.size else 1
        notes = []
        if sizes.size and float(np.quantile(sizes, 0.05)) < 4.0:
            notes.append("objects less than 4 voxels wide are hardly told apart where they touch")
        return Requirements(context, None, 4, tuple(notes))

    def encode(
        self, labels: npt.NDArray[Any], spacing: Sequence[float], valid: npt.NDArray[np.bool_] | None = None
    ) -> tuple[ArrayDict, ArrayDict]:
        """Foreground 0/1, ``(*space)``, and offsets -1..1, ``(axes, *space)``, with their weights ``(*space)``.

        Objects that may go on into what is not known have no weight in the offsets: their centre is not known either.
        Where the loss needs it, ``border`` has the signed distance to the border of the foreground.
        """
        known = np.ones(labels.shape, bool) if valid is None else valid
        ids = labels if known.all() else np.where(known, labels, 0)
        inside = ids > 0
        weight = known.astype(np.float32)
        near = np.where(inside, np.float32(1.0), np.float32(self.background_weight)) * weight
        near[beside_unknown(ids, known)] = 0.0
        targets: ArrayDict = {"foreground": inside.astype(np.float32), "offsets": centred_offsets(ids)}
        if self.objective.needs_distance:
            targets["border"] = signed_distance(inside[None], spacing, known)
        return targets, {"foreground": weight, "offsets": near}

    def loss(self, outputs: TensorDict, targets: TensorDict, weights: TensorDict) -> TensorDict:
        """The objective's terms on the foreground, squared errors of the offsets and of their slopes."""
        from biosegkit.losses import Loss, masked_slopes, masked_squares

        terms = Loss(self.objective)(outputs["foreground"], targets["foreground"], weights["foreground"],
                                     batch=self.batch_dice, distance=targets.get("border"))
        predicted, true, weight = outputs["offsets"].float(), targets["offsets"], weights["offsets"]
        focus = weight * (targets["foreground"] > 0)
        return {
            **terms,
            "offsets": masked_squares(predicted, true, weight) * self.offset_weight,
            "slopes": masked_slopes(predicted, true, weight, focus) * self.gradient_weight,
        }

    def activate(self, outputs: TensorDict) -> TensorDict:
        """Probability of foreground, and offsets in -1..1, in float32."""
        return {
            "foreground": outputs["foreground"].float().sigmoid(),
            "offsets": outputs["offsets"].float().clamp(-1.0, 1.0),
        }

    def mirror(self, maps: ArrayDict, axes: Sequence[int]) -> ArrayDict:
        """Flip; offsets along a flipped axis change sign."""
        return flipped(maps, axes, "offsets")

    def ideal(self, targets: ArrayDict) -> ArrayDict:
        """The targets; the foreground with a channel axis."""
        return {
            "foreground": targets["foreground"][None].astype(np.float32),
            "offsets": targets["offsets"].astype(np.float32),
        }

    def local(self, maps: ArrayDict, block: Block) -> State:
        """Basins of ``foreground × (1 - energy)``; the energy is how far offsets side by side are not of one object."""
        foreground = quantise(maps["foreground"][0])
        floor = self.tunables["foreground"].low
        energy = offset_breaks(_whole(maps["offsets"]), foreground, self._steps(block.spacing), int(floor * TOP))
        height = energy  # in place
        for part in bands(energy.shape):
            level = foreground[part].astype(np.uint32)
            height[part] = level * (TOP - energy[part].astype(np.uint32)) // TOP
        return basin_state(height, foreground, floor, block)

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

    def _steps(self, spacing: Sequence[float]) -> tuple[int, ...]:
        """Voxels of the window on every axis."""
        width = self.window or min(spacing)
        return tuple(min(_REACH, max(1, round(width / s))) for s in spacing)


def _whole(offsets: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
    """Offsets in steps of 1/32767."""
    out = np.empty(offsets.shape, np.int16)
    for part in bands(offsets.shape):
        out[part] = np.rint(np.clip(offsets[part], -1.0, 1.0) * 32767.0)
    return out
