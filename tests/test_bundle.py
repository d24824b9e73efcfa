"""A bundle is one model: the same from a run, a folder or a zip, and it tests itself."""

import json

import numpy as np
import pytest
import torch
from stub_models import fresh_weights, stub_plan

from biosegkit.bundle import load, write_bundle, zip_bundle
from biosegkit.errors import FileError, PlanError
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.predictor import MapPredictor


@pytest.fixture
def bundle(tmp_path):
    plan = stub_plan(3, scheme="zscore")
    weights = {"0": fresh_weights(plan, 0), "1": fresh_weights(plan, 1)}
    return write_bundle(tmp_path / "run/bundle", plan, weights, scores={"dice": 0.9}, licence="CC0-1.0",
                        provenance={"cases": 3})


def picture(shape=(10, 12, 9), seed=0):
    return Image(np.random.default_rng(seed).random((1, *shape), np.float32), Grid.regular(shape, 1.0, "mm"))


def test_run_folder_zip_and_bundle_are_the_same_model(bundle, tmp_path):
    packed = zip_bundle(bundle, tmp_path / "model.zip")
    models = [load(p, "cpu") for p in (bundle, bundle.parent, packed)]
    labels = [m.predict(picture()).labels.array for m in models]
    assert len({m.digest for m in models}) == 1
    assert isinstance(models[0], MapPredictor)
    for other in labels[1:]:
        np.testing.assert_array_equal(other, labels[0])


def test_what_was_written_is_what_is_loaded(bundle):
    model = load(bundle, "cpu")
    assert model.plan == stub_plan(3, scheme="zscore")
    assert model.scores == {"dice": 0.9}
    assert model.info["licence"] == "CC0-1.0"
    assert model.info["provenance"] == {"cases": 3}
    assert len(model.segmenter.networks) == 2
    assert {p.name for p in bundle.iterdir()} == {"bundle.json", "plan.json", "weights-0.safetensors",
                                                  "weights-1.safetensors", "sample_in.npy", "sample_out.npy"}
    assert set(model.info["members"]) == {p.name for p in bundle.iterdir()} - {"bundle.json"}


def test_folds_are_averaged_as_probabilities(bundle):
    both = load(bundle, "cpu").maps(picture())["classes"]
    single = [load(bundle, "cpu", folds=[f]).maps(picture())["classes"] for f in "01"]
    np.testing.assert_allclose(both, np.mean(single, 0), atol=1e-6)
    assert np.abs(single[0] - single[1]).max() > 1e-3


def test_bundles_of_equal_content_are_equal_bytes(tmp_path):
    plan = stub_plan(2)
    digests = {load(write_bundle(tmp_path / str(i), plan, {"0": fresh_weights(plan)}), "cpu").digest for i in range(2)}
    assert len(digests) == 1


def test_zips_of_one_bundle_are_equal_bytes(bundle, tmp_path):
    first, second = (zip_bundle(bundle, tmp_path / f"{i}.zip").read_bytes() for i in range(2))
    assert first == second


def test_maps_can_be_decoded_again_with_other_thresholds(tmp_path):
    plan = stub_plan(2, instance=True)
    model = load(write_bundle(tmp_path / "b", plan, {"0": fresh_weights(plan)}, thresholds={"min_size": 1}), "cpu")
    im = picture((24, 30))
    found = model.predict(im, maps=True)
    assert set(found.maps) == {"foreground", "distance"}
    again = model.decode(found.maps, {}, im.grid)
    np.testing.assert_array_equal(again.labels.array, found.labels.array)
    none = model.decode(found.maps, {"min_size": 10_000}, im.grid)
    assert none.labels.count == 0


def test_weights_that_do_not_fit_the_plan_are_refused(tmp_path):
    weights = fresh_weights(stub_plan(2))
    name = next(iter(weights))
    with pytest.raises(PlanError, match="do not fit"):
        write_bundle(tmp_path / "b", stub_plan(2), {"0": {**weights, name: torch.zeros(1)}})
    assert not (tmp_path / "b").exists()
    assert list(tmp_path.iterdir()) == []


def test_the_identity_changes_with_a_weight_and_with_a_threshold(tmp_path):
    plan = stub_plan(2, instance=True)
    made = [({"0": fresh_weights(plan, 0)}, {}), ({"0": fresh_weights(plan, 1)}, {}),
            ({"0": fresh_weights(plan, 0)}, {"min_size": 9.0})]
    digests = {load(write_bundle(tmp_path / str(i), plan, w, thresholds=t), "cpu").digest
               for i, (w, t) in enumerate(made)}
    assert len(digests) == 3


def test_a_run_that_has_not_finished_names_the_way_on(tmp_path):
    (tmp_path / "fold-0").mkdir()
    with pytest.raises(FileError, match="--resume"):
        load(tmp_path)
    with pytest.raises(FileError, match="nothing there"):
        load(tmp_path / "missing")


def test_bundle_json_is_plain_and_versioned(bundle):
    info = json.loads((bundle / "bundle.json").read_text())
    assert info["schema_version"] == 1
    assert {"biosegkit", "torch", "numpy"} <= set(info["versions"])
    assert all(set(m) == {"bytes", "sha256"} for m in info["members"].values())
