"""From embeddings, bandwidths and seeds to objects: what `biosegkit.methods.offset` decodes with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.kernels.basins import TOP, level_of
from biosegkit.kernels.clusters import Clusters, assign, lead
from biosegkit.methods.protocol import State

__all__ = ["clusters_of", "dense_of", "owners_of", "reaches", "seeds_of"]


def reaches(thresholds: Mapping[str, float]) -> tuple[float, float]:
    """How many σ away an object holds an embedding, and how far away voxels join it."""
    within = math.sqrt(-2.0 * math.log(thresholds["membership"]))
    return within, within * thresholds["reach"]


def seeds_of(state: State, used: Mapping[str, float]) -> npt.NDArray[np.int32]:
    """The voxels of a state that may begin an object, by falling seed, then in raster order."""
    a = state.arrays
    order = a["order"]
    order = order[: int(np.searchsorted(TOP - a["seed"][order].astype(np.int64), TOP - level_of(used["seed"])))]
    return np.asarray(order[a["foreground"][order] > level_of(used["foreground"])])


def clusters_of(states: Sequence[State], used: Mapping[str, float]) -> Clusters:
    """The clusters of all blocks: seeds by falling seed, then by their place in the image."""
    points, sigma, keys = [], [], []
    for state in states:
        a, block = state.arrays, state.block
        order = seeds_of(state, used)
        place = np.unravel_index(a["voxels"][order], block.shape)
        linear = np.ravel_multi_index(tuple(p + s for p, s in zip(place, block.start, strict=True)), block.full_shape)
        points.append(a["points"][order])
        sigma.append(a["sigma"][order])
        keys.append(((TOP - a["seed"][order].astype(np.int64)) << 47) | linear)
    if len(states) == 1:
        return lead(points[0], sigma[0], *reaches(used))
    turn = np.argsort(np.concatenate(keys), kind="stable")
    return lead(np.concatenate(points)[turn], np.concatenate(sigma)[turn], *reaches(used))


def owners_of(state: State, clusters: Clusters, used: Mapping[str, float]) -> npt.NDArray[np.int32]:
    """The cluster of every voxel of a state, -1 for none."""
    inside = state.arrays["foreground"] > level_of(used["foreground"])
    owner = np.full(len(inside), -1, np.int32)
    owner[inside] = assign(clusters, state.arrays["points"][inside])
    return owner


def dense_of(state: State, values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Values and seeds of a state's voxels as images, 0 elsewhere."""
    image = np.zeros(math.prod(state.block.shape), values.dtype)
    seed = np.zeros(image.shape, np.uint16)
    image[state.arrays["voxels"]] = values
    seed[state.arrays["voxels"]] = state.arrays["seed"]
    return image.reshape(state.block.shape), seed.reshape(state.block.shape)
