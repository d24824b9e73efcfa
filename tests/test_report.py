"""The report: read back as HTML, against the files of a run folder written by hand."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from biosegkit_samples import generate
from PIL import Image as Pillow

from biosegkit._atomic import write_json
from biosegkit.cases import scan
from biosegkit.charts import bar_chart, loss_chart, read_metrics, smoothed, validation_chart
from biosegkit.errors import FileError, Problem
from biosegkit.evaluate import evaluate
from biosegkit.fingerprint import measure
from biosegkit.grid import Grid
from biosegkit.image import Labels
from biosegkit.overlay import Overlay
from biosegkit.plan.schema import (
    Architecture,
    Budget,
    Channel,
    Configuration,
    Decision,
    LabelTable,
    Plan,
    Preprocessing,
    Training,
)
from biosegkit.report import write_report


class Page(HTMLParser):
    """Text and tags of a page, and whether every tag is closed."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, path):
        super().__init__()
        self.text, self.open, self.images, self.links = [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.words = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        attributes = dict(attrs)
        if tag == "img":
            self.images.append(attributes["src"])
        self.links += [v for k, v in attrs if k in ("href", "src", "srcset", "action") and not v.startswith("data:")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)


def a_plan():
    architecture = Architecture(features=(8, 16), kernels=((3, 3, 3),) * 2, strides=((1, 1, 1), (2, 2, 2)),
                                encoder_blocks=(2, 2), decoder_blocks=(2,))
    return Plan(
        name="phantom <trial>", preset="default",
        labels=LabelTable(task="semantic", names=("background", "nucleus", "arch"), values=(0, 1, 2)),
        preprocessing=Preprocessing(channels=(Channel(name="T1", scheme="zscore"),), transpose=(0, 1, 2), unit="mm"),
        configuration=Configuration(name="3d_fullres", ndim=3, spacing=(1, 1, 1), median_shape=(36, 40, 32),
                                    patch=(32, 40, 32), batch=2, tile_step=(16, 20, 16), architecture=architecture),
        method="semantic", training=Training(steps=300), budget=Budget(seconds=60, device="cpu"),
        decisions=(Decision(name="patch", value="32 × 40 × 32", reason="median shape & memory"),),
    )


def metrics_lines(folder, steps=300, every=10):
    rng = np.random.default_rng(0)
    lines = []
    for step in range(every, steps + 1, every):
        loss = 1.6 * np.exp(-step / 90) + 0.15 + 0.05 * rng.standard_normal()
        lines.append({"step": step, "total": steps, "loss": loss, "lr": 3e-3 * np.sin(np.pi * step / steps) + 1e-5,
                      "seconds": 0.15, "left": 1.0, "terms": {"dice": 0.6 * loss, "ce": 0.4 * loss}})
        if step % 50 == 0:
            lines.append({"step": step, "total": steps, "validation": {"dice": 0.9 * (1 - np.exp(-step / 80))}})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def predicted(phantom):
    return np.roll(phantom.labels, 1, axis=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder as the flow leaves it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    data = scan(generate.write_phantoms(tmp_path_factory.mktemp("data"), cases=4).parent)
    measure(data).write(folder / "fingerprint.json")
    a_plan().write(folder / "plan.json")
    metrics_lines(folder / "fold-0")
    phantom = generate.make_phantom(0)
    truth, other = (Labels.from_values(a, Grid.regular(a.shape, 1.0, "mm"), "semantic")
                    for a in (phantom.labels, predicted(phantom)))
    write_json(folder / "scores.json", evaluate(other, truth, case="phantom_000"))
    write_json(folder / "run.json", {"versions": {"biosegkit": "0.1.0", "torch": "2.x"}, "command": "biosegkit train"})
    return folder


def test_the_report_tells_everything_and_loads_nothing(run):
    phantom = generate.make_phantom(0)
    z = 18
    problems = [Problem("V4", "warning", "phantom_001", "images/a.nii.gz", "a <b> constant", "contrast", "look at it")]
    overlays = [Overlay("phantom_000", phantom.image[z], phantom.labels[z], predicted(phantom)[z], 0.7812)]
    page = Page(write_report(run, overlays=overlays, problems=problems))
    assert not page.open
    assert not page.links
    for text in ("phantom <trial>", "Not a medical device", "median shape & memory", "a <b> constant", "0.781",
                 "nucleus", "arch", "18–36 × 40–44 × 32–36 voxels", "classes are named in the description",
                 a_plan().hash, "biosegkit train", "What the scores mean", "1m", "300"):
        assert text in page.words, text
    dice = json.loads((run / "scores.json").read_text())["headline"]["dice"]
    assert f"{dice:.3f}" in page.words
    assert len(page.images) == 3  # one overlay, two charts
    for source in page.images:
        picture = Pillow.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        assert picture.format == "PNG"
        assert min(picture.size) > 100


def test_the_report_can_be_mailed_without_telling_where_the_run_was(run):
    assert str(run.parent) not in write_report(run).read_text(encoding="utf-8")


def test_names_from_files_cannot_become_markup(run):
    evil = Problem("D1", "error", "<script>alert(1)</script>", "", "<img src=x onerror=y>", "", "")
    text = write_report(run, problems=[evil], overlays=[("<b>", np.zeros((8, 8)), None, None, None)]).read_text()
    assert "<script" not in text
    assert "<img src=x" not in text


def test_an_unfinished_run_gets_a_report_that_says_what_is_missing(tmp_path):
    page = Page(write_report(tmp_path))
    assert "Not in this run folder" in page.words
    assert "plan.json" in page.words
    assert not page.images


def test_the_same_run_gives_the_same_bytes(run):
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_no_folder_and_damaged_files_are_refused(tmp_path, run):
    with pytest.raises(FileError, match="no such folder"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "scores.json").write_text("{")
    with pytest.raises(FileError, match=r"scores\.json"):
        write_report(tmp_path)


def test_metrics_by_hand(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10, "total": 30, "loss": 2.0, "lr": 0.1, "seconds": 0.5, "terms": {"a": 1.0}}\n'
                    '{"step": 20, "total": 30, "loss": 9.0, "lr": 0.2, "seconds": 9, "terms": {"a": 2.0}}\n'
                    '{"step": 20, "total": 40, "loss": null, "lr": 0.2, "seconds": 1.0, "terms": {"a": 3.0}}\n'
                    '{"step": 20, "total": 40, "validation": {"dice": 0.5, "note": "x"}}\n'
                    '{"step": 25, "lo')
    curves = read_metrics(path)
    assert curves.step == [10, 20]
    assert curves.loss[0] == 2.0
    assert np.isnan(curves.loss[1])
    assert curves.terms == {"a": [(10, 1.0), (20, 3.0)]}
    assert curves.validation == {"dice": [(20, 0.5)]}
    assert curves.seconds == 10 * 0.5 + 10 * 1.0
    assert curves.total == 40


def test_a_damaged_line_in_the_middle_is_refused(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"st\n{"step": 1, "loss": 1}\n')
    with pytest.raises(FileError, match="line 1"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_smoothing_against_a_loop():
    rng = np.random.default_rng(0)
    values = rng.standard_normal(50)
    values[7] = np.nan
    expected = [np.nanmean(values[max(0, i - 3) : i + 4]) for i in range(50)]
    assert np.allclose(smoothed(values.tolist(), 7), expected)
    assert np.isnan(smoothed([np.nan], 3)).all()


def test_charts_of_several_folds_need_no_global_state(tmp_path):
    import sys

    for fold in range(9):  # more folds than colours
        metrics_lines(tmp_path / f"fold-{fold}", steps=60)
    folds = {f"fold-{i}": read_metrics(tmp_path / f"fold-{i}" / "metrics.jsonl") for i in range(9)}
    before = "matplotlib.pyplot" in sys.modules
    assert loss_chart(folds)[:4] == b"\x89PNG"
    assert validation_chart(folds)[:4] == b"\x89PNG"
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_numbers_are_where_the_table_says(run):
    """The headline of the page is the headline of the file."""
    text = write_report(run).read_text(encoding="utf-8")
    tiles = re.findall(r'<div class="tile"><b>([^<]*)</b><span>([^<]*)</span>', text)
    headline = json.loads((run / "scores.json").read_text())["headline"]
    assert {name: value for value, name in tiles}["dice"] == f"{headline['dice']:.3f}"


def test_thresholds_have_a_table_and_a_chart(tmp_path):
    write_report(tmp_path)
    bare = Page(tmp_path / "report.html")
    assert "Thresholds" not in bare.words
    seed = {"default": 0.4, "low": 0.05, "high": 0.95, "steps": 19, "meaning": "height of a peak"}
    tuning = {"goal": "AP", "cases": ["a", "a", "b"], "thresholds": {"seed": 0.3}, "score": 0.75, "default_score": 0.5,
              "tunables": {"seed": seed}, "trials": [[{"seed": 0.4}, 0.5], [{"seed": 0.3}, 0.75],
                                                        [{"seed": 0.9}, None]]}
    write_json(tmp_path / "tuning.json", tuning)
    write_report(tmp_path)
    page = Page(tmp_path / "report.html")
    assert "Of 3 trials on 2 held-back cases (AP): 0.500 with the defaults, 0.750 tuned. 1 trial ended" in page.words
    assert "seed height of a peak 0.4 0.3 0.05 to 0.95" in page.words
    assert len(page.images) == len(bare.images) + 1
    write_json(tmp_path / "tuning.json", {**tuning, "tunables": {"seed": {**seed, "steps": 1}}})
    write_report(tmp_path)
    alone = Page(tmp_path / "report.html")
    assert "0.3 (not searched)" in alone.words
    assert len(alone.images) == len(bare.images)


def test_post_processing_is_shown_with_its_reason(tmp_path):
    write_report(tmp_path)
    assert "Post-processing" not in Page(tmp_path / "report.html").words
    trial = {"name": "largest=heart", "before": 0.8, "after": 0.85, "done": True}
    write_json(tmp_path / "postprocessing.json", {"options": {"largest": ["heart"]}, "trials": [trial],
                                                  "reason": "Dice of 4 held-back cases rose"})
    write_report(tmp_path)
    words = Page(tmp_path / "report.html").words
    assert "Dice of 4 held-back cases rose. option score without score with done largest=heart 0.800 0.850 yes" in words


def test_names_in_scripts_that_a_font_lacks_are_no_reason_for_a_warning():
    assert bar_chart(["日本 語", "läsion"], [0.5, 0.7], "dice").startswith(b"\x89PNG")
