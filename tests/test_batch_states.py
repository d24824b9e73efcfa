"""States of giant images that are kept: other thresholds without the network, never by states of something else."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tifffile
from batch_tasks import Alone
from engine_models import spots_model
from giant_images import model_of, saved, textured

from biosegkit._atomic import read_json, sha256
from biosegkit.batch import giants, run
from biosegkit.batch.engine import Staff
from biosegkit.batch.run import predict_batch
from biosegkit.batch.sources import BundleSource
from biosegkit.batch.tasks import Opening
from biosegkit.errors import OptionError
from biosegkit.io import read_labels
from biosegkit.kept_states import KEPT, NOT_RUN
from biosegkit.records import Wish


@pytest.fixture
def looked(tmp_path, monkeypatch, small_chunks):
    """How often the network was asked; a model and an image are in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(giants, "GIANT", 1000)
    calls, parts = [], BundleSource.parts

    def counted(*given, **more):
        calls.append(1)
        return parts(*given, **more)

    @contextmanager
    def alone(staff):
        yield Alone(None)

    monkeypatch.setattr(BundleSource, "parts", counted)
    monkeypatch.setattr(run, "employ", alone)
    return calls


def batch(out, states="kept", options=(), **wish):
    (found,) = predict_batch(Opening("m", "cpu", options), "a.ome.zarr", out, Staff(1), states=states,
                             wish=Wish(**{"tissue": "off", **wish}))
    assert found.error is None, found.trace
    return found


def chunks(out):
    return {p.relative_to(out).as_posix(): sha256(p) for p in sorted(Path(out).rglob("*"))
            if p.is_file() and p.suffix != ".json" and p.name not in ("ledger.sqlite", "report.html")}


@pytest.mark.parametrize(("method", "ndim", "thresholds"), [
    ("distance", 2, {"foreground": 0.45, "min_size": 5.0}), ("star", 2, {"probability": 0.4}),
    ("semantic", 2, {"foreground": 0.3}), ("flow", 3, {"foreground": 0.45}),
])
def test_other_thresholds_and_post_processing_need_no_network(looked, method, ndim, thresholds):
    model = model_of(Path("m"), method, ndim)
    image = saved(textured((40, 41) if ndim == 2 else (9, 14, 15)), Path("a.ome.zarr"))
    thresholds = {name: value for name, value in thresholds.items() if name in model.segmenter.method.tunables}
    assert thresholds
    first = batch("one")
    asked = len(looked)
    assert asked > 0
    assert first.notes[-1] == KEPT
    assert list(Path("kept").iterdir()) == [Path("kept/a.ome.zarr.states")]
    assert not list(Path("one").glob(".*")), "the work is gone, states are not"
    plain = batch("plain", states=None)
    assert not {KEPT, NOT_RUN} & set(plain.notes)
    assert chunks("one") == chunks("plain")
    assert Path("one/a.ome.zarr.json").read_bytes() == Path("plain/a.ome.zarr.json").read_bytes()
    looked.clear()
    other = batch("other", thresholds=thresholds)
    assert (looked, other.notes[-1]) == ([], NOT_RUN)
    assert read_json("other/a.ome.zarr.json")["thresholds"] == {**model.thresholds, **thresholds}
    whole = model.predict(image, thresholds=thresholds)
    np.testing.assert_array_equal(read_labels("other/a.ome.zarr", model.plan.labels.task).restored(),
                                  whole.labels.restored())
    assert (whole.labels.restored() != model.predict(image).labels.restored()).any()
    tidy = {"fill_holes": "foreground"} if method == "semantic" else {"border_objects": "remove"}
    batch("tidy", options=tuple(tidy.items()))
    assert looked == []
    np.testing.assert_array_equal(read_labels("tidy/a.ome.zarr", model.plan.labels.task).restored(),
                                  model.segmenter.tidied(**tidy).predict(image).labels.restored())


def test_states_of_another_image_model_or_place_to_look_are_not_used(looked):
    model_of(Path("m"), "distance", 2)
    saved(textured((40, 41)), Path("a.ome.zarr"))
    batch("one")
    mask = np.zeros((40, 41), np.uint8)
    mask[:20] = 1
    tifffile.imwrite("mask.tif", mask)
    for change, how in [("augmented", {"tta": True}), ("masked", {"tissue": "mask.tif"}), ("image", {}), ("model", {})]:
        if change == "image":
            shutil.rmtree("a.ome.zarr")
            saved(textured((40, 41), seed=3), Path("a.ome.zarr"))
        if change == "model":
            model_of(Path("m"), "distance", 2, patch=(16, 16))
        looked.clear()
        batch(f"kept-{change}", **how)
        assert looked, change
        looked.clear()
        batch(f"again-{change}", **how)
        assert not looked, change
        batch(f"plain-{change}", states=None, **how)
        assert chunks(f"kept-{change}") == chunks(f"again-{change}") == chunks(f"plain-{change}")


def test_lost_and_damaged_states_are_made_again(looked):
    model_of(Path("m"), "distance", 2)
    saved(textured((40, 41)), Path("a.ome.zarr"))
    batch("one")
    folder = Path("kept/a.ome.zarr.states/states")
    first, *_, last = sorted(folder.glob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:-1] + b"\1")
    last.unlink()
    looked.clear()
    batch("two")
    assert looked
    assert chunks("one") == chunks("two")
    facts = folder.parent / "image.json"
    facts.write_text(json.dumps({"identity": 3}))
    batch("three")
    assert chunks("one") == chunks("three")


def test_states_are_refused_where_there_are_none_to_keep(looked):
    spots_model(Path("m"), 2)
    saved(textured((40, 41)), Path("a.ome.zarr"))
    with pytest.raises(OptionError, match="no bundle"):
        batch("out")
    shutil.rmtree("m")
    model_of(Path("m"), "distance", 2)
    with pytest.raises(OptionError, match="together with maps"):
        batch("out", save_maps=True)
    assert not Path("out").exists()
