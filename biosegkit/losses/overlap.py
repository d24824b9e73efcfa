"""Ratios of soft volumes: Dice, Tversky, focal Tversky and generalised Dice.

With p the probabilities, g the truth and w the voxel weights: overlap ``tp = Σ w p g``, ``fp = Σ w p (1 - g)``,
``fn = Σ w (1 - p) g``. All are of this library and not MONAI's: only MONAI's Dice can be masked; its MaskedLoss around
the others multiplies *logits*, so that a probability of 1/2 or 1/C stays in the sums where nothing is known; and its
terms cannot share the probabilities and sums that several terms of a loss need. Where all is known, MONAI's DiceLoss,
TverskyLoss and (with smoothing 0) GeneralizedDiceLoss give the same numbers, which the tests hold.

A class absent from truth and prediction costs 0. One that is absent from the truth only costs nearly 1 with hardly any
gradient, as in nnU-Net: cross-entropy has to unlearn it, so a sum with it (the default) is the safer loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from biosegkit.losses.comparison import TINY, Comparison

__all__ = ["dice", "focal_tversky", "generalized_dice", "tversky"]


def dice(c: Comparison, smooth: float = 1e-5) -> Tensor:
    """``1 - (2 tp + s) / (Σ w p + Σ w g + s)``, mean over the foreground classes or regions.

    Parameters
    ----------
    c : Comparison
    smooth : float
        s; added once to the pooled sums.

    References
    ----------
    Milletari et al. 2016 (arXiv:1606.04797) with plain sums in the denominator, as nnU-Net (Isensee et al. 2021,
    doi:10.1038/s41592-020-01008-z); given as ``1 - Dice`` so that no term is negative.

    Examples
    --------
    >>> float(dice(Comparison.of(torch.zeros(1, 1, 4), torch.tensor([[1.0, 1, 0, 0]]), torch.ones(1, 4)))).__round__(3)
    0.5
    """
    overlap, predicted, true = c.sums
    score = (2.0 * overlap + smooth) / (predicted + true + smooth).clamp_min(TINY)
    return c.over_classes(1.0 - score, c.first)


def tversky(c: Comparison, alpha: float = 0.3, beta: float = 0.7, smooth: float = 1e-5) -> Tensor:
    """``1 - (tp + s) / (tp + alpha fp + beta fn + s)``, mean over the foreground classes or regions.

    Parameters
    ----------
    c : Comparison
    alpha, beta : float
        Price of a false positive and of a false negative; 0.5 and 0.5 are Dice.
    smooth : float
        s.

    References
    ----------
    Salehi et al. 2017 (arXiv:1706.05721), equation 3 and their best pair; mind that others swap the two letters.

    Examples
    --------
    >>> c = Comparison.of(torch.zeros(1, 1, 4), torch.tensor([[1.0, 1, 0, 0]]), torch.ones(1, 4))
    >>> round(float(tversky(c)), 3), round(float(tversky(c, 0.5, 0.5)), 3)
    (0.5, 0.5)
    """
    return c.over_classes(1.0 - _index(c, alpha, beta, smooth), c.first)


def focal_tversky(c: Comparison, alpha: float = 0.3, beta: float = 0.7, gamma: float = 4 / 3,
                  smooth: float = 1e-5) -> Tensor:
    """``(1 - TI)^(1/gamma)`` with TI the Tversky index, mean over the foreground classes or regions.

    Parameters
    ----------
    c : Comparison
    alpha, beta, smooth : float
        As in `tversky`: alpha is the price of a false positive. (The paper's alpha is that of a false negative.)
    gamma : float
        Above 1, classes that are nearly right keep a larger part of the gradient.

    Notes
    -----
    The slope is infinite at 0, so 1 - TI is not let below 1e-6: a perfect prediction costs 3e-5 with no gradient.

    References
    ----------
    Abraham and Khan 2019 (arXiv:1810.07842), equation 4.

    Examples
    --------
    >>> c = Comparison.of(torch.zeros(1, 1, 4), torch.tensor([[1.0, 1, 0, 0]]), torch.ones(1, 4))
    >>> round(float(focal_tversky(c)), 3)
    0.595
    """
    missing = (1.0 - _index(c, alpha, beta, smooth)).clamp_min(1e-6)
    return c.over_classes(missing ** (1.0 / gamma), c.first)


def generalized_dice(c: Comparison, smooth: float = 1e-5) -> Tensor:
    """``1 - (2 Σ v tp + s) / (Σ v (Σ w p + Σ w g) + s)``, sums over all classes, background too; v = 1 / volume².

    Parameters
    ----------
    c : Comparison
        Class weights multiply v.
    smooth : float
        s, in voxels of the smallest class.

    Notes
    -----
    v is divided by its largest value, which changes nothing but the meaning of s: with plain 1 / volume² both sums are
    far below any usual s for classes of more than a few hundred voxels, and the loss (MONAI's by default) is near 0
    whatever is predicted. A class absent from the truth takes the largest v of those present (as MONAI), so that its
    false positives count; with no class present at all every v is 1. One sigmoid alone is `dice`.

    References
    ----------
    Sudre et al. 2017 (arXiv:1707.03237), section 2.2.

    Examples
    --------
    >>> c = Comparison.of(torch.zeros(1, 2, 4), torch.tensor([[1, 0, 0, 0]]), torch.ones(1, 4))
    >>> round(float(generalized_dice(c, smooth=0.0)), 3)  # 1 - 2 (0.5 + 1.5 / 9) / (3 + 5 / 9)
    0.625
    """
    overlap, predicted, true = c.volumes(0)
    present = true > 0
    inverse = torch.where(present, 1.0 / true.clamp_min(TINY), torch.zeros_like(true))
    largest = inverse.amax(-1, keepdim=True)
    share = torch.where(present & (largest > 0), inverse / largest.clamp_min(TINY), torch.ones_like(true)) ** 2
    if c.channel_weights is not None:
        share = share * c.channel_weights
    above = 2.0 * (share * overlap).sum(-1) + smooth
    return (1.0 - above / ((share * (predicted + true)).sum(-1) + smooth).clamp_min(TINY)).mean()


def _index(c: Comparison, alpha: float, beta: float, smooth: float) -> Tensor:
    """Tversky index of the foreground channels."""
    overlap, predicted, true = c.sums
    below = overlap + alpha * (predicted - overlap) + beta * (true - overlap) + smooth
    return (overlap + smooth) / below.clamp_min(TINY)
