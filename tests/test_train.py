"""fit: the files of a run, a model that loads and predicts, folds, fine-tuning, and a rate that is annealed."""

import json
import shutil

import numpy as np
import pytest
import tifffile
import torch
from small_sets import changed, tiny_plan, write_instances, write_volumes
from typer.testing import CliRunner

from biosegkit.bundle import load, plan_of
from biosegkit.cli import app
from biosegkit.configure import make_plan
from biosegkit.errors import DataError, FileError, OptionError, ResumeError
from biosegkit.fingerprint import measure
from biosegkit.loop import adopt, forward_loss, make_network
from biosegkit.patches import Batch
from biosegkit.plan.schema import Plan
from biosegkit.segmenter import method_of
from biosegkit.train import fit


def rows(run, fold=0):
    return [json.loads(line) for line in (run / f"fold-{fold}/metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def instances(tmp_path_factory):
    """A trained run on a tiny 2D instance set."""
    folder = tmp_path_factory.mktemp("instances")
    dataset = write_instances(folder / "data", cases=4)
    seen = []
    plan = tiny_plan(steps=40, learning_rate=0.02, steps_per_epoch=20)
    bundle = fit(plan, dataset, folder / "run", device="cpu", progress=seen.append)
    return folder / "run", dataset, bundle, seen, plan


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """A trained run on a tiny 3D semantic set with labels 0, 3 and 7."""
    folder = tmp_path_factory.mktemp("volumes")
    dataset = write_volumes(folder / "data")
    bundle = fit(tiny_plan(3, task="semantic", unit="mm", patch=(12, 12, 12), steps=12), dataset, folder / "run",
                 device="cpu")
    return folder / "run", dataset, bundle


def test_a_run_has_its_files(instances):
    run = instances[0]
    present = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
    assert {"run.json", "cases.csv", "plan.json", "scores.json", "report.html", "tuning.json", "fold-0/metrics.jsonl",
            "bundle/bundle.json", "bundle/plan.json", "bundle/weights-0.safetensors"} <= present
    assert any(p.startswith("store/") for p in present)
    assert not [p for p in present if "partial" in p or p == "lock"]
    Plan.read(run / "plan.json")
    about = json.loads((run / "run.json").read_text())
    assert about["folds"] == {"0": {"train": 3, "validation": 1}}
    assert about["seconds"] > 0


def test_the_learning_rate_is_annealed(instances, volumes):
    for run in (instances[0], volumes[0]):
        rates = [r["lr"] for r in rows(run) if "lr" in r]
        assert rates[-1] < 0.02 * max(rates) if len(rates) < 20 else rates[-1] < 0.01 * max(rates)
        assert rates[-1] > 0
        assert [r["step"] for r in rows(run) if "lr" in r][-1] == rows(run)[-1]["total"]


def test_training_lowers_the_loss_and_shows_progress(instances):
    run, _, _, seen, _ = instances
    losses = [r["loss"] for r in rows(run) if "loss" in r]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])
    assert [s["stage"] for s in seen if "stage" in s][-1] == "done"
    assert [r for r in rows(run) if "validation" in r][-1]["step"] == 40


def test_an_instance_model_loads_and_finds_the_discs(instances):
    run, dataset, bundle, _, _ = instances
    held = json.loads((run / "scores.json").read_text())
    image, truth = dataset.load(dataset[0], "instance")
    found = load(run, "cpu").predict(image)
    assert found.labels.array.shape == truth.array.shape
    dice = 2 * ((found.labels.array > 0) & (truth.array > 0)).sum() / ((found.labels.array > 0).sum()
                                                                      + (truth.array > 0).sum())
    assert dice > 0.7
    assert bundle.thresholds == json.loads((run / "tuning.json").read_text())["thresholds"]
    assert held["headline"] == bundle.scores


