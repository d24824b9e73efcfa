"""From an image to labels on its own grid: turned, resampled, cropped, padded, masked, or refused."""

import numpy as np
import pytest
import torch
from stub_models import Bands, Context, Discs, image, method_of, segmenter, stub_plan

import biosegkit.segmenter
from biosegkit.errors import DataError, OptionError
from biosegkit.grid import Grid, Turn
from biosegkit.image import Image
from biosegkit.methods import METHODS
from biosegkit.predictor import MapPredictor

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


class _Loud(torch.nn.Module):
    """Finds something everywhere, whatever it is shown."""

    def __init__(self, method, ndim):
        super().__init__()
        self.heads = method.heads(ndim)

    def forward(self, x):
        shape = (len(x), 1, *x.shape[2:])
        return {h.name: torch.cat([torch.full(shape, float(3 + k)) for k in range(h.channels)], 1) for h in self.heads}


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_V4_a_constant_image_is_background_whatever_the_network_says(name, ndim):
    plan = stub_plan(ndim, scheme="zscore", instance=name != "semantic").model_copy(update={"method": name})
    model = segmenter(_Loud(method_of(plan), ndim), plan)
    shape = (9, 12, 10)[:ndim]
    found = model.predict(Image(np.full((1, *shape), 7.0, np.float32), Grid.regular(shape, 1.0, "mm")), maps=True)
    assert found.labels.array.shape == shape
    assert not found.labels.array.any()
    assert "nothing to see in any channel: all is background" in found.notes
    if name == "semantic":
        np.testing.assert_allclose(found.maps["classes"][0], 1, atol=1e-6)
        loud = model.predict(image(shape))
        assert loud.labels.array.all()
        assert not any("nothing to see" in n for n in loud.notes)


def test_V4_planes_of_a_stack_and_regions_of_a_constant_image_are_background_too():
    plan = stub_plan(2, scheme="zscore")
    found = segmenter(_Loud(method_of(plan), 2), plan).predict(
        Image(np.full((1, 3, 9, 9), 7.0, np.float32), Grid.regular((3, 9, 9), 1.0, "mm")))
    assert found.labels.array.shape == (3, 9, 9)
    assert not found.labels.array.any()
    two = stub_plan(2, scheme="zscore", channels=2)
    values = np.stack([np.full((9, 9), 7.0), np.random.default_rng(0).random((9, 9))]).astype(np.float32)
    assert segmenter(_Loud(method_of(two), 2), two).predict(Image(values, Grid.regular((9, 9), 1.0, "mm"))
                                                            ).labels.array.all()  # there is something in one channel


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
