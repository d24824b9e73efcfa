"""Retrain: a case is added, a training in another process is begun, followed, left, found again, stopped and judged."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from small_sets import discs, tiny_plan, write_instances
from waiting import PATIENCE

from biosegkit import runs
from biosegkit.curate import provenance
from biosegkit.errors import OptionError
from biosegkit.io import read, read_labels


@pytest.fixture
def make(model, spin):
    """Widgets, closed as a user closes them; models are looked for in no folder."""
    from biosegkit_napari.retrain import RetrainWidget
    from biosegkit_napari.shared import hub_of

    made, hub = [], hub_of(model)

    def one(folder):
        hub.folder = folder
        made.append(RetrainWidget(model))
        spin(lambda: not made[-1].runs.looks.busy)
        return made[-1]

    yield one
    for widget in made:
        widget.close()
        widget.deleteLater()


def test_classes_stay_classes_for_the_next_image_of_a_data_set(model, make, spin, tmp_path):
    from biosegkit_napari._reader import read_layers

    from biosegkit.grid import Grid
    from biosegkit.image import Image, Labels
    from biosegkit.io import write

    def opened(name):
        grid, rng = Grid.regular((12, 12), 0.5, "um"), np.random.default_rng(0)
        write(Image(rng.integers(0, 99, (1, 12, 12), np.uint8), grid), tmp_path / f"{name}.tif")
        write(Labels.from_values(rng.integers(0, 3, (12, 12)), grid, "semantic"), tmp_path / f"{name}_labels.tif")
        model.layers.clear()
        for data, settings, kind in read_layers([str(tmp_path / f"{name}.tif"), str(tmp_path / f"{name}_labels.tif")]):
            getattr(model, f"add_{kind}")(data, **settings)

    opened("a")
    widget = make(tmp_path)
    widget.dataset.setText(str(tmp_path / "set"))
    widget.dataset.editingFinished.emit()
    assert widget.kind.currentText() == "objects", "which a file does not say"
    widget.kind.setCurrentText("classes")
    opened("b")
    assert widget.kind.currentText() == "classes", "the choice stays"
    widget.start_adding()
    spin(lambda: widget._task is None)
    again = make(tmp_path)
    again.dataset.setText(str(tmp_path / "set"))
    again.dataset.editingFinished.emit()
    assert again.kind.currentText() == "classes", "as the data set has them"
    model.add_labels(np.zeros((12, 12), np.uint8), metadata={"task": "instance"}, name="found")
    assert again.kind.currentText() == "objects", "as the layer says"


def test_an_image_is_added_with_labels_and_provenance(model, make, spin, tmp_path):
    image, labels = discs((24, 24))
    model.add_image(image, name="well A 1", scale=(0.5, 0.5), units="um")
    layer = model.add_labels(labels, name="fixed", scale=(0.5, 0.5), units="um",
                             metadata={"model": "runs/old", "corrections": [{"operation": "merge", "ids": [1, 2]}]})
    widget = make(tmp_path)
    assert widget.name.text() == "well_A_1"
    assert not any(button.isEnabled() for button in (widget.stop, widget.again, widget.judge)), "no training yet"
    widget.dataset.setText(str(tmp_path / "set"))
    for _ in range(2):
        widget.start_adding()
        spin(lambda: widget._task is None)
    assert "a case 'well_A_1' already" in widget.said.text()
    widget.replace.setChecked(True)
    layer.data = np.where(labels == 1, 0, labels)
    widget.start_adding()
    spin(lambda: widget._task is None)
    assert widget.said.text().startswith("added well_A_1: 1 image in")
    assert 1 not in read_labels(tmp_path / "set/labels/well_A_1.tif", "instance").restored()
    kept = provenance(tmp_path / "set")["well_A_1"]
    assert (kept["image"], kept["labels"], kept["model"]) == (["well A 1"], "fixed", "runs/old")
    assert kept["corrections"] == [{"operation": "merge", "ids": [1, 2]}]
    assert widget.out.text() == str(tmp_path / "set_run")
    layer.data, layer.translate = labels[8:20, 4:], (4.0, 2.0)
    widget.start_adding()
    spin(lambda: widget._task is None)
    assert read(tmp_path / "set/images/well_A_1.tif").array.tolist() == [image[8:20, 4:].tolist()], "the part of them"
    model.layers.clear()
    widget.start_adding()
    assert "Choose an image" in widget.said.text()


@pytest.mark.parametrize("value", [np.nan, 3.0])
def test_V1_V4_an_image_without_contrast_is_not_added_silently(model, make, spin, tmp_path, value):
    _, labels = discs((24, 24))
    model.add_image(np.full((24, 24), value, np.float32), name="blank", contrast_limits=(0, 1))
    model.add_labels(labels, name="fixed")
    widget = make(tmp_path)
    widget.dataset.setText(str(tmp_path / "set"))
    widget.start_adding()
    spin(lambda: widget._task is None)
    if np.isnan(value):
        assert "576 NaN or infinite voxels" in widget.said.text()
        assert not (tmp_path / "set").exists()
    else:
        assert widget.said.text().startswith("added blank: 1 image in")
        assert "(every voxel 3.0): check the export" in widget.said.text()


def test_a_name_and_the_wish_to_replace_are_of_one_image(model, make, spin, tmp_path):
    """Image a is in the data set; b is chosen after its labels: it neither gets the name of a nor replaces it."""
    layers = {}
    for name, seed in (("a", 1), ("b", 2)):
        image, labels = discs((24, 24), seed=seed)
        layers[name] = model.add_image(image, name=name), model.add_labels(labels, name=f"{name} labels")
    widget = make(tmp_path)
    widget.dataset.setText(str(tmp_path / "set"))
    widget.image.layer, widget.layer.layer = layers["a"]
    widget.name.setText("first")
    widget.name.setModified(True)
    widget.replace.setChecked(True)
    for _ in range(2):
        widget.start_adding()
        spin(lambda: widget._task is None)
    widget.layer.layer = layers["b"][1]
    assert (widget.name.text(), widget.replace.isChecked()) == ("first", True), "other labels of the same image"
    widget.image.layer = layers["b"][0]
    assert (widget.name.text(), widget.replace.isChecked()) == ("b", False)
    widget.start_adding()
    spin(lambda: widget._task is None)
    assert {name: kept["image"] for name, kept in provenance(tmp_path / "set").items()} == {"first": ["a"], "b": ["b"]}


def test_a_run_that_ended_unseen_elsewhere_is_listed_when_it_is_attached_to(model, make, spin, tmp_path, monkeypatch):
    """Begun with no model, so that there is nothing to compare it with; a record that cannot be read hides no other."""
    from biosegkit_napari.shared import hub_of

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "far" / "run"
    write_instances(tmp_path / "far" / "set", shape=(24, 24))
    tiny_plan(steps=2).write(tmp_path / "plan.json")
    run = runs.start_training(tmp_path / "far/set", out, {"plan": str(tmp_path / "plan.json"), "steps": 2})
    spin(lambda: not run.running(), PATIENCE)
    (tmp_path / "far/broken.process.json").write_text("{")
    (tmp_path / "here").mkdir()
    widget, hub = make(tmp_path / "here"), hub_of(model)
    spin(lambda: bool(hub.rows))
    assert not hub.lists(str(out))
    widget.dataset.setText(str(tmp_path / "far/set"))
    widget.dataset.editingFinished.emit()
    spin(lambda: widget.look is not None and widget.look.state.name == "finished")
    spin(lambda: hub.lists(str(out)))
    assert any(widget.start.itemData(k) == str(out) for k in range(widget.start.count()))


def test_options_and_folders(tmp_path):
    from biosegkit_napari.trainings import begun, free_folder, options_of

    assert options_of("2h", "old", "semantic") == {"budget": "2h", "task": "semantic", "from": "old"}
    with pytest.raises(OptionError):
        options_of("soon", "", "instance")
    with pytest.raises(OptionError, match="the data set"):
        begun(str(tmp_path / "none"), str(tmp_path / "run"), {})
    (tmp_path / "set_run").mkdir()
    assert free_folder(str(tmp_path / "set")) == str(tmp_path / "set_run2")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT for another process")
def test_a_training_is_followed_left_found_again_and_stopped(make, spin, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_instances(tmp_path / "set", shape=(24, 24))
    tiny_plan(steps=4).write(tmp_path / "plan.json")
    widget = make(tmp_path)
    widget._on_begun(runs.start_training(tmp_path / "set", tmp_path / "run", {
        "plan": str(tmp_path / "plan.json"), "steps": 4000}))
    try:
        spin(lambda: widget.curve.points.loss.get("0"), PATIENCE)
        widget.close()
        again = make(tmp_path)
        spin(lambda: again.look is not None and again.curve.points.loss.get("0"))
        assert again.handle.out == tmp_path / "run"
        assert again.standing.text().startswith("running: ")
        assert again.stop.isEnabled()
        assert not again.again.isEnabled()
        again.stop_training()
        spin(lambda: again._task is None, PATIENCE)
        spin(lambda: again.look.state.name == "stopped")
        assert again.again.isEnabled()
        assert not again.runs.timer.isActive()
        assert "step" in again.standing.text()
        begun = again.handle.pid
        again.resume_training()
        spin(lambda: again._task is None and again.look is not None and again.look.state.name == "running")
        assert again.handle.pid != begun
        assert again.runs.timer.isActive()
        assert again.curve.points.loss["0"], "the curve is that of the run, from its beginning"
    finally:
        runs.attach(tmp_path / "run").stop()


def test_a_training_that_had_too_little_time_begins_again_with_the_time_that_is_written(make, spin, tmp_path,
                                                                                         monkeypatch):
    (tmp_path / "run.process.json").write_text(json.dumps({
        "schema_version": 1, "dataset": str(tmp_path / "set"), "options": {"budget": "30s"}, "pid": 2**22 + 7,
        "born": 0.0, "said_before": 0, "cwd": str(tmp_path)}))
    (tmp_path / "run.log").write_text(
        "error\n  found    --budget 30s\n  expected at least 50s here: a step takes 2s\n"
        "  remedy   give --budget 50s or more, and --overwrite\n")
    widget = make(tmp_path)
    spin(lambda: widget.look is not None)
    assert widget.budget.text() == "50s"
    failed, what_now = widget.standing.text().split("\n")
    assert failed.endswith("give a time of 50s or more"), "in the words of the rows"
    assert "Resume begins again with it" in what_now
    assert widget.again.isEnabled()
    asked = []
    monkeypatch.setattr(runs, "resume", lambda *given: asked.append(given) or runs.attach(tmp_path / "run"))
    widget.budget.setText("2m")
    said = []
    monkeypatch.setattr(widget.standing, "setText", said.append)
    widget.again.click()
    spin(lambda: said)
    assert asked == [(tmp_path / "run", "2m")]
    assert said[0] == "looking at it…", "nothing is shown of the failure any more"
    spin(lambda: widget._task is None)


def test_what_a_training_has_brought_is_scored_and_shown_in_the_list(model, make, spin, tmp_path, monkeypatch):
    """The new run is the old one with true labels as its predictions of what was held back: its AP is 1."""
    from biosegkit_napari.shared import hub_of

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_instances(tmp_path / "set", shape=(24, 24))
    tiny_plan(steps=2).write(tmp_path / "plan.json")
    # in its own process, as always: torch's optimizers load LLVM, which crashes beside that of a software display
    old = runs.start_training(tmp_path / "set", tmp_path / "old", {"plan": str(tmp_path / "plan.json"), "steps": 2})
    spin(lambda: not old.running(), PATIENCE)
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    for path in (tmp_path / "new").glob("fold-0/validation/*.tif"):
        shutil.copy(tmp_path / "set/labels" / path.name, path)
    (tmp_path / "old.process.json").unlink()
    (tmp_path / "new.process.json").write_text(json.dumps({
        "schema_version": 1, "dataset": "set", "options": {"from": "old"}, "pid": 2**22 + 7, "born": 0.0,
        "said_before": 0, "cwd": str(tmp_path)}))
    held = json.loads((tmp_path / "old/scores.json").read_text())["cases"][0]["case"]
    (tmp_path / "set/provenance.json").write_text(json.dumps({
        "schema_version": 1, "cases": {held: {"model": "runs/old"}, "another": {"model": "old"}}}))
    widget = make(tmp_path)
    spin(lambda: widget.look is not None)
    assert widget.standing.text().startswith("finished: ap@0.50")
    assert widget.said.text().startswith("scoring the model before"), "by itself: nobody has seen its end before"
    spin(lambda: widget._task is None, PATIENCE)
    spin(lambda: widget.look.judged and any(row.gain for row in hub_of(model).rows))
    found = json.loads((tmp_path / "new/improvement.json").read_text())
    scores = json.loads((tmp_path / "old/scores.json").read_text())
    assert found["cases"] == len(scores["cases"]) > 0
    for name, value in scores["headline"].items():
        assert found["before"][name] == pytest.approx(value, nan_ok=True), "as it was scored when it was trained"
    assert found["after"]["ap@0.50"] == 1.0
    note, = found["notes"]
    assert note.startswith("the labels of 1 of these images began as results of the model before")
    gain = f"ap@0.50 {scores['headline']['ap@0.50']:.3f} → 1.000"
    assert [Path(row.model).name for row in hub_of(model).rows if row.gain == gain] == ["new"]
    assert any(gain in widget.start.itemText(i) for i in range(widget.start.count()))
    assert "1.000 after" in widget.standing.text()
    shutil.rmtree(tmp_path / "old")
    widget.start_judging()
    spin(lambda: widget._task is None, PATIENCE)
    assert "old" in widget.said.text()


def test_the_curve_lies_where_its_numbers_are(application):
    from biosegkit_napari.curve import Curve
    from biosegkit_napari.points import Points

    curve = Curve()
    curve.resize(212, 124)
    rows = [{"fold": "0", "step": s, "total": 100, "loss": 1.0} for s in (0, 50, 100)]
    curve.add(Points.of([*rows, {"fold": "0", "step": 100, "total": 100, "validation": {"dice": 0.5}}]))
    curve.add(Points.of([{"fold": "0", "step": 50, "total": 100, "loss": 0.5}]))  # resumed at an earlier step
    assert curve.points.loss["0"] == {0: 1.0, 50: 0.5}
    image = curve.grab().toImage()
    ratio = image.width() / 212
    orange = [(x, y) for x in range(image.width()) for y in range(image.height())
              if image.pixelColor(x, y).red() > 200 and image.pixelColor(x, y).blue() < 60]
    left, right = min(orange), max(orange)
    assert left[0] / ratio == pytest.approx(6, abs=4)
    assert right[0] / ratio == pytest.approx(6 + 200 / 2, abs=5)
    assert right[1] / ratio == pytest.approx(6 + 100 / 2, abs=5)


def test_points_that_come_in_pieces_are_those_of_all_rows_one_by_one():
    """Against a plain replay: a step that is told makes the later ones of its series forgotten."""
    from biosegkit_napari.points import Points

    rng = np.random.default_rng(0)
    for _ in range(200):
        rows, step = [], 0
        for _ in range(rng.integers(1, 40)):
            step = max(0, step + int(rng.integers(-15, 12) if rng.random() < 0.2 else rng.integers(0, 10)))
            rows.append({"fold": str(rng.integers(0, 2)), "step": step, "total": 99, "loss": float(rng.random())})
            if rng.random() < 0.3:
                rows.append({"fold": "0", "step": step, "total": 99, "validation": {"dice": float(rng.random())}})
        wanted = {"loss": {}, "dice": {}}
        for row in rows:
            name, value = ("loss", row["loss"]) if "loss" in row else ("dice", row["validation"]["dice"])
            series = wanted[name].setdefault(row["fold"], {})
            wanted[name][row["fold"]] = {s: v for s, v in series.items() if s < row["step"]} | {row["step"]: value}
        points, rest = Points(), rows
        while rest:
            n = int(rng.integers(1, 12))
            points.join(Points.of(rest[:n]))
            rest = rest[n:]
        assert (points.loss, points.dice) == (wanted["loss"], wanted["dice"])
        assert all(list(series) == sorted(series) for series in points.loss.values())


def test_a_line_of_many_points_keeps_what_is_highest_and_lowest_anywhere():
    from biosegkit_napari.points import Points

    values = 1 + np.random.default_rng(0).random(30_000)
    values[[12_345, 23_456]] = 9.0, 0.25
    (_, line), = Points.of({"step": s, "loss": v} for s, v in enumerate(values.tolist())).lines()
    assert len(line) <= 514
    assert (12_345 / 29_999, 1.0) in line
    assert (23_456 / 29_999, 0.25 / 9) in line
    assert line[0] == (0.0, values[0] / 9)
    assert line[-1] == (1.0, values[-1] / 9)
    assert [x for x, _ in line] == sorted(x for x, _ in line)
