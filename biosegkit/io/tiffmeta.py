"""What TIFF descriptions say: pixel sizes, units, channel names, number of planes; and how we say it ourselves."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from html import unescape
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np

from biosegkit.errors import FileError
from biosegkit.grid import Grid, unit_factor

from .options import UNITS
from .raw import Array

__all__ = ["Meta", "describe", "ome_metadata", "ome_text", "pixel_size", "shaped_metadata"]

_XML_LIMIT = 64 << 20
#: Resolutions programs write when they know nothing (dots per inch).
_DEFAULT_DPI = (1.0, 72.0, 96.0, 100.0, 150.0, 200.0, 300.0, 400.0, 600.0, 1200.0)
_NAMESPACE = "biosegkit/grid"
_OME_UNITS = {"mm": "mm", "um": "µm", "nm": "nm", "px": "pixel"}


@dataclass(frozen=True)
class Meta:
    """Geometry and names from metadata; ``samples`` is the number of values they declare, 0 if they do not."""

    spacing: Mapping[str, float] = field(default_factory=dict)
    unit: str = "px"
    channels: tuple[str, ...] = ()
    samples: int = 0
    affine: Array | None = None


def ome_text(tiff: Any, file: str) -> str:
    """The OME-XML, or "". Checked before anything parses it (S7).

    Raises
    ------
    FileError
        If it is very large or declares document types or entities.
    """
    text = str(tiff.pages[0].description or "")
    if len(text) > _XML_LIMIT:
        raise FileError(f"a description of {len(text)} bytes", file=file, expected=f"at most {_XML_LIMIT}")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise FileError("an XML description with document type or entities", file=file, expected="plain OME-XML",
                        remedy="export the file again; such declarations are never needed")
    return text if tiff.is_ome else ""


def describe(tiff: Any, series: Any, ome: str, file: str, notes: list[str]) -> Meta:
    """The metadata of a series, from the richest source there is."""
    if ome:
        return _ome(ome, series, file, notes)
    if tiff.is_imagej and tiff.imagej_metadata:
        return _imagej(tiff.imagej_metadata, series.keyframe)
    if tiff.shaped_metadata:
        return _shaped(dict(tiff.shaped_metadata[0]), series.keyframe, notes)
    if series.kind == "svs":
        return _svs(str(series.keyframe.description))
    if series.kind == "philips":
        return _philips(str(tiff.philips_metadata))
    if series.kind == "qpi" and "C" in series.axes:
        return replace(_resolution(series.keyframe, notes), channels=_qpi_names(series))
    return _resolution(series.keyframe, notes)


def _ome(text: str, series: Any, file: str, notes: list[str]) -> Meta:
    try:
        root = ET.fromstring(text)  # noqa: S314 - see ome_text
    except ET.ParseError as error:
        raise FileError(f"broken OME-XML ({error})", file=file, remedy="export the file again") from error
    own = root.get("UUID")
    others = {str(e.text).strip() for e in root.iter() if e.tag.rpartition("}")[2] == "UUID"} - {own}
    if any(e.tag.rpartition("}")[2] == "BinaryOnly" for e in root.iter()) or len(others) > (own is None):
        raise FileError("an OME-TIFF whose planes or metadata are in other files", file=file, expected="one whole file",
                        remedy="export it to a single OME-TIFF; other files named inside a file are not opened")
    if series.kind != "ome":
        raise FileError("OME-XML that does not fit the planes in the file", file=file, expected="Size and TiffData "
                        "of what is there", remedy="export it again")
    images = [i for i in root.iter() if i.tag.rpartition("}")[2] == "Image"]
    image = images[min(int(getattr(series, "_index", 0) or 0), len(images) - 1)]
    pixels = next(e for e in image if e.tag.rpartition("}")[2] == "Pixels")
    spacing, unit = _ome_spacing(pixels, notes)
    names = tuple(str(e.get("Name") or "") for e in pixels if e.tag.rpartition("}")[2] == "Channel")
    declared = math.prod(int(pixels.get(f"Size{a}", 1)) for a in "XYZCT")
    affine = _ome_affine(root, spacing, unit)
    return Meta(spacing, unit, names if all(names) else (), declared, affine)


def _ome_spacing(pixels: Any, notes: list[str]) -> tuple[dict[str, float], str]:
    """PhysicalSize per axis in one unit; the OME default is micrometres."""
    sizes: dict[str, float] = {}
    units: dict[str, str] = {}
    for axis in "xyz":
        value = pixels.get(f"PhysicalSize{axis.upper()}")
        if value is None:
            continue
        name = str(pixels.get(f"PhysicalSize{axis.upper()}Unit", "µm"))
        if name.lower() not in UNITS and name != "reference frame":
            notes.append(f"unknown unit {name!r} of the pixel size: not used")
            continue
        units[axis], factor = UNITS.get(name.lower(), ("px", 1.0))
        sizes[axis] = float(value) * factor
    if len(set(units.values())) > 1:  # one unit for all: that of x
        target = units.get("x", "um")
        known = {a: s for a, s in sizes.items() if "px" not in (units[a], target)}
        return {a: s * unit_factor(units[a], target) for a, s in known.items()}, target
    return sizes, next(iter(units.values()), "px")


def _ome_affine(root: Any, spacing: Mapping[str, float], unit: str) -> Array | None:
    """The affine we wrote, if the pixel sizes beside it still say the same."""
    for element in root.iter():
        if element.tag.rpartition("}")[2] == "MapAnnotation" and element.get("Namespace") == _NAMESPACE:
            found = {m.get("K"): m.text or "" for m in element.iter() if m.tag.rpartition("}")[2] == "M"}
            return _own_affine(found.get("affine", ""), spacing)
    return None


def _own_affine(text: str, spacing: Mapping[str, float]) -> Array | None:
    try:
        affine = np.array(json.loads(text), dtype=np.float64)
    except (ValueError, TypeError):
        return None
    if affine.shape not in ((3, 3), (4, 4)):
        return None
    sizes = np.linalg.norm(affine[:-1, :-1], axis=0)
    told = [spacing.get(a, 0.0) for a in "zyx"[-len(sizes) :]]
    return affine if np.allclose(sizes, told, rtol=1e-6) else None


def _imagej(found: Mapping[str, Any], page: Any) -> Meta:
    """ImageJ: z from ``spacing``, x and y from the resolution tags, all in ``unit``."""
    name = str(found.get("unit", "")).lower()
    unit, factor = UNITS.get(name, ("px", 1.0))
    samples = int(found.get("images", 0)) * math.prod(page.shape)
    if unit == "px":
        return Meta(samples=samples)
    spacing = {a: factor / r for a, r in _per_unit(page).items()}
    if "spacing" in found:
        spacing["z"] = abs(float(found["spacing"])) * factor  # the sign only tells the direction of the stage
    return Meta(spacing, unit, samples=samples)


def _shaped(found: Mapping[str, Any], page: Any, notes: list[str]) -> Meta:
    """Tifffile's JSON description, with the keys we add to it."""
    unit, factor = UNITS.get(str(found.get("unit", "")).lower(), ("px", 1.0))
    values = found.get("grid_spacing")
    names = tuple(str(n) for n in found.get("channels", ()))
    samples = math.prod(int(s) for s in found.get("shape", (0,)))
    if isinstance(values, list):
        spacing = {a: float(v) * factor for a, v in zip("zyx"[-len(values) :], values, strict=False)}
        return Meta(spacing, unit, names, samples, _own_affine(json.dumps(found.get("affine")), spacing))
    plain = _resolution(page, notes)
    if unit != "px" and "spacing" in found and plain.unit == unit:
        return Meta({**plain.spacing, "z": float(found["spacing"]) * factor}, unit, names, samples)
    return Meta(plain.spacing, plain.unit, names, samples)


