"""Labels that can be edited from labels that cannot, and corrected labels to files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtWidgets import QFileDialog, QWidget

from biosegkit.errors import DataError
from biosegkit.grid import Grid

from .edits import earlier
from .layers import labels_of, snapshot

__all__ = ["made_editable", "saved", "written"]


def made_editable(data: Any, metadata: Mapping[str, Any]) -> tuple[Any, dict[str, Any], str]:
    """Data to edit, metadata, and what to say: the full resolution on disk, or a copy in memory. Done in a thread.

    Raises
    ------
    DataError
        If the copy would not fit in memory, or the layer is only a part of what is on disk.
    """
    kept = dict(metadata)
    finest = data[0] if isinstance(data, Sequence) else data  # of several resolutions, napari's too
    source = str(dict(kept.get("biosegkit", {})).get("source", ""))
    if source.rstrip("/").endswith(".zarr") or ".zarr/" in source:
        from biosegkit.io.edited import open_for_editing

        edited = open_for_editing(source)
        grid = kept["biosegkit"].get("grid")
        array = edited.array  # as the file has it; the layer shows it turned
        array = array if grid is None else array.turned(Grid.from_dict(grid).canonical_turn())
        if array.shape != tuple(finest.shape):
            raise DataError(f"labels of shape {tuple(finest.shape)}", file=edited.path,
                            expected=f"all of the file, {array.shape}", remedy="open the file and edit that layer")
        text = f"edits go to {edited.path.name} at once; Save makes the smaller resolutions anew"
        return array, {**kept, "edited": edited}, text
    import psutil

    size = int(np.prod(finest.shape)) * 4
    if size > 0.5 * psutil.virtual_memory().available:
        raise DataError(f"labels of {size / 2**30:.1f} GiB", expected="half of the free memory at most",
                        remedy="save them as OME-Zarr and open that: it is edited on disk")
    copy = np.array(finest)
    return copy if copy.dtype.itemsize >= 4 else copy.astype(np.uint32), kept, "a copy in memory: save it when done"


def saved(parent: QWidget, layer: Any, start: Callable[..., None], number: int | None = None) -> None:
    """Save a layer: on disk what is edited there, else to a file that is asked for, of a time series one time point."""
    say: Callable[[str], None] = parent.said.setText  # type: ignore[attr-defined]
    edited = layer.metadata.get("edited")
    if edited is not None:
        start(lambda _: say(f"saved {edited.path.name}"), edited.save)
        return
    name = layer.name
    if number is not None:  # of the time point that is saved, whichever one the layer is named after
        name, named = re.subn(r"(.*) t=\d+\b", rf"\1 t={number}", name, count=1)
        name += "" if named else f" t={number}"
    path, _ = QFileDialog.getSaveFileName(parent, "Save labels", f"{name}.ome.tif",
                                          "Labels (*.ome.tif *.tif *.nii.gz *.ome.zarr)")
    if path:
        start(lambda name: say(f"saved {name}"), written, snapshot(layer), path, number)


def written(layer: Any, path: str, number: int | None = None) -> str:
    """Write labels, of a time series at a time point, with their corrections beside them. Done in a thread.

    Returns
    -------
    str
        The name of the file, and of which time point it is.
    """
    from biosegkit.io import write

    task = str(layer.metadata.get("task", "instance"))
    write(labels_of(layer, task, frame=number or 0), path, {"corrections": earlier(layer.metadata, number)})
    return Path(path).name if number is None else f"time point {number} as {Path(path).name}"