def test_a_semantic_model_answers_in_the_users_values_on_the_users_grid(volumes):
    run, dataset, _ = volumes
    for case in dataset[:2]:
        image = dataset.load_image(case)
        labels = load(run, "cpu").predict(image).labels
        assert labels.grid == image.grid
        assert set(np.unique(labels.restored())) <= {0, 3, 7}
        assert labels.values.tolist() == [0, 3, 7]


def test_the_weights_are_the_same_when_trained_again(instances, tmp_path):
    run, dataset, _, _, plan = instances
    fit(changed(plan, steps=40, workers=2), dataset, tmp_path / "run", device="cpu")
    a, b = (json.loads((r / "bundle/bundle.json").read_text())["weights"] for r in (run, tmp_path / "run"))
    assert a == b


def test_steps_take_the_clock_out(instances, tmp_path):
    _, dataset, _, _, plan = instances
    hurried = plan.model_copy(update={"budget": plan.budget.model_copy(update={"seconds": 1e-3})})
    fit(hurried, dataset, tmp_path / "run", steps=7, device="cpu")
    assert rows(tmp_path / "run")[-1]["step"] == 7
    assert Plan.read(tmp_path / "run/plan.json").training.steps == 7


def test_from_begins_with_the_weights_of_a_model(instances, tmp_path):
    run, dataset, _, _, plan = instances
    frozen = changed(plan, steps=1, learning_rate=1e-12, average=0.0, weight_decay=0.0)
    tuned = fit(frozen, dataset, tmp_path / "run", init=run, device="cpu")
    before, after = (b.segmenter.networks[0].state_dict() for b in (load(run, "cpu"), tuned))
    assert all(torch.allclose(before[k], after[k], atol=1e-6) for k in before)
    other = fit(frozen, dataset, tmp_path / "other", device="cpu").segmenter.networks[0].state_dict()
    assert not all(torch.allclose(before[k], other[k], atol=1e-6) for k in before)


def test_folds_are_trained_apart_and_bundled_together(instances, tmp_path):
    _, _, _, _, plan = instances
    dataset = write_instances(tmp_path / "data", cases=5)
    bundle = fit(changed(plan, steps=3), dataset, tmp_path / "run", folds=[0, 3], device="cpu")
    info = json.loads((tmp_path / "run/bundle/bundle.json").read_text())
    assert sorted(info["weights"]) == ["0", "3"]
    assert len(set(info["weights"].values())) == 2
    assert len(bundle.segmenter.networks) == 2
    assert (tmp_path / "run/fold-3/metrics.jsonl").exists()
    scores = json.loads((tmp_path / "run/scores.json").read_text())
    assert len(scores["cases"]) == 2
    with pytest.raises(OptionError, match="0 to 4"):
        fit(plan, dataset, tmp_path / "none", folds=[5], device="cpu")


def test_an_existing_run_is_refused_replaced_or_continued(instances, tmp_path):
    _, dataset, _, _, plan = instances
    quick = changed(plan, steps=2)
    fit(quick, dataset, tmp_path / "run", device="cpu")
    before = (tmp_path / "run/bundle/bundle.json").read_bytes()
    with pytest.raises(FileError, match="existing run"):
        fit(quick, dataset, tmp_path / "run", device="cpu")
    # finished already: nothing is trained again
    fit(quick, dataset, tmp_path / "run", resume=True, device="cpu")
    weights = json.loads(before)["weights"]
    assert json.loads((tmp_path / "run/bundle/bundle.json").read_text())["weights"] == weights
    with pytest.raises(ResumeError, match=r"training\.steps \(2 then, 3 now\)"):
        fit(changed(quick, steps=3), dataset, tmp_path / "run", resume=True, device="cpu")
    fit(changed(quick, steps=3), dataset, tmp_path / "run", overwrite=True, device="cpu")
    assert rows(tmp_path / "run")[-1]["step"] == 3


def test_overwrite_never_empties_a_folder_that_is_no_run(instances, tmp_path):
    _, dataset, _, _, plan = instances
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter-1.tex").write_text("years of work")
    with pytest.raises(FileError, match="no run"):
        fit(plan, dataset, tmp_path / "thesis", overwrite=True, steps=1, device="cpu")
    assert (tmp_path / "thesis/chapter-1.tex").read_text() == "years of work"