def _svs(text: str) -> Meta:
    """Aperio: ``MPP = 0.499``."""
    for part in text.split("|"):
        key, _, value = part.partition("=")
        if key.strip() == "MPP":
            try:
                return Meta({"y": float(value), "x": float(value)}, "um")
            except ValueError:
                break
    return Meta()


def _qpi_names(series: Any) -> tuple[str, ...]:
    """Of PerkinElmer the stain of every page; none unless all have one of their own."""
    found = [re.search(r"<Name>([^<]{1,200})</Name>", str(page.description)) for page in series.pages]
    names = tuple(unescape(name[1].strip()) for name in found if name)
    return names if len(set(names)) == len(found) else ()


def _philips(text: str) -> Meta:
    """Philips: the first pixel spacing, in mm, is that of the full resolution."""
    found = re.search(r'Name="DICOM_PIXEL_SPACING"[^>]*>\s*(?:&quot;|")?([\d.eE+-]+)(?:&quot;|")?\s+'
                      r'(?:&quot;|")?([\d.eE+-]+)', text)
    return Meta() if found is None else Meta({"y": float(found[1]) * 1e3, "x": float(found[2]) * 1e3}, "um")


def _per_unit(page: Any) -> dict[str, float]:
    """Pixels per resolution unit, by axis."""
    out = {}
    for axis, tag in (("x", 282), ("y", 283)):
        found = page.tags.get(tag)
        if found is not None and found.value[1] and found.value[0]:
            out[axis] = found.value[0] / found.value[1]
    return out


