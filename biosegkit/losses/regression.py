"""Masked regression of maps that are no probabilities."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from biosegkit.losses.comparison import mean_over, single

__all__ = ["masked_smooth_l1"]


def masked_smooth_l1(prediction: Tensor, target: Tensor, weight: Tensor, beta: float = 0.1) -> Tensor:
    """Smooth L1 averaged by weight: ``d²/(2 beta)`` for ``d < beta``, else ``d - beta/2`` (Girshick 2015).

    Parameters
    ----------
    prediction : Tensor, (B, C, *space)
    target : Tensor, (B, C, *space), or (B, *space) when C is 1
    weight : Tensor, (B, *space) or (B, C, *space)
    beta : float
        Where the parabola ends; 0 is plain L1.

    Examples
    --------
    >>> import torch
    >>> one = torch.ones(1, 1, 2)
    >>> round(float(masked_smooth_l1(2 * one, one, torch.tensor([[1.0, 0.0]]))), 3)
    0.95
    """
    prediction, target, weight = single(prediction), single(target), single(weight)
    target = target.unsqueeze(1) if target.ndim < prediction.ndim else target
    weight = weight.unsqueeze(1) if weight.ndim < prediction.ndim else weight
    loss = F.smooth_l1_loss(prediction, target, reduction="none", beta=beta)
    return mean_over(loss, weight.expand_as(loss))
