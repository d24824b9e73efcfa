"""Files beside a prediction's labels that the user asked for: written with it, known to its record, gone with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ._atomic import sha256
from .bundle import Bundle
from .image import Image
from .inputs import Job
from .outputs import OUTPUTS, found_in, output_path, write_all
from .plan.schema import LabelTable
from .predictor import Prediction, Predictor
from .segmenter import Segmenter

__all__ = ["are_whole", "class_names", "export", "export_paths"]


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


def export(model: Predictor, found: Prediction, image: Image, job: Job, kinds: Sequence[str]) -> dict[str, str]:
    """Write a prediction in further formats, beside its labels.

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
    dict of str to str
        SHA-256 of each file, by its name; what :func:`are_whole` looks at.

    Raises
    ------
    OptionError, DataError, FileError
        As :func:`biosegkit.outputs.write_all`.
    """
    if not kinds:
        return {}
    names = class_names(model.plan.labels) if isinstance(model, Bundle | Segmenter) else {}
    source = Path(job.name).with_name(job.images[0].name).as_posix()  # the same wherever the folder stands
    written = write_all(found_in(found, names, source), image, job.output.parent, Path(job.name).name, kinds)
    return {path.name: sha256(path) for path in written}


def export_paths(job: Job, kinds: Sequence[str] = tuple(OUTPUTS)) -> list[Path]:
    """Where they stand."""
    return [output_path(job.output.with_name(Path(job.name).name), kind) for kind in kinds]


def are_whole(job: Job, kinds: Sequence[str], record: Mapping[str, Any]) -> bool:
    """Whether all are there as the record of the prediction says."""
    said = record.get("also", {})
    return all(path.is_file() and said.get(path.name) == sha256(path) for path in export_paths(job, kinds))
