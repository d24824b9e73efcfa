"""From a field of flows and a foreground map to objects: what every method that decodes by flows shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.errors import DataError
from biosegkit.kernels.basins import TOP, level_of, quantise
from biosegkit.kernels.flow_graph import FlowGraph, join_trees
from biosegkit.kernels.flow_linkage import merge_trees
from biosegkit.kernels.flow_trace import flow_fragments, looked_up, quantise_flow
from biosegkit.methods.flow_check import Field, flow_errors, seen_in
from biosegkit.methods.protocol import Block, Decisions, ObjectTable, State
from biosegkit.methods.tables import Tally, rows_in, zyx

__all__ = ["WORST", "flow_state", "graph_of", "labels_of", "paint_flows", "resolve_flows"]

#: The squared error of unit vectors that point the other way: a limit of this keeps every object.
WORST = 4.0

_TABLES = ("first", "leads_to", "edges", "links")


def flow_state(flow: npt.NDArray[Any], foreground: npt.NDArray[Any], floor: float, reach: int, block: Block) -> State:
    """Trees of one block.

    Parameters
    ----------
    flow : ndarray of float, (D, *space)
        Vectors of length one at most, in units of the spacing.
    foreground : ndarray of float, (*space)
        In 0..1. Both with a halo of at least ``reach + 1`` voxels wherever the image goes on.
    floor : float
        The lowest foreground threshold that will ever be asked for.
    reach : int
        See `flow_fragments`.
    block : Block

    Raises
    ------
    DataError
        If the arrays do not fit the block or the halo is missing.
    """
    if flow.shape[1:] != block.array_shape or foreground.shape != block.array_shape:
        raise DataError(f"maps of shape {flow.shape[1:]}", expected=f"{block.array_shape} (core and halo of the block)")
    need = Block.cut(block.start, block.shape, block.full_shape, halo=reach + 1)
    if any(have < wish for have, wish in zip(block.before + block.after, need.before + need.after, strict=True)):
        raise DataError("a block without its halo", expected=f"{reach + 1} voxels of surroundings inside the image")
    level = quantise(foreground)
    place = (zyx(block.before, 0), zyx(block.shape, 1), zyx(block.start, 0), zyx(block.full_shape, 1))
    lead = 3 - len(block.shape)
    whole = quantise_flow(flow).reshape(-1, *zyx(block.array_shape, 1))
    if lead:
        whole = np.concatenate([np.zeros((lead, *whole.shape[1:]), np.int8), whole])
    pace = tuple(min(block.spacing) / s for s in block.spacing)
    parts = flow_fragments(whole, level.reshape(whole.shape[1:]), level_of(floor), place, (1.0,) * lead + pace, reach)
    arrays = {name: getattr(parts, name) for name in _TABLES}
    arrays["fragment"] = parts.fragment.reshape(block.shape)
    arrays["foreground"] = np.ascontiguousarray(level[block.core])
    vectors = whole[lead:].reshape(flow.shape)[(slice(None), *block.core)]
    arrays["flow"] = vectors.copy() if lead else np.ascontiguousarray(vectors)  # a view would keep all of it
    return State(block, arrays)


def resolve_flows(states: Sequence[State], thresholds: Mapping[str, float], field: Field) -> Decisions:
    """Objects of all blocks from the thresholds foreground, repulsion, flow_error and min_size.

    ``field(labels, spacing)`` is the method's target, which objects are checked against.
    """
    graph = graph_of(states)
    level = level_of(thresholds["foreground"])
    root = merge_trees(graph, level, thresholds["repulsion"])
    heads, number = np.unique(root, return_inverse=True)
    component = [(number + 1)[tree] for tree in graph.tree_of]
    checked = thresholds["flow_error"] < WORST
    tally, blocks_of = _tallied(states, component, level, len(heads), checked)
    kept = tally.area >= max(1.0, thresholds["min_size"])
    if checked and kept.any():
        painted = (labels_of(state, level, lookup) for state, lookup in zip(states, component, strict=True))
        kept &= flow_errors(states, painted, (tally, blocks_of), field) <= thresholds["flow_error"]
    alive = np.flatnonzero(kept)
    alive = alive[np.argsort(tally.first[alive])]
    ids = np.zeros(len(heads) + 1, np.uint32)
    ids[alive + 1] = np.arange(1, len(alive) + 1)
    found = {state.block.start: ids[lookup] for state, lookup in zip(states, component, strict=True)}
    return Decisions(dict(thresholds), found, tally.table(alive + 1, np.arange(1, len(alive) + 1), float(TOP)))


def _tallied(states: Sequence[State], component: Sequence[npt.NDArray[np.int64]], level: int, count: int, blocks: bool
             ) -> tuple[Tally, npt.NDArray[np.int64]]:
    """Sizes and boxes of ``1..count``, and if asked for, in how many blocks each of ``0..count`` is.

    Labels are let go of again.
    """
    tally, blocks_of = Tally(count, len(states[0].block.shape)), np.zeros(count + 1, np.int64)
    for state, lookup in zip(states, component, strict=True):
        labels = labels_of(state, level, lookup)
        tally.add(labels, state.arrays["foreground"], state.block)
        if blocks:
            blocks_of += seen_in(labels, count)
    return tally, blocks_of


def graph_of(states: Sequence[State]) -> FlowGraph:
    """The trees of all blocks."""
    cores = [(zyx(s.block.start, 0), zyx(s.block.shape, 1)) for s in states]
    return join_trees([_Trees(s) for s in states], cores, zyx(states[0].block.full_shape, 1))


def paint_flows(state: State, decisions: Decisions) -> tuple[npt.NDArray[Any], ObjectTable]:
    """Labels of one block's core, and the rows of the objects that begin in it."""
    level = level_of(decisions.thresholds["foreground"])
    labels = labels_of(state, level, decisions.lookup[state.block.start])
    return labels, rows_in(decisions.objects, state.block)


@dataclass(frozen=True)
class _Trees:
    """The tables of a state as the kernels take them, read when they are asked for."""

    state: State

    @property
    def fragment(self) -> npt.NDArray[np.int32]:
        return self.state.arrays["fragment"].reshape(zyx(self.state.block.shape, 1))

    @property
    def first(self) -> npt.NDArray[np.int64]:
        return self.state.arrays["first"]

    @property
    def leads_to(self) -> npt.NDArray[np.int64]:
        return self.state.arrays["leads_to"]

    @property
    def edges(self) -> npt.NDArray[np.int64]:
        return self.state.arrays["edges"]

    @property
    def links(self) -> npt.NDArray[np.int64]:
        return self.state.arrays["links"]


def labels_of(state: State, level: int, lookup: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """The entry of every voxel's fragment where the foreground exceeds the level."""
    fragment, foreground = state.arrays["fragment"], state.arrays["foreground"]
    return looked_up(fragment, foreground, level, np.asarray(lookup, np.uint32))
