"""Losses: Dice with cross-entropy, Dice with binary cross-entropy, and a masked smooth L1.

All take logits ``(B, C, *space)`` and a weight ``(B, *space)`` that is 0 where nothing is known (ignore label,
padding): such voxels take no part in any sum. All arithmetic is float32, also under autocast. The Dice ratio is
that of nnU-Net (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z): plain sums in the denominator, smoothed by
1e-5; given here as ``1 - Dice`` so that every term is at least 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["bce_dice", "dice_ce", "masked_smooth_l1"]

_TINY = 1e-8


def dice_ce(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    batch_dice: bool = True,
    include_background: bool = False,
    smooth: float = 1e-5,
) -> dict[str, Tensor]:
    """Soft Dice of the softmax and cross-entropy, each averaged over what is annotated.

    Parameters
    ----------
    logits : Tensor, (B, C, *space)
    target : Tensor of int, (B, *space)
        Class per voxel; any value in ``0..C-1`` where the weight is 0.
    weight : Tensor, (B, *space)
    batch_dice : bool
        Pool the sums over the batch before the ratio (otherwise one ratio per sample, averaged).
    include_background : bool
        Whether class 0 takes part in the Dice term.
    smooth : float
        Added to both sides of the ratio: a class absent from target and prediction scores 1.

    Returns
    -------
    dict
        Scalars ``dice`` and ``ce``.

    Examples
    --------
    >>> logits = torch.tensor([[[30.0, -30.0], [-30.0, 30.0]]])
    >>> terms = dice_ce(logits, torch.tensor([[0, 1]]), torch.ones(1, 2))
    >>> round(float(sum(terms.values())), 6)
    0.0
    """
    logp = torch.log_softmax(logits.float(), dim=1)
    weight = weight.float()
    index = target.long().unsqueeze(1)
    ce = -(logp.gather(1, index).squeeze(1) * weight).sum() / weight.sum().clamp_min(_TINY)
    probs = logp.exp()
    onehot = torch.zeros_like(probs).scatter_(1, index, 1.0)
    first = 0 if include_background or logits.shape[1] == 1 else 1
    return {"dice": _dice(probs[:, first:], onehot[:, first:], weight, batch_dice, smooth), "ce": ce}


def bce_dice(
    logits: Tensor, target: Tensor, weight: Tensor, batch_dice: bool = True, smooth: float = 1e-5
) -> dict[str, Tensor]:
    """Soft Dice of the sigmoid and binary cross-entropy, over all channels.

    Parameters
    ----------
    logits : Tensor, (B, C, *space)
    target : Tensor, (B, C, *space), or (B, *space) when C is 1
    weight : Tensor, (B, *space)
    batch_dice, smooth
        As in `dice_ce`.

    Returns
    -------
    dict
        Scalars ``dice`` and ``bce``.

    Examples
    --------
    >>> terms = bce_dice(torch.zeros(1, 1, 4), torch.tensor([[1.0, 1, 0, 0]]), torch.ones(1, 4))
    >>> [round(float(terms[k]), 3) for k in ("dice", "bce")]
    [0.5, 0.693]
    """
    logits, target, weight = logits.float(), _with_channel(target, logits), weight.float()
    w = weight.unsqueeze(1)
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * w
    bce = loss.sum() / (w.sum() * logits.shape[1]).clamp_min(_TINY)
    return {"dice": _dice(logits.sigmoid(), target, weight, batch_dice, smooth), "bce": bce}


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
    prediction, target, weight = prediction.float(), _with_channel(target, prediction), weight.float()
    w = weight.unsqueeze(1) if weight.ndim < prediction.ndim else weight
    w = w.expand_as(prediction)
    loss = F.smooth_l1_loss(prediction, target, reduction="none", beta=beta) * w
    return loss.sum() / w.sum().clamp_min(_TINY)


def _with_channel(target: Tensor, like: Tensor) -> Tensor:
    """The target as float with a channel axis."""
    target = target.float()
    return target.unsqueeze(1) if target.ndim < like.ndim else target


def _dice(probs: Tensor, target: Tensor, weight: Tensor, batch_dice: bool, smooth: float) -> Tensor:
    """``1 -`` mean soft Dice over channels (and samples unless pooled)."""
    w = weight.unsqueeze(1)
    space = tuple(range(2, probs.ndim))
    weighted = probs * w
    overlap = (weighted * target).sum(space)
    total = weighted.sum(space) + (target * w).sum(space)
    if batch_dice:
        overlap, total = overlap.sum(0), total.sum(0)
    return 1.0 - ((2.0 * overlap + smooth) / (total + smooth).clamp_min(_TINY)).mean()
