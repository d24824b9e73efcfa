"""Options of engines: typed fields of dataclasses, given by name, as values or as text of the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from pydantic import ValidationError

from biosegkit._words import wanted
from biosegkit.errors import OptionError

__all__ = ["split_options"]


def split_options(engine: str, kinds: Sequence[Any], given: Mapping[str, Any]) -> list[Any]:
    """One instance per dataclass of ``kinds``, each with those of the given options that are its fields.

    Raises
    ------
    OptionError
        For a name that is a field of none, or a value of another type or out of range.
    """
    names = [f.name for kind in kinds for f in fields(kind)]
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise OptionError(f"option {unknown[0]!r} of {engine}", expected=f"one of {', '.join(names)}",
                          remedy="correct --option")
    try:
        return [kind(**{f.name: given[f.name] for f in fields(kind) if f.name in given}) for kind in kinds]
    except ValidationError as error:
        first = error.errors()[0]
        raise OptionError(f"option {first['loc'][0]}={first['input']} of {engine}",
                          expected=wanted(first["type"], first["msg"]),
                          remedy="correct --option") from error
