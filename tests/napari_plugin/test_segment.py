"""The widget Segment: what is checked before a run, what a run adds, and what a cancel leaves. Widgets offscreen."""

from __future__ import annotations

import gc
import threading
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from stub_models import Bands, image, segmenter, stub_plan

from biosegkit.errors import DataError, OptionError
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.prepared import refuse_unfit
from biosegkit.viewing import image_layers


class Waiting(Bands):
    """A network that waits at its first tile until it may go on."""

    def __init__(self):
        super().__init__()
        self.reached, self.go = threading.Event(), threading.Event()

    def forward(self, x):
        self.reached.set()
        self.go.wait(30)
        return super().forward(x)


def shown(viewer, picture, name="a"):
    from napari.layers import Layer

    return [viewer.add_layer(Layer.create(*found)) for found in image_layers(picture, name)]


def matrix_to_world(layer):
    from biosegkit_napari import layers

    return layers.matrix_to_world(layer)


def look_at(layer):
    from biosegkit_napari import layers

    return layers.look_at(layer)


@pytest.fixture
def segment(model, spin):
    """The widget with one model of our own, asked for by name."""
    from biosegkit_napari.segment import SegmentWidget
    from biosegkit_napari.shared import Row, hub_of

    made = []

    def make(predictor):
        hub = hub_of(model)
        hub.rows = [Row("runs/stub", "semantic")]
        hub.replace_loaded("runs/stub", predictor)
        made.append((SegmentWidget(model), hub))
        return made[-1][0]

    yield make
    for widget, _ in made:
        widget.deleteLater()


def write(field, text):
    """As somebody does: write, and press Enter."""
    field.setText(text)
    field.setModified(True)
    field.editingFinished.emit()


def ready(widget):
    return lambda: widget.run.isEnabled()


def ended(widget):
    return lambda: widget._task is None


def test_a_run_adds_the_labels_of_the_model_on_the_image(model, segment, spin):
    predictor, picture = segmenter(Bands(), stub_plan(3)), image((9, 12, 10), spacing=(2.0, 0.5, 0.5))
    widget = segment(predictor)
    assert not widget.run.isEnabled()
    assert "Open an image" in widget.said.text()
    layer, = shown(model, picture)
    spin(ready(widget))
    assert widget.said.text().startswith("9 × 12 × 10 voxels at 2 × 0.5 × 0.5 mm. 8 tiles, about")
    widget.start()
    assert not widget.run.isEnabled()
    assert widget.cancel.isEnabled()
    spin(ended(widget))
    labels = model.layers[-1]
    np.testing.assert_array_equal(labels.data, predictor.predict(picture).labels.restored())
    np.testing.assert_array_equal(labels.scale, layer.scale)
    assert [str(u) for u in labels.units] == [str(u) for u in layer.units]
    assert labels.name == "a stub"
    spin(ready(widget))
    assert widget.said.text().startswith("2 classes in"), "until something else is chosen"
    widget.region.setCurrentText("view")
    spin(ready(widget))
    assert "voxels" in widget.said.text()


def test_a_model_that_does_not_fit_says_why_and_cannot_be_run(model, segment, spin):
    widget = segment(segmenter(Bands(), stub_plan(3)))
    shown(model, image((12, 10)), "plane")
    spin(lambda: "use a 2D model" in widget.said.text())
    assert not widget.run.isEnabled()
    volume, = shown(model, image((8, 8, 8)), "volume")
    spin(ready(widget))
    assert widget.layer.layer is volume
    widget.region.setCurrentText("plane")
    assert not widget.run.isEnabled(), "until it was checked again"
    spin(lambda: "choose the whole image" in widget.said.text())
    assert not widget.run.isEnabled()
    widget.region.setCurrentText("rectangle")
    assert "draw one" in widget.said.text()


