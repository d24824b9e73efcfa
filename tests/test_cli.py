"""The command line: instant help, exit codes, messages, and that every option reaches the function it is for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import biosegkit_samples
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import biosegkit
from biosegkit._console import BatchProgress, TrainingProgress, show_error
from biosegkit._options import Computing, Planning, Training, pairs
from biosegkit._planned import planned
from biosegkit.batch.run import Standing
from biosegkit.cli import app
from biosegkit.errors import DataError, OptionError
from biosegkit.io import ReadOptions

PHANTOM = str(Path(biosegkit_samples.__file__).parent / "phantom")
VERBS = ("doctor", "plan", "train", "predict", "evaluate", "run", "models", "view", "demo")
HEAVY = ("torch", "numba", "monai", "napari", "numpy", "nibabel", "matplotlib", "scipy")


def call(*words, **more):
    return CliRunner().invoke(app, [str(word) for word in words], **more)


def plain(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_help_and_import_load_nothing_heavy():
    script = f"""
import sys
from typer.testing import CliRunner
import biosegkit
after_import = sorted(m for m in {(*HEAVY, 'rich')} if m in sys.modules)
from biosegkit.cli import app
for verb in (None, *{VERBS}):
    result = CliRunner().invoke(app, [*([verb] if verb else []), "--help"])
    assert result.exit_code == 0, (verb, result.output)
print(after_import, sorted(m for m in {(*HEAVY, 'rich')} if m in sys.modules))
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "[] []", found.stdout + found.stderr


def test_options_stand_under_the_headings_of_their_groups():
    text = CliRunner().invoke(app, ["train", "--help"]).output
    places = [text.index(f"\n{name}:\n") for name in ("Options", "Describing the data", "The plan", "Training")]
    for option, k in (("--device", 0), ("--where", 1), ("--task", 1), ("--seed", 2), ("--resume", 3)):
        assert places[k] < text.index(f"  {option} ") < [*places[1:], len(text)][k]


def test_the_public_names_exist_and_functions_win_over_modules_of_their_name():
    import biosegkit.evaluate
    import biosegkit.predict

    named = set(biosegkit.__all__) - {"METHODS", "NETS", "__version__", "io"}
    assert {name: getattr(biosegkit, name).__name__ for name in named} == {name: name for name in named}
    assert {"distance", "star", "flow"} < set(biosegkit.METHODS)
    assert biosegkit.__version__ == version("biosegkit")
    assert callable(biosegkit.predict)
    assert callable(biosegkit.evaluate)
    assert set(biosegkit.__all__) <= set(dir(biosegkit))
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = biosegkit.fitt


def test_version():
    assert call("--version").output.strip() == f"biosegkit {biosegkit.__version__}"


def test_python_m_biosegkit_is_the_command():
    found = subprocess.run([sys.executable, "-m", "biosegkit", "--version"], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == f"biosegkit {biosegkit.__version__}"


@pytest.mark.parametrize("words", [["train"], ["train", PHANTOM], ["nonsense"], ["plan", PHANTOM, "--steps", "x"],
                                   ["predict", "model"], ["doctor", PHANTOM, "--nonsense"]])
def test_usage_errors_are_exit_code_2(words):
    assert call(*words).exit_code == 2


@pytest.mark.parametrize(("words", "message"), [
    (["doctor", PHANTOM, "--where", "split"], "column=value"),
    (["doctor", PHANTOM, "--map", "a=b"], "whole numbers"),
    (["doctor", PHANTOM, "--spacing", "wide"], "spacing"),
    (["doctor", PHANTOM, "--pixel-size", "0"], "positive"),
    (["doctor", PHANTOM, "--unit", "furlong"], "furlong"),
    (["doctor", PHANTOM, "--axes", "zzz"], "axes"),
    (["doctor", PHANTOM, "--task", "panoptic"], "semantic"),
    (["doctor", PHANTOM, "--group", "("], "regular expression"),
    (["plan", PHANTOM, "--budget", "soon"], "15m"),
    (["plan", PHANTOM, "--config", "4d"], "3d_fullres"),
    (["plan", PHANTOM, "--method", "distance"], "correct --method"),
    (["plan", PHANTOM, "--preset", "best"], "nnunet"),
    (["train", PHANTOM, "-o", "new", "--folds", "x"], "0,1"),
    (["run", "mri_3d_unet", "--budget", "soon", "--data", PHANTOM], "15m"),
    (["run", "mri_3d_unet"], "--data"),
])
def test_wrong_options_are_exit_code_2_with_a_remedy(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*words)
    assert result.exit_code == 2, result.output
    assert message in plain(result.output)
    assert "Traceback" not in result.output
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["doctor", "nowhere"], ["train", "nowhere", "-o", "new"], ["run", "nowhere.yaml"],
                                   ["evaluate", "nowhere", PHANTOM], ["view", "nowhere.tif"],
                                   ["predict", "nowhere", "a.tif", "-o", "new"]])
