"""Worker processes have loaded their libraries before the process that asks for them has loaded its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from biosegkit._predict_options import Batching
from biosegkit.batch import head_start

_SCRIPT = '''
import multiprocessing, os, signal, sys
from biosegkit.batch.head_start import head_start

def told(name):
    return (os.environ.get("OMP_NUM_THREADS"), os.environ["MALLOC_TRIM_THRESHOLD_"], name in sys.modules)

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
    assert done.stdout.splitlines()[-1] == "[('1', '65536', True), ('1', '65536', False)]"


@pytest.mark.parametrize(("given", "inputs", "began"), [
    ({"workers": 2}, ["images"], True), ({}, ["images", "a.tif"], False), ({}, ["a.tif", "Slide 1.SVS"], True),
    ({"scheduler": "tcp://host:8786"}, ["a.svs"], False),
])
def test_processes_begin_at_once_where_there_will_be_workers(monkeypatch, given, inputs, began):
    calls = []
    monkeypatch.setattr(head_start, "head_start", lambda: calls.append(None))
    Batching(**given).prepare(inputs)
    assert bool(calls) is began
