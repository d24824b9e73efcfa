"""Where a slide is looked at: found, given, or everywhere."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from biosegkit._atomic import load_npy
from biosegkit.batch.tissue import Tissue, find_tissue, region_of, tissue_of
from biosegkit.errors import DataError, FileError, OptionError
from biosegkit.grid import Grid
from biosegkit.io import Pyramid, open_pyramid

DATA = os.environ.get("BIOSEGKIT_DATA")
COLOURS = ("red", "green", "blue")


def slide(array: np.ndarray, size: float = 0.5, unit: str = "um") -> Pyramid:
    """A pyramid of one level, (y, x, 3)."""
    return Pyramid("a.svs", (np.moveaxis(array, -1, 0),), (Grid.regular(array.shape[:2], size, unit),), COLOURS)


def glass(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Bright, noisy, a little darker in one corner."""
    rng = np.random.default_rng(seed)
    shade = np.add.outer(np.linspace(0, 3, shape[0]), np.linspace(0, 3, shape[1]))
    return np.clip(240 - shade[..., None] + rng.normal(0, 3, (*shape, 3)), 0, 255).astype(np.uint8)


def test_pale_tissue_is_found_and_glass_is_not():
    image = glass((640, 800))
    image[160:320, 400:640] -= np.array([5, 40, 15], np.uint8)  # pale eosin
    image[480:512, 80:96] -= np.array([90, 110, 40], np.uint8)  # a small dark fragment
    found = find_tissue(slide(image), margin=0)
    truth = np.zeros((80, 100), bool)
    truth[20:40, 50:80] = truth[60:64, 10:12] = True
    np.testing.assert_array_equal(found.mask, truth)
    assert "8.1%" in found.note or "7.6%" in found.note


def test_empty_glass_has_no_tissue_and_a_full_slide_is_all_tissue():
    assert not find_tissue(slide(glass((400, 400)))).mask.any()
    rng = np.random.default_rng(1)
    full = np.clip(np.array([190, 110, 170]) + rng.normal(0, 25, (400, 400, 3)), 0, 255).astype(np.uint8)
    full[:, :12] = 240
    assert find_tissue(slide(full)).mask[:, 2:].all()


@pytest.mark.parametrize(("unit", "size", "margin"), [("um", 0.5, 20.0), ("nm", 500, 20.0), ("px", 1, 40.0)])
def test_the_margin_is_a_distance(unit, size, margin):
    image = np.full((800, 800, 3), 240, np.uint8)
    image[400:408, 400:408] = 100
    mask = find_tissue(slide(image, size, unit), margin=margin).mask
    y, x = np.indices((100, 100)) - 50
    np.testing.assert_array_equal(mask, np.hypot(y, x) * 8 <= 40)


def test_a_threshold_that_is_given_decides():
    image = np.full((160, 160, 3), 240, np.uint8)
    image[:80] -= 8  # 3.1 % darker
    assert not find_tissue(slide(image), margin=0).mask.any()
    assert find_tissue(slide(image), threshold=2.5, margin=0).mask[:10].all()
    for wrong in ({"threshold": 0.0}, {"threshold": 100.0}, {"margin": -1.0}, {"margin": float("nan")}):
        with pytest.raises(OptionError):
            find_tissue(slide(image), **wrong)


@pytest.mark.parametrize("array", [
    np.zeros((1, 90, 90), np.uint16), np.full((3, 90, 90), 20, np.uint8), np.ones((3, 90, 90), np.float32),
])
def test_images_without_bright_glass_are_looked_at_everywhere(array):
    found = find_tissue(Pyramid("a.tif", (array,), (Grid.regular((90, 90)),)))
    assert found.mask is None
    assert "everywhere" in found.note


def test_colours_that_are_equal_everywhere_are_still_a_slide(tmp_path):
    rgb = np.full((320, 400, 3), 240, np.uint8)
    tifffile.imwrite(tmp_path / "glass.tif", rgb, photometric="rgb", tile=(64, 64))
    empty = find_tissue(open_pyramid(tmp_path / "glass.tif"), margin=0)
    assert empty.mask is not None
    assert not empty.mask.any()
    rgb[80:160, 240:320] = 120
    tifffile.imwrite(tmp_path / "ink.tif", rgb, photometric="rgb", tile=(64, 64))
    found = open_pyramid(tmp_path / "ink.tif")
    assert found.arrays[0].shape[0] == 1  # read as one channel
    truth = np.zeros((40, 50), bool)
    truth[10:20, 30:40] = True
    np.testing.assert_array_equal(find_tissue(found, margin=0).mask, truth)
    tifffile.imwrite(tmp_path / "grey.tif", rgb[..., 0], tile=(64, 64))  # one channel: may be of any microscope
    assert find_tissue(open_pyramid(tmp_path / "grey.tif")).mask is None


def test_the_coarsest_level_that_is_fine_enough_is_read():
    fine = np.full((3, 4096, 4096), 240, np.uint8)
    coarse = fine[:, ::8, ::8].copy()
    coarse[:, :64] = 90
    grids = tuple(Grid.regular(a.shape[1:], s, "um") for a, s in ((fine, 0.25), (coarse, 2.0)))
    mask = find_tissue(Pyramid("a.svs", (fine, coarse), grids, COLOURS), margin=0).mask
    assert mask.shape == (512, 512)
    assert mask.sum() == 64 * 512


