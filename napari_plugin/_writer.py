"""Labels out: with the user's values, the grid of the image they belong to, and whole or not at all."""

from __future__ import annotations

from typing import Any

__all__ = ["write_labels"]


def write_labels(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write a layer of labels; the ending chooses the format.

    Returns
    -------
    list of str
        The path, as napari wants it.
    """
    from napari.layers import Layer

    from biosegkit.io import write

    from .layers import labels_of

    write(labels_of(Layer.create(data, attributes, "labels")), path)
    return [path]
