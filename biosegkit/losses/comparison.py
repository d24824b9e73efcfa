"""What every loss looks at: logits beside the truth, with the quantities that several terms share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["TINY", "Comparison", "mean_over", "single"]

#: Floor of denominators.
TINY = 1e-8


@dataclass(frozen=True, eq=False)
class Comparison:
    """Logits and truth of one head. Build it with `of`.

    The kind of head follows from the type of the target: integers are classes of a softmax, floating numbers are one
    map per sigmoid. All arithmetic is float32, also under autocast (float64 stays float64).

    Parameters
    ----------
    logits : Tensor, (B, C, *space)
    target : Tensor, (B, *space) of int or (B, C, *space) of float
    weight : Tensor, (B, *space)
        0 where nothing is known (ignore label, padding): such voxels take no part in any sum and get no gradient.
    softmax : bool
        Kind of head.
    batch : bool
        Pool sums over the batch before a ratio (batch Dice); otherwise one ratio per sample, averaged.
    class_weights : Tensor, (C,), or (2,) for one sigmoid; optional
        Terms that average over voxels count a voxel by the weight of its true class, divided by the sum of these
        weights (as `torch.nn.functional.cross_entropy`); for several sigmoids by that of the channel, for a single
        one by (outside, inside). Terms that average over classes or regions weigh that average.
    distance : Tensor, (B, K, *space), optional
        Signed distance to the true border of each foreground channel, negative inside.
    """

    logits: Tensor
    target: Tensor
    weight: Tensor
    softmax: bool
    batch: bool = True
    class_weights: Tensor | None = None
    distance: Tensor | None = None

    @classmethod
    def of(cls, logits: Tensor, target: Tensor, weight: Tensor, *, batch: bool = True,
           class_weights: Sequence[float] = (), distance: Tensor | None = None) -> Comparison:
        """Bring everything to one floating type and give one-channel maps their channel axis.

        Raises
        ------
        ValueError
            For shapes that do not belong together.
        """
        logits = single(logits)
        softmax = not target.is_floating_point()
        shape = (logits.shape[0], *logits.shape[2:])
        if not softmax and target.ndim < logits.ndim:
            target = target.unsqueeze(1)
        if tuple(target.shape) != (shape if softmax else tuple(logits.shape)) or tuple(weight.shape) != shape:
            raise ValueError(f"logits {tuple(logits.shape)} with target {tuple(target.shape)} and weight "
                             f"{tuple(weight.shape)}")
        if len(class_weights) not in (0, logits.shape[1], *(() if softmax or logits.shape[1] > 1 else (2,))):
            raise ValueError(f"{len(class_weights)} class weights for {logits.shape[1]} channels")
        if distance is not None and distance.ndim < logits.ndim:
            distance = distance.unsqueeze(1)
        weights = logits.new_tensor(class_weights) if class_weights else None
        target = target.long() if softmax else target.to(logits.dtype)
        return cls(logits, target, weight.to(logits.dtype), softmax, batch, weights, distance)

    @cached_property
    def all_known(self) -> bool:
        """Whether every weight is 1: then no sum needs them, which saves passes over memory."""
        return bool((self.weight == 1).all())

    @cached_property
    def logp(self) -> Tensor:
        """Logarithm of the softmax, (B, C, *space)."""
        return torch.log_softmax(self.logits, 1)

    @cached_property
    def probs(self) -> Tensor:
        """Probabilities of all channels, (B, C, *space)."""
        if not self.softmax:
            return self.logits.sigmoid()
        return self.logp.exp() if "logp" in self.__dict__ else torch.softmax(self.logits, 1)

    @cached_property
    def truth(self) -> Tensor:
        """One map of 0 and 1 per channel, (B, C, *space)."""
        if not self.softmax:
            return self.target
        classes = torch.arange(self.logits.shape[1], device=self.target.device)
        return (self.target.unsqueeze(1) == classes.reshape(-1, *(1,) * (self.target.ndim - 1))).to(self.logits.dtype)

    @property
    def first(self) -> int:
        """The first channel of foreground: 1 after the background of a softmax."""
        return 1 if self.softmax and self.logits.shape[1] > 1 else 0

    @cached_property
    def sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """Soft volumes of overlap, prediction and truth per foreground channel: (K,) over the batch, else (B, K)."""
        return self.volumes(self.first)

    def volumes(self, first: int) -> tuple[Tensor, Tensor, Tensor]:
        """The same from any channel on."""
        probs, truth = self.probs[:, first:], self.truth[:, first:]
        over = (0, *range(2, self.logits.ndim)) if self.batch else tuple(range(2, self.logits.ndim))
        if self.all_known:
            return (probs * truth).sum(over), probs.sum(over), truth.sum(over)
        w = self.weight.unsqueeze(1)
        weighted = probs * w
        return (weighted * truth).sum(over), weighted.sum(over), (truth * w).sum(over)

    @cached_property
    def channel_weights(self) -> Tensor | None:
        """Weight of each channel in means over classes, (C,); None if all count alike."""
        given = self.class_weights
        return None if given is None or len(given) != self.logits.shape[1] else given

    @cached_property
    def voxel_weights(self) -> Tensor:
        """Weight of each voxel in means over voxels: (B, *space) for a softmax, else (B, C, *space)."""
        given = self.class_weights
        if self.softmax:
            return self.weight if given is None else self.weight * given[self.target]
        w = self.weight.unsqueeze(1).expand_as(self.logits)
        if given is None:
            return w
        if len(given) == self.logits.shape[1]:
            return w * given.reshape(-1, *(1,) * (self.logits.ndim - 2))
        return w * (given[0] + (given[1] - given[0]) * self.target)

    def over_voxels(self, values: Tensor) -> Tensor:
        """Mean of a value per voxel (and channel) by `voxel_weights`."""
        if self.class_weights is None and self.all_known:
            return values.mean()
        return mean_over(values, self.voxel_weights)

    def over_classes(self, values: Tensor, first: int) -> Tensor:
        """Mean of a value per channel, (C - first,) or (B, C - first), over channels and samples."""
        weights = self.channel_weights
        return values.mean() if weights is None else mean_over(values, weights[first:].expand_as(values))


def mean_over(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean; 0 if all weights are."""
    return (values * weights).sum() / weights.sum().clamp_min(TINY)


def single(values: Tensor) -> Tensor:
    """Half precision as float32; float64 as it is."""
    return values if values.dtype == torch.float64 else values.float()
