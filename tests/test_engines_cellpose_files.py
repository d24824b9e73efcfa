"""Files of Cellpose models: version 4 through its package, safe reading, nothing downloaded."""

from __future__ import annotations

import json
import os
import pickle  # noqa: TID251
import sys
import types

import numpy as np
import pytest
import torch
from engine_models import image, no_network, random_state, save
from keras_files import sigmoid
from scipy import ndimage
from typer.testing import CliRunner

import biosegkit as bsk
from biosegkit.cli import app
from biosegkit.engines import load_model
from biosegkit.engines.torch_file import read_state
from biosegkit.errors import FileError, OptionError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    no_network(monkeypatch)
    monkeypatch.setenv("CELLPOSE_LOCAL_MODELS_PATH", str(tmp_path / "home"))


# --- version 4 -------------------------------------------------------------------------------------------------------


class Net(torch.nn.Module):
    """A network whose answer depends on the place in the tile, maybe with two classes before flow and logit."""

    dtype, device = torch.float32, CPU

    def __init__(self, classes):
        super().__init__()
        self.classes = classes

    def forward(self, x):
        rows = torch.arange(x.shape[2], dtype=torch.float32)[:, None] / x.shape[2]
        maps = [x[:, 0], x[:, 1], x[:, 0] - rows, 9 * x[:, 1] * rows, 5 * x.mean(1)]
        return torch.stack(maps[0 if self.classes else 2 :], 1), torch.zeros(len(x), 256)


@pytest.fixture
def package(monkeypatch):
    """The cellpose package, as far as it is used."""
    made = []

    class Model:
        def __init__(self, **settings):
            made.append(self)
            self.settings, self.net, self.backbone = settings, Net(classes=False).train(), "sam_vitl"
            torch.backends.cuda.matmul.allow_tf32 = True

    module = types.ModuleType("cellpose.models")
    module.CellposeModel = Model
    monkeypatch.setitem(sys.modules, "cellpose", types.ModuleType("cellpose"))
    monkeypatch.setitem(sys.modules, "cellpose.models", module)
    return made


def test_version_4_is_loaded_by_its_package(tmp_path, package):
    path = save({"W2": torch.eye(3), "encoder.pos_embed": torch.zeros(2)}, tmp_path / "cpsam")
    before = torch.backends.cuda.matmul.allow_tf32
    model = load_model(f"cellpose:{path}", "cpu", {"diameter": 15, "low": 0, "high": 100})
    assert torch.backends.cuda.matmul.allow_tf32 == before, "nothing global is set"
    (made,) = package
    assert made.settings == {"gpu": False, "pretrained_model": str(path.resolve()), "device": CPU,
                             "use_bfloat16": False}
    assert not made.net.training
    assert (model.run.tile, model.run.factor, model.record["version"]) == (256, 2.0, "4")
    with pytest.raises(OptionError, match="nuclei with a model of version 4"):
        load_model(f"cellpose:{path}", "cpu", {"nuclei": 1})


@pytest.mark.parametrize(("shape", "diameter", "spacing"), [
    ((30, 20), 0, 1.0), ((300, 250), 0, (1.0, 0.5)), ((90, 130), 12, 1.0), ((150, 400), 45, 1.0),
    ((6, 70, 40), 0, (2.0, 0.5, 0.5)), ((9, 60, 50), 20, 1.0),
])
def test_maps_of_version_4_are_those_of_the_package(tmp_path, monkeypatch, shape, diameter, spacing):
    """Against the package's own way from an image to maps, around the same network."""
    models = pytest.importorskip("cellpose.models")
    theirs = object.__new__(models.CellposeModel)
    theirs.net, theirs.backbone = Net(classes=len(shape) == 2).eval(), "sam_vitl"  # classes mislead it in 3D
    theirs.device, theirs.gpu = CPU, False
    monkeypatch.setattr(models, "CellposeModel", lambda **_: theirs)
    path = save({"W2": torch.eye(3), "encoder.pos_embed": torch.zeros(2)}, tmp_path / "cpsam")
    values = ndimage.gaussian_filter(np.random.default_rng(0).random((4, *shape)), (0, *(1,) * len(shape)))
    values = values.astype(np.float32)
    maps = load_model(f"cellpose:{path}", "cpu", {"diameter": diameter, "low": 0, "high": 100}).maps(
        image(values, channels=True, spacing=spacing))
    axes = tuple(range(1, values.ndim))
    low, high = (f(values[:3], axis=axes, keepdims=True) for f in (np.min, np.max))
    more = {} if len(shape) == 2 else {"z_axis": 0, "do_3D": True, "anisotropy": 4.0 if spacing != 1.0 else 1.0}
    _, found, _ = type(theirs).eval(
        theirs, np.moveaxis((values[:3] - low) / (high - low), 0, -1), channel_axis=-1, diameter=diameter or None,
        normalize={"normalize": False}, compute_masks=False, **more)
    flow, logit = found[1] / (5 * (len(shape) - 1)), found[2] / (1 if len(shape) == 2 else 3)
    np.testing.assert_allclose(maps["flow"], flow / np.maximum(np.linalg.norm(flow, axis=0), 1), atol=2e-5)
    np.testing.assert_allclose(maps["foreground"][0], sigmoid(logit), atol=2e-5)
    assert maps["flow"].std() > 0.05