def test_refusals_are_exit_code_1_and_name_the_file(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*words)
    assert result.exit_code == 1, result.output
    assert re.search(r"file\s+\S*nowhere", plain(result.output)), result.output
    assert "Traceback" not in result.output


def test_verbose_shows_where_an_error_comes_from():
    result = call("doctor", "nowhere", "--verbose")
    assert result.exit_code == 1
    assert "Traceback" in result.output
    assert "found" in result.output


def test_errors_are_told_field_by_field(capsys):
    show_error(DataError("shape [3]", file="a[1].tif", expected="shape [4]", remedy="export it"))
    assert [line.split(maxsplit=1) for line in plain(capsys.readouterr().err).splitlines()] == [
        ["error"], ["file", "a[1].tif"], ["found", "shape [3]"], ["expected", "shape [4]"], ["remedy", "export it"]]


def test_doctor_tells_what_was_measured():
    result = call("doctor", PHANTOM)
    assert result.exit_code == 0
    for text in ("36 × 40 × 32 voxels", "1 × 1 × 1 mm", "nucleus", "2 cases", "0 errors"):
        assert text in plain(result.output)


def test_doctor_lists_all_errors_and_train_refuses_them(tmp_path):
    import numpy as np
    import tifffile

    for kind, shape in (("images", (8, 8)), ("labels", (8, 9))):
        (tmp_path / "set" / kind).mkdir(parents=True)
        for name in ("a", "b"):
            tifffile.imwrite(tmp_path / "set" / kind / f"{name}.tif", np.zeros(shape, np.uint8))
    for words in (["doctor", tmp_path / "set"], ["train", tmp_path / "set", "-o", tmp_path / "run"]):
        result = call(*words)
        assert result.exit_code == 1
        assert plain(result.output).count("G1") == 2, result.output
    assert not (tmp_path / "run").exists()


def test_an_output_that_exists_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "x").touch()
    for words, output in ((["train", "nowhere"], "run"), (["demo"], "run"), (["plan", "nowhere"], "run/x"),
                          (["evaluate", "a", "b"], "run/x")):
        result = call(*words, "-o", tmp_path / output)
        assert result.exit_code == 1
        assert "--overwrite" in result.output


@pytest.mark.parametrize("words", [["train", PHANTOM, "-o"], ["plan", PHANTOM, "-o"], ["demo", "-o"],
                                   ["predict", "otsu", PHANTOM, "-o"], ["evaluate", PHANTOM, PHANTOM, "-o"]])
def test_F7_an_output_that_cannot_be_made_is_refused_before_anything_is_read(tmp_path, monkeypatch, words):
    (tmp_path / "notes").touch()
    result = call(*words, tmp_path / "notes/deep/out")
    assert result.exit_code == 1
    assert "a file in the place of a folder" in result.output
    monkeypatch.setattr("os.access", lambda path, mode, **_: mode != os.W_OK)
    result = call(*words, tmp_path / "out")
    assert result.exit_code == 1
    assert "nothing can be written" in result.output
    assert [p.name for p in tmp_path.iterdir()] == ["notes"]


