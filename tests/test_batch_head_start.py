"""Worker processes have loaded their libraries before the process that asks for them has loaded its own."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from biosegkit._predict_options import Batching
from biosegkit.batch import head_start

_SCRIPT = '''
import multiprocessing, os, signal, sys
from biosegkit.batch.head_start import head_start

def told(name):
    return (os.environ.get("OMP_NUM_THREADS"), "MALLOC_TRIM_THRESHOLD_" in os.environ, name in sys.modules)

if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "3"
    os.environ.pop("MALLOC_TRIM_THRESHOLD_", None)  # dask's workers may have left it to the process that runs this
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have begun all this deaf to it
    head_start(["this"])  # prints when it is loaded, once
    head_start(["antigravity"])  # is there already: nothing new is loaded
    assert os.environ["OMP_NUM_THREADS"] == "3" and "MALLOC_TRIM_THRESHOLD_" not in os.environ
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not {"torch", "distributed", "numpy", "this"} & set(sys.modules), "something heavy was loaded here"
    context = multiprocessing.get_context("forkserver")
    with context.Pool(2) as pool:
        print(pool.map(told, ["this", "antigravity"], 1))
'''


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked from one that is ready on Linux only")
def test_workers_are_forked_from_a_process_that_began_before_anything_heavy(tmp_path):
    (tmp_path / "script.py").write_text(_SCRIPT, "utf-8")
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=60,
                          cwd=Path(__file__).parent.parent, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Beautiful is better than ugly.") == 1
    assert done.stdout.splitlines()[-1] == "[('1', False, True), ('1', False, False)]"


@pytest.mark.parametrize(("given", "inputs", "began"), [
    ({"workers": 2}, ["images"], True), ({}, ["images", "a.tif"], False), ({}, ["a.tif", "Slide 1.SVS"], True),
    ({"scheduler": "tcp://host:8786"}, ["a.svs"], False),
])
def test_processes_begin_at_once_where_there_will_be_workers(monkeypatch, given, inputs, began):
    calls = []
    monkeypatch.setattr(head_start, "head_start", lambda: calls.append(None))
    Batching(**given).prepare(inputs)
    assert bool(calls) is began


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked from one that is ready on Linux only")
def test_a_command_that_is_refused_leaves_no_process(tmp_path):
    command = [sys.executable, "-m", "biosegkit", "predict", "nowhere", "in", "-o", "out", "--workers", "2"]
    with (tmp_path / "said").open("w") as said, subprocess.Popen(
            command, cwd=tmp_path, stdout=said, stderr=said, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}) as child:
        assert child.wait(120) == 1
    assert "nowhere" in (tmp_path / "said").read_text()
    deadline = time.monotonic() + 1
    while (left := _of_session(child.pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == []


def _of_session(number):
    """What runs in a session, by the system's own table; what has ended and only waits to be asked is left out."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            state, *fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue  # not a process, or one that is gone
        if int(fields[2]) == number and state != "Z":
            found.append((folder / "cmdline").read_text())
    return found
