"""StarDist models without TensorFlow: StarDist's objects, thresholds, borders, axes, intensities."""

from __future__ import annotations

import numpy as np
import pytest
from engine_models import RAW, SPIRAL, image, no_network, spots, spots_model
from keras_files import sigmoid
from stardist import geometry, nms
from stardist.rays3d import Rays_GoldenSpiral

import biosegkit as bsk
from biosegkit.engines import load_model
from biosegkit.engines.star_shapes import Candidates, render
from biosegkit.errors import DataError, OptionError
from biosegkit.kernels.ray_distances import ray_distances
from biosegkit.kernels.rays import Rays, circle
from biosegkit.metrics.instances import instance_counts


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    no_network(monkeypatch)


def test_objects_are_discs_at_the_spots(tmp_path):
    model = load_model(spots_model(tmp_path / "m", 2, classes=2), "cpu", RAW)
    found = model.predict(spots((60, 50), {(40, 10): 0.8, (12, 30): 1.0, (12, 33): 0.7, (1, 5): 0.9}))
    y, x = np.ogrid[:60, :50]
    for k, (cy, cx), score, kind in ((1, (12, 30), 1.0, 2), (2, (40, 10), 0.8, 1)):
        disc = (y - cy) ** 2 + (x - cx) ** 2 <= 25
        mine = found.labels.array == k
        assert np.array_equal(mine, disc)
        assert found.objects["score"][k - 1] == pytest.approx(sigmoid(10 * score - 5), abs=1e-6)
        assert found.objects["class"][k - 1] == kind
        assert found.objects["centroid_y"][k - 1] == pytest.approx(cy, abs=0.3)
    assert found.labels.count == 2, "one spot is suppressed by a better one, one is too near the border"
    assert "licence not stated" in found.notes[0]


@pytest.mark.parametrize(("shape", "step"), [((80, 90), 3), ((12, 26, 28), 11)])
def test_objects_are_those_of_stardist_itself(shape, step):
    rng, ndim = np.random.default_rng(4), len(shape)
    labels, at = np.zeros(shape, np.int64), np.indices(shape)
    for k in range(1, 16 if ndim == 2 else 7):
        centre = rng.uniform(0, shape).reshape(-1, *(1,) * ndim)
        labels[((at - centre) ** 2).sum(0) <= rng.uniform(4, 9) ** 2] = k
    spiral = Rays_GoldenSpiral(24)
    rays = circle(32) if ndim == 2 else Rays(np.asarray(spiral.vertices, float), np.asarray(spiral.faces, np.int32))
    points = np.argwhere(labels)[::step]
    dist = ray_distances(labels, rays, border=True)[(slice(None), *points.T)].T
    dist = np.ascontiguousarray(dist * rng.uniform(0.95, 1.05, dist.shape), np.float32)
    prob = np.sort(rng.uniform(0.5, 1, len(points)))[::-1].astype(np.float32)
    best = np.argsort(-dist.min(1), kind="stable")
    points, dist = points[best], dist[best]
    mine, kept = render(Candidates(points, prob, dist, None), shape, rays, 0.4)
    if ndim == 2:
        alive = nms.non_maximum_suppression_inds(dist, points, scores=prob, thresh=0.4, verbose=False)
        theirs = geometry.polygons_to_label(dist[alive], points[alive], shape=shape, prob=prob[alive])
    else:
        alive = nms.non_maximum_suppression_3d_inds(dist, points, rays=spiral, scores=prob, thresh=0.4, verbose=False)
        theirs = geometry.polyhedron_to_label(dist[alive], points[alive], rays=spiral, shape=shape, prob=prob[alive],
                                              verbose=False)
    assert len(kept.prob) == alive.sum() > 4
    assert instance_counts(theirs, mine, thresholds=(0.9,)).f1(0.9) >= 0.995


def test_thresholds_come_from_the_file_and_can_be_replaced(tmp_path):
    folder = spots_model(tmp_path / "m", 2, {"prob": 0.9, "nms": 0.99})
    im = spots((60, 50), {(40, 10): 0.6, (12, 30): 1.0, (12, 33): 0.9})
    model = load_model(folder, "cpu", RAW)
    assert model.predict(im).labels.count == 2
    assert bsk.predict(model, im, thresholds={"prob": 0.5}).labels.count == 3
    assert bsk.predict(model, im, thresholds={"nms": 0.1}).labels.count == 1
    with pytest.raises(OptionError, match=r"nms.*prob"):
        bsk.predict(model, im, thresholds={"foreground": 0.5})
    default = load_model(spots_model(tmp_path / "n", 2), "cpu", RAW)
    assert (default.tunables["prob"].default, default.tunables["nms"].default) == (0.5, 0.4)
    assert "thresholds.json" in default.predict(im).notes[1]


