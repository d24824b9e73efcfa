"""What makes a zarr store safe to read: a closed list of codecs, and for our own stores a manifest (F2, F3, S4)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from biosegkit._atomic import read_json
from biosegkit.errors import FileError

if TYPE_CHECKING:
    from .remote import Remote

__all__ = ["EDITING", "OWN", "Place", "array_metadata", "attributes", "manifest", "verify"]

#: Where a store is: a folder, or one behind a URL.
Place: TypeAlias = "Path | Remote"

#: The attribute that marks a store of ours.
OWN = "biosegkit"
#: What stands for the manifest while labels are edited on disk (:mod:`biosegkit.io.edited`).
EDITING = {"editing": True}

_CODECS = {"blosc", "zstd", "zlib", "gzip", "lz4", "bz2", "lzma", "crc32", "crc32c", "adler32", "fletcher32", "shuffle",
           "delta", "fixedscaleoffset", "packbits", "bitround", "quantize", "astype", "bytes", "transpose", "endian",
           "sharding_indexed", "jenkins_lookup3"}
_ARRAY_FILES = ("zarr.json", ".zarray")
_METADATA = 64 << 20


def _read(place: Place) -> Any:
    """JSON of a file, or None where there is none."""
    if isinstance(place, Path):
        return read_json(place, _METADATA) if place.is_file() else None
    return place.read_json(_METADATA)


def attributes(folder: Place) -> dict[str, Any]:
    """The attributes of a group or array, either zarr format."""
    found = _read(folder / "zarr.json")
    if found is not None:
        return dict(found.get("attributes", {})) if isinstance(found, dict) else {}
    found = _read(folder / ".zattrs")
    return dict(found) if isinstance(found, dict) else {}


def array_metadata(folder: Place) -> dict[str, Any] | None:
    """The metadata of an array, or None where the folder is no array. Its codecs are checked.

    Raises
    ------
    FileError
        For a codec outside the closed list: decoding some of them runs code from the file (S4).
    """
    for name in _ARRAY_FILES:
        found = _read(folder / name)
        if found is not None:
            break
    if not isinstance(found, dict) or (name == "zarr.json" and found.get("node_type") != "array"):
        return None
    for codec in _codecs(found):
        if codec.removeprefix("numcodecs.") not in _CODECS:
            raise FileError(f"codec {codec!r}", file=str(folder), expected=f"one of {', '.join(sorted(_CODECS))}",
                            remedy="write the array again with zstd, blosc or gzip")
    return found


def _codecs(found: Mapping[str, Any]) -> Iterator[str]:
    """Names of all codecs, those inside shards too."""
    listed = [found.get("compressor"), *(found.get("filters") or ()), *(found.get("codecs") or ())]
    for codec in filter(None, listed):
        yield str(codec.get("id") or codec.get("name")) if isinstance(codec, Mapping) else str(codec)
        if isinstance(codec, Mapping):
            inner = codec.get("configuration")
            if isinstance(inner, Mapping):
                yield from _codecs({"codecs": [*inner.get("codecs", ()), *inner.get("index_codecs", ())]})


def manifest(group: Path, levels: list[str], own: Mapping[str, Any]) -> dict[str, Any]:
    """What must be there: chunks, bytes and a hash of the metadata per array, and a hash of what ``own`` says."""
    return {"own_sha256": _digest(own), "arrays": {level: _counted(group / level) for level in levels}}


def verify(group: Path, own: Mapping[str, Any]) -> None:
    """Compare a store of ours with its manifest; foreign stores have none, and one that is being edited has none yet.

    Raises
    ------
    FileError
        If a chunk is lost or cut, or the metadata have changed (F2, F3).
    """
    expected = own.get("manifest")
    if expected == EDITING:
        return
    if not isinstance(expected, Mapping) or not isinstance(expected.get("arrays"), Mapping):
        raise FileError("no manifest of its chunks", file=group, expected="a whole store of biosegkit",
                        remedy="copy or write it again")
    if expected.get("own_sha256") != _digest({k: v for k, v in own.items() if k != "manifest"}):
        raise FileError("attributes that have changed", file=group, expected="those it was written with",
                        remedy="copy or write it again")
    for level, want in expected["arrays"].items():
        if not isinstance(want, Mapping) or "/" in level or level.startswith("."):
            raise FileError(f"an unreadable manifest entry {level!r}", file=group, remedy="copy or write it again")
        have = _counted(group / level)
        for key in ("chunks", "bytes", "metadata_sha256"):
            if have[key] != want.get(key):
                raise FileError(f"{key} {have[key]} of array {level}", file=group, expected=f"{want.get(key)}, as "
                                "written", remedy="chunks are lost or damaged; copy or write the store again")


def _digest(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _counted(array: Path) -> dict[str, Any]:
    """Chunks, bytes and hash of the metadata of one array."""
    chunks = size = 0
    for folder, _, names in os.walk(array):
        for name in names:
            if name not in ("zarr.json", ".zarray", ".zattrs"):
                chunks += 1
                size += (Path(folder) / name).stat().st_size
    header = next((array / n for n in _ARRAY_FILES if (array / n).is_file()), None)
    digest = hashlib.sha256(header.read_bytes()).hexdigest() if header else ""
    return {"chunks": chunks, "bytes": size, "metadata_sha256": digest}
