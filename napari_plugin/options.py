"""Options of a model as a person writes them in a row: names and values, with spaces between."""

from __future__ import annotations

from typing import Any, TypeAlias

from biosegkit.errors import OptionError

__all__ = ["OPTIONS_TIP", "Options", "command_options", "options_in"]

#: Names and values as text.
Options: TypeAlias = tuple[tuple[str, str], ...]

OPTIONS_TIP = (
    "Options of the model, spaces between them: fill_holes=yes border_objects=remove of biosegkit's own, diameter=30 "
    "of a Cellpose model, sigma=2 of otsu. A name that the model does not know is answered with those that it knows; "
    "docs/engines.md and docs/methods.md have them all")


def options_in(text: str) -> Options:
    """The options in a row.

    Raises
    ------
    OptionError
        For a word without an equals sign.

    Examples
    --------
    >>> options_in("diameter=30  channel=1"), options_in("")
    ((('diameter', '30'), ('channel', '1')), ())
    """
    found = []
    for word in text.replace(";", " ").split():
        name, sign, value = word.partition("=")
        if not (name and sign and value):
            raise OptionError(f"the option {word!r}", expected="name=value, with spaces between several alone",
                              remedy="for example fill_holes=yes")
        found.append((name, value))
    return tuple(found)


def command_options(options: Options) -> dict[str, Any]:
    """The same as an option of ``biosegkit predict``, which is repeated.

    Examples
    --------
    >>> command_options((("diameter", "30"),)), command_options(())
    ({'option': ['diameter=30']}, {})
    """
    return {"option": [f"{name}={value}" for name, value in options]} if options else {}
