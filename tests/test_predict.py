"""Tiled prediction against brute force, in any orientation, size, batch and grid."""

import csv
import json
from itertools import product

import numpy as np
import pytest
import torch
from stub_models import Bands, Context, Discs, fresh_weights, segmenter, stub_plan

import biosegkit.segmenter
from biosegkit.bundle import load, write_bundle
from biosegkit.errors import DataError, FileError, OptionError
from biosegkit.grid import Grid, Turn
from biosegkit.image import Image
from biosegkit.io import read_labels, write
from biosegkit.lattice import Lattice, gaussian
from biosegkit.planes import joined
from biosegkit.predict import predict, predict_files
from biosegkit.predictor import MapPredictor, Predictor
from biosegkit.segmenter import ladder
from biosegkit.tiling import Forward, blend


def image(shape, seed=0, spacing=1.0, unit="mm", top=3.0, channels=1):
    values = np.random.default_rng(seed).random((channels, *shape), np.float32) * top
    return Image(values, Grid.regular(shape, spacing, unit))


def brute_force(network, array, patch, step):
    """Every tile, probabilities weighted by the outer Gaussian, summed in float64 over the whole padded image."""
    shape = array.shape[1:]
    starts = [range(0, max(0, -(-(n - p) // s)) * s + 1, s) for n, p, s in zip(shape, patch, step, strict=True)]
    padded = [axis[-1] + p for axis, p in zip(starts, patch, strict=True)]
    whole = np.zeros((array.shape[0], *(max(a, b) for a, b in zip(padded, shape, strict=True))), np.float32)
    whole[(slice(None), *(slice(0, n) for n in shape))] = array
    window = 1.0
    for axis, p in enumerate(patch):
        window = window * gaussian(p).reshape([-1 if a == axis else 1 for a in range(len(patch))])
    total, weight = 0.0, np.zeros(whole.shape[1:])
    for start in product(*starts):
        place = tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))
        with torch.inference_mode():
            tile = torch.softmax(network(torch.from_numpy(whole[(slice(None), *place)][None]))["classes"], 1)
        if isinstance(total, float):
            total = np.zeros((tile.shape[1], *whole.shape[1:]))
        total[(slice(None), *place)] += tile[0].numpy().astype(np.float64) * window
        weight[place] += window
    return (total / weight)[(slice(None), *(slice(0, n) for n in shape))]


@pytest.mark.parametrize(("shape", "patch", "step"), [
    ((19, 13, 11), (8, 6, 4), (4, 3, 4)),
    ((8, 6, 4), (8, 6, 4), (4, 3, 2)),
    ((3, 20, 5), (8, 8, 8), (4, 3, 8)),
    ((40, 9), (12, 8), (5, 8)),
    ((1, 1), (8, 8), (4, 4)),
])
def test_streamed_maps_equal_brute_force(shape, patch, step):
    im, ndim = image(shape), len(shape)
    net = Context(ndim)
    found = segmenter(net, stub_plan(ndim, patch=patch, step=step)).predict(im, maps=True)
    expected = brute_force(net, im.array, patch, step)
    np.testing.assert_allclose(found.maps["classes"], expected, atol=2e-6)
    sure = np.sort(expected, 0)[-1] - np.sort(expected, 0)[-2] > 1e-5
    np.testing.assert_array_equal(found.labels.array[sure], expected.argmax(0)[sure])
    np.testing.assert_array_equal(found.labels.restored(), np.array([0, 3, 7])[found.labels.array])


@pytest.mark.parametrize("planes", [None, 1, 3, 100])
def test_slabs_are_the_same_whatever_their_thickness(planes):
    values = image((21, 10, 9)).array
    lattice = Lattice((21, 10, 9), (8, 8, 8), (3, 4, 5))
    padded = np.pad(values, [(0, 0), (0, 8), (0, 8), (0, 8)])

    def tile(start):
        return padded[(slice(None), *(slice(s, s + 8) for s in start))]

    forward = Forward((Context(),), segmenter(Context(), stub_plan()).method, torch.device("cpu"))
    whole = torch.cat([m["classes"] for _, m in blend(tile, lattice, forward)], 1)
    parts = list(blend(tile, lattice, forward, planes=planes))
    assert torch.equal(torch.cat([m["classes"] for _, m in parts], 1), whole)
    assert planes is None or max(m["classes"].shape[1] for _, m in parts) <= planes
    assert [s for s, _ in parts] == list(np.cumsum([0] + [m["classes"].shape[1] for _, m in parts])[:-1])


def test_X3_batch_size_changes_no_bit():
    plan, im = stub_plan(3, step=(3, 4, 5)), image((20, 17, 12))
    net = Bands()
    first = segmenter(net, plan, batch=1).predict(im, maps=True)
    assert set(net.batches) == {1}
    for batch in (2, 5, 64):
        net = Bands()
        other = segmenter(net, plan, batch=batch).predict(im, maps=True)
        assert min(net.batches) == max(net.batches) > 1
        np.testing.assert_array_equal(other.maps["classes"], first.maps["classes"])
        np.testing.assert_array_equal(other.labels.array, first.labels.array)


@pytest.mark.parametrize("ndim", [2, 3])
def test_X3_batch_and_thread_counts_keep_the_labels_of_a_real_network(tmp_path, ndim):
    plan = stub_plan(ndim, patch=(16,) * ndim, scheme="zscore")
    bundle = load(write_bundle(tmp_path / "b", plan, {"0": fresh_weights(plan)}), "cpu").segmenter
    im = image((24,) * ndim)
    first = segmenter(bundle.networks, plan, batch=1).predict(im, maps=True)
    other = segmenter(bundle.networks, plan, batch=4).predict(im, maps=True)
    np.testing.assert_allclose(other.maps["classes"], first.maps["classes"], atol=1e-5)
    assert (other.labels.array != first.labels.array).mean() < 1e-3
    assert ladder(plan, torch.device("cpu"))[0].batch == 1


TURNS = [Turn((0, 1, 2), (0,)), Turn((2, 0, 1), (1,)), Turn((1, 2, 0), (0, 1, 2)), Turn((2, 1, 0), ())]


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("resample", [False, True])
def test_G5_a_turned_image_gives_the_turned_labels_bit_for_bit(turn, resample):
    plan = stub_plan(3, transpose=(1, 0, 2), scheme="zscore", resample=resample, spacing=(1.5, 0.8, 2.0))
    im = image((9, 14, 11), spacing=(2.0, 1.0, 1.2))
    model = segmenter(Context(), plan)
    straight, turned = model.predict(im, maps=True), model.predict(im.turned(turn), maps=True)
    np.testing.assert_array_equal(turned.labels.array, turn.apply(straight.labels.array))
    np.testing.assert_array_equal(turned.maps["classes"], turn.apply(straight.maps["classes"]))
    assert turned.labels.grid == im.turned(turn).grid
    assert len(np.unique(straight.labels.array)) > 1


@pytest.mark.parametrize("turn", [Turn((1, 0), (0,)), Turn((0, 1), (0, 1))])
def test_G5_objects_and_their_table_turn_with_the_image(turn):
    values = np.zeros((1, 20, 30), np.float32)
    for y, x, r in [(6, 6, 4), (12, 22, 6)]:
        yy, xx = np.mgrid[:20, :30]
        values[0] = np.maximum(values[0], np.clip(1 - np.hypot(yy - y, xx - x) / r, 0, 1))
    plan = stub_plan(2, instance=True)
    im = Image(values, Grid.regular((20, 30), 0.5, "mm"))
    model = segmenter(Discs(), plan)
    straight, turned = model.predict(im), model.predict(im.turned(turn))
    assert straight.labels.count == 2
    np.testing.assert_array_equal(turned.labels.array, turn.apply(straight.labels.array))
    for found in (straight, turned):
        for row, number in enumerate(found.objects["id"]):
            where = np.argwhere(found.labels.array == number)
            assert found.objects["area"][row] == len(where)
            np.testing.assert_allclose([found.objects[f"centroid_{a}"][row] for a in "yx"], where.mean(0))
            np.testing.assert_array_equal([found.objects[f"bbox_start_{a}"][row] for a in "yx"], where.min(0))
            np.testing.assert_array_equal([found.objects[f"bbox_stop_{a}"][row] for a in "yx"], where.max(0) + 1)


def test_G9_labels_stay_on_their_grid_and_do_not_shift_when_resampled():
    zz, yy, xx = np.mgrid[:30, :40, :36]
    ball = ((zz - 14) ** 2 / 0.25 + (yy - 21) ** 2 + (xx - 15) ** 2 <= 12**2).astype(np.float32)[None]
    affine = np.array([[0, 0.1, 0.9, 5], [0, 0.9, -0.1, 7], [2.0, 0, 0, -3], [0, 0, 0, 1]])
    affine[:3, :3] = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0) * [2.0, 1.0, 1.0]
    im = Image(ball, Grid((30, 40, 36), affine, "mm"))
    plan = stub_plan(3, patch=(16, 16, 16), resample=True, spacing=(1.3, 1.3, 1.3), values=(0, 4))
    found = segmenter(Bands(2), plan).predict(im)
    assert found.labels.grid == im.grid
    centre = np.argwhere(found.labels.array).mean(0)
    np.testing.assert_allclose(centre, np.argwhere(ball[0]).mean(0), atol=0.1)
    overlap = (found.labels.array & ball[0].astype(np.uint8)).sum() * 2 / (found.labels.array.sum() + ball.sum())
    assert overlap > 0.97


def test_V12_an_image_smaller_than_the_patch_is_padded_and_cropped_back():
    im = image((1, 3, 50))
    found = segmenter(Bands(), stub_plan(3, patch=(16, 16, 16))).predict(im)
    np.testing.assert_array_equal(found.labels.array, np.clip(np.rint(im.array[0]), 0, 2))


def test_a_2d_model_takes_a_stack_plane_by_plane():
    plan, im = stub_plan(2, step=(3, 5)), image((5, 20, 13))
    net = Context(2)
    whole = segmenter(net, plan, batch=7).predict(im, maps=True)
    for z in range(5):
        plane = Image(im.array[:, z], Grid.regular((20, 13), 1.0, "mm"))
        single = segmenter(net, plan).predict(plane, maps=True)
        np.testing.assert_allclose(whole.maps["classes"][:, z], single.maps["classes"], atol=1e-6)
        np.testing.assert_array_equal(whole.labels.array[z], single.labels.array)


def test_a_2d_model_of_stacks_takes_a_single_plane():
    plan, im = stub_plan(2, transpose=(0, 2, 1)), image((5, 20, 13))
    stack = segmenter(Context(2), plan).predict(im)
    plane = segmenter(Context(2), plan).predict(Image(im.array[:, 3], Grid.regular((20, 13), 1.0, "mm")))
    np.testing.assert_array_equal(plane.labels.array, stack.labels.array[3])


def test_objects_of_a_stack_get_ids_that_go_on_from_plane_to_plane():
    values = np.zeros((1, 3, 16, 16), np.float32)
    yy, xx = np.mgrid[:16, :16]
    for z, y, x in [(0, 5, 5), (0, 11, 11), (2, 8, 8)]:
        values[0, z] = np.maximum(values[0, z], np.clip(1 - np.hypot(yy - y, xx - x) / 4, 0, 1))
    found = segmenter(Discs(), stub_plan(2, instance=True)).predict(Image(values, Grid.regular((3, 16, 16))))
    assert found.objects["id"].tolist() == [1, 2, 3]
    assert [np.unique(p).tolist() for p in found.labels.array] == [[0, 1, 2], [0], [0, 3]]
    assert found.objects["bbox_start_z"].tolist() == [0, 0, 2]
    assert found.objects["centroid_z"].tolist() == [0.0, 0.0, 2.0]


def stack_of_discs(places, shape=(3, 16, 16)):
    values = np.zeros((1, *shape), np.float32)
    yy, xx = np.mgrid[:shape[1], :shape[2]]
    for z, y, x in places:
        values[0, z] = np.maximum(values[0, z], np.clip(1 - np.hypot(yy - y, xx - x) / 4, 0, 1))
    return Image(values, Grid.regular(shape))


def test_objects_of_neighbouring_planes_that_overlap_are_one():
    im = stack_of_discs([(0, 5, 5), (0, 11, 11), (1, 5, 6), (2, 5, 6), (2, 11, 4)])
    found = segmenter(Discs(), stub_plan(2, instance=True)).predict(im)
    assert found.labels.array[:, 5, 5].tolist() == [1, 1, 1]
    assert found.labels.array[:, 11, 11].tolist() == [2, 0, 0]
    assert found.labels.array[:, 11, 4].tolist() == [0, 0, 3]
    objects = {name: column.tolist() for name, column in found.objects.items()}
    assert (objects["id"], objects["bbox_start_z"], objects["bbox_stop_z"]) == ([1, 2, 3], [0, 0, 2], [3, 1, 3])
    assert objects["area"] == np.bincount(found.labels.array.ravel())[1:].tolist()
    inside = np.argwhere(found.labels.array == 1).mean(0)
    assert [objects[f"centroid_{a}"][0] for a in "zyx"] == pytest.approx(inside.tolist())
    assert any("plane by plane" in note for note in found.notes)


@pytest.mark.parametrize("block", [1 << 4, 1 << 9])
def test_X3_blocks_change_no_object_that_planes_share(monkeypatch, block):
    im = stack_of_discs([(z, 5 + z % 2, 5) for z in range(7)] + [(z, 11, 11) for z in (1, 2, 4)], (7, 16, 16))
    model = segmenter(Discs(), stub_plan(2, instance=True))
    whole = model.predict(im)
    monkeypatch.setitem(biosegkit.segmenter._BLOCK, "instance", block)
    cut = model.predict(im)
    assert whole.labels.count == 3
    np.testing.assert_array_equal(cut.labels.array, whole.labels.array)
    assert all(np.array_equal(cut.objects[name], column) for name, column in whole.objects.items())


def test_two_halves_of_one_object_do_not_both_continue_it():
    before, plane = np.array([[4] * 6]), np.array([[1, 1, 1, 2, 2, 2]])
    assert joined(before, plane, 4).tolist() == [0, 4, 5]  # the same IoU: the first
    assert joined(plane, np.array([[1] * 6]), 2).tolist() == [0, 1]
    assert joined(np.zeros((2, 2), int), np.zeros((2, 2), int), 3).tolist() == [0]


def test_mirroring_that_the_model_has_not_learnt_is_told():
    plan = stub_plan(2)
    rules = plan.training.augmentation.model_copy(update={"mirror_axes": ()})
    still = plan.model_copy(update={"training": plan.training.model_copy(update={"augmentation": rules})})
    assert any("without mirroring" in n for n in segmenter(Bands(), still).predict(image((9, 9)), tta=True).notes)
    assert not any("mirroring" in n for n in segmenter(Bands(), still).predict(image((9, 9))).notes)


@pytest.mark.parametrize("block", [1 << 6, 1 << 8, 1 << 22])
def test_X3_blocks_of_decoding_change_no_object(monkeypatch, block):
    rng = np.random.default_rng(3)
    yy, xx = np.mgrid[:40, :30]
    values = np.zeros((40, 30), np.float32)
    for y, x in rng.uniform(0, 1, (14, 2)) * (40, 30):
        values = np.maximum(values, np.clip(1 - np.hypot(yy - y, xx - x) / 5, 0, 1))
    im, model = Image(values[None], Grid.regular((40, 30))), segmenter(Discs(), stub_plan(2, instance=True))
    whole = model.predict(im)
    monkeypatch.setitem(biosegkit.segmenter._BLOCK, "instance", block)
    cut = model.predict(im)
    assert whole.labels.count > 5
    np.testing.assert_array_equal(cut.labels.array, whole.labels.array)
    for name, column in whole.objects.items():
        np.testing.assert_array_equal(cut.objects[name], column)


def test_the_crop_to_nonzero_is_taken_back():
    plan = stub_plan(3, crop=True, scheme="zscore")
    inner = image((9, 10, 11)).array + 1
    outer = np.zeros((1, 19, 20, 21), np.float32)
    outer[:, 4:13, 5:15, 2:13] = inner
    model = segmenter(Context(), plan)
    small = model.predict(Image(inner, Grid.regular((9, 10, 11), 1.0, "mm")))
    large = model.predict(Image(outer, Grid.regular((19, 20, 21), 1.0, "mm")))
    np.testing.assert_array_equal(large.labels.array[4:13, 5:15, 2:13], small.labels.array)
    assert large.labels.array.sum() == small.labels.array.sum() > 0


def test_folds_average_probabilities():
    class Fixed(Bands):
        def __init__(self, logits):
            super().__init__()
            self.logits = torch.tensor(logits)

        def forward(self, x):
            return {"classes": self.logits.reshape(1, -1, 1, 1).expand(len(x), -1, *x.shape[2:])}

    plan, im = stub_plan(2, values=(0, 1)), image((9, 9))
    maps = segmenter((Fixed([0.0, 9.0]), Fixed([1.0, 0.0])), plan).maps(im)["classes"]
    p, q = 1 / (1 + np.exp(-9.0)), 1 / (1 + np.e)
    np.testing.assert_allclose(maps[1], (p + q) / 2, atol=1e-6)


def test_regions_are_painted_in_their_order_with_the_values_of_the_user():
    class Nested(Bands):
        def forward(self, x):
            return {"regions": 20 * torch.cat([x[:, :1] - 0.5, x[:, :1] - 1.5], 1)}

    plan = stub_plan(2)
    labels = plan.labels.model_copy(update={"regions": (("whole", (1, 2)), ("core", (2,)))})
    im = image((11, 13))
    found = segmenter(Nested(), plan.model_copy(update={"labels": labels})).predict(im)
    np.testing.assert_array_equal(found.labels.restored(), np.select([im.array[0] > 1.5, im.array[0] > 0.5], [7, 3], 0))


def test_outside_the_nonzero_mask_the_network_sees_zeros():
    plan, seen = stub_plan(3, scheme="zscore"), []

    class Looking(Bands):
        def forward(self, x):
            seen.append(x.clone())
            return super().forward(x)

    masked = plan.preprocessing.model_copy(update={"use_nonzero_mask": True})
    im = image((8, 8, 8))
    im.array[0, :, :2] = 0
    segmenter(Looking(), plan.model_copy(update={"preprocessing": masked})).predict(im)
    inside = im.array[0, :, 2:].astype(np.float64)
    assert (seen[0][0, 0, :, :2] == 0).all()
    np.testing.assert_allclose(seen[0][0, 0, :, 2:], (inside - inside.mean()) / inside.std(), atol=1e-5)


@pytest.mark.parametrize("ndim", [2, 3])
def test_tta_averages_every_mirrored_copy(ndim):
    plan, net, im = stub_plan(ndim, mirror=(0, 1)), Context(ndim), image((8,) * ndim)
    found = segmenter(net, plan).predict(im, tta=True, maps=True).maps["classes"]
    with torch.inference_mode():
        copies = []
        for axes in ((), (1,), (2,), (1, 2)):
            flipped = torch.from_numpy(np.flip(im.array, axes).copy())[None]
            copies.append(np.flip(net(flipped)["classes"].softmax(1)[0].numpy(), axes))
    np.testing.assert_allclose(found, np.mean(copies, 0), atol=1e-6)


@pytest.mark.parametrize("turn", TURNS[1:3])
def test_maps_decoded_again_give_the_same_labels(turn):
    plan = stub_plan(3, scheme="zscore", transpose=(2, 0, 1))
    im, model = image((9, 12, 10)).turned(turn), segmenter(Context(), plan)
    found = model.predict(im, maps=True)
    again = model.decode(found.maps, {}, im.grid)
    np.testing.assert_array_equal(again.labels.array, found.labels.array)
    assert again.labels.grid == im.grid
    assert isinstance(model, MapPredictor)


def test_V4_a_constant_image_is_predicted_with_a_note():
    found = segmenter(Bands(), stub_plan(2, scheme="zscore")).predict(
        Image(np.full((1, 9, 9), 7.0, np.float32), Grid.regular((9, 9), 1.0, "mm")))
    assert found.labels.array.max() == 0
    assert any("constant" in n for n in found.notes)


@pytest.mark.parametrize(("im", "words"), [
    (image((9, 9, 9), channels=2), "2 channels"),
    (image((9, 9)), "2 spatial axes"),
])
def test_an_image_that_does_not_fit_the_plan_is_refused(im, words):
    with pytest.raises(DataError, match=words):
        segmenter(Bands(), stub_plan(3)).predict(im)


def test_G6_no_spacing_is_refused_where_the_plan_needs_one():
    with pytest.raises(DataError, match="spacing"):
        segmenter(Bands(), stub_plan(3, resample=True)).predict(image((9, 9, 9), unit="px"))


def test_micrometres_and_millimetres_are_the_same_length():
    plan = stub_plan(2, resample=True, spacing=(0.002, 0.002), patch=(16, 16))
    net = Bands()
    found = segmenter(net, plan).predict(image((30, 30), spacing=1.0, unit="um"))
    assert found.labels.array.shape == (30, 30)
    assert net.calls == 1
    assert not found.notes


def test_an_unknown_threshold_is_refused():
    with pytest.raises(OptionError, match="threshold"):
        segmenter(Bands(), stub_plan(3)).predict(image((9, 9, 9)), thresholds={"nonsense": 0.5})


class Threshold:
    """A predictor of another kind."""

    digest = "threshold-1"

    def predict(self, im):
        from biosegkit.image import Labels
        from biosegkit.predictor import Prediction

        return Prediction(Labels.from_values((im.array[0] > 1).astype(np.uint8), im.grid, "semantic"))


def test_predict_takes_any_predictor_but_not_every_option():
    assert isinstance(Threshold(), Predictor)
    assert predict(Threshold(), image((5, 5))).labels.count == 1
    for options in ({"tta": True}, {"maps": True}, {"thresholds": {"a": 1.0}}):
        with pytest.raises(OptionError):
            predict(Threshold(), image((5, 5)), **options)


@pytest.fixture
def folder(tmp_path):
    """Three images in two folders and two formats, and a bundle."""
    plan = stub_plan(2, scheme="zscore")
    write_bundle(tmp_path / "run/bundle", plan, {"0": fresh_weights(plan)})
    for name in ("a.tif", "sub/a.tif", "sub/b.png"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        im = image((20, 17), seed=len(name), top=255)
        write(Image(im.array.astype(np.uint8), Grid.regular((20, 17))), path)
    return tmp_path


def test_files_give_outputs_at_their_relative_path(folder):
    outcomes = predict_files(load(folder / "run", "cpu"), folder / "in", folder / "out")
    assert [o.state for o in outcomes] == ["done"] * 3
    assert {p.relative_to(folder / "out").as_posix() for p in (folder / "out").rglob("*.tif")} == {
        "a.tif", "sub/a.tif", "sub/b.tif"}
    labels = read_labels(folder / "out/sub/b.tif", "semantic")
    assert labels.array.shape == (20, 17)
    assert set(labels.values) <= {0, 3, 7}
    assert not (folder / "out/failures.csv").exists()


def test_a_table_and_a_dataset_folder_name_their_images(folder):
    (folder / "cases.csv").write_text("image,case\nin/a.tif,first\nin/sub/a.tif,x/second\n")
    (folder / "set/images").mkdir(parents=True)
    (folder / "set/labels").mkdir()
    (folder / "set/images/c.tif").write_bytes((folder / "in/a.tif").read_bytes())
    model = load(folder / "run", "cpu")
    table = predict_files(model, folder / "cases.csv", folder / "out1")
    assert [o.output for o in table] == [str(folder / "out1/first.tif"), str(folder / "out1/x/second.tif")]
    found = predict_files(model, [folder / "set"], folder / "out2")
    assert [o.output for o in found] == [str(folder / "out2/c.tif")]
    globbed = predict_files(model, str(folder / "in/sub/*.tif"), folder / "out3")
    assert [o.output for o in globbed] == [str(folder / "out3/a.tif")]


def test_instance_predictions_write_a_table_and_count(folder):
    values = np.zeros((1, 24, 24), np.float32)
    yy, xx = np.mgrid[:24, :24]
    for y, x in [(6, 6), (16, 17)]:
        values[0] = np.maximum(values[0], np.clip(1 - np.hypot(yy - y, xx - x) / 5, 0, 1))
    write(Image(values, Grid.regular((24, 24))), folder / "two.tif")
    model = segmenter(Discs(), stub_plan(2, instance=True))
    outcome, = predict_files(model, folder / "two.tif", folder / "out", save_maps=True)
    assert (outcome.state, outcome.objects) == ("done", 2)
    rows = list(csv.DictReader((folder / "out/two.csv").read_text().splitlines()))
    assert [row["id"] for row in rows] == ["1", "2"]
    assert float(rows[0]["centroid_y"]) == pytest.approx(6, abs=0.5)
    assert (folder / "out/two_distance.tif").exists()


def test_progress_is_told_after_every_file(folder):
    seen = []
    predict_files(load(folder / "run", "cpu"), folder / "in", folder / "out",
                  progress=lambda outcome, done, total: seen.append((outcome.state, done, total)))
    assert seen == [("done", 1, 3), ("done", 2, 3), ("done", 3, 3)]


def test_an_existing_output_is_refused_without_resume_or_overwrite(folder):
    (folder / "out").mkdir()
    (folder / "out/other.txt").write_text("mine")
    with pytest.raises(FileError, match="--resume or --overwrite"):
        predict_files(load(folder / "run", "cpu"), folder / "in", folder / "out")
    predict_files(load(folder / "run", "cpu"), folder / "in", folder / "out", overwrite=True)
    assert (folder / "out/other.txt").read_text() == "mine"


def test_X7_the_record_beside_an_output_says_what_made_it(folder):
    predict_files(load(folder / "run", "cpu"), folder / "in/a.tif", folder / "out", tta=True)
    record = json.loads((folder / "out/a.tif.json").read_text())
    assert {"biosegkit", "torch", "numpy"} <= set(record["versions"])
    assert record["device"].startswith("cpu")
    assert record["seed"] == 0
    assert record["options"]["tta"] is True
    assert len(record["made_from"]["input"]["a.tif"]) == 64
    assert len(record["made_from"]["model"]) == len(record["output"]) == 64
    assert str(folder) not in json.dumps(record)
