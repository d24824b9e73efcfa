"""Whatever can be clicked, dragged, chosen or written into says what it does when the pointer rests on it."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from stub_models import Discs, segmenter, stub_plan

from biosegkit.grid import Grid
from biosegkit.image import Image

MANIFEST = yaml.safe_load((Path(__file__).resolve().parents[2] / "napari_plugin/napari.yaml").read_text("utf-8"))
COMMANDS = {one["id"]: one["python_name"] for one in MANIFEST["contributions"]["commands"]}
WIDGETS = [COMMANDS[one["command"]] for one in MANIFEST["contributions"]["widgets"]]


def tip_of(control, widget):
    """What Qt shows: that of the control, else that of what it lies in."""
    while control is not widget:
        if control.toolTip():
            return control.toolTip()
        control = control.parentWidget()
    return ""


@pytest.fixture
def opened(model, application, spin):
    """Every widget of the manifest, with a result in the viewer so that Tune has its sliders."""
    from biosegkit_napari.segment import add_result
    from biosegkit_napari.shared import Result, Row, hub_of
    from biosegkit_napari.wishes import outcome_of

    from biosegkit.live import live

    hub, predictor = hub_of(model), segmenter(Discs(), stub_plan(2, instance=True))
    hub.rows = [Row("otsu")]
    made = {name: getattr(importlib.import_module(name.partition(":")[0]), name.partition(":")[2])(model)
            for name in WIDGETS}
    image = Image(np.random.default_rng(0).random((1, 40, 40), np.float32), Grid.regular((40, 40)))
    add_result(model, hub, outcome_of(Result(live(predictor, image), predictor, "discs"), "discs", 0.0))
    application.processEvents()
    yield made
    for widget in made.values():
        spin(lambda widget=widget: getattr(widget, "_task", None) is None)
        widget.close()
        widget.deleteLater()


def test_every_control_has_a_tooltip(opened):
    from qtpy import QtWidgets as qt

    kinds = (qt.QAbstractButton, qt.QComboBox, qt.QLineEdit, qt.QAbstractSpinBox, qt.QAbstractSlider,
             qt.QAbstractItemView, qt.QTabWidget, qt.QProgressBar)
    met = set()
    for name, widget in opened.items():
        own = [control for control in widget.findChildren(qt.QWidget) if isinstance(control, kinds)]
        controls = [control for control in own if not control.objectName().startswith("qt_")]
        assert len(controls) > 5, name
        bare = [f"{type(one).__name__} {getattr(one, 'text', str)()!r}" for one in controls
                if len(tip_of(one, widget)) < 8]
        assert bare == [], name
        met |= {kind.__name__ for kind in kinds for one in controls if isinstance(one, kind)}
    assert met == {kind.__name__ for kind in kinds}, "all kinds of controls were looked at"


def test_what_is_said_of_results_and_troubles_has_a_tooltip(opened):
    from qtpy.QtWidgets import QLabel

    for name, widget in opened.items():
        said = [label for label in widget.findChildren(QLabel) if label.wordWrap()]
        assert said, name
        assert all(label.toolTip() for label in said), name
