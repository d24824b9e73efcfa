"""Files beside a prediction's labels that the user asked for: written with it, known to its record, gone with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ._atomic import sha256
from .bundle import Bundle
from .image import Image
from .inputs import Job
from .outputs import OUTPUTS, Written, found_in, output_path, write_possible
from .plan.schema import LabelTable
from .predictor import Prediction, Predictor
from .segmenter import Segmenter

__all__ = ["are_whole", "class_names", "export", "export_paths", "recorded", "refused_in"]


def class_names(labels: LabelTable) -> dict[int, str]:
    """Names by the user's value: of the classes of objects, or of the classes of voxels.

    Examples
    --------
    >>> class_names(LabelTable(task="semantic", names=("background", "stroma"), values=(0, 5)))
    {5: 'stroma'}
    """
    if labels.task == "instance":
        return dict(zip(labels.object_values, labels.object_names, strict=True))
    return dict(zip(labels.values[1:], labels.names[1:], strict=True))


def export(model: Predictor, found: Prediction, image: Image, job: Job, kinds: Sequence[str]) -> dict[str, Any]:
    """Write a prediction in further formats, beside its labels; those that cannot hold it are left out.

    Parameters
    ----------
    model : Predictor
        Knows what classes are called.
    found : Prediction
    image : Image
        That was segmented.
    job : Job
    kinds : sequence of str
        Keys of :data:`biosegkit.outputs.OUTPUTS`.

    Returns
    -------
    dict
        What the record says of them; see :func:`recorded`.

    Raises
    ------
    OptionError, DataError, FileError
        As :func:`biosegkit.outputs.write_possible`.
    """
    if not kinds:
        return {}
    names = class_names(model.plan.labels) if isinstance(model, Bundle | Segmenter) else {}
    source = Path(job.name).with_name(job.images[0].name).as_posix()  # the same wherever the folder stands
    name = Path(job.name).name
    return recorded(write_possible(found_in(found, names, source), image, job.output.parent, name, kinds))


def recorded(written: Written) -> dict[str, Any]:
    """What a record says of files beside labels: ``also`` with SHA-256 by name, ``refused`` with reasons by name.

    Examples
    --------
    >>> recorded(Written([], {"a.dcm": "found no voxel size"})), recorded(Written())
    ({'refused': {'a.dcm': 'found no voxel size'}}, {})
    """
    also = {path.name: sha256(path) for path in written.files}
    return {**({"also": also} if also else {}), **({"refused": written.refused} if written.refused else {})}


def refused_in(record: Mapping[str, Any]) -> str | None:
    """Why files that were asked for are not there, of an image all else of which is; None if all are.

    Examples
    --------
    >>> refused_in({"refused": {"a.dcm": "found 2272 objects; expected at most 1000"}})
    'no a.dcm: found 2272 objects; expected at most 1000. All other files of this image are there'
    """
    found = record.get("refused") or {}
    why = "; ".join(f"no {name}: {reason}" for name, reason in found.items())
    return f"{why}. All other files of this image are there" if why else None


def export_paths(job: Job, kinds: Sequence[str] = tuple(OUTPUTS)) -> list[Path]:
    """Where they stand."""
    return [output_path(job.output.with_name(Path(job.name).name), kind) for kind in kinds]


def are_whole(job: Job, kinds: Sequence[str], record: Mapping[str, Any]) -> bool:
    """Whether all are there as the record of the prediction says; those that it says cannot be need not."""
    said, refused = record.get("also", {}), record.get("refused", {})
    return all(path.name in refused or (path.is_file() and said.get(path.name) == sha256(path))
               for path in export_paths(job, kinds))
