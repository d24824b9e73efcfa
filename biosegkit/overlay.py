"""Pictures of a segmentation: the slice that shows most, outlines of truth and prediction on the image, PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ._atomic import write_bytes

__all__ = ["BOTH", "PREDICTED", "TRUTH", "Overlay", "compose", "heat", "informative_slice", "overlay_of", "png_bytes",
           "to_rgb", "with_attention", "write_png"]

Array = npt.NDArray[Any]
RGB = npt.NDArray[np.uint8]

#: Line colours that colour-blind readers can tell apart: truth, prediction, and where both agree.
TRUTH, PREDICTED, BOTH = (64, 170, 255), (255, 150, 0), (120, 235, 90)
#: Images are shown a little darker than they could be, so that lines stand out.
_WHITE = 225
#: Pictures are enlarged by whole factors until their longer side has at least this many pixels.
WIDTH = 360


class Overlay(NamedTuple):
    """One picture of the report.

    ``image`` is ``(y, x)`` or ``(c, y, x)``; ``truth`` and ``predicted`` are ``(y, x)`` labels of one numbering;
    ``score`` is the case's headline score, in [0, 1], or None; ``cut`` the axis and index of the slice shown of a
    volume; ``attention`` named planes ``(y, x)`` of an attention network, from 0 (shut) to 1 (open).
    """

    title: str
    image: Array
    truth: Array | None
    predicted: Array | None
    score: float | None = None
    cut: tuple[int, int] | None = None
    attention: tuple[tuple[str, Array], ...] = ()


def overlay_of(title: str, image: Array, truth: Array | None, predicted: Array | None, score: float | None = None,
               spacing: tuple[float, ...] = ()) -> Overlay:
    """The overlay of a case of any dimension: a volume is cut across its coarsest axis where there is most to see.

    Parameters
    ----------
    image : ndarray, (C, *space)
        Intensities.
    truth, predicted : ndarray, (*space), optional
        Labels.
    spacing : tuple of float, optional
        Chooses the axis that is cut; the first by default.

    Examples
    --------
    >>> volume = np.zeros((1, 3, 4, 4)); labels = np.zeros((3, 4, 4), np.uint8); labels[2, 1:3, 1:3] = 1
    >>> overlay_of("a", volume, labels, None).title
    'a, slice 3 of 3'
    """
    if image.ndim == 3:
        return Overlay(title, image, truth, predicted, score)
    axis = int(np.argmax(np.round(spacing, 6))) if spacing else 0
    planes = [np.moveaxis(labels, axis, 0) for labels in (truth, predicted) if labels is not None]
    stack = np.moveaxis(image, axis + 1, 0)
    index = informative_slice(stack, *planes)
    cut = [None if labels is None else np.moveaxis(labels, axis, 0)[index] for labels in (truth, predicted)]
    return Overlay(f"{title}, slice {index + 1} of {len(stack)}", stack[index], cut[0], cut[1], score, (axis, index))


def with_attention(overlay: Overlay, attention: Mapping[str, Array]) -> Overlay:
    """The overlay with the same slice of attention maps, ``(1, *space)`` each.

    Examples
    --------
    >>> volume = np.zeros((1, 3, 4, 4)); volume[0, 1] = np.eye(4)
    >>> name, plane = with_attention(overlay_of("a", volume, None, None), {"level 0": volume}).attention[0]
    >>> name, plane.sum()
    ('level 0', np.float64(4.0))
    """
    planes = tuple((name, np.array(a[0] if overlay.cut is None else np.take(a[0], overlay.cut[1], overlay.cut[0])))
                   for name, a in attention.items())
    return overlay._replace(attention=planes)


def informative_slice(image: Array, *labels: Array) -> int:
    """Index along the first axis of the plane with the most to see.

    That is the largest sum, over all labels, of the square root of the area: many structures count more than one
    large one. Without any label it is the plane with the largest spread of intensities.

    Examples
    --------
    >>> labels = np.zeros((2, 4, 4), np.uint8); labels[0] = 1; labels[1, :2] = 1; labels[1, 2:] = 2
    >>> informative_slice(np.zeros((2, 4, 4)), labels)
    1
    """
    marks = np.zeros(len(image))
    for array in labels:
        for plane in range(len(array)):
            marks[plane] += np.sqrt(np.unique(array[plane][array[plane] > 0], return_counts=True)[1]).sum()
    if not marks.any():
        marks = np.array([float(np.std(plane)) for plane in image])
    return int(np.argmax(marks))


def to_rgb(image: Array) -> RGB:
    """Colours of a plane for display: percentiles 0.5 and 99.5 become black and almost white.

    One channel is shown grey; two or three as red, green and blue; of more, the first.

    Parameters
    ----------
    image : ndarray, (y, x) or (C, y, x)
        Intensities; NaN is shown black.
    """
    planes = (image[None] if image.ndim == 2 else image).astype(np.float32)
    planes = planes[:1] if len(planes) > 3 else planes
    shown = np.zeros((3, *planes.shape[1:]), np.float32)
    for channel in range(3):
        source = 0 if len(planes) == 1 else channel
        if source < len(planes):
            plane = np.nan_to_num(planes[source], nan=0.0, posinf=0.0, neginf=0.0)
            low, high = np.percentile(plane, [0.5, 99.5])
            shown[channel] = (plane - low) / max(float(high - low), 1e-12)
    return np.asarray((shown.clip(0, 1) * _WHITE).astype(np.uint8).transpose(1, 2, 0))


def compose(overlay: Overlay, width: int = WIDTH) -> RGB:
    """The picture of an overlay: outlines of truth and prediction on the enlarged image.

    Lines lie on the inner border of each label, so that touching objects keep a line each.
    """
    plane = to_rgb(overlay.image)
    factor = max(1, round(width / max(plane.shape[:2])))
    picture = _enlarged(plane, factor)
    thickness = max(1, round(max(picture.shape[:2]) / 200))
    truth, predicted = (None if labels is None else _outline(_enlarged(labels, factor), thickness)
                        for labels in (overlay.truth, overlay.predicted))
    if truth is not None:
        picture[truth] = TRUTH
    if predicted is not None:
        picture[predicted] = PREDICTED
    if truth is not None and predicted is not None:
        picture[truth & predicted] = BOTH
    return picture


def heat(overlay: Overlay, plane: Array, width: int = WIDTH) -> RGB:
    """An attention map over the darkened image: from the plane's lowest value (dark violet) to its highest (yellow)."""
    from matplotlib import colormaps

    low, high = float(plane.min()), float(plane.max())
    scaled = (plane - low) / max(high - low, 1e-12)
    colours = (255 * np.asarray(colormaps["plasma"](scaled))[..., :3]).astype(np.float32)
    mixed = 0.7 * colours + 0.3 * to_rgb(overlay.image).astype(np.float32)
    factor = max(1, round(width / max(plane.shape)))
    return _enlarged(mixed.astype(np.uint8), factor)


def _enlarged(array: Array, factor: int) -> Array:
    """Every pixel repeated along both axes; always a copy."""
    return array.repeat(factor, axis=0).repeat(factor, axis=1)


def _outline(labels: Array, thickness: int = 1) -> npt.NDArray[np.bool_]:
    """Labelled pixels with another value at most ``thickness`` pixels above, below, left or right."""
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        values, view = np.swapaxes(labels, 0, axis), np.swapaxes(edge, 0, axis)
        for step in range(1, thickness + 1):
            differs = values[step:] != values[:-step]
            view[step:] |= differs
            view[:-step] |= differs
    return edge & (labels > 0)


def png_bytes(picture: RGB) -> bytes:
    """A picture, (y, x, 3), as PNG."""
    from PIL import Image as Pillow

    buffer = io.BytesIO()
    Pillow.fromarray(picture).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def write_png(path: str | Path, picture: RGB) -> None:
    """Write a picture as a whole PNG file or not at all."""
    write_bytes(path, png_bytes(picture))
