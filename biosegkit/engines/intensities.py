"""Intensities as the models of others were trained on: channels chosen, each stretched between two percentiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from biosegkit._words import counted
from biosegkit.errors import DataError, OptionError
from biosegkit.grid import Grid
from biosegkit.image import Image

__all__ = ["Channel", "between", "chosen_channels", "flat_notes", "part_of", "space_axes", "stretched"]

Channel = Annotated[int, Field(ge=0)] | Literal["all"]


def space_axes(image: Image) -> tuple[int, ...]:
    """Axes that count: a single plane of a stack is an image of two axes.

    Examples
    --------
    >>> from biosegkit import Grid
    >>> space_axes(Image(np.zeros((1, 1, 5, 6)), Grid.regular((1, 5, 6))))
    (1, 2)
    """
    thick = [a for a, n in enumerate(image.grid.shape) if n > 1]
    return tuple(thick if len(thick) == 2 else range(image.grid.ndim))


def part_of(image: Image, box: Sequence[slice]) -> Image:
    """A box of an image, in memory; it has the axes that count.

    Parameters
    ----------
    image : Image
    box : sequence of slice
        One for each of :func:`space_axes`.

    Examples
    --------
    >>> stack = Image(np.arange(6).reshape(1, 1, 2, 3), Grid.regular((1, 2, 3)))
    >>> part_of(stack, (slice(1, 2), slice(0, 2))).array.tolist()
    [[[3, 4]]]
    """
    of = dict(zip(space_axes(image), box, strict=True))
    values = np.asarray(image.array[(slice(None), *(of.get(a, slice(0, 1)) for a in range(image.grid.ndim)))])
    shape = tuple(b.stop - b.start for b in box)
    return Image(values.reshape(len(values), *shape), Grid.regular(shape), source=image.source)


def chosen_channels(image: Image, channel: int | str, wanted: int, notes: list[str]) -> npt.NDArray[np.float32]:
    """As many channels as a network takes, (wanted, *space), finite.

    Parameters
    ----------
    image : Image
    channel : int or "all"
        Which one, for a network that takes one; "all" where it takes several.
    wanted : int
    notes : list of str
        What was chosen is added.

    Raises
    ------
    DataError
        If the image has another number of channels than the network takes, or values that are not finite.
    OptionError
        For a channel that is not there.
    """
    count, file = image.array.shape[0], image.source or None
    number = 0 if channel == "all" else int(channel)
    if number >= count:
        raise OptionError(f"channel {number} of an image of {counted(count, 'channel')}", file=file,
                          expected=f"0 to {count - 1}", remedy="correct --option channel")
    if wanted == 1:
        if count > 1:
            notes.append(f"channel {number} of {count} was used; --option channel=N chooses another")
        values = np.asarray(image.array[number : number + 1])
    elif count == wanted:
        values = np.asarray(image.array[:])
    elif count == 1 and wanted == 3:
        notes.append("a grey image was given to a network for colours, three times the same channel")
        values = np.repeat(np.asarray(image.array[:]), 3, axis=0)
    else:
        raise DataError(f"an image of {counted(count, 'channel')}", file=file,
                        expected=f"{wanted}, which the network takes",
                        remedy="give images with the channels the model was trained on")
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise DataError("values that are not finite", file=file, expected="finite intensities",
                        remedy="replace them where the image was made")
    return values


def stretched(values: npt.NDArray[np.float32], low: float, high: float, *, joint: bool,
              notes: list[str]) -> npt.NDArray[np.float32]:
    """Two percentiles to 0 and 1, without clipping; each channel by itself, or all together.

    A channel without any difference between them becomes 0, and is noted.

    Examples
    --------
    >>> said = []
    >>> stretched(np.array([[3, 5, 7], [2, 2, 2]], np.float32), 0, 100, joint=False, notes=said).tolist()
    [[0.0, 0.5, 1.0], [0.0, 0.0, 0.0]]
    >>> said
    ['channel 1 has one value between its percentiles 0 and 100: nothing to see']
    """
    axes: Any = None if joint else tuple(range(1, values.ndim))
    bounds = np.percentile(values, (low, high), axis=axes, keepdims=True).astype(np.float32)
    notes += flat_notes(bounds, low, high)
    return between(values, bounds)


def flat_notes(bounds: npt.NDArray[np.float32], low: float, high: float) -> list[str]:
    """What is to be said of channels whose two bounds, (2, C, …), are equal."""
    return [f"channel {flat} has one value between its percentiles {low:g} and {high:g}: nothing to see"
            for flat in np.flatnonzero(bounds[1] == bounds[0])]


def between(values: npt.NDArray[np.float32], bounds: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Two bounds of each channel, (2, C, 1 …), to 0 and 1; 0 where they are equal.

    Examples
    --------
    >>> between(np.array([[4, 8]], np.float32), np.array([[[0]], [[8]]], np.float32)).tolist()
    [[0.5, 1.0]]
    """
    width = bounds[1] - bounds[0]
    return np.asarray(np.where(width == 0, 0, (values - bounds[0]) / np.where(width == 0, 1, width)), np.float32)
