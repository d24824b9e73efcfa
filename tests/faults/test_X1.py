"""Workers, their timing and the place of a stop never change what is trained (fault X1)."""

import json
import time

import pytest
import torch
from small_sets import changed, tiny_plan, write_instances

from biosegkit import patches
from biosegkit.train import fit


def weights(run):
    return json.loads((run / "bundle/bundle.json").read_text())["weights"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("X1")
    dataset = write_instances(folder / "data", cases=4)
    fit(tiny_plan(steps=5), dataset, folder / "run", device="cpu")
    return dataset, weights(folder / "run")


@pytest.mark.parametrize("workers", [1, 4])
def test_X1_workers_that_end_in_any_order_train_the_same_weights(straight, tmp_path, monkeypatch, workers):
    dataset, expected = straight
    real = patches.make_batch

    def uneven(samples, plan, method, step, **options):
        time.sleep(0.02 * (step % 3 == 0))
        return real(samples, plan, method, step, **options)

    monkeypatch.setattr(patches, "make_batch", uneven)
    fit(changed(tiny_plan(steps=5), workers=workers), dataset, tmp_path / "run", device="cpu")
    assert weights(tmp_path / "run") == expected


def test_X1_another_seed_is_another_training(straight, tmp_path):
    dataset, expected = straight
    fit(tiny_plan(steps=5).model_copy(update={"seed": 3}), dataset, tmp_path / "run", device="cpu")
    assert weights(tmp_path / "run") != expected


def test_X1_global_generators_do_not_matter(straight, tmp_path):
    import numpy as np

    dataset, expected = straight
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - that is the point
    fit(tiny_plan(steps=5), dataset, tmp_path / "run", device="cpu")
    assert weights(tmp_path / "run") == expected
