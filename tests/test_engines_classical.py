"""Segmenters without training: what scikit-image says, tidied, numbered and tabled; by name on the command line."""

from __future__ import annotations

import csv
import json
import re
import socket
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from scipy.cluster.vq import kmeans2
from skimage.feature import peak_local_max
from skimage.filters import threshold_local, threshold_multiotsu, threshold_otsu
from skimage.measure import label, regionprops
from skimage.segmentation import chan_vese, morphological_chan_vese, random_walker, slic, watershed
from typer.testing import CliRunner

import biosegkit as bsk
from biosegkit.cli import app
from biosegkit.engines import described, load_model
from biosegkit.engines.cellpose_model import CellposeOptions
from biosegkit.engines.classical import RULES, Classical, Look, Size, classical
from biosegkit.engines.star_model import StarOptions
from biosegkit.errors import DataError, FileError, OptionError
from biosegkit.io import ReadOptions
from biosegkit.predict import predict_files
from biosegkit.predictor import Predictor
from biosegkit.tidy import TidyObjects

DISCS = ((20, 20, 8), (33, 26, 8), (60, 60, 10), (74, 14, 3))
PLAIN = {"sigma": 0}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Every connection fails, as without a network."""
    def refused(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


def pixels(depth: int = 0) -> np.ndarray:
    """Bright discs, two of them touching, on noise; ``depth`` planes of them if not 0."""
    y, x = np.ogrid[:96, :90]
    plane = np.zeros((96, 90))
    for cy, cx, r in DISCS:
        plane[(y - cy) ** 2 + (x - cx) ** 2 <= r * r] = 1
    values = np.repeat(plane[None], depth, 0) if depth else plane
    noise = np.random.default_rng(3).normal(40, 9, values.shape)
    return (values * 100 + noise).clip(0, 255).astype(np.uint8)


def image(values=None, spacing=1.0, channels=False) -> bsk.Image:
    values = pixels() if values is None else values
    values = values if channels else values[None]
    return bsk.Image(values, bsk.Grid.regular(values.shape[1:], spacing, "um"))


def found(name, im=None, **options):
    return classical(name, {**PLAIN, **options}).predict(im or image())


def stretched(values):
    low, high = np.percentile(values, (1, 99.8))
    return ((values - low) / (high - low)).clip(0, 1)


# --- the same as scikit-image ----------------------------------------------------------------------------------------


def test_otsu_is_the_components_above_the_threshold():
    expected = label(pixels() > threshold_otsu(pixels()), connectivity=2)
    assert expected.max() > 2
    np.testing.assert_array_equal(found("otsu").labels.array, expected)


def test_multi_otsu_gives_classes_or_objects():
    expected = np.digitize(pixels(), threshold_multiotsu(pixels(), 4), right=True)
    prediction = found("multi-otsu", classes=4)
    assert (prediction.labels.task, prediction.labels.values.tolist()) == ("semantic", [0, 1, 2, 3])
    np.testing.assert_array_equal(prediction.labels.array, expected)
    assert prediction.objects == {}
    objects = found("multi-otsu", classes=4, objects_from=2).labels
    assert objects.task == "instance"
    np.testing.assert_array_equal(objects.array, label(expected >= 2, connectivity=2))


def test_local_compares_with_the_surroundings():
    values = pixels() + np.linspace(0, 90, 90).astype(np.uint8)
    low, high = np.percentile(values, (1, 99.8))
    expected = values > threshold_local(values.astype(float), 31, method="mean", offset=-0.2 * (high - low))
    mine = found("local", image(values), window=31.9, weights="mean", above=0.2).labels.array
    np.testing.assert_array_equal(mine, label(expected, connectivity=2))


def test_k_means_sorts_colours_into_groups():
    colours = np.stack([pixels(), 255 - pixels(), pixels() // 2])
    prediction = found("k-means", image(colours, channels=True), classes=2, channel="all")
    flat = colours.reshape(3, -1).T / colours.reshape(3, -1).std(axis=1)
    truth = pixels() > threshold_otsu(pixels())
    begin = np.stack([flat[~truth.ravel()].mean(0), flat[truth.ravel()].mean(0)])
    _, group = kmeans2(flat, begin, iter=100, minit="matrix")
    mine = prediction.labels.array.ravel()
    assert {tuple(pair) for pair in zip(mine.tolist(), group.tolist(), strict=True)} in ({(0, 0), (1, 1)},
                                                                                        {(0, 1), (1, 0)})
    grey = found("k-means", classes=2).labels.array
    assert (grey == truth).mean() > 0.99


def test_slic_gives_superpixels_and_joins_bright_ones():
    scaled = stretched(pixels())
    pieces = slic(scaled, n_segments=round(96 * 90 / 36), compactness=0.2, start_label=1, channel_axis=None)
    single = found("slic", width=6, compactness=0.2, joined=False).labels
    assert single.count == pieces.max()
    np.testing.assert_array_equal(single.array, pieces)
    means = np.array([scaled[pieces == k].mean() for k in range(1, pieces.max() + 1)])
    bright = np.concatenate([[False], means > threshold_otsu(means)])[pieces]
    np.testing.assert_array_equal(found("slic", width=6, compactness=0.2).labels.array, label(bright, connectivity=2))


def test_random_walker_decides_what_is_not_certain():
    scaled = stretched(pixels())
    t = threshold_otsu(scaled)
    high, low = t + 0.6 * (scaled[scaled > t].mean() - t), t - 0.6 * (t - scaled[scaled <= t].mean())
    seeds = 2 * (scaled > high) + (scaled < low)
    expected = random_walker(scaled, seeds, beta=90, tol=1e-5, prob_tol=0.01) == 2
    mine = found("random-walker", beta=90, certain=0.6).labels.array
    np.testing.assert_array_equal(mine, label(expected, connectivity=2))


def test_contours_start_at_the_mask_and_keep_the_brighter_side():
    scaled = stretched(pixels())
    mask = scaled > threshold_otsu(scaled)
    level = chan_vese(scaled, mu=0.1, tol=1e-3, max_num_iter=30, init_level_set=2.0 * mask - 1)
    level = level if scaled[level].mean() > scaled[~level].mean() else ~level
    np.testing.assert_array_equal(found("chan-vese", mu=0.1, iterations=30).labels.array, label(level, connectivity=2))
    _, _, energies = chan_vese(scaled, mu=0.1, tol=1e-3, max_num_iter=1, init_level_set=2.0 * mask - 1,
                               extended_output=True)
    assert len(energies) == 1  # an energy per iteration
    assert "1 iteration" in found("chan-vese", mu=0.1, iterations=1).notes
    assert "3 iterations" in found("chan-vese", mu=0.1, iterations=3, tolerance=1e-12).notes
    moved = morphological_chan_vese(scaled, 5, mask, smoothing=2) > 0
    np.testing.assert_array_equal(found("active-contour", iterations=5, smoothing=2).labels.array,
                                  label(moved, connectivity=2))
    dark = found("chan-vese", image(255 - pixels()), mu=0.1, iterations=30, dark=True).labels.array
    assert (dark == label(level, connectivity=2)).mean() > 0.99


@pytest.mark.parametrize("on", ["distance", "intensity"])
def test_watershed_cuts_what_touches(on):
    mask = pixels() > threshold_otsu(pixels())
    height = ndimage.distance_transform_edt(mask) if on == "distance" else stretched(pixels())
    height = ndimage.gaussian_filter(height, 2)
    peaks = peak_local_max(height, min_distance=6, labels=label(mask, connectivity=2), exclude_border=False)
    seeds = np.zeros(mask.shape, int)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    expected = watershed(-height, seeds, mask=mask, connectivity=2)
    mine = found("watershed", on=on, seed_sigma=2, apart=6).labels
    assert mine.count == expected.max()
    pairs = set(zip(mine.array.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert len(pairs) == mine.count + 1, "the same partition under other numbers"
    assert mine.array[20, 20] != mine.array[33, 26]


# --- what all have in common -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("depth", [0, 3], ids=["2d", "3d"])
def test_every_segmenter_is_a_predictor_that_repeats_itself(name, depth):
    im = image(pixels(depth), (2.0, 1.0, 1.0)[-3 if depth else -2:])
    model = load_model(name)
    assert isinstance(model, Predictor)
    if len(im.grid.shape) not in RULES[name].ndims:
        with pytest.raises(DataError, match=rf"3 axes.*2D, which is all {name} does.*biosegkit models"):
            model.predict(im)
        return
    one, other = model.predict(im), load_model(name).predict(im)
    assert one.labels.grid == im.grid
    np.testing.assert_array_equal(one.labels.array, other.labels.array)
    assert one.labels.array.max() >= 2
    assert "no network" in one.notes[0]
    inside = one.labels.array[..., 60, 60]
    assert inside.all()
    assert not np.any(one.labels.array[..., 50, 5])


def test_the_table_says_what_the_labels_say():
    prediction = found("watershed", min_size=5)
    rows = regionprops(prediction.labels.array)
    assert prediction.objects["id"].tolist() == [r.label for r in rows]
    assert prediction.objects["area"].tolist() == [r.area for r in rows]
    assert set(prediction.objects["score"]) == {1.0}
    for axis, name in enumerate("yx"):
        np.testing.assert_allclose(prediction.objects[f"centroid_{name}"], [r.centroid[axis] for r in rows])
        assert prediction.objects[f"bbox_start_{name}"].tolist() == [r.bbox[axis] for r in rows]
        assert prediction.objects[f"bbox_stop_{name}"].tolist() == [r.bbox[2 + axis] for r in rows]
    first = [np.flatnonzero(prediction.labels.array == r.label)[0] for r in rows]
    assert first == sorted(first)


def test_dark_objects_on_bright_ground_are_the_same_objects():
    for values in (pixels(), pixels().astype(np.int16), pixels().astype(np.float32)):
        dark = found("otsu", image(255 - values), dark=True).labels.array
        bright = found("otsu", image(values)).labels.array
        assert (dark != bright).mean() <= 0.01 * (values.dtype.kind == "f")  # bins of a histogram count from below


def test_smoothing_follows_the_spacing():
    values = np.zeros((9, 33, 33), np.float32)
    values[4, 16, 16] = 1000
    smooth = Look(sigma=2.0)
    from biosegkit.engines.classical import Classical
    from biosegkit.engines.thresholds import Otsu

    model = Classical("otsu", Otsu(), smooth)
    expected = ndimage.gaussian_filter(values, (0.5, 2, 2))
    mine = model.predict(image(values, (4.0, 1.0, 1.0))).labels.array > 0
    np.testing.assert_array_equal(mine, expected > threshold_otsu(expected))


def test_a_single_plane_of_a_stack_is_an_image_of_two_axes():
    for name in RULES:
        flat, stack = load_model(name).predict(image()), load_model(name).predict(image(pixels()[None]))
        np.testing.assert_array_equal(stack.labels.array[0], flat.labels.array)
        assert stack.labels.grid.ndim == 3


def test_the_channel_is_chosen_and_said():
    two = image(np.stack([np.full_like(pixels(), 7), pixels()]), channels=True)
    second = classical("otsu", {**PLAIN, "channel": "1"}).predict(two)
    np.testing.assert_array_equal(second.labels.array, found("otsu").labels.array)
    assert any("channel 1 of 2" in note for note in second.notes)
    assert found("otsu", two).labels.count == 0
    with pytest.raises(OptionError, match=r"channel 2 of an image of 2 channels.*0 to 1"):
        found("otsu", two, channel=2)
    with pytest.raises(OptionError, match="one channel"):
        found("otsu", two, channel="all")


def test_small_objects_go_and_holes_are_filled():
    values = pixels().copy()
    values[58:63, 58:63] = 40
    plain = found("otsu", image(values), sigma=0)
    tidy = found("otsu", image(values), min_size=100, fill_holes="yes")
    assert plain.labels.array[60, 60] == 0
    assert tidy.labels.array[60, 60] == tidy.labels.array[60, 52] > 0
    assert tidy.objects["area"].min() >= 100 > plain.objects["area"].min()


def test_objects_at_the_border_go():
    values = pixels().copy()
    values[:5, 40:50] = 220
    plain, tidy = found("otsu", image(values)), found("otsu", image(values), border_objects="remove")
    assert plain.labels.array[0, 45] > 0
    assert tidy.labels.array[0, 45] == 0
    assert tidy.labels.count == plain.labels.count - 1


def test_an_empty_image_gives_no_object_or_an_error_that_says_why():
    for name in RULES:
        for values in (np.zeros((9, 9), np.uint8), np.full((9, 9), 2.5, np.float32)):
            if name in ("multi-otsu", "k-means"):
                with pytest.raises(DataError, match="1 different value"):
                    found(name, image(values))
            else:
                assert found(name, image(values)).labels.count == 0
    with pytest.raises(DataError, match="not finite"):
        found("otsu", image(np.array([[1.0, np.nan]])))


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options", "said"), [
    ("otsu", {"clases": "3"}, r"option 'clases' of otsu.*channel, dark, sigma"),
    ("multi-otsu", {"classes": "many"}, "option classes=many of multi-otsu.*integer"),
    ("multi-otsu", {"classes": 9}, "less than or equal to 5"),
    ("multi-otsu", {"classes": 3, "objects_from": 3}, "objects_from 3 of 3 classes"),
    ("multi-otsu", {"min_size": 4}, "options of objects.*objects_from"),
    ("local", {"weights": "box"}, "'gaussian', 'mean' or 'median'"),
    ("ozu", {}, "segmenter 'ozu'.*otsu, multi-otsu")])
def test_a_wrong_option_says_what_would_be_right(name, options, said):
    with pytest.raises(OptionError, match=said):
        classical(name, options).predict(image())


def test_a_misspelt_segmenter_is_told_the_right_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match="did you mean otsu"):
        load_model("otsuu")


def test_options_are_part_of_the_identity():
    one, other = classical("otsu"), classical("otsu", {"sigma": "2"})
    assert one.digest == classical("otsu", {"sigma": "1"}).digest != other.digest
    assert classical("watershed").digest != one.digest
    assert other.record == {"engine": "otsu", "options": {"channel": 0, "dark": False, "sigma": 2.0, "min_size": 0,
                                                          "split": "no", "fill_holes": False,
                                                          "border_objects": "keep"}}


def test_a_segmenter_has_no_depth():
    with pytest.raises(OptionError, match="a depth with otsu"):
        load_model("otsu", depth=1)


def test_the_page_lists_every_option_with_its_default():
    page = (Path(__file__).parents[1] / "docs/engines.md").read_text("utf-8")
    rows = re.findall(r"^\| ([^|]+) \| `(\w+)` \| `?([^|`]*)`? \| ([^|]+) \|$", page, re.M)
    listed = {(who.strip().strip("`"), option): (default.strip(), text.strip()) for who, option, default, text in rows}
    kinds = {**RULES, "every segmenter": Look, "every one that finds objects": Size, "stardist": StarOptions,
             "cellpose": CellposeOptions, "all that find objects": TidyObjects}
    for name, kind in kinds.items():
        for field in fields(kind):
            info = field.default
            default, text = listed[name, field.name]
            assert text == info.description, (name, field.name)
            assert default == {"True": "yes", "False": "no"}.get(str(info.default), str(info.default))


# --- the command line ------------------------------------------------------------------------------------------------


def test_predict_by_name_writes_labels_table_and_record(tmp_path):
    bsk.write(image(), tmp_path / "a.tif")
    done = CliRunner().invoke(app, ["predict", "watershed", str(tmp_path / "a.tif"), "-o", str(tmp_path / "out"),
                                    "--option", "min_size=20", "--option", "sigma=0"])
    assert done.exit_code == 0, done.output
    labels = bsk.read_labels(tmp_path / "out/a.tif", "instance")
    expected = found("watershed", min_size=20)
    np.testing.assert_array_equal(labels.array, expected.labels.array)
    with (tmp_path / "out/a.csv").open() as handle:
        assert [int(row["area"]) for row in csv.DictReader(handle)] == expected.objects["area"].tolist()
    record = json.loads((tmp_path / "out/a.tif.json").read_text())
    assert (record["model"]["engine"], record["model"]["options"]["min_size"]) == ("watershed", 20)
    assert record["notes"][-3:] == list(expected.notes)[-3:]
    again = CliRunner().invoke(app, ["predict", "watershed", str(tmp_path / "a.tif"), "-o", str(tmp_path / "out"),
                                     "--option", "min_size=20", "--option", "sigma=0", "--resume"])
    assert (again.exit_code, "1 of 1" in again.output) == (0, True)


@pytest.mark.parametrize(("more", "said"), [
    (["--threshold", "foreground=0.5"], "no maps"), (["--save-maps"], "no maps"), (["--tta"], "no bundle"),
    (["--depth", "1"], "a depth"), (["--option", "size=3"], "option 'size'"), (["--option", "sigma"], "name=value")])
def test_what_a_segmenter_cannot_do_is_usage(tmp_path, more, said):
    bsk.write(image(), tmp_path / "a.tif")
    done = CliRunner().invoke(app, ["predict", "otsu", str(tmp_path / "a.tif"), "-o", str(tmp_path / "out"), *more])
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())


def test_models_lists_what_needs_no_training(tmp_path):
    done = CliRunner().invoke(app, ["models", str(tmp_path)])
    assert done.exit_code == 0
    for form, axes, text in described():
        assert form in done.output
        assert axes
        assert text.endswith(tuple("abcdefghijklmnopqrstuvwxyz)"))


def test_what_a_segmenter_could_not_hold_is_refused_before_it_begins(tmp_path, monkeypatch):
    bsk.write(bsk.Image(np.zeros((1, 300, 400), np.uint8), bsk.Grid.regular((300, 400))), tmp_path / "a.tif")
    options = ReadOptions(memory_budget=4_000_000)
    (done,) = predict_files(load_model("otsu"), tmp_path / "a.tif", tmp_path / "one", options=options)
    assert done.error is None
    model = load_model("random-walker")
    monkeypatch.setattr(Classical, "predict", lambda *_: pytest.fail("it began"))
    (refused,) = predict_files(model, tmp_path / "a.tif", tmp_path / "two", options=options)
    assert "300 × 400 voxels, for which this model needs about 54.9MB" in refused.error
    assert "at most 3.8MB" in refused.error
    assert "which do it in blocks" in refused.error
