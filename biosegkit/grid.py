"""Grid: the only geometry there is. Spacing, orientation and origin are derived from one affine."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DataError

__all__ = ["ORTHONORMAL_TOLERANCE", "Grid", "Turn", "unit_factor"]

#: Largest departure of a direction matrix from orthonormality that is accepted (fault G4).
ORTHONORMAL_TOLERANCE = 1e-3

_AXES = {2: "yx", 3: "zyx"}
_LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))
_NANOMETRES = {"mm": 1e6, "um": 1e3, "nm": 1.0}  # whole numbers: no quotient is rounded twice


def unit_factor(unit: str, wanted: str) -> float:
    """What a length in one unit is multiplied by to be in another; 1 where one of them is pixels.

    Examples
    --------
    >>> unit_factor("mm", "um"), unit_factor("um", "um"), unit_factor("px", "um")
    (1000.0, 1.0, 1.0)
    """
    if unit == wanted or unit not in _NANOMETRES or wanted not in _NANOMETRES:
        return 1.0
    return _NANOMETRES[unit] / _NANOMETRES[wanted]


@dataclass(frozen=True)
class Turn:
    """A permutation and flips of the spatial axes of an array: ``turned = flip(transpose(array, perm), flips)``.

    ``flips`` are axes of the turned array. Leading axes that are not spatial stay in front.

    Examples
    --------
    >>> turn = Turn((1, 0), (0,))
    >>> turn.inverse().apply(turn.apply(np.arange(6).reshape(2, 3))).tolist()
    [[0, 1, 2], [3, 4, 5]]
    """

    perm: tuple[int, ...]
    flips: tuple[int, ...] = ()

    def apply(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Turn the last ``len(perm)`` axes of an array; the result is a view."""
        lead = array.ndim - len(self.perm)
        turned = np.transpose(array, (*range(lead), *(lead + p for p in self.perm)))
        return np.flip(turned, tuple(lead + f for f in self.flips)) if self.flips else turned

    def inverse(self) -> Turn:
        """The turn that undoes this one exactly."""
        perm = tuple(int(i) for i in np.argsort(self.perm))
        return Turn(perm, tuple(sorted(self.perm[f] for f in self.flips)))

    def then(self, other: Turn) -> Turn:
        """One turn, followed by another."""
        perm = tuple(self.perm[p] for p in other.perm)
        mine = {axis for axis, p in enumerate(other.perm) if p in self.flips}
        return Turn(perm, tuple(sorted(mine ^ set(other.flips))))

    @property
    def is_identity(self) -> bool:
        """Whether nothing is moved."""
        return self.perm == tuple(range(len(self.perm))) and not self.flips


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of an array are in the world.

    Parameters
    ----------
    shape : tuple of int
        Spatial shape in array order, ``(z, y, x)`` or ``(y, x)``.
    affine : ndarray, (ndim + 1, ndim + 1)
        Maps a homogeneous array index ``(z, y, x, 1)`` to world ``(x, y, z, 1)`` in ``unit``.
        The world of NIfTI is RAS+ in millimetres.
    unit : str
        ``"mm"``, ``"um"``, ``"nm"`` or ``"px"`` (no physical size known).

    Raises
    ------
    DataError
        For an affine that is not finite or not invertible, or an empty axis.

    Examples
    --------
    >>> grid = Grid.regular((10, 20, 30), (2.5, 0.8, 0.8), "mm")
    >>> grid.spacing, grid.orientation
    ((2.5, 0.8, 0.8), 'SAR')
    """

    shape: tuple[int, ...]
    affine: npt.NDArray[np.float64]
    unit: str = "px"

    def __post_init__(self) -> None:
        n = len(self.shape)
        matrix = np.array(self.affine, dtype=np.float64)
        matrix.setflags(write=False)
        object.__setattr__(self, "shape", tuple(int(s) for s in self.shape))
        object.__setattr__(self, "affine", matrix)
        if n not in _AXES or matrix.shape != (n + 1, n + 1):
            raise DataError(f"{n} spatial axes and an affine of shape {matrix.shape}", expected="2 or 3 axes and a "
                            "square affine one larger", remedy="name the axes with --axes")
        if min(self.shape) < 1:
            raise DataError(f"shape {self.shape} with an empty axis", expected="at least one voxel along every axis",
                            remedy="export the image again")
        if not np.array_equal(matrix[-1], [0.0] * n + [1.0]):
            raise DataError(f"affine {matrix.tolist()}", expected=f"a last row of {'0, ' * n}1",
                            remedy="repair the header")
        if not np.isfinite(matrix).all() or min(self.spacing) <= 0 or abs(np.linalg.det(self.direction)) < 1e-6:
            raise DataError(f"affine {matrix.tolist()}", expected="finite numbers and three independent directions",
                            remedy="set the spacing with --spacing or repair the header")

    @classmethod
    def regular(cls, shape: tuple[int, ...], spacing: float | tuple[float, ...] = 1.0, unit: str = "px") -> Grid:
        """A grid along the world axes with its first voxel at the origin; ``spacing`` in array order."""
        n = len(shape)
        steps = (float(spacing),) * n if isinstance(spacing, int | float) else tuple(float(s) for s in spacing)
        if len(steps) != n or not all(np.isfinite(s) and s > 0 for s in steps):
            raise DataError(f"spacing {spacing} for {n} axes", expected=f"{n} positive numbers in order "
                            f"{' '.join(_AXES.get(n, '?'))}", remedy="give --spacing again")
        affine = np.zeros((n + 1, n + 1))
        for axis, step in enumerate(steps):
            affine[n - 1 - axis, axis] = step
        affine[n, n] = 1
        return cls(tuple(shape), affine, unit)

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.shape)

    @property
    def axes(self) -> str:
        """``"zyx"`` or ``"yx"``."""
        return _AXES[self.ndim]

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance between neighbouring voxels per array axis, in ``unit``."""
        return tuple(float(round(s, 12)) for s in np.linalg.norm(self.affine[:-1, :-1], axis=0))

    @property
    def direction(self) -> npt.NDArray[np.float64]:
        """Unit vectors of the array axes in the world, one per column."""
        return np.asarray(self.affine[:-1, :-1] / np.linalg.norm(self.affine[:-1, :-1], axis=0))

    @property
    def origin(self) -> tuple[float, ...]:
        """World position (x, y, z) of the centre of the first voxel."""
        return tuple(float(v) for v in self.affine[:-1, -1])

    @property
    def voxels(self) -> int:
        """Number of voxels (unbounded integer)."""
        total = 1
        for size in self.shape:
            total *= size
        return total

    @property
    def orthonormality(self) -> float:
        """Largest departure of the direction matrix from orthonormality; 0 without shear."""
        d = self.direction
        return float(np.abs(d.T @ d - np.eye(self.ndim)).max())

    @property
    def orientation(self) -> str:
        """The world direction each array axis points to, e.g. ``"SAR"``; 2D uses ``A`` (+y) and ``R`` (+x)."""
        return "".join(_LETTERS[w][int(s > 0)] for w, s in self._nearest())

    def _nearest(self) -> list[tuple[int, float]]:
        """Per array axis the world axis nearest to it, each used once, and the sign."""
        cosines = np.abs(self.direction)
        pairs: dict[int, int] = {}
        # The largest cosine decides first; rounding makes exact ties independent of noise in the last digit.
        order = sorted(product(range(self.ndim), repeat=2),
                       key=lambda wa: (-round(float(cosines[wa]), 9), wa[0], -wa[1]))
        for world, axis in order:
            if axis not in pairs and world not in pairs.values():
                pairs[axis] = world
        return [(pairs[a], float(np.sign(self.direction[pairs[a], a]))) for a in range(self.ndim)]

    def canonical_turn(self) -> Turn:
        """The turn that makes array axes (z, y, x) point along +z, +y, +x of the world as nearly as possible.

        The same anatomy stored flipped or permuted becomes the same array (fault G5). Oblique axes stay oblique;
        only whole axes are exchanged or reversed.
        """
        nearest = self._nearest()
        perm = tuple(next(a for a in range(self.ndim) if nearest[a][0] == self.ndim - 1 - k) for k in range(self.ndim))
        return Turn(perm, tuple(k for k, a in enumerate(perm) if nearest[a][1] < 0))

    def turned(self, turn: Turn) -> Grid:
        """The grid of ``turn.apply(array)``: every voxel keeps its world position."""
        shape = tuple(self.shape[p] for p in turn.perm)
        affine = np.array(self.affine)[:, [*turn.perm, self.ndim]]
        for axis in turn.flips:
            affine[:, -1] += affine[:, axis] * (shape[axis] - 1)
            affine[:, axis] *= -1
        return Grid(shape, affine, self.unit)

    def window(self, start: tuple[int, ...], shape: tuple[int, ...]) -> Grid:
        """The grid of a crop (or, with a negative start, of a padding)."""
        affine = np.array(self.affine)
        affine[:, -1] = self.affine @ np.array([*start, 1.0])
        return Grid(shape, affine, self.unit)

    def resized(self, shape: tuple[int, ...]) -> Grid:
        """The grid with another number of voxels over the same field of view (outer voxel borders coincide)."""
        scale = np.array([old / new for old, new in zip(self.shape, shape, strict=True)])
        affine = np.array(self.affine)
        affine[:-1, :-1] *= scale
        affine[:, -1] = self.affine @ np.array([*((scale - 1) / 2), 1.0])
        return Grid(shape, affine, self.unit)

    def with_spacing(self, spacing: tuple[float, ...], unit: str | None = None) -> Grid:
        """The same directions and first voxel with another distance between voxels."""
        affine = np.array(self.affine)
        affine[:-1, :-1] = self.direction * np.array(spacing, dtype=float)
        return Grid(self.shape, affine, unit or self.unit)

    def mismatch(self, other: Grid) -> float:
        """Largest distance of corresponding corners, in voxels of this grid; infinite for unlike shapes.

        Examples
        --------
        >>> a = Grid.regular((4, 4), 2.0)
        >>> a.mismatch(a.window((1, 0), (4, 4)))
        1.0
        """
        if self.shape != other.shape:
            return float("inf")
        corners = np.array([[*c, 1.0] for c in product(*((0, s - 1) for s in self.shape))]).T
        moved = np.linalg.inv(self.affine) @ (other.affine @ corners) - corners
        return float(np.abs(moved).max())

    def __eq__(self, other: object) -> bool:
        """Same shape, unit and affine, bit for bit."""
        if not isinstance(other, Grid):
            return NotImplemented
        return self.shape == other.shape and self.unit == other.unit and np.array_equal(self.affine, other.affine)

    def __hash__(self) -> int:
        """Consistent with equality."""
        return hash((self.shape, self.unit, self.affine.tobytes()))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"shape": list(self.shape), "affine": self.affine.tolist(), "unit": self.unit}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Grid:
        """The inverse of :meth:`to_dict`."""
        return cls(tuple(data["shape"]), np.array(data["affine"], dtype=float), str(data["unit"]))
