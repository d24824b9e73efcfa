"""Instance norm and the activation after it, fast on channels-last tensors on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from biosegkit.kernels.normalise import Rows, normalise, normalise_backward

__all__ = ["InstanceNorm"]

EPS = 1e-5
#: What the kernels take on a CPU.
DTYPES = (torch.float32, torch.float64, torch.bfloat16)


class InstanceNorm(nn.Module):
    """Every channel of every sample brought to mean 0 and deviation 1, scaled, shifted, and passed through leaky ReLU.

    Parameters
    ----------
    features : int
        Channels.
    slope : float
        Of the leaky ReLU below zero; 1 is none.
    inplace : bool
        Without gradients the result may take the place of the input.

    Notes
    -----
    On a CPU channels-last tensors go through one kernel of ours (`biosegkit.kernels.normalise`): torch's own instance
    norm copies them, its group norm is slow on bfloat16, and in both every step of the formula is a pass of its own
    over memory. Elsewhere it is group norm with one channel per group, which is the same numbers.

    Examples
    --------
    >>> InstanceNorm(2)(torch.tensor([[[[1.0, 3.0]], [[4.0, 8.0]]]])).round().flatten().tolist()
    [-1.0, 1.0, -1.0, 1.0]
    >>> InstanceNorm(1, slope=0.1)(torch.tensor([[[[1.0, 3.0]]]])).flatten().tolist()[0].__round__(3)
    -0.1
    """

    def __init__(self, features: int, slope: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.slope, self.inplace = slope, inplace

    def forward(self, x: Tensor) -> Tensor:
        """Normalised, (B, C, *space)."""
        if x.device.type == "cpu" and x.dtype in DTYPES and x.is_contiguous(memory_format=_layout(x)):
            return _activated(x, self.weight, self.bias, self.slope, self.inplace)
        y = F.group_norm(x, x.shape[1], self.weight, self.bias, EPS)
        return y if self.slope == 1 else F.leaky_relu(y, self.slope, inplace=True)

    def extra_repr(self) -> str:
        """For people."""
        return f"{len(self.weight)}, slope={self.slope:g}"


def _activated(x: Tensor, weight: Tensor, bias: Tensor, slope: float, inplace: bool) -> Tensor:
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        y: Tensor = _Normalise.apply(x, weight, bias, slope)
        return y
    y = x if inplace else torch.empty_like(x)
    normalise(_rows(x), weight.detach().numpy(), bias.detach().numpy(), slope, EPS, _rows(y), torch.get_num_threads())
    return y


def _layout(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.ndim == 4 else torch.channels_last_3d


def _rows(x: Tensor) -> Rows:
    """The same memory as rows of channels, (B, N, C); bfloat16 as its bits."""
    rows = x.detach().movedim(1, -1).view(x.shape[0], -1, x.shape[1])
    return (rows.view(torch.uint16) if x.dtype == torch.bfloat16 else rows).numpy()


class _Normalise(torch.autograd.Function):
    """The two kernels as one operation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
        """Normalise; what the backward pass needs is kept."""
        y = torch.empty_like(x)
        ctx.statistics = normalise(_rows(x), weight.detach().numpy(), bias.detach().numpy(), slope, EPS, _rows(y),
                                   torch.get_num_threads())
        ctx.save_for_backward(x, weight, bias)
        ctx.slope = slope
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of input, weight and bias."""
        x, weight, bias = ctx.saved_tensors
        dy = gradients[0].to(x.dtype).contiguous(memory_format=_layout(x))
        dx = torch.empty_like(x)
        dweight, dbias = normalise_backward(_rows(x), _rows(dy), weight.detach().numpy(), bias.detach().numpy(),
                                            ctx.slope, ctx.statistics, _rows(dx), torch.get_num_threads())
        return dx, torch.from_numpy(dweight), torch.from_numpy(dbias), None
