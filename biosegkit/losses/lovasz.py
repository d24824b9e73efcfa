"""Lovász losses: the convex extension of 1 - IoU, on softmax probabilities or on the hinge errors of sigmoid heads.

MONAI has none. The measure of the sets is the voxel weight, so that an unknown voxel has size 0; with weights of 1 the
numbers are those of the paper's formula.
"""

from __future__ import annotations

import torch
from torch import Tensor

from biosegkit.losses.comparison import TINY, Comparison

__all__ = ["lovasz"]


def lovasz(c: Comparison) -> Tensor:
    """Lovász-softmax over the classes present (background too), or the Lovász hinge of each sigmoid channel.

    Parameters
    ----------
    c : Comparison
        With ``batch``, all voxels of the batch are one set; otherwise one per sample, averaged.

    Notes
    -----
    Errors m are sorted from large to small; the loss is ``Σ m_k (J_k - J_{k-1})`` with J_k the Jaccard loss of being
    wrong in the first k voxels. Softmax: ``m = |g - p|``; a class absent from the truth is left out (equation 9 and
    the authors' choice), as its J jumps to 1 at the first voxel. Sigmoid: ``m = max(0, 1 - z (2 g - 1))`` with z the
    logit (equation 8); there an empty truth costs the largest error alone.

    References
    ----------
    Berman, Triki and Blaschko 2018 (arXiv:1705.08790), algorithm 1.

    Examples
    --------
    >>> c = Comparison.of(torch.tensor([[[2.0, -2.0, 0.5]]]), torch.tensor([[1.0, 0.0, 0.0]]), torch.ones(1, 3))
    >>> round(float(lovasz(c)), 3)  # one wrong voxel of two: J is 1/2, its error 1.5
    0.75
    """
    kept = c.weight.reshape(c.weight.shape[0], -1)
    scores = (c.probs if c.softmax else c.logits).flatten(2)
    truth = c.truth.flatten(2)
    errors = (truth - scores).abs() if c.softmax else torch.relu(1.0 - scores * (2.0 * truth - 1.0))
    sets = [(errors.transpose(0, 1).flatten(1), truth.transpose(0, 1).flatten(1), kept.reshape(-1))] if c.batch else [
        (errors[i], truth[i], kept[i]) for i in range(len(kept))]
    return torch.stack([_of_set(c, *one) for one in sets]).mean()


def _of_set(c: Comparison, errors: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over channels of one set of voxels; errors and truth (C, N), weight (N,)."""
    if not bool((weight > 0).all()):
        known = torch.nonzero(weight > 0).squeeze(1)
        errors, truth, weight = errors[:, known], truth[:, known], weight[known]
    counted = (truth.sum(1) > 0).to(errors.dtype) if c.softmax else errors.new_ones(len(errors))
    if c.channel_weights is not None:
        counted = counted * c.channel_weights
    per_class = [_extension(errors[k], truth[k], weight) for k in range(len(errors)) if float(counted[k]) > 0]
    if not per_class or errors.shape[1] == 0:
        return errors.sum() * 0.0
    used = counted[counted > 0]
    return (torch.stack(per_class) * used).sum() / used.sum()


def _extension(errors: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """``Σ m_k (J_k - J_{k-1})`` over errors from large to small; no gradient flows through the order."""
    ranked, order = torch.sort(errors, descending=True)
    with torch.no_grad():
        w = weight[order]
        inside = truth[order] * w
        total = inside.sum()
        jaccard = 1.0 - (total - inside.cumsum(0)) / (total + (w - inside).cumsum(0)).clamp_min(TINY)
        steps = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
    return (ranked * steps).sum()
