"""Object size sets the scale: the spacing a network works at, and the lengths a method must be told.

A network sees objects best that are neither a few voxels wide nor wider than a third of its patch. So large objects are
looked at through larger voxels and tiny ones through smaller; nobody needs to give a diameter. This takes the place of
heads on a coarser grid: network, targets and decoding stay as they are, and results come back on the image's own grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from biosegkit.plan.method_choice import long_or_bent
from biosegkit.plan.nnunet import NnunetSpec
from biosegkit.plan.schema import Decision
from biosegkit.plan.spacing import new_shape

if TYPE_CHECKING:
    from biosegkit.fingerprint_schema import ObjectStatistics

__all__ = ["LARGE", "SMALL", "Scale", "margin_of", "method_lengths", "patch_voxels", "rays_for", "scale_of", "scaled",
           "small_patch"]

#: Median diameter in voxels above which objects are looked at through larger voxels: three of them fill a 2D patch.
LARGE = {2: 40.0, 3: 30.0}
#: Diameter in voxels below which voxels become smaller, and to which small objects may shrink among large ones.
SMALL = 8.0
#: Least width in voxels of the median object, at its thickest, that larger voxels may leave.
THICK = 6.0
#: Least edge in voxels of the median image that larger voxels may leave.
FIELD = 64
#: Voxels become at most so many times smaller, as there is no more to be seen; a change below `WORTH` is not made.
FINEST, WORTH = 2.0, 1.25
#: Ratio of spacings from which slices count as thick for the flows.
EVEN = 2.0
#: Voxels of an outline between two rays of ``star``, along each of its axes, and least and most rays by axes.
BETWEEN_RAYS, RAYS = 3.5, {2: (16, 64), 3: (48, 128)}
#: Median objects that should stand side by side in a patch, and how much larger a patch may become for it.
ABREAST, GROWTH = 3.0, 1.5
#: The same of the small patches of a CPU in 2D, and the least voxels of one.
SEEN_ABREAST, SMALLEST = 5.0, 96 * 96


@dataclass(frozen=True)
class Scale:
    """The spacing to work at, in the order of the file's axes, and why."""

    spacing: tuple[float, ...]
    value: str
    reason: str


def scale_of(spacing: Sequence[float], shape: Sequence[float], objects: ObjectStatistics, ndim: int) -> Scale | None:
    """A coarser or finer spacing where the size of objects asks for it; None where the images' own is right.

    Parameters
    ----------
    spacing, shape : sequence of float
        Of the median image, in the unit of the objects' lengths and in voxels.
    objects : ObjectStatistics
        From the fingerprint.
    ndim : int
        Axes that the network sees.

    Notes
    -----
    Larger voxels are isotropic, except that no axis becomes finer than it is; smaller ones are made on the axes with
    less than twice the finest spacing. Larger voxels stop where the smallest twentieth of the objects would fall below
    :data:`SMALL` voxels, the median one below :data:`THICK` at its thickest, or the image below :data:`FIELD`.
    """
    finest, wide = min(spacing[-ndim:]), objects.diameter.median
    across = wide / finest
    room = [s * n / FIELD for s, n in zip(spacing[-2:], shape[-2:], strict=True)]
    coarse = min(wide / LARGE[ndim], objects.diameter.p05 / SMALL, 2 * objects.inscribed_radius.median / THICK, *room)
    if coarse >= WORTH * finest:
        return Scale(tuple(max(s, coarse) for s in spacing), f"voxels {coarse / finest:.2g} times as large", (
            f"the median object is {across:.0f} voxels wide; a network that sees it {wide / coarse:.0f} voxels wide "
            "has its surroundings in view; labels come back on the image's own grid"))
    finer = min(FINEST, SMALL / across) if across > 0 else 1.0
    if finer >= WORTH:
        step = tuple(s / finer if s < 2 * finest else s for s in spacing)
        return Scale(step, f"voxels {finer:.2g} times as small", (
            f"the median object is {across:.1f} voxels wide: too few for a border and an inside; labels come back on "
            "the image's own grid"))
    return None


def scaled(spec: NnunetSpec, scale: Scale) -> NnunetSpec:
    """The data set as it would be if all images had been taken at that spacing."""
    shapes = tuple(new_shape(shape, spacing, scale.spacing)
                   for shape, spacing in zip(spec.shapes, spec.spacings, strict=True))
    return replace(spec, spacings=(scale.spacing,) * len(shapes), shapes=shapes)


def small_patch(most: int, wide: float, spacing: Sequence[float]) -> int:
    """Voxels of a patch in 2D that holds five objects of a diameter side by side, of at least 96² and at most ``most``.

    Examples
    --------
    >>> [small_patch(25_600, wide, (1.0, 1.0)) for wide in (8, 25, 80)]
    [9216, 15625, 25600]
    """
    return min(most, max(SMALLEST, round(math.prod(SEEN_ABREAST * wide / s for s in spacing))))


