"""Post-processing of labels against scipy.ndimage, object by object; through models, bundles and the command line."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from stub_models import CPU, Discs, fresh_weights, image, stub_plan
from typer.testing import CliRunner

import biosegkit as bsk
from biosegkit.bundle import load, write_bundle
from biosegkit.cli import app
from biosegkit.errors import OptionError, PlanError
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.kernels.runs import runs_of
from biosegkit.plan.schema import LabelTable
from biosegkit.segmenter import Segmenter
from biosegkit.tidy import Frame, TidyClasses, TidyObjects, tidy_classes, tidy_objects, tidy_of

SHAPES = st.sampled_from([(9, 11), (1, 13), (5, 6, 7), (1, 6, 7), (4, 1, 9)])
CLASSES = LabelTable(task="semantic", names=("background", "wall", "core"), values=(0, 5, 9),
                     regions=(("both", (1, 2)),))


@st.composite
def label_images(draw, top=4):
    """Crowded little images with holes, fragments and objects at the border; ids without gaps."""
    shape = draw(SHAPES)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    coarse = rng.integers(0, top + 1, [-(-n // 2) for n in shape])
    labels = coarse
    for axis, n in enumerate(shape):
        labels = labels.repeat(2, axis).take(range(n), axis)
    noise = rng.random(shape)
    labels = np.where(noise < 0.1, 0, np.where(noise > 0.95, rng.integers(1, top + 1, shape), labels))
    return np.unique(labels, return_inverse=True)[1].reshape(shape) if (labels == 0).any() else labels


def full(ndim):
    return ndimage.generate_binary_structure(ndim, ndim)


def numbered(labels):
    """Ids by raster order of the first voxel."""
    out = np.zeros(labels.shape, int)
    for new, old in enumerate(dict.fromkeys(labels[labels > 0].tolist()), 1):
        out[labels == old] = new
    return out


def holes_filled(labels):
    """Every component of background inside the filled mask of one object that has no other neighbour."""
    thin = tuple(a for a, n in enumerate(labels.shape) if n == 1)
    flat = labels.squeeze(thin)
    out = flat.copy()
    spaces, count = ndimage.label(flat == 0)
    for k in np.unique(flat[flat > 0]):
        inside = ndimage.binary_fill_holes(flat == k)
        for space in range(1, count + 1):
            here = spaces == space
            around = ndimage.binary_dilation(here) & ~here
            if inside[here].all() and (flat[around] == k).all():
                out[here] = k
    return out.reshape(labels.shape)


def split(labels, how):
    out, last = np.zeros(labels.shape, int), 0
    for k in np.unique(labels[labels > 0]):
        pieces, count = ndimage.label(labels == k, full(labels.ndim))
        sizes = ndimage.sum_labels(np.ones(labels.shape), pieces, range(1, count + 1))
        for p in range(1, count + 1) if how == "pieces" else [1 + int(np.argmax(sizes))]:
            last += 1
            out[pieces == p] = last
    return out


def off_border(labels):
    out = labels.copy()
    for axis, n in enumerate(labels.shape):
        for end in (0, -1) if n > 1 else ():
            out[np.isin(out, np.unique(labels.take(end, axis)))] = 0
    return out


@settings(max_examples=60, deadline=None)
@given(label_images(), st.booleans())
def test_pieces_are_those_of_scipy(labels, background):
    if background:
        expected, count = ndimage.label(labels == 0)
        found = runs_of(labels, background=True)
    else:
        expected, found = split(labels, "pieces"), runs_of(labels)
        expected, count = numbered(expected), int(expected.max())
    assert found.count == count
    np.testing.assert_array_equal(found.sizes, np.bincount(expected[expected > 0], minlength=count + 1)[1:])
    rows = np.repeat(np.arange(len(found.offset) - 1), np.diff(found.offset))
    painted = np.zeros((len(found.offset) - 1, labels.shape[-1]), int)
    for r, start, stop, piece in zip(rows, found.start, found.stop, found.piece, strict=True):
        painted[r, start:stop] = piece + 1
    np.testing.assert_array_equal(painted.reshape(labels.shape), expected)


@settings(max_examples=150, deadline=None)
@given(label_images(), st.sampled_from(["no", "pieces", "largest"]), st.booleans(), st.booleans(), st.integers(0, 6))
def test_objects_are_tidied_as_scipy_says_object_by_object(labels, how, fill, border, least):
    expected = labels if how == "no" else split(labels, how)
    expected = holes_filled(expected) if fill else expected
    expected = off_border(expected) if border else expected
    sizes = np.bincount(expected.reshape(-1))
    expected = numbered(np.where(sizes[expected] >= least, expected, 0))
    before = labels.copy()
    tidy = TidyObjects(split=how, fill_holes=fill, border_objects="remove" if border else "keep")
    found, table = tidy_objects(labels, tidy, Frame.whole(labels.shape), min_size=least)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(labels, before)
    assert table["id"].tolist() == list(range(1, int(expected.max()) + 1))
    np.testing.assert_array_equal(table["area"], np.bincount(expected.reshape(-1), minlength=1)[1:])
    for k, box in enumerate(ndimage.find_objects(expected)):
        for name, part in zip("zyx"[-labels.ndim:], box, strict=True):
            assert (table[f"bbox_start_{name}"][k], table[f"bbox_stop_{name}"][k]) == (part.start, part.stop)


def test_pieces_keep_score_and_class_of_their_object():
    labels = np.array([[1, 1, 0, 2, 0, 1]])
    table = {"id": np.array([1, 2], np.uint32), "score": np.array([0.25, 0.75], np.float32), "area": np.array([3, 1]),
             "class_mean_1": np.array([0.5, 0.125])}
    found, rows = tidy_objects(labels, TidyObjects(split="pieces"), Frame.whole((1, 6)), table=table)
    assert found.tolist() == [[1, 1, 0, 2, 0, 3]]
    assert {name: column.tolist() for name, column in rows.items()} == {
        "id": [1, 2, 3], "score": [0.25, 0.75, 0.25], "area": [2, 1, 1], "class_mean_1": [0.5, 0.125, 0.5]}


def test_a_hole_that_opens_beyond_the_window_or_the_plane_is_judged_by_the_image():
    ring = np.pad(np.ones((3, 3), int), 1)
    ring[2, 2] = 0
    tidy = TidyObjects(fill_holes=True, border_objects="remove")
    inside = tidy_objects(ring[1:4, 1:4], tidy, Frame.of((slice(1, 4),) * 2, (5, 5), 2))[0]
    assert (inside == 1).all()  # off the border of the image, though on that of the window
    assert not tidy_objects(ring[1:4, 1:4], tidy, Frame.whole((3, 3)))[0].any()
    tube = np.repeat(ring[None], 3, 0)
    assert not tidy_objects(tube, tidy, Frame.whole((3, 5, 5)))[0].any()
    assert (tidy_objects(tube, TidyObjects(fill_holes=True), Frame.whole((3, 5, 5)))[0] == tube).all()  # open along z
    by_plane = tidy_objects(tube, tidy, Frame.of((slice(0, 3), slice(0, 5), slice(0, 5)), (3, 5, 5), 2))[0]
    assert (by_plane[:, 1:4, 1:4] == 1).all()


@settings(max_examples=60, deadline=None)
@given(label_images(top=2), st.sampled_from([("wall",), ("core", "wall"), ("foreground",), ("both",), ("9",)]),
       st.sampled_from([(), ("wall",), ("foreground",)]))
def test_classes_are_tidied_as_scipy_says(labels, largest, fill):
    members = {"wall": [1], "core": [2], "foreground": [1, 2], "both": [1, 2], "9": [2]}
    expected = labels.copy()
    for name in largest:
        pieces, count = ndimage.label(np.isin(expected, members[name]), full(labels.ndim))
        if count:
            sizes = ndimage.sum_labels(np.ones(labels.shape), pieces, range(1, count + 1))
            expected[(pieces > 0) & (pieces != 1 + int(np.argmax(sizes)))] = 0
    if fill:
        closed = holes_filled(expected)
        expected = np.where(np.isin(closed, members[fill[0]]), closed, expected)
    tidy = TidyClasses(largest=largest, fill_holes=fill)
    found = tidy_classes(labels.astype(np.uint8), tidy, CLASSES, Frame.whole(labels.shape))
    np.testing.assert_array_equal(found, expected)


def test_wrong_options_say_what_there_is():
    objects = LabelTable(task="instance", names=("background", "object"), values=(0, 1))
    for table, options, said in [
        (objects, {"fill": 1}, "split, fill_holes, border_objects"), (objects, {"split": "half"}, "split=half"),
        (objects, {"fill_holes": "maybe"}, "expected yes or no"),
        (objects, {"min_size": 4}, "--threshold min_size"), (CLASSES, {"largest": "liver"}, "foreground, wall, core"),
        (CLASSES, {"fill_holes": "both"}, "class 'both'"), (CLASSES, {"split": "largest"}, "largest, fill_holes")]:
        with pytest.raises(OptionError, match=said):
            tidy_of(table, options)
    assert tidy_of(CLASSES, {"largest": "wall, both"}) == TidyClasses(largest=("wall", "both"))


def rings():
    """Distances of a disc with a hole, and of one at the border."""
    yy, xx = np.mgrid[:40, :40]
    near = [np.clip(1 - np.abs(np.hypot(yy - y, xx - x) - 4) / 3, 0, 1) for y, x in ((12, 14), (33, 2))]
    return Image(np.maximum(*near)[None].astype(np.float32), Grid.regular((40, 40)))


def test_a_model_tidies_what_it_predicts_the_same_from_states_and_maps():
    plain = Segmenter(stub_plan(2, instance=True, transpose=(1, 0)), (Discs().eval(),), CPU, {})
    tidy, im = plain.tidied(fill_holes=True, border_objects="remove"), rings()
    before, after = plain.predict(im), tidy.predict(im)
    expected = numbered(off_border(holes_filled(np.asarray(before.labels.array, int))))
    assert before.labels.count > after.labels.count == 1
    np.testing.assert_array_equal(after.labels.array, expected)
    assert after.objects["area"].tolist() == [int(expected.sum())]
    assert after.objects["centroid_y"][0] == pytest.approx(12, abs=0.1)
    for other in (tidy.states(im).decode(), tidy.decode(tidy.maps(im), {}, im.grid)):
        np.testing.assert_array_equal(other.labels.array, expected)
        assert other.objects["score"].tolist() == after.objects["score"].tolist()
    small = tidy.predict(im, thresholds={"min_size": float(expected.sum() + 1)})
    assert small.labels.count == 0


def test_a_bundle_keeps_its_post_processing_and_another_makes_another_model(tmp_path):
    plan = stub_plan(2, scheme="zscore", instance=True)
    write_bundle(tmp_path / "m", plan, {"0": fresh_weights(plan)}, postprocessing={"fill_holes": True})
    model = load(tmp_path / "m", "cpu")
    assert model.postprocessing == {"split": "no", "fill_holes": True, "border_objects": "keep"}
    other = model.tidied(split="largest")
    assert other.postprocessing == {"split": "largest", "fill_holes": True, "border_objects": "keep"}
    assert other.digest != model.digest == model.tidied(fill_holes=True).digest
    assert other.weights_digest == model.weights_digest
    record = json.loads((tmp_path / "m/bundle.json").read_text())
    (tmp_path / "m/bundle.json").write_text(json.dumps({**record, "postprocessing": {"melt": True}}))
    with pytest.raises(PlanError, match="'melt'"):
        load(tmp_path / "m", "cpu")


def test_the_command_takes_options_of_post_processing(tmp_path):
    plan = stub_plan(2, scheme="zscore")
    write_bundle(tmp_path / "m", plan, {"0": fresh_weights(plan)})
    bsk.write(image((20, 20)), tmp_path / "a.tif")

    def predicted(folder, *options):
        done = CliRunner().invoke(app, ["predict", str(tmp_path / "m"), str(tmp_path / "a.tif"), "-o",
                                        str(tmp_path / folder), *options])
        return done, tmp_path / folder

    done, plain = predicted("plain")
    assert done.exit_code == 0, done.output
    before = bsk.read_labels(plain / "a.tif", "semantic").restored()
    parted = [v for v in (3, 7) if ndimage.label(before == v, full(2))[1] > 1]
    done, tidy = predicted("tidy", "--option", f"largest=class {parted[0]}")
    assert done.exit_code == 0, done.output
    after = bsk.read_labels(tidy / "a.tif", "semantic").restored()
    pieces, count = ndimage.label(before == parted[0], full(2))
    sizes = ndimage.sum_labels(before > 0, pieces, range(1, count + 1))
    gone = (pieces > 0) & (pieces != 1 + np.argmax(sizes))
    assert gone.any()
    np.testing.assert_array_equal(after, np.where(gone, 0, before))
    record = json.loads((tidy / "a.tif.json").read_text())
    assert record["postprocessing"] == {"largest": [f"class {parted[0]}"], "fill_holes": []}
    done, _ = predicted("wrong", "--option", "largest=lung")
    assert done.exit_code == 2
    assert "lung" in done.output


def test_the_page_lists_every_option():
    page = (Path(__file__).parents[1] / "docs/methods.md").read_text("utf-8")
    rows = re.findall(r"^\| (objects|classes) \| `(\w+)` \| (\w+) \| ([^|]+) \|$", page, re.M)
    defaults = {False: "no", (): "none"}
    expected = [(what, f.name, defaults.get(f.default.default, f.default.default), f.default.description)
                for what, kind in (("objects", TidyObjects), ("classes", TidyClasses)) for f in fields(kind)]
    assert rows == expected
