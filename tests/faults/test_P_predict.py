"""Processes and resources: killed saves, full disks, memory that runs out, signals, devices."""

import os
import random
import resource
import signal
import time

import numpy as np
import pytest
import torch
from stub_models import Bands, Hungry, fresh_weights, segmenter, stub_plan

from biosegkit import device
from biosegkit.bundle import load, write_bundle
from biosegkit.checkpoint import load_latest, save
from biosegkit.errors import DataError, FileError, OptionError, ResumeError
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.io import read_labels, write
from biosegkit.ladder import ladder
from biosegkit.predict import predict_files
from biosegkit.signals import finish_first


def _states(folder, steps):
    for step in steps:
        save(folder, step, {"w": torch.full((5000,), float(step))}, {"step": step})


def _child(work):
    """Run in a forked child and return its process id."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def test_P1_kill_9_at_any_instant_of_saving_leaves_a_whole_state(tmp_path):
    rng, last = random.Random(0), 1
    _states(tmp_path, [1])
    for _ in range(12):
        pid = _child(lambda first=last + 1: _states(tmp_path, range(first, first + 1000)))
        deadline = time.monotonic() + 20
        while not (tmp_path / f"step-{last + 1:012d}.json").exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.01))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        tensors, state, notes = load_latest(tmp_path)
        assert notes == ()
        assert state["step"] > last
        assert torch.equal(tensors["w"], torch.full((5000,), float(state["step"])))
        last = state["step"]
    _states(tmp_path, [last + 1])
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("ending", ["json", "safetensors"])
@pytest.mark.parametrize("damage", [
    lambda data: data[: len(data) // 2],
    lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
    lambda data: b"",
])
def test_F9_a_damaged_last_state_falls_back_one_with_a_note(tmp_path, ending, damage):
    _states(tmp_path, [1, 2])
    target = tmp_path / f"step-000000000002.{ending}"
    target.write_bytes(damage(target.read_bytes()))
    tensors, state, notes = load_latest(tmp_path)
    assert state == {"step": 1}
    assert tensors["w"][0] == 1
    assert len(notes) == 1
    assert "step 2" in notes[0]


def test_F9_two_damaged_states_are_refused_with_both_reasons(tmp_path):
    _states(tmp_path, [1, 2])
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(ResumeError, match=r"step 2 .* step 1"):
        load_latest(tmp_path)
    with pytest.raises(ResumeError, match="no training state"):
        load_latest(tmp_path / "none")


def test_F7_a_full_disk_leaves_the_older_state_and_no_leftover(tmp_path):
    _states(tmp_path, [1])

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
        try:
            _states(tmp_path, [2])
        except FileError as error:
            os._exit(7 if "cannot write" in str(error) else 8)

    pid = _child(work)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert load_latest(tmp_path)[1] == {"step": 1}
    assert not list(tmp_path.glob(".*"))


def picture(shape=(20, 18, 16), seed=0):
    values = np.random.default_rng(seed).random((1, *shape), np.float32) * 3
    return Image(values, Grid.regular(shape, 1.0, "mm"))


def test_P5_too_many_tiles_fall_to_one_with_the_same_labels():
    plan, im = stub_plan(3), picture()
    net = Hungry(8**3)
    found = segmenter(net, plan, batch=4).predict(im)
    np.testing.assert_array_equal(found.labels.array, segmenter(Bands(), plan).predict(im).labels.array)
    assert net.batches[-1] == 1
    assert found.notes == ("out of memory: one tile per call",)


def test_P5_a_tile_too_large_is_cut_smaller_and_recorded_as_approximate():
    plan, im = stub_plan(3), picture()
    found = segmenter(Hungry(4**3), plan, batch=4).predict(im)
    np.testing.assert_array_equal(found.labels.array, segmenter(Bands(), plan).predict(im).labels.array)
    assert found.notes[0] == "out of memory: one tile per call"
    assert found.notes[1].startswith("out of memory: approximate: tiles of (4, 4, 4)")


def test_P5_no_memory_for_any_tile_is_refused():
    with pytest.raises(DataError, match="not enough memory"):
        segmenter(Hungry(1), stub_plan(3)).predict(picture())


def test_P5_the_ladder_on_a_gpu_is_sums_batch_tile_cpu():
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    rungs = ladder(stub_plan(3, patch=(16, 16, 16)), cuda)
    assert [(r.device, r.sums, r.batch, r.patch[0]) for r in rungs] == [
        (cuda, cuda, 4, 16), (cuda, cpu, 4, 16), (cuda, cpu, 1, 16), (cuda, cpu, 1, 8), (cuda, cpu, 1, 4),
        (cpu, cpu, 1, 16)]
    assert [r.step[0] for r in rungs] == [8, 8, 8, 4, 2, 8]
    assert ["approximate" in r.note for r in rungs] == [False, False, False, True, True, False]


@pytest.mark.parametrize(("error", "message"), [
    (RuntimeError, "CUDA error: out of memory"),
    (RuntimeError, "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
    (RuntimeError, "DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
    (MemoryError, ""),
])
def test_P5_every_way_of_saying_out_of_memory_is_understood(error, message):
    found = segmenter(Hungry(8**3, error, message), stub_plan(3), batch=4).predict(picture())
    assert found.notes == ("out of memory: one tile per call",)


def test_P5_other_runtime_errors_pass_through():
    net = Hungry(0, RuntimeError, "mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        segmenter(net, stub_plan(3)).predict(picture())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_P8_a_signal_during_a_write_waits_for_its_end(number):
    class Stopped(Exception):
        pass

    def stop(*_):
        raise Stopped

    old, done = signal.signal(number, stop), []
    try:
        with pytest.raises(Stopped), finish_first():  # noqa: PT012 - both belong to one write
            signal.raise_signal(number)
            done.append("written")
        assert done == ["written"]
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, old)


@pytest.fixture
def files(tmp_path):
    plan = stub_plan(2, scheme="zscore")
    write_bundle(tmp_path / "model", plan, {"0": fresh_weights(plan)})
    for name in "abc":
        (tmp_path / "in").mkdir(exist_ok=True)
        write(picture((20, 17), ord(name)), tmp_path / f"in/{name}.tif")
    return tmp_path


def test_P2_resume_redoes_only_what_does_not_match(files):
    model, out = load(files / "model", "cpu"), files / "out"
    predict_files(model, files / "in", out)
    before = {name: read_labels(out / f"{name}.tif", "semantic").restored() for name in "abc"}
    (out / "a.tif").write_bytes((out / "a.tif").read_bytes()[:-1] + b"?")
    (out / "b.tif.json").unlink()
    outcomes = predict_files(model, files / "in", out, resume=True)
    assert [o.state for o in outcomes] == ["done", "done", "kept"]
    for name, labels in before.items():
        np.testing.assert_array_equal(read_labels(out / f"{name}.tif", "semantic").restored(), labels)


def test_P3_resume_with_another_model_option_or_input_does_it_again(files):
    model, out = load(files / "model", "cpu"), files / "out"
    predict_files(model, files / "in", out)
    assert {o.state for o in predict_files(model, files / "in", out, resume=True)} == {"kept"}
    assert {o.state for o in predict_files(model, files / "in", out, resume=True, tta=True)} == {"done"}
    plan = stub_plan(2, scheme="zscore")
    other = load(write_bundle(files / "other", plan, {"0": fresh_weights(plan, 9)}), "cpu")
    assert {o.state for o in predict_files(other, files / "in", out, resume=True)} == {"done"}
    write(picture((20, 17), 99), files / "in/a.tif")
    assert [o.state for o in predict_files(other, files / "in", out, resume=True)] == ["done", "kept", "kept"]


def test_P2_a_killed_run_is_finished_by_resume(files):
    model, out = load(files / "model", "cpu"), files / "out"
    seen = []

    def stop(outcome, *_):
        seen.append(outcome)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_files(model, files / "in", out, progress=stop)
    assert len(seen) == 1
    assert [o.state for o in predict_files(model, files / "in", out, resume=True)] == ["kept", "done", "done"]


def test_F8_a_second_process_in_the_same_output_folder_is_refused(files):
    def second(*_):
        with pytest.raises(FileError, match="process"):
            predict_files(load(files / "model", "cpu"), files / "in", files / "out", resume=True)
        seen.append("refused")

    seen = []
    predict_files(load(files / "model", "cpu"), files / "in/a.tif", files / "out", progress=second)
    assert seen == ["refused"]
    assert {p.name for p in (files / "out").iterdir()} == {"a.tif", "a.tif.json"}


def test_P9_devices_are_checked_and_named():
    assert device.pick("auto").type in ("cpu", "cuda", "mps")
    for name in ("cuda:99", "tpu", "cuda:x"):
        with pytest.raises(OptionError, match="device"):
            device.pick(name)
    assert "cpu" in device.describe(device.pick("cpu"))
