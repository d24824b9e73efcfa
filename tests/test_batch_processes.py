"""Batches made by processes: the same bytes as those of threads, whatever becomes of the processes; none is left."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from small_sets import changed, discs, tiny_plan

from biosegkit import batch_processes, loop
from biosegkit.batch_processes import _Crew, batches_by_processes, batches_for
from biosegkit.errors import DataError, Stopped
from biosegkit.patches import Sample, annotated_voxels, foreground_voxels, make_batch
from biosegkit.segmenter import method_of

CUDA = torch.device("cuda")


def sample(case="a", shape=(40, 36), seed=0):
    image, labels = discs(shape, seed=seed)
    return Sample(case, image[None].astype(np.float32), labels, None, foreground_voxels(labels, "instance", 0))


def hold(batch):
    """Everything of a batch as bytes."""
    parts = {"image": batch.image, **batch.targets, **{f"w {k}": v for k, v in batch.weights.items()}}
    return batch.cases, {k: (v.dtype, v.shape, v.numpy().tobytes()) for k, v in parts.items()}


def straight(samples, plan, steps):
    return [hold(make_batch(samples, plan, method_of(plan), step)) for step in steps]


@contextmanager
def crew(samples, plan):
    """Processes that are all at work; no thread is in their place."""
    made = _Crew(samples, plan, method_of(plan), 0, pinned=False)
    try:
        made._starter.join(240)
        assert made._at_work == plan.training.workers
        waiting = [made._idle.get() for _ in range(made._idle.qsize())]
        for one in waiting:
            made._free(one)
        assert made._threads == 0
        yield made
    finally:
        made.close()


def children():
    """Processes of this one that make batches."""
    found = []
    for child in psutil.Process().children():
        try:
            if "batch_worker" in " ".join(child.cmdline()):
                found.append(child)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def never(*_):
    raise AssertionError("made in this process")


def various(folder):
    """Samples in memory and in a file: mapped from its middle, turned, with ignored voxels, in column order."""
    first, second = sample("a"), sample("b", seed=1)
    mapped = np.memmap(folder / "image.raw", np.float32, "w+", offset=8, shape=(3, 44, 48))
    mapped[1:2, 3:43, 5:41] = second.image
    mapped.flush()
    again = np.memmap(folder / "image.raw", np.float32, "r", offset=8, shape=(3, 44, 48))
    second = Sample("b", again[1:2, 42:2:-1, 5:41], second.labels[::-1], None, second.foreground)
    valid = np.ones((40, 36), bool)
    valid[:, :9] = False
    third = sample("c", seed=2)
    return [first, second, Sample("c", np.asfortranarray(third.image), third.labels, valid, third.foreground,
                                  annotated_voxels(valid, 0))]


def test_X1_processes_make_the_batches_of_threads_and_a_mapped_image_stays_in_its_file(tmp_path, monkeypatch):
    plan, samples = changed(tiny_plan(), workers=1), various(tmp_path)
    places, _ = batch_processes.places_of(samples)
    assert places[1]["arrays"]["image"]["file"] == str(tmp_path / "image.raw")
    assert "file" not in places[0]["arrays"]["image"]
    expected = straight(samples, plan, range(6))
    assert {case for cases, _ in expected for case in cases} == {"a", "b", "c"}
    with crew(samples, plan) as made:
        monkeypatch.setattr(made, "_here", never)
        assert [hold(made.make(step)) for step in range(6)] == expected


def test_a_process_reads_of_a_mapped_image_what_it_needs(tmp_path):
    """An image of 256 MB in a file: two patches of it are in the memory of the process, and nothing is copied."""
    path, shape = tmp_path / "large.raw", (1, 8192, 8192)
    with path.open("wb") as file:
        file.truncate(4 * np.prod(shape, dtype=np.int64))
    labels = np.memmap(tmp_path / "labels.raw", np.uint8, "w+", shape=shape[1:])
    one = Sample("large", np.memmap(path, np.float32, "r", shape=shape), labels, None, {})
    plan = changed(tiny_plan(task="semantic", values=(0, 1), foreground=0.0), workers=1)
    with crew([one], plan) as made:
        made.make(0)
        about = psutil.Process(made._members[0].process.pid)
        if hasattr(about, "memory_maps"):
            mapped = [m for m in about.memory_maps() if m.path == str(path)]
            assert len(mapped) == 1
            assert 0 < mapped[0].rss < 16 << 20
        # libraries apart, which take several hundred MB
        assert about.memory_info().rss - getattr(about.memory_info(), "shared", 0) < 1 << 30


def test_P4_an_error_of_a_process_comes_at_its_step_and_names_the_case(monkeypatch):
    good, bad = sample("good"), Sample("patient 7", np.zeros((1, 4), np.float32), np.zeros((9, 9), np.uint8), None, {})
    plan = changed(tiny_plan(batch=1), workers=1)

    def until(make):
        for step in range(100):
            try:
                make(step)
            except DataError as error:
                return step, str(error)
        return None

    expected = until(lambda step: make_batch([good, bad], plan, method_of(plan), step))
    assert "case patient 7: no patch could be made" in expected[1]
    with crew([good, bad], plan) as made:
        assert until(made.make) == expected
        assert made._members[0].alive
        assert made._members[0].batch(expected[0], pinned=False) is None
        monkeypatch.setattr(made, "_here", never)
        assert until(lambda step: made.make(step) if step < expected[0] else make_batch(
            [good, bad], plan, method_of(plan), step)) == expected


def test_P4_a_killed_process_is_told_and_the_others_go_on():
    plan, samples = changed(tiny_plan(), workers=2), [sample()]
    expected = straight(samples, plan, range(6))
    with crew(samples, plan) as made:
        notes = []
        for step in range(6):
            if step in (1, 3):
                victim = next(m for m in made._members if m.alive).process
                victim.kill()
                victim.wait()
            batch = made.make(step)
            batch = made.make(step) if step in (1, 3) and not batch.notes else batch  # the other one had its turn
            assert hold(batch) == expected[step]
            notes += batch.notes
        assert [note.rpartition(": ")[2] for note in notes] == ["1 process left", "0 processes left"]
        assert all("a process that made batches has ended" in note for note in notes)
        assert made._threads == 2


def test_P8_none_is_left_when_the_batches_are_closed_while_they_start():
    plan = changed(tiny_plan(), workers=2)
    made = batches_by_processes([sample()], plan, method_of(plan), 3)
    assert hold(next(made)) == straight([sample()], plan, [3])[0]
    assert children()
    made.close()
    assert not children()


@pytest.mark.parametrize("way", ["stop", "error", "end"])
def test_P8_none_is_left_after_training(way, tmp_path, monkeypatch):
    """Training on a CPU that is made to take its batches from processes; what it learns is the same."""
    monkeypatch.setattr(loop, "batches_for", lambda _, *given: batches_by_processes(*given))
    plan, samples, cpu = changed(tiny_plan(steps=3), workers=1), [sample()], torch.device("cpu")
    seen = []

    def progress(row):
        seen.append(len(children()))
        if way == "error":
            raise KeyboardInterrupt

    def go(folder):
        return loop.train(plan, method_of(plan), samples, [], folder, device=cpu, progress=progress,
                          stop=lambda: way == "stop")

    if way == "end":
        found = go(tmp_path / "processes")
        monkeypatch.undo()
        there = go(tmp_path / "threads")
        assert all(torch.equal(found[k], v) for k, v in there.items())
    else:
        with pytest.raises(Stopped if way == "stop" else KeyboardInterrupt):
            go(tmp_path)
    assert seen[0] == 1
    assert not children()


SCRIPT = """
import sys, time
sys.path[:0] = {paths!r}
from test_batch_processes import _Crew, changed, method_of, sample, tiny_plan
plan = changed(tiny_plan(), workers=2)
crew = _Crew([sample()], plan, method_of(plan), 0, False)
if {wait}:
    crew._starter.join()