def test_a_size_that_is_set_is_asked_about_anew_and_the_remedy_is_that_of_the_viewer(model, segment, spin):
    widget = segment(segmenter(Bands(), stub_plan(2, resample=True, unit="um", spacing=(1.0, 1.0))))
    other = model.add_image(np.eye(12, 10, dtype=np.float32), name="other")
    layer = model.add_image(np.eye(12, 10, dtype=np.float32), name="cells", axis_labels=("y", "x"))
    spin(lambda: "no physical spacing" in widget.said.text())
    assert not widget.run.isEnabled()
    said = widget.said.text()
    assert "--" not in said
    assert said.endswith("write it in the row voxel size, such as 0.5 um")
    write(widget.size, "0.5, 0.5")
    assert "expected z, y, x and their unit" in widget.said.text()
    write(widget.size, "0.5 um")
    spin(ready(widget))
    assert widget.said.text().startswith("12 × 10 voxels at 0.5 × 0.5 um.")
    layer.scale = (0.25, 0.5)
    assert not widget.run.isEnabled(), "until it was checked again"
    spin(ready(widget))
    assert widget.said.text().startswith("12 × 10 voxels at 0.25 × 0.5 um.")
    layer.units = ("pixel", "pixel")
    spin(lambda: "no physical spacing" in widget.said.text())
    layer.units = ("um", "um")
    spin(ready(widget))
    other.scale = (3.0, 3.0)
    assert widget.run.isEnabled(), "another layer is not what was asked about"
    widget.layer.layer = other
    spin(lambda: "no physical spacing" in widget.said.text())
    said = widget.said.text()
    layer.scale = (2.0, 2.0)
    assert widget.said.text() == said, "the layer before is followed no more"
    other.units = ("um", "um")
    spin(ready(widget))


def test_a_size_is_given_to_what_lies_on_the_image_and_the_plane_stays(model, segment, spin):
    widget = segment(segmenter(Bands(), stub_plan(3, resample=True, unit="um", spacing=(2.0, 1.0, 1.0))))
    here, there = ({"biosegkit": {"source": name}} for name in ("a.tif", "b.tif"))
    stack = np.random.default_rng(0).random((9, 12, 10)).astype(np.float32)
    strange = model.add_image(stack, name="of another file", metadata=there)
    second = model.add_image(stack, name="another channel", metadata=here)
    part = model.add_labels(np.ones((2, 5, 4), np.uint8), translate=(3, 6, 2), name="labels of a part")
    image = model.add_image(stack, name="stack", metadata=here)
    model.dims.set_point(0, 6)
    widget.layer.layer = image
    spin(lambda: "voxel size" in widget.said.text())
    assert widget.size.placeholderText() == "not known"
    write(widget.size, "0.5 um")
    assert "expected z, y, x and their unit" in widget.said.text()
    write(widget.size, "1.75, 0.8, 0.4 µm")
    spin(ready(widget))
    assert widget.said.text().startswith("9 × 12 × 10 voxels at 1.75 × 0.8 × 0.4 um.")
    assert widget.size.placeholderText() == "1.75, 0.8, 0.4 um"
    assert model.dims.point[0] == pytest.approx(6 * 1.75)
    for layer in (image, second, part):
        assert tuple(layer.scale) == (1.75, 0.8, 0.4), layer.name
        assert {str(unit) for unit in layer.units} == {"micrometer"}
    np.testing.assert_allclose(part.translate, (3 * 1.75, 6 * 0.8, 2 * 0.4))
    assert tuple(strange.scale) == (1, 1, 1)
    late = model.add_labels(np.ones(stack.shape, np.uint8), name="of a file that does not say it, opened later")
    other = model.add_labels(np.ones((9, 12, 11), np.uint8), name="of something else")
    widget.layer.layer = image
    write(widget.size, "1.75, 0.8, 0.4 µm")
    assert (tuple(late.scale), tuple(other.scale)) == ((1.75, 0.8, 0.4), (1, 1, 1))
    assert {str(unit) for unit in late.units} == {"micrometer"}


def test_a_layer_that_was_followed_is_freed_when_it_is_deleted(model, segment, spin):
    widget = segment(segmenter(Bands(), stub_plan(2)))
    layer = weakref.ref(model.add_image(np.eye(12, 10, dtype=np.float32), name="cells"))
    model.add_image(np.eye(12, 10, dtype=np.float32), name="active")  # napari keeps the layer that was active last
    widget.layer.layer = layer()
    spin(ready(widget))
    model.layers.remove("cells")
    assert widget.layer.layer is model.layers["active"]
    spin(lambda: gc.collect() >= 0 and layer() is None)


