"""Objects of a Cellpose model's maps beside what Cellpose makes of the same maps, by either decoder."""

import warnings

import numpy as np
import pytest
from engine_models import image, save
from engine_models import random_state as weights
from scipy import ndimage

import biosegkit as bsk
from biosegkit.engines import load_model
from biosegkit.engines.cellpose_model import CellposeModel, CellposeOptions
from biosegkit.errors import OptionError
from biosegkit.kernels.heat_flow import heat_flow
from biosegkit.metrics.instances import instance_counts

DECODERS = ("forest", "euler")


@pytest.fixture
def dynamics():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that cellpose imports
        yield pytest.importorskip("cellpose.dynamics", reason="cellpose is an extra")


def touching(shape, radii):
    """Discs (balls) row by row, their centres as far apart as the largest are wide."""
    labels, place, pitch = np.zeros(shape, np.int32), np.indices(shape), 2 * max(radii) + 1
    for k, cell in enumerate(np.ndindex(*(n // pitch for n in shape)), 1):
        away = sum((axis - pitch * c - pitch // 2) ** 2 for axis, c in zip(place, cell, strict=True))
        labels[away <= (radii[k % len(radii)] + 0.5) ** 2] = k
    return labels


def engine(flow, logit, decoder="forest"):
    return CellposeModel("maps", "4", lambda *_: (flow, logit), CellposeOptions(decoder=decoder), "digest")


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("blur", [0, 1, 2, 3, 4])
def test_unsure_flows_part_the_objects_that_cellpose_parts(dynamics, decoder, blur):
    """The flows of touching discs, blurred: the smaller a disc, the sooner it is lost, and in both."""
    labels = touching((150, 150), (4, 8, 12))
    sharp = dynamics.masks_to_flows_gpu(labels)[0].astype(np.float32)
    flow, logit = 5 * ndimage.gaussian_filter(sharp, (0, blur, blur)), np.where(labels > 0, 6.0, -6.0)
    theirs = dynamics.compute_masks(flow, logit, flow_threshold=0.4, min_size=15, max_size_fraction=1.0)
    ours = engine(flow, logit, decoder).predict(image(labels)).labels.array
    counts = instance_counts(theirs.astype(np.int32), ours.astype(np.int32), thresholds=(0.9,))
    assert counts.n_true == (36, 36, 36, 24, 12)[blur]
    assert counts.ap(0.9) == 1.0


@pytest.mark.parametrize("shape", [(150, 150), (30, 60, 60)])
def test_both_decoders_find_the_same_objects_in_noise(shape):
    labels = touching(shape, (4, 7))
    noise = 0.3 * np.random.default_rng(0).standard_normal((len(shape), *shape))
    flow, logit = 5 * (heat_flow(labels) + noise), np.where(labels > 0, 6.0, -6.0)
    forest, euler = (engine(flow, logit, name).predict(image(labels)).labels for name in DECODERS)
    assert forest.count == euler.count == labels.max()
    assert instance_counts(euler.array, forest.array, thresholds=(0.9,)).ap(0.9) == 1.0


def test_stacks_are_not_checked_unless_it_is_asked_for():
    labels = touching((30, 60, 60), (5,))
    flow, logit = 5 * heat_flow(labels), np.where(labels > 0, 6.0, -6.0)
    flow[:, labels == 2] *= 0.2  # an error of 0.64 instead of 0
    model = engine(flow, logit)
    found = model.predict(image(labels))
    assert found.labels.count == labels.max()
    assert "not checked" in " ".join(found.notes)
    checked = bsk.predict(model, image(labels), thresholds={"flow_error": 0.4})
    assert checked.labels.count == labels.max() - 1
    plane = engine(flow[1:, 5], logit[5]).predict(image(labels[5]))
    assert "not checked" not in " ".join(plane.notes)
    assert plane.labels.count == len(np.unique(labels[5])) - 2


def test_the_decoder_is_an_option_and_part_of_the_model(tmp_path):
    path = save(weights(), tmp_path / "w")
    forest, euler = (load_model(f"cellpose:{path}", "cpu", {"decoder": name}) for name in DECODERS)
    assert (forest.method.decoder, euler.method.decoder) == DECODERS
    assert forest.digest != euler.digest
    assert forest.digest == load_model(f"cellpose:{path}", "cpu").digest
    with pytest.raises(OptionError, match="decoder=rk4"):
        load_model(f"cellpose:{path}", "cpu", {"decoder": "rk4"})
