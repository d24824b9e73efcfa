"""Labels out: with the user's values, the grid of the image they belong to, and whole or not at all; or outlines."""

from __future__ import annotations

from typing import Any

__all__ = ["write_labels"]


def write_labels(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write a layer of labels; the ending chooses the format.

    Returns
    -------
    list of str
        The path, as napari wants it.

    Raises
    ------
    DataError
        For labels at several time points.
    """
    from napari.layers import Layer

    from biosegkit.io import write

    from .films import one_time
    from .layers import labels_of

    layer = one_time(Layer.create(data, attributes, "labels"))
    if path.lower().endswith(".geojson"):
        write_outlines(layer, path)
    else:
        write(labels_of(layer), path)
    return [path]


def write_outlines(layer: Any, path: str) -> None:
    """Write the objects of a layer as GeoJSON, in pixels of the full resolution of the image they were found in.

    Labels that do not say which image that is are taken as they are: their own pixels.

    Raises
    ------
    DataError
        If the layer does not lie on the pixels of its image any more.
    """
    from biosegkit.grid import Grid
    from biosegkit.outputs import found_of, write_geojson
    from biosegkit.placement import pixels_in

    from .layers import labels_of

    labels = labels_of(layer, str(layer.metadata.get("task", "instance")))
    whole = Grid.from_dict(layer.metadata["image"]) if "image" in layer.metadata else labels.grid
    corner, scale = pixels_in(labels.grid, whole)
    features = {name: column.to_numpy() for name, column in layer.features.items() if name != "index"}
    table = {"id": layer.features["index"].to_numpy(), **features} if "index" in layer.features else None
    found = found_of(labels, table, scale=(scale[-2], scale[-1]), source=labels.source)
    write_geojson(found, path, corner=corner)