def pixel_size(page: Any) -> float:
    """By the resolution tags, in some unit that all pages of a file have in common; 0 if there are none."""
    return max((1 / r for r in _per_unit(page).values()), default=0.0)


def _resolution(page: Any, notes: list[str]) -> Meta:
    """Resolution tags, where they state a real unit and not a printing default."""
    per, tag = _per_unit(page), page.tags.get(296)
    inches = {2: 1.0, 3: 2.54}.get(int(tag.value) if tag is not None else 1)
    if not per or inches is None:
        return Meta()
    dpi = {a: r * inches for a, r in per.items()}
    if any(math.isclose(d, default, rel_tol=1e-2) for d in dpi.values() for default in _DEFAULT_DPI):
        notes.append(f"resolution of {next(iter(dpi.values())):.4g} dots per inch looks like a default: not used")
        return Meta()
    return Meta({a: 25400.0 / d for a, d in dpi.items()}, "um")


def ome_metadata(grid: Grid, axes: str, channels: list[str] | None) -> dict[str, Any]:
    """OME metadata for tifffile.imwrite; a grid that is not plain keeps its affine in a map annotation."""
    out: dict[str, Any] = {"axes": axes}
    for axis, size in zip(grid.axes.upper(), grid.spacing, strict=True):
        out[f"PhysicalSize{axis}"] = size
        out[f"PhysicalSize{axis}Unit"] = _OME_UNITS[grid.unit]
    if channels:
        out["Channel"] = {"Name": channels}
    if not _plain(grid):
        out["MapAnnotation"] = {"Namespace": _NAMESPACE, "affine": json.dumps(grid.affine.tolist())}
    return out


def shaped_metadata(grid: Grid, axes: str, channels: list[str] | None) -> dict[str, Any]:
    """The same for tifffile's own JSON description."""
    out: dict[str, Any] = {"axes": axes, "grid_spacing": list(grid.spacing), "unit": grid.unit,
                           "affine": grid.affine.tolist()}
    return {**out, "channels": channels} if channels else out


def _plain(grid: Grid) -> bool:
    """Whether OME's sizes say everything: no origin, no turn, and depth that is seen to be an axis."""
    return grid == Grid.regular(grid.shape, grid.spacing, grid.unit) and (grid.ndim == 2 or grid.shape[0] > 1)
