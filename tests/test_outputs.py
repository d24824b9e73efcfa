"""Outputs beside labels: polygons that fill again to the mask, QuPath's rules, measurements as scikit-image's."""

from __future__ import annotations

import csv
import itertools
import json
import uuid

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage
from skimage import measure

from biosegkit.errors import DataError, FileError, OptionError
from biosegkit.grid import Grid
from biosegkit.image import Image, Labels
from biosegkit.kernels.contours import contours
from biosegkit.outputs import (
    Found,
    boxed,
    found_in,
    measured,
    objects,
    thumbnail,
    write_all,
    write_csv,
    write_geojson,
)
from biosegkit.overlay import PREDICTED
from biosegkit.predictor import Prediction

SMALL = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.integers(0, 3))


@pytest.fixture
def tiny_tiles(monkeypatch):
    """Tiles of few pixels, so that small images are cut in all ways."""
    monkeypatch.setattr(objects, "_TILE", {2: (1, 5, 7), 3: (2, 5, 7)})


def blobs(shape, seed=0, share=50):
    """Connected shapes of all kinds, many with holes."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 1)
    return measure.label(noise < np.percentile(noise, share)).astype(np.uint16)


def filled(rings, shape, scale=(1, 1)):
    """Brute force: how often a pixel's centre lies inside of a ring, odd or even."""
    inside = np.zeros(shape, np.int64)
    y, x = (np.arange(n) + 0.5 for n in shape)
    for ring in rings:
        points = np.array(ring, float) / (scale[1], scale[0])
        for (xa, ya), (xb, yb) in itertools.pairwise(points):
            if xa == xb:  # a ray from the centre to the right crosses the upright edge
                rows = (y > min(ya, yb)) & (y < max(ya, yb))
                inside += rows[:, None] & (x < xa)[None]
            else:
                assert ya == yb, "edges run along pixels"
    return inside % 2 == 1


def rings_of(feature):
    geometry = feature["geometry"]
    polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    return [ring for polygon in polygons for ring in polygon]


def features_of(found, path, **options):
    write_geojson(found, path, **options)
    return json.loads(path.read_text("utf-8"))["features"]


def signed_area(ring):
    x, y = np.array(ring, float).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


@settings(deadline=None, max_examples=150)
@given(SMALL)
def test_contours_are_simple_rings_that_fill_again_to_the_pieces(labels):
    mask = labels > 1
    runs = [(y, a, b) for y, row in enumerate(np.diff(np.pad(mask.astype(int), ((0, 0), (1, 1))), axis=1))
            for a, b in zip(np.flatnonzero(row == 1), np.flatnonzero(row == -1), strict=True)]
    y, start, stop = np.array(runs, np.int64).reshape(-1, 3).T
    found = contours(np.array([0, len(runs)]), y, start, stop)
    pieces, count = ndimage.label(mask)
    assert len(found.piece) - 1 == count == found.owner[1]
    for p in range(count):
        rings = [found.points[found.ring[r]: found.ring[r + 1]].tolist() for r in range(*found.piece[p: p + 2])]
        for k, ring in enumerate(rings):
            assert len({tuple(q) for q in ring}) == len(ring), "a ring touches itself"
            assert (signed_area([*ring, ring[0]]) > 0) == (k == 0), "outer rings go one way, holes the other"
        here = filled([[*ring, ring[0]] for ring in rings], mask.shape)
        assert np.array_equal(here, pieces == pieces[here][0])
        assert sum(signed_area([*ring, ring[0]]) for ring in rings) == here.sum(), "pixels by the shoelace formula"
        holes = ndimage.label(np.pad(pieces != pieces[here][0], 1, constant_values=True))[1] - 1
        assert len(rings) == 1 + holes


@settings(deadline=None, max_examples=60)
@given(labels=SMALL)
def test_geojson_fills_again_to_the_labels_whatever_the_tiles(labels, tmp_path_factory):
    path = tmp_path_factory.mktemp("geo") / "a.geojson"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "_TILE", {2: (1, 3, 2)})
        features = features_of(Found.of(labels, Grid.regular(labels.shape)), path)
    small = path.read_bytes()
    assert [f["properties"]["name"] for f in features_of(Found.of(labels, Grid.regular(labels.shape)), path)] == [
        f["properties"]["name"] for f in features]
    assert path.read_bytes() == small
    assert {int(f["properties"]["name"]) for f in features} == set(np.unique(labels)) - {0}
    for feature in features:
        assert np.array_equal(filled(rings_of(feature), labels.shape), labels == int(feature["properties"]["name"]))


def turning(ring):
    """Twice the area that a ring goes around, by the shoelace formula; positive where it is counter-clockwise."""
    x, y = np.array(ring, float).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())


