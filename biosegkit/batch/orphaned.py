"""Importing this, on Linux, makes a process end with the one that began it, even while it loads libraries."""

from __future__ import annotations

import ctypes
import signal

__all__: list[str] = []

_PR_SET_PDEATHSIG = 1

ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
