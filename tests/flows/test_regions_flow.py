"""Regions and an ignore label from the files to the scores: the user's values, in the user's painting order."""

import json

import numpy as np
import pytest

import biosegkit as bsk
from biosegkit._atomic import load_npy
from biosegkit.evaluate import evaluate_folder
from biosegkit.predict import predict_files

ABOUT = {"channel_names": {"0": "signal"},
         "labels": {"background": 0, "whole": [10, 20, 40, 50], "core": [40, 20], "ignore": 99},
         "regions_class_order": [10, 20]}


def case(seed):
    """Two discs in each other; five columns are not annotated, absurdly bright and labelled 99."""
    rng = np.random.default_rng([seed])
    y, x = np.mgrid[:32, :40]
    distance = np.hypot(y - rng.uniform(13, 19), x - rng.uniform(20, 26))
    values = np.select([distance < 3, distance < 6, distance < 11], [40, 20, 10], 0)
    pixels = 20.0 + 40 * (distance < 11) + 60 * (distance < 6) + rng.normal(0, 4, values.shape)
    values[:, :5], pixels[:, :5] = 99, 9000
    return pixels.astype(np.float32), values


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """The whole flow, once."""
    home = tmp_path_factory.mktemp("regions")
    grid = bsk.Grid.regular((32, 40), 0.5, "um")
    for folder in ("images", "labels"):
        (home / "data" / folder).mkdir(parents=True)
    for seed in range(4):
        pixels, values = case(seed)
        bsk.write(bsk.Image(pixels[None], grid), home / f"data/images/{seed}.tif")
        bsk.write(bsk.Labels.from_values(values, grid, "semantic"), home / f"data/labels/{seed}.tif")
    (home / "data/dataset.json").write_text(json.dumps(ABOUT))
    dataset = bsk.scan(home / "data")
    fingerprint = bsk.measure(dataset)
    plan = bsk.make_plan(fingerprint, dataset, steps=25, device="cpu")
    bsk.fit(plan, dataset, home / "run", device="cpu")
    predict_files(bsk.load(home / "run", "cpu"), home / "data", home / "out")
    return home, fingerprint, plan


def test_classes_are_those_of_the_regions_also_without_a_voxel(flow):
    _, fingerprint, plan = flow
    assert [c.value for c in fingerprint.classes] == [10, 20, 40, 50]
    assert plan.labels.regions == (("whole", (1, 2, 3, 4)), ("core", (3, 2)))
    assert plan.labels.region_classes == (1, 2)
    assert plan.labels.ignore_value == 99


def test_L9_the_ignored_part_is_in_no_statistic_sample_or_score(flow):
    home, fingerprint, _ = flow
    assert fingerprint.channels[0].maximum < 200
    positions = [load_npy(path) for path in (home / "run/store").glob("*/annotated.npy")]
    assert len(positions) == 4
    assert all(p[:, 1].min() == 5 for p in positions)
    record = json.loads((home / "run/scores.json").read_text())
    assert set(record["classes"]) == {"whole", "core"}
    # what is predicted in the ignored columns does not count
    score = evaluate_folder(home / "out", home / "data")
    for path in (home / "out").glob("*.tif"):
        found = bsk.read_labels(path, "semantic")
        values = found.restored()
        values[:, :5] = 20
        bsk.write(bsk.Labels.from_values(values, found.grid, "semantic"), path)
    assert evaluate_folder(home / "out", home / "data")["headline"] == score["headline"]


def test_outputs_have_the_users_values_in_the_painting_order(flow):
    home, _, _ = flow
    painted = {int(v) for path in (home / "run/fold-0/validation").iterdir()
               for v in np.unique(bsk.read_labels(path, "semantic").restored())}
    assert {0, 10, 20} == painted  # 20 stands first in no region: it is painted as regions_class_order says
    dice = evaluate_folder(home / "out", home / "data")["classes"]
    assert dice["whole"]["dice"] > 0.7
    assert dice["core"]["dice"] > 0.5
