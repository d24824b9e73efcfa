"""The module of each format, found by content."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

from biosegkit._endings import ENDINGS
from biosegkit.errors import FileError

from . import arrange
from .options import ReadOptions
from .raw import Position, Raw
from .sniff import ending, sniff

__all__ = ["MODULES", "images", "local", "module", "opened", "remote_url"]

#: Format found by content → the module that reads and writes it.
MODULES = {"nifti": "nifti", "nifti.gz": "nifti", "tiff": "tiff", "png": "png", "jpeg": "png", "bmp": "png",
           "zarr": "zarr", "openslide": "slide", "dicom": "dicom"}


def module(name: str) -> ModuleType:
    """A format's module, loaded when it is needed."""
    return importlib.import_module(f"biosegkit.io.{name}")


def remote_url(path: str | Path) -> str | None:
    """The URL that a path is, or None for a path of this machine; :class:`pathlib.Path` drops one of its slashes.

    Examples
    --------
    >>> remote_url("s3://bucket/a.zarr"), remote_url(Path("http://host/a.zarr")), remote_url("C:/a.zarr")
    ('s3://bucket/a.zarr', 'http://host/a.zarr', None)
    """
    scheme, colon, rest = str(path).partition(":/")
    if not colon or len(scheme) < 2 or "/" in scheme or Path(path).exists():
        return None
    rest = rest.lstrip("/")
    return f"{scheme}:///{rest}" if scheme in ("file", "local") else f"{scheme}://{rest}"


def local(path: str | Path) -> str | Path:
    """The path of this machine that a URL ``file://`` stands for; everything else as it is.

    Examples
    --------
    >>> local("file:///data/a.zarr"), local("s3://bucket/a.zarr")
    (PosixPath('/data/a.zarr'), 's3://bucket/a.zarr')
    """
    url = remote_url(path)
    if url is None or url.partition(":")[0] not in ("file", "local"):
        return path
    plain = Path(url.partition("://")[2])
    return plain if plain.exists() else Path(unquote(str(plain)))


def _place(path: str | Path) -> tuple[str, object]:
    """The format of a file, and what its module opens.

    Raises
    ------
    FileError
        As :func:`sniff`; also for a URL of something else than an OME-Zarr.
    """
    path = local(path)
    url = remote_url(path)
    if url is not None:
        from .remote import Remote  # loads what network protocols need

        kind = ENDINGS.get(ending(path), "zarr")
        if kind != "zarr":
            raise FileError(f"{kind} behind a URL", file=url, expected="an OME-Zarr, or a file of this machine",
                            remedy="download it, or convert it to OME-Zarr")

        return "zarr", Remote(url)
    kind = sniff(path)
    if kind == "folder":
        raise FileError("a folder", file=path, expected="an image file", remedy="name a file in it")
    return kind, Path(path)


def opened(path: str | Path, options: ReadOptions, *, labels: bool = False) -> Raw:
    """What a file, or an OME-Zarr behind a URL, holds; its voxels are not yet read."""
    kind, place = _place(path)
    found: Raw = module(MODULES[kind]).raw(place, options, labels=labels)
    return found


def images(path: str | Path, options: ReadOptions) -> tuple[Position, ...]:
    """The images of a file, with the time points of each; one without a number where the format holds one image."""
    kind, place = _place(path)
    several = getattr(module(MODULES[kind]), "images", None)
    if several is not None:
        found: tuple[Position, ...] = several(place, options)
        return found
    axes, sizes = arrange.axes_of(module(MODULES[kind]).raw(place, options), options)
    return (Position("", None, sizes[axes.index("t")] if "t" in axes else 1),)
