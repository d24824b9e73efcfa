"""The whole flow from the command line on a data set that is small enough to train in seconds."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from biosegkit import configure
from biosegkit.cli import app
from biosegkit.demo import run_demo
from biosegkit.time_needed import too_small


def call(*words, code=0):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def disks(tmp_path_factory):
    """Seven images of bright disks: five to train on, two to test."""
    folder, rng = tmp_path_factory.mktemp("disks"), np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    rows = ["image,label,split"]
    for index in range(7):
        labels = np.zeros((64, 64), np.uint16)
        for number in range(1, rng.integers(3, 8)):
            cy, cx = rng.integers(6, 58, 2)
            labels[((y - cy) ** 2 + (x - cx) ** 2 < 30) & (labels == 0)] = number + 100 * index
        image = 100 + 400 * (labels > 0) + rng.normal(0, 20, labels.shape)
        for kind, array in (("images", image.clip(0).astype(np.uint16)), ("labels", labels)):
            (folder / kind).mkdir(exist_ok=True)
            tifffile.imwrite(folder / kind / f"d{index}.tif", array)
        rows.append(f"images/d{index}.tif,labels/d{index}.tif,{'test' if index > 4 else 'train'}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    return folder / "cases.csv"


def test_train_predict_evaluate_report_models_recipe(disks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "instance" in call("doctor", disks)
    shown = call("plan", disks, "--where", "split=train", "-o", "plan.json", "--budget", "2m", "--device", "cpu")
    assert "hardly any id recurs" in shown
    assert "steps" in shown
    call("train", disks, "--where", "split=train", "-o", "run", "--plan", "plan.json", "--steps", 3, "--device", "cpu")
    for name in ("run.json", "plan.json", "fingerprint.json", "scores.json", "report.html", "bundle/bundle.json",
                 "fold-0/metrics.jsonl"):
        assert (tmp_path / "run" / name).is_file(), name
    assert "data:image/png;base64," in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "distance" in call("models")
    predict = ("predict", "run", disks, "--where", "split=test", "-o", "out", "--device", "cpu")
    assert "2 of 2 images done" in call(*predict)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tif")) == ["d5.tif", "d6.tif"]
    assert "--overwrite" in call(*predict, code=1)
    assert "kept" in call(*predict, "--resume")
    assert "pooled" in call("evaluate", "out", disks, "--where", "split=test", "--task", "instance", "-o",
                          "scores.json")
    assert len(json.loads((tmp_path / "scores.json").read_text())["cases"]) == 2
    assert "--overwrite" in call("train", disks, "-o", "run", code=1)


def test_a_recipe_trains_predicts_and_scores(disks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nwhere: {split: train}\nplan: {steps: 2, method: distance}\npredict: {where: {split: test}}\n"
        "evaluate: {}\n")
    call("run", "mine.yaml", "--data", disks, "--device", "cpu")
    scores = json.loads((tmp_path / "mine" / "predictions" / "scores.json").read_text())
    assert [row["case"] for row in scores["cases"]] == ["d5", "d6"]
    assert (tmp_path / "mine" / "report.html").is_file()


def test_one_bad_image_is_exit_code_1_and_the_others_are_done(disks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call("train", disks, "--where", "split=train", "-o", "run", "--steps", 1, "--device", "cpu")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.tif").write_bytes(b"no image")
    (tmp_path / "in" / "good.tif").write_bytes((disks.parent / "images" / "d6.tif").read_bytes())
    assert "1 of 2 images done" in call("predict", "run", "in", "-o", "out", "--device", "cpu", code=1)
    assert (tmp_path / "out" / "good.tif").is_file()
    assert "bad.tif" in (tmp_path / "out" / "failures.csv").read_text()


def test_the_demo_runs_and_tells_where_everything_is(tmp_path):
    parts = run_demo(tmp_path / "demo", device="cpu", steps=1)
    assert [part.title[:6] for part in parts] == ["Nuclei", "MRI-li"]
    for part in parts:
        assert part.report.is_file()
        assert part.picture.read_bytes()[:4] == b"\x89PNG"
    assert len(list(parts[0].labels.glob("*.tif"))) == 3
    assert len(list(parts[1].labels.glob("*.nii.gz"))) == 6
    assert set(parts[0].scores) >= {"ap@0.50"}
    assert set(parts[1].scores) >= {"dice"}


def test_the_demo_takes_the_time_that_a_slow_machine_needs(tmp_path, monkeypatch):
    """A machine of a step in 5 s: nobody asked for the two minutes of the demo, so they are not what it ends on."""
    real, asked = configure.make_plan, []

    def slow(*args, budget=None, **options):
        asked.append(budget)
        if budget == 120.0:
            raise too_small(120.0, 590, "a step of training takes 5 s")
        return real(*args, **{**options, "steps": 1})

    monkeypatch.setattr(configure, "make_plan", slow)
    stages = []
    parts = run_demo(tmp_path / "demo", device="cpu", progress=lambda event: stages.append(str(event.get("stage", ""))))
    assert asked == [120.0, "9m50s"] * 2
    assert len(parts) == 2
    assert any("this machine needs 9m50s" in stage for stage in stages)
