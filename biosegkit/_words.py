"""Numbers with their nouns ("1 case", "2 cases"), and what a wrong value should have been."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["agreeing", "complaints", "counted", "wanted"]

#: Plurals that no rule makes.
_IRREGULAR = {"axis": "axes"}


def counted(number: int, noun: str) -> str:
    """A number and its noun, in the plural but for one.

    Parameters
    ----------
    number : int
    noun : str
        In the singular, with what belongs before it (``"optical path"``).

    Examples
    --------
    >>> counted(1, "case"), counted(0, "case"), counted(2, "class"), counted(3, "spatial axis"), counted(2, "entry")
    ('1 case', '0 cases', '2 classes', '3 spatial axes', '2 entries')
    """
    return f"{number} {agreeing(number, noun)}"


def agreeing(number: int, noun: str) -> str:
    """The noun as it stands behind a number; of several words the last one changes.

    Examples
    --------
    >>> agreeing(1, "step"), agreeing(2, "image file"), agreeing(2, "ray"), agreeing(2, "patch")
    ('step', 'image files', 'rays', 'patches')
    """
    if number == 1:
        return noun
    before, space, last = noun.rpartition(" ")
    if last in _IRREGULAR:
        many = _IRREGULAR[last]
    elif last.endswith(("s", "x", "ch", "sh")):
        many = f"{last}es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        many = f"{last[:-1]}ies"
    else:
        many = f"{last}s"
    return f"{before}{space}{many}"


def wanted(kind: str, message: str) -> str:
    """What a value should have been, from type and message of one of pydantic's errors.

    Examples
    --------
    >>> wanted("bool_parsing", "Input should be a valid boolean, unable to interpret input")
    'yes or no'
    >>> wanted("literal_error", "Input should be 'keep' or 'remove'"), wanted("value_error", "Value error, no number")
    ("'keep' or 'remove'", 'no number')
    """
    return "yes or no" if kind == "bool_parsing" else message.removeprefix("Input should be ").removeprefix(
        "Value error, ")


def complaints(errors: Sequence[Mapping[str, Any]], known: Iterable[str]) -> str:
    """What is wrong with the entries of a file, from pydantic's errors: the first five, each with what it holds.

    Of an entry that nobody knows the nearest in ``known`` is named.

    Examples
    --------
    >>> complaints([{"type": "extra_forbidden", "loc": ("trainign",), "input": {}, "msg": ""},
    ...             {"type": "literal_error", "loc": ("task",), "input": "x", "msg": "Input should be 'a' or 'b'"}],
    ...            ["training", "task"])
    "unknown entry trainign (did you mean training?); task 'x', not 'a' or 'b'"
    """
    names, found = sorted(set(known)), []
    for error in errors[:5]:
        place = ".".join(map(str, error["loc"])) or "entry"
        if error["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(error["loc"][-1]), names, 1)
            found.append(f"unknown entry {place}" + (f" (did you mean {near[0]}?)" if near else ""))
        elif error["type"] == "missing":
            found.append(f"no entry {place}")
        elif error["type"] in ("value_error", "assertion_error"):
            found.append(f"{place}: {wanted(error['type'], error['msg'])}")
        else:
            given = repr(error["input"])
            shown = given if len(given) <= 40 else f"{given[:37]}..."
            found.append(f"{place} {shown}, not {wanted(error['type'], error['msg'])}")
    more = len(errors) - len(found)
    return "; ".join(found) + (f"; {more} more" if more else "")
