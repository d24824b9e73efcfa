"""Recipes carried out: one run, several networks in one table, what a stopped one repeats and what it refuses."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import tifffile
import yaml
from scipy import ndimage
from small_sets import discs
from typer.testing import CliRunner

from biosegkit.bundle import load
from biosegkit.cli import app
from biosegkit.comparison import comparison_table, write_comparison
from biosegkit.errors import BiosegError, FileError, OptionError, PlanError, ResumeError
from biosegkit.io import read_labels
from biosegkit.recipe import Recipe
from biosegkit.recipe_run import run_recipe

NETWORKS = ["unet", "attention_unet"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten images of bright discs on one class: five to train on, five to score."""
    folder = tmp_path_factory.mktemp("discs")
    rows = ["image,label,split"]
    for k in range(10):
        image, labels = discs((32, 32), count=2 + k % 2, seed=k)
        tifffile.imwrite(folder / f"i{k}.tif", image)
        tifffile.imwrite(folder / f"l{k}.tif", (labels > 0).astype(np.uint8))
        rows.append(f"i{k}.tif,l{k}.tif,{'train' if k < 5 else 'test'}")
    (folder / "cases.csv").write_text("\n".join(rows))
    return folder / "cases.csv"


def recipe(data, out, **changes):
    plan = {"steps": 2, **changes.pop("plan", {})}
    return Recipe.from_data({
        "name": "small", "data": str(data), "out": str(out), "where": {"split": "train"}, "plan": plan,
        "describe": {"task": "semantic"}, "predict": {"where": {"split": "test"}, "options": {"largest": "1"}},
        "evaluate": {}, **changes})


