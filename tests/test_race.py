"""A race of methods: who enters by hand-worked rows, what is trained and kept, and that a stopped one goes on."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import pytest
from small_sets import tiny_plan, write_instances

from biosegkit import configure, racing
from biosegkit.bundle import load
from biosegkit.configure import make_plan
from biosegkit.errors import OptionError
from biosegkit.fingerprint import measure
from biosegkit.methods import METHODS, Distance
from biosegkit.plan.budget import Probe
from biosegkit.plan.race import CONTENDERS, LEAST_SECONDS, SHARE, TRAINING, after_race, race_of, race_seconds
from biosegkit.plan.schema import Decision, MethodEvidence, Plan, Race
from biosegkit.recipe import Recipe
from biosegkit.train import fit


def row(method, verdict, score=1.0):
    return MethodEvidence(method=method, verdict=verdict, ap50=score, ap75=score, reason="because")


ROWS = (row("a", "low", 0.5), row("b", "able"), row("c", "chosen"), row("d", "unfit"), row("e", "able"))
OPTIONS = {name: {"batch_dice": True} for name in "abcde"}


@dataclass(frozen=True)
class Blind(Distance):
    """A distance that learns nothing: every term of its loss is nothing."""

    def loss(self, outputs, targets, weights):
        return {name: 0.0 * term for name, term in super().loss(outputs, targets, weights).items()}


# --- rules ------------------------------------------------------------------------------------------------------------


def test_the_chosen_and_the_next_best_enter_with_equal_time():
    race, decision = race_of(ROWS, OPTIONS, 1000.0, None)
    assert list(race.contenders) == ["c", "b"]
    assert race.seconds == 1000 * SHARE / CONTENDERS
    assert (decision.name, decision.value) == ("race", "c, b")
    race, _ = race_of(ROWS, OPTIONS, None, 250)
    assert (race.steps, race.seconds) == (25, None)


@pytest.mark.parametrize(("rows", "budget", "told"), [
    (ROWS, 299.0, "10m"), (ROWS[:1] + ROWS[2:4], 3600.0, "on perfect maps: c"), ((), 3600.0, "none is known")])
def test_there_is_no_race_without_time_or_rivals(rows, budget, told):
    race, decision = race_of(rows, OPTIONS, budget, None)
    assert race is None
    assert decision.value == "none"
    assert told in decision.reason
    assert race_seconds(LEAST_SECONDS * CONTENDERS / SHARE) == LEAST_SECONDS


def test_the_winner_takes_the_plan_and_the_table_says_why():
    race = Race(contenders={"c": {"batch_dice": True}, "b": {"batch_dice": False}}, steps=3)
    plan = tiny_plan().model_copy(update={"race": race, "method": "c", "method_evidence": ROWS})
    assert json.loads(plan.model_dump_json())["race"]["steps"] == 3
    assert "race" not in json.loads(tiny_plan().model_dump_json())
    won = after_race(plan, {"c": 0.4, "b": 0.6})
    assert (won.method, won.method_options, won.race) == ("b", {"batch_dice": False}, None)
    assert {r.method: r.verdict for r in won.method_evidence} == {
        "a": "low", "b": "chosen", "c": "able", "d": "unfit", "e": "able"}
    assert {r.method: r.raced for r in won.method_evidence if r.raced is not None} == {"b": 0.6, "c": 0.4}
    assert after_race(plan, {"c": 0.5, "b": 0.5}).method in race.contenders
    assert after_race(won, {}) == won


@pytest.mark.parametrize(("wish", "task"), [({"method": "distance"}, "instance"), ({"preset": "nnunet"}, "instance"),
                                            ({}, "semantic")])
def test_a_race_without_a_choice_to_make_is_refused(tmp_path, wish, task):
    dataset = write_instances(tmp_path / "data", cases=2)
    with pytest.raises(OptionError, match="--race with"):
        make_plan(measure(dataset, task=task), dataset, steps=1, device="cpu", race=True, **wish)


def test_a_model_to_begin_with_leaves_no_choice_to_a_race(tmp_path):
    dataset = write_instances(tmp_path / "data", cases=2)
    with pytest.raises(OptionError, match="--race with --from"):
        make_plan(measure(dataset, task="instance"), dataset, steps=1, device="cpu", race=True, like=tiny_plan())


def test_a_recipe_names_a_race():
    assert Recipe.from_data({"name": "a", "plan": {"race": True}}).plan.race
    assert not Recipe.from_data({"name": "a"}).plan.race


# --- in a run ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def rivals(tmp_path, monkeypatch):
    """Two methods of equal ceiling, one of which cannot learn, and a plan with a race of both."""
    for name in set(METHODS) - {"semantic", "distance"}:
        monkeypatch.delitem(METHODS, name)
    monkeypatch.setitem(METHODS, "blind", Blind)
    dataset = write_instances(tmp_path / "data", cases=4)
    options = {"batch_dice": True}
    evidence = (row("blind", "chosen"), row("distance", "able"))
    plan = tiny_plan(steps=10, learning_rate=0.02).model_copy(update={
        "method": "blind", "method_evidence": evidence,
        "decisions": (Decision(name="method", value="blind", reason="first"),),
        "race": Race(contenders={"blind": options, "distance": options}, steps=40)})
    return dataset, plan, tmp_path / "run"


def test_both_train_and_the_better_one_becomes_the_model(rivals):
    dataset, plan, run = rivals
    said = []
    fit(plan, dataset, run, device="cpu", progress=said.append)
    made = Plan.read(run / "plan.json")
    assert (made.method, made.race) == ("distance", None)
    assert (made.decisions[0].value, made.decisions[0].reason[:12]) == ("distance", "won the race")
    raced = {r.method: r.raced for r in made.method_evidence}
    assert raced["distance"] > raced["blind"]
    for name in plan.race.contenders:
        steps = [json.loads(line)["step"] for line in (run / "race" / name / "metrics.jsonl").read_text().splitlines()]
        assert max(steps) == 40
    assert load(run, "cpu").segmenter.plan.method == "distance"
    about = json.loads((run / "run.json").read_text())
    assert about["plan"] == made.hash
    assert about["undecided"] == plan.hash
    assert about["race"] == raced
    assert "AP in the race" in (run / "report.html").read_text("utf-8")
    assert any("goes on" in str(r.get("stage")) for r in said)


def test_a_race_that_was_stopped_goes_on_where_it_was(rivals):
    dataset, plan, run = rivals

    class Halt(Exception):
        pass

    def until_second(row):
        if "race: distance" in str(row.get("stage")):
            raise Halt

    with pytest.raises(Halt):
        fit(plan, dataset, run, device="cpu", progress=until_second)
    assert Plan.read(run / "plan.json").race == plan.race
    first = (run / "race/blind/scores.json").stat().st_mtime_ns
    fit(plan, dataset, run, device="cpu", resume=True)
    assert (run / "race/blind/scores.json").stat().st_mtime_ns == first
    decided = Plan.read(run / "plan.json")
    assert decided.method == "distance"
    # between the two files of the decision: the run knows both plans
    plan.write(run / "plan.json")
    fit(plan, dataset, run, device="cpu", resume=True)
    assert Plan.read(run / "plan.json") == decided
    fit(plan, dataset, run, device="cpu", resume=True)  # with the plan it began with, which is decided by now
    assert Plan.read(run / "plan.json") == decided


def test_reading_the_cases_is_not_on_the_first_contenders_time(rivals, monkeypatch):
    dataset, plan, run = rivals
    given, read = [], racing.load_or_make

    class Halt(Exception):
        pass

    def slowly(*args):
        time.sleep(0.2)
        return read(*args)

    def started(*args, deadline, **more):
        given.append(deadline - time.monotonic())
        raise Halt

    monkeypatch.setattr(racing, "load_or_make", slowly)
    monkeypatch.setattr(racing, "train", started)
    timed = plan.model_copy(update={"race": plan.race.model_copy(update={"seconds": 60.0})})
    with pytest.raises(Halt):
        fit(timed, dataset, run, device="cpu")
    assert given == [pytest.approx(60 * TRAINING, abs=0.3)]


def test_a_race_stays_within_the_budget_of_its_plan(rivals, monkeypatch):
    dataset, _, _ = rivals
    monkeypatch.setattr(configure, "probed_widths", lambda plan, *_: (plan, [Probe(8, 0.1, 0.001, 1)]))
    found = measure(dataset, task="instance")
    plain = make_plan(found, dataset, budget="20m", device="cpu", folds=1)
    raced = make_plan(found, dataset, budget="20m", device="cpu", folds=1, race=True)
    assert list(raced.race.contenders) == ["distance", "blind"]
    each = raced.race.seconds
    assert each == 20 * 60 * SHARE / CONTENDERS
    assert raced.race.steps * 0.1 <= TRAINING * each
    saved = (plain.training.steps - raced.training.steps) * 1.05 * 0.1
    assert saved == pytest.approx(CONTENDERS * each, rel=0.1)