def test_a_missing_file_never_reaches_the_package(tmp_path, package):
    for name in (str(tmp_path / "cpsam"), "cpsam_v2"):
        with pytest.raises(FileError, match=r"no file.*expected a file of Cellpose weights.*cpsam.*cyto.*downloaded"):
            load_model(f"cellpose:{name}", "cpu")
    assert not package
    with pytest.raises(FileError, match=r"home.cpsam_v2"):
        load_model("cellpose:cpsam_v2", "cpu")
    (tmp_path / "home").mkdir()
    save({"W2": torch.eye(3)}, tmp_path / "home" / "cpsam_v2")
    assert load_model("cellpose:cpsam_v2", "cpu").name == "cpsam_v2"


def test_without_a_package_it_is_named(tmp_path, monkeypatch):
    path = save({"W2": torch.eye(3)}, tmp_path / "cpsam")

    def absent(_name):
        raise ModuleNotFoundError("No module named 'cellpose'", name="cellpose")

    monkeypatch.setattr("biosegkit._lazy.importlib.import_module", absent)
    with pytest.raises(OptionError, match=r"biosegkit\[cellpose\]"):
        load_model(f"cellpose:{path}", "cpu")
    dino = save({"W2": torch.eye(3), "encoder.cls_token": torch.zeros(1)}, tmp_path / "cpdino")
    with pytest.raises(OptionError, match=r"DINOv3.*dinov3"):
        load_model(f"cellpose:{dino}", "cpu")


# --- files -----------------------------------------------------------------------------------------------------------


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_nothing_in_a_file_is_run(tmp_path):
    evil = Evil(tmp_path / "made")
    (tmp_path / "raw").write_bytes(pickle.dumps(evil, protocol=2))
    save({"W2": evil}, tmp_path / "zip")
    for name in ("raw", "zip"):
        with pytest.raises(FileError, match="no state dict that can be read safely"):
            load_model(f"cellpose:{tmp_path / name}", "cpu")
    assert not (tmp_path / "made").exists()
    pickle.loads((tmp_path / "raw").read_bytes())
    assert (tmp_path / "made").exists(), "read without care, it would have run"


def test_old_and_parallel_files_are_read(tmp_path):
    state = {"a": torch.arange(3.0)}
    torch.save(state, tmp_path / "old", _use_new_zipfile_serialization=False)  # noqa: TID251
    save({"module.a": state["a"]}, tmp_path / "parallel")
    for name in ("old", "parallel"):
        assert read_state(tmp_path / name, "")["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("content", "said"), [
    (b"", "no state dict"), (b"PK\x03\x04 broken", "no state dict"), ([1, 2], "something else than tensors"),
    ({"a": 3}, "something else than tensors"),
    ({"weight": torch.ones(2)}, "tensors weight, ….*file of Cellpose weights")])
def test_other_contents_are_refused(tmp_path, content, said):
    path = tmp_path / "w"
    path.write_bytes(content) if isinstance(content, bytes) else save(content, path)
    with pytest.raises(FileError, match=said):
        load_model(f"cellpose:{path}", "cpu")


def test_other_networks_are_refused(tmp_path):
    state = random_state()

    def refused(changed, said):
        with pytest.raises(FileError, match=said):
            load_model(f"cellpose:{save(changed, tmp_path / 'w')}", "cpu")

    without = {k: v for k, v in state.items() if k != "upsample.up.res_up_0.proj.1.bias"}
    refused(without, r"proj.1.bias missing \(1 such")
    refused(state | {"more": torch.ones(1)}, "tensor more .*no such tensor")
    refused(state | {"output.2.weight": torch.ones(2, 4, 1, 1)}, "network of 2 outputs.*denoising")
    refused(state | {"output.2.bias": torch.full((3,), torch.nan)}, "not finite")
    refused(random_state((4, 4, 6)), "takes 4 channels")


def test_the_command_line(tmp_path):
    state = random_state(diam_mean=30)
    bsk.write(image(np.random.default_rng(0).random((40, 40))), tmp_path / "a.tif")
    path = save(state, tmp_path / "cyto")
    done = CliRunner().invoke(app, ["predict", f"cellpose:{path}", str(tmp_path / "a.tif"), "-o",
                                    str(tmp_path / "out"), "--option", "diameter=30", "--threshold", "flow_error=4",
                                    "--device", "cpu"])
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "out/a.tif.json").read_text())
    assert (record["model"]["version"], record["model"]["options"]["diameter"]) == ("1-3", 30)
    assert "CC-BY-NC" in record["model"]["licence"]
    assert bsk.read_labels(tmp_path / "out/a.tif", "instance").array.shape == (40, 40)
    missing = CliRunner().invoke(app, ["predict", "cellpose:nowhere/cyto", str(tmp_path / "a.tif"), "-o",
                                       str(tmp_path / "b")])
    assert missing.exit_code == 1
    assert "nothing is downloaded" in " ".join(missing.output.split())
