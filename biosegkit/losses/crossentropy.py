"""Means over voxels: cross-entropy, binary cross-entropy, focal and top-k.

torch's cross-entropies do the arithmetic of one voxel; the means are of this library, because weights that differ from
voxel to voxel (0: unknown) must leave numerator and denominator together. MONAI's FocalLoss knows class weights but no
voxel weights; where all is known it gives the same numbers (its softmax form divides by the number of channels too).
A class absent from the truth adds nothing of its own here: its false positives are the errors of the classes present.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from biosegkit.losses.comparison import TINY, Comparison

__all__ = ["bce", "ce", "focal", "topk_ce"]


def ce(c: Comparison) -> Tensor:
    """``Σ w (-log p of the true class) / Σ w``; on sigmoid heads the binary cross-entropy, mean over channels too.

    Examples
    --------
    >>> c = Comparison.of(torch.zeros(1, 2, 3), torch.tensor([[0, 1, 1]]), torch.ones(1, 3))
    >>> round(float(ce(c)), 4)  # log 2
    0.6931
    """
    return c.over_voxels(_per_voxel(c))


def bce(c: Comparison) -> Tensor:
    """Binary cross-entropy of every channel against the rest, mean over voxels and channels.

    Notes
    -----
    On a softmax the probability of "not class k" is the sum of the others: ``-log p_y - Σ_{k≠y} log(1 - p_k)``, over C.
    1 - p is not let below 1e-7; the true class's own logarithm still pulls there.

    Examples
    --------
    >>> c = Comparison.of(torch.zeros(1, 2, 3), torch.tensor([[0, 1, 1]]), torch.ones(1, 3))
    >>> round(float(bce(c)), 4)
    0.6931
    """
    if not c.softmax:
        return ce(c)
    rest = torch.log(-torch.expm1(c.logp.clamp_max(-1e-7)))
    per_voxel = -torch.where(c.truth > 0, c.logp, rest).mean(1)
    return c.over_voxels(per_voxel)


def focal(c: Comparison, gamma: float = 2.0) -> Tensor:
    """Cross-entropy times ``(1 - p)^gamma`` with p the probability given to the truth; mean over voxels.

    Parameters
    ----------
    c : Comparison
        Its class weights are the paper's alpha; none by default.
    gamma : float
        0 is cross-entropy.

    References
    ----------
    Lin et al. 2017 (arXiv:1708.02002), equation 4. The paper divides by the number of objects, here by the voxels.

    Examples
    --------
    >>> c = Comparison.of(torch.zeros(1, 2, 3), torch.tensor([[0, 1, 1]]), torch.ones(1, 3))
    >>> round(float(focal(c)), 4)  # (1 - 1/2)² log 2
    0.1733
    """
    loss = _per_voxel(c)
    # 1 - p of the truth is 1 - exp(-cross-entropy), exactly where it is small; the floor keeps powers below 1 finite.
    wrong = -torch.expm1(-loss)
    return c.over_voxels(wrong.clamp_min(TINY) ** gamma * loss)


def topk_ce(c: Comparison, share: float = 0.1) -> Tensor:
    """Mean cross-entropy of the share of known voxels where it is largest, pooled over the batch.

    Parameters
    ----------
    c : Comparison
        Class weights take part in the ranking.
    share : float
        Share of the known voxels (for sigmoid heads: of voxels times channels), at least one; 1 is cross-entropy.

    References
    ----------
    nnU-Net's top-k loss with 10 %; the idea is that of Wu et al. 2016 (arXiv:1605.06885).

    Examples
    --------
    >>> c = Comparison.of(torch.tensor([[[0.0, 0, 0, 3, 3], [0.0, 0, 0, 0, 0]]]), torch.zeros(1, 5).long(),
    ...                   torch.ones(1, 5))
    >>> round(float(topk_ce(c, 0.2)), 4)
    0.6931
    """
    weights = c.voxel_weights.reshape(-1)
    known = torch.nonzero(weights > 0).squeeze(1)
    weights, losses = weights[known], _per_voxel(c).reshape(-1)[known]
    if len(known) == 0:
        return losses.sum()
    worst, where = torch.topk(losses * weights, max(1, round(share * len(known))), sorted=False)
    return worst.sum() / weights[where].sum().clamp_min(TINY)


def _per_voxel(c: Comparison) -> Tensor:
    """Cross-entropy of every voxel: (B, *space) for a softmax, else (B, C, *space)."""
    if not c.softmax:
        return F.binary_cross_entropy_with_logits(c.logits, c.target, reduction="none")
    return -c.logp.gather(1, c.target.unsqueeze(1)).squeeze(1)
