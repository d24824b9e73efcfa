"""Images told apart (D3), and those without a picture: noise, whose neighbouring voxels differ (V13), labels (D1)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .errors import Problem
from .image import Image, Labels

if TYPE_CHECKING:
    from .checks import Facts

__all__ = ["digest", "is_labels", "neighbour_correlations", "noise_problems"]

#: Voxels looked at in the middle of an image.
_LOOKED_AT = 2**21
#: Correlation of neighbours below which a channel looks like noise, and above which the other cases do not. A cell
#: nucleus stack whose file holds noise had 0.001, micrographs and MRI 0.5 to 0.99.
_NOISE, _PICTURE = 0.05, 0.5


def neighbour_correlations(image: Image) -> tuple[float, ...]:
    """Correlation of voxels with their neighbours, per channel: along the axis where they are most alike.

    NaN for a channel whose middle is constant or not finite.

    Examples
    --------
    >>> from biosegkit.grid import Grid
    >>> ramp = np.arange(12.0).reshape(1, 3, 4)
    >>> [round(r, 6) for r in neighbour_correlations(Image(ramp, Grid.regular((3, 4))))]
    [1.0]
    """
    shape = image.grid.shape
    if not math.prod(shape):
        return (math.nan,) * len(image.channels)
    share = min(1.0, (_LOOKED_AT / max(1, math.prod(shape))) ** (1 / len(shape)))
    sides = [max(min(n, 2), int(n * share)) for n in shape]
    window = tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(shape, sides, strict=True))
    return tuple(_correlation(np.asarray(image.array[number][window], np.float64))
                 for number in range(len(image.channels)))


def _correlation(values: npt.NDArray[np.float64]) -> float:
    """Pearson's correlation of each voxel with the next one; the largest over the axes."""
    if not np.isfinite(values).all():
        return math.nan
    found = []
    for axis in range(values.ndim):
        lines = np.moveaxis(values, axis, 0)
        if len(lines) < 2:
            continue
        first, second = lines[:-1] - lines[:-1].mean(), lines[1:] - lines[1:].mean()
        spread = math.sqrt(float((first * first).sum()) * float((second * second).sum()))
        if spread > 0:
            found.append(float((first * second).sum()) / spread)
    return max(found, default=math.nan)


def digest(image: Image) -> str:
    """A hash of the voxels and their arrangement."""
    found = hashlib.blake2b(repr((image.array.shape, str(image.array.dtype))).encode(), digest_size=16)
    for channel in image.array:
        found.update(np.ascontiguousarray(channel).data)
    return found.hexdigest()


def is_labels(image: Image, labels: Labels) -> bool:
    """Whether an image holds the very numbers of its labels: then a label file stands where the image should.

    Examples
    --------
    >>> from biosegkit.grid import Grid
    >>> values, grid = np.array([[0, 7, 7, 0]]), Grid.regular((1, 4))
    >>> labels = Labels.from_values(values, grid, "semantic")
    >>> is_labels(Image(values[None], grid), labels), is_labels(Image(values[None] + 1, grid), labels)
    (True, False)
    """
    if len(image.channels) != 1:
        return False
    few = tuple(slice(None, None, max(1, n // 16)) for n in labels.array.shape)
    seen = labels.values[np.asarray(labels.array[few])]
    if not seen.any() or not np.array_equal(np.asarray(image.array[0])[few], seen):
        return False
    return np.array_equal(np.asarray(image.array[0]), labels.values[np.asarray(labels.array)])


def noise_problems(facts: Sequence[Facts]) -> list[Problem]:
    """V13: channels whose neighbouring voxels have nothing in common, where those of the other cases have."""
    found = []
    for number in range(max((len(f.neighbours) for f in facts), default=0)):
        known = [(f, f.neighbours[number]) for f in facts if number < len(f.neighbours)
                 and math.isfinite(f.neighbours[number])]
        for case, own in known:
            if own >= _NOISE or len(known) < 2:
                continue
            others = [r for f, r in known if f is not case]
            if np.median(others) > _PICTURE:
                found.append(Problem(
                    "V13", "warning", case.id, case.file, f"{case.channels[number]} looks like noise: neighbouring "
                    f"voxels correlate by {own:.3f}", f"a picture, as in the other cases ({np.median(others):.2f})",
                    "look at the image; leave the case out if its file is spoilt"))
    return found
