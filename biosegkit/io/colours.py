"""Labels drawn in colours: which number each colour stands for. Only colours that were named are read (V9)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from biosegkit._words import counted
from biosegkit.errors import DataError

from .raw import Array

__all__ = ["Renaming", "read_by_colour", "renaming"]

#: Stored value, or colour as ``#rrggbb`` → the number it stands for.
Renaming = Mapping[int | str, int]
#: As many colours are listed with their pixels; more in one image are mixed edges rather than classes.
_LISTED = 7


def renaming(entries: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> dict[int | str, int]:
    """Entries of ``map`` in one form: whole numbers, and colours as ``#rrggbb``.

    Raises
    ------
    ValueError
        For a key that is neither, text that is no whole number, or a key that is named twice.

    Examples
    --------
    >>> renaming({"255": 1, "#FF0000": "2", "0,128,255": 3})
    {255: 1, '#ff0000': 2, '#0080ff': 3}
    """
    found: dict[int | str, int] = {}
    for key, value in entries.items() if isinstance(entries, Mapping) else entries:
        stored = _stored(str(key).strip().lower())
        if stored in found:
            raise ValueError(f"{stored} is named twice")
        found[stored] = int(value) if isinstance(value, str) else value
    return found


def _stored(text: str) -> int | str:
    """A whole number or a colour."""
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    if re.fullmatch(r"#[0-9a-f]{6}", text):
        return text
    parts = re.fullmatch(r"(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})", text)
    if parts and all(int(p) < 256 for p in parts.groups()):
        return "#" + "".join(f"{int(p):02x}" for p in parts.groups())
    raise ValueError(f"{text!r}, expected a whole number or a colour, as 255, #ff0000 or 255,0,0")


def read_by_colour(array: Array, names: Renaming, file: str,
                   palette: Sequence[str] = ()) -> tuple[Array, dict[int, int]]:
    """One whole number per voxel of coloured labels, and what these numbers are to be renamed to.

    Parameters
    ----------
    array : ndarray, (3, *space) or (1, *space)
        Colours of 8 bits; or values, which are greys or, with a palette, its colours.
    names : mapping
        Colours and values named; black that is not named is 0.
    file : str
        For messages.
    palette : sequence of str
        The colour of each value.

    Raises
    ------
    DataError
        Listing colours or values that are not named.
    """
    table = {int(k[1:], 16): v for k, v in names.items() if isinstance(k, str)}
    if array.shape[0] == 3:
        if array.dtype != np.uint8:
            raise DataError(f"coloured labels of type {array.dtype}", file=file, expected="8 bits per colour",
                            remedy="export them with 8 bits, or as an indexed or grey label image")
        codes = (array[0].astype(np.int32) << 16) | (array[1].astype(np.int32) << 8) | array[2]
        _refuse_unnamed(codes, table, file)
        return codes, table
    if palette:
        if int(array.max(initial=0)) >= len(palette):
            raise DataError(f"palette index {int(array.max())}", file=file, expected=f"below {len(palette)}",
                            remedy="export the labels again")
        codes = np.array([int(colour[1:], 16) for colour in palette], np.int32)[array[0]]
        _refuse_unnamed(codes, table, file)
        return codes, table
    greys = {code & 0xFF: new for code, new in table.items() if code == (code & 0xFF) * 0x010101}
    known = greys | {k: v for k, v in names.items() if isinstance(k, int)}
    strange = sorted(set(np.unique(array[0]).tolist()) - {0} - set(known) - set(names.values()))
    if strange:
        raise DataError(f"label values {strange[:_LISTED]} in an image without colours", file=file,
                        expected=f"the colours named, {_listed(table)}, or the numbers they stand for",
                        remedy=f"name the values, too: --map {strange[0]}=NUMBER")
    return array[0], known


def _refuse_unnamed(codes: Array, table: Mapping[int, int], file: str) -> None:
    """Every colour but black must be named."""
    values, counts = np.unique(codes, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    strange = [(int(values[k]), int(counts[k])) for k in order if values[k] and int(values[k]) not in table]
    if not strange:
        return
    shown = ", ".join(f"#{code:06x} ({count})" for code, count in strange[:_LISTED])
    more = f", {len(strange) - _LISTED} more" if len(strange) > _LISTED else ""
    first = 1 if table or values[0] == 0 else 0  # without black the commonest is taken for background
    numbers = range(max(table.values(), default=0) + 1 if table else first, len(strange) + 256)
    options = " ".join(f"--map '#{code:06x}={n}'" for (code, _), n in zip(strange, numbers, strict=False))
    raise DataError(
        f"coloured labels with {counted(len(strange), 'colour')} that nobody named, pixels in brackets: {shown}{more}",
        file=file, expected="one integer per voxel" + (f", or the colours {_listed(table)}" if table else ""),
        remedy="export the labels without smoothing or resizing, or as an indexed or grey label image" if more else
        f"say what each colour stands for, as in {options}, or export an indexed or grey label image; name the axes "
        "with --axes if they were misread")


def _listed(table: Mapping[int, int]) -> str:
    return ", ".join(f"#{code:06x}" for code in table)
