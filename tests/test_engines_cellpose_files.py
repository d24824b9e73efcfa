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


@pytest.fixture
def package(monkeypatch):
    """The cellpose package, as far as it is used."""
    made = []

    class Model:
        def __init__(self, **settings):
            made.append(self)
            self.settings, self.calls = settings, []
            torch.backends.cuda.matmul.allow_tf32 = True

        def eval(self, x, **options):
            self.calls.append((x, options))
            space, ndim = x.shape[:-1], x.ndim - 1
            return None, [None, np.full((ndim, *space), 2.0), np.full(space, 3.0)], None

    module = types.ModuleType("cellpose.models")
    module.CellposeModel = Model
    monkeypatch.setitem(sys.modules, "cellpose", types.ModuleType("cellpose"))
    monkeypatch.setitem(sys.modules, "cellpose.models", module)
    return made


def test_version_4_runs_through_its_package(tmp_path, package):
    path = save({"W2": torch.eye(3), "encoder.pos_embed": torch.zeros(2)}, tmp_path / "cpsam")
    before = torch.backends.cuda.matmul.allow_tf32
    model = load_model(f"cellpose:{path}", "cpu", {"diameter": 15, "low": 0, "high": 100})
    assert torch.backends.cuda.matmul.allow_tf32 == before, "nothing global is set"
    (made,) = package
    assert made.settings == {"gpu": False, "pretrained_model": str(path.resolve()), "device": CPU,
                             "use_bfloat16": False}
    values = np.random.default_rng(0).random((4, 30, 20)).astype(np.float32)
    maps = model.maps(image(values, channels=True))
    x, options = made.calls[0]
    low, high = (np.expand_dims(f(values[:3], axis=(1, 2)), (1, 2)) for f in (np.min, np.max))
    np.testing.assert_allclose(np.moveaxis(x, -1, 0), (values[:3] - low) / (high - low), atol=1e-5)
    assert options == {"channel_axis": -1, "diameter": 15, "normalize": {"normalize": False}, "compute_masks": False}
    np.testing.assert_allclose(maps["flow"], 0.4, atol=1e-6)
    np.testing.assert_allclose(maps["foreground"], sigmoid(3.0), atol=1e-6)
    model.maps(image(values, spacing=(2.0, 0.5, 0.5)))
    assert made.calls[1][1]["anisotropy"] == 4.0
    assert made.calls[1][1]["do_3D"] is True
    assert model.record["version"] == "4"
    with pytest.raises(OptionError, match="nuclei with a model of version 4"):
        load_model(f"cellpose:{path}", "cpu", {"nuclei": 1})


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
