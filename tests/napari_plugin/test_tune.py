"""The widget Tune: sliders decode again without the network, newest first, and can be saved. Widgets offscreen."""

from __future__ import annotations

import numpy as np
import pytest
from stub_models import Bands, Discs, fresh_weights, segmenter, stub_plan

from biosegkit.bundle import load, write_bundle
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.live import live
from biosegkit.tiling import Forward


def picture():
    y, x = np.mgrid[:60, :60]
    value = np.maximum(0, 1 - np.hypot((y % 20) - 10, (x % 20) - 10) / 9) * np.linspace(0.3, 1, 60)[:, None]
    return Image(value[None].astype(np.float32), Grid.regular((60, 60)), source="discs")


@pytest.fixture
def tune(model, application):
    """The widget, and a function that adds a result."""
    from biosegkit_napari.segment import add_result
    from biosegkit_napari.shared import Result, hub_of
    from biosegkit_napari.tune import TuneWidget
    from biosegkit_napari.wishes import outcome_of

    hub = hub_of(model)
    widget = TuneWidget(model)

    def add(predictor, name="discs"):
        layer = add_result(model, hub, outcome_of(Result(live(predictor, picture()), predictor, name), name, 0.0))
        application.processEvents()  # its sliders come when it has been drawn
        return layer

    yield widget, add
    widget.deleteLater()


def test_sliders_decode_without_the_network(tune, spin, monkeypatch):
    widget, add = tune
    predictor = segmenter(Discs(), stub_plan(2, instance=True))
    assert "run Segment first" in widget.said.text()
    layer = add(predictor)
    assert [row.name for row in widget.rows] == list(predictor.method.tunables)
    assert widget.layer.layer is layer
    wanted = predictor.predict(picture(), thresholds={"seed": 0.7})
    before = len(predictor.predict(picture()).objects["id"])
    monkeypatch.setattr(Forward, "__call__", lambda *_: pytest.fail("the network was run"))
    row = next(row for row in widget.rows if row.name == "seed")
    row.number.setValue(0.7)
    spin(lambda: not widget._decoding.busy)
    np.testing.assert_array_equal(layer.data, wanted.labels.restored())
    np.testing.assert_array_equal(layer.features["index"], wanted.objects["id"])
    assert widget.said.text() == f"{len(wanted.objects['id'])} objects"
    assert len(wanted.objects["id"]) < before
    widget.back_to_trained()
    spin(lambda: not widget._decoding.busy)
    assert len(layer.features) == before


def test_of_classes_their_shares_are_told_after_a_move(model, application, spin):
    from biosegkit_napari.segment import add_result
    from biosegkit_napari.shared import Result, hub_of
    from biosegkit_napari.tune import TuneWidget
    from biosegkit_napari.wishes import outcome_of

    widget, predictor = TuneWidget(model), segmenter(Bands(), stub_plan(2))
    rng = np.random.default_rng(0)
    image = Image(rng.normal(1, 0.6, (1, 24, 20)).astype(np.float32), Grid.regular((24, 20)))
    layer = add_result(model, hub_of(model), outcome_of(Result(live(predictor, image), predictor, "b"), "b", 0.0))
    application.processEvents()
    row, = widget.rows
    for value in (row.scale.low, row.scale.high):
        row.number.setValue(value)
        spin(lambda: not widget._decoding.busy)
        wanted = ", ".join(f"class {k}: {100 * (layer.data == k).mean():.3g} %" for k in (3, 7))
        assert widget.said.text() == wanted
    assert (layer.data == 0).any()
    widget.deleteLater()


def test_a_storm_of_moves_ends_at_the_last(tune, spin):
    widget, add = tune
    predictor = segmenter(Discs(), stub_plan(2, instance=True))
    layer = add(predictor)
    row = widget.rows[0]
    for position in range(20, 180, 3):
        row.slider.setValue(position)
    spin(lambda: not widget._decoding.busy)
    np.testing.assert_array_equal(
        layer.data, predictor.predict(picture(), thresholds={row.name: row.value}).labels.restored())


