"""A folder behind a URL, with the few operations of paths that reading a store needs."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import fsspec
from zarr.storage import FsspecStore

from biosegkit.errors import FileError, OptionError

__all__ = ["Remote", "waiting"]

#: What file systems say of a file that changes with it.
_STAMPS = ("size", "ETag", "etag", "mtime", "LastModified", "updated", "created")
_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
#: Seconds in which a web server must take a connection, and then say something more. Without, one that never answers is
#: waited for 5 minutes per file, and a large answer that takes longer is cut off.
_CONNECT, _SILENCE = 30.0, 60.0
_WEB = ("http", "https")


def _failures() -> tuple[type[Exception], ...]:
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
        found: tuple[Any, str] = fsspec.core.url_to_fs(url, **waiting(url))
    except (ValueError, ImportError) as error:
        raise OptionError(f"the address {url} ({error})", expected="a protocol that fsspec knows, such as s3:// or "
                          "https://", remedy="check the address, or install the package named") from error
    return found


def waiting(url: str) -> dict[str, Any]:
    """Options of a file system that limit how long it waits, with what the user's configuration of fsspec says.

    Examples
    --------
    >>> waiting("s3://bucket/a.zarr"), waiting("file:///a.zarr")
    ({'config_kwargs': {'retries': {'max_attempts': 0}}}, {})
    """
    protocol = url.partition("://")[0]
    if protocol in _WEB:
        from aiohttp import ClientTimeout

        said = [fsspec.config.conf.get(name, {}).get("client_kwargs", {}) for name in _WEB]
        own = {"timeout": ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=_SILENCE)}
        return {"client_kwargs": {**own, **said[0], **said[1]}}
    if protocol == "s3":  # s3fs asks 25 times, each for 15 s; what it stands on would make it 125 times
        return {"config_kwargs": {"retries": {"max_attempts": 0}, **fsspec.config.conf.get("s3", {}).get(
            "config_kwargs", {})}}
    return {}


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
            with self.answering():
                data: bytes = files.cat_file(path, start=0, end=limit + 1)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
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
            with self.answering():
                listed = files.find(path, detail=True)
            for name, told in sorted(listed.items()):
                stamps = [str(told.get(key)) for key in _STAMPS]
                digest.update(f"{name.removeprefix(path)} {' '.join(stamps)}\n".encode())
        return digest.hexdigest()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """What a connection raises, as an error with what was waited; that there is no such file is an answer.

        Raises
        ------
        FileError
            If there is no answer, or a refusal.
        """
        started = time.monotonic()
        try:
            yield
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise
        except _failures() as error:
            seconds = time.monotonic() - started
            waited = f" in {seconds:.0f} s" if seconds >= 1 else ""
            bucket = ("; a public bucket of s3 is read with the environment variable FSSPEC_S3_ANON=true"
                      if self.url.startswith("s3:") else "")
            again = ", or try again later" if waited else ""
            raise FileError(f"no answer{waited} ({str(error)[:200] or type(error).__name__})", file=self.url,
                            expected="a server that answers" if waited else "",
                            remedy=f"check the address, the network and your permissions{again}{bucket}") from error

    def store(self, *, whole: bool) -> FsspecStore:
        """For zarr; ``whole`` if every chunk is known to have been written."""
        kind = _Whole if whole else FsspecStore
        return kind.from_url(self.url, waiting(self.url), read_only=True)
