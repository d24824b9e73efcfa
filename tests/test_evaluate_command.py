"""``biosegkit evaluate`` from end to end: choice of scores, comparison, calibration, files, pictures, wrong options."""

from __future__ import annotations

import base64
import csv
import io
import json
import re

import numpy as np
import pytest
from PIL import Image as Pillow
from small_sets import discs
from typer.testing import CliRunner

from biosegkit.cli import app
from biosegkit.error_map import AGREED, INVENTED, MISSED, WRONG, error_codes
from biosegkit.errors import DataError, OptionError
from biosegkit.evaluate import evaluate_folder
from biosegkit.grid import Grid
from biosegkit.image import Image, Labels
from biosegkit.io import write
from biosegkit.metrics import calibration_counts
from biosegkit.pairing import pair_files, with_maps
from biosegkit.scores import ScoreOptions, read_scores

CASES = 6


def call(*words, code=0):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return re.sub(r"\x1b\[[0-9;]*m", "", result.output)


def save(path, values, task, spacing=1.0, unit="px"):
    path.parent.mkdir(parents=True, exist_ok=True)
    write(Labels.from_values(values, Grid.regular(values.shape, spacing, unit), task), path)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Images with objects, a good and a bad model: the bad one misses more and invents one."""
    home = tmp_path_factory.mktemp("cells")
    for k in range(CASES):
        image, labels = discs((40, 48), count=6, seed=k, radius=5)
        path = home / "data" / "images" / f"p{k // 2}_{k}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(Image(image[None], Grid.regular(image.shape)), path)
        save(home / "data" / "labels" / path.name, labels, "instance")
        for name, missed in (("good", {1 + k % 3} if k % 2 else {9}), ("bad", {1, 2, 3})):
            found = np.where(np.isin(labels, list(missed)), 0, labels * 3)
            if name == "bad":
                found[-2:, -2:] = 50
            save(home / name / path.name, found, "instance")
            rows = [f"{i},{0.9 if i != 50 else 0.1}" for i in np.unique(found)[1:]]
            (home / name / f"{path.stem}.csv").write_text("\n".join(["id,score", *rows]))
    return home


@pytest.fixture(scope="module")
def organs(tmp_path_factory):
    """Volumes of two classes with probability maps as predict --save-maps leaves them."""
    home = tmp_path_factory.mktemp("organs")
    for k in range(CASES):
        rng = np.random.default_rng([k])
        labels = np.zeros((5, 12, 14), np.uint8)
        labels[1:4, 2:8, 2:6], labels[2:4, 5:10, 8:12] = 3, 7
        soft = np.stack([labels == v for v in (0, 3, 7)]) + rng.random((3, *labels.shape))
        soft = (soft / soft.sum(0)).astype(np.float32)
        found = np.array([0, 3, 7], np.uint8)[soft.argmax(0)]
        grid = Grid.regular(labels.shape, (3.0, 1.0, 1.0), "mm")
        save(home / "truth" / f"v{k}.nii.gz", labels, "semantic", (3.0, 1.0, 1.0), "mm")
        save(home / "found" / f"v{k}.nii.gz", found, "semantic", (3.0, 1.0, 1.0), "mm")
        write(Image(soft, grid), home / "found" / f"v{k}_classes.nii.gz")
        (home / "found" / f"v{k}.nii.gz.json").write_text(json.dumps(
            {"task": "semantic", "options": {"save_maps": True}}))
    return home


def pictures(page):
    return [Pillow.open(io.BytesIO(base64.b64decode(data)))
            for data in re.findall(r"data:image/png;base64,([^\"]*)", page.read_text(encoding="utf-8"))]


def test_objects_from_the_command_to_the_page(cells, tmp_path):
    out = tmp_path / "scores.json"
    words = ("evaluate", cells / "good", cells / "data", "--task", "instance", "-o", out)
    shown = call(*words, "--compare", cells / "bad")
    assert "95 % interval" in shown
    assert "good less bad per case, 6 cases" in shown
    record = read_scores(out)
    assert record["intervals"]["units"] == CASES
    row = record["comparison"]["scores"][0]
    assert (row["wins"], row["losses"], row["cases"]) == (CASES, 0, CASES)
    assert row["low"] > 0
    table = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    assert [r["case"] for r in table] == [r["case"] for r in record["cases"]]
    assert float(table[0]["aji"]) == record["cases"][0]["aji"]
    page = (tmp_path / "scores.html").read_text(encoding="utf-8")
    for text in ("Not a medical device", "good less bad", "missed objects", "not COCO AP"):
        assert text in page, text
    assert "http" not in page
    assert str(tmp_path) not in page
    assert len(pictures(tmp_path / "scores.html")) == CASES + 1  # and the chart of all cases
    # a record stands for the predictions it was made of
    call("evaluate", cells / "bad", cells / "data", "--task", "instance", "-o", tmp_path / "bad.json", "--no-pictures")
    assert not (tmp_path / "bad.html").exists()
    call(*words, "--compare", tmp_path / "bad.json", "--overwrite")
    again = read_scores(out)["comparison"]
    assert again["scores"] == record["comparison"]["scores"]
    assert again["second"] == "bad.json"


def test_every_score_of_objects_when_asked_for(cells, tmp_path):
    call("evaluate", cells / "good", cells / "data", "--task", "instance", "--all", "-o", tmp_path / "s.json")
    record = read_scores(tmp_path / "s.json")
    assert {"v_rand", "v_info", "adapted_rand_error", "object_hd95", "object_assd", "coco_ap", "coco_ap@0.50",
            "seg", "det", "split_rate", "aji_plus"} <= set(record["pooled"])
    assert record["pooled"]["object_hd95"] == 0.0
    # all predictions are right and rank alike: precision 1 up to the recall reached
    found, objects = (record["pooled"][k] for k in ("tp", "n_true"))
    assert record["pooled"]["coco_ap@0.50"] == pytest.approx((1 + int(100 * found / objects)) / 101)
    shown = call("evaluate", cells / "good", cells / "data", "--task", "instance", "--metrics", "pq,coco_ap,v_rand")
    assert re.search(r"score +pooled", shown)
    assert "adapted" not in shown
    (cells / "bad" / "p0_0.csv").rename(cells / "bad" / "hidden")
    message = call("evaluate", cells / "bad", cells / "data", "--task", "instance", "--metrics", "coco_ap", code=2)
    assert "p0_0" in message
    assert "coco_ap" not in evaluate_folder(cells / "bad", cells / "data", task="instance",
                                            options=ScoreOptions(metrics=("all",)))["definitions"]
    (cells / "bad" / "hidden").rename(cells / "bad" / "p0_0.csv")


def test_patients_are_drawn_whole(cells, tmp_path):
    shown = call("evaluate", cells / "good", cells / "data", "--task", "instance", "--group", "(p[0-9])_", "-o",
                 tmp_path / "s.json", "--no-pictures")
    record = read_scores(tmp_path / "s.json")
    assert (record["intervals"]["over"], record["intervals"]["units"]) == ("groups", 3)
    assert "no intervals: 3 groups, fewer than 5" in shown
    assert [r["group"] for r in record["cases"]] == ["p0", "p0", "p1", "p1", "p2", "p2"]


def test_volumes_with_probabilities(organs, tmp_path):
    shown = call("evaluate", organs / "found", organs / "truth", "--tolerance", 2, "--percentile", 90, "-o",
                 tmp_path / "s.json")
    assert "hd90 (mm)" in shown
    assert "_classes" not in shown  # maps are not taken for predictions
    record = read_scores(tmp_path / "s.json")
    assert "within 2 of" in record["definitions"]["nsd"]
    counts = []
    for k in range(CASES):
        rng = np.random.default_rng([k])
        labels = np.zeros((5, 12, 14), int)
        labels[1:4, 2:8, 2:6], labels[2:4, 5:10, 8:12] = 1, 2
        soft = np.stack([labels == v for v in (0, 1, 2)]) + rng.random((3, *labels.shape))
        counts.append(calibration_counts((soft / soft.sum(0)).astype(np.float32), labels, foreground=True))
    pooled = counts[0]
    for count in counts[1:]:
        pooled = pooled + count
    assert record["headline"]["ece"] == pytest.approx(pooled.ece, abs=1e-6)
    assert record["calibration"]["brier"] == pytest.approx(pooled.brier, abs=1e-6)
    low, high = record["intervals"]["headline"]["ece"]
    assert low < pooled.ece < high
    assert "Reliability" in (tmp_path / "s.html").read_text(encoding="utf-8")
    row = next(csv.DictReader((tmp_path / "s.csv").read_text().splitlines()))
    assert float(row["ece"]) == record["cases"][0]["ece"]


def test_maps_from_another_folder_and_maps_that_do_not_fit(organs, tmp_path):
    maps = tmp_path / "maps"
    maps.mkdir()
    for k in range(CASES):
        (maps / f"v{k}.nii.gz").write_bytes((organs / "found" / f"v{k}_classes.nii.gz").read_bytes())
    pairs = pair_files(organs / "found", organs / "truth")
    assert set(with_maps(pairs, maps).maps.values()) == set(maps.iterdir())
    (maps / "v3.nii.gz").unlink()
    with pytest.raises(DataError, match="v3"):
        with_maps(pairs, maps)
    two = Image(np.full((2, 5, 12, 14), 0.5, np.float32), Grid.regular((5, 12, 14), (3.0, 1.0, 1.0), "mm"))
    for k in range(CASES):
        write(two, maps / f"v{k}.nii.gz")
    assert "no calibration: v0.nii.gz has 2 channels" in call(
        "evaluate", organs / "found", organs / "truth", "--maps", maps)
    assert "one per class: 0, 3, 7" in call(
        "evaluate", organs / "found", organs / "truth", "--maps", maps, "--metrics", "ece", code=1)


def test_scores_of_probabilities_without_probabilities_are_refused(organs, tmp_path):
    save(tmp_path / "found" / "v0.nii.gz", np.ones((5, 12, 14), np.uint8) * 3, "semantic", (3.0, 1.0, 1.0), "mm")
    with pytest.raises(OptionError, match="--save-maps"):
        evaluate_folder(tmp_path / "found", organs / "truth" / "v0.nii.gz", task="semantic",
                        options=ScoreOptions(metrics=("ece",)))
    assert "0.0" not in call("evaluate", tmp_path / "found", organs / "truth" / "v0.nii.gz", "--task", "semantic",
                             "--metrics", "recall").splitlines()[0]


@pytest.mark.parametrize(("words", "message"), [
    (["--metrics", "dise"], "no score dise"), (["--metrics", "nsd"], "instance"), (["--metrics", ""], "--metrics dice"),
    (["--metrics", "pq", "--all"], "or --all"), (["--surface", "smooth"], "deepmind"),
    (["--percentile", "120"], "0 to 100"), (["--tolerance", "-1"], "tolerance"), (["-o", "scores.csv"], ".json")])
def test_wrong_options_are_told_at_once(cells, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in call("evaluate", cells / "good", cells / "data", "--task", "instance", *words, code=2)
    assert not list(tmp_path.iterdir())


def test_nothing_that_is_there_is_replaced_unasked(cells, tmp_path):
    (tmp_path / "scores.html").write_text("mine")
    words = ("evaluate", cells / "good", cells / "data", "--task", "instance", "-o", tmp_path / "scores.json")
    assert "scores.html" in call(*words, code=1)
    assert not (tmp_path / "scores.json").exists()
    assert "no such" in call("evaluate", cells / "good", cells / "data", "--compare", tmp_path / "none", "--task",
                             "instance", code=1)


def test_errors_of_classes_and_of_objects_by_hand():
    def labels(values, task, ignore=None):
        return Labels.from_values(np.array([values]), Grid.regular((1, len(values))), task, ignore_value=ignore)

    found = error_codes(labels([0, 1, 1, 2, 0, 5], "semantic"), labels([0, 1, 0, 1, 1, 9], "semantic", 9))
    assert found.tolist() == [[0, AGREED, INVENTED, WRONG, MISSED, 0]]
    # one object found, one in pieces of which one is large enough, one missed, three merged into one, one invented
    true = labels([1, 1, 0, 2, 2, 2, 2, 0, 3, 3, 0, 4, 4, 5, 5, 6, 6, 0, 0], "instance")
    predicted = labels([7, 7, 0, 8, 8, 8, 4, 0, 0, 0, 0, 9, 9, 9, 9, 9, 9, 0, 6], "instance")
    assert error_codes(predicted, true).tolist() == [[
        AGREED, AGREED, 0, AGREED, AGREED, AGREED, INVENTED, 0, MISSED, MISSED, 0, *[WRONG] * 6, 0, INVENTED]]