def test_geojson_is_what_qupath_reads(tmp_path, tiny_tiles):
    """The rules of QuPath's importer: types, closed rings, UUIDs, classification, finite measurements in µm."""
    labels = blobs((30, 40))
    grid = Grid.regular(labels.shape, 0.5, "um")
    table = boxed(labels)
    table = {**table, "class": np.where(table["area"] > 20, 4, 9), "score": np.where(table["area"] > 20, 0.5, np.nan)}
    found = Found.of(labels, grid, table, classes={4: "tumour µ", 9: "other"}, source="slide.svs")
    found = Found.of(labels, grid, measured(found), classes=found.classes, source="slide.svs")
    features = features_of(found, tmp_path / "a.geojson")
    assert len(features) == found.count > 5
    assert len({f["id"] for f in features}) == len(features)
    colours = {}
    whole = json.loads((tmp_path / "a.geojson").read_text("utf-8"))
    assert (set(whole), whole["type"]) == ({"type", "features"}, "FeatureCollection")
    for feature in features:
        properties = feature["properties"]
        assert feature["type"] == "Feature"
        assert set(feature) == {"type", "id", "geometry", "properties"}
        assert set(feature["geometry"]) == {"type", "coordinates"}
        assert set(properties) == {"objectType", "name", "classification", "measurements"}
        several = feature["geometry"]["type"] == "MultiPolygon"
        for outer, *holes in feature["geometry"]["coordinates"] if several else [feature["geometry"]["coordinates"]]:
            assert turning(outer) > 0, "RFC 7946, 3.1.6: outer rings turn one way"
            assert all(turning(hole) < 0 for hole in holes), "and holes the other"
        assert str(uuid.UUID(feature["id"])) == feature["id"]
        assert feature["geometry"]["type"] in ("Polygon", "MultiPolygon")
        assert "plane" not in feature["geometry"]
        for ring in rings_of(feature):
            assert ring[0] == ring[-1]
            assert len(ring) >= 5
        assert properties["objectType"] == "detection"
        row = int(np.flatnonzero(table["id"] == int(properties["name"]))[0])
        large = table["area"][row] > 20
        assert properties["classification"]["name"] == ("tumour µ" if large else "other")
        colours[properties["classification"]["name"]] = properties["classification"]["color"]
        measurements = properties["measurements"]
        assert all(isinstance(v, int | float) and np.isfinite(v) for v in measurements.values())
        assert measurements["Area µm^2"] == pytest.approx(table["area"][row] / 4)
        assert ("Score" in measurements) == large, "what is no number is left out"
        assert "Area px^2" not in measurements
    assert all(len(c) == 3 and all(0 <= v <= 255 for v in c) for c in colours.values())
    assert colours["other"] != colours["tumour µ"]


def test_geojson_of_a_coarser_level_is_in_pixels_of_the_full_image(tmp_path):
    labels = np.pad(np.ones((2, 3), np.uint8), 1)
    found = Found(labels, boxed(labels), Grid.regular(labels.shape), scale=(4.0, 2.5))
    feature, = features_of(found, tmp_path / "a.geojson", kind="annotation")
    assert feature["geometry"]["coordinates"] == [[[2.5, 4], [10, 4], [10, 12], [2.5, 12], [2.5, 4]]]
    assert feature["properties"]["objectType"] == "annotation"


def test_geojson_of_a_stack_has_a_feature_per_plane(tmp_path, tiny_tiles):
    labels = np.zeros((3, 8, 9), np.uint8)
    labels[1:, 1:7, 2:5], labels[0, 6:, 6:] = 1, 2
    features = features_of(Found.of(labels, Grid.regular(labels.shape)), tmp_path / "a.geojson")
    places = [(f["geometry"]["plane"], f["properties"]["name"]) for f in features]
    assert places == [({"c": -1, "z": 0, "t": 0}, "2"), ({"c": -1, "z": 1, "t": 0}, "1"),
                      ({"c": -1, "z": 2, "t": 0}, "1")]
    assert len({f["id"] for f in features}) == 3
    for feature, (plane, name) in zip(features, places, strict=True):
        assert np.array_equal(filled(rings_of(feature), (8, 9)), labels[plane["z"]] == int(name))


