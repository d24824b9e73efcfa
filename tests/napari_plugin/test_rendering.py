"""What a person sees: pixels of a shown viewer, and a viewer that goes on answering while a model runs."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from scipy import ndimage
from stub_models import Discs, segmenter, stub_plan
from waiting import PATIENCE, Queue

from biosegkit.grid import Grid
from biosegkit.image import Image

pytestmark = pytest.mark.gui
HERE = "biosegkit"


def discs(shape=(200, 240)):
    y, x = np.mgrid[: shape[0], : shape[1]]
    value = np.maximum(0, 1 - np.hypot(y % 40 - 20, x % 40 - 20) / 15)
    return Image(value[None].astype(np.float32), Grid.regular(shape, 0.5, "um"), source="discs")


def beats(application, until, seconds=PATIENCE):
    """The longest time between two turns of the application's loop until something is true.

    What threads of this process waited for a core is taken from it: that is up to whatever else runs on the machine.
    """
    from qtpy.QtCore import QTimer

    at, queue = [time.perf_counter()], Queue()
    pauses = [0.0]

    def beat():
        at.append(time.perf_counter())
        pauses.append(at[-1] - at[-2] - queue.since())

    timer = QTimer()
    timer.setInterval(2)
    timer.timeout.connect(beat)
    timer.start()
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "it did not happen in time"
        application.processEvents()
        time.sleep(0.001)
    timer.stop()
    beat()
    return max(pauses)


@pytest.mark.parametrize("computing", [False, True])
def test_a_pause_of_the_loop_is_seen_by_its_beats(application, computing):
    def pause():
        end = time.perf_counter() + 0.3
        while computing and time.thread_time() < began + 0.3:
            pass
        time.sleep(0.0 if computing else end - time.perf_counter())
        return True

    began = time.thread_time()
    assert 0.25 < beats(application, pause) < 0.6


def test_the_loop_in_a_window_from_image_to_tuned_labels(make_viewer, application, spin):
    from biosegkit_napari.shared import Row, hub_of

    from biosegkit.viewing import image_layers

    viewer = make_viewer()
    hub = hub_of(viewer)
    hub.rows = [Row("stub")]
    hub.replace_loaded("stub", segmenter(Discs(), stub_plan(2, instance=True, patch=(64, 64))))
    segment = viewer.window.add_plugin_dock_widget(HERE, "Segment")[1]
    tune = viewer.window.add_plugin_dock_widget(HERE, "Tune")[1]
    assert segment.hub is tune.hub is hub
    (data, settings, _), = image_layers(discs(), "discs")
    viewer.add_labels(np.zeros((4, 4), np.uint8), visible=False)  # the first one costs napari itself half a second
    viewer.add_image(data, **settings)
    spin(segment.run.isEnabled)
    viewer.reset_view()
    before = viewer.screenshot(canvas_only=True, flash=False).astype(int)
    assert before[..., :3].std() > 5, "the canvas is not blank"
    segment.start()
    longest = beats(application, lambda: segment._task is None)
    assert longest < 0.5
    labels = viewer.layers[-1]
    application.processEvents()
    after = viewer.screenshot(canvas_only=True, flash=False).astype(int)
    changed = np.abs(after - before)[..., :3].max(-1) > 20
    rows, columns = np.nonzero(changed)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1  # objects reach over the whole image, evenly
    assert height / width == pytest.approx(200 / 240, abs=0.05)
    share = changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].mean()
    objects = np.nonzero(labels.data)
    box = labels.data[objects[0].min() : objects[0].max() + 1, objects[1].min() : objects[1].max() + 1]
    assert share == pytest.approx((box > 0).mean(), abs=0.06)
    for slider in tune.rows[0].slider, tune.rows[1].slider:
        for position in range(40, 160, 8):
            slider.setValue(position)
            application.processEvents()
    assert beats(application, lambda: not tune._decoding.busy) < 0.5
    again = viewer.screenshot(canvas_only=True, flash=False).astype(int)
    assert (np.abs(again - after)[..., :3].max(-1) > 20).any(), "the tuned labels are shown"


@pytest.mark.parametrize("kind", ["array", "chunks of several resolutions", "colours", "volume"])
def test_the_view_is_what_is_seen_after_zooming_in_too(make_viewer, application, spin, kind):
    """Beside where napari itself says that the corners of the canvas are."""
    import dask.array
    from biosegkit_napari.layers import look_at
    from biosegkit_napari.region import region_of

    viewer, shape = make_viewer(), (3,) * (kind == "volume") + (3000, 2000) + (3,) * (kind == "colours")
    values = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    if kind == "chunks of several resolutions":
        levels = [dask.array.from_array(one, chunks=512) for one in (values, values[::4, ::4])]
        layer = viewer.add_image(levels, multiscale=True, scale=(0.5, 0.5))
    else:
        layer = viewer.add_image(values, scale=(0.5,) * (3 if kind == "volume" else 2), rgb=kind == "colours")
    canvas = viewer.window._qt_viewer.canvas
    for zoom in (1.0, 12.0, 4.0):  # canvas pixels per unit: half of that per voxel
        viewer.camera.center, viewer.camera.zoom = (0, 700, 510), zoom
        end = time.monotonic() + 0.5
        spin(lambda end=end: time.monotonic() > end)
        seen = canvas._viewbox_corners_in_world[:, -2:] / 0.5
        window, _ = region_of("view", viewer, layer, look_at(layer))
        assert window[:-2] == (slice(0, 3),) * (kind == "volume")
        for axis, n in ((-2, 3000), (-1, 2000)):
            wanted = np.clip(np.sort(seen[:, axis]), 0, n)
            assert np.abs(wanted - (window[axis].start, window[axis].stop)).max() <= 2, (zoom, axis)
            assert zoom == 1.0 or window[axis].stop - window[axis].start < n / 4


def test_a_volume_shows_image_and_labels_together(make_viewer, application):
    from biosegkit_napari.segment import SegmentWidget

    viewer = make_viewer()
    inside = ndimage.distance_transform_edt(np.pad(np.ones((16, 22, 22)), 6)) > 4
    viewer.add_image(ndimage.gaussian_filter(inside * 200.0, 2), name="volume")
    labels = viewer.add_labels((inside & (np.arange(34)[None, None] > 17)).astype(np.uint8), name="labels")
    widget = SegmentWidget(viewer)
    viewer.window.add_dock_widget(widget)
    widget.toggle_volume()
    assert viewer.dims.ndisplay == 3
    application.processEvents()
    both = viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)
    labels.visible = False
    application.processEvents()
    image_alone = viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)
    coloured = np.ptp(both, -1) > 30
    assert image_alone.max() > 60, "the image is seen"
    assert np.ptp(image_alone, -1).max() < 10, "and is grey"
    assert coloured.mean() > 0.005, "the labels are seen in it"
    assert (both[~coloured].max(-1) > 40).any(), "and the image beside them"
    widget.toggle_volume()
    assert viewer.dims.ndisplay == 2


def test_the_record_of_a_training_of_days_is_shown_without_a_pause(make_viewer, application, spin, tmp_path,
                                                                   monkeypatch):
    """Three hundred thousand steps, of which every tenth has a row, of a run that is looked at for the first time."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run/fold-0").mkdir(parents=True)
    rows = (json.dumps({"step": 10 * s, "total": 300_000, "loss": 2.0 - 6e-5 * s}) for s in range(30_000))
    (tmp_path / "run/fold-0/metrics.jsonl").write_text("".join(f"{row}\n" for row in rows))
    viewer = make_viewer()
    widget = viewer.window.add_plugin_dock_widget(HERE, "Retrain")[1]
    spin(lambda: not widget.runs.looks.busy)
    (tmp_path / "run.process.json").write_text(json.dumps({
        "schema_version": 1, "dataset": "set", "options": {}, "pid": 2**22 + 7, "born": 0.0, "said_before": 0,
        "cwd": str(tmp_path)}))
    widget.attach(str(tmp_path / "run"))
    before = time.thread_time()
    spin(lambda: len(widget.curve.points.loss.get("0", ())) == 30_000, PATIENCE)
    application.processEvents()
    assert time.thread_time() - before < 0.5, "of this thread's own time, in all"


