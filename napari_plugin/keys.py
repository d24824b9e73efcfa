"""What Correct does: names, labels, keys and tooltips; and keys that are bound to a layer while it is corrected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["ACTS", "STEPS", "TOOLS", "bind", "unbind"]

#: Name, label, key and tooltip of what acts on the objects that are picked.
ACTS = (
    ("merge", "Merge", "Shift-M", "Give all picked objects the id of the first: click one, Shift+click the others"),
    ("delete", "Delete", "Delete", "Make background of the picked objects"),
    ("fill_holes", "Fill holes", "H", "Fill background that the picked object encloses"),
    ("relabel", "New id", "Shift-R", "Give the picked object an id that no other has"),
    ("grow", "Grow", "Shift-G", "Widen the picked object into the background, never over others"),
    ("shrink", "Shrink", "Shift-S", "Take away the rim of the picked object"),
    ("undo", "Undo", "Control-Z", "Take back the last step, strokes of the brush too"),
    ("redo", "Redo", "Control-Shift-Z", "Repeat the step that was taken back last"),
)
TOOLS = (
    ("pick", "Pick", "Q", "Click on an object to pick it, Shift+click for more"),
    ("line", "Split by a line", "Shift-L", "Draw a line across an object: press, drag to its other side, let go"),
    ("points", "Split by points", "Shift-P", "Click once in each part, with Shift for more than two parts"),
)
STEPS = (("previous", "◀ Previous", "Shift-N", True), ("following", "Next ▶", "N", False))


def bind(layer: Any, act: Callable[..., Any], go: Callable[..., Any], use: Callable[..., Any]) -> None:
    """Bind the keys of all rows to what they do."""
    for name, _, key, _ in ACTS:
        layer.bind_key(key, lambda _, name=name: act(name), overwrite=True)
    for _, _, key, back in STEPS:
        layer.bind_key(key, lambda _, back=back: go(back=back), overwrite=True)
    for name, _, key, _ in TOOLS:
        layer.bind_key(key, lambda _, name=name: use(name), overwrite=True)


def unbind(layer: Any) -> None:
    """Let go of them."""
    for key in (*(row[2] for row in ACTS), *(row[2] for row in STEPS), *(row[2] for row in TOOLS)):
        layer.bind_key(key, None)