@pytest.mark.parametrize("border", [0, 2])
def test_the_border_is_an_option_and_maps_decode_to_the_same_objects(tmp_path, border):
    model = load_model(spots_model(tmp_path / "m", 2), "cpu", {**RAW, "border": border, "tile": 16})
    im = spots((40, 50), {(1, 5): 0.9, (20, 20): 1.0, (39, 30): 0.7})
    found = model.predict(im)
    assert found.labels.count == (3 if border == 0 else 1)
    again = model.decode(model.maps(im), {}, im.grid)
    np.testing.assert_array_equal(again.labels.array, found.labels.array)
    np.testing.assert_array_equal(again.objects["score"], found.objects["score"])


def test_objects_are_tidied_and_keep_score_and_class(tmp_path):
    folder = spots_model(tmp_path / "m", 2, classes=2)
    im = spots((60, 50), {(40, 4): 0.8, (12, 30): 1.0, (40, 30): 0.7})
    plain, tidy = (load_model(folder, "cpu", {**RAW, **more}) for more in ({}, {"border_objects": "remove"}))
    before, after = plain.predict(im), tidy.predict(im)
    kept = [k for k in (1, 2, 3) if not (before.labels.array[:, 0] == k).any()]
    assert len(kept) == after.labels.count == 2
    np.testing.assert_array_equal(after.labels.array > 0, np.isin(before.labels.array, kept))
    for name in ("score", "class", "area", "centroid_y"):
        np.testing.assert_array_equal(after.objects[name], before.objects[name][np.array(kept) - 1])
    assert plain.digest != tidy.digest
    assert tidy.record["options"]["border_objects"] == "remove"


def test_objects_of_three_axes_and_planes(tmp_path):
    solid = load_model(spots_model(tmp_path / "s", 3, radius=6.0), "cpu", RAW)
    found = solid.predict(spots((20, 30, 30), {(10, 15, 15): 1.0}))
    volume = np.linalg.det(6.0 * np.array([Rays_GoldenSpiral(**SPIRAL["kwargs"]).vertices[f] for f in
                           Rays_GoldenSpiral(**SPIRAL["kwargs"]).faces])).sum() / 6
    assert found.objects["area"][0] == pytest.approx(abs(volume), rel=0.1)
    flat = load_model(spots_model(tmp_path / "f", 2), "cpu", RAW)
    plane = flat.predict(spots((1, 30, 30), {(0, 15, 15): 1.0}))
    assert plane.labels.array.shape == (1, 30, 30)
    assert plane.labels.count == 1
    with pytest.raises(DataError, match=r"image of 3 axes.*2, which this StarDist model takes.*3D model"):
        flat.predict(spots((5, 30, 30), {}))


def test_an_even_image_has_no_object(tmp_path):
    found = load_model(spots_model(tmp_path / "m", 2), "cpu").predict(image(np.full((20, 20), 7)))
    assert found.labels.count == 0
    assert "one value" in found.notes[-1]


def test_percentiles_are_those_of_each_channel(tmp_path):
    from biosegkit.engines.intensities import stretched

    values = np.random.default_rng(0).gamma(2, 90, (2, 30, 20)).astype(np.float32)
    mine = stretched(values, 1, 99.8, joint=False, notes=[])
    for channel in range(2):
        low, high = np.percentile(values[channel], (1, 99.8))
        np.testing.assert_allclose(mine[channel], (values[channel] - low) / (high - low), rtol=1e-4, atol=1e-6)
    low, high = np.percentile(values, (1, 99.8))
    np.testing.assert_allclose(stretched(values, 1, 99.8, joint=True, notes=[]), (values - low) / (high - low),
                               rtol=1e-4, atol=1e-6)
    model = load_model(spots_model(tmp_path / "m", 2), "cpu", {"channel": "1"})
    both = image(np.stack([np.zeros((20, 20)), np.eye(20)]), channels=True)
    assert "channel 1 of 2" in model.predict(both).notes[-1]
    with pytest.raises(OptionError, match="channel 1 of an image of 1"):
        model.predict(spots((20, 20), {}))