def test_measurements_of_planes_are_scikit_images(tiny_tiles):
    labels = blobs((40, 50), seed=3)
    grid = Grid.regular(labels.shape, 0.25, "um")
    image = np.random.default_rng(0).integers(0, 60000, (2, *labels.shape)).astype(np.uint16)
    found = measured(Found.of(labels, grid), Image(image, grid, ("DAPI", "my marker")))
    truth = measure.regionprops_table(labels, image.transpose(1, 2, 0), properties=(
        "label", "area", "centroid", "bbox", "perimeter_crofton", "equivalent_diameter_area", "axis_major_length",
        "axis_minor_length", "eccentricity", "solidity", "intensity_mean", "intensity_std", "intensity_min",
        "intensity_max"))
    same = {"id": "label", "area": "area", "centroid_y": "centroid-0", "centroid_x": "centroid-1",
            "bbox_start_y": "bbox-0", "bbox_stop_x": "bbox-3", "eccentricity": "eccentricity", "solidity": "solidity",
            "mean_DAPI": "intensity_mean-0", "std_my_marker": "intensity_std-1", "min_DAPI": "intensity_min-0",
            "max_my_marker": "intensity_max-1"}
    lengths = {"perimeter_um": "perimeter_crofton", "equivalent_diameter_um": "equivalent_diameter_area",
               "major_axis_um": "axis_major_length", "minor_axis_um": "axis_minor_length"}
    assert len(found["id"]) > 10
    for ours, theirs in same.items():
        np.testing.assert_allclose(found[ours], truth[theirs], rtol=1e-9, atol=1e-9, err_msg=ours)
    for ours, theirs in lengths.items():
        np.testing.assert_allclose(found[ours], truth[theirs] / 4, rtol=1e-9, atol=1e-7, err_msg=ours)
    np.testing.assert_allclose(found["area_um2"], truth["area"] / 16)
    np.testing.assert_allclose(found["circularity"], 4 * np.pi * found["area_um2"] / found["perimeter_um"] ** 2)


def test_measurements_of_stacks_are_scikit_images(tiny_tiles):
    labels = blobs((7, 16, 18), seed=5, share=40)
    grid = Grid.regular(labels.shape, (2.0, 0.5, 0.5), "um")
    image = np.random.default_rng(1).normal(size=(1, *labels.shape)).astype(np.float32)
    found = measured(Found.of(labels, grid), Image(image, grid))
    truth = measure.regionprops_table(labels, image[0], spacing=(2.0, 0.5, 0.5), properties=(
        "label", "area", "num_pixels", "equivalent_diameter_area", "axis_major_length", "intensity_mean",
        "intensity_std", "intensity_max"))
    for ours, theirs in {"id": "label", "area": "num_pixels", "volume_um3": "area", "mean_channel_0": "intensity_mean",
                         "equivalent_diameter_um": "equivalent_diameter_area", "major_axis_um": "axis_major_length",
                         "std_channel_0": "intensity_std", "max_channel_0": "intensity_max"}.items():
        np.testing.assert_allclose(found[ours], truth[theirs], rtol=1e-6, atol=1e-6, err_msg=ours)
    assert "solidity" not in found


def test_perimeter_of_pixels_that_are_not_square_is_that_of_the_shape():
    y, x = np.mgrid[:100, :200]
    disc = ((y * 2 - 100) ** 2 + (x - 100) ** 2 < 80**2).astype(np.uint8)
    found = measured(Found.of(disc, Grid.regular(disc.shape, (2.0, 1.0), "um")))
    assert found["perimeter_um"][0] == pytest.approx(2 * np.pi * 80, rel=0.01)


def test_what_is_no_number_is_not_hidden():
    labels = np.array([[1, 1, 2, 2]])
    image = Image(np.array([[[1, np.nan, 3, 5]]]), Grid.regular((1, 4)), ("a",))
    rows = measured(Found.of(labels, Grid.regular((1, 4))), image)
    for name in ("mean_a", "std_a", "min_a", "max_a"):
        assert np.isnan(rows[name]).tolist() == [True, False], name


def test_tables_and_labels_of_different_images_are_refused(tmp_path):
    labels = np.array([[1, 1, 0], [0, 2, 2], [0, 2, 0]])
    grid, table = Grid.regular((3, 3)), boxed(labels)
    wrong = {
        "the id 2 in the labels": {k: v[:1] for k, v in table.items()},
        "no voxel of object 3": {k: np.append(v, 3) for k, v in table.items()},
        "ids that are not unique": {k: np.append(v, v[:1]) for k, v in table.items()},
    }
    for message, rows in wrong.items():
        with pytest.raises(DataError, match=message):
            write_geojson(Found.of(labels, grid, rows), tmp_path / "a.geojson")
    with pytest.raises(DataError, match="voxels of object 1"):
        measured(Found.of(labels, grid, {**table, "area": table["area"] + 1}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "_TILE", {2: (1, 1, 2)})
        with pytest.raises(DataError, match="voxels below its box of object 2"):
            measured(Found.of(labels, grid, {**table, "bbox_stop_y": np.array([1, 2])}))
    with pytest.raises(DataError, match="an image of"):
        measured(Found.of(labels, grid), Image(np.zeros((1, 3, 4)), Grid.regular((3, 4))))
    with pytest.raises(DataError, match="labels of shape"):
        Found.of(labels, Grid.regular((3, 4)))
    assert list(tmp_path.iterdir()) == []


def test_nothing_found_is_written_as_nothing(tmp_path):
    grid = Grid.regular((4, 5))
    found = Found.of(np.zeros((4, 5), np.uint8), grid)
    files = write_all(found, Image(np.zeros((1, 4, 5)), grid), tmp_path, "a", ["geojson", "csv", "thumbnail"])
    assert [p.name for p in files] == ["a.csv", "a.geojson", "a_thumbnail.png"]
    assert json.loads((tmp_path / "a.geojson").read_text()) == {"type": "FeatureCollection", "features": []}
    assert len(list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))) == 0


