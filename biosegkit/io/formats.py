"""The module of each format, found by content."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from biosegkit.errors import FileError

from .options import ReadOptions
from .raw import Raw
from .sniff import sniff

__all__ = ["MODULES", "module", "opened"]

#: Format found by content → the module that reads and writes it.
MODULES = {"nifti": "nifti", "nifti.gz": "nifti", "tiff": "tiff", "png": "png", "jpeg": "png", "bmp": "png",
           "zarr": "zarr"}


def module(name: str) -> ModuleType:
    """A format's module, loaded when it is needed."""
    return importlib.import_module(f"biosegkit.io.{name}")


def opened(path: str | Path, options: ReadOptions, *, labels: bool = False) -> Raw:
    """What a file holds, its voxels not yet read."""
    kind = sniff(path)
    if kind == "folder":
        raise FileError("a folder", file=path, expected="an image file", remedy="name a file in it")
    found: Raw = module(MODULES[kind]).raw(Path(path), options, labels=labels)
    return found
