"""A folder behind a URL, with the few operations of paths that reading a store needs."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import fsspec
from zarr.storage import FsspecStore

from biosegkit.errors import FileError, OptionError

__all__ = ["Remote", "failures"]

#: What file systems say of a file that changes with it.
_STAMPS = ("size", "ETag", "etag", "mtime", "LastModified", "updated", "created")
_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")


def failures() -> tuple[type[Exception], ...]:
    """What a connection raises: ``OSError``, and what is none of the libraries for http and s3."""
    known = (("aiohttp", "ClientError"), ("botocore.exceptions", "BotoCoreError"))
    return (OSError, *(getattr(sys.modules[module], name) for module, name in known if module in sys.modules))


@lru_cache(maxsize=8)
def _files(url: str) -> tuple[Any, str]:
    """The file system of a URL, and its path in there.

    Raises
    ------
    OptionError
        For an unknown protocol, or one whose package is not installed.
    """
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise OptionError(f"the address {url} ({error})", expected="a protocol that fsspec knows, such as s3:// or "
                          "https://", remedy="check the address, or install the package named") from error
    return found


class _Whole(FsspecStore):  # type: ignore[misc]
    """A store all chunks of which were written: a lost one is an error, not a chunk of zeros (F3)."""

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """The bytes of a key."""
        found = await super().get(key, prototype, byte_range)
        if found is None and key.rpartition("/")[2] not in _METADATA:
            raise KeyError(f"the chunk {key} is lost")
        return found


@dataclass(frozen=True)
class Remote:
    """A folder, or a file in it.

    Parameters
    ----------
    url : str

    Examples
    --------
    >>> (Remote("s3://bucket/a.zarr") / "0").url, (Remote("s3://bucket/a.zarr") / "0").name
    ('s3://bucket/a.zarr/0', '0')
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> Remote:
        return Remote(f"{self.url.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rstrip("/").rpartition("/")[2]

    def read(self, limit: int) -> bytes | None:
        """The bytes of a file, or None where there is none.

        Raises
        ------
        FileError
            If it cannot be read, or is larger than the limit.
        """
        files, path = _files(self.url)
        try:
            data: bytes = files.cat_file(path, start=0, end=limit + 1)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        except failures() as error:
            raise self._silent(error) from error
        if len(data) > limit:
            raise FileError(f"more than {limit} bytes", file=self.url, expected=f"at most {limit} bytes of metadata")
        return data

    def read_json(self, limit: int) -> Any:
        """The JSON of a file, or None where there is none.

        Raises
        ------
        FileError
            As :meth:`read`; also if it is not JSON.
        """
        data = self.read(limit)
        try:
            return None if data is None else json.loads(data)
        except ValueError as error:
            raise FileError(f"no readable JSON ({error})", file=self.url,
                            remedy="copy or write the store again") from error

    def fingerprint(self) -> str:
        """SHA-256 of what tells the content apart without reading it.

        The metadata of the store; and where the file system lists its files, which web servers do not, the names,
        sizes, tags and times of all of them.

        Raises
        ------
        FileError
            If there is no answer.
        """
        digest = hashlib.sha256()
        for name in _METADATA:
            digest.update(f"{name} {(self / name).read(64 << 20)!r}\n".encode())
        files, path = _files(self.url)
        if self.url.partition(":")[0] not in ("http", "https"):
            files.invalidate_cache(path)  # lists are kept as long as the process runs
            try:
                listed = files.find(path, detail=True)
            except failures() as error:
                raise self._silent(error) from error
            for name, told in sorted(listed.items()):
                stamps = [str(told.get(key)) for key in _STAMPS]
                digest.update(f"{name.removeprefix(path)} {' '.join(stamps)}\n".encode())
        return digest.hexdigest()

    def _silent(self, error: Exception) -> FileError:
        return FileError(f"no answer ({str(error)[:200] or type(error).__name__})", file=self.url,
                         remedy="check the address, the network and your permissions; a public bucket of s3 is read "
                         "with the environment variable FSSPEC_S3_ANON=true" if self.url.startswith("s3:") else
                         "check the address, the network and your permissions")

    def store(self, *, whole: bool) -> FsspecStore:
        """For zarr; ``whole`` if every chunk is known to have been written."""
        kind = _Whole if whole else FsspecStore
        return kind.from_url(self.url, read_only=True)