else:
    while len(crew._members) < 2:
        time.sleep(0.01)
print(*(m.process.pid for m in crew._members), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("wait", [True, False], ids=["at work", "starting"])
def test_P8_none_outlives_a_killed_parent_and_a_script_needs_no_main_guard(wait, tmp_path):
    root = Path(__file__).resolve().parents[1]
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(paths=[str(root), str(root / "tests")], wait=wait))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, cwd=tmp_path) as parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert len(psutil.Process(parent.pid).children(recursive=True)) == 2  # and no script was run a second time
        there = [psutil.Process(pid) for pid in pids]
        parent.kill()
    until = time.monotonic() + 240  # one that starts ends when it has loaded its libraries
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in there):
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize(("program", "said"), [("no/such/python", "No such file"), ("ends", "1 process of")])
def test_where_no_process_starts_threads_make_the_batches(program, said, tmp_path, monkeypatch):
    if program == "ends":
        if os.name == "nt":
            pytest.skip("a script is no program there")
        (tmp_path / "ends").write_text("#!/bin/sh\nexit 3\n")
        (tmp_path / "ends").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / program))
    plan, samples = changed(tiny_plan(), workers=1), [sample()]
    made = _Crew(samples, plan, method_of(plan), 0, pinned=False)
    made._starter.join(60)
    batches = [made.make(step) for step in range(3)]
    made.close()
    assert [hold(b) for b in batches] == straight(samples, plan, range(3))
    assert [said in note for b in batches for note in b.notes] == [True]


def test_samples_too_large_to_be_copied_are_left_to_threads(monkeypatch):
    free = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    plan, samples = changed(tiny_plan(), workers=2), [sample()]
    made = _Crew(samples, plan, method_of(plan), 0, pinned=False)
    made._starter.join(60)
    batch = made.make(0)
    made.close()
    assert not made._members
    assert hold(batch) == straight(samples, plan, [0])[0]
    assert "that are free" in batch.notes[0]


def test_only_a_cuda_device_two_minutes_and_the_method_of_the_plan_get_processes(monkeypatch):
    monkeypatch.setattr(batch_processes, "batches_by_processes", lambda *_, pinned: f"processes, pinned {pinned}")
    plan, samples = changed(tiny_plan(), workers=1), [sample()]
    method = method_of(plan)
    assert batches_for(CUDA, samples, plan, method, 0) == "processes, pinned True"
    other = method_of(plan.model_copy(update={"method": "boundary"}))
    minute, two = (plan.model_copy(update={"budget": plan.budget.model_copy(update={"seconds": s})}) for s in (60, 120))
    assert batches_for(CUDA, samples, two, method, 0) == "processes, pinned True"
    for device, job in ((torch.device("cpu"), (plan, method)), (torch.device("mps"), (plan, method)),
                        (CUDA, (plan, other)), (CUDA, (minute, method)), (CUDA, (changed(plan, workers=0), method))):
        made = batches_for(device, samples, *job, 0)
        assert hold(next(made)) == hold(make_batch(samples, *job, 0))
        made.close()
