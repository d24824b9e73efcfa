"""Labels drawn in colours: which number each colour stands for, or which object. No class is guessed (V9)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from biosegkit._words import counted
from biosegkit.errors import DataError
from biosegkit.image import places

from .raw import Array

__all__ = ["DRAWN", "Renaming", "in_squares", "read_by_colour", "renaming"]

#: Stored value, or colour as ``#rrggbb`` → the number it stands for.
Renaming = Mapping[int | str, int]
#: As many colours are listed with their pixels; more in one image are mixed edges rather than classes.
_LISTED = 7
#: How the note on objects that were read by their colours begins.
DRAWN = "labels drawn in colours"
#: Mixed colours in one image from which they speak for edges that were smoothed, if most colours are mixed.
_MIXED = 4
_WHITE = 0xFFFFFF


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


def read_by_colour(array: Array, names: Renaming, file: str, palette: Sequence[str] = (),
                   taken: Collection[int] | None = None) -> tuple[Array, dict[int, int], tuple[str, ...]]:
    """One whole number per voxel of coloured labels, what these numbers are to be renamed to, and notes.

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
    taken : collection of int, optional
        Given where labels are objects: every colour that is not named is one object, whose number is ``0xrrggbb``. None
        of them may have a number in ``taken``, nor one that a named colour stands for.

    Raises
    ------
    DataError
        Listing colours or values that are not named. Of objects: where colours are mixed along edges, where black is
        not clearly the background, or two colours have one number.
    """
    table = {int(k[1:], 16): v for k, v in names.items() if isinstance(k, str)}
    codes = _codes(array, file, palette)
    if codes is None and taken is None:
        return *_greys(array[0], names, table, file), ()
    if codes is None:
        codes = array[0].astype(np.int32) * 0x010101
    if taken is None:
        _refuse_unnamed(codes, table, file)
        return codes, table, ()
    return codes, table, _objects(codes, table, file, taken)


def _codes(array: Array, file: str, palette: Sequence[str]) -> Array | None:
    """The colour of every voxel as ``0xrrggbb``; None of greys without a palette."""
    if array.shape[0] == 3:
        if array.dtype != np.uint8:
            raise DataError(f"coloured labels of type {array.dtype}", file=file, expected="8 bits per colour",
                            remedy="export them with 8 bits, or as an indexed or grey label image")
        return np.asarray((array[0].astype(np.int32) << 16) | (array[1].astype(np.int32) << 8) | array[2])
    if not palette:
        return None
    if int(array.max(initial=0)) >= len(palette):
        raise DataError(f"palette index {int(array.max())}", file=file, expected=f"below {len(palette)}",
                        remedy="export the labels again")
    return np.asarray(np.array([int(colour[1:], 16) for colour in palette], np.int32)[array[0]])


def _greys(values: Array, names: Renaming, table: Mapping[int, int], file: str) -> tuple[Array, dict[int, int]]:
    """Values of a grey image of a set in which colours are named: greys that are named, or numbers already."""
    greys = {code & 0xFF: new for code, new in table.items() if code == (code & 0xFF) * 0x010101}
    known = greys | {k: v for k, v in names.items() if isinstance(k, int)}
    strange = sorted(set(np.unique(values).tolist()) - {0} - set(known) - set(names.values()))
    if strange:
        raise DataError(f"label values {strange[:_LISTED]} in an image without colours", file=file,
                        expected=f"the colours named, {_listed(table)}, or the numbers they stand for",
                        remedy=f"name the values, too: --map {strange[0]}=NUMBER")
    return values, known


def _objects(codes: Array, table: Mapping[int, int], file: str, taken: Collection[int]) -> tuple[str, ...]:
    """What is to be noted of an image in which each colour that is not named is an object; doubts are refused."""
    values, counts = np.unique(codes, return_counts=True)
    unnamed = [(int(v), int(n)) for v, n in zip(values, counts, strict=True) if v and int(v) not in table]
    _refuse_mixed(places(codes, values), counts, file)
    if 0 not in table.values():
        _refuse_doubtful_background(dict(zip(values.tolist(), counts.tolist(), strict=True)), codes.size, file)
    twice = [v for v, _ in unnamed if v in taken or v in table.values()]
    if twice:
        raise DataError(f"coloured labels in which #{twice[0]:06x} is an object, whose number {twice[0]} stands for "
                        "something else", file=file, expected="a number of its own for every colour",
                        remedy=f"give it another one: --map '#{twice[0]:06x}={max(values.tolist()) + 1}'")
    alone = "" if any(not v or table.get(int(v)) == 0 for v in values) else ", no background"
    return (f"{DRAWN}: {counted(len(unnamed), 'object')}, each colour one{alone}",)


def _refuse_mixed(number: Array, counts: Array, file: str) -> None:
    """Most colours being specks, or lines in several pieces, are the edges of an image that was smoothed."""
    thin = 2 * np.bincount(number[in_squares(number)], minlength=len(counts)) < counts
    if 2 * np.count_nonzero(thin) <= len(counts) or np.count_nonzero(thin) < _MIXED:
        return
    from skimage.measure import label  # takes a third of a second to load

    regions, found = label(number, background=-1, return_num=True)
    owner = np.zeros(found + 1, np.int64)
    owner[regions.reshape(-1)] = number.reshape(-1)
    pieces = np.bincount(owner[1:], minlength=len(counts))
    mixed = int(np.count_nonzero(thin & ((pieces > 1) | (counts < _MIXED))))
    if 2 * mixed > len(counts) and mixed >= _MIXED:
        raise DataError(f"coloured labels with {counted(len(counts), 'colour')}, {mixed} of them specks and broken "
                        "lines: edges mixed by smoothing, resizing or JPEG", file=file,
                        expected="one even colour per object",
                        remedy="export the labels without smoothing, resized by nearest neighbour, as PNG or TIFF; "
                        "best with a number per object")


def _refuse_doubtful_background(counts: Mapping[int, int], size: int, file: str) -> None:
    """White paper, and one colour over more than half of the image, may be background as well as an object."""
    black = counts.get(0, 0)
    doubtful = [code for code, n in counts.items() if code and (2 * n > size or (code == _WHITE and n > black))]
    if doubtful:
        named = f"#{doubtful[0]:06x}"
        share = counts[doubtful[0]] / size
        raise DataError(f"coloured labels, {share:.0%} of them {named} and {black / size:.0%} black: "
                        "which of the two is background?", file=file, expected="black background, or the colour named",
                        remedy=f"--map '{named}=0' if it is the background, --map '#000000=0' if it is an object")


def in_squares(array: Array) -> Array:
    """Voxels that lie in a square of 2 × 2 of their own value, in the plane of the last two axes.

    Examples
    --------
    >>> in_squares(np.array([[1, 1, 2], [1, 1, 3]])).astype(int).tolist()
    [[1, 1, 0], [1, 1, 0]]
    """
    inside = np.zeros(array.shape, bool)
    if min(array.shape[-2:]) < 2:
        return inside
    corner = array[..., :-1, :-1]
    square = (corner == array[..., 1:, :-1]) & (corner == array[..., :-1, 1:]) & (corner == array[..., 1:, 1:])
    for down in (slice(None, -1), slice(1, None)):
        for right in (slice(None, -1), slice(1, None)):
            inside[..., down, right] |= square
    return inside


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
        remedy="--task instance if each colour is one object; else export the labels without smoothing or resizing, or "
        "as an indexed or grey label image" if more else
        f"say what each colour stands for, as in {options}, or --task instance if each colour is one object, or export "
        "an indexed or grey label image; name the axes with --axes if they were misread")


def _listed(table: Mapping[int, int]) -> str:
    return ", ".join(f"#{code:06x}" for code in table)
