"""Objects by spatial embedding: every voxel points to the centre of its object, and a seed says whom to believe.

Neven et al. 2019 (arXiv:1906.11109): the embedding of voxel i is its position plus its offset, ``e_i = x_i + o_i``;
with the centre C_k of object k and its bandwidth σ_k, ``φ_k(e_i) = exp(-|e_i - C_k|² / 2σ_k²)`` (equation 5) is the
probability that the voxel is of the object, and ``φ > 0.5`` decides. A seed map learns φ (equation 11), so that the
best seeds are the voxels nearest to their centre in embedding.

What is trained here, and why. The paper learns offsets and bandwidths together by a Lovász hinge of φ_k against the
mask of every object, one loop over the image per object. Here the same quantities are regressed, every voxel against
its own object alone: (1) ``|e_i - C_k|`` in units of the true bandwidth, quadratic within it and linear beyond it; (2)
the logarithm of σ_i, to one value per object (which makes the smoothness term of equation 8 needless); (3) the seed by
equation 11 against the φ of the voxel's own outputs, without gradient. The gradient is large from the first step on,
where φ of a far voxel has none; no voxel needs another one, so the cost is that of any dense head whatever the number
of objects is; and every voxel of a patch is used, not crops around objects. The price: the true bandwidth is a rule and
is not learned. It is a quarter of the edge of the cube of the object's volume (about half its radius), but never more
than what parts two centres. A head of its own for the foreground replaces the seed's background, so that rims are as
sharp as those of other methods.

Decoding. Seeds in the order (seed, then position) begin an object unless an earlier one holds their embedding with
``φ > membership`` (the paper's greedy rule); then every voxel of the foreground joins the object under whose Gaussian
it is most likely, within ``reach`` times that distance. All in whole numbers, one look-up per voxel.

Limits: an offset is bounded by ``scale``, so objects wider than twice of it cannot point to their centre. Objects with
the same centre (a ring around a disc) are one; ``centre="medoid"`` avoids most of these, being in the object unless
several voxels are equally near. An object cut by the edge of the patch has the centre of its visible part: read a
margin around the patch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from biosegkit.errors import DataError, OptionError
from biosegkit.kernels.bands import bands
from biosegkit.kernels.basins import TOP, level_of, quantise
from biosegkit.kernels.centres import object_centres
from biosegkit.kernels.clusters import falling, lead
from biosegkit.kernels.signed import signed_distance
from biosegkit.methods.offset_decoding import clusters_of, dense_of, owners_of, reaches
from biosegkit.methods.offset_trials import OFFSET_COST, offset_counter
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
from biosegkit.methods.tables import Tally, rows_in
from biosegkit.methods.trials import Counter, Held
from biosegkit.plan.objective import Objective

__all__ = ["Offset"]

#: Steps per voxel (along the axis of the smallest spacing) in which embeddings are rounded.
_STEPS = 32
#: Logits over which an offset goes from 0 to three quarters of its bound.
_LOGITS = 4.0
#: The bandwidth of a logit of 0 is this part of the scale.
_PART = 16.0
#: ``exp(-d²/2σ²)`` is one half at so many σ.
_HALF = math.sqrt(2.0 * math.log(2.0))


@dataclass(frozen=True)
class Offset:
    """Options of the spatial embedding.

    Parameters
    ----------
    scale : float
        Bound of an offset in units of the spacing: at least half the largest object.
    centre : {"medoid", "centroid"}
        Where voxels point to: the voxel of the object nearest to its centroid (the mean of these, if several are), or
        the centroid itself.
    offset_weight, bandwidth_weight, seed_weight : float
        Factors of the terms of the loss.
    batch_dice : bool
        Pool the Dice sums over the batch.
    objective : Objective
        The loss of the foreground; the other heads have their own. Class weights are two: background, objects.

    Examples
    --------
    >>> [(head.name, head.channels) for head in Offset().heads(3)]
    [('foreground', 1), ('offset', 3), ('bandwidth', 1), ('seed', 1)]
    """

    scale: float = 64.0
    centre: Literal["medoid", "centroid"] = "medoid"
    offset_weight: float = 1.0
    bandwidth_weight: float = 0.2
    seed_weight: float = 2.0
    batch_dice: bool = True
    objective: Objective = field(default_factory=Objective)

    def __post_init__(self) -> None:
        """Refuse options that cannot be trained."""
        if not 0.0 < self.scale < math.inf:
            raise OptionError(f"scale={self.scale}", expected="a positive length, half the largest object")
        if self.centre not in ("medoid", "centroid"):
            raise OptionError(f"centre={self.centre!r}", expected="medoid or centroid")
        object.__setattr__(self, "objective", Objective.of(self.objective))
        self.objective.fits(2, "background, objects")

    trial_cost = OFFSET_COST

    @property
    def tunables(self) -> dict[str, Tunable]:
        """Foreground and seed thresholds, the Gaussian's thresholds and smallest size."""
        return {
            "foreground": Tunable(0.5, 0.1, 0.9, 17, "probability above which a voxel is part of an object"),
            "seed": Tunable(0.5, 0.05, 0.95, 19, "seed above which a voxel that no object holds begins one"),
            "membership": Tunable(0.5, 0.02, 0.9, 7, "probability above which an object holds an embedding"),
            "reach": Tunable(1.5, 1.0, 4.0, 4, "times that distance within which other voxels join an object"),
            "min_size": Tunable(4, 0, 1e9, 1, "smallest object in voxels"),
        }

    @property
    def halo(self) -> int:
        """A voxel says all by itself."""
        return 0

    @property
    def exact(self) -> bool:
        """Seeds of all blocks are gone through in one order."""
        return True

    def heads(self, ndim: int) -> tuple[Head, ...]:
        """Foreground probability, offset along each axis, bandwidth and seed."""
        return Head("foreground", 1, "sigmoid"), Head("offset", ndim, "tanh"), Head("bandwidth", 1, "exp"), Head(
            "seed", 1, "sigmoid")

    def requirements(self, diameters_px: Sequence[float]) -> Requirements:
        """From one rim of an object the network must see the other one; the bound is that of ``scale`` at spacing 1."""
        sizes = np.asarray(diameters_px, float)
        largest = float(sizes.max()) if sizes.size else 0.0
        notes = []
        if largest > 2.0 * self.scale:
            notes.append(f"objects {largest:.0f} voxels wide cannot point to their centre: the option scale is "
                         f"{self.scale:g} and must be at least half of that (in units of the spacing)")
        return Requirements(max(1, math.ceil(largest)), math.floor(2.0 * self.scale), 1, tuple(notes))

    def encode(
        self, labels: npt.NDArray[Any], spacing: Sequence[float], valid: npt.NDArray[np.bool_] | None = None
    ) -> tuple[ArrayDict, ArrayDict]:
        """Foreground and seed 0/1, offset to the centre ``(D, *space)`` and bandwidth, in units of the spacing.

        All float32; offsets are 0 and bandwidths that of a logit of 0 outside objects. Where the loss needs it,
        ``border`` has the signed distance to the border of the foreground.
        """
        known = np.ones(labels.shape, bool) if valid is None else valid
        ids = labels if known.all() else np.where(known, labels, 0)
        steps = np.asarray(spacing, float)
        found = object_centres(ids, spacing, medoid=self.centre == "medoid")
        volumes = np.asarray(found.areas * float(steps.prod()), np.float64)
        sigma = _bandwidths(found.centres * steps, volumes, float(steps.min()))
        offset = np.zeros((labels.ndim, *labels.shape), np.float32)
        bandwidth = np.full(labels.shape, self.scale / _PART, np.float32)
        for part in bands(labels.shape):
            where = np.nonzero(found.dense[part])
            k = found.dense[part][where] - 1
            for axis, (position, band) in enumerate(zip(where, part, strict=True)):
                offset[axis][part][where] = (found.centres[k, axis] - (position + band.start)) * steps[axis]
            bandwidth[part][where] = sigma[k]
        foreground = (found.dense > 0).astype(np.float32)
        targets: ArrayDict = {"foreground": foreground, "offset": offset, "bandwidth": bandwidth, "seed": foreground}
        if self.objective.needs_distance:
            targets["border"] = signed_distance(foreground[None], spacing, known)
        weight = known.astype(np.float32)
        return targets, {head.name: weight for head in self.heads(labels.ndim)}

    def loss(self, outputs: TensorDict, targets: TensorDict, weights: TensorDict) -> TensorDict:
        """The objective's terms on the foreground; offset, bandwidth and seed as in the module's description."""
        import torch

        from biosegkit.losses import Loss
        from biosegkit.losses.comparison import TINY, mean_over

        terms = Loss(self.objective)(outputs["foreground"], targets["foreground"], weights["foreground"],
                                     batch=self.batch_dice, distance=targets.get("border"))
        offset, sigma, seed = (self.activate(outputs)[name] for name in ("offset", "bandwidth", "seed"))
        wide, inside = targets["bandwidth"][:, None], targets["foreground"][:, None]
        error = (offset - targets["offset"]).square().sum(1, keepdim=True)
        weight = {name: weights[name][:, None] for name in ("offset", "bandwidth", "seed")}
        pull = ((error / wide.square() + 1.0).sqrt() - 1.0)
        width = torch.nn.functional.smooth_l1_loss(sigma.log(), wide.log(), reduction="none")
        phi = torch.exp(-error.detach() / (2.0 * sigma.detach().square()).clamp_min(TINY)) * inside
        return {
            **terms,
            "offset": self.offset_weight * mean_over(pull, weight["offset"] * inside),
            "bandwidth": self.bandwidth_weight * mean_over(width, weight["bandwidth"] * inside),
            "seed": self.seed_weight * mean_over((seed - phi).square(), weight["seed"]),
        }

    def activate(self, outputs: TensorDict) -> TensorDict:
        """Probability, offset and bandwidth in units of the spacing, seed in 0..1; float32."""
        width = outputs["bandwidth"].float().clamp(-8.0, math.log(_PART))
        return {
            "foreground": outputs["foreground"].float().sigmoid(),
            "offset": self.scale * (outputs["offset"].float() / _LOGITS).tanh(),
            "bandwidth": self.scale / _PART * width.exp(),
            "seed": outputs["seed"].float().sigmoid(),
        }

    def mirror(self, maps: ArrayDict, axes: Sequence[int]) -> ArrayDict:
        """Flip; the offset along a flipped axis changes sign."""
        return flipped(maps, axes, "offset")

    def ideal(self, targets: ArrayDict) -> ArrayDict:
        """The targets with a channel axis, offsets cut at their bound."""
        maps = {name: targets[name][None].astype(np.float32) for name in ("foreground", "bandwidth", "seed")}
        return {**maps, "offset": np.clip(targets["offset"], -self.scale, self.scale)}

    def local(self, maps: ArrayDict, block: Block) -> State:
        """Embedding, bandwidth and seed of every voxel that may be foreground, in steps of 1/32 voxel."""
        foreground = maps["foreground"][0]
        if foreground.shape != block.array_shape:
            raise DataError(f"maps of shape {foreground.shape}", expected=f"{block.array_shape} (the block's arrays)")
        level = quantise(foreground[block.core])
        floor = level_of(self.tunables["foreground"].low)
        core: dict[str, npt.NDArray[Any]] = {name: values[(slice(None), *block.core)] for name, values in maps.items()}
        step, ndim = min(block.spacing) / _STEPS, len(block.shape)
        arrays = _room(int(np.count_nonzero(level > floor)), math.prod(block.shape))
        done = 0
        for part in bands(block.shape):
            where = np.nonzero(level[part] > floor)
            here = slice(done, done + len(where[0]))
            done = here.stop
            place = [at + p.start for at, p in zip(where, part, strict=True)]
            arrays["voxels"][here] = np.ravel_multi_index(place, block.shape)
            arrays["foreground"][here] = level[part][where]
            for axis, (start, size, at) in enumerate(zip(block.start, block.spacing, place, strict=True)):
                offset = core["offset"][axis][part][where]
                centre = (at + start) * (size / step) + offset.astype(np.float64) / step
                arrays["points"][here, 3 - ndim + axis] = np.rint(np.clip(centre, -(2.0**30), 2.0**30))
            width = core["bandwidth"][0][part][where].astype(np.float64) / step
            arrays["sigma"][here] = np.rint(np.clip(width, 1.0, 2.0**20))
            arrays["seed"][here] = quantise(core["seed"][0][part][where])
        return State(block, {**arrays, "order": falling(arrays["seed"])})

    def resolve(self, states: Sequence[State], thresholds: Mapping[str, float] | None = None) -> Decisions:
        """Clusters of all blocks; objects are numbered in raster order of their first voxel."""
        used = checked_thresholds(self.tunables, thresholds)
        clusters = clusters_of(states, used)
        tally = Tally(len(clusters.sigma), len(states[0].block.shape))
        numbers = np.arange(1, len(clusters.sigma) + 2, dtype=np.uint32)
        numbers[-1] = 0  # of what has no owner, which is -1
        owners = []
        for state in states:
            owner = owners_of(state, clusters, used)
            tally.add(dense_of(state, owner, numbers), dense_of(state, state.arrays["seed"]), state.block)
            met = np.zeros(len(numbers), bool)
            for part in bands(owner.shape):
                met[owner[part]] = True
            owners.append(np.flatnonzero(met[:-1]))
        alive = np.flatnonzero(tally.area >= max(1.0, used["min_size"]))
        alive = alive[np.argsort(tally.first[alive])]
        ids = np.zeros(len(clusters.sigma), np.int64)
        ids[alive] = np.arange(1, len(alive) + 1)
        rows = np.column_stack([clusters.centre, clusters.sigma, ids])
        lookup: dict[tuple[int, ...], npt.NDArray[Any]] = {
            state.block.start: rows[k] for state, k in zip(states, owners, strict=True)}
        return Decisions(used, lookup, tally.table(alive + 1, np.arange(1, len(alive) + 1), float(TOP)))

    def paint(self, state: State, decisions: Decisions) -> tuple[npt.NDArray[Any], ObjectTable]:
        """Labels (uint32) of the core and the rows of the objects that begin in it."""
        rows = decisions.lookup[state.block.start]
        here = lead(rows[:, :3], rows[:, 3], 0.0, reaches(decisions.thresholds)[1])
        owner = owners_of(state, here, decisions.thresholds)
        ids = np.concatenate([rows[:, 4], [0]]).astype(np.uint32)
        return dense_of(state, owner, ids), rows_in(decisions.objects, state.block)

    def counter(self, held: Iterable[Held], tried: Mapping[str, Sequence[float]]) -> Counter:
        """Trials of thresholds from tables of claims; see `biosegkit.methods.trials`."""
        return offset_counter(held, tried, lambda given: checked_thresholds(self.tunables, given))


def _room(count: int, size: int) -> ArrayDict:
    """Arrays for so many voxels of a block of that size."""
    return {
        "voxels": np.empty(count, np.int32 if size < 2**31 else np.int64), "foreground": np.empty(count, np.uint16),
        "points": np.zeros((count, 3), np.int32), "sigma": np.empty(count, np.int32),
        "seed": np.empty(count, np.uint16),
    }


def _bandwidths(centres: npt.NDArray[np.float64], volumes: npt.NDArray[np.float64],
                step: float) -> npt.NDArray[np.float64]:
    """Half the radius of a cube of the object's volume, at most what parts it from the nearest centre, ``(K,)``."""
    from scipy.spatial import cKDTree

    sigma = np.maximum(volumes ** (1.0 / centres.shape[1]) / 4.0, step / 2.0)
    if len(centres) > 1:
        nearest = np.asarray(cKDTree(centres).query(centres, k=2)[0])[:, 1]
        sigma = np.minimum(sigma, np.maximum(nearest / (2.0 * _HALF), step / 8.0))
    return np.asarray(sigma)