def test_the_curve_of_a_training_is_seen_in_the_window(make_viewer, application, spin, tmp_path, monkeypatch):
    """Loss falls from the upper left to the lower right, Dice rises; where they are follows from the numbers."""
    monkeypatch.chdir(tmp_path)
    fold = tmp_path / "run/fold-0"
    fold.mkdir(parents=True)
    rows = [{"step": s, "total": 100, "loss": 2.0 - 0.015 * s} | ({"validation": {"dice": s / 125}} if s else {})
            for s in range(0, 101, 2)]
    (fold / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "run.process.json").write_text(json.dumps({
        "schema_version": 1, "dataset": "set", "options": {}, "pid": 2**22 + 7, "born": 0.0, "said_before": 0,
        "cwd": str(tmp_path)}))
    viewer = make_viewer()
    viewer.window.resize(1000, 1000)
    widget = viewer.window.add_plugin_dock_widget(HERE, "Retrain")[1]
    spin(lambda: widget.look is not None and len(widget.curve.points.loss.get("0", ())) == 51)
    application.processEvents()
    shot = viewer.screenshot(canvas_only=False, flash=False)[..., :3].astype(int)
    place = widget.curve.mapTo(viewer.window._qt_window, widget.curve.rect().topLeft())
    ratio = shot.shape[1] / viewer.window._qt_window.width()
    left, top = (round(ratio * value) for value in (place.x(), place.y()))
    width, height = (round(ratio * value) for value in (widget.curve.width(), widget.curve.height()))
    seen = shot[top : top + height, left : left + width]
    inside = slice(round(ratio * 9), width - round(ratio * 9))  # within the frame
    for colour, start, end in (((230, 159, 0), 1.0, 0.25), ((86, 180, 233), 0.016, 0.8)):
        rows, columns = np.nonzero(np.abs(seen - colour).max(-1) < 60)
        here = [np.median(rows[columns == column]) for column in range(inside.start, inside.stop) if
                (columns == column).any()]
        assert len(here) > 0.95 * (inside.stop - inside.start), "one line from side to side"
        frame = height - 24 * ratio
        drawn = [1 - (row - 6 * ratio) / frame for row in (here[0], here[-1])]
        assert drawn == pytest.approx([start, end], abs=0.06)
