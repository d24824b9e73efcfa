"""Losses by name, each for softmax and sigmoid heads alike.

``LOSSES["tversky"](logits, target, weight)`` gives the named terms of a loss; the loss is their sum. Names, options and
when to choose what: `biosegkit.plan.losses`. The formulas: `overlap`, `crossentropy`, `lovasz`, `boundary`, `cldice`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from biosegkit.losses.boundary import boundary
from biosegkit.losses.cldice import cldice, soft_skeleton
from biosegkit.losses.comparison import Comparison
from biosegkit.losses.crossentropy import bce, ce, focal, topk_ce
from biosegkit.losses.lovasz import lovasz
from biosegkit.losses.overlap import dice, focal_tversky, generalized_dice, tversky
from biosegkit.losses.regression import masked_slopes, masked_smooth_l1, masked_squares
from biosegkit.plan.losses import LOSSES as NAMES
from biosegkit.plan.objective import Objective

__all__ = [
    "LOSSES",
    "TERMS",
    "Comparison",
    "Loss",
    "bce",
    "boundary",
    "ce",
    "cldice",
    "dice",
    "focal",
    "focal_tversky",
    "generalized_dice",
    "lovasz",
    "masked_slopes",
    "masked_smooth_l1",
    "masked_squares",
    "soft_skeleton",
    "topk_ce",
    "tversky",
]

#: The function of each term; its options are those of `biosegkit.plan.losses.TERMS`.
TERMS: Mapping[str, Callable[..., Tensor]] = {
    "ce": ce, "bce": bce, "dice": dice, "tversky": tversky, "focal_tversky": focal_tversky,
    "generalized_dice": generalized_dice, "focal": focal, "topk_ce": topk_ce, "lovasz": lovasz, "boundary": boundary,
    "cldice": cldice,
}


@dataclass(frozen=True)
class Loss:
    """A loss ready to be called.

    Parameters
    ----------
    objective : Objective
        Name, options and class weights.

    Examples
    --------
    >>> import torch
    >>> terms = Loss(Objective("ce_dice"))(torch.zeros(1, 2, 4), torch.tensor([[1, 1, 0, 0]]), torch.ones(1, 4))
    >>> {name: round(float(value), 3) for name, value in terms.items()}
    {'ce': 0.693, 'dice': 0.5}
    """

    objective: Objective

    def __call__(self, logits: Tensor, target: Tensor, weight: Tensor, *, batch: bool = True,
                 distance: Tensor | None = None) -> dict[str, Tensor]:
        """Scalar terms by name, float32, each times its weight.

        Parameters
        ----------
        logits : Tensor, (B, C, *space)
        target : Tensor
            Integers (B, *space): classes of a softmax. Floating 0..1, (B, C, *space) or (B, *space): sigmoids.
        weight : Tensor, (B, *space)
            0 where nothing is known.
        batch : bool
            Pool ratios over the batch.
        distance : Tensor, optional
            See `Comparison`; only the term ``boundary`` uses it.

        Raises
        ------
        ValueError
            For shapes that do not belong together.
        """
        o = self.objective
        c = Comparison.of(logits, target, weight, batch=batch, class_weights=o.class_weights, distance=distance)
        return {name: o.weight_of(name) * TERMS[name](c, **o.of_term(name)) for name in o.terms}


LOSSES: dict[str, Loss] = {name: Loss(Objective(name)) for name in NAMES}
