"""A StarDist model on disk: a csbdeep folder, or a package of bioimage.io; as folder or zip, read member by member."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from biosegkit.errors import FileError

from .star_config import StarConfig, Thresholds, read_config, read_thresholds

__all__ = ["StarFiles", "looks_like_star", "read_star"]

_EXPECTED = ("config.json, thresholds.json and weights_best.h5, as StarDist writes them, or the rdf.yaml and "
             "stardist_weights.h5 of a bioimage.io package; folder or zip")
_WEIGHTS = ("weights_best.h5", "weights_last.h5", "weights_now.h5", "stardist_weights.h5")
_TEXT, _BINARY = 16 << 20, 4 << 30  # largest sizes


@dataclass(frozen=True)
class StarFiles:
    """Everything a StarDist model consists of.

    Parameters
    ----------
    config : StarConfig
    thresholds : Thresholds
    weights : bytes
        HDF5.
    weights_name : str
    licence : str
        As the package states it; empty if it does not.
    name : str
    notes : tuple of str
    """

    config: StarConfig
    thresholds: Thresholds
    weights: bytes
    weights_name: str
    licence: str
    name: str
    notes: tuple[str, ...] = ()


class _Folder:
    """Regular files of a folder, or of a zip, by their last name; the ones nearest to the top win."""

    def __init__(self, path: Path) -> None:
        self.path, self.archive = path, None
        if path.is_dir():
            found = [(p.name, p.lstat()) for p in sorted(path.iterdir())]
            self.sizes = {name: s.st_size for name, s in found if stat.S_ISREG(s.st_mode)}
            self.names = {name: name for name in self.sizes}
            return
        try:
            self.archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise FileError(f"no StarDist model ({error})", file=path, expected=_EXPECTED,
                            remedy="name the folder that holds these files, or a zip of it") from error
        infos = sorted((i for i in self.archive.infolist() if not i.is_dir()), key=lambda i: -i.filename.count("/"))
        self.names = {PurePosixPath(i.filename).name: i.filename for i in infos}
        self.sizes = {PurePosixPath(i.filename).name: i.file_size for i in infos}

    def read(self, name: str, most: int) -> bytes:
        """All bytes of a file, never more than its size announces."""
        size = self.sizes[name]
        if size > most:
            raise FileError(f"{name} of {size} bytes", file=self.path, expected=f"at most {most}")
        try:
            if self.archive is None:
                with (self.path / name).open("rb") as handle:
                    return handle.read(size)
            with self.archive.open(self.names[name]) as member:
                return member.read(size)
        except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise FileError(f"{name} cannot be read ({error})", file=self.path, remedy="copy it again") from error

    def json(self, name: str) -> Mapping[str, Any]:
        """A JSON object."""
        try:
            data = json.loads(self.read(name, _TEXT))
        except ValueError as error:
            raise FileError(f"{name} is no JSON ({error})", file=self.path, remedy="copy it again") from error
        return _mapping(data, f"{self.path}/{name}")

    def yaml(self, name: str) -> Mapping[str, Any]:
        """A YAML mapping."""
        import yaml

        try:
            data = yaml.safe_load(self.read(name, _TEXT))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise FileError(f"{name} is no YAML", file=self.path, remedy="copy it again") from error
        return _mapping(data, f"{self.path}/{name}")


def looks_like_star(path: Path) -> bool:
    """Whether a folder or zip has the files of a StarDist model."""
    if not (path.is_dir() or (path.is_file() and zipfile.is_zipfile(path))):
        return False
    files = _Folder(path)
    if "config.json" in files.names:
        return {"n_rays", "grid"} <= set(files.json("config.json"))
    return "rdf.yaml" in files.names and _stardist_of(files) is not None


def read_star(path: Path) -> StarFiles:
    """Read a StarDist model.

    Raises
    ------
    FileError
        If something is missing or damaged; the message lists what is expected.
    """
    if not path.exists():
        raise FileError("nothing there", file=path, expected=_EXPECTED,
                        remedy="correct the path; nothing is downloaded here")
    files = _Folder(path)
    if "config.json" in files.names:
        return _csbdeep(files)
    if "rdf.yaml" in files.names:
        return _bioimage(files)
    raise FileError(f"{', '.join(sorted(files.names)[:6]) or 'no file'}", file=path, expected=_EXPECTED,
                    remedy="name the folder that holds config.json or rdf.yaml")


def _csbdeep(files: _Folder) -> StarFiles:
    """Of a folder as csbdeep writes it."""
    config = read_config(files.json("config.json"), f"{files.path}/config.json")
    notes: tuple[str, ...] = ()
    thresholds = Thresholds()
    if "thresholds.json" in files.names:
        thresholds = read_thresholds(files.json("thresholds.json"), f"{files.path}/thresholds.json")
    else:
        notes = ("no thresholds.json: prob 0.5 and nms 0.4, the defaults of StarDist",)
    name = _weights(files, _WEIGHTS)
    return StarFiles(config, thresholds, files.read(name, _BINARY), name, "", files.path.stem, notes)


def _bioimage(files: _Folder) -> StarFiles:
    """Of a package of bioimage.io with the model in it."""
    about, inner = files.yaml("rdf.yaml"), _stardist_of(files)
    if inner is None:
        raise FileError("an rdf.yaml without config.stardist", file=files.path,
                        expected="a package that StarDist exported", remedy="other models of bioimage.io are not run")
    place = f"{files.path}/rdf.yaml"
    config = read_config(_mapping(inner.get("config"), place), place)
    thresholds = read_thresholds(_mapping(inner.get("thresholds"), place), place)
    listed = PurePosixPath(str(inner.get("weights", ""))).name
    name = _weights(files, (listed, *_WEIGHTS))
    return StarFiles(config, thresholds, files.read(name, _BINARY), name, str(about.get("license") or ""),
                     str(about.get("name") or files.path.stem))


def _weights(files: _Folder, names: tuple[str, ...]) -> str:
    """The best weights that are there."""
    for name in names:
        if name in files.names:
            return name
    raise FileError(f"no weights beside {', '.join(sorted(files.names)[:6])}", file=files.path, expected=_EXPECTED,
                    remedy="copy the whole model; a TensorFlow SavedModel alone is not enough")


def _stardist_of(files: _Folder) -> Mapping[str, Any] | None:
    config = files.yaml("rdf.yaml").get("config")
    inner = config.get("stardist") if isinstance(config, dict) else None
    return inner if isinstance(inner, dict) else None


def _mapping(data: Any, file: str) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise FileError(f"{type(data).__name__} in place of settings", file=file, expected="names with values",
                        remedy="copy it again")
    return data