@pytest.mark.parametrize(("axes", "unit", "plan", "wanted"), [
    ("tzyx", "pixel", stub_plan(3, resample=True, unit="um"),
     "write it in the row voxel size, such as 2, 0.5, 0.5 um"),
    ("yx", "um", stub_plan(2, resample=True, unit="px"),
     "write 1 px in the row voxel size, as this model knows pixels only"),
    ("yx", "pixel", stub_plan(3), "use a 2D model, or choose what the axes are"),
    ("yx", "pixel", stub_plan(2, channels=2), "and all are given)"),
])
def test_every_refusal_of_a_plan_has_a_remedy_for_the_viewer(napari, axes, unit, plan, wanted):
    from biosegkit_napari.layers import look_at, stand_in
    from biosegkit_napari.remedies import in_viewer
    from napari.layers import Image as Layer

    layer = Layer(np.zeros((2, 3, 4, 5)[-len(axes):], np.uint8), name="a b", axis_labels=tuple(axes),
                  units=tuple("pixel" if axis == "t" else unit for axis in axes))
    with pytest.raises(DataError) as caught:
        refuse_unfit(stand_in(look_at(layer)), plan)
    said = in_viewer(caught.value, layer, unit=plan.preprocessing.unit)
    assert said.endswith(wanted)
    assert "--" not in said
    assert said.startswith(str(caught.value).removesuffix(caught.value.remedy)), "what was found and expected stays"


def test_a_cancel_adds_nothing_and_the_widget_can_be_used_again(model, segment, spin):
    network = Waiting()
    widget = segment(segmenter(network, stub_plan(3)))
    shown(model, image((20, 20, 20)))
    spin(ready(widget))
    widget.start()
    spin(network.reached.is_set)
    widget.stop()
    network.go.set()
    spin(ended(widget))
    assert network.calls == 1
    assert len(model.layers) == 1
    spin(ready(widget))
    assert widget.said.text() == "cancelled: nothing was added"
    widget.region.setCurrentText("view")
    widget.region.setCurrentText("whole")
    spin(ready(widget))


def test_a_layer_that_is_deleted_meanwhile_does_no_harm(model, segment, spin):
    network, picture = Waiting(), image((8, 8, 8))
    widget = segment(segmenter(network, stub_plan(3)))
    shown(model, picture)
    spin(ready(widget))
    widget.start()
    spin(network.reached.is_set)
    model.layers.clear()
    network.go.set()
    spin(ended(widget))
    assert [layer.name for layer in model.layers] == ["a stub"]


def test_a_rectangle_is_segmented_where_it_was_drawn(model, segment, spin):
    from napari.settings import get_settings

    predictor, picture = segmenter(Bands(), stub_plan(2)), image((30, 40), spacing=0.5, unit="um")
    widget = segment(predictor)
    shown(model, picture)
    get_settings().experimental.triangulation_backend = "pure_python"  # the other one compiles for half a minute
    model.add_shapes([np.array([[5.0, 6.0], [5.0, 12.0], [9.0, 12.0], [9.0, 6.0]])], shape_type="rectangle")
    widget.region.setCurrentText("rectangle")
    spin(ready(widget))
    assert widget.said.text().startswith("9 × 13 voxels")
    widget.start()
    spin(ended(widget))
    labels = model.layers[-1]
    window = (slice(10, 19), slice(12, 25))
    grid = picture.grid.window((10, 12), (9, 13))
    alone = predictor.predict(Image(picture.array[(slice(None), *window)], grid)).labels.restored()
    np.testing.assert_array_equal(labels.data, alone)
    np.testing.assert_allclose(labels.translate, (5.0, 6.0))


def test_the_plane_of_a_volume_that_is_shown_is_given_to_a_model_of_planes(model, segment, spin):
    predictor, picture = segmenter(Bands(), stub_plan(2)), image((5, 12, 10), spacing=(3.0, 1.0, 1.0))
    widget = segment(predictor)
    shown(model, picture)
    widget.region.setCurrentText("plane")
    model.dims.set_point(0, 6.0)
    spin(ready(widget))
    assert widget.said.text().startswith("1 × 12 × 10 voxels")
    widget.start()
    spin(ended(widget))
    labels = model.layers[-1]
    np.testing.assert_array_equal(labels.data[0], predictor.predict(picture).labels.restored()[2])
    np.testing.assert_allclose(labels.translate, (6.0, 0, 0))


