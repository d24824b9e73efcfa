"""The members of a bundle, opened one by one against a closed list of names (faults S5, S6)."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ._words import counted
from .errors import FileError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Members", "read_array", "read_json_member", "read_tensors", "verified"]

#: Largest bytes per kind of member.
CAPS = {".json": 64 << 20, ".npy": 64 << 20, ".safetensors": 8 << 30}
_MEMBER = re.compile(r"bundle\.json|plan\.json|sample_in\.npy|sample_out\.npy|weights-[A-Za-z0-9_]{1,32}\.safetensors")


class Members:
    """The files of a bundle by name, from a folder or a zip, opened one by one (faults S5, S6)."""

    def __init__(self, path: Path) -> None:
        self.path, self.archive = path, None
        if path.is_dir():
            self.sizes = {p.name: p.lstat().st_size for p in path.iterdir()}
            links = [p.name for p in path.iterdir() if not stat.S_ISREG(p.lstat().st_mode)]
        else:
            try:
                self.archive = zipfile.ZipFile(path)
            except (OSError, zipfile.BadZipFile) as error:
                raise FileError(f"no bundle ({error})", file=path,
                                expected="a RUN, a bundle folder or its zip") from error
            infos = self.archive.infolist()
            self.sizes = {i.filename: i.file_size for i in infos}
            kinds = {i.filename: stat.S_IFMT(i.external_attr >> 16) for i in infos}
            links = [n for n, kind in kinds.items() if n.endswith("/") or kind not in (0, stat.S_IFREG)]
            if len(infos) != len(self.sizes):
                raise FileError("a name twice", file=path, expected="each member once")
        self._check(links)
        self.names = sorted(self.sizes)

    def _check(self, links: list[str]) -> None:
        strange = [name for name in self.sizes if not _MEMBER.fullmatch(name)]
        if strange or links:
            raise FileError(f"members {sorted({*strange, *links})[:3]}", file=self.path,
                            expected="regular files with the names of a bundle's members and nothing else",
                            remedy="this is not a bundle as biosegkit writes it: ask for the original")
        for name, size in self.sizes.items():
            if size > CAPS[Path(name).suffix]:
                raise FileError(f"{name} of {size} bytes", file=self.path,
                                expected=f"at most {CAPS[Path(name).suffix]} bytes")

    def read(self, name: str) -> bytes:
        """All bytes of a member, never more than were announced."""
        size = self.sizes.get(name)
        if size is None:
            raise FileError(f"no {name}", file=self.path, expected="a complete bundle", remedy="copy it again")
        try:
            if self.archive is None:
                with (self.path / name).open("rb") as handle:
                    data = handle.read(size + 1)
            else:
                with self.archive.open(name) as member:
                    data = member.read(size + 1)
        except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise FileError(f"{name} cannot be read ({error})", file=self.path, remedy="copy it again") from error
        if len(data) != size:
            raise FileError(f"{counted(len(data), 'byte')} of {name}", file=self.path, expected=str(size),
                            remedy="copy it again")
        return data


def verified(members: Members, name: str, info: Mapping[str, Any]) -> bytes:
    """Bytes of a member whose SHA-256 is the listed one."""
    data, listed = members.read(name), info["members"].get(name, {})
    if hashlib.sha256(data).hexdigest() != listed.get("sha256"):
        raise FileError(f"{name} with another SHA-256 than bundle.json lists", file=members.path,
                        expected=f"{str(listed.get('sha256'))[:12]}…",
                        remedy="it is damaged or was changed: copy it again")
    return data


def read_json_member(members: Members, name: str, info: Mapping[str, Any]) -> Any:
    """A JSON member."""
    try:
        return json.loads(verified(members, name, info))
    except ValueError as error:
        raise FileError(f"{name} is no JSON ({error})", file=members.path) from error


def read_array(members: Members, name: str, info: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """An array member, never unpickled."""
    data = verified(members, name, info)
    stream = io.BytesIO(data)
    try:
        np.lib.format.read_magic(stream)  # type: ignore[no-untyped-call]
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)  # type: ignore[no-untyped-call]
        values = np.frombuffer(data, dtype, offset=stream.tell())
    except (ValueError, EOFError) as error:
        raise FileError(f"{name} is no plain array ({error})", file=members.path) from error
    # The header may claim anything: what counts is what is there.
    if dtype != np.float32 or fortran or values.size != math.prod(shape):
        raise FileError(f"{name} of {values.size} {dtype}", file=members.path, expected=f"float32 of shape {shape}")
    return values.reshape(shape)


def read_tensors(members: Members, name: str, info: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a member."""
    from safetensors import SafetensorError
    from safetensors.torch import load as parse

    try:
        return dict(parse(verified(members, name, info)))
    except (SafetensorError, ValueError) as error:
        raise FileError(f"{name} is no safetensors file ({error})", file=members.path) from error
