"""Patch, batch and network of the nnU-Net configurations 2d, 3d_fullres and 3d_lowres."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from biosegkit.errors import PlanError
from biosegkit.plan.memory import feature_counts, plain_elements, residual_blocks, residual_elements
from biosegkit.plan.spacing import Reason, target_grid
from biosegkit.plan.topology import MIN_EDGE, Topology, topology

VOLUME_EDGE = MappingProxyType({1: 2**22, 2: 2048, 3: 256})  # the first patch has this edge to the power of ndim
REFERENCE_BATCH = MappingProxyType({1: 12, 2: 12, 3: 2})
MIN_BATCH = 2
LOWRES_BELOW = 0.25
LOWRES_STEP = 1.03
LOWRES_MIN_GAIN = 2.0
LOWRES_ANISOTROPY = 2.0


@dataclass(frozen=True)
class Preset:
    """Memory references of one planner: elements that fill `reference_gb`, and the share of data per batch."""

    block: str
    reference_3d: float
    reference_2d: float
    reference_gb: float
    max_share: float


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "nnunet": Preset("conv", 560e6, 85e6, 8.0, 0.05),
        "resenc_m": Preset("residual", 680e6, 135e6, 8.0, 1.0),
        "resenc_l": Preset("residual", 2.1e9, 380e6, 24.0, 1.0),
        "resenc_xl": Preset("residual", 3.6e9, 560e6, 40.0, 1.0),
    }
)


@dataclass(frozen=True)
class NnunetSpec:
    """What the rules need to know of a dataset.

    Attributes
    ----------
    ndim : int
        Axes of the images, 2 or 3 (a stack with one slice counts as 2D).
    spacings : tuple of tuple of float
        One per case; a single entry (with one shape) states the target directly.
    shapes : tuple of tuple of int
        Voxels per axis of each case, after cropping to nonzero.
    n_cases : int
        Training cases.
    n_classes : int
        Output channels, background included.
    n_channels : int
        Image channels.
    preset : str
        A key of `PRESETS`.
    memory_gb : float, optional
        Memory to plan for; by default what the preset was calibrated with.
    """

    ndim: int
    spacings: tuple[tuple[float, ...], ...]
    shapes: tuple[tuple[int, ...], ...]
    n_cases: int
    n_classes: int
    n_channels: int = 1
    preset: str = "nnunet"
    memory_gb: float | None = None


@dataclass(frozen=True)
class Configuration:
    """One trainable configuration: data grid, patch, batch and network.

    ``encoder`` counts convolutions (block ``"conv"``) or residual blocks (``"residual"``) per stage, ``decoder``
    convolutions per decoder stage. ``elements`` is the memory estimate of one sample. `spacing`, `median_shape` and
    `patch` are in the order given by ``array.transpose(transpose)``; those of ``2d`` leave out the slice axis.
    """

    name: str
    spacing: tuple[float, ...]
    median_shape: tuple[float, ...]
    transpose: tuple[int, ...]
    patch: tuple[int, ...]
    batch: int
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    features: tuple[int, ...]
    block: str
    encoder: tuple[int, ...]
    decoder: tuple[int, ...]
    n_channels: int
    n_classes: int
    batch_dice: bool
    elements: int
    reasons: tuple[Reason, ...]


def configure(spec: NnunetSpec) -> dict[str, Configuration]:
    """All configurations nnU-Net would plan for a dataset.

    Parameters
    ----------
    spec : NnunetSpec

    Returns
    -------
    dict of str to Configuration
        ``2d`` always; ``3d_fullres`` for volumes; ``3d_lowres`` if the patch sees less than a quarter of the median
        image. A cascade (fullres with the one-hot lowres prediction as further input) needs no plan of its own.

    Raises
    ------
    PlanError
        If the spec is not usable: what was found and expected is said.

    Notes
    -----
    The rules of nnU-Net (Isensee et al., Nature Methods 2021; 2404.09556 for the residual presets).

    Examples
    --------
    >>> spec = NnunetSpec(3, ((1.0, 1.0, 1.0),), ((36, 50, 35),), n_cases=260, n_classes=3)
    >>> {name: (c.patch, c.batch) for name, c in configure(spec).items()}
    {'2d': ((56, 40), 366), '3d_fullres': ((40, 56, 40), 9)}
    """
    _check(spec)
    target = target_grid(spec.spacings, spec.shapes)
    spacing, shape, order = target.spacing, target.median_shape, target.transpose
    voxels = math.prod(shape) * spec.n_cases
    first = 1 if spec.ndim == 3 else 0
    flat = _plan(spec, spacing[first:], shape[first:], voxels)
    found = {"2d": replace(flat, name="2d", transpose=order, batch_dice=True)}
    if spec.ndim == 3 and shape[0] != 1:
        full = replace(_plan(spec, spacing, shape, voxels), name="3d_fullres", transpose=order)
        low = _lowres(spec, full)
        found["3d_fullres"] = replace(full, batch_dice=low is not None)
        if low is not None:
            found["3d_lowres"] = low
    return {name: _explained(plan, target.reasons, "3d_lowres" in found) for name, plan in found.items()}


def _plan(
    spec: NnunetSpec, spacing: tuple[float, ...], shape: tuple[float, ...], dataset_voxels: float
) -> Configuration:
    """Patch, batch and network for one grid."""
    ndim, preset = len(spacing), PRESETS[spec.preset]
    asked = preset.reference_gb if spec.memory_gb is None else spec.memory_gb
    reference = (preset.reference_3d if ndim == 3 else preset.reference_2d) * asked / preset.reference_gb
    reference_batch = REFERENCE_BATCH[ndim]
    # The plain planner gives a third axis or a batch up for larger patches: it shrinks only to a batch of 2.
    limit = reference * (reference_batch / 2 if preset.block == "conv" else 1)
    first = _first_patch(spacing, shape)
    net = topology(spacing, first)
    fits = True
    while (elements := _elements(spec, net)) > limit:
        smaller = _shrunk(spacing, shape, net)
        if smaller is None:
            fits = False
            break
        net = smaller
    by_memory = round(reference / elements * reference_batch)
    by_data = round(preset.max_share * dataset_voxels / math.prod(net.patch))
    batch = max(min(by_memory, by_data), MIN_BATCH)
    n_stages = net.n_stages
    return Configuration(
        name="", spacing=spacing, median_shape=shape, transpose=(), patch=net.patch, batch=batch,
        strides=net.strides, kernels=net.kernels, features=feature_counts(n_stages, ndim), block=preset.block,
        encoder=residual_blocks(n_stages) if preset.block == "residual" else (2,) * n_stages,
        decoder=(1 if preset.block == "residual" else 2,) * (n_stages - 1),
        n_channels=spec.n_channels, n_classes=spec.n_classes, batch_dice=False, elements=elements,
        reasons=(_patch_reason(net.patch, elements, limit, fits), _batch_reason(batch, by_memory, by_data)),
    )  # fmt: skip


def _first_patch(spacing: Sequence[float], shape: Sequence[float]) -> tuple[float, ...]:
    """Physically isotropic patch of 256³ voxels (2048² in 2D), not larger than the median image."""
    ndim = len(spacing)
    volume = VOLUME_EDGE[ndim] ** ndim * math.prod(spacing)
    return tuple(min(max(1, round(volume ** (1 / ndim) / step)), n) for step, n in zip(spacing, shape, strict=True))


def _shrunk(spacing: Sequence[float], shape: Sequence[float], net: Topology) -> Topology | None:
    """The next smaller patch: less of the axis that covers most of the image; None if nothing can be taken off."""
    cover = [edge / n for edge, n in zip(net.patch, shape, strict=True)]
    for axis in sorted(range(len(cover)), key=lambda a: (cover[a], a), reverse=True):
        edge, step = net.patch[axis], net.divisor[axis]
        if edge - step < MIN_EDGE:
            continue
        # The divisor of the reduced size, so that sizes such as 224 are not skipped.
        step = topology(spacing, _with(net.patch, axis, edge - step)).divisor[axis]
        for wanted in range(edge - step, MIN_EDGE - 1, -step):
            smaller = topology(spacing, _with(net.patch, axis, wanted))
            if math.prod(smaller.patch) < math.prod(net.patch):  # rounding up may undo a step
                return smaller
    return None


def _with(patch: Sequence[int], axis: int, edge: int) -> tuple[int, ...]:
    return (*patch[:axis], edge, *patch[axis + 1 :])


def _elements(spec: NnunetSpec, net: Topology) -> int:
    features = feature_counts(net.n_stages, len(net.patch))
    count = residual_elements if PRESETS[spec.preset].block == "residual" else plain_elements
    return count(net.patch, net.strides, features, spec.n_classes)


def _lowres(spec: NnunetSpec, full: Configuration) -> Configuration | None:
    """The low-resolution configuration, or None if the patch sees enough."""
    image = math.prod(full.median_shape)
    voxels, spacing = image, list(full.spacing)
    low: Configuration | None = None
    while math.prod((low or full).patch) / voxels < LOWRES_BELOW:
        coarsest = max(spacing)
        lagging = [coarsest / step > LOWRES_ANISOTROPY for step in spacing]
        spacing = [
            step * LOWRES_STEP if late or not any(lagging) else step
            for step, late in zip(spacing, lagging, strict=True)
        ]
        scale = [old / new for old, new in zip(full.spacing, spacing, strict=True)]
        voxels = image * math.prod(scale)
        shape = tuple(max(1, round(n * s)) for n, s in zip(full.median_shape, scale, strict=True))
        low = _plan(spec, tuple(spacing), shape, voxels * spec.n_cases)
    if low is None or image / voxels < LOWRES_MIN_GAIN:
        return None
    return replace(low, name="3d_lowres", transpose=full.transpose, batch_dice=False)


def _patch_reason(patch: tuple[int, ...], elements: int, limit: float, fits: bool) -> Reason:
    why = f"largest patch of the median image's aspect with {elements:.3g} of {limit:.3g} elements (nnU-Net)"
    if not fits:
        why = f"smallest patch there is; its {elements:.3g} elements exceed the {limit:.3g} planned for (nnU-Net)"
    return "patch", patch, why


def _batch_reason(batch: int, by_memory: int, by_data: int) -> Reason:
    why = f"memory allows {by_memory}, the limit to a share of all voxels {by_data} (nnU-Net)"
    if batch > min(by_memory, by_data):
        why += f", never less than {MIN_BATCH}"
    return "batch", batch, why


def _explained(plan: Configuration, common: Sequence[Reason], has_lowres: bool) -> Configuration:
    """Add the reasons that depend on the set of configurations."""
    shared = [reason for reason in common if reason[0] == "transpose" or plan.name == "3d_fullres"]
    if plan.name == "2d":
        shared.append(("spacing", plan.spacing, "in-plane axes of the target; slices are not resampled (nnU-Net)"))
        why = "2D pools the Dice over the batch (nnU-Net)"
    elif plan.name == "3d_lowres":
        why = f"coarsened by {LOWRES_STEP} per step until the patch covers {LOWRES_BELOW:.0%} of the image (nnU-Net)"
        shared.append(("spacing", plan.spacing, why))
        why = "the low resolution sees most of each image (nnU-Net)"
    else:
        why = f"a low resolution {'exists' if has_lowres else 'is not needed'} (nnU-Net)"
        note = "feed the one-hot 3d_lowres result to this network for a cascade (nnU-Net)"
        shared += [("3d_cascade", "possible", note)] * has_lowres
    network = ("network", plan.block, f"{len(plan.strides)} stages, pooled by spacing and size (nnU-Net)")
    tail = (*plan.reasons, network, ("batch_dice", plan.batch_dice, why))
    return replace(plan, reasons=(*shared, *tail))


def _check(spec: NnunetSpec) -> None:
    if spec.preset not in PRESETS:
        raise PlanError(f"preset {spec.preset!r}", expected=f"one of {', '.join(PRESETS)}", remedy="correct --preset")
    if spec.ndim not in (2, 3) or any(len(row) != spec.ndim for row in (*spec.spacings, *spec.shapes)):
        raise PlanError(
            f"ndim {spec.ndim} with spacings {spec.spacings[:1]} and shapes {spec.shapes[:1]}",
            expected="2 or 3 axes everywhere",
            remedy="plan the images of one dimensionality at a time",
        )
    memory = 1.0 if spec.memory_gb is None else spec.memory_gb
    if min(spec.n_cases, spec.n_classes, spec.n_channels) < 1 or not 0 < memory < math.inf:
        raise PlanError(
            f"{spec.n_cases} cases, {spec.n_classes} classes, {spec.n_channels} channels, {spec.memory_gb} GB",
            expected="at least one of each and positive memory",
            remedy="correct the dataset or --memory",
        )