def test_a_pyramid_is_looked_at_in_the_voxels_of_the_model(model, segment, spin):
    fine = np.random.default_rng(0).random((64, 64), np.float32) * 3
    coarse = fine.reshape(32, 2, 32, 2).mean((1, 3))
    widget = segment(segmenter(Bands(), stub_plan(2, resample=True, unit="um", spacing=(1.0, 1.0))))
    model.add_image([fine, coarse], multiscale=True, scale=(0.5, 0.5), units=("um", "um"), axis_labels=("y", "x"),
                    name="slide")
    spin(ready(widget))
    assert widget.said.text().startswith("32 × 32 voxels at 1 × 1 um, resolution 2 of 2, that of the model.")
    widget.start()
    spin(ended(widget))
    labels = model.layers[-1]
    assert labels.data.shape == (32, 32)
    np.testing.assert_allclose(labels.scale, (1.0, 1.0))
    np.testing.assert_allclose(labels.translate, (0.25, 0.25), err_msg="the centre of its first pixel")


def test_a_model_without_pixel_size_gets_the_resolution_in_sight(model, segment, spin):
    fine = np.random.default_rng(0).random((64, 48), np.float32) * 3
    predictor = segmenter(Bands(), stub_plan(2))
    widget = segment(predictor)
    layer = model.add_image([fine, fine[::2, ::2], fine[::4, ::4]], multiscale=True, name="slide")
    spin(ready(widget))
    assert widget.said.text().startswith("64 × 48 voxels, resolution 1 of 3, the finest.")
    layer.data_level, layer.corner_pixels = 2, np.array([[4, 2], [7, 10]])
    widget.region.setCurrentText("view")
    spin(ready(widget))
    assert widget.said.text().startswith("4 × 9 voxels, resolution 3 of 3, the one in sight: zoom in for a finer one.")
    widget.start()
    spin(ended(widget))
    labels, seen = model.layers[-1], fine[::4, ::4][4:8, 2:11]
    wanted = predictor.predict(Image(seen[None], Grid.regular(seen.shape))).labels.restored()
    np.testing.assert_array_equal(labels.data, wanted)
    np.testing.assert_allclose(labels.scale, (4.0, 4.0))
    layer.data_level, layer.corner_pixels = 1, np.array([[0, 0], [9, 9]])
    model.camera.zoom *= 2
    spin(lambda: widget.said.text().startswith("10 × 10 voxels, resolution 2 of 3"))


def test_colours_and_time_points_reach_the_model(model, segment, spin):
    plan = stub_plan(2, channels=3)
    widget = segment(segmenter(Bands(), plan))
    film = np.random.default_rng(0).integers(0, 4, (2, 12, 10, 3), dtype=np.uint8)
    model.add_image(film, rgb=True, axis_labels=("t", "y", "x"), name="film")
    model.dims.set_point(0, 1)
    spin(ready(widget))
    widget.start()
    spin(ended(widget))
    rgb = Image(np.moveaxis(film[1], -1, 0), Grid.regular((12, 10)), ("red", "green", "blue"))
    np.testing.assert_array_equal(model.layers[-1].data[1], segmenter(Bands(), plan).predict(rgb).labels.restored())
    assert not model.layers[-1].data[0].any()


def test_colours_for_a_model_of_one_channel_are_refused_before_a_run(model, segment, spin):
    predictor = segmenter(Bands(), stub_plan(2))
    widget = segment(predictor)
    grey = np.repeat(np.random.default_rng(0).integers(0, 4, (12, 10, 1), dtype=np.uint8), 3, axis=2)
    pink = grey.copy()
    pink[11, 9, 2] ^= 1  # one voxel of one channel
    model.add_image(grey, rgb=True, name="grey")
    spin(ready(widget))
    widget.start()
    spin(ended(widget))
    wanted = predictor.predict(Image(grey[None, ..., 0], Grid.regular((12, 10)))).labels.restored()
    np.testing.assert_array_equal(model.layers[-1].data, wanted)
    model.layers.clear()
    model.add_image(pink, rgb=True, name="pink")
    spin(lambda: "Split RGB" in widget.said.text())
    assert not widget.run.isEnabled()
    with pytest.raises(DataError, match="3 channels"):
        predictor.predict(Image(np.moveaxis(pink, -1, 0), Grid.regular((12, 10))))


