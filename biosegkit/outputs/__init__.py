"""What comes out beside labels: tables with measurements, polygons, regions of interest, masks and pictures.

All of it is streamed: of labels and image one tile is held at a time, whatever their size. The formats that need whole
objects share one reading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit._lazy import optional
from biosegkit.errors import DataError, OptionError
from biosegkit.grid import Grid
from biosegkit.image import Image, Labels
from biosegkit.predictor import Prediction

from .coco import coco, coco_holds, write_coco
from .dicom import dicom_holds, write_dicom
from .geojson import geojson, write_geojson
from .measure import measured
from .objects import Found, ObjectRuns, boxed, object_runs
from .rois import rois, write_rois
from .tables import write_csv, write_parquet
from .thumbnail import thumbnail, write_thumbnail

__all__ = ["LIMITED", "OUTPUTS", "Found", "Written", "boxed", "checked_outputs", "found_in", "found_of", "measured",
           "output_path", "refusals", "thumbnail", "write_all", "write_coco", "write_csv", "write_dicom",
           "write_geojson", "write_parquet", "write_possible", "write_rois", "write_thumbnail"]

#: What can be written beside labels, and how its name ends.
OUTPUTS = {"csv": ".csv", "parquet": ".parquet", "geojson": ".geojson", "rois": "_rois.zip",
           "coco": ".coco.json", "dicom": ".dcm", "thumbnail": "_thumbnail.png"}

#: These have the measurements in them.
_WITH_MEASUREMENTS = ("csv", "parquet", "geojson")
#: These need a package that not everybody has.
_PACKAGES = {"parquet": "pyarrow.parquet", "dicom": "highdicom.seg"}

#: These cannot hold everything; each says why not, of a grid and a number of objects.
LIMITED = {"coco": coco_holds, "dicom": dicom_holds}

_Sink = AbstractContextManager[Callable[[ObjectRuns], None]]


def checked_outputs(kinds: Sequence[str]) -> tuple[str, ...]:
    """Kinds of outputs, each once, in the order of :data:`OUTPUTS`; what they need is there.

    Raises
    ------
    OptionError
        For a kind there is none of, or whose package is not installed.

    Examples
    --------
    >>> checked_outputs(["geojson", "csv", "csv"])
    ('csv', 'geojson')
    """
    unknown = [kind for kind in kinds if kind not in OUTPUTS]
    if unknown:
        raise OptionError(f"the output {unknown[0]!r}", expected=", ".join(OUTPUTS), remedy="name one of these")
    for kind in kinds:
        if kind in _PACKAGES:
            optional(_PACKAGES[kind])
    return tuple(kind for kind in OUTPUTS if kind in kinds)


def output_path(start: Path, kind: str) -> Path:
    """Where an output of the image ``start`` (its labels' path without ending) goes.

    Examples
    --------
    >>> output_path(Path("out/slide.1"), "geojson").name
    'slide.1.geojson'
    """
    return start.with_name(start.name + OUTPUTS[kind])


def found_in(prediction: Prediction, classes: Mapping[int, str] | None = None, source: str = "") -> Found:
    """What a prediction found, to be written: its objects, or each of its classes as one.

    Parameters
    ----------
    prediction : Prediction
    classes : dict of int to str, optional
        Names by the user's value: of the objects' classes, or of the classes themselves.
    source : str
        Name of the image.

    Examples
    --------
    >>> import numpy as np
    >>> from biosegkit.grid import Grid
    >>> from biosegkit.image import Labels
    >>> labels = Labels.from_values(np.array([[0, 7, 7]]), Grid.regular((1, 3)), "semantic")
    >>> found_in(Prediction(labels), {7: "tumour"}).table["class"].tolist()
    [7]
    """
    labels, names = prediction.labels, dict(classes or {})
    if labels.task == "instance":
        return Found.of(labels.array, labels.grid, prediction.objects or None, classes=names, source=source)
    found = Found.of(labels.array, labels.grid, classes=names, source=source, task="semantic")
    return replace(found, table={**found.table, "class": labels.values[found.table["id"]]})


def found_of(labels: Labels, table: Mapping[str, npt.NDArray[Any]] | None = None, **more: Any) -> Found:
    """What labels hold now, with the user's own ids; what a table says of objects that are there is kept.

    Parameters
    ----------
    labels : Labels
        Perhaps corrected since the table was made.
    table : dict of ndarray, optional
        Columns by ``id``. Objects that it does not name get no number; those that are gone are left out.
    **more
        Further fields of :class:`Found`.

    Examples
    --------
    >>> import numpy as np
    >>> from biosegkit.grid import Grid
    >>> labels = Labels.from_values(np.array([[0, 7, 9]]), Grid.regular((1, 3)), "instance")
    >>> found = found_of(labels, {"id": np.array([5, 9]), "score": np.array([0.1, 0.5])})
    >>> found.table["id"].tolist(), found.table["score"].tolist()
    ([7, 9], [nan, 0.5])
    """
    if labels.task == "semantic":
        return replace(found_in(Prediction(labels)), **more)
    values = labels.restored()
    rows = boxed(values)
    columns = {name: np.asarray(column) for name, column in (table or {}).items()}
    known = {int(number): k for k, number in enumerate(columns.pop("id", ()))}
    place = np.array([known.get(int(number), -1) for number in rows["id"]], np.int64)
    for name, column in columns.items():
        if name not in rows and column.dtype.kind in "buif":
            rows[name] = np.where(place < 0, np.nan, column[place]) if len(column) else np.full(len(place), np.nan)
    return Found.of(values, labels.grid, rows, **more)


def refusals(grid: Grid, count: int, kinds: Sequence[str], source: str = "") -> dict[str, DataError]:
    """Why formats cannot hold what was found, or, with no object yet, whatever will be.

    Parameters
    ----------
    grid : Grid
        Of the labels.
    count : int
        Objects, or classes.
    kinds : sequence of str
        Keys of :data:`OUTPUTS`.
    source : str
        Name of the image, for the messages.

    Returns
    -------
    dict of str to DataError
        By kind; those that can hold it are not in there.

    Examples
    --------
    >>> found = refusals(Grid.regular((9, 9), 0.5, "um"), 2272, ["geojson", "dicom"])
    >>> {kind: error.found for kind, error in found.items()}
    {'dicom': '2272 objects'}
    """
    found: dict[str, DataError] = {}
    for kind in checked_outputs(kinds):
        try:
            if kind in LIMITED:
                LIMITED[kind](grid, count, source)
        except DataError as error:
            found[kind] = error
    return found


@dataclass(frozen=True)
class Written:
    """What :func:`write_possible` left.

    Parameters
    ----------
    files : list of Path
    refused : dict of str to str
        Why a file that was asked for is not there, by its name.
    """

    files: list[Path] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def write_possible(found: Found, image: Image | None, folder: str | Path, name: str, kinds: Sequence[str]) -> Written:
    """Write outputs as :func:`write_all`, without those whose format cannot hold what was found.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> found = Found.of(np.array([[0, 1], [0, 1]]), Grid.regular((2, 2)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = write_possible(found, None, folder, "a", ["csv", "dicom"])
    >>> [path.name for path in written.files], list(written.refused)
    (['a.csv'], ['a.dcm'])
    """
    refused = refusals(found.grid, found.count, kinds, found.source)
    files = write_all(found, image, folder, name, [kind for kind in kinds if kind not in refused])
    return Written(files, {output_path(Path(name), kind).name: str(error) for kind, error in refused.items()})


def write_all(found: Found, image: Image | None, folder: str | Path, name: str, kinds: Sequence[str]) -> list[Path]:
    """Write outputs of one image side by side, each whole or not at all.

    Parameters
    ----------
    found : Found
        Labels, table, grid and names of classes; see :func:`found_in`.
    image : Image, optional
        On the grid of the labels; without it there are no intensities, and no thumbnail can be made.
    folder : path
    name : str
        What the names of the files begin with; each kind adds its ending, see :data:`OUTPUTS`.
    kinds : sequence of str
        Keys of :data:`OUTPUTS`.

    Returns
    -------
    list of Path
        The files, in the order of :data:`OUTPUTS`.

    Raises
    ------
    OptionError
        For an unknown kind, one whose package is not installed, or a thumbnail without image.
    DataError
        If labels and table, or labels and image, do not belong together; or a format cannot hold what was found,
        before anything is written.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from biosegkit.grid import Grid
    >>> found = Found.of(np.array([[0, 1], [0, 1]]), Grid.regular((2, 2), 0.5, "um"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in write_all(found, None, folder, "a", ["csv", "geojson"])]
    ['a.csv', 'a.geojson']
    """
    paths = {kind: output_path(Path(folder) / name, kind) for kind in checked_outputs(kinds)}
    if "thumbnail" in paths and image is None:
        raise OptionError("a thumbnail without an image", remedy="give the image that was segmented")
    for refusal in refusals(found.grid, found.count, kinds, found.source).values():
        raise refusal
    if set(paths) & set(_WITH_MEASUREMENTS):
        found = replace(found, table=measured(found, image))
    if "csv" in paths:
        write_csv(found.table, paths["csv"])
    if "parquet" in paths:
        write_parquet(found.table, paths["parquet"])
    sinks = _sinks(found, paths)
    if sinks:
        with ExitStack() as stack:
            adding = [stack.enter_context(sink) for sink in sinks]
            for part in object_runs(found):
                for add in adding:
                    add(part)
    if "dicom" in paths:
        write_dicom(found, paths["dicom"])
    if "thumbnail" in paths and image is not None:
        write_thumbnail(image, found, paths["thumbnail"])
    return list(paths.values())


def _sinks(found: Found, paths: Mapping[str, Path]) -> list[_Sink]:
    """The files that take objects as they come."""
    makers = {"geojson": geojson, "rois": rois, "coco": coco}
    return [make(found, paths[kind]) for kind, make in makers.items() if kind in paths]
