"""COCO's JSON: one annotation per object, its mask as compressed run lengths, box, area, class and score.

Masks and boxes are in pixels of the labels. A stack is as many images as it has planes. Tools that read it take counts
for 32 bits, so that images of 2**32 pixels and more are refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from biosegkit._atomic import atomic_path
from biosegkit.errors import DataError
from biosegkit.grid import Grid
from biosegkit.kernels.rle import coco_counts

from .objects import Found, ObjectRuns, object_runs

__all__ = ["coco", "coco_holds", "write_coco"]


def write_coco(found: Found, path: str | Path) -> None:
    """Write the objects of an image as COCO annotations; the file appears only when whole.

    Parameters
    ----------
    found : Found
        Its ``source`` is the ``file_name``; ``category_id`` is the class, or 1 where there are none.
    path : path
        Ending in ``.json``.

    Raises
    ------
    DataError
        For an image of 2**32 pixels or more.

    Examples
    --------
    >>> import tempfile
    >>> from biosegkit.grid import Grid
    >>> found = Found.of(np.array([[0, 7, 7, 0], [0, 0, 0, 0]]), Grid.regular((2, 4)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_coco(found, folder + "/a.json")
    ...     json.loads(Path(folder, "a.json").read_text("utf-8"))["annotations"][0]["segmentation"]
    {'size': [2, 4], 'counts': '21102'}
    """
    with coco(found, path) as add:
        for part in object_runs(found):
            add(part)


def coco_holds(grid: Grid, count: int, source: str = "") -> None:
    """Refuse images whose run lengths other tools would read wrongly, however few objects they have.

    Raises
    ------
    DataError
    """
    height, width = grid.shape[-2:]
    if height * width >= 2**32:
        raise DataError(f"an image of {height} x {width} pixels", file=source or None,
                        expected="fewer than 2**32 pixels for run lengths that COCO's tools read",
                        remedy="write GeoJSON instead")


@contextmanager
def coco(found: Found, path: str | Path) -> Iterator[Callable[[ObjectRuns], None]]:
    """A file to which objects are added as they come, for several outputs of one reading."""
    coco_holds(found.grid, found.count, found.source)
    height, width = (int(n) for n in found.labels.shape[-2:])
    ids, table = np.asarray(found.table["id"]), found.table
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(_head(found, height, width))
        written = 0

        def add(part: ObjectRuns) -> None:
            nonlocal written
            text, ends = coco_counts(part.offset, part.y, part.start, part.stop, (height, width))
            counts, places, first = text.tobytes().decode(), ends.tolist(), part.offset[:-1]
            left, right = np.minimum.reduceat(part.start, first), np.maximum.reduceat(part.stop, first)
            top, bottom = part.y[first], part.y[part.offset[1:] - 1] + 1
            area = np.add.reduceat((part.stop - part.start).astype(np.int64), first)
            boxes = np.stack([left, top, right - left, bottom - top], axis=1).tolist()
            classes = np.asarray(table["class"])[part.rows].tolist() if "class" in table else [1] * len(part.rows)
            scores = np.asarray(table["score"])[part.rows].tolist() if "score" in table else [None] * len(part.rows)
            lines = []
            for n, (number, kind, score) in enumerate(zip(ids[part.rows].tolist(), classes, scores, strict=True)):
                written += 1
                entry: dict[str, Any] = {
                    "id": written, "image_id": part.plane + 1, "category_id": int(kind), "object": number,
                    "segmentation": {"size": [height, width], "counts": counts[places[n]: places[n + 1]]},
                    "area": int(area[n]), "bbox": boxes[n], "iscrowd": 0}
                if score is not None and np.isfinite(score):
                    entry["score"] = round(float(score), 6)
                lines.append(("\n" if written == 1 else ",\n") + json.dumps(entry, separators=(",", ":")))
            file.write("".join(lines).encode())

        yield add
        file.write(b"\n]}\n")


def _head(found: Found, height: int, width: int) -> bytes:
    """Images and categories."""
    planes = found.labels.shape[0] if found.labels.ndim == 3 else 1
    images = [{"id": z + 1, "file_name": found.source, "height": height, "width": width,
               **({"plane": z} if found.labels.ndim == 3 else {})} for z in range(planes)]
    values = sorted({int(v) for v in np.unique(np.asarray(found.table["class"]))} | set(found.classes)
                    ) if "class" in found.table else []
    names = {value: found.classes.get(value, f"class {value}") for value in values} or {1: "object"}
    categories = [{"id": value, "name": name} for value, name in names.items()]
    text = json.dumps({"images": images, "categories": categories}, ensure_ascii=False, separators=(",", ":"))
    return text[:-1].encode() + b',"annotations":['