def test_a_volume_is_offered_of_what_has_planes(model, segment, spin):
    widget = segment(segmenter(Bands(), stub_plan(2)))
    flat = model.add_image(np.eye(9, dtype=np.float32), name="flat")
    spin(ready(widget))
    assert not widget.volume.isEnabled()
    model.add_image(np.random.default_rng(0).random((5, 9, 9)), name="deep")
    assert widget.volume.isEnabled()
    widget.toggle_volume()
    widget.layer.layer = flat
    assert widget.volume.isEnabled(), "the way back"


def test_planes_are_shown_as_before_the_volume_but_for_what_was_chosen_in_it(model, segment, spin):
    widget, rng = segment(segmenter(Bands(), stub_plan(2))), np.random.default_rng(0)
    channels = [model.add_image(rng.random((5, 9, 9)), name=name, blending="additive") for name in "ab"]
    labels = model.add_labels(np.ones((5, 9, 9), np.uint8), opacity=0.4)
    for back in (widget.toggle_volume, lambda: setattr(model.dims, "ndisplay", 2)):  # its own button, and napari's
        widget.toggle_volume()
        assert [one.blending for one in channels] == ["translucent_no_depth"] * 2
        assert labels.opacity == 0.7
        channels[1].blending = "opaque"
        back()
        assert [one.blending for one in channels] == ["additive", "opaque"]
        assert labels.opacity == 0.4
        channels[1].blending = "additive"


def test_layers_that_are_selected_together_are_asked_about_as_channels(model, segment, spin):
    plan = stub_plan(2, channels=2)
    widget, rng = segment(segmenter(Bands(), plan)), np.random.default_rng(0)
    layers = [model.add_image(rng.integers(0, 4, (12, 10)).astype(np.float32), name=name) for name in "ab"]
    spin(lambda: "channel" in widget.said.text())
    assert not widget.run.isEnabled()
    model.layers.selection = set(layers)  # as Control and a click do it: none is active then
    spin(ready(widget))
    widget.start()
    spin(ended(widget))
    both = Image(np.stack([one.data for one in layers]), Grid.regular((12, 10)))
    np.testing.assert_array_equal(model.layers[-1].data, segmenter(Bands(), plan).predict(both).labels.restored())


def test_an_oblique_image_says_the_size_of_its_voxels_and_takes_another(model, segment, spin):
    """Turned by 30° about z, 3 mm planes: half the pixels are asked for, labels of a part stay on the same voxels."""
    widget = segment(segmenter(Bands(), stub_plan(3)))
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    turn = np.array([[1, 0, 0, 5], [0, c, -s, 7], [0, s, c, -3], [0, 0, 0, 1.0]])
    affine = turn @ np.diag([3, 0.8, 0.8, 1])
    start = np.eye(4)
    start[:3, 3] = 1, 2, 3
    stack = np.random.default_rng(0).random((6, 12, 10)).astype(np.float32)
    layer = model.add_image(stack, affine=affine, units="mm")
    part = model.add_labels(np.ones((2, 5, 4), np.uint8), affine=affine @ start, units="mm")
    widget.layer.layer = layer
    assert widget.size.placeholderText() == "3, 0.8, 0.8 mm"
    write(widget.size, "3, 0.4, 0.4 mm")
    assert widget.size.placeholderText() == "3, 0.4, 0.4 mm"
    wanted = turn @ np.diag([3, 0.4, 0.4, 1])
    np.testing.assert_allclose(matrix_to_world(layer), wanted, atol=1e-12)
    np.testing.assert_allclose(matrix_to_world(part), wanted @ start, atol=1e-12)
    np.testing.assert_allclose(look_at(layer).grid.spacing, (3, 0.4, 0.4))


def test_other_data_in_the_same_layer_are_checked_anew(model, segment, spin):
    widget = segment(segmenter(Bands(), stub_plan(2)))
    layer = model.add_image(np.random.default_rng(0).random((40, 30)).astype(np.float32), name="a")
    spin(ready(widget))
    assert widget.said.text().startswith("40 × 30 voxels")
    layer.data = np.random.default_rng(1).random((20, 50)).astype(np.float32)
    spin(lambda: widget.said.text().startswith("20 × 50 voxels"))
    layer.data = np.full((20, 50), np.nan, np.float32)
    spin(lambda: "no finite number" in widget.said.text())
    assert not widget.run.isEnabled()


