"""GeoJSON for QuPath: one Feature per object, polygons along pixel edges, class, score and measurements.

What QuPath's importer asks for, and what is done here: coordinates are pixels of the full-resolution image with
(0, 0) at the outer corner of the first one, so that pixel edges are whole numbers; rings are closed and valid, which
QuPath 0.6 insists on; ``objectType`` says detection (else everything becomes an annotation); ``classification`` has
``name`` and ``color``; ``measurements`` map names to finite numbers; ``id`` is a UUID, since 0.4; ``plane`` of the
geometry says which plane of a stack. Lengths are in µm, as QuPath's own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from biosegkit._atomic import atomic_path
from biosegkit.grid import unit_factor
from biosegkit.kernels.contours import contours
from biosegkit.kernels.polygon_text import coordinates

from .objects import Found, ObjectRuns, object_runs

__all__ = ["colour_of", "geojson", "measurement_names", "write_geojson"]

Kind = Literal["detection", "annotation", "cell"]

#: Columns that a viewer can tell from the polygon, or that are written elsewhere.
_ELSEWHERE = ("id", "first", "class", "area")
#: Of classes, in their order; readers who see no red or green can tell them apart (Okabe and Ito, 2008).
_COLOURS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66))


def write_geojson(found: Found, path: str | Path, *, kind: Kind | None = None, corner: Sequence[int] = ()) -> None:
    """Write the objects of an image for QuPath; the file appears only when whole.

    Parameters
    ----------
    found : Found
        Every numeric column of its table but ids and boxes becomes a measurement.
    path : path
        Ending in ``.geojson``, which QuPath knows.
    kind : {"detection", "annotation", "cell"}, optional
        What they are to QuPath; by default objects are detections and classes are annotations.
    corner : sequence of int, optional
        Where labels of a part of the image begin, in voxels of the labels, in array order.

    Examples
    --------
    >>> import tempfile
    >>> from biosegkit.grid import Grid
    >>> found = Found.of(np.array([[0, 1]]), Grid.regular((1, 2), 0.5, "um"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_geojson(found, folder + "/a.geojson")
    ...     feature = json.loads(Path(folder, "a.geojson").read_text("utf-8"))["features"][0]
    >>> feature["geometry"]["coordinates"], feature["properties"]["objectType"]
    ([[[1, 0], [2, 0], [2, 1], [1, 1], [1, 0]]], 'detection')
    """
    with geojson(found, path, kind=kind, corner=corner) as add:
        for part in object_runs(found):
            add(part)


@contextmanager
def geojson(found: Found, path: str | Path, *, kind: Kind | None = None,
            corner: Sequence[int] = ()) -> Iterator[Callable[[ObjectRuns], None]]:
    """A file to which objects are added as they come, for several outputs of one reading."""
    named = _Properties(found, kind or ("annotation" if found.task == "semantic" else "detection"))
    stack = found.labels.ndim == 3
    *below, top, left = map(int, corner or (0,) * found.labels.ndim)
    first = sum(below)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(b'{"type":"FeatureCollection","features":[')
        between = b"\n"

        def add(part: ObjectRuns) -> None:
            nonlocal between
            rings = contours(part.offset, part.y + top, part.start + left, part.stop + left)
            z = part.plane + first
            text, ends = coordinates(rings, found.scale)
            whole, places = text.tobytes(), ends.tolist()
            several = (np.diff(rings.owner) != 1).tolist()
            plane = f',"plane":{{"c":-1,"z":{z},"t":0}}'.encode() if stack else b""
            heads, tails = named.of(part.rows, z if stack else 0)
            pieces: list[bytes] = []
            for n, (head, tail) in enumerate(zip(heads, tails, strict=True)):
                pieces += [between, head, b'"MultiPolygon"' if several[n] else b'"Polygon"', b',"coordinates":',
                           whole[places[n]: places[n + 1]], plane, b"}", tail]
                between = b",\n"
            file.write(b"".join(pieces))

        yield add
        file.write(b"\n]}\n")


class _Properties:
    """What stands before and behind the geometry of each object."""

    def __init__(self, found: Found, kind: Kind) -> None:
        self.found, self.kind = found, kind
        digest = hashlib.sha256(found.source.encode(errors="surrogatepass")).hexdigest()
        # a UUID of RFC 9562, version 8: which image, which plane, which object
        self.uuid = f"{digest[:8]}-{digest[8:12]}-8{digest[13:16]}-8{digest[16:19]}-"
        self.classes = _classifications(found)
        self.names = measurement_names(found.table, found.grid.unit)

    def of(self, rows: npt.NDArray[np.int64], plane: int) -> tuple[list[bytes], list[bytes]]:
        """Texts of these rows."""
        table = self.found.table
        ids = table["id"][rows].tolist()
        start = f'{{"type":"Feature","id":"{self.uuid}{plane & 0xffff:04x}'
        heads = [f'{start}{i & 0xffffffff:08x}","geometry":{{"type":'.encode() for i in ids]
        classes: Sequence[str] = [""] * len(ids)
        if self.classes:
            classes = [self.classes[value] for value in np.asarray(table["class"])[rows].tolist()]
        columns = [_numbers(np.asarray(table[column])[rows] * factor) for column, (_, factor) in self.names.items()]
        keys = [json.dumps(name, ensure_ascii=False) + ":" for name, _ in self.names.values()]
        tails = []
        for n, i in enumerate(ids):
            measured = ",".join(k + c[n] for k, c in zip(keys, columns, strict=True) if c[n])
            tails.append(f',"properties":{{"objectType":"{self.kind}","name":"{i}"{classes[n]},'
                         f'"measurements":{{{measured}}}}}}}'.encode())
        return heads, tails


def _classifications(found: Found) -> dict[int, str]:
    """The entry of each class, with the comma before it."""
    if "class" not in found.table:
        return {}
    values = sorted({int(v) for v in np.unique(np.asarray(found.table["class"]))} | set(found.classes))
    return {value: ',"classification":' + json.dumps(
        {"name": found.classes.get(value, f"class {value}"), "color": list(colour_of(k))}, ensure_ascii=False,
        separators=(",", ":")) for k, value in enumerate(values)}


def colour_of(place: int) -> tuple[int, int, int]:
    """The colour of the class at a place of the list of classes, 0 to 255.

    Examples
    --------
    >>> colour_of(0), colour_of(7) == colour_of(0)
    ((0, 114, 178), True)
    """
    return _COLOURS[place % len(_COLOURS)]


def measurement_names(table: Mapping[str, npt.NDArray[Any]], unit: str) -> dict[str, tuple[str, float]]:
    """What each column is called in QuPath, and what its values are multiplied by.

    Examples
    --------
    >>> columns = dict.fromkeys(("id", "score", "area_mm2", "mean_DAPI"), np.zeros(1))
    >>> list(measurement_names(columns, "mm").items())[1:]
    [('area_mm2', ('Area µm^2', 1000000.0)), ('mean_DAPI', ('DAPI: Mean', 1.0))]
    """
    names: dict[str, tuple[str, float]] = {}
    for column, values in table.items():
        if column in _ELSEWHERE or column.startswith(("bbox_", "centroid_")) or values.dtype.kind not in "buif":
            continue
        names[column] = _measurement(column, unit)
    if "area" in table and not any(column.startswith(("area_", "volume_")) for column in names):
        names["area"] = ("Area px^2", 1.0)
    return names


def _measurement(column: str, unit: str) -> tuple[str, float]:
    """Name and factor of a column."""
    factor = unit_factor(unit, "um")
    shown = "px" if unit == "px" else "µm"
    for tail, power in ((f"_{unit}3", 3), (f"_{unit}2", 2), (f"_{unit}", 1)):
        if column.endswith(tail):
            what = column.removesuffix(tail).replace("_", " ").capitalize()
            return f"{what} {shown}{f'^{power}' if power > 1 else ''}", factor**power
    what, _, channel = column.partition("_")
    if channel and (short := {"mean": "Mean", "std": "Std.Dev.", "min": "Min", "max": "Max"}.get(what)):
        return f"{channel}: {short}", 1.0
    return column.replace("_", " ").capitalize(), 1.0


def _numbers(values: npt.NDArray[Any]) -> list[str]:
    """Seven digits; nothing for what is no number, which JSON cannot say and QuPath takes for missing."""
    finite = np.isfinite(values).tolist()
    return [f"{v:.7g}" if ok else "" for v, ok in zip(values.tolist(), finite, strict=True)]
