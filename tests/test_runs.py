"""Trainings in processes of their own: begun, followed, left, found again, stopped and resumed."""

from __future__ import annotations

import json
import os
import sys
import time
from types import SimpleNamespace

import pytest
from small_sets import tiny_plan, write_instances

from biosegkit import processes, runs
from biosegkit.errors import BiosegError, FileError, OptionError
from biosegkit.plan.units import parse_duration


def wait(condition, seconds=120):
    until = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < until:
        time.sleep(0.1)
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT for another process")
def test_a_training_is_begun_left_found_stopped_and_resumed(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_instances(tmp_path / "set", shape=(24, 24))
    tiny_plan(steps=4).write(tmp_path / "plan.json")
    monkeypatch.chdir(tmp_path)
    handle = runs.start_training("set", "run", {"plan": "plan.json", "steps": 3000})
    assert handle.state().name == "running"
    assert os.getsid(handle.pid) == handle.pid, "it outlives the terminal it was begun in"
    with pytest.raises(OptionError, match="running"):
        runs.resume("run")
    assert wait(handle.metrics), handle.log.read_text()

    found = runs.attach("run")  # as another process would
    rows = found.metrics()
    assert [row["fold"] for row in rows] == ["0"] * len(rows)
    assert {"step", "loss"} <= set(rows[0])
    state = found.stop()
    assert state.name == "stopped", state
    assert not handle.running()
    assert "stopped" in found.log.read_text()

    steps = max(row["step"] for row in [*rows, *found.metrics()])
    again = runs.resume("run")
    assert again.options == {"plan": "plan.json", "steps": 3000}
    assert wait(lambda: max((r["step"] for r in again.metrics()), default=0) > steps), again.log.read_text()
    assert again.stop().name == "stopped"
    (tmp_path / "broken.process.json").write_text("{")
    assert [h.out.name for h in runs.find_runs(tmp_path)] == ["run"], "a broken record hides no other"
    with pytest.raises(FileError, match=r"broken\.process\.json"):
        runs.attach(tmp_path / "broken")


def test_a_training_that_is_refused_says_why(tmp_path):
    write_instances(tmp_path / "set", cases=2)
    (tmp_path / "set/labels/c0.tif").unlink()
    handle = runs.start_training(tmp_path / "set", tmp_path / "run", {"steps": 1})
    assert wait(lambda: not handle.running())
    state = runs.attach(tmp_path / "run").state()
    assert state.name == "failed"
    assert "1 image without labels: c0" in state.message
    with pytest.raises(FileError, match="an output that exists"):
        runs.start_training(tmp_path / "set", tmp_path / "set")


def test_a_training_that_had_too_little_time_begins_again_with_more(tmp_path, monkeypatch):
    write_instances(tmp_path / "set")
    handle = runs.start_training(tmp_path / "set", tmp_path / "run", {"budget": "1s", "task": "instance"})
    assert wait(lambda: not handle.running())
    state = runs.attach(tmp_path / "run").state()
    assert state.name == "failed"
    assert f"give --budget {state.enough} or more" in state.message
    assert parse_duration(state.enough) > 1
    begun, words = runs.begun, []

    def noted(given, out, cwd):
        words.append(given)
        return begun(["--version"], out, cwd)

    monkeypatch.setattr(runs, "begun", noted)
    with pytest.raises(OptionError, match="soon"):
        runs.resume(tmp_path / "run", "soon")
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run/plan.json").write_text("{}")  # as where it was refused only before the first step
    again = runs.resume(tmp_path / "run", state.enough)
    place = ["train", str(tmp_path / "set"), "-o", str(tmp_path / "run")]
    assert words == [[*place, "--budget", state.enough, "--task", "instance", "--overwrite"]]
    assert wait(lambda: not again.running())
    assert again.state().enough == ""
    with pytest.raises(OptionError, match="the time that it was begun with"):
        runs.resume(tmp_path / "run", "2h")
    (tmp_path / "run/plan.json").unlink()
    runs.resume(tmp_path / "run")
    assert words[1:] == [[*place, "--budget", state.enough, "--task", "instance", "--overwrite"]]


def test_what_never_began_is_not_found(tmp_path):
    with pytest.raises(FileError, match="no record of a training"):
        runs.attach(tmp_path / "run")
    (tmp_path / "run.process.json").write_text(json.dumps({"pid": 1}))
    with pytest.raises(FileError, match="unreadable record"):
        runs.attach(tmp_path / "run")


def handle_of(folder, **changes):
    fields = {"out": folder / "run", "dataset": "set", "options": {}, "pid": 2**22 + 7, "born": 0.0, "said_before": 0,
              "cwd": "."}
    return runs.Handle(**{**fields, **changes})


def test_another_process_with_the_same_number_is_not_the_training(tmp_path):
    assert not handle_of(tmp_path, pid=os.getpid(), born=1.0).running()
    assert handle_of(tmp_path, pid=os.getpid(), born=processes.psutil.Process().create_time()).running()


@pytest.mark.parametrize(("said", "name", "message"), [
    ("fold 0  step 5/9\n", "stopped", "resumed"),
    ("error\n  found     stopped after step 5\n  remedy    continue with --resume\n", "stopped", "resumed"),
    ("step 1\nerror\n  file      a.tif\n  found     shape (3, 4)\n  expected  (3, 5)\n", "failed", "a.tif: found shap"),
    ("Traceback (most recent call last):\n  x\nValueError: no\n", "failed", "ValueError: no"),
    ("Traceback (most recent call last):\n  x\nKeyboardInterrupt\n", "stopped", "resumed"),
])
def test_why_a_training_ended_is_read_from_what_it_said(tmp_path, said, name, message):
    handle = handle_of(tmp_path, said_before=8)
    handle.log.write_text("error\n!\n" + said)
    state = handle.state()
    assert state.name == name
    assert message in state.message


def test_rows_come_once_and_whole(tmp_path):
    handle = handle_of(tmp_path)
    path = tmp_path / "run/fold-0/metrics.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"step": 1}\n{"step": 2')
    assert handle.metrics() == [{"fold": "0", "step": 1}]
    assert handle.metrics() == []
    path.write_text('{"step": 1}\n{"step": 2}\n')
    assert handle.metrics() == [{"fold": "0", "step": 2}]
    path.write_text('{"step": 1}\n')  # a resumed run drops what came after its checkpoint
    assert handle.metrics() == [{"fold": "0", "step": 1}]


def test_a_process_that_does_not_stop_is_told(tmp_path, monkeypatch):
    handle = handle_of(tmp_path)
    sent = []
    monkeypatch.setattr(runs.Handle, "running", lambda self: True)
    monkeypatch.setattr(processes.os, "kill", lambda pid, number: sent.append(number))
    monkeypatch.setattr(processes.psutil, "Process", lambda pid: SimpleNamespace(terminate=lambda: sent.append("end")))
    with pytest.raises(BiosegError, match="still running"):
        handle.stop(patience=0.01)
    assert len(sent) == 2
