"""predict --depth: a U-Net++ cut back after training, from Python and from the command line."""

import numpy as np
import pytest
import tifffile
import torch
from small_sets import discs, tiny_plan
from typer.testing import CliRunner

from biosegkit._atomic import read_json
from biosegkit.bundle import load, write_bundle
from biosegkit.cli import app
from biosegkit.errors import OptionError
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.loop import make_network
from biosegkit.predict import predict
from biosegkit.segmenter import method_of


def written(folder, network="unetplusplus"):
    """A bundle of an untrained network."""
    plan = tiny_plan(task="semantic", values=(0, 1), network=network)
    write_bundle(folder, plan, {"0": make_network(plan, method_of(plan), torch.device("cpu")).state_dict()})
    return load(folder, "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return written(tmp_path_factory.mktemp("bundle") / "model")


def image():
    array, _ = discs((24, 20))
    return Image(array[None].astype(np.float32), Grid.regular((24, 20)))


@pytest.mark.parametrize("depth", [1, 2, "mean", "1"])
def test_a_depth_answers_as_its_networks_do(model, depth):
    whole = model.segmenter.networks[0]
    cut = model.at_depth(depth)
    wanted = whole.averaged() if depth == "mean" else whole.pruned(int(depth))
    x = torch.randn(1, 1, 16, 16)
    with torch.inference_mode():
        assert torch.equal(cut.segmenter.networks[0](x)["classes"], wanted(x)["classes"])
    found, full = (predict(model, image(), maps=True, depth=d).maps["classes"] for d in (depth, None))
    assert np.array_equal(found, cut.maps(image())["classes"])
    assert np.array_equal(found, full) is (depth == 2)
    assert cut.digest != model.digest


@pytest.mark.parametrize(("depth", "told"), [(3, "depth 3.*one of 1, 2, or mean"), ("deep", "depth deep.*one of 1, 2"),
                                             (0, "depth 0"), (-1, "depth -1")])
def test_a_depth_that_is_not_there_is_refused(model, depth, told):
    with pytest.raises(OptionError, match=told):
        predict(model, image(), depth=depth)


def test_a_network_of_one_depth_says_so(tmp_path):
    with pytest.raises(OptionError, match=r"one depth only.*unetplusplus.*leave out --depth"):
        predict(written(tmp_path / "model", "unet"), image(), depth=1)


def test_the_command_line_cuts_back_and_the_record_says_so(model, tmp_path):
    source, out = tmp_path / "a.tif", tmp_path / "out"
    tifffile.imwrite(source, discs((24, 20))[0])

    def run(*options):
        return CliRunner().invoke(app, ["predict", str(model.path), str(source), "-o", str(out), *options])

    assert run("--depth", "1").exit_code == 0
    assert read_json(out / "a.tif.json")["depth"] == "1"
    first = read_json(out / "a.tif.json")["made_from"]
    assert run("--resume").exit_code == 0  # the whole network is another model: made again
    record = read_json(out / "a.tif.json")
    assert "depth" not in record
    assert record["made_from"] != first
    assert run("--depth", "7", "--overwrite").exit_code == 2
