"""A loss or gradient that is not finite: the step is skipped and counted, never saved, and refused after ten (V2)."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_sets import tiny_plan

from biosegkit import checkpoint, loop
from biosegkit.errors import DataError
from biosegkit.loop import MAX_BAD_STEPS, train
from biosegkit.patches import Sample, foreground_voxels
from biosegkit.segmenter import method_of

CPU = torch.device("cpu")


def samples(*names):
    labels = np.zeros((20, 20), np.uint16)
    labels[4:12, 4:12] = 1
    image = ((labels > 0) + np.random.default_rng(0).normal(0, 0.2, labels.shape))[None].astype(np.float32)
    return [Sample(n, image, labels, None, foreground_voxels(labels, "instance", 0)) for n in names]


def poisoned(monkeypatch, bad, value=float("nan")):
    """The loss of these steps is not finite."""
    real, count = loop.forward_loss, [0]

    def fails(*args):
        terms = real(*args)
        count[0] += 1
        return {k: v * value for k, v in terms.items()} if count[0] in bad else terms

    monkeypatch.setattr(loop, "forward_loss", fails)
    return count


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_V2_a_bad_step_is_skipped_counted_and_leaves_the_weights(tmp_path, monkeypatch, value):
    plan = tiny_plan(steps=3, learning_rate=0.01)
    poisoned(monkeypatch, {2, 3}, value)
    found = train(plan, method_of(plan), samples("a"), [], tmp_path, device=CPU)
    assert all(torch.isfinite(v).all() for v in found.values())
    assert rows(tmp_path)[-1]["skipped"] == 2
    # every line is JSON, also those of steps without a finite loss
    assert [r["loss"] is None for r in rows(tmp_path)] == [False, True, True]
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_V2_weights_after_bad_steps_are_those_of_the_good_ones(tmp_path, monkeypatch):
    """The first of two steps alone gives the weights: the bad second one changed nothing."""
    constant = {"warmup": 0.0, "final_fraction": 1.0, "average": 0.0}
    plan = tiny_plan(steps=2, **constant)
    poisoned(monkeypatch, {2})
    after = train(plan, method_of(plan), samples("a"), [], tmp_path / "two", device=CPU)
    one = tiny_plan(steps=1, **constant)
    alone = train(one, method_of(one), samples("a"), [], tmp_path / "one", device=CPU)
    assert checkpoint.weights_hash(after) == checkpoint.weights_hash(alone)


def test_V2_running_statistics_spoilt_by_a_bad_step_are_taken_back(tmp_path, monkeypatch):
    plan = tiny_plan(steps=2, warmup=0.0, final_fraction=1.0, average=0.0)
    c = plan.configuration
    batch_norm = c.architecture.model_copy(update={"norm": "batch"})
    plan = plan.model_copy(update={"configuration": c.model_copy(update={"architecture": batch_norm})})
    real, count = loop.forward_loss, [0]

    def blind(network, method, batch, *args):
        count[0] += 1
        image = torch.full_like(batch.image, float("nan")) if count[0] == 2 else batch.image
        return real(network, method, replace(batch, image=image), *args)

    monkeypatch.setattr(loop, "forward_loss", blind)
    found = train(plan, method_of(plan), samples("a"), [], tmp_path / "two", device=CPU)
    running = {k: v for k, v in found.items() if "running" in k}
    assert running
    assert all(torch.isfinite(v).all() for v in found.values())
    one = plan.model_copy(update={"training": plan.training.model_copy(update={"steps": 1})})
    alone = train(one, method_of(one), samples("a"), [], tmp_path / "one", device=CPU)
    assert checkpoint.weights_hash(found) == checkpoint.weights_hash(alone)


def test_V2_ten_in_a_row_are_refused_with_the_cases(tmp_path, monkeypatch):
    plan = tiny_plan(steps=60)
    count = poisoned(monkeypatch, set(range(5, 100)))
    with pytest.raises(DataError, match=r"in 10 steps in a row, last with cases ((left|right)(, )?)+;") as info:
        train(plan, method_of(plan), samples("left", "right"), [], tmp_path, device=CPU)
    assert count[0] == 4 + MAX_BAD_STEPS
    assert "doctor" in info.value.remedy


def test_V2_a_good_step_between_starts_the_count_anew(tmp_path, monkeypatch):
    plan = tiny_plan(steps=24)
    poisoned(monkeypatch, set(range(2, 24)) - {11})
    with pytest.raises(DataError, match="10 steps in a row"):
        train(plan, method_of(plan), samples("a"), [], tmp_path, device=CPU)
    monkeypatch.undo()
    plan = tiny_plan(steps=20)
    poisoned(monkeypatch, {*range(2, 11), *range(12, 20)})
    train(plan, method_of(plan), samples("a"), [], tmp_path / "b", device=CPU)


def test_V2_nothing_is_saved_while_steps_are_bad(tmp_path, monkeypatch):
    plan = tiny_plan(steps=60, checkpoint_seconds=0.0)
    poisoned(monkeypatch, set(range(5, 100)))
    with pytest.raises(DataError):
        train(plan, method_of(plan), samples("a"), [], tmp_path, device=CPU)
    tensors, state, _ = checkpoint.load_latest(tmp_path / "checkpoints")
    assert state["step"] == 4
    assert all(torch.isfinite(v).all() for k, v in tensors.items() if v.is_floating_point())
    assert sorted(p.stem for p in (tmp_path / "checkpoints").glob("*.json"))[-1] == "step-000000000004"


def test_V2_a_short_run_of_bad_steps_only_is_no_model(tmp_path, monkeypatch):
    plan = tiny_plan(steps=3)
    poisoned(monkeypatch, {1, 2, 3})
    with pytest.raises(DataError, match="not finite in 3 steps"):
        train(plan, method_of(plan), samples("a"), [], tmp_path, device=CPU)


def test_V2_a_gradient_that_is_not_finite_counts_too(tmp_path, monkeypatch):
    plan = tiny_plan(steps=2)
    real = loop.forward_loss

    def steep(network, *args):
        # finite loss, infinite slope: the square root at 0
        first = next(network.parameters())
        return {**real(network, *args), "steep": (first - first.detach()).abs().sum().sqrt()}

    monkeypatch.setattr(loop, "forward_loss", steep)
    with pytest.raises(DataError, match="not finite in 2 steps"):
        train(plan, method_of(plan), samples("a"), [], tmp_path, device=CPU)
