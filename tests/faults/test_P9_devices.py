"""Any device or none (fault P9): what an Apple GPU cannot do is not asked of it, and the device is stated."""

import json

import pytest
import torch
from small_sets import tiny_plan, write_instances, write_volumes
from torch.utils._python_dispatch import TorchDispatchMode
from typer.testing import CliRunner

from biosegkit._words import counted
from biosegkit.cli import app
from biosegkit.train import fit


class Doubles(TorchDispatchMode):
    """The operations that made a float64 tensor of one dimension or more."""

    def __init__(self):
        super().__init__()
        self.seen, self.count = set(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        self.count += 1
        for tensor in found if isinstance(found, tuple | list) else (found,):
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64 and tensor.ndim:
                self.seen.add(str(function))
        return found


@pytest.mark.parametrize("ndim", [2, 3])
def test_P9_training_and_prediction_make_no_float64(tmp_path, ndim):
    """Apple's GPUs have none."""
    if ndim == 2:
        dataset, plan = write_instances(tmp_path / "data", cases=3), tiny_plan(steps=2)
    else:
        dataset = write_volumes(tmp_path / "data")
        plan = tiny_plan(3, task="semantic", unit="mm", patch=(8, 8, 8), steps=2)
    with Doubles() as doubles:
        bundle = fit(plan, dataset, tmp_path / "run", device="cpu")
        image, _ = dataset.load(dataset[0], plan.labels.task)
        bundle.predict(image, tta=True)
    assert doubles.count > 100
    assert not doubles.seen


def test_P9_the_device_is_stated_in_the_log_and_the_run(tmp_path):
    said = []
    dataset = write_instances(tmp_path / "data", cases=3)
    fit(tiny_plan(steps=1), dataset, tmp_path / "run", device="cpu", progress=said.append)
    assert any(f"cpu ({counted(torch.get_num_threads(), 'thread')})" in row.get("stage", "") for row in said)
    assert json.loads((tmp_path / "run/run.json").read_text())["device"].startswith("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_P9_a_device_that_is_not_there_is_refused_with_exit_code_2(tmp_path):
    dataset = write_instances(tmp_path / "data", cases=2)
    result = CliRunner().invoke(app, ["train", str(dataset.source), "-o", str(tmp_path / "run"), "--device", "cuda",
                                      "--task", "instance", "--steps", "1"])
    assert result.exit_code == 2, result.output
    assert "--device auto" in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()
