"""How ``--help`` is laid out: options under their headings, in plain text.

Typer's boxes need most of rich, and that took as long to load as all the rest of the answer.
"""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

__all__ = ["Verb"]


class Verb(TyperCommand):
    """A verb whose options stand under the headings of their groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, options and every group, in the order in which they are declared."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx)
            kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
            if row is not None:
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or kind, []).append(row)
        for heading, rows in sections.items():
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)