@pytest.fixture(scope="module")
def compared(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared") / "out"
    run_recipe(recipe(data, out, networks=NETWORKS), device="cpu")
    return out


def test_a_name_that_does_not_exist_is_refused_before_the_data_are_read(data, tmp_path, monkeypatch):
    monkeypatch.setattr("biosegkit.fingerprint.survey", lambda *a, **k: pytest.fail("the data were read"))
    with pytest.raises(PlanError, match="did you mean --network unet"):
        run_recipe(recipe(data, tmp_path / "out", plan={"network": "unett"}), device="cpu")


def test_every_network_has_its_run_and_a_row(compared):
    found = json.loads((compared / "comparison.json").read_text())
    assert [row["network"] for row in found["rows"]] == [row["name"] for row in found["rows"]] == NETWORKS
    assert found["cases"] == 5
    for row in found["rows"]:
        run = compared / row["name"]
        alone = json.loads((run / "predictions/scores.json").read_text())
        assert row["scores"] == alone["headline"]
        assert row["intervals"] == alone["intervals"]["headline"]
        assert (row["folds"], row["steps"]) == (1, 2)
        assert row["step_seconds"] > 0
        assert (run / "bundle/bundle.json").is_file()
        for record in (run / "predictions").glob("*.tif.json"):
            assert json.loads(record.read_text())["postprocessing"] == {"largest": ["1"], "fill_holes": []}
            labels = read_labels(record.with_suffix(""), "semantic").restored()
            assert ndimage.label(labels, np.ones((3, 3)))[1] <= 1
    first, second = found["rows"]
    assert "difference" not in first
    gap = second["difference"]
    assert gap["score"] == "dice"
    assert gap["mean"] == pytest.approx(second["scores"]["dice"] - first["scores"]["dice"])
    assert second["parameters"] > first["parameters"]  # the gates


def test_the_table_is_also_a_csv_and_a_page(compared):
    rows = list(csv.DictReader((compared / "comparison.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == NETWORKS
    found = json.loads((compared / "comparison.json").read_text())
    assert float(rows[1]["dice"]) == found["rows"][1]["scores"]["dice"]
    assert int(rows[0]["parameters"]) == found["rows"][0]["parameters"]
    page = (compared / "comparison.html").read_text()
    assert "attention_unet" in page
    assert "dice against unet" in page


def test_what_is_finished_is_not_repeated_and_what_is_missing_is_made(data, compared):
    weights = compared / "unet/fold-0/weights.safetensors"
    before = weights.stat().st_mtime_ns, (compared / "unet/predictions/scores.json").stat().st_mtime_ns
    said = []
    (compared / "comparison.json").unlink()
    run_recipe(recipe(data, compared, networks=[*NETWORKS, "fcn"]), device="cpu", resume=True,
               progress=lambda row: said.append(row.get("stage", "")))
    assert (weights.stat().st_mtime_ns, (compared / "unet/predictions/scores.json").stat().st_mtime_ns) == before
    assert sum("is finished" in text for text in said) == 2
    found = json.loads((compared / "comparison.json").read_text())
    assert [row["name"] for row in found["rows"]] == [*NETWORKS, "fcn"]


def test_a_run_that_exists_is_refused_before_any_training(data, tmp_path):
    (tmp_path / "attention_unet").mkdir()
    (tmp_path / "attention_unet/notes.txt").write_text("mine")
    with pytest.raises(FileError, match="--resume"):
        run_recipe(recipe(data, tmp_path, networks=NETWORKS))
    assert not (tmp_path / "unet").exists()


def test_a_single_run_that_exists_is_refused_before_the_data_are_read(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/plan.json").write_text("{}")
    with pytest.raises(FileError, match="--resume"):
        run_recipe(recipe(tmp_path / "no such data", tmp_path / "run"))


def test_another_recipe_does_not_continue_a_run(data, compared):
    with pytest.raises(ResumeError, match="steps 2 when the run began, 3 in the recipe"):
        run_recipe(recipe(data, compared, networks=NETWORKS, plan={"steps": 3}), resume=True)


@pytest.mark.parametrize(("changes", "told"), [
    ({"loss": "dice"}, "loss None when the run began, dice in the recipe"),
    ({"config": "2d", "class_weights": [1, 2]}, "class_weights None when the run began, 1,2 in the recipe"),
    ({"preset": "nnunet"}, "preset default when the run began, nnunet in the recipe"),
    ({"folds": 2}, "folds None when the run began, 0,1 in the recipe"),
    ({"memory": "3GB"}, "memory None when the run began, 3GB in the recipe"),
])
def test_P3_a_recipe_that_was_edited_does_not_continue_a_run(data, compared, changes, told):
    with pytest.raises(ResumeError, match=told):
        run_recipe(recipe(data, compared, networks=NETWORKS, plan=changes), resume=True)


def test_predictions_that_the_recipe_now_wants_otherwise_are_made_again(data, tmp_path):
    run_recipe(recipe(data, tmp_path / "run"), device="cpu")
    scores = tmp_path / "run/predictions/scores.json"
    record = tmp_path / "run/predictions/i5.tif.json"
    before = scores.read_text(), scores.stat().st_mtime_ns
    run_recipe(recipe(data, tmp_path / "run"), device="cpu", resume=True)
    assert scores.stat().st_mtime_ns == before[1]
    said = []
    changed = recipe(data, tmp_path / "run", predict={"where": {"split": "test"}, "tta": True},
                     evaluate={"include_background": True})
    run_recipe(changed, device="cpu", resume=True, progress=lambda row: said.append(row.get("stage", "")))
    assert sum("done" in text for text in said if text.startswith("image")) == 5
    assert json.loads(record.read_text())["options"]["tta"]
    assert "background" in scores.read_text()
    assert "background" not in before[0]


def test_a_wrong_option_of_prediction_is_refused_before_training(data, tmp_path):
    wrong = recipe(data, tmp_path / "run", predict={"options": {"split": "largest"}})
    with pytest.raises(OptionError, match=r"option 'split'.*largest, fill_holes"):
        run_recipe(wrong, device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("changes", "hint"), [
    ({"networks": ["unett"]}, "did you mean 'unet'"),
    ({"networks": ["unet", "unet"]}, "twice"),
    ({"networks": ["unet"], "plan": {"network": "unet"}}, "leave plan.network out"),
    ({"networks": ["unet"], "predict": {"out": "x"}}, "predict.out"),
    ({"networks": ["unet"], "predict": {"states": "x"}}, "predict.states"),
    ({"networks": "unet"}, "networks"),
    ({"predict": {"depth": "deep"}}, "predict.depth"),
    ({"network": ["unet"]}, "did you mean 'networks'"),
])
def test_wrong_comparisons_are_refused(changes, hint):
    with pytest.raises(PlanError) as caught:
        Recipe.from_data({"name": "a", **changes})
    assert hint in str(caught.value)


def test_without_data_nothing_is_done():
    with pytest.raises(OptionError, match="--data"):
        run_recipe(Recipe(name="a"))


def test_a_comparison_of_few_cases_says_why_it_has_no_intervals(compared, tmp_path):
    found = json.loads((compared / "comparison.json").read_text())
    assert found["notes"] == []
    assert "interval" in comparison_table(found).head
    for row in found["rows"]:
        row["intervals"] = dict.fromkeys(row["intervals"])
        if "difference" in row:
            row["difference"] |= {"low": None, "high": None}
    few = found | {"cases": 4, "notes": ["no intervals: 4 cases, fewer than 5"]}
    assert "interval" not in comparison_table(few).head
    page = write_comparison(few, tmp_path, "few")[2].read_text(encoding="utf-8")
    assert "no intervals: 4 cases, fewer than 5" in page
    assert "drawn with replacement" not in page
    assert "drawn with replacement" in (compared / "comparison.html").read_text(encoding="utf-8")


def test_the_command_shows_the_scores_of_the_images_not_trained_on(data, tmp_path):
    """Cases held back in training come first, then those that the recipe predicts, wherever its predictions go."""
    asked = recipe(data, tmp_path / "run", predict={"where": {"split": "test"}, "out": str(tmp_path / "apart")})
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(asked.model_dump(mode="json", exclude_defaults=True)))
    said = CliRunner().invoke(app, ["run", str(tmp_path / "small.yaml"), "--device", "cpu"])
    assert said.exit_code == 0, said.output
    _, _, after = said.output.partition("predictions in")
    dice = json.loads((tmp_path / "apart/scores.json").read_text())["headline"]["dice"]
    assert f"{dice:.3f}" in after
    again = recipe(data, tmp_path / "run", predict={"where": {"split": "test"}, "out": str(tmp_path / "apart")})
    before = (tmp_path / "apart/scores.json").stat().st_mtime_ns
    run_recipe(again, device="cpu", resume=True)
    assert (tmp_path / "apart/scores.json").stat().st_mtime_ns == before


def test_a_run_begins_with_the_weights_of_a_model(data, compared, tmp_path):
    model = load(compared / "unet", "cpu")
    begun = recipe(data, tmp_path / "run", predict=None, **{"from": str(compared / "unet")})
    run_recipe(begun, device="cpu")
    assert json.loads((tmp_path / "run/run.json").read_text())["from"] == model.digest
    found = load(tmp_path / "run", "cpu").plan
    assert found.configuration == model.plan.configuration
    assert "begins with" in [d.name for d in found.decisions]


def test_a_model_that_is_not_there_is_refused_before_the_data_are_read(tmp_path):
    with pytest.raises(FileError, match="a RUN, a bundle"):
        run_recipe(recipe(tmp_path / "no such data", tmp_path / "run", **{"from": str(tmp_path / "nowhere")}))


def test_what_is_done_image_by_image_is_said(data, tmp_path):
    said = []
    run_recipe(recipe(data, tmp_path / "run"), device="cpu", progress=lambda row: said.append(str(row.get("stage"))))
    assert [text.split(":")[0] for text in said if text.startswith("image ")] == [
        f"image {k} of 5" for k in range(1, 6)]


@pytest.mark.parametrize(("predict", "error", "told"), [
    ({"thresholds": {"sharpness": 0.5}}, OptionError, "threshold 'sharpness'"),
    ({"inputs": ["nowhere.tif"]}, FileError, "nothing there"),
    ({"where": {"split": "tset"}}, BiosegError, "tset"),
    ({"out": "taken"}, FileError, "predict.out"),
    ({"depth": 1}, OptionError, "one depth only"),
    ({"states": "kept", "save_maps": True}, OptionError, "kept states together with maps"),
    ({"states": "run/predictions"}, OptionError, "the folder of the results"),
])
def test_what_cannot_be_predicted_is_refused_before_training(data, tmp_path, monkeypatch, predict, error, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/notes.txt").write_text("mine")
    with pytest.raises(error, match=told):
        run_recipe(recipe(data, tmp_path / "run", predict=predict), device="cpu")
    assert not (tmp_path / "run").exists()


def test_depth_and_kept_states_are_those_of_the_command(data, tmp_path):
    kept = tmp_path / "kept"
    wish = {"where": {"split": "test"}, "depth": 1, "states": str(kept)}
    run = run_recipe(recipe(data, tmp_path / "run", plan={"network": "unetplusplus"}, predict=wish), device="cpu")
    record = run / "predictions/i5.tif.json"
    assert json.loads(record.read_text())["depth"] == "1"
    states = {path: path.stat().st_mtime_ns for path in kept.rglob("*") if path.is_file()}
    assert {path.parent.name for path in states} == {f"i{k}.tif.states" for k in range(5, 10)}
    # the same states under another threshold: the network does not run, so nothing there is written again
    run_recipe(recipe(data, run, plan={"network": "unetplusplus"}, predict={**wish, "thresholds": {"foreground": 0.9}}),
               device="cpu", resume=True)
    assert json.loads(record.read_text())["thresholds"]["foreground"] == 0.9
    assert {path: path.stat().st_mtime_ns for path in states} == states
    # what the command line says of the same model is the same prediction
    again = CliRunner().invoke(app, ["predict", str(run), str(data.parent / "i5.tif"), "-o", str(tmp_path / "again"),
                                     "--depth", "1", "--threshold", "foreground=0.9", "--device", "cpu"])
    assert again.exit_code == 0, again.output
    assert (tmp_path / "again/i5.tif").read_bytes() == (run / "predictions/i5.tif").read_bytes()


def test_a_depth_that_the_network_does_not_have_is_refused_before_training(data, tmp_path):
    wrong = recipe(data, tmp_path / "run", plan={"network": "unetplusplus"}, predict={"depth": 9})
    with pytest.raises(OptionError, match=r"depth 9.*one of 1, 2"):
        run_recipe(wrong, device="cpu")
    assert not (tmp_path / "run").exists()
