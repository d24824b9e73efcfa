"""A layer of labels that nobody paints on while a thread works at its labels."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["Rest"]


class Rest:
    """From now on until `end` a layer cannot be painted on: a stroke would be lost, or not be seen.

    Parameters
    ----------
    layer : napari layer of labels
    changes : bool
        Whether the work changes the labels: they are drawn anew at the end.

    Attributes
    ----------
    painted : bool
        Whether it was painted on all the same, by a script or by a drag that had begun before.
    """

    def __init__(self, layer: Any, *, changes: bool = False) -> None:
        self.changes, self.painted = changes, False
        self._layer: Callable[[], Any] = weakref.ref(layer)
        self._editable, self._mode = layer.editable, layer.mode
        layer.events.paint.connect(self._on_paint)
        layer.editable = False

    def holds(self, layer: Any) -> bool:
        """Whether it is this layer that rests."""
        return layer is not None and self._layer() is layer

    def end(self) -> None:
        """Let the layer be as it was, with the brush or whatever was taken; a second time nothing happens."""
        layer, self._layer = self._layer(), lambda: None
        if layer is None:
            return
        layer.events.paint.disconnect(self._on_paint)
        layer.editable = self._editable
        if self._editable:
            layer.mode = self._mode
        if self.changes:
            layer.refresh(extent=False)

    def _on_paint(self, event: Any = None) -> None:
        self.painted = True