def test_options_of_a_model_are_given_in_a_row(model, spin):
    from biosegkit_napari.segment import SegmentWidget

    import biosegkit as bsk

    widget = SegmentWidget(model)
    stripe = np.random.default_rng(0).integers(0, 255, (3, 40, 50), np.uint8)
    model.add_image(stripe, axis_labels=("c", "y", "x"), name="two channels")
    spin(lambda: widget.model.box.findData("otsu") >= 0)
    widget.model.model = "otsu"
    spin(ready(widget))
    for text, said in (("sigmas=2", "option 'sigmas' of otsu"), ("sigma", "the option 'sigma'; expected name=value"),
                       ("sigma=none", "option sigma=none of otsu")):
        write(widget.options, text)
        spin(lambda said=said: said in widget.said.text())
        assert not widget.run.isEnabled()
        assert "--" not in widget.said.text()
    write(widget.options, "sigma=2.5 channel=1")
    spin(ready(widget))
    widget.start()
    spin(ended(widget))
    image = Image(stripe, Grid.regular((40, 50)))
    wanted = bsk.load_model("otsu", options={"sigma": 2.5, "channel": 1}).predict(image).labels.restored()
    np.testing.assert_array_equal(model.layers[-1].data, wanted)
    assert "option channel=N chooses another (in the row options)" in widget.said.text()
    widget.deleteLater()


def test_a_view_is_what_the_canvas_shows_of_the_finest_level(model):
    from biosegkit_napari.layers import look_at
    from biosegkit_napari.region import region_of

    fine = np.zeros((64, 48), np.uint8)
    layer = model.add_image([fine, fine[::4, ::4]], multiscale=True, name="slide")
    layer.data_level = 1
    layer.corner_pixels = np.array([[4, 2], [7, 20]])
    assert region_of("view", model, layer, look_at(layer)) == ((slice(16, 32), slice(8, 48)), None)
    layer.corner_pixels = np.array([[90, 2], [99, 5]])
    with pytest.raises(OptionError, match="nothing of slide"):
        region_of("view", model, layer, look_at(layer))


def test_what_cannot_be_held_is_refused_before_it_is_read(model, segment, spin):
    import dask.array

    widget = segment(segmenter(Bands(), stub_plan(3)))

    def never(block):
        raise AssertionError("it was read")

    huge = dask.array.zeros((100_000, 20_000, 20_000), chunks=2000, dtype=np.float32)
    huge = huge.map_blocks(never, dtype=np.float32)
    model.add_image(huge, name="huge", contrast_limits=(0, 1), visible=False)
    spin(lambda: "choose this view" in widget.said.text())
    assert not widget.run.isEnabled()


def test_V1_an_image_of_nan_alone_cannot_be_run_and_one_value_alone_is_told(model, segment, spin):
    widget = segment(segmenter(Bands(), stub_plan(2)))
    layer = model.add_image(np.full((40, 30), np.nan, np.float32), contrast_limits=(0, 1), name="blank")
    spin(lambda: "no finite number" in widget.said.text())
    assert widget.said.text().startswith("blank: found no finite number (NaN or infinity alone) in this part")
    assert not widget.run.isEnabled()
    data = np.full((40, 30), 7.0, np.float32)
    data[3, 4] = np.nan
    layer.data = data
    widget.region.setCurrentText("view")
    widget.region.setCurrentText("whole")
    spin(ready(widget))
    assert "There is one value alone (7): nothing can be told apart there." in widget.said.text()
    data[39, 29] = 8
    widget.region.setCurrentText("view")
    widget.region.setCurrentText("whole")
    spin(ready(widget))
    assert "alone" not in widget.said.text()
    layer.data = np.full((40, 30), np.nan, np.float32)  # after the check, as a script may do
    widget.start()
    spin(ended(widget))
    assert len(model.layers) == 1


