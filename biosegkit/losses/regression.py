"""Masked regression of maps that are no probabilities."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from biosegkit.losses.comparison import mean_over, single

__all__ = ["masked_slopes", "masked_smooth_l1", "masked_squares"]


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
    >>> one = torch.ones(1, 1, 2)
    >>> round(float(masked_smooth_l1(2 * one, one, torch.tensor([[1.0, 0.0]]))), 3)
    0.95
    """
    prediction, target, weight = single(prediction), single(target), single(weight)
    target = target.unsqueeze(1) if target.ndim < prediction.ndim else target
    weight = weight.unsqueeze(1) if weight.ndim < prediction.ndim else weight
    loss = F.smooth_l1_loss(prediction, target, reduction="none", beta=beta)
    return mean_over(loss, weight.expand_as(loss))


def masked_squares(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Squared error averaged by weight and over channels.

    Parameters
    ----------
    prediction, target : Tensor, (B, C, *space)
    weight : Tensor, (B, *space)

    Examples
    --------
    >>> float(masked_squares(torch.tensor([[[3.0, 9.0]]]), torch.ones(1, 1, 2), torch.tensor([[1.0, 0.0]])))
    4.0
    """
    prediction, target, weight = single(prediction), single(target), single(weight)
    loss = (prediction - target) ** 2
    return mean_over(loss, weight.unsqueeze(1).expand_as(loss))


def masked_slopes(prediction: Tensor, target: Tensor, weight: Tensor, focus: Tensor) -> Tensor:
    """Squared error of the slope of every channel along its own axis, averaged by the weight of the voxel.

    Parameters
    ----------
    prediction, target : Tensor, (B, axes, *space)
        Channel k belongs to the space axis k.
    weight : Tensor, (B, *space)
        A slope is the half difference of the two neighbours of a voxel; where one of them has weight 0 there is none.
    focus : Tensor, (B, *space)
        Weight of every slope.

    References
    ----------
    Graham et al. 2019 (HoVer-Net, doi:10.1016/j.media.2019.101563), equation 4.

    Examples
    --------
    >>> line, one = torch.tensor([[[0.0, 1.0, 2.0]]]), torch.ones(1, 3)
    >>> float(masked_slopes(3 * line, line, one, one))
    4.0
    """
    difference, weight, focus = single(prediction) - single(target), single(weight), single(focus)
    losses, shares = [], []
    for axis in range(difference.shape[1]):
        one = difference[:, axis]
        n = one.shape[axis + 1]
        if n < 3:
            continue
        before, here, after = (k.narrow(axis + 1, i, n - 2) for i, k in enumerate((one, focus, one)))
        seen = (weight.narrow(axis + 1, 0, n - 2) > 0) & (weight.narrow(axis + 1, 2, n - 2) > 0)
        losses.append((((after - before) / 2) ** 2).flatten())
        shares.append((here * seen).flatten())
    if not losses:
        return difference.sum() * 0.0
    return mean_over(torch.cat(losses), torch.cat(shares))
