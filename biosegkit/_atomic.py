"""A file exists only when whole: write beside the target, flush, fsync, replace."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import FileError

__all__ = ["atomic_folder", "atomic_path", "load_npy", "read_json", "sha256", "sweep", "way_out", "write_bytes",
           "write_json", "write_npy"]


#: Names of :func:`_beside`.
_LEFTOVER = re.compile(r"\.\d+\.(partial|old)\.[0-9a-f]{12}")


@contextmanager
def atomic_path(target: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the target's folder that becomes ``target`` when the block ends without error.

    The temporary keeps the target's ending so that writers that look at it do the same thing. An error in the block
    removes the temporary and leaves an older ``target`` as it was. Without ``durable`` nothing is forced onto the disk.

    Raises
    ------
    FileError
        When the folder cannot be written (read-only, no space, quota).

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_path(Path(folder) / "a.txt") as temporary:
    ...         _ = temporary.write_text("whole")
    ...     (Path(folder) / "a.txt").read_text()
    'whole'
    """
    target = Path(target)
    temporary = _beside(target, "partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            with temporary.open("rb+") as handle:
                os.fsync(handle.fileno())
        temporary.replace(target)
        if durable:
            _sync_folder(target.parent)
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        with suppress(NotADirectoryError):  # the folder is a file, which the error says
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: str | Path) -> Iterator[Path]:
    """Like :func:`atomic_path` for a folder; an older folder is moved aside, replaced, then removed."""
    target = Path(target)
    temporary, old = _beside(target, "partial"), _beside(target, "old")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if target.exists():
            target.replace(old)
        temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        if old.exists() and not target.exists():  # also after Ctrl-C between the two renames
            old.replace(target)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _unwritable(target: Path, error: OSError) -> FileError:
    """Why a target was not written."""
    return FileError(f"cannot write: {error.strerror or error}", file=target,
                     expected="a writable folder with free space",
                     remedy=f"{way_out(error)} or choose another output folder; what stood there before is unchanged")


def way_out(error: OSError) -> str:
    """What makes a place writable: space where there is none, else the right to write.

    Examples
    --------
    >>> way_out(OSError(errno.ENOSPC, "")), way_out(OSError(errno.EROFS, ""))
    ('free space', 'make it writable')
    """
    return "make it writable" if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) else "free space"


def _beside(target: Path, kind: str) -> Path:
    """A name of this process in the same folder, short enough for any target, with the target's ending."""
    ending = "".join(target.suffixes[-2:])
    digest = hashlib.sha256(target.name.encode(errors="surrogatepass")).hexdigest()[:12]
    return target.with_name(f".{os.getpid()}.{kind}.{digest}{ending if len(ending) < 24 else ''}")


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable (a no-op where folders cannot be opened, as on Windows)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: str | Path) -> int:
    """Remove temporaries of killed processes below a folder that this process holds; how many there were.

    Zarr stores are not looked into.
    """
    count = 0
    for place, folders, files in os.walk(folder):
        left = [name for name in (*folders, *files) if _LEFTOVER.match(name)]
        for path in (Path(place) / name for name in left):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        folders[:] = [name for name in folders if name not in left and not name.endswith(".zarr")]
        count += len(left)
    return count


def write_bytes(target: str | Path, data: bytes) -> None:
    """Write bytes atomically."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)


def write_json(target: str | Path, value: Any) -> None:
    """Write JSON atomically, keys in the order given, with a final newline. NaN and infinity become null."""
    write_bytes(target, (json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _plain(value: Any) -> Any:
    """Numpy scalars, paths, tuples and non-finite floats as plain JSON values."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def read_json(path: str | Path, limit: int = 256 << 20) -> Any:
    """Read JSON of at most ``limit`` bytes.

    Raises
    ------
    FileError
        If the file is missing, larger than the limit, or not JSON.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise FileError("no such file", file=path, expected="a JSON file", remedy="check the path")
        if path.stat().st_size > limit:
            raise FileError(f"{path.stat().st_size} bytes", file=path, expected=f"at most {limit} bytes")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileError(f"no readable JSON ({error})", file=path, expected="a JSON file",
                        remedy="restore the file or make it again") from error


def write_npy(target: str | Path, array: npt.NDArray[Any], *, durable: bool = True) -> str:
    """Write an array as .npy atomically and return the CRC-32 of the file as eight hexadecimal digits.

    Without ``durable`` it may be lost or damaged when power fails: for what has a checksum and can be made again.
    """
    array = np.ascontiguousarray(array).reshape(np.shape(array))
    with atomic_path(target, durable=durable) as temporary:
        with temporary.open("wb") as handle:
            np.save(handle, array, allow_pickle=False)
        return _crc(temporary)


def load_npy(path: str | Path, *, crc: str | None = None, mmap: bool = False) -> npt.NDArray[Any]:
    """Read an .npy file, never unpickling; with ``crc`` a damaged file is refused before it is parsed.

    Raises
    ------
    FileError
        If the file is missing, cut, holds objects, or its checksum differs.
    """
    try:
        if crc is not None and (found := _crc(path)) != crc:
            raise FileError(f"checksum {found}", file=path, expected=crc, remedy="delete it; it is made again")
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)  # noqa: TID251 - the wrapper itself
    except (OSError, ValueError, EOFError, SyntaxError, MemoryError, TokenError) as error:
        raise FileError(f"no readable array ({error})", file=path, remedy="delete it; it is made again") from error
    return array


def _crc(path: str | Path) -> str:
    """CRC-32 of a file: its header counts too, where one bit makes ``<f4`` into ``>f4``."""
    value = 0
    with Path(path).open("rb") as handle:
        while piece := handle.read(4 << 20):
            value = zlib.crc32(piece, value)
    return f"{value:08x}"


def sha256(path: str | Path, progress: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file as hexadecimal digits, read in pieces of 4 MiB."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as handle:
        while piece := handle.read(4 << 20):
            digest.update(piece)
            if progress:
                progress(len(piece))
    return digest.hexdigest()
