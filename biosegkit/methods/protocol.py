"""What an instance method is: heads, targets, losses and a decoding in three steps, free of network and tiling.

A method is one frozen dataclass of JSON-able options whose functions are pure. Arrays are ``(c) z y x`` or
``(c) y x``; the number of axes is a value. Decoding is split so that blocks and live thresholds cost nothing:
`local` sees one block and no threshold, `resolve` sees small tables of all blocks and the thresholds,
`paint` writes one block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from biosegkit.errors import OptionError

if TYPE_CHECKING:
    import torch

__all__ = [
    "ArrayDict",
    "Block",
    "Decisions",
    "Head",
    "Method",
    "ObjectTable",
    "Requirements",
    "State",
    "Tunable",
    "checked_thresholds",
    "empty_table",
    "flipped",
]

ArrayDict: TypeAlias = dict[str, npt.NDArray[Any]]
ObjectTable: TypeAlias = dict[str, npt.NDArray[Any]]
TensorDict: TypeAlias = "dict[str, torch.Tensor]"


@dataclass(frozen=True)
class Head:
    """One output of the network: ``channels`` maps and the activation that gives them meaning.

    A head may ask for ``hidden`` features of its own and for the ``coarse`` grid of the network's second stage.
    Networks that know neither give its maps at full resolution, and in training coarser levels do without it: its
    method takes what it gets.
    """

    name: str
    channels: int
    activation: str
    hidden: int = 0
    coarse: bool = False


@dataclass(frozen=True)
class Tunable:
    """A threshold: its default, its range, how many values of it are tried after training, and its meaning.

    ``steps`` of 1 means that it is not searched.
    """

    default: float
    low: float
    high: float
    steps: int
    meaning: str


@dataclass(frozen=True)
class Requirements:
    """What a method needs to see and what it can hold, in voxels, for the objects of a data set."""

    context_px: int
    max_object_px: int | None
    min_object_px: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Block:
    """A core region of a full image, and how many voxels of surroundings the arrays carry beyond it.

    Parameters
    ----------
    start, shape : tuple of int
        The core, in voxels of the full image.
    full_shape : tuple of int
        The full image.
    before, after : tuple of int
        Halo voxels in front of and behind the core on every axis; zero at the border of the image.
    spacing : tuple of float
        Distance of neighbouring voxels per axis, in the unit `Method.encode` was given; 1 if left out.

    Examples
    --------
    >>> block = Block.cut((0, 64), (64, 64), (128, 128), halo=1)
    >>> block.before, block.after, block.array_shape
    ((0, 1), (1, 0), (65, 65))
    """

    start: tuple[int, ...]
    shape: tuple[int, ...]
    full_shape: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    spacing: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Unit spacing where none is given."""
        object.__setattr__(self, "spacing", tuple(float(s) for s in self.spacing) or (1.0,) * len(self.shape))

    @classmethod
    def whole(cls, shape: Sequence[int], spacing: Sequence[float] = ()) -> Block:
        """The one block that is the image."""
        full = tuple(int(n) for n in shape)
        zero = (0,) * len(full)
        return cls(zero, full, full, zero, zero, tuple(spacing))

    @classmethod
    def cut(cls, start: Sequence[int], shape: Sequence[int], full_shape: Sequence[int], halo: int = 1,
            spacing: Sequence[float] = ()) -> Block:
        """A block with ``halo`` voxels of surroundings wherever the image has them."""
        before = tuple(min(halo, s) for s in start)
        after = tuple(min(halo, f - s - n) for s, n, f in zip(start, shape, full_shape, strict=True))
        return cls(tuple(start), tuple(shape), tuple(full_shape), before, after, tuple(spacing))

    @property
    def array_shape(self) -> tuple[int, ...]:
        """Shape of the arrays that belong to this block, halo included."""
        return tuple(b + n + a for b, n, a in zip(self.before, self.shape, self.after, strict=True))

    @property
    def core(self) -> tuple[slice, ...]:
        """Where the core lies inside those arrays."""
        return tuple(slice(b, b + n) for b, n in zip(self.before, self.shape, strict=True))

    @property
    def read(self) -> tuple[slice, ...]:
        """Which part of the full image those arrays are."""
        ends = zip(self.start, self.shape, self.before, self.after, strict=True)
        return tuple(slice(s - b, s + n + a) for s, n, b, a in ends)

    @property
    def write(self) -> tuple[slice, ...]:
        """Which part of the full image the core is."""
        return tuple(slice(s, s + n) for s, n in zip(self.start, self.shape, strict=True))


@dataclass(frozen=True)
class State:
    """What `local` leaves of one block: plain arrays no threshold has touched; any of them may lie on disk."""

    block: Block
    arrays: Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Decisions:
    """What `resolve` decided for all blocks.

    ``lookup`` holds, per block (by its start), the table `paint` needs; ``objects`` is the complete object table.
    """

    thresholds: dict[str, float]
    lookup: dict[tuple[int, ...], npt.NDArray[Any]]
    objects: ObjectTable
    notes: tuple[str, ...] = field(default=())