def test_demo_removes_only_a_demo(tmp_path):
    (tmp_path / "thesis.doc").touch()
    result = call("demo", "-o", tmp_path, "--overwrite")
    assert result.exit_code == 1
    assert "thesis.doc" in result.output
    assert (tmp_path / "thesis.doc").exists()


def test_options_reach_the_functions(monkeypatch, tmp_path):
    """What the user wrote is what scan, make_plan and fit are given."""
    seen = {}

    class Plan:
        decisions, race = (), "as asked"

    def scan(source, **options):
        seen["scan"] = (source, options)
        return original(source, where=None)

    from biosegkit import bundle, cases, configure, train

    original = cases.scan
    monkeypatch.setattr(cases, "scan", scan)
    monkeypatch.setattr(configure, "make_plan", lambda *a, **k: seen.update(plan=k) or Plan())
    monkeypatch.setattr(train, "fit", lambda *a, **k: seen.update(fit=k, out=a[2]))
    monkeypatch.setattr(bundle, "plan_of", lambda path: f"plan of {path}")
    result = call("train", PHANTOM, "-o", tmp_path / "run", "--where", "split=train", "--where", "split=val", "--map",
                  "255=1", "--spacing", "2,1,1", "--unit", "mm", "--task", "semantic", "--group", "p(.)", "--budget",
                  "5m", "--memory", "2GB", "--network", "unet", "--method", "hv", "--loss", "ce", "--config", "2d",
                  "--class-weights", "1,2", "--encoder", "e", "--encoder-weights", "w",
                  "--seed", "7", "--race", "--folds", "1,0", "--steps", "9", "--from", "old",
                  "--device", "cpu", "--overwrite")
    assert result.exit_code == 0, result.output
    source, options = seen["scan"]
    assert source == PHANTOM
    assert options["where"] == {"split": ["train", "val"]}
    about = options["describe"]
    assert (about.mapping, about.spacing, about.unit, about.task, about.group) == ({255: 1}, (2.0, 1.0, 1.0), "mm",
                                                                                   "semantic", "p(.)")
    assert about.model_fields_set == {"mapping", "spacing", "unit", "task", "group"}
    plan = {k: v for k, v in seen["plan"].items() if k != "elapsed"}
    assert plan == {"budget": "5m", "memory": "2GB", "network": "unet", "method": "hv", "loss": "ce",
                    "preset": "default",
                    "class_weights": "1,2", "encoder": "e", "encoder_weights": "w", "config": "2d",
                    "seed": 7, "race": True, "folds": 2, "steps": 9, "device": "cpu", "like": "plan of old"}
    assert (seen["fit"]["folds"], seen["fit"]["steps"], str(seen["fit"]["init"])) == ([0, 1], 9, "old")
    assert seen["fit"]["overwrite"] is True
    assert seen["fit"]["resume"] is False
    assert seen["out"] == tmp_path / "run"


@pytest.mark.parametrize(("words", "told"), [(("--folds", "7"), "numbers from 0 to 1"), (("--folds", "x"), "all, or"),
                                            (("--from", "nowhere"), "a RUN, a bundle"),
                                            (("--network", "unett"), "did you mean --network unet?"),
                                            (("--method", "flo"), "did you mean flow?"),
                                            (("--loss", "dicce"), "perhaps to dice"),
                                            (("--preset", "nnunett"), "correct --preset"),
                                            (("--config", "3d"), "2d, 3d_fullres, 3d_lowres"),
                                            (("--class-weights", "heavy"), "--class-weights 1,2,5"),
                                            (("--memory", "8"), "say 8GB or 8MB"),
                                            (("--budget", "15"), "say 15s or 15m"),
                                            (("--device", "tpu"), "auto, cpu, cuda")])
