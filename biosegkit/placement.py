"""Where a grid lies in a viewer whose world has the order of array axes: scale and offset, or an affine, and units.

A viewer slices along array axes. Images whose axes are stored in another order or direction than z, y, x are therefore
turned (a view, nothing is copied) before they are shown; what is oblique even then gets an affine. Either way a voxel
is where its grid says it is, so that layers of different files lie on each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DataError
from .grid import Grid, Turn

__all__ = ["UNIT_NAMES", "grid_at", "matrix_of", "pixels_in", "placed", "turned_home"]

#: Unit of a grid → the name that viewers know.
UNIT_NAMES = {"mm": "mm", "um": "um", "nm": "nm", "px": "pixel"}
#: Voxels that a corner may be off before an affine is needed.
_STRAIGHT = 1e-3
#: Voxels that a region may begin beside one: levels of a pyramid round their sizes.
_BETWEEN = 0.05


def matrix_of(grid: Grid) -> npt.NDArray[np.float64]:
    """From an index (z, y, x, 1) to the world in the same order (the grid's own world is x, y, z).

    Examples
    --------
    >>> matrix_of(Grid.regular((4, 5), (2.0, 0.5), "um")).tolist()
    [[2.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 1.0]]
    """
    n = grid.ndim
    return np.asarray(grid.affine[[*range(n - 1, -1, -1), n]])


def placed(grid: Grid) -> tuple[Turn, dict[str, Any]]:
    """How to show an array on a grid.

    Returns
    -------
    turn : Turn
        To be applied to the array first.
    settings : dict
        Of the layer: ``scale`` and ``translate``, or ``affine`` for oblique axes; ``units`` and ``axis_labels``.

    Examples
    --------
    >>> turn, settings = placed(Grid.regular((4, 5, 6), (2.0, 0.5, 0.5), "um"))
    >>> turn.is_identity, settings["scale"], settings["translate"], settings["units"]
    (True, (2.0, 0.5, 0.5), (0.0, 0.0, 0.0), ('um', 'um', 'um'))
    """
    turn = grid.canonical_turn()
    shown = grid.turned(turn)
    n, matrix = shown.ndim, matrix_of(shown)
    settings: dict[str, Any] = {"units": (UNIT_NAMES[grid.unit],) * n, "axis_labels": tuple(shown.axes)}
    linear = matrix[:n, :n]
    off = np.abs(linear - np.diag(np.diag(linear))) * (np.array(shown.shape) - 1)
    if (off.sum(1) <= _STRAIGHT * min(shown.spacing)).all():
        return turn, {**settings, "scale": shown.spacing, "translate": tuple(float(v) for v in matrix[:n, n])}
    return turn, {**settings, "affine": matrix}


def grid_at(shape: Sequence[int], matrix: npt.NDArray[np.float64], unit: str) -> Grid:
    """The grid of an array that a viewer shows through a matrix: the inverse of :func:`matrix_of`.

    Examples
    --------
    >>> grid = Grid.regular((4, 5), (2.0, 0.5), "um").window((1, 2), (2, 3))
    >>> grid_at(grid.shape, matrix_of(grid), "um") == grid
    True
    """
    n = len(shape)
    return Grid(tuple(shape), np.asarray(matrix)[[*range(n - 1, -1, -1), n]], unit)


def pixels_in(part: Grid, whole: Grid) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Where a grid begins within a finer or equal one, and how many voxels of that one each of its voxels has.

    Parameters
    ----------
    part : Grid
        Of a region of an image, perhaps at a lower resolution.
    whole : Grid
        Of the image at its full resolution.

    Returns
    -------
    corner : tuple of int
        In voxels of ``part``.
    scale : tuple of float

    Raises
    ------
    DataError
        If the axes are not parallel, or the region begins between voxels.

    Examples
    --------
    >>> whole = Grid.regular((40, 60), 0.25, "um")
    >>> pixels_in(whole.resized((20, 30)).window((3, 5), (4, 4)), whole)
    ((3, 5), (2.0, 2.0))
    """
    if part.ndim != whole.ndim or part.unit != whole.unit:
        raise DataError(f"labels of {part.ndim} axes in {part.unit}", expected=f"{whole.ndim} in {whole.unit}",
                        remedy="write them on their own, or segment the image that is meant")
    n = whole.ndim
    change = np.linalg.inv(whole.affine) @ part.affine
    scale = np.diag(change)[:n]
    begin = (change @ np.array([*[-0.5] * n, 1.0]))[:n] + 0.5
    corner = np.rint(begin / scale)
    straight = np.abs(change[:n, :n] - np.diag(scale)).max() <= _STRAIGHT
    if not straight or (scale <= 0).any() or np.abs(begin / scale - corner).max() > _BETWEEN or (corner < 0).any():
        raise DataError("labels that do not lie on voxels of their image", expected="a region of it",
                        remedy="undo what moved or turned the layer")
    return tuple(int(c) for c in corner), tuple(float(s) for s in scale)


def turned_home(shown: Grid, kept: Mapping[str, Any] | None) -> tuple[Turn, Grid]:
    """The turn and the grid of a file's own array, from the grid it is shown at and what its layer keeps.

    Parameters
    ----------
    shown : Grid
        Of the array in the viewer.
    kept : dict, optional
        ``{"grid": …}`` as plain data; where the layer was moved or cut since, it does not fit and is passed over.

    Returns
    -------
    turn : Turn
        From the shown array to the file's.
    grid : Grid
        Of the latter, bit for bit as it was read.
    """
    try:
        grid = Grid.from_dict(dict(kept["grid"])) if kept else shown
    except (DataError, KeyError, TypeError, ValueError):
        grid = shown
    turn = grid.canonical_turn()
    if grid is shown or grid.unit != shown.unit or not grid.turned(turn).mismatch(shown) <= _STRAIGHT:
        return Turn(tuple(range(shown.ndim))), shown
    return turn.inverse(), grid