@runtime_checkable
class Method(Protocol):
    """The functions every entry of `METHODS` has; see the module docstring for their order."""

    @property
    def tunables(self) -> dict[str, Tunable]:
        """The thresholds `resolve` takes."""
        ...

    @property
    def halo(self) -> int:
        """Voxels around the core of a block that `local` needs wherever the image goes on."""
        ...

    @property
    def exact(self) -> bool:
        """Whether labels and ids are the same however the image is cut into blocks.

        Of a method that is not, at least 99.5 % of the objects must keep an IoU of 0.95, and its outputs say so.
        """
        ...

    def heads(self, ndim: int) -> tuple[Head, ...]:
        """The outputs the network must have."""
        ...

    def requirements(self, diameters_px: Sequence[float]) -> Requirements:
        """What is needed for objects of these diameters (in voxels)."""
        ...

    def encode(
        self, labels: npt.NDArray[Any], spacing: Sequence[float], valid: npt.NDArray[np.bool_] | None = None
    ) -> tuple[ArrayDict, ArrayDict]:
        """Targets and weights of one patch of labels, ``(*space)``; not ``valid`` means weight 0 in every head."""
        ...

    def loss(self, outputs: TensorDict, targets: TensorDict, weights: TensorDict) -> TensorDict:
        """Named scalar terms of logits ``(B, C, *space)``; the loss is their sum."""
        ...

    def activate(self, outputs: TensorDict) -> TensorDict:
        """Logits to maps, in float32."""
        ...

    def mirror(self, maps: ArrayDict, axes: Sequence[int]) -> ArrayDict:
        """Flip maps ``(C, *space)`` along space axes (0 is the first space axis)."""
        ...

    def ideal(self, targets: ArrayDict) -> ArrayDict:
        """The maps ``(C, *space)`` of a network that learned the targets without error."""
        ...

    def local(self, maps: ArrayDict, block: Block) -> State:
        """Reduce the maps of one block, halo included, to a state no threshold has touched."""
        ...

    def resolve(self, states: Sequence[State], thresholds: Mapping[str, float] | None = None) -> Decisions:
        """Decide over all blocks at once."""
        ...

    def paint(self, state: State, decisions: Decisions) -> tuple[npt.NDArray[Any], ObjectTable]:
        """Labels of the block's core, and the rows of the objects whose first voxel it holds."""
        ...


def empty_table(ndim: int) -> ObjectTable:
    """An object table without rows."""
    names = ("z", "y", "x")[-ndim:]
    table: ObjectTable = {
        "id": np.zeros(0, np.uint32),
        "score": np.zeros(0, np.float32),
        "area": np.zeros(0, np.int64),
    }
    table |= {f"centroid_{a}": np.zeros(0, np.float64) for a in names}
    table |= {f"bbox_{side}_{a}": np.zeros(0, np.int64) for side in ("start", "stop") for a in names}
    table["first"] = np.zeros(0, np.int64)
    return table


def flipped(maps: ArrayDict, axes: Sequence[int], vectors: str | None = None) -> ArrayDict:
    """Maps ``(C, *space)`` flipped along axes of space; of the map ``vectors`` the components along them change sign.

    Examples
    --------
    >>> flipped({"flow": np.array([[[1.0, 2.0]], [[3.0, 4.0]]])}, [1], "flow")["flow"].tolist()
    [[[2.0, 1.0]], [[-4.0, -3.0]]]
    """
    turned = {name: np.flip(a, tuple(1 + k for k in axes)) for name, a in maps.items()}
    if vectors is not None:
        sign = np.ones((len(turned[vectors]), *(1,) * (turned[vectors].ndim - 1)), np.float32)
        sign[list(axes)] = -1.0
        turned[vectors] = turned[vectors] * sign
    return turned


def checked_thresholds(tunables: Mapping[str, Tunable], given: Mapping[str, float] | None) -> dict[str, float]:
    """Defaults overridden by what was given.

    Raises
    ------
    OptionError
        For an unknown name or a value outside the tunable's range.
    """
    values = {name: tunable.default for name, tunable in tunables.items()}
    for name, value in (given or {}).items():
        if name not in tunables:
            known = f"one of {', '.join(sorted(tunables))}" if tunables else "none: this model has no thresholds"
            raise OptionError(f"threshold {name!r}", expected=known, remedy="correct --threshold, or leave it out")
        t = tunables[name]
        if not t.low <= float(value) <= t.high:
            raise OptionError(f"threshold {name}={value}", expected=f"{t.low} to {t.high} ({t.meaning})",
                              remedy="correct --threshold")
        values[name] = float(value)
    return values
