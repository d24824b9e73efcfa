"""Objects as star-shaped polygons and polyhedra: at every voxel the distances to the border along fixed rays.

Schmidt et al. 2018 (arXiv:1806.03535) for planes, Weigert et al. 2020 (arXiv:1908.03636) for volumes. A probability,
the distance to the object's own border divided by its maximum in the object, says which voxels see all of their object
well; among candidates greedy suppression keeps the best. Other than there: distances are exact for voxels of any
spacing and without bias; what a ray meets beyond the edge of the patch or in unknown voxels counts as a lower bound, so
objects that are cut teach no wrong border; by default only local maxima of the probability are candidates; a head for
the foreground trims the polygons, whose corners are few.

Limits: a shape that no single point sees whole loses what is hidden (``merge`` puts several polygons together).
Objects thinner than about three voxels are hardly caught by their rays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from biosegkit.errors import DataError, OptionError
from biosegkit.kernels.basins import TOP, level_of, quantise
from biosegkit.kernels.distance import boundary_distance, share_of_max
from biosegkit.kernels.ray_distances import ray_distances
from biosegkit.kernels.rays import Rays, circle, sphere
from biosegkit.kernels.signed import signed_distance
from biosegkit.kernels.star_nms import RULES
from biosegkit.kernels.star_painting import paint_shapes
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
from biosegkit.methods.star_decoding import Shapes, shapes_of, shapes_within
from biosegkit.methods.star_trials import STAR_COST, Settings, star_counter
from biosegkit.methods.tables import Tally, rows_in
from biosegkit.methods.trials import Counter, Held
from biosegkit.plan.objective import Objective

if TYPE_CHECKING:
    import torch

__all__ = ["Star"]

#: Rays by number of axes, where no number is given.
_RAYS = {2: 32, 3: 96}
#: Features before the probability and the distances: a network as narrow as minutes ask for (eight features at full
#: resolution) cannot hold 32 distances in a line of them.
_HIDDEN = 64
#: Largest logarithm: distances of more than a hundred thousand units do not occur, and infinity must not.
_LONGEST = 12.0


@dataclass(frozen=True)
class Star:
    """Options of the star method.

    Parameters
    ----------
    n_rays : int, optional
        Rays per voxel: 32 in 2D (a multiple of 4), 96 in 3D (a multiple of 8) if left out.
    scale : float
        A usual radius in units of the spacing. An eighth of it, ``u``, is the unit of ``log(1 + d / u)``, which is
        learnt: a tenth too short is as bad for the overlap of a small object as for that of a large one.
    rule : {"stardist", "iou"}
        Overlap of two shapes over the smaller one, or over their union.
    merge : bool
        Put shapes that hold each other's centres together instead of dropping the worse: for objects that are not
        star-shaped (the idea of StarDist OPP, Walter and Tyska). Then candidates are all ridges of the probability.
    reach : float
        Foreground that no shape holds goes to the best one that would hold it if it were so many times as large:
        distances learnt in minutes are rough, a foreground less so. 1 leaves polygons as StarDist paints them.
    distance_weight, probability_weight : float
        Factors of these terms in the loss.
    batch_dice : bool
        Pool the Dice sums over the batch.
    objective : Objective
        The loss of the foreground; the other heads have their own. Class weights are two: background, objects.

    Examples
    --------
    >>> [(head.name, head.channels) for head in Star().heads(2)]
    [('foreground', 1), ('probability', 1), ('distances', 32)]
    """

    n_rays: int | None = None
    scale: float = 8.0
    rule: Literal["stardist", "iou"] = "stardist"
    merge: bool = False
    reach: float = 1.3
    distance_weight: float = 1.0
    probability_weight: float = 1.0
    batch_dice: bool = True
    objective: Objective = field(default_factory=Objective)

    def __post_init__(self) -> None:
        """Refuse options that cannot be trained."""
        if self.n_rays is not None and (self.n_rays < 4 or self.n_rays % 4):
            raise OptionError(f"n_rays={self.n_rays}", expected="a multiple of 4 in 2D, of 8 in 3D")
        if not 0.0 < self.scale < np.inf or self.rule not in RULES:
            raise OptionError(f"scale={self.scale}, rule={self.rule!r}",
                              expected=f"a positive length, one of {', '.join(RULES)}")
        if not 1.0 <= self.reach <= 3.0:
            raise OptionError(f"reach={self.reach}", expected="a factor from 1 to 3")
        object.__setattr__(self, "objective", Objective.of(self.objective))
        self.objective.fits(2, "background, objects")

    trial_cost = STAR_COST

    @property
    def tunables(self) -> dict[str, Tunable]:
        """Thresholds of candidates, of their overlap and of the voxels of a shape, and smallest size."""
        return {
            "probability": Tunable(0.5, 0.2, 0.9, 15, "probability above which a voxel is a candidate"),
            "overlap": Tunable(0.4, 0.1, 0.9, 5, "overlap above which the worse of two shapes is dropped"),
            "foreground": Tunable(0.4, 0.0, 0.9, 7, "probability up to which voxels of a shape are left out"),
            "min_size": Tunable(4, 0, 1e9, 1, "smallest object in voxels"),
        }

    @property
    def halo(self) -> int:
        """Whether a voxel is a local maximum."""
        return 1

    @property
    def exact(self) -> bool:
        """Candidates of all blocks are gone through in one order."""
        return True

    def heads(self, ndim: int) -> tuple[Head, ...]:
        """Foreground and candidate probability, and one distance per ray."""
        return (Head("foreground", 1, "sigmoid"), Head("probability", 1, "sigmoid", _HIDDEN, coarse=True),
                Head("distances", len(self._rays(ndim)), "softplus", _HIDDEN, coarse=True))

    def requirements(self, diameters_px: Sequence[float]) -> Requirements:
        """From one border of an object the network must see the other: the largest diameter."""
        sizes = np.asarray(diameters_px, float)
        context = int(np.ceil(sizes.max())) + 1 if sizes.size else 1
        notes = []
        if sizes.size and float(np.quantile(sizes, 0.05)) < 3.0:
            notes.append("objects less than 3 voxels wide are hardly caught by rays")
        return Requirements(context, None, 3, tuple(notes))

    def encode(
        self, labels: npt.NDArray[Any], spacing: Sequence[float], valid: npt.NDArray[np.bool_] | None = None
    ) -> tuple[ArrayDict, ArrayDict]:
        """Foreground 0/1, probability 0..1, and distances ``(n_rays, *space)`` in units of the spacing, all float32.

        A negative distance is a lower bound (see `ray_distances`). Where the loss needs it, ``border`` has the signed
        distance to the border of the foreground.
        """
        known = np.ones(labels.shape, bool) if valid is None else valid
        ids = labels if known.all() else np.where(known, labels, 0)
        inside = ids > 0
        depth = boundary_distance(ids, spacing, valid=None if ids is labels else known)
        weight = known.astype(np.float32)
        targets: ArrayDict = {
            "foreground": inside.astype(np.float32),
            "probability": share_of_max(ids, depth),
            "distances": ray_distances(ids, self._rays(labels.ndim), spacing,
                                       valid=None if ids is labels else known),
        }
        if self.objective.needs_distance:
            targets["border"] = signed_distance(inside[None], spacing, known)
        return targets, {"foreground": weight, "probability": weight, "distances": weight}

    def loss(self, outputs: TensorDict, targets: TensorDict, weights: TensorDict) -> TensorDict:
        """The objective's terms on the foreground, cross-entropy of the probability, mean error of the distances.

        The cross-entropy is less the entropy of the target, so that its least is 0. Errors of distances are those of
        their logarithms; they count by the probability of their voxel, and those below a lower bound only. Outputs on a
        coarser grid are compared with every n-th voxel; coarse levels of a network have the foreground alone.
        """
        import torch
        import torch.nn.functional as F

        from biosegkit.losses import Loss
        from biosegkit.losses.comparison import TINY, mean_over

        terms = Loss(self.objective)(outputs["foreground"], targets["foreground"], weights["foreground"],
                                     batch=self.batch_dice, distance=targets.get("border"))
        if "distances" not in outputs:
            return terms
        every = _every(targets["probability"].shape[1:], outputs["distances"].shape[2:])
        share, known = targets["probability"][every], weights["distances"][every]
        logits = outputs["probability"].float()[:, 0]
        least = -(share * share.clamp_min(TINY).log() + (1 - share) * (1 - share).clamp_min(TINY).log())
        apart = F.binary_cross_entropy_with_logits(logits, share, reduction="none") - least
        seen = share * known
        inside = seen > 0  # most voxels are not, and each has many rays
        true = targets["distances"][every].movedim(1, -1)[inside]
        found = F.softplus(outputs["distances"].movedim(1, -1)[inside].float())
        wanted = torch.log1p(true.abs() / self._unit)
        error = torch.where(true >= 0, (found - wanted).abs(), (wanted - found).clamp_min(0.0))
        return {
            **terms,
            "probability": self.probability_weight * mean_over(apart, known),
            "distances": self.distance_weight * mean_over(error.mean(1), seen[inside]),
        }

    def activate(self, outputs: TensorDict) -> TensorDict:
        """Probabilities, and positive distances in units of the spacing; float32, all at full resolution."""
        from biosegkit.nets.blocks import enlarged

        maps = {
            "foreground": outputs["foreground"].float().sigmoid(),
            "probability": outputs["probability"].float().sigmoid(),
            "distances": self._lengths(outputs["distances"]),
        }
        steps = _steps(maps["foreground"].shape[2:], maps["distances"].shape[2:])
        return maps if set(steps) == {1} else {
            name: value if name == "foreground" else enlarged(value, steps, maps["foreground"])
            for name, value in maps.items()}

    def mirror(self, maps: ArrayDict, axes: Sequence[int]) -> ArrayDict:
        """Flip, and let rays change places."""
        turned = flipped(maps, axes)
        partner = self._rays(maps["distances"].ndim - 1).mirrored(tuple(axes))
        return {**turned, "distances": turned["distances"][partner]}

    def ideal(self, targets: ArrayDict) -> ArrayDict:
        """The targets; no length is 0, and rays of unknown length go well beyond what is known.

        As long as the longest known ray of the voxel, and twice their lower bound: beyond the edge nothing is painted.
        """
        maps = {name: targets[name][None].astype(np.float32) for name in ("foreground", "probability")}
        lengths = targets["distances"]
        beyond = np.maximum(lengths.max(axis=0), -2.0 * lengths)
        found = np.where(lengths < 0, beyond, lengths)
        return {**maps, "distances": np.maximum(found, 1e-3 * self.scale).astype(np.float32)}

    def local(self, maps: ArrayDict, block: Block) -> State:
        """Candidates of the core: their places, probabilities and distances; and the foreground."""
        if maps["probability"].shape[1:] != block.array_shape:
            raise DataError(f"maps of shape {maps['probability'].shape[1:]}",
                            expected=f"{block.array_shape} (core and halo of the block)")
        level = quantise(maps["probability"][0])
        chosen = level[block.core] > level_of(self.tunables["probability"].low)
        chosen &= (_ridges(level) if self.merge else _peaks(level))[block.core]
        where = np.nonzero(chosen)
        rays = self._rays(len(block.shape))
        core: npt.NDArray[Any] = maps["distances"][(slice(None), *block.core)]
        lengths = np.stack([ray[where] for ray in core], 1) * np.float32(rays.swell)
        return State(block, {
            "places": np.stack(where, 1).astype(np.int64) + np.array(block.start, np.int64),
            "probability": level[block.core][where],
            "distances": np.clip(lengths, 1e-3 * self.scale, 6e4).astype(np.float16),
            "foreground": quantise(maps["foreground"][0][block.core]),
        })

    def resolve(self, states: Sequence[State], thresholds: Mapping[str, float] | None = None) -> Decisions:
        """Which candidates survive over all blocks, and their ids in raster order of the first voxel."""
        used = checked_thresholds(self.tunables, thresholds)
        whole = states[0].block
        rays = self._rays(len(whole.shape))
        parts = [_above(state, level_of(used["probability"])) for state in states]
        places, levels, lengths = (np.concatenate([p[i] for p in parts]) for i in range(3))
        shapes = shapes_of((places, levels, lengths), rays, whole.spacing, whole.full_shape, overlap=used["overlap"],
                           rule=self.rule, merge=self.merge)
        tally = Tally(len(shapes.scores), len(whole.shape))
        rows = [_rows(shapes, state.block, self.reach) for state in states]
        for state, table in zip(states, rows, strict=True):
            tally.add(self._painted(state, table, used), None, state.block)
        alive = np.flatnonzero(tally.area >= max(1.0, used["min_size"]))
        alive = alive[np.argsort(tally.first[alive])]
        ids = np.zeros(len(shapes.scores) + 1, np.int64)
        ids[alive + 1] = np.arange(1, len(alive) + 1)
        for table in rows:
            table[:, 0] = ids[table[:, 0].astype(np.int64)]
        objects = tally.table(alive + 1, np.arange(1, len(alive) + 1), 1.0)
        objects["score"] = (shapes.scores[alive] / TOP).astype(np.float32)
        return Decisions(used, {s.block.start: table for s, table in zip(states, rows, strict=True)}, objects)

    def paint(self, state: State, decisions: Decisions) -> tuple[npt.NDArray[Any], ObjectTable]:
        """Labels (uint32) of the core and the rows of the objects that begin in it."""
        labels = self._painted(state, decisions.lookup[state.block.start], decisions.thresholds)
        return labels, rows_in(decisions.objects, state.block)

    def counter(self, held: Iterable[Held], tried: Mapping[str, Sequence[float]]) -> Counter:
        """Trials of thresholds from tables of shapes; see `biosegkit.methods.trials`."""
        return star_counter(held, tried, Settings(self._rays, self.rule, self.merge, self.reach),
                            lambda given: checked_thresholds(self.tunables, given))

    def _painted(self, state: State, rows: npt.NDArray[Any], used: Mapping[str, float]) -> npt.NDArray[np.uint32]:
        """The shapes of a block in their order, without voxels that are hardly foreground."""
        n, block = 1 + len(state.block.shape), state.block
        ids, centres, lengths = rows[:, 0].astype(np.uint32), rows[:, 1:n].astype(np.int64), rows[:, n:]
        near = lengths.astype(np.float32)
        if self.reach > 1:  # as large as they reach, and over that as they are
            far = (near * np.float32(self.reach)).astype(np.float32)
            ids, centres, near = np.tile(ids, 2), np.tile(centres, (2, 1)), np.concatenate([far, near])
        labels = paint_shapes(block.shape, centres, near, self._rays(n - 1), block.spacing, ids=ids, start=block.start)
        if used["foreground"] > 0:
            labels[state.arrays["foreground"] <= level_of(used["foreground"])] = 0
        return labels

    def _lengths(self, logits: torch.Tensor) -> torch.Tensor:
        """Positive distances in units of the spacing."""
        import torch
        import torch.nn.functional as F

        return self._unit * torch.expm1(F.softplus(logits.float()).clamp(1e-3, _LONGEST))

    @property
    def _unit(self) -> float:
        """Distances well below it are learnt as they are, those above by their logarithm."""
        return self.scale / 8

    def _rays(self, ndim: int) -> Rays:
        """Closed under flips."""
        count = self.n_rays or _RAYS[ndim]
        return circle(count) if ndim == 2 else sphere(count)


def _steps(whole: Sequence[int], size: Sequence[int]) -> tuple[int, ...]:
    """Voxels between those of a map, per axis: 1, or what makes so few of so many.

    Examples
    --------
    >>> _steps((5, 9, 8), (5, 5, 4)), _steps((7, 7), (7, 3))
    ((1, 2, 2), (1, 3))
    """
    return tuple(next(s for s in range(1, n + 1) if -(-n // s) == m) for n, m in zip(whole, size, strict=True))


def _every(whole: Sequence[int], size: Sequence[int]) -> tuple[Any, ...]:
    """The voxels that a map of this size stands for."""
    return (..., *(slice(None, None, s) for s in _steps(whole, size)))


def _peaks(level: npt.NDArray[np.uint16]) -> npt.NDArray[np.bool_]:
    """Voxels no neighbour exceeds."""
    return np.asarray(level >= ndimage.maximum_filter(level, 3, mode="constant", cval=0))


def _ridges(level: npt.NDArray[np.uint16]) -> npt.NDArray[np.bool_]:
    """Voxels that neither neighbour exceeds, on all axes but one: the middle line of an object, however it is bent.

    Shapes around the others are covered by theirs, and there are many.

    Examples
    --------
    >>> _ridges(np.array([[1, 2, 1], [2, 3, 2], [3, 4, 3]], np.uint16)).astype(int).tolist()
    [[0, 1, 0], [0, 1, 0], [1, 1, 1]]
    """
    highest = np.zeros(level.shape, np.uint8)
    for axis in range(level.ndim):
        highest += level >= ndimage.maximum_filter1d(level, 3, axis=axis, mode="constant", cval=0)
    return highest >= level.ndim - 1


def _above(state: State, level: int) -> tuple[npt.NDArray[Any], ...]:
    """Places, levels and distances of the candidates of a block above a level."""
    a = state.arrays
    chosen = a["probability"] > level
    return a["places"][chosen], a["probability"][chosen], a["distances"][chosen].astype(np.float32)


def _rows(shapes: Shapes, block: Block, reach: float) -> npt.NDArray[np.float64]:
    """Object, centre and distances of the shapes that may get into a block, in the order of painting."""
    inside = shapes_within(shapes, block, reach)
    parts = (shapes.objects[inside, None], shapes.centres[inside], shapes.distances[inside])
    return np.concatenate([np.asarray(p, np.float64) for p in parts], axis=1)