def test_D4_a_single_case_trains(tmp_path):
    dataset = write_instances(tmp_path / "data", cases=1)
    bundle = fit(tiny_plan(steps=2), dataset, tmp_path / "run", device="cpu")
    assert bundle.plan.training.steps == 2


# --- parts of the loop -----------------------------------------------------------------------------------------------


def test_deep_supervision_weighs_levels_as_nnunet_does():
    """The loss is two thirds of the full level and one third of the next, whose target is every second voxel."""
    plan = tiny_plan(task="semantic", values=(0, 1))
    architecture = plan.configuration.architecture.model_copy(update={
        "features": (4, 4, 4, 4), "kernels": ((3, 3),) * 4, "strides": ((1, 1),) + ((2, 2),) * 3,
        "encoder_blocks": (1,) * 4, "decoder_blocks": (1,) * 3})
    plan = plan.model_copy(update={"configuration": plan.configuration.model_copy(
        update={"architecture": architecture})})
    method = method_of(plan)
    network = make_network(plan, method, torch.device("cpu")).train()
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 1, 15, 16, generator=generator)
    target, weight = torch.randint(0, 2, (2, 15, 16), generator=generator), torch.ones(2, 15, 16)
    batch = Batch(image, {"classes": target}, {"classes": weight}, ("a", "b"))
    found = forward_loss(network, method, batch, plan, torch.device("cpu"))
    levels = network(image)
    assert len(levels) == 3
    for name, value in found.items():
        parts = [method.loss(levels[i], {"classes": target[:, ::s, ::s]}, {"classes": weight[:, ::s, ::s]})[name]
                 for i, s in ((0, 1), (1, 2))]
        assert value.item() == pytest.approx((2 * parts[0] + parts[1]).item() / 3, rel=1e-5)


def test_weights_that_fit_are_adopted_and_others_named():
    plan = tiny_plan(task="semantic", values=(0, 1))
    more = tiny_plan(task="semantic", values=(0, 1, 2))
    a, b = (make_network(p, method_of(p), torch.device("cpu")) for p in (plan, more))
    for p in a.parameters():
        p.data += 1
    anew = adopt(b, a.state_dict())
    assert anew
    assert all("heads" in name for name in anew)
    kept = [k for k in b.state_dict() if k not in anew]
    assert all(torch.equal(a.state_dict()[k], b.state_dict()[k]) for k in kept)
    with pytest.raises(DataError, match="another network"):
        adopt(b, {"x": torch.zeros(1)})


def test_a_model_whose_weights_do_not_fit_is_refused_before_anything_is_written(instances, tmp_path):
    run, dataset, _, _, plan = instances
    wide = plan.configuration.architecture.model_copy(update={"features": (5, 7, 9)})
    other = plan.model_copy(update={"configuration": plan.configuration.model_copy(update={"architecture": wide})})
    with pytest.raises(DataError, match=r"weights of another network \(\d+% fit\)") as caught:
        fit(other, dataset, tmp_path / "new", init=run, device="cpu")
    assert caught.value.file == str(run)
    assert "--plan" in caught.value.remedy
    assert not (tmp_path / "new").exists()


def test_weights_of_a_2d_model_are_none_of_a_3d_one(instances):
    network = make_network(tiny_plan(3), method_of(tiny_plan(3)), torch.device("cpu"))
    with pytest.raises(DataError, match="another network"):
        adopt(network, instances[2].segmenter.networks[0].state_dict())


def test_the_networks_of_a_plan_hold_back_different_cases(instances, tmp_path):
    _, _, _, _, plan = instances
    dataset = write_instances(tmp_path / "data", cases=5)
    bundle = fit(changed(plan, steps=2, folds=2, validation_fraction=0.2), dataset, tmp_path / "run", device="cpu")
    assert len(bundle.segmenter.networks) == 2
    held = [c["case"] for c in json.loads((tmp_path / "run/scores.json").read_text())["cases"]]
    assert len(set(held)) == 2
    assert json.loads((tmp_path / "run/run.json").read_text())["folds"] == {
        "0": {"train": 4, "validation": 1}, "1": {"train": 4, "validation": 1}}


