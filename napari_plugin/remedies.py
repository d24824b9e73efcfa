"""What to do in the viewer about errors and notes that name options of the command line."""

from __future__ import annotations

import re
from typing import Any

from biosegkit.errors import BiosegError

from .layers import axes_of

__all__ = ["in_viewer", "in_words", "told"]

#: Options that say how large voxels are, and those that say what axes are.
_SIZE, _AXES = {"--pixel-size", "--spacing", "--unit"}, {"--axes"}
#: What is said of options on the command line, and what of the rows of the viewer that do the same; in this order.
_WORDS = tuple((re.compile(pattern), words) for pattern, words in (
    (r"`biosegkit train … --resume`", "Resume in Retrain"),
    (r"(?:,? (?:and|or)|, or) replace (?:it|them) with --overwrite", ", or choose another folder"),
    (r"use --resume or --overwrite", "resume it, or choose another folder"),
    (r"(--budget \S+ or more), and --overwrite", r"\1"),
    (r"--resume", "Resume"),
    (r"more with --memory", "more memory"),
    (r", give more --memory \(memory_budget\)", ", close other programs"),
    (r"--memory", "memory"),
    (r"; --trust-index if only the header is wrong", ", or move the layer onto it if only its place is wrong"),
    (r"--pixel-size in µm, or --spacing and --unit", "the voxel size"),
    (r"--spacing and --unit(?:, or --pixel-size)?", "the voxel size"),
    (r"--(?:spacing|pixel-size)\b", "the voxel size"),
    (r"give it: the voxel size [0-9.]+ for (\S+ \S+)", r"give the voxel size, such as \1"),
    (r"--budget (\S+)", r"a time of \1"),
    (r"leave --from out", "begin with nothing: a new network"),
    (r"--from another", "another model to begin with"),
    (r"--task instance\b", "choose objects in the row values are"),
    (r"--task semantic\b", "choose classes in the row values are"),
    (r"^--map (-?\d+)=0$", r"give the voxels of \1 the value 0, the background, or another"),
    (r"--tta\b", "average mirrored copies"),
    (r"--option\b", "option"),
    (r"--threshold (\S+)", r"threshold \1 (Tune)"),
))
#: An option that no row stands for.
_LEFT = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def in_viewer(error: BiosegError, layer: Any, *, unit: str, axes: str | None = None) -> str:
    """The message of an error about a layer, with a remedy that can be followed in the viewer.

    Parameters
    ----------
    error : BiosegError
    layer : napari layer, or a snapshot of one
    unit : str
        Of the model that it was to be given to: ``"um"``, ``"mm"``, or ``"px"`` for one that knows pixels only; it is
        not asked for of a model without plan.
    axes : str, optional
        What the layer's axes are, where it does not say.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> layer = SimpleNamespace(name="cells", ndim=2, axis_labels=("y", "x"))
    >>> in_viewer(BiosegError("no size", remedy="give --pixel-size in µm"), layer, unit="um")
    'no size. write it in the row voxel size, such as 0.5 um'
    """
    options = set(re.findall(r"--[a-z][a-z-]*", error.remedy))
    remedy = error.remedy
    if options & _SIZE and unit:
        remedy = _sized(layer, unit, axes)
    elif options & _AXES:
        remedy = "use a 2D model, or choose what the axes are"
    return str(type(error)(error.found, file=error.file, expected=error.expected, remedy=in_words(remedy)))


def in_words(text: str) -> str:
    """A remedy or a note in the words of the viewer's rows; options that no row stands for are said to be others.

    Examples
    --------
    >>> in_words("channel 0 of 3 was used; --option channel=N chooses another")
    'channel 0 of 3 was used; option channel=N chooses another (in the row options)'
    >>> in_words("give --spacing and --unit, or leave --from out")
    'give the voxel size, or begin with nothing: a new network'
    >>> in_words("correct --where")
    'correct --where (an option of the command line)'
    """
    found = text
    for pattern, words in _WORDS:
        found = pattern.sub(words, found)
    left = _LEFT.search(found)
    where = " (in the row options)" if "--option" in text else ""
    return found + where + (" (an option of the command line)" if left else "")


def told(error: BaseException) -> str:
    """An error in the words of the viewer."""
    if not isinstance(error, BiosegError):
        return str(error)
    return str(type(error)(error.found, file=error.file, expected=error.expected, remedy=in_words(error.remedy)))


def _sized(layer: Any, unit: str, axes: str | None) -> str:
    """How the size of a layer's voxels is given."""
    if unit == "px":
        return "write 1 px in the row voxel size, as this model knows pixels only"
    deep = "z" in (axes or axes_of(layer))
    return f"write it in the row voxel size, such as {'2, 0.5, 0.5' if deep else '0.5'} {unit}"
