"""Images of any size for networks that ask for multiples of their stride."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["padded_size", "split_heads", "whole"]


def padded_size(shape: tuple[int, ...], divisor: int) -> tuple[int, ...]:
    """The next multiples of ``divisor``, and at least two of them along one axis.

    At the coarsest stage that leaves two values per channel, which batch and instance norm need in training.

    Examples
    --------
    >>> padded_size((33, 64), 32), padded_size((5, 7, 9), 16)
    ((64, 64), (16, 16, 32))
    """
    found = tuple(-(-n // divisor) * divisor for n in shape)
    return (*found[:-1], max(found[-1], 2 * divisor)) if all(n == divisor for n in found) else found


def whole(network: Callable[[Tensor], Tensor], x: Tensor, divisor: int) -> Tensor:
    """The network on an image that is continued by its last values to a multiple of ``divisor``, cut back to its size.

    Parameters
    ----------
    network : callable
        Keeps the size of an image whose sizes are multiples of ``divisor``.
    x : Tensor, (B, C, *space)
    divisor : int

    Examples
    --------
    >>> whole(lambda image: image + image.shape[-1], torch.zeros(1, 1, 3, 5), 4)[0, 0, 0].tolist()
    [8.0, 8.0, 8.0, 8.0, 8.0]
    """
    shape = tuple(x.shape[2:])
    missing = [n - m for n, m in zip(padded_size(shape, divisor), shape, strict=True)]
    if any(missing):
        # One pair (before, after) per axis, last axis first, as torch asks for them.
        x = functional.pad(x, [value for more in reversed(missing) for value in (0, more)], mode="replicate")
    window: tuple[Any, ...] = (..., *(slice(0, n) for n in shape))
    return torch.as_tensor(network(x)[window])


def split_heads(logits: Tensor, heads: Mapping[str, int]) -> dict[str, Tensor]:
    """Logits per head, (B, channels, *space), of one tensor that holds them one after the other."""
    return dict(zip(heads, torch.split(logits, list(heads.values()), dim=1), strict=True))
