"""Which device computes: asked for by name, found by itself, and stated in every record (fault P9)."""

from __future__ import annotations

import os

import torch

from ._words import counted
from .errors import OptionError

__all__ = ["describe", "pick", "usable_cores"]


def pick(device: str | torch.device = "auto") -> torch.device:
    """The device to compute on.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "cuda:N", "mps"}
        ``"auto"`` takes a CUDA device if there is one, else Apple's, else the CPU.

    Raises
    ------
    OptionError
        If the device asked for is not there.

    Examples
    --------
    >>> pick("cpu").type
    'cpu'
    """
    if isinstance(device, torch.device):
        return device
    if device == "auto":
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(found)
    kind, _, number = device.partition(":")
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if kind not in there or (number and not number.isdigit()):
        raise OptionError(f"device {device!r}", expected="auto, cpu, cuda, cuda:N or mps", remedy="give --device again")
    if int(number or 0) >= there[kind]:
        seen = f"{there[kind]} of kind {kind}" if there[kind] else f"no {kind} device"
        raise OptionError(f"device {device!r}, but there is {seen} here", expected="a device of this machine",
                          remedy="use --device auto")
    return torch.device(device)


def describe(device: torch.device) -> str:
    """Name for logs and provenance.

    Examples
    --------
    >>> describe(torch.device("cpu")).startswith("cpu")
    True
    """
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({counted(torch.get_num_threads(), 'thread')})" if device.type == "cpu" else str(device)


def usable_cores() -> int:
    """Cores this process may use: fewer than the machine has when it is pinned.

    Examples
    --------
    >>> usable_cores() >= 1
    True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
