"""The choice of the method: rules by hand-worked examples, ceilings on generated labels, and what the plan keeps."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import tifffile
from small_sets import discs, write_instances
from test_draft import fingerprint, objects, plan_of

from biosegkit._console import describe_plan
from biosegkit.cases import scan
from biosegkit.configure import label_table, make_plan
from biosegkit.errors import DataError, PlanError
from biosegkit.fingerprint import measure
from biosegkit.fingerprint_schema import Spread
from biosegkit.methods import METHODS, Distance
from biosegkit.oracles import VOXELS, Oracle, crops_of, evidence_of, oracle_seconds
from biosegkit.plan.draft import Wishes, draft
from biosegkit.plan.method_choice import TOLERANCE, ceiling, decided, kind_of, shortlist
from biosegkit.plan.preferences import METHOD_NAMES, PREFERENCES
from biosegkit.plan.schema import MethodEvidence, Plan
from biosegkit.report import write_report
from biosegkit.summaries import method_table


def measured(**shape):
    """Objects as measured, round and apart unless said otherwise."""
    found = objects(12.0, 2).model_copy(update={"contact": 0.05, "star_convex": 1.0, "solidity": spread(1.0)})
    return found.model_copy(update=shape)


def spread(value):
    return Spread(**dict.fromkeys(Spread.model_fields, value))


def row(method, score=None, **more):
    return MethodEvidence(method=method, verdict="unmeasured", ap50=score, ap75=score, **more)


def test_every_method_has_a_name_for_the_help_and_every_preference_is_a_method():
    assert set(METHODS) <= set(METHOD_NAMES)
    for order, reason in PREFERENCES.values():
        assert sorted(order) == sorted(set(METHOD_NAMES) - {"semantic"})
        assert reason


@pytest.mark.parametrize(("shape", "kind", "told"), [
    ({}, "round", "100% of the objects are star-convex"),
    ({"elongated": 0.3}, "long or bent", "30% of the objects are at least twice"),
    ({"solidity": spread(0.84)}, "long or bent", "84% of its convex hull"),
    ({"star_convex": 0.79}, "long or bent", "only 79%"),
    ({"contact": 0.4, "elongated": 0.9}, "dense", "40% of the objects' surface"),
    ({"contact": None, "solidity": None, "star_convex": None}, "round", "0% elongated"),  # an old fingerprint
])
def test_kinds_of_objects_by_their_thresholds(shape, kind, told):
    found, reason = kind_of(measured(**shape))
    assert found == kind
    assert told in reason


def test_the_shortlist_is_in_order_of_preference_and_says_why_a_method_is_out():
    names = ["star", "semantic", "hv", "distance", "flow"]
    assert [r.method for r in shortlist(names, measured())] == ["distance", "flow", "hv", "star"]
    bent = shortlist(names, measured(star_convex=0.5))
    assert [r.method for r in bent] == ["distance", "flow", "hv", "star"]
    assert [(r.verdict, bool(r.reason)) for r in bent] == [("unmeasured", False)] * 3 + [("unfit", True)]
    assert "50% of the objects are star-convex" in bent[-1].reason
    assert all(r.verdict == "unmeasured" for r in shortlist(names, None))


def test_the_preferred_of_equal_ceilings_is_chosen_and_a_low_ceiling_is_not():
    rows = [row("distance", 0.97), row("flow", 0.99), row("star", 1.0), row("hv")]
    method, why, judged = decided(rows, measured())
    assert (method, [r.verdict for r in judged]) == ("flow", ["low", "chosen", "able", "unmeasured"])
    assert "0.990 of 1.000" in why
    assert "0.970, 0.030 below" in judged[0].reason
    # on the edge of the tolerance the preference still holds
    assert decided([row("distance", 1 - TOLERANCE + 1e-9), row("star", 1.0)])[0] == "distance"
    assert ceiling(row("a", 1.0, ap90=0.0)) == 1.0
    assert decided([row("distance"), row("flow")])[0] == "distance"  # nothing was measured
    assert decided([MethodEvidence(method="star", verdict="unfit", reason="r")])[0] == "star"  # nothing else is there


def test_a_race_decides_among_those_that_ran():
    rows = [row("distance", 1.0, raced=0.6), row("flow", 1.0, raced=0.7), row("star", 1.0)]
    method, why, judged = decided(rows, measured())
    assert (method, judged[1].verdict) == ("flow", "chosen")
    assert "0.700" in why
    assert "distance 0.600" in why


# --- in the plan ------------------------------------------------------------------------------------------------------


def test_evidence_is_kept_in_the_plan_but_neither_in_its_hash_nor_in_texts_without_it():
    found = fingerprint((64, 64), task="instance", unit="px")
    plain = plan_of(found)
    assert "method_evidence" not in json.loads(plain.model_dump_json())
    told = plan_of(found, evidence=(row("distance", 1.0), row("star", 0.5)))
    assert (told.method, told.hash) == (plain.method, plain.hash)
    assert [r.verdict for r in told.method_evidence] == ["chosen", "low"]
    assert Plan.from_data(json.loads(told.model_dump_json())) == told
    reason = next(d.reason for d in told.decisions if d.name == "method")
    assert "round objects" in reason
    asked = plan_of(found, method="distance", evidence=(row("distance", 1.0),))
    assert next(d.reason for d in asked.decisions if d.name == "method") == "asked for"
    assert asked.method_evidence[0].verdict == "chosen"


def test_a_wrong_name_suggests_the_nearest():
    with pytest.raises(PlanError, match=r"'distanse'.*did you mean distance\?"):
        plan_of(fingerprint((64, 64), task="instance"), method="distanse")
    with pytest.raises(PlanError, match="semantic for classes, for objects one of distance"):
        plan_of(fingerprint((64, 64), task="instance"), method="semantic")


def test_the_table_is_printed_and_in_the_report(tmp_path, capsys):
    plan = plan_of(fingerprint((64, 64), task="instance"), evidence=(row("distance", 1.0, objects=7), row("star", 0.5)))
    describe_plan(plan)
    printed = capsys.readouterr().out
    assert "perfect maps of 7 of your own objects" in printed
    assert "0.500 below the best" in printed
    plan.write(tmp_path / "plan.json")
    page = write_report(tmp_path).read_text("utf-8")
    assert "perfect maps of 7 of your own objects" in page
    assert "0.500 below the best" in page
    assert method_table([row("a", raced=0.5)])["head"][-1] == "AP in the race"


# --- ceilings ---------------------------------------------------------------------------------------------------------


def test_scores_of_a_round_trip_by_hand():
    truth = np.zeros((20, 20), int)
    truth[2:8, 2:8], truth[12:18, 12:18] = 1, 2
    found = np.where(truth == 1, 9, 0)
    found[12:18, 12:15] = 4  # half of the second: IoU 0.5
    made = (Oracle.of(truth, found, 0.25) + Oracle.of(truth, truth, 0.25)).filled(row("a"))
    assert (made.objects, made.seconds) == (4, 0.5)
    # TP 4 of 4 at 0.5; at 0.75 and 0.9 three, with one missed and one wrong
    assert (made.ap50, made.ap75, made.ap90) == (1.0, 0.6, 0.6)
    assert made.iou == pytest.approx(3.5 / 4)
    # Bands of two voxels: the square without its inner 2 x 2 has 32, the half (6 x 3) all its 18; 16 are in both.
    assert made.boundary_iou == pytest.approx((3 + 16 / 34) / 4, abs=1e-4)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    dataset = write_instances(tmp_path_factory.mktemp("cells"), cases=4, shape=(48, 48))
    return dataset, measure(dataset, task="instance")


def drafted(cells, **wishes):
    dataset, found = cells
    return draft(found, label_table(found, dataset), "cells", Wishes(**wishes))


def test_ceilings_of_separate_discs_are_one(cells):
    rows = evidence_of(drafted(cells), *cells, methods=["distance"])
    assert [r.method for r in rows] == ["distance"]
    assert (rows[0].ap50, rows[0].ap75) == (1.0, 1.0)
    assert rows[0].objects == sum(len(np.unique(discs((48, 48), count=2 + i % 3, seed=i)[1])) - 1 for i in range(4))
    assert rows[0].seconds > 0


class Refusing(Distance):
    """A method that cannot encode anything."""

    def encode(self, labels, spacing, valid=None):
        raise DataError("three legs", remedy="grow another")


class Slow(Distance):
    """A method that takes a while."""

    def encode(self, labels, spacing, valid=None):
        time.sleep(0.2)
        return super().encode(labels, spacing, valid)


def test_a_method_that_refuses_is_out_with_its_reason(cells, monkeypatch):
    monkeypatch.setitem(METHODS, "refusing", Refusing)
    rows = {r.method: r for r in evidence_of(drafted(cells), *cells, methods=["refusing", "distance"])}
    assert (rows["refusing"].verdict, rows["refusing"].ap50) == ("unfit", None)
    assert "three legs" in rows["refusing"].reason
    assert rows["distance"].ap50 == 1.0
    assert decided(tuple(rows.values()))[0] == "distance"


def test_the_time_is_bounded_and_all_are_measured_on_the_same_crops(cells, monkeypatch):
    for name in ("slow", "slower"):
        monkeypatch.setitem(METHODS, name, Slow)
    rows = {r.method: r for r in evidence_of(drafted(cells), *cells, methods=["distance", "slow", "slower"],
                                             seconds=0.25)}
    # half of the time is for the first crop, which slow alone outlasts
    assert len({r.objects for r in rows.values() if r.ap50 is not None}) == 1
    assert rows["distance"].ap50 == 1.0
    assert rows["slower"].ap50 is None


def test_time_for_ceilings_is_a_small_share_of_the_budget():
    assert [oracle_seconds(s) for s in (10, 300, 900, 86400)] == [1.0, 9.0, 27.0, 40.0]
    assert oracle_seconds(None) is None


def test_crops_are_bounded_and_leave_cut_objects_out(tmp_path, monkeypatch):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    labels = np.kron(np.arange(1, 37).reshape(6, 6), np.ones((20, 20), int)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "images/a.tif", labels.astype(np.uint8))
    tifffile.imwrite(tmp_path / "labels/a.tif", labels)
    dataset = scan(tmp_path)
    found = measure(dataset, task="instance")
    plan = draft(found, label_table(found, dataset), "cells", Wishes())
    whole, = crops_of(plan, dataset, found)
    assert np.array_equal(whole.labels, labels)
    monkeypatch.setitem(VOXELS, 2, 50 * 50)
    crop, = crops_of(plan, dataset, found)
    assert crop.labels.shape == (52, 52)
    areas = np.bincount(crop.labels.ravel())[1:]
    assert areas.min() >= 200
    assert len(areas) >= 4


def test_make_plan_measures_chooses_and_says_so(cells):
    dataset, found = cells
    plan = make_plan(found, dataset, steps=1, device="cpu")
    assert plan.method_evidence[0].method == plan.method == "distance"
    assert plan.method_evidence[0].objects > 0
    assert "perfect maps" in next(d.reason for d in plan.decisions if d.name == "method")
    asked = make_plan(found, dataset, steps=1, device="cpu", method="distance")
    assert [r.method for r in asked.method_evidence] == ["distance"]
    assert make_plan(found, dataset, steps=1, device="cpu", preset="nnunet").method_evidence == ()