def test_what_no_data_could_make_right_is_refused_before_they_are_read(monkeypatch, tmp_path, words, told):
    monkeypatch.setattr("biosegkit.fingerprint.survey", lambda *a, **k: pytest.fail("the data were read"))
    monkeypatch.chdir(tmp_path)
    result = call("train", PHANTOM, "-o", "run", *words)
    assert result.exit_code == (1 if words[0] == "--from" else 2)
    assert told in plain(result.output)


@pytest.mark.parametrize("verb", ["doctor", "plan", "train"])
def test_what_takes_long_is_said_before_it_begins(monkeypatch, tmp_path, verb):
    monkeypatch.setattr("biosegkit.fingerprint.survey", lambda *a, **k: ([], None))
    result = call(verb, PHANTOM, *(["-o", tmp_path / "run"] if verb == "train" else []))
    assert re.search(r"^reading \d+ cases?$", plain(result.output), re.MULTILINE), result.output


@pytest.mark.parametrize("asked", [True, False])
def test_a_race_that_cannot_be_is_said(monkeypatch, capsys, asked):
    made = SimpleNamespace(race=None, decisions=[SimpleNamespace(name="race", reason="no time for two")] * asked)
    monkeypatch.setattr("biosegkit.configure.make_plan", lambda *a, **k: made)
    assert planned([], None, Planning(race=asked), Computing(), Training(), 0.0) is made
    assert ("no race: no time for two" in capsys.readouterr().err) is asked


def test_plan_options_beside_a_plan_are_refused(tmp_path):
    result = call("train", PHANTOM, "-o", tmp_path / "run", "--plan", tmp_path / "p.json", "--seed", "3")
    assert result.exit_code == 2
    assert "--seed together with --plan" in plain(result.output)


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt, 130), (OptionError, 2), (DataError, 1)])
def test_exit_codes(monkeypatch, raised, code):
    def fail(*_, **__):
        raise raised("x")

    monkeypatch.setattr("biosegkit.cases.scan", fail)
    assert call("doctor", PHANTOM).exit_code == code


