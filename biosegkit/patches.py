"""Patches for training: which case, where, how turned, and the targets that belong to it.

Every random number of a patch comes from (seed, step, index), so batches do not depend on workers, threads or on
where a run was stopped (law 7, faults X1 and X2).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .augment import Spatial, draw_spatial, intensity, mirror_and_swap
from .errors import BiosegError, DataError
from .kernels.affine import affine_linear, affine_nearest
from .methods.classes import encode_classes
from .methods.protocol import Method
from .plan.budget import MOST_THREADS
from .plan.schema import Augmentation, Configuration, Plan

__all__ = ["Batch", "Sample", "ahead", "annotated_voxels", "batches", "foreground_voxels", "make_batch"]

Array = npt.NDArray[Any]

#: No augmentation at all: for validation patches.
NONE = Augmentation(rotation=0, scaling=0, noise=0, blur=0, brightness=0, contrast=0, low_resolution=0,
                    gamma_inverted=0, gamma=0, mirror_axes=())


@dataclass(frozen=True, eq=False)
class Sample:
    """One preprocessed case.

    Parameters
    ----------
    case : str
        Its id, for messages.
    image : ndarray of float32, (C, *space)
        Normalised and resampled; may be mapped from disk.
    labels : ndarray of unsigned integers, (*space)
        Canonical classes or ids.
    valid : ndarray of bool, (*space), optional
        False where there is no annotation.
    foreground : dict of int to ndarray of int32, (K, ndim)
        Positions of voxels per class (all objects count as class 1).
    annotated : ndarray of int32, (K, ndim), optional
        Positions of voxels with annotation, where ``valid`` is given: patches are centred on them, as what is ignored
        teaches nothing (fault L9).
    classes : ndarray of unsigned integers, (ids + 1,), optional
        The class of each id from 1, 0 where it is not known; of objects that have classes.
    """

    case: str
    image: Array
    labels: Array
    valid: Array | None
    foreground: dict[int, Array]
    annotated: Array | None = None
    classes: Array | None = None


@dataclass(frozen=True, eq=False)
class Batch:
    """Tensors of one step: image (B, C, *patch); targets and weights per head; the cases they came from.

    ``notes`` say what has happened to who makes batches since the last one.
    """

    image: Tensor
    targets: dict[str, Tensor]
    weights: dict[str, Tensor]
    cases: tuple[str, ...]
    notes: tuple[str, ...] = ()


def foreground_voxels(labels: Array, task: str, seed: int, limit: int = 10_000) -> dict[int, Array]:
    """Positions to centre patches on: up to ``limit`` seeded voxels per class (as nnU-Net does).

    For objects every object is equally likely, whatever its size.
    """
    rng = np.random.default_rng([seed, 1234])
    flat = labels.reshape(-1)
    inside = np.flatnonzero(flat)
    if inside.size == 0:
        return {}
    groups = flat[inside]
    found: dict[int, Array] = {}
    if task == "instance":
        _, start, counts = np.unique(np.sort(groups), return_index=True, return_counts=True)
        order = np.argsort(groups, kind="stable")
        pick = rng.integers(0, 2**62, size=(max(1, limit // len(start)), len(start))) % counts + start
        found[1] = inside[order[pick.reshape(-1)]]
    else:
        for value in np.unique(groups):
            member = inside[groups == value]
            found[int(value)] = member if member.size <= limit else rng.choice(member, limit, replace=False)
    return {k: np.stack(np.unravel_index(v, labels.shape), 1).astype(np.int32) for k, v in found.items()}


def annotated_voxels(valid: Array, seed: int, limit: int = 10_000) -> Array:
    """Up to ``limit`` seeded positions of voxels with annotation, (K, ndim)."""
    inside = np.flatnonzero(valid)
    if inside.size > limit:
        inside = np.random.default_rng([seed, 1235]).choice(inside, limit, replace=False)
    return np.stack(np.unravel_index(inside, valid.shape), 1).astype(np.int32)


def make_batch(samples: Sequence[Sample], plan: Plan, method: Method, step: int, *, augment: bool = True) -> Batch:
    """The batch of one step.

    Raises
    ------
    DataError
        When a patch cannot be made; the message names the case (fault P4).
    """
    c = plan.configuration
    parts = [_patch(samples, plan, method, step, i, augment) for i in range(c.batch)]
    return Batch(
        torch.from_numpy(np.stack([p[0] for p in parts])),
        {k: torch.from_numpy(np.stack([p[1][k] for p in parts])) for k in parts[0][1]},
        {k: torch.from_numpy(np.stack([p[2][k] for p in parts])) for k in parts[0][2]},
        tuple(p[3] for p in parts),
    )


def _patch(samples: Sequence[Sample], plan: Plan, method: Method, step: int, index: int,
           augment: bool) -> tuple[Array, dict[str, Array], dict[str, Array], str]:
    """Image, targets, weights and case of one patch."""
    c, t = plan.configuration, plan.training
    rng = np.random.default_rng([plan.seed, step, index, int(augment)])
    sample = samples[int(rng.integers(len(samples)))]
    try:
        rules = t.augmentation if augment else NONE
        window = tuple(p + 2 * m for p, m in zip(c.patch, t.margin or (0,) * c.ndim, strict=True))
        spatial = draw_spatial(rng, rules, c.spacing, window)
        forced = _is_forced(rng, plan, index)
        centre = _centre(rng, sample, c, forced)
        image, labels, valid = _read(sample, centre, window, spatial, c)
        image, labels3, valid3 = mirror_and_swap(rng, rules, [image, labels[None], valid[None]])
        image = intensity(rng, rules, image) if augment else image
        targets, weights = encode_classes(method, labels3[0], c.spacing, valid3[0], sample.classes)
        crop = tuple(slice((w - p) // 2, (w - p) // 2 + p) for w, p in zip(window, c.patch, strict=True))
        cut = (lambda a: np.ascontiguousarray(a[(..., *crop)])) if t.margin else (lambda a: a)
        return cut(image), {k: cut(v) for k, v in targets.items()}, {k: cut(v) for k, v in weights.items()}, sample.case
    except (ArithmeticError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError,
            BiosegError) as error:
        raise DataError(f"case {sample.case}: no patch could be made ({error})", file=sample.case,
                        remedy="run doctor on the data set") from error


def _is_forced(rng: np.random.Generator, plan: Plan, index: int) -> bool:
    """Whether the patch is centred on foreground: by its place in the batch (nnU-Net) or by chance."""
    t = plan.training
    draw = rng.random()
    if t.foreground_per_batch:
        return index >= round(plan.configuration.batch * (1 - t.foreground))
    return bool(draw < t.foreground)


def _centre(rng: np.random.Generator, sample: Sample, c: Configuration, forced: bool) -> tuple[float, ...]:
    """Centre of the patch in voxels of the sample; a 2D patch of a stack has its slice in front."""
    shape = sample.labels.shape
    patch = (1,) * (len(shape) - c.ndim) + tuple(c.patch)
    if forced and sample.foreground:
        classes = sorted(sample.foreground)
        return _near(rng, sample.foreground[classes[int(rng.integers(len(classes)))]], shape, patch)
    if sample.annotated is not None and len(sample.annotated):
        return _near(rng, sample.annotated, shape, patch)
    return tuple(_within(float(rng.integers(s)), s, p) for s, p in zip(shape, patch, strict=True))


def _near(rng: np.random.Generator, points: Array, shape: Sequence[int], patch: Sequence[int]) -> tuple[float, ...]:
    """A centre such that one of the points lies in the middle half of the patch: objects are seen off centre too."""
    point = points[int(rng.integers(len(points)))].astype(float)
    jitter = np.array([rng.uniform(-0.25, 0.25) * p if p > 1 else 0.0 for p in patch])
    return tuple(_within(v, s, p) for v, s, p in zip(np.rint(point + jitter), shape, patch, strict=True))


def _within(position: float, size: int, patch: int) -> float:
    """Keep the patch mostly inside: its centre not nearer to the border than half a patch, where there is room."""
    low, high = (patch - 1) / 2, size - 1 - (patch - 1) / 2
    if low >= high:
        return (size - 1) / 2
    # A quarter of a patch may stick out, so that borders are seen as often as the rest.
    slack = patch / 8
    return float(np.clip(position, low - slack, high + slack))


def _read(sample: Sample, centre: tuple[float, ...], window: tuple[int, ...], spatial: Spatial,
          c: Configuration) -> tuple[Array, Array, Array]:
    """Crop (with zeros and no annotation beyond the image) and turn."""
    image, labels, valid = sample.image, sample.labels, sample.valid
    if labels.ndim > c.ndim:
        z = int(np.clip(round(centre[0]), 0, labels.shape[0] - 1))
        image, labels = image[:, z], labels[z]
        valid = None if valid is None else valid[z]
        centre = centre[1:]
    reach = window if spatial.is_identity else spatial.reach(window)
    start = tuple(int(np.floor(m - (r - 1) / 2)) for m, r in zip(centre, reach, strict=True))
    inside = _cut(np.ones(labels.shape, bool) if valid is None else valid, start, reach)
    box = _cut_channels(image, start, reach)
    box_labels = _cut(labels, start, reach)
    if spatial.is_identity:
        return box, box_labels, inside
    middle = tuple((r - 1) / 2 for r in reach)
    turned = affine_linear(box, window, spatial.matrix, middle, spatial.shift)
    ids, known = (affine_nearest(a[None], window, spatial.matrix, middle, spatial.shift)[0]
                  for a in (box_labels, inside))
    return turned, ids, known


def _cut(array: Array, start: Sequence[int], shape: Sequence[int]) -> Array:
    """A window of an array, zeros beyond it."""
    cut: Array = _cut_channels(array[None], start, shape)[0]
    return cut


def _cut_channels(array: Array, start: Sequence[int], shape: Sequence[int]) -> Array:
    out = np.zeros((array.shape[0], *shape), array.dtype)
    low = [max(0, -s) for s in start]
    source = tuple(slice(max(0, s), max(0, min(n, s + w)))
                   for s, w, n in zip(start, shape, array.shape[1:], strict=True))
    lengths = [max(0, p.stop - p.start) for p in source]
    target = tuple(slice(a, a + length) for a, length in zip(low, lengths, strict=True))
    out[(slice(None), *target)] = array[(slice(None), *source)]
    return out


def batches(samples: Sequence[Sample], plan: Plan, method: Method, start: int) -> Generator[Batch, None, None]:
    """Batches of steps ``start``, ``start + 1``, … for ever, made by threads if the plan has workers for it."""
    make = partial(make_batch, samples, plan, method)
    if plan.training.workers == 0:
        return (make(step) for step in itertools.count(start))
    return ahead(make, min(MOST_THREADS, plan.training.workers), start)


def ahead(make: Callable[[int], Batch], workers: int, start: int,
          end: Callable[[], None] | None = None) -> Generator[Batch, None, None]:
    """What ``make`` returns for each step, in their order, one more step ahead than there are threads that call it.

    An error in a thread is raised here at the step it belongs to.

    Parameters
    ----------
    make : callable
        From the number of a step to its batch.
    workers : int
        How many threads.
    start : int
        The first step.
    end : callable, optional
        Called when no more batches are wanted, before threads are waited for.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="patches") as pool:
        made = deque(pool.submit(make, start + i) for i in range(workers + 1))
        try:
            for step in itertools.count(start + workers + 1):
                yield made.popleft().result()
                made.append(pool.submit(make, step))
        finally:
            for future in made:
                future.cancel()
            if end is not None:
                end()
