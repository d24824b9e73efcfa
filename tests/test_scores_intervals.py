"""Intervals of a record, the comparison of two, and their tables: against numbers worked by hand and other routes."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from biosegkit._atomic import read_json, write_json
from biosegkit.errors import DataError, OptionError
from biosegkit.grid import Grid
from biosegkit.image import Labels
from biosegkit.metrics import DEFINITIONS, THRESHOLDS, instance_counts
from biosegkit.metrics.statistics import Bootstrap, intervals, mean_estimate
from biosegkit.scores import METRICS, ScoreOptions, compare, score_pair, summarise, tables
from biosegkit.scores.pooling import pools
from biosegkit.scores.tables import case_table, remarks


def labels(values, task="semantic"):
    array = np.array(values)
    return Labels.from_values(array, Grid.regular(array.shape), task)


def semantic_cases(seed, count=8, noise=0.15):
    """Two classes in every case but the last, which has only the first."""
    rng = np.random.default_rng([seed])
    cases = {}
    for k in range(count):
        truth = np.zeros((10, 12), int)
        truth[2:7, 2:6] = 1
        truth[4:8, 7:11] = 2 if k < count - 1 else 0
        found = np.where(rng.random(truth.shape) < noise * rng.random(), 0, truth)
        cases[f"c{k}"] = score_pair(labels(found), labels(truth))
    return cases


def instance_cases(seed, count=7):
    """Rows of two-pixel objects of which some are missed."""
    rng, cases = np.random.default_rng([seed]), {}
    for k in range(count):
        truth = np.zeros((1, 60), int)
        for i in range(3 + k):
            truth[0, 4 * i:4 * i + 3] = i + 1
        found = np.where(np.isin(truth, rng.integers(1, 4 + k, 2)), 0, truth)
        cases[f"c{k}"] = score_pair(labels(found, "instance"), labels(truth, "instance"))
    return cases


def test_intervals_of_classes_and_of_their_mean():
    cases = semantic_cases(0)
    record = summarise(cases, "semantic")
    made = record["intervals"]
    assert (made["level"], made["over"], made["units"], made["notes"]) == (0.95, "cases", 8, [])
    for name in ("1", "2"):
        values = [case["classes"].get(name, {}).get("dice", float("nan")) for case in cases.values()]
        alone = intervals(mean_estimate(values))
        assert made["classes"][name]["dice"] == [pytest.approx(alone.low[0]), pytest.approx(alone.high[0])]
        assert made["classes"][name]["dice"][0] < record["classes"][name]["dice"] < made["classes"][name]["dice"][1]
    low, high = made["mean"]["dice"]
    assert low < record["mean"]["dice"] < high
    assert made["headline"]["dice"] == made["mean"]["dice"]


def test_the_interval_of_a_pooled_score_pools_each_resample():
    cases = instance_cases(1)
    record = summarise(cases, "instance")
    for pool in pools(list(cases.values())):
        found = pool.scores(pool.rows.sum(0, keepdims=True))[0]
        assert dict(zip(pool.names, found, strict=True)) == pytest.approx(
            {name: record["pooled"][name] for name in pool.names})
    # every resample of three of the images, pooled by adding counts of masks side by side
    few = dict(itertools.islice(cases.items(), 3))
    pool = next(p for p in pools(list(few.values())) if p.group == "matching")
    for picks in itertools.product(range(3), repeat=3):
        drawn = [list(few.values())[k] for k in picks]
        tp, n_true, n_pred = (sum(d[k] for d in drawn) for k in ("tp", "n_true", "n_pred"))
        sums = pool.rows[list(picks)].sum(0, keepdims=True)
        assert pool.scores(sums)[0][pool.names.index("ap@0.50")] == pytest.approx(tp / (n_true + n_pred - tp))
    assert record["intervals"]["pooled"]["ap@0.50"][0] < record["pooled"]["ap@0.50"]
    assert record["intervals"]["headline"]["pq"] == record["intervals"]["pooled"]["pq"]
    assert record["intervals"]["mean"]["pq"] != record["intervals"]["pooled"]["pq"]


def test_few_cases_have_no_interval_and_the_record_says_why():
    record = summarise(semantic_cases(0, count=4), "semantic")
    assert record["intervals"]["headline"] == dict.fromkeys(record["headline"])
    assert record["intervals"]["notes"] == ["no intervals: 4 cases, fewer than 5"]
    # a class that only four of five cases have is known too little, the others are not
    record = summarise(semantic_cases(0, count=5), "semantic")
    assert record["intervals"]["classes"]["2"]["dice"] is None
    low, high = record["intervals"]["classes"]["1"]["dice"]
    assert 0 < low < record["classes"]["1"]["dice"] < high < 1


def test_groups_are_drawn_whole():
    cases = semantic_cases(2, count=12)
    patients = {name: f"p{k // 2}" for k, name in enumerate(cases)}
    record = summarise(cases, "semantic", groups=patients)
    assert (record["intervals"]["over"], record["intervals"]["units"]) == ("groups", 6)
    assert "groups" in record["intervals"]["notes"][0]
    assert record["cases"][2]["group"] == "p1"
    alone = summarise(cases, "semantic", groups={name: name for name in cases})
    assert alone["intervals"]["over"] == "cases"
    assert "group" not in alone["cases"][0]
    few = summarise(cases, "semantic", groups={name: f"p{k // 3}" for k, name in enumerate(cases)})
    assert few["intervals"]["headline"]["dice"] is None


def test_L8_empty_images_are_counted_apart():
    nothing, one = [[0, 0, 0, 0]], [[0, 1, 1, 0]]
    pairs = {"both": (nothing, nothing), "invented": (one, nothing), "missed": (nothing, one), "good": (one, one)}
    cases = {k: score_pair(labels(p, "instance"), labels(t, "instance")) for k, (p, t) in pairs.items()}
    record = summarise(cases, "instance")
    assert record["images"] == {"all": 4, "both_empty": 1, "truth_empty": 1, "prediction_empty": 1}
    assert record["mean"]["undefined"]["ap"] == 1
    assert record["mean"]["ap"] == pytest.approx(1 / 3)


def test_two_models_by_hand():
    def record(*dice):
        cases = {f"c{k}": {"dice": d, "classes": {"1": {"value": 1, "dice": d, "tp": 1, "fp": 0, "fn": 0,
                                                        "state": "defined"}}} for k, d in enumerate(dice)}
        return summarise(cases, "semantic")

    nan = float("nan")
    first, second = record(0.9, 0.8, 0.7, 0.6, 0.5, nan), record(0.8, 0.8, 0.75, 0.5, 0.4, 0.3)
    found = compare(first, second, ("a", "b"))
    row = found["scores"][0]
    assert (row["score"], row["cases"], row["only_second"]) == ("dice", 5, 1)
    assert (row["mean"], row["wins"], row["ties"], row["losses"]) == (pytest.approx(0.05), 3, 1, 1)
    assert (row["first"], row["second"]) == (pytest.approx(0.7), pytest.approx(0.65))
    assert row["p_holm"] == row["p"]
    back = compare(second, first)["scores"][0]
    assert (back["mean"], back["p"], back["wins"]) == (pytest.approx(-row["mean"]), row["p"], row["losses"])
    assert (back["low"], back["high"]) == pytest.approx((-row["high"], -row["low"]))
    shown = tables(first | {"comparison": found})[-1]
    assert shown.title == "a less b per case, 6 cases"
    assert shown.rows[0][-1] == "3/1/1"
    assert shown.rows[0][3] == "+0.050"


def test_a_better_model_is_found_better_pooled_and_per_case(tmp_path):
    good, bad = summarise(instance_cases(1), "instance"), summarise(instance_cases(5), "instance")
    write_json(tmp_path / "good.json", good)
    again = compare(read_json(tmp_path / "good.json"), good)  # from the file: nothing differs
    assert {row["mean"] for row in again["scores"]} == {0.0}
    assert {(row["difference"], row["low"], row["high"]) for row in again["pooled"]} == {(0.0, 0.0, 0.0)}
    found = compare(good, bad)
    for row in found["pooled"]:
        assert row["difference"] == pytest.approx(good["pooled"][row["score"]] - bad["pooled"][row["score"]])
        assert row["low"] <= row["difference"] <= row["high"]


def test_what_does_not_compare_is_refused_and_cases_of_one_model_are_listed():
    first = summarise(semantic_cases(0), "semantic")
    with pytest.raises(DataError, match="task"):
        compare(first, summarise(instance_cases(0), "instance"))
    other = summarise(semantic_cases(0), "semantic", options=ScoreOptions(tolerance=3))
    with pytest.raises(DataError, match="definitions of nsd"):
        compare(first, other)
    fewer = {name: case for name, case in semantic_cases(1).items() if name != "c3"}
    found = compare(first, summarise(fewer, "semantic"))
    assert (found["cases"], found["only_first"], found["only_second"]) == (7, ["c3"], [])
    assert [row["score"] for row in found["scores"]][-2:] == ["dice of 1", "dice of 2"]
    assert all(row["p"] <= row["p_holm"] <= 1 for row in found["scores"])
    with pytest.raises(DataError, match="no case in both"):
        compare(first, summarise({"z": semantic_cases(0)["c0"]}, "semantic"))


def test_distances_are_better_when_smaller():
    values = {"a": [1.0] * 6, "b": [2.0, 2.0, 2.0, 2.0, 2.0, 0.5]}
    records = [summarise({f"c{k}": {"hd95": v, "classes": {"1": {"value": 1, "hd95": v, "dice": 1.0, "tp": 1, "fp": 0,
               "fn": 0, "state": "defined"}}} for k, v in enumerate(rows)}, "semantic") for rows in values.values()]
    row = next(r for r in compare(*records)["scores"] if r["score"] == "hd95")
    assert (row["wins"], row["losses"]) == (5, 1)
    assert row["mean"] < 0
    assert case_table(records[1] | {"headline": {"hd95": 1.75}}).rows[0][1] == "2.000"


def test_tables_fit_a_terminal_and_list_the_worst_of_many():
    record = summarise(semantic_cases(0), "semantic", options=ScoreOptions(metrics=("all",)))
    for block in tables(record):
        assert {len(row) for row in block.rows} == {len(block.head)}
        widths = [max(len(row[k]) for row in (block.head, *block.rows)) for k in range(len(block.head))]
        assert sum(widths) + 2 * len(widths) <= 100
    record = summarise(instance_cases(0, count=12) | {f"d{k}": v for k, v in enumerate(instance_cases(3, 12).values())},
                       "instance")
    listed = tables(record)[1]
    assert listed.title == "the worst 10 of 24 images"
    scores = [float(row[1]) for row in listed.rows]
    assert scores == sorted(scores)
    assert len(scores) == 10
    assert len(case_table(record).rows) == 24


def test_scores_are_chosen_by_name():
    pair = labels([[0, 1, 1]]), labels([[0, 1, 0]])
    scores = score_pair(*pair, ScoreOptions(metrics=("dice", "recall")))
    assert "hd95" not in scores
    record = summarise({"a": scores}, "semantic", options=ScoreOptions(metrics=("dice", "recall")))
    assert list(record["headline"]) == ["dice", "recall"]
    assert "hd95" not in record["definitions"]
    assert tables(record)[1].head[:3] == ["class", "dice", "recall"]
    options = ScoreOptions(metrics=("hd90",), percentile=90)
    assert list(summarise({"a": score_pair(*pair, options)}, "semantic", options=options)["headline"]) == ["hd90"]


@pytest.mark.parametrize(("options", "message"), [
    ({"metrics": ("dise",)}, "no score dise"), ({"metrics": ("hd90",)}, "--percentile 90"),
    ({"percentile": 101}, "percentile"), ({"tolerance": -1}, "tolerance"), ({"surface": "smooth"}, "voxel")])
def test_wrong_options_are_refused_at_once(options, message):
    with pytest.raises(OptionError, match=message):
        ScoreOptions(**options)


def test_scores_of_the_other_task_are_refused():
    with pytest.raises(OptionError, match="instance labels"):
        score_pair(labels([[1]], "instance"), labels([[1]], "instance"), ScoreOptions(metrics=("nsd",)))
    assert instance_counts(np.array([1]), np.array([1])).thresholds == THRESHOLDS
    assert Bootstrap().smallest == 5


def test_every_score_is_on_the_page_of_scores():
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_0-9]+)`", page))
    reported = {"hd": "hd95", "object_hd": "object_hd95"}
    wanted = {reported.get(name, name) for metrics in METRICS.values() for name in metrics}
    assert wanted <= named
    assert set(DEFINITIONS) <= named | {"seg-metrics"}


@pytest.mark.parametrize("task", ["semantic", "instance"])
def test_too_few_cases_have_no_column_of_intervals_and_say_why(task):
    def record(*dice):
        classes = {"1": {"value": 1, "tp": 1, "fp": 0, "fn": 0, "state": "defined"}}
        return summarise({f"c{k}": {"dice": d, "classes": {"1": classes["1"] | {"dice": d}}}
                          for k, d in enumerate(dice)}, "semantic")

    four = [dict(list(instance_cases(seed).items())[:4]) for seed in (1, 5)]
    few = [record(0.9, 0.8, 0.7, 0.6), record(0.8, 0.8, 0.7, 0.5)] if task == "semantic" else [
        summarise(cases, "instance") for cases in four]
    made = few[0] | {"comparison": compare(*few)}
    shown = [block for block in tables(made) if block.title.endswith("4 cases")]
    assert shown[0].head[-2:] == ["difference", "better/equal/worse"]
    assert not any("interval" in name for block in tables(made) for name in block.head)
    assert remarks(made)[-1] == "no interval of a difference and no p: 4 cases, fewer than 5"
    enough = record(0.9, 0.8, 0.7, 0.6, 0.5)
    assert compare(enough, enough)["notes"] == []


@pytest.mark.parametrize("make", [semantic_cases, instance_cases])
def test_cases_in_another_order_have_the_same_intervals(make):
    task = "semantic" if make is semantic_cases else "instance"
    cases, other = make(3), make(4)
    groups = {name: f"g{int(name[1:]) % 5}" for name in cases}

    def records(turn):
        return [summarise({k: found[k] for k in turn(list(cases))}, task, groups=given)
                for found in (cases, other) for given in (None, groups)]

    straight, turned = records(list), records(lambda names: names[::-1])
    assert straight[0]["intervals"]["headline"]
    assert [r["case"] for r in turned[0]["cases"]] == list(cases)[::-1]
    assert [r["intervals"] for r in straight] == [r["intervals"] for r in turned]
    assert compare(straight[0], straight[2])["scores"] == compare(turned[0], turned[2])["scores"]
