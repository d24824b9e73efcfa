"""Batches in processes of their own: begun, looked at, left, found again, stopped, resumed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest
import tifffile

from biosegkit import predictions
from biosegkit.batch.ledger import FILE
from biosegkit.engines import load_model
from biosegkit.errors import DataError, FileError, OptionError
from biosegkit.io import read_labels
from biosegkit.predict import predict_files


def wait(condition, seconds=120):
    until = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < until:
        time.sleep(0.1)
    return found


def discs(folder, names, counts):
    folder.mkdir(exist_ok=True)
    for name, count in zip(names, counts, strict=True):
        image = np.full((20, 60), 10, np.uint8)
        for k in range(count):
            image[5:15, 4 + 14 * k : 13 + 14 * k] = 200
        tifffile.imwrite(folder / f"{name}.tif", image)


def test_a_batch_fails_alone_is_found_again_and_tries_again(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    discs(tmp_path / "in", "abc", (1, 2, 3))
    (tmp_path / "in/b.tif").write_bytes(b"no image")
    batch = predictions.start_batch("otsu", ["in"], "out")
    with pytest.raises(OptionError, match="running"):
        predictions.resume_batch("out")
    assert {item.state for item in batch.standing().items} <= {"waiting", "running", "done", "failed"}
    assert wait(lambda: not batch.running())
    found, = predictions.find_batches(tmp_path)
    standing = found.standing()
    assert standing.name == "finished", standing
    assert [(item.name, item.state, item.objects) for item in standing.items] == [
        ("a", "done", 1), ("b", "failed", None), ("c", "done", 3)]
    assert "b.tif" in standing.items[1].message
    assert read_labels(standing.items[2].output, "instance").count == 3

    before = standing.items[0].output.stat().st_mtime_ns
    discs(tmp_path / "in", "b", (2,))
    again = predictions.resume_batch("out")
    assert wait(lambda: not again.running())
    standing = again.standing()
    assert [item.objects for item in standing.items] == [1, 2, 3]
    assert standing.count("done") == 3
    assert standing.items[0].output.stat().st_mtime_ns == before, "what is there is kept"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT for another process")
def test_a_batch_that_was_begun_where_nobody_hears_ctrl_c_hears_it(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    names = [f"i{k:03}" for k in range(300)]
    discs(tmp_path / "in", names, [1] * len(names))
    script = ("import time; from biosegkit.predictions import start_batch\n"
              "batch = start_batch('otsu', ['in'], 'out')\n"
              "while batch.running() and not batch.standing().count('done'): time.sleep(0.01)\n"
              "print(batch.halt(patience=300).name)")  # asked otherwise only after that time
    deaf = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", script]  # as what a shell puts behind
    done = subprocess.run(deaf, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "stopped"), done.stderr
    ended = predictions.attach_batch(tmp_path / "out").standing()
    assert 0 < ended.count("done") < len(names)


def batch_of(folder, **changes):
    fields = {"out": folder / "out", "model": "otsu", "inputs": ["in"], "options": {}, "pid": 2**22 + 7, "born": 0.0,
              "said_before": 0, "cwd": str(folder)}
    return predictions.Batch(**{**fields, **changes})


def test_what_is_at_work_is_the_first_that_waits_or_what_the_ledger_says(tmp_path, monkeypatch):
    discs(tmp_path / "in", "abc", (1, 1, 1))
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(predictions.Batch, "running", lambda self: True)
    assert [item.state for item in batch_of(tmp_path).standing().items] == ["running", "waiting", "waiting"]
    with sqlite3.connect(tmp_path / "out" / FILE) as database:
        database.execute("CREATE TABLE runs (state TEXT)")
        database.execute("CREATE TABLE images (output TEXT, state TEXT)")
        database.execute("CREATE TABLE blocks (output TEXT)")
        database.execute("INSERT INTO blocks VALUES ('c.tif'), ('c.tif')")
        database.execute("INSERT INTO runs VALUES ('running')")
        database.execute("INSERT INTO images VALUES ('b.tif', 'running'), ('c.tif', 'running')")
    database.close()
    items = batch_of(tmp_path).standing().items
    assert [(item.state, item.message) for item in items] == [("waiting", ""), ("running", ""),
                                                              ("running", "2 blocks done")]


def test_why_a_batch_ended_is_told(tmp_path):
    discs(tmp_path / "in", "a", (1,))
    batch = batch_of(tmp_path)
    assert batch.standing().name == "stopped"
    predictions.beside(batch.out, "log").write_text("error\n  found     no such model\n  remedy    name another\n")
    standing = batch.standing()
    assert (standing.name, "no such model" in standing.message) == ("failed", True)
    batch_of(tmp_path).halt()  # one that has ended is left alone


def test_what_cannot_begin_is_refused_at_once(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="no image"):
        predictions.start_batch("otsu", [str(tmp_path / "in")], tmp_path / "out")
    with pytest.raises(FileError, match="an output that exists"):
        predictions.start_batch("otsu", [str(tmp_path / "in")], tmp_path)
    with pytest.raises(FileError, match="no record of a batch"):
        predictions.attach_batch(tmp_path / "out")
    (tmp_path / "out.batch.json").write_text('{"pid": 1}')
    with pytest.raises(FileError, match="unreadable record"):
        predictions.attach_batch(tmp_path / "out")


def test_a_file_that_cannot_be_is_told_of_an_image_that_is_done(tmp_path):
    """An image of no pixel size cannot be a DICOM segmentation; everything else of it is there."""
    pytest.importorskip("highdicom", reason="highdicom, of the extra dicom, is not installed")
    discs(tmp_path / "in", ["a"], [2])
    predict_files(load_model("otsu"), tmp_path / "in", tmp_path / "out", also=("dicom",))
    (item,) = batch_of(tmp_path).standing().items
    assert (item.state, item.objects) == ("done", 2)
    assert item.message.startswith("no a.dcm: a.tif: found no voxel size")