def test_classes_are_annotations_with_their_names(tmp_path):
    labels = Labels.from_values(np.array([[0, 5, 5, 0, 5], [0, 9, 0, 0, 5]]), Grid.regular((2, 5)), "semantic")
    write_all(found_in(Prediction(labels), {5: "stroma", 9: "tumour"}), None, tmp_path, "a", ["geojson"])
    features = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert [(f["properties"]["classification"]["name"], f["geometry"]["type"]) for f in features] == [
        ("stroma", "MultiPolygon"), ("tumour", "Polygon")]
    assert {f["properties"]["objectType"] for f in features} == {"annotation"}


def test_tables_are_whole_and_exact(tmp_path):
    table = {"id": np.arange(1, 70001, dtype=np.uint32), "score": np.random.default_rng(0).random(70000)}
    write_csv(table, tmp_path / "a.csv")
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert [int(r["id"]) for r in rows] == table["id"].tolist()
    assert [float(r["score"]) for r in rows] == table["score"].tolist()
    with pytest.raises(DataError, match="3 rows of a and 2 of b"):
        write_csv({"a": np.zeros(3), "b": np.zeros(2)}, tmp_path / "b.csv")


def test_an_unknown_output_and_a_place_that_cannot_be_written_are_said(tmp_path):
    found = Found.of(np.array([[1]]), Grid.regular((1, 1)))
    with pytest.raises(OptionError, match="the output 'svg'"):
        write_all(found, None, tmp_path, "a", ["svg"])
    with pytest.raises(OptionError, match="a thumbnail without an image"):
        write_all(found, None, tmp_path, "a", ["thumbnail"])
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot write"):
        write_all(found, None, tmp_path / "file", "a", ["geojson"])


def test_small_images_are_enlarged_and_outlined():
    labels = np.zeros((10, 12), np.uint8)
    labels[2:6, 3:8] = 1
    picture = thumbnail(Image(np.zeros((1, 10, 12)), Grid.regular((10, 12))), Found.of(labels, Grid.regular((10, 12))),
                        size=40)
    line = (picture == PREDICTED).all(-1)
    assert line.shape == (10, 12)
    assert np.array_equal(line, (labels > 0) & ~np.pad(np.ones((2, 3), bool), ((3, 5), (4, 5))))


def test_large_images_are_shown_small_with_their_fullest_part_at_full_resolution():
    labels = np.zeros((1200, 2000), np.uint16)
    for k in range(30):  # most objects at the lower right
        labels[900 + 20 * (k // 6): 910 + 20 * (k // 6), 1500 + 20 * (k % 6): 1510 + 20 * (k % 6)] = k + 1
    labels[100:600, 100:600] = 31
    image = np.zeros((3, *labels.shape), np.uint8)
    image[:, 900:1000, 1500:1600] = np.array([200, 100, 50])[:, None, None]
    grid = Grid.regular(labels.shape)
    picture = thumbnail(Image(image, grid), Found.of(labels, grid), size=400)
    assert picture.shape == (400, 400 + 8 + 400, 3)
    detail = picture[:, 408:]
    shown = (detail == PREDICTED).all(-1)
    assert ndimage.label(~shown & (detail > 0).any(-1))[1] >= 1
    assert (detail == (200, 100, 50)).all(-1).any(), "colours as they are"
    assert ndimage.label(shown, np.ones((3, 3)))[1] == 30
    assert (picture[240:400, :400] == 255).all()


def test_a_stack_is_shown_where_most_of_it_is():
    labels = np.zeros((5, 20, 20), np.uint8)
    labels[3, 2:8, 2:8], labels[3, 12:18, 12:18], labels[1, 5:15, 5:15] = 1, 2, 3
    grid = Grid.regular(labels.shape)
    picture = thumbnail(Image(np.zeros((1, *labels.shape)), grid), Found.of(labels, grid), size=60)
    assert ndimage.label((picture == PREDICTED).all(-1))[1] == 2
