"""NGFF metadata (OME-Zarr 0.4 and 0.5) from and to axes, spacing, units and names. No files are touched here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from biosegkit.errors import DataError
from biosegkit.grid import Grid, unit_factor

from .options import UNITS
from .raw import Array

__all__ = ["Level", "Multiscale", "Version", "image_label", "levels_of", "multiscales", "omero", "parse"]

Version = Literal["0.4", "0.5"]

_TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
_NAMES = {"mm": "millimeter", "um": "micrometer", "nm": "nanometer"}
_COLOURS = ("FFFFFF", "00FF00", "FF00FF", "00FFFF", "FF0000", "0000FF", "FFFF00")
_SHOWN = 64  # colours written for label values; viewers choose the others themselves


@dataclass(frozen=True)
class Level:
    """One resolution: where it is in the group, and its step and offset per spatial axis, in array order."""

    path: str
    scale: tuple[float, ...]
    translation: tuple[float, ...]


@dataclass(frozen=True)
class Multiscale:
    """What a multiscale group says about its full-resolution array, and where its further resolutions are.

    ``coarser`` has for each, finest first, its path and by letter its step and shift in voxels of the full one.
    """

    path: str
    axes: str
    spacing: Mapping[str, float] = field(default_factory=dict)
    unit: str = "px"
    translation: Mapping[str, float] = field(default_factory=dict)
    channels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    coarser: tuple[tuple[str, Mapping[str, float], Mapping[str, float]], ...] = ()


def parse(attributes: Mapping[str, Any], file: str) -> Multiscale | None:
    """Read the ``multiscales`` of a group; None where it has none.

    Raises
    ------
    DataError
        If the metadata contradict themselves.
    """
    found = attributes.get("ome", attributes)
    scales = found.get("multiscales") if isinstance(found, Mapping) else None
    if not scales:
        return None
    try:
        return _parsed(scales, found)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(f"unreadable multiscales metadata ({error!r})", file=file, expected="OME-Zarr 0.1 to 0.5",
                        remedy="write the image again with a current OME-Zarr writer") from error


def _parsed(scales: Sequence[Any], found: Mapping[str, Any]) -> Multiscale:
    first, notes = scales[0], []
    if len(scales) > 1:
        notes.append(f"first of {len(scales)} multiscales read")
    stated = first.get("axes") or list("tczyx")  # 0.1 and 0.2 had these five, always
    axes = [a if isinstance(a, str) else str(a["name"]) for a in stated]
    letters = "".join(a.lower() if a.lower() in _TYPES else "q" for a in axes)
    units = {n: str(a.get("unit", "")) for n, a in zip(letters, stated, strict=True) if isinstance(a, Mapping)}
    dataset = first["datasets"][0]
    scale, shift, known = _placed(dataset, first, len(axes))
    space = [a for a in letters if a in "zyx"]
    factors_um, unit = _units([units.get(a, "") for a in space], notes)
    spacing = {a: float(scale[letters.index(a)]) * f for a, f in zip(space, factors_um, strict=True)}
    offset = {a: float(shift[letters.index(a)]) * f for a, f in zip(space, factors_um, strict=True)}
    labels = [str(c.get("label", "")) for c in found.get("omero", {}).get("channels", ())]
    return Multiscale(str(dataset["path"]), letters, spacing if known else {}, unit, offset,
                      tuple(labels) if all(labels) else (), tuple(notes),
                      tuple(_coarser(first, letters)) if known else ())


def _placed(dataset: Mapping[str, Any], multiscale: Mapping[str, Any], ndim: int) -> tuple[Array, Array, bool]:
    """Scale and translation of one resolution, and whether the metadata say any."""
    scale, shift, known = np.ones(ndim), np.zeros(ndim), False
    steps = [*dataset.get("coordinateTransformations", ()), *multiscale.get("coordinateTransformations", ())]
    for step in steps:
        if step["type"] == "scale":
            factors = np.array(step["scale"], dtype=float)
            scale, shift, known = scale * factors, shift * factors, True
        elif step["type"] == "translation":
            shift = shift + np.array(step["translation"], dtype=float)
        elif step["type"] != "identity":
            raise ValueError(f"transformation {step['type']!r}")
    return scale, shift, known


def _coarser(multiscale: Mapping[str, Any], letters: str) -> Iterator[tuple[str, dict[str, float], dict[str, float]]]:
    """The further resolutions whose voxels are larger than those of the first."""
    scale, shift, _ = _placed(multiscale["datasets"][0], multiscale, len(letters))
    space = [(i, a) for i, a in enumerate(letters) if a in "zyx"]
    if not all(np.isfinite(scale[i]) and scale[i] > 0 for i, _ in space):
        return  # refused with the axis named, where spacing is checked
    for dataset in multiscale["datasets"][1:]:
        own, moved, _ = _placed(dataset, multiscale, len(letters))
        steps = {a: float(own[i] / scale[i]) for i, a in space}
        if all(np.isfinite(s) and s > 1 - 1e-6 for s in steps.values()):
            yield str(dataset["path"]), steps, {a: float((moved[i] - shift[i]) / scale[i]) for i, a in space}


def _units(names: Sequence[str], notes: list[str]) -> tuple[list[float], str]:
    """Factors per axis into one unit, that of the last axis (x)."""
    pairs = [UNITS.get(n.lower(), ("px", 1.0)) for n in names]
    notes.extend(f"unknown unit {n!r}: read as px" for n in dict.fromkeys(names) if n.lower() not in UNITS)
    unit = pairs[-1][0]
    if len({p[0] for p in pairs}) > 1 and any(p[0] == "px" for p in pairs):
        notes.append("axes with and without units: read as px")
        return [1.0] * len(pairs), "px"
    return [f * unit_factor(u, unit) for u, f in pairs], unit


def multiscales(axes: str, unit: str, levels: Sequence[Level], version: Version, name: str) -> list[dict[str, Any]]:
    """The ``multiscales`` value for arrays with these axes (``"czyx"`` …)."""
    described = []
    for letter in axes:
        axis = {"name": letter, "type": _TYPES[letter]}
        if letter in "zyx" and unit in _NAMES:
            axis["unit"] = _NAMES[unit]
        described.append(axis)
    lead = len(axes) - len(levels[0].scale)
    datasets = []
    for level in levels:
        steps: list[dict[str, Any]] = [{"type": "scale", "scale": [1.0] * lead + list(level.scale)}]
        if any(level.translation):
            steps.append({"type": "translation", "translation": [0.0] * lead + list(level.translation)})
        datasets.append({"path": level.path, "coordinateTransformations": steps})
    out: dict[str, Any] = {"name": name, "axes": described, "datasets": datasets}
    return [{"version": version, **out} if version == "0.4" else out]


def omero(channels: Sequence[str], ranges: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Names and display ranges of channels."""
    shown = []
    for i, (name, (low, high)) in enumerate(zip(channels, ranges, strict=True)):
        colour = _COLOURS[(i + (len(channels) > 1)) % len(_COLOURS)]
        window = {"min": low, "max": high, "start": low, "end": high}
        shown.append({"label": name, "color": colour, "active": True, "window": window})
    return {"channels": shown}


