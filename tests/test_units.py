"""Durations and memory: a table worked by hand, refusals, and that printing and parsing agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biosegkit.errors import OptionError
from biosegkit.plan.units import duration_text, memory_text, parse_duration, parse_memory


@pytest.mark.parametrize(("text", "seconds"), [
    ("90s", 90), ("15m", 900), ("15min", 900), ("1h30m", 5400), ("1h 30m 5s", 5405), ("2d", 172800), ("0.5h", 1800),
    (90, 90), (12.5, 12.5), ("15M", 900),
])
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-5m", "15x", "m15", "h", "1h30", "nan", "inf", "1 hour", "9" * 400])
def test_no_durations(text):
    with pytest.raises(OptionError, match="15m"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["10", "90", "1e3", " 12.5 "])
def test_a_number_without_a_unit_may_be_seconds_or_minutes(text):
    with pytest.raises(OptionError, match="without a unit") as caught:
        parse_duration(text)
    number = text.strip()
    assert caught.value.remedy == f"say {number}s or {number}m"


@pytest.mark.parametrize(("text", "size"), [
    ("8GB", 8 << 30), ("8gb", 8 << 30), ("8G", 8 << 30), ("8 GiB", 8 << 30), ("512MB", 512 << 20), ("1.5k", 1536),
    ("2TB", 2 << 40), ("100b", 100), (4096, 4096),
])
def test_memory(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "0", "0GB", "-8GB", "GB", "8XB", "8GBs", "nan", "0.1b"])
def test_no_memory(text):
    with pytest.raises(OptionError, match="8GB"):
        parse_memory(text)


def test_memory_without_a_unit_is_not_bytes():
    with pytest.raises(OptionError, match="8GB") as caught:
        parse_memory(" 8 ")
    assert caught.value.remedy == "say 8GB or 8MB"


@given(st.integers(10, 10 * 86400))
def test_a_printed_duration_reads_back_within_its_second_unit(seconds):
    error = abs(parse_duration(duration_text(seconds)) - seconds)
    assert error < (3600 if seconds >= 86400 else 60 if seconds >= 3600 else 1)


@given(st.integers(1, 1 << 50))
def test_printed_memory_reads_back_within_its_digits(size):
    assert parse_memory(memory_text(size)) == pytest.approx(size, rel=0.05)