def test_a_training_of_hardly_any_step_is_called_that(instances, tmp_path):
    _, dataset, _, _, plan = instances
    notes = {}
    for steps in (1, len(dataset)):
        fit(plan, dataset, tmp_path / str(steps), steps=steps, device="cpu")
        notes[steps] = json.loads((tmp_path / f"{steps}/scores.json").read_text())["notes"]
    assert ("hardly trained" in notes[1][0]) == (plan.configuration.batch < len(dataset) - 1)
    wanted = "more --steps" if plan.budget.seconds is None else "larger --budget"
    assert all(wanted in note for note in notes[1] if "hardly trained" in note)
    assert not any("hardly trained" in note for note in notes[len(dataset)])


def test_time_beyond_the_budget_is_told(instances, tmp_path):
    _, dataset, _, _, plan = instances
    hurried = plan.model_copy(update={"budget": plan.budget.model_copy(update={"seconds": 0.01})})
    fit(hurried, dataset, tmp_path / "run", device="cpu")
    assert "beyond the budget" in " ".join(json.loads((tmp_path / "run/scores.json").read_text())["notes"])


def test_a_finished_run_is_left_as_it_is(instances):
    """Scored once more it could only be with the time its budget has left."""
    run, dataset, _, _, plan = instances
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    said = []
    model = fit(plan, dataset, run, resume=True, device="cpu", progress=said.append)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    assert said == [{"stage": f"{run} is finished: nothing to continue"}]
    assert model.digest == load(run, "cpu").digest


def test_a_run_that_was_stopped_before_its_report_is_not_finished(instances, tmp_path):
    run, dataset, _, _, plan = instances
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "report.html").unlink()
    fit(plan, dataset, copy, resume=True, device="cpu")
    assert (copy / "report.html").exists()


def test_the_time_left_is_not_said_before_it_is_known(volumes):
    first, second, *_ = [r for r in rows(volumes[0]) if "loss" in r]
    assert (first["step"], first["left"]) == (1, None)
    assert second["left"] > 0


def test_a_plan_like_that_of_a_model_begins_with_all_its_weights(instances, tmp_path):
    run, dataset, _, _, _ = instances
    old = plan_of(run)
    plan = make_plan(measure(dataset, task="instance"), dataset, steps=1, device="cpu", like=old)
    assert (plan.configuration, plan.method, plan.preprocessing) == (old.configuration, old.method, old.preprocessing)
    network = make_network(plan, method_of(plan), torch.device("cpu"))
    assert adopt(network, load(run, "cpu").segmenter.networks[0].state_dict()) == ()
    fit(plan, dataset, tmp_path / "run", init=run, device="cpu")
    assert load(tmp_path / "run", "cpu").plan.configuration == old.configuration


def test_a_finished_run_says_so_without_reading_its_data(instances, monkeypatch):
    def read(*_, **__):
        raise AssertionError("the data are read")

    run = instances[0]
    monkeypatch.setattr("biosegkit.fingerprint.survey", read)
    result = CliRunner().invoke(app, ["train", str(run.parent / "data"), "-o", str(run), "--resume"])
    assert result.exit_code == 0, result.output
    assert "is finished: nothing to continue" in " ".join(result.output.split())


def test_a_finished_run_is_not_that_of_other_data(instances, tmp_path):
    run = shutil.copytree(instances[0], tmp_path / "run")
    data = shutil.copytree(instances[0].parent / "data", tmp_path / "data")
    tifffile.imwrite(data / "labels/c1.tif", np.ones((32, 32), np.uint16))
    result = CliRunner().invoke(app, ["train", str(data), "-o", str(run), "--resume"])
    assert result.exit_code == 1, result.output
    assert "other data" in result.output