def image_label(values: Array, version: Version, *, inside: bool) -> dict[str, Any]:
    """The ``image-label`` value: colours for the first values, and the image it belongs to where there is one."""
    rng = np.random.default_rng([0])
    colours = [{"label-value": int(v), "rgba": [*map(int, rng.integers(40, 256, 3)), 255]}
               for v in values[1 : _SHOWN + 1]]
    out: dict[str, Any] = {"colors": [{"label-value": int(values[0]), "rgba": [0, 0, 0, 0]}, *colours]}
    if version == "0.4":
        out["version"] = version
    return {**out, "source": {"image": "../../"}} if inside else out


def levels_of(grid: Grid, shapes: Sequence[tuple[int, ...]], *, mean: bool) -> list[Level]:
    """Step and offset of every resolution. A mean of voxels lies between them, a picked voxel where it was."""
    origin = np.array(grid.origin[::-1]) if _aligned(grid) else np.zeros(grid.ndim)
    out, factor = [], np.ones(grid.ndim)
    for i, shape in enumerate(shapes):
        if i:
            before = np.array(shapes[i - 1])
            factor = factor * np.where(before > np.array(shape), 2, 1)
        scale = np.array(grid.spacing) * factor
        shift = origin + (np.array(grid.spacing) * (factor - 1) / 2 if mean else 0)
        out.append(Level(str(i), tuple(map(float, scale)), tuple(map(float, shift))))
    return out


def _aligned(grid: Grid) -> bool:
    """Whether array axes are the world's, so that scale and translation say everything."""
    return np.array_equal(grid.affine[:-1, :-1], Grid.regular(grid.shape, grid.spacing).affine[:-1, :-1])