@pytest.mark.parametrize("by", ["brush", "Correct"])
def test_what_was_edited_by_hand_is_never_decoded_over(tune, model, spin, by):
    from biosegkit_napari.correct import CorrectWidget

    widget, add = tune
    predictor = segmenter(Discs(), stub_plan(2, instance=True))
    layer = add(predictor)
    correct = CorrectWidget(model)
    spin(lambda: correct.session is not None and correct._task is None)
    number = int(layer.data.max())
    if by == "brush":
        layer.selected_label = number
        layer.paint((0, 0), number)
    else:
        correct.session.pick(number)
        correct.act("delete")
        spin(lambda: correct._task is None)
    edited = layer.data.copy()
    row = next(row for row in widget.rows if row.name == "seed")
    for value in (0.7, 0.6):
        row.number.setValue(value)
        spin(lambda: not widget._decoding.busy)
    np.testing.assert_array_equal(layer.data, edited)
    new = widget.layer.layer
    assert (new.name, layer.visible, len(model.layers)) == ("discs tuned", False, 2)
    np.testing.assert_array_equal(new.data, predictor.predict(picture(), thresholds={"seed": 0.6}).labels.restored())
    assert row.number.value() == 0.6
    correct.close()


def test_a_storm_of_moves_after_an_edit_ends_at_the_last_beside_it(tune, model, spin):
    widget, add = tune
    predictor = segmenter(Discs(), stub_plan(2, instance=True))
    layer = add(predictor)
    layer.selected_label = int(layer.data.max())
    layer.paint((0, 0), layer.selected_label)
    edited = layer.data.copy()
    row = widget.rows[0]
    for position in range(20, 180, 3):
        row.slider.setValue(position)
    spin(lambda: not widget._decoding.busy)
    np.testing.assert_array_equal(layer.data, edited)
    assert [one.name for one in model.layers] == ["discs", "discs tuned"]
    np.testing.assert_array_equal(
        model.layers[1].data, predictor.predict(picture(), thresholds={row.name: row.value}).labels.restored())


def test_correct_begins_anew_with_labels_that_were_tuned(tune, model, spin):
    from biosegkit_napari.correct import CorrectWidget

    widget, add = tune
    layer = add(segmenter(Discs(), stub_plan(2, instance=True)))
    correct = CorrectWidget(model)
    spin(lambda: correct.session is not None and correct._task is None)
    next(row for row in widget.rows if row.name == "seed").number.setValue(0.7)
    spin(lambda: not widget._decoding.busy and correct.session is not None and correct._task is None)
    assert len(model.layers) == 1
    number = int(layer.data.max())
    assert correct.session.canvas.ids() == np.unique(layer.data)[1:].tolist()
    correct.session.pick(number)
    correct.act("delete")
    spin(lambda: correct._task is None)
    assert number not in layer.data
    correct.close()


def test_a_layer_deleted_while_it_is_decoded_is_left_alone(tune, model, spin):
    widget, add = tune
    layer = add(segmenter(Discs(), stub_plan(2, instance=True)))
    widget.rows[0].slider.setValue(10)
    model.layers.remove(layer)
    spin(lambda: not widget._decoding.busy)
    assert not widget.rows
    assert not widget.save.isEnabled()


def test_thresholds_are_saved_to_the_model(tune, spin, tmp_path):
    widget, add = tune
    plan = stub_plan(2, instance=True, scheme="zscore")
    write_bundle(tmp_path / "m", plan, {"0": fresh_weights(plan)}, thresholds={"foreground": 0.6})
    add(load(tmp_path / "m", "cpu"), str(tmp_path / "m"))
    row = next(row for row in widget.rows if row.name == "foreground")
    assert row.value == 0.6
    row.number.setValue(0.25)
    widget.save_to_model()
    spin(lambda: widget._task is None)
    assert load(tmp_path / "m", "cpu").thresholds["foreground"] == 0.25
    assert widget.hub.loaded(str(tmp_path / "m")).thresholds["foreground"] == 0.25
    widget.back_to_trained()
    assert row.value == 0.6
    add(widget.hub.loaded(str(tmp_path / "m")), str(tmp_path / "m"))  # another result of it
    for k, value in enumerate((0.3, 0.35, 0.6)):
        widget.layer.layer = list(widget.hub.results)[k % 2]
        next(row for row in widget.rows if row.name == "foreground").number.setValue(value)
        widget.save_to_model()
        spin(lambda: widget._task is None)
        assert load(tmp_path / "m", "cpu").thresholds["foreground"] == value, "as often as one likes"


def test_a_model_without_thresholds_says_so(tune):
    from biosegkit.engines import load_model

    widget, add = tune
    add(load_model("otsu"), "otsu")
    assert "no thresholds" in widget.said.text()
    assert not widget.reset.isEnabled()