@pytest.mark.parametrize("lazy", [False, True])
def test_the_parts_of_an_image_are_looked_through_until_two_values_are_found(monkeypatch, lazy):
    """Against all values of the part, read at once."""
    import dask.array
    from biosegkit_napari import contrasts
    from biosegkit_napari.layers import snapshot
    from napari.layers import Image as Layer

    monkeypatch.setattr(contrasts, "_PIECE", 7)
    rng = np.random.default_rng(0)
    for _ in range(60):
        shape = tuple(rng.integers(1, 7, rng.integers(2, 4)))
        data = rng.choice([3.0, 3.0, 3.0, np.nan, 5.0], shape, p=[0.4, 0.3, 0.2, 0.08, 0.02])
        data = np.full(shape, np.nan) if rng.random() < 0.2 else data
        window = tuple(slice(int(a := rng.integers(0, n)), int(rng.integers(a, n)) + 1) for n in shape)
        layer = snapshot(Layer(dask.array.from_array(data, chunks=2) if lazy else data, contrast_limits=(0, 9)))
        values = np.unique(data[window][np.isfinite(data[window])])
        wanted = [contrasts.EMPTY, f"one value alone ({values[0]:g})" if len(values) else "", ""][min(2, len(values))]
        assert contrasts.contrasts(layer, None, 0, 0, window) == [wanted]


def test_of_what_is_read_from_a_file_not_all_is_read_to_find_nothing(monkeypatch):
    import dask.array
    from biosegkit_napari import contrasts
    from biosegkit_napari.layers import snapshot
    from napari.layers import Image as Layer

    reads = []

    def black(block):
        reads.append(block.shape)
        return block

    monkeypatch.setattr(contrasts, "_MOST", 4 * contrasts._PIECE)
    huge = dask.array.zeros((1 << 15, 1 << 15), chunks=(1 << 5, 1 << 15), dtype=np.uint8)
    huge = huge.map_blocks(black, dtype=np.uint8)
    layer = snapshot(Layer(huge, contrast_limits=(0, 1), visible=False))
    reads.clear()
    assert contrasts.contrasts(layer, None, 0, 0, (slice(0, 1 << 15),) * 2) == [""]
    assert len(reads) <= 6


@pytest.mark.parametrize("side", [64, 1000, 3000])
def test_no_chunk_of_a_stored_image_is_read_twice_to_look_through_it(side):
    """A row of a plane lies in many chunks, all of which would be read for it, and again for the next."""
    import dask.array
    from biosegkit_napari import contrasts
    from biosegkit_napari.layers import snapshot
    from napari.layers import Image as Layer

    reads = []

    def black(block, block_info=None):
        reads.append(tuple(block_info[0]["chunk-location"]))
        return block

    image = dask.array.zeros((3000, 3000), chunks=side, dtype=np.uint8).map_blocks(black, dtype=np.uint8)
    layer = snapshot(Layer(image, contrast_limits=(0, 1), visible=False))
    reads.clear()
    window = (slice(100, 2950), slice(70, 3000))
    assert contrasts.contrasts(layer, None, 0, 0, window) == ["one value alone (0)"]
    inside = {tuple(n) for n in np.argwhere(np.ones([-(-3000 // side)] * 2))
              if all((k + 1) * side > w.start and k * side < w.stop for k, w in zip(n, window, strict=True))}
    assert sorted(reads) == sorted(inside)


def test_a_file_that_is_read_slowly_is_not_waited_for(monkeypatch):
    import dask.array
    from biosegkit_napari import contrasts
    from biosegkit_napari.layers import snapshot
    from napari.layers import Image as Layer

    passed = iter(np.arange(0, 1000, 2.0))
    monkeypatch.setattr(contrasts, "time", SimpleNamespace(monotonic=lambda: next(passed)))
    reads = []
    image = dask.array.zeros((4096, 4096), chunks=1024, dtype=np.uint8)
    image = image.map_blocks(lambda block: reads.append(1) or block, dtype=np.uint8, meta=np.zeros((0, 0), np.uint8))
    layer = snapshot(Layer(image, contrast_limits=(0, 1), visible=False))
    reads.clear()
    assert contrasts.contrasts(layer, None, 0, 0, (slice(0, 4096),) * 2) == [""]
    assert len(reads) == 2  # 2 s, then 4 s


def test_a_model_that_was_loaded_is_had_even_if_another_thread_loads_one_at_once(application, monkeypatch):
    from biosegkit_napari.shared import Hub

    class Shared(Hub):
        """One in which the other thread is always the later."""

        _loaded = property(lambda self: {}, lambda self, value: None)

    monkeypatch.setattr("biosegkit.engines.load_model", lambda name, options: (name, options))
    assert Shared().loaded("a", (("diameter", 30),)) == ("a", {"diameter": 30})
