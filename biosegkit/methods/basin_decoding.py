"""From a height map and a foreground map to objects: what every method that decodes by basins shares.

An object can fall into pieces where the path from a voxel to its peak leaves the foreground; such pieces keep one id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from biosegkit.errors import DataError
from biosegkit.kernels.basin_graph import cut, join
from biosegkit.kernels.basins import TOP, Fragments, fragments, level_of, quantise
from biosegkit.methods.protocol import Block, Decisions, ObjectTable, State
from biosegkit.methods.tables import Tally, rows_in, zyx

__all__ = ["basin_state", "fragments_of", "limits_of", "paint_basins", "resolve_basins"]

_TABLES = ("root", "peak", "leads_to", "edges", "links", "face")


def basin_state(height: npt.NDArray[Any], foreground: npt.NDArray[Any], floor: float, block: Block) -> State:
    """Basins of one block.

    Parameters
    ----------
    height, foreground : ndarray of float or uint16, (*space)
        In 0..1, or already in steps of 1/65535, with at least the halo of one voxel wherever the image goes on.
    floor : float
        The lowest foreground threshold that will ever be asked for.
    block : Block

    Raises
    ------
    DataError
        If the arrays do not fit the block or the halo is missing.
    """
    if height.shape != block.array_shape or foreground.shape != block.array_shape:
        raise DataError(f"maps of shape {height.shape}", expected=f"{block.array_shape} (core and halo of the block)")
    one = Block.cut(block.start, block.shape, block.full_shape, halo=1)
    if any(have < need for have, need in zip(block.before + block.after, one.before + one.after, strict=True)):
        raise DataError("a block without its halo", expected="one voxel of surroundings wherever the image goes on")
    keep = tuple(
        slice(b - ob, b + n + oa) for b, ob, n, oa in zip(block.before, one.before, block.shape, one.after, strict=True)
    )
    h, f = quantise(height[keep]), quantise(foreground[keep])
    lead = (1,) * (3 - h.ndim)
    before, after, start = (zyx(v, 0) for v in (one.before, one.after, one.start))
    parts = fragments(
        h.reshape(lead + h.shape), f.reshape(lead + f.shape), level_of(floor), before, after, start,
        zyx(one.full_shape, 1),
    )  # fmt: skip
    arrays = {name: getattr(parts, name) for name in _TABLES}
    arrays["fragment"] = parts.fragment.reshape(block.shape)
    arrays["foreground"] = np.ascontiguousarray(f[one.core])
    return State(block, arrays)


def resolve_basins(states: Sequence[State], thresholds: Mapping[str, float], keep_unseeded: bool) -> Decisions:
    """Objects of all blocks from the thresholds foreground, seed, prominence and min_size.

    The states are read twice, one at a time, so a lazy sequence keeps memory to one block and the tables.
    """
    graph = join([_without_voxels(state) for state in states])
    level, seed, prominence, least = limits_of(thresholds)
    root = cut(graph, level, seed, prominence, keep_unseeded)
    heads = np.flatnonzero(root == np.arange(len(root)))
    number = np.zeros(len(root) + 1, np.uint32)
    number[heads] = np.arange(1, len(heads) + 1)
    component = number[root]
    tally = Tally(len(heads), len(states[0].block.shape))
    for state, basin in zip(states, graph.basin_of, strict=True):
        labels = _painted(state, level, component[basin])
        tally.add(labels, state.arrays["foreground"], state.block)
    alive = np.flatnonzero(tally.area >= max(1.0, least))
    alive = alive[np.argsort(tally.first[alive])]
    ids = np.zeros(len(heads) + 1, np.uint32)
    ids[alive + 1] = np.arange(1, len(alive) + 1)
    lookup: dict[tuple[int, ...], npt.NDArray[Any]] = {
        state.block.start: ids[component[basin]] for state, basin in zip(states, graph.basin_of, strict=True)
    }
    return Decisions(dict(thresholds), lookup, tally.table(alive + 1, np.arange(1, len(alive) + 1), float(TOP)))


def paint_basins(state: State, decisions: Decisions) -> tuple[npt.NDArray[Any], ObjectTable]:
    """Labels of one block's core, and the rows of the objects that begin in it."""
    level = level_of(decisions.thresholds["foreground"])
    labels = _painted(state, level, decisions.lookup[state.block.start])
    return labels, rows_in(decisions.objects, state.block)


def limits_of(thresholds: Mapping[str, float]) -> tuple[int, int, int, float]:
    """Foreground, seed and prominence as whole numbers, and the smallest size, as the cut takes them."""
    prominence = round(thresholds["prominence"] * TOP)
    return level_of(thresholds["foreground"]), level_of(thresholds["seed"]), prominence, thresholds["min_size"]


def fragments_of(state: State) -> Fragments:
    """The tables of a state as the kernels take them."""
    return replace(_without_voxels(state), fragment=state.arrays["fragment"])


def _without_voxels(state: State) -> Fragments:
    """The tables alone, which are all that is needed to join blocks: voxels may stay on disk."""
    return Fragments(fragment=np.zeros(0, np.int32), **{name: state.arrays[name] for name in _TABLES})


def _painted(state: State, level: int, lookup: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """The entry of every voxel's fragment where the foreground exceeds the level."""
    fragment, foreground = state.arrays["fragment"], state.arrays["foreground"]
    out = np.zeros(fragment.shape, np.uint32)
    _paint(fragment.reshape(-1), foreground.reshape(-1), level, lookup.astype(np.uint32), out.reshape(-1))
    return out


@numba.njit(cache=True, nogil=True)
def _paint(fragment, foreground, level, lookup, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """One pass over a block."""
    for i in range(fragment.size):
        if fragment[i] >= 0 and foreground[i] > level:
            out[i] = lookup[fragment[i]]
