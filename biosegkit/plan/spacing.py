"""The grid all cases are brought to: target spacing, axis order, new shapes, and how to interpolate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from biosegkit.errors import PlanError

ANISOTROPY = 3.0
COARSE_PERCENTILE = 10.0

Reason = tuple[str, object, str]


@dataclass(frozen=True)
class Target:
    """The common grid of a dataset.

    Attributes
    ----------
    spacing : tuple of float
        Target spacing, coarsest axis first.
    median_shape : tuple of float
        Median of the shapes after resampling, in the same order (a median of two may end in .5).
    transpose : tuple of int
        ``array.transpose(transpose)`` brings the axes of a file into this order.
    reasons : tuple of (str, object, str)
        Each decision: name, value, why.
    """

    spacing: tuple[float, ...]
    median_shape: tuple[float, ...]
    transpose: tuple[int, ...]
    reasons: tuple[Reason, ...]


def target_grid(spacings: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]]) -> Target:
    """Target spacing and median shape of a dataset.

    Parameters
    ----------
    spacings : sequence of sequence of float
        One per case. A single entry with one shape stands for a target that is already known.
    shapes : sequence of sequence of int
        Voxels per axis of each case.

    Returns
    -------
    Target

    Raises
    ------
    PlanError
        If there is no case, lengths differ, or a value is not positive and finite.

    Notes
    -----
    As in nnU-Net (Isensee et al. 2021): the median per axis; the worst axis of a dataset that is anisotropic in
    spacing and in voxels takes the 10th percentile instead, so that most cases need not be blurred along it, but never
    becomes finer than the other axes. In 3D the axis with the largest spacing goes first.

    Examples
    --------
    >>> target_grid([(1, 5, 1), (1, 5, 1), (1, 3, 1)], [(100, 20, 100)] * 3).transpose
    (1, 0, 2)
    """
    steps, sizes = _tables(spacings, shapes)
    target = np.median(steps, axis=0)
    why = "median spacing of the cases (nnU-Net)"
    worst = int(np.argmax(target))
    others = [axis for axis in range(target.size) if axis != worst]
    if target.size > 2 and _is_anisotropic(target, np.median(sizes, axis=0), worst, others):
        coarse, finest = float(np.percentile(steps[:, worst], COARSE_PERCENTILE)), float(target[others].max())
        target[worst] = coarse if coarse >= finest else finest + 1e-5
        why = (
            f"median spacing, but axis {worst} is more than {ANISOTROPY:g} times coarser and shorter than the others: "
            "10th percentile there (nnU-Net)"
        )
    order = [worst, *others] if target.size > 2 else list(range(target.size))
    fitted = [new_shape(size, step, target.tolist()) for size, step in zip(shapes, spacings, strict=True)]
    shape = np.median(np.array(fitted), axis=0)
    spacing = tuple(float(target[axis]) for axis in order)
    median_shape = tuple(float(shape[axis]) for axis in order)
    reasons: tuple[Reason, ...] = (
        ("spacing", spacing, why),
        ("transpose", ", ".join(map(str, order)), "the axis with the largest spacing goes first (nnU-Net)"),
        ("median_shape", median_shape, "median of the shapes at the target spacing (nnU-Net)"),
    )
    return Target(spacing, median_shape, tuple(order), reasons)


def new_shape(shape: Sequence[float], spacing: Sequence[float], new_spacing: Sequence[float]) -> tuple[int, ...]:
    """Shape of an image after a change of spacing; at least one voxel per axis.

    Notes
    -----
    As in nnU-Net; halves round to even as in numpy.

    Examples
    --------
    >>> new_shape((10, 100, 100), (5.0, 1.0, 1.0), (2.5, 2.0, 2.0))
    (20, 50, 50)
    """
    zipped = zip(shape, spacing, new_spacing, strict=True)
    return tuple(max(1, round(float(n * old / new))) for n, old, new in zipped)


def separate_axis(spacing: Sequence[float], new_spacing: Sequence[float]) -> int | None:
    """The coarse axis to resample by nearest neighbour, apart from the others; None if there is none.

    The current spacing decides if its largest and smallest differ by more than 3, else the new one does.
    Two or more axes that tie for the coarsest are resampled together with the rest, and so are 2D images.

    Notes
    -----
    As in nnU-Net (Isensee et al. 2021).

    Examples
    --------
    >>> separate_axis((5.0, 1.0, 1.0), (1.0, 1.0, 1.0)), separate_axis((5.0, 5.0, 1.0), (1.0, 1.0, 1.0))
    (0, None)
    """
    if len(spacing) < 3:
        return None
    for candidate in (spacing, new_spacing):
        largest = max(candidate)
        if largest / min(candidate) > ANISOTROPY:
            coarsest = [axis for axis, step in enumerate(candidate) if step == largest]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


def _is_anisotropic(
    spacing: np.ndarray[tuple[int], np.dtype[np.float64]],
    shape: np.ndarray[tuple[int], np.dtype[np.float64]],
    worst: int,
    others: list[int],
) -> bool:
    coarse = spacing[worst] > ANISOTROPY * spacing[others].max()
    return bool(coarse and shape[worst] * ANISOTROPY < shape[others].min())


def _tables(
    spacings: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]]
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float64]], np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    lengths = {len(row) for row in (*spacings, *shapes)}
    good = len(spacings) == len(shapes) > 0 and len(lengths) == 1 and 0 not in lengths
    if not good or not all(math.isfinite(v) and v > 0 for row in (*spacings, *shapes) for v in row):
        raise PlanError(
            f"{len(spacings)} spacings and {len(shapes)} shapes of {sorted(lengths)} axes",
            expected="one of each per case, all of the same number of axes, positive and finite",
            remedy="run doctor on the dataset; give --spacing if the files have none",
        )
    n_axes = len(spacings[0])
    steps = np.array(spacings, dtype=np.float64).reshape(-1, n_axes)
    sizes = np.array(shapes, dtype=np.float64).reshape(-1, n_axes)
    return steps, sizes
