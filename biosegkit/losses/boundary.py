"""Boundary loss: what is wrong costs its distance to the true border.

MONAI has a Hausdorff loss by distance transforms of prediction and truth at each step, and no loss of this kind. Here
the distances are those of the truth alone: a method makes them beside its targets, on the CPU, after augmentation.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from biosegkit.kernels.signed import signed_distance
from biosegkit.losses.comparison import TINY, Comparison

__all__ = ["boundary"]


def boundary(c: Comparison) -> Tensor:
    """``Σ w φ (p - g) / Σ w`` with φ the signed distance to the true border, mean over foreground classes or regions.

    Parameters
    ----------
    c : Comparison
        Where it has no ``distance``, distances are computed from the truth with a spacing of 1.

    Notes
    -----
    φ is negative inside, so every summand is ``|φ| |p - g|``. The paper leaves out g, which shifts the value to be 0
    at the truth and no gradient. φ is in units of the smallest spacing, so that the unit of the images does not
    matter, and is known only as far as the patch: what lies beyond it is no border. A class without a border in the
    patch (absent, or everywhere) costs 0 here; the loss it is added to has to see it. The paper raises the weight of
    this term by 0.01 per epoch from 0.01; here it is constant, 0.01 (option ``boundary.weight``), so that a loss does
    not depend on the step.

    References
    ----------
    Kervadec et al. 2019 (PMLR 102; arXiv:1812.07032), equation 6; 2021 (doi:10.1016/j.media.2020.101851).

    Examples
    --------
    >>> c = Comparison.of(torch.zeros(1, 1, 4), torch.tensor([[1.0, 1, 0, 0]]), torch.ones(1, 4))
    >>> float(boundary(c))  # distances 1.5, 0.5, 0.5, 1.5; all wrong by a half
    0.5
    """
    distance = _measured(c) if c.distance is None else c.distance
    wrong = distance.to(c.probs.dtype) * (c.probs - c.truth)[:, c.first:]
    over = (0, *range(2, wrong.ndim)) if c.batch else tuple(range(2, wrong.ndim))
    w = c.weight.unsqueeze(1)
    per_class = (wrong * w).sum(over) / w.sum(over).clamp_min(TINY)
    return c.over_classes(per_class, c.first)


def _measured(c: Comparison) -> Tensor:
    """Distances of the truth, on the CPU."""
    masks, known = c.truth[:, c.first:].detach().cpu().numpy() > 0.5, c.weight.detach().cpu().numpy() > 0
    found = [signed_distance(m, None, v) for m, v in zip(masks, known, strict=True)]
    return torch.from_numpy(np.stack(found)).to(c.logits.device)
