"""Semantic segmentation: one class per voxel, or regions that may contain each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.errors import DataError, OptionError
from biosegkit.kernels.likeliest import likeliest
from biosegkit.kernels.signed import signed_distance
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
from biosegkit.methods.trials import Cost
from biosegkit.plan.objective import Objective

__all__ = ["Semantic"]


@dataclass(frozen=True)
class Semantic:
    """Options of semantic segmentation.

    Parameters
    ----------
    n_classes : int
        Classes of the labels, background (0) included.
    regions : tuple of tuple of int, optional
        Each region is a set of classes (BraTS: whole tumour = (1, 2, 3)); the network then predicts one sigmoid per
        region. Regions are painted in this order, so later ones lie on top.
    region_values : tuple of int, optional
        The class a region is painted with; its first class by default.
    batch_dice : bool
        Pool the Dice sums over the batch.
    objective : Objective
        The loss; its class weights are one per class, background first, or one per region.

    Examples
    --------
    >>> Semantic(n_classes=3).heads(3)
    (Head(name='classes', channels=3, activation='softmax', hidden=0, coarse=False),)
    >>> Semantic(n_classes=3, regions=((1, 2), (2,)), region_values=(1, 2)).heads(2)[0].channels
    2
    """

    n_classes: int
    regions: tuple[tuple[int, ...], ...] | None = None
    region_values: tuple[int, ...] | None = None
    batch_dice: bool = True
    objective: Objective = field(default_factory=Objective)

    def __post_init__(self) -> None:
        """Refuse options that cannot be trained; lists (from JSON) become tuples."""
        if self.regions is not None:
            object.__setattr__(self, "regions", tuple(tuple(int(c) for c in r) for r in self.regions))
        if self.region_values is not None:
            object.__setattr__(self, "region_values", tuple(int(v) for v in self.region_values))
        if self.n_classes < 2:
            raise OptionError(f"n_classes={self.n_classes}", expected="at least 2 (background and one class)")
        object.__setattr__(self, "objective", Objective.of(self.objective))
        channels = self.n_classes if self.regions is None else len(self.regions)
        self.objective.fits(channels, "one per class, background first" if self.regions is None else "one per region")
        values = [v for r in self.regions or () for v in r] + list(self.region_values or ())
        if values and not 0 <= min(values) <= max(values) < self.n_classes:
            raise OptionError(f"regions {self.regions}", expected=f"classes below {self.n_classes}")
        if self.region_values is not None and len(self.region_values) != len(self.regions or ()):
            raise OptionError(f"region_values {self.region_values}", expected="one value per region")

    @property
    def painted(self) -> tuple[int, ...]:
        """The class each region is painted with."""
        return self.region_values or tuple(r[0] for r in self.regions or ())

    @property
    def tunables(self) -> dict[str, Tunable]:
        """One threshold for all regions, or of all classes against the background."""
        if self.regions is None:
            return {"foreground": Tunable(0.5, 0.05, 0.95, 19, "share of the most probable class, beside the "
                                          "background's, above which a voxel is no background")}
        return {"region": Tunable(0.5, 0.05, 0.95, 19, "probability above which a voxel belongs to a region")}

    @property
    def halo(self) -> int:
        """Voxels are decided one by one."""
        return 0

    @property
    def exact(self) -> bool:
        """Voxels are decided one by one."""
        return True

    @property
    def trial_cost(self) -> Cost:
        """Every case is painted once per value and kept no longer (measured on one core)."""
        return Cost(seconds=1e-7, bytes=0)

    def heads(self, ndim: int) -> tuple[Head, ...]:
        """A softmax over the classes, or a sigmoid per region."""
        if self.regions is None:
            return (Head("classes", self.n_classes, "softmax"),)
        return (Head("regions", len(self.regions), "sigmoid"),)

    def requirements(self, diameters_px: Sequence[float]) -> Requirements:
        """No object is too large or too small; the context is the network's own."""
        return Requirements(context_px=0, max_object_px=None, min_object_px=1)

    def encode(
        self, labels: npt.NDArray[Any], spacing: Sequence[float], valid: npt.NDArray[np.bool_] | None = None
    ) -> tuple[ArrayDict, ArrayDict]:
        """Class per voxel (int64), or one 0/1 map per region (float32); weight is 1 where valid.

        Where the loss needs it, ``distance`` has the signed distance to the border of each class but the background, or
        region.

        Raises
        ------
        DataError
            If a valid voxel has a class the method does not know.
        """
        known = np.ones(labels.shape, bool) if valid is None else valid
        classes = np.where(known, labels, 0).astype(np.int64)
        if classes.size and not 0 <= int(classes.min()) <= int(classes.max()) < self.n_classes:
            raise DataError(f"label values {classes.min()}..{classes.max()}", expected=f"0..{self.n_classes - 1}")
        weight = known.astype(np.float32)
        name = "classes" if self.regions is None else "regions"
        targets: ArrayDict = {name: classes if self.regions is None else self._region_maps(classes)}
        if self.objective.needs_distance:
            each = np.arange(1, self.n_classes).reshape(-1, *(1,) * classes.ndim)
            masks = targets[name] if self.regions else classes == each
            targets["distance"] = signed_distance(masks, spacing, known)
        return targets, {name: weight}

    def loss(self, outputs: TensorDict, targets: TensorDict, weights: TensorDict) -> TensorDict:
        """The terms of the objective."""
        from biosegkit.losses import Loss

        name = "classes" if self.regions is None else "regions"
        return Loss(self.objective)(outputs[name], targets[name], weights[name], batch=self.batch_dice,
                                    distance=targets.get("distance"))

    def activate(self, outputs: TensorDict) -> TensorDict:
        """Probabilities in float32."""
        if self.regions is None:
            return {"classes": outputs["classes"].float().softmax(1)}
        return {"regions": outputs["regions"].float().sigmoid()}

    def mirror(self, maps: ArrayDict, axes: Sequence[int]) -> ArrayDict:
        """Flip; probabilities have no direction."""
        return flipped(maps, axes)

    def ideal(self, targets: ArrayDict) -> ArrayDict:
        """One-hot classes, or the regions themselves."""
        if self.regions is not None:
            return {"regions": targets["regions"].astype(np.float32)}
        classes = targets["classes"]
        return {"classes": np.stack([classes == c for c in range(self.n_classes)]).astype(np.float32)}

    def local(self, maps: ArrayDict, block: Block) -> State:
        """What thresholds act on, in 1/255.

        The probability of each region; or the most probable class but the background, its probability, and its share of
        both, above one half where it is the more probable.
        """
        core = (slice(None), *block.core)
        if self.regions is not None:
            return State(block, {"regions": _bytes(maps["regions"][core])})
        classes, confidence, share = likeliest(np.asarray(maps["classes"][core], np.float32))
        return State(block, {"classes": classes, "confidence": confidence, "share": share})

    def resolve(self, states: Sequence[State], thresholds: Mapping[str, float] | None = None) -> Decisions:
        """The object table, one row per class present; nothing else depends on other blocks."""
        used = checked_thresholds(self.tunables, thresholds)
        tally = Tally(self.n_classes - 1, len(states[0].block.shape))
        for state in states:
            classes, confidence = self._painted(state, used)
            tally.add(classes, confidence, state.block)
        present = np.flatnonzero(tally.area) + 1
        return Decisions(used, {}, tally.table(present, present, 255.0))

    def paint(self, state: State, decisions: Decisions) -> tuple[npt.NDArray[Any], ObjectTable]:
        """Classes of the core; a class is listed by the block that holds its first voxel."""
        classes, _ = self._painted(state, decisions.thresholds)
        return classes, rows_in(decisions.objects, state.block)

    def _region_maps(self, classes: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """One map per region."""
        return np.stack([np.isin(classes, region) for region in self.regions or ()]).astype(np.float32)

    def _painted(self, state: State, thresholds: Mapping[str, float]) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
        """Classes and their probability in 1/255."""
        if self.regions is None:
            found = state.arrays["share"] > thresholds["foreground"] * 255.0
            return state.arrays["classes"] * found, state.arrays["confidence"]
        probs = state.arrays["regions"]
        limit = thresholds["region"] * 255.0
        classes = np.zeros(probs.shape[1:], np.uint8 if self.n_classes <= 256 else np.uint16)
        confidence = np.zeros(classes.shape, np.uint8)
        for value, p in zip(self.painted, probs, strict=True):
            inside = p > limit
            classes[inside] = value
            confidence[inside] = p[inside]
        return classes, confidence


def _bytes(probs: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Probabilities in 1/255, rounded."""
    return np.rint(np.clip(probs, 0.0, 1.0) * 255.0).astype(np.uint8)
