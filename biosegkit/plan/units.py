"""Durations and amounts of memory as people write them: "15m", "1h30m", "8GB"."""

from __future__ import annotations

import math
import re

from biosegkit.errors import OptionError

__all__ = ["duration_text", "memory_text", "parse_duration", "parse_memory"]

_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "min": 60.0, "s": 1.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:d|h|min|m|s))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(d|h|min|m|s)")
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)(b|[kmgt]i?b?)")
_POWERS = {"b": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_duration(value: str | float) -> float:
    """Seconds of a duration such as ``"90s"``, ``"15m"``, ``"1h30m"`` or a number of seconds.

    Raises
    ------
    OptionError
        If the text is no duration, has no unit, or is not longer than zero.

    Examples
    --------
    >>> parse_duration("15m"), parse_duration("1h30m"), parse_duration(90)
    (900.0, 5400.0, 90.0)
    """
    text = str(value).strip().lower().replace(" ", "")
    if _DURATION.fullmatch(text):
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
    elif isinstance(value, str) and math.isfinite(_number(text)):
        raise OptionError(f"duration {value!r} without a unit", expected="a time such as 90s, 15m or 1h30m",
                          remedy=f"say {text}s or {text}m")
    else:
        seconds = _number(text)
    if not (math.isfinite(seconds) and seconds > 0):
        raise OptionError(f"duration {value!r}", expected="a time such as 90s, 15m or 1h30m",
                          remedy="give the budget as a number with the unit s, m or h")
    return seconds


def parse_memory(value: str | float) -> int:
    """Bytes of an amount such as ``"8GB"``, ``"512MiB"`` or a number of bytes; k, M, G and T are powers of 1024.

    Raises
    ------
    OptionError
        If the text is no amount, has no unit, or is not larger than zero.

    Examples
    --------
    >>> parse_memory("8GB") == 8 * 1024**3, parse_memory("512 MiB") == 512 * 1024**2, parse_memory(100)
    (True, True, 100)
    """
    text = str(value).strip().lower().replace(" ", "")
    found = _MEMORY.fullmatch(text)
    if isinstance(value, str) and math.isfinite(_number(text)):
        raise OptionError(f"memory {value!r} without a unit", expected="an amount such as 8GB or 512MB",
                          remedy=f"say {text}GB or {text}MB")
    size = float(found[1]) * 1024.0 ** _POWERS[found[2][0]] if found else _number(text)
    if not (math.isfinite(size) and size >= 1):
        raise OptionError(f"memory {value!r}", expected="an amount such as 8GB or 512MB",
                          remedy="give the memory as a number with the unit MB or GB")
    return int(size)


def duration_text(seconds: float) -> str:
    """A duration for people, two units at most; the inverse of :func:`parse_duration` up to rounding.

    Examples
    --------
    >>> duration_text(3.24), duration_text(75), duration_text(5400), duration_text(90000)
    ('3.2s', '1m15s', '1h30m', '1d1h')
    """
    if seconds < 10:
        return f"{seconds:.1f}s"
    rest, parts = round(seconds), []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if rest >= size:
            parts.append(f"{rest // size}{unit}")
            rest %= size
    return "".join(parts[:2])


def memory_text(size: float) -> str:
    """An amount of memory for people, in powers of 1024.

    Examples
    --------
    >>> memory_text(8 * 1024**3), memory_text(1536), memory_text(12)
    ('8.0GB', '1.5kB', '12B')
    """
    unit = "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(size) < 1024 or unit == "TB":
            break
        size /= 1024
    return f"{size:.0f}{unit}" if unit == "B" else f"{size:.1f}{unit}"


def _number(text: str) -> float:
    """A plain non-negative number, or NaN."""
    return float(text) if re.fullmatch(r"\d+(\.\d+)?(e\d+)?", text) else math.nan
