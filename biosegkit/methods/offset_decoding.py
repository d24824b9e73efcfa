"""From embeddings, bandwidths and seeds to objects: what `biosegkit.methods.offset` decodes with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.kernels.bands import bands
from biosegkit.kernels.basins import TOP, level_of
from biosegkit.kernels.clusters import Clusters, assign, lead
from biosegkit.methods.protocol import State

__all__ = ["clusters_of", "dense_of", "owners_of", "reaches", "seeds_of"]


#: Seeds that are compared at first.
_FIRST = 2**20


def reaches(thresholds: Mapping[str, float]) -> tuple[float, float]:
    """How many σ away an object holds an embedding, and how far away voxels join it."""
    within = math.sqrt(-2.0 * math.log(thresholds["membership"]))
    return within, within * thresholds["reach"]


def seeds_of(state: State, used: Mapping[str, float]) -> npt.NDArray[np.int32]:
    """The voxels of a state that may begin an object, by falling seed, then in raster order."""
    a = state.arrays
    order = a["order"][: np.count_nonzero(a["seed"] > level_of(used["seed"]))]
    level = level_of(used["foreground"])
    parts = (order[part] for part in bands(order.shape))
    return np.concatenate([np.zeros(0, np.int32), *(part[a["foreground"][part] > level] for part in parts)])


def clusters_of(states: Sequence[State], used: Mapping[str, float]) -> Clusters:
    """The clusters of all blocks: seeds by falling seed, then by their place in the image.

    Of several blocks the best seeds are taken first; of those that follow, only what no cluster holds by then is kept,
    as nothing else could begin one. So memory follows the objects, and blocks are read a few times.
    """
    within, reach = reaches(used)
    if len(states) == 1:
        a = states[0].arrays
        return lead(a["points"], a["sigma"], within, reach, order=seeds_of(states[0], used))
    found = lead(np.zeros((0, 3), np.int32), np.zeros(0, np.int32), within, within)
    for low, high in _bands(states, used):
        points, sigma, keys = [], [], []
        for state in states:
            place, width, key = _seeds_between(state, used, low, high)
            free = assign(found, place) < 0
            points.append(place[free])
            sigma.append(width[free])
            keys.append(key[free])
        turn = np.argsort(np.concatenate(keys), kind="stable")
        found = lead(np.concatenate([found.centre, np.concatenate(points)[turn]]),
                     np.concatenate([found.sigma, np.concatenate(sigma)[turn]]), within, within)
    return lead(found.centre, found.sigma, within, reach)


def _bands(states: Sequence[State], used: Mapping[str, float]) -> list[tuple[int, int]]:
    """Ranges of seeds, above the first number and up to the second, from the highest down; each twice as full."""
    counts = np.zeros(TOP + 1, np.int64)
    for state in states:
        counts += np.bincount(state.arrays["seed"][seeds_of(state, used)], minlength=TOP + 1)
    bands, high, held, room = [], TOP, 0, _FIRST
    for level in range(TOP, -1, -1):
        held += int(counts[level])
        if held >= room:
            bands.append((level - 1, high))
            high, held, room = level - 1, 0, 2 * room
    return [*bands, (-1, high)] if held else bands


def _seeds_between(state: State, used: Mapping[str, float], low: int, high: int
                   ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Points, widths and ranks of the seeds of a block in a range."""
    order = seeds_of(state, used)
    seed = state.arrays["seed"][order].astype(np.int64)
    chosen = (seed > low) & (seed <= high)
    order, block = order[chosen], state.block
    place = np.unravel_index(state.arrays["voxels"][order], block.shape)
    linear = np.ravel_multi_index(tuple(p + s for p, s in zip(place, block.start, strict=True)), block.full_shape)
    return state.arrays["points"][order], state.arrays["sigma"][order], ((TOP - seed[chosen]) << 47) | linear


def owners_of(state: State, clusters: Clusters, used: Mapping[str, float]) -> npt.NDArray[np.int32]:
    """The cluster of every voxel of a state, -1 for none."""
    foreground, points, level = state.arrays["foreground"], state.arrays["points"], level_of(used["foreground"])
    owner = np.full(len(foreground), -1, np.int32)
    for part in bands(owner.shape):
        inside = foreground[part] > level
        owner[part][inside] = assign(clusters, points[part][inside])
    return owner


def dense_of(state: State, values: npt.NDArray[Any], table: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
    """Values of a state's voxels, or what a table has for them, as an image; 0 elsewhere."""
    image = np.zeros(math.prod(state.block.shape), values.dtype if table is None else table.dtype)
    voxels = state.arrays["voxels"]
    for part in bands(voxels.shape):
        image[voxels[part]] = values[part] if table is None else table[values[part]]
    return image.reshape(state.block.shape)