def test_choices(tmp_path):
    image = glass((400, 400))
    image[:100] = 120
    assert tissue_of("off", slide(image)).mask is None
    assert tissue_of("off", slide(image)).write(tmp_path / "a.npy") == ""
    assert not (tmp_path / "a.npy").exists()
    found = tissue_of("auto", slide(image), margin=0)
    assert found.write(tmp_path / "b.npy") == str(tmp_path / "b.npy")
    np.testing.assert_array_equal(load_npy(tmp_path / "b.npy"), found.mask)
    tifffile.imwrite(tmp_path / "c.tif", found.mask.astype(np.uint8) * 255)
    np.testing.assert_array_equal(tissue_of(str(tmp_path / "c.tif"), slide(image)).mask, found.mask)


def test_masks_of_another_shape_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((30, 61), np.uint8))
    image = slide(glass((300, 400)))
    with pytest.raises(DataError, match=rf"proportions of {image.source}, 300 × 400\. .*predict this one apart"):
        region_of(tmp_path / "a.tif", image)
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((30, 40), np.uint8))
    with pytest.raises(DataError, match="no region"):
        region_of(tmp_path / "b.tif", image)
    tifffile.imwrite(tmp_path / "c.tif", np.ones((31, 40), np.uint8))  # rounded by whoever made it
    assert region_of(tmp_path / "c.tif", image).mask.shape == (31, 40)


def geojson(path: Path, *geometries: dict) -> Path:
    features = [{"type": "Feature", "geometry": g, "properties": {}} for g in geometries]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def ring(*points: tuple[float, float]) -> list[list[float]]:
    return [[float(x), float(y)] for x, y in (*points, points[0])]


def test_polygons_with_holes_and_parts(tmp_path):
    outer, hole = ring((10, 20), (200, 20), (200, 120), (10, 120)), ring((60, 50), (100, 50), (100, 90), (60, 90))
    far = ring((300, 300), (320, 300), (320, 320))
    made = geojson(tmp_path / "a.geojson", {"type": "MultiPolygon", "coordinates": [[outer, hole], [far]]})
    mask = region_of(made, slide(np.full((400, 400, 3), 240, np.uint8))).mask
    assert mask.shape == (400, 400)
    truth = np.zeros((400, 400), bool)
    truth[20:120, 10:200] = True
    truth[50:90, 60:100] = False
    y, x = np.indices((400, 400)) + 0.5
    truth |= (x > 300) & (y > 300) & (x < 320) & (y < 320) & (y < x)
    assert mask[truth].all()
    assert not mask[~ndimage.binary_dilation(truth, np.ones((3, 3)), iterations=3)].any()
    assert not mask[55:85, 65:95].any()


@given(st.lists(st.tuples(st.floats(-20, 620), st.floats(-20, 220)), min_size=3, max_size=7), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_every_point_on_a_region_is_looked_at(points, seed):
    """Also where the region is thinner than a cell."""
    rng = np.random.default_rng(seed)
    corners = np.array(points)
    k = rng.integers(0, len(corners), 20)
    along = rng.random((20, 1))
    samples = corners[k] * along + np.roll(corners, -1, 0)[k] * (1 - along)
    inside = samples[((samples > 0) & (samples < [600, 200])).all(1)]
    with tempfile.TemporaryDirectory() as folder:
        made = geojson(Path(folder) / "a.geojson", {"type": "Polygon", "coordinates": [ring(*points)]})
        pyramid = Pyramid("a", (np.broadcast_to(np.uint8(1), (1, 200, 600)),), (Grid.regular((200, 600)),))
        if not len(inside):
            return
        mask = region_of(made, pyramid).mask
    cells = inside.astype(int)
    assert mask[cells[:, 1], cells[:, 0]].all()


@pytest.mark.parametrize(("content", "said"), [
    ({"type": "LineString", "coordinates": [[0, 0], [1, 1]]}, "LineString"),
    ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}, "2 points"),
    ({"type": "Polygon", "coordinates": [[[0, 0], [1, "x"], [2, 2]]]}, "cannot be read"),
    (None, "geometry"),
])
def test_regions_that_are_none_are_refused(tmp_path, content, said):
    with pytest.raises(FileError, match=said):
        region_of(geojson(tmp_path / "a.geojson", content), slide(glass((50, 50))))


def test_regions_outside_the_image_are_refused(tmp_path):
    made = geojson(tmp_path / "a.json", {"type": "Polygon", "coordinates": [ring((900, 900), (990, 900), (990, 990))]})
    with pytest.raises(DataError, match="no region in the image"):
        region_of(made, slide(glass((50, 50))))


def test_planes_of_a_stack_are_found_each(tmp_path):
    array = np.full((3, 2, 160, 160), 240, np.uint8)
    array[:, 1, :80] = 100
    pyramid = Pyramid("a.ndpi", (array,), (Grid.regular((2, 160, 160), (2, 0.5, 0.5), "um"),), COLOURS)
    mask = find_tissue(pyramid, margin=0).mask
    assert mask.shape == (2, 20, 20)
    assert (mask[0].sum(), mask[1].sum()) == (0, 200)
    made = geojson(tmp_path / "a.geojson", {"type": "Polygon", "coordinates": [ring((0, 0), (9, 0), (9, 9))]})
    assert region_of(made, pyramid).mask.shape == (1, 160, 160)


@pytest.mark.data
@pytest.mark.skipif(not DATA, reason="BIOSEGKIT_DATA does not name the folder of real data")
def test_a_real_slide():
    pyramid = open_pyramid(Path(DATA or ".") / "wsi_slides/images/CMU-1-Small-Region.svs")
    found = find_tissue(pyramid, margin=0)
    assert isinstance(found, Tissue)
    assert 0.05 < found.mask.mean() < 0.95
    whole = pyramid.level(0).array[...]
    cells = np.kron(found.mask, np.ones((8, 8), bool))[: whole.shape[1], : whole.shape[2]]
    seen = whole[:, : cells.shape[0], : cells.shape[1]].min(0)
    assert seen[cells].mean() < seen[~cells].mean() - 30
