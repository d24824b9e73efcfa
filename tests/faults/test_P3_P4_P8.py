"""Training that is stopped by a signal, continued with something else, or fails in a worker (faults P3, P4, P8)."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from small_sets import changed, tiny_plan, write_instances
from typer.testing import CliRunner

from biosegkit.bundle import load
from biosegkit.cli import app
from biosegkit.errors import DataError, ResumeError
from biosegkit.loop import Stopped
from biosegkit.plan.schema import Plan
from biosegkit.train import fit


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_instances(tmp_path_factory.mktemp("P8") / "data", cases=4)


def signalled(number, when):
    """Progress that sends this process a signal once."""
    sent = []

    def progress(row):
        if not sent and when(row):
            sent.append(row)
            os.kill(os.getpid(), number)

    return progress


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", ["training", "thresholds"])
def test_P8_a_signal_saves_the_state_and_resume_ends_the_run(dataset, tmp_path, number, when):
    plan = tiny_plan(steps=8, steps_per_epoch=4)
    before = signal.getsignal(number)
    at = ((lambda row: row.get("step") == 3) if when == "training"
          else (lambda row: str(row.get("stage", "")).startswith("thresholds")))
    with pytest.raises(Stopped) as info:
        fit(plan, dataset, tmp_path / "run", device="cpu", progress=signalled(number, at))
    assert info.value.signal == number
    assert "--resume" in info.value.remedy
    assert signal.getsignal(number) is before
    assert not (tmp_path / "run/lock").exists()
    assert not (tmp_path / "run/bundle").exists()
    if when == "training":
        assert (tmp_path / "run/fold-0/checkpoints/step-000000000003.json").exists()
    fit(plan, dataset, tmp_path / "run", device="cpu", resume=True)
    straight = fit(plan, dataset, tmp_path / "straight", device="cpu")
    assert load(tmp_path / "run", "cpu").info["weights"] == straight.info["weights"]


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
def test_P8_a_signal_that_comes_too_late_is_answered_and_leaves_a_whole_run(dataset, tmp_path):
    late = signalled(signal.SIGTERM, lambda row: row.get("stage") == "done")
    with pytest.raises(Stopped, match="all was done") as info:
        fit(tiny_plan(steps=3), dataset, tmp_path / "run", device="cpu", progress=late)
    assert info.value.signal == signal.SIGTERM
    assert (tmp_path / "run/report.html").exists()
    assert load(tmp_path / "run", "cpu").info["weights"]
    said = []
    fit(tiny_plan(steps=3), dataset, tmp_path / "run", device="cpu", resume=True,
        progress=lambda row: said.append(row["stage"]))
    assert said == [f"{tmp_path / 'run'} is finished: nothing to continue"]


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
def test_P8_a_second_signal_stops_at_once(dataset, tmp_path):
    def twice(row):
        if row.get("stage", "").startswith("fold 0: preprocessing"):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(tiny_plan(steps=8), dataset, tmp_path / "run", device="cpu", progress=twice)
    assert not (tmp_path / "run/lock").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_P8_the_command_ends_with_the_signals_code_and_resumes(dataset, tmp_path, number, code):
    """The command line is stopped in the middle of training."""
    plan, run = tiny_plan(steps=100_000, checkpoint_seconds=1e9), tmp_path / "run"
    plan.write(tmp_path / "plan.json")
    command = [sys.executable, "-c", "from biosegkit.cli import main; main()", "train", str(dataset.source), "-o",
               str(run), "--plan", str(tmp_path / "plan.json"), "--device", "cpu", "--task", "instance"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        log, end = run / "fold-0/metrics.jsonl", time.monotonic() + 120
        while not (log.exists() and log.read_text().count("\n") > 2):
            assert child.poll() is None, child.stdout.read()
            assert time.monotonic() < end
            time.sleep(0.05)
        child.send_signal(number)
        text, _ = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == code, text
    assert "Traceback" not in text
    assert "--resume" in text
    assert len(list((run / "fold-0/checkpoints").glob("*.json"))) == 1
    assert not (run / "lock").exists()


def test_P3_a_resume_with_another_plan_is_refused_and_changes_nothing(dataset, tmp_path):
    plan = tiny_plan(steps=3)
    fit(plan, dataset, tmp_path / "run", device="cpu")
    before = (tmp_path / "run/plan.json").read_bytes(), (tmp_path / "run/bundle/bundle.json").read_bytes()
    with pytest.raises(ResumeError, match=r"training\.learning_rate .*--from this run"):
        fit(changed(plan, learning_rate=1.0), dataset, tmp_path / "run", resume=True, device="cpu")
    assert before == ((tmp_path / "run/plan.json").read_bytes(), (tmp_path / "run/bundle/bundle.json").read_bytes())


def test_P3_a_plan_edited_in_the_run_is_refused(dataset, tmp_path):
    """The command resumes with the run's own plan.json: an edit there would pass for the run's plan."""
    plan = tiny_plan(steps=3)
    fit(plan, dataset, tmp_path / "run", device="cpu")
    changed(plan, learning_rate=1.0).write(tmp_path / "run/plan.json")
    with pytest.raises(ResumeError, match="not the one the run began with"):
        fit(Plan.read(tmp_path / "run/plan.json"), dataset, tmp_path / "run", resume=True, device="cpu")


def test_P3_a_resume_without_the_weights_it_began_with_is_refused(dataset, tmp_path):
    """Stopped before the first saved state, it would silently start from random weights."""
    plan = tiny_plan(steps=3)
    fit(plan, dataset, tmp_path / "model", device="cpu")
    with pytest.raises(Stopped):
        fit(plan, dataset, tmp_path / "run", init=tmp_path / "model", device="cpu",
            progress=signalled(signal.SIGINT, lambda row: "preprocessing" in row.get("stage", "")))
    with pytest.raises(ResumeError, match="--from"):
        fit(plan, dataset, tmp_path / "run", resume=True, device="cpu")
    fit(plan, dataset, tmp_path / "run", resume=True, init=tmp_path / "model", device="cpu")


@pytest.mark.parametrize("workers", [0, 2])
def test_P4_a_case_that_cannot_be_cut_is_named(dataset, tmp_path, monkeypatch, workers):
    """A worker fails on one case in the middle of training: the case is in the message and nothing hangs."""
    from biosegkit import patches

    real = patches._read

    def fails(sample, *args):
        if sample.case == "c1":
            raise RuntimeError("a broken disk")
        return real(sample, *args)

    monkeypatch.setattr(patches, "_read", fails)
    begun = time.monotonic()
    with pytest.raises(DataError, match=r"case c1: no patch could be made \(a broken disk\)"):
        fit(changed(tiny_plan(steps=50), workers=workers, validation_fraction=0.01), dataset, tmp_path / "run",
            device="cpu")
    assert time.monotonic() - begun < 60
    assert not (tmp_path / "run/lock").exists()
    about = json.loads((tmp_path / "run/run.json").read_text())
    assert "finished" not in about


@pytest.mark.parametrize("there", [None, "notes.txt"])
def test_P3_resuming_what_was_never_begun_is_refused(dataset, tmp_path, there):
    """A typing error in the name of the run would train from the beginning, in silence."""
    if there:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / there).write_text("something else")
    with pytest.raises(ResumeError, match="no run to continue") as caught:
        fit(tiny_plan(steps=2), dataset, tmp_path / "run", device="cpu", resume=True)
    assert "leave --resume out" in caught.value.remedy
    assert not (tmp_path / "run/run.json").exists()


def test_P3_the_command_line_says_that_there_is_nothing_to_continue(dataset, tmp_path):
    (tmp_path / "r.yaml").write_text("name: r\nplan: {steps: 1}\n")
    (tmp_path / "n.yaml").write_text("name: n\nplan: {steps: 1}\nnetworks: [unet, fcn]\n")
    for words in (("train", dataset.source, "-o", tmp_path / "no"),
                  ("run", tmp_path / "r.yaml", "--data", dataset.source, "-o", tmp_path / "no"),
                  ("run", tmp_path / "n.yaml", "--data", dataset.source, "-o", tmp_path / "no")):
        found = CliRunner().invoke(app, [*map(str, words), "--resume"])
        assert found.exit_code == 1
        assert "no run to continue" in found.output
        assert not (tmp_path / "no").exists()


def test_P1_what_is_stopped_while_it_reads_is_continued_by_the_same_command(dataset, tmp_path, monkeypatch):
    words = ["train", str(dataset.source), "-o", str(tmp_path / "run"), "--steps", "2", "--seed", "3", "--folds", "0"]
    with monkeypatch.context() as patch:
        patch.setattr("biosegkit.fingerprint.survey", lambda *a, **k: _stopped())
        assert CliRunner().invoke(app, words).exit_code == 130
    other = CliRunner().invoke(app, [*words[:6], "--seed", "4", "--resume"])
    assert other.exit_code == 2
    assert "--seed 4" in other.output
    assert "seed 3, as the run began" in " ".join(other.output.split())
    without = [*words[:4], "--resume"]
    assert CliRunner().invoke(app, without).exit_code == 0
    run = json.loads((tmp_path / "run/run.json").read_text())
    plan = Plan.read(tmp_path / "run/plan.json")
    assert (plan.seed, plan.training.steps, list(run["folds"])) == (3, 2, ["0"])
    for again in (without, [*words, "--resume"]):  # the options it began with may be given again
        found = CliRunner().invoke(app, again)
        assert found.exit_code == 0
    straight = CliRunner().invoke(app, [*words[:3], str(tmp_path / "straight"), *words[4:]])
    assert straight.exit_code == 0
    first, second = ((tmp_path / name / "bundle/weights-0.safetensors").read_bytes() for name in ("run", "straight"))
    assert first == second


def _stopped():
    raise KeyboardInterrupt


def test_P3_a_command_that_is_refused_leaves_no_folder(dataset, tmp_path):
    words = ["train", str(dataset.source), "-o", str(tmp_path / "run"), "--steps", "2", "--where", "split=none"]
    assert CliRunner().invoke(app, words).exit_code == 1
    assert not (tmp_path / "run").exists()


def test_P3_a_prediction_with_nothing_to_continue_says_so_and_begins(dataset, tmp_path):
    fit(tiny_plan(steps=1), dataset, tmp_path / "run", device="cpu")
    words = ["predict", str(tmp_path / "run"), str(dataset[0].images[0]), "-o", str(tmp_path / "out"), "--resume"]
    first, second = (CliRunner().invoke(app, words) for _ in range(2))
    assert "nothing to continue" in first.output
    assert "1 of 1 image done" in first.output
    assert "nothing to continue" not in second.output
    assert "kept" in second.output
