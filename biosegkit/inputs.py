"""What to predict and where to write it: files, folders, globs and tables to pairs of input and output."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

from .errors import DataError, FileError, OptionError
from .io.sniff import ENDINGS, ending
from .layouts import csv_cases, stem, walk

__all__ = ["Job", "find_jobs", "output_ending"]


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
    """

    images: tuple[Path, ...]
    name: str
    output: Path


def output_ending(image: Path) -> str:
    """``.nii.gz`` for NIfTI, ``.ome.zarr`` for zarr, ``.tif`` for everything else.

    Examples
    --------
    >>> output_ending(Path("a.nii")), output_ending(Path("b.PNG")), output_ending(Path("c.zarr"))
    ('.nii.gz', '.tif', '.ome.zarr')
    """
    kind = ENDINGS.get(ending(image), "")
    return {"nifti": ".nii.gz", "nifti.gz": ".nii.gz", "zarr": ".ome.zarr"}.get(kind, ".tif")


def find_jobs(inputs: str | Path | Sequence[str | Path], out: Path, channels: int = 1) -> list[Job]:
    """All images of the inputs with their outputs.

    Parameters
    ----------
    inputs : path, or sequence of paths
        Files, folders (searched through; of a data set only its ``images``), globs, or CSV tables with a column
        ``image``.
    out : Path
        Folder of the outputs.
    channels : int
        Of the model: files ``<case>_0000``, ``<case>_0001`` … are joined if there is one per channel.

    Raises
    ------
    FileError
        If an input does not exist.
    DataError
        If there is no image, or two would write the same output (listed).
    """
    given = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    if not given:
        raise OptionError("no input", expected="images, folders or tables", remedy="name at least one")
    found: list[tuple[str, tuple[Path, ...]]] = []
    for item in given:
        for path in _matches(item):
            found += _cases_of(path, channels)
    if not found:
        raise DataError(f"no image in {', '.join(map(str, given))}", expected=f"files ending in {', '.join(ENDINGS)}",
                        remedy="check the paths")
    jobs = [Job(images, name, out / (name + output_ending(images[0]))) for name, images in found]
    _refuse_equal_outputs(jobs)
    return jobs


def _matches(item: str | Path) -> list[Path]:
    """The paths a glob stands for; a path with such characters that exists is itself."""
    if Path(item).exists() or not has_magic(str(item)):
        return [Path(item)]
    return [Path(match) for match in sorted(glob(str(item), recursive=True))]  # noqa: PTH207 - patterns may be absolute


def _cases_of(path: Path, channels: int) -> list[tuple[str, tuple[Path, ...]]]:
    """Names and images of one input."""
    if not path.exists():
        raise FileError("nothing there", file=path, expected="an image, a folder or a table", remedy="check the path")
    if path.suffix.lower() == ".csv":
        return [(case.id, case.images) for case in csv_cases(path)]
    if not path.is_dir() or ENDINGS.get(ending(path)) == "zarr":
        return [(stem(path), (path,))]
    root = path / "images" if (path / "images").is_dir() else path
    files = list(walk(root))
    names = [_relative(file, root) for file in files]
    return _numbered(names, files, channels) or [(n, (f,)) for n, f in zip(names, files, strict=True)]


def _relative(file: Path, root: Path) -> str:
    parent = file.relative_to(root).parent.as_posix()
    return stem(file) if parent == "." else f"{parent}/{stem(file)}"


def _numbered(names: Sequence[str], files: Sequence[Path], channels: int) -> list[tuple[str, tuple[Path, ...]]]:
    """Channels in files of their own, as nnU-Net names them; nothing unless every case has all of them."""
    groups: dict[str, dict[int, Path]] = {}
    for name, file in zip(names, files, strict=True):
        match = re.fullmatch(r"(.+)_(\d{4})", name)
        if match is None:
            return []
        groups.setdefault(match[1], {})[int(match[2])] = file
    if any(sorted(group) != list(range(channels)) for group in groups.values()):
        return []
    return [(name, tuple(group[i] for i in range(channels))) for name, group in groups.items()]


def _refuse_equal_outputs(jobs: Sequence[Job]) -> None:
    """Two inputs with one output, also where only case differs (fault D5)."""
    seen: dict[str, list[Job]] = {}
    for job in jobs:
        seen.setdefault(str(job.output).casefold(), []).append(job)
    double = [group for group in seen.values() if len(group) > 1]
    if double:
        listed = "; ".join(f"{', '.join(str(j.images[0]) for j in group)} → {group[0].output}" for group in double[:5])
        raise DataError(f"{len(double)} outputs that two inputs would write: {listed}",
                        expected="one output per input", remedy="rename the inputs, or predict them into two folders")
