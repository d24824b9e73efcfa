"""Files in: what biosegkit reads, placed in the world; huge ones are read as they are looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["get_reader", "read_layers"]

Paths = str | Sequence[str]
#: What files of labels are called, or the folder they are in.
_LABELS = ("label", "labels", "mask", "masks", "seg", "segmentation", "classes")


def get_reader(path: Paths) -> Callable[[Paths], list[tuple[Any, dict[str, Any], str]]] | None:
    """The reader, if this is something that biosegkit reads.

    Examples
    --------
    >>> get_reader("a.nii.gz") is read_layers, get_reader("a.docx") is None
    (True, True)
    """
    paths = [path] if isinstance(path, str) else list(path)
    return read_layers if paths and all(map(_is_ours, paths)) else None


def read_layers(path: Paths) -> list[tuple[Any, dict[str, Any], str]]:
    """Layers of one file or of several."""
    from biosegkit.errors import BiosegError

    found: list[tuple[Any, dict[str, Any], str]] = []
    for file in [Path(path)] if isinstance(path, str) else [Path(p) for p in path]:
        try:
            found += _layers(file)
        except BiosegError as error:
            if "--" not in error.remedy:
                raise
            remedy = f"on the command line, biosegkit view {file.name} opens it with options: {error.remedy}"
            raise type(error)(error.found, file=error.file, expected=error.expected, remedy=remedy) from error
    return found


def _layers(file: Path) -> list[tuple[Any, dict[str, Any], str]]:
    """Layers of a file."""
    from biosegkit.viewing import file_layers, label_file_layer

    if looks_like_labels(file):
        return [label_file_layer(file, file.name.split(".")[0])]
    groups = [label_file_layer(group, f"{file.name.split('.')[0]} {group.name}") for group in _label_groups(file)]
    return file_layers(file) + groups


def looks_like_labels(path: Path) -> bool:
    """Whether a file's own name, or that of its folder, says that it holds labels.

    Examples
    --------
    >>> looks_like_labels(Path("a_mask.tif")), looks_like_labels(Path("labels/a.tif")), looks_like_labels(Path("a.tif"))
    (True, True, False)
    """
    words = path.name.split(".")[0].lower().replace("-", "_").split("_")
    return words[-1] in _LABELS or path.parent.name.lower() in _LABELS or path.parent.name.startswith("labelsT")


def _is_ours(path: str) -> bool:
    """Whether a name ends as biosegkit knows, or a folder holds DICOM files."""
    from biosegkit.io import formats
    from biosegkit.io.sniff import sniff

    if path.lower().rstrip("/\\").endswith((*formats(), ".dcm")):
        return True
    return Path(path).is_dir() and sniff(path) == "dicom"


def _label_groups(path: Path) -> list[Path]:
    """Labels inside an OME-Zarr."""
    folder = path / "labels"
    return sorted(p for p in folder.iterdir() if p.is_dir()) if path.is_dir() and folder.is_dir() else []
