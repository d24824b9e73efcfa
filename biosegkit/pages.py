"""Pages: templates filled in to files that load nothing; every text is escaped."""

from __future__ import annotations

from importlib import metadata
from typing import Any

__all__ = ["render"]


def render(template: str, **content: Any) -> str:
    """A template of ``templates/`` filled in.

    Examples
    --------
    >>> page = render("scores.html", title="<none>", subtitle="", tiles=[], scores=[], notes=[], definitions=[],
    ...               legend=[], worst=[], worst_title="", best=[], charts=[])
    >>> "&lt;none&gt;" in page
    True
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("biosegkit"), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(template).render(version=metadata.version("biosegkit"), **content)
