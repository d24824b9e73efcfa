"""Killed at any instant, a resumed training ends with the bytes of one that was never stopped (faults P1, X2)."""

import json
import signal
import sys

import numpy as np
import pytest
import torch
from killed_child import killed
from small_sets import changed, tiny_plan, write_instances

from biosegkit import checkpoint
from biosegkit.errors import ResumeError
from biosegkit.loop import Stopped, train
from biosegkit.patches import Sample, foreground_voxels
from biosegkit.segmenter import method_of
from biosegkit.train import fit


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that was never stopped; it saves after every step."""
    folder = tmp_path_factory.mktemp("straight")
    plan = tiny_plan(steps=12, warmup=0.2, checkpoint_seconds=0.0, steps_per_epoch=5)
    plan.write(folder / "plan.json")
    dataset = write_instances(folder / "data", cases=4)
    fit(plan, dataset, folder / "run", device="cpu")
    return folder, plan, dataset


def weights(run):
    return json.loads((run / "bundle/bundle.json").read_text())["weights"]


def steps_saved(run):
    return sorted(int(p.stem[5:]) for p in (run / "fold-0/checkpoints").glob("*.json"))


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize(("kind", "point"), [
    ("step", int(np.random.default_rng([1, 2]).integers(2, 12))),  # anywhere between two steps
    ("save", 5),  # between the tensors and the JSON of the third state: it does not exist
    ("step", 1),  # before anything was saved
])
def test_P1_X2_kill_9_and_resume_is_the_straight_run(straight, tmp_path, kind, point):
    folder, plan, dataset = straight
    run = tmp_path / "run"
    assert killed(kind, point, folder / "plan.json", folder / "data", run) == -signal.SIGKILL
    assert not (run / "bundle").exists()
    if kind == "save":
        assert steps_saved(run) == [1, 2]
        assert (run / "fold-0/checkpoints/step-000000000003.safetensors").exists()
    fit(plan, dataset, run, device="cpu", resume=True)
    assert weights(run) == weights(folder / "run")
    a, b = ([json.loads(line) for line in (r / "fold-0/metrics.jsonl").read_text().splitlines()]
            for r in (run, folder / "run"))
    assert [(r["step"], r.get("loss"), r.get("validation")) for r in a] == [
        (r["step"], r.get("loss"), r.get("validation")) for r in b]
    assert not [p for p in run.rglob("*") if "partial" in p.name and "checkpoints" in str(p)]


# --- within one process ----------------------------------------------------------------------------------------------


CPU = torch.device("cpu")


def samples(count=2):
    rng = np.random.default_rng(0)
    found = []
    for i in range(count):
        labels = np.zeros((20, 20), np.uint16)
        labels[4:9, 4:9], labels[12:17, 9:16] = 1, 2
        image = ((labels > 0) + rng.normal(0, 0.2, labels.shape))[None].astype(np.float32)
        found.append(Sample(str(i), image, labels, None, foreground_voxels(labels, "instance", 0)))
    return found


def run_until(plan, folder, stop_after=None, held=()):
    """Train; with ``stop_after`` ask for a stop once that step is done."""
    seen = []
    stop = (lambda: bool(seen) and seen[-1] >= stop_after) if stop_after else (lambda: False)

    def progress(row):
        if "loss" in row:
            seen.append(row["step"])

    return train(plan, method_of(plan), samples(), held, folder, device=CPU, progress=progress, stop=stop)


@pytest.mark.parametrize("options", [
    {}, {"optimizer": "sgd", "schedule": "poly", "momentum": 0.9}, {"average": 0.0}, {"memory_format": "contiguous"},
    {"workers": 2}, {"precision": "bfloat16"},
], ids=["adamw", "sgd", "no average", "contiguous", "workers", "bfloat16"])
@pytest.mark.parametrize("ndim", [2])
def test_X2_a_stop_and_resume_is_the_straight_run_for_every_optimiser(tmp_path, options, ndim):
    plan = tiny_plan(ndim, steps=9, **options)
    whole = run_until(plan, tmp_path / "a")
    with pytest.raises(Stopped, match="stopped after step 4 of 9"):
        run_until(plan, tmp_path / "b", 4)
    assert checkpoint.weights_hash(run_until(plan, tmp_path / "b")) == checkpoint.weights_hash(whole)


def test_X2_live_validation_changes_nothing(tmp_path):
    plan = tiny_plan(steps=6)
    quiet = run_until(plan, tmp_path / "a")
    looked = run_until(changed(plan, steps_per_epoch=2), tmp_path / "b", held=samples(1))
    assert checkpoint.weights_hash(quiet) == checkpoint.weights_hash(looked)


def test_P1_a_damaged_last_state_falls_back_one_with_a_note(tmp_path):
    plan = tiny_plan(steps=8, checkpoint_seconds=0.0)
    whole = run_until(plan, tmp_path / "a")
    with pytest.raises(Stopped):
        run_until(plan, tmp_path / "b", 5)
    last = sorted((tmp_path / "b/checkpoints").glob("*.safetensors"))[-1]
    last.write_bytes(last.read_bytes()[:-7])
    again = run_until(plan, tmp_path / "b")
    assert checkpoint.weights_hash(again) == checkpoint.weights_hash(whole)
    notes = [r for r in map(json.loads, (tmp_path / "b/metrics.jsonl").read_text().splitlines()) if "note" in r]
    assert len(notes) == 1
    assert notes[0]["step"] == 4
    assert "step-000000000005" in notes[0]["note"]


def test_P1_no_state_that_can_be_read_is_no_silent_new_start(tmp_path):
    plan = tiny_plan(steps=8, checkpoint_seconds=0.0)
    with pytest.raises(Stopped):
        run_until(plan, tmp_path, 5)
    for path in (tmp_path / "checkpoints").glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(ResumeError, match="no training state"):
        run_until(plan, tmp_path)


def test_P1_a_log_line_cut_by_the_crash_is_dropped(tmp_path):
    plan = tiny_plan(steps=6, checkpoint_seconds=0.0)
    with pytest.raises(Stopped):
        run_until(plan, tmp_path, 4)
    log = tmp_path / "metrics.jsonl"
    with log.open("a") as handle:
        handle.write('{"step": 5, "total": 6, "loss": 0.1, "terms": {"dice": 0.5}')
    run_until(plan, tmp_path)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [r["step"] for r in rows] == [1, 2, 3, 4, 5, 6]


def test_P1_two_states_are_kept(tmp_path):
    run_until(tiny_plan(steps=6, checkpoint_seconds=0.0), tmp_path)
    found = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert found == ["step-000000000005.json", "step-000000000005.safetensors", "step-000000000006.json",
                     "step-000000000006.safetensors"]
