"""What to predict and where to write it: files, folders, globs and tables to pairs of input and output."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from ._endings import ENDINGS
from ._words import counted
from .cases import Dataset, scan
from .errors import BiosegError, DataError, FileError, OptionError
from .io import ReadOptions, positions
from .io.formats import local, remote_url
from .io.sniff import ending, sniff
from .layouts import stem, walk

__all__ = ["Input", "Job", "find_jobs", "output_ending"]

#: What can be predicted.
Input = str | Path | Dataset


@dataclass(frozen=True)
class Job:
    """One image and its output, both relative to nothing but the working folder.

    Parameters
    ----------
    images : tuple of Path
        One file, or one per channel.
    name : str
        Relative path without ending, with ``/``.
    output : Path
    reading : dict
        Fields of :class:`biosegkit.io.ReadOptions` that a table or ``dataset.json`` sets.
    giant : bool
        Whether it is segmented in blocks, into an OME-Zarr.
    position : str
        Which image of a file with several: ``t0003``, ``p0001``, ``A1_0_t0003``; the name ends in it.
    """

    images: tuple[Path, ...]
    name: str
    output: Path
    reading: Mapping[str, Any] = field(default_factory=dict)
    giant: bool = False
    position: str = ""


def output_ending(image: Path) -> str:
    """``.nii.gz`` for NIfTI, ``.ome.zarr`` for zarr and URLs, ``.tif`` for everything else.

    Examples
    --------
    >>> output_ending(Path("a.nii")), output_ending(Path("b.PNG")), output_ending(Path("c.zarr"))
    ('.nii.gz', '.tif', '.ome.zarr')
    """
    kind = "zarr" if remote_url(image) else ENDINGS.get(ending(image), "")
    return {"nifti": ".nii.gz", "nifti.gz": ".nii.gz", "zarr": ".ome.zarr"}.get(kind, ".tif")


def find_jobs(inputs: Input | Sequence[Input], out: Path, channels: int = 1,
              is_giant: Callable[[Path, Mapping[str, Any]], bool] | None = None,
              reading: ReadOptions | None = None) -> list[Job]:
    """All images of the inputs with their outputs; each position and time point of a file is one.

    Parameters
    ----------
    inputs : path, Dataset, or sequence of these
        Files, folders (searched through but for ``out``; of a data set its images; one of DICOM files is one image),
        globs, CSV tables with a column ``image``, URLs of OME-Zarr, or the cases of :func:`biosegkit.scan`. Cases are
        named and read as their table and ``dataset.json`` say.
    out : Path
        Folder of the outputs.
    channels : int
        Of the model: files ``<case>_0000``, ``<case>_0001`` … of one folder are joined if there is one per channel.
    is_giant : callable, optional
        Says of a file, and what is said about reading it, whether it is segmented in blocks; by default none is.
    reading : ReadOptions, optional
        What the user says about reading.

    Raises
    ------
    FileError
        If an input does not exist.
    DataError
        If there is no image, two would write the same output, or an output would replace an input (listed).
    """
    given: list[Input] = [inputs] if isinstance(inputs, str | Path | Dataset) else list(inputs)
    if not given:
        raise OptionError("no input", expected="images, folders or tables", remedy="name at least one")
    found: list[_Found] = []
    for item in given:
        if isinstance(item, Dataset):
            found += _of_dataset(item)
            continue
        for path in _matches(item):
            found += [one for one in _of_path(path, channels) if not _is_result(one.images[0], out, path)]
    if not found:
        raise DataError(f"no image in {', '.join(map(str, given))}", expected=f"files ending in {', '.join(ENDINGS)}",
                        remedy="check the paths")
    jobs = [_job(one, out, is_giant) for f in _joined(found, channels) for one in _parts(f, reading or ReadOptions())]
    _refuse_equal_outputs(jobs)
    _refuse_inputs_as_outputs(jobs)
    return jobs


def _job(found: _Found, out: Path, is_giant: Callable[[Path, Mapping[str, Any]], bool] | None) -> Job:
    """An image with its output."""
    giant = is_giant is not None and is_giant(found.images[0], found.reading or {})
    end = ".ome.zarr" if giant else output_ending(found.images[0])
    return Job(found.images, found.name, out / (found.name + end), found.reading or {}, giant, found.position)


def _parts(found: _Found, reading: ReadOptions) -> Iterator[_Found]:
    """The positions and time points of an image; one that cannot be looked at is one, and fails when it is its turn."""
    said = found.reading or {}
    try:
        parts = positions(found.images[0], reading.filled(said)) if _may_hold_several(found.images[0]) else {}
    except (BiosegError, OSError):
        parts = {}
    for name, how in parts.items() if len(parts) > 1 else ():
        chosen = {key: value for key in ("series", "frame") if (value := getattr(how, key)) is not None}
        yield replace(found, name=f"{found.name}_{name}", reading={**said, **chosen}, position=name)
    if len(parts) < 2:
        yield found


def _may_hold_several(image: Path) -> bool:
    """Whether the format has several images in a file."""
    return remote_url(image) is not None or output_ending(image) != ".tif" or ENDINGS.get(ending(image)) == "tiff"


@dataclass(frozen=True)
class _Found:
    """One image; ``reading`` is None for plain files, which may be channels."""

    name: str
    images: tuple[Path, ...]
    reading: dict[str, Any] | None = None
    position: str = ""


def _matches(item: str | Path) -> list[Path]:
    """The paths a glob stands for; a path with such characters that exists is itself."""
    item = local(item)
    if Path(item).exists() or remote_url(item) or not has_magic(str(item)):
        return [Path(item)]
    return [Path(match) for match in sorted(glob(str(item), recursive=True))]  # noqa: PTH207 - patterns may be absolute


def _of_dataset(dataset: Dataset) -> list[_Found]:
    """The cases of a data set, each with what is said about reading it."""
    return [_Found(case.id, case.images, dataset.reading(case)) for case in dataset]


def _of_path(path: Path, channels: int) -> list[_Found]:
    """The images of one input."""
    if remote_url(path):
        return [_Found(stem(path), (path,), {})]
    if not path.exists():
        raise FileError("nothing there", file=path, expected="an image, a folder or a table", remedy="check the path")
    if path.suffix.lower() == ".csv":
        return _of_dataset(scan(path))
    if not path.is_dir() or ENDINGS.get(ending(path)) == "zarr" or sniff(path) == "dicom":
        return [_Found(stem(path), (path,), None if channels > 1 else {})]  # a file named by the user keeps its name
    root = next((path / name for name in ("images", "imagesTr") if (path / name).is_dir()), path)
    slides = (p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".") and sniff(p) == "dicom")
    return [_Found(_relative(file, root), (file,)) for file in (*walk(root), *slides) if not _is_mask(file)]


def _is_mask(file: Path) -> bool:
    """Whether a file is one of the masks of a case folder, ``<case>/masks/`` beside ``<case>/images/``."""
    return file.parent.name == "masks" and (file.parent.parent / "images").is_dir()


def _is_result(file: Path, out: Path, given: Path) -> bool:
    """Whether a file found in a folder lies in the folder of the outputs within it: what an earlier run has left."""
    if remote_url(given) or not given.is_dir():
        return False
    results, folder = out.resolve(), given.resolve()
    return results != folder and results.is_relative_to(folder) and file.resolve().is_relative_to(results)


def _relative(file: Path, root: Path) -> str:
    parent = file.relative_to(root).parent.as_posix()
    return stem(file) if parent == "." else f"{parent}/{stem(file)}"


def _joined(found: Sequence[_Found], channels: int) -> list[_Found]:
    """Channels in files of their own joined, as nnU-Net names them, where a case has all that the model wants."""
    places: dict[tuple[Path, str], dict[int, int]] = {}
    for place, one in enumerate(found):
        match = re.fullmatch(r"(.+)_(\d{4})", one.name)
        if match is not None and one.reading is None:
            places.setdefault((one.images[0].parent, match[1]), {})[int(match[2])] = place
    if channels == 1 and len(places) < len(found):  # some have another name: numbers name images and not channels
        return list(found)
    first: dict[int, _Found] = {}
    later: set[int] = set()
    for (_, name), parts in places.items():
        if sorted(parts) == list(range(channels)):
            first[parts[0]] = _Found(name, tuple(found[parts[i]].images[0] for i in range(channels)))
            later.update(parts.values())
    return [first.get(place, one) for place, one in enumerate(found) if place in first or place not in later]


def _refuse_equal_outputs(jobs: Sequence[Job]) -> None:
    """Two inputs with one output, also where only case differs (fault D5)."""
    seen: dict[str, list[Job]] = {}
    for job in jobs:
        seen.setdefault(str(job.output).casefold(), []).append(job)
    double = [group for group in seen.values() if len(group) > 1]
    if double:
        listed = "; ".join(f"{', '.join(str(j.images[0]) for j in group)} → {group[0].output}" for group in double[:5])
        raise DataError(f"{counted(len(double), 'output')} that two inputs would write: {listed}",
                        expected="one output per input", remedy="rename the inputs, or predict them into two folders")


def _refuse_inputs_as_outputs(jobs: Sequence[Job]) -> None:
    """An output that is an image to be predicted: the image would be gone before it is read (fault F10)."""
    given = {str(image.resolve()).casefold() for job in jobs for image in job.images if not remote_url(image)}
    lost = [str(job.output) for job in jobs if str(job.output.resolve()).casefold() in given]
    if lost:
        raise DataError(f"{counted(len(lost), 'output')} that would replace an input: {', '.join(lost[:5])}",
                        expected="an output folder without the inputs", remedy="choose another folder")
