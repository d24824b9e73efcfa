"""Files of StarDist models: folders, zips and packages, errors that help, nothing in them is run."""

from __future__ import annotations

import io
import json
import zipfile

import h5py
import numpy as np
import pytest
import yaml
from engine_models import RAW, no_network, spots, spots_model
from keras_files import write_weights
from typer.testing import CliRunner

import biosegkit as bsk
from biosegkit.cli import app
from biosegkit.engines import load_model
from biosegkit.engines.keras_weights import read_layers
from biosegkit.engines.star_files import looks_like_star
from biosegkit.engines.star_model import StarModel
from biosegkit.errors import FileError, OptionError


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    no_network(monkeypatch)


def package(path, folder, licence="CC-BY-4.0"):
    """The same model as a package of bioimage.io."""
    about = {"name": "spots", "license": licence, "config": {"stardist": {
        "config": json.loads((folder / "config.json").read_text()), "thresholds": {"prob": 0.5, "nms": 0.4},
        "weights": "stardist_weights.h5"}}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("rdf.yaml", yaml.safe_dump(about))
        archive.writestr("stardist_weights.h5", (folder / "weights_best.h5").read_bytes())
    return path


def test_folder_zip_and_package_are_one_model(tmp_path):
    folder = spots_model(tmp_path / "m", 2, {"prob": 0.5, "nms": 0.4})
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"m/{path.name}")
    im = spots((40, 40), {(12, 20): 1.0, (30, 9): 0.8})
    models = [load_model(p, "cpu", RAW) for p in (folder, tmp_path / "m.zip", package(tmp_path / "p.zip", folder))]
    assert all(isinstance(m, StarModel) for m in models)
    assert len({m.predict(im).labels.array.tobytes() for m in models}) == 1
    assert len({m.digest for m in models}) == 1 != len({models[0].digest, load_model(folder, "cpu").digest})
    assert models[2].record["licence"] == "CC-BY-4.0"
    assert "licence CC-BY-4.0" in models[2].predict(im).notes[0]


def test_what_is_missing_is_listed(tmp_path):
    with pytest.raises(FileError, match=r"nothing there.*config.json, thresholds.json and weights_best.h5.*downloaded"):
        load_model(f"stardist:{tmp_path / 'none'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match=r"found no file.*config.json.*rdf.yaml"):
        load_model(f"stardist:{tmp_path / 'empty'}")
    folder = spots_model(tmp_path / "m", 2)
    (folder / "weights_best.h5").unlink()
    with pytest.raises(FileError, match=r"no weights beside config.json.*SavedModel"):
        load_model(folder)
    (folder / "weights_best.h5").write_bytes(b"no HDF5 at all")
    with pytest.raises(FileError, match="no HDF5 file of weights"):
        load_model(folder)
    (folder / "config.json").write_text('{"n_rays": 3, "grid": [1, 1], "oops')
    with pytest.raises(FileError, match=r"config\.json is no JSON"):
        load_model(f"stardist:{folder}")
    (tmp_path / "p.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(FileError, match=r"no StarDist model.*config\.json.*name the folder"):
        load_model(f"stardist:{tmp_path / 'p.zip'}")
    assert not looks_like_star(tmp_path / "p.zip")


@pytest.mark.parametrize(("change", "said"), [
    ({"n_rays": 10**6}, "n_rays = 1000000.*1024"), ({"grid": [3, 1]}, r"grid \(3, 1\).*powers of two"),
    ({"unet_surprise": 1}, "unet_surprise"), ({"axes": "XYC"}, "axes XYC"), ({"backbone": "resnet"}, "resnet in 2D"),
    ({"unet_n_filter_base": 2}, r"shape \(1, 1, 1, 1\).*\(1, 1, 1, 2\).*different models"),
    ({"n_classes": 2}, "no layer prob_class"), ({"net_conv_after_unet": 4}, "no layer features"),
    ({"unet_activation": "swish"}, "unet_activation")])
def test_settings_that_do_not_fit_are_refused(tmp_path, change, said):
    folder = spots_model(tmp_path / "m", 2)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(FileError, match=said):
        load_model(folder, "cpu")


@pytest.mark.parametrize("rays", [
    {"name": "print", "kwargs": {}}, {"name": "Rays_GoldenSpiral", "kwargs": {"n": 24, "x": 1}}, {"name": "Rays_Tetra"},
    {"name": "Rays_GoldenSpiral", "kwargs": {"n": 10**9}}, {"name": "Rays_GoldenSpiral", "kwargs": {"n": 25}}])
def test_a_name_in_a_file_is_never_run(tmp_path, rays):
    folder = spots_model(tmp_path / "m", 3)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rays_json": rays}))
    with pytest.raises(FileError, match=r"rays \{|25 directions"):
        load_model(folder, "cpu")


def test_weights_elsewhere_or_left_over_or_damaged_are_refused(tmp_path):
    folder = spots_model(tmp_path / "m", 2)
    good = read_layers((folder / "weights_best.h5").read_bytes(), "w")
    write_weights(folder / "weights_best.h5", {**good, "conv2d": {"kernel": np.ones((1, 1, 1, 1)), "bias": np.ones(1)}})
    with pytest.raises(FileError, match=r"layers conv2d that config\.json does not know"):
        load_model(folder, "cpu")
    bad = {**good, "prob": {**good["prob"], "bias": np.array([np.nan], np.float32)}}
    write_weights(folder / "weights_best.h5", bad)
    with pytest.raises(FileError, match="not finite"):
        load_model(folder, "cpu")
    write_weights(folder / "weights_best.h5", good)
    with h5py.File(folder / "weights_best.h5", "a") as root:
        del root["prob"]
        root["prob"] = h5py.ExternalLink("other.h5", "/prob")
    with pytest.raises(FileError, match="a link in the place of prob"):
        load_model(folder, "cpu")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as root:
        root["a"] = np.ones(3)
    with pytest.raises(FileError, match="without layer_names"):
        read_layers(buffer.getvalue(), "w")


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    import sys

    folder = spots_model(tmp_path / "m", 2)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(OptionError, match=r"h5py.*biosegkit\[stardist\]"):
        load_model(folder, "cpu")


def test_the_command_line(tmp_path):
    folder = spots_model(tmp_path / "m", 2)
    bsk.write(spots((40, 40), {(12, 20): 1.0, (30, 9): 0.8}), tmp_path / "a.tif")
    done = CliRunner().invoke(app, ["predict", f"stardist:{folder}", str(tmp_path / "a.tif"), "-o",
                                    str(tmp_path / "out"), "--option", "low=0", "--option", "high=100",
                                    "--threshold", "prob=0.9", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert bsk.read_labels(tmp_path / "out/a.tif", "instance").count == 2
    record = json.loads((tmp_path / "out/a.tif.json").read_text())
    assert (record["model"]["engine"], record["model"]["licence"]) == ("stardist", "not stated")
    wrong = CliRunner().invoke(app, ["predict", f"stardist:{folder}", str(tmp_path / "a.tif"), "-o",
                                     str(tmp_path / "out2"), "--option", "size=3"])
    assert wrong.exit_code == 2
    assert "channel, low, high" in " ".join(wrong.output.split())
