"""Thresholds replaced on the command line without the network: the same bytes, and stale states are noticed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import ndimage
from stub_models import Discs, fresh_weights, segmenter, stub_plan
from typer.testing import CliRunner

from biosegkit.bundle import load, write_bundle
from biosegkit.cli import app
from biosegkit.errors import OptionError
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.io import read, write
from biosegkit.kept_states import KeptStates
from biosegkit.methods import METHODS
from biosegkit.predict import predict_files
from biosegkit.tiling import Forward

OTHER = {"distance": ("seed", "0.1"), "flow": ("flow_error", "0.9"), "offset": ("seed", "0.2")}


def model(folder, *, method="distance", ndim=2, seed=2):
    plan = stub_plan(ndim, scheme="zscore", instance=method != "semantic", transpose=(1, 0) if ndim == 2 else None)
    plan = plan.model_copy(update={"method": method})
    write_bundle(folder, plan, {"0": fresh_weights(plan, seed)})
    return folder


def picture(path, shape=(40, 33), seed=1):
    values = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    write(Image(values[None].astype(np.float32), Grid.regular(shape)), path)
    return path


def predict(*arguments):
    done = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    return done.exit_code, " ".join(done.output.split())


@pytest.fixture
def no_network(monkeypatch):
    """A switch that makes every use of a network an error."""
    def refused(*_):
        raise AssertionError("the network was run")

    return lambda: monkeypatch.setattr(Forward, "__call__", refused)


@pytest.mark.parametrize(("method", "ndim", "shape"), [
    ("distance", 2, (40, 33)), ("offset", 3, (9, 20, 17)), ("flow", 2, (5, 20, 17))])
def test_another_threshold_gives_the_bytes_of_a_full_prediction_without_the_network(
        tmp_path, no_network, method, ndim, shape):
    run = model(tmp_path / "m", method=method, ndim=ndim)
    images = [picture(tmp_path / f"in/{name}.tif", shape, k) for k, name in enumerate("ab")]
    name, value = OTHER[method]
    assert name in METHODS[method]().tunables
    assert predict(run, tmp_path / "in", "-o", tmp_path / "first", "--states", tmp_path / "kept")[0] == 0
    threshold = ("--threshold", f"{name}={value}", "--threshold", "min_size=1", "--option", "fill_holes=yes")
    assert predict(run, tmp_path / "in", "-o", tmp_path / "full", *threshold)[0] == 0
    no_network()
    code, said = predict(run, tmp_path / "in", "-o", tmp_path / "again", "--states", tmp_path / "kept", *threshold)
    assert code == 0, said
    assert "from kept states: the network was not run" in said
    files = sorted(p.name for p in (tmp_path / "full").iterdir())
    assert files == sorted(p.name for p in (tmp_path / "again").iterdir())
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "full" / file).read_bytes(), file
    assert (tmp_path / "first/a.tif").read_bytes() != (tmp_path / "full/a.tif").read_bytes()
    images[1].write_bytes(images[0].read_bytes())
    code, said = predict(run, images[1], "-o", tmp_path / "last", "--states", tmp_path / "kept")
    assert (code, "the network was run" in said) == (1, True)  # the switch works


@pytest.mark.parametrize("method", METHODS)
def test_states_of_every_method_come_back_from_disk(tmp_path, method):
    loaded, im = load(model(tmp_path / "m", method=method), "cpu"), read(picture(tmp_path / "a.tif", (24, 21)))
    kept = KeptStates(tmp_path / "kept", {"input": "a"})
    full = loaded.predict(im)
    for said in ("states kept", "from kept states"):
        found, text = kept.predict(loaded, im)
        assert text.startswith(said)
        np.testing.assert_array_equal(found.labels.array, full.labels.array)
        assert {n: c.tolist() for n, c in found.objects.items()} == {n: c.tolist() for n, c in full.objects.items()}


def test_classes_are_tidied_anew_without_the_network(tmp_path, no_network):
    run, im = model(tmp_path / "m", method="semantic"), picture(tmp_path / "a.tif")
    assert predict(run, im, "-o", tmp_path / "first", "--states", tmp_path / "kept")[0] == 0
    assert predict(run, im, "-o", tmp_path / "full", "--option", "largest=foreground,class 3,7")[0] == 0
    no_network()
    code, said = predict(run, im, "-o", tmp_path / "again", "--states", tmp_path / "kept",
                         "--option", "largest=foreground,class 3,7")
    assert code == 0, said
    assert (tmp_path / "again/a.tif").read_bytes() == (tmp_path / "full/a.tif").read_bytes()
    assert (tmp_path / "first/a.tif").read_bytes() != (tmp_path / "full/a.tif").read_bytes()


def test_states_of_something_else_are_noticed_said_and_made_again(tmp_path):
    run, other = model(tmp_path / "m"), model(tmp_path / "other", seed=3)
    im, kept = picture(tmp_path / "a.tif"), tmp_path / "kept"
    outs = iter(tmp_path / f"out{k}" for k in range(20))

    def said(folder, *options, full=()):
        """What the second prediction said; it is the same as one without states."""
        out, plain = next(outs), next(outs)
        code, text = predict(folder, im, "-o", out, "--states", kept, *options)
        assert code == 0, text
        assert predict(folder, im, "-o", plain, *options)[0] == 0
        assert (out / "a.tif").read_bytes() == (plain / "a.tif").read_bytes()
        return text

    assert "states kept for other thresholds" in said(run)
    assert "from kept states" in said(run)
    assert "of another model: the network was run again" in said(other)
    picture(im, seed=7)
    assert "of another image: the network was run again" in said(other)
    assert "of another choice of --tta" in said(other, "--tta")
    assert "of another choice of --tta" in said(other)
    file = kept / "a.tif.states/0.safetensors"
    whole = bytearray(file.read_bytes())
    whole[-1] ^= 1
    file.write_bytes(whole)
    assert "are damaged" in said(other)
    assert "from kept states" in said(other)
    record = kept / "a.tif.states/states.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "window": 3}))
    assert "are damaged" in said(other)


def test_what_states_cannot_do_is_refused(tmp_path):
    loaded, im = load(model(tmp_path / "m"), "cpu"), picture(tmp_path / "a.tif")
    for options, said in [({"save_maps": True}, "--save-maps"), ({"states": tmp_path / "out"}, "of their own")]:
        with pytest.raises(OptionError, match=said):
            predict_files(loaded, im, tmp_path / "out", **{"states": tmp_path / "kept", **options})
    with pytest.raises(OptionError, match="no bundle"):
        predict_files(segmenter(Discs(), stub_plan(2, instance=True)), im, tmp_path / "out", states=tmp_path / "kept")
