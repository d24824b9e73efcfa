"""Thresholds moved on one image: the labels of a full prediction without the network, and a model that keeps them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from stub_models import Bands, Discs, fresh_weights, image, segmenter, stub_plan

from biosegkit.bundle import load, write_bundle, zip_bundle
from biosegkit.errors import DataError, FileError, OptionError
from biosegkit.estimate import estimate, level_for
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.lattice import Lattice
from biosegkit.live import live
from biosegkit.methods.protocol import Tunable
from biosegkit.predictor import Prediction
from biosegkit.retune import save_thresholds
from biosegkit.tiling import Forward


def discs(shape=(40, 44)):
    values = ndimage.gaussian_filter(np.random.default_rng(3).random(shape), 3)
    return Image(((values - values.min()) / np.ptp(values))[None].astype(np.float32), Grid.regular(shape))


def test_other_thresholds_need_no_network(monkeypatch):
    model, picture = segmenter(Discs(), stub_plan(2, instance=True, scheme="none")), discs()
    found = live(model, picture)
    assert set(found.tunables) == set(model.method.tunables)
    assert dict(found.start) == {name: t.default for name, t in model.method.tunables.items()}
    wanted = [model.predict(picture, thresholds={"foreground": f}).labels.array for f in (0.2, 0.8)]
    monkeypatch.setattr(Forward, "__call__", lambda *_: pytest.fail("the network was run"))
    for f, labels in zip((0.2, 0.8), wanted, strict=True):
        np.testing.assert_array_equal(found.decode({"foreground": f}).labels.array, labels)
    assert (wanted[0] > 0).sum() > (wanted[1] > 0).sum() > 0
    with pytest.raises(OptionError, match="threshold 'size'"):
        found.decode({"size": 1})


def test_a_model_with_maps_is_asked_for_them_once():
    class Maps:
        calls = 0

        @property
        def tunables(self):
            return {"level": Tunable(2.0, 0.0, 9.0, 1, "level")}

        def predict(self, picture):
            raise AssertionError("maps are enough")

        def maps(self, picture):
            self.calls += 1
            return {"m": picture.array}

        def decode(self, maps, thresholds, grid=None):
            from biosegkit.image import Labels

            return Prediction(Labels.from_values((maps["m"][0] > thresholds["level"]).astype(int), grid, "instance"))

    model, picture = Maps(), image((6, 7), top=5.0)
    found = live(model, picture)
    for level in (1.0, 2.0, 4.0):
        np.testing.assert_array_equal(found.decode({"level": level}).labels.array, picture.array[0] > level)
    np.testing.assert_array_equal(found.decode().labels.array, picture.array[0] > 2.0)
    assert model.calls == 1


@pytest.fixture
def bundle(tmp_path):
    plan = stub_plan(2, instance=True, scheme="zscore")
    write_bundle(tmp_path / "run" / "bundle", plan, {"0": fresh_weights(plan)}, thresholds={"foreground": 0.6})
    return tmp_path / "run"


@pytest.mark.parametrize("packed", [False, True], ids=["run", "zip"])
def test_saved_thresholds_are_the_models_and_training_s_are_kept(bundle, packed, tmp_path):
    path = zip_bundle(bundle / "bundle", tmp_path / "m.zip") if packed else bundle
    model = load(path, "cpu")
    saved = save_thresholds(model, {"foreground": 0.3})
    again = load(path, "cpu")
    assert again.thresholds["foreground"] == saved.thresholds["foreground"] == 0.3
    assert again.digest == saved.digest != model.digest
    assert live(again, discs()).trained["foreground"] == 0.6
    twice = save_thresholds(again, {"seed": 0.5})
    assert live(twice, discs()).trained["foreground"] == 0.6
    back = save_thresholds(twice, live(twice, discs()).trained)
    assert dict(back.info)["thresholds"]["foreground"] == 0.6


def test_a_model_changed_by_somebody_else_is_not_written_over(bundle):
    model = load(bundle, "cpu")
    save_thresholds(load(bundle, "cpu"), {"foreground": 0.4})
    with pytest.raises(FileError, match="changed since it was loaded"):
        save_thresholds(model, {"foreground": 0.3})
    with pytest.raises(OptionError, match=r"foreground=7"):
        save_thresholds(model, {"foreground": 7})
    assert load(bundle, "cpu").thresholds["foreground"] == 0.4


def test_tiles_are_those_of_the_run_and_no_voxel_is_read():
    network = Bands()
    model = segmenter(network, stub_plan(3))
    picture = Image(np.broadcast_to(np.float32(0), (1, 12, 20, 9)), Grid.regular((12, 20, 9), 1.0, "mm"))
    found = estimate(model, picture)
    assert found.tiles == len(Lattice((12, 20, 9), (8, 8, 8), (4, 4, 4)))
    assert network.calls == 0
    model.predict(picture)
    assert network.calls == found.tiles
    long = np.broadcast_to(np.float32(0), (1, 48, 20, 9))
    larger = estimate(model, Image(long, Grid.regular((48, 20, 9), 1.0, "mm")))
    assert larger.memory > found.memory
    assert str(found).startswith(f"{found.tiles} tiles, about ")


def test_what_does_not_fit_is_said_before_the_run():
    model = segmenter(Bands(), stub_plan(3))
    with pytest.raises(DataError, match="use a 2D model"):
        estimate(model, image((8, 8)))
    with pytest.raises(DataError, match="2 channels"):
        estimate(model, image((8, 8, 8), channels=2))
    resampled = segmenter(Bands(), stub_plan(3, resample=True))
    with pytest.raises(DataError, match="--spacing and --unit"):
        estimate(resampled, image((8, 8, 8), unit="px"))
    assert "looked at as 16 × 16 × 16" in str(estimate(resampled, image((8, 8, 8), spacing=2.0)))


def test_the_resolution_is_the_coarsest_that_is_fine_enough():
    plan = stub_plan(2, resample=True, unit="um", spacing=(1.0, 1.0))
    levels = [(0.25, 0.25), (0.5, 0.5), (1.02, 1.02), (2.0, 2.0)]
    assert level_for(plan, levels, "um") == 2
    assert level_for(plan, [(s[0] / 1000,) * 2 for s in levels], "mm") == 2
    assert level_for(plan, levels[:2], "um") == 1
    assert level_for(plan, levels[3:], "um") == 0
    assert level_for(plan, levels, "px") == level_for(stub_plan(2), levels, "um") == level_for(None, levels, "um") == 0