def test_a_stop_says_how_to_go_on_where_one_can(monkeypatch, tmp_path):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("biosegkit.batch.run.predict_batch", stop)
    assert "goes on with --resume" in call("predict", "otsu", PHANTOM, "-o", tmp_path / "out").output
    monkeypatch.setattr("biosegkit.cases.scan", stop)
    assert call("doctor", PHANTOM).output.strip() == "stopped"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_signals_end_with_their_code_and_finally_blocks_run(name, code, tmp_path):
    script = f"""
import os, signal, sys, time
from pathlib import Path
import biosegkit.cases
from biosegkit.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it

def slow(*a, **k):
    try:
        os.kill(os.getpid(), signal.{name})
        time.sleep(30)
    finally:
        Path({str(tmp_path / "cleaned")!r}).touch()

biosegkit.cases.scan = slow
sys.argv = ["biosegkit", "doctor", "x"]
main()
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == code
    assert (tmp_path / "cleaned").exists()


def test_pairs():
    assert pairs(None, "--where", "") == []
    assert pairs(["a=", " b = c=d "], "--where", "") == [("a", ""), ("b", "c=d")]
    for wrong in ("a", "=b", ""):
        with pytest.raises(OptionError):
            pairs([wrong], "--where", "column=value")


def test_changed_plan_options_are_found():
    assert Planning().changed() == []
    assert Planning(seed=0, budget="5m", preset="nnunet").changed() == ["budget", "preset"]


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("biosegkit._console.time.monotonic", lambda: now[0])
    with TrainingProgress() as progress:
        progress({"stage": "fold 0: training [x]"})
        for step, now[0] in ((10, 100.0), (20, 103.0), (30, 111.0), (40, 112.0)):
            progress({"step": step, "total": 40, "loss": 0.5, "dice": 0.8, "left": 65.0, "skipped": 0})
        progress({"step": 40, "total": 40, "loss": 0.5, "dice": 0.8, "left": 65.0, "skipped": 0})  # not said twice
        progress({"step": 40, "total": 40, "validation": {"dice": 0.9}, "dice": float("nan")})
    lines = plain(capsys.readouterr().err).splitlines()
    assert lines[0] == "fold 0: training [x]"
    assert [line[:10] for line in lines[1:]] == ["step 10/40", "step 30/40", "step 40/40", "step 40/40"]
    assert "loss 0.500  Dice 0.800  1m5s left" in lines[1]
    assert "Dice" not in lines[-1]


def test_progress_of_a_batch_speaks_of_objects_where_there_are_any(capsys, monkeypatch):
    monkeypatch.setattr("biosegkit._console.LINE_SECONDS", -1.0)
    with BatchProgress() as progress:
        progress(Standing(images=4, ended=2, left=65.0), None)
        progress(Standing(images=4, ended=3, objects=1, failed=1), None)
        progress(Standing(images=4, ended=3, left=0.0), None)  # all blocks are over, outlines and tables are not
        progress(Standing(images=4, ended=4, left=0.0), None)
    lines = plain(capsys.readouterr().err).splitlines()
    assert lines == ["image 2/4 [##########..........]  1m5s left",
                     "image 3/4 [###############.....]  1 object  1 failed",
                     "image 3/4 [###############.....]  writing results",
                     "image 4/4 [####################]"]


def test_progress_of_a_fold_does_not_show_the_time_left_of_the_one_before(capsys, monkeypatch):
    monkeypatch.setattr("biosegkit._console.LINE_SECONDS", -1.0)
    with TrainingProgress() as progress:
        progress({"step": 40, "total": 40, "loss": 0.5, "left": 3.0, "skipped": 2})
        progress({"stage": "fold 1: training"})
        progress({"step": 1, "total": 40, "loss": 0.7, "left": None, "skipped": 0})
    first, _, last = plain(capsys.readouterr().err).splitlines()
    assert first.endswith("3.0s left  2 steps skipped")
    assert last.endswith("loss 0.700")


def test_models_lists_runs_bundles_and_recipes(tmp_path, monkeypatch):
    import zipfile

    monkeypatch.chdir(tmp_path)
    bundle = tmp_path / "deep" / "run" / "bundle"
    bundle.mkdir(parents=True)
    (bundle / "bundle.json").write_text(json.dumps({"schema_version": 1, "scores": {"dice": 0.875}}))
    (bundle / "plan.json").write_text(json.dumps({"method": "semantic", "labels": {"task": "semantic"}}))
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.writestr("bundle.json", json.dumps({"scores": None}))
    (tmp_path / "other.zip").write_bytes(b"no zip")
    lines = plain(call("models").output).splitlines()
    first = [line.split()[0] for line in lines]
    assert first[:3] + first[-1:] == ["model", "deep/run", "packed.zip", "recipes"]
    assert {"model", "otsu", "watershed"} <= set(first[3:-1])
    assert "dice 0.875" in lines[1]


def test_channels_names_read_grey_rgb_images_as_colours(tmp_path):
    """Grey pictures stored as RGB beside coloured ones: two kinds of images, one with the names of the channels."""
    grey = np.repeat(np.arange(24 * 24, dtype=np.uint8).reshape(24, 24, 1), 3, axis=2)
    for k, image in enumerate([grey, grey[::-1], grey * np.array([1, 2, 3], np.uint8), grey // 2]):
        for folder, array in (("images", image), ("labels", (grey[..., 0] > 99).astype(np.uint8) * (k + 1))):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / folder / f"{k}.png")
    refused = call("doctor", tmp_path)
    assert refused.exit_code == 1
    assert "--channels" in refused.output
    accepted = call("doctor", tmp_path, "--channels", "red, green,blue")
    assert accepted.exit_code == 0, accepted.output
    wrong = call("doctor", tmp_path, "--channels", "red,green")
    assert wrong.exit_code == 1
    colours = ReadOptions(channel_names=("red", "green", "blue"))  # what predict reads with
    assert biosegkit.read(tmp_path / "images/0.png", colours).array.shape == (3, 24, 24)
    assert biosegkit.read(tmp_path / "images/0.png").array.shape == (1, 24, 24)