def patch_voxels(usual: int, wide: float, spacing: Sequence[float], seconds: float | None) -> int:
    """Voxels of a patch that holds three objects of a diameter side by side, as far as the time for training allows.

    A patch may be half as large again as usual from fifteen minutes on (or without a clock), and not larger than usual
    below ten: then more steps are worth more.

    Examples
    --------
    >>> [patch_voxels(25_600, 25, (1.0, 1.0), s) for s in (300, None)]
    [25600, 25600]
    >>> [patch_voxels(130_000, 18, (1.0, 1.0, 1.0), s) for s in (300, 720, 900)]
    [130000, 156000, 157464]
    """
    growth = GROWTH if seconds is None else min(GROWTH, max(1.0, seconds / 600))
    wanted = math.prod(ABREAST * wide / s for s in spacing)
    return max(usual, round(min(growth * usual, wanted)))


def method_lengths(method: str, objects: ObjectStatistics | None, spacing: Sequence[float]) -> dict[str, Any]:
    """Options of a method that follow from sizes and spacing, lengths in its unit; none for a method without any.

    Parameters
    ----------
    method : str
        By name.
    objects : ObjectStatistics, optional
        From the fingerprint.
    spacing : sequence of float
        The network works at.

    Notes
    -----
    A signed distance is steep across a sixth of a diameter but not within three voxels, or the ridge of a thin object
    falls into pieces. Distances of ``star`` are learnt in usual radii, along more rays for larger objects; where they
    are long or bent, no place sees them whole, and polygons are merged (polyhedra are not: it takes minutes). Falls of
    ``hv`` are measured over a voxel of the network, however fine the image is. Along the axis of a long object
    ``flow_eikonal`` has no slope: its voxels are sinks that hardly part, and what parts less than touching objects do
    is one object; across thick slices even those part little. No voxel is farther from the centre of its object than
    three quarters of the longest box.

    Examples
    --------
    >>> method_lengths("hv", None, (5.0, 0.5, 0.5)), method_lengths("distance", None, (1.0, 1.0))
    ({'window': 0.5}, {})
    """
    finest = min(spacing)
    if method == "hv":
        return {"window": finest}
    if method == "flow_eikonal" and max(spacing) < EVEN * finest:
        return {"repulsion": 0.9}
    if method == "signed_distance":
        return {"length": _rounded(max(3 * finest, 0.0 if objects is None else objects.diameter.median / 6))}
    if method == "star" and objects is not None:  # distances are learnt in usual radii
        merge = {"merge": True} if len(spacing) == 2 and long_or_bent(objects) else {}
        return {"scale": _rounded(max(objects.diameter.median / 2, finest)),
                "n_rays": rays_for(objects.diameter.p95 / finest, len(spacing)), **merge}
    if method == "offset" and objects is not None:
        voxel = objects.diameter.median / max(objects.diameter_px.median, 1e-6)
        longest = max(extent.maximum for extent in objects.extent_px)
        return {"scale": _rounded(max(0.75 * longest * voxel, SMALL * finest))}
    return {}


def rays_for(across: float, ndim: int) -> int:
    """Rays of a circle or sphere of this diameter in voxels; a multiple of 4 or 8.

    StarDist's usual 32 and 96 are those of 36 and 19 voxels.

    Examples
    --------
    >>> [rays_for(d, 2) for d in (8, 36, 300)], [rays_for(d, 3) for d in (8, 19, 40)]
    ([16, 32, 64], [48, 96, 128])
    """
    least, most = RAYS[ndim]
    outline = math.pi * (across / BETWEEN_RAYS) ** (ndim - 1)  # a circle's length, a sphere's surface
    step = 4 * (ndim - 1)
    return min(most, max(least, step * round(outline / step)))


def margin_of(across: float, patch: Sequence[int]) -> tuple[tuple[int, ...], Decision]:
    """Voxels that are read around a patch so that objects cut by its edge are encoded whole, and why.

    Parameters
    ----------
    across : float
        Diameter of large objects (95 % are smaller), in voxels of the network.
    patch : sequence of int

    Examples
    --------
    >>> margin_of(14.2, (160, 160))[0], margin_of(90.0, (8, 64, 64))[0]
    ((8, 8), (0, 16, 16))
    """
    margin = tuple(min(math.ceil(across / 2), 24, p // 4) if p > 8 else 0 for p in patch)
    return margin, Decision(name="margin", value=" × ".join(map(str, margin)), reason=(
        "read around each patch so that objects cut by its edge are encoded whole (95 % are smaller)"))


def _rounded(value: float) -> float:
    """Three digits: a plan is read by people."""
    return float(f"{value:.3g}")
