"""Numbers with their nouns ("1 case", "2 cases"), and what a wrong value should have been."""

from __future__ import annotations

__all__ = ["agreeing", "counted", "wanted"]

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
