"""A file exists only when whole: whatever fails, the old one stays and nothing else is left."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from biosegkit._atomic import (
    atomic_folder,
    atomic_path,
    load_npy,
    read_json,
    sha256,
    write_bytes,
    write_json,
    write_npy,
)
from biosegkit.errors import FileError

WRITERS = {
    "bytes": lambda p: write_bytes(p, b"new" * 5000),
    "json": lambda p: write_json(p, list(range(5000))),
    "npy": lambda p: write_npy(p, np.arange(5000)),
}


@pytest.fixture
def refuse(monkeypatch):
    """Every rename fails as on a full or read-only disk."""
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    monkeypatch.setattr(Path, "replace", fail)
    monkeypatch.setattr(os, "rename", fail)


@pytest.mark.parametrize("writer", WRITERS)
def test_F7_a_rename_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, refuse, writer):
    target = tmp_path / "a.dat"
    target.write_bytes(b"old")
    with pytest.raises(FileError, match="No space left"):
        WRITERS[writer](target)
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.dat"]


def test_F7_a_folder_whose_rename_fails_keeps_the_old_one(tmp_path, monkeypatch):
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "x").write_text("old")
    real, calls = Path.replace, []

    def second_fails(self, other):
        calls.append(self)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        return real(self, other)

    monkeypatch.setattr(Path, "replace", second_fails)
    with pytest.raises(FileError, match="Input/output"), atomic_folder(target) as temporary:
        (temporary / "x").write_text("new")
    assert len(calls) >= 2
    assert (target / "x").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_P8_ctrl_c_between_the_two_renames_of_a_folder_keeps_the_old_one(tmp_path, monkeypatch):
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "x").write_text("old")
    real, calls = Path.replace, []

    def interrupted(self, other):
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, other)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_folder(target) as temporary:
        (temporary / "x").write_text("new")
    assert (target / "x").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
@pytest.mark.parametrize("writer", WRITERS)
def test_F7_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, writer):
    """The child may write 4 KiB per file: its error is ours, the folder as before."""
    target = tmp_path / "a.dat"
    target.write_bytes(b"old" * 100)
    before = hashlib.sha256(target.read_bytes()).hexdigest()
    child = (
        "import resource, signal, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from biosegkit.errors import FileError\n"
        "from test_atomic import WRITERS\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        f"try: WRITERS[{writer!r}](Path({str(target)!r}))\n"
        "except FileError as error: sys.exit(7 if 'unchanged' in str(error) else 8)\n"
    )
    done = subprocess.run([sys.executable, "-B", "-c", child], timeout=60, check=False, capture_output=True)
    assert done.returncode == 7, done.stderr.decode()
    assert hashlib.sha256(target.read_bytes()).hexdigest() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.dat"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), FileError("x")])
def test_any_error_in_the_block_passes_and_leaves_nothing(tmp_path, error):
    def half(door):
        with door(tmp_path / "a") as temporary:
            (temporary / "b" if temporary.is_dir() else temporary).write_text("half")
            raise error

    for door in (atomic_path, atomic_folder):
        with pytest.raises(type(error)):
            half(door)
    assert list(tmp_path.iterdir()) == []


def test_a_whole_folder_replaces_the_old_one(tmp_path):
    for text in ("one", "two"):
        with atomic_folder(tmp_path / "deep" / "run") as temporary:
            (temporary / text).write_text(text)
    assert [p.name for p in (tmp_path / "deep/run").iterdir()] == ["two"]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["run"]


@pytest.mark.parametrize("name", ["細胞" * 40 + ".json", "n" * 250 + ".json", "a #%&.json", "." + "p" * 100])
def test_D5_long_and_unusual_names_can_be_written(tmp_path, name):
    write_json(tmp_path / name, {"a": 1})
    assert read_json(tmp_path / name) == {"a": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_the_temporary_keeps_the_ending(tmp_path):
    with atomic_path(tmp_path / "scan.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz")
        assert temporary.parent == tmp_path
        temporary.touch()


def test_json_is_strict(tmp_path):
    value = {"a": np.float32(0.5), "b": (np.int64(3), float("nan")), 1: Path("x"), "c": np.array([1, 2]), "ü": -np.inf}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    refused = {"parse_constant": lambda name: pytest.fail(name)}
    assert json.loads(text, **refused) == {"a": 0.5, "b": [3, None], "1": "x", "c": [1, 2], "ü": None}


def test_F4_json_that_is_missing_cut_or_too_large_is_refused(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(FileError, match="no such file"):
        read_json(path)
    path.write_text('{"a": 1')
    with pytest.raises(FileError, match="no readable JSON"):
        read_json(path)
    path.write_text("[1, 2, 3]")
    with pytest.raises(FileError, match="9 bytes"):
        read_json(path, limit=8)


# --- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("array", [
    np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((0, 3), np.int32), np.array([True, False]),
    np.arange(12).reshape(3, 4).T, np.arange(12).reshape(3, 4)[:, ::2],
], ids=["float", "empty", "bool", "fortran", "strided"])
def test_arrays_come_back(tmp_path, array):
    crc = write_npy(tmp_path / "a.npy", array)
    for again in (load_npy(tmp_path / "a.npy", crc=crc), load_npy(tmp_path / "a.npy", mmap=array.size > 0)):
        assert again.dtype == array.dtype
        assert np.array_equal(again, array)


def test_F2_any_flipped_bit_of_a_stored_array_is_refused(tmp_path):
    """Also in the header: '<f4' and '>f4' are one bit apart, and the bytes of the values are the same."""
    path = tmp_path / "a.npy"
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    crc = write_npy(path, array)
    data = path.read_bytes()
    for bit in range(len(data) * 8):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(bytes(bad))
        try:
            found = load_npy(path, crc=crc)
        except FileError:
            continue
        # some header bits mean nothing (a space, the padding): then it is the same array
        assert found.dtype == array.dtype
        assert np.array_equal(found, array), bit


@pytest.mark.parametrize("length", [0, 5, 60, 130, 170])
def test_F1_a_cut_array_is_refused(tmp_path, length):
    path = tmp_path / "a.npy"
    crc = write_npy(path, np.arange(12, dtype=np.float32))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(FileError):
        load_npy(path, crc=crc)


def test_S4_an_array_of_objects_is_never_unpickled(tmp_path):
    path = tmp_path / "a.npy"
    with path.open("wb") as handle:
        np.save(handle, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(FileError, match="no readable array"):
        load_npy(path)


def test_sha256_of_a_file(tmp_path):
    data = np.random.default_rng(0).bytes(5 << 20)
    (tmp_path / "a").write_bytes(data)
    seen = []
    assert sha256(tmp_path / "a", seen.append) == hashlib.sha256(data).hexdigest()
    assert seen == [4 << 20, 1 << 20]


@pytest.mark.parametrize(("number", "words"), [
    (errno.ENOSPC, "free space or choose another"), (errno.EROFS, "make it writable or choose another"),
    (errno.EACCES, "make it writable or choose another")])
def test_what_to_do_follows_from_why_it_cannot_be_written(tmp_path, monkeypatch, number, words):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", fail)
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(FileError, match=words):
        write_bytes(tmp_path / "a.json", b"new")
